"""The mathematics of enrolment: F-MAML's adaptation to whatever classes a user has labelled.

A recogniser is what a meta-trained start becomes by the inner steps of equation (2) on the user's
clips. Tasks of meta-training have K clips of each of N emotions; a user has any classes, any
number of clips of each. So a class counts as much as any other, however many clips it has; the
vector is centred on the mean of the classes' means; a class that the start knows begins with its
logit, a new one with the logarithm of the emotions' mean exponential: as probable as an emotion is
on average. With K clips of each of the N emotions this is the adaptation of `learners.fmaml`.
"""

import functools
import unicodedata
from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.scipy.special import logsumexp
from jaxtyping import Bool, Float, Float32, Int
from optax.losses import softmax_cross_entropy_with_integer_labels
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax
from scipy.stats import binomtest, t

from fmaml_jax.audio.features import FeatureConfig
from fmaml_jax.common.archive import content_hash
from fmaml_jax.common.console import UserError
from fmaml_jax.config import Config
from fmaml_jax.data.scale import Scale, scaled
from fmaml_jax.maml import adapt
from fmaml_jax.model import HEAD, Model, make_model
from fmaml_jax.recognition.checkpoint import Start
from fmaml_jax.recognition.support import LabelledClip

BATCH = 32
"""Clips are computed by multiples of so many, the last ones empty, so that programs are few."""
MOST_FOLDS = 100
"""Leaving out each of more clips than this in turn would take minutes; then groups are left out."""
TEMPERATURE_PRIOR = 0.5
"""Deviation of the log temperature from 0 before any clip is seen."""


class Estimate(NamedTuple):
    """How well the recogniser does on clips that it was not adapted to.

    Attributes:
        left_out: "clip" or "speaker": what was left out of the adaptation in turn.
        confusion: clips by true class (the recogniser's first ones, which have clips) and answer.
        interval: 95% interval of the accuracy; see `_interval`.
    """

    left_out: str
    confusion: Int[np.ndarray, "labelled classes"]
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


class Recogniser(NamedTuple):
    """A classifier of clips, as plain data.

    Attributes:
        classes: those with clips, in alphabetical order, then the fixed classes without.
        counts: clips that each of them was given.
        known_as: which class of the start each began as; "" for a new one.
        feature_config, scale, frequencies: how a clip becomes the network's vector.
        centre: what is subtracted from the vector and its waves.
        head: the start's output layer on the vector and a constant.
        emotions: how many of its columns, the first, are emotions.
        origin: the column that each class begins as; a new one has the number after the last.
        context: the adapted weights of the waves.
        bias: is added to the logits: what fixed classes without clips get.
        temperature: logits are divided by it.
        estimate: by leaving out in turn.
        warnings: sentences.
        provenance: hashes of checkpoint and support, versions of packages.
    """

    classes: tuple[str, ...]
    counts: tuple[int, ...]
    known_as: tuple[str, ...]
    feature_config: FeatureConfig
    scale: Scale
    frequencies: int
    centre: Float32[np.ndarray, " coeffs"]
    head: Float32[np.ndarray, "known columns"]
    emotions: int
    origin: Int[np.ndarray, " classes"]
    context: Float32[np.ndarray, "waves classes"]
    bias: Float32[np.ndarray, " classes"]
    temperature: float
    estimate: Estimate
    warnings: tuple[str, ...]
    provenance: dict[str, str]


def probabilities(
    recogniser: Recogniser, features: Float32[np.ndarray, "clips frames coeffs"]
) -> Float[np.ndarray, "clips classes"]:
    """Calibrated probabilities of each clip's classes; a clip's own do not depend on the others.

    Args:
        recogniser: see there.
        features: of clips, by `extract` with the recogniser's `feature_config`.
    """
    logits = logits_of_vectors(recogniser, scaled(features, recogniser.scale))
    return softmax(logits / recogniser.temperature, axis=1)


def logits_of_vectors(
    recogniser: Recogniser, vectors: Float32[np.ndarray, "clips 1 coeffs"]
) -> Float32[np.ndarray, "clips classes"]:
    """Logits of the classes for scaled features."""
    found = _logits(
        _network(vectors.shape[2], recogniser.frequencies),
        _padded(vectors),
        recogniser.centre,
        recogniser.head,
        recogniser.emotions,
        recogniser.origin,
        recogniser.context,
    )
    return np.asarray(found)[: len(vectors)] + recogniser.bias


def fit(
    start: Start,
    clips: Sequence[LabelledClip],
    same_as: Mapping[str, str],
    without: Sequence[str],
    warnings: Sequence[str],
) -> Recogniser:
    """Adapts the start to clips, calibrates it on them, and estimates how good it is.

    Args:
        start: the meta-trained start.
        clips: at least one, looked over (`support.look_over`).
        same_as: for labels in the user's words, the class of the start that each means.
        without: fixed classes that are not to be answered, since the speech holds none of them.
        warnings: what was found when the clips were looked over; more are added.

    Raises:
        UserError: there are fewer than two classes, or no emotion among them, or `same_as` names
            a label that no clip has, or a class that the start does not know, or `without` one
            that is not fixed or has clips.
    """
    known = _known(start, {clip.label for clip in clips}, same_as)
    emotions = sorted(label for label, own in known.items() if own not in start.fixed)
    enrolled = (*emotions, *sorted(known.keys() - set(emotions)))
    if len(enrolled) < 2 or not emotions:
        raise UserError(
            f"all clips are of {', '.join(map(repr, enrolled))}, and there is nothing to tell "
            "apart; label clips of another class too"
        )
    taken = {*known.values(), *map(str.casefold, known)}
    free = tuple(name for name in start.fixed if not {name, name.casefold()} & taken)
    if foreign := [name for name in without if name not in free]:
        raise UserError(
            f"--without={','.join(foreign)} cannot be left out; without clips there are "
            f"{', '.join(free) or 'no classes'}"
        )
    free = tuple(name for name in free if name not in without)
    classes = enrolled + free

    # ---- the adaptation, once without each group and at last with all clips
    folds, left_out, more = _folds(clips, [enrolled.index(clip.label) for clip in clips])
    known_as = tuple(known.get(name, name) for name in classes)
    columns = start.config.classes
    origin = np.array([columns.index(own) if own else len(columns) for own in known_as])
    vectors = _padded(scaled(np.stack([clip.features for clip in clips]), start.scale))
    labels = np.zeros(len(vectors), np.int32)
    labels[: len(clips)] = [enrolled.index(clip.label) for clip in clips]
    given = np.zeros((_multiple(len(folds) + 1), len(vectors)), bool)
    given[:, : len(clips)] = True
    for fold, members in enumerate(folds):
        given[fold, members] = False
    head = start.params[HEAD]["kernel"]
    network = _network(len(start.scale.mean), start.config.frequencies)
    centres, contexts, logits = _adapted(
        network, head, origin, vectors, labels, given, len(emotions), len(enrolled), start.config
    )

    # ---- what it gives for the clips left out
    bias = np.zeros(len(classes), np.float32)
    bias[len(enrolled) :] = start.config.fixed_bias
    tested = np.concatenate(folds) if folds else np.zeros(0, int)
    of_tested = np.repeat(np.arange(len(folds)), [len(members) for members in folds])
    logits = np.asarray(logits)[of_tested, tested] + bias
    confusion = np.zeros((len(enrolled), len(classes)), int)
    np.add.at(confusion, (labels[tested], logits.argmax(axis=1)), 1)
    right = logits.argmax(axis=1) == labels[tested]
    bounds = _interval(right, of_tested, left_out == "speaker")
    estimate = Estimate(left_out, confusion, bounds)

    digests = np.array(sorted(f"{clip.digest} {clip.label}" for clip in clips))
    return Recogniser(
        classes=classes,
        counts=tuple(sum(clip.label == name for clip in clips) for name in classes),
        known_as=known_as,
        feature_config=start.feature_config,
        scale=start.scale,
        frequencies=start.config.frequencies,
        centre=np.asarray(centres[-1]),
        head=head,
        emotions=len(start.config.emotions),
        origin=origin,
        context=np.asarray(contexts[-1]),
        bias=bias,
        temperature=_temperature(logits, labels[tested], sharpen=left_out == "speaker"),
        estimate=estimate,
        warnings=(*warnings, *more, *_unnamed(start, known), *_doubts(estimate)),
        provenance={
            "checkpoint": start.digest,
            "support": content_hash({"clips": digests}),
            **start.versions,
        },
    )


def _known(start: Start, labels: set[str], same_as: Mapping[str, str]) -> dict[str, str]:
    """Which class of the start each label begins as; "" for a new one."""
    classes = {_folded(name): name for name in (*start.emotions, *start.fixed)}
    spelled = {_folded(label): label for label in labels}
    known = {label: classes.get(_folded(label), "") for label in labels}
    for label, meaning in same_as.items():
        if _folded(label) not in spelled:
            raise UserError(
                f"--same_as={label}={meaning}, but no clip is labelled {label!r}; the labels are "
                f"{', '.join(sorted(labels))}"
            )
        if _folded(meaning) not in classes:
            raise UserError(
                f"--same_as={label}={meaning}, but the checkpoint does not know {meaning!r}; it "
                f"knows {', '.join(classes.values())}"
            )
        known[spelled[_folded(label)]] = classes[_folded(meaning)]
    return known


def _folded(name: str) -> str:
    """What names are compared by: in any case, and however their accents are encoded."""
    return unicodedata.normalize("NFC", name).casefold()


def _unnamed(start: Start, known: Mapping[str, str]) -> list[str]:
    """What to say of new classes, where the start knows emotions that no class begins as."""
    new = sorted(repr(label) for label, own in known.items() if not own)
    left = [emotion for emotion in start.emotions if emotion not in known.values()]
    if not new or not left:
        return []
    begin = "begins as new; if it" if len(new) == 1 else "begin as new; where one"
    return [
        f"{', '.join(new)} {begin} means {' or '.join(left)}, say so (--same_as; on the page: It "
        "means), and it is recognised better"
    ]


def _folds(
    clips: Sequence[LabelledClip], labels: Sequence[int]
) -> tuple[list[Int[np.ndarray, " members"]], str, list[str]]:
    """Clips to leave out together, what they have in common, and what is to be said of it."""
    labels = np.asarray(labels)
    counts = np.bincount(labels)
    speakers = np.array([clip.speaker or f"\0{i}" for i, clip in enumerate(clips)])
    voices, voice = np.unique(speakers, return_inverse=True)
    more = []
    if any(clip.speaker for clip in clips) and len(voices) > 1:
        tally = np.zeros((len(voices), len(counts)), int)
        np.add.at(tally, (voice, labels), 1)
        if alone := np.flatnonzero((tally == counts).any(axis=0)).tolist():
            names = ", ".join(
                sorted({clips[i].label for i in np.flatnonzero(np.isin(labels, alone))})
            )
            more.append(
                f"one speaker alone has clips of {names}: clips are left out one by one instead of "
                "speakers, and other voices will be recognised worse than estimated here"
            )
        else:
            groups = voice % MOST_FOLDS
            return [np.flatnonzero(groups == group) for group in np.unique(groups)], "speaker", more
    # A class whose only clip is left out could not be answered.
    usable = np.flatnonzero(counts[labels] > 1)
    order = usable[np.argsort(labels[usable], kind="stable")]
    groups = [order[first::MOST_FOLDS] for first in range(min(MOST_FOLDS, len(order)))]
    return groups, "clip", more


@partial(jax.jit, static_argnames=("model", "emotions", "enrolled", "config"))
def _adapted(
    model: Model,
    head: Float[Array, "known columns"],
    origin: Int[Array, " classes"],
    vectors: Float[Array, "clips 1 coeffs"],
    labels: Int[Array, " clips"],
    given: Bool[Array, "folds clips"],
    emotions: int,
    enrolled: int,
    config: Config,
) -> tuple[Array, Array, Float[Array, "folds clips classes"]]:
    """Centre, context and all clips' logits after adaptation to the clips that each fold is given.

    The first `emotions` classes make the centre; the first `enrolled` have clips.
    """
    outputs = enrolled if config.inner_outputs == "supported" else len(origin)

    def loss(context: Array, data: tuple[Array, Array, Array]) -> Array:
        waves, start, weights = data
        logits = (start + waves @ context)[:, :outputs]
        return weights @ softmax_cross_entropy_with_integer_labels(logits, labels)

    def fold(given: Bool[Array, " clips"]) -> tuple[Array, Array, Array]:
        members = jax.nn.one_hot(labels, enrolled) * given[:, None]
        shares = members / jnp.maximum(members.sum(axis=0), 1)  # of each class's own clips
        present = members.any(axis=0)
        weights = shares.sum(axis=1) / present.sum()
        if config.support_loss == "sum":
            weights *= given.sum()
        of_clips = jax.vmap(lambda clip: model.statistics({}, clip[None])["mean"])(vectors)
        centre = shares[:, :emotions].sum(axis=1) / present[:emotions].sum() @ of_clips
        start, waves = _start(model, vectors, centre, head, len(config.emotions), origin)
        context, _ = adapt(
            loss,
            jnp.zeros((waves.shape[1], len(origin))),
            (waves, start, weights),
            rate=config.inner_lr,
            steps=config.test_inner_steps,
            first_order=True,
        )
        return centre, context, start + waves @ context

    return jax.lax.map(fold, given)


def _start(
    model: Model,
    vectors: Float[Array, "clips 1 coeffs"],
    centre: Float[Array, " coeffs"],
    head: Float[Array, "known columns"],
    emotions: int,
    origin: Int[Array, " classes"],
) -> tuple[Float[Array, "clips classes"], Float[Array, "clips waves"]]:
    """The classes' logits before adaptation, and what the context reads."""
    features = model.features({}, vectors, {"mean": centre})
    known, waves = jnp.split(features, [len(head)], axis=1)
    columns = known @ head
    new = logsumexp(columns[:, :emotions], axis=1, keepdims=True) - np.log(emotions)
    return jnp.concatenate([columns, new], axis=1)[:, origin], waves


@partial(jax.jit, static_argnames=("model", "emotions"))
def _logits(
    model: Model,
    vectors: Array,
    centre: Array,
    head: Array,
    emotions: int,
    origin: Array,
    context: Array,
) -> Float[Array, "clips classes"]:
    start, waves = _start(model, vectors, centre, head, emotions, origin)
    return start + waves @ context


@functools.cache  # a program is compiled once for each `Model`
def _network(coeffs: int, frequencies: int) -> Model:
    """The network, for its features alone; it has no outputs of its own here."""
    return make_model(0, coeffs, "fourier", frequencies=frequencies)


def _interval(
    right: Bool[np.ndarray, " clips"], fold: Int[np.ndarray, " clips"], by_speaker: bool
) -> tuple[float, float]:
    """95% interval of the share of right answers: Wilson's, which takes clips for independent.

    Clips of a speaker are not. Where speakers were left out it is widened to the interval that
    their own shares give (Student's t, a speaker counting by its clips).
    """
    if not len(right):
        return 0.0, 1.0
    low, high = binomtest(int(right.sum()), len(right)).proportion_ci(method="wilson")
    if by_speaker:
        surplus = np.bincount(fold, right - right.mean())
        speakers = len(surplus)
        error = np.sqrt((surplus**2).sum() * speakers / (speakers - 1)) / len(right)
        half = error * t.ppf(0.975, speakers - 1)
        low, high = min(low, right.mean() - half), max(high, right.mean() + half)
    return max(0.0, float(low)), min(1.0, float(high))


def _temperature(
    logits: Float[np.ndarray, "clips classes"], labels: Int[np.ndarray, " clips"], sharpen: bool
) -> float:
    """What makes the clips left out most probable (Guo et al. 2017), near 1 where they are few.

    Only where speakers were left out may it `sharpen` the probabilities, by a value below 1: with
    the same voices on both sides answers are surer than they will be of other voices.
    """

    def penalty(log_temperature: float) -> float:
        of_class = log_softmax(logits / np.exp(log_temperature), axis=1)
        loss = -np.take_along_axis(of_class, labels[:, None], axis=1).sum()
        return loss + (log_temperature / TEMPERATURE_PRIOR) ** 2 / 2

    return float(np.exp(minimize_scalar(penalty, bounds=(-2.0 * sharpen, 2.0), method="bounded").x))


def _doubts(estimate: Estimate) -> list[str]:
    if not estimate.clips:
        return ["every class has one clip alone, so that nothing can be estimated"]
    if estimate.interval[0] <= estimate.chance:
        return ["the estimate is not clearly above chance: label more clips, or check the labels"]
    return []


def _multiple(count: int) -> int:
    return -(-count // BATCH) * BATCH


def _padded(vectors: Float32[np.ndarray, "clips 1 coeffs"]) -> Float32[np.ndarray, "... 1 coeffs"]:
    return np.pad(vectors, [(0, _multiple(len(vectors)) - len(vectors)), (0, 0), (0, 0)])
