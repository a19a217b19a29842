"""Folders that are searched, and files that are written whole or not at all."""

import contextlib
import fcntl
import os
import re
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any

from fmaml_jax.common.errors import UserError

LONGEST_PREFIX = 50
"""Letters, of four bytes at most, of a name in the name of what becomes its file: 255 bytes."""
_SOUND = re.compile(
    r"\.(wave?|wavex|rf64|w64|flac|ogg|og[agvx]|opus|spx|mp[1-4]|mpe?g|mpga|aif[cf]?|aiff|au|snd|caf|voc"
    r"|avr|nist|sph|paf|m4[abrv]|aac|wma|wmv|amr|awb|3gpp?|3g2|mov|qt|webm|mka|mkv|avi|flv|ape|wv|tta"
    r"|raw|pcm)",
    re.IGNORECASE,
)
"""Names of sound, of videos, which have some, and of samples alone, which are refused."""


def is_audio(file: str) -> bool:
    """Whether a posix path has the name of a sound file, and neither it nor a folder is hidden."""
    return _named_as_sound(file) and not is_hidden(file)


def passed_over(files: Iterable[str]) -> str:
    """What `is_audio` leaves out, by kind and name, as "2 .txt (a.txt, b.txt)"; "" for nothing.

    Not named is what systems hide among the files of people, such as .DS_Store.
    """
    kinds = defaultdict(list)
    for file in files:
        if not (is_audio(file) or _is_of_a_system(file)):
            suffix = PurePosixPath(file).suffix.lower() or "without a suffix"
            kinds["hidden" if is_hidden(file) else suffix].append(file)
    return ", ".join(
        f"{len(names)} {kind} ({', '.join(sorted(names))})" for kind, names in sorted(kinds.items())
    )


def _named_as_sound(file: str) -> bool:
    return _SOUND.fullmatch(PurePosixPath(file).suffix) is not None


def is_hidden(file: str) -> bool:
    """Whether a posix path, or a folder of it, is hidden, as what systems leave behind is."""
    return any(part.startswith(".") for part in PurePosixPath(file).parts)


def _is_of_a_system(file: str) -> bool:
    name = PurePosixPath(file).name
    if is_hidden(file):  # sound that somebody has hidden is said, unless the Finder has made it
        return name.startswith("._") or not _named_as_sound(file)
    return name.lower() in ("thumbs.db", "desktop.ini")


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

    It is written beside its place under a name of its own, synced to the disk, and renamed; a link
    stays, and where it leads is written. What is no regular file, such as a pipe or /dev/null, is
    written to as it is. Text is UTF-8, its line ends are left alone, and what is no text (a file
    name may hold any byte) becomes a backslash escape.

    Args:
        path: the file; its folder exists.
        mode: "w" for text, "wb" for bytes.

    Raises:
        OSError: it cannot be written; what was there before is untouched.
    """
    options: dict[str, Any] = {}
    if "b" not in mode:
        options = {"encoding": "utf-8", "errors": "backslashreplace", "newline": ""}
    if is_special(path):
        with open(path, mode, **options) as file:
            yield file
        return
    path = Path(os.path.realpath(path))
    # A part of the name, for the longest ones leave no room for what is put around them.
    descriptor, partial = tempfile.mkstemp(
        dir=path.parent, prefix=f".{path.name[:LONGEST_PREFIX]}.", suffix=".tmp"
    )
    try:
        with os.fdopen(descriptor, mode, **options) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(partial, 0o666 & ~_umask())
        os.replace(partial, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(partial)


def is_special(path: str | os.PathLike) -> bool:
    """Whether a path leads to something that is no regular file: a pipe, a device, a folder."""
    return os.path.exists(path) and not os.path.isfile(path)


def require_there(path: str | os.PathLike, remedy: str) -> None:
    """Refuses a path where nothing is, or that leads where the user may not look.

    Args:
        path: of a file or a folder.
        remedy: the end of the sentence: "make it with ...".

    Raises:
        UserError: so it is.
    """
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:  # of a NUL
        raise UserError(f"{path} does not exist; {remedy}") from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; {remedy}") from error


def take_lock(file: IO[Any]) -> bool:
    """Locks an open file, for as long as any process has it open; False where another has it.

    A file system without locks has none to refuse.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True


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
