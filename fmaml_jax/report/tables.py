"""The paper's tables from runs: data first, then Markdown, CSV and LaTeX of the same figures."""

import csv
import io
import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from fmaml_jax.common.errors import UserError
from fmaml_jax.config import BATCH_NORM_MODES
from fmaml_jax.data.dataset import NO_LANGUAGE, Dataset
from fmaml_jax.data.shards import load_corpora
from fmaml_jax.report.runs import FIGURES, Row, Run, adapts
from fmaml_jax.report.statistics import (
    Cell,
    best_rows,
    by_episode,
    compare,
    holm,
    over_targets,
    summarise,
    summarise_start,
)

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

MODES = BATCH_NORM_MODES[::-1]
"""Inductive first: there a prediction does not depend on the other queries of its episode."""
MEAN = "mean"
"""The column of the mean over all targets."""

_SUPERVISED = Row("supervised", "all", "cnn_lstm", "none")  # Lim et al. 2016
METASER = Row("metaser", "all", "cnn", "none")
FMAML = Row("fmaml", "emotions", "cnn", "none")
PAPER_ACCURACY = {  # percent, by shots; the 5-shot rows of the others are blank in our copy
    5: {FMAML: {"en": 69.71, "es": 69.13, "it": 68.85}},
    10: {
        _SUPERVISED: {"en": 32.11, "es": 32.54, "it": 16.57},
        METASER: {"en": 69.11, "es": 70.13, "it": 71.15},
        FMAML: {"en": 73.71, "es": 74.22, "it": 74.55},
    },
    20: {
        _SUPERVISED: {"en": 36.53, "es": 28.64, "it": 24.87},
        METASER: {"en": 76.21, "es": 77.13, "it": 77.95},
        FMAML: {"en": 81.69, "es": 80.13, "it": 80.15},
    },
}
PAPER_SAMPLES = {"en": 341, "es": 356, "it": 410}
PAPER_EMOTIONS = ("anger", "disgust", "fear", "happiness", "sadness")

START = "without adaptation"
ALL_CLASSES, UNKNOWING, UNPAIRED = "†", "‡", "§"
FOOTNOTES = {
    ALL_CLASSES: "† adapts on K clips of every class, the fixed ones too, where the others have "
    "clips of the emotions alone.",
    UNKNOWING: "‡ cannot know the fixed classes: they are in nothing that it learns from.",
    UNPAIRED: "§ no seed has the same queries in both: Welch's t-test over all episodes of each.",
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
    """A table as it is shown, and its figures as records (rows of the CSV).

    Attributes:
        name: of its files.
        group: the title of the tables that it stands among.
        caption: what it shows.
        header, rows: as shown; each row begins with what it is of.
        notes: sentences below it.
        records: the CSV's rows.
        number: its place among the tables of a report.
    """

    name: str
    group: str
    caption: str
    header: tuple[str, ...]
    rows: list[tuple[Entry, ...]]
    notes: list[str]
    records: list[dict[str, Any]]
    number: int = 0

    @property
    def title(self) -> str:
        """The caption with its number."""
        return f"Table {self.number}. {self.caption}"


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
    return Table("data", "Data", "Dataset details", header, rows, notes, records)


# ---- the results


def result_tables(runs: Sequence[Run], emofilm: bool) -> list[Table]:
    """Tables of each figure and number of shots, and of what methods differ by; inductive first.

    A table that would repeat another one's numbers is left out: those of the second batch-norm mode
    where no method has batch norm, and of UAR where each class has as many queries.

    Args:
        runs: from `runs.collect`.
        emofilm: whether the paper's numbers may stand beside ours.
    """
    figures = [name for name in FIGURES if name != "uar" or not uar_is_accuracy(runs)]
    shots = sorted({run.shots for run in runs})
    made = []
    for mode, figure in itertools.product(modes_of(runs), figures):
        of_shots = [[run for run in runs if run.shots == k] for k in shots]
        made += [_result_table(some, runs, mode, figure, emofilm) for some in of_shots]
        made += [
            _difference_table(some, runs, mode, figure)
            for some in of_shots
            if mode == MODES[0] and len({(run.row, run.row.leak_guard) for run in some}) > 1
        ]
    return made


def numbered(tables: Sequence[Table]) -> list[Table]:
    """The tables, each with its number."""
    return [table._replace(number=i) for i, table in enumerate(tables, 1)]


def modes_of(runs: Sequence[Run]) -> tuple[str, ...]:
    """The batch-norm modes in which the runs have figures of their own."""
    first, second = MODES
    same = all(run.results[first] == run.results[second] for run in runs)
    return (first,) if same else MODES


def uar_is_accuracy(runs: Sequence[Run]) -> bool:
    """Whether UAR is the accuracy in every episode, as with as many queries of every class."""
    return all(
        np.allclose(by_episode(run, mode, "uar"), by_episode(run, mode, "accuracy"), atol=1e-5)
        for run in runs
        for mode in MODES
    )


def _by_target(runs: Sequence[Run]) -> dict[str, dict[Row, list[Run]]]:
    """Runs by target, in the order of the columns, and row.

    Where there are several targets, the last one is their mean, of rows that have all of them.
    """
    cells: dict[str, dict[Row, list[Run]]] = {
        target: defaultdict(list)
        for target in sorted({run.target for run in runs}, key=language_order)
    }
    for run in runs:
        cells[run.target][run.row].append(run)
    targets = list(cells)
    whole = [row for row in cells[targets[0]] if all(row in cells[target] for target in targets)]
    if len(targets) > 1 and whole:
        cells[MEAN] = {row: [run for t in targets for run in cells[t][row]] for row in whole}
    return cells


def _summary(
    runs: Sequence[Run],
    summarise: Callable[[Sequence[Run], str, str], Cell],
    mode: str,
    figure: str,
) -> Cell:
    """The figures of one target's runs, or the mean of several targets'."""
    targets = dict.fromkeys(run.target for run in runs)
    cells = [summarise([run for run in runs if run.target == t], mode, figure) for t in targets]
    return over_targets(cells) if len(cells) > 1 else cells[0]


def _group(runs: Sequence[Run], mode: str, figure: str) -> str:
    normed = f", {mode} batch norm" if len(modes_of(runs)) > 1 else ""
    return f"{TITLES[figure]}{normed}"


def _result_table(
    runs: Sequence[Run], all_runs: Sequence[Run], mode: str, figure: str, emofilm: bool
) -> Table:
    shots, cells = runs[0].shots, _by_target(runs)
    of_paper = PAPER_ACCURACY.get(shots, {}) if emofilm and figure == "accuracy" else {}
    best = {target: best_rows(cells[target], mode, figure) for target in cells}
    rows, records = [], []
    for row in sorted({run.row for run in runs} | of_paper.keys(), key=lambda row: row.order):
        tested = {target: cells[target][row] for target in cells if row in cells[target]}
        adapted = {target: found for target, found in tested.items() if adapts(found[0].results)}
        lines = [(Entry(row.label, signs=signs(row, runs)), tested, summarise)]
        lines += [(Entry(START, soft=True), adapted, summarise_start)] if adapted else []
        papers = dict(of_paper.get(row, {}))
        if all(target in papers for target in cells if target != MEAN):
            papers[MEAN] = float(np.mean([papers[target] for target in cells if target != MEAN]))
        for label, found, summary in lines:
            entries = [label]
            for target in cells:
                paper = None if label.soft else papers.get(target)
                if target in found:
                    cell = _summary(found[target], summary, mode, figure)
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
    for target in cells:
        language = target_name(target)
        header += [language, f"{language}, paper"] if of_paper else [language]
    group = _group(all_runs, mode, figure)
    return Table(
        f"{figure}_{mode}_{shots}shot",
        group,
        f"{group}, {shots} shots",
        tuple(header),
        rows,
        _notes(runs, figure, best, bool(of_paper)),
        records,
    )


def _difference_table(
    runs: Sequence[Run], all_runs: Sequence[Run], mode: str, figure: str
) -> Table:
    """How the first method differs from each other one of its leak guard, with p-values."""
    shots, cells = runs[0].shots, _by_target(runs)
    order = sorted({run.row for run in runs}, key=lambda row: row.order)
    rows, records, firsts = [], [], []
    for guard in dict.fromkeys(row.leak_guard for row in order):
        first, *others = (row for row in order if row.leak_guard == guard)
        if not others:
            continue
        firsts.append(first)
        tests = {
            target: {
                row: compare(cells[target][first], cells[target][row], mode, figure)
                for row in others
                if row in cells[target] and first in cells[target]
            }
            for target in cells
        }
        adjusted = {
            target: dict(zip(found, holm([test.p for test in found.values()]), strict=True))
            for target, found in tests.items()
            if found
        }
        for row in others:
            entries = [Entry(row.label)]
            for target in cells:
                test = tests[target].get(row)
                if not test:
                    entries.append(Entry(""))
                    continue
                p = float(adjusted[target][row])
                entries.append(
                    Entry(
                        f"{test.difference:+.1f} ({_show_p(p)})", signs=UNPAIRED * (not test.paired)
                    )
                )
                records.append(
                    {
                        "of": first.label,
                        "against": row.label,
                        "target": target,
                        "shots": shots,
                        "batch_norm": mode,
                        "figure": figure,
                        "difference": test.difference,
                        "p": test.p,
                        "p_holm": p,
                        "test": "paired t" if test.paired else "Welch's t",
                    }
                )
            rows.append(tuple(entries))
    group = _group(all_runs, mode, figure)
    names = " and ".join(first.label for first in firsts)
    notes = [
        f"Points that {names} {'is' if len(firsts) == 1 else 'are'} ahead (+) or behind (-), over "
        "the seeds that both have. p is two-sided, of the paired t-test over episodes, after "
        "Holm's correction over the rows of a column; it speaks of these episodes and trained "
        "networks, not of other seeds.",
        *[FOOTNOTES[UNPAIRED]] * any(entry.signs for row in rows for entry in row),
    ]
    return Table(
        f"difference_{figure}_{mode}_{shots}shot",
        group,
        f"{names} against the others, {shots} shots: {group[0].lower()}{group[1:]}",
        ("Against", *map(target_name, cells)),
        rows,
        notes,
        records,
    )


def _show_p(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


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
    if figure == "accuracy" and uar_is_accuracy(runs):
        notes.append("UAR is the same number: each class has as many queries.")
    if MEAN in best:
        notes.append(
            "The mean is over the targets, of methods that have all; their intervals add in "
            "quadrature."
        )
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
    return (LANGUAGES | CORPORA | {MEAN: "Mean"}).get(target, target)


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
        f"**{table.title}**",
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
    UNPAIRED: "\\S{}",
}


def latex(table: Table) -> str:
    """A table environment of booktabs; LaTeX numbers it."""

    def escape(text: str) -> str:
        return "".join(_LATEX.get(sign, sign) for sign in text)

    def show(entry: Entry) -> str:
        text = escape(entry.text)
        text = f"\\textbf{{{text}}}" if entry.best else text
        return text + (f"\\textsuperscript{{{escape(entry.signs)}}}" if entry.signs else "")

    def line(row: tuple[Entry, ...]) -> str:
        indent = "\\quad " * row[0].soft
        return f"{indent}{' & '.join(map(show, row))} \\\\"

    lines = [
        "% \\usepackage{booktabs}",
        "\\begin{table}",
        f"\\caption{{{escape(table.caption)}}}",
        f"\\label{{tab:{table.name}}}",
        "\\centering",
        f"\\begin{{tabular}}{{l{'r' * (len(table.header) - 1)}}}",
        "\\toprule",
        " & ".join(map(escape, table.header)) + " \\\\",
        "\\midrule",
        *map(line, table.rows),
        "\\bottomrule",
        "\\end{tabular}",
        *(f"\\par\\footnotesize {escape(note)}" for note in table.notes),
        "\\end{table}",
    ]
    return "\n".join(lines) + "\n"
