"""Each method against plain descent, unrolled, or against its formula worked in NumPy."""

import sys
from dataclasses import fields, replace
from functools import partial
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize
from sklearn.linear_model import LogisticRegression
from sklearn.svm import SVC

from fmaml_jax.common.errors import UserError
from fmaml_jax.config import Config
from fmaml_jax.learners import (
    METHODS,
    Network,
    find_method,
    functionals,
    mamlpp,
    matching,
    protonet,
    relation,
    without_unread,
)
from fmaml_jax.learners.adaptation import make_support_loss, query_loss, start_optimizer
from fmaml_jax.maml import Task, cross_entropy
from fmaml_jax.model import CONTEXT, HEAD, Model, make_model

CONFIG = Config(emotions=("a", "b"), fixed=("c",), inner_lr=0.3, inner_steps=2, test_inner_steps=3)


def normalising_model():
    """A small network that, like the paper's, sees its clips through statistics of a set."""

    def init(key):
        head = {"kernel": jnp.ones((6, 3)) / jnp.arange(1, 4)}
        return {"in": jax.random.normal(key, (4, 6)), HEAD: head}

    def statistics(params, clips):
        hidden = clips.mean(axis=1) @ params["in"]
        return hidden.mean(axis=0), hidden.std(axis=0)

    def features(params, clips, given=None):
        mean, deviation = statistics(params, clips) if given is None else given
        hidden = clips.mean(axis=1) @ params["in"]
        return jnp.tanh((hidden - mean) / deviation)

    def apply(params, clips, given=None):
        return features(params, clips, given) @ params[HEAD]["kernel"]

    return Model(init, apply, statistics, features)


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
    config = without_unread(replace(CONFIG, **changes))
    return find_method(config)[0].make(config, MODEL)


def predict(learner_, params, task, mode):
    """Query logits before adaptation and after each step."""

    def predicted(params, task):
        states = learner_.adapt(params, task)
        return jax.lax.map(lambda state: learner_.logits(state, task, mode), states)

    return jax.jit(predicted)(params, task)


@partial(jax.jit, static_argnames=("steps", "first_order"))
def descend(params, task, steps, first_order=False):
    for _ in range(steps):
        gradient = jax.grad(
            lambda p: cross_entropy(MODEL.apply(p, task.support), task.support_labels)
        )(params)
        if first_order:
            gradient = jax.lax.stop_gradient(gradient)
        params = jax.tree.map(lambda p, g: p - 0.3 * g, params, gradient)
    return params


@partial(jax.jit, static_argnames="mode")
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
    logits = predict(learner(batch_norm="transductive"), PARAMS, task, mode)
    assert len(logits) == 1 + 3
    for steps in range(4):
        np.testing.assert_allclose(
            logits[steps], logits_of(descend(PARAMS, task, steps), task, mode), rtol=1e-4, atol=1e-5
        )


def test_inductive_predictions_ignore_other_queries_and_all_query_labels(task):
    ours = learner()
    few = task._replace(query=task.query[2:5], query_labels=jnp.zeros(3, int))
    np.testing.assert_allclose(
        predict(ours, PARAMS, few, "inductive"),
        predict(ours, PARAMS, task, "inductive")[:, 2:5],
        rtol=1e-4,
        atol=1e-5,
    )
    difference = (
        predict(ours, PARAMS, few, "transductive")
        - predict(ours, PARAMS, task, "transductive")[:, 2:5]
    )
    assert np.abs(difference).max() > 1e-2


# ---- settings of the inner and the outer loss


@pytest.mark.slow
def test_start_weight_mixes_the_query_losses_before_and_after_adaptation(task):
    def parts(params):
        return tuple(
            cross_entropy(
                logits_of(descend(params, task, steps), task, "transductive"), task.query_labels
            )
            for steps in (0, 2)
        )

    before, after = parts(PARAMS)
    assert abs(before - after) > 0.01
    loss, accuracy = learner(start_weight=0.3).loss(PARAMS, task)
    np.testing.assert_allclose(loss, 0.3 * before + 0.7 * after, rtol=1e-5)
    plain_loss, plain_accuracy = learner().loss(PARAMS, task)
    np.testing.assert_allclose(plain_loss, after, rtol=1e-5)
    assert accuracy == plain_accuracy
    slopes = jax.jacrev(parts)(PARAMS)
    expected = jax.tree.map(lambda b, a: 0.3 * b + 0.7 * a, *slopes)
    assert_close(gradient_of(learner(start_weight=0.3), PARAMS, task), expected, 1e-3, 1e-5)


def test_supported_outputs_alone_are_in_the_inner_softmax(task):
    """By the N + F rule; with a support of all classes, all outputs are."""
    support = task.labelled

    def slope(**changes):
        loss = make_support_loss(replace(CONFIG, **changes), MODEL)
        return jax.grad(loss)(PARAMS, support)

    everywhere = slope(support="emotions")[HEAD]["kernel"]
    assert np.abs(everywhere[:, 2]).max() > 1e-3
    protected = slope(support="emotions", inner_outputs="supported")[HEAD]["kernel"]
    assert (protected[:, 2] == 0).all()
    loss = make_support_loss(replace(CONFIG, support="emotions", inner_outputs="supported"), MODEL)
    logits = MODEL.apply(PARAMS, task.support)[:, :2]
    np.testing.assert_allclose(
        loss(PARAMS, support), cross_entropy(logits, task.support_labels), rtol=1e-6
    )
    for one, other in zip(
        jax.tree.leaves(slope(support="all")),
        jax.tree.leaves(slope(support="all", inner_outputs="supported")),
        strict=True,
    ):
        np.testing.assert_array_equal(one, other)


def test_the_sum_is_the_mean_times_the_clips(task):
    support = task.labelled
    mean, total = (
        make_support_loss(replace(CONFIG, support_loss=kind), MODEL)(PARAMS, support)
        for kind in ("mean", "sum")
    )
    np.testing.assert_allclose(total, 6 * mean, rtol=1e-6)
    each = jnp.array([int(jnp.argmax(task.support_labels == label)) for label in range(2)])
    few = task.support[each], task.support_labels[each], None
    probabilities = jax.nn.softmax(MODEL.apply(PARAMS, few[0]))[jnp.arange(2), few[1]]
    loss = make_support_loss(replace(CONFIG, support_loss="sum"), MODEL)
    np.testing.assert_allclose(loss(PARAMS, few), -np.log(probabilities).sum(), rtol=1e-5)


@pytest.mark.parametrize("kind", ["mean", "sum"])
def test_a_clip_that_counts_as_two_is_one_that_is_there_twice(kind, task):
    """In a network that sees each clip alone."""
    model = MODEL._replace(apply=lambda params, clips, _: clips[:, 0] @ params["in"][:, :3])
    loss = make_support_loss(replace(CONFIG, support_loss=kind), model)
    clips, labels, _ = task.labelled
    twice = jnp.array([0, 1, 1, 4, 5])
    weights = jnp.array([1.0, 2, 0, 0, 1, 1])
    np.testing.assert_allclose(
        loss(PARAMS, (clips, labels, weights)),
        loss(PARAMS, (clips[twice], labels[twice], None)),
        rtol=1e-6,
    )


def test_fixed_bias_is_of_the_test_and_of_outputs_without_a_support(task):
    plain, biased = (learner(support="emotions", fixed_bias=bias) for bias in (0.0, 1.5))
    assert plain.loss(PARAMS, task)[0] == biased.loss(PARAMS, task)[0]
    difference = predict(biased, PARAMS, task, "inductive") - predict(
        plain, PARAMS, task, "inductive"
    )
    expected = np.broadcast_to([0, 0, 1.5], difference.shape)
    np.testing.assert_allclose(difference, expected, atol=1e-5)
    start = predict(biased, PARAMS, task, "inductive")[0]
    np.testing.assert_allclose(  # before adaptation too
        start - predict(plain, PARAMS, task, "inductive")[0], expected[0], atol=1e-5
    )
    for method in ("metaser", "meta_sgd"):
        with pytest.raises(UserError, match=f"--method={method} does not read --fixed_bias=1.5"):
            find_method(Config(method=method, support="all", fixed_bias=1.5))


def test_start_optimizer_is_adam_with_a_penalty_that_leaves_context_parameters_alone():
    """Two steps by hand; one with the published constants is sign(gradient) * rate."""
    start = {HEAD: {"kernel": jnp.array([0.5, -2.0])}, CONTEXT: {"kernel": jnp.zeros(2)}}
    optimizer = start_optimizer(0.1, 0.25)
    state, params = optimizer.init(start), start
    theta, mean, square = np.array([0.5, -2.0]), 0, 0
    for t, gradient in ((1, np.array([0.3, 0.1])), (2, np.array([-1.0, 0.6]))):
        given = {HEAD: {"kernel": jnp.asarray(gradient)}, CONTEXT: {"kernel": jnp.ones(2)}}
        updates, state = optimizer.update(given, state, params)
        params = jax.tree.map(jnp.add, params, updates)
        penalised = gradient + 0.25 * theta
        mean = 0.9 * mean + 0.1 * penalised
        square = 0.999 * square + 0.001 * penalised**2
        theta = theta - 0.1 * (mean / (1 - 0.9**t)) / (np.sqrt(square / (1 - 0.999**t)) + 1e-8)
        np.testing.assert_allclose(params[HEAD]["kernel"], theta, rtol=1e-5)
        assert (params[CONTEXT]["kernel"] == 0).all()
    # The penalty turns the second coordinate's first step round: 0.1 - 0.25 * 2 < 0.
    assert theta[1] > -2


# ---- Fourier network: context parameters


FOURIER = make_model(3, coefficients=5, frequencies=40, network="fourier")
OF_FOURIER = {"support": "emotions", "support_loss": "sum", "inner_lr": 0.7}


@pytest.fixture(scope="module")
def spoken():
    """A task of one vector a clip, and a start that knows something of all classes."""
    rng = np.random.default_rng(8)
    support, query = (jnp.asarray(rng.normal(size=(clips, 1, 5)), jnp.float32) for clips in (6, 9))
    labels = jnp.array([0, 0, 0, 1, 1, 1])
    start = {
        HEAD: {"kernel": jnp.asarray(rng.normal(size=(6, 3)), jnp.float32)},
        CONTEXT: {"kernel": jnp.zeros((80, 3))},
    }
    return start, Task(support, labels, query, jnp.arange(9) % 3)


def fourier_learner(**changes):
    config = without_unread(replace(CONFIG, **OF_FOURIER | changes))
    return find_method(config)[0].make(config, FOURIER)


@pytest.mark.parametrize("outputs", ["all", "supported"])
def test_context_descends_as_a_kernel_machine_in_the_dual(outputs, spoken):
    """Alpha <- alpha - rate * (softmax - one-hot); logits are the start's and K alpha."""
    start, task = spoken
    statistics = FOURIER.statistics(start, task.support)
    support, query = (
        np.asarray(FOURIER.features(start, clips, statistics), np.float64)
        for clips in (task.support, task.query)
    )
    known, waves = np.split(support, [6], axis=1)
    known_query, waves_query = np.split(query, [6], axis=1)
    head, used = np.asarray(start[HEAD]["kernel"], np.float64), 3 if outputs == "all" else 2
    alpha, expected = np.zeros((6, 3)), []
    for _ in range(4):
        expected.append(known_query @ head + waves_query @ waves.T @ alpha)
        exponents = np.exp((known @ head + waves @ waves.T @ alpha)[:, :used])
        softmax = exponents / exponents.sum(axis=1, keepdims=True)
        alpha[:, :used] -= 0.7 * (softmax - np.eye(3)[task.support_labels][:, :used])
    ours = fourier_learner(inner_outputs=outputs)
    found = predict(ours, start, task, "inductive")
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert np.abs(found[-1] - found[0]).max() > 0.3
    if outputs == "supported":
        np.testing.assert_array_equal(found[:, :, 2], found[:1, :, 2].repeat(4, axis=0))


AXES = np.linalg.qr(np.random.default_rng(4).normal(size=(5, 5)))[0][:, :2] * [0.9, 0.5]


def test_steps_in_the_sources_metric_are_a_kernel_machine_in_the_dual(spoken):
    """Alpha <- alpha - rate * (softmax - one-hot); K in the metric, of size 1."""
    start, task = spoken
    start = {**start, CONTEXT: {"kernel": jnp.zeros((5, 3))}}
    linear = make_model(3, coefficients=5, network="linear")._replace(axes=jnp.asarray(AXES))
    config = replace(
        CONFIG,
        **{**OF_FOURIER, "network": "linear", "scaling": "domains", "inner_metric": "sources"},
        inner_outputs="supported",
    )
    support = np.asarray(task.support[:, 0], np.float64)
    mean = support.mean(axis=0)
    variance = (20 + len(support) * support.var(axis=0)) / (20 + len(support))

    def seen(clips):
        return (np.asarray(clips[:, 0], np.float64) - mean) / np.sqrt(5 * variance)

    root = np.eye(5) - AXES @ AXES.T
    known, kernel = seen(task.support), seen(task.support) @ root @ seen(task.support).T
    size = np.trace(kernel) / len(kernel)
    to_query = seen(task.query) @ root @ known.T / size
    kernel /= size

    def begin(vectors):
        head = np.asarray(start[HEAD]["kernel"], np.float64)
        return vectors @ head[:-1] + 0.3 * head[-1]

    alpha, expected = np.zeros((6, 2)), []
    for _ in range(4):
        query = begin(seen(task.query))
        query[:, :2] += to_query @ alpha
        expected.append(query)
        exponents = np.exp(begin(known)[:, :2] + kernel @ alpha)
        softmax = exponents / exponents.sum(axis=1, keepdims=True)
        alpha -= 0.7 * (softmax - np.eye(2)[task.support_labels])
    found = predict(find_method(config)[0].make(config, linear), start, task, "inductive")
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert np.abs(found[-1] - found[0]).max() > 0.3


@pytest.mark.parametrize("outputs", ["all", "supported"])
def test_an_emotion_without_a_clip_is_left_out_of_the_softmax(outputs):
    """The losses are those of a network that has no such output."""
    config = replace(CONFIG, emotions=("a", "b", "c"), fixed=("f",), inner_outputs=outputs)
    config = replace(config, support="emotions")
    model = MODEL._replace(apply=lambda params, clips, _: clips[:, 0] @ params)
    rng = np.random.default_rng(0)
    support, query = (jnp.asarray(rng.normal(size=(4, 1, 3)), jnp.float32) for _ in range(2))
    weights = jnp.asarray(rng.normal(size=(3, 4)), jnp.float32)
    task = Task(support, jnp.array([0, 2, 0, 2]), query, jnp.array([0, 2, 3, 3]))
    fewer = task._replace(
        support_labels=jnp.array([0, 1, 0, 1]), query_labels=jnp.array([0, 1, 2, 2])
    )
    smaller = replace(config, emotions=("a", "c"))
    there = jnp.array([0, 2, 3])
    loss, gradient = jax.value_and_grad(make_support_loss(config, model))(weights, task.labelled)
    expected, slope = jax.value_and_grad(make_support_loss(smaller, model))(
        weights[:, there], fewer.labelled
    )
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    np.testing.assert_allclose(gradient[:, there], slope, rtol=1e-4, atol=1e-6)
    assert (gradient[:, 1] == 0).all()
    logits = query[:, 0] @ weights
    for ours, theirs in zip(
        query_loss(logits, task), query_loss(logits[:, there], fewer), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)


def test_inductive_fourier_predictions_ignore_other_queries(spoken):
    start, task = spoken
    few = task._replace(query=task.query[2:4], query_labels=task.query_labels[2:4])
    whole = predict(fourier_learner(), start, task, "inductive")
    np.testing.assert_allclose(
        predict(fourier_learner(), start, few, "inductive"), whole[:, 2:4], rtol=1e-4, atol=1e-5
    )


def test_context_adapts_alone_in_a_task(spoken):
    start, task = spoken
    states = fourier_learner().adapt(start, task)
    for head in states[HEAD]["kernel"]:
        np.testing.assert_array_equal(head, start[HEAD]["kernel"])
    assert (states[CONTEXT]["kernel"][0] == 0).all()
    assert (np.abs(np.diff(states[CONTEXT]["kernel"], axis=0)).max(axis=(1, 2)) > 1e-3).all()
    # ANIL's part is the head, the vector's weights.
    anil = fourier_learner(method="anil").adapt(start, task)
    assert (anil[CONTEXT]["kernel"] == 0).all()
    assert (np.abs(np.diff(anil[HEAD]["kernel"], axis=0)).max(axis=(1, 2)) > 1e-3).all()


@pytest.mark.parametrize("method", ["fmaml", "meta_sgd", "mamlpp", "reptile", "pooled_finetune"])
def test_context_starts_every_task_at_zero_whatever_is_learned(method, spoken):
    _, task = spoken
    ours = fourier_learner(method=method, outer_decay=0.1, batch_norm="inductive")
    params = ours.init(jax.random.key(0))
    optimizer = ours.optimizer(0.05)
    state = optimizer.init(params)
    for _ in range(2):
        gradient = gradient_of(ours, params, task)
        updates, state = optimizer.update(gradient, state, params)
        params = jax.tree.map(jnp.add, params, updates)
    start = params.get("start", params)
    assert np.abs(start[HEAD]["kernel"]).max() > 0.05
    assert (start[CONTEXT]["kernel"] == 0).all()
    if "rates" in params:  # the context's rates are learned as all others are
        rates = params["rates"][CONTEXT]
        assert all(np.abs(leaf - 0.7).max() > 0.01 for leaf in jax.tree.leaves(rates))


# ---- the other methods, on a task whose support holds all classes


@pytest.fixture(scope="module")
def full_task(task):
    rng = np.random.default_rng(1)
    extra = jnp.asarray(rng.normal(size=(3, 5, 4)), jnp.float32)
    return task._replace(
        support=jnp.concatenate([task.support, extra]),
        support_labels=jnp.concatenate([task.support_labels, jnp.full(3, 2)]),
    )


def gradient_of(learner_, params, task):
    return jax.jit(jax.grad(lambda p: learner_.loss(p, task)[0]))(params)


def assert_close(ours, theirs, rtol=1e-4, atol=1e-6):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol), ours, theirs)


def test_metaser_is_maml_on_all_classes(full_task):
    ours = predict(learner(method="metaser"), PARAMS, full_task, "inductive")
    theirs = logits_of(descend(PARAMS, full_task, 3), full_task, "inductive")
    np.testing.assert_allclose(ours[-1], theirs, rtol=1e-4, atol=1e-5)


def test_first_order_is_the_gradient_at_the_adapted_parameters(task):
    ours = gradient_of(learner(first_order=True), PARAMS, task)
    theirs = jax.grad(
        lambda p: cross_entropy(logits_of(p, task, "transductive"), task.query_labels)
    )(descend(PARAMS, task, 2))
    assert_close(ours, theirs)


def test_meta_sgd_learns_rates_by_the_product_of_gradients(task):
    """After one step theta' = theta - r * g, so dL/dr = -g * dL/dtheta', element by element."""
    ours = learner(method="meta_sgd", inner_steps=1)
    params = ours.init(jax.random.key(0))
    assert all((leaf == np.float32(0.3)).all() for leaf in jax.tree.leaves(params["rates"]))
    inner = jax.grad(lambda p: cross_entropy(MODEL.apply(p, task.support), task.support_labels))(
        params["start"]
    )
    outer = jax.grad(
        lambda p: cross_entropy(logits_of(p, task, "transductive"), task.query_labels)
    )(descend(params["start"], task, 1))
    expected = jax.tree.map(lambda g, q: -g * q, inner, outer)
    assert_close(gradient_of(ours, params, task)["rates"], expected)


# ---- MAML++


def scaled_model():
    """The small network with a layer of normalisation scales and biases."""

    def init(key):
        norm = {"scale": jnp.ones(6), "bias": jnp.zeros(6)}
        return {**MODEL.init(key), "BatchNorm_0": norm}

    def apply(params, clips, given=None):
        norm = params["BatchNorm_0"]
        hidden = MODEL.features(params, clips, given) * norm["scale"] + norm["bias"]
        return hidden @ params[HEAD]["kernel"]

    return MODEL._replace(init=init, apply=apply)


SCALED = scaled_model()
HALF_ANNEALED = mamlpp.ANNEALED / 2


@pytest.fixture(scope="module")
def stepwise():
    """The learner for 2 inner steps, and parameters that differ between all layers and steps."""
    config = replace(CONFIG, method="mamlpp", meta_steps=10)
    ours = find_method(config)[0].make(config, SCALED)
    params = ours.init(jax.random.key(0))
    assert all((rate == np.float32([0.3, 0.3])).all() for rate in params["rates"].values())
    assert (params["norms"]["BatchNorm_0"]["scale"] == np.ones((2, 6))).all()
    rng = np.random.default_rng(6)
    noisy = jax.tree.map(lambda leaf: leaf + rng.normal(0, 0.1, leaf.shape), params)
    return ours, jax.tree.map(jnp.float32, {**noisy, "meta_step": 0})


@partial(jax.jit, static_argnames="steps")
def stepwise_descent(params, task, steps):
    """The network after each step, unrolled."""
    start, networks = params["start"], []
    for i in range(steps):
        trained = min(i, 1)
        norms = jax.tree.map(lambda leaf, t=trained: leaf[t], params["norms"])
        slope = jax.grad(
            lambda p, n=norms: cross_entropy(SCALED.apply(p | n, task.support), task.support_labels)
        )(start)
        start = {
            "in": start["in"] - params["rates"]["in"][trained] * slope["in"],
            HEAD: {
                "kernel": start[HEAD]["kernel"]
                - params["rates"][HEAD][trained] * slope[HEAD]["kernel"]
            },
        }
        networks.append(start | norms)
    return networks


def test_mamlpp_weights_move_to_the_last_step():
    # Equal; half-way, half of what each but the last had; then 0.03 of it.
    for progress, before_last in ((0, 1 / 5), (HALF_ANNEALED, 1 / 10), (1, 0.006)):
        expected = [before_last] * 4 + [1 - 4 * before_last]
        np.testing.assert_allclose(mamlpp.loss_weights(progress, 5), expected, rtol=1e-5)
    np.testing.assert_allclose(mamlpp.loss_weights(HALF_ANNEALED, 1), [1])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("meta_step", "weights"),
    [(0, (0.5, 0.5)), (10 * HALF_ANNEALED, (0.25, 0.75)), (10, (0.015, 0.985))],
)
def test_mamlpp_loss_and_gradient_equal_unrolled_descent(stepwise, meta_step, weights, task):
    ours, params = stepwise
    params = {**params, "meta_step": jnp.float32(meta_step)}

    def expected(params):
        networks = stepwise_descent(params, task, 2)
        return sum(
            weight * cross_entropy(SCALED.apply(network, task.query), task.query_labels)
            for weight, network in zip(weights, networks, strict=True)
        )

    (loss, _), gradient = jax.jit(jax.value_and_grad(ours.loss, has_aux=True))(params, task)
    expected_loss, expected_gradient = jax.jit(jax.value_and_grad(expected))(params)
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-5)
    assert_close(gradient, expected_gradient, rtol=1e-3, atol=1e-5)
    # Not vacuous: each rate, and each step's normalisation, has its say.
    for leaf in jax.tree.leaves((gradient["rates"], gradient["norms"])):
        assert (np.abs(leaf).reshape(2, -1).max(axis=1) > 1e-4).all()


@pytest.mark.parametrize("mode", ["transductive", "inductive"])
def test_mamlpp_steps_beyond_the_trained_use_the_last_one_s(stepwise, mode, task):
    ours, params = stepwise
    first_norms = jax.tree.map(lambda leaf: leaf[0], params["norms"])
    networks = [params["start"] | first_norms, *stepwise_descent(params, task, 3)]
    logits = predict(ours, params, task, mode)
    for found, network in zip(logits, networks, strict=True):
        given = SCALED.statistics(network, task.support) if mode == "inductive" else None
        np.testing.assert_allclose(
            found, SCALED.apply(network, task.query, given), rtol=1e-4, atol=1e-5
        )


def test_mamlpp_normalisation_is_of_its_step(stepwise, task):
    ours, params = stepwise
    others = jax.tree.map(lambda leaf: leaf.at[1].add(0.5), params["norms"])
    before, after = (
        predict(ours, p, task, "inductive") for p in (params, {**params, "norms": others})
    )
    differences = np.abs(before - after).max(axis=(1, 2))
    assert (differences[:2] == 0).all()
    assert (differences[2:] > 1e-2).all()


def test_mamlpp_outer_rate_falls_along_a_cosine_while_meta_steps_are_counted(stepwise):
    """Of a constant gradient of 1, Adam makes steps of its rate."""
    ours, params = stepwise
    optimizer = ours.optimizer(0.2)
    state, moved = optimizer.init(params), []
    ones = jax.tree.map(jnp.ones_like, params)
    for _ in range(11):
        updates, state = optimizer.update({**ones, "meta_step": jnp.float32(0)}, state, params)
        assert updates["meta_step"] == 1
        moved.append(-updates["rates"]["in"][0])
    np.testing.assert_allclose([moved[0], moved[5], moved[10]], [0.2, 0.1, 0], rtol=1e-4)


def test_reptile_moves_towards_where_descent_on_the_whole_task_ends(task):
    whole = task._replace(
        support=jnp.concatenate([task.support, task.query]),
        support_labels=jnp.concatenate([task.support_labels, task.query_labels]),
    )
    expected = jax.tree.map(lambda a, b: a - b, PARAMS, descend(PARAMS, whole, 2))
    assert_close(gradient_of(learner(method="reptile"), PARAMS, task), expected)


def test_reptile_learns_fixed_classes_that_adaptation_leaves_alone(task):
    """`inner_outputs` is of the target's support; a training task is descended on as a whole."""
    protected = learner(method="reptile", support="emotions", inner_outputs="supported")
    plain = learner(method="reptile", support="emotions")
    assert_close(gradient_of(protected, PARAMS, task), gradient_of(plain, PARAMS, task))
    states = protected.adapt(PARAMS, task)[HEAD]["kernel"]
    np.testing.assert_array_equal(states[-1][:, 2], PARAMS[HEAD]["kernel"][:, 2])


@pytest.mark.parametrize(("method", "moves"), [("anil", HEAD), ("boil", "in")])
def test_anil_and_boil_adapt_one_part(method, moves, task):
    def expected(params):
        for _ in range(2):
            slope = jax.grad(
                lambda p: cross_entropy(MODEL.apply(p, task.support), task.support_labels)
            )(params)
            moved = jax.tree.map(lambda p, g: p - 0.3 * g, params[moves], slope[moves])
            params = {**params, moves: moved}
        return cross_entropy(logits_of(params, task, "transductive"), task.query_labels)

    ours = learner(method=method)
    np.testing.assert_allclose(ours.loss(PARAMS, task)[0], expected(PARAMS), rtol=1e-5)
    assert_close(gradient_of(ours, PARAMS, task), jax.jit(jax.grad(expected))(PARAMS), rtol=1e-3)


def members():
    """Features of 4 support clips of classes 0, 0, 1, 2 and of 2 queries."""
    rng = np.random.default_rng(3)
    labels = np.array([0, 0, 1, 2])
    return jnp.asarray(rng.normal(size=(4, 5))), labels, jnp.asarray(rng.normal(size=(2, 5)))


def test_protonet_measures_distances_to_class_means():
    support, labels, query = members()
    means = [support[:2].mean(axis=0), support[2], support[3]]
    expected = [[-np.sum((q - m) ** 2) for m in means] for q in query]
    ours = protonet.compare(support, jnp.eye(3)[labels], query)
    np.testing.assert_allclose(ours, expected, rtol=1e-4)


def test_matching_attends_by_cosine():
    support, labels, query = members()
    expected = []
    for q in query:
        cosine = [q @ s / np.linalg.norm(q) / np.linalg.norm(s) for s in support]
        attention = np.exp(cosine) / np.exp(cosine).sum()
        expected.append([attention[labels == c].sum() for c in range(3)])
    ours = matching.compare(support, jnp.eye(3)[labels], query)
    np.testing.assert_allclose(np.exp(ours), expected, rtol=1e-4)


def test_relation_scores_pairs_of_mean_and_query(full_task):
    rng = np.random.default_rng(4)
    means, query = rng.normal(size=(3, 5)), rng.normal(size=(2, 5))
    weights = {
        "query": rng.normal(size=(5, 8)),
        "mean": rng.normal(size=(5, 8)),
        "bias": rng.normal(size=8),
        "output": rng.normal(size=8),
    }

    def score(q, m):
        together = np.concatenate([q, m]) @ np.concatenate([weights["query"], weights["mean"]])
        return np.maximum(together + weights["bias"], 0) @ weights["output"]

    expected = [[score(q, m) for m in means] for q in query]
    np.testing.assert_allclose(
        relation.relate(weights, jnp.asarray(means), jnp.asarray(query)), expected, rtol=1e-4
    )

    ours = learner(method="relation")
    params = ours.init(jax.random.key(0))
    scores = 1 / (1 + np.exp(-predict(ours, params, full_task, "transductive")[0]))
    error = np.mean((scores - np.eye(3)[full_task.query_labels]) ** 2)
    np.testing.assert_allclose(ours.loss(params, full_task)[0], error, rtol=1e-5)


@pytest.mark.parametrize("method", ["protonet", "matching", "relation"])
def test_metric_methods_normalise_as_the_mode_says(method, full_task):
    ours = learner(method=method)
    params = ours.init(jax.random.key(0))
    few = full_task._replace(query=full_task.query[2:5])
    modes = {}
    for mode in ("transductive", "inductive"):
        whole = predict(ours, params, full_task, mode)[:, 2:5]
        modes[mode] = np.abs(predict(ours, params, few, mode) - whole).max()
    assert modes["inductive"] < 1e-5
    assert modes["transductive"] > 1e-4


def test_pooled_is_one_classifier_of_all_clips(task):
    clips = jnp.concatenate([task.support, task.query])
    labels = jnp.concatenate([task.support_labels, task.query_labels])
    ours = learner(method="pooled")
    np.testing.assert_allclose(
        ours.loss(PARAMS, task)[0], cross_entropy(MODEL.apply(PARAMS, clips), labels), rtol=1e-5
    )
    zero_shot = predict(ours, PARAMS, task, "inductive")
    np.testing.assert_allclose(zero_shot, logits_of(PARAMS, task, "inductive")[None], rtol=1e-4)
    tuned = predict(learner(method="pooled_finetune"), PARAMS, task, "inductive")
    theirs = logits_of(descend(PARAMS, task, 3), task, "inductive")
    np.testing.assert_allclose(tuned[-1], theirs, rtol=1e-4, atol=1e-5)


def test_supervised_is_adam_on_the_support(full_task):
    ours = learner(method="supervised", meta_steps=4, outer_lr=0.05)
    theta = PARAMS
    means = jax.tree.map(jnp.zeros_like, theta)
    squares = means
    for t in range(1, 5):
        slope = jax.grad(
            lambda p: cross_entropy(MODEL.apply(p, full_task.support), full_task.support_labels)
        )(theta)
        means = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, means, slope)
        squares = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g**2, squares, slope)
        theta = jax.tree.map(
            lambda p, m, v, t=t: (
                p - 0.05 * (m / (1 - 0.9**t)) / (jnp.sqrt(v / (1 - 0.999**t)) + 1e-8)
            ),
            theta,
            means,
            squares,
        )
    found = predict(ours, PARAMS, full_task, "inductive")
    np.testing.assert_allclose(found[0], logits_of(PARAMS, full_task, "inductive"), rtol=1e-4)
    np.testing.assert_allclose(
        found[1], logits_of(theta, full_task, "inductive"), rtol=1e-3, atol=1e-4
    )


def test_time_statistics_by_hand():
    clip = np.array([[1.0, 0.0], [3.0, 0.0], [2.0, 6.0]])
    found = functionals.time_statistics(clip[None]).reshape(6, 2)
    np.testing.assert_allclose(found[0], [2, 2])  # mean
    np.testing.assert_allclose(found[1], [np.sqrt(2 / 3), np.sqrt(8)])  # deviation
    np.testing.assert_allclose(found[2:5], [[1.2, 0], [2, 0], [2.8, 4.8]])  # percentiles
    np.testing.assert_allclose(found[5], [1.5, 3])  # deviation of the differences 2, -1 and 0, 6


def test_features_of_one_frame_are_statistics_as_they_are():
    features = np.random.default_rng(6).normal(size=(4, 1, 5))
    np.testing.assert_array_equal(functionals.time_statistics(features), features[:, 0])


def test_support_svm_separates_by_the_widest_margin():
    # Of two points a class on a line, the boundary is half-way between the nearest two.
    support, labels = np.array([[-1.2], [-1], [2], [2.1]]), np.array([0, 0, 2, 2])
    query = np.array([[0.4], [0.6]])
    known, scores = functionals.support_svm(None, {}, 3)(support, labels, query)
    assert known.tolist() == [0, 2]
    assert scores.argmax(axis=1).tolist() == [0, 1]
    np.testing.assert_allclose(scores[:, 0], -scores[:, 1])


def pool_of(labels, clips=None):
    """A pool of those clips (of all), by their labels of three classes."""
    clips = np.arange(len(labels)) if clips is None else clips
    return tuple(clips[labels[clips] == label] for label in range(3))


def overlapping(seed=5):
    """60 clips of three statistics and their labels, each class one above the last."""
    labels = np.repeat([0, 1, 2], 20)
    return np.random.default_rng(seed).normal(size=(60, 3)) + labels[:, None], labels


def test_fixed_svm_is_scikit_learns_on_the_support_and_the_fixed_classes_of_the_sources():
    source, source_labels = overlapping()
    support, query = source[:30:3] + 0.1, overlapping(seed=7)[0]
    labels = source_labels[:30:3]
    assert set(labels) == {0, 1}
    known, scores = functionals.fixed_svm(source, {"a": pool_of(source_labels)}, 2)(
        support, labels, query
    )
    mean, deviation = support.mean(axis=0), support.std(axis=0)
    clips = np.concatenate([support, source[40:]])
    oracle = SVC(kernel="linear", class_weight="balanced").fit(
        (clips - mean) / deviation, [*labels, *[2] * 20]
    )
    assert known.tolist() == [0, 1, 2]
    expected = oracle.decision_function((query - mean) / deviation)
    np.testing.assert_allclose(scores, expected, rtol=1e-6)
    # The sources' emotions have no say.
    pools = {"a": pool_of(source_labels, np.arange(40, 60))}
    fixed = functionals.fixed_svm(source, pools, 2)(support, labels, query)[1]
    np.testing.assert_array_equal(fixed, scores)


@pytest.mark.parametrize("penalty", [100.0, 10.0])
def test_pooled_regression_is_at_the_minimum_of_its_loss(penalty):
    """Begun at the sources' minimum it ends at that of sources and support, found from zero."""
    (clips, labels), query = overlapping(), np.eye(3)
    first, second = np.arange(0, 60, 4), np.arange(2, 60, 4)
    support, support_labels = clips[1:40:6] - 2, labels[1:40:6]  # of emotions 0 and 1
    # The last clip, of class 2, which is fixed, belongs to both domains.
    pools = [np.append(first, 59), np.append(second, 59)]
    sources = {str(i): pool_of(labels, pool) for i, pool in enumerate(pools)}
    classify = functionals.pooled_regression(clips, sources, 2, tol=1e-6, penalty=penalty)
    # Of all tasks, not the first alone, with other labels before.
    classify(support, 1 - support_labels, query)
    known, scores = classify(support, support_labels, query)
    assert known.tolist() == [0, 1, 2]
    emotions = [clips[pool[labels[pool] < 2]] for pool in pools]
    mean = support.mean(axis=0)
    deviation = np.mean([of_source.std(axis=0) for of_source in emotions], axis=0)
    source = np.concatenate(
        [
            (clips[pool] - of_source.mean(axis=0)) / of_source.std(axis=0)
            for pool, of_source in zip(pools, emotions, strict=True)
        ]
    )
    source_labels = labels[np.concatenate(pools)]
    scaled = np.concatenate([source, (support - mean) / deviation])
    true = np.concatenate([source_labels, support_labels])
    counts = np.repeat([1, functionals.SUPPORT_WEIGHT], [len(source), len(support)])

    def loss(weights):
        logits = scaled @ weights[:9].reshape(3, 3) + weights[9:]
        surprise = np.logaddexp.reduce(logits, axis=1) - logits[np.arange(len(true)), true]
        return counts @ surprise + (weights[:9] ** 2).sum() / 2 * penalty

    best = optimize.minimize(loss, np.zeros(12), tol=1e-9).x
    expected = (query - mean) / deviation @ best[:9].reshape(3, 3) + best[9:]
    difference = scores - expected
    np.testing.assert_allclose(difference - difference.mean(axis=1, keepdims=True), 0, atol=1e-3)
    # Not vacuous: the sources' own minimum is elsewhere.
    start = LogisticRegression(C=1 / penalty).fit(source, source_labels)
    moved = scores - start.decision_function((query - mean) / deviation)
    assert np.abs(moved - moved.mean(axis=1, keepdims=True)).max() > 0.02


def test_pooled_regression_does_not_see_the_level_of_a_domain():
    clips, labels = overlapping()
    sources = {"a": pool_of(labels, np.arange(0, 60, 2))}
    sources["b"] = pool_of(labels, np.arange(1, 60, 2))
    support = np.arange(0, 40, 5)

    def answers(statistics, level):
        classify = functionals.pooled_regression(statistics, sources, 2, tol=1e-6)
        return classify(clips[support] + level, labels[support], clips + level)[1]

    found = answers(clips, 0)
    np.testing.assert_allclose(answers(clips, 5), found, atol=1e-3)
    louder = clips.copy()
    louder[1::2] += 7
    np.testing.assert_allclose(answers(louder, 0), found, atol=1e-3)


class NotedConfig(Config):
    """Settings that note which of them are read."""

    read: ClassVar[set[str]] = set()

    def __getattribute__(self, name):
        if sys._getframe(1).f_globals["__name__"] != "dataclasses":  # `replace` reads all
            NotedConfig.read.add(name)
        return super().__getattribute__(name)


LEARNERS_OWN = {
    *("inner_lr", "inner_steps", "test_inner_steps", "first_order", "support_loss", "start_weight"),
    *("inner_outputs", "fixed_bias", "outer_decay"),
}
"""Settings that none but a learner reads; who trains and tests it reads the others."""


@pytest.mark.parametrize("method", [name for name, row in METHODS.items() if type(row) is Network])
def test_a_method_reads_what_it_declares(method, full_task):
    row = METHODS[method]
    values = {field.name: getattr(CONFIG, field.name) for field in fields(Config)}
    NotedConfig.read = set()
    ours = row.make(NotedConfig(**values | {"method": method, "support": row.supports[0]}), MODEL)
    params = ours.init(jax.random.key(0))
    if ours.loss:
        jax.eval_shape(ours.loss, params, full_task)
        ours.optimizer(0.1).init(params)
    states = jax.eval_shape(ours.adapt, params, full_task)
    state = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape[1:], leaf.dtype), states)
    jax.eval_shape(lambda state: ours.logits(state, full_task, "inductive"), state)
    # Built on F-MAML, these read for its adaptation what does nothing: nobody differentiates it,
    # and `pooled` takes none.
    idle = {"first_order"} if method in ("reptile", "pooled_finetune") else set()
    idle |= {"inner_lr", "inner_outputs"} if method == "pooled" else set()
    assert NotedConfig.read & LEARNERS_OWN == set(row.reads) & LEARNERS_OWN | idle


def test_a_setting_that_a_method_does_not_read_is_refused_and_left_out_of_a_grid():
    config = Config(method="protonet", outer_decay=0.001, inner_lr=1.0, meta_steps=7)
    sentence = (
        "--method=protonet does not read --inner_lr=1.0, --outer_decay=0.001; leave that out, or "
        "set it back by --inner_lr=0.1 --outer_decay=0.0"
    )
    with pytest.raises(UserError) as error:
        find_method(config)
    assert str(error.value) == sentence
    assert without_unread(config) == Config(method="protonet", meta_steps=7)
    find_method(without_unread(config))
    for network, width in (("cnn", "frequencies"), ("fourier", "filters"), ("cnn", "units")):
        with pytest.raises(UserError, match=f"does not read --{width}=5"):
            find_method(Config(network=network, **{width: 5}))
