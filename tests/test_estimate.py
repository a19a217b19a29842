"""What leaving out in turn says: which clips go together, the interval, the temperature."""

import numpy as np
import pytest
from scipy.special import softmax

from fmaml_jax.recognition.estimate import (
    MOST_FOLDS,
    Folds,
    accuracy_interval,
    estimate_accuracy,
    fit_temperature,
    make_folds,
)


def test_each_clip_is_left_out_but_the_only_one_of_a_class():
    folds = make_folds(np.array([1, 0, 1, 2, 0]), [""] * 5, "abc")
    assert folds.left_out == "clip"
    assert folds.number == 4
    np.testing.assert_array_equal(folds.of_clip, [2, 0, 3, -1, 1])
    assert make_folds(np.array([0, 1]), ["", ""], "ab").number == 0


def test_speakers_are_left_out_whole_where_each_class_has_several():
    labels, speakers = np.array([0, 1, 0, 1, 0, 1]), ["B", "B", "A", "A", "", ""]
    folds = make_folds(labels, speakers, "ab")
    assert folds.left_out == "speaker"
    # A clip whose speaker is unknown is of a voice of its own.
    np.testing.assert_array_equal(folds.of_clip[:4], [3, 3, 2, 2])
    assert set(folds.of_clip[4:]) == {0, 1}
    alone = make_folds(labels, ["B", "B", "A", "B", "A", "B"], "ab")
    assert alone.left_out == "clip"
    assert alone.warnings[0].startswith("one speaker alone has clips of b:")
    assert not make_folds(labels, ["A"] * 6, "ab").warnings


@pytest.mark.parametrize("named", [False, True])
def test_of_too_many_groups_are_left_out(named):
    labels = np.arange(3 * MOST_FOLDS) % 2
    folds = make_folds(labels, [str(clip) if named else "" for clip in range(len(labels))], "ab")
    assert folds.left_out == ("speaker" if named else "clip")
    np.testing.assert_array_equal(np.bincount(folds.of_clip), [3] * MOST_FOLDS)


def test_no_fold_has_all_clips_of_a_class():
    """Of 101 speakers the first and the last are left out together."""
    speakers = [f"{number:03}" for number in range(MOST_FOLDS + 1)]
    labels = np.array([1, *[0] * (MOST_FOLDS - 1), 1])
    assert make_folds(labels, speakers, "ab").left_out == "clip"


def test_clips_that_are_not_left_out_do_not_count():
    logits = np.array([[2.0, 1, 0], [0, 1, 2], [2, 1, 0], [0, 2, 1]])
    labels, folds = np.array([0, 0, 1, 1]), Folds("clip", np.array([0, 1, -1, 2]))
    estimate = estimate_accuracy(logits, labels, folds)
    np.testing.assert_array_equal(estimate.confusion, [[1, 0, 1], [0, 1, 0]])
    assert estimate.accuracy == 2 / 3
    assert estimate.chance == 1 / 2


def test_the_temperature_undoes_overconfidence():
    rng = np.random.default_rng(0)
    true = rng.normal(size=(4000, 4))
    labels = np.array([rng.choice(4, p=p) for p in softmax(true, axis=1)])

    def found(factor, left_out):
        return fit_temperature(factor * true, labels, Folds(left_out, np.arange(4000)))

    for factor in (0.5, 1.0, 3.0):
        assert found(factor, "speaker") == pytest.approx(factor, rel=0.1)
    assert found(0.5, "clip") == pytest.approx(1, abs=1e-3)
    assert found(3, "clip") == pytest.approx(3, rel=0.1)
    few = Folds("speaker", np.where(np.arange(4000) < 3, np.arange(4000), -1))
    assert 1 < fit_temperature(9 * true, (labels + 1) % 4, few) < 9


def test_the_interval_knows_that_clips_of_a_speaker_are_alike():
    rng = np.random.default_rng(1)
    held = {"known": 0, "unknown": 0}
    for _ in range(300):
        skill = np.clip(rng.normal(0.6, 0.2, size=6), 0, 1)
        speakers = np.repeat(np.arange(6), 10)
        right = rng.random(60) < skill[speakers]
        for kind, given in (("known", speakers), ("unknown", None)):
            low, high = accuracy_interval(right, given)
            held[kind] += low <= 0.6 <= high
    assert held["known"] / 300 > 0.9
    assert held["unknown"] / 300 < 0.85
