"""One run from data to results: load, meta-train, test, write the run folder."""

import contextlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from fmaml_jax.common.errors import UserError
from fmaml_jax.config import NO_TARGET, Config
from fmaml_jax.data.episodes import TaskShape, validation_tasks
from fmaml_jax.data.scale import make_scale, scaled
from fmaml_jax.data.split import Clips, Pool, Split
from fmaml_jax.learners import Network, find_method
from fmaml_jax.model import input_frames, model_of, pool_time
from fmaml_jax.training import evaluate, plots
from fmaml_jax.training.checkpoints import drop_damaged
from fmaml_jax.training.devices import (
    any_process,
    first_process,
    make_layout,
    replicated,
    tasks_at_once,
    together,
    within_memory,
)
from fmaml_jax.training.held_out import Learned, test_results
from fmaml_jax.training.memory import with_chunk
from fmaml_jax.training.metrics_log import learning_curve
from fmaml_jax.training.problem import load_split, task_shapes
from fmaml_jax.training.results import table
from fmaml_jax.training.run_folder import describe, run_folder, seed_folders, write_json
from fmaml_jax.training.train import Selected, init_seeds, train

PRODUCTS = {"float32": "float32", "tf32": "tensorfloat32", "bf16": "float32"}
"""JAX's name for the precision of matrix products, by `--precision`."""


def run(config: Config) -> list[dict[str, Any]]:
    """Meta-trains and evaluates, or continues where an interrupted run of this config stopped.

    Returns:
        The content of each seed's `results.json`.

    Raises:
        UserError: method, data or run folder cannot be used.
        NonFiniteLossError, InterruptedRunError: see `train`.
    """
    method, _ = find_method(config)  # refuses before any work
    if config.target == NO_TARGET and not (isinstance(method, Network) and method.uses_sources):
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
                description = describe(
                    config, clips.hashes, clips.feature_config, jax.devices()[0].device_kind
                )
                held.enter_context(run_folder(folder, description))
                drop_damaged(folder / "checkpoints")
        if any_process(first_process() and all(file.exists() for file in files)):
            print(f"{folder} is finished; remove it to run it again")
            results = [json.loads(file.read_text()) for file in files]
        else:
            with jax.default_matmul_precision(PRODUCTS[config.precision]):
                results = _train_and_evaluate(config, clips, split, folder)
    for of_seed in results:
        print(table(of_seed))
    return results


def _train_and_evaluate(
    config: Config, clips: Clips, split: Split, folder: Path
) -> list[dict[str, Any]]:
    method, support = find_method(config)
    learned = _meta_learn(config, clips, split, folder) if isinstance(method, Network) else None
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
            "task_chunk": tasks_at_once(learned.layout, config.task_batch) if learned else None,
            "classes": list(config.classes),
            "chance": round(1 / len(config.classes), 6),
        }
        for i, seed in enumerate(config.seeds)
    ]
    if split.test:
        for of_seed, figures in zip(
            results, test_results(config, clips, split, learned), strict=True
        ):
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
    method, support = find_method(config)
    assert isinstance(method, Network)

    # ---- features, on the device
    pooled = pool_time(clips.features, input_frames(config.network))
    scale = make_scale(config.scaling, pooled, split, len(config.emotions))
    layout = make_layout(config.task_batch, config.task_chunk)
    features = jax.device_put(scaled(pooled, scale), replicated(layout.mesh))

    # ---- meta-training
    training_shape, test_shape = task_shapes(config)
    model = model_of(config, features.shape[2])._replace(axes=scale.axes)
    learner = method.make(replace(config, support=support), model)
    params = init_seeds(learner, config.seeds)
    layout = with_chunk(layout, learner, params, features, training_shape, test_shape)
    programs = evaluate.make_programs(learner, layout)
    if learner.loss:
        val_pools, val_shape = validation_tasks(split.val, training_shape, split.groups)
        selecting = (
            f"selecting on held-out speakers of {', '.join(val_pools)}: {val_shape.shots} shots, "
            f"{val_shape.query[0]} queries a class"
            if val_pools
            else "on all of their speakers; the last state is taken"
        )
        print(f"Training on {', '.join(split.train)}; {selecting}", flush=True)
        with within_memory(layout, config.task_batch):
            selected = train(
                config,
                learner,
                layout,
                programs,
                params,
                features,
                scale,
                split,
                training_shape,
                folder,
            )
        params = selected.params
        selections = _selections(selected, val_pools, val_shape)
    else:
        print(f"{config.method} learns from the target's support alone", flush=True)
        params = jax.device_put(params, replicated(layout.mesh))
        selections = [None for _ in config.seeds]
    return Learned(layout, programs, params, features, selections)


def _selections(
    selected: Selected, val_pools: Mapping[str, Pool], val_shape: TaskShape
) -> list[dict[str, Any]]:
    """How each seed's state was selected, as `results.json` has it."""
    steps, accuracies = np.asarray(selected.step), np.asarray(selected.val_accuracy)
    return [
        {
            "meta_step": int(step),
            "val_accuracy": round(float(val_accuracy), 6),
            "languages": sorted(val_pools),
            "shots": val_shape.shots,
            "query_per_class": val_shape.query[0],
        }
        if val_pools
        else {"meta_step": int(step)}
        for step, val_accuracy in zip(steps, accuracies, strict=True)
    ]
