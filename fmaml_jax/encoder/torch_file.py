"""Reads the tensors of a PyTorch checkpoint without PyTorch.

The format is a zip of stored entries: `NAME/data.pkl`, the pickle of a dictionary whose tensors
refer to storages, and the storages, `NAME/data/KEY`, as raw little-endian numbers. A pickle can
call anything; this one may name four things, none of which does more than hold what it is given.
"""

import io
import math
import os
import pickle
import zipfile
from collections import OrderedDict
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from fmaml_jax.common.errors import UserError

LARGEST_PICKLE = 1 << 20
"""Bytes; the names and shapes of a thousand tensors take a tenth of that."""


class _Storage(NamedTuple):
    kind: str
    key: str
    size: int


class _Tensor(NamedTuple):
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *unused: Any) -> _Tensor:
    """What the pickle says of a tensor; whether it is so is for `_array` to find out."""
    del unused  # gradients and hooks
    return _Tensor(storage, offset, shape, strides)


# Storages are strings here, which a pickle can do nothing to.
_ALLOWED = {
    "collections.OrderedDict": OrderedDict,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch.FloatStorage": "<f4",
    "torch.LongStorage": "<i8",
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str, /) -> Any:
        found = _ALLOWED.get(f"{module}.{name}")
        if found is None:
            raise pickle.UnpicklingError(
                f"it holds {module}.{name}, which is not a tensor of numbers"
            )
        return found

    def persistent_load(self, pid: Any) -> _Storage:
        match pid:
            case ("storage", "<f4" | "<i8" as kind, str(key), str(), int(size)):
                return _Storage(kind, key, size)
        raise pickle.UnpicklingError("it refers to something that is not storage")


def read_tensors(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """The tensors of a file that `torch.save` wrote of a dictionary of them (float32 and int64).

    Raises:
        UserError: the file is missing, is no such file, is damaged, or holds anything else.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return _read(archive)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}; give --from") from error
    except Exception as error:  # pickles and zips fail in any way
        raise UserError(
            f"{path} is no PyTorch file of tensors alone ({error}); get it again, or give another "
            "with --from"
        ) from error


def _read(archive: zipfile.ZipFile) -> dict[str, np.ndarray]:
    entries = {entry.filename: entry for entry in archive.infolist()}
    if any(entry.compress_type for entry in entries.values()):
        raise ValueError("it is compressed")  # a small file could fill the memory
    (index,) = (name for name in entries if PurePosixPath(name).name == "data.pkl")
    if entries[index].file_size > LARGEST_PICKLE:
        raise ValueError(f"its index is larger than {LARGEST_PICKLE} bytes")
    tensors = _Unpickler(io.BytesIO(archive.read(index))).load()
    if not isinstance(tensors, dict):
        raise ValueError("it holds no dictionary")
    folder = PurePosixPath(index).parent / "data"
    return {name: _array(archive, folder, name, tensor) for name, tensor in tensors.items()}


def _array(archive: zipfile.ZipFile, folder: PurePosixPath, name: Any, tensor: Any) -> np.ndarray:
    match name, tensor:
        case str(), _Tensor(_Storage(kind, key, size), int(offset), tuple(shape), tuple(strides)):
            pass
        case _:
            raise ValueError(f"{name!r} is not a tensor")
    numbers = (offset, size, *shape, *strides)
    if len(shape) != len(strides) or any(type(n) is not int or n < 0 for n in numbers):
        raise ValueError(f"{name!r} has no valid shape")
    storage = np.frombuffer(archive.read((folder / key).as_posix()), kind)
    last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
    if len(storage) != size or 0 in shape or last >= size or math.prod(shape) > size:
        raise ValueError(f"{name!r} reaches outside its storage")
    bytes_apart = [stride * storage.itemsize for stride in strides]
    return np.lib.stride_tricks.as_strided(storage[offset:], shape, bytes_apart).copy()
