"""What a practitioner would do without this project: scikit-learn on time statistics of the MFCCs.

`functionals` is a linear SVM on the support alone, `functionals_pooled` a logistic regression on
all source clips and the support. Nothing depends on other queries, so there is one answer for both
batch-norm modes.
"""

from collections.abc import Callable
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
Classify = Callable[[Statistics, Labels, Statistics, Labels, Statistics], tuple[Any, np.ndarray]]
"""(source clips, their labels, support, its labels, query) -> (classes known, scores of each)."""


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


def support_svm(
    source: Statistics,
    source_labels: Labels,
    support: Statistics,
    labels: Labels,
    query: Statistics,
) -> tuple[Labels, Float[np.ndarray, "queries known"]]:
    """A linear SVM on the support."""
    del source, source_labels
    return _scores(make_pipeline(StandardScaler(), SVC(kernel="linear")), support, labels, query)


def pooled_regression(
    source: Statistics,
    source_labels: Labels,
    support: Statistics,
    labels: Labels,
    query: Statistics,
) -> tuple[Labels, Float[np.ndarray, "queries known"]]:
    """A logistic regression on the source clips and the support."""
    return _scores(
        make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)),
        np.concatenate([source, support]),
        np.concatenate([source_labels, labels]),
        query,
    )


def _scores(classifier: Any, clips: Statistics, labels: Labels, query: Statistics) -> tuple:
    classifier.fit(clips, labels)
    scores = classifier.decision_function(query)
    # Of two classes, scikit-learn gives the score of the second alone.
    return classifier.classes_, np.stack([-scores, scores], axis=1) if scores.ndim == 1 else scores
