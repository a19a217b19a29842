"""Predictions as files: for spreadsheets, programs, Audacity, Praat, and scorers of diarization.

    csv       a row a segment: file, start, end, label, confidence, and p(CLASS) of each class
    json      one object, as prediction.schema.json beside this file says
    audacity  label track: start, end, label between tabs
    textgrid  Praat's long text format: the interval tiers "emotion" and "confidence"
    eaf       ELAN: the same tiers
    rttm      NIST's Rich Transcription Time Marked: SPEAKER lines with the emotion as the name

Times are seconds, rounded alike everywhere, so that neighbours touch and never overlap. A file of
Audacity, Praat or ELAN is of one recording; the others call each by its path as it was given, RTTM
with %20 for a space, as in a URL.

Where it is known who speaks, CSV has the column speaker behind the end, and JSON that property;
each speaker has tiers, "emotion@Ann"; a label of Audacity is anger@Ann; RTTM has the speaker as its
subtype.
"""

import csv
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from io import TextIOBase
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote

from fmaml_jax.common.errors import UserError
from fmaml_jax.common.text import one_line, text_table
from fmaml_jax.recognition import annotations
from fmaml_jax.recognition.annotations import AT, TIER, Interval

if TYPE_CHECKING:
    from fmaml_jax.recognition.timeline import Prediction, Segment

SCHEMA_VERSION = 1
SCHEMA = Path(__file__).with_name("prediction.schema.json")

Predictions = Iterable["Prediction"]
Write = Callable[[Predictions, TextIOBase], None]
Tiers = Iterator[tuple[str, list[Interval]]]
"""Names of tiers and what is in them."""


class Format(NamedTuple):
    """How predictions are written; `single` formats hold one recording."""

    suffix: str
    single: bool
    write: Write


def _seconds(value: float) -> float:
    return round(value, 3)


def _probability(value: float) -> float:
    return round(value, 4)


def _write_csv(predictions: Predictions, file: TextIOBase) -> None:
    rows = csv.writer(file, lineterminator="\r\n")
    for number, prediction in enumerate(predictions):
        head, *segments = as_table(prediction)
        rows.writerows([head, *segments] if number == 0 else segments)
        file.flush()


def as_table(prediction: "Prediction") -> list[list[str | float]]:
    """A prediction as `--format=csv` has it: the names of its columns, and a row a segment."""
    who = bool(prediction.speakers)
    chances = [f"p({name})" for name in prediction.classes]
    return [
        ["file", "start", "end", *["speaker"] * who, "label", "confidence", *chances],
        *(
            [
                prediction.file,
                _seconds(segment.start),
                _seconds(segment.end),
                *[segment.speaker] * who,
                segment.label,
                _probability(segment.confidence),
                *map(_probability, segment.probabilities),
            ]
            for segment in prediction.segments
        ),
    ]


def _write_for_terminal(predictions: Predictions, file: TextIOBase) -> None:
    for prediction in predictions:
        who = bool(prediction.speakers)
        head = ("start", "end", *["speaker"] * who, "label", "confidence")
        rows = [
            (
                f"{segment.start:.1f}",
                f"{segment.end:.1f}",
                *[one_line(segment.speaker)] * who,
                one_line(segment.label),
                f"{segment.confidence:.0%}",
            )
            for segment in prediction.segments
        ]
        file.write(f"{one_line(prediction.file)}\n{text_table([head, *rows])}\n\n")
        file.flush()


def _write_json(predictions: Predictions, file: TextIOBase) -> None:
    document = {
        "schema_version": SCHEMA_VERSION,
        "predictions": [as_object(prediction) for prediction in predictions],
    }
    json.dump(document, file, indent=2, ensure_ascii=False, allow_nan=False)
    file.write("\n")


def as_object(prediction: "Prediction") -> dict[str, Any]:
    """A prediction as `prediction.schema.json` has it."""
    return {
        "file": prediction.file,
        "seconds": _seconds(prediction.seconds),
        "warnings": list(prediction.warnings),
        "segments": [
            {
                "start": _seconds(segment.start),
                "end": _seconds(segment.end),
                **({"speaker": segment.speaker} if prediction.speakers else {}),
                "label": segment.label,
                "confidence": _probability(segment.confidence),
                "probabilities": dict(
                    zip(prediction.classes, map(_probability, segment.probabilities), strict=True)
                ),
            }
            for segment in prediction.segments
        ],
    }


def _write_audacity(predictions: Predictions, file: TextIOBase) -> None:
    for prediction in predictions:
        for segment in prediction.segments:
            label = _of(one_line(segment.label), segment.speaker)
            file.write(f"{segment.start:.3f}\t{segment.end:.3f}\t{label}\n")


def _of(name: str, speaker: str) -> str:
    return f"{name}{AT}{one_line(speaker)}" if speaker else name


def _tiers(prediction: "Prediction", name: str, text: "Callable[[Segment], str]") -> Tiers:
    """A tier for each speaker, or where they are not known one."""
    for speaker in prediction.speakers or ("",):
        yield (
            _of(name, speaker),
            [
                Interval(_seconds(segment.start), _seconds(segment.end), text(segment), speaker)
                for segment in prediction.segments
                if segment.speaker == speaker
            ],
        )


def _both_tiers(prediction: "Prediction") -> Tiers:
    """Those of the labels, and those of how sure they are."""
    yield from _tiers(prediction, TIER, lambda segment: segment.label)
    yield from _tiers(prediction, "confidence", lambda segment: f"{segment.confidence:.4f}")


def _write_textgrid(predictions: Predictions, file: TextIOBase) -> None:
    for prediction in predictions:
        grid = annotations.new_grid(_seconds(prediction.seconds))
        file.write(annotations.with_tiers(grid, _both_tiers(prediction)))


def _write_eaf(predictions: Predictions, file: TextIOBase) -> None:
    for prediction in predictions:
        document = annotations.new_eaf(prediction.file)
        file.write(annotations.with_tiers(document, _both_tiers(prediction)))


def filling(path: Path, tier: str) -> Format:
    """How a prediction becomes a tier of a TextGrid or an .eaf; all else in it stays.

    Raises:
        UserError: the file is neither, or cannot be read, or its tier holds something.
    """
    if not annotations.is_tiered(path):
        raise UserError(f"--fill={path} is neither a .TextGrid nor an .eaf; give one of these")
    document = annotations.parse(path)
    annotations.require_room(document, path, tier)

    def write(predictions: Predictions, file: TextIOBase) -> None:
        for prediction in predictions:
            annotations.require_length(document, path, prediction.seconds)
            origin = annotations.origin_in(document, prediction.file)
            if origin is None:
                print(
                    one_line(f"warning: {path} is about other files than {prediction.file}"),
                    file=sys.stderr,
                )
            tiers = _tiers(prediction, tier, lambda segment: segment.label)
            placed = ((name, annotations.since(origin or 0.0, each)) for name, each in tiers)
            file.write(annotations.with_tiers(document, placed))

    return Format(path.suffix, True, write)


def _write_rttm(predictions: Predictions, file: TextIOBase) -> None:
    for prediction in predictions:
        # Scorers take recordings of one name for one, so that no two paths may become alike.
        recording = re.sub(r"[\s%]", lambda character: quote(character[0]), prediction.file)
        for start, end, label, confidence, _, speaker in prediction.segments:
            duration = _seconds(end) - _seconds(start)
            file.write(
                f"SPEAKER {recording} 1 {start:.3f} {duration:.3f} <NA> {_word(speaker) or '<NA>'} "
                f"{_word(label)} {confidence:.4f} <NA>\n"
            )
        file.flush()


def _word(text: str) -> str:
    return "_".join(text.split())


FORMATS: dict[str, Format] = {
    "csv": Format(".csv", False, _write_csv),
    "json": Format(".json", False, _write_json),
    "audacity": Format(".txt", True, _write_audacity),
    "textgrid": Format(".TextGrid", True, _write_textgrid),
    "eaf": Format(".eaf", True, _write_eaf),
    "rttm": Format(".rttm", False, _write_rttm),
}
"""The values of `predict --format`."""
TERMINAL = Format("", False, _write_for_terminal)
"""What people see where standard output is a terminal and no format is named."""
