"""The error of every command and of the Python interface."""


class UserError(Exception):
    """A mistake the user can mend: one sentence that names the thing and the remedy."""
