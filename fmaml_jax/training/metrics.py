"""The figures of a test, from its predictions; NumPy alone."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Int

UNKNOWN = -1e3
"""Score of a class that a classifier has never seen."""


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
