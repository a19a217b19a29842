"""A seed's `metrics.jsonl`: a line each meta-step and each validation, and the curve of them."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TextIO

import numpy as np

from fmaml_jax.common.files import whole_file
from fmaml_jax.training.devices import first_process

FILE = "metrics.jsonl"
CURVE_POINTS = 50

Log = Callable[[str, int, Iterable[tuple[float, float]]], None]
"""(prefix of the figures' names, meta-step, each seed's loss and accuracy) -> a line each."""


@contextmanager
def metrics_logs(folders: Sequence[Path], step: int) -> Iterator[Log]:
    """What appends lines to each seed's `metrics.jsonl`; only the first process writes them.

    Args:
        folders: of the seeds.
        step: the meta-step that the run goes on after; lines of later ones are dropped first.
    """
    with ExitStack() as stack:
        files = [stack.enter_context(_reopened(f, step)) for f in folders if first_process()]

        def log(prefix: str, step: int, figures: Iterable[tuple[float, float]]) -> None:
            for file, (loss, task_accuracy) in zip(files, figures, strict=False):
                entry = {
                    "step": step,
                    f"{prefix}loss": float(loss),
                    f"{prefix}accuracy": float(task_accuracy),
                }
                file.write(json.dumps(entry, allow_nan=False) + "\n")
                file.flush()

        yield log


def learning_curve(folder: Path) -> dict[str, list] | None:
    """What a seed's `metrics.jsonl` says, short: at most `CURVE_POINTS` windows of meta-steps.

    Returns:
        Middle, mean loss and mean accuracy of each window over training tasks (`step`, `loss`,
        `accuracy`) and every validation (`val_step`, ...); None where no meta-step was noted.
    """
    path = folder / FILE
    if not path.exists():
        return None
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    training = [line for line in lines if "loss" in line]
    validation = [line for line in lines if "val_loss" in line]
    if not training:  # a folder that was copied without it
        return None
    windows = np.array_split(np.arange(len(training)), min(CURVE_POINTS, len(training)))
    return {
        **{
            key: [
                round(float(np.mean([training[i][key] for i in window])), 4) for window in windows
            ]
            for key in ("step", "loss", "accuracy")
        },
        "val_step": [line["step"] for line in validation],
        **{
            key: [round(line[key], 4) for line in validation]
            for key in ("val_loss", "val_accuracy")
        },
    }


def _reopened(folder: Path, step: int) -> TextIO:
    folder.mkdir(exist_ok=True)
    path = folder / FILE
    kept = []
    for line in path.read_text(errors="replace").splitlines(keepends=True) if path.exists() else []:
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line)
        except (ValueError, LookupError, TypeError):  # cut short, so later than the checkpoint
            break
    with whole_file(path) as file:
        file.write("".join(kept))
    return path.open("a")
