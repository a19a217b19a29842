"""What methods share that adapt a network by gradient steps on the support."""

from collections.abc import Callable
from functools import partial
from operator import itemgetter
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jaxtyping import Bool, Float, Int, Scalar

from fmaml_jax.config import Config
from fmaml_jax.learners.interface import Learner
from fmaml_jax.maml import Labelled, Params, Task, cross_entropy
from fmaml_jax.model import CONTEXT, Model, Statistics

Adapt = Callable[[Params, Task, int], tuple[Params, Params]]
"""(learner's parameters, task, steps) -> the adapted network's parameters, and those before
adaptation and after each step (a leading axis of `steps` + 1)."""

UNASKED = -1e9
"""Logit of a class that is left out of a task; its probability is 0, and so are its gradients."""


def make_support_loss(config: Config, model: Model) -> Callable[[Params, Labelled], Scalar]:
    """L_S: the network's cross-entropy on (clips, labels, weights), a task's `labelled` support.

    The clips are normalised by their own statistics; without weights each counts as one.

    By `config.inner_outputs` the softmax is over all outputs, or over those of the classes with a
    support: a fixed class without clips is then neither learned nor unlearned. By
    `config.support_loss` the loss is the mean over the clips or, as in equation (1), their sum.
    Emotions that the task's corpus lacks are left out of the softmax.
    """
    ways = len(config.emotions)
    protected = config.inner_outputs == "supported" and config.support == "emotions"
    outputs = ways if protected else len(config.classes)

    def support_loss(params: Params, labelled: Labelled) -> Scalar:
        clips, labels, weights = labelled
        logits = model.apply(params, clips, None)[:, :outputs]
        asked = present(labels, outputs) | (jnp.arange(outputs) >= ways)
        loss = cross_entropy(jnp.where(asked, logits, UNASKED), labels, weights)
        if config.support_loss == "sum":
            loss *= len(labels) if weights is None else weights.sum()
        return loss

    return support_loss


def present(labels: Int[Array, " clips"], classes: int) -> Bool[Array, " classes"]:
    """Which of so many classes have a clip."""
    return (labels[:, None] == jnp.arange(classes)).any(axis=0)


def query_statistics(
    model: Model, params: Params, task: Task, batch_norm: str
) -> Statistics | None:
    """What the query is normalised by: the support's statistics, or with None its own."""
    return model.statistics(params, task.support) if batch_norm == "inductive" else None


def query_logits(
    model: Model, params: Params, task: Task, batch_norm: str
) -> Float[Array, "queries classes"]:
    """The network's logits of the query, normalised as the batch-norm mode says."""
    return model.apply(params, task.query, query_statistics(model, params, task, batch_norm))


def query_loss(logits: Float[Array, "queries classes"], task: Task) -> tuple[Scalar, Scalar]:
    """Cross-entropy and accuracy of the query; classes without a clip in the task are left out."""
    labels = jnp.concatenate([task.support_labels, task.query_labels])
    logits = jnp.where(present(labels, logits.shape[1]), logits, UNASKED)
    accuracy = jnp.mean(logits.argmax(axis=-1) == task.query_labels)
    return cross_entropy(logits, task.query_labels), accuracy


def unadapted(params: Params, task: Task) -> Params:
    """The states of a method that does not adapt: its parameters as they are."""
    del task
    return jax.tree.map(lambda leaf: leaf[None], params)


def with_start(start: Params, path: Params) -> Params:
    """The parameters before adaptation put in front of those after each step."""
    return jax.tree.map(lambda first, rest: jnp.concatenate([first[None], rest]), start, path)


def start_optimizer(rate: optax.ScalarOrSchedule, decay: float) -> optax.GradientTransformation:
    """Adam, with an L2 penalty, for the meta-learned start; its context parameters stay zero."""

    def kind(path: tuple, _: Any) -> str:
        return "context" if any(key.key == CONTEXT for key in path) else "learned"

    return optax.partition(
        {
            "learned": optax.chain(optax.add_decayed_weights(decay), optax.adam(rate)),
            "context": optax.set_to_zero(),
        },
        partial(jax.tree_util.tree_map_with_path, kind),
    )


def make_learner(
    config: Config, model: Model, init: Callable[[Array], Params], adapt: Adapt
) -> Learner:
    """The learner that minimises the query loss after `adapt`, and by `config.start_weight` before.

    In a test `config.fixed_bias` is added to the outputs of fixed classes without a support.
    """
    unsupported = len(config.fixed) if config.support == "emotions" else 0

    def loss(params: Params, task: Task) -> tuple[Scalar, Scalar]:
        def after(network: Params) -> tuple[Scalar, Scalar]:
            return query_loss(query_logits(model, network, task, config.batch_norm), task)

        theta, path = adapt(params, task, config.inner_steps)
        loss, accuracy = after(theta)
        if config.start_weight:
            start, _ = after(jax.tree.map(itemgetter(0), path))
            loss = config.start_weight * start + (1 - config.start_weight) * loss
        return loss, accuracy

    def path(params: Params, task: Task) -> Params:
        return adapt(params, task, config.test_inner_steps)[1]

    def logits(params: Params, task: Task, batch_norm: str) -> Float[Array, "queries classes"]:
        found = query_logits(model, params, task, batch_norm)
        return found.at[:, found.shape[1] - unsupported :].add(config.fixed_bias)

    return Learner(init, loss, path, logits, partial(start_optimizer, decay=config.outer_decay))
