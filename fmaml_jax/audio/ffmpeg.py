"""MP3, Ogg, and what phones and browsers record (MP4, WebM, AMR, ...) -> blocks, by PyAV.

FFmpeg reads to the end of whatever it is given and conceals what is damaged, so its complaints are
counted.
"""

import contextlib
import dataclasses
import logging
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Float32

from fmaml_jax.audio.ogg import count_pages
from fmaml_jax.audio.source import (
    BLOCK,
    CUT_SHORT,
    AudioError,
    Block,
    Header,
    UnknownFormatError,
    nothing_after,
    require_rate,
)

if TYPE_CHECKING:  # it takes a tenth of a second, which `--help` and WAV files do without
    from av import AudioFrame, AudioStream
    from av.container import InputContainer

# No playlists among them: they name other files and addresses, which would be read.
_FORMATS = (
    "aac,amr,ape,asf,avi,flac,flv,matroska,webm,mov,mp4,m4a,3gp,3g2,mj2,mp3,mpeg,mpegts,ogg,tta,"
    "wav,wv"
)
_ESTIMATE = "Estimating duration"
_TOLERANCE, _MP3_TOLERANCE = 0.1, 0.015
"""Seconds by which a declared length may exceed the samples: containers round it; MP3 counts its
frames."""
_PREROLL = 0.5
"""Seconds decoded before a part, after which every codec gives what it gives of the whole."""
_MOST_DAMAGED = 0.05
"""Of the packets; with more of them damaged the file is refused."""


class _Source(NamedTuple):
    """An open file, its sound track, and its length in seconds: as declared, and at a guess."""

    container: "InputContainer"
    stream: "AudioStream"
    declared: float
    estimate: float


@dataclasses.dataclass
class _Tally:
    """Of what was decoded: packets, those with errors, and the time of the end in seconds."""

    packets: int = 0
    damaged: int = 0
    end: float = 0.0


def probe(path: str | os.PathLike) -> Header:
    """Reads a file's header alone; see `decoding.probe`."""
    with _opened(path) as source:
        return Header(source.stream.rate, source.estimate, source.stream.layout.nb_channels)


def decode(
    path: str | os.PathLike, start: float = 0.0, end: float | None = None
) -> Iterator[Block]:
    """The samples from `start` to `end`, in seconds; None is where the decoder ends.

    Raises:
        AudioError: the file is unreadable, empty, truncated or damaged.
    """
    with _opened(path) as source:
        tally = _Tally()
        held: list[Float32[np.ndarray, "frames channels"]] = []
        size = given = rate = channels = 0
        at_end = True
        for position, frame in _frames(source, start, tally):
            if size >= BLOCK or (held and (rate, channels) != _shape(frame)):
                yield Block(np.concatenate(held), rate)
                held.clear()
                size = 0
            rate, channels = _shape(frame)
            first = max(0, round(start * rate) - position)
            last = None if end is None else max(0, round(end * rate) - position)
            held.append(_floats(frame)[first:last])
            size += held[-1].size
            given += len(held[-1])
            if last is not None and last <= frame.samples:
                at_end = False
                break
        name = source.container.format.name
        tolerance = _MP3_TOLERANCE if name == "mp3" else _TOLERANCE
        ends_early = at_end and tally.end + tolerance < source.declared
        damaged, of, kind = tally.damaged, tally.packets, "frames"
        if name == "ogg":
            pages = count_pages(path)
            ends_early |= at_end and pages.cut
            if pages.lost:
                damaged, of, kind = pages.lost, pages.whole + pages.lost, "pages"
        what = f"{damaged:,} of its {of:,} {kind} cannot be read"
        if damaged > _MOST_DAMAGED * of:
            raise AudioError(f"damaged ({what}; copy or record it again)")
        if ends_early:
            raise AudioError(CUT_SHORT)
        if not given:
            raise nothing_after(start, tally.end)
        rest = np.concatenate([*held, np.zeros((0, channels), np.float32)])
        yield Block(rest, rate, (f"damaged: {what}",) if damaged else ())


@contextlib.contextmanager
def _opened(path: str | os.PathLike) -> Iterator[_Source]:
    import av
    from av import logging as complaints
    from av.error import FFmpegError

    complaints.set_level(complaints.WARNING)
    complaints.set_skip_repeated(False)
    logging.getLogger("libav").propagate = False  # what no `Capture` sees
    with complaints.Capture() as logs:
        try:
            container = av.open(
                f"file:{os.fsdecode(path)}",
                container_options={"format_whitelist": _FORMATS, "protocol_whitelist": "file"},
                metadata_errors="replace",
            )
        except FFmpegError as error:
            raise UnknownFormatError from error
    with container:
        stream = container.streams.best("audio")
        if not isinstance(stream, av.AudioStream):
            raise AudioError("without a sound track")
        require_rate(stream.rate)
        stream.codec_context.options = {"err_detect": "crccheck+bitstream+buffer"}
        estimate = 0.0
        if stream.duration is not None:
            estimate = stream.duration * _unit(stream)
        elif container.duration is not None and len(container.streams) == 1:
            estimate = container.duration / av.time_base
        guessed = any(_ESTIMATE in message for *_, message in logs)
        yield _Source(container, stream, 0.0 if guessed else estimate, estimate)


def _frames(source: _Source, start: float, tally: _Tally) -> Iterator[tuple[int, "AudioFrame"]]:
    """Decoded frames, from a little before `start` on, with the number of each one's first sample.

    Packets before are counted, not decoded: that is exact for every format, as seeking is not.
    """
    from av import logging as complaints
    from av.error import FFmpegError

    unit, origin = _unit(source.stream), source.stream.start_time or 0
    packets = source.container.demux(source.stream)
    skipped, delay, begun, position = 0, None, None, None
    while True:
        frames = []
        with complaints.Capture() as logs:
            try:
                packet = next(packets, None)
                if packet is None:
                    return
                time, duration = packet.pts or 0, packet.duration or 0
                if delay is None:  # of the first packets, which are no part of the sound
                    delay = origin - time
                if begun is None:
                    if duration and (skipped + duration - delay) * unit < start - _PREROLL:
                        skipped += duration
                        tally.end = (skipped - delay) * unit
                        continue
                    begun = time
                frames = packet.decode()
                broken = packet.is_corrupt
            except FFmpegError:
                broken = True
        tally.packets += 1
        tally.damaged += broken or any(level <= complaints.ERROR for level, *_ in logs)
        for frame in frames:
            time = frame.pts or 0
            if position is None:
                since = time - (begun or 0) - (delay or 0) if skipped else 0
                position = round((skipped + since) * unit * frame.sample_rate)
            yield position, frame
            position += frame.samples
            tally.end = max(tally.end, (time - origin) * unit + frame.samples / frame.sample_rate)


def _unit(stream: "AudioStream") -> float:
    """Seconds of a unit of the stream's times."""
    return float(stream.time_base or 0)


def _shape(frame: "AudioFrame") -> tuple[int, int]:
    """Samples per second, and channels."""
    return frame.sample_rate, frame.layout.nb_channels


def _floats(frame: "AudioFrame") -> Float32[np.ndarray, "frames channels"]:
    samples = frame.to_ndarray()
    if frame.format.is_planar:
        samples = samples.T
    samples = samples.reshape(frame.samples, -1)
    if samples.dtype.kind == "u":
        return (samples.astype(np.float32) - 128) / 128
    if samples.dtype.kind == "i":
        return (samples / 2.0 ** (8 * samples.itemsize - 1)).astype(np.float32)
    return samples.astype(np.float32, copy=False)
