"""Task sampling (Algorithm 1, lines 3, 5 and 8): NumPy on the host, clips as indices.

An episode is a pure function of (seed, split, step, task) and of the pools: any method that asks
for the same ones gets the same ones, on any machine, in any order, before or after a resume.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int32

from fmaml_jax.data import Pool

SPLITS = ("train", "val", "test")


class Episodes(NamedTuple):
    """Tasks as positions in the array of clips. The support holds emotions only."""

    support: Int32[np.ndarray, "tasks shots"]
    support_labels: Int32[np.ndarray, "tasks shots"]
    query: Int32[np.ndarray, "tasks queries"]
    query_labels: Int32[np.ndarray, "tasks queries"]


class TaskShape(NamedTuple):
    """How many clips a task has: K of each of N emotions, and queries of each of N + F classes."""

    ways: int
    shots: int
    query: tuple[int, ...]

    @property
    def clips(self) -> tuple[int, ...]:
        """Clips that a task draws from each class, support and query together."""
        return tuple(
            query + self.shots * (position < self.ways) for position, query in enumerate(self.query)
        )


def validation_tasks(
    pools: Mapping[str, Pool], shape: TaskShape
) -> tuple[dict[str, Pool], TaskShape]:
    """The languages whose held-out speakers can serve as tasks, and the largest task they allow.

    Held-out speakers have few clips: where they do not reach K + query, queries get at most half
    of the scarcest emotion and the support what is left of it, up to K.

    Args:
        pools: held-out clips of each class, by language.
        shape: the shape of a training task.

    Returns:
        No language at all where none has two clips of every emotion and one of every fixed class.
    """

    def serves(pool: Pool) -> bool:
        return all(
            len(clips) >= (2 if position < shape.ways else 1) for position, clips in enumerate(pool)
        )

    serving = {language: pool for language, pool in pools.items() if serves(pool)}
    scarcest = [min(map(len, clips)) for clips in zip(*serving.values(), strict=True)]
    if not serving:
        return {}, shape
    emotions = min(scarcest[: shape.ways])
    query = min(shape.query[0], emotions // 2)
    fixed_query = [min(query, count) for count in scarcest[shape.ways :]]
    return serving, TaskShape(
        shape.ways, min(shape.shots, emotions - query), (query,) * shape.ways + (*fixed_query,)
    )


def sample(
    pools: Mapping[str, Pool],
    shape: TaskShape,
    *,
    seed: int,
    split: str,
    step: int,
    tasks: Iterable[int],
) -> Episodes:
    """Samples tasks, each from one language, without repeating a clip within a task.

    In training tasks the N emotions are put in a random order, so that their output positions
    carry no meaning; fixed classes always keep the last positions. Validation and test keep the
    classes' own order, which names the outputs.

    Args:
        pools: clips of each class, by language.
        shape: clips to draw.
        seed: the run's seed.
        split: one of `SPLITS`; splits share no random numbers.
        step: meta-step; 0 for validation and test.
        tasks: numbers of the tasks, each of which is the same whatever others are asked for.
    """
    drawn = [
        _sample_task(
            np.random.default_rng((seed, SPLITS.index(split), step, task)),
            pools,
            shape,
            permute=split == "train",
        )
        for task in tasks
    ]
    return Episodes(*(np.stack(arrays).astype(np.int32) for arrays in zip(*drawn, strict=True)))


def sample_seeds(
    pools: Mapping[str, Pool], shape: TaskShape, *, seeds: Sequence[int], **which: Any
) -> Episodes:
    """The tasks of several seeds side by side: `sample` with an axis `seeds` after `tasks`."""
    of_seeds = [sample(pools, shape, seed=seed, **which) for seed in seeds]
    return Episodes(*(np.stack(arrays, axis=1) for arrays in zip(*of_seeds, strict=True)))


def _sample_task(
    rng: np.random.Generator, pools: Mapping[str, Pool], shape: TaskShape, permute: bool
) -> tuple[np.ndarray, ...]:
    language = rng.choice(sorted(pools))
    order = rng.permutation(shape.ways) if permute else np.arange(shape.ways)
    positions = np.concatenate([order, np.arange(shape.ways, len(shape.query))])
    clips = [
        rng.choice(pool, count, replace=False)
        for pool, count in zip(pools[language], shape.clips, strict=True)
    ]
    support = [drawn[: shape.shots] for drawn in clips[: shape.ways]]
    query = [drawn[-count:] for drawn, count in zip(clips, shape.query, strict=True)]
    return (
        np.concatenate(support),
        np.repeat(positions[: shape.ways], shape.shots),
        np.concatenate(query),
        np.repeat(positions, shape.query),
    )
