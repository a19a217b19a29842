"""The prepared corpus: one .npz file that holds features and what is known of each clip.

Schema, version 1 (`numpy.load(path, allow_pickle=False)` reads it; strings are NumPy unicode):

    schema_version   int64            1
    corpus           str              name of the corpus, or of the folder it was read from
    feature_config   str              JSON object, how the features were made
    content_hash     str              SHA-256 of all other arrays
    features         float32 [clips, frames, coefficients]
    labels           str [clips]      emotion, "neutral" or "silence"
    languages        str [clips]      ISO 639 code; "zxx" is "no linguistic content" (noise)
    speakers         str [clips]      "" where unknown
    scenes           str [clips]      clips of one scene share words or a film scene; "" unknown
    names            str [clips]      path below the corpus folder without its suffix, which part
                                      of the file the clip is, if any, and "#view1" and so on where
                                      it is a degraded view of a clip; unique
    seconds          float32 [clips]  length of the recording before it was cropped or padded
    shard            str              only in a part of a corpus: JSON array of its index, the
                                      number of shards, a hash of what all of them are made from and
                                      one of the audio that this one was made from

Clips are sorted by name. The same clips and configuration give the same bytes.
"""

import json
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Shaped

from fmaml_jax.common import archive
from fmaml_jax.common.errors import UserError

SCHEMA_VERSION = 1
CLIP_FIELDS = ("labels", "languages", "speakers", "scenes", "names")
NO_LANGUAGE = "zxx"
"""ISO 639 code of clips that are no language's own, such as silence."""
VIEW = "#view"
"""In the name of a view, of which nothing but training may make use."""


class Shard(NamedTuple):
    """Which part of a corpus a file holds.

    Attributes:
        number, total: its index, and how many there are.
        source: a hash of the clip list and the flags.
        audio: a hash of the bytes of the files that it was made from.
    """

    number: int
    total: int
    source: str
    audio: str = ""


class Dataset(NamedTuple):
    """One prepared corpus, or a shard of one; the module's docstring says what each array is."""

    corpus: str
    feature_config: dict[str, str | int | float]
    features: Float32[np.ndarray, "clips frames coeffs"]
    labels: Shaped[np.ndarray, " clips"]
    languages: Shaped[np.ndarray, " clips"]
    speakers: Shaped[np.ndarray, " clips"]
    scenes: Shaped[np.ndarray, " clips"]
    names: Shaped[np.ndarray, " clips"]
    seconds: Float32[np.ndarray, " clips"]
    shard: Shard | None = None

    @property
    def content_hash(self) -> str:
        """SHA-256, in hexadecimal, of every array's name, type, shape and bytes."""
        return archive.content_hash(_to_arrays(self))


def _to_arrays(dataset: Dataset) -> dict[str, np.ndarray]:
    arrays = {
        "schema_version": np.asarray(SCHEMA_VERSION, np.int64),
        "corpus": np.asarray(dataset.corpus),
        "feature_config": np.asarray(json.dumps(dataset.feature_config, sort_keys=True)),
        "features": np.asarray(dataset.features, np.float32),
        **{field: np.asarray(getattr(dataset, field), np.str_) for field in CLIP_FIELDS},
        "seconds": np.asarray(dataset.seconds, np.float32),
    }
    if dataset.shard:
        arrays["shard"] = np.asarray(json.dumps(dataset.shard))
    return arrays


def save(path: str | os.PathLike, dataset: Dataset) -> str:
    """Writes `dataset` under `path` whole or not at all and returns its content hash.

    Raises:
        UserError: the folder is missing or not writable, or the disk is full.
    """
    return archive.write(path, _to_arrays(dataset))


_TARGETS = {
    **dict.fromkeys(("emodb", "emovo", "ravdess", "cremad", "silence"), "public_data CORPORA=DIR"),
    **dict.fromkeys(("emofilm", "neutral"), "emofilm EMOFILM=DIR"),
}


def _remedy(path: Path) -> str:
    """The command that makes a file, which for those of the presets is a target of make."""
    folder, corpora = path.parent.as_posix(), (*_TARGETS, "nemo")
    if folder in ("data/descriptors", "data/campplus") and path.stem in corpora:
        return f"make {path.parent.name} CORPORA=DIR"
    if folder == "data" and path.stem in _TARGETS:
        return f"make {_TARGETS[path.stem]}"
    return "python -m data_prep.prepare"


def load(path: str | os.PathLike) -> Dataset:
    """Reads what `save` wrote, without pickling, and checks its content hash.

    Raises:
        UserError: the file is missing, is no prepared corpus, is damaged, or is of another
            schema version.
    """
    make = f"make it with `{_remedy(Path(path))}`"
    arrays, intact = archive.read(path, make)
    if "schema_version" not in arrays:
        raise UserError(f"{path} was not written by data_prep.prepare; {make}")
    if (version := str(arrays.pop("schema_version"))) != str(SCHEMA_VERSION):
        raise UserError(f"{path} has schema version {version}, not {SCHEMA_VERSION}; {make}")
    try:
        shard = Shard(*json.loads(str(arrays["shard"]))) if "shard" in arrays else None
        dataset = Dataset(
            **{
                **arrays,
                "corpus": str(arrays["corpus"]),
                "feature_config": json.loads(str(arrays["feature_config"])),
                "shard": shard,
            }
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} does not follow the schema ({error}); {make}") from error
    if not intact:
        raise UserError(f"{path} is damaged: its content hash does not match; {make}")
    return dataset
