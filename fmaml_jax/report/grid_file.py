"""A grid of runs in one file: JSON Lines, first what all runs share, then a run a line.

What a run has under the same name replaces what is shared, one level down: a setting, or a part of
the results. A test episode's figure is a count of right answers, "right" of "of". UAR is left out
where it is the accuracy, as it is with as many queries of every class, and the second batch-norm
mode where its figures are the first's, as those of methods without batch norm are.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fmaml_jax.common.files import whole_file
from fmaml_jax.config import BATCH_NORM_MODES

SUFFIX = ".jsonl"

Record = dict[str, dict[str, Any]]
"""A run's parts: those of its `config.json`, and "results"."""


def write(path: Path, runs: Mapping[str, Record]) -> None:
    """Writes runs by name, whole or not at all.

    Raises:
        OSError: the file cannot be written.
    """
    packed = {name: record | {"results": _pack(record)} for name, record in runs.items()}
    first, *others = packed.values()
    shared = {
        part: {
            key: value
            for key, value in values.items()
            if all(key in other[part] and other[part][key] == value for other in others)
        }
        for part, values in first.items()
    }
    lines = [{"runs": len(packed), **shared}]
    for name, record in packed.items():
        own = {
            part: {key: value for key, value in values.items() if key not in shared[part]}
            for part, values in record.items()
        }
        lines.append({"run": name, **{part: values for part, values in own.items() if values}})
    with whole_file(path) as file:
        for line in lines:
            file.write(json.dumps(line, separators=(",", ":"), allow_nan=False) + "\n")


def read(path: Path) -> dict[str, Record]:
    """The runs of a file by name.

    Raises:
        OSError, ValueError, LookupError, TypeError, AttributeError: it cannot be read.
    """
    shared, *lines = map(json.loads, path.read_text().splitlines())
    count = shared.pop("runs")
    if count != len(lines):
        raise ValueError(f"{len(lines)} of its {count} runs are there")
    runs = {}
    for line in lines:
        record = {part: values | line.get(part, {}) for part, values in shared.items()}
        runs[line["run"]] = record | {"results": _unpack(record["results"])}
    return runs


def _pack(record: Record) -> dict[str, Any]:
    """A run's results with counts; shares that are none of an episode's queries stay."""
    config, results = record["config"], record["results"]
    ways, fixed = len(config["emotions"]), len(config["fixed"])
    of_emotion, of_fixed = config["test_query_per_class"], config["test_query_per_fixed_class"]
    answers = {
        "accuracy": ways * of_emotion + fixed * of_fixed,
        "emotion_accuracy": ways * of_emotion,
        "uar": (ways + fixed) * math.lcm(of_emotion, of_fixed),
    }

    def pack(figures: Mapping[str, list[float]]) -> dict[str, Any]:
        packed = {}
        for name, shares in figures.items():
            if name == "uar" and shares == figures["accuracy"]:
                continue
            counts = {"of": answers[name], "right": [round(s * answers[name]) for s in shares]}
            packed[name] = counts if _shares(counts) == shares else shares
        return packed

    first = BATCH_NORM_MODES[0]
    kept = [mode for mode in BATCH_NORM_MODES if mode == first or results[mode] != results[first]]
    others = {part: value for part, value in results.items() if part not in BATCH_NORM_MODES}
    return others | {
        mode: results[mode] | {"by_episode": pack(results[mode]["by_episode"])} for mode in kept
    }


def _unpack(packed: dict[str, Any]) -> dict[str, Any]:
    def unpack(figures: Mapping[str, Any]) -> dict[str, list[float]]:
        unpacked = {
            name: _shares(values) if isinstance(values, dict) else values
            for name, values in figures.items()
        }
        return {"uar": unpacked["accuracy"], **unpacked}

    modes = {}
    for mode in BATCH_NORM_MODES:
        figures = packed.get(mode, packed[BATCH_NORM_MODES[0]])
        modes[mode] = figures | {"by_episode": unpack(figures["by_episode"])}
    return packed | modes


def _shares(counts: Mapping[str, Any]) -> list[float]:
    """Shares as `results.json` has them, of six digits."""
    return [round(right / counts["of"], 6) for right in counts["right"]]
