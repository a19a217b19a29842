"""Run folders with the schema of finished runs, made of numbers instead of training."""

import json
from dataclasses import asdict

import numpy as np

from fmaml_jax.config import Config
from fmaml_jax.training.results import interval

UNADAPTED = ("protonet", "matching", "relation", "pooled", "functionals")
"""Methods that do not adapt in gradient steps."""

CLASSES = ("anger", "disgust", "fear", "happiness", "sadness", "neutral", "silence")


def mode_results(by_episode, rng, steps):
    """One batch-norm mode: what is given of each episode, half of it at first, the rest drawn."""
    confusion = rng.dirichlet(np.ones(7), size=7) / 2 + np.eye(7) / 2
    figures = {name: interval(np.asarray(values)) for name, values in by_episode.items()}
    return {
        **figures,
        "by_episode": {name: list(map(float, values)) for name, values in by_episode.items()},
        "recall": dict(zip(CLASSES, np.diag(confusion).tolist(), strict=True)),
        "before_adaptation": {
            name: interval(np.asarray(values) / 2) for name, values in by_episode.items()
        },
        "by_inner_step": {
            "loss": np.linspace(2, 1, steps).tolist(),
            "accuracy": np.linspace(1 / 7, np.mean(by_episode["accuracy"]), steps).tolist(),
        },
        "confusion": confusion.tolist(),
    }


def make_run(
    folder,
    accuracy=(0.5, 0.6, 0.7, 0.8),
    *,
    method="fmaml",
    support="emotions",
    network="cnn",
    leak_guard="none",
    target="it",
    shots=5,
    seed=0,
    query_hash=None,
    hashes=None,
    **config,
):
    """Writes config.json and results.json of a run whose episodes have these accuracies."""
    rng = np.random.default_rng(seed)
    accuracy = np.asarray(accuracy, float)
    settings = asdict(
        Config(
            **{
                **{"data": ("data/emovo.npz",), "run_dir": str(folder), "episodes": len(accuracy)},
                **{"method": method, "target": target, "shots": shots, "seed": seed},
            }
            | config
        )
    ) | {"network": network, "leak_guard": leak_guard}
    del settings["run_dir"]
    description = {
        "config": settings,
        "data_hashes": hashes or {"data/emovo.npz": "c0ffee"},
        "feature_config": {"coefficients": 40},
        "versions": {"python": "3.11.2", "jax": "0.10.2", "device": "cpu"},
    }
    by_episode = {"accuracy": accuracy, "emotion_accuracy": accuracy - 0.1, "uar": accuracy}
    inner = 1 if method in UNADAPTED else 6
    steps = np.arange(10, 210, 10)
    loss = (2 if support == "emotions" else 2.4) * np.exp(-steps / 150)
    labels = np.repeat(np.arange(7), 10)
    points = rng.normal(size=(70, 2)) + 4 * np.stack([np.cos(labels), np.sin(labels)], -1)
    results = {
        **{"method": method, "support": support, "leak_guard": leak_guard},
        "knows_fixed_classes": method != "supervised" or support == "all",
        **{"target": target, "shots": shots, "ways": 5, "fixed": 2, "seed": seed},
        **{"classes": list(CLASSES), "episodes": len(accuracy), "chance": 0.142857},
        **{"query_per_class": 25, "query_per_fixed_class": 25},
        "query_hash": query_hash or f"{target}{seed}{leak_guard}",
        "selection": {"meta_step": 100},
        "fixed_class_sources": {"neutral": ["emovo"], "silence": ["silence"]},
        "transductive": mode_results(by_episode, rng, inner),
        "inductive": mode_results({k: v - 0.02 for k, v in by_episode.items()}, rng, inner),
        "curve": {
            **{"step": steps.tolist(), "loss": loss.tolist(), "accuracy": (1 - loss / 3).tolist()},
            "val_step": steps[::4].tolist(),
            "val_loss": (loss[::4] + 0.3).tolist(),
            "val_accuracy": (0.8 - loss[::4] / 3).tolist(),
        },
        "embedding": {
            **{"support": points[::2][:25].tolist(), "support_labels": labels[::2][:25].tolist()},
            **{"query": points.tolist(), "query_labels": labels.tolist()},
        },
    }
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(description))
    (folder / "results.json").write_text(json.dumps(results))
    return folder
