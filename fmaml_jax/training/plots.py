"""The pictures of a run folder."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from fmaml_jax.common.files import whole_file
from fmaml_jax.common.fonts import lettered
from fmaml_jax.common.pictures import BLUE, GREEN, PURPLE, VERMILION, draw_matrix

# Line styles serve in print.
TRAIN, VALIDATION, TRANSDUCTIVE, INDUCTIVE = BLUE, VERMILION, GREEN, PURPLE


def convergence(path: Path, results: dict) -> None:
    """The paper's figure 3: query loss and accuracy by meta-step and by inner step.

    Args:
        path: PNG file to write.
        results: the content of `results.json`.
    """
    curve = results["curve"]
    tested = "episodes" in results
    figure = Figure((9, 6), layout="constrained")
    axes = figure.subplots(2, 1 + tested, sharey="row", squeeze=False)
    for row, quantity in enumerate(("loss", "accuracy")):
        by_step = axes[row, 0]
        by_step.plot(curve["step"], curve[quantity], color=TRAIN, label="training tasks")
        if curve.get("val_step"):
            by_step.plot(
                curve["val_step"],
                curve[f"val_{quantity}"],
                "o--",
                color=VALIDATION,
                markersize=3,
                label="held-out source speakers",
            )
        by_step.set_ylabel(f"query {quantity}")
        if not tested:
            continue
        for mode, colour, style in (
            ("transductive", TRANSDUCTIVE, "o-"),
            ("inductive", INDUCTIVE, "s--"),
        ):
            axes[row, 1].plot(
                results[mode]["by_inner_step"][quantity], style, color=colour, label=mode
            )
    axes[0, 0].legend()
    axes[0, 0].set_title("meta-training")
    axes[1, 0].set_xlabel("meta-step")
    if tested:
        axes[0, 1].legend()
        axes[0, 1].set_title(f"adaptation, {results['episodes']} episodes")
        axes[1, 1].set_xlabel("inner step")
    for axis in axes[1]:
        axis.set_ylim(0, 1)
        axis.axhline(results["chance"], color="grey", linestyle=":", linewidth=1)
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.text(
            1,
            results["chance"],
            "chance",
            color="grey",
            va="bottom",
            ha="right",
            transform=axis.get_yaxis_transform(),
        )
    _head(figure, results)
    _save(figure, path)


def confusion(path: Path, classes: Sequence[str], results: dict) -> None:
    """Confusion matrices of both modes, inductive first; rows are true classes and add up to 100%.

    Args:
        path: PNG file to write.
        classes: names in the order of the outputs.
        results: the content of `results.json`.
    """
    modes = ("inductive", "transductive")
    figure = Figure((11, 5.2), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for axis, mode in zip(axes, modes, strict=True):
        draw_matrix(axis, np.asarray(results[mode]["confusion"]), classes, classes)
        axis.set_aspect("equal")
        axis.set_xlabel("answer")
        uar = results[mode]["uar"]
        axis.set_title(f"{mode}, UAR {100 * uar['mean']:.1f}%")
    axes[0].set_ylabel("true class")
    _head(figure, results, ", % of the true class's queries")
    _save(figure, path)


def _head(figure: Figure, results: dict, more: str = "") -> None:
    text = f"{results['method']}, target {results['target']}, {results['shots']}-shot{more}"
    [title], families = lettered([text])
    figure.suptitle(title, fontfamily=families)


def _save(figure: Figure, path: Path) -> None:
    with whole_file(path, "wb") as file:
        figure.savefig(file, format="png", dpi=130)
