"""What the page says, as HTML; all text is escaped."""

import base64
import html
import io
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from operator import itemgetter
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from fmaml_jax.common.text import name_key
from fmaml_jax.recognition import Prediction, Recogniser
from fmaml_jax.recognition.checkpoint import Start
from fmaml_jax.recognition.formats import FORMATS
from fmaml_jax.recognition.pictures import draw_estimate, draw_timeline, png
from fmaml_jax.recognition.support import LabelledClip
from fmaml_jax.recognition.timeline import CLIP_SECONDS, UNSURE
from fmaml_jax.web.session import NEW


def note(text: str, good: bool = False) -> str:
    """A sentence that is news: a warning or an error, unless it is good."""
    sentence = html.escape(f"{text[:1].upper()}{text[1:]}{'' if text.endswith('.') else '.'}")
    return f'<div class="note{" good" * good}" role="status">{sentence}</div>'


def hint(text: str) -> str:
    """What to do next."""
    return f"<p>{html.escape(text)}</p>"


NO_CLIPS = hint(
    "No clips yet. Choose an emotion, then drop five or more short clips of it, or record them; "
    "then the next emotion. Two emotions are the least."
)
NOT_ENROLLED = hint("Give clips of two or more emotions, then press Enrol.")
NOT_RECOGNISED = hint(
    f"Up to {CLIP_SECONDS:g} seconds are one clip; of a longer recording you get a timeline."
)


def count(number: int, thing: str) -> str:
    """Such as "2 clips"."""
    return f"{number} {thing}{'s' * (number != 1)}"


def clips_table(clips: Sequence[LabelledClip], start: Start, same_as: Mapping[str, str]) -> str:
    """A row for each label."""
    known = {name_key(name) for name in (*start.emotions, *start.fixed)}
    rows = []
    for label, number in sorted(Counter(clip.label for clip in clips).items()):
        speakers = {clip.speaker for clip in clips if clip.label == label} - {""}
        meaning = same_as.get(name_key(label), NEW)
        if meaning == NEW:
            meaning = "known" if name_key(label) in known else "new"
        cells = (label, meaning, str(number), str(len(speakers) or "not said"))
        rows.append("".join(f"<td>{html.escape(cell)}</td>" for cell in cells))
    head = "".join(f"<th>{name}</th>" for name in ("emotion", "means", "clips", "speakers"))
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    after = "Add others, or go on to step 2." if len(rows) > 1 else "Now clips of another emotion."
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{hint(after)}"


def enrolled(recogniser: Recogniser, model: bytes) -> str:
    """What to think of a recogniser, and its model file to save."""
    estimate = recogniser.estimate
    low, high = estimate.interval
    said = f"Enrolled {', '.join(recogniser.classes)}."
    picture = ""
    if estimate.clips:
        said += (
            f" Leaving out each {estimate.left_out} in turn, {estimate.accuracy:.0%} of "
            f"{count(estimate.clips, 'clip')} are recognised (95% interval {low:.0%} to "
            f"{high:.0%}; chance {estimate.chance:.0%})."
        )
        picture = _picture(
            draw_estimate(recogniser), "Labels against answers of the clips left out"
        )
    return "".join(
        [
            note(said, good=True),
            *map(note, recogniser.warnings),
            picture,
            f'<p class="downloads">{_download("my.model", model, "Save the model")}</p>',
            hint("Now give a clip or a recording in step 3."),
        ]
    )


def recognised(prediction: Prediction) -> str:
    """What was heard, and files of it to save; of a recording with its timeline."""
    if is_clip(prediction):
        picture = ""  # its probabilities say more
    else:
        picture = _picture(draw_timeline(prediction), "Timeline: emotions over the waveform")
    files = []
    for name, written in FORMATS.items():
        text = io.StringIO(newline="")
        written.write([prediction], text)
        stem = Path(prediction.file).stem
        files.append(_download(stem + written.suffix, text.getvalue().encode(), name))
    return "".join(
        [
            note(_headline(prediction), good=True),
            *map(note, prediction.warnings),
            picture,
            f'<p class="downloads">Save as {" ".join(files)}</p>',
        ]
    )


def is_clip(prediction: Prediction) -> bool:
    """Whether it is of a clip: its one segment's probabilities are shown, and no timeline."""
    return prediction.seconds <= CLIP_SECONDS and len(prediction.segments) == 1


def _headline(prediction: Prediction) -> str:
    if is_clip(prediction):
        (segment,) = prediction.segments
        best = prediction.classes[int(np.argmax(segment.probabilities))]
        unsure = f"{UNSURE}: most probably " if segment.label == UNSURE else ""
        return f"{unsure}{best}, with a probability of {segment.confidence:.0%}"
    labels: dict[str, float] = defaultdict(float)
    for segment in prediction.segments:
        labels[segment.label] += segment.end - segment.start
    if not labels:
        return "No speech was found in this recording"
    return "Heard " + ", ".join(
        f"{label} for {seconds:.0f} s"
        for label, seconds in sorted(labels.items(), key=itemgetter(1), reverse=True)
    )


def segment_rows(prediction: Prediction) -> list[list[str]]:
    """The cells of the table of segments, as text."""
    return [
        [clock(segment.start), clock(segment.end), segment.label, f"{segment.confidence:.0%}"]
        for segment in prediction.segments
    ]


def clock(seconds: float) -> str:
    """As the player and the timeline count, with tenths."""
    minutes, tenths = divmod(round(10 * seconds), 600)
    return f"{minutes}:{tenths / 10:04.1f}"


def _picture(figure: Figure, description: str) -> str:
    data = base64.b64encode(png(figure)).decode()
    alt = html.escape(description)
    return f'<img class="picture" alt="{alt}" src="data:image/png;base64,{data}">'


def _download(name: str, content: bytes, text: str) -> str:
    data = base64.b64encode(content).decode()
    return (
        f'<a download="{html.escape(name)}" href="data:application/octet-stream;base64,{data}">'
        f"{html.escape(text)}</a>"
    )
