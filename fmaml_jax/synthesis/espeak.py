"""Speech from eSpeak NG: one function that reads a sentence aloud.

eSpeak NG comes with its voices in the PyPI package `espeakng-loader`. It is licensed under GPL-3;
`data_prep.synthesise` is the only part of the project that loads it, by way of this module, and
the files it writes are ordinary recordings to everything else.
"""

import contextlib
import ctypes
import os
from collections.abc import Iterator

import numpy as np
from jaxtyping import Float64

from fmaml_jax.common.errors import UserError

# From eSpeak NG's speak_lib.h.
_SYNCHRONOUS = 2  # call back with samples, play nothing, return when the sentence is finished
_DONT_EXIT = 0x8000
_UTF8 = 1
_CHARACTERS = 1
_RATE, _PITCH, _RANGE = 1, 3, 4

_Callback = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p
)


def speak(
    text: str, voice: str, rate: float, pitch: float, pitch_range: float
) -> tuple[Float64[np.ndarray, " samples"], int]:
    """Reads `text` aloud; the same arguments give the same samples, whatever was said before.

    One thread of a process at a time: threads would share one copy of the library.

    Args:
        text: one or more sentences in the voice's language.
        voice: language and variant, such as "it+f3".
        rate: words a minute, from 80 to 450.
        pitch: base pitch, from 0 to 100; 50 is the variant's own.
        pitch_range: liveliness of the melody, from 0 (monotone) to 100; 50 is the language's own.

    Returns:
        The samples, within -1 and 1, and the sample rate in Hz.

    Raises:
        UserError: `espeakng-loader` is missing or broken, or it has no such voice.
    """
    chunks = []

    @_Callback
    def collect(samples, count, _events):
        if samples and count:
            chunks.append(np.ctypeslib.as_array(samples, (count,)) / 32768)
        return 0

    with _fresh_library() as (library, data_path):
        sample_rate = library.espeak_Initialize(_SYNCHRONOUS, 0, data_path, _DONT_EXIT)
        library.espeak_ng_SetRandSeed(ctypes.c_long(1))  # it was seeded with the time of day
        library.espeak_SetSynthCallback(collect)
        if sample_rate <= 0 or library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise UserError(
                f"eSpeak NG finds no voice {voice!r} under {data_path.decode()}; name another, or "
                "reinstall espeakng-loader (a path of more than 159 characters is too long for it)"
            )
        for parameter, value in ((_RATE, rate), (_PITCH, pitch), (_RANGE, pitch_range)):
            library.espeak_SetParameter(parameter, round(value), 0)
        sentence = text.encode()
        library.espeak_Synth(
            sentence, ctypes.c_size_t(len(sentence) + 1), 0, _CHARACTERS, 0, _UTF8, None, None
        )
        library.espeak_Terminate()
    return np.concatenate(chunks), sample_rate


@contextlib.contextmanager
def _fresh_library() -> Iterator[tuple[ctypes.CDLL, bytes]]:
    """Loads the library for one utterance, and unloads it.

    eSpeak NG keeps random numbers, pitch flutter and echo from one utterance to the next in static
    variables that its interface cannot reset; those of a library just loaded are always the same.
    """
    try:
        import espeakng_loader  # here, so that noise can be made without it

        library_path, data_path = (
            espeakng_loader.get_library_path(),
            espeakng_loader.get_data_path(),
        )
        library = ctypes.CDLL(library_path)
    except (ImportError, OSError, RuntimeError) as error:
        raise UserError(
            f"the speech synthesiser does not load ({error}); install it with "
            "`pip install espeakng-loader`"
        ) from error
    try:
        # eSpeak NG keeps 160 bytes for this path, so take the shorter spelling.
        yield library, min(data_path, os.path.relpath(data_path), key=len).encode()
    finally:
        close = ctypes.CDLL(None).dlclose
        close.argtypes = (ctypes.c_void_p,)
        close(library._handle)
