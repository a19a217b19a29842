"""What is wrong with sound, told by its samples: findings, each the end of a sentence.

Limits are such that fewer than one in a hundred clips of any of five corpora (3,449 clips of EmoDB,
EMOVO, nEMO, RAVDESS and CREMA-D) are beyond one; but 2% of CREMA-D's are clipped indeed.
"""

import collections
import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import scipy.fft
from jaxtyping import Bool, Float, Float32

from fmaml_jax.audio.decoding import SAMPLE_RATE
from fmaml_jax.audio.voice_activity import has_speech

LEAST_SECONDS = 0.1
"""What is shorter is no clip to train on: a syllable is longer. The corpora's shortest has 1.05."""
SHORT_SECONDS = 0.5
"""What is shorter is answered, and warned of."""
QUIET_DB = -60.0
"""Root mean square, of full scale. Below it are 5 of 746 clips of RAVDESS, and none of the rest."""
FULL_SCALE, CLIPPED_SHARE = 0.999, 0.002
NARROW_DB = -45.0
"""Power from 4.3 to 7.8 kHz, of that from 0.3 to 3.4 kHz. The corpora's clips have -40 dB or more;
as telephone speech (8 kHz, 8 bits, stored at 16 kHz) 99.8% of them have less than -45 dB, and at
-45 dB of full scale all."""
FAR = 2.2
"""Root mean square of a whitened vector. Of 3,449 clips of five corpora, one of which was not
trained on, none is above it; noise, hum, chords, melodies and speech at twelve times its speed are,
and of samples whose bytes are swapped or shifted 93%."""

NO_SPEECH = "no speech was found in it"
FAR_FROM_SPEECH = "far from all speech that the start was trained on"
QUIET = "hardly any sound in it"

_FRAME = 512
_HERTZ = scipy.fft.rfftfreq(_FRAME, 1 / SAMPLE_RATE)
_VOICE = (_HERTZ > 300) & (_HERTZ < 3400)
_ABOVE = (_HERTZ > 4300) & (_HERTZ < 7800)
_NAMED = 3  # clips that a sentence names; the rest are counted


class Measures(NamedTuple):
    """Sums over samples; those of the parts of a recording add up to its own.

    Attributes:
        samples: how many.
        energy: of them, the sum of their squares.
        clipped: how many are at full scale.
        voice, above: power in the telephone's band, and above it.
    """

    samples: int = 0
    energy: float = 0.0
    clipped: int = 0
    voice: float = 0.0
    above: float = 0.0

    def plus(self, other: "Measures") -> "Measures":
        """Of both parts together."""
        return Measures(
            self.samples + other.samples,
            self.energy + other.energy,
            self.clipped + other.clipped,
            self.voice + other.voice,
            self.above + other.above,
        )


def measure(samples: Float32[np.ndarray, " samples"]) -> Measures:
    """Measures a part of a recording, or a whole one.

    Args:
        samples: mono at `SAMPLE_RATE`; 1.0 is full scale.
    """
    whole = len(samples) // _FRAME * _FRAME
    frames = samples[:whole].reshape(-1, _FRAME) if whole else samples[None]
    power = np.abs(scipy.fft.rfft(frames * np.hanning(frames.shape[1]), _FRAME)) ** 2
    return Measures(
        len(samples),
        float(np.sum(np.square(samples, dtype=np.float64))),
        int(np.sum(np.abs(samples) >= FULL_SCALE)),
        float(power[:, _VOICE].sum(dtype=np.float64)),
        float(power[:, _ABOVE].sum(dtype=np.float64)),
    )


def findings(measures: Measures, sample_rate: int) -> tuple[str, ...]:
    """What is wrong with a clip, or with a recording as a whole.

    Args:
        measures: of all its samples.
        sample_rate: that of the file.
    """
    level = 10 * math.log10(measures.energy / max(1, measures.samples) + 1e-20)
    quiet = level < QUIET_DB
    narrow = measures.above < measures.voice * 10 ** (NARROW_DB / 10)
    low = sample_rate < SAMPLE_RATE
    found = {
        f"shorter than {SHORT_SECONDS:g} s, too short to hear an emotion in": measures.samples
        < SHORT_SECONDS * SAMPLE_RATE,
        QUIET: quiet,
        "clipped, recorded too loud": measures.clipped > CLIPPED_SHARE * measures.samples,
        f"only {sample_rate} samples a second, as on the telephone, and not {SAMPLE_RATE}": low,
        "no sound above 4 kHz in it, as on the telephone": narrow and not low and not quiet,
    }
    return tuple(finding for finding, holds in found.items() if holds)


def clip_findings(samples: Float32[np.ndarray, " samples"], sample_rate: int) -> tuple[str, ...]:
    """What is wrong with a clip: `findings`, and whether there is speech in it.

    Args:
        samples: mono at `SAMPLE_RATE`.
        sample_rate: that of the file.
    """
    found = findings(measure(samples), sample_rate)
    return found if has_speech(samples) else (*found, NO_SPEECH)


def far_from_speech(vectors: Float[np.ndarray, "clips time coeffs"]) -> Bool[np.ndarray, " clips"]:
    """Which clips' features, as the network is given them (`data.scale`), are above `FAR`."""
    return np.sqrt(np.mean(vectors**2, axis=(1, 2))) > FAR


def in_sum(found: Iterable[tuple[str, Sequence[str]]]) -> list[str]:
    """A sentence for each finding, which names clips.

    Args:
        found: names of clips, and the findings of each.
    """
    by_finding = collections.defaultdict(list)
    for name, own in found:
        for finding in own:
            by_finding[finding].append(repr(name))
    return [
        f"{', '.join(names[:_NAMED])}"
        f"{f' and {len(names) - _NAMED} more' if len(names) > _NAMED else ''}: {finding}"
        for finding, names in by_finding.items()
    ]
