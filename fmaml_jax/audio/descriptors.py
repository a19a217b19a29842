"""Samples of one clip -> one vector that describes how it was spoken.

Where the matrix of `mfcc` leaves everything to the network, this is what phonetics would
measure: spectral envelope, level, pitch, voice quality and rhythm, each by statistics over time,
so that neither the length of a clip nor the place of a word in it matters. The choice of tracks is
that of eGeMAPS (Eyben et al. 2016, table 1) widened by the mel spectrum; the code is not.
"""

import functools
import itertools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import scipy.fft
from jaxtyping import Bool, Float, Float32
from python_speech_features.base import get_filterbanks
from scipy.ndimage import median_filter

from fmaml_jax.audio.decoding import SAMPLE_RATE


class DescriptorConfig(NamedTuple):
    """How descriptors are made; plain data, stored in every .npz.

    Attributes:
        descriptors: version of what is measured; another version is another vector.
        sample_rate: samples per second that `describe` expects.
        clip_seconds: length to which a longer clip is cropped, around its centre.
        dither_db: level of the white noise that is added, relative to full scale.
        frame_seconds, step_seconds: length of an analysis frame and distance between two.
        pitch_seconds: length of the frames in which pitch is looked for.
        fft_size: samples of the Fourier transform of one zero-padded Hamming-windowed frame.
        mel_filters: triangular mel filters from 0 Hz to half the sample rate.
        coefficients: cepstral coefficients, without coefficient 0.
        pitch_low_hz, pitch_high_hz: range of the pitch.
        speech_db, active_db, voiced_db: a frame is speech, active or voiced only if its energy is
            at most so far below the loudest frames.
        harmonicity: least autocorrelation of a voiced frame.
        octave_cost: autocorrelation by which a pitch must exceed one an octave above it.
    """

    descriptors: int = 1
    sample_rate: int = SAMPLE_RATE
    clip_seconds: float = 20.0
    dither_db: float = -100.0
    frame_seconds: float = 0.03
    step_seconds: float = 0.01
    pitch_seconds: float = 0.04
    fft_size: int = 512
    mel_filters: int = 40
    coefficients: int = 19
    pitch_low_hz: float = 60.0
    pitch_high_hz: float = 600.0
    speech_db: float = 35.0
    active_db: float = 20.0
    voiced_db: float = 30.0
    harmonicity: float = 0.6
    octave_cost: float = 0.03


PERCENTILES = (5, 20, 50, 80, 95)
RHYTHM_HZ = (0.5, 1, 2, 3, 4, 6, 8, 12, 20)
"""Edges of the bands in which the loudness contour is measured: phrases, syllables, tremor."""
LEAST_FRAMES = 25
"""A shorter clip is padded by silence to so many."""
_TINY = 1e-12


class Tracks(NamedTuple):
    """What is measured in every frame."""

    mel: Float[np.ndarray, "frames filters"]  # log energies
    energy: Float[np.ndarray, " frames"]  # log energy of the frame, from 0 dB at full scale
    pitch: Float[np.ndarray, " frames"]  # log2 of Hz, of the strongest period
    harmonicity: Float[np.ndarray, " frames"]  # autocorrelation at that period, 0 to 1
    spectral: Float[np.ndarray, "frames measures"]  # see `_spectral`


def describe(
    samples: Float[np.ndarray, " samples"], config: DescriptorConfig
) -> Float32[np.ndarray, "1 coeffs"]:
    """The descriptors of one clip, as the single frame of a feature matrix.

    Args:
        samples: mono audio at `config.sample_rate`, full scale 1, finite, of any length.
        config: see `DescriptorConfig`.

    Returns:
        A row whose length depends on `config` alone, finite whatever the samples.
    """
    tracks = measure(samples, config)
    loudest = np.percentile(tracks.energy, 98)
    speech = np.flatnonzero(tracks.energy > loudest - _nepers(config.speech_db))
    tracks = Tracks(*(track[speech[0] : speech[-1] + 1] for track in tracks))
    return np.concatenate(_statistics(tracks, config), dtype=np.float32)[None]


def measure(samples: Float[np.ndarray, " samples"], config: DescriptorConfig) -> Tracks:
    """The tracks of a clip, one frame every `config.step_seconds`."""
    rate = config.sample_rate
    frame, step, long_frame = (
        round(seconds * rate)
        for seconds in (config.frame_seconds, config.step_seconds, config.pitch_seconds)
    )
    surplus = max(0, len(samples) - round(config.clip_seconds * rate)) // 2
    clip = samples[surplus : len(samples) - surplus].astype(np.float64)
    clip = np.pad(clip, (0, max(0, LEAST_FRAMES * step - len(clip))))
    # Without it, digital silence has no logarithm, and pauses show the codec.
    clip = clip + np.random.default_rng(0).standard_normal(len(clip)) * 10 ** (
        config.dither_db / 20
    )
    count = 1 + len(clip) // step

    def frames(length: int) -> Float[np.ndarray, "frames {length}"]:
        padded = np.pad(clip, (length // 2, length // 2 + step))
        return np.lib.stride_tricks.sliding_window_view(padded, length)[::step][:count]

    short = frames(frame)
    hamming = np.hamming(frame)
    power = _by_parts(
        lambda part: np.abs(scipy.fft.rfft(part * hamming, config.fft_size)) ** 2, short
    )
    power = power / config.fft_size
    pitch, harmonicity = _pitch(frames(long_frame), config)
    return Tracks(
        np.log(np.maximum(power @ _mel_filters(config), _TINY)),
        np.log(power.sum(axis=1) + _TINY),
        pitch,
        harmonicity,
        _spectral(short, power, pitch, harmonicity, config),
    )


def _by_parts(
    function: Callable[[np.ndarray], np.ndarray], frames: Float[np.ndarray, "frames samples"]
) -> Float[np.ndarray, "frames values"]:
    """The function of each frame; of a few at a time, whose spectra stay in the cache."""
    few = 32
    return np.concatenate([function(frames[i : i + few]) for i in range(0, len(frames), few)])


def _pitch(
    frames: Float[np.ndarray, "frames samples"], config: DescriptorConfig
) -> tuple[Float[np.ndarray, " frames"], Float[np.ndarray, " frames"]]:
    """Pitch and harmonicity by the autocorrelation, corrected for the window (Boersma 1993)."""
    length = frames.shape[1]
    window = np.hanning(length)
    size = scipy.fft.next_fast_len(2 * length, real=True)

    def correlate(signal: np.ndarray) -> np.ndarray:
        return scipy.fft.irfft(np.abs(scipy.fft.rfft(signal, size)) ** 2, size)[..., :length]

    of_window = correlate(window)
    shortest = int(config.sample_rate / config.pitch_high_hz)
    longest = int(config.sample_rate / config.pitch_low_hz)
    periods = slice(shortest, longest)

    def relative_correlation(frames: np.ndarray) -> np.ndarray:
        correlation = correlate((frames - frames.mean(axis=1, keepdims=True)) * window)
        return (
            correlation[:, periods]
            / np.maximum(correlation[:, :1], _TINY)
            / (of_window[periods] / of_window[0])
        )

    relative = _by_parts(relative_correlation, frames)
    lags = np.arange(shortest, longest)
    # Multiples of a period fit as well as the period itself.
    best = (relative - config.octave_cost * np.log2(lags / shortest)).argmax(axis=1)
    best = np.clip(best, 1, len(lags) - 2)
    before, peak, after = (
        np.take_along_axis(relative, (best + shift)[:, None], axis=1)[:, 0] for shift in (-1, 0, 1)
    )
    # The top of the parabola through the highest lag and its neighbours, if they are below it.
    curvature = np.minimum(before - 2 * peak + after, -_TINY)
    offset = np.clip((before - after) / (2 * curvature), -0.5, 0.5)
    harmonicity = np.clip(peak, 1e-3, 0.999)
    return np.log2(config.sample_rate / (lags[best] + offset)), harmonicity


def _spectral(
    frames: Float[np.ndarray, "frames samples"],
    power: Float[np.ndarray, "frames frequencies"],
    pitch: Float[np.ndarray, " frames"],
    harmonicity: Float[np.ndarray, " frames"],
    config: DescriptorConfig,
) -> Float[np.ndarray, "frames measures"]:
    """Shape of the spectrum and quality of the voice; frequencies in kHz, ratios as logarithms."""
    khz = np.fft.rfftfreq(config.fft_size, 1 / config.sample_rate) / 1000
    share = power / np.maximum(power.sum(axis=1, keepdims=True), _TINY)
    centroid = share @ khz
    below = share.cumsum(axis=1)
    log_power = np.log(power + _TINY)

    def band(low: float, high: float) -> np.ndarray:
        return (khz >= low) & (khz < high)

    def slope(low: float, high: float) -> np.ndarray:
        offset = khz[band(low, high)] - khz[band(low, high)].mean()
        return log_power[:, band(low, high)] @ offset / (offset @ offset)

    def level(low: float, high: float) -> np.ndarray:
        return np.log(power[:, band(low, high)].sum(axis=1) + _TINY)

    def peak(low: float, high: float) -> np.ndarray:
        return log_power[:, band(low, high)].max(axis=1)

    bin_hz = config.sample_rate / config.fft_size
    first, second = (
        np.take_along_axis(
            log_power, np.rint(number * 2**pitch / bin_hz).astype(int)[:, None], axis=1
        )[:, 0]
        for number in (1, 2)
    )
    return np.stack(
        [
            np.log(harmonicity / (1 - harmonicity)),  # harmonics-to-noise ratio
            harmonicity,
            (np.diff(np.sign(frames), axis=1) != 0).mean(axis=1),  # zero crossings
            centroid,
            np.sqrt(np.maximum((share * (khz - centroid[:, None]) ** 2).sum(axis=1), 0)),
            khz[np.minimum((below < 0.85).sum(axis=1), len(khz) - 1)],  # roll-off
            khz[np.minimum((below < 0.25).sum(axis=1), len(khz) - 1)],
            -(share * np.log(share + _TINY)).sum(axis=1),  # entropy
            # Flux: Hellinger distance from the frame before.
            np.linalg.norm(np.diff(np.sqrt(share), axis=0, prepend=np.sqrt(share[:1])), axis=1),
            level(0.05, 1) - level(1, 5),  # alpha ratio
            peak(0, 2) - peak(2, 5),  # Hammarberg index
            slope(0, 0.5),
            slope(0.5, 1.5),
            first - second,  # first two harmonics
        ],
        axis=1,
    )


def _statistics(tracks: Tracks, config: DescriptorConfig) -> list[Float[np.ndarray, " some"]]:
    """Statistics over time of the tracks of speech, in groups."""
    mel, energy, pitch, harmonicity, spectral = tracks
    loud = np.percentile(energy, 95)
    active = energy > loud - _nepers(config.active_db)
    harmonic = harmonicity > config.harmonicity
    voiced = _or_else(harmonic & (energy > energy.max() - _nepers(config.voiced_db)), active)
    cepstra = scipy.fft.dct(mel, norm="ortho")[:, 1 : 1 + config.coefficients]
    relative_mel, relative_energy = mel - loud, energy - loud
    return [
        # Spectral envelope.
        *_moments(cepstra),
        np.diff(cepstra, axis=0).std(axis=0) if len(cepstra) > 1 else np.zeros(cepstra.shape[1]),
        cepstra[voiced].mean(axis=0),
        cepstra[voiced].std(axis=0),
        relative_mel.std(axis=0),
        *np.percentile(relative_mel, (10, 50, 90), axis=0),
        relative_mel[voiced].mean(axis=0),
        relative_mel[voiced].std(axis=0),
        (mel[active] - mel[active].mean()).mean(axis=0),
        # Level: absolute, and its movement.
        np.array([energy.mean(), energy.max(), energy[active].mean()]),
        np.percentile(energy, (20, 50, 80, 95)),
        *map(np.atleast_1d, _moments(relative_energy)),
        _movement(relative_energy, limit=np.inf),
        # Pitch.
        _melody(median_filter(pitch, 5)[voiced]),
        # Voice quality.
        *_moments(spectral[voiced]),
        np.diff(spectral, axis=0).std(axis=0) if len(spectral) > 1 else np.zeros(spectral.shape[1]),
        # Rhythm.
        _rhythm(energy, active, voiced, config),
        _modulation(relative_energy, config),
        _evolution(relative_energy, pitch, voiced, spectral, cepstra),
    ]


def _moments(track: Float[np.ndarray, "frames ..."]) -> Float[np.ndarray, "moments ..."]:
    percentiles = np.percentile(track, PERCENTILES, axis=0)
    return np.stack([track.mean(axis=0), track.std(axis=0), *percentiles])


def _movement(
    track: Float[np.ndarray, " frames"], limit: float
) -> Float[np.ndarray, " statistics"]:
    """Steps from frame to frame; larger ones than `limit` are errors or gaps."""
    steps = np.diff(track)
    steps = _or_zeros(steps[np.abs(steps) < limit])
    return np.array([steps.std(), np.abs(steps).mean()])


def _melody(pitch: Float[np.ndarray, " voiced"]) -> Float[np.ndarray, " statistics"]:
    octave_step = 0.3
    steps = np.diff(pitch)
    steps = _or_zeros(steps[np.abs(steps) < octave_step])
    course = np.zeros(3)  # level, slope and curve, as far as there are frames to tell them from
    degree = min(len(course), len(pitch)) - 1
    course[: degree + 1] = np.polynomial.legendre.legfit(
        np.linspace(-1, 1, len(pitch)), pitch, degree
    )
    return np.concatenate(
        [
            _moments(pitch),
            [pitch.max(), pitch.min()],
            course,
            _movement(pitch, octave_step),
            np.percentile(steps, (10, 90)),
            [_or_zeros(steps[steps > 0]).mean(), _or_zeros(steps[steps < 0]).mean()],
        ]
    )


def _rhythm(
    energy: Float[np.ndarray, " frames"],
    active: Bool[np.ndarray, " frames"],
    voiced: Bool[np.ndarray, " frames"],
    config: DescriptorConfig,
) -> Float[np.ndarray, " statistics"]:
    """Length, shares, and number and length of voiced stretches, pauses and loudness peaks."""
    seconds = len(energy) * config.step_seconds
    voices, pauses = _or_zeros(_runs(voiced)), _or_zeros(_runs(~active))
    inner = energy[1:-1]
    peaks = (inner > energy[:-2]) & (inner >= energy[2:]) & (inner > np.median(energy))
    return np.array(
        [
            np.log(seconds),
            voiced.mean(),
            active.mean(),
            len(voices) / seconds,
            *np.log1p([voices.mean(), voices.std(), voices.max()]),
            len(pauses) / seconds,
            *np.log1p([pauses.mean(), pauses.max()]),
            peaks.sum() / seconds,
        ]
    )


def _modulation(
    energy: Float[np.ndarray, " frames"], config: DescriptorConfig
) -> Float[np.ndarray, " bands"]:
    """Log power of the loudness contour in the bands of `RHYTHM_HZ`, of its first 10.24 s."""
    frames = round(10.24 / config.step_seconds)
    contour = np.clip(energy, -8, 0)
    contour = contour - contour.mean()
    power = np.abs(np.fft.rfft(contour, frames)) ** 2 / min(len(contour), frames)
    hertz = np.fft.rfftfreq(frames, config.step_seconds)
    return np.log(
        [
            power[(hertz >= low) & (hertz < high)].mean() + 1e-3
            for low, high in itertools.pairwise(RHYTHM_HZ)
        ]
    )


def _evolution(
    energy: Float[np.ndarray, " frames"],
    pitch: Float[np.ndarray, " frames"],
    voiced: Bool[np.ndarray, " frames"],
    spectral: Float[np.ndarray, "frames measures"],
    cepstra: Float[np.ndarray, "frames coeffs"],
) -> Float[np.ndarray, " statistics"]:
    """First and last third of the clip, relative to the middle one."""
    thirds = np.array_split(np.arange(len(energy)), 3)
    tracks = np.column_stack([energy, spectral[:, 3], cepstra[:, :4]])

    def of_third(third: np.ndarray) -> np.ndarray:
        if not len(third):
            return np.append(tracks.mean(axis=0), pitch[voiced].mean())
        heard = third[_or_else(voiced[third], np.ones(len(third), bool), least=1)]
        return np.append(tracks[third].mean(axis=0), pitch[heard].mean())

    first, middle, last = map(of_third, thirds)
    return np.concatenate([first - middle, last - middle])


def _runs(mask: Bool[np.ndarray, " frames"]) -> Float[np.ndarray, " runs"]:
    """Lengths of the stretches of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]])))
    return (edges[1::2] - edges[::2]).astype(float)


def _or_else(
    mask: Bool[np.ndarray, " frames"], other: Bool[np.ndarray, " frames"], least: int = 6
) -> Bool[np.ndarray, " frames"]:
    return mask if mask.sum() >= least else other


def _or_zeros(values: Float[np.ndarray, " some"]) -> Float[np.ndarray, " _"]:
    return values if len(values) else np.zeros(1)


def _nepers(decibels: float) -> float:
    """A difference in decibels as one of log energies."""
    return decibels / 10 * np.log(10)


@functools.cache
def _mel_filters(config: DescriptorConfig) -> Float[np.ndarray, "frequencies filters"]:
    return get_filterbanks(
        config.mel_filters, config.fft_size, config.sample_rate, 0, config.sample_rate / 2
    ).T
