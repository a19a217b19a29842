"""A finished run's start as one file; `make starts` makes those that come with the package.

    python -m experiments.starts --checkpoint=runs/starts/descriptors --out=my_start.npz

`enrol` and `serve` take the file as `--checkpoint`.
"""

from absl import flags

from fmaml_jax.common import console
from fmaml_jax.common.errors import UserError
from fmaml_jax.encoder import DEFAULT
from fmaml_jax.recognition.checkpoint import load_start, save_start


def main() -> None:
    """Writes the file."""
    args = flags.FLAGS
    for name in ("checkpoint", "out"):
        if not args[name].value:
            raise UserError(f"--{name} is missing; {args[name].help}")
    start = load_start(args.checkpoint, args.encoder)
    save_start(args.out, start)
    print(f"{args.out} is written: {', '.join(start.config.classes)}; {start.digest[:12]}")


def define_flags() -> None:
    """The run, and the file."""
    flags.DEFINE_string("checkpoint", "", "Folder of a finished run with --target=none.")
    flags.DEFINE_string("encoder", DEFAULT, "Weights that the run heard with.")
    flags.DEFINE_string("out", "", "The .npz file to write.")


if __name__ == "__main__":
    define_flags()
    console.run(main)
