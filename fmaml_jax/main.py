"""`python -m fmaml_jax.main --flagfile=FILE`: flags to config, config to a run."""

import contextlib
import os
import sys
from pathlib import Path

import jax
from absl import flags

from data_prep import console
from fmaml_jax.config import config_from_flags, define_flags
from fmaml_jax.run import run
from fmaml_jax.train import InterruptedRunError, NonFiniteLossError


def main() -> int:
    """Runs what the flags say; the exit code is 1 for a diverged run, 128 + signal for a stop."""
    config = config_from_flags(flags.FLAGS)
    _use_compilation_cache()
    try:
        run(config)
    except NonFiniteLossError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except InterruptedRunError as error:
        print(error, file=sys.stderr)
        return 128 + error.signal_number
    return 0


def _use_compilation_cache() -> None:
    """Keeps compiled programs for later runs, in a folder that only the user can write."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fmaml_jax"
    with contextlib.suppress(OSError):  # without a home that can be written, every run compiles
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        jax.config.update("jax_compilation_cache_dir", str(folder))


if __name__ == "__main__":
    define_flags()
    console.run(main)
