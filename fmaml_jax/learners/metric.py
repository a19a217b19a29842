"""What methods share that compare a query with the support in the network's feature space."""

from collections.abc import Callable

import jax
from jax import Array
from jaxtyping import Float, Scalar

from fmaml_jax.config import Config
from fmaml_jax.learners.adaptation import query_loss, query_statistics, unadapted
from fmaml_jax.learners.interface import Learner
from fmaml_jax.maml import Params, Task
from fmaml_jax.model import Model

Compare = Callable[[Array, Array, Array], Array]
"""(support features, their labels one-hot, query features) -> logits [queries, classes]."""


def embed(
    model: Model, params: Params, task: Task, batch_norm: str
) -> tuple[Float[Array, "shots features"], Float[Array, "queries features"]]:
    """Features of support and query, normalised as the batch-norm mode says."""
    statistics = query_statistics(model, params, task, batch_norm)
    return (
        model.features(params, task.support, None),
        model.features(params, task.query, statistics),
    )


def class_means(
    features: Float[Array, "clips features"], members: Float[Array, "clips classes"]
) -> Float[Array, "classes features"]:
    """The mean of each class's features; every class has a member."""
    return (members.T @ features) / members.sum(axis=0)[:, None]


def make_learner(config: Config, model: Model, compare: Compare) -> Learner:
    """The learner that minimises the cross-entropy of what `compare` says of the query."""
    classes = len(config.classes)

    def logits(params: Params, task: Task, batch_norm: str) -> Float[Array, "queries classes"]:
        support, query = embed(model, params, task, batch_norm)
        return compare(support, jax.nn.one_hot(task.support_labels, classes), query)

    def loss(params: Params, task: Task) -> tuple[Scalar, Scalar]:
        return query_loss(logits(params, task, config.batch_norm), task)

    return Learner(model.init, loss, unadapted, logits)
