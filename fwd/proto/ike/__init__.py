"""IKEv2 (RFC 7296) without sockets or a clock: one `Endpoint` for each peering, which is given a `Connection`.

    Endpoint                    all IKE SAs of one side: receive, datagrams_to_send, handle_timeout, next_event
    Connection, Credentials     what it is to set up, and by what both sides authenticate
    Event                       what it tells: `Established`, `ChildUp`, `ChildDown`, `Closed`, ... (events.py)
    Commons                     what the endpoints of one process share

A message goes endpoint.py (whose is it?) → sa.py (window.py: is it in turn? channel.py: is it authentic, and whole?) →
what the exchange is about: initial.py (IKE_SA_INIT, IKE_AUTH), exchanges.py (Child SAs, Delete, liveness), rekey.py,
mobility.py. What is due by itself is in upkeep.py; what strangers may cost in strangers.py and limits.py.
"""
