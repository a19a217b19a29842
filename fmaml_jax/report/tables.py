"""The paper's tables from runs: data first, then Markdown, CSV and LaTeX of the same figures."""

import csv
import io
import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import stats

from fmaml_jax.common.errors import UserError
from fmaml_jax.config import BATCH_NORM_MODES
from fmaml_jax.data.dataset import NO_LANGUAGE, Dataset
from fmaml_jax.data.shards import load_corpora
from fmaml_jax.report.runs import FIGURES, Row, Run, adapts
from fmaml_jax.training.results import interval

LANGUAGES = {  # in the order of the paper's columns, then of the other corpora
    **{"en": "English", "es": "Spanish", "it": "Italian"},
    **{"de": "German", "el": "Greek", "fr": "French", "pl": "Polish"},
    NO_LANGUAGE: "no language",
}
CORPORA = {  # targets that are one corpus of their language
    **{"emodb": "EmoDB (de)", "emovo": "EMOVO (it)", "ravdess": "RAVDESS (en)"},
    **{"cremad": "CREMA-D (en)", "nemo": "nEMO (pl)"},
}

TITLES = {
    "accuracy": "Accuracy over all classes",
    "emotion_accuracy": "Accuracy over the emotions alone",
    "uar": "UAR",
}

PAPER_TABLES = {5: "Table 2", 10: "Table 3", 20: "Table 4"}
_SUPERVISED = Row("supervised", "all", "cnn_lstm", "none")  # Lim et al. 2016
_METASER = Row("metaser", "all", "cnn", "none")
_FMAML = Row("fmaml", "emotions", "cnn", "none")
PAPER_ACCURACY = {  # percent, by shots; the 5-shot rows of the others are blank in our copy
    5: {_FMAML: {"en": 69.71, "es": 69.13, "it": 68.85}},
    10: {
        _SUPERVISED: {"en": 32.11, "es": 32.54, "it": 16.57},
        _METASER: {"en": 69.11, "es": 70.13, "it": 71.15},
        _FMAML: {"en": 73.71, "es": 74.22, "it": 74.55},
    },
    20: {
        _SUPERVISED: {"en": 36.53, "es": 28.64, "it": 24.87},
        _METASER: {"en": 76.21, "es": 77.13, "it": 77.95},
        _FMAML: {"en": 81.69, "es": 80.13, "it": 80.15},
    },
}
PAPER_SAMPLES = {"en": 341, "es": 356, "it": 410}
PAPER_EMOTIONS = ("anger", "disgust", "fear", "happiness", "sadness")

START = "without adaptation"
ALL_CLASSES, UNKNOWING = "†", "‡"
FOOTNOTES = {
    ALL_CLASSES: "† adapts on K clips of every class, the fixed ones too, where the others have "
    "clips of the emotions alone.",
    UNKNOWING: "‡ cannot know the fixed classes: they are in nothing that it learns from.",
}


class Entry(NamedTuple):
    """What stands in a table.

    Attributes:
        text: what it says.
        best: whether it is marked as best.
        signs: its footnotes'.
        soft: whether it belongs to the row above, and stands back behind it.
    """

    text: str
    best: bool = False
    signs: str = ""
    soft: bool = False


class Table(NamedTuple):
    """A table as it is shown, and its figures as records (rows of the CSV)."""

    name: str
    caption: str
    header: tuple[str, ...]
    rows: list[tuple[Entry, ...]]
    notes: list[str]
    records: list[dict[str, Any]]


class Cell(NamedTuple):
    """Figures of one cell in percent; half the widths of the 95% intervals.

    `over_seeds` is None where there is one seed.
    """

    mean: float
    over_episodes: float
    over_seeds: float | None
    seeds: int
    episodes: int


# ---- statistics


def by_episode(run: Run, mode: str, figure: str) -> Float[np.ndarray, " episodes"]:
    """A run's share for each test episode."""
    return np.asarray(run.results[mode]["by_episode"][figure], np.float64)


def summarise(runs: Sequence[Run], mode: str, figure: str) -> Cell:
    """The figures of one cell from its runs, which differ in the seed.

    The interval over episodes takes those of all seeds as one sample (Student's t); the one over
    seeds takes the seeds' means (Student's t with one degree of freedom less than seeds).
    """
    shares = [by_episode(run, mode, figure) for run in runs]
    pooled = interval(np.concatenate(shares))
    return Cell(
        mean=round(100 * pooled["mean"], 4),
        over_episodes=round(100 * pooled["ci95"], 4),
        over_seeds=_over_seeds([each.mean() for each in shares]),
        seeds=len(runs),
        episodes=len(shares[0]),
    )


def summarise_start(runs: Sequence[Run], mode: str, figure: str) -> Cell:
    """The same of the start, before adaptation, whose figures are known for each seed as a whole.

    The half widths of the seeds' intervals over episodes add in quadrature.
    """
    found = [run.results[mode]["before_adaptation"][figure] for run in runs]
    means = [each["mean"] for each in found]
    return Cell(
        mean=round(100 * float(np.mean(means)), 4),
        over_episodes=round(100 * math.hypot(*(each["ci95"] for each in found)) / len(runs), 4),
        over_seeds=_over_seeds(means),
        seeds=len(runs),
        episodes=runs[0].config["episodes"],
    )


def _over_seeds(means: Sequence[float]) -> float | None:
    return round(100 * interval(np.array(means))["ci95"], 4) if len(means) > 1 else None


def paired_p(ours: Sequence[Run], rivals: Sequence[Run], mode: str, figure: str) -> float:
    """Two-sided p of the paired t-test that ours are better; 1 where they are not, or not paired.

    Episodes are paired where seed and query clips are the same; those of all such seeds are one
    sample.
    """
    other = {(run.seed, run.results["query_hash"]): run for run in rivals}
    pairs = [
        (by_episode(run, mode, figure), by_episode(twin, mode, figure))
        for run in ours
        if (twin := other.get((run.seed, run.results["query_hash"])))
    ]
    if not pairs:
        return 1.0
    own, others = (np.concatenate(side) for side in zip(*pairs, strict=True))
    difference = own - others
    if difference.mean() <= 0:
        return 1.0
    if np.ptp(difference) == 0:
        return 0.0  # the same gain in every episode, where t is infinite
    return float(stats.ttest_rel(own, others).pvalue)


def holm(p: Sequence[float]) -> Float[np.ndarray, " tests"]:
    """Adjusted p of a family of tests (Holm 1979), in the order given."""
    order = np.argsort(p)
    steps = np.asarray(p)[order] * np.arange(len(p), 0, -1)
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(1, np.maximum.accumulate(steps))
    return adjusted


def best_rows(column: Mapping[Row, Sequence[Run]], mode: str, figure: str) -> set[Row]:
    """The row of each leak guard that beats every other one of it; none where a test says no."""
    found = set()
    for guard in {row.leak_guard for row in column}:
        rows = [row for row in column if row.leak_guard == guard]
        leader = max(rows, key=lambda row: summarise(column[row], mode, figure).mean)
        p = [paired_p(column[leader], column[row], mode, figure) for row in rows if row != leader]
        if p and (holm(p) < 0.05).all():
            found.add(leader)
    return found


# ---- the data


def read_corpora(runs: Sequence[Run]) -> tuple[list[Dataset], str]:
    """The corpora that runs were made from, or none and a sentence that says why.

    Where runs have several kinds of features, those of the first kind that is here.
    """
    reason = "no run names its data"
    for data, hashes in dict.fromkeys(
        (tuple(run.config["data"]), tuple(sorted(run.hashes.values()))) for run in runs
    ):
        try:
            corpora = list(load_corpora(data).values())
        except UserError as error:
            reason = str(error)
            continue
        if sorted(corpus.content_hash for corpus in corpora) == list(hashes):
            return corpora, ""
        reason = f"{', '.join(data)} hold other clips by now (the content hash differs)"
    return [], reason


def count_clips(corpora: Sequence[Dataset]) -> dict[str, dict[str, int]]:
    """Clips by language and label, languages in the order of the paper's columns."""
    counts: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for corpus in corpora:
        for language, label in zip(corpus.languages, corpus.labels, strict=True):
            counts[str(language)][str(label)] += 1
    return {language: counts[language] for language in sorted(counts, key=language_order)}


def is_emofilm(corpora: Sequence[Dataset], run: Run) -> bool:
    """Whether the run is on the paper's material, so that its numbers may stand beside ours.

    The corpus's name is not enough, since synthetic speech is prepared under it: the samples of
    each language have to be the paper's (table 1), up to a tenth, and the classes its own.
    """
    spoken = [corpus for corpus in corpora if set(corpus.labels) & set(PAPER_EMOTIONS)]
    counts = count_clips(spoken)
    return (
        {corpus.corpus for corpus in spoken} == {"emofilm"}
        and set(run.config["emotions"]) == set(PAPER_EMOTIONS)
        and set(run.config["fixed"]) == {"neutral", "silence"}
        and all(
            abs(sum(counts.get(language, {}).get(label, 0) for label in PAPER_EMOTIONS) - samples)
            <= samples / 10
            for language, samples in PAPER_SAMPLES.items()
        )
    )


def data_table(corpora: Sequence[Dataset], run: Run) -> Table:
    """Table 1: samples of each language in all, and of each emotion and fixed class."""
    emotions, fixed = run.config["emotions"], run.config["fixed"]
    names = defaultdict(set)
    for corpus in corpora:
        for language in np.unique(corpus.languages):
            names[str(language)].add(corpus.corpus)
    records = []
    for language, counts in count_clips(corpora).items():
        records.append(
            {
                "language": language,
                "corpora": ", ".join(sorted(names[language])),
                "samples": sum(counts[label] for label in emotions),
                **{label: counts[label] for label in (*emotions, *fixed)},
            }
        )
    header = ("Language", "Corpora", "Samples of emotions", *emotions, *fixed)
    rows = [
        tuple(
            Entry(LANGUAGES.get(str(value), str(value)) if name == "language" else str(value))
            for name, value in record.items()
        )
        for record in records
    ]
    notes = [
        "Clips in the prepared files, of the classes that the runs use. Clips of no language serve "
        "all languages."
    ]
    return Table("data", "Table 1. Dataset details", header, rows, notes, records)


# ---- the results


def result_tables(runs: Sequence[Run], emofilm: bool) -> list[Table]:
    """One table for each figure, batch-norm mode and number of shots.

    Args:
        runs: from `runs.collect`.
        emofilm: whether the paper's numbers may stand beside ours.
    """
    return [
        _result_table([run for run in runs if run.shots == shots], shots, mode, figure, emofilm)
        for figure, mode, shots in itertools.product(
            FIGURES, BATCH_NORM_MODES, sorted({run.shots for run in runs})
        )
    ]


def _result_table(runs: Sequence[Run], shots: int, mode: str, figure: str, emofilm: bool) -> Table:
    cells: dict[str, dict[Row, list[Run]]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        cells[run.target][run.row].append(run)
    targets = sorted(cells, key=language_order)
    of_paper = PAPER_ACCURACY.get(shots, {}) if emofilm and figure == "accuracy" else {}
    best = {target: best_rows(cells[target], mode, figure) for target in targets}
    rows, records = [], []
    for row in sorted({run.row for run in runs} | of_paper.keys(), key=lambda row: row.order):
        tested = {target: cells[target][row] for target in targets if row in cells[target]}
        adapted = {target: found for target, found in tested.items() if adapts(found[0].results)}
        lines = [(Entry(row.label, signs=signs(row, runs)), tested, summarise)]
        lines += [(Entry(START, soft=True), adapted, summarise_start)] if adapted else []
        for label, found, summary in lines:
            entries = [label]
            for target in targets:
                paper = None if label.soft else of_paper.get(row, {}).get(target)
                if target in found:
                    cell = summary(found[target], mode, figure)
                    marked = row in best[target] and not label.soft
                    entries.append(Entry(_show(cell), best=marked, soft=label.soft))
                    records.append(
                        {
                            **row._asdict(),
                            "first_order": int(row.first_order),
                            "adapted": int(not label.soft),
                            "target": target,
                            "shots": shots,
                            "batch_norm": mode,
                            "figure": figure,
                            "mean": cell.mean,
                            "ci95_over_episodes": cell.over_episodes,
                            "ci95_over_seeds": cell.over_seeds,
                            "seeds": cell.seeds,
                            "episodes_per_seed": cell.episodes,
                            "best": int(marked),
                            "paper": paper,
                        }
                    )
                else:
                    entries.append(Entry(""))
                if of_paper:
                    entries.append(Entry("" if paper is None else f"{paper:.2f}"))
            rows.append(tuple(entries))
    header = ["Method"]
    for target in targets:
        language = target_name(target)
        header += [language, f"{language}, paper"] if of_paper else [language]
    number = f"{PAPER_TABLES[shots]}. " if shots in PAPER_TABLES else ""
    caption = f"{number}{TITLES[figure]} in {shots}-shot learning, {mode} batch norm"
    return Table(
        f"{figure}_{mode}_{shots}shot",
        caption,
        tuple(header),
        rows,
        _notes(runs, figure, best, bool(of_paper)),
        records,
    )


def _notes(
    runs: Sequence[Run], figure: str, best: Mapping[str, set[Row]], paper: bool
) -> list[str]:
    first = runs[0]
    classes = len(
        first.config["emotions"] if figure == "emotion_accuracy" else first.results["classes"]
    )
    episodes = ", ".join(map(str, sorted({run.config["episodes"] for run in runs})))
    notes = [
        f"In %; chance is {100 / classes:.1f}. ± is half the 95% interval over test episodes "
        f"({episodes} a seed, those of all seeds together)."
    ]
    seeds = defaultdict(set)
    for run in runs:
        seeds[run.cell].add(run.seed)
    if several := sorted({len(of_cell) for of_cell in seeds.values()} - {1}):
        factor = ", ".join(f"{stats.t.ppf(0.975, n - 1):.1f} for {n} seeds" for n in several)
        notes[0] += (
            " In brackets, half the 95% interval over the seeds' means (Student's t: standard "
            f"errors times {factor}); cells without brackets have one seed."
        )
    test = (
        "every other method of the column on the same episodes (paired t-test, Holm-corrected over "
        "the rivals, 5%; it speaks of these episodes and trained networks, not of other seeds)."
    )
    compared = Counter((target, row.leak_guard) for row, target, _ in seeds)
    if any(best.values()):
        notes.append(f"Bold beats {test}")
    elif max(compared.values()) > 1:
        notes.append(f"No cell is bold: none beats {test}")
    if any(adapts(run.results) for run in runs):
        notes.append(f"A line {START} is the start of the method above it, before its first step.")
    if {run.row.leak_guard for run in runs} - {"none"}:
        notes.append("Rows with a leak guard are tested on other clips and compared among theirs.")
    if paper:
        notes.append(
            "The paper's columns are its tables on EmoFilm; a blank is blank in our copy of it. It "
            "does not say its batch norm, and its neutral and silence clips are its own."
        )
    used = {sign for run in runs for sign in signs(run.row, runs)}
    return notes + [text for sign, text in FOOTNOTES.items() if sign in used]


def signs(row: Row, runs: Sequence[Run]) -> str:
    """The footnotes of a row: what it knows that others do not, or cannot know."""
    knows = all(run.results["knows_fixed_classes"] for run in runs if run.row == row)
    return ALL_CLASSES * (row.support == "all") + UNKNOWING * (not knows)


def target_name(target: str) -> str:
    """A target in words: a language, or a corpus with its language's code."""
    return (LANGUAGES | CORPORA).get(target, target)


def language_order(target: str) -> tuple[int, str]:
    """Sorts targets in the order of the paper's columns, of LANGUAGES, of CORPORA, then by name."""
    known = [*LANGUAGES, *CORPORA]
    return (known.index(target) if target in known else len(LANGUAGES) - 2, target)


def _show(cell: Cell) -> str:
    seeds = "" if cell.over_seeds is None else f" (± {cell.over_seeds:.1f})"
    return f"{cell.mean:.1f} ± {cell.over_episodes:.1f}{seeds}"


# ---- the formats


def markdown(table: Table) -> str:
    """The table with caption and notes, for pasting into a document."""

    def show(entry: Entry) -> str:
        text = entry.text.replace("|", "\\|").replace("_", "\\_")
        return f"**{text}**{entry.signs}" if entry.best else f"{text}{entry.signs}"

    def line(row: tuple[Entry, ...]) -> str:
        indent = "&emsp;" * row[0].soft
        return f"| {indent}{' | '.join(map(show, row))} |"

    lines = [
        f"**{table.caption}**",
        "",
        f"| {' | '.join(table.header)} |",
        f"|{'---|' * len(table.header)}",
        *map(line, table.rows),
    ]
    return "\n\n".join(["\n".join(lines), *table.notes]) + "\n"


def to_csv(table: Table) -> str:
    """The figures, one cell a line, in percent to four decimals; empty where there is none."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(table.records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(table.records)
    return text.getvalue()


_LATEX = {
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    **{"\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}"},
    **{"±": "$\\pm$", ALL_CLASSES: "\\dag{}", UNKNOWING: "\\ddag{}"},
}


def latex(table: Table) -> str:
    """A table environment that needs no package."""

    def escape(text: str) -> str:
        return "".join(_LATEX.get(sign, sign) for sign in text)

    def show(entry: Entry) -> str:
        text = escape(entry.text)
        text = f"\\textbf{{{text}}}" if entry.best else text
        return text + (f"\\textsuperscript{{{escape(entry.signs)}}}" if entry.signs else "")

    def line(row: tuple[Entry, ...]) -> str:
        indent = "\\quad " * row[0].soft
        return f"{indent}{' & '.join(map(show, row))} \\\\"

    # The paper's number is LaTeX's to give.
    caption = table.caption.split(". ", 1)[-1]
    lines = [
        "\\begin{table}",
        f"\\caption{{{escape(caption)}}}",
        f"\\label{{tab:{table.name}}}",
        "\\centering",
        f"\\begin{{tabular}}{{l{'r' * (len(table.header) - 1)}}}",
        "\\hline",
        " & ".join(map(escape, table.header)) + " \\\\",
        "\\hline",
        *map(line, table.rows),
        "\\hline",
        "\\end{tabular}",
        *(f"\\par\\footnotesize {escape(note)}" for note in table.notes),
        "\\end{table}",
    ]
    return "\n".join(lines) + "\n"
