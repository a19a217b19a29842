"""Who speaks when, told by a file or by the channels of a call; and each speaker's shares."""

import collections
import heapq
import itertools
import math
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from numbers import Real
from pathlib import Path
from typing import NamedTuple, TypeVar
from urllib.parse import unquote

import numpy as np

from fmaml_jax.audio.decoding import SAMPLE_RATE
from fmaml_jax.audio.quality import NO_SPEECH, QUIET
from fmaml_jax.common.errors import UserError, require_kind
from fmaml_jax.common.text import (
    clean_name,
    listed_file,
    name_key,
    one_line,
    one_spelling,
    read_part,
    read_table,
)
from fmaml_jax.recognition.timeline import (
    CHUNK,
    LEAST_CHUNKS,
    STRETCH_CHUNKS,
    Prediction,
    Samples,
    Stretch,
)

LONGEST = STRETCH_CHUNKS * CHUNK
"""Samples of a turn that is described at once."""
OVERLAP = 0.05
"""Seconds that two turns of a speaker may share: diarizers round their times."""
OVERSHOOT = 0.5
"""Seconds by which a turn may outlast its recording, as the last one of a diarizer does."""
_CHANNEL = "channel {}"
_CHANNEL_NAME = re.compile(r"channel ([1-9]\d?)")


AnyPath = TypeVar("AnyPath", bound=str | os.PathLike[str])


class Turn(NamedTuple):
    """Somebody speaks from `start` to `end`, in seconds; infinity is the recording's end."""

    start: float
    end: float
    speaker: str


def channel_name(channel: int) -> str:
    """What the speaker of a channel (from 0 on) is called."""
    return _CHANNEL.format(channel + 1)


def channel_of(speaker: str) -> int | None:
    """The channel (from 0 on) that a speaker is called by, if they are."""
    found = _CHANNEL_NAME.fullmatch(speaker)
    return int(found[1]) - 1 if found else None


def read_turns(
    path: str | os.PathLike[str], recordings: Sequence[AnyPath]
) -> dict[AnyPath, list[Turn]]:
    """Reads who speaks when in recordings.

    Args:
        path: an RTTM (its SPEAKER lines count), or a CSV with the columns file and speaker and, if
            wanted, start and end (seconds); its files are relative to its folder.
        recordings: what is to be labelled. A recording of an RTTM is named by its path, its name or
            its name without a suffix.

    Returns:
        The turns of each recording that the file tells of, in order.

    Raises:
        UserError: the file cannot be read, tells of none of the recordings, leaves open which it
            tells of, or two turns of one speaker overlap.
    """
    path = Path(path)
    listed = _rttm_turns(path) if path.suffix.lower() == ".rttm" else _csv_turns(path)
    found: dict[AnyPath, list[Turn]] = {}
    for name, turns in listed.items():
        meant = [recording for recording in recordings if name in _names(Path(recording))]
        if len({Path(recording).resolve() for recording in meant}) > 1:
            raise UserError(
                f"{name} of {path} may be {' or '.join(map(str, meant))}; predict them one by one"
            )
        for recording in meant:
            found[recording] = _in_order(turns, str(path))
    if not found:
        raise UserError(
            f"{path} is of {_few(listed)}, and not of {_few(map(str, recordings))}; give the one "
            "of these recordings"
        )
    return found


def _few(names: Iterable[str]) -> str:
    first, *others = names
    return one_line(first) + (f" and {len(others)} more" if others else "")


def _names(recording: Path) -> set[str]:
    return {str(recording), os.path.realpath(recording), recording.name, recording.stem}


def _rttm_turns(path: Path) -> dict[str, list[Turn]]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is no RTTM in UTF-8 ({error}); save it as one") from error
    turns = collections.defaultdict(list)
    for number, line in enumerate(lines, 1):
        if line.split()[:1] != ["SPEAKER"]:
            continue
        try:
            _, name, _, start, seconds, _, _, speaker, *_ = line.split()
            turn = Turn(float(start), float(start) + float(seconds), clean_name(speaker))
        except ValueError as error:
            raise UserError(
                f"line {number} of {path} is not a SPEAKER line of RTTM with a start, a length and "
                "a speaker; mend it"
            ) from error
        if not 0 <= turn.start < turn.end < math.inf:
            wrong = "before the recording" if turn.start < 0 else "no length of time"
            raise UserError(
                f"line {number} of {path} has a turn of {seconds} s from {start} s, {wrong}; mend "
                "it, or take it out"
            )
        turns[unquote(name)].append(turn)
    if not turns:
        raise UserError(f"{path} holds no SPEAKER lines; give an RTTM, or a CSV: file,speaker")
    return turns


def _csv_turns(path: Path) -> dict[str, list[Turn]]:
    turns = collections.defaultdict(list)
    for row in read_table(path, "file", "speaker"):
        start, end = read_part(row)
        if not row.cells["file"] or not row.cells["speaker"]:
            raise UserError(f"{row.place} names no file or no speaker; fill it in, or take it out")
        file = listed_file(path.parent, row.cells["file"])
        name = os.path.realpath(file) if os.path.exists(file) else row.cells["file"]
        turns[name].append(Turn(start, math.inf if end is None else end, row.cells["speaker"]))
    if not turns:
        raise UserError(f"{path} has no rows; list who speaks: file,speaker[,start,end]")
    return turns


def require_turns(turns: Iterable[Turn]) -> list[Turn]:
    """Turns that a caller has made or read, in order.

    Raises:
        UserError: one is no turn, has no speaker or is no length of time, or two of a speaker
            overlap.
    """
    require_kind("turns", turns, Iterable, "a list of Turn(start, end, speaker)")
    ordered = [*turns]
    for turn in ordered:
        require_kind("a turn", turn, Turn, "Turn(start, end, speaker)")
        for name, time in (("start", turn.start), ("end", turn.end)):
            require_kind(f"the {name} of a turn", time, Real, "seconds, as a number")
        require_kind("the speaker of a turn", turn.speaker, str, "a name")
        if not name_key(turn.speaker):
            raise UserError(f"the turn from {turn.start} s has no speaker; give a name")
        if not 0 <= turn.start < turn.end:  # false for NaN
            raise UserError(
                f"a turn of {turn.speaker} from {turn.start} to {turn.end} s is not a length of "
                "time; give its start and its end in seconds"
            )
    return _in_order(ordered, "turns")


def _in_order(turns: Iterable[Turn], origin: str) -> list[Turn]:
    """The turns by their start; what two of a speaker share, which is little, is the first's."""
    ordered = sorted(turns)
    speakers = one_spelling(turn.speaker for turn in ordered)
    ends: dict[str, float] = {}
    trimmed = []
    for (start, end, _), speaker in zip(ordered, speakers, strict=True):
        before = ends.get(speaker, 0.0)
        if start < before - OVERLAP or end <= before:
            raise UserError(
                f"{origin} has turns of {speaker} that overlap at {start:g} s; end one where the "
                "other starts"
            )
        ends[speaker] = end
        trimmed.append(Turn(max(start, before), end, speaker))
    return trimmed


def speech_of(turns: Sequence[Turn], blocks: Iterable[Samples]) -> Iterator[Stretch]:
    """The turns as stretches of speech; of long ones parts, what lasts too short a time is none.

    Args:
        turns: in order.
        blocks: the recording's samples.
    """
    parts = heapq.merge(*map(_parts, turns))
    part = next(parts, None)
    held, offset = np.zeros(0, np.float32), 0
    for block in blocks:
        held = np.concatenate([held, block])
        while part and part[1] <= offset + len(held):
            yield from _stretch(part, held, offset)
            part = next(parts, None)
        first = min(part[0] if part else math.inf, offset + len(held))
        held, offset = held[max(0, int(first) - offset) :], max(offset, int(first))
    while part and part[0] < offset + len(held):
        yield from _stretch(part, held, offset)
        part = next(parts, None)


def _parts(turn: Turn) -> Iterator[tuple[int, float, str]]:
    """Where a turn, or each of equal parts of a long one, begins and ends in samples."""
    start, length = round(turn.start * SAMPLE_RATE), (turn.end - turn.start) * SAMPLE_RATE
    number = math.inf if math.isinf(length) else math.ceil(length / LONGEST)
    each = LONGEST if math.isinf(length) else length / number
    for part in itertools.takewhile(lambda part: part < number, itertools.count()):
        yield start + round(part * each), start + round((part + 1) * each), turn.speaker


def _stretch(part: tuple[int, float, str], held: Samples, offset: int) -> Iterator[Stretch]:
    start, end, speaker = part
    samples = held[start - offset : int(end) - offset]
    if len(samples) >= LEAST_CHUNKS * CHUNK:
        yield Stretch(start, samples, speaker)


def whole_speaker(turns: Sequence[Turn]) -> str:
    """Who alone speaks in all of a recording; "" where the turns say otherwise."""
    return turns[0].speaker if turns and turns[0][:2] == (0.0, math.inf) and not turns[1:] else ""


def told(prediction: Prediction, turns: Sequence[Turn]) -> Prediction:
    """A prediction of turns, with their speakers.

    Raises:
        UserError: a turn begins after the recording, or lasts much longer.
    """
    last = max((turn.end if math.isfinite(turn.end) else turn.start for turn in turns), default=0)
    if last > prediction.seconds + OVERSHOOT:
        raise UserError(
            f"{prediction.file} lasts {prediction.seconds:.1f} s, and somebody is said to speak "
            f"until {last:.1f} s; give the --speakers of this recording"
        )
    return prediction._replace(speakers=tuple(dict.fromkeys(turn.speaker for turn in turns)))


def labelled(prediction: Prediction, speaker: str) -> Prediction:
    """A prediction all of whose segments are one speaker's."""
    segments = tuple(segment._replace(speaker=speaker) for segment in prediction.segments)
    return prediction._replace(segments=segments, speakers=(speaker,))


def side_by_side(predictions: Sequence[Prediction]) -> Prediction:
    """One prediction of those of a recording's channels, each a speaker's; one that is silent, or
    without speech, has said nothing.
    """
    heard = [
        each._replace(segments=()) if {NO_SPEECH, QUIET} & {*each.warnings} else each
        for each in predictions
    ]
    named = [labelled(each, channel_name(number)) for number, each in enumerate(heard)]
    return named[0]._replace(
        segments=tuple(sorted(segment for each in named for segment in each.segments)),
        envelope=np.max([each.envelope for each in named], axis=0),
        speakers=tuple(speaker for each in named for speaker in each.speakers),
        warnings=tuple(
            dict.fromkeys(
                f"{speaker}: {warning}"
                for each in named
                for speaker in each.speakers
                for warning in each.warnings
            )
        ),
    )


def shares(prediction: Prediction) -> dict[str, dict[str, float]]:
    """How many seconds of each label each speaker has; of "" where they are not known."""
    found: dict[str, dict[str, float]] = {speaker: {} for speaker in prediction.speakers or ("",)}
    for segment in prediction.segments:
        own = found[segment.speaker]
        own[segment.label] = own.get(segment.label, 0.0) + segment.end - segment.start
    return found
