"""What methods share that adapt a network by gradient steps on the support."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Scalar

from fmaml_jax.config import Config
from fmaml_jax.learners.interface import Learner
from fmaml_jax.maml import Params, Task, cross_entropy
from fmaml_jax.model import Model

Adapt = Callable[[Params, Task, int], tuple[Params, Params]]
"""(learner's parameters, task, steps) -> the adapted network's parameters, and those before
adaptation and after each step (a leading axis of `steps` + 1)."""


def make_support_loss(model: Model) -> Callable[[Params, tuple[Array, Array]], Scalar]:
    """L_S: the network's cross-entropy on (clips, labels), normalised by their own statistics."""

    def support_loss(params: Params, labelled: tuple[Array, Array]) -> Scalar:
        clips, labels = labelled
        return cross_entropy(model.apply(params, clips), labels)

    return support_loss


def query_logits(
    model: Model, params: Params, task: Task, batch_norm: str
) -> Float[Array, "queries classes"]:
    """The network's logits of the query, normalised as the batch-norm mode says."""
    statistics = model.statistics(params, task.support) if batch_norm == "inductive" else None
    return model.apply(params, task.query, statistics)


def query_loss(logits: Float[Array, "queries classes"], task: Task) -> tuple[Scalar, Scalar]:
    """Cross-entropy and accuracy of the query."""
    accuracy = jnp.mean(logits.argmax(axis=-1) == task.query_labels)
    return cross_entropy(logits, task.query_labels), accuracy


def unadapted(params: Params, task: Task) -> Params:
    """The states of a method that does not adapt: its parameters as they are."""
    del task
    return jax.tree.map(lambda leaf: leaf[None], params)


def with_start(start: Params, path: Params) -> Params:
    """The parameters before adaptation put in front of those after each step."""
    return jax.tree.map(lambda first, rest: jnp.concatenate([first[None], rest]), start, path)


def make_learner(
    config: Config, model: Model, init: Callable[[Array], Params], adapt: Adapt
) -> Learner:
    """The learner that minimises the query loss after `adapt`."""

    def loss(params: Params, task: Task) -> tuple[Scalar, Scalar]:
        theta, _ = adapt(params, task, config.inner_steps)
        return query_loss(query_logits(model, theta, task, config.batch_norm), task)

    def path(params: Params, task: Task) -> Params:
        return adapt(params, task, config.test_inner_steps)[1]

    return Learner(init, loss, path, partial(query_logits, model))
