"""What the web page says, without a browser."""

import re
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pytest

from fmaml_jax.common.text import shortened
from fmaml_jax.recognition.estimate import Estimate
from fmaml_jax.recognition.support import LabelledClip
from fmaml_jax.recognition.timeline import CLIP_SECONDS, UNSURE, Prediction, Segment
from fmaml_jax.web.render import clips_table, clock, enrolled, note, recognised, segments
from fmaml_jax.web.session import NEW

HARD = """<b onclick="alert('x')">&"""
ENVELOPE = np.ones(9, np.float32)


def tags(text):
    return set(re.findall(r"</?(\w+)", text))


def test_names_are_text(start):
    clip = LabelledClip(HARD, HARD, HARD, np.zeros((1, 1), np.float32), "0", ())
    table = clips_table([clip], start, {HARD: NEW})
    assert tags(table) == {"table", "thead", "tbody", "tr", "th", "td", "p"}
    assert tags(note(HARD)) == {"div"}
    segment = Segment(0, 1, HARD, 0.75, (0.75, 0.25))
    heard = recognised(Prediction(HARD, 1, (HARD, "fear"), (segment,), ENVELOPE, (HARD,)))
    assert tags(heard) == {"div", "p", "a"}
    assert "with a probability of 75%" in heard


def test_a_clip_that_is_not_sure_enough_and_a_recording_that_is_hardly_longer_than_a_clip():
    unsure = Segment(0, 1, UNSURE, 0.6, (0.4, 0.6))
    clip = Prediction("a.wav", 1, ("joy", "fear"), (unsure,), ENVELOPE)
    assert "Unsure: most probably fear, with a probability of 60%" in recognised(clip)
    pieces = (Segment(0, 5, "joy", 0.9, (0.9, 0.1)), Segment(5, 9, "fear", 0.8, (0.2, 0.8)))
    # Just above by its header, and none by its samples: cut into segments as a recording is.
    recording = Prediction("a.wav", CLIP_SECONDS, ("joy", "fear"), pieces, ENVELOPE)
    assert "Heard joy for 5 s, fear for 4 s" in recognised(recording)
    assert "No speech was found" in recognised(recording._replace(segments=()))
    table = segments(recording, ["", ""], ["joy", "fear"])
    assert 'aria-label="Play 0:05.0 to 0:09.0"' in table
    assert re.findall(r"<td>(\w+)</td><td>(\d+%)</td>", table) == [("fear", "80%"), ("joy", "90%")]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0, "0:00.0"), (59.96, "1:00.0"), (61.25, "1:01.2"), (3599.9, "59:59.9"), (3600, "60:00.0")],
)
def test_moments_are_counted_as_the_player_counts_them(seconds, text):
    assert clock(seconds) == text


def test_the_table_of_the_estimate_has_the_clips_of_each_label_by_answer_and_darker_where_more():
    confusion = np.array([[3, 1, 0], [0, 2, 0]])
    estimate = Estimate("clip", confusion, (0.5, 1.0))
    own = SimpleNamespace(classes=(HARD, "fear", "silence"), estimate=estimate, warnings=())
    table = re.search("<table.*</table>", enrolled(own, b"model"))[0]
    head, *rows = ElementTree.fromstring(table).iter("tr")
    assert [cell.text for cell in head.iter("span")] == [shortened(HARD), "fear", "silence"]
    assert [row.find("th").text for row in rows] == [shortened(HARD), "fear"]
    cells = [row.findall("td") for row in rows]
    assert [[int(cell.text) for cell in row] for row in cells] == confusion.tolist()
    grounds = [[re.search("#(..)", cell.get("style"))[1] for cell in row] for row in cells]
    assert grounds[1][1] < grounds[0][0] < grounds[0][1] < grounds[0][2] == grounds[1][0]
    inks = [re.search(r"; color: (\w+)", cell.get("style"))[1] for cell in cells[0]]
    assert inks == ["white", "black", "black"]


def test_of_many_classes_the_most_confused_pairs_are_drawn():
    classes = tuple(map(str, range(30)))
    estimate = Estimate("clip", np.eye(30, dtype=int), (0.9, 1.0))
    said = enrolled(SimpleNamespace(classes=classes, estimate=estimate, warnings=()), b"model")
    assert tags(said) == {"div", "p", "a", "img"}
