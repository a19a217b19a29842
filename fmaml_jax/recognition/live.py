"""Sound as it comes in, 16-bit samples at 16 kHz -> each second what its last 3 seconds are."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from fmaml_jax.audio.decoding import SAMPLE_RATE, begins_file
from fmaml_jax.audio.voice_activity import Samples, has_speech
from fmaml_jax.common.errors import UserError
from fmaml_jax.encoder.features import window_describer
from fmaml_jax.recognition.recogniser import Recogniser, probabilities
from fmaml_jax.recognition.timeline import (
    HOP,
    WINDOW,
    Listened,
    Prediction,
    Span,
    label,
    whole,
)

_BYTES, _FULL_SCALE = 2, 1 << 15

Answer = Callable[[int, Samples], dict[str, Any]]


def require_samples(heard: bytes | bytearray) -> None:
    """Refuses a sound file, which would be answered as if its bytes were samples.

    Args:
        heard: what came in first.

    Raises:
        UserError: it begins as a file does.
    """
    if begins_file(heard):
        raise UserError(
            "a sound file comes in, and samples alone are taken; convert it: ffmpeg -i FILE -ar "
            "16000 -ac 1 -f s16le -"
        )


def windows(heard: bytearray) -> Iterator[Samples]:
    """The windows that are complete, which are taken from what was heard but for their overlap.

    Each is without a constant offset, as a clip is when it is read.

    Args:
        heard: 16-bit little-endian samples; what comes later is put behind them.
    """
    while len(heard) >= _BYTES * WINDOW:
        samples = np.frombuffer(bytes(heard[: _BYTES * WINDOW]), "<i2")
        del heard[: _BYTES * HOP]
        scaled = samples.astype(np.float32) / _FULL_SCALE
        yield scaled - scaled.mean()


def answerer(recogniser: Recogniser, abstain: float = 0.0) -> Answer:
    """What answers a window of a number, from 0, and its samples.

    An answer is a segment of `prediction.schema.json`, as `predict` has it of a clip of these
    samples; where nobody speaks it has start and end alone.

    Args:
        recogniser: from `enrol` or `load`.
        abstain: probability from 0 to 1 below which the answer is "unsure".
    """
    describe = window_describer(recogniser.feature_config, recogniser.encoder)

    def find(samples: Samples) -> np.ndarray:
        # The products of one window are too small to be shared among cores.
        with threadpool_limits(1):
            return probabilities(recogniser, describe([samples], [whole(samples)]))

    def answer(number: int, samples: Samples) -> dict[str, Any]:
        begin = number * HOP
        if not has_speech(samples):
            return {"start": begin / SAMPLE_RATE, "end": (begin + WINDOW) / SAMPLE_RATE}
        prediction = Prediction("", WINDOW / SAMPLE_RATE, recogniser.classes, (), np.zeros(0))
        span = Span(begin, whole(samples))
        listened = Listened(prediction, (span,), ())
        return label(listened, [find(samples)], abstain).to_dict()["segments"][0]

    find(np.zeros(WINDOW, np.float32))  # so that the first answer does not wait for its program
    return answer
