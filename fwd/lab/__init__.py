"""The lab: two VPCs in network namespaces of its own, with a fwd gateway in each."""
