"""What is said of sound that is no good clip, and that nothing is said of good ones."""

import collections

import numpy as np
import pytest
import soxr

from fmaml_jax.audio.decoding import SAMPLE_RATE, read_clip
from fmaml_jax.audio.quality import (
    FAR,
    NO_SPEECH,
    QUIET,
    Measures,
    clip_findings,
    far_from_speech,
    findings,
    in_sum,
    measure,
)
from fmaml_jax.audio.voice_activity import has_speech, hear, in_chunks
from tests.test_prepare import SHARED, needs_shared

TELEPHONE = "no sound above 4 kHz in it, as on the telephone"


def coloured(exponent, seconds=3.0, level=0.1):
    """Noise whose power falls with frequency by `exponent`."""
    count = round(seconds * SAMPLE_RATE)
    spectrum = np.fft.rfft(np.random.default_rng(0).standard_normal(count))
    samples = np.fft.irfft(spectrum / np.maximum(1, np.arange(len(spectrum))) ** (exponent / 2))
    return (level * samples / samples.std()).astype(np.float32)


def tones(*hertz, seconds=3.0):
    time = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    return sum(0.07 * np.sin(2 * np.pi * f * time) * (1 + np.sin(3.14 * time)) for f in hertz)


def as_int16(samples):
    return np.round(samples * 32767).astype("<i2")


def on_telephone(samples):
    """8 kHz of 8 bits (mu-law), stored at 16 kHz as any other clip."""
    low = soxr.resample(samples, SAMPLE_RATE, 8000)
    companded = np.sign(low) * np.log1p(255 * np.abs(low)) / np.log(256)
    coded = np.round(companded * 127) / 127
    low = np.sign(coded) * np.expm1(np.abs(coded) * np.log(256)) / 255
    return as_int16(soxr.resample(low, 8000, SAMPLE_RATE)) / np.float32(32768)


@pytest.fixture(scope="module")
def spoken(trained):
    """Synthetic speech, as one clip of each emotion."""
    return [read_clip(trained[1].of(label)[0]).samples for label in ("anger", "sadness")]


def test_nothing_is_said_of_speech(spoken):
    for clip in spoken:
        assert clip_findings(clip, SAMPLE_RATE) == ()
        assert clip_findings(clip * np.float32(0.05), 48_000) == ()


@pytest.mark.parametrize(
    "sound",
    [
        *(coloured(exponent) for exponent in (0, 1, 2)),
        tones(220, 277, 330),
        tones(50, 100, 150, 200),
        np.zeros(SAMPLE_RATE, np.float32),
    ],
    ids=["white", "pink", "brown", "chord", "hum", "nothing"],
)
def test_what_is_no_speech_has_none(sound):
    assert NO_SPEECH in clip_findings(sound.astype(np.float32), SAMPLE_RATE)


def test_bytes_that_are_read_wrongly_are_no_speech(spoken):
    clip = as_int16(spoken[0] / np.abs(spoken[0]).max())
    shifted = np.frombuffer(b"\0" + clip.tobytes()[:-1], "<i2")
    for wrong in (shifted, clip.byteswap()):
        found = clip_findings(wrong.astype(np.float32) / 32768, SAMPLE_RATE)
        assert NO_SPEECH in found


def test_a_header_with_twelve_times_the_rate(spoken):
    fast = soxr.resample(spoken[0], 12 * SAMPLE_RATE, SAMPLE_RATE)
    first, *rest = clip_findings(fast, 12 * SAMPLE_RATE)
    assert first == "shorter than 0.5 s, too short to hear an emotion in"
    assert NO_SPEECH in rest


def test_the_telephone_is_known_by_its_band(spoken):
    for clip in spoken:
        assert clip_findings(on_telephone(clip), SAMPLE_RATE) == (TELEPHONE,)
        assert clip_findings(on_telephone(clip / 20), 44_100) == (TELEPHONE,)
    (low,) = findings(measure(spoken[0]), 8000)
    assert low == "only 8000 samples a second, as on the telephone, and not 16000"


def test_level(spoken):
    for db in (-61, -59):
        level = 10 ** (db / 20) / np.sqrt(np.mean(spoken[0] ** 2))
        assert (QUIET in findings(measure(spoken[0] * level), SAMPLE_RATE)) == (db < -60)
    assert "clipped" in findings(measure(np.clip(50 * spoken[0], -1, 1)), SAMPLE_RATE)[0]


@pytest.mark.parametrize("samples", [1, 2, 160, 511])
def test_the_shortest_clips_are_short(samples):
    found = clip_findings(coloured(1)[:samples], SAMPLE_RATE)
    assert found == ("shorter than 0.5 s, too short to hear an emotion in", NO_SPEECH)


def test_measures_of_parts_add_up(spoken):
    clip = np.concatenate(spoken)[: 512 * 100]
    total = Measures()
    for part in np.split(clip, [512 * 3, 512 * 70]):
        total = total.plus(measure(part))
    np.testing.assert_allclose(total, measure(clip), rtol=1e-5)


def test_speech_is_heard_at_every_level(spoken):
    """Half of full scale, and what 16 bits leave of a voice at -60 dB."""
    clip = np.concatenate(spoken)
    loud = [heard.chance for heard in hear(in_chunks([clip]))]
    quiet = [heard.chance for heard in hear(in_chunks([clip * np.float32(2**-5)]))]
    np.testing.assert_allclose(quiet, loud, atol=1e-6)
    assert has_speech(as_int16(clip * 0.001 / np.sqrt(np.mean(clip**2))) / np.float32(32768))


def test_what_was_heard_before_does_not_matter(spoken):
    alone = [heard.chance for heard in hear(in_chunks([spoken[1]]))]
    has_speech(spoken[0])
    assert [heard.chance for heard in hear(in_chunks([spoken[1]]))] == alone


def test_far_is_a_root_mean_square():
    vectors = np.stack([np.full((1, 9), FAR - 0.01), np.full((1, 9), -FAR - 0.01)])
    assert far_from_speech(vectors).tolist() == [False, True]


def test_findings_in_sum_name_three_clips():
    found = [(str(number), ("odd", "short")[: 1 + (number == 2)]) for number in range(5)]
    assert in_sum(found) == ["'0', '1', '2' and 2 more: odd", "'2': short"]
    assert in_sum([("a", ())]) == []


@needs_shared
@pytest.mark.slow
def test_hardly_any_real_clip_has_a_finding():
    """But for those that are clipped: some of CREMA-D's shouts are."""
    files = [
        file
        for corpus in ("emodb", "emovo", "nemo", "ravdess", "cremad")
        for file in sorted((SHARED / "corpora" / corpus).rglob("*.flac"))[::5]
    ]
    clips = map(read_clip, files)
    said = [kind for clip in clips for kind in clip_findings(clip.samples, clip.sample_rate)]
    counts = collections.Counter(said)
    assert counts.pop("clipped, recorded too loud", 0) < 0.02 * len(files)
    assert max(counts.values(), default=0) < 0.01 * len(files), counts
