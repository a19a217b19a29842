"""Speakers' offsets, speakers that are found, and models for clips by speaker."""

import csv

import numpy as np
import pytest

from fmaml_jax.audio.decoding import read_clip
from fmaml_jax.audio.descriptors import DescriptorConfig
from fmaml_jax.audio.features import extract
from fmaml_jax.common import archive
from fmaml_jax.common.errors import UserError
from fmaml_jax.encoder import weights
from fmaml_jax.recognition import enrol, load, predict_folder, save, voices
from fmaml_jax.recognition.recogniser import probabilities_by_speaker
from fmaml_jax.recognition.speakers import Turn
from fmaml_jax.recognition.support import read_support
from fmaml_jax.recognition.voices import PRIOR_CLIPS, answers, by_labels, find_speakers, offsets
from tests.commands import run_module
from tests.test_encoder import original_tensors

EMOTIONS, COEFFS = 3, 12
MEANS = 4 * np.eye(EMOTIONS, COEFFS, dtype=np.float32)


def folder(labels, groups, seed=0, voice=6.0):
    """Clips of voices that differ by more than the emotions do."""
    rng = np.random.default_rng(seed)
    of_voice = voice * rng.normal(size=(groups.max() + 1, COEFFS))
    noise = 0.3 * rng.normal(size=(len(labels), COEFFS))
    return (MEANS[labels] + of_voice[groups] + noise).astype(np.float32), of_voice


def by_distance(vectors):
    return -((vectors[:, None] - MEANS) ** 2).sum(axis=2) / 2


def recall(logits, labels):
    right = logits.argmax(axis=1) == labels
    return np.mean([right[labels == label].mean() for label in set(labels.tolist())])


def test_offsets_are_those_of_a_ridge_regression_on_the_speakers():
    labels = np.array([0, 1, 2, 0, 0, 1, 2])
    groups = np.array([0, 0, 0, 1, 1, 2, -1])
    vectors, _ = folder(labels, groups)
    found = offsets(vectors, groups, np.eye(EMOTIONS)[labels], MEANS)
    design = np.eye(3)[groups] * (groups >= 0)[:, None]
    solution = np.linalg.solve(
        design.T @ design + PRIOR_CLIPS * np.eye(3), design.T @ (vectors - MEANS[labels])
    )
    np.testing.assert_allclose(found, solution, rtol=1e-4, atol=1e-5)


def test_silence_has_no_voice():
    labels, groups = np.array([0, 1, 2, 0]), np.zeros(4, int)
    vectors, _ = folder(labels, groups)
    with_silence = np.concatenate([vectors, np.full((1, COEFFS), 1e3, np.float32)])
    chances = np.concatenate([np.eye(EMOTIONS)[labels], np.zeros((1, EMOTIONS))])
    np.testing.assert_allclose(
        offsets(with_silence, np.zeros(5, int), chances, MEANS),
        offsets(vectors, groups, np.eye(EMOTIONS)[labels], MEANS),
        rtol=1e-5,
    )


def test_the_emotion_of_a_voice_that_has_one_alone_stays():
    labels, groups = np.repeat(1, 20), np.zeros(20, int)
    vectors, (voice,) = folder(labels, groups)
    (found,) = offsets(vectors, groups, np.eye(EMOTIONS)[labels], MEANS)
    share = 20 / (20 + PRIOR_CLIPS)
    np.testing.assert_allclose(found, share * voice, atol=0.3)
    plain = share * vectors.mean(axis=0)  # which takes the emotion for the voice
    assert np.abs(plain - share * voice).max() > 3


@pytest.mark.parametrize("skew", [1, 5])
def test_a_folder_gains_also_where_one_class_is_five_times_another(skew):
    labels = np.concatenate([np.tile([0, 1, 2], 5), np.zeros(5 * (skew - 1), int)])
    every, groups = np.tile(labels, 4), np.repeat(np.arange(4), len(labels))
    vectors, _ = folder(every, groups, voice=2.5)
    speech = np.ones(EMOTIONS, bool)
    together = answers(vectors, groups, by_distance, MEANS, speech)
    alone = answers(vectors, np.full(len(groups), -1), by_distance, MEANS, speech)
    np.testing.assert_array_equal(alone, by_distance(vectors))
    assert recall(alone, every) < 0.97
    assert recall(together, every) > recall(alone, every)
    order = np.random.default_rng(1).permutation(len(every))
    renamed = np.array([2, 0, 3, 1])[groups]
    np.testing.assert_allclose(
        answers(vectors[order], renamed[order], by_distance, MEANS, speech),
        together[order],
        rtol=1e-3,
        atol=1e-2,
    )


def test_labelled_clips_lose_their_voices_and_classes_without_clips_lie_by_the_start():
    labels, groups = np.tile([0, 1, 2], 20), np.repeat(np.arange(4), 15)
    vectors, _ = folder(labels, groups)
    chances = np.eye(EMOTIONS + 1, dtype=np.float32)[labels]
    beside = np.zeros((EMOTIONS + 1, COEFFS), np.float32)
    beside[-1, -1] = 5.0
    found, means = by_labels(vectors, groups, chances, beside)
    for label in range(EMOTIONS):
        own, same = found[labels == label], vectors[labels == label]
        assert own.std(axis=0).mean() < 0.4 * same.std(axis=0).mean()
    between = (means[:EMOTIONS] - means[:EMOTIONS].mean(axis=0)) @ MEANS.T
    np.testing.assert_array_equal(between.argmax(axis=1), np.arange(EMOTIONS))
    middle = np.array([found[labels == label].mean(axis=0) for label in range(EMOTIONS)])
    np.testing.assert_allclose(
        means[-1], middle.mean(axis=0) + voices.START * beside[-1], atol=0.05
    )


def test_speakers_are_found_whatever_the_order():
    rng = np.random.default_rng(0)
    true = np.repeat(np.arange(5), 8)
    embeddings = rng.normal(size=(5, 192))[true] + 0.5 * rng.normal(size=(40, 192))
    found = find_speakers(embeddings)
    np.testing.assert_array_equal(found[:, None] == found, true[:, None] == true)
    order = rng.permutation(40)
    shuffled = find_speakers(embeddings[order])
    np.testing.assert_array_equal(
        shuffled[:, None] == shuffled, found[order][:, None] == found[order]
    )
    np.testing.assert_array_equal(find_speakers(embeddings[:1]), [0])


def test_too_many_clips_are_refused(monkeypatch):
    monkeypatch.setattr(voices, "MOST_CLIPS", 3)
    with pytest.raises(UserError, match="at most, and there are 4; give fewer recordings at once"):
        find_speakers(np.ones((4, 192)))


@pytest.fixture(scope="module")
def table(trained, tmp_path_factory):
    """A CSV of labelled clips and their speakers, and the clips to recognise."""
    _, speech = trained
    path = tmp_path_factory.mktemp("labelled") / "clips.csv"
    rows = [*zip(speech.paths, speech.labels, speech.speakers, strict=True)]
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("file", "label", "speaker"), *rows[:12]])
    return path, speech.paths[12:18]


@pytest.fixture(scope="module")
def weights_file(tmp_path_factory):
    """A small network like CAM++, with random weights."""
    path = tmp_path_factory.mktemp("encoder") / "small.npz"
    archive.write(path, weights.convert(original_tensors()))
    return path


def keys(path):
    return archive.read(path, "")[0].keys()


@pytest.mark.slow
def test_models_for_clips_by_speaker_hold_no_voice(start, table, weights_file, tmp_path):
    support, paths = table
    start = start._replace(encoder=str(weights_file))
    plain = enrol(start, support)
    by_name = enrol(start, support, speakers="known")
    by_ear = enrol(start, support, speakers="found")
    for name, recogniser in (("plain", plain), ("name", by_name), ("ear", by_ear)):
        save(recogniser, tmp_path / name)
    assert keys(tmp_path / "name") == keys(tmp_path / "ear") == {*keys(tmp_path / "plain"), "means"}
    for array in archive.read(tmp_path / "ear", "")[0].values():
        assert 192 not in array.shape
    loaded = load(tmp_path / "ear", str(weights_file))
    found = predict_folder(loaded, paths, speakers="found")
    again = predict_folder(loaded, paths[::-1], speakers="found")[::-1]
    for first, second in zip(found, again, strict=True):
        (one,), (other,) = first.segments, second.segments
        np.testing.assert_allclose(one.probabilities, other.probabilities, atol=1e-4)
    with pytest.raises(UserError, match="not for clips by speaker; enrol again with --speakers"):
        predict_folder(plain, paths, speakers="file")


@pytest.mark.slow
def test_clips_by_speaker_are_answered_by_all_of_theirs(start, table):
    support, paths = table
    recogniser = enrol(start, support, speakers="known")
    everywhere = {path: [Turn(0, np.inf, "Ann")] for path in paths}
    named = predict_folder(recogniser, paths, speakers="named", turns=everywhere)
    apart = predict_folder(recogniser, paths, speakers="named_by_file", turns=everywhere)
    by_file = predict_folder(recogniser, paths, speakers="file")
    as_one = predict_folder(recogniser, paths, speakers="folder")
    assert all(prediction.speakers == ("Ann",) for prediction in named)
    features = np.stack([extract(read_clip(path).samples, DescriptorConfig()) for path in paths])
    for found, groups in (
        (named, np.zeros(6, int)),
        (apart, np.arange(6)),
        (by_file, np.arange(6)),
        (as_one, np.zeros(6, int)),
    ):
        expected = probabilities_by_speaker(recogniser, features, groups)
        chances = [prediction.segments[0].probabilities for prediction in found]
        np.testing.assert_allclose(chances, expected, atol=1e-5)


def test_what_cannot_be_enrolled_by_speaker(start, table, tmp_path):
    support, _ = table
    with pytest.raises(UserError, match="speakers are found in sound alone"):
        enrol(start, read_support(support, start), speakers="found")
    nameless = [clip._replace(speaker="") for clip in read_support(support, start)]
    with pytest.raises(UserError, match="no clip has a speaker; name them in a CSV's column"):
        enrol(start, nameless, speakers="known")
    one = [clip._replace(speaker="Ann") for clip in nameless]
    as_one = enrol(start, nameless, speakers="folder")
    np.testing.assert_array_equal(as_one.means, enrol(start, one, speakers="known").means)
    missing = start._replace(encoder=str(tmp_path / "no.npz"))
    with pytest.raises(UserError, match=r"no\.npz .*get it with .*fetch_encoder"):
        enrol(missing, support, speakers="found")


@pytest.mark.slow
def test_the_commands_take_speakers_into_account(trained, table, tmp_path):
    support, paths = table
    for name, flags in (("plain", ()), ("known", ("--speakers=known",))):
        done = run_module(
            "fmaml_jax.enrol",
            *(f"--checkpoint={trained[0]}", f"--support={support}", f"--out={tmp_path / name}"),
            *flags,
        )
        assert not done.returncode, done.stderr
    (tmp_path / "empty.wav").touch()
    heard = *paths, tmp_path / "empty.wav"
    done = run_module(
        "fmaml_jax.predict", f"--model={tmp_path / 'known'}", "--speakers=file", *heard
    )
    assert done.returncode == 2
    assert "empty.wav cannot be used" in done.stderr
    found = predict_folder(load(tmp_path / "known"), paths, speakers="file")
    labels = [row["label"] for row in csv.DictReader(done.stdout.splitlines())]
    assert labels == [prediction.segments[0].label for prediction in found]
    done = run_module("fmaml_jax.predict", f"--model={tmp_path / 'known'}", paths[0])
    assert "is for clips by speaker" in done.stderr
    done = run_module(
        "fmaml_jax.predict", f"--model={tmp_path / 'plain'}", "--speakers=file", *paths
    )
    assert done.returncode == 2
    assert (
        "leave out --speakers=file, or enrol again with --speakers=known, found or folder"
        in done.stderr
    )
