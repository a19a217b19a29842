"""Folders that are searched, and files that are written whole or not at all."""

import contextlib
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any

from fmaml_jax.common.errors import UserError

# The second line is what libsndfile cannot decode: it is listed as unreadable, not passed over.
_SOUND = re.compile(
    r"\.(wave?|wavex|rf64|w64|flac|ogg|oga|opus|mp[23]|aiff?|aifc|au|snd|caf|voc|avr|nist|sph|paf"
    r"|m4a|aac|wma|amr)",
    re.IGNORECASE,
)


def is_audio(file: str) -> bool:
    """Whether a posix path has the name of a sound file, and neither it nor a folder is hidden."""
    path = PurePosixPath(file)
    hidden = any(part.startswith(".") for part in path.parts)
    return not hidden and _SOUND.fullmatch(path.suffix) is not None


def walk(top: Path) -> Iterator[str]:
    """Posix paths, relative to `top`, of all files below it; links are followed, loops once."""

    def fail(error: OSError) -> None:
        raise UserError(f"cannot read the folder {error.filename}: {error.strerror}") from error

    seen = set()
    for folder, subfolders, files in os.walk(top, onerror=fail, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            subfolders.clear()
            continue
        seen.add(real)
        subfolders.sort()
        for file in files:
            yield (Path(folder) / file).relative_to(top).as_posix()


@contextlib.contextmanager
def whole_file(path: str | os.PathLike, mode: str = "w") -> Iterator[IO[Any]]:
    """A file to write that appears under its name when the block ends, and never in part.

    It is written beside its place under a name of its own, synced to the disk, and renamed. Text
    is UTF-8, its line ends are left alone, and what is no text (a file name may hold any byte)
    becomes a backslash escape.

    Args:
        path: the file; its folder exists.
        mode: "w" for text, "wb" for bytes.

    Raises:
        OSError: it cannot be written; what was there before is untouched.
    """
    path = Path(path)
    text = ("utf-8", "backslashreplace", "")
    encoding, errors, newline = (None, None, None) if "b" in mode else text
    descriptor, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(descriptor, mode, encoding=encoding, errors=errors, newline=newline) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(partial, 0o666 & ~_umask())
        os.replace(partial, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(partial)


def cache_folder() -> Path:
    """The folder of what is kept for later runs, such as compiled programs; only the user writes.

    Raises:
        OSError: it cannot be made.
        RuntimeError: there is no home.
    """
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fmaml_jax"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def _umask() -> int:
    """What this process takes away from the permissions of its files; it can only be read so."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
