"""What the user can mend. Every such error is one line: what, where, what to do; the command line exits with 2."""


class UserError(Exception):
    """The base of all of them."""
