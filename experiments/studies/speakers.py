"""What taking speakers into account gives: labelled clips of a few voices, then clips of others.

    python -m experiments.studies.speakers --checkpoint=runs/polish --corpus=nemo.npz --audio=nemo

Each draw enrols clips of each emotion by a few speakers of a corpus, and recognises clips of the
others: without speakers, with those of the corpus, with those that are found, and all as if they
were one speaker's. A folder is all of their clips; or has one class five times as often as another;
or has one emotion alone of one speaker, or of each; or is of one emotion and neutral alone.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from absl import flags
from jaxtyping import Float, Float32, Int

from experiments.studies.clips import emotions_of, labelled, sound_files
from fmaml_jax.audio.decoding import read_clip
from fmaml_jax.common import console
from fmaml_jax.common.console import progress
from fmaml_jax.data.dataset import Dataset, load
from fmaml_jax.encoder import DEFAULT
from fmaml_jax.encoder.features import voice_describer
from fmaml_jax.recognition import enrol
from fmaml_jax.recognition.checkpoint import Start, load_start
from fmaml_jax.recognition.recogniser import (
    Recogniser,
    probabilities,
    probabilities_by_speaker,
)
from fmaml_jax.recognition.timeline import whole
from fmaml_jax.recognition.voices import find_speakers, number_speakers
from fmaml_jax.training.devices import set_up_device
from fmaml_jax.training.results import ci95

Clips = Int[np.ndarray, " clips"]
AT_ONCE = 32
TIMES = 5
"""As often as another is one class in a skewed folder."""


def main() -> None:
    """Prints a row for each kind of folder and of speakers."""
    args = flags.FLAGS
    set_up_device()
    start, corpus = load_start(args.checkpoint, args.encoder), load(args.corpus)
    voices = hear_voices(corpus, Path(args.audio), args.encoder)
    found: dict[tuple[str, str], list[tuple[float, float]]] = {}
    promised: dict[str, list[tuple[float, bool]]] = {}
    with progress("enrolling", args.draws, " times") as bar:
        for number in range(args.draws):
            rng = np.random.default_rng((args.seed, number))
            support, rest = draw(corpus, start, args.voices, args.shots, rng)
            named = {"none": corpus.speakers, "named": corpus.speakers}
            of_support = {
                **named,
                "found": as_names(find_speakers(voices[support]), support, corpus),
                "as one": np.full(len(corpus.names), "one"),
            }
            recognisers = {
                kind: recogniser_of(
                    start, corpus, support, names, "" if kind == "none" else "known"
                )
                for kind, names in of_support.items()
            }
            for folder, choose in FOLDERS.items():
                clips = choose(corpus, rest, rng)
                for kind, recogniser in recognisers.items():
                    groups = (
                        find_speakers(voices[clips])
                        if kind == "found"
                        else number_speakers(of_support[kind][clips].tolist())
                    )
                    answers = answer(recogniser, corpus, clips, groups, kind)
                    result = recalls(answers, corpus.labels[clips], start.fixed)
                    found.setdefault((folder, kind), []).append(result)
                    if folder == "all clips":
                        low, high = recogniser.estimate.interval
                        given = result[0]
                        own = recogniser.estimate.uar, low <= given <= high
                        promised.setdefault(kind, []).append(own)
            bar.update()
    print(
        f"{corpus.corpus}: {args.voices} voices, {args.shots} clips an emotion, {args.draws} draws"
    )
    print("| folder | speakers | emotions | all classes | gain | promised | holds |")
    print("|---|---|---|---|---|---|---|")
    for (folder, kind), results in found.items():
        print(row(folder, kind, np.array(results), np.array(found[folder, "none"]), promised[kind]))


def hear_voices(corpus: Dataset, audio: Path, encoder: str) -> Float32[np.ndarray, "clips _"]:
    """The embedding of the voice in each clip: in memory, for this call."""
    describe = voice_describer(encoder)
    paths = sound_files(audio)
    heard = []
    with progress("hearing", len(corpus.names), " clips") as bar:
        for first in range(0, len(corpus.names), AT_ONCE):
            names = corpus.names[first : first + AT_ONCE]
            sounds = [read_clip(paths[str(name)]).samples for name in names]
            heard += [*describe(sounds, [whole(samples) for samples in sounds])]
            bar.update(len(sounds))
    return np.stack(heard)


def draw(
    corpus: Dataset, start: Start, number: int, shots: int, rng: np.random.Generator
) -> tuple[Clips, Clips]:
    """Clips of each emotion by a few speakers who have enough; all clips of the other speakers."""
    emotions = emotions_of(corpus, start)
    while True:
        chosen = rng.choice(np.unique(corpus.speakers), number, replace=False)
        by_them = np.isin(corpus.speakers, chosen)
        pools = [np.flatnonzero(by_them & (corpus.labels == emotion)) for emotion in emotions]
        if min(map(len, pools)) >= shots:
            drawn = [rng.choice(pool, shots, replace=False) for pool in pools]
            return np.concatenate(drawn), np.flatnonzero(~by_them)


def as_names(groups: Clips, clips: Clips, corpus: Dataset) -> np.ndarray:
    """Names for speakers that were found, of all clips of a corpus."""
    names = np.full(len(corpus.names), "", "U8")
    names[clips] = [str(group) for group in groups]
    return names


def recogniser_of(
    start: Start, corpus: Dataset, support: Clips, speakers: np.ndarray, kind: str
) -> Recogniser:
    clips = [labelled(corpus, i, speaker=str(speakers[i])) for i in support]
    return enrol(start, clips, speakers=kind)


def answer(
    recogniser: Recogniser, corpus: Dataset, clips: Clips, groups: Clips, kind: str
) -> np.ndarray:
    """What each clip is said to be."""
    features = corpus.features[clips]
    chances = (
        probabilities(recogniser, features)
        if kind == "none"
        else probabilities_by_speaker(recogniser, features, groups)
    )
    return np.array(recogniser.classes)[chances.argmax(axis=1)]


def recalls(answers: np.ndarray, labels: np.ndarray, fixed: tuple[str, ...]) -> tuple[float, float]:
    """Mean recall over the emotions, and over all classes."""
    own = {str(label): float((answers == label)[labels == label].mean()) for label in set(labels)}
    emotions = [recall for label, recall in own.items() if label not in fixed]
    return float(np.mean(emotions or np.nan)), float(np.mean([*own.values()]))


def all_clips(corpus: Dataset, rest: Clips, rng: np.random.Generator) -> Clips:
    del corpus, rng
    return rest


def skewed(corpus: Dataset, rest: Clips, rng: np.random.Generator) -> Clips:
    """One class as it is, of the others as many clips of each as a fifth of it."""
    labels = corpus.labels[rest]
    often = rng.choice(np.unique(labels))
    most = max(1, int((labels == often).sum()) // TIMES)
    kept = [
        rng.permutation(rest[labels == label])[: None if label == often else most]
        for label in np.unique(labels)
    ]
    return np.concatenate(kept)


def one_emotion(corpus: Dataset, rest: Clips, rng: np.random.Generator) -> Clips:
    """Of one speaker the clips of one class alone, of the others all."""
    return _of_one_class(corpus, rest, rng.choice(np.unique(corpus.speakers[rest]), 1), rng)


def one_emotion_each(corpus: Dataset, rest: Clips, rng: np.random.Generator) -> Clips:
    """Of each speaker the clips of one class alone."""
    return _of_one_class(corpus, rest, np.unique(corpus.speakers[rest]), rng)


def _of_one_class(
    corpus: Dataset, rest: Clips, speakers: np.ndarray, rng: np.random.Generator
) -> Clips:
    for speaker in speakers:
        theirs = corpus.speakers[rest] == speaker
        label = rng.choice(np.unique(corpus.labels[rest[theirs]]))
        rest = rest[~theirs | (corpus.labels[rest] == label)]
    return rest


def one_emotion_and_neutral(corpus: Dataset, rest: Clips, rng: np.random.Generator) -> Clips:
    """The neutral clips and those of one emotion."""
    emotion = rng.choice(np.setdiff1d(corpus.labels[rest], ["neutral"]))
    return rest[np.isin(corpus.labels[rest], [emotion, "neutral"])]


FOLDERS: Mapping[str, Callable[[Dataset, Clips, np.random.Generator], Clips]] = {
    "all clips": all_clips,
    "one class five times another": skewed,
    "a speaker with one emotion": one_emotion,
    "one emotion of each speaker": one_emotion_each,
    "one emotion and neutral": one_emotion_and_neutral,
}


def row(
    folder: str,
    kind: str,
    results: Float[np.ndarray, "draws 2"],
    without: Float[np.ndarray, "draws 2"],
    promised: list[tuple[float, bool]],
) -> str:
    emotions, every = np.nanmean(results, axis=0)
    gains = (results - without)[:, 1]
    gain = "" if kind == "none" else f"{100 * gains.mean():+.1f} ± {100 * ci95(gains):.1f}"
    own = ("", "")
    if folder == "all clips":
        uar, holds = np.mean(promised, axis=0)
        own = f"{uar:.1%}", f"{holds:.0%}"
    return f"| {folder} | {kind} | {emotions:.1%} | {every:.1%} | {gain} | {own[0]} | {own[1]} |"


def define_flags() -> None:
    flags.DEFINE_string("checkpoint", "", "Folder of a run that never saw the corpus.")
    flags.DEFINE_string("corpus", "", "The corpus, prepared as for the checkpoint.")
    flags.DEFINE_string("audio", "", "The folder that the names of its clips are below.")
    flags.DEFINE_string("encoder", DEFAULT, "Weights of CAM++.")
    flags.DEFINE_integer("voices", 3, "Speakers of the labelled clips.")
    flags.DEFINE_integer("shots", 5, "Clips of each emotion.")
    flags.DEFINE_integer("draws", 20, "Enrolments.")
    flags.DEFINE_integer("seed", 0, "Seed of the draws.")


if __name__ == "__main__":
    define_flags()
    console.run(main)
