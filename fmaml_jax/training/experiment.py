"""One run from data to results: load, split, check, meta-train, evaluate, write the run folder."""

import contextlib
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array
from jaxtyping import Float

from fmaml_jax.common.console import progress
from fmaml_jax.common.errors import UserError
from fmaml_jax.common.text import text_table
from fmaml_jax.config import BATCH_NORM_MODES, NO_TARGET, Config
from fmaml_jax.data.episodes import Episodes, TaskShape, require_division, sample, validation_tasks
from fmaml_jax.data.split import (
    Clips,
    Split,
    load_clips,
    require_clips,
    scaled,
    split_clips,
    standard_scale,
    whitening_scale,
)
from fmaml_jax.learners import find_method, functionals
from fmaml_jax.learners.interface import Learner
from fmaml_jax.maml import Params
from fmaml_jax.model import input_frames, make_model, pool_time
from fmaml_jax.training import evaluate, plots
from fmaml_jax.training.devices import (
    Layout,
    any_process,
    first_process,
    make_layout,
    replicated,
    together,
)
from fmaml_jax.training.evaluate import Predictions
from fmaml_jax.training.run_folder import describe, run_folder, seed_folders, write_json
from fmaml_jax.training.train import ADVICE, NonFiniteLossError, init_seeds, learning_curve, train


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
        target=None if config.target == NO_TARGET else config.target,
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
    method, _ = find_method(config)  # refuses before any work
    if config.target == NO_TARGET and not (method.network and method.uses_sources):
        raise UserError(
            f"--method={config.method} trains no network on the sources, so that --target="
            f"{NO_TARGET} would leave nothing; choose another method, or a target"
        )
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


class Learned(NamedTuple):
    """What meta-training left, and what it takes to test it.

    Attributes:
        learner, layout, predict_batch: see `train`.
        params: of each seed, stacked.
        features: of all clips, scaled, on the device.
        selections: how each seed's state was selected; None where there was nothing to train.
    """

    learner: Learner
    layout: Layout
    predict_batch: Callable[..., tuple[Array, Array]]
    params: Params
    features: Float[Array, "clips time coeffs"]
    selections: list[dict[str, Any] | None]


def _train_and_evaluate(
    config: Config, clips: Clips, split: Split, folder: Path
) -> list[dict[str, Any]]:
    method, support = find_method(config)
    learned = _meta_learn(config, clips, split, folder) if method.network else None
    results = [
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
            "selection": learned.selections[i] if learned else None,
            "classes": list(config.classes),
            "chance": round(1 / len(config.classes), 6),
        }
        for i, seed in enumerate(config.seeds)
    ]
    if split.test:
        for of_seed, figures in zip(results, _test(config, clips, split, learned), strict=True):
            of_seed |= figures
    if first_process():
        for seed_folder, of_seed in zip(seed_folders(folder, config), results, strict=True):
            seed_folder.mkdir(exist_ok=True)
            of_seed["curve"] = learning_curve(seed_folder)
            if of_seed["curve"]:
                plots.convergence(seed_folder / "convergence.png", of_seed)
            if split.test:
                plots.confusion(seed_folder / "confusion.png", config.classes, of_seed)
            # The last, since it marks the run as finished.
            write_json(seed_folder / "results.json", of_seed)
    print(f"Results and pictures are in {folder}/")
    return results


def _meta_learn(config: Config, clips: Clips, split: Split, folder: Path) -> Learned:
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
    training_shape, _ = task_shapes(config)
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
    return Learned(learner, layout, predict_batch, params, features, selections)


def _test(
    config: Config, clips: Clips, split: Split, learned: Learned | None
) -> list[dict[str, Any]]:
    """What `results.json` says of each seed's test; `learned` is None without a network."""
    _, shape = task_shapes(config)
    tested = [_test_episodes(split, shape, seed, config.episodes) for seed in config.seeds]
    pictured = [_with_support_as_query(episodes) for episodes in tested]
    if learned:
        by_mode, outputs = _test_learner(config, split, learned, shape, pictured)
    else:
        by_mode, outputs = _test_classifier(config, clips, split, tested, pictured)
    return [
        {
            "episodes": config.episodes,
            "query_per_class": config.test_query_per_class,
            "query_per_fixed_class": config.test_query_per_fixed_class,
            "fixed_class_sources": _fixed_class_sources(config, clips, split),
            "query_hash": _query_hash(clips, tested[i]),
            **{
                mode: evaluate.summarise(found[i], config.classes, len(config.emotions))
                for mode, found in by_mode.items()
            },
            "embedding": _embedding(outputs[i][-1], pictured[i]),
        }
        for i in range(len(config.seeds))
    ]


def _test_learner(
    config: Config,
    split: Split,
    learned: Learned,
    shape: TaskShape,
    pictured: Sequence[Episodes],
) -> tuple[dict[str, list[Predictions]], list[Array]]:
    """Predictions of each batch-norm mode and seed; each seed's inductive outputs for its episode
    of `pictured`.
    """
    with progress("evaluation", config.episodes, " episodes") as bar:
        by_mode = evaluate.predict_episodes(
            learned.predict_batch,
            learned.layout,
            learned.params,
            learned.features,
            split.test,
            shape,
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
    predict = jax.jit(partial(evaluate.predict, learned.learner, modes=("inductive",)))
    outputs = [
        predict(
            jax.tree.map(itemgetter(i), learned.params),
            evaluate.gather(learned.features, episode),
        )[0]
        for i, episode in enumerate(pictured)
    ]
    return by_mode, outputs


def _test_classifier(
    config: Config,
    clips: Clips,
    split: Split,
    tested: Sequence[Episodes],
    pictured: Sequence[Episodes],
) -> tuple[dict[str, list[Predictions]], list[Float[np.ndarray, "steps clips classes"]]]:
    """The same of a method without a network, which has no batch norm."""
    method, _ = find_method(config)
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
    return dict.fromkeys(BATCH_NORM_MODES, predictions), [classified(each) for each in pictured]


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
    if results["target"] == NO_TARGET:
        return f"{run_name}: trained on all languages, tested on none"
    rows = [("", f"all {results['ways'] + results['fixed']} classes", "emotions alone", "UAR")]
    for mode in BATCH_NORM_MODES:
        shown = [(run_name, results[mode])]
        if len(results[mode]["by_inner_step"]["accuracy"]) > 1:
            shown.append(("  without adaptation", results[mode]["before_adaptation"]))
        for name, figures in shown:
            rows.append((f"{name}, {mode}", *(percent(figures[column]) for column in columns)))
    chance = f"{100 * results['chance']:.1f}"
    rows.append(("chance", chance, f"{100 / results['ways']:.1f}", chance))
    lines = [text_table(rows)]
    if not results["knows_fixed_classes"]:
        lines.append("the method cannot know the fixed classes: they are in no support it has")
    lines.append(f"accuracy in %; ± is the 95% interval over {results['episodes']} episodes")
    return "\n".join(lines)
