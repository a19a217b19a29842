"""`arecord -f S16_LE -r 16000 -t raw | python -m fmaml_jax.live --model=my.model`.

What comes in on standard input, 16-bit little-endian mono samples at 16 kHz, is answered as it
comes: a line of JSON on standard output for each second, about the three seconds before it.
"""

import json
import math
import os
import sys

from absl import flags

from fmaml_jax.common import console
from fmaml_jax.common.errors import UserError
from fmaml_jax.common.files import require_there
from fmaml_jax.encoder import DEFAULT
from fmaml_jax.recognition import MAKE

_BLOCK = 1 << 16


def main() -> None:
    """Answers until the input ends."""
    args = flags.FLAGS
    if not args.model:
        raise UserError("--model is missing; for example --model=my.model")
    require_there(args.model, MAKE)
    if math.isnan(args.abstain):  # which no limit of a flag keeps out
        raise UserError("--abstain=nan is not a probability; give a number from 0 to 1")
    if sys.__stdin__ is None or sys.__stdin__.isatty():
        raise UserError(
            "no sound comes in; pipe it: arecord -f S16_LE -r 16000 -t raw | python -m "
            "fmaml_jax.live --model=my.model"
        )

    # Late, so that --help and a missing flag do not wait for JAX.
    from fmaml_jax.recognition import load
    from fmaml_jax.recognition.live import answerer, require_samples, windows
    from fmaml_jax.training.devices import set_up_device

    set_up_device()
    answer = answerer(load(args.model, args.encoder), args.abstain)
    source = sys.__stdin__.fileno()
    heard, number = bytearray(), 0
    while block := os.read(source, _BLOCK):
        heard += block
        if not number:
            require_samples(heard)
        for samples in windows(heard):
            print(json.dumps(answer(number, samples), ensure_ascii=False), flush=True)
            number += 1
    if not number:
        raise UserError("less than 3 s of sound came in, and the first answer is of 3 s; send more")


def define_flags() -> None:
    """The model, and when it is unsure."""
    flags.DEFINE_string("model", "", "The model file that enrol wrote.")
    flags.DEFINE_string(
        "encoder",
        DEFAULT,
        "The file or folder of the encoder's weights, for a model that hears with an encoder.",
    )
    flags.DEFINE_float("abstain", 0.0, "Answers that are less probable are 'unsure'.", 0.0, 1.0)


def command() -> None:
    """The whole command, as it is installed."""
    define_flags()
    console.run(main, example="--model=my.model < call.raw", required=("model",))


if __name__ == "__main__":
    command()
