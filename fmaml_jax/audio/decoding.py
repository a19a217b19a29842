"""A sound file of any format, rate and channel count -> mono samples at 16 kHz."""

import mmap
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import soxr
from jaxtyping import Float32

from fmaml_jax.audio import ffmpeg, libsndfile
from fmaml_jax.audio.source import AudioError, Block, Header, UnknownFormatError

__all__ = [
    "SAMPLE_RATE",
    "AudioError",
    "Header",
    "Sound",
    "Stream",
    "begins_file",
    "probe",
    "read_blocks",
    "read_clip",
]

SAMPLE_RATE = 16_000
"""Samples per second of every clip after `read_clip`."""
MOST_HELD = 1 << 24
"""Samples of a clip of more channels than two that are held at a time."""
_HEAD = 4096  # bytes of the beginning that tell what a file is
_LOUDEST = 1e12  # above 32-bit integers stored as floats; sums of such squares stay finite
_OFFSET = 0.05  # of full scale; a sound card with more is broken
_WEAK = 0.1  # of the largest range of a channel; what is below is crosstalk
_CANCELLED = 2  # times weaker than what the strongest channel alone gives it is a mean
# What libsndfile reads to the end and to the bit: WAV, AIFF, FLAC, AU, CAF, and older formats.
_LIBSNDFILE = re.compile(
    rb"RIFF....WAVE|RIFX|RF64|riff|FORM....AIF|FORM....(8SVX|16SV)|fLaC|\.snd|dns\.|caff"
    rb"|Creative Voice File|NIST_1A| paf|fap |2BIT|PVF1|\x64\xa3[\x01-\x04]\x00",
    re.DOTALL,
)
_OTHER_FILES = re.compile(rb"OggS|ID3[\x02-\x04]|....ftyp|\x1a\x45\xdf\xa3|#!AMR", re.DOTALL)
"""What FFmpeg reads of what people send: Ogg, MP3, MP4, WebM, AMR."""
_MPEG_IN_WAV = re.compile(rb"fmt ....[\x50\x55]\x00", re.DOTALL)
_FLAC_HEADER = re.compile(rb"fLaC[\x00\x80]\x00\x00\x22")
_FLAC_SAMPLES = slice(21, 26)  # the last 36 bits of these are their number, 0 if unknown
_SOUNDS = "give a sound file, such as WAV, FLAC, MP3, Ogg or M4A, or a video"
_NO_SOUND = {
    re.compile(start, re.IGNORECASE | re.DOTALL): what
    for start, what in {
        rb"version https://git-lfs": "a pointer of Git LFS, not the sound; run git lfs pull",
        rb"\s*<(!doctype|html|head|\?xml)": "a web page or XML; download the sound again",
        rb"PK\x03\x04|Rar!|7z\xbc\xaf|\x1f\x8b|BZh|\xfd7zXZ": "an archive; unpack it",
        rb"%PDF|\x89PNG|\xff\xd8\xff|GIF8": f"a picture or a document, no sound; {_SOUNDS}",
        rb"MThd": "MIDI, notes without sound; record it to WAV",
        rb"....(ftyp|moov|mdat|wide|free)": "MP4 that was never finished, or damaged; copy it "
        "again, or repair it",
        rb"\x00+$": "nothing but zeros, as of a copy that broke off; copy it again",
        rb"[\t\n\r -~]+$": f"text, no sound; {_SOUNDS}",
    }.items()
}
_UNKNOWN = "of no sound format that is known here; convert it to WAV or FLAC"


class Sound(NamedTuple):
    """What was read of a file.

    Attributes:
        samples: mono at `SAMPLE_RATE`, 1.0 is full scale, without a constant offset.
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


class _Survey(NamedTuple):
    """What is known of a file when all of it has been decoded.

    Attributes:
        sample_rate: the file's own.
        frames: samples of each channel.
        channel: the one that is used; None for their mean.
        offset: the mean of what is used.
        findings: ends of sentences.
    """

    sample_rate: int
    frames: int
    channel: int | None
    offset: np.float32
    findings: tuple[str, ...]


def probe(path: str | os.PathLike) -> Header:
    """Reads a file's header alone.

    Raises:
        AudioError: the file is unreadable or empty.
    """
    try:
        return _decoder(path).probe(path)
    except Exception as error:
        raise _refusal(path, error) from error


def begins_file(head: bytes | bytearray) -> bool:
    """Whether bytes begin a sound file of a usual format, and no samples."""
    return bool(_LIBSNDFILE.match(head) or _OTHER_FILES.match(head))


def read_clip(
    path: str | os.PathLike,
    start: float = 0.0,
    end: float | None = None,
    channel: int | None = None,
) -> Sound:
    """Decodes a file to one channel at `SAMPLE_RATE`, without a constant offset.

    That channel is the mean of all, or where they cancel each other, or all but one are as good as
    empty, the strongest.

    Args:
        path: a file of any format that libsndfile or FFmpeg reads.
        start: where the part to read begins, in seconds.
        end: where it ends; None is the end of the file.
        channel: the one to read, from 0 on, instead.

    Returns:
        At least one sample, all finite, not all zero.

    Raises:
        AudioError: the file is unreadable, empty, truncated, damaged, holds NaN or infinity, is
            silent, or lacks the channel.
    """
    held: list[Block] | None = []
    size = 0

    def decoded() -> Iterator[Block]:
        nonlocal held, size
        for block in _decoded(path, start, end):
            size += block.samples.size
            if size > MOST_HELD and block.samples.shape[1] > 2:
                held = None  # many channels, of which one is used: they are decoded again
            if held is not None:
                held.append(block)
            yield block

    survey = _survey(decoded(), channel)
    again = _decoded(path, start, end) if held is None else held
    samples = np.concatenate([_mono(block, survey) for block in again])
    if not samples.any():
        raise AudioError("all samples are zero, or one constant")
    return Sound(
        soxr.resample(samples, survey.sample_rate, SAMPLE_RATE),
        survey.sample_rate,
        survey.frames / survey.sample_rate,
        survey.findings,
    )


def read_blocks(
    path: str | os.PathLike,
    channel: int | None = None,
    look: Callable[[float], Any] = lambda seconds: None,
) -> Stream:
    """The samples of `read_clip`, the same ones, in blocks of some seconds.

    It takes the memory of a few blocks, however long the file is, since it is decoded twice: what
    is taken off its samples depends on all of them. Silence is no error here.

    Args:
        path: the file.
        channel: see `read_clip`.
        look: is told the seconds that have been decoded, again and again before there is a block.

    Raises:
        AudioError: see `read_clip`; before there is a block.
    """

    def watched() -> Iterator[Block]:
        seconds = 0.0
        for block in _decoded(path):
            seconds += len(block.samples) / block.sample_rate
            look(seconds)
            yield block

    survey = _survey(watched(), channel)
    return Stream(
        _resampled(_decoded(path), survey),
        survey.sample_rate,
        survey.frames / survey.sample_rate,
        survey.findings,
    )


def _resampled(
    blocks: Iterable[Block], survey: _Survey
) -> Iterator[Float32[np.ndarray, " samples"]]:
    stream = soxr.ResampleStream(survey.sample_rate, SAMPLE_RATE, 1, "float32")
    for block in blocks:
        yield stream.resample_chunk(_mono(block, survey))
    yield stream.resample_chunk(np.zeros(0, np.float32), last=True)


def _decoded(
    path: str | os.PathLike, start: float = 0.0, end: float | None = None
) -> Iterator[Block]:
    """Blocks of finite samples, all of one rate and number of channels."""
    shape = None
    try:
        for block in _decoder(path).decode(path, start, end):
            if not (np.abs(block.samples) < _LOUDEST).all():  # false for NaN
                raise AudioError("NaN or infinite samples")
            last, shape = shape, (block.sample_rate, block.samples.shape[1])
            if last not in (None, shape):
                raise AudioError("its sample rate or channels change in the middle; cut it there")
            yield block
    except Exception as error:
        raise _refusal(path, error) from error


def _survey(blocks: Iterable[Block], channel: int | None) -> _Survey:
    """Which channel, where none is asked for, and which offset: both depend on all samples."""
    frames = sample_rate = 0
    findings: list[str] = []
    total = energy = high = low = mixed = np.zeros(1)
    for block in blocks:
        sample_rate = block.sample_rate
        findings += block.findings
        if len(block.samples):
            exact = block.samples.astype(np.float64)
            total = total + exact.sum(axis=0)
            energy = energy + np.square(exact).sum(axis=0)
            mixed = mixed + np.square(exact.mean(axis=1)).sum()
            high = np.maximum(high, exact.max(axis=0)) if frames else exact.max(axis=0)
            low = np.minimum(low, exact.min(axis=0)) if frames else exact.min(axis=0)
            frames += len(block.samples)
    mean = total / max(1, frames)
    if channel is not None and channel >= len(mean):
        raise AudioError(f"without a channel {channel + 1}")
    if channel is None and len(mean) > 1:
        power = energy - frames * mean**2
        mixed_power = float(mixed[0]) - frames * mean.mean() ** 2
        strongest = int(power.argmax())
        others = np.delete(high - low, strongest)
        if mixed_power < power[strongest] / (_CANCELLED * len(mean)) ** 2:
            channel = strongest
            findings.append(_only(channel, "its channels cancel each other"))
        elif (others < _WEAK * (high - low)[strongest]).all():
            channel = strongest
            findings.append(_only(channel, "its other channels are empty or very weak"))
    offset = np.float32(mean.mean() if channel is None else mean[channel])
    if abs(offset) > _OFFSET:
        findings.append(
            f"a constant offset of {abs(offset):.0%} of full scale is taken out; the recorder may "
            "be broken"
        )
    return _Survey(sample_rate, frames, channel, offset, tuple(findings))


def _only(channel: int, why: str) -> str:
    return f"channel {channel + 1} alone is used, since {why}"


def _mono(block: Block, survey: _Survey) -> Float32[np.ndarray, " frames"]:
    if survey.channel is None:
        return block.samples.mean(axis=1) - survey.offset
    return block.samples[:, survey.channel] - survey.offset


def _decoder(path: str | os.PathLike) -> ModuleType:
    """The module that decodes the file, by what it is: its name may say something else."""
    head = _head(path)
    by_ffmpeg = not _LIBSNDFILE.match(head) or _MPEG_IN_WAV.search(head) or _is_endless(path, head)
    return ffmpeg if by_ffmpeg else libsndfile


def _head(path: str | os.PathLike) -> bytes:
    """How the file begins.

    Raises:
        AudioError: it cannot be read, or not more than once, or is empty.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise AudioError("a pipe, device or folder and no file; save the sound to a file first")
        with open(path, "rb") as file:
            head = file.read(_HEAD)
    except OSError as error:
        raise AudioError(f"unreadable ({error.strerror})") from error
    if not head:
        raise AudioError("empty (0 bytes)")
    return head


def _is_endless(path: str | os.PathLike, head: bytes) -> bool:
    """Whether it is FLAC whose header does not tell the length, or more FLAC follows the first."""
    if not _FLAC_HEADER.match(head):
        return False
    if not int.from_bytes(head[_FLAC_SAMPLES], "big") % 2**36:
        return True
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as raw:
        return _FLAC_HEADER.search(raw, 4) is not None


def _refusal(path: str | os.PathLike, error: Exception) -> AudioError:
    """Why the file is refused, whatever its decoder raised; what is no sound is named."""
    if isinstance(error, UnknownFormatError):
        head = _head(path)
        known = (what for start, what in _NO_SOUND.items() if start.match(head))
        return AudioError(f"unreadable ({next(known, _UNKNOWN)})")
    if isinstance(error, AudioError):
        return error
    return AudioError(f"unreadable ({error or type(error).__name__}; encode it again)")
