"""What strangers and peers may cost keyd: every number in one place, with its reason.

A *stranger* has proved nothing: anybody can write a known peer's address as the source. Who gives back a cookie can
also receive at that address. A *peer* is authenticated. keyd as a whole stays under 128 MiB, of which an idle one with
64 peerings takes about half.
"""

from __future__ import annotations

from typing import Final

# -- IKE_SA_INIT of strangers ---------------------------------------------------------------------------------------

# A key of ML-KEM-1024 has 1,568 octets, strongSwan's longest default proposals 1,000. It is never fragmented.
INIT_BYTES_MAX: Final = 3000
INIT_PAYLOADS_MAX: Final = 32  # SA, KE, Ni, and as many notifies and vendor ids as no implementation sends
COOKIE_BYTES: Final = range(1, 65)  # RFC 7296 §2.6

HALF_OPEN_S: Final = 30.0  # how long a stranger may take for IKE_AUTH
HALF_OPEN_COOKIES: Final = 16  # from so many half-open IKE SAs on, strangers must show a cookie
HALF_OPEN_MAX: Final = 256  # of one endpoint; the oldest goes, so an honest peer's lasts two seconds in any flood
HALF_OPEN_BYTES: Final = 16 * 1024  # what one takes in CPython, with its first message
HALF_OPEN_BYTES_ALL: Final = 16 << 20  # of all endpoints of a process; HALF_OPEN_COOKIES each are free

# A key exchange takes 0.4 ms of CPU.
UNPROVEN_PER_S: Final = 50  # answered without a cookie, of one endpoint
PROVEN_PER_S: Final = 50  # answered with one
PROVEN_PORTS: Final = 64  # classes of source ports, each with its own share: one source cannot take all of it
PROVEN_PORT_PER_S: Final = 3
COOKIES_BYTES_PER_S: Final = 500_000  # sent by one endpoint: 6,000 a second, each shorter than what asks for it
COPIES_PER_S: Final = 2  # of one IKE_SA_INIT, answered again; an honest sender waits 0.5 s and more

# A certificate path of four RSA keys takes 1 ms (chain.py).
AUTHS_PER_S: Final = 25  # IKE_AUTH of half-open IKE SAs that is looked at, of one endpoint

# The hashes of CAs that IKE_SA_INIT names: it must not answer with much more than it was asked with.
AUTHORITIES_NAMED_MAX: Final = 10

# -- memory ---------------------------------------------------------------------------------------------------------

# Four certificates of RSA-4096 have 8 KiB, and 255 IPv6 subnets on either side 20 KiB.
MESSAGE_BYTES_STRANGER: Final = 32 * 1024
MESSAGE_BYTES: Final = 64 * 1024
FRAGMENT_BYTES: Final = 256  # what a fragment takes beside its octets
FRAGMENTS_STRANGER_S: Final = 3.0  # how long the fragments of a half-open IKE SA's message are kept
FRAGMENTS_S: Final = 30.0  # those of an authenticated peer's: a request is sent again for as long
FRAGMENTS_BYTES_STRANGERS: Final = 1 << 20  # of all half-open IKE SAs of one endpoint
FRAGMENTS_BYTES_ALL: Final = 16 << 20  # of all endpoints of a process

# -- of peers -------------------------------------------------------------------------------------------------------

IKE_SAS_MAX: Final = 16  # with one peer, however often it begins or rekeys
CHILDREN_MAX: Final = 1024  # of one IKE SA, whatever a peer asks for
MEMBER_CHILDREN_MAX: Final = 16  # of one member; twice that while they are rekeyed and the old ones not deleted
AGREED_MAX: Final = 64  # different sets of traffic selectors of its Child SAs, of 255 ranges a side: 150 KiB each
NOTIFY_BYTES_MAX: Final = 256  # of a peer's notify that is kept
TIME_SHARE: Final = 0.25  # of keyd's CPU for what one authenticated peer sends: 200 Child SAs a second
TIME_S: Final = 4.0  # and so much at once: 64 members with all their Child SAs take half a second, or two under load

# -- what has ended -------------------------------------------------------------------------------------------------

LAST_WORDS_S: Final = 5.0  # for so long the answer that ended an IKE SA is given again to a request that comes again
LAST_WORDS_MAX: Final = 32
INIT_ERROR_S: Final = 3.0  # an error in clear text ends our attempt so much later, if no better answer comes
