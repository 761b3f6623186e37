"""Commands for a gateway that runs: asked of its supervisor, as root."""
