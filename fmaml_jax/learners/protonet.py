"""Prototypical networks (Snell et al. 2017): minus the squared distance to each class's mean."""

from jax import Array
from jaxtyping import Float

from fmaml_jax.config import Config
from fmaml_jax.learners.interface import Learner
from fmaml_jax.learners.metric import class_means, make_learner
from fmaml_jax.model import Model


def compare(support: Array, members: Array, query: Array) -> Float[Array, "queries classes"]:
    """Equation (2) before its softmax."""
    prototypes = class_means(support, members)
    return -((query[:, None] - prototypes) ** 2).sum(axis=-1)


def make(config: Config, model: Model) -> Learner:
    """The learner; every class needs support clips."""
    return make_learner(config, model, compare)
