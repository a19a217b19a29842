"""The study of what a start gives on a corpus that it never heard."""

from dataclasses import replace

import numpy as np
import pytest

from experiments.studies import robustness
from fmaml_jax.audio.decoding import read_clip
from fmaml_jax.audio.features import extract
from fmaml_jax.audio.views import VIEWS
from fmaml_jax.data.episodes import TaskShape, sample


@pytest.fixture(scope="module")
def problem(trained, start):
    sources = tuple(path for path in start.config.data if not path.endswith("es.npz"))
    corpus = next(path for path in start.config.data if path.endswith("es.npz"))
    unheard = start._replace(config=replace(start.config, data=sources))
    return unheard, robustness.make_problem(unheard, corpus, "none", 4)


def test_clips_are_of_the_corpus_and_the_regression_hears_others(problem):
    _, found = problem
    assert set(found.sources) == {"en/en", "it/it"}
    assert [len(own) for own in found.pool] == [4, 4, 4, 4, 0]
    assert set(found.clips.corpora[np.concatenate(found.pool)]) == {"es"}


def test_a_view_is_heard_of_the_clips_that_are_drawn(problem, trained):
    start, found = problem
    heard = robustness.hear(start, found, trained[1].paths[0].parent, "quiet")
    drawn = np.concatenate(found.pool)
    others = np.setdiff1d(np.arange(len(heard)), drawn)
    np.testing.assert_array_equal(heard[others], found.clips.features[others])
    (path,) = [path for path in trained[1].paths if path.stem == found.clips.names[drawn[0]]]
    samples = VIEWS["quiet"](read_clip(path).samples, np.random.default_rng())
    np.testing.assert_array_equal(heard[drawn[0]], extract(samples, start.feature_config))


def test_each_draw_has_its_recalls_by_view_and_method(problem):
    start, found = problem
    shape = TaskShape(3, 2, (2, 2, 2, 2, 0))
    drawn = sample({"": found.pool}, shape, seed=0, split="test", step=0, tasks=range(2))
    methods = {
        "F-MAML": robustness.partial(robustness.by_enrolment, start, found),
        "regression": robustness.by_regression(start, found, 100.0),
    }
    clean = found.clips.features
    results = robustness.measure(found, methods, {"clean": clean, "same": clean}, drawn)
    assert set(results) == {(view, name) for view in ("clean", "same") for name in methods}
    for name in methods:
        assert results["clean", name] == results["same", name]
        assert np.mean(results["clean", name], axis=0)[0] > 1 / 3


def test_recalls(problem):
    _, found = problem
    truth = np.array([0, 1, 2, 3, 3])
    scores = np.eye(5)[[0, 1, 3, 3, 4]] + np.eye(5)[[0, 1, 2, 3, 4]] / 2
    emotions, every, neutral = robustness.recalls(scores, truth, found)
    assert (emotions, every, neutral) == (1.0, (1 + 1 + 0 + 0.5) / 4, 0.5)
