"""Folders of synthetic speech, neutral speech and silence: what `data_prep.synthesise` writes."""

import csv
import functools
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.io import wavfile

from fmaml_jax.common import console
from fmaml_jax.common.errors import UserError
from fmaml_jax.common.processes import cores, process_pool
from fmaml_jax.synthesis.sentences import EMOFILM_LANGUAGES, SENTENCES
from fmaml_jax.synthesis.speech import (
    EMOFILM_CODES,
    MAX_EMOFILM_CLIPS,
    Clip,
    emofilm_clips,
    neutral_clips,
    render,
    silence_clips,
)


def _write_clip(clip: Clip, folder: Path, seed: int) -> float:
    """Writes one WAV file and returns its seconds."""
    samples, sample_rate = render(clip, seed)
    path = folder / clip.path
    path.parent.mkdir(parents=True, exist_ok=True)
    wavfile.write(path, sample_rate, np.round(samples * 32767).astype(np.int16))
    return len(samples) / sample_rate


def _write_table(folder: Path, kind: str, clips: Sequence[Clip]) -> None:
    name = "EmoFilm_labels_synthetic.csv" if kind == "emofilm" else "manifest.csv"
    with (folder / name).open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        if kind == "emofilm":
            table.writerow(("file", "speaker", "film", "gender", "language", "emo"))
            for clip in clips:
                film, code = f"sentence {clip.scene + 1}", EMOFILM_CODES[clip.label][1]
                table.writerow((clip.path, clip.speaker, film, clip.path[0], clip.language, code))
        else:
            table.writerow(("path", "label", "language", "speaker", "scene"))
            for clip in clips:
                scene = "" if clip.scene < 0 else f"sentence {clip.scene + 1}"
                table.writerow((clip.path, clip.label, clip.language, clip.speaker, scene))


def plan(
    kind: str, languages: Sequence[str], clips_per_class: int, own_ways: bool = False
) -> list[Clip]:
    """The clips of one kind ("emofilm", "neutral" or "silence", which has no languages).

    Raises:
        UserError: a language without sentences, or more clips than EmoFilm's names can tell apart,
            or ways of expressing emotions of a kind that has none.
    """
    if own_ways and kind != "emofilm":
        raise UserError(f"--own_ways is of emotions; leave it out with --kind={kind}")
    if kind == "silence":
        return silence_clips(clips_per_class)
    known = EMOFILM_LANGUAGES if kind == "emofilm" else tuple(SENTENCES)
    if not languages or set(languages) - set(known):
        raise UserError(
            f"--languages={','.join(languages)} is not what --kind={kind} speaks; choose from "
            f"{','.join(known)}"
        )
    if kind == "neutral":
        return neutral_clips(languages, clips_per_class)
    if clips_per_class > MAX_EMOFILM_CLIPS:
        raise UserError(
            f"--clips_per_class={clips_per_class} is more than EmoFilm's file names can tell "
            f"apart; give at most {MAX_EMOFILM_CLIPS}"
        )
    return emofilm_clips(languages, clips_per_class, own_ways)


def synthesise(
    kind: str,
    out_dir: str | os.PathLike,
    languages: Sequence[str],
    clips_per_class: int,
    seed: int,
    own_ways: bool = False,
    processes: int = cores(),
) -> float:
    """Writes the clips that `plan` lists, and their table, as the new folder `out_dir`.

    The folder appears under its name when all is in it.

    Returns:
        The mean length of a clip in seconds.

    Raises:
        UserError: see `plan`; also an `out_dir` that has files or cannot be written, or no
            synthesiser.
    """
    clips = plan(kind, languages, clips_per_class, own_ways)
    folder = Path(out_dir).resolve()
    try:
        if folder.exists() and any(folder.iterdir()):
            raise UserError(f"{folder} is not empty; give --out_dir a new folder, or remove it")
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(
            dir=folder.parent, prefix=f".{folder.name}.", suffix=".tmp"
        ) as scratch:
            partial = Path(scratch) / folder.name
            partial.mkdir()
            seconds = _write_clips(partial, clips, seed, processes)
            _write_table(partial, kind, clips)
            partial.replace(folder)
    except OSError as error:
        raise UserError(
            f"cannot write {folder}: {error.strerror or error}; give --out_dir a folder that is "
            "new or empty, on a disk that is writable and has room"
        ) from error
    return seconds


def _write_clips(folder: Path, clips: Sequence[Clip], seed: int, processes: int) -> float:
    write = functools.partial(_write_clip, folder=folder, seed=seed)
    with (
        process_pool(processes) as pool,
        console.progress("Synthesising", len(clips), " clips") as bar,
    ):
        total = 0.0
        for seconds in pool.map(write, clips, chunksize=5):
            total += seconds
            bar.update()
    return total / len(clips)
