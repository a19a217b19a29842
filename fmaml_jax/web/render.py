"""What the page says, as HTML; all text is escaped."""

import base64
import html
import io
from bisect import bisect
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from operator import itemgetter
from pathlib import Path

import numpy as np
import soundfile
from matplotlib import colormaps
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from fmaml_jax.audio.decoding import SAMPLE_RATE
from fmaml_jax.audio.voice_activity import Samples
from fmaml_jax.common.text import name_key, shortened
from fmaml_jax.recognition import Prediction, Recogniser
from fmaml_jax.recognition.checkpoint import Start
from fmaml_jax.recognition.formats import FORMATS
from fmaml_jax.recognition.pictures import MOST_TABLE, draw_estimate, draw_timeline, png
from fmaml_jax.recognition.support import LabelledClip
from fmaml_jax.recognition.timeline import CLIP_SECONDS, UNSURE
from fmaml_jax.web.session import NEW

SHADES = colormaps["Blues"]
"""Of the cells of a table: the larger its share of the row, the darker."""


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
LABEL = hint(
    "Click a segment, on the timeline or in the list, to hear it, and say what it is, also where "
    "the answer is right. The least sure come first. What you label becomes one of your clips."
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
            f" Leaving out each {estimate.left_out} in turn, {estimate.uar:.0%} of "
            f"{count(estimate.clips, 'clip')} are recognised, as a mean over the classes (UAR; 95% "
            f"interval {low:.0%} to {high:.0%}; chance {estimate.chance:.0%})."
        )
        picture = _confusion(recogniser)
    return "".join(
        [
            note(said, good=True),
            *map(note, recogniser.warnings),
            picture,
            f'<p class="downloads">{_download("my.model", model, "Save the model")}</p>',
            hint("Now give a clip or a recording in step 3."),
        ]
    )


def _confusion(recogniser: Recogniser) -> str:
    """The picture that `draw_estimate` draws, as a table: drawing took half of an enrolment."""
    counts = recogniser.estimate.confusion
    about = "Labels against answers of the clips left out"
    if len(recogniser.classes) > MOST_TABLE:
        return _picture(draw_estimate(recogniser), about)
    shares = counts / np.maximum(1, counts.sum(axis=1, keepdims=True))
    names = [html.escape(shortened(name)) for name in recogniser.classes]
    upright = "writing-mode: vertical-rl; text-orientation: sideways; transform: rotate(180deg)"
    head = "".join(
        '<th scope="col" style="padding: 0.3em 0; vertical-align: bottom; text-align: center">'
        f'<span style="{upright}">{name}</span></th>'
        for name in names
    )
    rows = []
    for name, row, looks in zip(names, counts, shares, strict=False):
        cells = "".join(
            '<td style="padding: 0.3em 0; min-width: 1.9em; text-align: center; '
            f"background: {to_hex(SHADES(share))}; "
            f'color: {"white" if share > 0.6 else "black"}">{number}</td>'
            for number, share in zip(row, looks, strict=True)
        )
        rows.append(
            f'<tr><th scope="row" style="padding: 0.3em; text-align: right">{name}</th>{cells}</tr>'
        )
    return (
        '<div style="overflow-x: auto"><table style="width: auto; margin: 0.6em auto">'
        f'<caption style="caption-side: bottom">{about}: a row is a label, a column an answer'
        f"</caption><thead><tr><td></td>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
        "</div>"
    )


def recognised(prediction: Prediction) -> str:
    """What was heard, and files of it to save."""
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


def segments(prediction: Prediction, said: Sequence[str], labels: Sequence[str]) -> str:
    """The timeline, and a table of its segments to listen to and to label, least sure first.

    Args:
        prediction: of the recording.
        said: the label that each segment was given by the user, "" for none.
        labels: those that it can be given.
    """
    picture = ""
    if not is_clip(prediction):  # whose probabilities say more
        figure = draw_timeline(prediction)
        picture = _picture(figure, "Timeline: emotions over the waveform")
        place = figure.axes[0].get_position()  # as a share of the picture, once it is drawn
        picture = (
            f'<div class="timeline" data-from="{place.x0:.4f}" data-to="{place.x1:.4f}" '
            f'data-seconds="{prediction.seconds:.3f}">{picture}</div>'
        )
    order = sorted(
        range(len(said)), key=lambda i: (bool(said[i]), prediction.segments[i].confidence)
    )
    rows = [_segment_row(number, prediction, said[number], labels) for number in order]
    head = "".join(f"<th>{name}</th>" for name in ("listen", "answer", "sure", "it is"))
    return (
        f"{picture}<div class='rows'><table><thead><tr>{head}</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _segment_row(number: int, prediction: Prediction, said: str, labels: Sequence[str]) -> str:
    segment = prediction.segments[number]
    begin = clock(segment.start)
    times = f"{begin} to {clock(segment.end)}"
    options = "".join(
        f'<option value="{html.escape(label)}"{" selected" * (label == said)}>'
        f"{html.escape(label) or '…'}</option>"
        for label in ("", *labels)
    )
    cells = (
        f'<button type="button" name="{number}" data-start="{segment.start:.3f}" '
        f'data-end="{segment.end:.3f}" aria-label="Play {times}">▶ {begin}</button>',
        html.escape(segment.label),
        f"{segment.confidence:.0%}",
        f'<select name="{number}" data-said="{html.escape(said)}" aria-label="{times} is">{options}'
        "<option data-other>another …</option></select>",
    )
    return f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def sound(samples: Samples, number: int) -> str:
    """Samples at `SAMPLE_RATE` of a segment as the address of a WAV file that holds it all."""
    file = io.BytesIO()
    soundfile.write(file, samples, SAMPLE_RATE, "PCM_16", format="WAV")
    return f"data:audio/wav;segment={number};base64,{base64.b64encode(file.getvalue()).decode()}"


def learned(before: Recogniser, after: Recogniser, was: Prediction, now: Prediction) -> str:
    """What another enrolment changed."""
    clips = " instead of ".join(str(sum(each.counts)) for each in (after, before))
    estimates = [
        "{:.0%} ({:.0%} to {:.0%})".format(each.estimate.uar, *each.estimate.interval)
        for each in (after, before)
        if each.estimate.clips
    ]
    return note(
        f"Learned from {clips} clips. "
        + (f"The estimate is {', and was '.join(estimates)}. " if estimates else "")
        + f"Another answer than before: {moved(was, now)} of {count(len(was.segments), 'segment')}",
        good=True,
    ) + hint("What was hard to recognise makes the estimate fall, though answers may get better.")


def moved(was: Prediction, now: Prediction) -> int:
    """How many segments have another label than before, in their middle."""
    starts = [segment.start for segment in now.segments]

    def label_at(moment: float) -> str:
        place = bisect(starts, moment) - 1
        return now.segments[place].label if place >= 0 else ""

    return sum(
        label_at((segment.start + segment.end) / 2) != segment.label for segment in was.segments
    )


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
