"""Pictures of a recogniser's estimate and of a recording's timeline."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Int
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, MultipleLocator

from fmaml_jax.common.errors import UserError
from fmaml_jax.common.files import whole_file
from fmaml_jax.common.fonts import lettered
from fmaml_jax.common.pictures import (
    BLUE,
    GREEN,
    ORANGE,
    PURPLE,
    SKY_BLUE,
    VERMILION,
    YELLOW,
    draw_matrix,
)
from fmaml_jax.common.text import one_line, shortened
from fmaml_jax.recognition.recogniser import Recogniser
from fmaml_jax.recognition.timeline import CHUNK_SECONDS, UNSURE, Prediction

INK = "#808080"
"""Of text and axes: readable on white and on near-black, since the ground is transparent."""
COLOURS = (VERMILION, BLUE, GREEN, YELLOW, PURPLE, SKY_BLUE, ORANGE)
"""Of the classes; where there are more, they get hatches too."""
HATCHES = (None, "///", "...", "xx")
TICKS = (0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600)
"""Seconds between two marks of the time axis."""
MOST_TABLE = 20
"""Classes of a table that is drawn."""
POINTS = 2000
"""Of a drawn waveform; more are not seen."""


def draw_estimate(recogniser: Recogniser) -> Figure:
    """The confusion table of the clips left out in turn; numbers are clips.

    Of more classes than `MOST_TABLE` a table would be as large as unreadable: then the pairs that
    were taken for each other most.
    """
    estimate = recogniser.estimate
    counts = estimate.confusion
    rows, columns = counts.shape
    if columns > MOST_TABLE:
        figure = _draw_confused(recogniser.classes, counts)
    else:
        size = (1.4 + 0.6 * columns, 1.5 + 0.4 * rows)
        figure = Figure(size, layout="constrained", frameon=False)
        axes = figure.add_subplot()
        shares = counts / np.maximum(1, counts.sum(axis=1, keepdims=True))
        numbers = [list(map(str, row)) for row in counts.tolist()]
        classes = list(map(shortened, recogniser.classes))
        draw_matrix(axes, shares, classes[:rows], classes, numbers)
        axes.set_xlabel("answer")
        axes.set_ylabel("label")
    low, high = estimate.interval
    title = (
        f"UAR of {estimate.clips} clips {estimate.uar:.0%}\n(95% interval {low:.0%} to {high:.0%})"
        if estimate.clips
        else "no clip could be left out"
    )
    # Over the whole figure: the matrix of few classes is narrower than its title.
    figure.suptitle(title, color=INK, fontsize="medium")
    _ink(figure.axes[0])
    return figure


def _draw_confused(classes: Sequence[str], counts: Int[np.ndarray, "enrolled classes"]) -> Figure:
    """The pairs of a label and another answer that have most clips, as bars."""
    others = counts.copy()
    np.fill_diagonal(others, 0)
    order = np.argsort(-others, axis=None, kind="stable")[:MOST_TABLE]
    pairs = [divmod(int(place), len(classes)) for place in order if others.flat[place]]
    named = [
        f"{shortened(classes[label])} → {shortened(classes[answer])}" for label, answer in pairs
    ]
    figure = Figure((6.5, 1.5 + 0.3 * max(1, len(named))), layout="constrained", frameon=False)
    axes = figure.add_subplot()
    axes.barh(range(len(named)), [others[pair] for pair in pairs], color=BLUE)
    names, families = lettered(named)
    axes.set_yticks(range(len(named)), names, parse_math=False, fontfamily=families)
    axes.invert_yaxis()
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("clips of the label that got the other answer, of the most confused pairs")
    axes.patch.set_alpha(0)
    return figure


def draw_timeline(prediction: Prediction) -> Figure:
    """The segments over the waveform, and below it on a line for each label that was found.

    The fainter a colour, the less sure the answer.
    """
    found = {segment.label for segment in prediction.segments}
    labels = [name for name in (*prediction.classes, UNSURE) if name in found]
    figure = Figure((6.5, 2.4 + 0.26 * len(labels)), layout="constrained", frameon=False)
    waveform, lanes = figure.subplots(
        2, sharex=True, height_ratios=(5, max(1, len(labels))), gridspec_kw={"hspace": 0}
    )
    edges, peaks = outline(prediction, POINTS)
    peaks = np.append(peaks, peaks[-1])  # each lasts until the next edge
    moments = edges * CHUNK_SECONDS
    waveform.fill_between(moments, -peaks, peaks, step="post", color=INK, linewidth=0, zorder=2)
    for lane, label in enumerate(labels):
        own = [segment for segment in prediction.segments if segment.label == label]
        look = _look(label, prediction.classes)
        look["alpha"] = [0.2 + 0.8 * segment.confidence for segment in own]
        spans = [(segment.start, segment.end - segment.start) for segment in own]
        waveform.broken_barh(spans, (-1.1, 2.2), zorder=1, **look)
        lanes.broken_barh(spans, (lane - 0.4, 0.8), **look)
    if not labels:
        lanes.text(0.5, 0.5, "no speech", ha="center", transform=lanes.transAxes, color=INK)
    waveform.set_ylim(-1.1, 1.1)
    waveform.set_yticks([])
    lanes.set_ylim(max(1, len(labels)) - 0.5, -0.5)
    names, families = lettered(list(map(shortened, labels)))
    lanes.set_yticks(range(len(labels)), names, parse_math=False, fontfamily=families)
    lanes.set_xlim(0, prediction.seconds)
    lanes.set_xlabel("time; the paler a segment, the less sure the answer")
    [title], families = lettered([shortened(one_line(Path(prediction.file).name), 60)])
    waveform.set_title(
        title, parse_math=False, fontfamily=families, color=INK, fontsize="medium", loc="left"
    )
    lanes.xaxis.set_major_formatter(FuncFormatter(_clock))
    step = next((s for s in TICKS if prediction.seconds / s <= 7), prediction.seconds / 5)
    lanes.xaxis.set_major_locator(MultipleLocator(step))
    waveform.tick_params(bottom=False)
    for axes in (waveform, lanes):
        axes.patch.set_alpha(0)
        axes.spines[:].set_visible(False)
        _ink(axes)
    lanes.spines.bottom.set_visible(True)
    return figure


def outline(
    prediction: Prediction, points: int
) -> tuple[Int[np.ndarray, " edges"], Float32[np.ndarray, " parts"]]:
    """The waveform in so many parts or, where it is short, fewer.

    Returns:
        Where the parts begin and the last one ends, in chunks of the envelope, and the peak of
        each, as a share of the highest.
    """
    envelope = prediction.envelope
    edges = np.unique(np.linspace(0, len(envelope), min(points, len(envelope)) + 1).astype(int))
    peaks = np.maximum.reduceat(envelope, edges[:-1]) / max(1e-6, envelope.max())
    return edges, peaks


def _look(label: str, classes: Sequence[str]) -> dict[str, Any]:
    """Colour and hatch of a label."""
    if label == UNSURE:
        return {"facecolor": "none", "edgecolor": INK, "hatch": "////", "linewidth": 0}
    number = classes.index(label)
    hatch = HATCHES[number // len(COLOURS) % len(HATCHES)]
    colour = COLOURS[number % len(COLOURS)]
    return {"facecolor": colour, "edgecolor": INK, "hatch": hatch, "linewidth": 0}


def _clock(seconds: float, _: int) -> str:
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(int(minutes), 60)
    text = f"{rest:02.0f}" if float(rest).is_integer() else f"{rest:04.1f}"
    return f"{hours}:{minutes:02d}:{text}" if hours else f"{minutes}:{text}"


def png(figure: Figure) -> bytes:
    """The picture as a PNG file; as `figure.savefig` makes it, which draws everything twice."""
    file = io.BytesIO()
    figure.set_dpi(150)
    FigureCanvasAgg(figure).print_png(file)
    return file.getvalue()


def save_picture(path: Path, figure: Figure) -> None:
    """Writes a PNG file.

    Raises:
        UserError: the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path, "wb") as file:
            file.write(png(figure))
    except OSError as error:
        raise UserError(
            f"cannot write the picture {path}: {error.strerror or error}; choose another folder"
        ) from error


def _ink(axes: Axes) -> None:
    """Text and lines in a colour that suits pages of any colour."""
    axes.tick_params(colors=INK)
    axes.xaxis.label.set_color(INK)
    axes.yaxis.label.set_color(INK)
    for spine in axes.spines.values():
        spine.set_color(INK)
