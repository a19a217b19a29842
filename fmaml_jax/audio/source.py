"""What the decoders have in common: what they give, and how they refuse."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float32

BLOCK = 1 << 18
"""Samples decoded at a time, so that no header decides how much memory is taken."""


class AudioError(Exception):
    """Why a file is no usable clip: a phrase such as "empty"."""


class UnknownFormatError(AudioError):
    """No decoder knows what it is."""


class Header(NamedTuple):
    """What a file says of itself.

    Attributes:
        sample_rate: samples per second.
        seconds: its length; 0 where it does not say.
        channels: how many it has.
    """

    sample_rate: int
    seconds: float
    channels: int = 1


class Block(NamedTuple):
    """Samples that follow one another.

    Attributes:
        samples: 1.0 is full scale.
        sample_rate: their number per second.
        findings: what may be wrong with the file, each the end of a sentence.
    """

    samples: Float32[np.ndarray, "frames channels"]
    sample_rate: int
    findings: tuple[str, ...] = ()


CUT_SHORT = "truncated (the file ends before the audio that it declares; copy or record it again)"


def require_rate(sample_rate: int) -> None:
    """Refuses a header whose number of samples per second is no sound's."""
    if not 1_000 <= sample_rate <= 1_000_000:
        raise AudioError(
            f"unreadable (its header says {sample_rate} samples a second; encode it again)"
        )


def nothing_after(start: float, seconds: float) -> AudioError:
    """The refusal of a part that begins where a file of so many seconds has ended."""
    if not seconds:
        return AudioError("empty (no samples)")
    return AudioError(f"only {seconds:g} s long, which ends before {start:g} s")
