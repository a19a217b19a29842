"""A sound file -> segments: start, end, emotion and confidence.

A file of up to `CLIP_SECONDS` is one clip. A longer one is a recording: voice activity detection
finds stretches of speech; windows that overlap are classified one by one; a moment gets the mean of
the windows that cover it, which smooths; moments of one label are merged. Without any speech it is
one segment, labelled as its first `CLIP_SECONDS` would be. It is read as a stream: what grows with
its length are segments and the envelope alone.

Times are whole samples until they stand in a segment, so that equal ones are equal.
"""

import itertools
import reprlib
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Int

from fmaml_jax.audio.decoding import SAMPLE_RATE, AudioError, read_blocks
from fmaml_jax.audio.quality import NO_SPEECH, Measures, clip_findings, findings, measure
from fmaml_jax.audio.voice_activity import (
    CHUNK,
    CHUNK_SECONDS,
    SPEECH_OFF,
    SPEECH_ON,
    Heard,
    Samples,
    hear,
    in_chunks,
)
from fmaml_jax.common.errors import UserError
from fmaml_jax.recognition.formats import as_object, as_table

if TYPE_CHECKING:
    import pandas

UNSURE = "unsure"
"""The answer where no class is probable enough; no class can have this name."""

CLIP_SECONDS = 15.0
"""A longer file is a recording; corpora of emotional speech have no longer clips."""
LONGEST_CLIP = round(CLIP_SECONDS * SAMPLE_RATE)
"""The same in samples."""
LEAST_CLIP = SAMPLE_RATE // 1000
"""Samples of the shortest clip; times are written in milliseconds."""
WINDOW, HOP = 3 * SAMPLE_RATE, SAMPLE_RATE
"""Length of a window and distance between two, in samples; corpora's clips last 2 to 4 s."""
LEAST = SAMPLE_RATE
"""A shorter run of a label joins its neighbour: moments are told apart by `HOP` at best."""

PAUSE_CHUNKS, MARGIN_CHUNKS, LEAST_CHUNKS = 10, 3, 8
"""0.3 s without speech end a stretch; 0.1 s are kept around it; a quarter of a second is speech."""
STRETCH_CHUNKS = round(30 / CHUNK_SECONDS)
"""30 s of speech without a pause are cut where it is least, so that memory stays bounded."""
TOGETHER = 30 * SAMPLE_RATE
"""Samples of the stretches that are described at once: an encoder hears them in few programs."""
AHEAD = 8
"""So often stretches are put together, at most, before the first are described elsewhere."""
REPORT_CHUNKS = 1000
"""Half a minute between two reports."""

Features = Float32[np.ndarray, "windows frames coeffs"]
Found = Float[np.ndarray, "windows ..."]
Windows = tuple[Int[np.ndarray, " windows"], Int[np.ndarray, " windows"]]
"""Where they begin and end, in samples."""
Describe = Callable[[Sequence[Samples], Sequence[Windows]], Features]


class Segment(NamedTuple):
    """What was heard from `start` to `end`, in seconds.

    Attributes:
        start, end: in seconds from the file's beginning.
        label: a class, or `UNSURE`.
        confidence: probability of the label; of `UNSURE` that of the best class.
        probabilities: of all classes, mean over the segment.
        speaker: whose it is; "" where that is not known.
    """

    start: float
    end: float
    label: str
    confidence: float
    probabilities: tuple[float, ...]
    speaker: str = ""


class Prediction(NamedTuple):
    """The segments of one file.

    Attributes:
        file: its name, as given.
        seconds: its length.
        classes: in the order of the probabilities.
        segments: in order.
        envelope: the largest absolute sample of each `CHUNK_SECONDS`.
        warnings: ends of sentences about the file.
        speakers: who may speak in it; none where that is not known.
    """

    file: str
    seconds: float
    classes: tuple[str, ...]
    segments: tuple[Segment, ...]
    envelope: Float32[np.ndarray, " chunks"]
    warnings: tuple[str, ...] = ()
    speakers: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return (
            f"<Prediction of {reprlib.repr(self.file)}: {reprlib.repr(self.label)}, "
            f"{self.seconds:.1f} s, {len(self.segments)} segment{'s' * (len(self.segments) != 1)}>"
        )

    @property
    def label(self) -> str:
        """The label of a clip; of a recording the one that lasts longest in all."""
        lasts: dict[str, float] = {}
        for segment in self.segments:
            lasts[segment.label] = lasts.get(segment.label, 0) + segment.end - segment.start
        return max(lasts, key=lambda label: lasts[label], default=UNSURE)

    def to_dict(self) -> dict[str, Any]:
        """What `--format=json` has of a file: seconds to 3 decimals, probabilities to 4."""
        return as_object(self)

    def to_frame(self) -> "pandas.DataFrame":
        """The table of `--format=csv` as a pandas DataFrame, a row a segment.

        Raises:
            UserError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise UserError("to_frame needs pandas; `pip install pandas` brings it") from error
        head, *rows = as_table(self)
        return pandas.DataFrame(rows, columns=head)


class Stretch(NamedTuple):
    """Speech without a longer pause, or a speaker's turn; `start` in samples."""

    start: int
    samples: Samples
    speaker: str = ""

    def windows(self) -> Windows:
        """Where windows begin and end within the stretch, in samples; a short one is one."""
        last = max(0, len(self.samples) - WINDOW)
        starts = np.append(np.arange(0, last, HOP), last)
        return starts, np.minimum(starts + WINDOW, len(self.samples))


def whole(samples: Samples) -> Windows:
    """The one window of a clip."""
    return np.array([0]), np.array([len(samples)])


class Listened(NamedTuple):
    """A file that has been heard: what was found in it, before it is labelled.

    Attributes:
        prediction: of it, without segments.
        spans: of each stretch that is to be labelled.
        found: in the windows of each stretch.
    """

    prediction: Prediction
    spans: tuple["Span", ...]
    found: tuple[Found, ...]


class Span(NamedTuple):
    """Where a stretch, and each window within it, begins and ends, in samples."""

    start: int
    windows: Windows
    speaker: str = ""


class _Piece(NamedTuple):
    """A part of a stretch, in samples; the label is the number of a class, -1 for `UNSURE`."""

    start: int
    end: int
    label: int
    probabilities: Float[np.ndarray, " classes"]
    speaker: str = ""


def listen(
    path: str,
    classes: Sequence[str],
    describe: Describe,
    find_in: Callable[[Features], Found],
    *,
    channel: int | None = None,
    find: Callable[[Iterable[Samples]], Iterator[Stretch]] | None = None,
    executor: Executor | None = None,
    report: Callable[[float], Any] = lambda seconds: None,
    look: Callable[[float], Any] = lambda seconds: None,
) -> Listened:
    """Hears a file, and finds in the windows of its speech what their labels are made of.

    Args:
        path: a sound file.
        classes: names of what it will be labelled with.
        describe: sounds at `SAMPLE_RATE` and the windows of each -> the features of all windows;
            takes most of the time.
        find_in: features -> what is kept of each window.
        channel: see `read_blocks`.
        find: finds the stretches to label, of a short file too; None: where there is speech.
        executor: describes the stretches of a recording at the same time; None: they are described
            here, one after the other.
        report: is told the seconds that are done.
        look: is told before it the seconds that have been decoded once.

    Raises:
        AudioError: the file cannot be decoded, or is empty.
    """
    sound = read_blocks(path, channel, look)
    envelope = array("f")
    length = 0
    measured = Measures()

    def blocks() -> Iterator[Samples]:
        nonlocal measured
        for block in sound.blocks:
            measured = measured.plus(measure(block))
            yield block

    def chunks() -> Iterator[Samples]:
        nonlocal length
        for chunk in in_chunks(blocks()):
            envelope.append(np.abs(chunk).max())
            length += len(chunk)
            yield chunk
            if len(envelope) % REPORT_CHUNKS == 0:
                report(length / SAMPLE_RATE)

    def as_whole(clip: Samples) -> tuple[Span, Found]:
        return Span(0, (np.array([0]), np.array([length]))), find_in(
            describe([clip], [whole(clip)])
        )

    read = chunks()
    first = list(itertools.islice(read, LONGEST_CLIP // CHUNK + 1))
    clip = np.concatenate([np.zeros(0, np.float32), *first])
    if find or len(clip) > LONGEST_CLIP:
        every = itertools.chain(first, read)
        stretches = find(every) if find else find_speech(hear(every))
        parts = [
            (Span(stretch.start, stretch.windows(), stretch.speaker), found)
            for together, features in _described(stretches, describe, executor)
            for stretch, found in _apart(together, find_in(features))
        ]
        warnings = findings(measured, sound.sample_rate)
        if not parts and not find:
            parts = [as_whole(clip[:LONGEST_CLIP])]
            warnings = (*warnings, NO_SPEECH)
    elif len(clip) >= LEAST_CLIP:
        parts = [as_whole(clip)]
        warnings = clip_findings(clip, sound.sample_rate)
    else:
        raise AudioError("empty (shorter than a millisecond)")
    seconds = length / SAMPLE_RATE
    report(seconds)
    prediction = Prediction(
        path,
        seconds,
        tuple(classes),
        (),
        np.array(envelope),
        (*sound.findings, *warnings),
    )
    return Listened(
        prediction, tuple(span for span, _ in parts), tuple(found for _, found in parts)
    )


def label(
    listened: Listened, found: Sequence[Float[np.ndarray, "windows classes"]], abstain: float
) -> Prediction:
    """The prediction with its segments.

    Args:
        listened: the file.
        found: probabilities of the windows of each stretch.
        abstain: a moment whose best class is less probable is `UNSURE`.
    """
    pieces = [
        piece
        for span, probabilities in zip(listened.spans, found, strict=True)
        for piece in _without_islands(_pieces(span, probabilities, abstain))
    ]
    prediction = listened.prediction
    segments = tuple(_segment(piece, prediction.classes) for piece in _merged(pieces))
    return prediction._replace(segments=segments)


def find_speech(recording: Iterable[Heard]) -> Iterator[Stretch]:
    """The stretches of speech, with a margin around each; what lasts too short a time is none."""
    margin: deque[Heard] = deque(maxlen=MARGIN_CHUNKS)
    speech: list[Heard] = []
    start = quiet = 0  # where the speech began, and for how long it has paused, in chunks
    for number, heard in enumerate(recording):
        if not speech:
            if heard.chance < SPEECH_ON:
                margin.append(heard)
                continue
            start = number - len(margin)
            speech = list(margin)
            margin.clear()
        speech.append(heard)
        quiet = quiet + 1 if heard.chance < SPEECH_OFF else 0
        if quiet == PAUSE_CHUNKS:
            yield from _stretch(start, speech[: MARGIN_CHUNKS - PAUSE_CHUNKS])
            margin.extend(speech)
            speech = []
        elif len(speech) == STRETCH_CHUNKS:
            # Neither side is shorter than a window.
            places = range(STRETCH_CHUNKS // 2, STRETCH_CHUNKS - WINDOW // CHUNK)
            end = min(places, key=lambda place: speech[place].chance)
            yield from _stretch(start, speech[:end])
            start, speech = start + end, speech[end:]
    yield from _stretch(start, speech[: len(speech) - max(0, quiet - MARGIN_CHUNKS)])


def _stretch(start: int, speech: Sequence[Heard]) -> Iterator[Stretch]:
    if sum(heard.chance >= SPEECH_OFF for heard in speech) >= LEAST_CHUNKS:
        yield Stretch(start * CHUNK, np.concatenate([heard.samples for heard in speech]))


def _described(
    stretches: Iterable[Stretch], describe: Describe, executor: Executor | None
) -> Iterator[tuple[list[Stretch], Features]]:
    """Stretches that follow each other and the features of their windows, in order."""
    begun: deque[tuple[list[Stretch], Future[Features]]] = deque()
    for together in _together(stretches):
        sounds = [stretch.samples for stretch in together]
        windows = [stretch.windows() for stretch in together]
        if executor is None:
            yield together, describe(sounds, windows)
            continue
        begun.append((together, executor.submit(describe, sounds, windows)))
        if len(begun) == AHEAD:
            together, features = begun.popleft()
            yield together, features.result()
    for together, features in begun:
        yield together, features.result()


def _together(stretches: Iterable[Stretch]) -> Iterator[list[Stretch]]:
    """Stretches that follow each other, which have `TOGETHER` samples or hardly more."""
    together: list[Stretch] = []
    for stretch in stretches:
        together.append(stretch)
        if sum(len(each.samples) for each in together) >= TOGETHER:
            yield together
            together = []
    if together:
        yield together


def _apart(together: Sequence[Stretch], found: Found) -> Iterator[tuple[Stretch, Found]]:
    """Each stretch and what was found of its windows."""
    end = 0
    for stretch in together:
        begin, end = end, end + len(stretch.windows()[0])
        yield stretch, found[begin:end]


def _pieces(
    stretch: Span, found: Float[np.ndarray, "windows classes"], abstain: float
) -> Iterator[_Piece]:
    """The stretch cut wherever a window begins or ends, each piece with its windows' mean."""
    starts, ends = stretch.windows
    edges = np.unique(np.concatenate([starts, ends])).tolist()
    for begin, end in itertools.pairwise(edges):
        mean = found[(starts <= begin) & (ends >= end)].mean(axis=0)
        label = _best(mean, abstain)
        yield _Piece(stretch.start + begin, stretch.start + end, label, mean, stretch.speaker)


def _best(probabilities: Float[np.ndarray, " classes"], abstain: float) -> int:
    """The number of the best class; -1 where it is not probable enough."""
    best = int(probabilities.argmax())
    return best if probabilities[best] >= abstain else -1


def _without_islands(pieces: Iterable[_Piece]) -> list[_Piece]:
    """The pieces of a stretch, merged; what is short joins the neighbour that is more like it."""
    merged = list(_merged(pieces))
    while len(merged) > 1:
        short = min(range(len(merged)), key=lambda i: merged[i].end - merged[i].start)
        if merged[short].end - merged[short].start >= LEAST:
            break
        beside = [i for i in (short - 1, short + 1) if 0 <= i < len(merged)]
        own = merged[short].probabilities
        like = min(beside, key=lambda i: np.abs(merged[i].probabilities - own).sum())
        first, second = sorted((short, like))
        joined = _join(merged[first], merged[second], merged[like].label)
        merged = list(_merged([*merged[:first], joined, *merged[second + 1 :]]))
    return merged


def _merged(pieces: Iterable[_Piece]) -> Iterator[_Piece]:
    """Pieces of one label that touch as one."""
    last = None
    for piece in pieces:
        same = last and (last.label, last.speaker) == (piece.label, piece.speaker)
        if last and same and last.end == piece.start:
            last = _join(last, piece, piece.label)
        else:
            if last:
                yield last
            last = piece
    if last:
        yield last


def _join(first: _Piece, second: _Piece, label: int) -> _Piece:
    lengths = [first.end - first.start, second.end - second.start]
    mean = np.average([first.probabilities, second.probabilities], axis=0, weights=lengths)
    return _Piece(first.start, second.end, label, mean, first.speaker)


def _segment(piece: _Piece, classes: Sequence[str]) -> Segment:
    probabilities = tuple(piece.probabilities.tolist())
    sure = piece.label >= 0
    return Segment(
        piece.start / SAMPLE_RATE,
        piece.end / SAMPLE_RATE,
        classes[piece.label] if sure else UNSURE,
        probabilities[piece.label] if sure else max(probabilities),
        probabilities,
        piece.speaker,
    )
