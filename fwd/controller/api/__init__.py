"""The controller's API, `/v1`: people and programs by bearer tokens, hosts by their links' certificates."""
