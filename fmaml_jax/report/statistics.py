"""What a report's figures are made of: means, intervals, tests, calibration, gaps between sexes."""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy import stats

from fmaml_jax.data.sexes import SEXES
from fmaml_jax.report.runs import Row, Run
from fmaml_jax.training.results import interval

NO_PROBABILITIES = ("functionals", "functionals_fixed")
"""Methods whose scores are a support vector machine's distances."""


class Cell(NamedTuple):
    """Figures of one cell in percent; half the widths of the 95% intervals.

    `over_seeds` is None where there is one seed.
    """

    mean: float
    over_episodes: float
    over_seeds: float | None
    seeds: int
    episodes: int


def by_episode(run: Run, mode: str, figure: str) -> Float[np.ndarray, " episodes"]:
    """A run's share for each test episode."""
    return np.asarray(run.results[mode]["by_episode"][figure], np.float64)


def summarise(runs: Sequence[Run], mode: str, figure: str) -> Cell:
    """The figures of one cell from its runs, which differ in the seed.

    The interval over episodes takes those of all seeds as one sample (Student's t); the one over
    seeds takes the seeds' means (Student's t with one degree of freedom less than seeds).
    """
    shares = [by_episode(run, mode, figure) for run in runs]
    pooled = interval(np.concatenate(shares))
    return Cell(
        mean=round(100 * pooled["mean"], 4),
        over_episodes=round(100 * pooled["ci95"], 4),
        over_seeds=_over_seeds([each.mean() for each in shares]),
        seeds=len(runs),
        episodes=len(shares[0]),
    )


def summarise_start(runs: Sequence[Run], mode: str, figure: str) -> Cell:
    """The same of the start, before adaptation, whose figures are known for each seed as a whole.

    The half widths of the seeds' intervals over episodes add in quadrature.
    """
    found = [run.results[mode]["before_adaptation"][figure] for run in runs]
    means = [each["mean"] for each in found]
    return Cell(
        mean=round(100 * float(np.mean(means)), 4),
        over_episodes=round(100 * math.hypot(*(each["ci95"] for each in found)) / len(runs), 4),
        over_seeds=_over_seeds(means),
        seeds=len(runs),
        episodes=runs[0].config["episodes"],
    )


def _over_seeds(means: Sequence[float]) -> float | None:
    return round(100 * interval(np.array(means))["ci95"], 4) if len(means) > 1 else None


class Comparison(NamedTuple):
    """A two-sided test that two methods differ.

    Attributes:
        difference: of the means, ours less theirs, in points of a percent.
        p: 1 where there is no difference.
        paired: whether on the same episodes (paired t-test), or on others (Welch's).
    """

    difference: float
    p: float
    paired: bool


def compare(ours: Sequence[Run], rivals: Sequence[Run], mode: str, figure: str) -> Comparison:
    """Compares two methods on the targets of their runs.

    Episodes are paired where target, seed and query clips are the same; those of all such seeds
    are one sample. Where no seed is shared, all episodes of each are.
    """
    other = {(run.target, run.seed, run.results["query_hash"]): run for run in rivals}
    twins = [
        (run, twin)
        for run in ours
        if (twin := other.get((run.target, run.seed, run.results["query_hash"])))
    ]
    sides = zip(*twins, strict=True) if twins else (ours, rivals)
    own, others = (
        np.concatenate([by_episode(run, mode, figure) for run in side]) for side in sides
    )
    difference = float(own.mean() - others.mean())
    if twins and np.ptp(own - others) == 0:
        p = float(difference == 0)  # the same gain in every episode, where t is infinite
    else:
        test = stats.ttest_rel if twins else partial(stats.ttest_ind, equal_var=False)
        p = float(test(own, others).pvalue)
    return Comparison(round(100 * difference, 4), p, bool(twins))


def holm(p: Sequence[float]) -> Float[np.ndarray, " tests"]:
    """Adjusted p of a family of tests (Holm 1979), in the order given."""
    order = np.argsort(p)
    steps = np.asarray(p)[order] * np.arange(len(p), 0, -1)
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(1, np.maximum.accumulate(steps))
    return adjusted


def best_rows(column: Mapping[Row, Sequence[Run]], mode: str, figure: str) -> set[Row]:
    """The row of each leak guard that beats every other one of it; none where a test says no.

    Rivals without a seed and queries of its own are not beaten.
    """
    found = set()
    for guard in {row.leak_guard for row in column}:
        rows = [row for row in column if row.leak_guard == guard]
        leader = max(rows, key=lambda row: np.mean(_means(column[row], mode, figure)))
        tests = [
            compare(column[leader], column[row], mode, figure) for row in rows if row != leader
        ]
        better = all(test.paired and test.difference > 0 for test in tests)
        if tests and better and (holm([test.p for test in tests]) < 0.05).all():
            found.add(leader)
    return found


def _means(runs: Sequence[Run], mode: str, figure: str) -> list[float]:
    return [by_episode(run, mode, figure).mean() for run in runs]


def over_targets(cells: Sequence[Cell]) -> Cell:
    """The mean of a method's cells, one for each target; their intervals add in quadrature."""

    def half(widths: Sequence[float]) -> float:
        return round(math.hypot(*widths) / len(cells), 4)

    seeds = [cell.over_seeds for cell in cells if cell.over_seeds is not None]
    return Cell(
        mean=round(float(np.mean([cell.mean for cell in cells])), 4),
        over_episodes=half([cell.over_episodes for cell in cells]),
        over_seeds=half(seeds) if len(seeds) == len(cells) else None,
        seeds=min(cell.seeds for cell in cells),
        episodes=min(cell.episodes for cell in cells),
    )


def answers_by_confidence(
    runs: Sequence[Run], mode: str, parts: int
) -> tuple[Int[np.ndarray, "2 parts"], Float[np.ndarray, " parts"]] | None:
    """Right answers and all of them, by equal parts of their probability, and its mean in each.

    None where a run has not recorded them, or its method's scores are no probabilities.
    """
    found = [run.results[mode].get("by_confidence") for run in runs]
    if not all(found) or runs[0].row.method in NO_PROBABILITIES:
        return None
    fine = np.sum([[of_run["right"], of_run["of"]] for of_run in found], axis=0)
    centres = (np.arange(fine.shape[1]) + 0.5) / fine.shape[1]
    of = fine[1].reshape(parts, -1)
    sums = (fine[1] * centres).reshape(parts, -1).sum(axis=1)
    coarse = fine.reshape(2, parts, -1).sum(axis=2)
    return coarse, np.divide(sums, of.sum(axis=1), out=np.full(parts, np.nan), where=coarse[1] > 0)


def calibration_error(
    answers: Int[np.ndarray, "2 parts"], confidence: Float[np.ndarray, " parts"]
) -> float:
    """Expected calibration error (Naeini et al. 2015), from `answers_by_confidence`."""
    right, of = answers[:, answers[1] > 0]
    gaps = np.abs(right / of - confidence[answers[1] > 0])
    return float(of @ gaps / of.sum())


def gap_between_sexes(runs: Sequence[Run], mode: str) -> Float[np.ndarray, " classes"] | None:
    """Recall of women less that of men by class; NaN where one has no clips; None if not known."""
    found = [run.results[mode].get("by_sex", {}) for run in runs]
    if not all(set(SEXES) <= of_run.keys() for of_run in found):
        return None
    recalls = []
    for sex in SEXES:
        right, of = (np.sum([run[sex][part] for run in found], axis=0) for part in ("right", "of"))
        recalls.append(np.divide(right, of, out=np.full(len(of), np.nan), where=of > 0))
    return recalls[0] - recalls[1]
