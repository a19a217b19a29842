"""The mathematics of enrolment: F-MAML's adaptation to whatever classes a user has labelled.

A recogniser is what a meta-trained start becomes by `learners.fmaml` on one task: the user's clips.
Tasks of meta-training have K clips of each of N emotions; a user has any classes, any number of
clips of each. So a class counts as much as any other, however many clips it has, in the loss as in
what the vector is centred on; the centre is where that of N emotions would be; and the network gets
outputs for the user's classes. With K clips of each of the N emotions nothing of that makes a
difference. Where some of the emotions have no clips the start compares classes otherwise than it
was trained to, and so its comparison is balanced on the clips, and is joined by the distances from
the classes' means as far as these foretell the clips better (`_compare`).
"""

import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from operator import itemgetter
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.scipy.special import logsumexp
from jaxtyping import Bool, Float, Float32, Int
from scipy.special import softmax

from fmaml_jax.audio.features import FeatureConfig
from fmaml_jax.common.archive import content_hash
from fmaml_jax.config import Config
from fmaml_jax.data.scale import Scale, scaled, without_metric
from fmaml_jax.encoder import DEFAULT
from fmaml_jax.learners import fmaml
from fmaml_jax.maml import AnyArray, Params, Task
from fmaml_jax.model import BIAS, CONTEXT, HEAD, Model, Statistics, blended, make_model
from fmaml_jax.recognition import voices
from fmaml_jax.recognition.checkpoint import Start
from fmaml_jax.recognition.estimate import (
    Estimate,
    Folds,
    doubts,
    estimate_recall,
    fit_temperature,
    make_folds,
    stretches,
)
from fmaml_jax.recognition.naming import SILENCE, Naming, name_classes
from fmaml_jax.recognition.support import LabelledClip

BATCH = 32
"""Clips are computed by multiples of so many, the last ones empty, so that programs are few."""
CLASS_OFFSET = 0.025
"""Where a class's mean lies beside the emotions' mean: so much of what its output has more than the
emotions' outputs on average. In the sources of `best.cfg` it is 0.02 to 0.04, by class."""
MIXTURE_STEPS = 5
"""Of expectation-maximisation; 50 are no better."""
MOST_NEARNESS = 15.0
"""Nats, at most, for half the mean squared difference of two vectors' coefficients. With 10, pairs
of EmoDB's classes are up to 0.3 points worse than by their nearest means, with 15 up to 0.1."""


class Recogniser(NamedTuple):
    """A classifier of clips, as plain data.

    Attributes:
        classes: those with clips, in alphabetical order, then the fixed classes without.
        counts: clips that each of them was given.
        known_as: which class of the start each began as; "" for a new one.
        feature_config, scale, frequencies: how a clip becomes the network's vector; without
            frequencies the network is `linear`.
        centre: what is subtracted from the vector and its waves.
        variance: of the vector, by which `linear` scales it; 1 of `fourier`.
        head: the start's output layer on the vector and a constant.
        mixture: share of each of its outputs in what each class begins as.
        nearness: an output layer on the same, which is added: how near each class's mean is.
        context: the adapted weights of the waves, or of the vector of `linear`.
        bias: is added to the logits: what fixed classes without clips get.
        temperature: logits are divided by it.
        estimate: by leaving out in turn.
        warnings: sentences.
        provenance: hashes of checkpoint and support, versions of packages.
        encoder: the file or folder of the encoder's weights, where `feature_config` is of one.
        means: of each class's scaled features, where the labelled clips were taken without their
            speakers' offsets, and those that are recognised are to be (`voices`); else None.
    """

    classes: tuple[str, ...]
    counts: tuple[int, ...]
    known_as: tuple[str, ...]
    feature_config: FeatureConfig
    scale: Scale
    frequencies: int
    centre: Float32[np.ndarray, " features"]
    variance: Float32[np.ndarray, " coeffs"]
    head: Float32[np.ndarray, "known outputs"]
    mixture: Float32[np.ndarray, "outputs classes"]
    nearness: Float32[np.ndarray, "known classes"]
    context: Float32[np.ndarray, "waves classes"]
    bias: Float32[np.ndarray, " classes"]
    temperature: float
    estimate: Estimate
    warnings: tuple[str, ...]
    provenance: dict[str, str]
    encoder: str = DEFAULT
    means: Float32[np.ndarray, "classes coeffs"] | None = None

    def __repr__(self) -> str:
        return (
            f"<Recogniser of {reprlib.repr(self.classes)}: {sum(self.counts)} clips, UAR "
            f"{self.estimate.uar:.0%}>"
        )


class Adapted(NamedTuple):
    """What adaptation finds, as `Recogniser` names it; with a leading axis `folds` of several."""

    centre: Float[AnyArray, "*folds features"]
    variance: Float[AnyArray, "*folds coeffs"]
    mixture: Float[AnyArray, "*folds outputs classes"]
    nearness: Float[AnyArray, "*folds known classes"]
    context: Float[AnyArray, "*folds waves classes"]

    def of_fold(self, fold: int) -> "Adapted":
        """That of one fold, as NumPy's arrays."""
        return Adapted(*(np.asarray(array)[fold] for array in self))


def _are_speech(meanings: Sequence[str]) -> Bool[np.ndarray, " classes"]:
    return np.array([name != SILENCE for name in meanings])


def probabilities(
    recogniser: Recogniser, features: Float32[np.ndarray, "clips frames coeffs"]
) -> Float[np.ndarray, "clips classes"]:
    """Calibrated probabilities of each clip's classes; a clip's own do not depend on the others.

    Args:
        recogniser: see there.
        features: of clips, by `describer` with the recogniser's `feature_config`.
    """
    logits = logits_of_vectors(recogniser, scaled(features, recogniser.scale))
    return softmax(logits / recogniser.temperature, axis=1)


def probabilities_by_speaker(
    recogniser: Recogniser,
    features: Float32[np.ndarray, "clips 1 coeffs"],
    groups: Int[np.ndarray, " clips"],
) -> Float[np.ndarray, "clips classes"]:
    """Calibrated probabilities of clips without their speakers' offsets.

    Args:
        recogniser: one with `means`.
        features: of clips; of a speaker's each has a say in what the others are.
        groups: the number of each clip's speaker, from 0; -1 where unknown.
    """
    assert recogniser.means is not None
    vectors = scaled(features, recogniser.scale)[:, 0]

    def answer(vectors: Float32[np.ndarray, "clips coeffs"]) -> np.ndarray:
        return logits_of_vectors(recogniser, vectors[:, None])

    speech = _are_speech(recogniser.known_as)
    logits = voices.answers(vectors, groups, answer, recogniser.means, speech)
    return softmax(logits / recogniser.temperature, axis=1)


def logits_of_vectors(
    recogniser: Recogniser, vectors: Float32[np.ndarray, "clips 1 coeffs"]
) -> Float32[np.ndarray, "clips classes"]:
    """Logits of the classes for scaled features, by one program however many they are."""
    adapted = Adapted(*(getattr(recogniser, name) for name in Adapted._fields))
    return _batched(vectors, adapted, recogniser.head, recogniser.frequencies) + recogniser.bias


def _batched(
    vectors: Float32[np.ndarray, "clips 1 coeffs"],
    adapted: Adapted,
    head: Float32[np.ndarray, "known outputs"],
    frequencies: int,
) -> Float32[np.ndarray, "clips classes"]:
    found = [
        _logits(batch, adapted, head, frequencies)
        for batch in np.split(_padded(vectors), _multiple(len(vectors)) // BATCH)
    ]
    return np.concatenate(found)[: len(vectors)]


def fit(
    start: Start,
    clips: Sequence[LabelledClip],
    same_as: Mapping[str, str],
    without: Sequence[str],
    warnings: Sequence[str],
    groups: Int[np.ndarray, " clips"] | None = None,
) -> Recogniser:
    """Adapts the start to clips, calibrates it on them, and estimates how good it is.

    Args:
        start: the meta-trained start.
        clips: at least one, looked over (`support.look_over`).
        same_as: for labels in the user's words, the class of the start that each means.
        without: fixed classes that are not to be answered, since the speech holds none of them.
        warnings: what was found when the clips were looked over; more are added.
        groups: the number of each clip's speaker (see `voices.offsets`), where clips are taken
            without their speakers' offsets, here and later.

    Raises:
        UserError: there are no two classes to tell apart, or `same_as` or `without` name what
            is not there; see `name_classes`.
    """
    naming = name_classes(start, {clip.label for clip in clips}, same_as, without)
    labels = np.array([naming.enrolled.index(clip.label) for clip in clips])
    folds = make_folds(labels, [clip.speaker for clip in clips], stretches(clips), naming.enrolled)
    bias = np.zeros(len(naming.classes), np.float32)
    bias[len(naming.enrolled) :] = start.config.fixed_bias
    adapt = _adapt if groups is None else partial(_adapt_by_speaker, groups)
    adapted, means, logits = adapt(start, clips, labels, folds, naming, bias)
    estimate = estimate_recall(logits, labels, folds)
    return Recogniser(
        classes=naming.classes,
        counts=tuple(np.bincount(labels, minlength=len(naming.classes)).tolist()),
        known_as=tuple(naming.known_as[name] for name in naming.classes),
        feature_config=start.feature_config,
        scale=without_metric(start.scale),  # which has done its work
        frequencies=_frequencies(start.config),
        head=start.params[HEAD]["kernel"],
        bias=bias,
        **adapted._asdict(),
        temperature=fit_temperature(logits, labels, folds),
        estimate=estimate,
        warnings=(*warnings, *folds.warnings, *naming.warnings, *doubts(estimate, naming.enrolled)),
        provenance=_provenance(start, clips),
        encoder=start.encoder,
        means=means,
    )


def _provenance(start: Start, clips: Sequence[LabelledClip]) -> dict[str, str]:
    digests = np.array(sorted(f"{clip.digest} {clip.label}" for clip in clips))
    support = content_hash({"clips": digests})
    return {"checkpoint": start.digest, "support": support, **start.versions}


def _adapt(
    start: Start,
    clips: Sequence[LabelledClip],
    labels: Int[np.ndarray, " clips"],
    folds: Folds,
    naming: Naming,
    bias: Float32[np.ndarray, " classes"],
) -> tuple[Adapted, None, Float32[np.ndarray, "clips classes"]]:
    """What all clips give, and each clip's logits adapted without its fold."""
    vectors = scaled(np.stack([clip.features for clip in clips]), start.scale)
    # All clips are given in the rows after the folds, of which there is at least one.
    given = folds.of_clip != np.arange(_multiple(folds.number + 1))[:, None]
    adapted, logits = _adapted_to(start, vectors, labels, given, naming)
    without_fold = np.asarray(logits)[folds.of_clip, np.arange(len(clips))]
    return adapted.of_fold(-1), None, without_fold + bias


def _adapt_by_speaker(
    groups: Int[np.ndarray, " clips"],
    start: Start,
    clips: Sequence[LabelledClip],
    labels: Int[np.ndarray, " clips"],
    folds: Folds,
    naming: Naming,
    bias: Float32[np.ndarray, " classes"],
) -> tuple[Adapted, Float32[np.ndarray, "classes coeffs"], Float32[np.ndarray, "clips classes"]]:
    """The same without the speakers' offsets, and the classes' means.

    The offsets of the clips that are given are by their labels; those of the clips of a fold, which
    are answered, by their answers, as they will be of what is recognised.
    """
    vectors = scaled(np.stack([clip.features for clip in clips]), start.scale)[:, 0]
    meanings = [naming.known_as[name] for name in naming.classes]
    known = _known(start, meanings)
    speech = _are_speech(meanings)
    head, frequencies = start.params[HEAD]["kernel"], _frequencies(start.config)
    beside = np.asarray(_beside(head, known, start.config), np.float32)[speech]
    chances = np.eye(len(meanings), dtype=np.float32)[labels][:, speech]

    def adapt(given: Bool[np.ndarray, " clips"]) -> tuple[Adapted, np.ndarray]:
        own, means = vectors.copy(), np.zeros((len(meanings), vectors.shape[1]), np.float32)
        own[given], means[speech] = voices.by_labels(
            vectors[given], groups[given], chances[given], beside
        )
        adapted, _ = _adapted_to(start, own[:, None], labels, given[None], naming)
        return adapted.of_fold(0), means

    logits = np.zeros((len(clips), len(meanings)), np.float32)
    for fold in range(folds.number):
        left = folds.of_clip == fold
        adapted, means = adapt(~left)

        def answer(vectors: np.ndarray, adapted: Adapted = adapted) -> np.ndarray:
            return _batched(vectors[:, None], adapted, head, frequencies) + bias

        logits[left] = voices.answers(vectors[left], groups[left], answer, means, speech)
    return *adapt(np.ones(len(clips), bool)), logits


def _adapted_to(
    start: Start,
    vectors: Float32[np.ndarray, "clips 1 coeffs"],
    labels: Int[np.ndarray, " clips"],
    given: Bool[np.ndarray, "folds clips"],
    naming: Naming,
) -> tuple[Adapted, Float[Array, "folds padded classes"]]:
    """What the clips that are given in each fold adapt the start to, and the logits of all clips,
    which are padded to a multiple of `BATCH`.
    """
    meanings = [naming.known_as[name] for name in naming.classes]
    return _adapted_by_fold(
        _padded(vectors),
        _padded(labels),
        _padded(class_weights(labels, given), axis=1),
        start.params[HEAD]["kernel"],
        start.scale.axes,
        _known(start, meanings),
        # Silence is far from all speech, and would drag the centre there.
        _are_speech(meanings[: len(naming.enrolled)]),
        start.config,
    )


def _known(start: Start, meanings: Sequence[str]) -> Bool[np.ndarray, "outputs classes"]:
    """Which of the start's outputs each class is."""
    return np.array([[name == meaning for meaning in meanings] for name in start.config.classes])


def _beside(
    head: Float[AnyArray, "known outputs"], known: Bool[AnyArray, "outputs classes"], config: Config
) -> Float[Array, "classes coeffs"]:
    """Where the start has each class's mean, beside the emotions'; that of a new one is there."""
    columns = head[:-1] - head[:-1, : len(config.emotions)].mean(axis=1, keepdims=True)
    beside = CLASS_OFFSET * (columns @ known).T
    if not _frequencies(config):  # which centres before it divides by the number of coefficients
        beside *= jnp.sqrt(len(head) - 1)
    return jnp.asarray(beside)


def class_weights(
    labels: Int[np.ndarray, " clips"], given: Bool[np.ndarray, "folds clips"]
) -> Float32[np.ndarray, "folds clips"]:
    """How many clips each one given counts as, so that the classes given count alike.

    They add up to the number of clips given.
    """
    counts = given @ np.eye(labels.max() + 1)[labels]
    share = given.sum(axis=1, keepdims=True) / (counts > 0).sum(axis=1, keepdims=True)
    return (given * share / np.maximum(1, counts[:, labels])).astype(np.float32)


@partial(jax.jit, static_argnames=("config",))
def _adapted_by_fold(
    vectors: Float[Array, "clips 1 coeffs"],
    labels: Int[Array, " clips"],
    weights: Float[Array, "folds clips"],
    head: Float[Array, "known outputs"],
    axes: Float[Array, "coeffs axes"],
    known: Bool[Array, "outputs classes"],
    speech: Bool[Array, " enrolled"],
    config: Config,
) -> tuple[Adapted, Float[Array, "folds clips classes"]]:
    """What `_adapted_to` says, by one program for so many clips, classes and folds.

    Args:
        vectors: of all clips.
        labels: of them.
        weights: of the clips in the support loss, by fold.
        head: the start's output layer, see `Recogniser`.
        axes: of the inner metric.
        known: which of its outputs a class is; none of a new one.
        speech: which of the classes with clips, the first, make the centre.
        config: of the start's run.
    """
    # Programs are for numbers of classes, whatever their names.
    enrolled, names = len(speech), tuple(map(str, range(known.shape[1])))
    problem = replace(config, emotions=names[:enrolled], fixed=names[enrolled:], support="emotions")
    frequencies = _frequencies(config)
    network = _network(head, frequencies)
    coeffs = len(head) - 1
    of_clips = jax.vmap(lambda clip: network.statistics({}, clip[None])["mean"])(vectors)
    offsets = _beside(head, known[:, :enrolled], config)

    covered = known[: len(config.emotions), :enrolled].any(axis=1).all()

    def fold(weights: Array) -> tuple[Adapted, Array]:
        shares = weights[:, None] * jax.nn.one_hot(labels, enrolled)
        shares /= shares.sum(axis=0)
        of_classes = (shares.T @ of_clips).at[:, :coeffs].subtract(offsets)
        centre = jnp.average(of_classes, axis=0, weights=speech)
        variance = jnp.ones(coeffs)
        if not frequencies:
            spoken = weights * speech[labels]
            spread = jnp.average((of_clips - centre) ** 2, axis=0, weights=spoken)
            variance = blended(spread, spoken.sum())
        statistics = {"mean": centre, "variance": variance}
        known_part = network.features({}, vectors, statistics)[:, : len(head)]
        outputs = known_part @ head
        free = jnp.zeros((len(head[0]), known.shape[1] - enrolled))
        mixture = jnp.concatenate([fit_mixtures(outputs, shares), free], axis=1)
        mixture = jnp.where(known.any(axis=0), known, mixture)
        begin = logsumexp(outputs[:, :, None] + jnp.log(mixture[:, :enrolled]), axis=1)
        layer, own = _compare(begin, known_part, labels, weights, shares, speech)
        nearness = jnp.where(covered, 0, jnp.pad(layer, ((0, 0), (0, free.shape[1]))))
        own = jnp.where(covered, 0, jnp.pad(own, ((0, 0), (0, free.shape[1]))))
        model = _model(statistics, head, mixture, nearness, frequencies)._replace(axes=axes)
        # A clip is not to be near a mean for its own part in it.
        apart = model._replace(apply=lambda *given: model.apply(*given) + own)
        learner = fmaml.make(problem, apart)
        task = Task(vectors, labels, vectors, labels, weights)
        states = learner.adapt(learner.init(jax.random.key(0)), task)
        adapted = jax.tree.map(itemgetter(-1), states)
        logits = model.apply(adapted, vectors, None)
        return Adapted(centre, variance, mixture, nearness, adapted[CONTEXT]["kernel"]), logits

    return jax.lax.map(fold, weights)


def _compare(
    begin: Float[Array, "clips enrolled"],
    known_part: Float[Array, "clips known"],
    labels: Int[Array, " clips"],
    weights: Float[Array, " clips"],
    shares: Float[Array, "clips enrolled"],
    speech: Bool[Array, " enrolled"],
) -> tuple[Float[Array, "known enrolled"], Float[Array, "clips enrolled"]]:
    """The layer that balances the start's comparison of the classes and joins their means' to it.

    Balanced, the start prefers none of the classes midway between their means. The distances get
    the weight of the nearest mean's probability against the start's, given the clips, each clip
    by the means of the others; none where a class has one clip alone.

    Args:
        begin: the start's logits.
        known_part: what the start's output layer reads, the last a constant.
        labels: of the clips.
        weights: of the clips in the support loss.
        shares: of the clips in their class; they add up to 1 by class.
        speech: which classes are; silence is too far away to be balanced.

    Returns:
        The layer, and what the clips' logits by it change where each is left out of its own mean.
    """
    vectors = known_part[:, :-1]
    means = shares.T @ vectors
    columns = (means - jnp.average(means, axis=0, weights=speech)).T
    sizes = (means**2).sum(axis=1) / 2
    constants = jnp.average(sizes, weights=speech) - sizes
    middle = jnp.average(shares.T @ begin, axis=0, weights=speech)
    balance = jnp.where(speech, jnp.average(middle, weights=speech) - middle, 0)

    part = jnp.take_along_axis(shares, labels[:, None], axis=1)
    alone = (shares == 1).any()
    part = jnp.where(part == 1, 0, part)
    rest = (means[labels] - part * vectors) / (1 - part)

    def near(to: Array) -> Array:
        return ((vectors - to) ** 2).sum(axis=1) / -2

    own = (near(rest) - near(means[labels]))[:, None] * jax.nn.one_hot(labels, len(speech))

    def evidence(logits: Array) -> Array:
        found = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=1)
        return weights @ found[:, 0]

    distances = MOST_NEARNESS * (vectors @ columns + constants + own)
    better = jax.nn.sigmoid(evidence(distances) - evidence(begin + balance))
    worth = jnp.where(alone, 0, MOST_NEARNESS * better)
    layer = jnp.concatenate([worth * columns, (worth * constants + balance)[None] / BIAS])
    return layer, worth * own


def fit_mixtures(
    outputs: Float[Array, "clips outputs"], shares: Float[Array, "clips classes"]
) -> Float[Array, "outputs classes"]:
    """The mixture of the start's classes that each class's clips are most probable of.

    By expectation-maximisation, from equal parts.

    Args:
        outputs: logits, which are log likelihoods but for what a clip's have in common.
        shares: of the clips in their class; they add up to 1 by class.
    """

    def step(mixtures: Array, _: None) -> tuple[Array, None]:
        chances = jax.nn.softmax(outputs[:, :, None] + jnp.log(mixtures), axis=1)
        return jnp.einsum("ioc,ic->oc", chances, shares), None

    equal = jnp.full((outputs.shape[1], shares.shape[1]), 1 / outputs.shape[1])
    return jax.lax.scan(step, equal, None, length=MIXTURE_STEPS)[0]


@partial(jax.jit, static_argnames=("frequencies",))
def _logits(
    vectors: Float[Array, "clips 1 coeffs"],
    adapted: Adapted,
    head: Float[Array, "known outputs"],
    frequencies: int,
) -> Float[Array, "clips classes"]:
    fixed = {"mean": adapted.centre, "variance": adapted.variance}
    model = _model(fixed, head, adapted.mixture, adapted.nearness, frequencies)
    return model.apply({CONTEXT: {"kernel": adapted.context}}, vectors, None)


def _model(
    fixed: Statistics,
    head: Float[Array, "known outputs"],
    mixture: Float[AnyArray, "outputs classes"],
    nearness: Float[AnyArray, "known classes"],
    frequencies: int,
) -> Model:
    """The network with outputs for the user's classes; all clips are normalised by `fixed`.

    A class begins with the log likelihood of its mixture of the start's classes: one that the start
    knows with that one's logit. Nearness makes the likeliest class with clips likelier; half of
    that is taken from all of them, so that those without clips keep about their share: of EmoDB's
    neutral 34 to 81% are recalled so, by numbers of classes and clips, and 22 to 73% otherwise. The
    context is all that adapts, and so all its parameters.
    """
    network = _network(head, frequencies)
    waves = 2 * frequencies or len(head) - 1

    def init(_: Array) -> Params:
        return {CONTEXT: {"kernel": jnp.zeros((waves, mixture.shape[1]))}}

    def statistics(_: Params, clips: Array) -> Statistics:
        del clips
        return fixed

    def features(_: Params, clips: Array, given: Statistics | None = None) -> Array:
        return network.features({}, clips, fixed if given is None else given)

    def apply(params: Params, clips: Array, given: Statistics | None = None) -> Array:
        known, waves = jnp.split(features(params, clips, given), [len(head)], axis=1)
        start = logsumexp((known @ head)[:, :, None] + jnp.log(mixture), axis=1)
        near = known @ nearness
        pulled = (nearness != 0).any(axis=0)
        raised = logsumexp(start + near, axis=1, b=pulled) - logsumexp(start, axis=1, b=pulled)
        near -= jnp.where(pulled, raised[:, None] / 2, 0)
        return start + near + waves @ params[CONTEXT]["kernel"]

    return Model(init, apply, statistics, features)


def _network(head: Float[Array, "known outputs"], frequencies: int) -> Model:
    """The start's network, for its features alone; what it reads is known but for a constant."""
    kind = "fourier" if frequencies else "linear"
    return make_model(0, len(head) - 1, kind, frequencies=frequencies)


def _frequencies(config: Config) -> int:
    return config.frequencies if config.network == "fourier" else 0


def _multiple(count: int) -> int:
    return -(-count // BATCH) * BATCH


def _padded(array: np.ndarray, axis: int = 0) -> np.ndarray:
    """With zeros up to a multiple of `BATCH`."""
    widths = [(0, 0)] * array.ndim
    widths[axis] = (0, _multiple(array.shape[axis]) - array.shape[axis])
    return np.pad(array, widths)
