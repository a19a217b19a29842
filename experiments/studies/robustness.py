"""What a start gives on a corpus that it never heard, as it is and through `audio.views`.

    python -m experiments.studies.robustness --corpus=data/descriptors/nemo.npz --audio=DIR/nemo

Each draw enrols clean labelled clips, as a user would, and recognises others, of other speakers, as
they are and degraded. `--penalty` puts the regression on the start's sources and the same clips
beside it (100 on descriptors, 3000 on the encoder's vectors). An answer is one of all classes;
clips of silence are not asked for.
"""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from absl import flags
from jaxtyping import Float, Float32, Int

from experiments.studies.clips import sound_files
from fmaml_jax.audio.decoding import read_clip
from fmaml_jax.audio.views import VIEWS
from fmaml_jax.common import console
from fmaml_jax.common.console import progress
from fmaml_jax.config import LEAK_GUARDS
from fmaml_jax.data.episodes import Episodes, TaskShape, sample
from fmaml_jax.data.split import Clips, Groups, Pool, load_clips, split_clips
from fmaml_jax.encoder import DEFAULT
from fmaml_jax.encoder.features import describer
from fmaml_jax.learners.functionals import pooled_regression
from fmaml_jax.recognition import enrol
from fmaml_jax.recognition.checkpoint import Start, load_start
from fmaml_jax.recognition.recogniser import probabilities
from fmaml_jax.recognition.support import LabelledClip
from fmaml_jax.training.devices import set_up_device
from fmaml_jax.training.results import interval

Features = Float32[np.ndarray, "clips 1 coeffs"]
Chosen = Int[np.ndarray, " clips"]
Scores = Float[np.ndarray, "clips classes"]
AT_ONCE = 32
CLEAN = "clean"


class Problem(NamedTuple):
    """The clips of the start's sources and of a corpus that it never heard.

    Attributes:
        clips: all of them.
        sources: the sources' clips of each of the start's classes, by corpus.
        pool: the corpus's clips of each of `classes`; none of silence.
        groups: of each clip, see `Split`.
        emotions: those of the start that the corpus has.
        classes: these and the fixed ones.
    """

    clips: Clips
    sources: dict[str, Pool]
    pool: Pool
    groups: Groups | None
    emotions: tuple[str, ...]
    classes: tuple[str, ...]


Answer = Callable[[Chosen, Chosen, Features], Scores]
"""(support, its labels, query) -> a score of each of the problem's classes."""


def main() -> None:
    """Prints a row for each number of shots, view and method."""
    args = flags.FLAGS
    set_up_device()
    start = load_start(args.checkpoint, args.encoder)
    problem = make_problem(start, args.corpus, args.leak_guard, args.per_class)
    views = {view: hear(start, problem, Path(args.audio), view) for view in args.views}
    methods: dict[str, Answer] = {"F-MAML": partial(by_enrolment, start, problem)}
    if args.penalty:
        methods["regression"] = by_regression(start, problem, args.penalty)
    print(f"{args.corpus}: {args.draws} draws, --leak_guard={args.leak_guard}, in %")
    print("| shots | what is recognised | method | emotions | all classes | neutral |")
    print("|---|---|---|---|---|---|")
    for shots in map(int, args.shots):
        shape = TaskShape(
            len(problem.emotions),
            shots,
            tuple(args.queries if len(own) else 0 for own in problem.pool),
        )
        episodes = sample(
            {"": problem.pool},
            shape,
            **{"seed": args.seed, "split": "test", "step": 0, "tasks": range(args.draws)},
            groups=problem.groups,
        )
        for key, found in measure(problem, methods, views, episodes).items():
            figures = [interval(column) for column in np.array(found).T]
            cells = [f"{100 * each['mean']:.1f} ± {100 * each['ci95']:.1f}" for each in figures]
            print(f"| {shots} | {' | '.join((*key, *cells))} |", flush=True)


def make_problem(start: Start, corpus: str, leak_guard: str, per_class: int) -> Problem:
    """The corpus as a target, of which at most so many clips of a class are drawn from."""
    config = start.config
    clips = load_clips((*config.data, corpus))
    target = str(clips.corpora[-1])
    present = set(clips.labels[clips.corpora == target].tolist())
    emotions = tuple(name for name in config.emotions if name in present)
    split = partial(split_clips, clips, fixed=config.fixed, val_fraction=0.0)
    sources = split(target=None, emotions=config.emotions, task_domain="corpus").train
    test = split(target=target, emotions=emotions, leak_guard=leak_guard)
    rng = np.random.default_rng(0)
    pool = tuple(
        np.sort(rng.permutation(own[clips.corpora[own] == target])[: per_class or None])
        for own in test.test[target]
    )
    trained = {name: own for name, own in sources.items() if not name.endswith(f"/{target}")}
    return Problem(clips, trained, pool, test.groups, emotions, emotions + config.fixed)


def hear(start: Start, problem: Problem, audio: Path, view: str) -> Features:
    """The features of all clips, those of the corpus that are drawn from through the view."""
    features = problem.clips.features
    if view == CLEAN:
        return features
    features = features.copy()
    describe = describer(start.feature_config, start.encoder)
    paths = sound_files(audio)
    drawn = np.concatenate(problem.pool)
    with progress(f"hearing {view}", len(drawn), " clips") as bar:
        for chosen in np.array_split(drawn, -(-len(drawn) // AT_ONCE)):
            sounds = [
                VIEWS[view](
                    read_clip(paths[str(problem.clips.names[clip])]).samples,
                    np.random.default_rng((0, int(clip))),
                )
                for clip in chosen
            ]
            features[chosen] = describe(sounds)
            bar.update(len(chosen))
    return features


def by_enrolment(
    start: Start, problem: Problem, support: Chosen, labels: Chosen, query: Features
) -> Scores:
    """What `enrol` makes of the clips, as `predict` answers."""
    features, speakers = problem.clips.features, problem.clips.speakers
    clips = [
        LabelledClip(str(i), problem.classes[label], str(speakers[i]), features[i], str(i), ())
        for i, label in zip(support, labels, strict=True)
    ]
    recogniser = enrol(start, clips)
    columns = [recogniser.classes.index(name) for name in problem.classes]
    return probabilities(recogniser, query)[:, columns]


def by_regression(start: Start, problem: Problem, penalty: float) -> Answer:
    """A logistic regression on the sources and the clips, as `--method=functionals_pooled`."""
    known = start.config.classes
    columns = [known.index(name) for name in problem.classes]
    features = problem.clips.features[:, 0]
    classify = pooled_regression(
        features, problem.sources, len(start.config.emotions), penalty=penalty
    )

    def answer(support: Chosen, labels: Chosen, query: Features) -> Scores:
        return classify(features[support], np.take(columns, labels), query[:, 0])[1][:, columns]

    return answer


def measure(
    problem: Problem,
    methods: Mapping[str, Answer],
    views: Mapping[str, Features],
    episodes: Episodes,
) -> dict[tuple[str, str], list[tuple[float, float, float]]]:
    """Of each draw the `recalls`, by view and method."""
    found: dict[tuple[str, str], list[tuple[float, float, float]]] = {
        (view, method): [] for view in views for method in methods
    }
    with progress("enrolling", len(episodes.query), " times") as bar:
        for support, labels, query, truth in zip(*episodes, strict=True):
            asked = np.concatenate([features[query] for features in views.values()])
            for method, answer in methods.items():
                scores = answer(support, labels, asked)
                for view, own in zip(views, np.split(scores, len(views)), strict=True):
                    found[view, method].append(recalls(own, truth, problem))
            bar.update()
    return found


def recalls(
    scores: Scores, truth: Int[np.ndarray, " queries"], problem: Problem
) -> tuple[float, float, float]:
    """Mean recall over the emotions, answered among these; over all classes; and of neutral."""
    ways = len(problem.emotions)
    among = scores[:, :ways].argmax(axis=1) == truth
    right = scores.argmax(axis=1) == truth
    every = [right[truth == label].mean() for label in np.unique(truth)]
    neutral = right[truth == problem.classes.index("neutral")].mean()
    emotions = [among[truth == label].mean() for label in range(ways)]
    return float(np.mean(emotions)), float(np.mean(every)), float(neutral)


def define_flags() -> None:
    flags.DEFINE_string("checkpoint", "descriptors", "The start; its sources have to be prepared.")
    flags.DEFINE_string("corpus", "", "A corpus that it never heard, prepared as they are.")
    flags.DEFINE_string("audio", "", "The folder that the names of its clips are below, for views.")
    flags.DEFINE_string("encoder", DEFAULT, "Weights for a start that hears with an encoder.")
    flags.DEFINE_list("views", [CLEAN, *VIEWS], "What is recognised.")
    flags.DEFINE_list("shots", ["5"], "Labelled clips of each emotion.")
    flags.DEFINE_enum("leak_guard", "speaker", LEAK_GUARDS, "What both sides never share.")
    flags.DEFINE_float("penalty", 0.0, "Of the regression beside it; 0: none.")
    flags.DEFINE_integer("per_class", 0, "Clips of a class that are drawn from; 0: all.")
    flags.DEFINE_integer("queries", 10, "Clips of each class that are recognised.")
    flags.DEFINE_integer("draws", 30, "Enrolments.")
    flags.DEFINE_integer("seed", 0, "Seed of the draws.")


if __name__ == "__main__":
    define_flags()
    console.run(main)
