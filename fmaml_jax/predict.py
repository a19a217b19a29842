"""`python -m fmaml_jax.predict --model=my.model FILES_OR_FOLDERS... --format=csv`.

What is found goes to standard output or `--out`; progress, and what is to be said of a file, to
standard error. A file that cannot be used costs the others nothing; the exit code is then 2.
"""

import contextlib
import math
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from fmaml_jax.common import console
from fmaml_jax.common.errors import UserError
from fmaml_jax.common.files import is_special
from fmaml_jax.encoder import DEFAULT
from fmaml_jax.recognition.formats import FORMATS


def main(arguments: Sequence[str]) -> int:
    """Labels files; the exit code is 2 where one could not be used."""
    args = flags.FLAGS
    if not args.model:
        raise UserError("--model is missing; for example --model=my.model")
    if math.isnan(args.abstain):  # which no limit of a flag keeps out
        raise UserError("--abstain=nan is no probability; give a number from 0 to 1")

    # Late, so that --help does not wait for the libraries of sound.
    from fmaml_jax.recognition import recordings

    wanted = recordings.find_recordings(arguments)
    out, written = args.out, FORMATS[args.format]
    if not out and sys.__stdout__ is None:
        raise UserError("standard output is closed; name a file: --out=FILE")
    to_folder = bool(out) and (out.endswith("/") or Path(out).is_dir())
    if written.single and len(wanted) > 1 and not to_folder:
        raise UserError(
            f"--format={args.format} holds one recording, and there are {len(wanted)}; give a "
            "folder: --out=FOLDER/"
        )
    read = [args.model, *(recording.path for recording in wanted)]
    if out and os.path.realpath(out) in map(os.path.realpath, read):
        raise UserError(f"--out={out} is a file that is to be read; choose another name")
    if to_folder or args.pictures:
        recordings.require_names(wanted)
    if to_folder:
        recordings.require_folder(Path(out))
    elif out and not is_special(out):
        recordings.require_folder(Path(os.path.realpath(out)).parent)
    if args.pictures:
        recordings.require_folder(Path(args.pictures))

    # Later still, so that a missing file is said before JAX is there.
    from fmaml_jax.recognition import load
    from fmaml_jax.training.devices import set_up_device

    set_up_device()
    console.unwind_on_termination()  # so that neither a helper nor half a file stays
    recogniser = load(args.model, args.encoder)
    done: list[float | None] = []
    started = time.perf_counter()
    # Closed, its progress ends before an error is said.
    with (
        recordings.helpers(recogniser, wanted) as helpers,
        contextlib.closing(
            recordings.predict_each(recogniser, wanted, args.abstain, helpers, args.pictures, done)
        ) as found,
    ):
        write = recordings.write_each if to_folder else recordings.write_all
        write(found, written, out)
    heard = [seconds for seconds in done if seconds is not None]
    if not heard:
        return 2
    seconds, took = sum(heard), time.perf_counter() - started
    print(
        f"{len(heard)} file{'s' * (len(heard) > 1)}, {seconds:,.0f} s of sound in {took:.1f} s: "
        f"{seconds / took:.0f} times real time",
        file=sys.stderr,
    )
    return 0 if len(heard) == len(done) else 2


def define_flags() -> None:
    """The model, how the result is written, and where it goes."""
    flags.DEFINE_string("model", "", "A file that `python -m fmaml_jax.enrol` wrote.")
    flags.DEFINE_string(
        "encoder", DEFAULT, "Weights (or their folder) for a model that hears with an encoder."
    )
    flags.DEFINE_enum("format", "csv", [*FORMATS], "How the result is written.")
    flags.DEFINE_string(
        "out", "", "File to write, or a folder for one file a recording; else standard output."
    )
    flags.DEFINE_float("abstain", 0.0, "Less probable answers are 'unsure'.", 0.0, 1.0)
    flags.DEFINE_string("pictures", "", "Folder for a PNG of each file's timeline.")


if __name__ == "__main__":
    define_flags()
    console.run(main, arguments=True)
