"""Predictions as files: for spreadsheets, programs, Audacity, Praat, and scorers of diarization.

    csv       a row a segment: file, start, end, label, confidence, and p(CLASS) of each class
    json      one object, as prediction.schema.json beside this file says
    audacity  label track: start, end, label between tabs
    textgrid  Praat's long text format: the interval tiers "emotion" and "confidence"
    rttm      NIST's Rich Transcription Time Marked: SPEAKER lines with the emotion as the name

Times are seconds, rounded alike everywhere, so that neighbours touch and never overlap. An Audacity
or Praat file is of one recording; the others call each by its path as it was given, RTTM with %20
for a space, as in a URL.
"""

import csv
import json
import re
from collections.abc import Callable, Iterable
from io import TextIOBase
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote

from fmaml_jax.common.text import one_line

if TYPE_CHECKING:
    from fmaml_jax.recognition.timeline import Prediction

SCHEMA_VERSION = 1
SCHEMA = Path(__file__).with_name("prediction.schema.json")

Predictions = Iterable["Prediction"]
Write = Callable[[Predictions, TextIOBase], None]


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
        if number == 0:
            chances = [f"p({name})" for name in prediction.classes]
            rows.writerow(["file", "start", "end", "label", "confidence", *chances])
        for segment in prediction.segments:
            rows.writerow(
                [
                    prediction.file,
                    _seconds(segment.start),
                    _seconds(segment.end),
                    segment.label,
                    _probability(segment.confidence),
                    *map(_probability, segment.probabilities),
                ]
            )
        file.flush()


def _write_json(predictions: Predictions, file: TextIOBase) -> None:
    document = {
        "schema_version": SCHEMA_VERSION,
        "predictions": [_object(prediction) for prediction in predictions],
    }
    json.dump(document, file, indent=2, ensure_ascii=False, allow_nan=False)
    file.write("\n")


def _object(prediction: "Prediction") -> dict[str, Any]:
    return {
        "file": prediction.file,
        "seconds": _seconds(prediction.seconds),
        "warnings": list(prediction.warnings),
        "segments": [
            {
                "start": _seconds(segment.start),
                "end": _seconds(segment.end),
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
        for start, end, label, *_ in prediction.segments:
            file.write(f"{start:.3f}\t{end:.3f}\t{one_line(label)}\n")


def _write_textgrid(predictions: Predictions, file: TextIOBase) -> None:
    from praatio.utilities.textgrid_io import getTextgridAsStr  # --help does not wait for it

    for prediction in predictions:
        span = {"xmin": 0.0, "xmax": _seconds(prediction.seconds)}
        emotions, confidences = [], []
        for start, end, label, confidence, _ in prediction.segments:
            emotions.append((_seconds(start), _seconds(end), one_line(label)))
            confidences.append((_seconds(start), _seconds(end), f"{confidence:.4f}"))
        tiers = [
            {"class": "IntervalTier", "name": name, "entries": entries, **span}
            for name, entries in (("emotion", emotions), ("confidence", confidences))
        ]
        grid = {"tiers": tiers, **span}
        file.write(getTextgridAsStr(grid, "long_textgrid", includeBlankSpaces=True))


def _write_rttm(predictions: Predictions, file: TextIOBase) -> None:
    for prediction in predictions:
        # Scorers take recordings of one name for one, so that no two paths may become alike.
        recording = re.sub(r"[\s%]", lambda character: quote(character[0]), prediction.file)
        for start, end, label, confidence, _ in prediction.segments:
            duration = _seconds(end) - _seconds(start)
            file.write(
                f"SPEAKER {recording} 1 {start:.3f} {duration:.3f} <NA> <NA> {_word(label)} "
                f"{confidence:.4f} <NA>\n"
            )
        file.flush()


def _word(text: str) -> str:
    return "_".join(text.split())


FORMATS: dict[str, Format] = {
    "csv": Format(".csv", False, _write_csv),
    "json": Format(".json", False, _write_json),
    "audacity": Format(".txt", True, _write_audacity),
    "textgrid": Format(".TextGrid", True, _write_textgrid),
    "rttm": Format(".rttm", False, _write_rttm),
}
"""The values of `predict --format`."""
