"""The test of a run: what meta-training left, on episodes of the language held out from it."""

import hashlib
from collections.abc import Callable, Sequence
from functools import partial
from operator import itemgetter
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array
from jaxtyping import Float

from fmaml_jax.common.console import progress
from fmaml_jax.config import BATCH_NORM_MODES, Config
from fmaml_jax.data.episodes import Episodes, TaskShape, sample
from fmaml_jax.data.split import Clips, Split
from fmaml_jax.learners import Classifier, find_method, functionals
from fmaml_jax.learners.interface import Learner
from fmaml_jax.maml import AnyArray, Params
from fmaml_jax.training import evaluate, results
from fmaml_jax.training.devices import Layout
from fmaml_jax.training.evaluate import Predictions
from fmaml_jax.training.problem import task_shapes
from fmaml_jax.training.train import ADVICE, NonFiniteLossError


class Learned(NamedTuple):
    """What meta-training left, and what it takes to test it.

    Attributes:
        learner, layout, predict_batch: see `train.train`.
        params: of each seed, stacked.
        features: of all clips, scaled, on the device.
        selections: how each seed's state was selected; None where there was nothing to train.
    """

    learner: Learner
    layout: Layout
    predict_batch: Callable[..., tuple[Array, Array]]
    params: Params
    features: Float[Array, "clips time coeffs"]
    selections: Sequence[dict[str, Any] | None]


def test_results(
    config: Config, clips: Clips, split: Split, learned: Learned | None
) -> list[dict[str, Any]]:
    """What `results.json` says of each seed's test.

    Args:
        config: the run's settings.
        clips: all clips.
        split: where the test draws them.
        learned: what meta-training left; None of a method without a network.

    Raises:
        NonFiniteLossError: predictions are not finite.
    """
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
                mode: results.summarise(found[i], config.classes, len(config.emotions))
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
    assert isinstance(method, Classifier)
    classified = evaluate.make_classify(
        method.make(config),
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


def _embedding(logits: Float[AnyArray, "clips classes"], episode: Episodes) -> dict[str, list]:
    """Where support and query lie on the two principal axes of the outputs."""
    points = results.embed(np.asarray(logits))
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
