"""Every format is read back by a reader that is not ours."""

import csv
import io
import itertools
import json
import re
import tempfile
from urllib.parse import unquote

import jsonschema
import numpy as np
import pytest
import textgrid
from matplotlib.figure import Figure

from fmaml_jax.common.pictures import draw_matrix
from fmaml_jax.recognition.formats import FORMATS, SCHEMA, TERMINAL
from fmaml_jax.recognition.pictures import draw_timeline, save_picture
from fmaml_jax.recognition.timeline import UNSURE, Prediction, Segment

CLASSES = ('joy "x"', "żal\nnowy", "silence")


@pytest.fixture
def prediction():
    segments = (
        Segment(0.0, 1.23456, CLASSES[0], 0.75, (0.75, 0.15, 0.1)),
        Segment(1.23456, 2.5, CLASSES[1], 0.61239, (0.2, 0.61239, 0.18761)),
        Segment(3.0, 20.0, UNSURE, 0.4, (0.3, 0.4, 0.3)),
    )
    envelope = np.abs(np.sin(np.arange(625, dtype=np.float32)))
    return Prediction('a "call", 1\nof 2.wav', 20.0, CLASSES, segments, envelope, ("odd",))


def written(name, *predictions):
    file = io.StringIO(newline="")
    FORMATS[name].write(predictions, file)
    return file.getvalue()


def test_a_terminal_shows_a_short_table(prediction):
    file = io.StringIO()
    TERMINAL.write([prediction], file)
    name, head, *rows = file.getvalue().strip().splitlines()
    assert name == 'a "call", 1 of 2.wav'
    assert head.split() == ["start", "end", "label", "confidence"]
    assert [row.split() for row in rows] == [
        ["0.0", "1.2", "joy", '"x"', "75%"],
        ["1.2", "2.5", "żal", "nowy", "61%"],
        ["3.0", "20.0", "unsure", "40%"],
    ]


def test_csv(prediction):
    rows = list(csv.DictReader(io.StringIO(written("csv", prediction, prediction), newline="")))
    assert len(rows) == 6
    assert list(rows[0]) == [
        *("file", "start", "end", "label", "confidence"),
        *(f"p({name})" for name in CLASSES),
    ]
    assert rows[1]["file"] == prediction.file
    assert rows[1]["label"] == CLASSES[1]
    assert (rows[1]["start"], rows[1]["end"], rows[1]["confidence"]) == ("1.235", "2.5", "0.6124")
    assert float(rows[0][f"p({CLASSES[0]})"]) == 0.75


def test_json(prediction):
    schema = json.loads(SCHEMA.read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    check = jsonschema.Draft202012Validator(schema)
    document = json.loads(written("json", prediction, prediction._replace(segments=())))
    check.validate(document)
    first, second = document["predictions"]
    assert first["file"] == prediction.file
    assert first["warnings"] == ["odd"]
    assert first["segments"][0]["probabilities"] == dict(
        zip(CLASSES, (0.75, 0.15, 0.1), strict=True)
    )
    assert second["segments"] == []
    check.validate(json.loads(written("json")))
    told = [segment._replace(speaker="Ann") for segment in prediction.segments]
    spoken = written("json", prediction._replace(segments=tuple(told), speakers=("Ann",)))
    check.validate(json.loads(spoken))
    assert spoken.count('"speaker": "Ann"') == 3
    first["segments"][0]["extra"] = 1
    with pytest.raises(jsonschema.ValidationError):
        check.validate(document)


def test_audacity(prediction):
    lines = written("audacity", prediction).splitlines()
    grammar = re.compile(r"(\d+\.\d{3})\t(\d+\.\d{3})\t([^\t\n]*)")
    parts = [grammar.fullmatch(line).groups() for line in lines]
    assert [label for _, _, label in parts] == ['joy "x"', "żal nowy", "unsure"]
    assert [float(start) for start, _, _ in parts] == [0.0, 1.235, 3.0]
    assert [float(end) for _, end, _ in parts] == [1.235, 2.5, 20.0]


def test_textgrid(prediction, tmp_path):
    path = tmp_path / "call.TextGrid"
    path.write_text(written("textgrid", prediction), encoding="utf-8")
    grid = textgrid.TextGrid.fromFile(str(path))
    assert (grid.minTime, grid.maxTime) == (0, 20)
    emotion, confidence = grid
    assert (emotion.name, confidence.name) == ("emotion", "confidence")
    said = [(i.minTime, i.maxTime, i.mark) for i in emotion if i.mark]
    assert [mark for _, _, mark in said] == ['joy "x"', "żal nowy", "unsure"]
    assert said[1][:2] == (1.235, 2.5)
    assert [i.mark for i in confidence if i.mark] == ["0.7500", "0.6124", "0.4000"]
    ends = [i.maxTime for i in emotion]
    assert ends[:-1] == [i.minTime for i in emotion][1:]  # no gaps, as Praat wants
    path.write_text(written("textgrid", prediction._replace(segments=())), encoding="utf-8")
    assert [i.mark for i in textgrid.TextGrid.fromFile(str(path))[0]] == [""]


def test_a_textgrid_needs_no_folder_for_temporary_files(prediction, monkeypatch):
    def none():
        raise FileNotFoundError("No usable temporary directory found")

    monkeypatch.setattr(tempfile, "gettempdir", none)
    monkeypatch.setattr(tempfile, "_get_default_tempdir", none)
    monkeypatch.setattr(tempfile, "tempdir", None)
    assert "IntervalTier" in written("textgrid", prediction)


def test_rttm(prediction):
    lines = [line.split() for line in written("rttm", prediction, prediction).splitlines()]
    assert len(lines) == 6
    for line in lines:
        assert len(line) == 10
        assert line[0] == "SPEAKER"
        assert line[2] == "1"
        assert (line[5], line[6], line[9]) == ("<NA>", "<NA>", "<NA>")
    assert lines[1][1] == 'a%20"call",%201%0Aof%202.wav'
    assert lines[1][7] == "żal_nowy"
    assert (float(lines[1][3]), float(lines[1][4])) == pytest.approx((1.235, 1.265), abs=1e-3)


def test_rttm_has_the_speaker_as_subtype(prediction):
    told = [segment._replace(speaker="Ann B") for segment in prediction.segments]
    text = written("rttm", prediction._replace(segments=tuple(told), speakers=("Ann B",)))
    assert {line.split()[6] for line in text.splitlines()} == {"Ann_B"}


def test_rttm_tells_recordings_apart(prediction):
    """Folders, suffixes, and what would be one word."""
    files = [
        "d1/x.wav",
        "d2/x.wav",
        "d2/x.flac",
        "d1/a b.wav",
        "d1/a_b.wav",
        "d1/a%20b.wav",
        "ż.wav",
    ]
    text = written("rttm", *(prediction._replace(file=file) for file in files))
    named = list(dict.fromkeys(line.split()[1] for line in text.splitlines()))
    assert [unquote(name) for name in named] == files


def test_rttm_neighbours_touch_after_rounding(prediction):
    """A duration that was rounded for itself would last into the next segment."""
    edges = [0.0004, 1.0006, 2.0006, 3.0015, 4.0024, 5.0]
    segments = [
        Segment(start, end, CLASSES[0], 0.8, (0.8, 0.1, 0.1))
        for start, end in itertools.pairwise(edges)
    ]
    lines = written("rttm", prediction._replace(segments=segments)).splitlines()
    times = [tuple(map(float, line.split()[3:5])) for line in lines]
    for (start, duration), (after, _) in itertools.pairwise(times):
        assert round(start + duration, 3) == after


def test_the_picture_has_a_line_for_each_label(prediction, tmp_path):
    figure = draw_timeline(prediction)
    lanes = figure.axes[1]
    assert figure.axes[0].get_title(loc="left") == 'a "call", 1 of 2.wav'
    assert "paler" in lanes.get_xlabel()
    names = [label.get_text() for label in lanes.get_yticklabels()]
    assert names == ['joy "x"', "żal nowy", "unsure"]
    spans = sorted(
        (path.vertices[:, 0].min(), path.vertices[:, 0].max())
        for bars in lanes.collections
        for path in bars.get_paths()
    )
    np.testing.assert_allclose(spans, [(s.start, s.end) for s in prediction.segments])
    save_picture(tmp_path / "a.png", figure)
    assert (tmp_path / "a.png").read_bytes()[:4] == b"\x89PNG"


def test_pictures_of_hard_names_and_of_nothing(prediction, tmp_path):
    hard = tuple(f"${i}_{{\\x 怒り ज\n" for i in range(30))
    segments = tuple(
        Segment(i / 2, i / 2 + 0.5, name, 0.9, (1 / 30,) * 30) for i, name in enumerate(hard)
    )
    drawn = prediction._replace(classes=hard, segments=segments)
    save_picture(tmp_path / "hard.png", draw_timeline(drawn))
    save_picture(tmp_path / "nothing.png", draw_timeline(prediction._replace(segments=())))


def test_a_matrix_has_its_numbers_and_the_names_as_they_are():
    axes = Figure().add_subplot()
    shares = np.array([[0.984, 0.016], [np.nan, 0.5]])
    draw_matrix(axes, shares, ["a", "b\n$c$"], ["$\\x$", "b"])
    assert [text.get_text() for text in axes.texts] == ["98", "2", "50"]
    assert [text.get_position() for text in axes.texts] == [(0, 0), (1, 0), (1, 1)]
    assert [text.get_color() for text in axes.texts] == ["white", "black", "black"]
    assert [text.get_text() for text in axes.get_yticklabels()] == ["a", "b $c$"]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["$\\x$", "b"]
    axes.figure.draw_without_rendering()  # which fails where a name is taken for mathematics
    axes.clear()
    draw_matrix(axes, shares, ["a", "b"], ["a", "b"], [["6", ""], ["0", "1"]])
    assert [text.get_text() for text in axes.texts] == ["6", "", "1"]
