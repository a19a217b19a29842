"""Draws the packages, their modules and who imports whom, read from the code.

    python -m experiments.architecture

The picture is `experiments/architecture.png`. What this file says is where boxes stand and what
they are for; modules and arrows are the code's own, and every arrow points down.
"""

import textwrap
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import grimp
import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from matplotlib.path import Path as Line

Points = Sequence[tuple[float, float]]

PICTURE = Path(__file__).with_name("architecture.png")
WIDTH, HEIGHT = 900, 680
"""Pixels, as are all lengths here; y grows downwards."""
LETTER, SMALL_LETTER = 6.7, 5.6
"""Widths of the letters of modules, and of purposes on average."""
GAP = 12
"""Least distance of two arrows, and of an arrow from a box that it passes."""
LINE = 15

COMMAND, LIBRARY, OFFLINE, CORE = "#e8eef7", "#f3f4f6", "#e9f3ea", "#ffffff"
EDGE = {COMMAND: "#5b7aa9", LIBRARY: "#8a919c", OFFLINE: "#5c8f66", CORE: "#c2571a"}
ARROW, INK, PALE_INK = "#4b5563", "#111827", "#4b5563"


class Box(NamedTuple):
    """A box of the picture: what it says, what stands in it, and where its upper left corner is.

    Attributes:
        title: the headline.
        purpose: what it is for, in a few words.
        members: modules and packages; of a package all modules are named.
        x, y, width, height: pixels from the upper left.
        colour: of its kind.
    """

    title: str
    purpose: str
    members: tuple[str, ...]
    x: float
    y: float
    width: float
    height: float
    colour: str = LIBRARY


def _module(name: str, purpose: str, *place: float, colour: str = LIBRARY) -> Box:
    return Box(name, purpose, (f"fmaml_jax.{name}",), *place, colour)


def _commands(title: str, purpose: str, names: str, *place: float) -> Box:
    members = tuple(f"fmaml_jax.{name}" for name in names.split())
    return Box(title, purpose, members, *place, COMMAND)


FOUNDATION = _module("common", "errors, files, processes, the console", 10, 612, 880, 44)
"""Arrows to it are not drawn: everything may use it."""
PAPER = Box("The paper: F-MAML", "", (), 44, 270, 560, 238)
"""It stands behind the boxes of `CORE`."""
BOXES = (
    _commands(
        "train and test", "one run, or a grid of them", "main sweep config_flags", 10, 34, 182, 87
    ),
    _commands("report", "runs to tables and figures", "report", 204, 34, 200, 87),
    _commands(
        "recognise",
        "clips to a model, sound to timelines",
        "enrol predict serve live web",
        416,
        34,
        256,
        87,
    ),
    Box(
        "data_prep",
        "offline, once a corpus: audio files to one .npz of features",
        ("data_prep",),
        *(696, 34, 194, 118),
        OFFLINE,
    ),
    _module("recognition", "a start, adapted to one's own clips", 416, 126, 256, 136),
    _module("training", "from data to results, safe to kill", 10, 182, 394, 76),
    _module("learners", "the methods, one file each", 58, 302, 532, 64, colour=CORE),
    _module("model", "networks: CNN, CNN + LSTM, Fourier features", 58, 388, 532, 32, colour=CORE),
    _module("maml", "adaptation, eqs. 1-5", 58, 442, 136, 52, colour=CORE),
    _module("convolution", "fast under vmap", 204, 442, 112, 52, colour=CORE),
    _module("normalisation", "of batches", 326, 442, 134, 52, colour=CORE),
    _module("config", "settings, limits", 470, 442, 120, 52, colour=CORE),
    _commands("once", "weights of the encoder", "fetch_encoder", 718, 190, 142, 62),
    _module("synthesis", "synthetic speech, noise, silence", 640, 356, 102, 152),
    _module("encoder", "pretrained networks", 756, 356, 134, 152),
    _module("data", "prepared corpora, splits, sampling of N + F episodes", 10, 542, 394, 62),
    _module("audio", "sound to MFCCs or descriptors, and what is wrong with it", 418, 542, 472, 62),
    FOUNDATION,
)


def imports(graph: grimp.ImportGraph) -> dict[Box, list[Box]]:
    """The boxes below that each box imports, without those that one of these imports anyway.

    Raises:
        ValueError: a module is in no box, or imports one of a box that does not stand below.
    """
    homes = {
        module: box
        for box in BOXES
        for member in box.members
        for module in (member, *graph.find_descendants(member))
    }
    if homeless := graph.modules - homes.keys() - {"fmaml_jax"}:
        raise ValueError(f"{', '.join(sorted(homeless))}: in no box of BOXES; add it to one")
    used: dict[Box, set[Box]] = {box: set() for box in BOXES}
    for module, box in homes.items():
        # The package itself has the version alone.
        for imported in graph.find_modules_directly_imported_by(module) - {"fmaml_jax"}:
            lower = homes[imported]
            if lower is not box and lower.y <= box.y:
                raise ValueError(f"{module} imports {imported}, which does not stand below it")
            used[box] |= {lower} - {box}

    def reach(box: Box) -> set[Box]:
        return used[box].union(*map(reach, used[box]))

    return {
        box: sorted(below - set().union(*map(reach, below)), key=BOXES.index)
        for box, below in used.items()
    }


def names(graph: grimp.ImportGraph, box: Box) -> list[str]:
    """What a box lists: its modules, and those of its packages; nothing of one module alone."""
    listed = [
        module.rpartition(".")[2]
        for member in box.members
        for module in sorted(graph.find_children(member)) or [member]
    ]
    return [name for name in listed if name not in ("__main__", box.title)]


def describe(graph: grimp.ImportGraph) -> str:
    """What the picture shows, a line a box; the picture has it among its metadata."""
    return "\n".join(
        f"{box.title} ({', '.join(names(graph, box))}): {', '.join(lower.title for lower in below)}"
        for box, below in imports(graph).items()
    )


def route(upper: Box, lower: Box, drawn: Sequence[Points]) -> Points:
    """The corners of an arrow that keeps clear of other boxes and runs along no other arrow.

    Straight down where the boxes lie above each other; else out of a side and down, or down,
    across and down.

    Raises:
        ValueError: there is no room for it.
    """
    left, right, bottom = upper.x, upper.x + upper.width, upper.y + upper.height
    side, middle = (left if lower.x < left else right), (upper.y + bottom) / 2
    across = lower.y - 1.4 * GAP
    ends = np.arange(lower.x + GAP, lower.x + lower.width - GAP)
    ends = ends[np.argsort(abs(ends - side), kind="stable")]
    shared = ends[(ends >= left + GAP) & (ends <= right - GAP)]
    shared = shared[np.argsort(abs(shared - np.mean(shared)), kind="stable")] if len(shared) else ()
    out = side + (2 * GAP if side == left else -2 * GAP)
    candidates = [
        *([(x, bottom), (x, lower.y)] for x in shared),
        *([(side, middle), (x, middle), (x, lower.y)] for x in ends),
        *([(out, bottom), (out, across), (x, across), (x, lower.y)] for x in ends),
    ]
    passed = [box for box in BOXES if box not in (upper, lower)]
    if CORE not in (upper.colour, lower.colour):
        passed.append(PAPER)
    corners = [((box.x, box.y), (box.x + box.width, box.y + box.height)) for box in passed]
    taken = [piece for points in drawn for piece in pairwise(points)]

    def free(points: Points) -> bool:
        return not any(
            _near(piece, other)
            for piece in pairwise(points)
            for other in corners + [line for line in taken if _vertical(line) == _vertical(piece)]
        )

    if found := next(filter(free, candidates), None):
        return found
    raise ValueError(f"no room for the arrow from {upper.title} to {lower.title}; move boxes")


def _near(a: Points, b: Points) -> bool:
    """Whether two rectangles, or lines, given by opposite corners, come within `GAP`."""
    return all(
        max(one) > min(other) - GAP and min(one) < max(other) + GAP
        for one, other in zip(zip(*a, strict=True), zip(*b, strict=True), strict=True)
    )


def _vertical(line: Points) -> bool:
    return line[0][0] == line[1][0]


def draw(graph: grimp.ImportGraph, path: Path) -> None:
    """Writes the picture; the same code gives the same bytes.

    Raises:
        ValueError: see `imports` and `route`; also modules that overflow their box.
    """
    figure = plt.figure(figsize=(WIDTH / 100, HEIGHT / 100))
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, WIDTH), ylim=(HEIGHT, 0))
    axes.set_axis_off()
    head = {"weight": "bold", "va": "center"}
    axes.text(10, 21, "fmaml_jax", size=14, color=INK, **head)
    motto = "recognises emotions in speech of a new language from a few labelled clips"
    axes.text(130, 22, motto, size=10.5, va="center", color=INK)
    _frame(axes, PAPER, "#fdeee3", EDGE[CORE], 2)
    axes.text(PAPER.x + 14, PAPER.y + 16, PAPER.title, size=10.5, color=EDGE[CORE], **head)
    drawn: list[Points] = []
    for upper, below in imports(graph).items():
        for lower in below:
            if lower is not FOUNDATION:
                drawn.append(route(upper, lower, drawn))
    style = "-|>,head_width=3.2,head_length=6"
    for points in drawn:
        line = {"color": ARROW, "linewidth": 1.3, "shrinkA": 0, "shrinkB": 0}
        axes.add_patch(FancyArrowPatch(path=Line(points), arrowstyle=style, **line))
    for box in BOXES:
        _box(axes, box, names(graph, box))
    note = "an arrow: imports; not drawn are those that follow from others, and those of common"
    axes.text(WIDTH - 10, HEIGHT - 11, note, size=7.5, color=PALE_INK, ha="right", va="center")
    figure.savefig(path, dpi=200, metadata={"Software": None, "Description": describe(graph)})
    plt.close(figure)


def _box(axes: Axes, box: Box, listed: Sequence[str]) -> None:
    _frame(axes, box, box.colour, EDGE[box.colour], 1.3)
    x, y, room = box.x + 9, box.y + LINE, box.width - 16
    title = axes.text(x, y, box.title, size=10.5, weight="bold", va="center", color=INK)
    small = {"size": 8, "va": "center", "color": PALE_INK}
    if box.width > 300:
        beside = {"xycoords": title, "xytext": (6, 0), "textcoords": "offset points"}
        axes.annotate(box.purpose, (1, 0.5), **beside, **small)
    else:
        for line in textwrap.wrap(box.purpose, int(room / SMALL_LETTER)):
            y += LINE
            axes.text(x, y, line, **small)
    for line in textwrap.wrap("  ".join(listed), int(room / LETTER)):
        y += LINE + 1
        axes.text(x, y, line, size=8, va="center", family="monospace", color=INK)
    if y + LINE / 2 > box.y + box.height:
        raise ValueError(f"the modules of {box.title} do not fit into its box; make it higher")


def _frame(axes: Axes, box: Box, fill: str, edge: str, width: float) -> None:
    corner, style = (box.x, box.y), "round,pad=0,rounding_size=6"
    axes.add_patch(
        FancyBboxPatch(corner, box.width, box.height, style, fc=fill, ec=edge, linewidth=width)
    )


def read_imports() -> grimp.ImportGraph:
    """The imports of the project's modules, without those for type checkers alone."""
    return grimp.build_graph(
        "fmaml_jax", "data_prep", exclude_type_checking_imports=True, cache_dir=None
    )


if __name__ == "__main__":
    draw(read_imports(), PICTURE)
