"""Tasks split over eight devices: the same gradient, predictions and parameters as on one."""

import logging
import os
import re
import subprocess
import sys
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fmaml_jax.common.errors import UserError
from fmaml_jax.config import Config
from fmaml_jax.convolution import reference_conv
from fmaml_jax.data.episodes import Episodes, TaskShape
from fmaml_jax.learners import find_method
from fmaml_jax.maml import cross_entropy
from fmaml_jax.model import make_model
from fmaml_jax.training import experiment
from fmaml_jax.training.devices import (
    host_share,
    largest_divisor,
    make_layout,
    to_devices,
    within_memory,
)
from fmaml_jax.training.evaluate import gather, make_programs, predict_episodes
from fmaml_jax.training.train import State, make_update
from tests.corpus import EMOTIONS, save_corpora
from tests.test_prepare import ROOT

pytestmark = pytest.mark.slow

WAYS, FIXED, SHOTS, QUERY, CLIPS, TASKS = 3, 2, 2, 2, 60, 8
RATE, STEPS = 0.1, 2
NETWORK = {"classes": WAYS + FIXED, "coefficients": 12, "filters": 3}


def draw_episodes(tasks=TASKS):
    rng = np.random.default_rng(1)
    classes = WAYS + FIXED
    clips = np.stack(
        [rng.permutation(CLIPS)[: WAYS * SHOTS + classes * QUERY] for _ in range(tasks)]
    )
    support, query = np.split(clips.astype(np.int32), [WAYS * SHOTS], axis=1)
    return Episodes(
        support,
        np.tile(np.repeat(np.arange(WAYS, dtype=np.int32), SHOTS), (tasks, 1)),
        query,
        np.tile(np.repeat(np.arange(classes, dtype=np.int32), QUERY), (tasks, 1)),
    )


def one_seed(tree, axis=0):
    """Parameters or episodes of one seed as a run of several has them."""
    return jax.tree.map(lambda leaf: np.expand_dims(leaf, axis), tree)


def draw_features():
    return np.random.default_rng(2).normal(size=(CLIPS, 40, NETWORK["coefficients"]))


def learner(first_order=False):
    config = Config(
        emotions=("a", "b", "c"),
        inner_lr=RATE,
        inner_steps=STEPS,
        test_inner_steps=STEPS,
        first_order=first_order,
    )
    return find_method(config)[0].make(config, make_model(**NETWORK))


def reference_gradient(params, features, episodes, first_order):
    """The mean over the tasks, one by one, of plain reverse mode and the library convolution."""
    model = make_model(**NETWORK, convolution=reference_conv)

    def loss(params, clips, labels):
        return cross_entropy(model.apply(params, clips), labels)

    def task_loss(params, episode):
        task = gather(features, episode)
        for _ in range(STEPS):
            gradient = jax.grad(loss)(params, task.support, task.support_labels)
            if first_order:
                gradient = jax.lax.stop_gradient(gradient)
            params = jax.tree.map(lambda p, g: p - RATE * g, params, gradient)
        return loss(params, task.query, task.query_labels)

    gradient = jax.jit(jax.value_and_grad(task_loss))
    each = [gradient(params, jax.tree.map(lambda a, i=i: a[i], episodes)) for i in range(TASKS)]
    return jax.tree.map(lambda *leaves: np.mean(leaves, axis=0), *each)


@pytest.mark.parametrize(
    ("first_order", "precision", "tolerance"),
    [
        (True, np.float64, 1e-10),
        (False, np.float64, 1e-10),
        (False, np.float32, 1e-5),
    ],
)
def test_gradient_equals_the_reference_on_one_device_and_eight(first_order, precision, tolerance):
    with jax.enable_x64(precision == np.float64):
        features = jnp.asarray(draw_features(), precision)
        episodes = draw_episodes()
        ours = learner(first_order)
        params = jax.tree.map(lambda leaf: leaf.astype(precision), ours.init(jax.random.key(0)))
        expected_loss, expected = reference_gradient(params, features, episodes, first_order)
        for count in (1, 8):
            layout = make_layout(TASKS, devices=jax.devices()[:count])
            # Descent of rate 1 shows the gradient it was made with.
            state = State(jax.tree.map(jnp.asarray, one_seed(params)), optax.sgd(1.0).init(params))
            update = make_update(ours, optax.sgd(1.0), layout)
            state, metrics = update(state, features, one_seed(episodes, axis=1))
            gradient = jax.tree.map(lambda old, new: old - new[0], params, state.params)
            assert all(leaf.dtype == precision for leaf in jax.tree.leaves(gradient))
            np.testing.assert_allclose(metrics.loss, [expected_loss], rtol=tolerance)
            difference = optax.tree.norm(jax.tree.map(np.subtract, gradient, expected))
            assert difference < tolerance * optax.tree.norm(expected)


def test_any_number_of_devices_comes_to_the_same_parameters():
    features = jnp.asarray(draw_features(), jnp.float32)
    ours, optimizer = learner(first_order=True), optax.adam(1e-3)
    params = one_seed(ours.init(jax.random.key(0)))
    after = {}
    for count in (1, 2, 8):
        layout = make_layout(TASKS, devices=jax.devices()[:count])
        assert layout.mesh.size == count
        update = make_update(ours, optimizer, layout)
        state = State(jax.tree.map(jnp.asarray, params), optimizer.init(params))
        for _ in range(3):
            state, _ = update(
                state, features, to_devices(layout.mesh, one_seed(draw_episodes(), 1))
            )
        after[count] = state.params
    for count in (2, 8):
        jax.tree.map(
            lambda one, many: np.testing.assert_allclose(one, many, rtol=1e-4, atol=1e-6),
            after[1],
            after[count],
        )


def test_the_update_exchanges_nothing_but_sums():
    layout = make_layout(TASKS)
    assert layout.mesh.size == 8
    ours = learner(first_order=True)
    params = one_seed(ours.init(jax.random.key(0)))
    program = (
        make_update(ours, optax.adam(1e-3), layout)
        .lower(
            State(params, optax.adam(1e-3).init(params)),
            jnp.zeros((CLIPS, 40, NETWORK["coefficients"])),
            to_devices(layout.mesh, one_seed(draw_episodes(), 1)),
        )
        .compile()
        .as_text()
    )
    exchanges = set(
        re.findall(r"all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter", program)
    )
    assert exchanges == {"all-reduce"}
    # Once a meta-step, of every parameter, the loss and the accuracy: none in a loop's body.
    reduced = [line for line in program.splitlines() if re.search(r" all-reduce(-start)?\(", line)]
    assert not any("while" in line for line in reduced)
    assert len(reduced) <= len(jax.tree.leaves(params)) + 2


def test_predictions_do_not_depend_on_the_devices():
    features = jnp.asarray(draw_features(), jnp.float32)
    pools = {"aa": (*np.arange(CLIPS).reshape(WAYS + FIXED, -1),)}
    ours = learner()
    params = one_seed(ours.init(jax.random.key(0)))
    predictions = []
    for count in (1, 8):
        layout = make_layout(8, devices=jax.devices()[:count])
        predictions += predict_episodes(
            make_programs(ours, layout),
            layout,
            params,
            features,
            pools,
            TaskShape(WAYS, SHOTS, (QUERY,) * (WAYS + FIXED)),
            seeds=[0],
            split="test",
            episodes=13,
            modes=("inductive",),
        )["inductive"]
    assert len(predictions[0].logits) == 13
    np.testing.assert_array_equal(predictions[0].labels, predictions[1].labels)
    np.testing.assert_allclose(predictions[0].logits, predictions[1].logits, rtol=1e-3, atol=1e-4)


def test_a_run_compiles_each_program_once(tmp_path, caplog):
    config = Config(
        data=save_corpora(tmp_path),
        target="cc",
        emotions=EMOTIONS,
        run_dir=str(tmp_path / "run"),
        shots=2,
        query_per_class=2,
        test_query_per_class=2,
        test_query_per_fixed_class=2,
        filters=2,
        inner_steps=1,
        test_inner_steps=2,
        task_batch=2,
        meta_steps=2,
        eval_every=1,
        val_episodes=2,
        episodes=2,
    )
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        experiment.run(config)
    compiled = Counter(re.findall(r"Finished XLA compilation of jit\((\w+)\)", caplog.text))
    # Validation and both modes of the test share what they can, and the picture is of the test's.
    assert {name: compiled[name] for name in ("init", "update", "adapt", "logits")} == {
        "init": 1,
        "update": 1,
        "adapt": 1,
        "logits": 2,
    }
    assert compiled.total() <= 25, compiled


def test_a_program_that_is_half_written_is_compiled_and_nothing_is_said(tmp_path):
    code = (
        "import jax\n"
        "from fmaml_jax.training.devices import set_up_device\n"
        "set_up_device()\n"
        "print(jax.jit(lambda x: 2 * x)(1.5))\n"
    )

    def compute():
        environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path)}
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
        )
        return done.stdout, done.stderr

    assert compute() == ("3.0\n", "")
    programs = [path for path in tmp_path.rglob("*-cache") if path.is_file()]
    assert programs
    for path in programs:
        os.truncate(path, path.stat().st_size // 2)
    assert compute() == ("3.0\n", "")


@pytest.mark.parametrize(
    ("chunk", "remedy"), [(0, "choose smaller tasks"), (6, "give --task_chunk=2 or less")]
)
def test_a_device_out_of_memory_is_one_sentence(chunk, remedy):
    layout = make_layout(16, chunk, jax.devices()[:4])
    with pytest.raises(UserError, match=remedy), within_memory(layout, 16):
        jnp.ones(2**48, jnp.int8).block_until_ready()  # more than a process has addresses for
    with pytest.raises(jax.errors.JaxRuntimeError, match="other"), within_memory(layout, 16):
        raise jax.errors.JaxRuntimeError("INTERNAL: other")


def test_layout_gives_equal_shares():
    assert [largest_divisor(16, limit) for limit in (1, 3, 7, 8, 100)] == [1, 2, 4, 8, 16]
    assert make_layout(6).mesh.size == 6
    assert make_layout(7, devices=jax.devices()[:4]).mesh.size == 1
    assert make_layout(16).chunk == 1
    assert make_layout(16, chunk=4).chunk == 4


def test_hosts_sample_disjoint_shares_of_all_tasks(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 4)
    shares = []
    for index in range(4):
        monkeypatch.setattr(jax, "process_index", lambda index=index: index)
        shares += host_share(range(20, 36))
    assert shares == list(range(20, 36))
    with pytest.raises(UserError, match="--task_batch=18 cannot be split evenly over 4"):
        make_layout(18)
