"""The report's figures: each a PNG and an SVG, in colours that colour-blind readers tell apart.

Every method and class has a marker and a line style too, for print without colours.
"""

import io
import textwrap
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

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
from fmaml_jax.report.runs import Remark, Row, Run
from fmaml_jax.report.statistics import (
    answers_by_confidence,
    calibration_error,
    gap_between_sexes,
    summarise,
)
from fmaml_jax.report.tables import FMAML, METASER, MODES, language_order, modes_of, target_name

# The best told apart first, without the yellow that white paper swallows.
COLOURS = (BLUE, VERMILION, GREEN, ORANGE, PURPLE, SKY_BLUE, BLACK)
MARKERS = "osD^vPX*<>dph"
LINES = ("-", "--", "-.", ":")
LABEL_LETTERS = 40
"""The most letters in a line of a legend or of a panel's title."""
MODE = MODES[0]
"""The batch norm of figures that show one mode."""


class Picture(NamedTuple):
    """A figure as files.

    Attributes:
        name: of its files.
        caption: what it shows.
        alt: what kind of picture it is, and of what, for those who do not see it.
        width: in CSS pixels.
        png, svg: its bytes.
        number: its place among the figures of a report.
    """

    name: str
    caption: str
    alt: str
    width: int
    png: bytes
    svg: bytes
    number: int

    @property
    def title(self) -> str:
        """The caption with its number."""
        return f"Figure {self.number}. {self.caption}"


class _Grid(NamedTuple):
    """The runs by cell, and what a figure goes through."""

    cells: dict[tuple[Row, str, int], list[Run]]
    rows: list[Row]
    targets: list[str]
    shots: list[int]
    featured: list[Row]

    @property
    def classes(self) -> list[str]:
        """Those of all runs, emotions first."""
        return self.example["classes"]

    @property
    def example(self) -> dict[str, Any]:
        """The results of one run, for what those of all have in common."""
        return next(iter(self.cells.values()))[0].results


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
    for name, (alt, make) in _DRAWN.items():
        with matplotlib.rc_context(
            {"svg.fonttype": "none", "svg.hashsalt": name, "font.family": families}
        ):
            figure, text = make(grid)
            if figure is None:
                remarks.append(Remark("left out", f"the {alt}", text))
                continue
            png, svg = io.BytesIO(), io.BytesIO()
            figure.savefig(png, format="png", dpi=150)
            figure.savefig(svg, format="svg", metadata={"Date": None})
        panels = ", ".join(filter(None, (axis.get_title() for axis in figure.axes)))
        pictures.append(
            Picture(
                name,
                text,
                f"{alt[0].upper()}{alt[1:]}" + (f"; panels: {panels}" if panels else ""),
                round(96 * figure.get_figwidth()),
                png.getvalue(),
                svg.getvalue(),
                len(pictures) + 1,
            )
        )
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


def _legend(figure: Figure, axes: np.ndarray, **settings) -> None:
    """One legend of all panels, below them, in as many columns as the figure is wide enough for."""
    entries = {}
    for axis in axes.flat:
        handles, labels = axis.get_legend_handles_labels()
        entries |= {
            _wrapped(label): entry
            for label, entry in zip(labels, handles, strict=True)
            if _wrapped(label) not in entries
        }
    longest = max(len(line) for label in entries for line in label.splitlines())
    inches = 0.6 + 0.075 * longest  # the sample line, and letters at their widest
    columns = max(1, min(len(entries), int(figure.get_figwidth() / inches)))
    figure.legend(
        entries.values(), entries, loc="outside lower center", ncols=columns, fontsize=9, **settings
    )


def _wrapped(label: str, width: int = LABEL_LETTERS) -> str:
    """A label in lines that no figure is too narrow for."""
    return textwrap.fill(label, width, break_long_words=False)


def _figsize(panel: float, panels: int, height: float) -> tuple[float, float]:
    """Of a figure of some panels a row, in inches."""
    return max(5.0, panel * panels + 0.6), height


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
        return None, "no language has the curves of F-MAML and MetaSER at the same shots"
    figure, axes = _panels(1, len(targets), figsize=_figsize(4, len(targets), 3.9), sharey=True)
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
    _legend(figure, axes)
    return figure, (
        f"Query loss by meta-step (the paper's Figure 3) in {shots}-shot meta-training, F-MAML "
        "against MetaSER (MAML on the plain problem): means over seeds, on training tasks and on "
        "held-out source speakers, by the target language that is left out. Their tasks differ: "
        "MetaSER has support of the fixed classes and shuffles all positions."
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
        2, len(targets), figsize=_figsize(3.6, len(targets), 7), sharex=True, sharey=True
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
    emotions = grid.example["ways"]
    _chance(grid, axes[:1])
    _chance(grid, axes[1:], 100 / emotions)
    _legend(figure, axes)
    return figure, (
        "Accuracy by shots, of methods that were run with several; bars are the 95% interval over "
        f"episodes. Upper row: over all classes; lower row: emotions alone, decided among the "
        f"{emotions} emotions. {MODE.capitalize()} batch norm."
    )


def _chance(grid: _Grid, axes: np.ndarray, chance: float | None = None) -> None:
    """Marks chance, of all classes where no other is given (in %)."""
    chance = chance or 100 * grid.example["chance"]
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
    modes = modes_of([run for runs in grid.cells.values() for run in runs])
    figure, axes = _panels(
        *(len(modes), len(targets)),
        figsize=_figsize(3.6, len(targets), 0.8 + 3.1 * len(modes)),
        **{"sharex": True, "sharey": True},
    )
    styles = _styles(grid)
    for panels, mode in zip(axes, modes, strict=True):
        panels[0].set_ylabel("accuracy in %" + (f", {mode}" if len(modes) > 1 else ""))
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
    for axis in axes[-1]:
        axis.set_xlabel("inner step")
    _chance(grid, axes)
    _legend(figure, axes)
    return figure, (
        f"Accuracy over all classes by inner step, {shots} shots, means over seeds and episodes; "
        "step 0 is before adaptation."
        + (" Upper row: inductive batch norm; lower row: transductive." if len(modes) > 1 else "")
    )


def _confusion(grid: _Grid) -> tuple[Figure, str]:
    shots = grid.shots[0]
    targets = [t for t in grid.targets if (grid.featured[0], t, shots) in grid.cells]
    targets = targets or grid.targets
    classes = grid.classes
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
            axis.set_title(_wrapped(f"{row.label}, {_target(target)}", 32), fontsize=10)
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
    classes = grid.classes
    # One below the other, so that a phone shows all classes.
    labels = [_wrapped(row.label, 18) for row in rows]
    lines = sum(1 + label.count("\n") for label in labels)
    figure, axes = _panels(
        *(len(targets), 1),
        figsize=(
            0.36 * len(classes) + 1.9,
            (0.17 * lines + 0.14 * len(rows) + 0.5) * len(targets) + 0.9,
        ),
        sharex=True,
    )
    for axis, target in zip(axes[:, 0], targets, strict=True):
        shares = np.full((len(rows), len(classes)), np.nan)
        for i, row in enumerate(rows):
            if found := grid.cells.get((row, target, shots)):
                recalls = [[run.results[MODE]["recall"][c] for c in classes] for run in found]
                shares[i] = np.mean(recalls, axis=0)
        draw_matrix(axis, shares, labels, classes)
        axis.set_yticks(range(len(rows)), labels, fontsize=8)
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
    classes = grid.classes
    figure, axes = _panels(
        len(rows), len(targets), figsize=_figsize(3.6, len(targets), 3.5 * len(rows) + 0.8)
    )
    for panels, row in zip(axes, rows, strict=True):
        for axis, target in zip(panels, targets, strict=True):
            axis.set_xticks([])
            axis.set_yticks([])
            if not (found := points(row, target)):
                axis.set_axis_off()
                continue
            axis.set_title(_wrapped(f"{row.label}, {_target(target)}", 32), fontsize=10)
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
    _legend(figure, axes, markerscale=1.6)
    return figure, (
        f"Outputs of the first test episode after adaptation on their two principal axes, {shots} "
        "shots, inductive batch norm, the lowest seed. Large marks with an edge are the support, "
        "small ones the query."
    )


def _sureness(grid: _Grid) -> tuple[Figure | None, str]:
    shots = grid.shots[0]

    def found(row: Row, target: str, parts: int) -> tuple[np.ndarray, np.ndarray] | None:
        runs = grid.cells.get((row, target, shots))
        return answers_by_confidence(runs, MODE, parts) if runs else None

    rows = [row for row in grid.rows if any(found(row, t, 10) for t in grid.targets)]
    targets = [t for t in grid.targets if any(found(row, t, 10) for row in rows)]
    if not targets:
        return None, "no run has recorded how sure its answers were; run it again"
    figure, axes = _panels(2, len(targets), figsize=_figsize(3.4, len(targets), 7.2))
    styles = _styles(grid)
    for place, target in enumerate(targets):
        above, below = axes[:, place]
        errors = []
        for row in rows:
            if not (of_row := found(row, target, 10)):
                continue
            answers, confidence = of_row
            errors.append(f"{100 * calibration_error(answers, confidence):.1f}")
            kept = answers[1] > 0
            shares = 100 * answers[0][kept] / answers[1][kept]
            above.plot(100 * confidence[kept], shares, markersize=5, **styles[row])
            # From the surest answers down.
            fine, _ = found(row, target, 100) or of_row
            right, of = np.cumsum(fine[:, ::-1], axis=1)
            kept = of > 0
            below.plot(
                *(100 * of[kept] / of[-1], 100 * right[kept] / of[kept]),
                **(styles[row] | {"marker": None}),
            )
        above.plot([0, 100], [0, 100], color="grey", linestyle=":", linewidth=1)
        above.set_title(f"{_target(target)}\ncalibration error {', '.join(errors)}%", fontsize=10)
        above.set_xlabel("probability of the answer (%)")
        below.set_xlabel("answers that are given (%)")
        below.set_ylim(top=101)
    for axis in axes[:, 0]:
        axis.set_ylabel("right answers (%)")
    _legend(figure, axes)
    return figure, (
        f"How sure answers are, over all classes, {shots} shots, {MODE} batch norm, all seeds. "
        "Upper row: the share of right answers by their probability; on the dotted line they "
        "agree, and the expected calibration error (10 bins) is the mean distance from it, in the "
        "order of the legend. Lower row: the share of right answers if only the surest are given "
        "and the others are abstained from."
    )


def _sexes(grid: _Grid) -> tuple[Figure | None, str]:
    shots = grid.shots[0]

    def gap(row: Row, target: str) -> np.ndarray | None:
        runs = grid.cells.get((row, target, shots))
        return gap_between_sexes(runs, MODE) if runs else None

    targets = [t for t in grid.targets if any(gap(row, t) is not None for row in grid.rows)]
    rows = [row for row in grid.rows if any(gap(row, t) is not None for t in targets)]
    if not targets:
        return None, "no run has recorded it of a corpus that says who is a woman and who a man"
    classes = grid.classes
    names, _ = lettered(classes)
    figure, axes = _panels(1, len(targets), figsize=_figsize(3.8, len(targets), 4), sharey=True)
    styles = _styles(grid)
    for axis, target in zip(axes[0], targets, strict=True):
        for i, row in enumerate(rows):
            if (differences := gap(row, target)) is None:
                continue
            width = 0.8 / len(rows)
            places = np.arange(len(classes)) + width * (i - (len(rows) - 1) / 2)
            style = styles[row]
            axis.bar(places, 100 * differences, width, color=style["color"], label=style["label"])
        axis.axhline(0, color="black", linewidth=0.8)
        axis.set_title(_target(target))
        axis.set_xticks(range(len(classes)), names, rotation=40, ha="right")
    axes[0, 0].set_ylabel("recall of women less that of men (points)")
    _legend(figure, axes)
    return figure, (
        f"Difference in recall between women and men by class, {shots} shots, {MODE} batch norm, "
        "all seeds and episodes; blank where one of them has no clips. Speakers are few: a "
        "difference may be one person's."
    )


_DRAWN = {
    "loss_by_meta_step": ("line chart of the query loss by meta-step", _loss_by_step),
    "accuracy_by_shots": ("line chart of the accuracy by shots", _accuracy_by_shots),
    "accuracy_by_inner_step": ("line chart of the accuracy by inner step", _accuracy_by_inner_step),
    "confusion": ("confusion matrices", _confusion),
    "recall": ("map of the recall of each class by method", _recall),
    "sureness": ("line charts of right answers by probability and by coverage", _sureness),
    "sexes": ("bar chart of the difference in recall between women and men", _sexes),
    "embedding": ("scatter plot of the outputs of one test episode", _embedding),
}
"""What each figure is, for remarks and for those who do not see it, and what draws it."""
