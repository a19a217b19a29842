"""F-MAML as a learner: its loss and predictions against plain gradient descent, unrolled."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmaml_jax.config import Config
from fmaml_jax.learners import find_learner
from fmaml_jax.maml import Task, cross_entropy
from fmaml_jax.model import Model

CONFIG = Config(inner_lr=0.3, inner_steps=2, test_inner_steps=3)


def normalising_model():
    """A small network that, like the paper's, sees its clips through statistics of a set."""

    def init(key):
        return {"in": jax.random.normal(key, (4, 6)), "out": jnp.ones((6, 3)) / jnp.arange(1, 4)}

    def statistics(params, clips):
        hidden = clips.mean(axis=1) @ params["in"]
        return hidden.mean(axis=0), hidden.std(axis=0)

    def apply(params, clips, given=None):
        mean, deviation = statistics(params, clips) if given is None else given
        hidden = clips.mean(axis=1) @ params["in"]
        return jnp.tanh((hidden - mean) / deviation) @ params["out"]

    return Model(init, apply, statistics)


MODEL = normalising_model()
PARAMS = MODEL.init(jax.random.key(0))


@pytest.fixture(scope="module")
def task():
    rng = np.random.default_rng(0)
    return Task(
        jnp.asarray(rng.normal(size=(6, 5, 4)), jnp.float32),
        jnp.array([0, 0, 0, 1, 1, 1]),
        jnp.asarray(rng.normal(1, 2, size=(9, 5, 4)), jnp.float32),
        jnp.array([0, 0, 0, 1, 1, 1, 2, 2, 2]),
    )


def learner(**changes):
    config = replace(CONFIG, **changes)
    return find_learner(config.method)(config, MODEL)


def descend(params, task, steps, first_order=False):
    for _ in range(steps):
        gradient = jax.grad(
            lambda p: cross_entropy(MODEL.apply(p, task.support), task.support_labels)
        )(params)
        if first_order:
            gradient = jax.lax.stop_gradient(gradient)
        params = jax.tree.map(lambda p, g: p - 0.3 * g, params, gradient)
    return params


def logits_of(params, task, mode):
    given = MODEL.statistics(params, task.support) if mode == "inductive" else None
    return MODEL.apply(params, task.query, given)


@pytest.mark.parametrize("mode", ["transductive", "inductive"])
@pytest.mark.parametrize("first_order", [False, True])
def test_loss_and_gradient_equal_unrolled_descent(task, mode, first_order):
    def expected(params):
        return cross_entropy(
            logits_of(descend(params, task, 2, first_order), task, mode), task.query_labels
        )

    ours = learner(batch_norm=mode, first_order=first_order)
    (loss, accuracy), gradient = jax.jit(jax.value_and_grad(ours.loss, has_aux=True))(PARAMS, task)
    expected_loss, expected_gradient = jax.jit(jax.value_and_grad(expected))(PARAMS)
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-5)
    answers = logits_of(descend(PARAMS, task, 2), task, mode).argmax(-1)
    np.testing.assert_allclose(accuracy, np.mean(answers == task.query_labels))
    for left, right in zip(
        jax.tree.leaves(gradient), jax.tree.leaves(expected_gradient), strict=True
    ):
        np.testing.assert_allclose(left, right, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("mode", ["transductive", "inductive"])
def test_predictions_are_those_before_and_after_each_step(task, mode):
    # The training mode has no say in how predictions are made.
    logits = learner(batch_norm="transductive").predict(PARAMS, task, mode)
    assert len(logits) == 1 + 3
    for steps in range(4):
        np.testing.assert_allclose(
            logits[steps], logits_of(descend(PARAMS, task, steps), task, mode), rtol=1e-4, atol=1e-5
        )


def test_inductive_predictions_ignore_other_queries_and_all_query_labels(task):
    ours = learner()
    few = task._replace(query=task.query[2:5], query_labels=jnp.zeros(3, int))
    np.testing.assert_allclose(
        ours.predict(PARAMS, few, "inductive"),
        ours.predict(PARAMS, task, "inductive")[:, 2:5],
        rtol=1e-4,
        atol=1e-5,
    )
    difference = (
        ours.predict(PARAMS, few, "transductive")
        - ours.predict(PARAMS, task, "transductive")[:, 2:5]
    )
    assert np.abs(difference).max() > 1e-2
