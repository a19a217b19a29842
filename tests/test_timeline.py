"""A file's segments: where speech is, which label each moment gets, and in how much memory."""

import itertools
import tracemalloc

import numpy as np
import pytest
import soundfile

from data_prep.audio import SAMPLE_RATE, AudioError, read_clip
from fmaml_jax.recognition import predict
from fmaml_jax.recognition.recogniser import fit
from fmaml_jax.recognition.support import read_clip_as
from fmaml_jax.recognition.timeline import (
    CHUNK_SECONDS,
    HOP_SECONDS,
    LEAST_SECONDS,
    MARGIN_CHUNKS,
    PAUSE_CHUNKS,
    STRETCH_SECONDS,
    UNSURE,
    Stretch,
    _chunks,
    _passages,
    _Piece,
    _pieces,
    _without_islands,
    find_speech,
    predict_file,
)
from tests.speech import EMOTIONS

CLASSES = ("low", "high")


def levels(windows):
    """Probability of "high": the share of a window's samples that are above 1."""
    high = np.array([np.mean(np.abs(window) > 1) for window in windows])
    return np.stack([1 - high, high], axis=1)


def piece(start, end, *probabilities):
    return _Piece(start, end, int(np.argmax(probabilities)), np.array(probabilities))


def spoken(trained, seconds, pause=1.0):
    """Speech with pauses, and where the speech is."""
    clips = [read_clip(path) for path in trained[1].paths]
    samples, places, at = [], [], 0.0
    while at < seconds:
        for clip in clips:
            samples += [clip, np.zeros(round(pause * SAMPLE_RATE), np.float32)]
            places.append((at, at + len(clip) / SAMPLE_RATE))
            at = places[-1][1] + pause
            if at >= seconds:
                break
    return np.concatenate(samples), places


def test_chunks_hold_all_samples_whatever_the_blocks():
    samples = np.arange(2000, dtype=np.float32)
    for sizes in ([2000], [1, 511, 513, 975], [1900, 100]):
        blocks = np.split(samples, np.cumsum(sizes)[:-1])
        joined = np.concatenate(list(_chunks(blocks)))
        np.testing.assert_array_equal(joined[:2000], samples)
        assert len(joined) == 2048
        assert not joined[2000:].any()


def test_speech_is_found_where_it_was_put(trained):
    samples, places = spoken(trained, 60)
    stretches = list(find_speech(_chunks([samples])))
    found = np.zeros(len(samples) // 16 + 2000, bool)
    true = found.copy()
    for stretch in stretches:
        first = round(stretch.start * 1000)
        found[first : first + len(stretch.samples) // 16] = True
    for start, end in places:
        true[round(1000 * start) : round(1000 * end)] = True
    assert np.mean(found == true) > 0.9
    for start, end in places:  # none of the clips was missed
        assert found[round(1000 * start) : round(1000 * end)].mean() > 0.6
    for stretch in stretches:  # its samples are those of its place
        first = round(stretch.start * SAMPLE_RATE)
        np.testing.assert_array_equal(
            stretch.samples, samples[first : first + len(stretch.samples)]
        )
    ends = [s.start + len(s.samples) / SAMPLE_RATE for s in stretches]
    for end, after in zip(ends, stretches[1:], strict=False):
        assert after.start >= end - 1e-9
    margins = 2 * MARGIN_CHUNKS * CHUNK_SECONDS
    assert min(len(s.samples) for s in stretches) / SAMPLE_RATE > margins


def test_speech_without_a_pause_is_cut_and_touches(trained):
    clips = [read_clip(path) for path in trained[1].paths]
    loud = [clip[np.flatnonzero(np.abs(clip) > 0.01)[0] :] for clip in clips]
    trimmed = [clip[: np.flatnonzero(np.abs(clip) > 0.01)[-1]] for clip in loud]
    stretches = list(find_speech(_chunks([np.concatenate(trimmed * 2)])))
    lengths = np.array([len(stretch.samples) for stretch in stretches]) / SAMPLE_RATE
    assert lengths.max() <= STRETCH_SECONDS + PAUSE_CHUNKS * CHUNK_SECONDS
    touching = [
        np.isclose(first.start + length, second.start)
        for first, length, second in zip(stretches, lengths, stretches[1:], strict=False)
    ]
    assert any(touching)


def test_a_moment_gets_the_mean_of_the_windows_that_cover_it():
    samples = np.zeros(6 * SAMPLE_RATE, np.float32)
    samples[3 * SAMPLE_RATE :] = 2.0
    pieces = list(_pieces(Stretch(10.0, samples), levels, 0.0))
    assert (pieces[0].start, pieces[-1].end) == (10.0, 16.0)
    for before, after in itertools.pairwise(pieces):
        assert before.end == after.start
    for moment in np.arange(0.5, 6):
        windows = [s for s in (0, 1, 2, 3) if s <= moment < s + 3]
        expected = np.mean([s / 3 for s in windows])  # window s is high from 3 to s + 3
        found = next(p for p in pieces if p.start <= 10 + moment < p.end)
        assert found.probabilities[1] == pytest.approx(expected, abs=1e-4)
    joined = _without_islands(pieces)
    assert [p.label for p in joined] == [0, 1]
    assert joined[0].end == pytest.approx(13.0, abs=HOP_SECONDS)


def test_short_stretches_are_one_window():
    (only,) = _pieces(Stretch(0.0, np.full(8000, 2, np.float32)), levels, 0.0)
    assert (only.start, only.end, only.label) == (0.0, 0.5, 1)


def test_a_last_window_ends_with_the_stretch():
    seen = []

    def classify(windows):
        seen.extend(len(window) for window in windows)
        return levels(windows)

    pieces = list(_pieces(Stretch(0.0, np.zeros(round(4.4 * 16_000), np.float32)), classify, 0.0))
    assert seen == [48_000] * 3
    assert pieces[-1].end == pytest.approx(4.4)


def test_less_probable_than_wanted_is_unsure():
    samples = np.zeros(3 * SAMPLE_RATE, np.float32)
    samples[: len(samples) * 2 // 5] = 2.0  # low has 0.6
    (sure,) = _pieces(Stretch(0.0, samples), levels, 0.59)
    (unsure,) = _pieces(Stretch(0.0, samples), levels, 0.61)
    assert (sure.label, unsure.label) == (0, -1)


def test_islands_join_the_neighbour_that_is_more_like_them():
    pieces = [piece(0, 3, 0.9, 0.1, 0), piece(3, 3.5, 0.4, 0.6, 0), piece(3.5, 6, 0.1, 0.9, 0)]
    first, second = _without_islands(pieces)
    assert (first.end, second.start, second.end) == (3, 3, 6)
    np.testing.assert_allclose(second.probabilities, [0.15, 0.85, 0])  # 0.5 s and 2.5 s
    (between,) = _without_islands([pieces[0], pieces[1], piece(3.5, 6, 0.9, 0.1, 0)])
    assert (between.start, between.end, between.label) == (0, 6, 0)
    (alone,) = _without_islands([piece(0, LEAST_SECONDS / 4, 0.2, 0.8, 0)])
    assert alone.label == 1


def test_pieces_that_do_not_touch_stay_apart():
    pieces = [piece(0, 1, 0.9, 0.1), piece(1, 2, 0.9, 0.1), piece(2.5, 3, 0.9, 0.1)]
    assert [len(passage) for passage in _passages(pieces)] == [2, 1]
    assert list(_passages([])) == []


def test_a_short_file_is_one_clip_even_without_sound(tmp_path):
    soundfile.write(tmp_path / "clip.wav", np.zeros(24_000), 8000)
    found = predict_file(str(tmp_path / "clip.wav"), CLASSES, levels)
    assert (found.seconds, found.classes) == (3.0, CLASSES)
    (segment,) = found.segments
    assert segment == (0.0, 3.0, "low", 1.0, (1.0, 0.0))
    unsure = predict_file(
        str(tmp_path / "clip.wav"), CLASSES, lambda w: np.full((1, 2), 0.5), abstain=0.6
    )
    assert unsure.segments[0][2:4] == (UNSURE, 0.5)


def test_a_long_file_without_speech_has_no_segments(tmp_path):
    soundfile.write(tmp_path / "quiet.wav", np.zeros(20 * 8000), 8000)
    told = []
    found = predict_file(str(tmp_path / "quiet.wav"), CLASSES, levels, report=told.append)
    assert found.segments == ()
    assert found.seconds == 20
    assert told[-1] == 20
    assert not found.envelope.any()


@pytest.fixture(scope="module")
def recording(trained, tmp_path_factory):
    samples, places = spoken(trained, 40)
    path = tmp_path_factory.mktemp("recordings") / "call.flac"
    soundfile.write(path, samples, SAMPLE_RATE)
    return path, samples, places


def test_the_envelope_is_the_waveforms(recording):
    path, samples, _ = recording
    found = predict_file(str(path), CLASSES, levels)
    assert len(found.envelope) == -(-len(samples) // 512)
    peaks = [np.abs(samples[i : i + 512]).max() for i in range(0, len(samples), 512)]
    np.testing.assert_allclose(found.envelope, peaks, atol=1e-4)  # 16-bit FLAC


def test_a_timeline_of_real_answers(recording, trained, start):
    """Clips that the recogniser knows, put together, get their labels back."""
    path, _, places = recording
    _, speech = trained
    support = [
        read_clip_as(clip, label, start)
        for clip, label in zip(speech.paths, speech.labels, strict=True)
        if label in EMOTIONS
    ]
    recogniser = fit(start, support, {}, ("neutral",), ())
    found = predict(recogniser, path)
    assert found.segments == predict(recogniser, path).segments
    right = 0.0
    for (begin, end), label in zip(places, speech.labels, strict=False):
        for segment in found.segments:
            overlap = min(end, segment.end) - max(begin, segment.start)
            right += max(0.0, overlap) * (segment.label == label)
    spoken_seconds = sum(
        end - begin
        for (begin, end), label in zip(places, speech.labels, strict=False)
        if label in EMOTIONS
    )
    assert right / spoken_seconds > 0.7
    for before, after in itertools.pairwise(found.segments):
        assert before.end <= after.start + 1e-9
    for segment in found.segments:
        assert sum(segment.probabilities) == pytest.approx(1, abs=1e-5)


def test_memory_does_not_grow_with_the_length(tmp_path, recording):
    _, samples, _ = recording
    peaks = []
    for repeats in (2, 8):
        path = tmp_path / f"{repeats}.wav"
        soundfile.write(path, np.tile(samples, repeats), SAMPLE_RATE)
        tracemalloc.start()
        predict_file(str(path), CLASSES, levels)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0]


def test_a_recording_that_is_cut_short_is_an_error(tmp_path, recording):
    raw = recording[0].read_bytes()
    (tmp_path / "cut.flac").write_bytes(raw[: len(raw) // 2])
    with pytest.raises(AudioError, match="truncated"):
        predict_file(str(tmp_path / "cut.flac"), CLASSES, levels)
