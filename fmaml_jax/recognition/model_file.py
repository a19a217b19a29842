"""A recogniser as one portable file: an .npz without pickles.

Format 4: arrays `mean` and `matrix` of the scale; `centre`, `variance`, `head`, `mixture`,
`nearness`, `context` and `bias` as `Recogniser` names them, and `means` where clips are taken by
speaker; `probe`; and `model`, a JSON object with the rest. `probe` holds the logits of a fixed
vector. The waves' frequencies are not in the file but drawn from a fixed seed; where a NumPy drew
others, the probe would differ.
"""

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from fmaml_jax.audio.descriptors import DescriptorConfig
from fmaml_jax.audio.features import (
    FEATURES,
    FeatureConfig,
    HubConfig,
    extract,
    restore_config,
)
from fmaml_jax.audio.filterbank import EncoderConfig
from fmaml_jax.common import archive
from fmaml_jax.common.errors import UserError, require_kind
from fmaml_jax.common.files import is_special
from fmaml_jax.common.text import LONGEST_NAME, clean_name, is_text, name_key
from fmaml_jax.data.scale import Scale, without_metric
from fmaml_jax.encoder import DEFAULT
from fmaml_jax.encoder.features import describer
from fmaml_jax.recognition import MAKE
from fmaml_jax.recognition.estimate import Estimate
from fmaml_jax.recognition.naming import MOST_CLASSES
from fmaml_jax.recognition.recogniser import BATCH, Recogniser, logits_of_vectors
from fmaml_jax.recognition.support import LONGEST_CLIP
from fmaml_jax.recognition.timeline import UNSURE

FORMAT = 4
MOST_WEIGHTS = 1 << 24
"""Of the waves' projection, which a file of any size could ask for; `best.cfg` has 1.3 million."""
MOST_BYTES = 1 << 28
"""Of a file; an encoder's 2,048 coefficients make 17 million."""
_MOST_LETTERS = 1 << 20
"""Of what is no array: names, warnings and the like."""
_ARRAYS = ("centre", "variance", "head", "mixture", "nearness", "context", "bias")
_SHAPES: dict[str, tuple[tuple[str | int, ...], ...]] = {
    "mean": (("inputs",),),
    "matrix": (("inputs",), ("inputs", "inputs")),
    "centre": (("features",),),
    "variance": (("inputs",),),
    "head": (("known", "outputs"),),
    "mixture": (("outputs", "classes"),),
    "nearness": (("known", "classes"),),
    "context": (("waves", "classes"),),
    "bias": (("classes",),),
    "means": (("classes", "inputs"),),
    "probe": ((1, "classes"),),
}
"""What each array's axes may count; all hold finite numbers, of 32 bits."""
_CHANNELS = {"block1": 512, "block2": 1024, "block3": 1024}
_STATISTICS = {"mean": 1, "mean_deviation": 2}


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 31


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and is_text(value)


def _is_name(value: Any) -> bool:
    return _is_text(value) and len(value) <= LONGEST_NAME and value == clean_name(value)


def _all(value: Any, fits: Callable[[Any], bool]) -> bool:
    return isinstance(value, list) and all(map(fits, value))


def _is_estimate(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and value.keys() == {"left_out", "confusion", "interval"}
        and value["left_out"] in ("clip", "stretch of speech", "speaker")
        and _all(value["confusion"], lambda row: _all(row, _is_count))
        and len({len(row) for row in value["confusion"]}) == 1
        and _all(value["interval"], _is_number)
        and len(value["interval"]) == 2
        and 0 <= value["interval"][0] <= value["interval"][1] <= 1
    )


_ENTRIES: dict[str, Callable[[Any], bool]] = {
    "classes": lambda value: (
        _all(value, _is_name)
        and 1 < len(value) <= MOST_CLASSES
        and len(set(map(name_key, value))) == len(value)
        and UNSURE not in value
    ),
    "counts": lambda value: _all(value, _is_count),
    "known_as": lambda value: _all(value, _is_name),
    "feature_config": lambda value: isinstance(value, dict),
    "frequencies": _is_count,
    "temperature": lambda value: _is_number(value) and value > 0,
    "estimate": _is_estimate,
    "warnings": lambda value: _all(value, _is_text),
    "provenance": lambda value: (
        isinstance(value, dict) and all(map(_is_text, (*value, *value.values())))
    ),
}
"""What else a model holds, as JSON, and what each may be."""


def save(recogniser: Recogniser, path: str | os.PathLike) -> None:
    """Writes the file whole or not at all; the same recogniser gives the same bytes.

    Raises:
        UserError: it cannot be written, or another kind of file has that name.
    """
    require_kind("recogniser", recogniser, Recogniser, "what enrol or load returns")
    require_kind("path", path, str | os.PathLike, "the file to write")
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
    arrays |= {"mean": recogniser.scale.mean, "matrix": recogniser.scale.matrix}
    if recogniser.means is not None:
        arrays["means"] = recogniser.means
    arrays["probe"] = _probe(recogniser)
    arrays["model"] = np.asarray(json.dumps(model, sort_keys=True, allow_nan=False))
    archive.write(path, arrays)


def require_writable(path: str | os.PathLike) -> None:
    """Refuses before any work a file that could not be written.

    Raises:
        UserError: the folder is missing or read-only, or the file is there and is not a model.
    """
    if os.path.isdir(path) or (os.path.isfile(path) and not _is_model(path)):
        raise UserError(f"--out={path} is there and is not a model; choose another name")
    folder = Path(os.path.realpath(path)).parent
    if not is_special(path) and not os.access(folder, os.W_OK):
        state = "cannot be written" if os.path.exists(folder) else "does not exist"
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
    require_kind("path", path, str | os.PathLike, "the path of a model file")
    require_kind("encoder", encoder, str, "the path of its weights")
    if os.path.isfile(path) and os.path.getsize(path) > MOST_BYTES:
        raise UserError(f"{path} is larger than any model; {MAKE}")
    arrays, intact = archive.read(path, MAKE)
    foreign = UserError(f"{path} is not a model of fmaml_jax; {MAKE}")
    text = arrays.get("model")
    if text is None or text.dtype.kind != "U" or text.ndim or text.nbytes > 4 * _MOST_LETTERS:
        raise foreign
    try:
        model = json.loads(str(text))
        version = model["format"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise foreign from error
    if version != FORMAT:
        raise UserError(
            f"{path} has format {str(version)[:9]} and this code reads format {FORMAT}; update "
            "fmaml_jax, or enrol again"
        )
    if not intact:
        raise UserError(f"{path} is damaged: its content hash does not match; {MAKE}")
    try:
        recogniser = _restore(model, arrays, encoder)
        agrees = np.allclose(_probe(recogniser), arrays["probe"], rtol=1e-3, atol=1e-3)
    except UserError as error:  # of the features' version
        raise UserError(f"{path}: {error}") from error
    except _UnfitError as error:
        raise UserError(f"{path} does not follow the format ({error}); {MAKE}") from error
    if not agrees:
        raise UserError(
            f"{path} gives other results here than where it was made, with NumPy "
            f"{recogniser.provenance.get('numpy', 'unknown')}; install that version, or enrol again"
        )
    describer(recogniser.feature_config, encoder)  # what is missing is said before any work
    return recogniser


class _UnfitError(Exception):
    """What in a model is not as the format has it: a phrase."""


def _restore(model: dict[str, Any], arrays: dict[str, np.ndarray], encoder: str) -> Recogniser:
    """The recogniser, when all of it has been found to fit together.

    Raises:
        _UnfitError: something does not.
        UserError: the features are of another version.
    """
    try:
        for name, fits in _ENTRIES.items():
            if not fits(model[name]):
                raise _UnfitError(f"its {name} cannot be")
        sizes = _require_shapes(arrays)
    except KeyError as error:
        raise _UnfitError(f"it has no {error.args[0]}") from error
    if max(sizes["inputs"], BATCH) * model["frequencies"] > MOST_WEIGHTS:
        raise _UnfitError("too many frequencies")
    classes, estimate = model["classes"], model["estimate"]
    config = _feature_config(model["feature_config"], sizes["inputs"])
    enrolled = len(estimate["confusion"])
    lengths = (len(model["counts"]), len(model["known_as"]), sizes["classes"])
    confusion = np.asarray(estimate["confusion"], int).reshape(enrolled, -1)
    if (
        set(lengths) != {len(classes)}
        or sizes["waves"] != (2 * model["frequencies"] or sizes["inputs"])
        or sizes["features"] != sizes["inputs"] + 2 * model["frequencies"]
        or sizes["inputs"] != sizes["known"] - 1
        or (arrays["variance"] <= 0).any()
        or enrolled > len(classes)
        or confusion.shape[1] != len(classes)
    ):
        raise _UnfitError("its arrays do not fit together")
    return Recogniser(
        classes=tuple(classes),
        counts=tuple(model["counts"]),
        known_as=tuple(model["known_as"]),
        feature_config=config,
        scale=without_metric(Scale(arrays["mean"], arrays["matrix"], np.zeros(0))),
        frequencies=model["frequencies"],
        temperature=float(model["temperature"]),
        estimate=Estimate(estimate["left_out"], confusion, tuple(estimate["interval"])),
        warnings=tuple(model["warnings"]),
        provenance=dict(model["provenance"]),
        encoder=encoder,
        means=arrays.get("means"),
        **{name: arrays[name] for name in _ARRAYS},
    )


def _require_shapes(arrays: dict[str, np.ndarray]) -> dict[str, int]:
    """What the axes of `_SHAPES` count, of which those of one name are equal."""
    sizes: dict[str, int] = {}
    for name, shapes in _SHAPES.items():
        if name == "means" and name not in arrays:
            continue
        array = arrays[name]
        axes = next((shape for shape in shapes if len(shape) == array.ndim), None)
        if axes is None or array.dtype != np.float32 or not np.isfinite(array).all():
            raise _UnfitError(f"its {name} cannot be")
        for axis, size in zip(axes, array.shape, strict=True):
            if size != (axis if isinstance(axis, int) else sizes.setdefault(axis, size)):
                raise _UnfitError("its arrays do not fit together")
    return sizes


def _feature_config(stored: dict[str, Any], inputs: int) -> FeatureConfig:
    """As this code makes features of so many coefficients; others are computed by nobody."""
    config = restore_config(stored)
    own = next(kind for kind in FEATURES.values() if isinstance(config, type(kind)))
    free = {"clip_seconds", "weights", "architecture", "layer", "statistics"} & stored.keys()
    if config != own._replace(**{name: stored[name] for name in free}):
        raise _UnfitError("its features are none that are made here")
    seconds = config.clip_seconds
    if not _is_number(seconds) or not 0 < seconds <= LONGEST_CLIP:
        raise _UnfitError("its clip_seconds cannot be")
    if isinstance(config, DescriptorConfig):
        made = extract(np.linspace(-1, 1, config.sample_rate, dtype=np.float32), config).shape[1]
    elif isinstance(config, EncoderConfig):
        made = _CHANNELS.get(config.layer, 0) * _STATISTICS.get(config.statistics, 0)
    else:
        made = inputs if isinstance(config, HubConfig) else 0  # of MFCCs, none
    if made != inputs:
        raise _UnfitError("its features are none that are made here")
    return config


def _probe(recogniser: Recogniser) -> np.ndarray:
    vector = np.linspace(-1, 1, len(recogniser.scale.mean), dtype=np.float32)
    return logits_of_vectors(recogniser, vector[None, None])


def _is_model(path: str | os.PathLike) -> bool:
    try:
        return "model" in archive.read(path, MAKE)[0]
    except UserError:
        return False
