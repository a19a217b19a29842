"""The report's figures: each a PNG and an SVG, in colours that colour-blind readers tell apart.

Every method and class has a marker and a line style too, for print without colours.
"""

import io
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from fmaml_jax.common.fonts import lettered
from fmaml_jax.common.pictures import (
    BLACK,
    BLUE,
    GREEN,
    ORANGE,
    PURPLE,
    SKY_BLUE,
    VERMILION,
    draw_matrix,
)
from fmaml_jax.config import BATCH_NORM_MODES
from fmaml_jax.report.runs import Remark, Row, Run
from fmaml_jax.report.tables import language_order, summarise, target_name

# The best told apart first, without the yellow that white paper swallows.
COLOURS = (BLUE, VERMILION, GREEN, ORANGE, PURPLE, SKY_BLUE, BLACK)
MARKERS = "osD^vPX*<>dph"
LINES = ("-", "--", "-.", ":")
MODE = "inductive"
"""The batch norm of figures that show one mode: a prediction does not depend on its neighbours."""

FMAML, METASER = Row("fmaml", "emotions", "cnn", "none"), Row("metaser", "all", "cnn", "none")


class Picture(NamedTuple):
    """A figure as files: its name, what it shows in a sentence, and the bytes."""

    name: str
    caption: str
    png: bytes
    svg: bytes


class _Grid(NamedTuple):
    """The runs by cell, and what a figure goes through."""

    cells: dict[tuple[Row, str, int], list[Run]]
    rows: list[Row]
    targets: list[str]
    shots: list[int]
    featured: list[Row]


def draw(runs: Sequence[Run]) -> tuple[list[Picture], list[Remark]]:
    """Every figure that the runs allow, and why the others are left out."""
    cells = defaultdict(list)
    for run in runs:
        cells[run.cell].append(run)
    rows = list(dict.fromkeys(run.row for run in runs))
    grid = _Grid(
        cells,
        rows,
        sorted({run.target for run in runs}, key=language_order),
        sorted({run.shots for run in runs}),
        _featured(cells, rows),
    )
    _, families = lettered([*map(target_name, grid.targets), *runs[0].results["classes"]])
    pictures, remarks = [], []
    for name, make in (
        ("figure3", _loss_by_step),
        ("accuracy_by_shots", _accuracy_by_shots),
        ("accuracy_by_inner_step", _accuracy_by_inner_step),
        ("confusion", _confusion),
        ("recall", _recall),
        ("embedding", _embedding),
    ):
        with matplotlib.rc_context(
            {"svg.fonttype": "none", "svg.hashsalt": name, "font.family": families}
        ):
            figure, text = make(grid)
            if figure is None:
                remarks.append(Remark("left out", f"figure {name}", text))
                continue
            png, svg = io.BytesIO(), io.BytesIO()
            figure.savefig(png, format="png", dpi=150)
            figure.savefig(svg, format="svg", metadata={"Date": None})
        pictures.append(Picture(name, text, png.getvalue(), svg.getvalue()))
    return pictures, remarks


def _featured(cells: dict, rows: Sequence[Row]) -> list[Row]:
    """F-MAML and the best other unguarded row, by mean accuracy where F-MAML was run, too."""
    plain = [row for row in rows if row.leak_guard == "none"] or list(rows)
    first = FMAML if FMAML in plain else plain[0]
    columns = {cell[1:] for cell in cells if cell[0] == first}

    def rank(row: Row) -> tuple[int, float]:
        shared = [cells[row, *column] for column in sorted(columns) if (row, *column) in cells]
        means = [summarise(runs, MODE, "accuracy").mean for runs in shared]
        return len(shared), float(np.mean(means)) if means else 0.0

    others = [row for row in plain if row != first]
    return [first, max(others, key=rank)] if others else [first]


def _styles(grid: _Grid) -> dict[Row, dict]:
    """The same in every figure; rows with many cells come first, and differ the most."""
    cells = Counter(row for row, _, _ in grid.cells)
    ranked = sorted(grid.rows, key=lambda row: -cells[row])
    return {
        row: {
            "color": COLOURS[i % len(COLOURS)],
            "marker": MARKERS[i % len(MARKERS)],
            "linestyle": LINES[(i + i // len(COLOURS)) % len(LINES)],
            "label": row.label,
        }
        for i, row in enumerate(ranked)
    }


def _panels(
    rows: int, columns: int, figsize: tuple[float, float], **settings
) -> tuple[Figure, np.ndarray]:
    figure = Figure(figsize, layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **settings)


def _target(target: str) -> str:
    [name], _ = lettered([target_name(target)])
    return name


def _legend(figure: Figure, axes: np.ndarray, columns: int, **settings) -> None:
    """One legend of all panels, below them."""
    entries = {}
    for axis in axes.flat:
        handles, labels = axis.get_legend_handles_labels()
        entries |= {
            label: entry
            for label, entry in zip(labels, handles, strict=True)
            if label not in entries
        }
    figure.legend(entries.values(), entries, loc="outside lower center", ncols=columns, **settings)


def _loss_by_step(grid: _Grid) -> tuple[Figure | None, str]:
    rows = [row for row in (FMAML, METASER) if row in grid.rows]
    for shots in grid.shots:
        curves = {
            (target, row): [
                run.results["curve"]
                for run in grid.cells.get((row, target, shots), [])
                if run.results["curve"]
            ]
            for target in grid.targets
            for row in rows
        }
        targets = [t for t in grid.targets if all(curves[t, row] for row in rows)]
        if targets and len(rows) == 2:
            break
    else:
        return None, "no language has the curves of fmaml and metaser at the same shots"
    figure, axes = _panels(1, len(targets), figsize=(4 * len(targets) + 0.6, 3.9), sharey=True)
    for axis, target in zip(axes[0], targets, strict=True):
        for row in rows:
            found = curves[target, row]
            style = _styles(grid)[row]
            for quantity, line, what in (
                ("", "-", "training tasks"),
                ("val_", "--", "held-out speakers"),
            ):
                if not all(curve.get(f"{quantity}step") for curve in found):
                    continue  # trained without validation
                steps = np.asarray(found[0][f"{quantity}step"])
                loss = np.mean(
                    [np.interp(steps, c[f"{quantity}step"], c[f"{quantity}loss"]) for c in found],
                    axis=0,
                )
                axis.plot(
                    steps,
                    loss,
                    line,
                    color=style["color"],
                    marker=style["marker"],
                    markersize=4,
                    markevery=max(1, len(steps) // 8),
                    label=f"{row.label}, {what}",
                )
        axis.set_title(_target(target))
        axis.set_xlabel("meta-step")
        axis.set_ylim(bottom=0)
    axes[0, 0].set_ylabel("query loss (nats)")
    _legend(figure, axes, 2 if len(targets) > 1 else 1)
    return figure, (
        f"Figure 3. Query loss by meta-step in {shots}-shot meta-training, F-MAML against MetaSER "
        "(MAML on the plain problem): means over seeds, on training tasks and on held-out source "
        "speakers, by the target language that is left out. Their tasks differ: MetaSER has "
        "support of the fixed classes and shuffles all positions."
    )


def _accuracy_by_shots(grid: _Grid) -> tuple[Figure | None, str]:
    rows = [
        row
        for row in grid.rows
        if any(sum((row, t, k) in grid.cells for k in grid.shots) > 1 for t in grid.targets)
    ]
    targets = [
        target
        for target in grid.targets
        if any(sum((row, target, k) in grid.cells for k in grid.shots) > 1 for row in rows)
    ]
    if not targets:
        return None, "no method was run with several shots"
    figure, axes = _panels(
        2, len(targets), figsize=(3.6 * len(targets) + 0.6, 7), sharex=True, sharey=True
    )
    styles = _styles(grid)
    shown = {"accuracy": "accuracy, all classes (%)", "emotion_accuracy": "emotions alone (%)"}
    for panels, (quantity, label) in zip(axes, shown.items(), strict=True):
        panels[0].set_ylabel(label)
        for axis, target in zip(panels, targets, strict=True):
            for i, row in enumerate(rows):
                found = [k for k in grid.shots if (row, target, k) in grid.cells]
                if len(found) < 2:
                    continue
                cells = [summarise(grid.cells[row, target, k], MODE, quantity) for k in found]
                # Beside each other, so that intervals can be read.
                places = [grid.shots.index(k) + 0.05 * (i - (len(rows) - 1) / 2) for k in found]
                axis.errorbar(
                    places,
                    [cell.mean for cell in cells],
                    [cell.over_episodes for cell in cells],
                    capsize=2,
                    markersize=5,
                    **styles[row],
                )
            axis.set_xticks(range(len(grid.shots)), grid.shots)
    for axis, target in zip(axes[0], targets, strict=True):
        axis.set_title(_target(target))
    for axis in axes[1]:
        axis.set_xlabel("shots")
    emotions = next(iter(grid.cells.values()))[0].results["ways"]
    _chance(grid, axes[:1])
    _chance(grid, axes[1:], 100 / emotions)
    _legend(figure, axes, min(4, 2 * len(targets)))
    return figure, (
        "Accuracy by shots, of methods that were run with several; bars are the 95% interval over "
        f"episodes. Upper row: over all classes; lower row: emotions alone, decided among the "
        f"{emotions} emotions. {MODE.capitalize()} batch norm."
    )


def _chance(grid: _Grid, axes: np.ndarray, chance: float | None = None) -> None:
    """Marks chance, of all classes where no other is given (in %)."""
    chance = chance or 100 * next(iter(grid.cells.values()))[0].results["chance"]
    for axis in axes.flat:
        axis.axhline(chance, color="grey", linestyle=":", linewidth=1)
    axes[0, 0].text(
        0.99,
        chance,
        "chance",
        color="dimgrey",
        va="bottom",
        ha="right",
        fontsize=8,
        transform=axes[0, 0].get_yaxis_transform(),
    )


def _accuracy_by_inner_step(grid: _Grid) -> tuple[Figure | None, str]:
    shots = grid.shots[0]

    def path(row: Row, target: str, mode: str) -> np.ndarray:
        found = [
            run.results[mode]["by_inner_step"]["accuracy"]
            for run in grid.cells.get((row, target, shots), [])
        ]
        return 100 * np.mean(found, axis=0) if found else np.zeros(0)

    rows = [row for row in grid.rows if any(len(path(row, t, MODE)) > 1 for t in grid.targets)]
    targets = [t for t in grid.targets if any(len(path(row, t, MODE)) > 1 for row in rows)]
    if not targets:
        return None, f"no method adapts in steps at {shots} shots"
    figure, axes = _panels(
        2, len(targets), figsize=(3.6 * len(targets) + 0.6, 7), sharex=True, sharey=True
    )
    styles = _styles(grid)
    for panels, mode in zip(axes, BATCH_NORM_MODES, strict=True):
        panels[0].set_ylabel(f"accuracy in %, {mode}")
        for axis, target in zip(panels, targets, strict=True):
            for row in rows:
                values = path(row, target, mode)
                if len(values) > 1:
                    axis.plot(
                        values, markersize=5, markevery=max(1, len(values) // 8), **styles[row]
                    )
            axis.xaxis.get_major_locator().set_params(integer=True)
    for axis, target in zip(axes[0], targets, strict=True):
        axis.set_title(_target(target))
    for axis in axes[1]:
        axis.set_xlabel("inner step")
    _chance(grid, axes)
    _legend(figure, axes, min(4, 2 * len(targets)))
    return figure, (
        f"Accuracy over all classes by inner step, {shots} shots, means over seeds and episodes; "
        "step 0 is before adaptation. Upper row: transductive batch norm; lower row: inductive."
    )


def _confusion(grid: _Grid) -> tuple[Figure, str]:
    shots = grid.shots[0]
    targets = [t for t in grid.targets if (grid.featured[0], t, shots) in grid.cells]
    targets = targets or grid.targets
    classes = next(iter(grid.cells.values()))[0].results["classes"]
    size = 0.42 * len(classes) + 0.5
    figure, axes = _panels(
        len(grid.featured),
        len(targets),
        figsize=(size * len(targets) + 1.2, size * len(grid.featured) + 1.2),
        sharex=True,
        sharey=True,
    )
    for panels, row in zip(axes, grid.featured, strict=True):
        for axis, target in zip(panels, targets, strict=True):
            found = grid.cells.get((row, target, shots))
            if not found:
                axis.set_axis_off()
                continue
            shares = np.mean([run.results[MODE]["confusion"] for run in found], axis=0)
            draw_matrix(axis, shares, classes, classes)
            axis.set_title(f"{row.label}, {_target(target)}", fontsize=10)
    figure.supxlabel("answer", fontsize=10)
    figure.supylabel("true class", fontsize=10)
    return figure, (
        f"Confusion matrices, {shots} shots, {MODE} batch norm, of "
        f"{' and of the best other method, '.join(row.label for row in grid.featured)}: % of the "
        "true class's queries, means over seeds."
    )


def _recall(grid: _Grid) -> tuple[Figure, str]:
    shots = grid.shots[0]
    targets = [t for t in grid.targets if any((row, t, shots) in grid.cells for row in grid.rows)]
    rows = [row for row in grid.rows if any((row, t, shots) in grid.cells for t in targets)]
    classes = next(iter(grid.cells.values()))[0].results["classes"]
    figure, axes = _panels(
        1,
        len(targets),
        figsize=((0.46 * len(classes) + 0.3) * len(targets) + 2.2, 0.32 * len(rows) + 1.7),
        sharey=True,
    )
    for axis, target in zip(axes[0], targets, strict=True):
        shares = np.full((len(rows), len(classes)), np.nan)
        for i, row in enumerate(rows):
            if found := grid.cells.get((row, target, shots)):
                recalls = [[run.results[MODE]["recall"][c] for c in classes] for run in found]
                shares[i] = np.mean(recalls, axis=0)
        draw_matrix(axis, shares, [row.label for row in rows], classes)
        axis.set_title(_target(target))
    return figure, (
        f"Recall of each class in %, {shots} shots, {MODE} batch norm, means over seeds; blank "
        "where a method was not run."
    )


def _embedding(grid: _Grid) -> tuple[Figure | None, str]:
    shots = grid.shots[0]

    def points(row: Row, target: str) -> dict | None:
        found = grid.cells.get((row, target, shots))
        return found[0].results.get("embedding") if found else None

    rows = [row for row in grid.featured if any(points(row, t) for t in grid.targets)]
    targets = [t for t in grid.targets if any(points(row, t) for row in rows)]
    if not targets:
        return None, f"no run of {', '.join(row.label for row in grid.featured)} has one"
    classes = next(iter(grid.cells.values()))[0].results["classes"]
    figure, axes = _panels(
        len(rows), len(targets), figsize=(3.6 * len(targets) + 0.4, 3.5 * len(rows) + 0.8)
    )
    for panels, row in zip(axes, rows, strict=True):
        for axis, target in zip(panels, targets, strict=True):
            axis.set_xticks([])
            axis.set_yticks([])
            if not (found := points(row, target)):
                axis.set_axis_off()
                continue
            axis.set_title(f"{row.label}, {_target(target)}", fontsize=10)
            for part, size, edge in (("query", 16, "none"), ("support", 70, "black")):
                places = np.asarray(found[part]).reshape(-1, 2)
                labels = np.asarray(found[f"{part}_labels"])
                for i, name in enumerate(lettered(classes)[0]):
                    own = places[labels == i]
                    axis.scatter(
                        own[:, 0],
                        own[:, 1],
                        s=size,
                        marker=MARKERS[i % len(MARKERS)],
                        color=COLOURS[i % len(COLOURS)],
                        edgecolors=edge,
                        alpha=0.65 if part == "query" else 1,
                        label=name if part == "query" else None,
                    )
    _legend(figure, axes, len(classes) if len(targets) > 1 else 3, markerscale=1.6)
    return figure, (
        f"Outputs of the first test episode after adaptation on their two principal axes, {shots} "
        "shots, inductive batch norm, the lowest seed. Large marks with an edge are the support, "
        "small ones the query."
    )
