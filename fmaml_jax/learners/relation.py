"""Relation networks (Sung et al. 2018): how a query relates to a class's mean is learned.

The relation module is of two dense layers on the flattened features, since the paper's
convolutions and pooling would find 3 x 3 positions here.
"""

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Scalar

from fmaml_jax.config import Config
from fmaml_jax.learners.adaptation import unadapted
from fmaml_jax.learners.interface import Learner
from fmaml_jax.learners.metric import class_means, embed
from fmaml_jax.maml import Params, Task
from fmaml_jax.model import CONTEXT, HEAD, Model

HIDDEN = 8
"""As in the paper's module."""


def relate(relation: Params, means: Array, query: Array) -> Float[Array, "queries classes"]:
    """Logits of the relation scores of each query and each class's mean."""
    hidden = query @ relation["query"] + (means @ relation["mean"])[:, None] + relation["bias"]
    return (jax.nn.relu(hidden) @ relation["output"]).T


def make(config: Config, model: Model) -> Learner:
    """The learner; every class needs support clips."""
    classes = len(config.classes)

    def init(key: Array) -> Params:
        network_key, *keys = jax.random.split(key, 4)
        network = model.init(network_key)
        width = sum(len(network[name]["kernel"]) for name in {HEAD, CONTEXT} & network.keys())
        normal = jax.nn.initializers.he_normal()
        relation = {
            "query": normal(keys[0], (width, HIDDEN)),
            "mean": normal(keys[1], (width, HIDDEN)),
            "bias": jnp.zeros(HIDDEN),
            "output": normal(keys[2], (HIDDEN, 1))[:, 0],
        }
        return {"network": network, "relation": relation}

    def logits(params: Params, task: Task, batch_norm: str) -> Float[Array, "queries classes"]:
        support, query = embed(model, params["network"], task, batch_norm)
        means = class_means(support, jax.nn.one_hot(task.support_labels, classes))
        return relate(params["relation"], means, query)

    def loss(params: Params, task: Task) -> tuple[Scalar, Scalar]:
        """Equation (2): squared error of the scores, 1 for the true class and 0 for the others."""
        scores = jax.nn.sigmoid(logits(params, task, config.batch_norm))
        error = jnp.mean((scores - jax.nn.one_hot(task.query_labels, classes)) ** 2)
        return error, jnp.mean(scores.argmax(axis=-1) == task.query_labels)

    return Learner(init, loss, unadapted, logits)
