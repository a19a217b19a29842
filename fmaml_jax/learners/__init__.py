"""The methods of `--method`, by name: one file each, one row each."""

from collections.abc import Callable

from fmaml_jax.learners import fmaml
from fmaml_jax.learners.interface import Learner

LEARNERS: dict[str, Callable[..., Learner]] = {
    "fmaml": fmaml.make,
}
"""(config, model) -> learner."""
