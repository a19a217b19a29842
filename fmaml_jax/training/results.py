"""What `results.json` says of a test, and the lines that are printed of it."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Shaped
from scipy import stats

from fmaml_jax.common.text import text_table
from fmaml_jax.config import NO_TARGET
from fmaml_jax.data.sexes import SEXES
from fmaml_jax.training.metrics import (
    UNKNOWN,
    Predictions,
    accuracy,
    by_confidence,
    by_group,
    confusion,
    emotion_accuracy,
    log_loss,
    recall,
)


def ci95(values: Float[np.ndarray, " values"]) -> float:
    """Half the width of the 95% interval of a mean of two values or more (Student's t)."""
    return float(stats.sem(values) * stats.t.ppf(0.975, len(values) - 1))


def interval(per_episode: Float[np.ndarray, " episodes"]) -> dict[str, float]:
    """Mean over episodes and half the width of its 95% interval."""
    mean = float(np.mean(per_episode))
    return {"mean": round(mean, 6), "ci95": round(ci95(per_episode), 6)}


def summarise(
    predictions: Predictions,
    classes: Sequence[str],
    ways: int,
    sexes: Shaped[np.ndarray, "episodes queries"],
) -> dict:
    """The figures of one batch-norm mode as they stand in `results.json`.

    Args:
        predictions: of the test.
        classes: emotions first.
        ways: N.
        sexes: of each query's speaker, one of `SEXES` or "".
    """
    accuracies, emotion_accuracies = accuracy(predictions), emotion_accuracy(predictions, ways)
    recalls = recall(predictions)

    def figures(step: int) -> dict[str, dict[str, float]]:
        return {
            "accuracy": interval(accuracies[:, step]),
            "emotion_accuracy": interval(emotion_accuracies[:, step]),
            "uar": interval(recalls[:, step].mean(axis=-1)),
        }

    return {
        **figures(-1),
        "recall": dict(zip(classes, np.round(recalls[:, -1].mean(0), 6).tolist(), strict=True)),
        "before_adaptation": figures(0),
        "by_inner_step": {
            "loss": np.round(log_loss(predictions).mean(axis=0), 6).tolist(),
            "accuracy": np.round(accuracies.mean(axis=0), 6).tolist(),
        },
        "confusion": np.round(confusion(predictions), 6).tolist(),
        "by_confidence": _counts(by_confidence(predictions)),
        "by_sex": {
            sex: _counts(by_group(predictions, sexes == sex))
            for sex in SEXES
            if (sexes == sex).any()
        },
        "by_episode": {
            "accuracy": np.round(accuracies[:, -1], 6).tolist(),
            "emotion_accuracy": np.round(emotion_accuracies[:, -1], 6).tolist(),
            "uar": np.round(recalls[:, -1].mean(axis=-1), 6).tolist(),
        },
    }


def _counts(found: Int[np.ndarray, "2 parts"]) -> dict[str, list[int]]:
    return {"right": found[0].tolist(), "of": found[1].tolist()}


def embed(logits: Float[np.ndarray, "clips classes"]) -> list[list[float]]:
    """The clips' outputs on their two principal axes, for pictures.

    A clip's outputs count relative to their mean, as they do in a softmax; classes that the method
    does not know are left out.
    """
    known = logits[:, (logits != UNKNOWN).all(axis=0)].astype(np.float64)
    from sklearn.decomposition import PCA  # late: it takes a second to load

    axes = PCA(2).fit_transform(known - known.mean(axis=1, keepdims=True))
    return np.round(axes, 3).tolist()


def table(results: dict[str, Any]) -> str:
    """The run's row of the paper's tables, with intervals, beside no adaptation and chance."""

    def percent(figures: dict[str, float]) -> str:
        return f"{100 * figures['mean']:.1f} ± {100 * figures['ci95']:.1f}"

    columns = ("accuracy", "emotion_accuracy", "uar")
    run_name = (
        f"{results['method']}, {results['target']}, {results['shots']}-shot, seed {results['seed']}"
    )
    if results["target"] == NO_TARGET:
        return f"{run_name}: trained on all languages, tested on none"
    rows: list[tuple[str, ...]] = [
        ("", f"all {results['ways'] + results['fixed']} classes", "emotions alone", "UAR")
    ]
    # Where no answer depends on other queries, the two modes are one.
    modes = ["inductive"]
    if results["transductive"] != results["inductive"]:
        modes.append("transductive")
    for mode in modes:
        shown = [(run_name, results[mode])]
        if len(results[mode]["by_inner_step"]["accuracy"]) > 1:
            shown.append(("  without adaptation", results[mode]["before_adaptation"]))
        for name, figures in shown:
            rows.append((f"{name}, {mode}", *(percent(figures[column]) for column in columns)))
    chance = f"{100 * results['chance']:.1f}"
    rows.append(("chance", chance, f"{100 / results['ways']:.1f}", chance))
    if all(row[1] == row[3] for row in rows[1:]):  # the UAR is the accuracy
        rows = [row[:3] for row in rows]
    lines = [text_table(rows)]
    if not results["knows_fixed_classes"]:
        lines.append("the method cannot know the fixed classes: they are in no support it has")
    if len(modes) > 1:
        lines.append(
            "inductive: an answer depends on its clip and the support; transductive: on the other "
            "queries too"
        )
    lines.append(f"accuracy in %; ± is the 95% interval over {results['episodes']} episodes")
    return "\n".join(lines)
