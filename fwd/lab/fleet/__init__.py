"""VPCs whose gateways and routers have joined a controller, in network namespaces."""
