"""An .npz of named arrays, written whole or not at all, read without pickles, and self-checking."""

import hashlib
import math
import os
import struct
import zipfile
from collections.abc import Mapping
from typing import BinaryIO

import numpy as np

from fmaml_jax.common.errors import UserError
from fmaml_jax.common.files import require_there, whole_file

_HASH = "content_hash"
_MOST_ENTRIES = 1 << 14
_END = struct.Struct("<4s6xHI6x")  # of a zip file without a comment: its mark, entries, their bytes
_LOCATOR = 20  # bytes before it that say where the same is of a large archive


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

    It takes the memory of the file's own length, whatever it declares. The hash is for the caller
    to act upon, after it has looked whether the file is of its kind.

    Args:
        path: the file.
        remake: how to make it, for the messages: "make it with ...".

    Raises:
        UserError: the file is missing or is no readable .npz file.
    """
    require_there(path, remake)
    try:
        with open(path, "rb") as file:
            arrays = _arrays(file)
        stored = str(arrays.pop(_HASH, ""))
        return arrays, content_hash(arrays) == stored
    except Exception as error:  # the readers of damaged archives document no exceptions
        raise UserError(f"{path} is not a readable .npz file ({error}); {remake}") from error


def _arrays(file: BinaryIO) -> dict[str, np.ndarray]:
    """The arrays, one entry each; nothing is read before all entries are known to be plain."""
    length = os.fstat(file.fileno()).st_size
    _require_short_directory(file, length)
    try:
        archive = zipfile.ZipFile(file)
    except zipfile.BadZipFile as error:
        raise ValueError("it is not an archive of arrays, or was cut off") from error
    with archive:
        entries = archive.infolist()
        if any(entry.compress_type for entry in entries):
            raise ValueError("it is compressed")  # a small file could fill the memory
        if sum(max(entry.file_size, entry.compress_size) for entry in entries) > length:
            raise ValueError("its arrays overlap")
        return {
            name: _array(archive, entry, name)
            for entry in entries
            if (name := entry.filename.removesuffix(".npy")) != entry.filename
        }


def _require_short_directory(file: BinaryIO, length: int) -> None:
    """Refuses a list of entries that would itself fill the memory, by the record at the end."""
    file.seek(max(0, length - _END.size - _LOCATOR))
    tail = file.read().rjust(_END.size)
    mark, entries, size = _END.unpack_from(tail, len(tail) - _END.size)
    if mark != b"PK\5\6":
        raise ValueError("it is not an archive of arrays, or was cut off")
    # Another record, of large archives alone, would say otherwise.
    large = tail.startswith(b"PK\6\7") and length < zipfile.ZIP64_LIMIT
    if large or entries > _MOST_ENTRIES or size > _MOST_ENTRIES << 8:
        raise ValueError("it lists too many arrays")


def _array(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, name: str) -> np.ndarray:
    with archive.open(entry) as file:
        assert isinstance(file, zipfile.ZipExtFile)
        version = np.lib.format.read_magic(file)
        header = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }.get(version)
        if header is None:
            raise ValueError(f"{name} is of another version of NumPy")
        shape, by_columns, kind = header(file)
        if kind.kind not in "biufcSU" or not kind.itemsize:
            raise ValueError(f"{name} holds neither numbers nor text")
        if math.prod(shape) * kind.itemsize != entry.file_size - file.tell():
            raise ValueError(f"{name} has another size than its shape says")
        array = np.empty(math.prod(shape), kind)
        if file.readinto(array.view(np.uint8).data) != array.nbytes or file.read(1):
            raise ValueError(f"{name} is cut off")
        return array.reshape(shape, order="F" if by_columns else "C")
