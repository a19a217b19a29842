"""What clips that are left out of the adaptation in turn say: accuracy, and temperature."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax
from scipy.stats import binomtest, t

MOST_FOLDS = 100
"""Leaving out each of more clips than this in turn would take minutes; then groups are left out."""
TEMPERATURE_PRIOR = 0.5
"""Deviation of the log temperature from 0 before any clip is seen."""


class Estimate(NamedTuple):
    """How well the recogniser does on clips that it was not adapted to.

    Attributes:
        left_out: "clip" or "speaker": what was left out of the adaptation in turn.
        confusion: clips by true class (the recogniser's first ones, which have clips) and answer.
        interval: 95% interval of the accuracy; see `accuracy_interval`.
    """

    left_out: str
    confusion: Int[np.ndarray, "enrolled classes"]
    interval: tuple[float, float]

    @property
    def clips(self) -> int:
        """Number of clips that were left out in turn."""
        return int(self.confusion.sum())

    @property
    def accuracy(self) -> float:
        """Share of them that were given their own class among all answers."""
        return float(np.trace(self.confusion) / max(1, self.clips))

    @property
    def chance(self) -> float:
        """Accuracy of always giving the same label, with equally many clips of each."""
        return 1 / len(self.confusion)


class Folds(NamedTuple):
    """Which clips are left out of the adaptation together.

    Attributes:
        left_out: "clip" or "speaker": what the clips of a fold have in common.
        of_clip: the fold that each clip is left out in; -1 for the only clip of a class, without
            which its class could not be answered.
        warnings: sentences.
    """

    left_out: str
    of_clip: Int[np.ndarray, " clips"]
    warnings: tuple[str, ...] = ()

    @property
    def number(self) -> int:
        """Number of folds."""
        return int(self.of_clip.max()) + 1


def make_folds(
    labels: Int[np.ndarray, " clips"], speakers: Sequence[str], names: Sequence[str]
) -> Folds:
    """Leaves out each speaker in turn where they are known and share the classes, else each clip.

    Args:
        labels: of the clips, each as a number of `names`.
        speakers: of the clips, "" where unknown.
        names: of the classes.
    """
    if not any(speakers):
        return _folds_of_clips(labels)
    own = [speaker or f"\0{clip}" for clip, speaker in enumerate(speakers)]
    of_clip = np.unique(own, return_inverse=True)[1] % MOST_FOLDS
    if not of_clip.any():
        return _folds_of_clips(labels)
    # A class all of whose clips are left out at once could not be answered.
    folds_with = [len(np.unique(of_clip[labels == label])) for label in range(len(names))]
    if min(folds_with) > 1:
        return Folds("speaker", of_clip)
    alone = sorted(name for name, folds in zip(names, folds_with, strict=True) if folds == 1)
    warning = (
        f"one speaker alone has clips of {', '.join(alone)}: clips are left out one by one "
        "instead of speakers, and other voices will be recognised worse than estimated here"
    )
    return _folds_of_clips(labels)._replace(warnings=(warning,))


def _folds_of_clips(labels: Int[np.ndarray, " clips"]) -> Folds:
    """Each clip a fold or, of too many, groups that spread each class over the folds."""
    usable = np.flatnonzero(np.bincount(labels)[labels] > 1)
    by_class = usable[np.argsort(labels[usable], kind="stable")]
    of_clip = np.full(len(labels), -1)
    of_clip[by_class] = np.arange(len(by_class)) % MOST_FOLDS
    return Folds("clip", of_clip)


def estimate_accuracy(
    logits: Float[np.ndarray, "clips classes"], labels: Int[np.ndarray, " clips"], folds: Folds
) -> Estimate:
    """What is found where each clip is answered by an adaptation without its fold.

    Args:
        logits: of such adaptations.
        labels: of the clips; the enrolled classes are the first.
        folds: clips that are in none do not count.
    """
    tested = folds.of_clip >= 0
    answers = logits.argmax(axis=1)
    confusion = np.zeros((labels.max() + 1, logits.shape[1]), int)
    np.add.at(confusion, (labels[tested], answers[tested]), 1)
    speakers = folds.of_clip[tested] if folds.left_out == "speaker" else None
    interval = accuracy_interval((answers == labels)[tested], speakers)
    return Estimate(folds.left_out, confusion, interval)


def accuracy_interval(
    right: Bool[np.ndarray, " clips"], speakers: Int[np.ndarray, " clips"] | None
) -> tuple[float, float]:
    """95% interval of the share of right answers: Wilson's, which takes clips for independent.

    Clips of a speaker are not. Where speakers were left out it is widened to the interval that
    their own shares give (Student's t, a speaker counting by its clips).
    """
    if not len(right):
        return 0.0, 1.0
    low, high = binomtest(int(right.sum()), len(right)).proportion_ci(method="wilson")
    if speakers is not None:
        surplus = np.bincount(speakers, right - right.mean())
        count = len(surplus)
        error = np.sqrt((surplus**2).sum() * count / (count - 1)) / len(right)
        half = error * t.ppf(0.975, count - 1)
        low, high = min(low, right.mean() - half), max(high, right.mean() + half)
    return max(0.0, float(low)), min(1.0, float(high))


def fit_temperature(
    logits: Float[np.ndarray, "clips classes"], labels: Int[np.ndarray, " clips"], folds: Folds
) -> float:
    """What makes the clips left out most probable (Guo et al. 2017), near 1 where they are few.

    Only where speakers were left out may it sharpen the probabilities, by a value below 1: with
    the same voices on both sides answers are surer than they will be of other voices.
    """
    tested = folds.of_clip >= 0
    logits, labels = logits[tested], labels[tested]
    least = -2.0 if folds.left_out == "speaker" else 0.0

    def penalty(log_temperature: float) -> float:
        of_class = log_softmax(logits / np.exp(log_temperature), axis=1)
        loss = -np.take_along_axis(of_class, labels[:, None], axis=1).sum()
        return loss + (log_temperature / TEMPERATURE_PRIOR) ** 2 / 2

    found: Any = minimize_scalar(penalty, bounds=(least, 2.0), method="bounded")
    return float(np.exp(found.x))


def doubts(estimate: Estimate) -> tuple[str, ...]:
    """What to say of an estimate that promises little."""
    if not estimate.clips:
        return ("every class has one clip alone, so that nothing can be estimated",)
    if estimate.interval[0] <= estimate.chance:
        return ("the estimate is not clearly above chance: label more clips, or check the labels",)
    return ()
