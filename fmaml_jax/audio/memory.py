"""Sound that is given as an array or a file object -> a file, for as long as it is needed.

So each sound is decoded, checked and described in one way, wherever it comes from.
"""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from numbers import Number
from typing import Any, BinaryIO

import numpy as np
import soundfile

from fmaml_jax.audio.source import AudioError

Source = str | os.PathLike[str] | BinaryIO | tuple[np.ndarray, int]
"""A file's path; a file object opened in binary mode; or floats, full scale at 1, as [frames] or
[frames, channels], with their number per second, as `soundfile.read` returns them."""

IN_MEMORY = "sound in memory"
"""What messages and predictions call a sound that has no name."""

_MOST_CHANNELS = 64
_WANTED = "give a file's path, a file object, or (samples, rate)"


def source_name(source: Source) -> str:
    """The path of a sound, or of the file object; "" where there is none."""
    name = source if isinstance(source, str | os.PathLike) else getattr(source, "name", None)
    return os.fspath(name) if isinstance(name, str | os.PathLike) else ""


def is_one_sound(value: object) -> bool:
    """Whether something is one sound, and no list of them."""
    pair = isinstance(value, tuple) and len(value) == 2 and isinstance(value[1], Number)
    one = isinstance(value, str | bytes | os.PathLike | np.ndarray) or hasattr(value, "read")
    return pair or one


@contextlib.contextmanager
def as_file(source: Source) -> Iterator[str]:
    """The path of a file that holds the sound; one made for this is gone after the block.

    Raises:
        AudioError: it is none of the three, or the array is no sound.
    """
    if isinstance(source, str | os.PathLike):
        yield os.fspath(source)
        return
    with tempfile.NamedTemporaryFile(prefix="fmaml_jax_") as file:
        if hasattr(source, "read"):
            _copy(source, file)
        elif isinstance(source, tuple) and len(source) == 2:
            _write(*source, file)
        elif isinstance(source, np.ndarray):
            raise AudioError("an array without its rate; give (samples, rate)")
        else:
            raise AudioError(f"{type(source).__name__} and no sound; {_WANTED}")
        file.flush()
        yield file.name


def _copy(source: Any, file: Any) -> None:
    try:
        shutil.copyfileobj(source, file)
    except (TypeError, ValueError) as error:  # of text, or closed, or for writing
        raise AudioError("a file object that gives no bytes; open it with mode 'rb'") from error


def _write(samples: Any, rate: Any, file: Any) -> None:
    if not isinstance(rate, int | np.integer) or not 1_000 <= rate <= 1_000_000:
        raise AudioError(f"a pair with no whole number of samples a second; {_WANTED}")
    try:
        samples = np.asarray(samples)
    except ValueError as error:  # lists of unequal lengths
        raise AudioError(f"a pair with no array of samples; {_WANTED}") from error
    if samples.dtype.kind != "f":
        raise AudioError(
            f"an array of {samples.dtype}; give floats, full scale at 1 (16-bit integers divided "
            "by 32768)"
        )
    if samples.ndim not in (1, 2) or samples.shape[1:] > (_MOST_CHANNELS,):
        raise AudioError(
            f"an array of the shape {samples.shape}; give [frames], or [frames, channels]"
        )
    if not samples.size:
        raise AudioError("empty (no samples)")
    with np.errstate(over="ignore"):  # what is infinite is refused when it is read
        samples = samples.astype(np.float32)
    # RF64, since a WAV holds no more than 4 GB.
    soundfile.write(file, samples, int(rate), "FLOAT", format="RF64")
