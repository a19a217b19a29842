"""Checkpoints: written with the checksums of their files, and read where these agree."""

import contextlib
import hashlib
import logging
import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from fmaml_jax.common.errors import UserError
from fmaml_jax.common.files import whole_file
from fmaml_jax.training.devices import first_process

SUMS = "SHA256SUMS"
"""In the folder of a meta-step, as `sha256sum --check` reads it."""


def open_manager(checkpoints: Path) -> ocp.CheckpointManager:
    """What writes a run's checkpoints into a folder, and reads them; the last two are kept."""
    options = ocp.CheckpointManagerOptions(max_to_keep=2)
    return ocp.CheckpointManager(checkpoints.absolute(), options=options)


def restore(manager: ocp.CheckpointManager, like: Any) -> tuple[int, Any]:
    """The last meta-step and what was saved after it, or 0 and `like` where nothing was.

    Args:
        manager: of the checkpoints.
        like: what has the shapes and types of the content, and the devices that it is to be on.

    Raises:
        UserError: the checkpoint is damaged or of another version.
    """
    step = manager.latest_step() or 0
    if not step:
        return 0, like
    target = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
    remedy = "remove that folder, and the run goes on from the one before it, or begins anew"
    with refuse_damage(Path(manager.directory, str(step)), remedy):
        return step, manager.restore(step, args=ocp.args.StandardRestore(target))


def save(manager: ocp.CheckpointManager, step: int, content: Any) -> None:
    """Writes a checkpoint and, now that it is whole, the checksums of its files.

    Raises:
        OSError: it cannot be written, as where the disk is full; those before it are untouched.
    """
    logger = logging.getLogger("absl")
    logger.disabled = True  # Orbax logs the traceback of what it raises
    try:
        manager.save(step, args=ocp.args.StandardSave(content))
        manager.wait_until_finished()
    except ValueError as error:  # by which tensorstore tells of the system's errors
        if found := re.search(r"os_error_code='(\d+)'", str(error)):
            code = int(found[1])
            raise OSError(code, os.strerror(code), str(manager.directory)) from error
        raise
    finally:
        logger.disabled = False
    if first_process():
        folder = Path(manager.directory, str(step))
        with whole_file(folder / SUMS) as file:
            file.write(_sums(folder))


def newest_intact(checkpoints: Path) -> int | None:
    """The last meta-step whose files are those that were written; damaged ones are named.

    A checkpoint without checksums, of an earlier version, is taken for intact.

    Raises:
        OSError: the folder or a file cannot be read.
    """
    for step in sorted(_steps(checkpoints), reverse=True):
        folder = checkpoints / str(step)
        sums = folder / SUMS
        if not sums.exists() or sums.read_bytes() == _sums(folder).encode():
            return step
        print(f"warning: {folder} is damaged; the checkpoint before it is taken", file=sys.stderr)
    return None


def drop_damaged(checkpoints: Path) -> None:
    """Removes what came after the newest intact checkpoint, for the run to make it anew."""
    if checkpoints.exists():
        newest = newest_intact(checkpoints) or 0
        for step in _steps(checkpoints):
            if step > newest:
                shutil.rmtree(checkpoints / str(step))


@contextlib.contextmanager
def refuse_damage(checkpoint: Path, remedy: str) -> Iterator[None]:
    """Turns what fails in the block, where Orbax reads a checkpoint, into one sentence.

    Args:
        checkpoint: the folder of a meta-step.
        remedy: what the user can do about it.

    Raises:
        UserError: the checkpoint is damaged or of another version.
    """
    try:
        yield
    except Exception as error:  # what Orbax raises for damage is not documented
        first_line = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(
            f"the checkpoint in {checkpoint} is damaged or of another version "
            f"({first_line[0][:200]}); {remedy}"
        ) from error


def _steps(checkpoints: Path) -> list[int]:
    return [int(entry.name) for entry in checkpoints.iterdir() if entry.name.isdecimal()]


def _sums(folder: Path) -> str:
    """A line for each file below the folder; hidden ones are the file system's."""
    files = sorted(
        file
        for file in folder.rglob("*")
        if file.is_file() and file.name != SUMS and not file.name.startswith(".")
    )
    return "".join(
        f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.relative_to(folder).as_posix()}\n"
        for file in files
    )
