"""The meta-gradient against what is worked by hand, finite differences and a naive reference."""

from operator import itemgetter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import enable_x64

from fmaml_jax.maml import Task, adapt, cross_entropy, meta_gradient, twice_differentiable_grad


def test_cross_entropy_is_the_mean_negative_log_probability():
    logits = jnp.array([[0.0, np.log(3.0)], [np.log(4.0), 0.0]])
    # Softmax: (1/4, 3/4) and (4/5, 1/5).
    expected = -(np.log(3 / 4) + np.log(1 / 5)) / 2
    np.testing.assert_allclose(cross_entropy(logits, jnp.array([1, 1])), expected, rtol=1e-6)


def test_weights_are_numbers_of_clips():
    """Of weights 2, 1 and 0 the mean is that of the first clip, twice, and the second."""
    rng = np.random.default_rng(0)
    logits, labels = jnp.asarray(rng.normal(size=(3, 4))), jnp.array([1, 0, 2])
    weighted = cross_entropy(logits, labels, jnp.array([2.0, 1.0, 0.0]))
    np.testing.assert_allclose(
        weighted,
        cross_entropy(logits[jnp.array([0, 0, 1])], labels[jnp.array([0, 0, 1])]),
        rtol=1e-6,
    )


def cubic_loss(theta, centre):
    """L_S = theta^3 / 3 - centre * theta: gradient theta^2 - centre, Hessian 2 theta."""
    return theta**3 / 3 - centre * theta


@pytest.mark.parametrize("first_order", [False, True])
def test_meta_gradient_by_hand(first_order):
    # alpha = 0.1, centre = 1, theta = 2.
    # Step 1: 2 - 0.1 * (4 - 1) = 1.7;          d/dtheta = 1 - 0.1 * 2 * 2   = 0.6
    # Step 2: 1.7 - 0.1 * (2.89 - 1) = 1.511;   d/dtheta = 1 - 0.1 * 2 * 1.7 = 0.66
    # L_Q = (theta' - 1)^2 / 2: gradient 0.511 by theta', times 0.6 * 0.66 = 0.396 by theta.
    def query_loss(theta):
        adapted, path = adapt(cubic_loss, theta, 1.0, rate=0.1, steps=2, first_order=first_order)
        return (adapted - 1) ** 2 / 2, (adapted, path)

    (loss, (adapted, path)), gradient = jax.value_and_grad(query_loss, has_aux=True)(2.0)
    np.testing.assert_allclose(path, [1.7, 1.511], rtol=1e-6)
    np.testing.assert_allclose(adapted, 1.511, rtol=1e-6)
    np.testing.assert_allclose(loss, 0.511**2 / 2, rtol=1e-5)
    np.testing.assert_allclose(gradient, 0.511 if first_order else 0.511 * 0.396, rtol=1e-5)


def test_mean_over_tasks_by_hand():
    # One step of alpha = 0.5 on (theta - a)^2 / 2 halves the distance to a; the query loss is the
    # same quadratic: mean over a in {0, 4} of (theta - a)^2 / 8, at theta = 1: (1 + 9) / 16.
    def task_loss(theta, centre):
        adapted, _ = adapt(lambda t, a: (t - a) ** 2 / 2, theta, centre, rate=0.5, steps=1)
        return (adapted - centre) ** 2 / 2, centre

    for chunk in (1, 2):
        loss, mean_centre, gradient = meta_gradient(
            task_loss, jnp.asarray(1.0), jnp.asarray([0.0, 4.0]), chunk
        )
        np.testing.assert_allclose([loss, mean_centre], [10 / 16, 2.0], rtol=1e-6)
        np.testing.assert_allclose(gradient, ((1 - 0) + (1 - 4)) / 8, rtol=1e-6)


class Mlp:
    """Two layers: enough for curvature, small enough to compile at once."""

    @staticmethod
    def init(key):
        first, second = jax.random.split(key)
        return {
            "hidden": jax.random.normal(first, (240, 5)) / 15,
            "output": jax.random.normal(second, (5, 3)),
        }

    @staticmethod
    def apply(params, clips):
        return jnp.tanh(clips.reshape(len(clips), -1) @ params["hidden"]) @ params["output"]


def small_tasks(tasks, dtype):
    rng = np.random.default_rng(0)
    return Task(
        rng.normal(size=(tasks, 4, 40, 6)).astype(dtype),
        jnp.tile(jnp.array([0, 0, 1, 1]), (tasks, 1)),
        rng.normal(size=(tasks, 6, 40, 6)).astype(dtype),
        jnp.tile(jnp.array([0, 0, 1, 1, 2, 2]), (tasks, 1)),
    )


def support_loss(params, data):
    clips, labels = data
    return cross_entropy(Mlp.apply(params, clips), labels)


def task_loss(params, task, first_order=False):
    data = (task.support, task.support_labels)
    theta, _ = adapt(support_loss, params, data, rate=0.1, steps=2, first_order=first_order)
    loss = cross_entropy(Mlp.apply(theta, task.query), task.query_labels)
    return loss, loss


def naive_loss(params, task, first_order=False):
    """The same by autodiff through plain gradient descent, unrolled."""
    for _ in range(2):
        gradient = jax.grad(support_loss)(params, (task.support, task.support_labels))
        if first_order:
            gradient = jax.lax.stop_gradient(gradient)
        params = jax.tree.map(lambda p, g: p - 0.1 * g, params, gradient)
    return cross_entropy(Mlp.apply(params, task.query), task.query_labels)


def flat(tree):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


@pytest.fixture(scope="module")
def double():
    """Parameters, one task and their second-order meta-gradient in float64."""
    with enable_x64(True):
        params = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), Mlp.init(jax.random.key(0)))
        task = jax.tree.map(lambda leaf: leaf[0], small_tasks(1, np.float64))
        gradient = jax.jit(jax.grad(lambda p, t: task_loss(p, t)[0]))(params, task)
        return params, task, gradient


def test_second_order_equals_autodiff_through_autodiff(double):
    params, task, gradient = double
    with enable_x64(True):
        reference = jax.jit(jax.grad(naive_loss))(params, task)
    np.testing.assert_allclose(flat(gradient), flat(reference), rtol=1e-10, atol=1e-13)


def test_first_order_equals_autodiff_with_constant_inner_gradients(double):
    params, task, second_order = double
    with enable_x64(True):
        ours = jax.jit(jax.grad(lambda p, t: task_loss(p, t, first_order=True)[0]))(params, task)
        reference = jax.jit(jax.grad(lambda p, t: naive_loss(p, t, first_order=True)))(params, task)
    np.testing.assert_allclose(flat(ours), flat(reference), rtol=1e-10, atol=1e-13)
    assert np.abs(flat(ours) - flat(second_order)).max() > 1e-3


def test_second_order_equals_finite_differences(double):
    params, task, gradient = double
    rng = np.random.default_rng(1)
    with enable_x64(True):
        loss = jax.jit(lambda p: task_loss(p, task)[0])
        for _ in range(3):
            direction = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), params)

            def along(step, direction=direction):
                return float(loss(jax.tree.map(lambda p, d: p + step * d, params, direction)))

            numeric = (along(1e-6) - along(-1e-6)) / 2e-6
            np.testing.assert_allclose(
                flat(gradient) @ flat(direction), numeric, rtol=1e-5, atol=1e-8
            )


def test_batched_tasks_equal_a_loop():
    params = Mlp.init(jax.random.key(0))
    tasks = small_tasks(4, np.float32)
    alone = jax.jit(jax.value_and_grad(lambda p, t: task_loss(p, t)[0]))
    loop = [alone(params, jax.tree.map(itemgetter(i), tasks)) for i in range(4)]
    for chunk in (1, 4):
        loss, _, gradient = jax.jit(
            lambda p, t, chunk=chunk: meta_gradient(task_loss, p, t, chunk)
        )(params, tasks)
        np.testing.assert_allclose(loss, np.mean([value for value, _ in loop]), rtol=1e-5)
        expected = np.mean([flat(tree) for _, tree in loop], axis=0)
        np.testing.assert_allclose(flat(gradient), expected, rtol=1e-4, atol=1e-5)


def test_gradient_of_a_gradient_is_the_hessian():
    def loss(params, data):
        return jnp.sum(jnp.sin(params) * data) + params[0] * params[1] ** 2

    params, data = jnp.array([0.3, -0.7]), jnp.array([2.0, 5.0])
    hessian = jax.jacrev(lambda p: twice_differentiable_grad(loss)(p, data))(params)
    expected = [
        [-2 * np.sin(0.3), 2 * -0.7],
        [2 * -0.7, -5 * np.sin(-0.7) + 2 * 0.3],
    ]
    np.testing.assert_allclose(hessian, expected, rtol=1e-5)
