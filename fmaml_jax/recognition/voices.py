"""Whose clips they are, and what a voice adds to each of its clips, taken out of them.

A speaker's clips differ from another's by the voice, by more than by the emotion. The mean of
their clips would tell the voice, but for the emotions that are in it: of somebody who is angry
throughout it tells the anger too. So what is averaged is each clip less the mean of its class: of
its label, or of its answers, which without the voices get better, a few times over. A speaker of
few clips is taken to be much like all (`PRIOR_CLIPS`).

The other clips of a speaker so have a say in a clip's answer. What tells the speakers, where nobody
says who they are, is an encoder's embedding of the voice: biometric data, which is passed on to
nobody and never written.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float, Float32, Int
from scipy.special import softmax

from fmaml_jax.common.errors import UserError

PRIOR_CLIPS = 4
"""Clips that say of a voice that it is as all are."""
PRIOR_OF_CLASS = 1
"""Clips that say of a class that its mean is where the start has it. With 2, half a point more of
nEMO is right where speakers have all emotions, and five points less where each has one."""
START = 0.1
"""So much counts where the start has a class: what tells it apart leads further than its mean."""
SURER = 2
"""Logits count so often, since an answer in doubt leaves a part of the emotion to the voice."""
ROUNDS = 3
"""More change hardly anything."""
APART = 0.6
"""Cosine distance, on average, from which on two groups of clips are two speakers; from nEMO."""
MOST_CLIPS = 10_000
"""That speakers are found among: three hours of speech, whose distances take 400 MB."""

Answer = Callable[[Float32[np.ndarray, "clips coeffs"]], Float32[np.ndarray, "clips classes"]]


def offsets(
    vectors: Float32[np.ndarray, "clips coeffs"],
    groups: Int[np.ndarray, " clips"],
    chances: Float[np.ndarray, "clips classes"],
    means: Float32[np.ndarray, "classes coeffs"],
) -> Float32[np.ndarray, "groups coeffs"]:
    """What each speaker's clips have beside their classes' means: a ridge regression on speakers.

    Args:
        vectors: of clips.
        groups: the number of each clip's speaker, from 0; -1 where unknown.
        chances: of the classes of speech; what they lack of 1 is silence, which is nobody's.
        means: of the classes.
    """
    spoken = chances.sum(axis=1, keepdims=True)
    own = (groups[:, None] == np.arange(groups.max(initial=-1) + 1)).T.astype(np.float32)
    beside = own @ (spoken * vectors - chances @ means)
    return (beside / (own @ spoken + PRIOR_CLIPS)).astype(np.float32)


def without(
    vectors: Float32[np.ndarray, "clips coeffs"],
    groups: Int[np.ndarray, " clips"],
    of_groups: Float32[np.ndarray, "groups coeffs"],
) -> Float32[np.ndarray, "clips coeffs"]:
    """The vectors without the offsets of their speakers, where these are known."""
    known = groups >= 0
    return (
        np.where(known[:, None], vectors - of_groups[groups], vectors) if known.any() else vectors
    )


def answers(
    vectors: Float32[np.ndarray, "clips coeffs"],
    groups: Int[np.ndarray, " clips"],
    answer: Answer,
    means: Float32[np.ndarray, "classes coeffs"],
    speech: Bool[np.ndarray, " classes"],
) -> Float32[np.ndarray, "clips classes"]:
    """Logits of clips without their speakers' offsets, beside what each is answered to be.

    Args:
        vectors: of clips.
        groups: see `offsets`.
        answer: the logits of such vectors.
        means: of all classes.
        speech: which classes are; the others are nobody's.
    """
    logits = answer(vectors)
    for _ in range(ROUNDS):
        chances = softmax(SURER * logits, axis=1)[:, speech]
        of_groups = offsets(vectors, groups, chances, means[speech])
        logits = answer(without(vectors, groups, of_groups))
    return logits


def by_labels(
    vectors: Float32[np.ndarray, "clips coeffs"],
    groups: Int[np.ndarray, " clips"],
    chances: Float32[np.ndarray, "clips classes"],
    beside: Float32[np.ndarray, "classes coeffs"],
) -> tuple[Float32[np.ndarray, "clips coeffs"], Float32[np.ndarray, "classes coeffs"]]:
    """Labelled clips without their speakers' offsets, and the means of the classes of speech.

    Args:
        vectors: of clips.
        groups: see `offsets`.
        chances: see `offsets`: 1 where a clip is of the class.
        beside: where the start has each class, beside the middle of all.
    """
    found, counts = vectors, chances.sum(axis=0)[:, None]
    means = np.empty_like(beside)
    for number in range(ROUNDS + 1):
        sums = chances.T @ found
        labelled = counts[:, 0] > 0
        middle = (sums[labelled] / counts[labelled] - START * beside[labelled]).mean(axis=0)
        means = (sums + PRIOR_OF_CLASS * (middle + START * beside)) / (counts + PRIOR_OF_CLASS)
        if number < ROUNDS:
            found = without(vectors, groups, offsets(vectors, groups, chances, means))
    return found, means


def number_speakers(speakers: list[str]) -> Int[np.ndarray, " clips"]:
    """Speakers as numbers, -1 for ""."""
    numbers = {name: number for number, name in enumerate(sorted({*speakers} - {""}))}
    return np.array([numbers.get(name, -1) for name in speakers], int)


def find_speakers(
    embeddings: Float32[np.ndarray, "clips numbers"],
) -> Int[np.ndarray, " clips"]:
    """Numbers of speakers, from 0, that clips seem to be of: groups that lie together.

    Average linkage of the cosine distances, whatever the order of the clips.

    Args:
        embeddings: of the voice in each clip (`encoder.features`).

    Raises:
        UserError: these are more than `MOST_CLIPS`.
    """
    # Late, since enrolment and prediction otherwise do without what it imports.
    from scipy.cluster.hierarchy import fcluster, linkage

    if len(embeddings) > MOST_CLIPS:
        raise UserError(
            f"speakers are found among {MOST_CLIPS:,} clips or seconds of speech at most, and "
            f"there are {len(embeddings):,}; give fewer recordings at once, or say who speaks"
        )
    if len(embeddings) < 2:
        return np.zeros(len(embeddings), int)
    tree = linkage(embeddings, "average", metric="cosine")
    return fcluster(tree, APART, "distance") - 1
