"""Checkpoints that are looked over before Orbax reads them."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import tensorstore

from fmaml_jax.common.console import UserError

ZARRAY = b"/.zarray"
"""How the description of an array in a checkpoint is named: by the array's name and this."""


@contextlib.contextmanager
def refuse_damage(checkpoint: Path, remedy: str) -> Iterator[None]:
    """Turns what fails in the block, where Orbax reads a checkpoint, into one sentence.

    Orbax reads all arrays at once, and where several fail it tells of one: the others print their
    tracebacks whenever they end. So every array is read here before, one after the other.

    Args:
        checkpoint: the folder of a meta-step.
        remedy: what the user can do about it.

    Raises:
        UserError: the checkpoint is damaged or of another version.
    """
    try:
        # Resolved, since tensorstore has no paths with "..".
        base = {"driver": "file", "path": f"{checkpoint.resolve()}/default/"}
        arrays = tensorstore.KvStore.open({"driver": "ocdbt", "base": base}).result()
        names = [key[: -len(ZARRAY)] for key in arrays.list().result() if key.endswith(ZARRAY)]
        if not names:
            raise FileNotFoundError("it holds no arrays")
        for name in names:
            array = {"driver": "zarr", "kvstore": arrays.spec().to_json() | {"path": name.decode()}}
            tensorstore.open({**array, "fill_missing_data_reads": False}).result().read().result()
        yield
    except Exception as error:  # what they raise for damage is not documented
        first_line = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(
            f"the checkpoint in {checkpoint} is damaged or of another version "
            f"({first_line[0][:200]}); {remedy}"
        ) from error
