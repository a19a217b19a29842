"""`python -m fmaml_jax.enrol --support=DIR_OR_CSV --out=my.model`."""

import contextlib
import time
from pathlib import Path

from absl import flags

from fmaml_jax.common import console
from fmaml_jax.common.errors import UserError
from fmaml_jax.encoder import DEFAULT


def main() -> None:
    """Enrols, saves the model, and prints what is to be thought of it."""
    args = flags.FLAGS
    for name, example in (("support", "clips"), ("out", "my.model")):
        if not args[name].value:
            raise UserError(f"--{name} is missing; for example --{name}={example}")
    same_as = dict(_meaning(item) for item in args.same_as)

    # Late, so that --help and a missing flag do not wait for JAX.
    from fmaml_jax import recognition
    from fmaml_jax.recognition.checkpoint import chosen_start, load_start
    from fmaml_jax.recognition.description import describe
    from fmaml_jax.recognition.model_file import require_writable
    from fmaml_jax.training.devices import set_up_device

    started = time.perf_counter()
    require_writable(args.out)
    set_up_device()
    checkpoint = chosen_start(args.checkpoint, args["encoder"].present > 0)
    start = load_start(checkpoint, args.encoder)
    with contextlib.ExitStack() as shown:
        bars = []

        def report(done: int, total: int) -> None:
            if not bars:
                bars.append(shown.enter_context(console.progress("reading", total, " clips")))
            bars[0].update(done - bars[0].n)
            if done == total:
                shown.close()

        recogniser = recognition.enrol(
            *(start, args.support),
            same_as=same_as,
            without=args.without,
            tier=args.tier,
            speakers=args.speakers,
            report=report,
        )
    recognition.save(recogniser, args.out)
    print(describe(recogniser), flush=True)
    if args.picture:
        # Late, since Matplotlib wants a folder that it can write, for its list of fonts.
        from fmaml_jax.recognition.pictures import draw_estimate, save_picture

        save_picture(Path(args.picture), draw_estimate(recogniser))
    print(f"{args.out} is written, after {time.perf_counter() - started:.1f} s")


def _meaning(item: str) -> tuple[str, str]:
    label, equals, meaning = item.partition("=")
    if not (label and equals and meaning):
        raise UserError(f"--same_as={item} is not of the form label=class, such as gniew=anger")
    return label.strip(), meaning.strip()


def define_flags() -> None:
    """The start, the clips, what they mean, and where the model goes."""
    flags.DEFINE_string(
        "checkpoint",
        "",
        "The start: descriptors or encoder, which come with fmaml_jax, a start's file, or the "
        "folder of a finished run. By default descriptors, or encoder where --encoder is given.",
    )
    flags.DEFINE_string(
        "encoder",
        DEFAULT,
        "The file or folder of the encoder's weights, for a start that hears with an encoder.",
    )
    flags.DEFINE_string(
        "support",
        "",
        "The labelled clips: a folder that has a folder for each label; a CSV with the columns "
        "file and label and, if known, start, end and speaker (files are looked for beside it); or "
        "a TextGrid, an .eaf or Audacity's labels beside their sound, such as a corrected file of "
        "predict.",
    )
    flags.DEFINE_string(
        "tier",
        "",
        "The tier that has the labels; without it, 'emotion', or emotion@NAME for a speaker's. "
        "With it, --support may be a folder of TextGrids and .eaf files.",
    )
    flags.DEFINE_enum(
        "speakers",
        "",
        ["", "known", "found", "folder"],
        "Makes a model that takes a speaker's clips together (predict --speakers). The speakers of "
        "the labelled clips are known, or found by ear, or all taken as one (folder). Voices are "
        "compared in memory, and nothing of them is written.",
    )
    flags.DEFINE_string("out", "", "The model file to write.")
    flags.DEFINE_list(
        "same_as", [], "What labels mean in the start's words: gniew=anger,smutek=sadness."
    )
    flags.DEFINE_list(
        "without", [], "Classes without clips that are never to be the answer: neutral."
    )
    flags.DEFINE_string("picture", "", "A PNG file to draw the estimate into.")


def command() -> None:
    """The whole command, as it is installed."""
    define_flags()
    console.run(
        main,
        example="--support=clips --out=my.model",
        required=("support", "out"),
    )


if __name__ == "__main__":
    command()
