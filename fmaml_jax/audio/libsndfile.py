"""WAV, FLAC, AIFF and other files of one stream whose header has its length -> blocks."""

import contextlib
import io
import os
import re
from collections.abc import Iterator
from pathlib import Path

import soundfile

from fmaml_jax.audio.source import (
    BLOCK,
    CUT_SHORT,
    AudioError,
    Block,
    Header,
    nothing_after,
    require_rate,
)

_PLACEHOLDER = 0x7FFF_0000  # encoders that write to a pipe declare sizes from here upwards
_HEADER_BYTES = 44  # some writers count the WAV header into the data, which loses no sample
_SHORTER = re.compile(r"^\s*(?:data|SSND|riff|Data Size) +: (\d+) \(should be (\d+)\)", re.M)
_CUT_SHORT = ("does not match value from 'ds64' chunk", "Seems to be a truncated file")


def probe(path: str | os.PathLike) -> Header:
    """Reads a file's header alone; see `decoding.probe`."""
    with _opened(path) as sound:
        return Header(sound.samplerate, sound.frames / sound.samplerate, sound.channels)


def decode(
    path: str | os.PathLike, start: float = 0.0, end: float | None = None
) -> Iterator[Block]:
    """The samples from `start` to `end`, in seconds; None is the end of the file.

    Raises:
        AudioError: the file is unreadable, empty, truncated or damaged.
    """
    with _opened(path) as sound:
        first = round(start * sound.samplerate)
        last = sound.frames if end is None else min(sound.frames, round(end * sound.samplerate))
        if first >= last:
            raise nothing_after(start, sound.frames / sound.samplerate)
        if first:
            sound.seek(first)
        left = last - first
        frames = max(1, BLOCK // sound.channels)
        try:
            while left and len(block := sound.read(min(frames, left), "float32", always_2d=True)):
                left -= len(block)
                yield Block(block, sound.samplerate)
        except soundfile.SoundFileError as error:
            raise AudioError(f"truncated or damaged ({_phrase(error)})") from error
        if left or (last == sound.frames and _is_cut_short(sound.extra_info)):
            raise AudioError(CUT_SHORT)


@contextlib.contextmanager
def _opened(path: str | os.PathLike) -> Iterator[soundfile.SoundFile]:
    """The file, its header checked, and with at least one sample by that."""
    # By its number, a file has no name that says what it is, as .raw would.
    with open(path, "rb") as file, _open(file.fileno()) as sound:
        if sound.frames:
            yield sound
            return
    # A WAV written to a pipe may declare no data at all, and hold some.
    with _open(io.BytesIO(_with_open_end(Path(path).read_bytes()))) as sound:
        if not sound.frames:
            raise AudioError("empty (no samples)")
        yield sound


def _open(file: int | io.BytesIO) -> soundfile.SoundFile:
    try:
        sound = soundfile.SoundFile(file, closefd=False)
    except soundfile.SoundFileError as error:
        raise AudioError(f"unreadable ({_phrase(error)}; encode it again)") from error
    require_rate(sound.samplerate)
    return sound


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
