"""A sound file of any format, rate and channel count -> mono samples at 16 kHz."""

import contextlib
import io
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

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


class Header(NamedTuple):
    """What a file says of itself: samples per second, and length in seconds."""

    sample_rate: int
    seconds: float


class Sound(NamedTuple):
    """What was read of a file.

    Attributes:
        samples: mono at `SAMPLE_RATE`, 1.0 is full scale.
        sample_rate: the file's own samples per second.
        seconds: how long that is.
        findings: what may be wrong with it, each the end of a sentence.
    """

    samples: Float32[np.ndarray, " samples"]
    sample_rate: int
    seconds: float
    findings: tuple[str, ...] = ()


class Stream(NamedTuple):
    """A `Sound` whose samples come in blocks of some seconds, one after the other."""

    blocks: Iterator[Float32[np.ndarray, " samples"]]
    sample_rate: int
    seconds: float
    findings: tuple[str, ...] = ()


def probe(path: str | os.PathLike) -> Header:
    """Reads a file's header alone.

    Raises:
        AudioError: the file is unreadable or empty.
    """
    with _opened(path) as sound:
        return Header(sound.samplerate, sound.frames / sound.samplerate)


def read_clip(path: str | os.PathLike, start: float = 0.0, end: float | None = None) -> Sound:
    """Decodes a file, averages its channels and resamples to `SAMPLE_RATE`.

    Args:
        path: a file of any format that libsndfile reads.
        start: where the part to read begins, in seconds.
        end: where it ends; None is the end of the file.

    Returns:
        At least one sample, all finite, not all zero.

    Raises:
        AudioError: the file is unreadable, empty, truncated, holds NaN or infinity, or is silent.
    """
    with _opened(path) as sound:
        samples = np.concatenate(list(_mono_blocks(sound, start, end)))
        mono = soxr.resample(samples, sound.samplerate, SAMPLE_RATE)
    if not mono.any():
        raise AudioError("all samples are zero")
    return Sound(mono, sound.samplerate, len(samples) / sound.samplerate)


def read_blocks(path: str | os.PathLike) -> Stream:
    """The samples of `read_clip`, the same ones, in blocks of some seconds.

    It takes the memory of a few blocks, however long the file is. Silence is no error here, and
    that a file is cut is known at its end alone.

    Raises:
        AudioError: the file is unreadable, empty, truncated, or holds NaN or infinity.
    """
    header = probe(path)
    return Stream(_blocks(path), header.sample_rate, header.seconds)


def _blocks(path: str | os.PathLike) -> Iterator[Float32[np.ndarray, " samples"]]:
    with _opened(path) as sound:
        stream = soxr.ResampleStream(sound.samplerate, SAMPLE_RATE, 1, "float32")
        for block in _mono_blocks(sound):
            yield stream.resample_chunk(block)
        yield stream.resample_chunk(np.zeros(0, np.float32), last=True)


@contextlib.contextmanager
def _opened(path: str | os.PathLike) -> Iterator[soundfile.SoundFile]:
    """The file, its header checked, and with at least one sample by that."""
    try:
        with open(path, "rb") as file:
            if not file.read(1):
                raise AudioError("empty (0 bytes)")
    except OSError as error:
        raise AudioError(f"unreadable ({error.strerror})") from error
    sound = _open(os.fsencode(path))
    if not sound.frames:  # a WAV written to a pipe may declare no data at all, and hold some
        sound.close()
        sound = _open(io.BytesIO(_with_open_end(Path(path).read_bytes())))
    with sound:
        if not sound.frames:
            raise AudioError("empty (no samples)")
        yield sound


def _open(file: bytes | io.BytesIO) -> soundfile.SoundFile:
    try:
        sound = soundfile.SoundFile(file)
    except soundfile.SoundFileError as error:
        raise AudioError(f"unreadable ({_phrase(error)})") from error
    if sound.frames == _UNKNOWN_FRAMES:
        sound.close()
        raise AudioError("unreadable (its header has no length; encode it again to a file)")
    if not 1_000 <= sound.samplerate <= 1_000_000:
        sound.close()
        raise AudioError(f"unreadable (its header says {sound.samplerate} samples a second)")
    return sound


def _mono_blocks(
    sound: soundfile.SoundFile, start: float = 0.0, end: float | None = None
) -> Iterator[Float32[np.ndarray, " frames"]]:
    """The mean of the channels, block by block, at the file's own rate."""
    first = round(start * sound.samplerate)
    last = sound.frames if end is None else min(sound.frames, round(end * sound.samplerate))
    if first >= last:
        raise AudioError(f"empty (no samples after {start:g} s)")
    if first:
        sound.seek(first)
    left = last - first
    try:
        while left and len(block := sound.read(min(_BLOCK, left), "float32", always_2d=True)):
            if not (np.abs(block) < _LOUDEST).all():  # false for NaN
                raise AudioError("NaN or infinite samples")
            left -= len(block)
            yield block.mean(axis=1)
    except soundfile.SoundFileError as error:
        raise AudioError(f"truncated or damaged ({_phrase(error)})") from error
    if left or (end is None and _is_cut_short(sound.extra_info)):
        raise AudioError("truncated (the file ends before the audio that it declares)")


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
