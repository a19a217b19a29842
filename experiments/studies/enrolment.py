"""What `enrol` promises against what held-out clips give, over many enrolments.

    python -m experiments.studies.enrolment --checkpoint=runs/polish --corpus=nemo.npz

Each enrolment draws clips of the corpus at random, as a user might have labelled them; the rest of
the corpus, or the rest by other speakers, is what the user meets later. Emotions are the corpus's
own but the fixed classes, which get no clips; a clip counts as right where its label is the answer
among all classes, and a class as much as another, in the promise as in what was given. "error²" is
the squared difference of the two, in variances that so many independent clips would have.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from absl import flags

from experiments.studies.clips import emotions_of, labelled
from fmaml_jax.common import console
from fmaml_jax.common.console import progress
from fmaml_jax.data.dataset import Dataset, load
from fmaml_jax.recognition import enrol
from fmaml_jax.recognition.checkpoint import Start, load_start
from fmaml_jax.recognition.recogniser import probabilities
from fmaml_jax.training.devices import set_up_device
from fmaml_jax.training.results import ci95


class Kind(NamedTuple):
    """Whom a user records (0: everyone), whether the clips say who speaks, and who comes later."""

    voices: int
    named: bool
    others: bool


KINDS = {
    "all voices": Kind(0, named=False, others=False),
    "4 voices, named; then other voices": Kind(4, named=True, others=True),
    "4 voices, not named; then other voices": Kind(4, named=False, others=True),
    "1 voice; then other voices": Kind(1, named=True, others=True),
}
"""The rows of each number of shots."""


def main() -> None:
    """Prints a row for each number of shots and kind of support."""
    args = flags.FLAGS
    set_up_device()
    start, corpus = load_start(args.checkpoint), load(args.corpus)
    emotions = args.labels or emotions_of(corpus, start)
    print(f"{corpus.corpus}: {', '.join(emotions)}; {args.enrolments} enrolments a row")
    print(
        "| clips an emotion | support | promised | given | error² | 95% interval holds | log loss, "
        "T=1 | T |"
    )
    print("|---|---|---|---|---|---|---|---|")
    rows = [(shots, kind) for shots in map(int, args.shots) for kind in args.kinds]
    with progress("enrolling", len(rows) * args.enrolments, " times") as bar:
        for shots, kind in rows:
            found = []
            for number in range(args.enrolments):
                rng = np.random.default_rng((args.seed, shots, KINDS[kind].voices, number))
                drawn = KINDS[kind], rng, args.unknown, args.without
                if result := trial(start, corpus, emotions, shots, *drawn):
                    found.append(result)
                bar.update()
            if len(found) > 1:
                print(_row(shots, kind, shots * len(emotions), np.array(found)), flush=True)


class Trial(NamedTuple):
    """UAR promised and given, whether the interval holds, mean log losses in nats."""

    promised: float
    given: float
    holds: bool
    untempered: float
    tempered: float


def trial(
    start: Start,
    corpus: Dataset,
    emotions: Sequence[str],
    shots: int,
    kind: Kind,
    rng: np.random.Generator,
    unknown: Sequence[str] = (),
    without: Sequence[str] = (),
) -> Trial | None:
    """One enrolment; None where the drawn voices have too few clips.

    Emotions that are `unknown` get names that the start cannot know; fixed classes `without` are
    no answers.
    """
    names = {emotion: f"x{emotion}" if emotion in unknown else emotion for emotion in emotions}
    usable = np.isin(corpus.labels, emotions)
    if kind.voices:
        chosen = rng.choice(np.unique(corpus.speakers), kind.voices, replace=False)
        usable &= np.isin(corpus.speakers, chosen)
    drawn = [rng.permutation(np.flatnonzero(usable & (corpus.labels == e))) for e in emotions]
    if min(map(len, drawn)) < shots:
        return None
    support = np.concatenate([clips[:shots] for clips in drawn])
    clips = [
        labelled(corpus, i, names[corpus.labels[i]], str(corpus.speakers[i]) if kind.named else "")
        for i in support
    ]
    recogniser = enrol(start, clips, without=without)
    rest = np.isin(corpus.labels, emotions)
    rest[support] = False
    if kind.others:
        rest &= ~np.isin(corpus.speakers, corpus.speakers[support])
    truth = np.array([recogniser.classes.index(names[label]) for label in corpus.labels[rest]])
    chances = probabilities(recogniser, corpus.features[rest])
    right = chances.argmax(axis=1) == truth
    given = float(np.mean([right[truth == label].mean() for label in np.unique(truth)]))
    low, high = recogniser.estimate.interval
    untempered = chances**recogniser.temperature
    untempered /= untempered.sum(axis=1, keepdims=True)
    losses = [
        float(-np.log(found[np.arange(len(truth)), truth] + 1e-12).mean())
        for found in (untempered, chances)
    ]
    return Trial(recogniser.estimate.uar, given, low <= given <= high, *losses)


def _row(shots: int, kind: str, clips: int, found: np.ndarray) -> str:
    promised, given, holds, untempered, tempered = found.T
    error = ((promised - given) ** 2).mean() / (promised * (1 - promised) / clips).mean()
    return (
        f"| {shots} | {kind} | {promised.mean():.1%} ± {ci95(promised):.1%} | {given.mean():.1%} ± "
        f"{ci95(given):.1%} | {error:.2f} | {holds.mean():.0%} of {len(holds)} | "
        f"{untempered.mean():.3f} | {tempered.mean():.3f} |"
    )


def define_flags() -> None:
    flags.DEFINE_string("checkpoint", "", "Folder of a run that never saw the corpus.")
    flags.DEFINE_string("corpus", "", "A corpus prepared with --features=descriptors.")
    flags.DEFINE_list("labels", [], "Emotions to enrol; all of the corpus by default.")
    flags.DEFINE_list("shots", ["5", "10", "20"], "Clips of each emotion.")
    flags.DEFINE_list("kinds", list(KINDS), "Rows of each number of shots.")
    flags.DEFINE_list("unknown", [], "Emotions under names that the checkpoint cannot know.")
    flags.DEFINE_list("without", [], "Fixed classes that are no answers.")
    flags.DEFINE_integer("enrolments", 100, "Random enrolments a row.")
    flags.DEFINE_integer("seed", 0, "Seed of the draws.")


if __name__ == "__main__":
    define_flags()
    console.run(main)
