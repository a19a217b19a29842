"""A file's segments: where speech is, which label each moment gets, and in how much memory."""

import io
import itertools
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
import soundfile

from fmaml_jax.audio.decoding import SAMPLE_RATE, AudioError, read_clip
from fmaml_jax.audio.quality import FAR_FROM_SPEECH, NO_SPEECH, QUIET
from fmaml_jax.audio.voice_activity import CHUNK, Heard, hear, in_chunks
from fmaml_jax.common.errors import UserError
from fmaml_jax.recognition import predict, timeline
from fmaml_jax.recognition.formats import FORMATS
from fmaml_jax.recognition.recogniser import fit
from fmaml_jax.recognition.recordings import find_recordings, predict_each
from fmaml_jax.recognition.support import read_clip_as
from fmaml_jax.recognition.timeline import (
    AHEAD,
    CLIP_SECONDS,
    HOP,
    LEAST,
    LEAST_CHUNKS,
    MARGIN_CHUNKS,
    PAUSE_CHUNKS,
    STRETCH_CHUNKS,
    UNSURE,
    WINDOW,
    Segment,
    Span,
    Stretch,
    _described,
    _merged,
    _Piece,
    _pieces,
    _without_islands,
    find_speech,
)
from tests.speech import EMOTIONS
from tests.test_prepare import SHARED, needs_shared

CLASSES = ("low", "high")


def levels(windows):
    """Probability of "high": the share of a window's samples that are above 1."""
    high = np.array([np.mean(np.abs(window) > 1) for window in windows])
    return np.stack([1 - high, high], axis=1)


def cut(sounds, windows):
    return [
        samples[begin:end]
        for samples, edges in zip(sounds, windows, strict=True)
        for begin, end in zip(*edges, strict=True)
    ]


def predict_file(path, classes, describe, classify, abstain=0.0, **how):
    """Labels a file by the probabilities that `classify` gives each window."""
    listened = timeline.listen(path, classes, describe, classify, **how)
    return timeline.label(listened, listened.found, abstain)


def piece(start, end, *probabilities):
    """Of seconds."""
    start, end = round(start * SAMPLE_RATE), round(end * SAMPLE_RATE)
    return _Piece(start, end, int(np.argmax(probabilities)), np.array(probabilities))


def pieces_of(samples, abstain=0.0, start=0):
    stretch = Stretch(start, samples)
    (((found,), windows),) = _described([stretch], cut, None)
    assert found is stretch
    return list(
        _pieces(Span(stretch.start, stretch.windows(), stretch.speaker), levels(windows), abstain)
    )


def seconds(pieces):
    return [(piece.start / SAMPLE_RATE, piece.end / SAMPLE_RATE) for piece in pieces]


def heard(*runs):
    """Chunks that say their number, from runs of (how many, chance of speech)."""
    chances = [chance for count, chance in runs for _ in range(count)]
    return [Heard(np.full(CHUNK, i, np.float32), chance) for i, chance in enumerate(chances)]


def places(recording):
    """Where stretches begin and end, in chunks; their samples are those of their place."""
    stretches = list(find_speech(recording))
    for stretch in stretches:
        first, count = stretch.start // CHUNK, len(stretch.samples) // CHUNK
        expected = np.repeat(np.arange(first, first + count), CHUNK)
        np.testing.assert_array_equal(stretch.samples, expected)
    return [(s.start // CHUNK, (s.start + len(s.samples)) // CHUNK) for s in stretches]


def spoken(trained, length, pause=1.0):
    """Speech with pauses, at least `length` seconds, and where the speech is."""
    clips = [read_clip(path).samples for path in trained[1].paths]
    samples, truth, at = [], [], 0.0
    while at < length:
        for clip in clips:
            samples += [clip, np.zeros(round(pause * SAMPLE_RATE), np.float32)]
            truth.append((at, at + len(clip) / SAMPLE_RATE))
            at = truth[-1][1] + pause
            if at >= length:
                break
    return np.concatenate(samples), truth


# ------------------------------------------------------------------------------ speech


def test_chunks_hold_all_samples_whatever_the_blocks():
    samples = np.arange(2000, dtype=np.float32)
    for sizes in ([2000], [1, 511, 513, 975], [1900, 100]):
        blocks = np.split(samples, np.cumsum(sizes)[:-1])
        chunks = list(in_chunks(blocks))
        assert [len(chunk) for chunk in chunks] == [512, 512, 512, 464]
        np.testing.assert_array_equal(np.concatenate(chunks), samples)


def test_a_stretch_has_margins_and_bridges_short_pauses():
    pause = PAUSE_CHUNKS
    assert places(heard((20, 0.1), (30, 0.9), (20, 0.1))) == [(17, 53)]
    assert places(heard((1, 0.1), (30, 0.9), (1, 0.1))) == [(0, 32)]  # as far as there is a file
    bridged = heard((20, 0.1), (30, 0.9), (pause - 1, 0.1), (30, 0.9), (20, 0.1))
    assert places(bridged) == [(17, 20 + 30 + pause - 1 + 30 + 3)]
    apart = heard((20, 0.1), (30, 0.9), (pause, 0.1), (30, 0.9), (20, 0.1))
    assert places(apart) == [(17, 53), (50 + pause - 3, 50 + pause + 30 + 3)]
    assert places([]) == []


def test_speech_begins_and_ends_at_its_own_thresholds():
    between = 0.4
    assert places(heard((50, between))) == []
    assert places(heard((10, between), (10, 0.9), (30, between), (20, 0.1))) == [(7, 53)]


def test_a_cough_is_no_speech():
    assert places(heard((20, 0.1), (LEAST_CHUNKS - 1, 0.9), (20, 0.1))) == []
    assert len(places(heard((20, 0.1), (LEAST_CHUNKS, 0.9), (20, 0.1)))) == 1


def test_speech_without_a_pause_is_cut_where_it_is_least():
    recording = heard((600, 0.9), (1, 0.6), (3000, 0.9), (1, 0.2), (20, 0.9), (100, 0.0))
    (first, *rest) = places(recording)
    assert first == (0, 600)
    for before, after in itertools.pairwise([first, *rest]):
        assert before[1] == after[0]
    assert rest[-1][1] == 600 + 1 + 3000 + 1 + 20 + MARGIN_CHUNKS
    lengths = [end - start for start, end in [first, *rest]]
    assert max(lengths) <= STRETCH_CHUNKS
    assert min(lengths) >= WINDOW // CHUNK - PAUSE_CHUNKS  # what follows a cut is no scrap


def check_speech(samples, truth, recall):
    """Speech is found where it was put, to a resolution of a millisecond."""
    found, true = (np.zeros(len(samples) // 16 + 1, bool) for _ in range(2))
    end = 0
    for stretch in find_speech(hear(in_chunks([samples]))):
        assert stretch.start >= end
        end = stretch.start + len(stretch.samples)
        np.testing.assert_array_equal(stretch.samples, samples[stretch.start : end])
        found[stretch.start // 16 : end // 16] = True
    for start, end in truth:
        true[round(1000 * start) : round(1000 * end)] = True
        assert found[round(1000 * start) : round(1000 * end)].mean() > recall
    assert np.mean(found == true) > 0.9


def test_synthetic_speech_is_found_where_it_was_put(trained):
    check_speech(*spoken(trained, 60), recall=0.6)


def spoken_seconds(samples):
    return sum(len(s.samples) for s in find_speech(hear(in_chunks([samples])))) / SAMPLE_RATE


def at_level(samples, decibels):
    """As a file of 16 bits has them whose root mean square is so far below full scale."""
    level = 10 ** (decibels / 20) / np.sqrt(np.mean(samples**2))
    return (np.round(samples * level * 32768) / 32768).astype(np.float32)


def test_quiet_speech_is_found_after_a_loud_sound(trained):
    loud, _ = spoken(trained, 15)
    knock = np.zeros(20 * SAMPLE_RATE, np.float32)
    knock[1000:4000] = 0.5
    recording = np.concatenate([knock, at_level(loud, -66)])
    assert spoken_seconds(recording) == pytest.approx(spoken_seconds(loud), rel=0.02)


@pytest.mark.slow
@needs_shared
def test_real_speech_that_is_quiet_is_found_as_when_it_is_loud():
    files = sorted((SHARED / "corpora" / "ravdess").rglob("*.flac"))[::60]
    samples = np.concatenate([read_clip(file).samples for file in files])
    loud, quiet = (spoken_seconds(at_level(samples, level)) for level in (-20, -45))
    assert quiet == pytest.approx(loud, rel=0.02)


@needs_shared
def test_real_speech_is_found_where_it_was_put():
    files = sorted((SHARED / "corpora" / "emodb").rglob("*.flac"))[::50]
    samples, truth, at = [], [], 0.0
    for clip in (read_clip(file).samples for file in files):
        samples += [clip, np.zeros(SAMPLE_RATE, np.float32)]
        truth.append((at, at + len(clip) / SAMPLE_RATE))
        at = truth[-1][1] + 1
    check_speech(np.concatenate(samples), truth, recall=0.7)


# ----------------------------------------------------------------------------- moments


def test_a_moment_gets_the_mean_of_the_windows_that_cover_it():
    samples = np.zeros(6 * SAMPLE_RATE, np.float32)
    samples[3 * SAMPLE_RATE :] = 2.0
    pieces = pieces_of(samples, start=10 * SAMPLE_RATE)
    assert (pieces[0].start, pieces[-1].end) == (10 * SAMPLE_RATE, 16 * SAMPLE_RATE)
    for before, after in itertools.pairwise(pieces):
        assert before.end == after.start
    for moment in np.arange(0.5, 6):
        windows = [s for s in (0, 1, 2, 3) if s <= moment < s + 3]
        expected = np.mean([s / 3 for s in windows])  # window s is high from 3 to s + 3
        at = (10 + moment) * SAMPLE_RATE
        found = next(p for p in pieces if p.start <= at < p.end)
        assert found.probabilities[1] == pytest.approx(expected, abs=1e-4)
    joined = _without_islands(pieces)
    assert [p.label for p in joined] == [0, 1]
    assert joined[0].end == pytest.approx(13 * SAMPLE_RATE, abs=HOP)


def test_short_stretches_are_one_window():
    (only,) = pieces_of(np.full(8000, 2, np.float32))
    assert (only.start, only.end, only.label) == (0, 8000, 1)


def test_a_last_window_ends_with_the_stretch():
    stretch = Stretch(0, np.zeros(70_400, np.float32))
    starts, ends = stretch.windows()
    assert (ends - starts).tolist() == [48_000] * 3
    assert ends[-1] == 70_400
    assert pieces_of(stretch.samples)[-1].end == 70_400


def test_less_probable_than_wanted_is_unsure():
    samples = np.zeros(3 * SAMPLE_RATE, np.float32)
    samples[: len(samples) * 2 // 5] = 2.0  # low has 0.6
    (sure,) = pieces_of(samples, 0.59)
    (unsure,) = pieces_of(samples, 0.61)
    assert (sure.label, unsure.label) == (0, -1)


def test_islands_join_the_neighbour_that_is_more_like_them():
    pieces = [piece(0, 3, 0.9, 0.1, 0), piece(3, 3.5, 0.4, 0.6, 0), piece(3.5, 6, 0.1, 0.9, 0)]
    joined = _without_islands(pieces)
    assert seconds(joined) == [(0, 3), (3, 6)]
    np.testing.assert_allclose(joined[1].probabilities, [0.15, 0.85, 0])  # 0.5 s and 2.5 s
    (between,) = _without_islands([pieces[0], pieces[1], piece(3.5, 6, 0.9, 0.1, 0)])
    assert (*seconds([between]), between.label) == ((0, 6), 0)
    short = LEAST / SAMPLE_RATE / 4
    (alone,) = _without_islands([piece(0, short, 0.2, 0.8, 0)])
    assert alone.label == 1


@pytest.mark.parametrize("start", [0.0, 0.256, 3.456, 35_999.968])
def test_a_label_of_just_the_least_length_stays_wherever_it_is(start):
    edges = start + np.array([0, 2, 3, 5])
    answers = ((0.9, 0.1), (0.2, 0.8), (0.9, 0.1))
    pieces = [piece(*edges[i : i + 2], *answer) for i, answer in enumerate(answers)]
    assert [p.label for p in _without_islands(pieces)] == [0, 1, 0]


def test_neighbours_of_a_label_are_one_only_where_they_touch():
    pieces = [piece(0, 1, 0.9, 0.1), piece(1, 2, 0.7, 0.3), piece(2.5, 3, 0.9, 0.1)]
    first, second = _merged(pieces)
    assert seconds([first, second]) == [(0, 2), (2.5, 3)]
    np.testing.assert_allclose(first.probabilities, [0.8, 0.2])
    assert list(_merged([])) == []


# ------------------------------------------------------------------------------- files


def test_a_short_file_is_one_clip_even_without_sound(tmp_path):
    soundfile.write(tmp_path / "clip.wav", np.zeros(24_000), 8000)
    found = predict_file(str(tmp_path / "clip.wav"), CLASSES, cut, levels)
    assert (found.seconds, found.classes) == (3.0, CLASSES)
    (segment,) = found.segments
    assert segment == Segment(0.0, 3.0, "low", 1.0, (1.0, 0.0))
    unsure = predict_file(
        str(tmp_path / "clip.wav"), CLASSES, cut, lambda w: np.full((1, 2), 0.5), abstain=0.6
    )
    assert unsure.segments[0][2:4] == (UNSURE, 0.5)


def test_a_long_file_without_speech_is_answered_as_its_beginning_is(tmp_path):
    samples = np.zeros(20 * 8000)
    samples[:4000] = 2.0
    told = []
    for name, count in (("long", None), ("short", 15 * 8000)):
        soundfile.write(tmp_path / f"{name}.wav", samples[:count], 8000, "FLOAT")
    short, long = (
        predict_file(str(tmp_path / f"{name}.wav"), CLASSES, cut, levels, report=told.append)
        for name in ("short", "long")
    )
    assert long.segments == (short.segments[0]._replace(end=20.0),)
    assert short.segments[0].probabilities[1] == pytest.approx(0.5 / 15, rel=0.01)
    assert NO_SPEECH in short.warnings
    assert NO_SPEECH in long.warnings
    assert long.seconds == 20
    assert told[-1] == 20
    soundfile.write(tmp_path / "nothing.wav", np.zeros(20 * 8000), 8000)
    nothing = predict_file(str(tmp_path / "nothing.wav"), CLASSES, cut, levels)
    assert not nothing.envelope.any()
    assert {QUIET, NO_SPEECH} <= set(nothing.warnings)


def test_a_file_is_a_clip_up_to_fifteen_seconds(tmp_path, trained):
    """One sample more is a recording, whose windows are shorter."""
    speech = np.resize(spoken(trained, 16)[0], 15 * SAMPLE_RATE + 1)
    for count, longest in ((15 * SAMPLE_RATE, 15 * SAMPLE_RATE), (len(speech), WINDOW)):
        lengths = []
        soundfile.write(tmp_path / "a.wav", speech[:count], SAMPLE_RATE)

        def describe(sounds, windows, lengths=lengths):
            lengths += map(len, cut(sounds, windows))
            return cut(sounds, windows)

        predict_file(str(tmp_path / "a.wav"), CLASSES, describe, levels)
        assert max(lengths) == longest


@pytest.mark.parametrize(("samples", "rate"), [(1, 48_000), (6, 16_000)])
def test_a_file_without_a_millisecond_is_refused(tmp_path, samples, rate):
    soundfile.write(tmp_path / "short.wav", np.ones(samples), rate)
    with pytest.raises(AudioError, match=r"empty \(shorter than a millisecond"):
        predict_file(str(tmp_path / "short.wav"), CLASSES, cut, levels)


def test_every_format_holds_a_clip_of_a_millisecond(tmp_path):
    soundfile.write(tmp_path / "short.wav", np.ones(16), 16_000)
    found = predict_file(str(tmp_path / "short.wav"), CLASSES, cut, levels)
    for written in FORMATS.values():
        written.write([found], file := io.StringIO())
        assert "low" in file.getvalue()


def test_files_of_less_than_a_second_count_for_progress(tmp_path, recogniser, capsys):
    for number, length in enumerate((0.2, 0.9, 1.1)):
        soundfile.write(tmp_path / f"{number}.wav", np.ones(round(8000 * length)) / 2, 8000)
    (tmp_path / "3.wav").touch()
    found = find_recordings([str(tmp_path)])
    assert [recording.seconds for recording in found] == [1, 1, 2, 0]
    done = []
    assert len(list(predict_each(partial(predict, recogniser), found, None, "", done))) == 3
    assert "100% 4/4" in capsys.readouterr().err.splitlines()[-1]
    assert done[3] is None


@pytest.fixture(scope="module")
def recording(trained, tmp_path_factory):
    samples, truth = spoken(trained, 40)
    path = tmp_path_factory.mktemp("recordings") / "call.flac"
    soundfile.write(path, samples, SAMPLE_RATE)
    return path, samples, truth


def test_the_envelope_is_the_waveforms(recording):
    path, samples, _ = recording
    found = predict_file(str(path), CLASSES, cut, levels)
    assert len(found.envelope) == -(-len(samples) // 512)
    peaks = [np.abs(samples[i : i + 512]).max() for i in range(0, len(samples), 512)]
    np.testing.assert_allclose(found.envelope, peaks, atol=1e-4)  # 16-bit FLAC


def test_true_answers_give_the_true_boundaries(tmp_path, trained):
    """Speech that is of one class for 20 s, of the other after that, and breaks off in a word.

    The class is written where nobody hears it: in the last bits of the samples.
    """
    speech = np.concatenate([read_clip(path).samples for path in trained[1].paths])
    change = 20 * SAMPLE_RATE
    stop = 35 * SAMPLE_RATE + int(np.abs(speech[35 * SAMPLE_RATE :]).argmax()) // 512 * 512 + 100
    marked = np.round(speech[:stop] * 4096) + 0.5 * (np.arange(stop) >= change)
    above = int(marked.sum())  # without a constant offset the last bits are left alone
    marked = (marked - above // stop - (np.arange(stop) < above % stop)) / 4096
    soundfile.write(tmp_path / "a.wav", marked, SAMPLE_RATE, subtype="FLOAT")

    def classify(windows):
        high = np.array([np.mean(window * 4096 % 1 > 0.25) for window in windows])
        return np.stack([1 - high, high], axis=1)

    found = predict_file(str(tmp_path / "a.wav"), CLASSES, cut, classify)
    labels = [segment.label for segment in found.segments]
    assert labels == sorted(labels, reverse=True)  # low, then high
    after = labels.index("high")
    before_change = found.segments[after - 1].end
    assert before_change == pytest.approx(20, abs=HOP / SAMPLE_RATE)
    assert found.segments[after].start == pytest.approx(20, abs=HOP / SAMPLE_RATE)
    assert sum(s.end - s.start for s in found.segments) > 0.6 * found.seconds
    assert found.segments[-1].end == found.seconds == stop / SAMPLE_RATE


@pytest.fixture(scope="module")
def recogniser(trained, start):
    support = [
        read_clip_as(clip, label, start)
        for clip, label in zip(trained[1].paths, trained[1].labels, strict=True)
        if label in EMOTIONS
    ]
    return fit(start, support, {}, ("neutral",), ())


def test_predict_warns_of_what_enrol_warns_of(recogniser, trained, start, tmp_path):
    # What is far from a few hundred clips is near to as many as a real checkpoint has seen.
    scale = start.scale._replace(matrix=start.scale.matrix / 3)
    start, recogniser = start._replace(scale=scale), recogniser._replace(scale=scale)
    time = np.arange(20 * SAMPLE_RATE) / SAMPLE_RATE
    chord = 0.1 * sum(np.sin(2 * np.pi * hertz * time) for hertz in (220, 277, 330))
    speech = spoken(trained, 20)[0]

    def warnings(sound, seconds, rate=SAMPLE_RATE):
        soundfile.write(tmp_path / "a.wav", sound[: round(seconds * rate)], rate)
        found = predict(recogniser, tmp_path / "a.wav").warnings
        if seconds <= CLIP_SECONDS:
            assert found == read_clip_as(tmp_path / "a.wav", "anger", start).findings
        return found

    assert FAR_FROM_SPEECH in warnings(chord, 3)
    assert {FAR_FROM_SPEECH, NO_SPEECH} <= set(warnings(chord, 20))
    assert warnings(speech, 3) == warnings(speech, 20) == ()
    assert "shorter than 0.5 s" in warnings(speech, 0.01)[0]
    assert "only 8000 samples a second" in warnings(speech[::2], 20, 8000)[0]


@pytest.mark.parametrize("abstain", [float("nan"), -0.1, 1.1])
def test_what_is_no_probability_is_none_to_abstain_by(recogniser, recording, abstain):
    with pytest.raises(UserError, match=r"abstain=.* is not a probability; give a number"):
        predict(recogniser, recording[0], abstain=abstain)


def test_a_timeline_of_real_answers(recording, trained, recogniser):
    """Clips that the recogniser knows, put together, get their labels back."""
    path, _, truth = recording
    _, speech = trained
    found = predict(recogniser, path)
    assert found.segments == predict(recogniser, path).segments
    right = 0.0
    for (begin, end), label in zip(truth, speech.labels, strict=False):
        for segment in found.segments:
            overlap = min(end, segment.end) - max(begin, segment.start)
            right += max(0.0, overlap) * (segment.label == label)
    spoken_seconds = sum(
        end - begin
        for (begin, end), label in zip(truth, speech.labels, strict=False)
        if label in EMOTIONS
    )
    assert right / spoken_seconds > 0.7
    for before, after in itertools.pairwise(found.segments):
        assert before.end <= after.start + 1e-9
    for segment in found.segments:
        assert sum(segment.probabilities) == pytest.approx(1, abs=1e-5)


def test_stretches_are_described_elsewhere_in_their_order_and_not_too_far_ahead():
    running = []

    def stretches():
        for number in range(3 * AHEAD):
            running.append(number)
            yield Stretch(number, np.broadcast_to(np.float32(number), WINDOW * 20))

    def describe(sounds, windows):
        time.sleep(0.005 * (sounds[0][0] % 3 == 0))  # the next ones are done before
        return cut(sounds, windows)

    with ThreadPoolExecutor(2) as executor:
        described = _described(stretches(), describe, executor)
        for number, ((stretch,), windows) in enumerate(described):
            assert stretch.start == windows[0][0] == number
            assert len(windows) == len(stretch.windows()[0])
            assert len(running) <= number + AHEAD
    assert number == 3 * AHEAD - 1


@pytest.mark.slow
def test_memory_does_not_grow_with_the_length(tmp_path, recording):
    _, samples, _ = recording
    peaks = []
    for repeats in (2, 8):
        path = tmp_path / f"{repeats}.wav"
        soundfile.write(path, np.tile(samples, repeats), SAMPLE_RATE)
        tracemalloc.start()
        predict_file(str(path), CLASSES, cut, levels)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0]


def test_a_recording_that_is_cut_short_is_an_error(tmp_path, recording):
    raw = recording[0].read_bytes()
    (tmp_path / "cut.flac").write_bytes(raw[: len(raw) // 2])
    with pytest.raises(AudioError, match="truncated"):
        predict_file(str(tmp_path / "cut.flac"), CLASSES, cut, levels)
