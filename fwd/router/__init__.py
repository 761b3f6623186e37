"""The router of a VPC: spreads its flows over the gateways of a cluster, by the kernel's resilient next-hop group."""
