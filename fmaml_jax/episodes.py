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
    """Tasks as positions in the array of clips."""

    support: Int32[np.ndarray, "tasks shots"]
    support_labels: Int32[np.ndarray, "tasks shots"]
    query: Int32[np.ndarray, "tasks queries"]
    query_labels: Int32[np.ndarray, "tasks queries"]


class TaskShape(NamedTuple):
    """How many clips a task has, and which positions a training task shuffles.

    Attributes:
        ways: N emotions, which come first.
        shots: K support clips of each emotion.
        query: query clips of each of the N + F classes.
        fixed_shots: support clips of each fixed class: 0 is the N + F rule, K a plain
            (N + F)-way problem.
        shuffled: the first so many classes get a random order in a training task: N by the N + F
            rule, all of a plain problem, 0 where positions are to keep their meaning.
    """

    ways: int
    shots: int
    query: tuple[int, ...]
    fixed_shots: int = 0
    shuffled: int = 0

    @property
    def support(self) -> tuple[int, ...]:
        """Support clips of each class."""
        fixed = len(self.query) - self.ways
        return (self.shots,) * self.ways + (self.fixed_shots,) * fixed

    @property
    def clips(self) -> tuple[int, ...]:
        """Clips that a task draws from each class, support and query together."""
        return tuple(np.add(self.support, self.query).tolist())


def validation_tasks(
    pools: Mapping[str, Pool], shape: TaskShape
) -> tuple[dict[str, Pool], TaskShape]:
    """The languages whose held-out speakers can serve as tasks, and the largest task they allow.

    Held-out speakers have few clips: where they do not reach K + query, queries get at most half
    of the scarcest class with support and the support what is left of it, up to K.

    Args:
        pools: held-out clips of each class, by language.
        shape: the shape of a training task.

    Returns:
        No language at all where none has two clips of every class with support and one of every
        other class.
    """
    supported = len(shape.query) if shape.fixed_shots else shape.ways

    def serves(pool: Pool) -> bool:
        return all(
            len(clips) >= (2 if position < supported else 1) for position, clips in enumerate(pool)
        )

    serving = {language: pool for language, pool in pools.items() if serves(pool)}
    scarcest = [min(map(len, clips)) for clips in zip(*serving.values(), strict=True)]
    if not serving:
        return {}, shape
    least = min(scarcest[:supported])
    query = min(shape.query[0], least // 2)
    shots = min(shape.shots, least - query)
    rest = [min(query, count) for count in scarcest[supported:]]
    return serving, shape._replace(
        shots=shots,
        query=(query,) * supported + (*rest,),
        fixed_shots=min(shots, shape.fixed_shots),
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

    In training tasks the shape's `shuffled` classes are put in a random order, so that their
    output positions carry no meaning; the others keep theirs. Validation and test keep the
    classes' own order, which names the outputs.

    Queries and supports of two shapes have as many clips in common as can be: a task's query is
    the same for every K, the support of fewer shots is part of that of more, and neither depends
    on whether fixed classes have a support. Methods are so compared on the same clips.

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
            shuffled=shape.shuffled if split == "train" else 0,
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
    rng: np.random.Generator, pools: Mapping[str, Pool], shape: TaskShape, shuffled: int
) -> tuple[np.ndarray, ...]:
    language = rng.choice(sorted(pools))
    # The whole pool is shuffled, whatever is needed of it: what is drawn follows from the pool.
    clips = [rng.permutation(pool) for pool in pools[language]]
    positions = np.concatenate([rng.permutation(shuffled), np.arange(shuffled, len(shape.query))])
    support = [drawn[:count] for drawn, count in zip(clips, shape.support, strict=True)]
    query = [drawn[len(drawn) - count :] for drawn, count in zip(clips, shape.query, strict=True)]
    return (
        np.concatenate(support),
        np.repeat(positions, shape.support),
        np.concatenate(query),
        np.repeat(positions, shape.query),
    )
