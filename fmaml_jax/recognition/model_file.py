"""A recogniser as one portable file: an .npz without pickles.

Format 3: arrays `mean`, `matrix`, `centre`, `head`, `mixture`, `nearness`, `context` and `bias` as
`Recogniser` names them, `probe`, and `model`, a JSON object with the rest. `probe` holds the logits
of a fixed vector. The waves' frequencies are not in the file but drawn from a fixed seed; where a
NumPy drew others, the probe would differ.
"""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from fmaml_jax.audio.features import restore_config
from fmaml_jax.common import archive
from fmaml_jax.common.errors import UserError
from fmaml_jax.common.files import is_special
from fmaml_jax.data.scale import Scale
from fmaml_jax.encoder import DEFAULT
from fmaml_jax.encoder.features import describer
from fmaml_jax.recognition.estimate import Estimate
from fmaml_jax.recognition.recogniser import BATCH, Recogniser, logits_of_vectors

FORMAT = 3
MOST_WEIGHTS = 1 << 24
"""Of the waves' projection, which a file of any size could ask for; `best.cfg` has 1.3 million."""
_ARRAYS = ("centre", "head", "mixture", "nearness", "context", "bias")
_MAKE = "make one with `python -m fmaml_jax.enrol`"


def save(path: str | os.PathLike, recogniser: Recogniser) -> None:
    """Writes the file whole or not at all; the same recogniser gives the same bytes.

    Raises:
        UserError: it cannot be written, or another kind of file has that name.
    """
    require_writable(path)
    estimate = recogniser.estimate
    model = {
        "format": FORMAT,
        "classes": recogniser.classes,
        "counts": recogniser.counts,
        "known_as": recogniser.known_as,
        "feature_config": recogniser.feature_config._asdict(),
        "frequencies": recogniser.frequencies,
        "temperature": recogniser.temperature,
        "estimate": {
            "left_out": estimate.left_out,
            "confusion": estimate.confusion.tolist(),
            "interval": estimate.interval,
        },
        "warnings": recogniser.warnings,
        "provenance": recogniser.provenance,
    }
    arrays = {name: np.asarray(getattr(recogniser, name)) for name in _ARRAYS}
    arrays |= recogniser.scale._asdict()
    arrays["probe"] = _probe(recogniser)
    arrays["model"] = np.asarray(json.dumps(model, sort_keys=True, allow_nan=False))
    archive.write(path, arrays)


def require_writable(path: str | os.PathLike) -> None:
    """Refuses before any work a file that could not be written.

    Raises:
        UserError: the folder is missing or read-only, or the file is there and is no model.
    """
    if os.path.isdir(path) or (os.path.isfile(path) and not _is_model(path)):
        raise UserError(f"--out={path} is there and is no model; choose another name")
    folder = Path(os.path.realpath(path)).parent
    if not is_special(path) and not os.access(folder, os.W_OK):
        state = "cannot be written" if folder.is_dir() else "is no folder"
        raise UserError(f"--out={path}: {folder} {state}; choose another folder")


def load(path: str | os.PathLike, encoder: str = DEFAULT) -> Recogniser:
    """Reads a model file.

    Args:
        path: the file.
        encoder: the file or folder of the encoder's weights, for a model that hears with one.

    Raises:
        UserError: the file is missing, foreign, truncated or damaged, was written by a newer
            version, or cannot be computed here as it was there; or its encoder is missing.
    """
    arrays, intact = archive.read(path, _MAKE)
    if "model" not in arrays:
        raise UserError(f"{path} is no model of fmaml_jax; {_MAKE}")
    try:
        model = json.loads(str(arrays["model"]))
        version = model["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is no model of fmaml_jax; {_MAKE}") from error
    if version != FORMAT:
        raise UserError(
            f"{path} has format {version} and this code reads format {FORMAT}; update fmaml_jax, "
            "or enrol again"
        )
    if not intact:
        raise UserError(f"{path} is damaged: its content hash does not match; {_MAKE}")
    try:
        recogniser = _restore(model, arrays, encoder)
        agrees = np.allclose(_probe(recogniser), arrays["probe"], rtol=1e-3, atol=1e-3)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, OverflowError) as error:
        raise UserError(f"{path} does not follow the format ({error}); {_MAKE}") from error
    if not agrees:
        raise UserError(
            f"{path} gives other results here than where it was made, with NumPy "
            f"{model['provenance'].get('numpy')}; install that version, or enrol again"
        )
    describer(recogniser.feature_config, encoder)  # what is missing is said before any work
    return recogniser


def _restore(model: dict[str, Any], arrays: dict[str, np.ndarray], encoder: str) -> Recogniser:
    if max(len(arrays["mean"]), BATCH) * int(model["frequencies"]) > MOST_WEIGHTS:
        raise ValueError("too many frequencies")
    estimate = model["estimate"]
    return Recogniser(
        classes=tuple(model["classes"]),
        counts=tuple(model["counts"]),
        known_as=tuple(model["known_as"]),
        feature_config=restore_config(model["feature_config"]),
        scale=Scale(*(arrays[name] for name in Scale._fields)),
        frequencies=int(model["frequencies"]),
        temperature=float(model["temperature"]),
        estimate=Estimate(
            estimate["left_out"],
            np.asarray(estimate["confusion"], int),
            tuple(estimate["interval"]),
        ),
        warnings=tuple(model["warnings"]),
        provenance=dict(model["provenance"]),
        encoder=encoder,
        **{name: arrays[name] for name in _ARRAYS},
    )


def _probe(recogniser: Recogniser) -> np.ndarray:
    vector = np.linspace(-1, 1, len(recogniser.scale.mean), dtype=np.float32)
    return logits_of_vectors(recogniser, vector[None, None])


def _is_model(path: str | os.PathLike) -> bool:
    try:
        return "model" in archive.read(path, _MAKE)[0]
    except UserError:
        return False
