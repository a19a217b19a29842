"""The methods of `--method`, by name: one file each, one row each."""

from collections.abc import Callable

from data_prep.console import UserError
from fmaml_jax.config import Config
from fmaml_jax.learners import fmaml
from fmaml_jax.learners.interface import Learner
from fmaml_jax.model import Model

LEARNERS: dict[str, Callable[[Config, Model], Learner]] = {
    "fmaml": fmaml.make,
}


def find_learner(method: str) -> Callable[[Config, Model], Learner]:
    """What makes the learner of a method from the run's settings and its network.

    Raises:
        UserError: there is no such method; names those there are.
    """
    if method not in LEARNERS:
        raise UserError(f"--method={method} is unknown; choose from {', '.join(LEARNERS)}")
    return LEARNERS[method]
