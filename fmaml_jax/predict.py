"""`python -m fmaml_jax.predict --model=my.model FILES_OR_FOLDERS... --format=csv`.

What is found goes to standard output or `--out`; progress, and what is to be said of a file, to
standard error. A file that cannot be used costs the others nothing; the exit code is then 2.
"""

import contextlib
import itertools
import os
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TextIO

from absl import flags
from tqdm import tqdm

from fmaml_jax.audio.decoding import AudioError, is_audio, probe
from fmaml_jax.common import console
from fmaml_jax.common.console import progress
from fmaml_jax.common.errors import UserError
from fmaml_jax.common.files import walk, whole_file
from fmaml_jax.common.processes import cores, process_pool
from fmaml_jax.common.text import one_line

if TYPE_CHECKING:
    from fmaml_jax.recognition import Prediction, Recogniser

FORMATS = ("csv", "json", "audacity", "textgrid", "rttm")
"""Those of `recognition.formats`, which --help would have to wait for."""

HELPERS = 4
"""Of more processes some would wait: this one, which finds the speech, feeds about three."""
HELP_SECONDS = 180
"""Shorter files are done as soon by this process alone."""


class Recording(NamedTuple):
    """A file to label, and its path below the folder that it was found in."""

    path: Path
    name: Path


def main(arguments: Sequence[str]) -> int:
    """Labels files; the exit code is 2 where one could not be used."""
    args = flags.FLAGS
    if not args.model:
        raise UserError("--model is missing; for example --model=my.model")
    recordings = find_recordings(arguments)
    lengths = [_seconds(recording.path) for recording in recordings]

    # Late, so that --help and a missing flag do not wait for JAX.
    from fmaml_jax.recognition import formats, load
    from fmaml_jax.training.devices import set_up_compilation

    out, written = args.out, formats.FORMATS[args.format]
    to_folder = bool(out) and (out.endswith("/") or Path(out).is_dir())
    if written.single and len(recordings) > 1 and not to_folder:
        raise UserError(
            f"--format={args.format} holds one recording, and there are {len(recordings)}; give a "
            "folder: --out=FOLDER/"
        )
    read = [args.model, *(recording.path for recording in recordings)]
    if out and os.path.realpath(out) in map(os.path.realpath, read):
        raise UserError(f"--out={out} is a file that is to be read; choose another name")
    if to_folder or args.pictures:
        require_names(recordings)
    if out:
        require_folder(Path(out) if to_folder else Path(out).parent)
    if args.pictures:
        require_folder(Path(args.pictures))
    set_up_compilation()
    console.unwind_on_termination()  # so that neither a helper nor half a file stays
    recogniser = load(args.model)
    done: list[float | None] = []
    started = time.perf_counter()
    # Closed, its progress ends before an error is said.
    with (
        _helpers(lengths) as helpers,
        contextlib.closing(
            _predictions(
                recogniser, recordings, lengths, args.abstain, helpers, args.pictures, done
            )
        ) as found,
    ):
        if (first := next(found, None)) is None:
            return 2
        every = itertools.chain([first], found)
        if to_folder:
            for recording, prediction in every:
                with _writing(Path(out, recording.name.with_suffix(written.suffix))) as file:
                    written.write([prediction], file)
        else:
            with _writing(Path(out)) if out else _standard_output() as file:
                written.write((prediction for _, prediction in every), file)
    heard = [seconds for seconds in done if seconds is not None]
    seconds, took = sum(heard), time.perf_counter() - started
    print(
        f"{len(heard)} file{'s' * (len(heard) > 1)}, {seconds:,.0f} s of sound in {took:.1f} s: "
        f"{seconds / took:.0f} times real time",
        file=sys.stderr,
    )
    return 0 if len(heard) == len(done) else 2


def find_recordings(arguments: Sequence[str]) -> list[Recording]:
    """Files as they are given, and the sound files of folders in the order of their names.

    Raises:
        UserError: nothing is given, or something that does not exist or holds no sound.
    """
    if not arguments:
        raise UserError("no files are given; name sound files, or folders of them")
    recordings = []
    for argument in map(Path, arguments):
        if argument.is_dir():
            names = sorted(name for name in walk(argument) if is_audio(name))
            recordings += [Recording(argument / name, Path(name)) for name in names]
            if not names:
                raise UserError(f"{argument} holds no sound files; name another folder")
        elif argument.exists():
            recordings.append(Recording(argument, Path(argument.name)))
        else:
            raise UserError(f"{argument} does not exist; name sound files, or folders of them")
    return recordings


def require_names(recordings: Sequence[Recording]) -> None:
    """Checks that files of recordings' own names, with another suffix, are as many.

    Raises:
        UserError: two recordings would be written under one name.
    """
    seen: dict[Path, Path] = {}
    for path, name in recordings:
        if (other := seen.setdefault(name.with_suffix(""), path)) != path:
            raise UserError(
                f"{other} and {path} would be written under one name; give one of them another, "
                "or do them one after the other"
            )


def require_folder(folder: Path) -> None:
    """Makes a folder where there is none, before any work is done.

    Raises:
        UserError: files cannot be written into it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK)
    except OSError:
        writable = False
    if not writable:
        raise UserError(f"cannot write into {folder}; name a folder that can be written")


@contextlib.contextmanager
def _helpers(lengths: Sequence[int]) -> Iterator[Executor | None]:
    """Processes that describe what this one hears, where it is worth their start."""
    processes = min(cores(), HELPERS)
    if processes == 1 or max(lengths) < HELP_SECONDS:
        yield None
    else:
        with process_pool(processes) as pool:
            yield pool


def _predictions(
    recogniser: "Recogniser",
    recordings: Sequence[Recording],
    lengths: Sequence[int],
    abstain: float,
    helpers: Executor | None,
    pictures: str,
    done: list[float | None],
) -> Iterator[tuple[Recording, "Prediction"]]:
    """Predicts one recording after the other; says what is wrong with one and goes on.

    `done` gets the seconds of each, and None for what cannot be used.
    """
    from fmaml_jax.recognition import predict
    from fmaml_jax.recognition.pictures import draw_timeline, save_picture

    with progress("listening", sum(lengths), " s") as bar:
        for number, recording in enumerate(recordings):
            before = sum(lengths[:number])

            def report(seconds: float, before: int = before) -> None:
                bar.update(before + int(seconds) - bar.n)

            try:
                prediction = predict(
                    recogniser, recording.path, abstain=abstain, executor=helpers, report=report
                )
            except UserError as error:
                _say(bar, f"error: {error}")
                done.append(None)
                continue
            for warning in prediction.warnings:
                _say(bar, f"warning: {recording.path}: {warning}")
            if pictures:
                picture = Path(pictures, recording.name.with_suffix(".png"))
                save_picture(picture, draw_timeline(prediction))
            done.append(prediction.seconds)
            yield recording, prediction


def _seconds(path: Path) -> int:
    """Whole seconds of sound by the file's header; none where it cannot be read."""
    try:
        return int(probe(path).seconds)
    except AudioError:
        return 0


def _say(bar: tqdm, text: str) -> None:
    bar.write(one_line(text), file=sys.stderr)


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[TextIO]:
    """A text file that is there whole or not at all.

    Raises:
        UserError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as file:
            yield file
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror or error}; give --out a place that is writable "
            "and has room"
        ) from error


@contextlib.contextmanager
def _standard_output() -> Iterator[TextIO]:
    """Standard output in UTF-8; a reader that has had enough, such as `head`, is no error."""
    sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace", newline="")
    try:
        yield sys.stdout
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    flags.DEFINE_string("model", "", "A file that `python -m fmaml_jax.enrol` wrote.")
    flags.DEFINE_enum("format", "csv", FORMATS, "How the result is written.")
    flags.DEFINE_string(
        "out", "", "File to write, or a folder for one file a recording; else standard output."
    )
    flags.DEFINE_float("abstain", 0.0, "Less probable answers are 'unsure'.", 0.0, 1.0)
    flags.DEFINE_string("pictures", "", "Folder for a PNG of each file's timeline.")
    console.run(main, arguments=True)
