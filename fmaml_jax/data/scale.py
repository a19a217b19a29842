"""The network's input: features shifted and scaled, or whitened, by what the sources are like."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float32

from fmaml_jax.data.split import Split

SHRINKAGE = 0.7
"""Of the whitening; chosen on Polish as the target. 0.5 to 0.9 are within a point of it."""


class Scale(NamedTuple):
    """The network's input is (features - mean) @ matrix; see `scaled`."""

    mean: Float32[np.ndarray, " coeffs"]
    matrix: Float32[np.ndarray, "coeffs coeffs"]


def scaled(
    features: Float32[np.ndarray, "clips time coeffs"], scale: Scale
) -> Float32[np.ndarray, "clips time coeffs"]:
    """The network's input."""
    return (features - scale.mean) @ scale.matrix


def standard_scale(features: Float32[np.ndarray, "clips time coeffs"], split: Split) -> Scale:
    """Each coefficient to mean 0 and deviation 1 over all frames of the meta-training clips."""
    used = np.unique(np.concatenate([np.concatenate(pool) for pool in split.train.values()]))
    frames = features[used].astype(np.float64).reshape(-1, features.shape[-1])
    return Scale(
        frames.mean(axis=0).astype(np.float32),
        np.diag(1 / (frames.std(axis=0) + 1e-6)).astype(np.float32),
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
    return Scale(mean.astype(np.float32), root.astype(np.float32))
