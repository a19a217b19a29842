"""What corrected answers give: clips are answered, some are labelled, and all are enrolled again.

    python -m experiments.studies.corrections --checkpoint=runs/polish --corpus=nemo.npz

Each draw enrols a few clips of each emotion. Of the others one half can be corrected, and the other
half never is: it is what the figures are of, the same for both ways. The recogniser answers the
first half; the clips that it is least sure of, or as many at random, get their true labels and are
enrolled too; and so on, `--step` clips at a time. A clip whose answer was right is confirmed, and
counts as a correction. Classes that need no clips get some once they are corrected.
"""

from itertools import pairwise
from typing import NamedTuple

import numpy as np
from absl import flags
from jaxtyping import Float, Int

from experiments.studies.clips import emotions_of, labelled
from fmaml_jax.common import console
from fmaml_jax.common.console import progress
from fmaml_jax.data.dataset import Dataset, load
from fmaml_jax.encoder import DEFAULT
from fmaml_jax.recognition import enrol
from fmaml_jax.recognition.checkpoint import Start, load_start
from fmaml_jax.recognition.recogniser import Recogniser, probabilities
from fmaml_jax.training.devices import set_up_device
from fmaml_jax.training.results import ci95

Clips = Int[np.ndarray, " clips"]


class Found(NamedTuple):
    """What a way of choosing has given, after each step.

    Attributes:
        right: share of right answers, of the clips that are never corrected.
        promised: `enrol`'s estimate.
        wrong: how many of the clips that were corrected had another answer.
    """

    right: list[float]
    promised: list[float]
    wrong: list[int]


def main() -> None:
    """Prints a row for each number of corrections: means of the draws."""
    args = flags.FLAGS
    set_up_device()
    start, corpus = load_start(args.checkpoint, args.encoder), load(args.corpus)
    numbers = np.arange(0, args.most + 1, args.step)
    found: dict[str, list[Found]] = {"sure": [], "random": []}
    with progress("enrolling", args.draws, " times") as bar:
        for number in range(args.draws):
            rng = np.random.default_rng((args.seed, number))
            support, pool, asked = draw(corpus, start, args.shots, rng)
            for way, own in found.items():
                own.append(correct(start, corpus, support, pool, asked, numbers, way, rng))
            bar.update()
    print(
        f"{corpus.corpus}: {args.shots} clips an emotion, {len(asked)} clips are never corrected, "
        f"{args.draws} draws"
    )
    print("| corrections | least sure first | at random | gain | promised | wrong before |")
    print("|---|---|---|---|---|---|")
    for row in rows(numbers, *found.values()):
        print(row)


def draw(
    corpus: Dataset, start: Start, shots: int, rng: np.random.Generator
) -> tuple[Clips, Clips, Clips]:
    """Clips of each emotion, then of all the others those that can be corrected, and the rest."""
    support = np.concatenate(
        [
            rng.choice(np.flatnonzero(corpus.labels == emotion), shots, replace=False)
            for emotion in emotions_of(corpus, start)
        ]
    )
    others = rng.permutation(np.setdiff1d(np.arange(len(corpus.labels)), support))
    return support, others[: len(others) // 2], others[len(others) // 2 :]


def correct(
    start: Start,
    corpus: Dataset,
    support: Clips,
    pool: Clips,
    asked: Clips,
    numbers: Int[np.ndarray, " steps"],
    way: str,
    rng: np.random.Generator,
) -> Found:
    """Corrects clips of the pool, as many as the numbers say."""
    found = Found([], [], [0])

    def enrolled() -> Recogniser:
        recogniser = enrol(start, [labelled(corpus, clip) for clip in support])
        found.right.append(float((answers(recogniser, corpus, asked)[0] == truth(asked)).mean()))
        found.promised.append(recogniser.estimate.uar)
        return recogniser

    def truth(clips: Clips) -> np.ndarray:
        return corpus.labels[clips]

    recogniser = enrolled()
    for before, after in pairwise(numbers):
        said, sure = answers(recogniser, corpus, pool)
        order = np.argsort(sure, kind="stable") if way == "sure" else rng.permutation(len(pool))
        chosen = order[: after - before]
        found.wrong.append(found.wrong[-1] + int((said != truth(pool))[chosen].sum()))
        support, pool = np.append(support, pool[chosen]), np.delete(pool, chosen)
        recogniser = enrolled()
    return found


def answers(recogniser: Recogniser, corpus: Dataset, clips: Clips) -> tuple[np.ndarray, np.ndarray]:
    """What clips are said to be, and how surely."""
    chances = probabilities(recogniser, corpus.features[clips])
    return np.array(recogniser.classes)[chances.argmax(axis=1)], chances.max(axis=1)


def rows(
    numbers: Int[np.ndarray, " steps"], least_sure: list[Found], at_random: list[Found]
) -> list[str]:
    """The lines of the table; intervals are 95% of the means, gains those of the draws."""
    first, second = (
        [np.array(list(kind)) for kind in zip(*own, strict=True)] for own in (least_sure, at_random)
    )
    lines = []
    for step, number in enumerate(numbers):
        gain = mean_of(100 * (first[0] - second[0])[:, step], "+.1f")
        cells = [
            str(number),
            *(mean_of(100 * each[0][:, step], ".1f") for each in (first, second)),
            gain if number else "",
            " / ".join(f"{100 * each[1][:, step].mean():.1f}" for each in (first, second)),
            " / ".join(f"{each[2][:, step].mean():.0f}" for each in (first, second)),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def mean_of(values: Float[np.ndarray, " draws"], kind: str) -> str:
    """With its 95% interval."""
    return f"{values.mean():{kind}} ± {ci95(values):.1f}"


def define_flags() -> None:
    flags.DEFINE_string("checkpoint", "", "Folder of a run that never saw the corpus.")
    flags.DEFINE_string("corpus", "", "The corpus, prepared as for the checkpoint.")
    flags.DEFINE_string("encoder", DEFAULT, "Weights of CAM++.")
    flags.DEFINE_integer("shots", 5, "Clips of each emotion.")
    flags.DEFINE_integer("step", 20, "Clips that are corrected before all are enrolled again.", 1)
    flags.DEFINE_integer("most", 80, "Clips that are corrected in all.", 1)
    flags.DEFINE_integer("draws", 30, "Enrolments.", lower_bound=2)
    flags.DEFINE_integer("seed", 0, "Seed of the draws.")


if __name__ == "__main__":
    define_flags()
    console.run(main)
