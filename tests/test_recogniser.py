"""Enrolment's mathematics: it is F-MAML's where both apply, and says what it is worth."""

import unicodedata
from collections import Counter
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import expit, log_softmax, logsumexp, softmax

from fmaml_jax.common.errors import UserError
from fmaml_jax.data.scale import scaled
from fmaml_jax.learners import fmaml
from fmaml_jax.maml import Task
from fmaml_jax.model import BIAS, CONTEXT, GAMMA, HEAD, model_of
from fmaml_jax.recognition import enrol
from fmaml_jax.recognition.description import describe
from fmaml_jax.recognition.estimate import MOST_FOLDS
from fmaml_jax.recognition.pictures import draw_estimate
from fmaml_jax.recognition.recogniser import (
    CLASS_OFFSET,
    MIXTURE_STEPS,
    MOST_NEARNESS,
    class_weights,
    fit,
    fit_mixtures,
    logits_of_vectors,
    probabilities,
)
from fmaml_jax.recognition.support import read_clip_as
from tests.speech import EMOTIONS


@pytest.fixture(scope="module")
def clips(trained, start):
    """Four clips of each emotion, by four voices."""
    _, speech = trained
    rows = list(zip(speech.paths, speech.labels, speech.speakers, strict=True))
    return [
        read_clip_as(path, label, start, speaker)
        for emotion in EMOTIONS
        for path, label, speaker in [row for row in rows if row[1] == emotion][:4]
    ]


@pytest.fixture(scope="module")
def others(trained, start):
    """Described clips that are in no support: the rest of the emotions, neutral."""
    _, speech = trained
    chosen = [*speech.of("neutral"), *(path for e in EMOTIONS for path in speech.of(e)[4:])]
    return np.stack([read_clip_as(path, "x", start).features for path in chosen])


def adapted(start, clips, same_as=None, without=(), **settings):
    return fit(
        start._replace(config=replace(start.config, **settings)), clips, same_as or {}, without, ()
    )


def logits(recogniser, features):
    return logits_of_vectors(recogniser, scaled(features, recogniser.scale))


def anonymous(clips):
    return [clip._replace(speaker="") for clip in clips]


def linear(start):
    """The start without waves, and some axes in which clips differ much."""
    settings = {"network": "linear", "scaling": "domains", "inner_metric": "sources"}
    axes = np.linalg.qr(np.random.default_rng(0).normal(size=(len(start.scale.mean), 7)))[0]
    return start._replace(
        config=replace(start.config, **settings),
        scale=start.scale._replace(axes=0.9 * axes.astype(np.float32)),
        params={
            HEAD: start.params[HEAD],
            CONTEXT: {"kernel": np.zeros_like(start.params[HEAD]["kernel"][:-1])},
        },
    )


@pytest.mark.parametrize("network", ["fourier", "linear"])
def test_with_k_clips_of_each_emotion_it_is_fmaml(network, start, clips, others):
    start = linear(start) if network == "linear" else start
    config = replace(start.config, support="emotions")
    model = model_of(config, len(start.scale.mean))._replace(axes=start.scale.axes)
    learner = fmaml.make(config, model)
    support = scaled(np.stack([clip.features for clip in clips]), start.scale)
    labels = np.array([config.emotions.index(clip.label) for clip in clips])
    arrays = (support, labels, scaled(others, start.scale), np.zeros(len(others), int))
    task = Task(*map(jnp.asarray, arrays))
    state = jax.tree.map(lambda leaf: leaf[-1], learner.adapt(start.params, task))
    expected = learner.logits(state, task, "inductive")

    found = fit(start, clips, {}, (), ())

    assert found.classes == config.classes
    assert (found.variance == 1).all() == (network == "fourier")
    np.testing.assert_allclose(logits(found, others), expected, rtol=1e-3, atol=1e-3)
    chances = probabilities(found, others)
    np.testing.assert_allclose(
        chances, softmax(logits(found, others) / found.temperature, axis=1), rtol=1e-5
    )


def by_hand(start, clips, classes, others):
    """Logits of `others` by NumPy: context descends on the classes' mean losses, from zero.

    The first classes, which have clips, are the start's or new; others are fixed, without clips.
    """
    config, rng = start.config, np.random.default_rng(0)
    coeffs, head = len(start.scale.mean), np.asarray(start.params[HEAD]["kernel"], float)
    count = len(start.params[CONTEXT]["kernel"]) // 2
    frequencies = rng.normal(scale=np.sqrt(2 * GAMMA / coeffs), size=(coeffs, count))

    def seen(features):
        vectors = scaled(features, start.scale)[:, 0].astype(float)
        waves = vectors @ frequencies
        both = np.hstack([np.cos(waves), np.sin(waves)])
        return np.hstack([vectors / np.sqrt(coeffs), both / np.sqrt(count)])

    labels = np.array([classes.index(clip.label) for clip in clips])
    support = seen(np.stack([clip.features for clip in clips]))
    ways = labels.max() + 1
    centres = [support[labels == label].mean(axis=0) for label in range(ways)]
    for name, own in zip(classes[:ways], centres, strict=True):
        if name in config.classes:
            column = head[:-1, config.classes.index(name)]
            own[:coeffs] -= CLASS_OFFSET * (column - head[:-1, : len(EMOTIONS)].mean(axis=1))
    centre = np.mean(centres, axis=0)

    def columns(features):
        return (features - centre)[:, :coeffs] @ head[:-1] + BIAS * head[-1]

    def log_mixture(clips):
        shares = np.full(head.shape[1], 1 / head.shape[1])
        for _ in range(MIXTURE_STEPS):
            shares = softmax(columns(clips) + np.log(shares), axis=1).mean(axis=0)
        return np.log(shares)

    def split(features):
        found = [
            columns(features)[:, config.classes.index(name)]
            if name in config.classes
            else logsumexp(columns(features) + log_mixture(support[labels == label]), axis=1)
            for label, name in enumerate(classes)
        ]
        return np.column_stack(found), (features - centre)[:, coeffs:]

    begin, waves = split(support)
    of_class = [labels == label for label in range(ways)]
    some_missing = not set(EMOTIONS) <= set(classes[:ways])
    balance = np.zeros(len(classes))
    if some_missing:
        middles = np.mean([begin[own, :ways].mean(axis=0) for own in of_class], axis=0)
        balance[:ways] = middles.mean() - middles

    def near(clip, own_clips):
        means = [support[own][:, :coeffs].mean(axis=0) for own in own_clips]
        return [-MOST_NEARNESS * np.sum((clip[:coeffs] - mean) ** 2) / 2 for mean in means]

    def probable(logits):
        chances = log_softmax(logits[:, :ways], axis=1)[np.arange(len(labels)), labels]
        return len(labels) * np.mean([chances[own].mean() for own in of_class])

    begin += balance
    worth = 0
    if some_missing and np.bincount(labels).min() > 1:
        rest = np.arange(len(labels))
        apart = [
            near(clip, [own & (rest != i) for own in of_class]) for i, clip in enumerate(support)
        ]
        worth = expit(probable(np.array(apart)) - probable(begin))
        begin[:, :ways] += worth * np.array(apart)
    context = np.zeros((2 * count, len(classes)))
    for _ in range(config.test_inner_steps):
        error = softmax((begin + waves @ context)[:, :ways], axis=1) - np.eye(ways)[labels]
        slopes = [
            waves[labels == c].T @ error[labels == c] / (labels == c).sum() for c in range(ways)
        ]
        context[:, :ways] -= config.inner_lr * len(clips) * np.mean(slopes, axis=0)
    begin, waves = split(seen(others))
    distances = np.array([near(clip, of_class) for clip in seen(others)])
    moved = begin + balance
    moved[:, :ways] += worth * (distances - distances.mean(axis=1, keepdims=True))
    raised = logsumexp(moved[:, :ways], axis=1) - logsumexp(begin[:, :ways], axis=1)
    moved[:, :ways] -= raised[:, None] / 2
    bias = [config.fixed_bias * (name in config.fixed) for name in classes]
    bias[:ways] = [0] * ways
    return moved + waves @ context + bias


def test_with_other_numbers_of_clips_it_is_descent_on_the_mean_of_the_classes(start, clips, others):
    """One new class, and 4, 1 and 2 clips; the start's loss is the sum over the clips."""
    few = [*clips[:4], clips[4]._replace(label="awe"), *clips[8:10]]
    found = fit(start, few, {}, ("neutral",), ())
    assert found.classes == ("anger", "awe", "sadness", "silence")
    expected = by_hand(start, few, found.classes, others)
    np.testing.assert_allclose(logits(found, others), expected, rtol=1e-3, atol=1e-3)


def test_where_emotions_are_missing_the_nearest_mean_joins_in(start, clips, others):
    """As far as it is more probable than the start, given a clip that is left out of its mean."""
    pair = [*clips[:3], *(clip._replace(label="awe") for clip in clips[4:6])]
    found = fit(start, pair, {}, ("neutral",), ())
    expected = by_hand(start, pair, found.classes, others)
    np.testing.assert_allclose(logits(found, others), expected, rtol=1e-3, atol=1e-3)
    assert np.any(found.nearness[:-1, :2])


def test_with_clips_of_all_emotions_the_nearest_mean_has_no_say(start, clips):
    found = fit(start, [*clips, *(clip._replace(label="awe") for clip in clips[:3])], {}, (), ())
    np.testing.assert_array_equal(found.nearness, 0)


def test_few_classes_and_fixed_ones_with_clips_make_the_centre(start, trained, clips, others):
    """One emotion that the start knows, less its offset; with it neutral, in the user's word."""
    anger = clips[:4]
    found = fit(start, anger, {}, (), ())
    assert found.classes == ("anger", "neutral", "silence")
    expected = by_hand(start, anger, found.classes, others)
    np.testing.assert_allclose(logits(found, others), expected, rtol=1e-3, atol=1e-3)
    assert "of one class alone" in found.warnings[-1]

    neutral = [read_clip_as(path, "Neutral", start) for path in trained[1].of("neutral")]
    found = fit(start, anger + neutral, {}, (), ())
    assert found.classes == ("anger", "Neutral", "silence")
    classes = ("anger", "neutral", "silence")
    known = [clip._replace(label=clip.label.casefold()) for clip in anger + neutral]
    expected = by_hand(start, known, classes, others)
    np.testing.assert_allclose(logits(found, others), expected, rtol=1e-3, atol=1e-3)


def test_one_emotion_and_neutral_are_told_apart(start, trained):
    """Three clips of each given: of the others as many as by the nearest mean, but for one."""
    speech = trained[1]
    clips = {
        label: [read_clip_as(path, label, start) for path in speech.of(label)]
        for label in (*EMOTIONS, "neutral")
    }
    right, nearest = [], []
    for pair in [(emotion, "neutral") for emotion in EMOTIONS]:
        recogniser = fit(start, [clip for label in pair for clip in clips[label][:3]], {}, (), ())
        asked = np.stack([clip.features for label in pair for clip in clips[label][3:]])
        truth = np.repeat([recogniser.classes.index(label) for label in pair], 3)
        right.append(logits(recogniser, asked)[:, :2].argmax(axis=1) == truth)
        means = [
            scaled(np.stack([clip.features for clip in clips[label][:3]]), start.scale).mean(axis=0)
            for label in recogniser.classes[:2]
        ]
        distances = np.sum((scaled(asked, start.scale)[:, None] - means) ** 2, axis=(2, 3))
        nearest.append(distances.argmin(axis=1) == truth)
    assert np.sum(right) >= np.sum(nearest) - 1


def test_silence_with_clips_does_not_move_the_centre(start, clips):
    far = clips[0].features + 100
    silent = [clips[0]._replace(label="silence", features=far, digest=str(i)) for i in range(2)]
    without, given = fit(start, clips, {}, (), ()), fit(start, clips + silent, {}, (), ())
    np.testing.assert_allclose(given.centre, without.centre, atol=1e-6)


def test_the_classes_given_count_alike_and_as_much_as_their_clips():
    labels = np.array([0, 1, 1, 2, 1])
    given = np.array([[True] * 5, [False, True, False, True, True]])
    expected = [[5 / 3, 5 / 9, 5 / 9, 5 / 3, 5 / 9], [0, 3 / 4, 0, 3 / 2, 3 / 4]]
    np.testing.assert_allclose(class_weights(labels, given), expected, rtol=1e-6)


def test_a_clip_does_not_depend_on_the_others(start, clips, others):
    recogniser = fit(start, clips, {}, (), ())
    together = probabilities(recogniser, np.concatenate([others] * 5))
    for i in (0, 3):
        alone = probabilities(recogniser, others[i : i + 1])
        np.testing.assert_allclose(alone[0], together[i + 2 * len(others)], rtol=1e-5)


def test_a_class_counts_as_much_as_another_however_many_clips_it_has(start, clips, others):
    copies = [clip for clip in clips if clip.label == "fear"]
    once, more = (
        adapted(start, support, support_loss="mean") for support in (clips, clips + 2 * copies)
    )
    assert more.counts == (4, 12, 4, 0, 0)
    np.testing.assert_allclose(logits(once, others), logits(more, others), rtol=1e-3, atol=1e-3)


def test_the_order_of_the_clips_is_of_no_account(start, clips, others):
    forward, backward = fit(start, clips, {}, (), ()), fit(start, clips[::-1], {}, (), ())
    np.testing.assert_allclose(logits(forward, others), logits(backward, others), atol=1e-3)
    np.testing.assert_array_equal(forward.estimate.confusion, backward.estimate.confusion)
    assert forward.provenance == backward.provenance


def test_mixtures_are_found():
    """Clips that two outputs explain in parts of one and three, and a third does not."""
    rng = np.random.default_rng(0)
    outputs = np.full((400, 3), -20.0)
    outputs[np.arange(400), rng.permutation(np.repeat([0, 1], (100, 300)))] = 0
    shares = np.full((400, 1), 1 / 400)
    found = fit_mixtures(jnp.asarray(outputs), jnp.asarray(shares))
    np.testing.assert_allclose(found[:, 0], [1 / 4, 3 / 4, 0], atol=1e-3)


def test_a_new_class_begins_as_what_its_clips_resemble(start, clips, others):
    renamed = [
        clip._replace(label="lęk") if clip.label == "fear" else clip for clip in anonymous(clips)
    ]
    still = {"inner_lr": 1e-9, "fixed_bias": 0.0}
    known, new = adapted(start, clips, **still), adapted(start, renamed, **still)
    assert new.classes == ("anger", "lęk", "sadness", "neutral", "silence")
    assert new.known_as == ("anger", "", "sadness", "neutral", "silence")
    assert "does not know 'lęk'; a label that means fear or neutral is" in new.warnings[0]
    assert "'--same_as=lęk=?'" in new.warnings[0]
    assert not known.warnings
    before = logits(known, others)
    assert new.mixture[:, 1].argmax() == start.config.classes.index("fear")
    assert new.mixture[:, 1].sum() == pytest.approx(1)
    np.testing.assert_array_equal(new.mixture[:, [0, 2, 3, 4]], known.mixture[:, [0, 2, 3, 4]])

    meant = adapted(start, renamed, {unicodedata.normalize("NFD", "LĘK"): "Fear"}, **still)
    assert meant.known_as == ("anger", "fear", "sadness", "neutral", "silence")
    np.testing.assert_allclose(logits(meant, others), before, atol=1e-4)


def test_positions_without_meaning_make_every_emotion_new(start, clips):
    shuffled = adapted(start, clips, positions="shuffled")
    assert shuffled.known_as == ("", "", "", "neutral", "silence")


def test_fixed_classes_come_free_or_with_clips_or_not_at_all(start, trained, clips):
    free = fit(start, clips, {}, (), ())
    np.testing.assert_array_equal(free.bias, [0, 0, 0, 1, 1])
    neutral = [read_clip_as(path, "Neutral", start) for path in trained[1].of("neutral")]
    given = fit(start, [*clips, *neutral], {}, (), ())
    assert given.classes == (*EMOTIONS, "Neutral", "silence")
    assert given.counts == (4, 4, 4, 6, 0)
    np.testing.assert_array_equal(given.bias, [0, 0, 0, 0, 1])
    assert fit(start, clips, {}, ("neutral",), ()).classes == (*EMOTIONS, "silence")


def explicit(start, clips, groups):
    """Answers for each clip by a recogniser that was made without its group."""
    answers = []
    for group in set(groups):
        rest = [clip for clip, own in zip(clips, groups, strict=True) if own != group]
        recogniser = fit(start, rest, {}, (), ())
        asked = [clip for clip, own in zip(clips, groups, strict=True) if own == group]
        found = logits(recogniser, np.stack([clip.features for clip in asked])).argmax(axis=1)
        answers += [
            (clip.label, recogniser.classes[best]) for clip, best in zip(asked, found, strict=True)
        ]
    return Counter(answers)


@pytest.mark.parametrize("left_out", ["clip", "speaker"])
def test_the_estimate_is_of_recognisers_made_without_the_clip_or_speaker(start, clips, left_out):
    if left_out == "clip":
        clips = anonymous(clips)
    # Two wrong labels, so that there are errors to agree on.
    clips = [
        clips[4]._replace(label="anger"),
        *clips[1:4],
        clips[0]._replace(label="fear"),
        *clips[5:],
    ]
    groups = [clip.speaker or clip.digest for clip in clips]
    recogniser = fit(start, clips, {}, (), ())
    classes, estimate = recogniser.classes, recogniser.estimate
    assert estimate.left_out == left_out
    assert estimate.clips == len(clips)
    found = {
        (classes[row], classes[column]): estimate.confusion[row, column]
        for row, column in np.argwhere(estimate.confusion)
    }
    assert found == explicit(start, clips, groups)
    right = np.trace(estimate.confusion)
    assert right < len(clips)
    recalls = estimate.confusion.diagonal() / estimate.confusion.sum(axis=1)
    assert estimate.uar == pytest.approx(recalls.mean())
    low, high = estimate.interval
    assert low < estimate.uar < high


def test_more_clips_than_folds_are_left_out_in_groups(start, clips):
    many = anonymous(clips) * (MOST_FOLDS // len(clips) + 2)
    assert fit(start, many, {}, (), ()).estimate.clips == len(many)


def test_a_class_of_one_speaker_is_not_lost_with_the_speaker(start, clips):
    clips = [c._replace(speaker="A") if c.label == "fear" else c for c in clips]
    recogniser = fit(start, clips, {}, (), ())
    assert recogniser.estimate.left_out == "clip"
    assert "one speaker alone has clips of fear" in recogniser.warnings[0]


def test_the_only_clip_of_a_class_is_not_tested(start, clips):
    clips = anonymous([clip for clip in clips if clip.label != "fear"] + [clips[4]])
    estimate = fit(start, clips, {}, (), ()).estimate
    assert estimate.clips == len(clips) - 1
    assert estimate.confusion[1].sum() == 0
    alone = fit(start, [clips[0], clips[-1]], {}, (), ())
    assert alone.estimate.clips == 0
    assert alone.estimate.interval == (0, 1)
    assert alone.temperature == pytest.approx(1, abs=1e-3)
    assert "nothing can be estimated" in alone.warnings[-1]
    named = fit(start, clips, {}, (), ()).warnings
    assert any("'fear' is not estimated" in warning for warning in named)
    assert "%" not in describe(alone)
    assert draw_estimate(alone).get_suptitle() == "no clip could be left out"


@pytest.mark.parametrize(
    ("labels", "same_as", "without", "sentence"),
    [
        (["joy"] * 3, {}, (), r"all clips are of 'joy'.*\(--same_as=joy=\.\.\.\)"),
        (["fear"], {}, ("neutral", "silence"), "all clips are of 'fear'.* another class too$"),
        (["neutral", "silence"], {}, (), "all clips are of 'neutral', 'silence'"),
        (
            ["anger", "Oboje\u0328tny"],
            {},
            (),
            r"seems to mean neutral.*=neutral;.*--without=neutral\)",
        ),
        (["joy", "no emotion"], {}, ("silence",), "'no emotion' seems to mean neutral"),
        (["joy", "沉默"], {}, ("neutral",), "'沉默' seems to mean silence"),
        (["joy", "awe"], {"hope": "anger"}, (), "no clip is labelled 'hope'"),
        (["joy", "awe"], {"joy": "hope"}, (), "does not know 'hope'; it knows anger, fear"),
        (["joy", "awe"], {"joy": 1000 * "o"}, (), "has 1,000 letters, and a name has at most 80"),
        (["joy", "neutral"], {}, ("neutral",), "neutral cannot be left out"),
    ],
)
def test_what_cannot_be_enrolled_is_refused(start, clips, labels, same_as, without, sentence):
    support = [clips[i]._replace(label=label) for i, label in enumerate(labels)]
    with pytest.raises(UserError, match=sentence):
        enrol(start, support, same_as=same_as, without=without)


def test_no_clips(start, clips):
    with pytest.raises(UserError, match="there are no clips"):
        enrol(start, [])
    with pytest.raises(UserError, match="no clip can be used: the same recording has different"):
        enrol(start, [clips[0], clips[0]._replace(label="fear")])


def test_a_usual_word_for_a_fixed_class_is_what_the_user_says(start, clips):
    renamed = [clip._replace(label="neutre") if clip.label == "fear" else clip for clip in clips]
    meant = enrol(start, renamed, same_as={"neutre": "neutral"})
    assert meant.classes == ("anger", "sadness", "neutre", "silence")
    assert meant.known_as == ("anger", "sadness", "neutral", "silence")
    new = enrol(start, renamed, without=("neutral",))
    assert new.known_as == ("anger", "", "sadness", "silence")


def test_a_name_of_a_fixed_class_may_mean_something_else(start, clips):
    renamed = [clip._replace(label="Neutral") if clip.label == "fear" else clip for clip in clips]
    recogniser = fit(start, renamed, {"neutral": "fear"}, (), ())
    assert recogniser.classes == ("Neutral", "anger", "sadness", "silence")
    assert recogniser.known_as == ("fear", "anger", "sadness", "silence")


def test_no_more_classes_are_told_apart_than_can_be(start, clips):
    many = [
        clips[0]._replace(label=str(number), digest=str(number), file="") for number in range(99)
    ]
    with pytest.raises(UserError, match="99 labels, and with 2 classes that need no clips at most"):
        enrol(start, many)


def test_the_picture_of_many_classes_has_the_most_confused_pairs(start, clips):
    few = fit(start, clips, {}, (), ())
    counts = np.eye(100, dtype=int) * 5
    counts[3, 4], counts[7, 2] = 3, 2
    names = tuple(f"{number:02}" + "w" * 78 for number in range(100))
    many = few._replace(classes=names, estimate=few.estimate._replace(confusion=counts))
    figure = draw_estimate(many)
    assert max(figure.get_size_inches()) < 10
    (axes,) = figure.axes
    named = [label.get_text() for label in axes.get_yticklabels()]
    assert [(name[:2], name.split("→ ")[1][:2]) for name in named] == [("03", "04"), ("07", "02")]
    assert [bar.get_width() for bar in axes.patches] == [3, 2]
    counts[:] = 1
    assert max(draw_estimate(many).get_size_inches()) < 10
    assert max(draw_estimate(few).get_size_inches()) < 10
