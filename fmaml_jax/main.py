"""`python -m fmaml_jax.main --flagfile=FILE`: flags to config, config to a run.

With `--distributed` the same command, started once on each host, is one run on all of them.
"""

import sys

from absl import flags

from fmaml_jax import config_flags
from fmaml_jax.common import console
from fmaml_jax.common.errors import UserError


def define_flags() -> None:
    """The settings of a run, and how it is started."""
    config_flags.define_flags()
    flags.adopt_module_key_flags(config_flags)  # so that --help lists them
    flags.DEFINE_bool(
        "distributed",
        False,
        "one run of many processes: the hosts of a TPU slice or of a Slurm step",
    )


def main() -> int:
    """Runs what the flags say; the exit code is 1 for a diverged run, 128 + signal for a stop."""
    config = config_flags.config_from_flags(flags.FLAGS)

    # Late, so that --help and a wrong flag do not wait for JAX.
    from fmaml_jax.training.devices import ends_with_its_peers, one_voice, set_up
    from fmaml_jax.training.experiment import run
    from fmaml_jax.training.train import InterruptedRunError, NonFiniteLossError

    set_up(distributed=flags.FLAGS.distributed)
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


def command() -> None:
    """The whole command, as it is installed."""
    define_flags()
    console.run(
        main,
        example="--flagfile=experiments/best.cfg --target=emovo --run_dir=runs/best_emovo",
        required=config_flags.REQUIRED,
        groups=config_flags.groups(),
    )


if __name__ == "__main__":
    command()
