"""One run from data to results: load, split, check, meta-train, evaluate, write the run folder."""

import contextlib
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np

from data_prep.console import UserError, progress
from fmaml_jax import evaluate, plots
from fmaml_jax.config import BATCH_NORM_MODES, Config
from fmaml_jax.data import Clips, Split, load_clips, require_clips, split_clips, training_scale
from fmaml_jax.devices import any_process, first_process, make_layout, replicated, together
from fmaml_jax.episodes import TaskShape, validation_tasks
from fmaml_jax.evaluate import Predictions
from fmaml_jax.learners import find_method, functionals
from fmaml_jax.model import INPUT_FRAMES, make_model, pool_time
from fmaml_jax.run_folder import describe, run_folder, seed_folders, write_json
from fmaml_jax.train import ADVICE, NonFiniteLossError, init_seeds, train


def task_shapes(config: Config) -> tuple[TaskShape, TaskShape]:
    """The clips of a training task and of a test episode."""
    ways, fixed = len(config.emotions), len(config.fixed)
    method, support = find_method(config)
    training = TaskShape(
        ways,
        config.shots,
        query=(config.query_per_class,) * (ways + fixed),
        fixed_shots=config.shots if support == "all" else 0,
        shuffled=method.shuffles * (ways + fixed if support == "all" else ways),
    )
    test = training._replace(
        query=(config.test_query_per_class,) * ways + (config.test_query_per_fixed_class,) * fixed
    )
    return training, test


def load_split(config: Config) -> tuple[Clips, Split]:
    """Loads the data of a run and checks that every task it asks for can be drawn.

    Raises:
        UserError: see `load_clips`, `split_clips` and `require_clips`.
    """
    clips = load_clips(config.data)
    split = split_clips(
        clips,
        target=config.target,
        emotions=config.emotions,
        fixed=config.fixed,
        val_fraction=config.val_fraction,
    )
    training, test = task_shapes(config)
    require_clips(split.test, config.classes, test.clips, "--shots or the --test_query flags")
    require_clips(split.train, config.classes, training.clips, "--shots or --query_per_class")
    if not validation_tasks(split.val, training)[0]:
        raise UserError(
            "no source language has two held-out clips of every class with support and one of "
            "every other class to select on; raise --val_fraction or add speakers"
        )
    return clips, split


def run(config: Config) -> list[dict[str, Any]]:
    """Meta-trains and evaluates, or continues where an interrupted run of this config stopped.

    Returns:
        The content of each seed's `results.json`.

    Raises:
        UserError: method, data or run folder cannot be used.
        NonFiniteLossError, InterruptedRunError: see `train`.
    """
    find_method(config)  # refuses before any work
    folder = Path(config.run_dir)
    files = [seed_folder / "results.json" for seed_folder in seed_folders(folder, config)]
    with contextlib.ExitStack() as held:
        with together():
            clips, split = load_split(config)
            if first_process():
                description = describe(config, clips.hashes, clips.feature_config)
                held.enter_context(run_folder(folder, description))
        if any_process(first_process() and all(file.exists() for file in files)):
            print(f"{folder} is finished; remove it to run it again")
            results = [json.loads(file.read_text()) for file in files]
        else:
            results = _train_and_evaluate(config, clips, split, folder)
    for of_seed in results:
        print(table(of_seed))
    return results


def _train_and_evaluate(
    config: Config, clips: Clips, split: Split, folder: Path
) -> list[dict[str, Any]]:
    method, support = find_method(config)
    _, test_shape = task_shapes(config)
    if method.network:
        by_mode, selections = _meta_learn(config, clips, split, folder)
    else:
        with progress("evaluation", config.episodes * len(config.seeds), " episodes") as bar:
            predictions = evaluate.classify_episodes(
                method.make,
                functionals.time_statistics(clips.features),
                split.train,
                split.test,
                test_shape,
                seeds=config.seeds,
                episodes=config.episodes,
                report=bar.update,
            )
        by_mode = dict.fromkeys(BATCH_NORM_MODES, predictions)
        selections = [None for _ in config.seeds]

    # ---- results of each seed
    results = []
    for i, seed in enumerate(config.seeds):
        results.append(
            {
                "method": config.method,
                "network": config.network if method.network else None,
                "support": support,
                "knows_fixed_classes": support == "all" or method.uses_sources,
                "target": config.target,
                "shots": config.shots,
                "ways": len(config.emotions),
                "fixed": len(config.fixed),
                "seed": seed,
                "episodes": config.episodes,
                "query_per_class": config.test_query_per_class,
                "query_per_fixed_class": config.test_query_per_fixed_class,
                "selection": selections[i],
                "chance": round(1 / len(config.classes), 6),
                "fixed_class_sources": _fixed_class_sources(config, clips, split),
                **{
                    mode: evaluate.summarise(found[i], config.classes, len(config.emotions))
                    for mode, found in by_mode.items()
                },
            }
        )
    if first_process():
        for seed_folder, of_seed in zip(seed_folders(folder, config), results, strict=True):
            seed_folder.mkdir(exist_ok=True)
            if (seed_folder / "metrics.jsonl").exists():
                lines = (seed_folder / "metrics.jsonl").read_text().splitlines()
                plots.convergence(
                    seed_folder / "convergence.png", [json.loads(line) for line in lines], of_seed
                )
            plots.confusion(seed_folder / "confusion.png", config.classes, of_seed)
            # The last, since it marks the run as finished.
            write_json(seed_folder / "results.json", of_seed)
    print(f"Results and pictures are in {folder}/")
    return results


def _meta_learn(
    config: Config, clips: Clips, split: Split, folder: Path
) -> tuple[dict[str, list[Predictions]], list[dict[str, Any] | None]]:
    """Predictions of each batch-norm mode and seed, and how each seed's state was selected."""
    # ---- features, on the device
    clips = clips._replace(features=pool_time(clips.features, INPUT_FRAMES))
    scale = training_scale(clips.features, split)
    layout = make_layout(config.task_batch, config.task_chunk)
    features = jax.device_put(
        (clips.features - scale.mean) / scale.deviation, replicated(layout.mesh)
    )

    # ---- meta-training
    method, _ = find_method(config)
    training_shape, test_shape = task_shapes(config)
    learner = method.make(
        config,
        make_model(len(config.classes), features.shape[2], config.filters, config.network),
    )
    predict = evaluate.make_predict(learner, layout)
    if learner.loss:
        val_pools, val_shape = validation_tasks(split.val, training_shape)
        print(
            f"Training on {', '.join(split.train)}; selecting on held-out speakers of "
            f"{', '.join(val_pools)}: {val_shape.shots} shots, {val_shape.query[0]} queries a "
            "class",
            flush=True,
        )
        selected = train(
            config, learner, layout, predict, features, scale, split, training_shape, folder
        )
        params = selected.params
        selections = [
            {
                "meta_step": int(step),
                "val_accuracy": round(float(val_accuracy), 6),
                "languages": sorted(val_pools),
                "shots": val_shape.shots,
                "query_per_class": val_shape.query[0],
            }
            for step, val_accuracy in zip(selected.step, selected.val_accuracy, strict=True)
        ]
    else:
        print(f"{config.method} learns from the target's support alone", flush=True)
        params = jax.device_put(init_seeds(learner, config.seeds), replicated(layout.mesh))
        selections = [None for _ in config.seeds]

    # ---- evaluation on the target language
    by_mode = {}
    with progress("evaluation", len(BATCH_NORM_MODES) * config.episodes, " episodes") as bar:
        for mode in BATCH_NORM_MODES:
            by_mode[mode] = evaluate.predict_episodes(
                predict,
                layout,
                params,
                features,
                split.test,
                test_shape,
                seeds=config.seeds,
                split="test",
                episodes=config.episodes,
                batch_norm=mode,
                report=bar.update,
            )
            if not all(np.isfinite(found.logits).all() for found in by_mode[mode]):
                raise NonFiniteLossError(f"{mode} predictions are not finite; {ADVICE}")
    return by_mode, selections


def _fixed_class_sources(config: Config, clips: Clips, split: Split) -> dict[str, list[str]]:
    """Corpora that the fixed classes of the test come from; another channel is easy to tell."""
    pool = split.test[config.target]
    return {
        label: np.unique(clips.corpora[pool[config.classes.index(label)]]).tolist()
        for label in config.fixed
    }


def table(results: dict[str, Any]) -> str:
    """The run's row of the paper's tables, with intervals, beside no adaptation and chance."""

    def percent(figures: dict[str, float]) -> str:
        return f"{100 * figures['mean']:.1f} ± {100 * figures['ci95']:.1f}"

    columns = ("accuracy", "emotion_accuracy", "uar")
    run_name = (
        f"{results['method']}, {results['target']}, {results['shots']}-shot, seed {results['seed']}"
    )
    rows = [("", f"all {results['ways'] + results['fixed']} classes", "emotions alone", "UAR")]
    for mode in BATCH_NORM_MODES:
        shown = [(run_name, results[mode])]
        if len(results[mode]["by_inner_step"]["accuracy"]) > 1:
            shown.append(("  without adaptation", results[mode]["before_adaptation"]))
        for name, figures in shown:
            rows.append((f"{name}, {mode}", *(percent(figures[column]) for column in columns)))
    chance = f"{100 * results['chance']:.1f}"
    rows.append(("chance", chance, f"{100 / results['ways']:.1f}", chance))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    if not results["knows_fixed_classes"]:
        lines.append("the method cannot know the fixed classes: they are in no support it has")
    lines.append(f"accuracy in %; ± is the 95% interval over {results['episodes']} episodes")
    return "\n".join(lines)
