"""Figures against values counted by hand and an independent interval."""

import numpy as np
import pytest
from scipy import stats

from fmaml_jax.training import metrics, results
from fmaml_jax.training.metrics import UNKNOWN, Predictions

# Two episodes, one inner step, queries of three emotions (0, 1, 2) and one fixed class (3).
LABELS = np.array([[0, 1, 2, 3], [0, 1, 2, 3]])
ANSWERS = np.array([[0, 1, 1, 3], [3, 3, 2, 3]])
SECOND = np.array([[1, 0, 0, 0], [0, 2, 0, 0]])  # the emotion that comes next


@pytest.fixture(scope="module")
def predictions():
    logits = np.zeros((2, 2, 4, 4), np.float32)
    for episode in range(2):
        for query in range(4):
            logits[episode, 1, query, SECOND[episode, query]] = 1
            logits[episode, 1, query, ANSWERS[episode, query]] = 2
    return Predictions(logits, LABELS)


def test_accuracy(predictions):
    np.testing.assert_allclose(metrics.accuracy(predictions)[:, 1], [3 / 4, 2 / 4])


def test_emotion_accuracy_decides_among_the_emotions_alone(predictions):
    # Episode 2 answers the fixed class for emotions 0 and 1; without it, 0 is right and 1 is not.
    np.testing.assert_allclose(metrics.emotion_accuracy(predictions, 3)[:, 1], [2 / 3, 2 / 3])


def test_recall(predictions):
    np.testing.assert_allclose(metrics.recall(predictions)[:, 1], [[1, 1, 0, 1], [0, 0, 1, 1]])


def test_confusion_rows_are_true_classes(predictions):
    expected = [[1 / 2, 0, 0, 1 / 2], [0, 1 / 2, 0, 1 / 2], [0, 1 / 2, 1 / 2, 0], [0, 0, 0, 1]]
    np.testing.assert_allclose(metrics.confusion(predictions), expected)


def test_log_loss_of_equal_logits_is_log_of_the_number_of_classes(predictions):
    np.testing.assert_allclose(metrics.log_loss(predictions)[:, 0], np.log(4))
    # Of logits 2, 1, 0, 0 (true class first): log(e^2 + e + 2) - 2.
    only = Predictions(np.array([[[[2.0, 1, 0, 0]]]], np.float32), np.array([[0]]))
    np.testing.assert_allclose(metrics.log_loss(only), np.log(np.e**2 + np.e + 2) - 2, rtol=1e-6)


def test_interval_is_students():
    values = np.random.default_rng(0).uniform(size=12)
    low, high = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    interval = results.interval(values)
    np.testing.assert_allclose(interval["mean"], (low + high) / 2, atol=1e-6)
    np.testing.assert_allclose(interval["ci95"], (high - low) / 2, atol=1e-6)


def test_summary_has_every_figure(predictions):
    summary = results.summarise(
        predictions, ("a", "b", "c", "neutral"), 3, np.array([["female", "male", "", ""]] * 2)
    )
    # Of (2, 1, 0, 0) the largest has e^2 / (e^2 + e + 2) = 0.610, of (2, 0, 0, 0) 0.711.
    assert summary["by_confidence"]["of"][61] + summary["by_confidence"]["of"][71] == 8
    assert sum(summary["by_confidence"]["right"]) == 5
    assert summary["by_sex"] == {
        "female": {"right": [1, 0, 0, 0], "of": [2, 0, 0, 0]},
        "male": {"right": [0, 1, 0, 0], "of": [0, 2, 0, 0]},
    }
    assert summary["accuracy"]["mean"] == pytest.approx(5 / 8)
    assert summary["uar"] == summary["accuracy"]  # queries are balanced
    assert summary["recall"] == {"a": 0.5, "b": 0.5, "c": 0.5, "neutral": 1.0}
    assert summary["by_inner_step"]["accuracy"] == pytest.approx([1 / 4, 5 / 8])
    assert summary["by_episode"]["accuracy"] == pytest.approx([3 / 4, 2 / 4])
    assert summary["by_episode"]["emotion_accuracy"] == pytest.approx([2 / 3, 2 / 3], abs=1e-6)
    assert summary["by_episode"]["uar"] == pytest.approx([3 / 4, 2 / 4])


def test_embedding_keeps_the_distances_of_a_plane_and_leaves_out_unknown_classes():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(9, 2)) @ rng.normal(size=(2, 4)) + rng.normal(size=(9, 1))
    softmax_alike = logits - logits.mean(axis=1, keepdims=True)
    points = np.array(results.embed(np.insert(logits, 1, UNKNOWN, axis=1)))
    assert points.shape == (9, 2)
    distance = np.linalg.norm(softmax_alike[:, None] - softmax_alike, axis=-1)
    np.testing.assert_allclose(
        np.linalg.norm(points[:, None] - points, axis=-1), distance, atol=2e-3
    )


def test_confidence_is_the_softmaxs_in_bins_of_a_percent():
    shares = np.array([[0.615, 0.2, 0.185], [0.1, 0.005, 0.895], [0, 0, 1]])
    with np.errstate(divide="ignore"):
        logits = np.log(shares).clip(-100)[None, None].astype(np.float32)
    right, of = metrics.by_confidence(Predictions(logits, np.array([[0, 1, 2]])))
    assert np.flatnonzero(of).tolist() == [61, 89, 99]
    assert np.flatnonzero(right).tolist() == [61, 99]
