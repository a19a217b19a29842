"""What one would do without this project: scikit-learn on time statistics of the features.

`functionals` is a linear SVM on the support alone; `functionals_fixed` has the source clips of the
fixed classes too, which is what F-MAML knows of them; `functionals_pooled` is a logistic regression
on all source clips and the support. Nothing depends on other queries, so there is one answer for
both batch-norm modes.
"""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

PERCENTILES = (10, 50, 90)
Statistics = Float[np.ndarray, "clips statistics"]
Labels = Int[np.ndarray, " clips"]
Classify = Callable[
    [Statistics, Labels, Statistics], tuple[Labels, Float[np.ndarray, "queries known"]]
]
"""(support, its labels, query) -> (classes known, scores of each)."""

POOLED_C = 0.1
"""Inverse penalty of the pooled regression: of 0.001, 0.01, 0.1 and 1 the most accurate over all
classes on Polish as the target (4 emotions of nEMO, 60 episodes of 5 and of 20 shots, MFCCs and
descriptors): 48.2, 53.5, 53.9 and 52.3% on average."""


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


def support_svm(source: Statistics, source_labels: Labels) -> Classify:
    """A linear SVM on the support; the sources are not used."""
    del source, source_labels

    def classify(support: Statistics, labels: Labels, query: Statistics) -> tuple:
        fitted = make_pipeline(StandardScaler(), SVC(kernel="linear")).fit(support, labels)
        return _scores(fitted, query)

    return classify


def fixed_svm(source: Statistics, source_labels: Labels) -> Classify:
    """A linear SVM on the support and the source clips of the classes that it lacks.

    Classes count alike, however many clips they have. Statistics are scaled by the support, as in
    `support_svm`; scaled by all of these clips, answers were up to two points worse on Polish.
    """

    def classify(support: Statistics, labels: Labels, query: Statistics) -> tuple:
        lacking = ~np.isin(source_labels, labels)
        scaler = StandardScaler().fit(support)
        fitted = SVC(kernel="linear", class_weight="balanced").fit(
            scaler.transform(np.concatenate([support, source[lacking]])),
            np.concatenate([labels, source_labels[lacking]]),
        )
        return _scores(fitted, scaler.transform(query))

    return classify


def pooled_regression(source: Statistics, source_labels: Labels, tol: float = 1e-4) -> Classify:
    """A logistic regression on the source clips and the support.

    The regression on the sources alone is computed once; each task descends from there. The
    penalised loss is strictly convex but for a constant added to all biases, which changes no
    answer, so this ends where a start from zero does.

    Args:
        source: clips of every class that is asked for.
        source_labels: their classes.
        tol: the largest slope of the mean loss to end with.
    """
    scaler = StandardScaler().fit(source)
    source = scaler.transform(source)
    start = LogisticRegression(C=POOLED_C, tol=tol, max_iter=5000, warm_start=True)
    start.fit(source, source_labels)

    def classify(support: Statistics, labels: Labels, query: Statistics) -> tuple:
        fitted = deepcopy(start).fit(
            np.concatenate([source, scaler.transform(support)]),
            np.concatenate([source_labels, labels]),
        )
        return _scores(fitted, scaler.transform(query))

    return classify


def _scores(classifier: Any, query: Statistics) -> tuple:
    scores = classifier.decision_function(query)
    # Of two classes, scikit-learn gives the score of the second alone.
    return classifier.classes_, np.stack([-scores, scores], axis=1) if scores.ndim == 1 else scores
