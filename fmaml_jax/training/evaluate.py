"""Evaluation: predictions of seeded episodes."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array
from jaxtyping import Float, Float32, Int, PyTree

from fmaml_jax.data.episodes import Episodes, TaskShape, sample_seeds
from fmaml_jax.data.split import Groups, Pool
from fmaml_jax.learners.functionals import Make, Statistics
from fmaml_jax.learners.interface import Learner
from fmaml_jax.maml import AnyArray, Params, Task
from fmaml_jax.training.devices import (
    Layout,
    host_share,
    largest_divisor,
    replicated,
    split_tasks,
    to_devices,
)
from fmaml_jax.training.metrics import UNKNOWN, Predictions

EPISODES_PER_CORE = 10
EPISODES_PER_ACCELERATOR = 100
"""Episodes in a call; more would make progress and the reply to Ctrl-C coarser."""


def gather(features: Float[Array, "clips time coeffs"], episodes: Episodes) -> Task:
    """The tasks of `episodes`, their clips taken from features that stay on the device.

    Axes before those of a task (`tasks`, `seeds`) are kept.
    """
    return Task(
        features[episodes.support],
        episodes.support_labels,
        features[episodes.query],
        episodes.query_labels,
    )


class Programs(NamedTuple):
    """The compiled halves of a prediction, made apart so that what is alike is compiled once.

    The first, which is long to compile, is the same for every query; the second is a forward pass.

    Attributes:
        adapt: (params, features, episodes) -> the states before adaptation and after each step,
            [episodes, seeds, steps, ...], on the devices that computed them. The episodes' queries
            are not read.
        logits: (step, features, (states, episodes), mode) -> query logits of one step in a
            batch-norm mode, [episodes, seeds, queries, classes], and the labels, [episodes, seeds,
            queries]; whole on every device.
    """

    adapt: Callable[..., PyTree]
    logits: Callable[..., tuple[Array, Array]]


def make_programs(learner: Learner, layout: Layout) -> Programs:
    """The programs of a learner's predictions.

    Parameters have a leading axis `seeds`, episodes one after `tasks`.
    """

    def each(one: Callable[..., PyTree], episodes: PyTree) -> PyTree:
        # A divisor, since a remainder would be compiled as a second program.
        chunk = largest_divisor(len(jax.tree.leaves(episodes)[0]), layout.chunk)
        return jax.lax.map(one, episodes, batch_size=chunk)

    @jax.jit
    def adapt(params: Params, features: Array, episodes: Episodes) -> PyTree:
        def share(params: Params, features: Array, episodes: Episodes) -> PyTree:
            def one(episode: Episodes) -> PyTree:
                return jax.vmap(learner.adapt)(params, gather(features, episode))

            return each(one, episodes)

        return split_tasks(share, layout.mesh, mean=False)(params, features, episodes)

    @partial(jax.jit, static_argnames="mode", out_shardings=replicated(layout.mesh))
    def logits(
        step: Int[AnyArray, ""], features: Array, adapted: tuple[PyTree, Episodes], mode: str
    ) -> tuple[Array, Array]:
        def share(step: Array, features: Array, adapted: tuple[PyTree, Episodes]) -> Array:
            def one(adapted: tuple[PyTree, Episodes]) -> Array:
                states, episode = adapted
                state = jax.tree.map(lambda leaf: leaf[:, step], states)
                of_seeds = jax.vmap(lambda state, task: learner.logits(state, task, mode))
                return of_seeds(state, gather(features, episode))

            return each(one, adapted)

        found = split_tasks(share, layout.mesh, mean=False)(step, features, adapted)
        return found, adapted[1].query_labels

    return Programs(adapt, logits)


def predict(
    programs: Programs,
    layout: Layout,
    params: Params,
    features: Float[Array, "clips time coeffs"],
    episodes: Episodes,
    modes: Sequence[str],
    last: bool = False,
) -> tuple[
    Float32[np.ndarray, "episodes seeds modes steps queries classes"],
    Int[np.ndarray, "episodes seeds queries"],
]:
    """Query logits of a batch of episodes by batch-norm mode and step, and the labels.

    Args:
        programs: from `make_programs`.
        layout: the one that they were made with.
        params: the learner's parameters, with a leading axis `seeds`.
        features: all clips.
        episodes: those that this host samples, [tasks, seeds, ...].
        modes: of "transductive" and "inductive".
        last: whether only the state after the last step is asked for.
    """
    unasked = episodes._replace(
        query=episodes.query[..., :0], query_labels=episodes.query_labels[..., :0]
    )
    unasked, episodes = to_devices(layout.mesh, (unasked, episodes))
    states = programs.adapt(params, features, unasked)
    steps = np.arange(jax.tree.leaves(states)[0].shape[2], dtype=np.int32)
    found = [
        [programs.logits(step, features, (states, episodes), mode=mode) for step in steps[-last:]]
        for mode in modes
    ]
    logits = np.array([[np.asarray(logits) for logits, _ in of_mode] for of_mode in found])
    return np.moveaxis(logits, (0, 1), (2, 3)), np.asarray(found[0][0][1])


def episodes_a_call(layout: Layout, episodes: int) -> int:
    """How many of the episodes all devices predict in a call: always as many, of one program."""
    devices = layout.mesh.size
    on_cpu = layout.mesh.devices[0].platform == "cpu"
    most = EPISODES_PER_CORE if on_cpu else EPISODES_PER_ACCELERATOR
    return devices * min(math.ceil(episodes / devices), most)


def predict_episodes(
    programs: Programs,
    layout: Layout,
    params: Params,
    features: Float[Array, "clips time coeffs"],
    pools: Mapping[str, Pool],
    shape: TaskShape,
    *,
    seeds: Sequence[int],
    split: str,
    episodes: int,
    modes: Sequence[str],
    groups: Groups | None = None,
    last: bool = False,
    report: Callable[[int], Any] = lambda done: None,
) -> dict[str, list[Predictions]]:
    """Predictions of episodes 0, 1, ... of a split by batch-norm mode, and for each seed.

    Each seed has its own episodes and its own parameters.

    Args:
        programs: from `make_programs`.
        layout: the one that they were made with.
        params: the learner's parameters, with a leading axis `seeds`.
        features: all clips.
        pools: clips to draw from, by language and class.
        shape: clips to draw for a task.
        seeds: seeds of the episodes.
        split: "val" or "test".
        episodes: how many.
        modes: of "transductive" and "inductive".
        groups: see `sample`.
        last: whether only the state after the last step is asked for.
        report: is told after each call how many more episodes are done.
    """
    count = episodes_a_call(layout, episodes)
    logits, labels = [], []
    for start in range(0, episodes, count):
        # The last call computes more than is asked for; the rest is cut off.
        tasks = host_share(range(start, start + count))
        batch = sample_seeds(
            pools, shape, seeds=seeds, split=split, step=0, tasks=tasks, groups=groups
        )
        found, true = predict(programs, layout, params, features, batch, modes, last)
        logits.append(found)
        labels.append(true)
        report(min(count, episodes - start))
    all_logits, all_labels = np.concatenate(logits)[:episodes], np.concatenate(labels)[:episodes]
    return {
        mode: [Predictions(all_logits[:, i, m], all_labels[:, i]) for i in range(len(seeds))]
        for m, mode in enumerate(modes)
    }


def make_classify(
    make: Make, statistics: Statistics, sources: Mapping[str, Pool], ways: int
) -> Callable[[Episodes], Float32[np.ndarray, "steps queries classes"]]:
    """Query logits of one episode by a method that is no network; `steps` is 1.

    Args:
        make: the method (`learners.functionals`); it sees the sources once.
        statistics: of all clips.
        sources: training clips of each class, by domain.
        ways: N.
    """
    classify = make(statistics, sources, ways)
    classes = len(next(iter(sources.values())))

    def classified(episode: Episodes) -> Float32[np.ndarray, "steps queries classes"]:
        logits = np.full((1, len(episode.query), classes), UNKNOWN, np.float32)
        known, scores = classify(
            statistics[episode.support], episode.support_labels, statistics[episode.query]
        )
        logits[:, :, known] = scores
        return logits

    return classified


def classify_episodes(
    classified: Callable[[Episodes], Float32[np.ndarray, "steps queries classes"]],
    episodes: Episodes,
    report: Callable[[int], Any] = lambda done: None,
) -> Predictions:
    """Predicts episodes one by one.

    Args:
        classified: from `make_classify`.
        episodes: with their leading axis `tasks`.
        report: is told after each episode that one more is done.
    """
    logits = []
    for arrays in zip(*episodes, strict=True):
        logits.append(classified(Episodes(*arrays)))
        report(1)
    return Predictions(np.stack(logits), episodes.query_labels)
