"""The leak guard: clips of one group (a speaker, a film scene) are kept on one side of a task.

Each task divides the groups of its pool at random into a query and a support side. Which divisions
serve is an integer programme, solved exactly: where a division exists, it is found.
"""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.optimize import Bounds, LinearConstraint, milp

SHARED_SHOTS = 20
"""The paper's largest K: query sides leave as many support clips where they can, whatever K is."""

Counts = Int[np.ndarray, "groups classes"]
ClassCounts = Sequence[int] | Int[np.ndarray, " classes"]


def count_groups(
    pool: Sequence[Int[np.ndarray, " _"]], groups: Int[np.ndarray, " n"]
) -> tuple[Int[np.ndarray, " groups"], Counts]:
    """The groups of a pool, ascending, and how many clips of each class each of them has.

    Args:
        pool: clips of each class.
        groups: the group of every clip, also of those in no pool.
    """
    present = np.unique(groups[np.concatenate(pool)])
    places = [np.searchsorted(present, groups[clips]) for clips in pool]
    return present, np.stack([np.bincount(p, minlength=len(present)) for p in places], axis=1)


def divide(
    counts: Counts,
    query: ClassCounts,
    support: ClassCounts,
    preference: Float[np.ndarray, " groups"] | None = None,
) -> Bool[np.ndarray, " groups"] | None:
    """The groups of the query side, or None where no division serves.

    Args:
        counts: from `count_groups`.
        query: clips of each class that the query side has at least.
        support: clips of each class that the other side has at least.
        preference: of the divisions that serve, the one with the largest sum of this over its query
            side is taken. Drawn around 0, it makes the division random: each group goes to a side
            of its own, and as little as need be is changed.
    """
    wish = np.zeros(len(counts)) if preference is None else preference
    least, most = np.asarray(query), counts.sum(axis=0) - support
    chosen = wish > 0
    held = chosen @ counts
    if (least <= held).all() and (held <= most).all():
        return chosen
    if (least > most).any():
        return None
    solution = milp(
        -wish,
        integrality=np.ones(len(wish)),
        bounds=Bounds(0, 1),
        constraints=LinearConstraint(counts.T, least, most),
        options={"mip_rel_gap": 0},
    )
    return solution.x > 0.5 if solution.success else None


def largest(limit: int, works: Callable[[int], bool]) -> int:
    """The largest of 1..limit that works, or 0; with each number that works all below it do."""
    return bisect_left(range(1, limit + 1), True, key=lambda number: not works(number))


class Division(NamedTuple):
    """What the tasks of one pool have in common.

    Attributes:
        present: the groups of the pool, ascending.
        counts: their clips of each class.
        query: query clips of each class.
        reserved: clips of each class on the support side, used or not.
    """

    present: Int[np.ndarray, " groups"]
    counts: Counts
    query: tuple[int, ...]
    reserved: tuple[int, ...]


def make_division(
    pool: Sequence[Int[np.ndarray, " _"]],
    groups: Int[np.ndarray, " n"],
    query: tuple[int, ...],
    support: tuple[int, ...],
    ways: int,
) -> Division:
    """The division of a pool's tasks.

    A query must depend neither on K nor on whether fixed classes have a support. So its side leaves
    up to `SHARED_SHOTS` clips (or K, if that is more) of every class, and as many of the emotions
    where a fixed class is what limits them. Only a support above what can be left gets a division
    of its own.

    Args:
        pool: clips of each class.
        groups: the group of every clip.
        query: query clips of each class.
        support: support clips of each class; some division serves them.
        ways: N, the first classes.
    """
    present, counts = count_groups(pool, groups)
    limit, fixed = max(SHARED_SHOTS, *support), len(query) - ways

    def serves(emotions: int, others: int) -> bool:
        return divide(counts, query, (emotions,) * ways + (others,) * fixed) is not None

    every = largest(limit, lambda shots: serves(shots, shots))
    emotions = every + largest(limit - every, lambda more: serves(every + more, every))
    common = (emotions,) * ways + (every,) * fixed
    reserved = common if np.all(np.less_equal(support, common)) else support
    return Division(present, counts, query, reserved)


def query_groups(division: Division, rng: np.random.Generator) -> Int[np.ndarray, " chosen"]:
    """The groups of a random query side; all others are of the support side."""
    preference = rng.standard_normal(len(division.counts))
    chosen = divide(division.counts, division.query, division.reserved, preference)
    return division.present[chosen]
