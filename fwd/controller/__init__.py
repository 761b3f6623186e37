"""The controller: what a fleet of gateways is to be, who of it is well, and how each host is told."""
