"""Sound files and folders of them -> predictions, one after the other -> files, or output."""

import contextlib
import io
import itertools
import math
import os
import sys
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tqdm import tqdm

from fmaml_jax.audio.decoding import AudioError, probe
from fmaml_jax.audio.features import AnyEncoderConfig
from fmaml_jax.common.console import progress
from fmaml_jax.common.errors import UserError
from fmaml_jax.common.files import is_audio, passed_over, require_there, walk, whole_file
from fmaml_jax.common.processes import cores, process_pool
from fmaml_jax.common.text import one_line
from fmaml_jax.recognition.formats import Format

if TYPE_CHECKING:
    from fmaml_jax.recognition import Prediction, Recogniser
    from fmaml_jax.recognition.interface import Heard
    from fmaml_jax.recognition.speakers import Turn

HELPERS = 4
"""Of more processes some would wait: this one, which finds the speech, feeds about three."""
HELP_SECONDS = 180
"""Shorter files are done as soon by this process alone."""


class Recording(NamedTuple):
    """A file to label.

    Attributes:
        path: where it is.
        name: its path below the folder that it was found in.
        seconds: by the file's header, rounded up; none where it cannot be read.
        channels: by the header too.
    """

    path: Path
    name: Path
    seconds: int
    channels: int = 0


def find_recordings(arguments: Sequence[str]) -> list[Recording]:
    """Files as they are given, and the sound files of folders in the order of their names.

    Raises:
        UserError: nothing is given, or something that does not exist or holds no sound.
    """
    if not arguments:
        raise UserError("no files are given; name sound files, or folders of them")
    recordings = []
    for given in arguments:
        require_there(given, "name sound files, or folders of them")
        argument = Path(given)
        if argument.is_dir():
            files = list(walk(argument))
            names = sorted(name for name in files if is_audio(name))
            if others := passed_over(files):
                print(one_line(f"{argument}: no sound, passed over: {others}"), file=sys.stderr)
            recordings += [_recording(argument / name, Path(name)) for name in names]
            if not names:
                raise UserError(f"{argument} holds no sound files; name another folder")
        else:
            recordings.append(_recording(argument, Path(argument.name)))
    return recordings


def _recording(path: Path, name: Path) -> Recording:
    try:
        header = probe(path)
        return Recording(path, name, math.ceil(header.seconds), header.channels)
    except AudioError:
        return Recording(path, name, 0)


def require_names(recordings: Sequence[Recording]) -> None:
    """Checks that files of recordings' own names, with another suffix, are as many.

    Raises:
        UserError: two recordings would be written under one name.
    """
    seen: dict[Path, Path] = {}
    for path, name, *_ in recordings:
        if (other := seen.setdefault(name.with_suffix(""), path)) != path:
            raise UserError(
                f"{other} and {path} would be written under one name; give one of them another, "
                "or do them one after the other"
            )


def require_channels(recordings: Sequence[Recording]) -> None:
    """Checks that there is something to split, before any work is done.

    Raises:
        UserError: all recordings have one channel.
    """
    if all(recording.channels == 1 for recording in recordings):
        path = recordings[0].path
        raise UserError(f"{path} has one channel, and none to split; leave out --channels=split")


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
def helpers(
    recogniser: "Recogniser", recordings: Sequence[Recording], voices: bool = False
) -> Iterator[Executor | None]:
    """Processes that describe what this one hears, where it is worth their start.

    An encoder, which hears `voices` too, does without.
    """
    processes = min(cores(), HELPERS)
    short = max(recording.seconds for recording in recordings) < HELP_SECONDS
    encoder = voices or isinstance(recogniser.feature_config, AnyEncoderConfig)
    if processes == 1 or short or encoder:
        yield None
    else:
        with process_pool(processes) as pool:
            yield pool


def predict_each(
    predict: "Callable[..., Prediction]",
    recordings: Sequence[Recording],
    turns: "Mapping[Path, Sequence[Turn]] | None",
    pictures: str,
    done: list[float | None],
) -> Generator[tuple[Recording, "Prediction"], None, None]:
    """Predicts one recording after the other; says what is wrong with one and goes on.

    Args:
        predict: `predict` of a recogniser.
        recordings: in the order of what is yielded.
        turns: who speaks when in each recording, where that was asked for.
        pictures: the folder for a picture of each timeline; "" for none.
        done: gets the seconds of each recording, and None for one that cannot be used.
    """
    with contextlib.closing(_hear_each(predict, recordings, turns, done)) as heard:
        yield from _shown(heard, pictures, done)


def predict_together(
    hear: "Callable[..., Heard]",
    label: "Callable[[Sequence[Heard]], Sequence[Prediction]]",
    recordings: Sequence[Recording],
    turns: "Mapping[Path, Sequence[Turn]] | None",
    pictures: str,
    done: list[float | None],
) -> Generator[tuple[Recording, "Prediction"], None, None]:
    """The same where all are heard before the first is labelled.

    Args:
        hear: `interface.hear` of a recogniser.
        label: labels them all.
        recordings: see `predict_each`.
        turns: see `predict_each`.
        pictures: see `predict_each`.
        done: see `predict_each`.

    Raises:
        UserError: see `interface.label_together`.
    """
    if heard := [*_hear_each(hear, recordings, turns, done)]:
        used, found = zip(*heard, strict=True)
        yield from _shown(zip(used, label(found), strict=True), pictures, done)


def _hear_each(
    hear: Callable[..., Any],
    recordings: Sequence[Recording],
    turns: "Mapping[Path, Sequence[Turn]] | None",
    done: list[float | None],
) -> Generator[tuple[Recording, Any], None, None]:
    with progress("listening", sum(recording.seconds for recording in recordings), " s") as bar:
        before = 0
        for recording in recordings:

            def report(seconds: float, before: int = before) -> None:
                bar.update(before + int(seconds) - bar.n)

            before += recording.seconds
            try:
                if turns is not None and recording.path not in turns:
                    raise UserError(f"{recording.path}: --speakers does not say who speaks in it")
                said = turns[recording.path] if turns else ()
                found = hear(recording.path, turns=said, report=report)
            except UserError as error:
                _say(f"error: {error}")
                done.append(None)
                continue
            finally:
                bar.update(before - bar.n)
            yield recording, found


def _shown(
    found: "Iterable[tuple[Recording, Prediction]]", pictures: str, done: list[float | None]
) -> Iterator[tuple[Recording, "Prediction"]]:
    """The same, what is to be said of it said, and its picture drawn."""
    for recording, prediction in found:
        for warning in prediction.warnings:
            _say(f"warning: {recording.path}: {warning}")
        if pictures:
            # Late, since Matplotlib wants a folder that it can write, for its list of fonts.
            from fmaml_jax.recognition.pictures import draw_timeline, save_picture

            picture = Path(pictures, recording.name.with_suffix(".png"))
            save_picture(picture, draw_timeline(prediction))
        done.append(prediction.seconds)
        yield recording, prediction


def _say(text: str) -> None:
    """Says something above the progress, if there is any."""
    tqdm.write(one_line(text), file=sys.stderr)


def write_each(
    found: Iterator[tuple[Recording, "Prediction"]], written: Format, folder: str
) -> None:
    """Writes each prediction into a file of its own, below the folder.

    Raises:
        UserError: one cannot be written.
    """
    for recording, prediction in found:
        with writing(Path(folder, recording.name.with_suffix(written.suffix))) as file:
            written.write([prediction], file)


def write_all(found: Iterator[tuple[Recording, "Prediction"]], written: Format, out: str) -> None:
    """Writes all predictions into one file, or to standard output where `out` is "".

    Where there is none, nothing is written.

    Raises:
        UserError: the file cannot be written.
    """
    if first := next(found, None):
        every = (prediction for _, prediction in itertools.chain([first], found))
        with writing(Path(out)) if out else _standard_output() as file:
            written.write(every, file)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[io.TextIOBase]:
    """A text file that is there whole or not at all.

    Raises:
        UserError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as file:
            assert isinstance(file, io.TextIOBase)
            yield file
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror or error}; choose a place that is writable "
            "and has room"
        ) from error


@contextlib.contextmanager
def _standard_output() -> Iterator[io.TextIOBase]:
    """Standard output in UTF-8; a reader that has had enough, such as `head`, is no error."""
    with (
        contextlib.suppress(BrokenPipeError),
        open(1, "w", -1, "utf-8", "backslashreplace", newline="", closefd=False) as file,
    ):
        yield file
