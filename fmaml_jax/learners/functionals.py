"""What one would do without this project: scikit-learn on time statistics of the features.

`functionals` is a linear SVM on the support alone; `functionals_fixed` has the source clips of the
fixed classes too, which is what F-MAML knows of them; `functionals_pooled` is a logistic regression
on all source clips and the support. Nothing depends on other queries, so there is one answer for
both batch-norm modes.

A method is made from (statistics of all clips, the pools to train on, N) and returns what
classifies the query of a task. scikit-learn is imported there, since it takes half a second, for
which no other method, nor an enrolment, is to wait.
"""

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from typing import Any

import numpy as np
from jaxtyping import Float, Int

PERCENTILES = (10, 50, 90)
Statistics = Float[np.ndarray, "_ statistics"]
Labels = Int[np.ndarray, " clips"]
Classify = Callable[
    [Statistics, Labels, Statistics], tuple[Labels, Float[np.ndarray, "queries known"]]
]
"""(support, its labels, query) -> (classes known, scores of each)."""
Sources = Mapping[str, Sequence[Int[np.ndarray, " _"]]]
"""The clips to train on, by domain and then by class, in the order of the outputs."""
Make = Callable[[Statistics, Sources, int], Classify]

SUPPORT_WEIGHT = 20
"""Clips of the sources that a clip of the support counts for: there are up to a hundred times
as many of them. It and the default penalty were chosen over all classes on Polish as the target
(nEMO, 5 and 20 shots, corpora as domains; 60 episodes of MFCCs, 30 of descriptors). Of 1, 5, 20 and
50, with a penalty of 100: 56.4, 58.7, 59.0 and 58.8%; with a penalty of 10 and 20 of them 57.1%."""


def time_statistics(features: Float[np.ndarray, "clips frames coeffs"]) -> Statistics:
    """Mean, deviation, percentiles 10, 50 and 90, and deviation of the differences, over time.

    Features of one frame describe the whole clip already, and are returned as they are.
    """
    if features.shape[1] == 1:
        return features[:, 0]
    return np.concatenate(
        [
            features.mean(axis=1),
            features.std(axis=1),
            *np.percentile(features, PERCENTILES, axis=1),
            np.diff(features, axis=1).std(axis=1),
        ],
        axis=1,
    )


def support_svm(statistics: object, sources: object, ways: object) -> Classify:
    """A linear SVM on the support; the sources are not used."""
    del statistics, sources, ways
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC

    def classify(support: Statistics, labels: Labels, query: Statistics) -> tuple:
        fitted = make_pipeline(StandardScaler(), SVC(kernel="linear")).fit(support, labels)
        return _scores(fitted, query)

    return classify


def fixed_svm(statistics: Statistics, sources: Sources, ways: int) -> Classify:
    """A linear SVM on the support and the source clips of the classes that it lacks.

    Classes count alike, however many clips they have. Statistics are scaled by the support, as in
    `support_svm`; scaled by all of these clips, answers were up to two points worse on Polish.
    """
    del ways
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC

    by_class = [np.unique(np.concatenate(clips)) for clips in zip(*sources.values(), strict=True)]
    source, source_labels = statistics[np.concatenate(by_class)], _labels(by_class)

    def classify(support: Statistics, labels: Labels, query: Statistics) -> tuple:
        lacking = ~np.isin(source_labels, labels)
        scaler = StandardScaler().fit(support)
        fitted = SVC(kernel="linear", class_weight="balanced").fit(
            scaler.transform(np.concatenate([support, source[lacking]])),
            np.concatenate([labels, source_labels[lacking]]),
        )
        return _scores(fitted, scaler.transform(query))

    return classify


def pooled_regression(
    statistics: Statistics,
    sources: Sources,
    ways: int,
    tol: float = 5e-4,
    penalty: float = 100.0,
) -> Classify:
    """A logistic regression on the source clips and the support, each relative to its own domain.

    A source's clips are standardised by its emotions, the target's by the mean of the support's
    emotions, and, since these are few, by the sources' average deviation. Fixed classes do not
    count: there may be none in the support. A clip that domains share is there once for each.

    The regression on the sources alone is computed once; each task descends from there. The
    penalised loss is strictly convex but for a constant added to all biases, which changes no
    answer, so this ends where a start from zero does.

    Args:
        statistics: of all clips.
        sources: clips of every class that is asked for; `--task_domain=corpus` makes the domains
            corpora, which differ in level and channel within a language too.
        ways: N; the first classes of a pool are emotions.
        tol: the largest slope of the mean loss to end with. Of 1,200 answers on Polish 99.8%
            are those of 1e-5, in a quarter to two fifths of the time; with 1e-3 98.9% are.
        penalty: L2 penalty, beside the sum of the clips' losses.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    statistics = statistics.astype(np.float32)  # half the time, and the same answers
    pools = sources.values()
    scalers = [StandardScaler().fit(statistics[np.concatenate(pool[:ways])]) for pool in pools]
    source = np.concatenate(
        [
            scaler.transform(statistics[np.concatenate(pool)])
            for scaler, pool in zip(scalers, pools, strict=True)
        ]
    )
    source_labels = np.concatenate([_labels(pool) for pool in pools])
    deviation = np.mean([scaler.scale_ for scaler in scalers], axis=0)
    start = LogisticRegression(C=1 / penalty, tol=tol, max_iter=5000, warm_start=True)
    start.fit(source, source_labels)

    def classify(support: Statistics, labels: Labels, query: Statistics) -> tuple:
        mean = support[labels < ways].mean(axis=0)
        fitted = deepcopy(start).fit(
            np.concatenate([source, (support - mean) / deviation]),
            np.concatenate([source_labels, labels]),
            np.repeat([1, SUPPORT_WEIGHT], [len(source), len(support)]),
        )
        return _scores(fitted, (query - mean) / deviation)

    return classify


def _labels(by_class: Sequence[Int[np.ndarray, " _"]]) -> Labels:
    """The class of each clip of a pool."""
    return np.repeat(np.arange(len(by_class)), list(map(len, by_class)))


def _scores(classifier: Any, query: Statistics) -> tuple:
    scores = classifier.decision_function(query)
    # Of two classes, scikit-learn gives the score of the second alone.
    return classifier.classes_, np.stack([-scores, scores], axis=1) if scores.ndim == 1 else scores
