"""Samples of one clip -> log mel filterbank energies, as Kaldi's fbank computes them.

Those of 3D-Speaker, on which its encoders were trained: samples of full scale 1, no dither, and
the mean of each filter over time taken out, so that neither gain nor channel is left.
"""

import functools
from typing import Literal, NamedTuple

import numpy as np
import scipy.fft
from jaxtyping import Float, Float32

from fmaml_jax.audio.decoding import SAMPLE_RATE

FRAME, STEP = 400, 160
"""Samples of an analysis frame and between two: 25 and 10 ms at 16 kHz."""
FFT_SIZE = 512
MELS = 80
LOW_HZ, HIGH_HZ = 20.0, 8000.0
PRE_EMPHASIS = np.float32(0.97)
FLOOR = np.finfo(np.float32).eps
"""Least energy; its logarithm is that of digital silence."""


class EncoderConfig(NamedTuple):
    """What a pretrained encoder makes of the energies; plain data, stored in every .npz.

    Attributes:
        encoder: version of what is computed; another version is another vector.
        weights: content hash of the encoder's file.
        layer: the dense block whose output is read ("last" is what tells speakers apart), and
            `statistics` over time of it: "mean", or "mean_deviation" for both. They are the best on
            nEMO with the other corpora as sources; experiments/encoder.md has the table.
        sample_rate: samples per second that `log_mel_energies` expects.
        clip_seconds: length to which a longer clip is cropped, around its centre.
    """

    encoder: int = 1
    weights: str = ""
    layer: Literal["block1", "block2", "block3", "last"] = "block3"
    statistics: Literal["mean", "mean_deviation"] = "mean_deviation"
    sample_rate: int = SAMPLE_RATE
    clip_seconds: float = 20.0


def log_mel_energies(
    samples: Float32[np.ndarray, " samples"],
) -> Float32[np.ndarray, "frames {MELS}"]:
    """Log energies of `MELS` filters in frames of 25 ms every 10 ms, less their mean over time.

    Args:
        samples: mono audio at 16 kHz; what is shorter than a frame is padded with zeros to one.

    Returns:
        1 + (samples - 400) // 160 frames: a frame that would begin before or end after is none.
    """
    padded = np.pad(samples, (0, max(0, FRAME - len(samples))))
    frames = np.lib.stride_tricks.sliding_window_view(padded, FRAME)[::STEP]
    frames = frames - frames.mean(axis=1, keepdims=True)
    emphasised = frames.copy()
    emphasised[:, 1:] -= PRE_EMPHASIS * frames[:, :-1]
    emphasised[:, 0] -= PRE_EMPHASIS * frames[:, 0]
    spectrum = scipy.fft.rfft(emphasised * _window(), FFT_SIZE)
    energies = (spectrum.real**2 + spectrum.imag**2) @ _mel_filters()
    logarithms = np.log(np.maximum(energies, FLOOR))
    return logarithms - logarithms.mean(axis=0)


@functools.cache
def _window() -> Float32[np.ndarray, " {FRAME}"]:
    """Povey's window, a Hann window to the power of 0.85."""
    return (np.hanning(FRAME) ** 0.85).astype(np.float32)


@functools.cache
def _mel_filters() -> Float32[np.ndarray, "frequencies {MELS}"]:
    """Triangles that are equally wide on the mel scale, where they are also straight."""

    def mel(hertz: Float[np.ndarray, " _"]) -> Float[np.ndarray, " _"]:
        return 1127 * np.log1p(hertz / 700)

    low, high = mel(np.array([LOW_HZ, HIGH_HZ]))
    edges = np.linspace(low, high, MELS + 2)
    position = np.interp(
        mel(np.arange(FFT_SIZE // 2 + 1) * (2 * HIGH_HZ / FFT_SIZE)), edges, np.arange(MELS + 2)
    )
    return np.maximum(0, 1 - np.abs(position[:, None] - np.arange(1, MELS + 1))).astype(np.float32)
