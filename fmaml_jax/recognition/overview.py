"""Predictions of a folder of recordings on one HTML page, which needs nothing beside it."""

import html
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from string import Template

import numpy as np

from fmaml_jax.common.text import one_line
from fmaml_jax.recognition.pictures import COLOURS, INK, outline
from fmaml_jax.recognition.speakers import shares
from fmaml_jax.recognition.timeline import CHUNK_SECONDS, UNSURE, Prediction, Segment

TEMPLATE = Path(__file__).with_name("overview.html")
DOUBTS = 50
"""Least sure segments that are listed."""
POINTS = 500
"""Of a drawn waveform."""
WIDTH = 1000
"""Of a timeline in its own units; it is stretched to the page."""


def overview(predictions: Sequence[Prediction]) -> str:
    """The page: shares of each label by file and speaker, least sure segments, timelines."""
    classes = predictions[0].classes
    number, seconds = len(predictions), sum(each.seconds for each in predictions)
    found = {segment.label for each in predictions for segment in each.segments}
    labels = [label for label in (*classes, UNSURE) if label in found]
    key = (f"<li>{_swatch(label, classes)}{_text(label)}</li>" for label in labels)
    segments = sum(len(each.segments) for each in predictions)
    return Template(TEMPLATE.read_text()).substitute(
        recordings=f"{number} recording{'s' * (number != 1)}",
        facts=f"{_clock(seconds)} of sound, {segments} segments, {len(classes)} classes: "
        f"{_text(', '.join(classes))}.",
        key="".join(key),
        shares="".join(
            part for at, each in enumerate(predictions) for part in _share_rows(each, at)
        ),
        doubts=_doubts(predictions),
        timelines="".join(_timeline(each, at) for at, each in enumerate(predictions)),
    )


def _text(text: str) -> str:
    return html.escape(one_line(text))


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _colour(label: str, classes: Sequence[str]) -> str:
    return INK if label == UNSURE else COLOURS[classes.index(label) % len(COLOURS)]


def _swatch(label: str, classes: Sequence[str]) -> str:
    return f'<span class="swatch" style="background:{_colour(label, classes)}"></span>'


def _share_rows(prediction: Prediction, number: int) -> Iterator[str]:
    """What a file is like, and below it each of its speakers."""
    by_speaker = shares(prediction)
    everything: dict[str, float] = {}
    for own in by_speaker.values():
        for label, seconds in own.items():
            everything[label] = everything.get(label, 0.0) + seconds
    name = f'<a href="#r{number}">{_text(prediction.file)}</a>'
    yield _share(name, everything, prediction.classes)
    for speaker in prediction.speakers:
        yield _share(_text(speaker), by_speaker[speaker], prediction.classes, " speaker")


def _share(name: str, seconds: Mapping[str, float], classes: Sequence[str], kind: str = "") -> str:
    total = sum(seconds.values())
    parts = [(label, seconds[label] / total) for label in (*classes, UNSURE) if seconds.get(label)]
    bars = "".join(
        f'<span style="width:{100 * share:.2f}%;background:{_colour(label, classes)}"></span>'
        for label, share in parts
    )
    said = ", ".join(f"{_text(label)} {share:.0%}" for label, share in parts) or "no speech"
    return (
        f'<div class="share{kind}"><div class="head"><span>{name}</span>'
        f'<span class="soft">{_clock(total)}</span></div>'
        f'<div class="bar" aria-hidden="true">{bars}</div><div class="soft">{said}</div></div>'
    )


def _doubts(predictions: Sequence[Prediction]) -> str:
    every = [
        (segment, number)
        for number, prediction in enumerate(predictions)
        for segment in prediction.segments
    ]
    doubts = sorted(every, key=lambda each: each[0].confidence)[:DOUBTS]
    if not doubts:
        return "<p>Nobody speaks.</p>"
    rows = "".join(_doubt(segment, predictions[at], at) for segment, at in doubts)
    numbers = ("from", "to", "sure")
    head = "".join(
        f'<th class="number">{name}</th>' if name in numbers else f"<th>{name}</th>"
        for name in ("from", "to", "answer", "sure", "or", "in")
    )
    of = f'<p class="soft">{len(doubts)} of {len(every)}.</p>' * (len(doubts) < len(every))
    return f"{of}<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def _doubt(segment: Segment, prediction: Prediction, number: int) -> str:
    """A segment, and the class that it is else; of an unsure one the best."""
    order = np.argsort(segment.probabilities)[::-1]
    others = [at for at in order.tolist() if prediction.classes[at] != segment.label]
    other = f"{_text(prediction.classes[others[0]])} {segment.probabilities[others[0]]:.0%}"
    who = f", {_text(segment.speaker)}" if segment.speaker else ""
    return (
        f'<tr><td class="number">{_clock(segment.start)}</td>'
        f'<td class="number">{_clock(segment.end)}</td>'
        f"<td>{_swatch(segment.label, prediction.classes)}{_text(segment.label)}</td>"
        f'<td class="number">{segment.confidence:.0%}</td><td>{other}</td>'
        f'<td class="file"><a href="#r{number}">{_text(prediction.file)}</a>{who}</td></tr>'
    )


def _timeline(prediction: Prediction, number: int) -> str:
    lanes = [_lane("", f'<path d="{_wave(prediction)}"/>', ' class="wave"')]
    for speaker in prediction.speakers or ("",):
        own = [segment for segment in prediction.segments if segment.speaker == speaker]
        if speaker:
            lanes.append(f"<h4>{_text(speaker)}{'' if own else ': no speech'}</h4>")
        for label in (*prediction.classes, UNSURE):
            bars = "".join(_bar(each, prediction) for each in own if each.label == label)
            if bars:
                lanes.append(_lane(_text(label), bars))
    ticks = "".join(f"<span>{_clock(part * prediction.seconds / 4)}</span>" for part in range(5))
    lanes.append(f'<div class="lane soft"><span></span><div class="ticks">{ticks}</div></div>')
    warnings = "".join(f'<p class="soft">{_text(warning)}</p>' for warning in prediction.warnings)
    return f'<h3 id="r{number}">{_text(prediction.file)}</h3>{warnings}{"".join(lanes)}'


def _lane(name: str, content: str, kind: str = "") -> str:
    return (
        f'<div class="lane"><span>{name}</span><svg{kind} viewBox="0 0 {WIDTH} 10" '
        f'preserveAspectRatio="none" aria-hidden="true">{content}</svg></div>'
    )


def _bar(segment: Segment, prediction: Prediction) -> str:
    left = WIDTH * segment.start / prediction.seconds
    width = max(1.0, WIDTH * (segment.end - segment.start) / prediction.seconds)
    return (
        f'<rect x="{left:.1f}" width="{width:.1f}" height="10" '
        f'fill="{_colour(segment.label, prediction.classes)}" '
        f'fill-opacity="{0.3 + 0.7 * segment.confidence:.2f}"><title>{_text(segment.label)} '
        f"{segment.confidence:.0%}, {_clock(segment.start)} to {_clock(segment.end)}</title></rect>"
    )


def _wave(prediction: Prediction) -> str:
    """The outline of the loudest samples, as an SVG path."""
    edges, peaks = outline(prediction, POINTS)
    places = WIDTH * edges[:-1] * CHUNK_SECONDS / prediction.seconds
    upper = [f"{x:.0f} {5 - 4.5 * peak:.1f}" for x, peak in zip(places, peaks, strict=True)]
    lower = [f"{x:.0f} {5 + 4.5 * peak:.1f}" for x, peak in zip(places, peaks, strict=True)]
    return f"M{'L'.join(upper + lower[::-1])}Z"
