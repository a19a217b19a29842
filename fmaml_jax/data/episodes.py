"""Task sampling (Algorithm 1, lines 3, 5 and 8): on the host, without JAX, clips as indices.

An episode is a pure function of (seed, split, step, task) and of the pools: any method that asks
for the same ones gets the same ones, on any machine, in any order, before or after a resume.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int32

from fmaml_jax.common.errors import UserError
from fmaml_jax.data.guard import (
    Division,
    count_groups,
    divide,
    largest,
    make_division,
    query_groups,
)
from fmaml_jax.data.split import Groups, Pool, lenders

SPLITS = ("train", "val", "test")


class Episodes(NamedTuple):
    """Tasks as positions in the array of clips; NumPy's arrays on the host, JAX's on the devices.

    `axes` is `tasks`, or `tasks seeds`, and none for one task.
    """

    support: Int32[Any, "*axes shots"]
    support_labels: Int32[Any, "*axes shots"]
    query: Int32[Any, "*axes queries"]
    query_labels: Int32[Any, "*axes queries"]


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

    def with_shots(self, shots: int) -> "TaskShape":
        """The shape with another K, also of the fixed classes where they have a support."""
        return self._replace(shots=shots, fixed_shots=shots if self.fixed_shots else 0)


def validation_tasks(
    pools: Mapping[str, Pool], shape: TaskShape, groups: Groups | None = None
) -> tuple[dict[str, Pool], TaskShape]:
    """The languages whose held-out speakers can serve as tasks, and the largest task they allow.

    Held-out speakers have few clips: where they do not reach K + query, queries get at most half
    of the scarcest class with support and the support what is left of it, up to K. Under a leak
    guard that holds of divisions of the held-out groups.

    Args:
        pools: held-out clips of each class, by language.
        shape: the shape of a training task.
        groups: see `sample`.

    Returns:
        No language at all where none has two clips of every class with support and one of every
        other class, under a leak guard in different groups.
    """
    supported = len(shape.query) if shape.fixed_shots else shape.ways

    def smaller(query: int, shots: int, most: Sequence[int]) -> TaskShape:
        rest = [min(query, count) for count in most[supported:]]
        return shape.with_shots(shots)._replace(query=(query,) * supported + (*rest,))

    least_task = smaller(1, 1, shape.query)
    serving = {name: pool for name, pool in pools.items() if fits(pool, least_task, groups)}
    scarcest = [min(map(len, clips)) for clips in zip(*serving.values(), strict=True)]

    def serves(query: int, shots: int) -> bool:
        task = smaller(query, shots, scarcest)
        return all(fits(pool, task, groups) for pool in serving.values())

    if not serving:
        return {}, shape
    query = largest(shape.query[0], lambda clips: serves(clips, clips))
    shots = largest(shape.shots, lambda clips: serves(query, clips))
    return serving, smaller(query, shots, scarcest)


def fits(pool: Pool, shape: TaskShape, groups: Groups | None = None) -> bool:
    """Whether tasks of this shape can be drawn, any number of them; for `groups` see `sample`."""
    if groups is None:
        return all(len(clips) >= count for clips, count in zip(pool, shape.clips, strict=True))
    return divide(count_groups(pool, groups)[1], shape.query, shape.support) is not None


def require_division(
    pools: Mapping[str, Pool],
    classes: Sequence[str],
    shape: TaskShape,
    groups: Groups,
    leak_guard: str,
) -> None:
    """Checks that tasks can be drawn under a leak guard.

    Raises:
        UserError: names the class that limits them, its language and the largest K that works.
    """
    for language, pool in pools.items():
        if fits(pool, shape, groups):
            continue
        best, label, clips, parts = _limits(pool, shape, groups)
        remedy = f"lower --shots to {best} or less, or" if best else "no --shots works;"
        raise UserError(
            f"class {classes[label]} of language {language} has {clips} clips in {parts} "
            f"{leak_guard} groups; without a common {leak_guard} no more than {best} support clips "
            f"a class go with {shape.query[label]} query clips where a task needs {shape.shots}; "
            f"{remedy} lower the --test_query flags or use --leak_guard=none"
        )


def _limits(pool: Pool, shape: TaskShape, groups: Groups) -> tuple[int, int, int, int]:
    """The largest K; the first class that more cannot be had of beside the larger classes, its
    clips and its groups.

    For a shape that does not fit the pool.
    """
    best = largest(shape.shots, lambda shots: fits(pool, shape.with_shots(shots), groups))
    more = shape.with_shots(best + 1)
    _, counts = count_groups(pool, groups)
    order = np.argsort(-counts.sum(axis=0), kind="stable")
    query, support = np.array(more.query), np.array(more.support)

    def had(classes: int) -> bool:
        some = order[:classes]
        return divide(counts[:, some], query[some], support[some]) is not None

    label = int(order[largest(len(order), had)])
    return best, label, int(counts[:, label].sum()), int(np.count_nonzero(counts[:, label]))


def sample(
    pools: Mapping[str, Pool],
    shape: TaskShape,
    *,
    seed: int,
    split: str,
    step: int,
    tasks: Iterable[int],
    groups: Groups | None = None,
) -> Episodes:
    """Samples tasks, each from one language, without repeating a clip within a task.

    In training tasks the shape's `shuffled` classes are put in a random order, so that their
    output positions carry no meaning; the others keep theirs. Validation and test keep the
    classes' own order, which names the outputs.

    An emotion that a training pool has no clip of lends its places to the others, in turn: the task
    has as many clips, and none of that class.

    Queries and supports of two shapes have as many clips in common as can be: a task's query is
    the same for every K, the support of fewer shots is part of that of more, and neither depends
    on whether fixed classes have a support. Methods are so compared on the same clips.

    Under a leak guard each task divides the groups of its language at random, and draws the query
    from one side and the support from the other. What was said of queries and supports then holds
    up to the K of `make_division`: 20, or the largest that works; above it each K has its own.

    Args:
        pools: clips of each class, by language.
        shape: clips to draw.
        seed: the run's seed.
        split: one of `SPLITS`; splits share no random numbers.
        step: meta-step; 0 for validation and test.
        tasks: numbers of the tasks, each of which is the same whatever others are asked for.
        groups: group of every clip, on one side of a task as a whole, or None without a leak guard;
            the shape must fit (`require_division`, `validation_tasks`).
    """
    divisions = {}
    if groups is not None:
        divisions = {
            language: make_division(pool, groups, shape.query, shape.support, shape.ways)
            for language, pool in pools.items()
        }
    drawn = [
        _sample_task(
            np.random.default_rng((seed, SPLITS.index(split), step, task)),
            pools,
            shape,
            shuffled=shape.shuffled if split == "train" else 0,
            groups=groups,
            divisions=divisions,
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
    rng: np.random.Generator,
    pools: Mapping[str, Pool],
    shape: TaskShape,
    shuffled: int,
    groups: Groups | None,
    divisions: Mapping[str, Division],
) -> tuple[np.ndarray, ...]:
    language = rng.choice(sorted(pools))
    # The whole pool is shuffled, whatever is needed of it: what is drawn follows from the pool.
    clips = [rng.permutation(pool) for pool in pools[language]]
    positions = np.concatenate([rng.permutation(shuffled), np.arange(shuffled, len(shape.query))])
    for_support, for_query = clips, clips
    if groups is not None:
        asked = query_groups(divisions[language], rng)
        of_query = [np.isin(groups[drawn], asked) for drawn in clips]
        for_query = [drawn[side] for drawn, side in zip(clips, of_query, strict=True)]
        for_support = [drawn[~side] for drawn, side in zip(clips, of_query, strict=True)]
    lending = lenders(tuple(for_support), shape.ways)
    support = _drawn(for_support, lending, shape.support)
    query = _drawn([drawn[::-1] for drawn in for_query], lending, shape.query)
    return (
        np.concatenate(support),
        np.repeat(positions[lending], shape.support),
        np.concatenate([drawn[::-1] for drawn in query]),
        np.repeat(positions[lending], shape.query),
    )


def _drawn(
    clips: Sequence[np.ndarray], lending: Sequence[int], counts: Sequence[int]
) -> list[np.ndarray]:
    """So many clips for each class from the front of its lender's, none twice."""
    begins = [0] * len(clips)
    drawn = []
    for lender, count in zip(lending, counts, strict=True):
        drawn.append(clips[lender][begins[lender] : begins[lender] + count])
        begins[lender] += count
    return drawn
