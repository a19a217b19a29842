"""A run's folder: what it was made from, and what came out of it."""

import contextlib
import json
import os
import platform
import re
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import IO, Any

from fmaml_jax.common.errors import UserError
from fmaml_jax.common.files import take_lock, whole_file
from fmaml_jax.config import Config

LIST_OF_NUMBERS = re.compile(r"\[([-+.\deE,\s]+)\]")

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "scipy")


def settings_of(config: Config) -> dict[str, Any]:
    """A run's settings as JSON has them, without the run folder's own name."""
    settings = {key: value for key, value in asdict(config).items() if key != "run_dir"}
    return json.loads(json.dumps(settings))


def recorded_settings(record: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a `config.json`; one that is newer than the record had its default then."""
    return {**settings_of(Config()), **record["config"]}


def _commit() -> dict[str, str]:
    """The commit of this checkout, "-dirty" where files differ from it; empty outside of one."""
    root = Path(__file__).resolve().parents[2]
    command = ["git", f"--git-dir={root / '.git'}", f"--work-tree={root}"]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(
            [*command, "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        )
        return {"commit": done.stdout.strip()}
    return {}


def describe(
    config: Config, hashes: Mapping[str, str], feature_config: Mapping, device: str
) -> dict[str, Any]:
    """What `config.json` holds: settings, data files' content hashes, versions, device, commit."""
    return {
        "config": settings_of(config),
        "data_hashes": dict(hashes),
        "feature_config": dict(feature_config),
        "versions": {
            "python": platform.python_version(),
            **{package: metadata.version(package) for package in PACKAGES},
            "device": device,
            **_commit(),
        },
    }


@contextlib.contextmanager
def run_folder(path: Path, description: dict[str, Any]) -> Iterator[None]:
    """Makes the folder, or takes up one that the same config and data began, and locks it so long.

    Raises:
        UserError: it cannot be written, it holds something else, another process uses it, or it
            is of another run; then the differences are shown.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock_file = path / ".lock"
        lock = lock_file.open("w")
    except OSError as error:
        raise UserError(
            f"cannot use --run_dir={path}: {error.strerror}; choose a folder that can be written"
        ) from error
    with lock:
        # The file of a process that ends just now is locked by nobody, and gone.
        if not take_lock(lock) or not _is_at(lock_file, lock):
            raise UserError(
                f"another process is at work in --run_dir={path}; wait for it or stop it"
            )
        try:
            _claim(path, description)
            yield
        finally:
            with contextlib.suppress(OSError):
                lock_file.unlink()


def _is_at(path: Path, file: IO[Any]) -> bool:
    """Whether an open file is the one that stands at `path`."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except OSError:
        return False


def _claim(path: Path, description: dict[str, Any]) -> None:
    """Writes `config.json`, or compares it with the one that is there."""
    record = path / "config.json"
    if not record.exists():
        if any(not entry.name.startswith(".") for entry in path.iterdir()):
            raise UserError(f"--run_dir={path} holds other files; choose a new or empty folder")
        write_json(record, description)
        return
    try:
        earlier = json.loads(record.read_text())
        earlier["config"] = recorded_settings(earlier)
        differences = [
            f"{key} was {earlier[part].get(key)}, now {description[part].get(key)}"
            for part in ("config", "data_hashes", "feature_config")
            for key in sorted(earlier[part].keys() | description[part].keys())
            if earlier[part].get(key) != description[part].get(key)
        ]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{record} is damaged; remove the folder or choose another") from error
    if differences:
        raise UserError(
            f"--run_dir={path} belongs to another run ({'; '.join(differences)}); "
            "choose another folder or restore these settings"
        )
    if earlier.get("versions") != description["versions"]:
        print(f"{path} was begun with other versions or on another device; last bits may differ")


def seed_folders(path: Path, config: Config) -> list[Path]:
    """Where each seed's outputs are: the run folder itself, or `seedN` in it for several."""
    if config.seeds_at_once == 1:
        return [path]
    return [path / f"seed{seed}" for seed in config.seeds]


def write_json(path: Path, content: Any) -> None:
    """Writes a JSON file whole or not at all, a list of numbers in one line."""
    text = json.dumps(content, indent=2, allow_nan=False) + "\n"
    with whole_file(path) as file:
        file.write(LIST_OF_NUMBERS.sub(lambda found: f"[{' '.join(found[1].split())}]", text))
