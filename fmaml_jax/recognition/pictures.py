"""Pictures of a recogniser's estimate and of a recording's timeline."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from data_prep.console import UserError
from fmaml_jax.recognition.recogniser import Recogniser

INK = "#808080"
"""Of text and axes: readable on white and on near-black, since the ground is transparent."""


def draw_estimate(recogniser: Recogniser) -> Figure:
    """The confusion table of the clips left out in turn; numbers are clips."""
    estimate = recogniser.estimate
    counts = estimate.confusion
    shares = counts / np.maximum(1, counts.sum(axis=1, keepdims=True))
    rows, columns = counts.shape
    figure = Figure((1.6 + 0.75 * columns, 1.6 + 0.5 * rows), layout="constrained", frameon=False)
    axes = figure.add_subplot()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for row, column in np.ndindex(counts.shape):
        if count := counts[row, column]:
            colour = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, str(count), ha="center", va="center", color=colour)
    axes.set_xticks(range(columns), [plain(name) for name in estimate.answers], rotation=30)
    axes.set_yticks(range(rows), [plain(name) for name in estimate.labels])
    for label in axes.get_xticklabels():
        label.set_ha("right")
        label.set_rotation_mode("anchor")
    axes.set_xlabel("answer")
    axes.set_ylabel("label")
    low, high = estimate.interval
    axes.set_title(
        f"{estimate.accuracy:.0%} of {estimate.clips} clips right "
        f"(95% interval {low:.0%} to {high:.0%})",
        color=INK,
        fontsize="medium",
    )
    _ink(axes)
    return figure


def save_picture(path: Path, figure: Figure) -> None:
    """Writes a PNG.

    Raises:
        UserError: the file cannot be written.
    """
    try:
        figure.savefig(path, format="png", dpi=150)
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


def plain(text: str) -> str:
    """Text on one line that Matplotlib does not take for mathematics."""
    return " ".join(text.split()).replace("$", r"\$")
