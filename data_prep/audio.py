"""A sound file of any format, rate and channel count -> mono samples at 16 kHz."""

import io
import os
import re
from pathlib import Path

import numpy as np
import soundfile
import soxr
from jaxtyping import Float32

SAMPLE_RATE = 16_000
"""Samples per second of every clip after `read_clip`."""

_BLOCK = 1 << 18  # frames decoded at a time, so that no header decides how much memory is taken
_UNKNOWN_FRAMES = 2**63 - 1  # libsndfile's frame count for a FLAC file without one
_PLACEHOLDER = 0x7FFF_0000  # encoders that write to a pipe declare sizes from here upwards
_LOUDEST = 1e12  # above 32-bit integers stored as floats; sums of such squares stay finite
_HEADER_BYTES = 44  # some writers count the WAV header into the data, which loses no sample
_SHORTER = re.compile(r"^\s*(?:data|SSND|riff|Data Size) +: (\d+) \(should be (\d+)\)", re.M)
_CUT_SHORT = (
    "does not match value from 'ds64' chunk",
    "Seems to be a truncated file",
    "Last page lacks an end-of-stream bit",
    "Junk after the last page",
)


class AudioError(Exception):
    """Why a file is no usable clip: a phrase such as "empty"."""


def read_clip(path: str | os.PathLike) -> Float32[np.ndarray, " samples"]:
    """Decodes a file, averages its channels and resamples to `SAMPLE_RATE`.

    Args:
        path: a file of any format that libsndfile reads.

    Returns:
        Samples, 1.0 is full scale; at least one, all finite, not all zero.

    Raises:
        AudioError: the file is unreadable, empty, truncated, holds NaN or infinity, or is silent.
    """
    try:
        with open(path, "rb") as file:
            if not file.read(1):
                raise AudioError("empty (0 bytes)")
    except OSError as error:
        raise AudioError(f"unreadable ({error.strerror})") from error
    samples, rate = _decode(os.fsencode(path))
    if not len(samples):  # a WAV written to a pipe may declare no data at all, and hold some
        samples, rate = _decode(io.BytesIO(_with_open_end(Path(path).read_bytes())))
    if not len(samples):
        raise AudioError("empty (no samples)")
    if not (np.abs(samples) < _LOUDEST).all():  # false for NaN
        raise AudioError("NaN or infinite samples")
    mono = soxr.resample(samples.mean(axis=1), rate, SAMPLE_RATE)
    if not mono.any():
        raise AudioError("all samples are zero")
    return mono


def _decode(file: bytes | io.BytesIO) -> tuple[Float32[np.ndarray, "frames channels"], int]:
    """Samples and rate of a file, by its name or its bytes; raises AudioError if it was cut."""
    try:
        sound = soundfile.SoundFile(file)
    except soundfile.SoundFileError as error:
        raise AudioError(f"unreadable ({_phrase(error)})") from error
    with sound:
        if sound.frames == _UNKNOWN_FRAMES:
            raise AudioError("unreadable (its header has no length; encode it again to a file)")
        if not 1_000 <= sound.samplerate <= 1_000_000:
            raise AudioError(f"unreadable (its header says {sound.samplerate} samples a second)")
        blocks = [np.zeros((0, sound.channels), np.float32)]
        try:
            while len(block := sound.read(_BLOCK, "float32", always_2d=True)):
                blocks.append(block)
        except soundfile.SoundFileError as error:
            raise AudioError(f"truncated or damaged ({_phrase(error)})") from error
        samples = np.concatenate(blocks)
        if len(samples) < sound.frames or _is_cut_short(sound.extra_info):
            raise AudioError("truncated (the file ends before the audio that it declares)")
        return samples, sound.samplerate


def _is_cut_short(log: str) -> bool:
    """Whether libsndfile's log of the header, which it otherwise passes over, shows a cut."""
    sizes = [(int(declared), int(found)) for declared, found in _SHORTER.findall(log)]
    return any(phrase in log for phrase in _CUT_SHORT) or any(
        found + _HEADER_BYTES < declared < _PLACEHOLDER for declared, found in sizes
    )


def _with_open_end(raw: bytes) -> bytes:
    """A WAV file whose empty data chunk is declared to last until the end of the file.

    Left as it is where the RIFF size agrees with the file: then the clip is really empty.
    """
    is_wav = raw[:4] == b"RIFF" and raw[8:12] == b"WAVE"
    if is_wav and int.from_bytes(raw[4:8], "little") + 8 < len(raw):
        return raw.replace(b"data" + bytes(4), b"data" + b"\xff" * 4, 1)
    return raw


def _phrase(error: soundfile.SoundFileError) -> str:
    message = getattr(error, "error_string", str(error))
    return message.removeprefix("Error : ").strip(" .")
