"""An operator's tools: the fleet at one look or as a graph, the way of a flow, packets over every pair, a bundle."""
