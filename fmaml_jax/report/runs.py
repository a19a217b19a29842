"""Runs found, read, and sorted into what can stand in one report and what cannot.

Nothing is mixed silently: whatever is left out, or differs within the report, is a `Remark`.
"""

import itertools
import json
import math
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fmaml_jax.common.errors import UserError
from fmaml_jax.config import BATCH_NORM_MODES, NO_TARGET
from fmaml_jax.learners import METHODS, read_settings
from fmaml_jax.report import grid_file
from fmaml_jax.training.run_folder import recorded_settings

FIGURES = ("accuracy", "emotion_accuracy", "uar")
"""What is measured of each test episode; the names of `results.json`."""

PROTOCOL = ("episodes", "test_query_per_class", "test_query_per_fixed_class")
NO_TRAINING_SETTING = {
    *("data", "target", "method", "support", "network", "leak_guard", "shots", "seed"),
    *("seeds_at_once", "emotions", "fixed", "run_dir", "task_chunk", *PROTOCOL),
}
"""Settings that say which cell a run is of, how it is measured, or where it is computed."""

NAMES = {  # the paper's, then the literature's
    **{"fmaml": "F-MAML", "metaser": "MetaSER", "supervised": "Supervised"},
    **{"reptile": "Reptile", "meta_sgd": "Meta-SGD", "mamlpp": "MAML++"},
    **{"anil": "ANIL", "boil": "BOIL", "protonet": "ProtoNet"},
    **{"matching": "Matching network", "relation": "Relation network"},
    **{"pooled": "Pooled classifier", "pooled_finetune": "Pooled classifier, fine-tuned"},
    **{"functionals": "Linear SVM", "functionals_fixed": "Linear SVM, fixed classes of sources"},
    "functionals_pooled": "Logistic regression",
}
"""Methods as a reader knows them."""

FEATURES = (
    *("MFCC", "eGeMAPS", "MFCC + eGeMAPS", "descriptors", "CAM++"),
    *("wav2vec2", "hubert", "wavlm", "whisper"),
)


def feature_name(feature_config: Mapping[str, Any]) -> str:
    """Which of `FEATURES` a feature configuration makes."""
    if "descriptors" in feature_config:
        return "descriptors"
    if "encoder" in feature_config:
        return "CAM++"
    if "hub" in feature_config:
        return feature_config["architecture"]
    if "functionals" not in feature_config:
        return "MFCC"
    return "MFCC + eGeMAPS" if "coefficients" in feature_config else "eGeMAPS"


class Row(NamedTuple):
    """A row of the tables: a method and its variant. Rows sort as the methods' table does.

    `positions` is "known" where a method that else shuffles them kept them, and empty elsewhere.
    """

    method: str
    support: str
    network: str
    leak_guard: str
    features: str = "MFCC"
    positions: str = ""
    first_order: bool = False

    @property
    def label(self) -> str:
        """The method, with its variant where that is not the method's own."""
        known = METHODS.get(self.method)
        variant = [self.features] if self.features != "MFCC" else []
        variant += [self.network] if self.network != "cnn" else []
        if not known or self.support != known.supports[0]:
            variant.append(f"support {self.support}")
        variant += [f"{self.positions} positions"] if self.positions else []
        variant += ["first order"] if self.first_order else []
        guard = f", leak guard {self.leak_guard}" if self.leak_guard != "none" else ""
        name = NAMES.get(self.method, self.method)
        return name + (f" ({', '.join(variant)})" if variant else "") + guard

    @property
    def order(self) -> tuple:
        """A guarded row comes right after the unguarded one."""
        known = list(METHODS)
        place = known.index(self.method) if self.method in known else len(known)
        own = self.method in known and METHODS[self.method].supports[0] == self.support
        variant = FEATURES.index(self.features), self.network, self.positions, self.first_order
        return place, self.method, not own, *variant, self.leak_guard != "none", self


def row_of(
    config: Mapping[str, Any], feature_config: Mapping[str, Any], results: Mapping[str, Any]
) -> Row:
    """The row of a run; settings that its method does not read make no variant of it."""
    known = METHODS.get(results["method"])
    read = known.reads if known else ("positions", "first_order")  # which an unknown one may
    return Row(
        method=results["method"],
        support=results["support"],
        network=config["network"],
        leak_guard=config["leak_guard"],
        features=feature_name(feature_config),
        positions="known" if "positions" in read and config["positions"] == "known" else "",
        first_order="first_order" in read and config["first_order"],
    )


def reads(run: "Run", setting: str) -> bool:
    """Whether the run's method reads the setting; an unknown method may."""
    return run.row.method not in METHODS or setting in read_settings(
        METHODS[run.row.method], run.row.support, run.row.network
    )


def adapts(results: Mapping[str, Any]) -> bool:
    """Whether the method adapts to a support in gradient steps."""
    return len(results[BATCH_NORM_MODES[0]]["by_inner_step"]["accuracy"]) > 1


class Run(NamedTuple):
    """One seed's results; all but `results` is from its `config.json`."""

    path: str
    row: Row
    target: str
    shots: int
    seed: int
    config: dict[str, Any]
    hashes: dict[str, str]
    features: dict[str, Any]
    versions: dict[str, str]
    results: dict[str, Any]

    @property
    def record(self) -> grid_file.Record:
        """What it is made from."""
        return {
            "config": self.config,
            "data_hashes": self.hashes,
            "feature_config": self.features,
            "versions": self.versions,
            "results": self.results,
        }

    @property
    def cell(self) -> tuple[Row, str, int]:
        """The runs of one cell differ in the seed alone."""
        return self.row, self.target, self.shots

    @property
    def problem(self) -> dict[str, Any]:
        """The classes to tell apart."""
        return {name: self.config[name] for name in ("emotions", "fixed")}

    @property
    def material(self) -> dict[str, Any]:
        """The data; files count by their content, wherever they lay."""
        return {
            "the data": sorted(self.hashes.values()),
            "the feature configuration": self.features,
        }

    @property
    def protocol(self) -> dict[str, Any]:
        """How it was measured."""
        return {name: self.config[name] for name in PROTOCOL}

    @property
    def queries(self) -> dict[str, Any]:
        """What it was measured on."""
        return {"the test's query clips": self.results["query_hash"]}

    @property
    def training(self) -> dict[str, Any]:
        """How it was trained."""
        return {
            name: value for name, value in self.config.items() if name not in NO_TRAINING_SETTING
        }


class Remark(NamedTuple):
    """What a reader has to know of the runs: what, of which kind, and why."""

    kind: str
    subject: str
    reason: str


def grouped(remarks: Iterable[Remark]) -> dict[tuple[str, str], list[Remark]]:
    """Remarks of one kind and reason together, in the order of the first."""
    groups: dict[tuple[str, str], list[Remark]] = defaultdict(list)
    for remark in remarks:
        groups[remark.kind, remark.reason].append(remark)
    return dict(groups)


def collect(paths: Sequence[str]) -> tuple[list[Run], list[Remark]]:
    """The runs below `paths` that can stand in one report, and remarks about all others.

    Args:
        paths: see `load`.

    Returns:
        Runs of one problem and protocol, and of one material for each of `FEATURES`; one run for
        each cell and seed; and what was left out, what is missing, and what differs between cells.

    Raises:
        UserError: see `load`; or runs differ and neither kind is the larger one.
    """
    runs, remarks = load(paths)
    for sift in (
        _without_duplicates,
        lambda runs: _largest(runs, within=lambda run: (), by=lambda run: run.problem),
        lambda runs: _largest(
            runs, within=lambda run: run.row.features, by=lambda run: run.material
        ),
        lambda runs: _largest(
            runs, within=lambda run: run.row.leak_guard, by=lambda run: run.protocol
        ),
        lambda runs: _largest(
            runs,
            within=lambda run: (run.target, run.shots, run.seed, run.row.leak_guard),
            by=lambda run: run.queries,
        ),
        lambda runs: _largest(runs, within=lambda run: run.cell, by=lambda run: run.training),
    ):
        runs, left_out = sift(runs)
        remarks += left_out
    runs.sort(key=lambda run: (run.row.order, run.target, run.shots, run.seed))
    return runs, [*remarks, *_missing(runs), *_trained_otherwise(runs)]


def load(paths: Sequence[str]) -> tuple[list[Run], list[Remark]]:
    """All runs below `paths`, and remarks about those that cannot be used.

    Args:
        paths: run folders, files of runs (see `grid_file`), or folders of them at any depth.

    Raises:
        UserError: a path does not exist, or no run can be used.
    """
    for path in paths:
        if not (os.path.isdir(path) or (_is_grid(path) and os.path.isfile(path))):
            raise UserError(
                f"{path} is neither a folder nor a {grid_file.SUFFIX} file of runs; name run "
                "folders, files that --save made, or folders that hold them"
            )
    runs, remarks = [], []
    for path in find(paths):
        for outcome in read_folder(path) if path.is_dir() else read_file(path):
            (runs if isinstance(outcome, Run) else remarks).append(outcome)
    if not runs and remarks:
        raise UserError(
            f"no run can be reported: {remarks[0].subject} is {remarks[0].kind} "
            f"({remarks[0].reason})" + (f", and {len(remarks) - 1} more" if remarks[1:] else "")
        )
    if not runs:
        raise UserError(
            f"no run folder is in {', '.join(paths)}, and no {grid_file.SUFFIX} file of runs; name "
            "folders that hold a config.json"
        )
    return runs, remarks


def find(paths: Iterable[str]) -> list[Path]:
    """Run folders and files of runs, each once, sorted by path below each of `paths`.

    A run folder holds a config.json, or results without one.
    """
    found: dict[str, Path] = {}
    for path in paths:
        places = [path] if os.path.isfile(path) else []
        for folder, below, files in os.walk(path):
            below.sort()
            if {"config.json", "results.json"}.isdisjoint(files):
                places += [os.path.join(folder, name) for name in sorted(files) if _is_grid(name)]
            else:
                below.clear()
                places.append(folder)
        for place in places:
            found.setdefault(os.path.realpath(place), Path(place))
    return list(found.values())


def _is_grid(name: str) -> bool:
    return name.endswith(grid_file.SUFFIX)


def read_folder(folder: Path) -> Iterator[Run | Remark]:
    """Each seed of a run folder: its results, or why they cannot be used."""
    try:
        description = json.loads((folder / "config.json").read_text())
        seeds = _seeds(recorded_settings(description))
    except FileNotFoundError:
        yield Remark("damaged", str(folder), "there is no config.json beside its results.json")
        return
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        yield Remark("damaged", str(folder), f"config.json cannot be read ({_line(error)})")
        return
    for seed in seeds:
        seed_folder = folder / f"seed{seed}" if len(seeds) > 1 else folder
        name = str(seed_folder)
        try:
            results = json.loads((seed_folder / "results.json").read_text())
        except FileNotFoundError:
            yield Remark("unfinished", name, "there is no results.json; the run's command goes on")
        except (OSError, ValueError) as error:
            yield Remark("damaged", name, f"results.json cannot be read ({_line(error)})")
        else:
            yield _make_run(name, description | {"results": results}, [seed])


def read_file(path: Path) -> Iterator[Run | Remark]:
    """Each run of a file of runs, or why it, or the file, cannot be used."""
    try:
        runs = [
            _make_run(f"{path}/{name}", record, _seeds(recorded_settings(record)))
            for name, record in grid_file.read(path).items()
        ]
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        yield Remark("damaged", str(path), f"the file cannot be read ({_line(error)})")
        return
    yield from runs


def _seeds(config: Mapping[str, Any]) -> range:
    return range(config["seed"], config["seed"] + config["seeds_at_once"])


def _make_run(path: str, record: grid_file.Record, seeds: Sequence[int]) -> Run | Remark:
    """The run of a record, which is of one of the seeds, or why it cannot be used."""
    try:
        config, results = recorded_settings(record), record["results"]
        if results["target"] == NO_TARGET:
            return Remark("untested", path, "it was trained on all languages, for enrolment")
        run = Run(
            path=path,
            row=row_of(config, record["feature_config"], results),
            target=results["target"],
            shots=results["shots"],
            seed=results["seed"],
            config=config,
            hashes=record["data_hashes"],
            features=record["feature_config"],
            versions=record["versions"],
            results=results,
        )
        contradictions = _contradictions(run, seeds)
    except KeyError as error:
        reason = f"there is no {error} in its JSON; it is of another version, run it again"
        return Remark("damaged", path, reason)
    except (ValueError, TypeError, AttributeError) as error:
        return Remark("damaged", path, f"results.json cannot be read ({_line(error)})")
    return Remark("damaged", path, contradictions) if contradictions else run


def _contradictions(run: Run, seeds: Sequence[int]) -> str:
    """What makes the results incredible; KeyError and such where they are incomplete."""
    seed = run.seed if run.seed in seeds else seeds[0]
    own = {"method": run.row.method, "target": run.target, "shots": run.shots, "seed": run.seed}
    for key, value in (run.config | {"seed": seed}).items():
        if key in own and own[key] != value:
            return f"results.json says {key} {own[key]} where config.json says {value}"
    classes = [*run.config["emotions"], *run.config["fixed"]]
    if run.results["classes"] != classes:
        return "results.json and config.json have other classes"
    _ = run.protocol, run.queries
    for key in ("chance", "knows_fixed_classes", "fixed_class_sources", "selection"):
        _ = run.results[key]
    for mode in BATCH_NORM_MODES:
        figures = run.results[mode]
        for name in FIGURES:
            values = figures["by_episode"][name]
            if len(values) != run.config["episodes"] or not all(map(math.isfinite, values)):
                return f"{mode} {name} has not one number for each of its episodes"
        square = (len(classes), len(classes))
        if list(figures["recall"]) != classes or np.shape(figures["confusion"]) != square:
            return f"{mode} recall and confusion are not of its classes"
        _ = figures["by_inner_step"]["accuracy"]
        for name in FIGURES:
            before = figures["before_adaptation"][name]
            if not (math.isfinite(before["mean"]) and math.isfinite(before["ci95"])):
                return f"{mode} {name} before adaptation is not a number"
    if curve := run.results["curve"]:
        for part in ("", "val_"):
            if len(curve.get(f"{part}step", ())) != len(curve.get(f"{part}loss", ())):
                return "curve has steps without a loss"
    if found := run.results["embedding"]:
        for part in ("support", "query"):
            if np.shape(found[part]) != (len(found[f"{part}_labels"]), 2):
                return f"embedding has not two coordinates and a label for each {part} clip"
    return ""


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


def _key(settings: Any) -> str:
    return json.dumps(settings, sort_keys=True)


def _without_duplicates(runs: Sequence[Run]) -> tuple[list[Run], list[Remark]]:
    kept: dict[Hashable, Run] = {}
    remarks = []
    for run in runs:
        settings = run.problem | run.material | run.protocol | run.queries | run.training
        first = kept.setdefault((run.cell, run.seed, _key(settings)), run)
        if first is not run:
            same = "the same" if first.results == run.results else "other"
            reason = f"the cell and seed of {first.path}, which is kept; it has {same} figures"
            remarks.append(Remark("duplicate", run.path, reason))
    return list(kept.values()), remarks


def _largest(
    runs: Sequence[Run],
    within: Callable[[Run], Hashable],
    by: Callable[[Run], dict[str, Any]],
) -> tuple[list[Run], list[Remark]]:
    """Of the runs that share `within`, the largest group equal in `by`; the others are named.

    Where two are as large, the one that is larger among all runs of its row counts.
    """
    overall = Counter((run.row, _key(by(run))) for run in runs)
    parts = defaultdict(lambda: defaultdict(list))
    for run in runs:
        parts[within(run)][_key(by(run))].append(run)
    kept, remarks = [], []
    for part in parts.values():

        def size(key: str, part: Mapping[str, list[Run]] = part) -> tuple[int, int]:
            return len(part[key]), sum(overall[row, key] for row in {r.row for r in part[key]})

        first, *others = sorted(part, key=size, reverse=True)
        example = part[first][0]
        kept += part[first]
        for key in others:
            settings, odd = by(example), by(part[key][0])
            names = settings | odd
            differing = ", ".join(n for n in names if settings.get(n) != odd.get(n))
            if size(key) == size(first):
                raise UserError(
                    f"{example.path} and {part[key][0].path} differ in {differing}, and neither "
                    "kind has more runs; report on one kind at a time"
                )
            reason = f"differs in {differing} from {example.path} and those like it"
            remarks += [Remark("mismatched", run.path, reason) for run in part[key]]
    return kept, remarks


def _missing(runs: Sequence[Run]) -> Iterator[Remark]:
    """Holes in methods x targets x shots, and seeds that other rows of a column have."""
    seeds = defaultdict(set)
    for run in runs:
        seeds[run.cell].add(run.seed)
    rows = sorted({run.row for run in runs}, key=lambda row: row.order)
    columns = sorted({(run.target, run.shots) for run in runs}, key=lambda column: column[::-1])
    wanted = {
        column: set().union(*(seeds[row, *column] for row in rows if (row, *column) in seeds))
        for column in columns
    }
    for row in rows:
        lacking = defaultdict(list)
        for target, shots in columns:
            has = seeds.get((row, target, shots), set())
            absent = ", ".join(map(str, sorted(wanted[target, shots] - has)))
            if absent:
                what = f"seed {absent} of {shots}-shot" if has else f"{shots}-shot"
                lacking[what].append(target)
        if lacking:
            parts = (f"{what} {', '.join(targets)}" for what, targets in lacking.items())
            yield Remark("missing", row.label, f"no run of {'; '.join(parts)}")


def _trained_otherwise(runs: Sequence[Run]) -> Iterator[Remark]:
    """Rows whose cells were trained with settings of their own."""
    for row, group in itertools.groupby(runs, key=lambda run: run.row):
        members = list(group)
        names = dict.fromkeys(name for run in members for name in run.training)
        for name in names:
            cells = defaultdict(list)
            for run in members:
                cells[_key(run.training.get(name))].append(f"{run.target} {run.shots}-shot")
            if len(cells) > 1:
                parts = (
                    f"{value} in {', '.join(dict.fromkeys(where))}"
                    for value, where in cells.items()
                )
                yield Remark("trained otherwise", row.label, f"{name} is {'; '.join(parts)}")
