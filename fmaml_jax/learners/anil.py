"""ANIL (Raghu et al. 2020) and BOIL (Oh et al. 2021): only the head, or only the body, adapts."""

from fmaml_jax.config import Config
from fmaml_jax.learners import fmaml
from fmaml_jax.learners.interface import Learner
from fmaml_jax.model import HEAD, Model


def make_anil(config: Config, model: Model) -> Learner:
    """The learner whose output layer alone adapts."""
    return fmaml.make(config, model, {HEAD})


def make_boil(config: Config, model: Model) -> Learner:
    """The learner whose output layer stays as it is."""
    return fmaml.make(config, model, fmaml.layers_of(model) - {HEAD})
