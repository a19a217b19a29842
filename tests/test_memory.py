"""What a task takes of a device's memory: against a sum by hand, and XLA's own account."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmaml_jax.config import Config
from fmaml_jax.data.episodes import Episodes, TaskShape
from fmaml_jax.learners import METHODS, Network, find_method, without_unread
from fmaml_jax.maml import meta_gradient
from fmaml_jax.model import make_model
from fmaml_jax.training import memory
from fmaml_jax.training.devices import make_layout, tasks_at_once
from fmaml_jax.training.evaluate import gather
from fmaml_jax.training.memory import peak_bytes, task_bytes, with_chunk
from fmaml_jax.training.train import init_seeds

WAYS, CLASSES = 5, 7


def episodes(tasks: int, shots: int, query: int = 5, supported: int = WAYS) -> Episodes:
    """Tasks of clips 0, 1, ... in turn; the first so many classes have a support."""
    labels = np.tile(np.arange(CLASSES), query), np.tile(np.arange(supported), shots)
    clips = np.arange(tasks)[:, None] + np.arange(max(map(len, labels)))
    each = [np.tile(of_set, (tasks, 1)).astype(np.int32) for of_set in labels]
    query_clips, support_clips = (clips[:, : len(of_set)].astype(np.int32) for of_set in labels)
    return Episodes(support_clips, each[1], query_clips, each[0])


def test_the_peak_is_the_sum_of_what_lives_at_once():
    square = jax.ShapeDtypeStruct((10, 10), jnp.float32)

    def chain(x):  # two results at a time
        return jnp.sin(jnp.cos(jnp.tan(x)))

    def kept(x):  # the first is used again at the end
        first = jnp.tan(x)
        return jnp.sin(jnp.cos(first)) @ first

    def loop(x):  # the carry, a body of two, and what each turn leaves
        return jax.lax.scan(lambda c, _: (chain(c), c), x, length=7)

    assert peak_bytes(chain, square) == 2 * 400
    assert peak_bytes(kept, square) == 3 * 400
    assert peak_bytes(loop, square) == (1 + 7 + 2) * 400
    assert peak_bytes(jax.jit(chain), square) == (1 + 2) * 400
    assert peak_bytes(chain, jax.ShapeDtypeStruct((10, 10), jnp.bfloat16)) == 2 * 200


def test_as_many_tasks_at_once_as_memory_holds(monkeypatch, capsys):
    config = Config(network="linear", inner_steps=1)
    learner = find_method(config)[0].make(config, make_model(CLASSES, 8, "linear"))
    shapes = [TaskShape(WAYS, shots, (5,) * CLASSES) for shots in (1, 1)]
    problem = (learner, init_seeds(learner, [0]), np.zeros((50, 1, 8), np.float32), *shapes)
    given, own = make_layout(16, 4), make_layout(16)
    undecided = own._replace(chunk=0)
    assert with_chunk(given, *problem) == given
    assert with_chunk(own, *problem) == own  # a core computes one
    assert with_chunk(undecided, *problem).chunk == 0  # a device that does not tell
    monkeypatch.setattr(memory, "_free_bytes", lambda layout: 6.5 * task_bytes(*problem) * 2)
    chosen = with_chunk(undecided, *problem)
    assert chosen.chunk == 6
    assert "computes at most 6 at once" in capsys.readouterr().out
    assert tasks_at_once(chosen, 16 * chosen.mesh.size) == 4  # a divisor
    monkeypatch.setattr(memory, "_free_bytes", lambda layout: 10)
    assert with_chunk(undecided, *problem).chunk == 1


def batch_gradient(config: Config, chunk: int):
    """(parameters, clips, episodes) -> loss, accuracy and gradient, and the learner."""
    learner = find_method(config)[0].make(
        config, make_model(CLASSES, 40, config.network, filters=config.filters)
    )

    def gradient(params, features, tasks):
        def loss(params, episode):
            return learner.loss(params, gather(features, episode))

        return meta_gradient(loss, params, tasks, chunk)

    return jax.jit(gradient), learner


TRAINED = [
    name for name, row in METHODS.items() if isinstance(row, Network) and name != "supervised"
]


@pytest.mark.slow
@pytest.mark.parametrize("method", TRAINED)
def test_tasks_one_by_one_come_to_the_same_as_all_at_once(method):
    config = without_unread(Config(method=method, filters=2, inner_steps=2))
    features = np.random.default_rng(0).normal(size=(40, 40, 40)).astype(np.float32)
    supported = WAYS if METHODS[method].supports[0] == "emotions" else CLASSES
    tasks = episodes(4, 2, 2, supported)
    found = []
    for chunk in (1, 4):
        gradient, learner = batch_gradient(config, chunk)
        found.append(gradient(learner.init(jax.random.key(0)), features, tasks))
    scale = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(found[0][2]))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-4 * scale), *found)


@pytest.mark.slow
@pytest.mark.parametrize(
    "problem",
    [
        {},
        {"tasks": 4},
        {"shots": 10},
        {"filters": 16},
        {"first_order": True},
        {"method": "protonet"},
    ],
    ids=str,
)
def test_the_estimate_is_within_a_quarter_of_what_is_allocated(problem):
    options = {"tasks": 2, "shots": 5} | problem
    tasks, shots = options.pop("tasks"), options.pop("shots")
    config = without_unread(Config(inner_steps=3, **options))
    gradient, learner = batch_gradient(config, tasks)
    params = init_seeds(learner, [0])
    one = jax.tree.map(lambda leaf: leaf[0], params)
    features = jax.ShapeDtypeStruct((100, 40, 40), jnp.float32)
    compiled = gradient.lower(one, features, episodes(tasks, shots)).compile()
    shape = TaskShape(WAYS, shots, (5,) * CLASSES)
    estimate = tasks * task_bytes(learner, params, features, shape, shape)
    assert 0.75 < estimate / compiled.memory_analysis().temp_size_in_bytes < 1.25
