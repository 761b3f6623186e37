"""A fleet's objects on the command line: `fwd vpc`, `fwd gateway` and their like, asked of a controller."""
