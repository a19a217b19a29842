"""What leaving out in turn says: which clips go together, the interval, the temperature."""

import numpy as np
import pytest
from scipy.special import softmax
from scipy.stats import binomtest

from fmaml_jax.recognition.estimate import (
    MOST_FOLDS,
    REUSE,
    Folds,
    doubts,
    estimate_recall,
    fit_temperature,
    make_folds,
    recall_interval,
    stretches,
)
from fmaml_jax.recognition.support import LabelledClip


def parts(*rows):
    """Clips as (file, label, begin, end)."""
    return [
        LabelledClip("", label, "", np.zeros((1, 1), np.float32), "", (), file, (begin, end))
        for file, label, begin, end in rows
    ]


def test_parts_without_a_pause_between_them_are_of_one_stretch_of_speech():
    found = stretches(
        parts(
            ("b", "joy", 3.9, 5.0),
            ("a", "joy", 0.0, 9.0),
            ("b", "joy", 0.0, 3.0),
            ("b", "joy", 0.5, 1.0),
            ("b", "awe", 3.0, 3.9),
            ("b", "joy", 6.0, 7.0),
            ("", "joy", 0.0, 1.0),
            ("", "joy", 0.0, 1.0),
        )
    )
    assert found[0] == found[2] == found[3]
    assert len(set(found.tolist())) == 6


def test_a_stretch_is_left_out_whole():
    labels, stretch = np.array([0, 0, 0, 1, 1, 1, 2, 2]), np.array([3, 3, 5, 6, 7, 7, 8, 8])
    folds = make_folds(labels, [""] * 8, stretch, "abc")
    assert folds.left_out == "stretch of speech"
    np.testing.assert_array_equal(folds.of_clip, [0, 0, 1, 0, 1, 1, -1, -1])
    # A clip whose speaker is unknown is of a voice of its own, but not apart from its stretch.
    folds = make_folds(labels[:6], ["A", "", "", "A", "", ""], stretch[:6], "ab")
    assert folds.left_out == "speaker"
    assert folds.of_clip[4] == folds.of_clip[5]
    assert len(set(folds.of_clip.tolist())) == 4


def test_each_clip_is_left_out_but_the_only_one_of_a_class():
    folds = make_folds(np.array([1, 0, 1, 2, 0]), [""] * 5, np.arange(5), "abc")
    assert folds.left_out == "clip"
    assert folds.number == 2
    np.testing.assert_array_equal(folds.of_clip, [0, 0, 1, -1, 1])
    assert make_folds(np.array([0, 1]), ["", ""], np.arange(2), "ab").number == 0


def test_a_fold_leaves_each_class_as_large_as_another():
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(4), 5))
    folds = make_folds(labels, [""] * 20, np.arange(20), "abcd")
    left = np.zeros((folds.number, 4), int)
    np.add.at(left, (folds.of_clip, labels), 1)
    np.testing.assert_array_equal(left, np.ones((5, 4)))


def test_speakers_are_left_out_whole_where_each_class_has_several():
    labels, speakers = np.array([0, 1, 0, 1, 0, 1]), ["B", "B", "A", "A", "", ""]
    folds = make_folds(labels, speakers, np.arange(6), "ab")
    assert folds.left_out == "speaker"
    # A clip whose speaker is unknown is of a voice of its own.
    np.testing.assert_array_equal(folds.of_clip[:4], [3, 3, 2, 2])
    assert set(folds.of_clip[4:]) == {0, 1}
    alone = make_folds(labels, ["B", "B", "A", "B", "A", "B"], np.arange(6), "ab")
    assert alone.left_out == "clip"
    assert alone.warnings[0].startswith("one speaker alone has clips of b:")
    assert not make_folds(labels, ["A"] * 6, np.arange(6), "ab").warnings


@pytest.mark.parametrize("named", [False, True])
def test_of_too_many_groups_are_left_out(named):
    labels = np.arange(3 * MOST_FOLDS) % 2
    speakers = [str(clip) if named else "" for clip in range(len(labels))]
    folds = make_folds(labels, speakers, np.arange(len(labels)), "ab")
    assert folds.left_out == ("speaker" if named else "clip")
    assert folds.number == MOST_FOLDS
    most = 3 if named else 2 * 2  # of each class two
    assert np.bincount(folds.of_clip).max() == most


def test_no_fold_has_all_clips_of_a_class():
    """Of 101 speakers the first and the last are left out together."""
    speakers = [f"{number:03}" for number in range(MOST_FOLDS + 1)]
    labels = np.array([1, *[0] * (MOST_FOLDS - 1), 1])
    assert make_folds(labels, speakers, np.arange(len(labels)), "ab").left_out == "clip"


def test_clips_that_are_not_left_out_do_not_count():
    logits = np.array([[2.0, 1, 0], [0, 1, 2], [2, 1, 0], [0, 2, 1]])
    labels, folds = np.array([0, 0, 1, 1]), Folds("clip", np.array([0, 1, -1, 2]))
    estimate = estimate_recall(logits, labels, folds)
    np.testing.assert_array_equal(estimate.confusion, [[1, 0, 1], [0, 1, 0]])
    assert estimate.uar == 3 / 4
    assert estimate.chance == 1 / 2


def test_a_class_counts_as_much_as_another_and_one_that_is_not_left_out_is_named():
    """Sixty clips of one class and two of another, of which none is recognised; one of a third."""
    labels = np.array([0] * 60 + [1] * 2 + [2])
    logits = np.zeros((63, 3))
    logits[:, 0] = 1
    folds = make_folds(labels, [""] * 63, np.arange(63), "abc")
    estimate = estimate_recall(logits, labels, folds)
    assert estimate.uar == estimate.chance == 1 / 2
    not_estimated, no_better = doubts(estimate, "abc")
    assert "'c' is not estimated, since its only clip cannot be left out" in not_estimated
    assert "not clearly above chance" in no_better

    folds = make_folds(labels[:60], [""] * 60, np.arange(60), "a")
    alone = estimate_recall(logits[:60], labels[:60], folds)
    assert alone.uar == alone.chance == 1
    (of_one,) = doubts(alone, "a")
    assert "of one class alone" in of_one


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


def test_the_interval_is_wilsons_and_of_unequal_numbers_it_holds_what_it_is_of():
    right = np.array([True] * 26 + [False] * 13)
    low, high = recall_interval(right, np.arange(39) // 13, None)
    wilson = binomtest(round(26 / REUSE), round(39 / REUSE)).proportion_ci(method="wilson")
    np.testing.assert_allclose((low, high), (wilson.low, wilson.high))
    rng, labels = np.random.default_rng(0), np.repeat([0, 1, 2], (40, 5, 10))
    recalls = np.array([0.9, 0.3, 0.6])
    held = [
        low <= recalls.mean() <= high
        for low, high in (
            recall_interval(rng.random(55) < recalls[labels], labels, None) for _ in range(300)
        )
    ]
    assert np.mean(held) > 0.92


def test_the_interval_knows_that_clips_of_a_speaker_are_alike():
    rng = np.random.default_rng(1)
    labels = np.arange(60) % 2
    held = {"known": 0, "unknown": 0}
    for _ in range(300):
        skill = np.clip(rng.normal(0.6, 0.2, size=6), 0, 1)
        speakers = np.repeat(np.arange(6), 10)
        right = rng.random(60) < skill[speakers]
        for kind, given in (("known", speakers), ("unknown", None)):
            low, high = recall_interval(right, labels, given)
            held[kind] += low <= 0.6 <= high
    assert held["known"] / 300 > 0.9
    assert held["unknown"] / 300 < 0.85


def test_where_the_files_are_says_nothing_of_what_is_left_out_together():
    def numbers(*files):
        return stretches(parts(*((file, "joy", 0.0, 1.0) for file in files))).tolist()

    assert numbers("/a", "/b", "/c", "/a") == numbers("/9", "/4", "/6", "/9")


def test_clips_in_memory_are_left_out_in_their_order_as_files_are():
    def numbers(*files):
        ends = (3.0, 1.0, 2.0)
        rows = [(file, "joy", 0.0, end) for file, end in zip(files, ends, strict=True)]
        return stretches(parts(*rows)).tolist()

    assert numbers("", "", "") == numbers("/a", "/b", "/c") == [0, 1, 2]
