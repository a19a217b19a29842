"""What clips that are left out of the adaptation in turn say: recall, and temperature."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.special import log_softmax, ndtri, stdtrit

from fmaml_jax.recognition.support import LabelledClip

PAUSE = 1.0
"""Seconds between parts of one file; over a shorter pause speech goes on."""
MOST_FOLDS = 100
"""Leaving out each of more clips than this in turn would take minutes; then groups are left out."""
REUSE = 1.3
"""Variance of the UAR, as a multiple of that of so many independent clips: the clips that test a
recogniser also make it, and other clips would make another (Bates, Hastie and Tibshirani 2023). On
Polish (nEMO) it is 1.1 to 1.5, by start and number of clips."""
TEMPERATURE_PRIOR = 0.5
"""Deviation of the log temperature from 0 before any clip is seen."""


class Estimate(NamedTuple):
    """How well the recogniser does on clips that it was not adapted to.

    Attributes:
        left_out: "clip", "stretch of speech" or "speaker": what was left out of the adaptation in
            turn.
        confusion: clips by true class (the recogniser's first ones, which have clips) and answer;
            a class whose clips could not be left out has none.
        interval: 95% interval of the UAR; see `recall_interval`.
    """

    left_out: str
    confusion: Int[np.ndarray, "enrolled classes"]
    interval: tuple[float, float]

    @property
    def clips(self) -> int:
        """Number of clips that were left out in turn."""
        return int(self.confusion.sum())

    @property
    def estimated(self) -> Bool[np.ndarray, " enrolled"]:
        """Which of the classes with clips have clips that were left out."""
        return self.confusion.sum(axis=1) > 0

    @property
    def uar(self) -> float:
        """Unweighted average recall: the share of a class's clips that were given their own class
        among all answers, averaged over the classes that are estimated.
        """
        counts = self.confusion[self.estimated].sum(axis=1)
        return float(
            (self.confusion.diagonal()[self.estimated] / counts).sum() / max(1, len(counts))
        )

    @property
    def chance(self) -> float:
        """UAR of always giving the same one of the classes that are estimated."""
        return 1 / max(1, int(self.estimated.sum()))


class Folds(NamedTuple):
    """Which clips are left out of the adaptation together.

    Attributes:
        left_out: "clip", "stretch of speech" or "speaker": what the clips of a fold have in common.
        of_clip: the fold that each clip is left out in; -1 where without it the clip's class would
            have none, and could not be answered.
        warnings: sentences.
    """

    left_out: str
    of_clip: Int[np.ndarray, " clips"]
    warnings: tuple[str, ...] = ()

    @property
    def number(self) -> int:
        """Number of folds."""
        return int(self.of_clip.max()) + 1


def stretches(clips: Sequence[LabelledClip]) -> Int[np.ndarray, " clips"]:
    """The stretch of speech that each clip is cut from, as a number.

    Parts of one file and label are of one stretch where they overlap or `PAUSE` does not part them:
    of two such clips one tells more of the other than it will of new ones. Numbers follow the order
    of the files' first clips, whatever the files are called and wherever they are.
    """
    # A clip that is part of no file, such as one in memory, is a place of its own.
    own = [clip.file or f"\0{number}" for number, clip in enumerate(clips)]
    place = {file: number for number, file in enumerate(dict.fromkeys(own))}
    order = sorted(range(len(clips)), key=lambda i: (place[own[i]], clips[i].label, clips[i].part))
    found, end = np.zeros(len(clips), int), 0.0
    for before, i in pairwise(order):
        last, clip = clips[before], clips[i]
        same = (own[before], last.label) == (own[i], clip.label)
        end = max(end, last.part[1]) if same else 0.0
        found[i] = found[before] + (not same or clip.part[0] - end >= PAUSE)
    return found


def make_folds(
    labels: Int[np.ndarray, " clips"],
    speakers: Sequence[str],
    stretch: Int[np.ndarray, " clips"],
    names: Sequence[str],
) -> Folds:
    """Leaves out each speaker where they are known and share the classes, else each stretch.

    Args:
        labels: of the clips, each as a number of `names`.
        speakers: of the clips, "" where unknown.
        stretch: of speech that each clip is cut from, see `stretches`.
        names: of the classes.
    """
    if not any(speakers):
        return _folds_of_stretches(labels, stretch)
    own = [speaker or f"\0{part}" for speaker, part in zip(speakers, stretch, strict=True)]
    of_clip = np.unique(own, return_inverse=True)[1] % MOST_FOLDS
    if not of_clip.any():
        return _folds_of_stretches(labels, stretch)
    # A class all of whose clips are left out at once could not be answered.
    folds_with = [len(np.unique(of_clip[labels == label])) for label in range(len(names))]
    if min(folds_with) > 1:
        return Folds("speaker", of_clip)
    alone = sorted(name for name, folds in zip(names, folds_with, strict=True) if folds == 1)
    folds = _folds_of_stretches(labels, stretch)
    warning = (
        f"one speaker alone has clips of {', '.join(alone)}: each {folds.left_out} is left out "
        "instead of each speaker, and other voices will be recognised worse than estimated here"
    )
    return folds._replace(warnings=(warning,))


def _folds_of_stretches(
    labels: Int[np.ndarray, " clips"], stretch: Int[np.ndarray, " clips"]
) -> Folds:
    """One stretch of each class a fold, or several where there are too many.

    A clip that is left out alone leaves its class smaller than the others, and is taken for theirs
    more often than a new one will be.
    """
    numbers, first, own = np.unique(stretch, return_index=True, return_inverse=True)
    label = labels[first]  # a stretch has one
    fold = np.full(len(numbers), -1)
    for each in np.unique(label):
        of_class = np.flatnonzero(label == each)
        if len(of_class) > 1:
            fold[of_class] = np.arange(len(of_class)) % MOST_FOLDS
    single = len(numbers) == len(labels)
    return Folds("clip" if single else "stretch of speech", fold[own])


def estimate_recall(
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
    groups = None if folds.left_out == "clip" else folds.of_clip[tested]
    interval = recall_interval((answers == labels)[tested], labels[tested], groups)
    return Estimate(folds.left_out, confusion, interval)


def recall_interval(
    right: Bool[np.ndarray, " clips"],
    labels: Int[np.ndarray, " clips"],
    groups: Int[np.ndarray, " clips"] | None,
) -> tuple[float, float]:
    """95% interval of the UAR: Wilson's, of an effective number of clips.

    As a clip of few counts more than one of many, that is Kish's (1965), which for equally many of
    each class is their number; divided by `REUSE`. Clips of a speaker or stretch of speech are not
    independent. Where such groups were left out the interval is widened to the one that they give
    (Student's t, of each group's part in the UAR).

    Args:
        right: which clips were given their own class.
        labels: of the clips.
        groups: of clips that are alike; None where there are none.
    """
    if not len(right):
        return 0.0, 1.0
    classes, of_clip, counts = np.unique(labels, return_inverse=True, return_counts=True)
    recalls = np.bincount(of_clip, right) / counts
    uar = recalls.mean()
    clips = len(classes) ** 2 / (1 / counts).sum() / REUSE
    z = ndtri(0.975)
    middle = (uar + z**2 / (2 * clips)) / (1 + z**2 / clips)
    half = z * np.sqrt(uar * (1 - uar) / clips + (z / (2 * clips)) ** 2) / (1 + z**2 / clips)
    low, high = middle - half, middle + half
    if groups is not None:
        part = (right - recalls[of_clip]) / counts[of_clip] / len(classes)
        of_groups = np.bincount(groups, part)
        number = len(np.unique(groups))
        error = np.sqrt((of_groups**2).sum() * number / (number - 1))
        half = error * stdtrit(number - 1, 0.975)
        low, high = min(low, uar - half), max(high, uar + half)
    return max(0.0, float(low)), min(1.0, float(high))


def fit_temperature(
    logits: Float[np.ndarray, "clips classes"], labels: Int[np.ndarray, " clips"], folds: Folds
) -> float:
    """What makes the clips left out most probable (Guo et al. 2017), near 1 where they are few.

    Only where speakers were left out may it sharpen the probabilities, by a value below 1: with
    the same voices on both sides answers are surer than they will be of other voices.
    """
    from scipy.optimize import minimize_scalar  # late: `predict` does without what it imports

    tested = folds.of_clip >= 0
    logits, labels = logits[tested], labels[tested]
    least = -2.0 if folds.left_out == "speaker" else 0.0

    def penalty(log_temperature: float) -> float:
        of_class = log_softmax(logits / np.exp(log_temperature), axis=1)
        loss = -np.take_along_axis(of_class, labels[:, None], axis=1).sum()
        return loss + (log_temperature / TEMPERATURE_PRIOR) ** 2 / 2

    found: Any = minimize_scalar(penalty, bounds=(least, 2.0), method="bounded")
    return float(np.exp(found.x))


def doubts(estimate: Estimate, names: Sequence[str]) -> tuple[str, ...]:
    """What to say of an estimate that leaves classes out, or promises little.

    Args:
        estimate: see there.
        names: of the classes with clips.
    """
    if not estimate.clips:
        return ("nothing can be estimated: no class has clips of two stretches of speech",)
    missing = [name for name, known in zip(names, estimate.estimated, strict=True) if not known]
    said = [
        f"{name!r} is not estimated, since its only {estimate.left_out} cannot be left out; label "
        "more of it"
        for name in missing
    ]
    if estimate.estimated.sum() == 1:
        said.append(
            "the estimate is of one class alone, and does not tell how often other speech is taken "
            "for it: label more of another class too"
        )
    elif estimate.interval[0] <= estimate.chance:
        said.append(
            "the estimate is not clearly above chance: label more clips, or check the labels"
        )
    return tuple(said)
