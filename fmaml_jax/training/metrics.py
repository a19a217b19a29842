"""The figures of a test, from its predictions; NumPy alone."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float32, Int

UNKNOWN = -1e3
"""Score of a class that a classifier has never seen."""

BINS = 100
"""Bins of confidence, of one percent each."""


class Predictions(NamedTuple):
    """Query logits before adaptation (step 0) and after each inner step, and the true labels."""

    logits: Float32[np.ndarray, "episodes steps queries classes"]
    labels: Int[np.ndarray, "episodes queries"]


def log_loss(predictions: Predictions) -> Float[np.ndarray, "episodes steps"]:
    """Mean cross-entropy of the queries, in nats, of each episode before and after each step."""
    logits, labels = predictions.logits.astype(np.float64), predictions.labels
    true = np.take_along_axis(logits, labels[:, None, :, None], axis=-1)[..., 0]
    return (np.logaddexp.reduce(logits, axis=-1) - true).mean(axis=-1)


def accuracy(predictions: Predictions) -> Float[np.ndarray, "episodes steps"]:
    """Share of queries whose largest of all N + F outputs is the true class."""
    return np.mean(predictions.logits.argmax(-1) == predictions.labels[:, None], axis=-1)


def emotion_accuracy(predictions: Predictions, ways: int) -> Float[np.ndarray, "episodes steps"]:
    """Share of emotion queries whose largest of the first N outputs is the true class.

    It compares with a plain N-way classifier, which cannot answer a fixed class.
    """
    is_emotion = predictions.labels < ways
    correct = predictions.logits[..., :ways].argmax(-1) == predictions.labels[:, None]
    return np.sum(correct & is_emotion[:, None], axis=-1) / np.sum(is_emotion, axis=-1)[:, None]


def recall(predictions: Predictions) -> Float[np.ndarray, "episodes steps classes"]:
    """Recall of each class; its mean over the classes is the UAR."""
    correct = predictions.logits.argmax(-1) == predictions.labels[:, None]
    members = predictions.labels[..., None] == np.arange(predictions.logits.shape[-1])
    hits = np.einsum("esq,eqc->esc", correct.astype(np.int64), members.astype(np.int64))
    return hits / members.sum(axis=1)[:, None]


def confusion(predictions: Predictions) -> Float[np.ndarray, "classes classes"]:
    """Share of each true class's queries (row) given each answer (column), after the last step."""
    classes = predictions.logits.shape[-1]
    counts = np.zeros((classes, classes))
    np.add.at(counts, (predictions.labels, predictions.logits[:, -1].argmax(-1)), 1)
    return counts / counts.sum(axis=1, keepdims=True)


def by_confidence(predictions: Predictions) -> Int[np.ndarray, "2 bins"]:
    """How many answers are right, and how many there are, by their probability.

    That is the largest one of the softmax over all classes, after the last step, in `BINS` equal
    bins from 0 to 1.
    """
    logits = predictions.logits[:, -1].astype(np.float64)
    confidence = np.exp(logits.max(axis=-1) - np.logaddexp.reduce(logits, axis=-1))
    bins = np.minimum((confidence * BINS).astype(np.int64), BINS - 1).ravel()
    right = (logits.argmax(axis=-1) == predictions.labels).ravel()
    return np.stack([np.bincount(bins[right], minlength=BINS), np.bincount(bins, minlength=BINS)])


def by_group(
    predictions: Predictions, members: Bool[np.ndarray, "episodes queries"]
) -> Int[np.ndarray, "2 classes"]:
    """How many of some queries are recognised, and how many there are, by class."""
    right = predictions.logits[:, -1].argmax(axis=-1) == predictions.labels
    classes = predictions.logits.shape[-1]
    return np.stack(
        [
            np.bincount(predictions.labels[chosen], minlength=classes)
            for chosen in (members & right, members)
        ]
    )
