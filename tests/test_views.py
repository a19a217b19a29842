"""What recordings go through: each view does what it says of levels, bands, noise and length."""

import numpy as np
import pytest

from fmaml_jax.audio.decoding import SAMPLE_RATE
from fmaml_jax.audio.views import KINDS, VIEWS, noisy, random_view


@pytest.fixture(scope="module")
def clip():
    """Two seconds of tones at 200, 1000 and 5000 Hz, half a second of them loud."""
    seconds = np.arange(2 * SAMPLE_RATE) / SAMPLE_RATE
    tones = sum(np.sin(2 * np.pi * hertz * seconds) for hertz in (200, 1000, 5000))
    envelope = np.where((seconds > 1) & (seconds < 1.5), 0.2, 0.05)
    return (tones * envelope / 3).astype(np.float32)


def through(view, clip, seed=0):
    return VIEWS[view](clip, np.random.default_rng(seed))


def power(samples, hertz):
    """In dB, of the band of 100 Hz around a frequency."""
    spectrum = np.abs(np.fft.rfft(samples)) ** 2
    at = np.fft.rfftfreq(len(samples), 1 / SAMPLE_RATE)
    return 10 * np.log10(spectrum[abs(at - hertz) < 50].sum() / len(samples))


@pytest.mark.parametrize("view", VIEWS)
def test_a_view_is_finite_and_the_same_again(view, clip):
    made = through(view, clip)
    assert made.dtype == np.float32
    assert np.isfinite(made).all()
    assert np.abs(made).max() <= 1
    assert len(made) == {"second": 1, "ten_seconds": 10}.get(view, 2) * SAMPLE_RATE
    np.testing.assert_array_equal(made, through(view, clip))


def test_a_telephone_passes_the_middle_alone(clip):
    made = through("telephone", clip)
    assert abs(power(made, 1000) - power(clip, 1000)) < 1
    assert power(made, 200) < power(clip, 200) - 10
    assert power(made, 5000) < power(clip, 5000) - 30


@pytest.mark.parametrize("view", ["opus", "mp3"])
def test_codecs_change_little_and_nothing_in_time(view, clip):
    made = through(view, clip)
    lags = np.correlate(made, clip, "same")
    assert lags.argmax() == len(clip) // 2
    assert 0.9 < np.corrcoef(made, clip)[0, 1] < 1


def test_gain(clip):
    np.testing.assert_allclose(through("quiet", clip), clip * 10**-0.5, rtol=1e-6)
    np.testing.assert_allclose(through("loud", clip / 10), clip / 10 * 10**0.5, rtol=1e-6)
    assert np.abs(through("loud", clip * 4)).max() == 1


@pytest.mark.parametrize("kind", ["babble", "street"])
@pytest.mark.parametrize("snr", [20, 10, 5])
def test_noise_is_so_far_below_speech(kind, snr, clip):
    half = np.tile(np.repeat([0.2, 0.0], SAMPLE_RATE // 2), 2) * np.sign(clip)
    made = through(f"{kind}{snr}", half.astype(np.float32))
    noise = made - half
    assert 10 * np.log10(0.2**2 / np.mean(noise**2)) == pytest.approx(snr, abs=0.3)


def test_a_room_rings_on_and_keeps_the_level(clip):
    click = np.zeros(SAMPLE_RATE, np.float32)
    click[0] = 0.5
    tail = np.square(through("room", click))
    early, late = tail[800:1600].sum(), tail[800 + 4800 : 1600 + 4800].sum()
    assert 10 * np.log10(early / late) == pytest.approx(30, abs=2)  # 60 dB in 0.6 s
    assert np.std(through("room", clip)) == pytest.approx(np.std(clip), rel=0.01)


def test_the_loudest_second_and_ten_of_them(clip):
    np.testing.assert_array_equal(through("second", clip)[-SAMPLE_RATE // 2 :].max(), clip.max())
    np.testing.assert_array_equal(through("second", clip[:100]), clip[:100])
    np.testing.assert_array_equal(through("ten_seconds", clip)[len(clip) : 2 * len(clip)], clip)


def test_the_spectrum_of_noise_falls_as_it_is_said(clip):
    noise = noisy(clip, np.random.default_rng(0), snr=10.0, slope=3.0) - clip
    for hertz in (500, 1000, 2000):
        octave = power(noise, hertz) - power(noise, 2 * hertz)
        assert octave == pytest.approx(3, abs=2)


def test_random_views_differ_in_kind_and_are_the_same_again(clip):
    made = [random_view(clip, number) for number in range(1, len(KINDS) + 1)]
    for number, view in enumerate(made, start=1):
        assert view.dtype == np.float32
        assert len(view) == len(clip)
        assert np.abs(view).max() <= 1
        assert not np.array_equal(view, clip)
        np.testing.assert_array_equal(view, random_view(clip.copy(), number))
    assert not np.array_equal(made[0], random_view(clip, 1 + len(KINDS)))  # the kind once more
    assert sum(power(view, 5000) < power(clip, 5000) - 30 for view in made) == 1  # the telephone


@pytest.mark.parametrize("length", [1600, SAMPLE_RATE])
def test_views_of_a_short_clip_and_of_nothing_are_finite(length, clip):
    for samples in (clip[:length], np.zeros(length, np.float32)):
        for number in range(1, len(KINDS) + 1):
            view = random_view(samples, number)
            assert len(view) == length
            assert np.isfinite(view).all()
