"""The link of a host to its controller: what it is told, and what of that it believes."""
