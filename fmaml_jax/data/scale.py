"""The network's input: features shifted and scaled, or whitened, by what the sources are like."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float32

from fmaml_jax.data.split import Split

SHRINKAGE = 0.7
"""Of the whitening; chosen on Polish as the target. 0.5 to 0.9 are within a point of it."""
DAMPING = 0.1
"""Of the inner metric; chosen on Polish as the target. 0.03 to 1 are within half a point of it."""
AXES = 256
"""Principal axes that the inner metric knows; the variance along those after them is below 1."""


class Scale(NamedTuple):
    """The network's input is (features - mean) @ matrix; see `scaled`.

    Attributes:
        mean: is subtracted.
        matrix: one number for each coefficient where it is diagonal.
        axes: of the inner metric of inputs, which is the identity without axes @ axes.T.
    """

    mean: Float32[np.ndarray, " coeffs"]
    matrix: Float32[np.ndarray, " coeffs"] | Float32[np.ndarray, "coeffs coeffs"]
    axes: Float32[np.ndarray, "coeffs axes"]


def scaled(
    features: Float32[np.ndarray, "clips time coeffs"], scale: Scale
) -> Float32[np.ndarray, "clips time coeffs"]:
    """The network's input."""
    centred = features - scale.mean
    return centred * scale.matrix if scale.matrix.ndim == 1 else centred @ scale.matrix


def without_metric(scale: Scale) -> Scale:
    """The scale with the identity as inner metric."""
    return scale._replace(axes=np.zeros((len(scale.mean), 1), np.float32))


def make_scale(
    scaling: str, features: Float32[np.ndarray, "clips time coeffs"], split: Split, ways: int
) -> Scale:
    """The scale by the value of `--scaling`; see below for each."""
    match scaling:
        case "whiten":
            return whitening_scale(features, split, ways)
        case "domains":
            return domain_scale(features, split, ways)
        case _:
            return standard_scale(features, split)


def standard_scale(features: Float32[np.ndarray, "clips time coeffs"], split: Split) -> Scale:
    """Each coefficient to mean 0 and deviation 1 over all frames of the meta-training clips."""
    used = np.unique(np.concatenate([np.concatenate(pool) for pool in split.train.values()]))
    frames = features[used].astype(np.float64).reshape(-1, features.shape[-1])
    return Scale(
        frames.mean(axis=0).astype(np.float32),
        (1 / (frames.std(axis=0) + 1e-6)).astype(np.float32),
        np.zeros((features.shape[-1], 1), np.float32),
    )


def domain_scale(
    features: Float32[np.ndarray, "clips time coeffs"], split: Split, ways: int
) -> Scale:
    """Each coefficient to deviation 1 over the emotions of one domain, and the inner metric.

    The metric is the inverse of 1 + `DAMPING` C, where C is the covariance of inputs within
    domains: adaptation hardly moves what differs much between any clips, such as the channel's
    and the voice's level. It is that of the squared loss's curvature in the sources (as in
    Meta-Curvature, Park and Oliva 2019, but of second moments and not learned), along the first
    `AXES` axes.

    Args:
        features: of all clips.
        split: its meta-training clips are used.
        ways: N; the fixed classes, silence among them, are left out.
    """
    domains = [
        features[np.concatenate(pool[:ways])].mean(axis=1, dtype=np.float64)
        for pool in split.train.values()
    ]
    deviation = np.mean([clips.std(axis=0) for clips in domains], axis=0) + 1e-6
    rest = np.concatenate(
        [(clips - clips.mean(axis=0)) / clips.std(axis=0).clip(1e-6) for clips in domains]
    )
    variances, axes = np.linalg.eigh(rest.T @ rest / len(rest))
    variances, axes = variances[-AXES:].clip(0), axes[:, -AXES:]
    return Scale(
        np.mean([clips.mean(axis=0) for clips in domains], axis=0).astype(np.float32),
        (1 / deviation).astype(np.float32),
        (axes * np.sqrt(DAMPING * variances / (1 + DAMPING * variances))).astype(np.float32),
    )


def whitening_scale(
    features: Float32[np.ndarray, "clips time coeffs"], split: Split, ways: int
) -> Scale:
    """What makes the clips of one emotion and source differ alike in all directions, by 1.

    The matrix is the inverse root of the covariance within classes: what varies with speaker and
    words, and not with emotion, then counts no more than what does (within-class covariance
    normalisation, Hatch et al. 2006). The correlations are shrunk towards none by `SHRINKAGE`,
    since there are not many more clips than coefficients.

    Args:
        features: of all clips.
        split: its meta-training clips are used.
        ways: N; the fixed classes, silence among them, are left out.
    """
    groups = [
        features[clips].mean(axis=1)
        for pool in split.train.values()
        for clips in pool[:ways]
        if len(clips)
    ]
    rest = np.concatenate([group - group.mean(axis=0) for group in groups], dtype=np.float64)
    deviation = rest.std(axis=0) + 1e-6
    correlation = (rest / deviation).T @ (rest / deviation) / len(rest)
    shrunk = (1 - SHRINKAGE) * correlation + SHRINKAGE * np.eye(len(correlation))
    variances, axes = np.linalg.eigh(shrunk)
    root = (axes / np.sqrt(variances)) @ axes.T / deviation[:, None]
    root /= np.sqrt(np.mean((rest @ root) ** 2))
    mean = np.mean([group.mean(axis=0) for group in groups], axis=0)
    return Scale(
        mean.astype(np.float32), root.astype(np.float32), np.zeros((len(mean), 1), np.float32)
    )
