"""Matching networks (Vinyals et al. 2016), without full context embeddings."""

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from fmaml_jax.config import Config
from fmaml_jax.learners.interface import Learner
from fmaml_jax.learners.metric import make_learner
from fmaml_jax.model import Model

LEAST = 1e-12


def compare(support: Array, members: Array, query: Array) -> Float[Array, "queries classes"]:
    """Logarithm of equation (1): attention to the support by cosine, summed up by class."""

    def normalised(features: Array) -> Array:
        return features / jnp.maximum(jnp.linalg.norm(features, axis=-1, keepdims=True), LEAST)

    attention = jax.nn.softmax(normalised(query) @ normalised(support).T)
    return jnp.log(jnp.maximum(attention @ members, LEAST))


def make(config: Config, model: Model) -> Learner:
    """The learner; every class needs support clips."""
    return make_learner(config, model, compare)
