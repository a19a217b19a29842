"""Synthesises audio that the project can be tried with: speech, its neutral class, and silence.

    python -m data_prep.synthesise --kind=emofilm --out_dir=data/emofilm_synthetic

writes a folder of 16-bit WAV files (and the table that describes them) of one `--kind`:

    emofilm    a corpus shaped like EmoFilm (Parada-Cabaleiro et al., "Categorical vs dimensional
               perception of Italian emotional speech", Interspeech 2018): the same file names and
               the same columns in its list of speakers
    neutral    unemotional speech for a corpus that has none, with a manifest.csv
    silence    noise in which nobody speaks, with a manifest.csv

The speech is eSpeak NG's. eSpeak NG is GPL-3, and this module alone loads it (`data_prep.espeak`).
Emotions differ in prosody and voice quality, speakers in voice; results on this speech mean nothing
about people's. On one machine a clip depends on its own file name and `--seed` alone, to the byte:
not on the other clips, nor on the number of processes.
"""

import csv
import functools
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from absl import flags
from jaxtyping import Float64
from scipy.io import wavfile
from scipy.signal import lfilter

from data_prep import console, noise
from data_prep.console import UserError
from data_prep.dataset import NO_LANGUAGE
from data_prep.espeak import speak
from data_prep.processes import cores, process_pool
from data_prep.sentences import SENTENCES

VOICES = ("f1", "m1", "f2", "m3", "f4", "m6")
"""Variants of eSpeak NG's voices, one a speaker; the first letter is the gender."""


class Prosody(NamedTuple):
    """How a sentence is spoken. The fields add up: usual + emotion + speaker + clip."""

    rate: float  # natural logarithm of words a minute
    pitch: float  # eSpeak NG's units, about a hundredth of the range from low to high
    pitch_range: float  # the same units
    level: float  # dB
    tilt: float  # zero of a first-order filter: above 0 bright, below 0 dull
    breath: float  # aspiration noise, its RMS as a part of the speech's


USUAL = Prosody(rate=np.log(147.0), pitch=42.0, pitch_range=45.0, level=-29.0, tilt=0.0, breath=0.1)
# Directions after Juslin & Laukka, "Communication of emotions in vocal expression and music
# performance", Psychological Bulletin 129 (2003); the sizes, and disgust, are ours.
EMOTIONS = {
    # rate, pitch, range, level, tilt, breath: differences from the usual
    "anger": Prosody(0.10, 10.0, 22.0, 5.0, 0.45, 0.0),
    "disgust": Prosody(-0.10, -12.0, 5.0, 0.0, 0.15, 0.03),
    "fear": Prosody(0.16, 20.0, -15.0, -1.0, 0.1, 0.2),
    "happiness": Prosody(0.04, 16.0, 32.0, 2.5, 0.25, 0.0),
    "sadness": Prosody(-0.18, -10.0, -22.0, -4.0, -0.35, 0.15),
    "neutral": Prosody(0.0, 0.0, 0.0, 0.0, 0.0, 0.0),
}
SPEAKER_SPREAD = Prosody(0.05, 6.0, 8.0, 1.5, 0.08, 0.03)
CLIP_SPREAD = Prosody(0.06, 5.0, 8.0, 1.5, 0.10, 0.04)
"""Standard deviations: wide enough that the emotions of different speakers overlap."""

EMOFILM_CODES = {
    "anger": ("rab", "an"),
    "disgust": ("dis", "co"),
    "fear": ("ans", "fe"),
    "happiness": ("gio", "ha"),
    "sadness": ("tri", "sa"),
}
"""What EmoFilm calls an emotion in a file's name and in its list."""

CLIPS_PER_CLASS = {"emofilm": 40, "neutral": 100, "silence": 300}
EMOFILM_LANGUAGES = ("en", "it", "es")
MAX_EMOFILM_CLIPS = 26 * len(SENTENCES["en"])
"""EmoFilm's names count the clips of one scene in one letter."""


class Clip(NamedTuple):
    """One file to be made."""

    path: str  # below the output folder
    label: str
    language: str
    speaker: str = ""  # eSpeak NG's name of the voice
    scene: int = -1  # row of SENTENCES


def _take(language: str, index: int) -> tuple[str, int]:
    """The speaker and the sentence of a class's clip `index`.

    Six speakers and thirteen sentences have no common divisor, so 78 clips have all the pairs.
    """
    return f"{language}+{VOICES[index % len(VOICES)]}", index % len(SENTENCES[language])


def emofilm_clips(languages: Sequence[str], clips_per_class: int) -> list[Clip]:
    """A corpus with EmoFilm's file names: `clips_per_class` per emotion and language.

    The same speakers say the same sentences with every emotion. The scene number in a name stands
    for the sentence, in every language, and the letter tells its clips apart.
    """
    clips = []
    for language in languages:
        for emotion, (code, _) in EMOFILM_CODES.items():
            for index in range(clips_per_class):
                speaker, scene = _take(language, index)
                gender = speaker.partition("+")[2][0]
                letter = chr(ord("a") + index // len(SENTENCES[language]))
                name = f"{gender}_{code}{scene + 1:03}{letter}{language}.wav"
                clips.append(Clip(name, emotion, language, speaker, scene))
    return clips


def neutral_clips(languages: Sequence[str], clips_per_class: int) -> list[Clip]:
    """Unemotional speech in files LANGUAGE/neutral/NUMBER.wav: `clips_per_class` a language."""
    return [
        Clip(f"{language}/neutral/{index:05}.wav", "neutral", language, *_take(language, index))
        for language in languages
        for index in range(clips_per_class)
    ]


def silence_clips(clips_per_class: int) -> list[Clip]:
    """Noise in files silence/NUMBER.wav."""
    return [
        Clip(f"silence/{index:05}.wav", "silence", NO_LANGUAGE) for index in range(clips_per_class)
    ]


def voice_quality(
    speech: Float64[np.ndarray, " samples"], prosody: Prosody, rng: np.random.Generator
) -> Float64[np.ndarray, " samples"]:
    """Gives `speech` the breath, the tilt and the level of `prosody`, within -1 and 1."""
    # Aspiration follows the speech: white noise times the RMS of the last 10 ms or so.
    envelope = np.sqrt(lfilter([0.005], [1.0, -0.995], speech**2))
    breathy = speech + max(prosody.breath, 0.0) * envelope * rng.standard_normal(len(speech))
    tilted = lfilter([1.0, -np.clip(prosody.tilt, -0.9, 0.9)], [1.0], breathy)
    loud = tilted * 10 ** (prosody.level / 20) / np.sqrt(np.mean(tilted**2))
    return loud * min(1.0, 0.99 / np.max(np.abs(loud)))


def render(clip: Clip, seed: int) -> tuple[Float64[np.ndarray, " samples"], int]:
    """The samples of `clip`, within -1 and 1, and their rate in Hz: a function of its arguments.

    Raises:
        UserError: the clip is speech and the synthesiser is missing.
    """
    rng = np.random.default_rng([seed, *clip.path.encode()])
    if clip.label == "silence":
        return noise.silence(rng), noise.SAMPLE_RATE
    speaker_rng = np.random.default_rng([seed, *clip.speaker.encode()])
    habit = speaker_rng.normal(0.0, SPEAKER_SPREAD)
    prosody = Prosody(*(habit + rng.normal(EMOTIONS[clip.label], CLIP_SPREAD) + USUAL))
    speech, sample_rate = speak(
        SENTENCES[clip.language][clip.scene],
        clip.speaker,
        rate=np.exp(prosody.rate),
        pitch=np.clip(prosody.pitch, 0, 99),
        pitch_range=np.clip(prosody.pitch_range, 0, 99),
    )
    return voice_quality(speech, prosody, rng), sample_rate


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


def plan(kind: str, languages: Sequence[str], clips_per_class: int) -> list[Clip]:
    """The clips of one kind ("emofilm", "neutral" or "silence", which has no languages).

    Raises:
        UserError: a language without sentences, or more clips than EmoFilm's names can tell apart.
    """
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
    return emofilm_clips(languages, clips_per_class)


def synthesise(
    kind: str,
    out_dir: str | os.PathLike,
    languages: Sequence[str],
    clips_per_class: int,
    seed: int,
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
    clips = plan(kind, languages, clips_per_class)
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


def main() -> None:
    args = flags.FLAGS
    count = args.clips_per_class or CLIPS_PER_CLASS[args.kind]
    seconds = synthesise(
        args.kind, args.out_dir, list(dict.fromkeys(args.languages)), count, args.seed
    )
    print(f"{args.out_dir}: {args.kind}, {seconds:.2f} s a clip on average")


if __name__ == "__main__":
    # Defined here, so that this module can be imported beside another command's flags.
    flags.DEFINE_enum("kind", None, list(CLIPS_PER_CLASS), "What to synthesise.", required=True)
    flags.DEFINE_string("out_dir", None, "Folder to make; new or empty.", required=True)
    flags.DEFINE_integer("seed", 0, "Same seed, same bytes.", lower_bound=0)
    flags.DEFINE_integer(
        "clips_per_class",
        None,
        "Clips per emotion and language (default 40), neutral clips per language (100), or "
        "clips of silence (300).",
        lower_bound=1,
    )
    flags.DEFINE_list(
        "languages", list(EMOFILM_LANGUAGES), "ISO 639 codes, comma-separated; not for silence."
    )
    console.run(main)
