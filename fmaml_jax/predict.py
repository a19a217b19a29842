"""`python -m fmaml_jax.predict --model=my.model FILES_OR_FOLDERS... --format=csv`.

The answers go to standard output or `--out`. Progress, warnings and the shares of known speakers go
to standard error. Where a file cannot be used, the others are answered all the same, and the exit
code is 2.
"""

import contextlib
import math
import os
import sys
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

from fmaml_jax.common import console
from fmaml_jax.common.errors import UserError
from fmaml_jax.common.files import is_special, require_there
from fmaml_jax.encoder import DEFAULT
from fmaml_jax.recognition import MAKE
from fmaml_jax.recognition.annotations import TIER
from fmaml_jax.recognition.formats import FORMATS, TERMINAL, Format, filling

WITHOUT_FILE = ("file", "found", "folder")
"""Of --speakers, what is no file."""

if TYPE_CHECKING:
    from fmaml_jax.recognition import Prediction
    from fmaml_jax.recognition.interface import Speakers
    from fmaml_jax.recognition.recordings import Recording


def main(arguments: Sequence[str]) -> int:
    """Labels files; the exit code is 2 where one could not be used."""
    args = flags.FLAGS
    if not args.model:
        raise UserError("--model is missing; for example --model=my.model")
    require_there(args.model, MAKE)
    if math.isnan(args.abstain):  # which no limit of a flag keeps out
        raise UserError("--abstain=nan is not a probability; give a number from 0 to 1")
    if args.tier and not args.fill:
        raise UserError(f"--tier={args.tier} is of the file to fill; give it too (--fill=FILE)")
    if args.fill and args["format"].present:
        raise UserError("a file that is filled keeps its format; leave out --format or --fill")
    if args.speakers and args.channels == "split":
        raise UserError("split channels are speakers already; leave out --channels or --speakers")

    # Late, so that --help does not wait for the libraries of sound.
    from fmaml_jax.recognition import recordings

    wanted = recordings.find_recordings(arguments)
    written = FORMATS[args.format]
    if args.fill:
        written = filling(Path(args.fill), args.tier or TIER)
    out = args.out or args.fill
    if not out and sys.__stdout__ is None:
        raise UserError("standard output is closed; name a file: --out=FILE")
    if not out and not args["format"].present and sys.stdout.isatty():
        written = TERMINAL
    to_folder = bool(out) and (out.endswith("/") or os.path.isdir(out))
    if args.fill and (len(wanted) > 1 or to_folder):
        raise UserError("--fill is of one recording, and one file; name one of each")
    if written.single and len(wanted) > 1 and not to_folder:
        raise UserError(
            f"--format={args.format} holds one recording, and there are {len(wanted)}; give a "
            "folder: --out=FOLDER/"
        )
    if out and not to_folder:
        _require_suffix(Path(out), written)
    _require_places(args, wanted, out, to_folder)
    if args.channels == "split":
        recordings.require_channels(wanted)
    turns = None
    told = args.speakers not in ("", *WITHOUT_FILE)
    if told:
        from fmaml_jax.recognition.speakers import read_turns

        turns = read_turns(Path(args.speakers), [recording.path for recording in wanted])

    # Later still, so that a missing file is said before JAX is there.
    from fmaml_jax.recognition import load, predict
    from fmaml_jax.recognition.description import describe_speakers
    from fmaml_jax.recognition.interface import hear, label_together
    from fmaml_jax.training.devices import set_up_device

    set_up_device()
    console.unwind_on_termination()  # so that neither a helper nor half a file stays
    recogniser = load(args.model, args.encoder)
    speakers = _speakers(args)
    if recogniser.means is None and args.speakers in WITHOUT_FILE:
        raise UserError(
            f"{args.model} is not for clips by speaker; leave out --speakers={args.speakers}, or "
            "enrol again with --speakers=known, found or folder"
        )
    if recogniser.means is not None and not speakers:
        print(
            f"warning: {args.model} is for clips by speaker, and promises less without: say whose "
            "they are (--speakers)",
            file=sys.stderr,
        )
    done: list[float | None] = []
    kept: list[Prediction] = []
    started = time.perf_counter()
    with recordings.helpers(recogniser, wanted, args.speakers == "found") as helpers:
        if recogniser.means is not None and speakers:
            each = recordings.predict_together(
                partial(
                    *(hear, recogniser),
                    channels=args.channels,
                    voices=args.speakers == "found",
                    executor=helpers,
                ),
                partial(label_together, recogniser, speakers=speakers, abstain=args.abstain),
                *(wanted, turns, args.pictures, done),
            )
        else:
            each = recordings.predict_each(
                partial(
                    *(predict, recogniser),
                    abstain=args.abstain,
                    channels=args.channels,
                    executor=helpers,
                ),
                *(wanted, turns, args.pictures, done),
            )
        # Closed, its progress ends before an error is said.
        with contextlib.closing(each) as found:
            write = recordings.write_each if to_folder else recordings.write_all
            summed_up = args.report or turns or args.channels == "split"
            write(_keeping(found, kept) if summed_up else found, written, out)
    if args.report and kept:
        # Late, as pictures are, whose colours it has.
        from fmaml_jax.recognition.overview import overview

        with recordings.writing(Path(args.report)) as file:
            file.write(overview(kept))
    if any(prediction.speakers for prediction in kept):
        print(describe_speakers(kept), file=sys.stderr)
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


def _require_suffix(out: Path, written: Format) -> None:
    """Checks that a file is not named as one of another format, as which it would be opened.

    Raises:
        UserError: it is.
    """
    others = {form.suffix.lower() for form in FORMATS.values()} - {".txt"}  # which any text has
    if out.suffix.lower() in others - {written.suffix.lower()}:
        raise UserError(
            f"--out={out} would be {written.suffix[1:]} inside; name it "
            f"{out.with_suffix(written.suffix)}, or ask for another format"
        )


def _require_places(
    args: flags.FlagValues, wanted: "Sequence[Recording]", out: str, to_folder: bool
) -> None:
    """Checks that what is written has a place of its own, before any work is done.

    Raises:
        UserError: a file would be read and written, or two would be one, or cannot be written.
    """
    from fmaml_jax.recognition.recordings import require_folder, require_names

    told = [args.speakers] * (args.speakers not in ("", *WITHOUT_FILE))
    read = [args.model, *(recording.path for recording in wanted), *told]
    if out and os.path.realpath(out) in map(os.path.realpath, read):
        raise UserError(f"--out={out} is a file that is to be read; choose another name")
    used = map(os.path.realpath, [*read, out or "/"])
    if args.report and (os.path.isdir(args.report) or os.path.realpath(args.report) in used):
        raise UserError(f"--report={args.report} has another use; choose another name")
    if to_folder or args.pictures:
        require_names(wanted)
    if to_folder:
        require_folder(Path(out))
    elif out and not is_special(out):
        require_folder(Path(os.path.realpath(out)).parent)
    if args.pictures:
        require_folder(Path(args.pictures))
    if args.report:
        require_folder(Path(os.path.realpath(args.report)).parent)


def _speakers(args: flags.FlagValues) -> "Speakers | None":
    """What is known of the speakers, as `label_together` calls it; None for nothing."""
    if args.speakers in WITHOUT_FILE:
        return args.speakers
    if args.channels == "split":
        return "named"
    # In an RTTM a name is of one recording, and somebody else in the next.
    named = "named_by_file" if args.speakers.lower().endswith(".rttm") else "named"
    return named if args.speakers else None


def _keeping(
    found: "Iterator[tuple[Recording, Prediction]]", kept: "list[Prediction]"
) -> "Iterator[tuple[Recording, Prediction]]":
    """The same, and each prediction is kept."""
    for recording, prediction in found:
        kept.append(prediction)
        yield recording, prediction


def define_flags() -> None:
    """The model, how the result is written, and where it goes."""
    flags.DEFINE_string("model", "", "The model file that enrol wrote.")
    flags.DEFINE_string(
        "encoder",
        DEFAULT,
        "The file or folder of the encoder's weights, for a model that hears with an encoder.",
    )
    flags.DEFINE_enum(
        "format",
        "csv",
        [*FORMATS],
        "How the answers are written. Without it, a terminal shows a short table.",
        case_sensitive=False,
    )
    flags.DEFINE_string(
        "out", "", "The file to write, or a folder that gets a file for each recording."
    )
    flags.DEFINE_float("abstain", 0.0, "Answers that are less probable are 'unsure'.", 0.0, 1.0)
    flags.DEFINE_string(
        "fill",
        "",
        "A TextGrid or .eaf that gets the labels of one recording. All else in it stays. The file "
        "itself is changed, or with --out a new one is written.",
    )
    flags.DEFINE_string("tier", "", "The tier to fill, empty or new; without it, 'emotion'.")
    flags.DEFINE_enum(
        "channels",
        "mixed",
        ["mixed", "split"],
        "The channels of a stereo file are mixed into one, or split: each is a speaker of a call.",
    )
    flags.DEFINE_string(
        "speakers",
        "",
        "Who speaks when: an RTTM, or a CSV with the columns file and speaker and, if known, start "
        "and end. For a model that was enrolled with --speakers also 'file' (each file is one "
        "speaker), 'folder' (all are taken as one) or 'found' (by ear). An answer then depends on "
        "the speaker's other clips, and 5 or more of them help. Voices are compared in memory, and "
        "nothing of them is written.",
    )
    flags.DEFINE_string(
        "pictures", "", "A folder that gets a picture (PNG) of each file's timeline."
    )
    flags.DEFINE_string(
        "report", "", "An HTML page to write: timelines, shares, and the least sure segments."
    )


def command() -> None:
    """The whole command, as it is installed."""
    define_flags()
    console.run(
        main,
        arguments=True,
        example="--model=my.model call.wav --format=csv --out=call.csv",
        required=("model",),
    )


if __name__ == "__main__":
    command()
