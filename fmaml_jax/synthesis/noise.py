"""Silence as a microphone hears it: coloured noise, mains hum and clicks, never digital zero."""

import numpy as np
from jaxtyping import Float64
from scipy.signal import lfilter

SAMPLE_RATE = 16_000
MEAN_SECONDS = 3.5


def coloured(
    rng: np.random.Generator, samples: int, slope: float, band: tuple[float, float]
) -> Float64[np.ndarray, " samples"]:
    """Gaussian noise with a power spectral density of f^`slope` inside `band` (Hz), RMS 1.

    Slope 0 is white noise, -1 pink, -2 brown, 1 blue. Outside the band it is 40 dB weaker.
    """
    spectrum = np.fft.rfft(rng.standard_normal(samples))
    frequency = np.fft.rfftfreq(samples, 1 / SAMPLE_RATE)
    # A floor of 20 Hz: a falling spectrum would otherwise be all rumble that no one hears.
    gain = np.maximum(frequency, 20.0) ** (slope / 2)
    outside = (frequency < band[0]) | (frequency > band[1])
    shaped = np.fft.irfft(spectrum * gain * np.where(outside, 0.01, 1.0), samples)
    return shaped / np.sqrt(np.mean(shaped**2))


def _hum(rng: np.random.Generator, samples: int) -> Float64[np.ndarray, " samples"]:
    mains = rng.choice([50.0, 60.0])
    time = np.arange(samples) / SAMPLE_RATE
    harmonics = np.arange(1, 9)
    weights = rng.random(8) / harmonics
    phases = rng.uniform(0, 2 * np.pi, 8)
    waves = np.sin(2 * np.pi * mains * harmonics[:, None] * time + phases[:, None])
    # Not a matrix product: its last bits may depend on how many threads BLAS has.
    return np.sum(weights[:, None] * waves, axis=0) / np.sqrt(np.sum(weights**2) / 2)


def _clicks(rng: np.random.Generator, samples: int) -> Float64[np.ndarray, " samples"]:
    impulses = np.zeros(samples)
    count = rng.integers(1, 6)
    impulses[rng.integers(0, samples, count)] = rng.uniform(-1, 1, count)
    # A knock in a room: a few milliseconds of decaying resonance.
    radius, angle = np.exp(-1 / (0.004 * SAMPLE_RATE)), rng.uniform(0.1, 1.0)
    return lfilter([1.0], [1.0, -2 * radius * np.cos(angle), radius**2], impulses)


def silence(rng: np.random.Generator) -> Float64[np.ndarray, " samples"]:
    """One recording in which nobody speaks: 2 to 5 s (mean 3.5 s) at `SAMPLE_RATE`.

    Noise of random slope (-2 to 1), band and level (-65 to -25 dB of full scale), whose level
    drifts by a few dB; some recordings have mains hum, some clicks. Every sample is within -1
    and 1.
    """
    samples = int(rng.uniform(MEAN_SECONDS - 1.5, MEAN_SECONDS + 1.5) * SAMPLE_RATE)
    band = (rng.uniform(0.0, 200.0), rng.uniform(1_500.0, SAMPLE_RATE / 2))
    sound = coloured(rng, samples, rng.uniform(-2.0, 1.0), band)
    knots = rng.normal(0.0, 2.0, 6)
    drift_db = np.interp(np.linspace(0, 5, samples), np.arange(6), knots)
    sound *= 10 ** (drift_db / 20)
    if rng.random() < 0.4:
        sound += rng.uniform(0.1, 1.0) * _hum(rng, samples)
    if rng.random() < 0.3:
        sound += rng.uniform(0.5, 3.0) * _clicks(rng, samples)
    sound *= 10 ** (rng.uniform(-65.0, -25.0) / 20) / np.sqrt(np.mean(sound**2))
    return np.clip(sound, -0.99, 0.99)
