"""One run from data to results: load, split, check, meta-train, evaluate, write the run folder."""

import contextlib
import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import Array
from jaxtyping import Float

from data_prep.console import UserError, progress
from fmaml_jax import evaluate, plots
from fmaml_jax.config import BATCH_NORM_MODES, Config
from fmaml_jax.data import (
    Clips,
    Split,
    load_clips,
    require_clips,
    scaled,
    split_clips,
    standard_scale,
    whitening_scale,
)
from fmaml_jax.devices import any_process, first_process, make_layout, replicated, together
from fmaml_jax.episodes import Episodes, TaskShape, require_division, sample, validation_tasks
from fmaml_jax.evaluate import Predictions
from fmaml_jax.learners import find_method, functionals
from fmaml_jax.model import input_frames, make_model, pool_time
from fmaml_jax.run_folder import describe, run_folder, seed_folders, write_json
from fmaml_jax.train import ADVICE, NonFiniteLossError, init_seeds, learning_curve, train


def task_shapes(config: Config) -> tuple[TaskShape, TaskShape]:
    """The clips of a training task and of a test episode."""
    ways, fixed = len(config.emotions), len(config.fixed)
    method, support = find_method(config)
    shuffles = method.shuffles and config.positions == "shuffled"
    training = TaskShape(
        ways,
        config.shots,
        query=(config.query_per_class,) * ways
        + (config.query_per_fixed_class or config.query_per_class,) * fixed,
        fixed_shots=config.shots if support == "all" else 0,
        shuffled=shuffles * (ways + fixed if support == "all" else ways),
    )
    test = training._replace(
        query=(config.test_query_per_class,) * ways + (config.test_query_per_fixed_class,) * fixed
    )
    return training, test


def load_split(config: Config) -> tuple[Clips, Split]:
    """Loads the data of a run and checks that every task it asks for can be drawn.

    Raises:
        UserError: see `load_clips`, `split_clips`, `require_clips` and `require_division`.
    """
    method, _ = find_method(config)
    clips = load_clips(config.data)
    split = split_clips(
        clips,
        target=config.target,
        emotions=config.emotions,
        fixed=config.fixed,
        val_fraction=config.val_fraction,
        leak_guard=config.leak_guard,
        task_domain=config.task_domain,
    )
    training, test = task_shapes(config)
    if method.network and (clips.features.shape[1] > 1) != (input_frames(config.network) > 1):
        raise UserError(
            f"--network={config.network} cannot read features of {clips.features.shape[1]} frames "
            "a clip: fourier is for one, which `data_prep.prepare --features=descriptors` makes, "
            "the other networks for more"
        )
    if split.groups is None:
        require_clips(split.test, config.classes, test.clips, "--shots or the --test_query flags")
    else:
        require_division(split.test, config.classes, test, split.groups, config.leak_guard)
    if not method.uses_sources:
        return clips, split
    flags = "--shots or --query_per_class"
    if split.groups is not None:
        flags += (
            f" (--leak_guard={config.leak_guard} left out each {config.leak_guard} of the target)"
        )
    require_clips(split.train, config.classes, training.clips, flags)
    if split.val and not validation_tasks(split.val, training, split.groups)[0]:
        apart = "" if split.groups is None else f", without a common {config.leak_guard},"
        raise UserError(
            f"no source language has two held-out clips of every class with support{apart} and one "
            "of every other class to select on; raise --val_fraction or add speakers"
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
    tested = [_test_episodes(split, test_shape, seed, config.episodes) for seed in config.seeds]
    pictured = [_with_support_as_query(episodes) for episodes in tested]
    if method.network:
        by_mode, outputs, selections = _meta_learn(config, clips, split, folder, pictured)
    else:
        classified = evaluate.make_classify(
            method.make,
            functionals.time_statistics(clips.features),
            split.train,
            len(config.emotions),
        )
        with progress("evaluation", config.episodes * len(config.seeds), " episodes") as bar:
            predictions = [
                evaluate.classify_episodes(classified, episodes, bar.update) for episodes in tested
            ]
        by_mode = dict.fromkeys(BATCH_NORM_MODES, predictions)
        outputs = [classified(episode) for episode in pictured]
        selections = [None for _ in config.seeds]

    # ---- results of each seed
    results = []
    for i, seed in enumerate(config.seeds):
        results.append(
            {
                "method": config.method,
                "support": support,
                "knows_fixed_classes": support == "all" or method.uses_sources,
                "target": config.target,
                "leak_guard": config.leak_guard,
                "shots": config.shots,
                "ways": len(config.emotions),
                "fixed": len(config.fixed),
                "seed": seed,
                "episodes": config.episodes,
                "query_per_class": config.test_query_per_class,
                "query_per_fixed_class": config.test_query_per_fixed_class,
                "selection": selections[i],
                "classes": list(config.classes),
                "chance": round(1 / len(config.classes), 6),
                "fixed_class_sources": _fixed_class_sources(config, clips, split),
                "query_hash": _query_hash(clips, tested[i]),
                **{
                    mode: evaluate.summarise(found[i], config.classes, len(config.emotions))
                    for mode, found in by_mode.items()
                },
                "embedding": _embedding(outputs[i][-1], pictured[i]),
            }
        )
    if first_process():
        for seed_folder, of_seed in zip(seed_folders(folder, config), results, strict=True):
            seed_folder.mkdir(exist_ok=True)
            of_seed["curve"] = learning_curve(seed_folder)
            if of_seed["curve"]:
                plots.convergence(seed_folder / "convergence.png", of_seed)
            plots.confusion(seed_folder / "confusion.png", config.classes, of_seed)
            # The last, since it marks the run as finished.
            write_json(seed_folder / "results.json", of_seed)
    print(f"Results and pictures are in {folder}/")
    return results


def _meta_learn(
    config: Config, clips: Clips, split: Split, folder: Path, pictured: Sequence[Episodes]
) -> tuple[dict[str, list[Predictions]], list[Array], list[dict[str, Any] | None]]:
    """Predictions of each batch-norm mode and seed; each seed's inductive outputs for its episode
    of `pictured`; how each seed's state was selected.
    """
    # ---- features, on the device
    pooled = pool_time(clips.features, input_frames(config.network))
    if config.scaling == "whiten":
        scale = whitening_scale(pooled, split, len(config.emotions))
    else:
        scale = standard_scale(pooled, split)
    layout = make_layout(config.task_batch, config.task_chunk)
    features = jax.device_put(scaled(pooled, scale), replicated(layout.mesh))

    # ---- meta-training
    method, support = find_method(config)
    training_shape, test_shape = task_shapes(config)
    learner = method.make(
        replace(config, support=support),
        make_model(len(config.classes), features.shape[2], config.filters, config.network),
    )
    predict_batch = evaluate.make_predict(learner, layout)
    if learner.loss:
        val_pools, val_shape = validation_tasks(split.val, training_shape, split.groups)
        selecting = (
            f"selecting on held-out speakers of {', '.join(val_pools)}: {val_shape.shots} shots, "
            f"{val_shape.query[0]} queries a class"
            if val_pools
            else "on all of their speakers; the last state is taken"
        )
        print(f"Training on {', '.join(split.train)}; {selecting}", flush=True)
        selected = train(
            config, learner, layout, predict_batch, features, scale, split, training_shape, folder
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
            if val_pools
            else {"meta_step": int(step)}
            for step, val_accuracy in zip(selected.step, selected.val_accuracy, strict=True)
        ]
    else:
        print(f"{config.method} learns from the target's support alone", flush=True)
        params = jax.device_put(init_seeds(learner, config.seeds), replicated(layout.mesh))
        selections = [None for _ in config.seeds]

    # ---- evaluation on the target language
    with progress("evaluation", config.episodes, " episodes") as bar:
        by_mode = evaluate.predict_episodes(
            predict_batch,
            layout,
            params,
            features,
            split.test,
            test_shape,
            seeds=config.seeds,
            split="test",
            episodes=config.episodes,
            modes=BATCH_NORM_MODES,
            groups=split.groups,
            report=bar.update,
        )
    for mode, of_seeds in by_mode.items():
        if not all(np.isfinite(found.logits).all() for found in of_seeds):
            raise NonFiniteLossError(f"{mode} predictions are not finite; {ADVICE}")
    outputs = [
        jax.jit(partial(evaluate.predict, learner, modes=("inductive",)))(
            jax.tree.map(itemgetter(i), params), evaluate.gather(features, episode)
        )[0]
        for i, episode in enumerate(pictured)
    ]
    return by_mode, outputs, selections


def _test_episodes(split: Split, shape: TaskShape, seed: int, episodes: int) -> Episodes:
    return sample(
        split.test,
        shape,
        seed=seed,
        split="test",
        step=0,
        tasks=range(episodes),
        groups=split.groups,
    )


def _with_support_as_query(episodes: Episodes) -> Episodes:
    """The first of the episodes, its support in front of the query."""
    support, support_labels, query, query_labels = (array[0] for array in episodes)
    return Episodes(
        support,
        support_labels,
        np.concatenate([support, query]),
        np.concatenate([support_labels, query_labels]),
    )


def _embedding(logits: Float[Array, "clips classes"], episode: Episodes) -> dict[str, list]:
    """Where support and query lie on the two principal axes of the outputs."""
    points = evaluate.embed(np.asarray(logits))
    shots = len(episode.support)
    return {
        "support": points[:shots],
        "support_labels": episode.support_labels.tolist(),
        "query": points[shots:],
        "query_labels": episode.query_labels[shots:].tolist(),
    }


def _query_hash(clips: Clips, episodes: Episodes) -> str:
    """Of the clips in the test's queries: equal where results can be compared pair by pair."""
    names = (f"{clips.corpora[clip]}/{clips.names[clip]}" for clip in episodes.query.ravel())
    return hashlib.sha256("\n".join(names).encode()).hexdigest()[:16]


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
