"""Descriptors: each measures what it is named after, and nothing else moves it."""

import shutil

import numpy as np
import pytest
import scipy.signal

from data_prep.corpora import list_clips
from fmaml_jax.audio.decoding import SAMPLE_RATE, read_clip
from fmaml_jax.audio.descriptors import DescriptorConfig, _melody, describe, measure
from fmaml_jax.audio.features import extract, restore_config
from fmaml_jax.data.dataset import load
from tests.test_prepare import SHARED, command, needs_shared, noise

pytestmark = pytest.mark.slow

CORPORA = SHARED / "corpora"
CONFIG = DescriptorConfig()
LENGTH = 649
# Where groups of statistics stand in the vector.
LEVEL = slice(470, 477)
PITCH = 486  # its mean, in octaves
VOICED_ALPHA_RATIO = 504 + 9
RHYTHM, MODULATION = slice(-33, -22), slice(-22, -14)
# Columns of the spectral measures.
CENTROID, ROLL_OFF, ALPHA_RATIO = 3, 5, 9


def voice(hertz, seconds=1.0):
    """Thirteen harmonics of a fundamental that may move."""
    hertz = np.broadcast_to(hertz, round(seconds * SAMPLE_RATE))
    phase = 2 * np.pi * np.cumsum(hertz) / SAMPLE_RATE
    return 0.05 * sum(np.cos(k * phase) / k for k in range(1, 14))


def glide(start, end, seconds):
    return voice(np.geomspace(start, end, round(seconds * SAMPLE_RATE)), seconds)


def of(samples, config=CONFIG):
    return describe(samples, config)[0]


# ------------------------------------------------------------------------------ tracks


@pytest.mark.parametrize("hertz", [65, 70, 83, 90, 100, 110, 118])
def test_pitch_of_a_harmonic_tone(hertz):
    pitch = 2 ** measure(voice(hertz), CONFIG).pitch[2:-2]
    np.testing.assert_allclose(pitch, hertz, rtol=0.01)


@pytest.mark.parametrize("hertz", [150, 200, 231, 310, 420, 550])
def test_pitch_of_a_steady_tone_is_one_of_its_periods(hertz):
    """It repeats after two periods just as well as after one: voices, which move, do not."""
    track = measure(voice(hertz), CONFIG)
    ratio = hertz / 2 ** track.pitch[2:-2]
    assert (np.rint(ratio) >= 1).all()
    np.testing.assert_allclose(ratio, np.rint(ratio), rtol=0.01)


@pytest.mark.parametrize(("start", "end"), [(100, 150), (150, 100), (300, 200), (250, 400)])
def test_pitch_and_slope_of_a_glide(start, end):
    track = measure(glide(start, end, 0.3), CONFIG)
    expected = np.linspace(np.log2(start), np.log2(end), len(track.pitch))
    np.testing.assert_allclose(track.pitch[2:-2], expected[2:-2], atol=0.04)
    mean, slope, curve = _melody(track.pitch)[9:12]
    assert mean == pytest.approx(np.log2(start * end) / 2, abs=0.02)
    assert slope == pytest.approx(np.log2(end / start) / 2, rel=0.1)
    assert abs(curve) < 0.02


def test_harmonicity_tells_tones_from_noise():
    # In noise the correlation is at random: 1 / sqrt(640 samples) times a maximum over the lags.
    tone, white = (
        measure(samples, CONFIG).harmonicity[2:-2] for samples in (voice(110), noise(1.0))
    )
    assert tone.min() > 0.98
    assert white.max() < 0.4
    mixed = measure(voice(110) + noise(1.0) * np.sqrt(np.mean(voice(110) ** 2) * 12), CONFIG)
    # As strong as the tone: half of the energy repeats (Boersma 1993, eq. 4).
    assert mixed.harmonicity[2:-2].mean() == pytest.approx(0.5, abs=0.1)


def test_spectral_measures_follow_the_spectrum():
    def filtered(kind, hertz):
        sos = scipy.signal.butter(6, hertz, kind, fs=SAMPLE_RATE, output="sos")
        return measure(scipy.signal.sosfilt(sos, noise(1.0)), CONFIG).spectral.mean(axis=0)

    white = measure(noise(1.0), CONFIG).spectral.mean(axis=0)
    low, high = filtered("low", 1000), filtered("high", 3000)
    assert low[CENTROID] < 0.7
    assert white[CENTROID] == pytest.approx(4.0, abs=0.1)  # the middle of 0 to 8 kHz
    assert high[CENTROID] == pytest.approx(5.5, abs=0.1)
    assert low[ROLL_OFF] < 1.2
    assert white[ROLL_OFF] == pytest.approx(0.85 * 8, abs=0.1)
    assert low[ALPHA_RATIO] > white[ALPHA_RATIO] + 1 > high[ALPHA_RATIO] + 2
    # 0.95 kHz of noise against 4.
    assert white[ALPHA_RATIO] == pytest.approx(np.log(0.95 / 4), abs=0.2)


# -------------------------------------------------------------------------- statistics


def test_gain_moves_the_level_alone():
    samples = voice(110) + 0.2 * noise(1.0)  # noise, so that all bands are above the dither
    change = of(samples * 0.1) - of(samples)
    np.testing.assert_allclose(change[LEVEL], 2 * np.log(0.1), atol=0.01)
    others = np.delete(change, np.r_[LEVEL])
    assert np.abs(others).max() < 0.1


def test_silence_around_speech_is_left_out():
    word = (glide(180, 130, 1.0) + 0.1 * noise(1.0)) * np.hanning(SAMPLE_RATE)
    speech = np.concatenate([word, 0.5 * word])
    among = np.concatenate([np.zeros(SAMPLE_RATE), speech, np.zeros(SAMPLE_RATE // 2)])
    np.testing.assert_allclose(of(among), of(speech), atol=0.15)


@pytest.mark.parametrize(("hertz", "band"), [(0.7, 0), (1.5, 1), (5, 4), (7, 5), (15, 7)])
def test_modulation_is_found_in_its_band(hertz, band):
    seconds = np.arange(4 * SAMPLE_RATE) / SAMPLE_RATE
    modulated = noise(4.0) * (1 + 0.8 * np.sin(2 * np.pi * hertz * seconds))
    bands = of(modulated)[MODULATION]
    assert bands.argmax() == band
    assert bands[band] > np.delete(bands, band).max() + np.log(5)


def test_rhythm_of_bursts():
    """Five voices of 0.2 s with pauses of 0.3 s between them."""
    burst = glide(150, 130, 0.2) * scipy.signal.windows.tukey(3200, 0.1)
    pause = np.zeros(4800)
    samples = np.concatenate([burst, *[pause, burst] * 4])
    log_seconds, voiced, active, voices, *lengths, pauses, mean_pause, longest_pause, _ = of(
        samples
    )[RHYTHM]
    seconds = 5 * 0.2 + 4 * 0.3
    assert np.exp(log_seconds) == pytest.approx(seconds, abs=0.03)
    assert voiced == pytest.approx(1.0 / seconds, abs=0.05)
    assert active == pytest.approx(1.0 / seconds, abs=0.05)
    assert voices == pytest.approx(5 / seconds, rel=0.02)
    assert pauses == pytest.approx(4 / seconds, rel=0.02)
    mean, deviation, longest = np.expm1(lengths)
    assert (mean, longest) == pytest.approx((20, 20), abs=2)  # steps of 10 ms
    assert deviation < 1
    assert np.expm1([mean_pause, longest_pause]) == pytest.approx([30, 30], abs=2)


@pytest.mark.parametrize(
    "samples",
    [
        np.zeros(0),
        np.array([0.5, -0.5, 0.5]),
        np.zeros(3),
        np.zeros(SAMPLE_RATE),
        np.full(SAMPLE_RATE, 0.3),
        np.eye(1, SAMPLE_RATE, 5000)[0],
        noise(0.025),
        np.tile(noise(1.0), 30),
        voice(110) * 1e12,
        voice(110).astype(np.float32) * np.float32(1e-12),
    ],
    ids=[
        "none",
        "three",
        "zeros",
        "silence",
        "constant",
        "click",
        "short",
        "long",
        "loud",
        "faint",
    ],
)
def test_every_input_has_a_finite_vector(samples):
    features = describe(samples, CONFIG)
    assert features.shape == (1, LENGTH)
    assert features.dtype == np.float32
    assert np.isfinite(features).all()


def test_long_clips_are_cropped_around_their_centre():
    middle = noise(1.0)
    long = np.concatenate([voice(110), middle, voice(90)])
    config = CONFIG._replace(clip_seconds=1.0)
    np.testing.assert_array_equal(of(long, config), of(middle, config))


# ------------------------------------------------------------------------- real speech


def spread(corpus, label, every):
    """Every so many clips of a label, so that all speakers are among them."""
    clips = list_clips(corpus, CORPORA / corpus).clips
    return [CORPORA / corpus / clip.file for clip in clips if clip.label == label][::every]


@needs_shared
def test_prepared_speech_is_described_as_files_are(tmp_path):
    files = [*spread("emodb", "anger", 6), *spread("emodb", "sadness", 3)]
    for file in files:
        shutil.copy(file, tmp_path)
    out = tmp_path / "out" / "x.npz"
    done = command(
        *("--corpus=emodb", f"--audio_dir={tmp_path}", f"--out={out}"),
        *("--features=descriptors", "--clip_seconds=10"),
    )
    assert done.returncode == 0, done.stderr
    dataset = load(out)
    config = CONFIG._replace(clip_seconds=10.0)
    assert restore_config(dataset.feature_config) == config
    assert dataset.features.shape == (len(files), 1, LENGTH)
    assert np.isfinite(dataset.features).all()
    features_of = dict(zip(dataset.names.tolist(), dataset.features, strict=True))
    for file in files[::7]:
        expected = describe(read_clip(file).samples, config)
        np.testing.assert_array_equal(features_of[file.stem], expected)
        np.testing.assert_array_equal(extract(read_clip(file).samples, config), expected)

    anger, sadness = (
        dataset.features[dataset.labels == label, 0].mean(axis=0) for label in ("anger", "sadness")
    )
    assert anger[PITCH] > sadness[PITCH] + 0.25  # octaves
    # Anger is bright. Louder it is not: EmoDB's clips are scaled to one peak.
    assert anger[VOICED_ALPHA_RATIO] < sadness[VOICED_ALPHA_RATIO] - 1


@needs_shared
def test_anger_is_louder_than_sadness():
    anger, sadness = (
        np.mean([of(read_clip(file).samples) for file in spread("ravdess", label, 10)], axis=0)
        for label in ("anger", "sadness")
    )
    assert (anger[LEVEL] > sadness[LEVEL] + 0.6 * np.log(10)).all()  # 6 dB
