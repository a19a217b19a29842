"""Enrolment of few classes against the nearest class mean of the same clips.

    python -m experiments.studies.few_classes --checkpoint=runs/polish --corpus=nemo.npz

Clips of each set of classes are drawn `--draws` times. All others of these classes are asked: the
figures are mean recalls over the set. "Alone" is where these classes are the only answers. With
neutral its clips are asked too, and it is an answer; the nearest class mean, in the same whitened
vectors, has it only where it was given clips. The gain is that alone, with its standard error: of
the draws' differences.
"""

from collections.abc import Sequence
from itertools import combinations

import numpy as np
from absl import flags

from experiments.studies.clips import labelled
from fmaml_jax.common import console
from fmaml_jax.common.console import progress
from fmaml_jax.data.dataset import Dataset, load
from fmaml_jax.data.scale import scaled
from fmaml_jax.recognition.checkpoint import Start, load_start
from fmaml_jax.recognition.recogniser import fit, probabilities
from fmaml_jax.training.devices import set_up_device


def main() -> None:
    """Prints a row for each set of classes: means of the draws."""
    args = flags.FLAGS
    set_up_device()
    start, corpus = load_start(args.checkpoint), load(args.corpus)
    labels = args.labels or sorted(set(corpus.labels.tolist()))
    sets = [
        chosen
        for chosen in combinations(labels, args.classes)
        if args.classes > 1 or set(chosen) <= set(start.emotions)
    ]
    print("| classes | alone: nearest mean | enrolment | gain | neutral too: mean | enrolment |")
    print("|---|---|---|---|---|---|")
    with progress("enrolling", len(sets) * args.draws, " times") as bar:
        for chosen in sets:
            found = []
            for number in range(args.draws):
                rng = np.random.default_rng((args.seed, args.shots, number))
                found.append(trial(start, corpus, chosen, args.shots, rng))
                bar.update()
            nearest, alone, nearest_too, enrolled = (
                f"{mean:.1%}" for mean in np.mean(found, axis=0)
            )
            gains = 100 * np.diff(found)[:, 0]
            gain = f"{gains.mean():+.1f} ± {gains.std(ddof=1) / len(gains) ** 0.5:.1f}"
            cells = ", ".join(chosen), nearest, alone, gain, nearest_too, enrolled
            print(f"| {' | '.join(cells)} |", flush=True)


def trial(
    start: Start, corpus: Dataset, chosen: Sequence[str], shots: int, rng: np.random.Generator
) -> list[float]:
    """Mean recalls in the order of the table's columns."""
    drawn = [rng.permutation(np.flatnonzero(corpus.labels == label))[:shots] for label in chosen]
    given = np.concatenate(drawn)
    asked = np.isin(corpus.labels, [*chosen, "neutral"])
    asked[given] = False
    recogniser = fit(start, [labelled(corpus, i) for i in given], {}, (), ())
    vectors = scaled(corpus.features, start.scale)[:, 0]
    means = np.stack([vectors[of_class].mean(axis=0) for of_class in drawn])
    distances = ((vectors[asked, None] - means) ** 2).sum(axis=-1)
    chances = probabilities(recogniser, corpus.features[asked])
    own = [recogniser.classes.index(label) for label in chosen]
    truth = corpus.labels[asked]
    nearest = np.array(chosen)[distances.argmin(axis=1)]
    alone = np.array(chosen)[chances[:, own].argmax(axis=1)]
    enrolled = np.array(recogniser.classes)[chances.argmax(axis=1)]

    def recall(answers: np.ndarray, labels: Sequence[str]) -> float:
        return float(np.mean([np.mean(answers[truth == label] == label) for label in labels]))

    both = sorted({*chosen, "neutral"})
    return [
        recall(nearest, chosen),
        recall(alone, chosen),
        recall(nearest, both),
        recall(enrolled, both),
    ]


def define_flags() -> None:
    flags.DEFINE_string("checkpoint", "", "Folder of a run that never saw the corpus.")
    flags.DEFINE_string("corpus", "", "A corpus prepared with --features=descriptors.")
    flags.DEFINE_list("labels", [], "Classes to choose from; all of the corpus by default.")
    flags.DEFINE_integer("classes", 2, "Classes of a set; one alone has to be known to the start.")
    flags.DEFINE_integer("shots", 6, "Clips of each class.")
    flags.DEFINE_integer("draws", 40, "Random enrolments of each set.", lower_bound=2)
    flags.DEFINE_integer("seed", 0, "Seed of the draws.")


if __name__ == "__main__":
    define_flags()
    console.run(main)
