"""What all pictures share: a palette, and the picture of a matrix of shares."""

import itertools
from collections.abc import Sequence

import matplotlib
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.colors import to_hex

from fmaml_jax.common.fonts import lettered

BLACK, ORANGE, SKY_BLUE, GREEN, YELLOW, BLUE, VERMILION, PURPLE = map(
    to_hex, matplotlib.color_sequences["okabe_ito"]
)
"""Okabe and Ito's colours, told apart by colour-blind readers."""


def draw_matrix(
    axes: Axes,
    shares: Float[np.ndarray, "rows columns"],
    rows: Sequence[str],
    columns: Sequence[str],
    numbers: Sequence[Sequence[str]] | None = None,
) -> None:
    """Draws a matrix such as a confusion: the larger a share, the darker its cell.

    Args:
        axes: what to draw on.
        shares: from 0 to 1; a cell of NaN stays empty.
        rows: their labels.
        columns: theirs.
        numbers: what to write into the cells, row by row; None: the shares in percent.
    """
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for row, column in itertools.product(range(len(rows)), range(len(columns))):
        share = shares[row, column]
        if np.isfinite(share):
            axes.text(
                column,
                row,
                f"{100 * share:.0f}" if numbers is None else numbers[row][column],
                ha="center",
                va="center",
                fontsize=9,
                color="white" if share > 0.6 else "black",
            )
    slanted = {"rotation": 40, "ha": "right", "rotation_mode": "anchor"}
    for set_ticks, names, look in (
        (axes.set_xticks, columns, slanted),
        (axes.set_yticks, rows, {}),
    ):
        labels, families = lettered(names)
        set_ticks(range(len(names)), labels, parse_math=False, fontfamily=families, **look)
