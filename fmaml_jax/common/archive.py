"""An .npz of named arrays, written whole or not at all, read without pickles, and self-checking."""

import hashlib
import os
from collections.abc import Mapping

import numpy as np

from fmaml_jax.common.errors import UserError
from fmaml_jax.common.files import whole_file

_HASH = "content_hash"


def content_hash(arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256, in hexadecimal, of every array's name, type, shape and bytes."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(array.data)
    return digest.hexdigest()


def write(path: str | os.PathLike, arrays: Mapping[str, np.ndarray]) -> str:
    """Writes the arrays and their content hash under `path`; returns the hash.

    Raises:
        UserError: the folder is missing or not writable, or the disk is full.
    """
    digest = content_hash(arrays)
    try:
        with whole_file(path, "wb") as file:
            np.savez(file, allow_pickle=False, **arrays, **{_HASH: np.asarray(digest)})
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror or error}; give --out a file in a folder "
            "that exists, is writable and has room"
        ) from error
    return digest


def read(path: str | os.PathLike, remake: str) -> tuple[dict[str, np.ndarray], bool]:
    """The arrays of a file that `write` wrote, and whether their content hash agrees.

    The hash is for the caller to act upon, after it has looked whether the file is of its kind.

    Args:
        path: the file.
        remake: how to make it, for the messages: "make it with ...".

    Raises:
        UserError: the file is missing or is no readable .npz file.
    """
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            if any(entry.compress_type for entry in archive.zip.infolist()):
                raise ValueError("it is compressed")  # a small file could fill the memory
            arrays = dict(archive)
        stored = str(arrays.pop(_HASH, ""))
        return arrays, content_hash(arrays) == stored
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist; {remake}") from error
    except Exception as error:  # the readers of damaged archives document no exceptions
        raise UserError(f"{path} is not a readable .npz file ({error}); {remake}") from error
