"""The test of a run: what meta-training left, on episodes of the language held out from it."""

import hashlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jax import Array
from jaxtyping import Float

from fmaml_jax.common.console import progress
from fmaml_jax.config import BATCH_NORM_MODES, Config
from fmaml_jax.data.episodes import Episodes, TaskShape, sample
from fmaml_jax.data.sexes import sex_of
from fmaml_jax.data.split import Clips, Split
from fmaml_jax.learners import Classifier, find_method, functionals
from fmaml_jax.maml import Params
from fmaml_jax.training import evaluate, results
from fmaml_jax.training.devices import Layout, host_share, within_memory
from fmaml_jax.training.evaluate import Predictions
from fmaml_jax.training.problem import task_shapes
from fmaml_jax.training.train import ADVICE, NonFiniteLossError


class Learned(NamedTuple):
    """What meta-training left, and what it takes to test it.

    Attributes:
        layout, programs: see `train.train`.
        params: of each seed, stacked.
        features: of all clips, scaled, on the device.
        selections: how each seed's state was selected; None where there was nothing to train.
    """

    layout: Layout
    programs: evaluate.Programs
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
    if learned:
        by_mode, of_support = _test_learner(config, split, learned, shape, tested)
    else:
        by_mode, of_support = _test_classifier(config, clips, split, tested)
    sexes = np.array([sex_of(*who) for who in zip(clips.corpora, clips.speakers, strict=True)])
    return [
        {
            "episodes": config.episodes,
            "query_per_class": config.test_query_per_class,
            "query_per_fixed_class": config.test_query_per_fixed_class,
            "fixed_class_sources": _fixed_class_sources(config, clips, split),
            "query_hash": _query_hash(clips, tested[i]),
            **{
                mode: results.summarise(
                    found[i], config.classes, len(config.emotions), sexes[tested[i].query]
                )
                for mode, found in by_mode.items()
            },
            "embedding": _embedding(
                np.concatenate([of_support[i], by_mode["inductive"][i].logits[0, -1]]), tested[i]
            ),
        }
        for i in range(len(config.seeds))
    ]


def _test_learner(
    config: Config,
    split: Split,
    learned: Learned,
    shape: TaskShape,
    tested: Sequence[Episodes],
) -> tuple[dict[str, list[Predictions]], Float[np.ndarray, "seeds shots classes"]]:
    """Predictions of each batch-norm mode and seed; each seed's inductive outputs for the support
    of its first episode.
    """
    count = evaluate.episodes_a_call(learned.layout, config.episodes)
    with (
        within_memory(learned.layout, count),
        progress("evaluation", config.episodes, " episodes") as bar,
    ):
        by_mode = evaluate.predict_episodes(
            learned.programs,
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
    return by_mode, _support_logits(config, learned, tested)


def _support_logits(
    config: Config, learned: Learned, tested: Sequence[Episodes]
) -> Float[np.ndarray, "seeds shots classes"]:
    """The support stands in the place of queries, in as many episodes as the test has in a call, so
    that the test's programs serve: an inductive prediction does not depend on its neighbours.
    """
    count = evaluate.episodes_a_call(learned.layout, config.episodes)
    first = Episodes(*(np.stack(arrays)[:, 0] for arrays in zip(*tested, strict=True)))
    seeds, shots = first.support.shape
    queries = first.query.shape[1]
    found = []
    for start in range(0, shots, count * queries):
        clips = np.arange(start, start + count * queries).reshape(count, queries) % shots
        batch = Episodes(
            np.broadcast_to(first.support, (count, seeds, shots)),
            np.broadcast_to(first.support_labels, (count, seeds, shots)),
            first.support[:, clips].swapaxes(0, 1),
            first.support_labels[:, clips].swapaxes(0, 1),
        )
        share = host_share(range(count))
        batch = Episodes(*(array[share.start : share.stop] for array in batch))
        logits, _ = evaluate.predict(
            learned.programs,
            learned.layout,
            learned.params,
            learned.features,
            batch,
            ("inductive",),
            last=True,
        )
        found.append(logits[:, :, 0, 0].swapaxes(0, 1).reshape(seeds, count * queries, -1))
    return np.concatenate(found, axis=1)[:, :shots]


def _test_classifier(
    config: Config,
    clips: Clips,
    split: Split,
    tested: Sequence[Episodes],
) -> tuple[dict[str, list[Predictions]], list[Float[np.ndarray, "shots classes"]]]:
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
    first = (Episodes(*(array[0] for array in episodes)) for episodes in tested)
    of_support = [
        classified(each._replace(query=each.support, query_labels=each.support_labels))[-1]
        for each in first
    ]
    return dict.fromkeys(BATCH_NORM_MODES, predictions), of_support


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


def _embedding(logits: Float[np.ndarray, "clips classes"], episodes: Episodes) -> dict[str, list]:
    """Where support and query of the first episode lie on the two principal axes of the outputs."""
    points = results.embed(logits)
    shots = episodes.support.shape[1]
    return {
        "support": points[:shots],
        "support_labels": episodes.support_labels[0].tolist(),
        "query": points[shots:],
        "query_labels": episodes.query_labels[0].tolist(),
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
