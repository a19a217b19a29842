"""Samples of one clip -> its MFCC matrix."""

import functools
from typing import Literal, NamedTuple

import numpy as np
import scipy.fft
from jaxtyping import Float, Float32
from python_speech_features.base import get_filterbanks, lifter
from python_speech_features.sigproc import preemphasis, round_half_up

from fmaml_jax.audio.decoding import SAMPLE_RATE


class MfccConfig(NamedTuple):
    """How MFCCs are made; plain data, stored in every .npz.

    Attributes:
        sample_rate: samples per second that `mfcc` expects.
        clip_seconds: length to which a clip is cropped or zero-padded.
        align: which part of a long clip is kept, and where a short one lies among the zeros:
            "centre" or "start".
        level: root mean square to which the whole clip is scaled; full scale is 1.
        dither_db: level of the white noise that is added, relative to `level`.
        frame_seconds, step_seconds: length of an analysis frame and distance between two.
        fft_size: samples of the Fourier transform of one zero-padded Hamming-windowed frame.
        mel_filters, low_hz, high_hz: number and range of the triangular mel filters.
        coefficients: cepstral coefficients kept.
        pre_emphasis: coefficient of the first-order high-pass, 0 for none.
        lifter: parameter of the sinusoidal lifter, 0 for none.
        energy: whether coefficient 0 is replaced by the log of the frame's energy.
    """

    sample_rate: int = SAMPLE_RATE
    clip_seconds: float = 3.5
    align: Literal["centre", "start"] = "centre"
    level: float = 0.1
    dither_db: float = -60.0
    frame_seconds: float = 0.03
    step_seconds: float = 0.01
    fft_size: int = 512
    mel_filters: int = 40
    low_hz: float = 0.0
    high_hz: float = 8000.0
    coefficients: int = 40
    pre_emphasis: float = 0.97
    lifter: int = 22
    energy: bool = True


def mfcc(
    samples: Float[np.ndarray, " samples"], config: MfccConfig
) -> Float32[np.ndarray, "frames coeffs"]:
    """Mel-frequency cepstral coefficients of one clip, those of python_speech_features.

    Args:
        samples: mono audio at `config.sample_rate`, finite and not all zero, of any length.
        config: see `MfccConfig`.

    Returns:
        A matrix whose shape depends on `config` alone: [348, 40] for 3.5 s of "paper".
    """
    clip = _fit(
        _scale(samples, config.level), round(config.clip_seconds * config.sample_rate), config.align
    )
    # Digital silence, padding above all, has no logarithm, and what a recording holds in its
    # pauses depends on the codec; a floor of noise far below the voice makes both alike.
    clip = clip + _noise(len(clip)) * config.level * 10 ** (config.dither_db / 20)
    return _cepstra(clip, config).astype(np.float32)


def _cepstra(
    clip: Float[np.ndarray, " samples"], config: MfccConfig
) -> Float[np.ndarray, "frames coeffs"]:
    """`python_speech_features.mfcc` of a clip with noise, to the last bit, in half the time.

    The library copies the window for every frame and makes its mel filters for every clip.
    """
    frame, step = (
        round_half_up(seconds * config.sample_rate)
        for seconds in (config.frame_seconds, config.step_seconds)
    )
    clip = preemphasis(clip, config.pre_emphasis)
    steps = max(0, -(-(len(clip) - frame) // step))
    clip = np.pad(clip, (0, steps * step + frame - len(clip)))
    frames = np.lib.stride_tricks.sliding_window_view(clip, frame)[::step] * np.hamming(frame)
    power = np.abs(scipy.fft.rfft(frames, config.fft_size)) ** 2 / config.fft_size
    cepstra = scipy.fft.dct(np.log(power @ _mel_filters(config)), norm="ortho")
    cepstra = lifter(cepstra[:, : config.coefficients], config.lifter)
    if config.energy:
        cepstra[:, 0] = np.log(power.sum(axis=1))
    return cepstra


@functools.cache
def _noise(length: int) -> Float[np.ndarray, " samples"]:
    return np.random.default_rng(0).standard_normal(length)


@functools.cache
def _mel_filters(config: MfccConfig) -> Float[np.ndarray, "frequencies filters"]:
    return get_filterbanks(
        config.mel_filters, config.fft_size, config.sample_rate, config.low_hz, config.high_hz
    ).T


def _scale(samples: Float[np.ndarray, " samples"], level: float) -> Float[np.ndarray, " samples"]:
    """Brings the whole clip to one level: recording gain tells corpora, not emotions, apart."""
    samples = samples.astype(np.float64)
    return samples * (level / np.sqrt(np.mean(samples**2)))


def _fit(
    samples: Float[np.ndarray, " samples"], length: int, align: str
) -> Float[np.ndarray, " length"]:
    """Crops or zero-pads to `length` samples, at both ends alike or at the end alone."""
    surplus = len(samples) - length
    before = surplus // 2 if align == "centre" else 0
    if surplus >= 0:
        return samples[before : before + length]
    before = -before
    return np.pad(samples, (before, -surplus - before))
