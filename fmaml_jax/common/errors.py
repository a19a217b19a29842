"""The error of every command and of the Python interface."""

from types import UnionType


class UserError(Exception):
    """A mistake the user can mend: one sentence that names the thing and the remedy."""


def require_kind(name: str, value: object, kind: type | UnionType, wanted: str) -> None:
    """Checks what a caller in Python passed.

    Args:
        name: of the argument.
        value: what was passed for it.
        kind: what it may be, as `isinstance` takes it.
        wanted: what to give.

    Raises:
        UserError: it is of another kind.
    """
    if not isinstance(value, kind):
        raise UserError(f"{name} is of the type {type(value).__name__}; give {wanted}")
