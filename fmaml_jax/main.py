"""`python -m fmaml_jax.main --flagfile=FILE`: flags to config, config to a run."""

import contextlib
import os
import sys
from pathlib import Path

import jax
from absl import flags

from data_prep import console
from data_prep.console import UserError
from fmaml_jax import config as settings
from fmaml_jax.run import run
from fmaml_jax.train import InterruptedRunError, NonFiniteLossError


def main() -> int:
    """Runs what the flags say; the exit code is 1 for a diverged run, 128 + signal for a stop."""
    config = settings.config_from_flags(flags.FLAGS)
    _set_up_jax()
    try:
        run(config)
    except NonFiniteLossError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except InterruptedRunError as error:
        print(error, file=sys.stderr)
        return 128 + error.signal_number
    except OSError as error:
        raise UserError(
            f"cannot write to --run_dir={config.run_dir} ({error}); make room or get permission, "
            "and the same command continues"
        ) from error
    return 0


def _set_up_jax() -> None:
    try:
        jax.devices()
    except RuntimeError as error:
        raise UserError(
            f"JAX finds no device ({' '.join(str(error).split())}); install the plugin that "
            "JAX_PLATFORMS names, or unset it"
        ) from error
    # Products of float32 are rounded to fewer bits on GPU and TPU otherwise, and results differ.
    jax.config.update("jax_default_matmul_precision", "float32")
    # Keeps compiled programs for later runs, in a folder that only the user can write. Without a
    # home that can be written, every run compiles anew.
    with contextlib.suppress(OSError, RuntimeError):
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fmaml_jax"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        jax.config.update("jax_compilation_cache_dir", str(folder))


if __name__ == "__main__":
    settings.define_flags()
    flags.adopt_module_key_flags(settings)
    console.run(main)
