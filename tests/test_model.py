"""The network: its size as published, its convolution as the library's, its normalisation."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import enable_x64

from fmaml_jax.config import BATCH_NORM_MODES, Config
from fmaml_jax.convolution import patches_conv, reference_conv
from fmaml_jax.learners import METHODS, Network
from fmaml_jax.maml import Task, adapt, cross_entropy, meta_gradient
from fmaml_jax.model import (
    BIAS,
    BLOCKS,
    CONTEXT,
    GAMMA,
    HEAD,
    PRIOR_CLIPS,
    input_frames,
    make_model,
    pool_time,
)
from fmaml_jax.normalisation import batch_norm


@pytest.mark.parametrize("size", [(1, 40, 40, 1), (2, 5, 5, 3), (2, 6, 9, 3)])
def test_fast_convolution_equals_the_reference(size):
    rng = np.random.default_rng(0)
    with enable_x64(True):
        images = jnp.asarray(rng.normal(size=size))
        kernel = jnp.asarray(rng.normal(size=(3, 3, size[-1], 4)))
        weights = jnp.asarray(rng.normal(size=reference_conv(images, kernel).shape))
        direction = jnp.asarray(rng.normal(size=images.shape))

        def values(conv):
            def loss(images, kernel):
                return jnp.sum(jnp.tanh(conv(images, kernel)) * weights)

            gradient = jax.grad(loss, argnums=(0, 1))
            _, curvature = jax.jvp(lambda x: gradient(x, kernel), (images,), (direction,))
            return conv(images, kernel), *gradient(images, kernel), *curvature

        for ours, reference in zip(values(patches_conv), values(reference_conv), strict=True):
            np.testing.assert_allclose(ours, reference, rtol=1e-11, atol=1e-11)


def test_batch_norm_by_hand_equals_the_librarys():
    rng = np.random.default_rng(1)
    library = nn.BatchNorm(use_running_average=False)
    with enable_x64(True):
        maps, weights, direction = (jnp.asarray(rng.normal(size=(4, 3, 5, 2))) for _ in range(3))
        scale, bias = jnp.asarray([0.7, -1.3]), jnp.asarray([0.2, 0.4])

        def librarys(maps, scale, bias):
            params = {"params": {"scale": scale, "bias": bias}}
            return library.apply(params, maps, mutable=["batch_stats"])[0]

        def values(function):
            def loss(*args):
                return jnp.sum(jnp.tanh(function(*args)) * weights)

            gradient = jax.grad(loss, argnums=(0, 1, 2))
            tangents = (direction, scale + 1, bias - 1)
            _, curvature = jax.jvp(gradient, (maps, scale, bias), tangents)
            return function(maps, scale, bias), *gradient(maps, scale, bias), *curvature

        for ours, reference in zip(values(batch_norm), values(librarys), strict=True):
            np.testing.assert_allclose(ours, reference, rtol=1e-9, atol=1e-11)


def test_size_is_the_published_one():
    params = make_model(classes=7).init(jax.random.key(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 115_975
    assert params["Dense_0"]["kernel"].shape == (576, 7)


@pytest.fixture(
    scope="module",
    params=["cnn", pytest.param("cnn_lstm", marks=pytest.mark.slow), "fourier", "linear"],
)
def network(request):
    return request.param


@pytest.fixture(scope="module")
def small(network):
    model = make_model(classes=3, coefficients=8, filters=4, units=4, network=network)
    model = model._replace(  # one compilation a shape instead of one an operation
        init=jax.jit(model.init),
        apply=jax.jit(model.apply),
        statistics=jax.jit(model.statistics),
    )
    rng = np.random.default_rng(0)
    params = model.init(jax.random.key(0))
    if network in ("fourier", "linear"):  # which start at zero
        params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), params)
    frames = input_frames(network)
    support = jnp.asarray(rng.normal(size=(6, frames, 8)), jnp.float32)
    query = jnp.asarray(rng.normal(1, 2, size=(5, frames, 8)), jnp.float32)
    return model, params, support, query


def test_inductive_predictions_ignore_their_neighbours(small):
    model, params, support, query = small
    statistics = model.statistics(params, support)
    together = model.apply(params, query, statistics)
    alone = [model.apply(params, query[i : i + 1], statistics)[0] for i in range(len(query))]
    np.testing.assert_allclose(together, jnp.stack(alone), rtol=1e-4, atol=1e-5)


def test_transductive_predictions_depend_on_their_neighbours(small):
    model, params, _, query = small
    together = model.apply(params, query, None)
    fewer = model.apply(params, query[:3], None)
    assert np.abs(together[:3] - fewer).max() > 1e-2


def test_own_statistics_are_those_of_the_set_itself(small):
    model, params, support, _ = small
    np.testing.assert_allclose(
        model.apply(params, support, model.statistics(params, support)),
        model.apply(params, support, None),
        rtol=1e-5,
        atol=1e-6,
    )


def test_reference_convolution_gives_the_same_network(small, network):
    if network not in BLOCKS:
        return  # it has no convolution
    model, params, _, query = small
    reference = make_model(
        3,
        coefficients=8,
        filters=4,
        units=4,
        network=network,
        convolution=reference_conv,
    )

    def value_of(apply):  # with a gradient, since a CPU has another convolution without one
        return jax.vjp(lambda params: apply(params, query, None), params)[0]

    np.testing.assert_allclose(
        value_of(model.apply), value_of(reference.apply), rtol=1e-4, atol=1e-5
    )


def test_a_cpu_predicts_clip_by_clip_and_comes_to_the_same(small, network):
    """A gradient, and every accelerator, is of the form without a loop."""
    if network not in BLOCKS:
        return
    model, params, support, query = small

    def found(params, query):
        def both(function, *given):
            at_once, _ = jax.vjp(lambda p: function(p, *given), params)
            return function(params, *given), at_once

        own = both(model.statistics, support)
        return own, both(model.apply, query, None), both(model.apply, query, own[0])

    traced = jax.jit(model.apply).trace(params, query, None)
    loops = {
        platform: traced.lower(lowering_platforms=(platform,)).as_text().count("stablehlo.while")
        for platform in ("cpu", "cuda", "tpu")
    }
    assert loops["cpu"] - BLOCKS[network] == loops["cuda"] == loops["tpu"]
    seeds = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf + 0.1]), (params, query))
    close = partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
    for by_clip, at_once in jax.jit(jax.vmap(found))(*seeds):
        jax.tree.map(close, by_clip, at_once)


@pytest.mark.slow
def test_lstm_reads_the_second_block_s_map_over_time():
    """Against two blocks of the library's convolution and an LSTM, both in NumPy."""
    model = make_model(classes=3, coefficients=8, filters=2, units=2, network="cnn_lstm")
    rng = np.random.default_rng(1)
    params = jax.tree.map(
        lambda leaf: jnp.asarray(leaf + rng.normal(0, 0.3, leaf.shape), jnp.float32),
        model.init(jax.random.key(0)),
    )
    clips = rng.normal(size=(4, 40, 8)).astype(np.float32)

    maps = clips[..., None]
    for convolution, norm in (
        ("_Convolution_0", "BatchNorm_0"),
        ("_Convolution_1", "BatchNorm_1"),
    ):
        maps = np.asarray(reference_conv(jnp.asarray(maps), params[convolution]["kernel"]))
        maps = np.maximum(maps + params[convolution]["bias"], 0)
        maps = (maps - maps.mean(axis=(0, 1, 2))) / np.sqrt(maps.var(axis=(0, 1, 2)) + 1e-5)
        maps = maps * params[norm]["scale"] + params[norm]["bias"]
    assert maps.shape == (4, 10, 2, 2)

    def sigmoid(x):
        return 1 / (1 + np.exp(-x))

    cell = params["OptimizedLSTMCell_0"]
    memory = output = np.zeros((4, 2))
    for moment in np.moveaxis(maps.reshape(4, 10, 4), 1, 0):
        gate = {
            name: moment @ cell[f"i{name}"]["kernel"]
            + output @ cell[f"h{name}"]["kernel"]
            + cell[f"h{name}"]["bias"]
            for name in "ifgo"
        }
        memory = sigmoid(gate["f"]) * memory + sigmoid(gate["i"]) * np.tanh(gate["g"])
        output = sigmoid(gate["o"]) * np.tanh(memory)
    np.testing.assert_allclose(
        model.features(params, jnp.asarray(clips), None), output, rtol=1e-3, atol=1e-5
    )
    logits = output @ params[HEAD]["kernel"] + params[HEAD]["bias"]
    np.testing.assert_allclose(
        model.apply(params, jnp.asarray(clips), None), logits, rtol=1e-3, atol=1e-5
    )


@pytest.mark.parametrize("method", [name for name, row in METHODS.items() if type(row) is Network])
@pytest.mark.parametrize("other", [pytest.param("cnn_lstm", marks=pytest.mark.slow), "fourier"])
def test_every_method_takes_the_other_networks(method, other):
    config = Config(emotions=("a", "b"), fixed=(), inner_steps=2, test_inner_steps=2, meta_steps=2)
    learner = METHODS[method].make(
        config, make_model(classes=2, coefficients=4, filters=2, units=2, network=other)
    )
    clips, labels = jnp.zeros((4, input_frames(other), 4)), jnp.zeros(4, int)
    task = Task(clips, labels, clips, labels)
    # Traced, which takes no compilation.
    params = jax.eval_shape(learner.init, jax.random.key(0))
    states = jax.eval_shape(learner.adapt, params, task)
    for mode in BATCH_NORM_MODES:
        logits = jax.eval_shape(
            jax.vmap(partial(learner.logits, batch_norm=mode), (0, None)), states, task
        )
        assert logits.shape[1:] == (4, 2)
    if learner.loss:
        gradient, _ = jax.eval_shape(jax.grad(learner.loss, has_aux=True), params, task)
        assert jax.tree.structure(gradient) == jax.tree.structure(params)


# ---- Fourier features


def vectors(clips, coefficients=6, seed=2):
    return jnp.asarray(
        np.random.default_rng(seed).normal(size=(clips, 1, coefficients)), jnp.float32
    )


def gaussian_kernel(left, right):
    """exp(-GAMMA * mean squared difference), of clips and clips."""
    return np.exp(-GAMMA * ((left[:, None, 0] - right[None, :, 0]) ** 2).mean(axis=-1))


def test_products_of_fourier_features_are_a_gaussian_kernel():
    frequencies = 4000
    model = make_model(3, coefficients=6, frequencies=frequencies, network="fourier")
    clips = vectors(12)
    uncentred = {"mean": jnp.zeros(6 + 2 * frequencies)}
    found = np.asarray(model.features({}, clips, uncentred))
    assert np.ptp(gaussian_kernel(clips, clips)) > 0.8  # near and far pairs
    # The product is a mean of cosines of normal angles: of variance (1 + k^4) / 2 - k^2 each.
    kernel = gaussian_kernel(clips, clips)
    deviation = np.sqrt(((1 + kernel**4) / 2 - kernel**2).clip(0) / frequencies)
    error = np.abs(found[:, 7:] @ found[:, 7:].T - kernel)
    assert (error <= 4.5 * deviation + 1e-5).all()
    assert error.max() > 1e-4  # it is no closed form
    np.testing.assert_allclose(found[:, :6] * np.sqrt(6), clips[:, 0], rtol=1e-6)
    assert (found[:, 6] == np.float32(BIAS)).all()


def test_fourier_features_are_centred_on_the_clips_given_for_statistics():
    model = make_model(3, coefficients=6, frequencies=5, network="fourier")
    support, query = vectors(7), vectors(4, seed=3) + 1
    zero = {"mean": jnp.zeros(6 + 2 * 5)}

    def features(clips, statistics):
        return np.delete(model.features({}, clips, statistics), 6, axis=1)  # the constant

    mean = features(support, zero).mean(axis=0)
    statistics = model.statistics(model.init(jax.random.key(0)), support)
    np.testing.assert_allclose(statistics["mean"], mean, atol=1e-6)
    np.testing.assert_allclose(features(support, None).mean(axis=0), 0, atol=1e-6)
    centred = features(query, statistics)
    np.testing.assert_allclose(centred, features(query, zero) - mean, atol=1e-6)
    assert np.abs(centred.mean(axis=0)).max() > 0.1


def test_fourier_logits_are_two_linear_layers_that_start_at_zero():
    model = make_model(3, coefficients=6, frequencies=5, network="fourier")
    params = model.init(jax.random.key(0))
    shapes = jax.tree.map(jnp.shape, params)
    assert shapes == {HEAD: {"kernel": (7, 3)}, CONTEXT: {"kernel": (10, 3)}}
    assert not any(leaf.any() for leaf in jax.tree.leaves(params))
    rng = np.random.default_rng(4)
    params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), params)
    clips = vectors(4)
    found = np.asarray(model.features(params, clips, None))
    expected = found[:, :7] @ params[HEAD]["kernel"] + found[:, 7:] @ params[CONTEXT]["kernel"]
    np.testing.assert_allclose(model.apply(params, clips, None), expected, rtol=1e-5, atol=1e-6)


def test_linear_is_scaled_by_the_support_as_far_as_it_is_clips_enough():
    model = make_model(3, coefficients=6, network="linear")
    support, query = vectors(7) * 3, vectors(4, seed=3)
    rng = np.random.default_rng(4)
    params = jax.tree.map(
        lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), model.init(jax.random.key(0))
    )
    own = np.asarray(support)[:, 0]
    variance = (PRIOR_CLIPS * 1 + 7 * own.var(axis=0)) / (PRIOR_CLIPS + 7)
    seen = (np.asarray(query)[:, 0] - own.mean(axis=0)) / np.sqrt(6 * variance)
    layers = params[HEAD]["kernel"], params[CONTEXT]["kernel"]
    expected = seen @ (layers[0][:-1] + layers[1]) + BIAS * layers[0][-1]
    found = model.apply(params, query, model.statistics(params, support))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    read = np.concatenate([seen, np.full((4, 1), BIAS), seen], axis=1)
    features = model.features(params, query, model.statistics(params, support))
    np.testing.assert_allclose(features, read, rtol=1e-4, atol=1e-5)


def test_fourier_frequencies_are_the_same_for_every_seed():
    clips = vectors(4)
    one, other = (
        make_model(2, coefficients=6, frequencies=5, network="fourier").features({}, clips, None)
        for _ in range(2)
    )
    np.testing.assert_array_equal(one, other)


def test_pooling_time_averages_equal_shares():
    ramp = np.arange(7, dtype=np.float32)[None, :, None] * np.ones((2, 7, 3), np.float32)
    # 7 frames into 2 bins of 3.5: the middle frame belongs half to each.
    expected = [(0 + 1 + 2 + 3 / 2) / 3.5, (3 / 2 + 4 + 5 + 6) / 3.5]
    np.testing.assert_allclose(pool_time(ramp, 2)[1, :, 2], expected, rtol=1e-6)
    np.testing.assert_allclose(pool_time(ramp, 7), ramp, rtol=1e-6)
    np.testing.assert_allclose(pool_time(ramp, 14)[:, ::2], ramp, rtol=1e-6)


@pytest.mark.slow
def test_batched_second_order_through_the_network_equals_a_loop_of_autodiff():
    """Fast convolution, batched kernels and the custom derivative against none of them."""
    with enable_x64(True):
        rng = np.random.default_rng(0)
        tasks = jnp.asarray(rng.normal(size=(2, 2, 4, 40, 4)))  # tasks, support and query, clips
        labels = jnp.array([0, 1, 0, 1])
        fast = make_model(2, coefficients=4, filters=2)
        plain = make_model(2, coefficients=4, filters=2, convolution=reference_conv)
        params = jax.tree.map(lambda p: p.astype(jnp.float64), fast.init(jax.random.key(0)))

        def loss(model, params, clips):
            return cross_entropy(model.apply(params, clips, None), labels)

        def task_loss(params, task):
            theta, _ = adapt(partial(loss, fast), params, task[0], rate=0.1, steps=1)
            return loss(fast, theta, task[1]), None

        def naive(params, task):
            gradient = jax.grad(partial(loss, plain))(params, task[0])
            theta = jax.tree.map(lambda p, g: p - 0.1 * g, params, gradient)
            return loss(plain, theta, task[1])

        _, _, ours = jax.jit(lambda p: meta_gradient(task_loss, p, tasks, chunk=2))(params)
        one = jax.jit(jax.grad(naive))
        loop = jax.tree.map(lambda a, b: (a + b) / 2, one(params, tasks[0]), one(params, tasks[1]))
        for left, right in zip(jax.tree.leaves(ours), jax.tree.leaves(loop), strict=True):
            np.testing.assert_allclose(left, right, rtol=1e-9, atol=1e-12)
