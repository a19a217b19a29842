"""`python -m fmaml_jax.main --flagfile=FILE`: flags to config, config to a run.

With `--distributed` the same command, started once on each host, is one run on all of them.
"""

import os
import sys

import jax
from absl import flags

from fmaml_jax import config as settings
from fmaml_jax.common import console
from fmaml_jax.common.errors import UserError
from fmaml_jax.training.devices import ends_with_its_peers, one_voice, set_up_compilation
from fmaml_jax.training.experiment import run
from fmaml_jax.training.train import InterruptedRunError, NonFiniteLossError

PEER_TIMEOUT = 30
"""Seconds without a sign of life after which a process counts as gone."""


def main() -> int:
    """Runs what the flags say; the exit code is 1 for a diverged run, 128 + signal for a stop."""
    config = settings.config_from_flags(flags.FLAGS)
    _set_up_jax()
    try:
        with one_voice(), ends_with_its_peers():
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
    # Every core as a device of its own, which a task has to itself; measured in
    # experiments/benchmarks. No number of devices depends on it where there is an accelerator.
    if "JAX_NUM_CPU_DEVICES" not in os.environ:
        jax.config.update("jax_num_cpu_devices", len(os.sched_getaffinity(0)))
    try:
        if flags.FLAGS.distributed:
            jax.distributed.initialize(
                heartbeat_timeout_seconds=PEER_TIMEOUT, shutdown_timeout_seconds=PEER_TIMEOUT
            )
        jax.devices()
    except RuntimeError as error:
        raise UserError(
            f"JAX finds no device ({' '.join(str(error).split())}); install the plugin that "
            "JAX_PLATFORMS names, or unset it"
        ) from error
    set_up_compilation()


def define_flags() -> None:
    settings.define_flags()
    flags.adopt_module_key_flags(settings)
    flags.DEFINE_bool(
        "distributed",
        False,
        "one run of many processes: the hosts of a TPU slice or of a Slurm step",
    )


if __name__ == "__main__":
    define_flags()
    console.run(main)
