"""Evaluation: predictions of seeded episodes."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Float32

from fmaml_jax.data.episodes import Episodes, TaskShape, sample_seeds
from fmaml_jax.data.split import Groups, Pool
from fmaml_jax.learners.functionals import Make, Statistics
from fmaml_jax.learners.interface import Learner
from fmaml_jax.maml import Params, Task
from fmaml_jax.training.devices import (
    Layout,
    host_share,
    largest_divisor,
    replicated,
    split_tasks,
    to_devices,
)
from fmaml_jax.training.metrics import UNKNOWN, Predictions

EPISODES_PER_DEVICE = 10
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


def predict(
    learner: Learner, params: Params, task: Task, modes: Sequence[str]
) -> Float[Array, "modes steps queries classes"]:
    """Query logits before adaptation and after each step of it, in some batch-norm modes."""
    states = learner.adapt(params, task)

    def of_mode(mode: str) -> Float[Array, "steps queries classes"]:
        return jax.lax.map(lambda state: learner.logits(state, task, mode), states)

    return jnp.stack([of_mode(mode) for mode in modes])


def make_predict(learner: Learner, layout: Layout) -> Callable[..., tuple[Array, Array]]:
    """A jitted (params, features, episodes, modes) -> (logits, labels), whole on every device.

    Parameters have a leading axis `seeds`, episodes one after `tasks`. The logits are [episodes,
    seeds, modes, steps, queries, classes], the labels [episodes, seeds, queries].
    """

    @partial(jax.jit, static_argnames="modes", out_shardings=replicated(layout.mesh))
    def predict_batch(
        params: Params, features: Array, episodes: Episodes, modes: tuple[str, ...]
    ) -> tuple[Array, Array]:
        over_seeds = jax.vmap(partial(predict, learner, modes=modes))

        def share_logits(params: Params, features: Array, episodes: Episodes) -> Array:
            def one(episode: Episodes) -> Array:
                return over_seeds(params, gather(features, episode))

            # A divisor, since a remainder would be compiled as a second program.
            chunk = largest_divisor(len(episodes.query), layout.chunk)
            return jax.lax.map(one, episodes, batch_size=chunk)

        logits = split_tasks(share_logits, layout.mesh, mean=False)(params, features, episodes)
        return logits, episodes.query_labels

    return predict_batch


def predict_episodes(
    predict_batch: Callable[..., tuple[Array, Array]],
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
    report: Callable[[int], Any] = lambda done: None,
) -> dict[str, list[Predictions]]:
    """Predictions of episodes 0, 1, ... of a split by batch-norm mode, and for each seed.

    Each seed has its own episodes and its own parameters.

    Args:
        predict_batch: from `make_predict`.
        layout: the one that `predict_batch` was made with.
        params: the learner's parameters, with a leading axis `seeds`.
        features: all clips.
        pools: clips to draw from, by language and class.
        shape: clips to draw for a task.
        seeds: seeds of the episodes.
        split: "val" or "test".
        episodes: how many.
        modes: of "transductive" and "inductive".
        groups: see `sample`.
        report: is told after each call how many more episodes are done.
    """
    devices = layout.mesh.size
    count = devices * min(math.ceil(episodes / devices), EPISODES_PER_DEVICE)
    logits, labels = [], []
    for start in range(0, episodes, count):
        # Always the same number, so that one compiled program serves; the rest is cut off.
        tasks = host_share(range(start, start + count))
        batch = sample_seeds(
            pools, shape, seeds=seeds, split=split, step=0, tasks=tasks, groups=groups
        )
        batch = to_devices(layout.mesh, batch)
        for array, whole in zip(
            predict_batch(params, features, batch, modes=tuple(modes)),
            (logits, labels),
            strict=True,
        ):
            whole.append(np.asarray(array))
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
