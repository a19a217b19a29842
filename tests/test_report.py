"""The report: tables by hand, intervals and marks against SciPy, bad runs, and the page."""

import csv
import io
import json
import math
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from scipy import stats

from fmaml_jax.common.errors import UserError
from fmaml_jax.config import Config
from fmaml_jax.data.dataset import Dataset, save
from fmaml_jax.report.figures import MODE, draw
from fmaml_jax.report.output import report, save_runs
from fmaml_jax.report.runs import Row, collect, load
from fmaml_jax.report.statistics import (
    answers_by_confidence,
    best_rows,
    calibration_error,
    compare,
    gap_between_sexes,
    holm,
    summarise,
)
from fmaml_jax.report.tables import (
    PAPER_EMOTIONS,
    PAPER_SAMPLES,
    latex,
    markdown,
    numbered,
    read_corpora,
    result_tables,
    to_csv,
)
from fmaml_jax.training import plots
from fmaml_jax.training.run_folder import describe
from tests.run_folders import CLASSES, make_run

ROOT = Path(__file__).resolve().parents[1]
FMAML = Row("fmaml", "emotions", "cnn", "none")
METASER = Row("metaser", "all", "cnn", "none")


def change(folder, name="results.json", **values):
    content = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps(content | values))


def kinds(remarks):
    return sorted((remark.kind, Path(remark.subject).name) for remark in remarks)


def table_of(runs, name="accuracy_transductive_5shot", emofilm=False):
    made = numbered(result_tables(runs, emofilm))
    return next(table for table in made if table.name == name)


def methods_of(table):
    """The rows of methods, without those of their starts."""
    return [row for row in table.rows if not row[0].soft]


# ---- figures and marks


def test_table_by_hand(tmp_path):
    # Means 65 and 75 of the seeds: 70 over both, standard error 5 with one degree of freedom.
    make_run(tmp_path / "a", [0.5, 0.6, 0.7, 0.8], seed=0)
    make_run(tmp_path / "b", [0.6, 0.7, 0.8, 0.9], seed=1)
    make_run(tmp_path / "c", [0.2, 0.4, 0.2, 0.4], seed=0, method="metaser", support="all")
    make_run(tmp_path / "d", [0.2, 0.2, 0.2, 0.6], seed=0, target="de")
    table = table_of(collect([str(tmp_path)])[0])
    assert table.caption == "Accuracy over all classes, transductive batch norm, 5 shots"
    assert table.header == ("Method", "Italian", "German", "Mean")
    # Deviations (-2, -1, 0, 1; -1, 0, 1, 2) / 10: standard error sqrt(0.12 / 7 / 8).
    pooled = 100 * math.sqrt(0.12 / 56) * stats.t.ppf(0.975, 7)
    over_seeds = 5 * stats.t.ppf(0.975, 1)
    # Before adaptation they are half of that; each seed has a standard error of sqrt(0.05 / 3 / 4).
    at_first = 50 * math.sqrt(0.05 / 12) * stats.t.ppf(0.975, 3) / math.sqrt(2)
    metaser = 100 * math.sqrt(0.04 / 3 / 4) * stats.t.ppf(0.975, 3)
    german = 10 * stats.t.ppf(0.975, 3)
    assert [[entry.text for entry in row] for row in table.rows] == [
        [
            "F-MAML",
            f"70.0 ± {pooled:.1f} (± {over_seeds:.1f})",
            f"30.0 ± {german:.1f}",
            f"50.0 ± {math.hypot(pooled, german) / 2:.1f}",
        ],
        [
            "without adaptation",
            f"35.0 ± {at_first:.1f} (± {over_seeds / 2:.1f})",
            f"15.0 ± {german / 2:.1f}",
            f"25.0 ± {math.hypot(at_first, german / 2) / 2:.1f}",
        ],
        ["MetaSER", f"30.0 ± {metaser:.1f}", "", ""],
        ["without adaptation", f"15.0 ± {metaser / 2:.1f}", "", ""],
    ]
    assert "chance is 14.3" in table.notes[0]
    assert "12.7 for 2 seeds" in table.notes[0]


def test_intervals_are_scipys(tmp_path):
    rng = np.random.default_rng(0)
    shares = rng.uniform(0.3, 0.6, (3, 20))
    for seed, episodes in enumerate(shares):
        make_run(tmp_path / str(seed), episodes, seed=seed)
    runs, _ = collect([str(tmp_path)])
    for figure, shift in (("accuracy", 0), ("emotion_accuracy", -0.1), ("uar", 0)):
        cell = summarise(runs, "transductive", figure)
        low, high = stats.t.interval(
            0.95, 59, np.mean(shares) + shift, stats.sem(shares, axis=None)
        )
        assert cell.mean == pytest.approx(50 * (low + high), abs=1e-3)
        assert cell.over_episodes == pytest.approx(50 * (high - low), abs=1e-3)
        means = shares.mean(axis=1)
        low, high = stats.t.interval(0.95, 2, np.mean(means), stats.sem(means))
        assert cell.over_seeds == pytest.approx(50 * (high - low), abs=1e-3)
        assert (cell.seeds, cell.episodes) == (3, 20)


def test_holm_by_hand():
    # 0.01 * 3, 0.02 * 2, and 0.03 * 1 raised to the one before it.
    np.testing.assert_allclose(holm([0.03, 0.01, 0.02]), [0.04, 0.03, 0.04])
    np.testing.assert_allclose(holm([0.6, 0.7]), [1, 1])


def column(tmp_path, **shares):
    """Runs of one cell by method, of given accuracies."""
    for name, episodes in shares.items():
        for seed, of_seed in enumerate(np.atleast_2d(episodes)):
            make_run(tmp_path / f"{name}{seed}", of_seed, method=name, seed=seed)
    by_row = {}
    for run in collect([str(tmp_path)])[0]:
        by_row.setdefault(run.row, []).append(run)
    return by_row


def test_best_is_marked_where_the_pairs_say_so(tmp_path):
    # Episodes differ by 30 points, so that the intervals overlap; the pairs differ by 2 ± 1.
    rng = np.random.default_rng(1)
    hard = rng.uniform(0.3, 0.6, (2, 30))
    runs = column(tmp_path, fmaml=hard + 0.02 + rng.normal(0, 0.01, hard.shape), anil=hard)
    ours, rival = runs.values()
    assert ours[0].row == FMAML
    assert best_rows(runs, "transductive", "accuracy") == {FMAML}
    a, b = (
        np.concatenate([run.results["transductive"]["by_episode"]["accuracy"] for run in side])
        for side in (ours, rival)
    )
    test = compare(ours, rival, "transductive", "accuracy")
    assert test.p == pytest.approx(stats.ttest_1samp(a - b, 0).pvalue)
    assert test.difference == pytest.approx(100 * (a - b).mean(), abs=1e-3)
    assert test.paired
    back = compare(rival, ours, "transductive", "accuracy")
    assert (back.p, back.difference) == (pytest.approx(test.p), -test.difference)
    table = table_of(ours + rival)
    assert [row[1].best for row in methods_of(table)] == [True, False]
    assert table.notes[1].startswith("Bold beats every other method")


def test_best_is_not_marked_on_noise(tmp_path):
    rng = np.random.default_rng(2)
    hard = rng.uniform(0.3, 0.6, 30)
    noise = rng.normal(0, 0.05, 30)
    runs = column(tmp_path, fmaml=hard + 0.002 + noise - noise.mean(), anil=hard, boil=hard - 0.1)
    assert best_rows(runs, "transductive", "accuracy") == set()
    table = table_of([run for side in runs.values() for run in side])
    assert table.notes[1].startswith("No cell is bold")


def test_holm_decides_between_one_rival_and_many(tmp_path):
    # p is 0.02 against each rival: enough alone, not against three.
    deviation = stats.zscore(np.random.default_rng(3).normal(size=20), ddof=1)
    gain = (stats.t.isf(0.01, 19) / math.sqrt(20) + deviation) / 100
    runs = column(tmp_path, fmaml=0.5 + gain, anil=[0.5] * 20, boil=[0.5] * 20, reptile=[0.5] * 20)
    assert best_rows(runs, "transductive", "accuracy") == set()
    two = dict(list(runs.items())[:2])
    assert compare(*two.values(), "transductive", "accuracy").p == pytest.approx(0.02)
    assert best_rows(two, "transductive", "accuracy") == {FMAML}


def test_other_episodes_are_never_compared(tmp_path):
    make_run(tmp_path / "a", [0.8, 0.81, 0.8, 0.82])
    make_run(tmp_path / "b", [0.1, 0.12, 0.1, 0.1], leak_guard="speaker")
    make_run(tmp_path / "c", [0.1, 0.12, 0.1, 0.1], method="anil", seed=1)
    runs, _ = collect([str(tmp_path)])
    by_row = {run.row: [run] for run in runs}
    assert best_rows(by_row, "transductive", "accuracy") == set()
    assert [row[0].text for row in methods_of(table_of(runs))] == [
        "F-MAML",
        "F-MAML, leak guard speaker",
        "ANIL",
    ]


def test_rows_are_named_by_their_variant_and_signed(tmp_path):
    for i, (method, support, network) in enumerate(
        [
            ("meta_sgd", "all", "cnn"),
            ("meta_sgd", "emotions", "cnn"),
            ("supervised", "all", "cnn_lstm"),
            ("supervised", "emotions", "cnn"),
        ]
    ):
        make_run(tmp_path / str(i), method=method, support=support, network=network)
    table = table_of(collect([str(tmp_path)])[0])
    assert [(row[0].text, row[0].signs) for row in methods_of(table)] == [
        ("Meta-SGD", ""),
        ("Meta-SGD (support all)", "†"),
        ("Supervised (cnn_lstm)", "†"),
        ("Supervised (support emotions)", "‡"),
    ]
    assert [note[0] for note in table.notes[-2:]] == ["†", "‡"]


MFCC = {"coefficients": 40}
EGEMAPS = {"functionals": "eGeMAPSv02"}
DESCRIPTORS = {"descriptors": 1, "coefficients": 19}


def test_features_are_named_and_their_rows_compared(tmp_path):
    for i, (config, changes) in enumerate(
        [
            (MFCC | EGEMAPS, {"method": "functionals", "support": "emotions"}),
            (EGEMAPS, {"method": "functionals", "support": "all"}),
            (DESCRIPTORS, {"network": "fourier"}),
            (DESCRIPTORS, {"method": "functionals", "support": "all"}),
            (MFCC, {"method": "functionals", "support": "all"}),
            (MFCC, {}),
        ]
    ):
        # The best is one of the last features' rows; each kind of features has files of its own.
        accuracy = np.array([0.5, 0.6, 0.7, 0.8]) - 0.1 * (i != 3) - i / 1000
        folder = make_run(tmp_path / str(i), accuracy, hashes={"a.npz": str(config)}, **changes)
        change(folder, "config.json", feature_config=config)
    runs, remarks = collect([str(tmp_path)])
    assert remarks == []
    table = table_of(runs)
    assert [(row[0].text, row[1].best) for row in methods_of(table)] == [
        ("F-MAML", False),
        ("F-MAML (descriptors, fourier)", False),
        ("Linear SVM", False),
        ("Linear SVM (eGeMAPS)", False),
        ("Linear SVM (descriptors)", True),
        ("Linear SVM (MFCC + eGeMAPS, support emotions)", False),
    ]
    assert [record["features"] for record in table.records][:3:2] == ["MFCC", "descriptors"]


def test_rows_are_named_by_positions_and_order_that_their_methods_read(tmp_path):
    for i, (method, changes) in enumerate(
        [
            ("fmaml", {}),
            ("fmaml", {"first_order": True}),
            ("fmaml", {"positions": "known"}),
            ("fmaml", {"positions": "known", "first_order": True, "leak_guard": "speaker"}),
            ("protonet", {"positions": "known", "first_order": True}),
            ("pooled_finetune", {"positions": "known", "first_order": True}),
            ("functionals", {"positions": "known", "first_order": True}),
        ]
    ):
        support = "all" if method in ("protonet", "functionals") else "emotions"
        make_run(tmp_path / str(i), method=method, support=support, **changes)
    runs, remarks = collect([str(tmp_path)])
    assert remarks == []
    table = table_of(runs)
    assert [row[0].text for row in methods_of(table)] == [
        "F-MAML",
        "F-MAML (first order)",
        "F-MAML (known positions)",
        "F-MAML (known positions, first order), leak guard speaker",
        "ProtoNet",
        "Pooled classifier, fine-tuned",
        "Linear SVM",
    ]
    assert [(record["positions"], record["first_order"]) for record in table.records[::2]][:4] == [
        ("", 0),
        ("", 1),
        ("known", 0),
        ("known", 1),
    ]


def test_the_start_of_what_adapts_stands_below_it(tmp_path):
    make_run(tmp_path / "a", [0.8, 0.81, 0.8, 0.82])
    make_run(tmp_path / "b", [0.1, 0.12, 0.1, 0.1], method="protonet", support="all")
    runs, _ = collect([str(tmp_path)])
    for figure, at_first in (("accuracy", "39.4"), ("emotion_accuracy", "34.4")):
        table = table_of(runs, f"{figure}_inductive_5shot")
        assert [(row[0].text, row[1].best, row[0].soft) for row in table.rows] == [
            ("F-MAML", True, False),
            ("without adaptation", False, True),
            ("ProtoNet", False, False),
        ]
        assert table.rows[1][1].text.startswith(f"{at_first} ± ")
        assert re.search(rf"^\| &emsp;without adaptation \| {at_first} ± ", markdown(table), re.M)
        assert re.search(rf"^\\quad without adaptation & {at_first} \$", latex(table), re.M)
        lines = list(csv.DictReader(io.StringIO(to_csv(table))))
        assert [line["adapted"] for line in lines] == ["1", "0", "1"]
        assert f"{float(lines[1]['mean']):.1f}" == at_first
    assert any(note.startswith("A line without adaptation") for note in table.notes)


def test_targets_that_are_corpora_have_names_and_an_order(tmp_path):
    targets = ("zzz", "cremad", "nemo", "ravdess", "it", "emovo", "emodb")
    for target in targets:
        make_run(tmp_path / target, target=target)
    assert table_of(collect([str(tmp_path)])[0]).header == (
        "Method",
        *("Italian", "zzz", "EmoDB (de)", "EMOVO (it)", "RAVDESS (en)", "CREMA-D (en)"),
        *("nEMO (pl)", "Mean"),
    )


def test_formats_have_the_same_figures(tmp_path):
    rng = np.random.default_rng(0)
    for method, support, gain in (("fmaml", "emotions", 0.1), ("meta_sgd", "all", 0)):
        for target, seeds in (("it", (0, 1)), ("de", (0,))):
            for seed in seeds:
                make_run(
                    tmp_path / f"{method}{target}{seed}",
                    np.clip(rng.normal(0.5 + gain, 0.01, 10), 0, 1),
                    **{"method": method, "support": support, "target": target, "seed": seed},
                )
    table = table_of(collect([str(tmp_path)])[0])
    of_csv = {}
    for line in csv.DictReader(io.StringIO(to_csv(table))):
        if line["adapted"] == "0":
            continue
        text = f"{float(line['mean']):.1f} ± {float(line['ci95_over_episodes']):.1f}"
        if line["ci95_over_seeds"]:
            text += f" (± {float(line['ci95_over_seeds']):.1f})"
        name = {"fmaml": "F-MAML", "meta_sgd": "Meta-SGD"}[line["method"]]
        of_csv[name, line["target"]] = (text, line["best"] == "1")
    assert len(of_csv) == 6
    assert {marked for _, marked in of_csv.values()} == {True, False}

    def parse(lines, split, bold, plain):
        found = {}
        for line in lines:
            name, *cells = (cell.strip() for cell in split(line))
            for target, cell in zip(("it", "de", "mean"), cells, strict=True):
                match = re.fullmatch(bold, cell)
                found[plain(name), target] = (plain(match[1] if match else cell), bool(match))
        return found

    of_markdown = parse(
        [line for line in markdown(table).splitlines() if line.startswith(("| F-MAML", "| Meta-"))],
        lambda line: line.strip("|").split("|"),
        r"\*\*(.*)\*\*",
        lambda text: text.replace("\\", "").replace(" (support all)†", ""),
    )
    of_latex = parse(
        [line for line in latex(table).splitlines() if line.startswith(("F-MAML", "Meta-"))],
        lambda line: line.removesuffix("\\\\").split("&"),
        r"\\textbf\{(.*)\}",
        lambda text: (
            text.replace("$\\pm$", "±")
            .replace("\\_", "_")
            .replace(" (support all)\\textsuperscript{\\dag{}}", "")
        ),
    )
    assert of_markdown == of_csv
    assert of_latex == of_csv


def test_methods_without_shared_queries_are_compared_by_welchs_test(tmp_path):
    rng = np.random.default_rng(4)
    ours, rivals = rng.normal(0.55, 0.1, 20), rng.normal(0.5, 0.02, 20)
    make_run(tmp_path / "a", ours)
    make_run(tmp_path / "b", rivals, method="metaser", support="all", seed=1)
    table = table_of(collect([str(tmp_path)])[0], "difference_accuracy_inductive_5shot")
    (row,) = table.rows
    p = stats.ttest_ind(ours, rivals, equal_var=False).pvalue
    assert table.records[0]["p"] == pytest.approx(p)
    assert table.records[0]["test"] == "Welch's t"
    assert [entry.text for entry in row] == [
        "MetaSER",
        f"{100 * (ours.mean() - rivals.mean()):+.1f} (p = {p:.3f})",
    ]
    assert row[1].signs == "§"
    assert table.notes[-1].startswith("§ no seed has the same queries")


def test_tables_are_numbered_once_inductive_first_and_none_repeats_another(tmp_path):
    for shots in (5, 10):
        make_run(tmp_path / "both" / str(shots), shots=shots)
        folder = make_run(tmp_path / "one" / str(shots), shots=shots)
        results = json.loads((folder / "results.json").read_text())
        results["transductive"] = results["inductive"]
        results["inductive"]["by_episode"]["uar"][0] += 0.1
        change(folder, **results)
    names = [
        [(table.title[:8], table.name) for table in numbered(result_tables(runs, False))]
        for runs, _ in (collect([str(tmp_path / kind)]) for kind in ("both", "one"))
    ]
    assert names[0] == [
        ("Table 1.", "accuracy_inductive_5shot"),
        ("Table 2.", "accuracy_inductive_10shot"),
        ("Table 3.", "emotion_accuracy_inductive_5shot"),
        ("Table 4.", "emotion_accuracy_inductive_10shot"),
        ("Table 5.", "accuracy_transductive_5shot"),
        ("Table 6.", "accuracy_transductive_10shot"),
        ("Table 7.", "emotion_accuracy_transductive_5shot"),
        ("Table 8.", "emotion_accuracy_transductive_10shot"),
    ]
    # No batch norm, and another UAR.
    assert [name.split("_inductive")[0] for _, name in names[1]] == [
        *("accuracy", "accuracy", "emotion_accuracy", "emotion_accuracy", "uar", "uar"),
    ]


def test_a_run_records_its_commit():
    head = subprocess.run(
        ["git", f"--git-dir={ROOT / '.git'}", "rev-parse", "HEAD"], capture_output=True, text=True
    ).stdout
    commit = describe(Config(), {}, {}, "cpu")["versions"].get("commit", "")
    assert head.startswith(commit.removesuffix("-dirty"))
    assert bool(commit) == bool(head)


def test_what_differs_and_the_commit_are_on_the_page(tmp_path):
    for name, method, rate in (("a", "fmaml", 0.1), ("b", "anil", 0.3)):
        folder = make_run(tmp_path / "runs" / name, method=method, inner_lr=rate)
        versions = json.loads((folder / "config.json").read_text())["versions"]
        change(folder, "config.json", versions=versions | {"commit": f"c0ffee{name}"})
    make_run(tmp_path / "runs" / "c", method="protonet", support="all")
    report([str(tmp_path / "runs")], tmp_path / "out")
    page = (tmp_path / "out" / "report.html").read_text()
    table = page[page.index('<table id="differing"') :]
    rows = re.findall(r"<tr><td>(.*?)</td><td>(.*?)</td><td>", table)
    assert rows[:3] == [("F-MAML", "0.1"), ("ANIL", "0.3"), ("ProtoNet", "-")]
    assert "c0ffeea, c0ffeeb, not recorded" in page


@pytest.mark.parametrize("targets", [1, 3])
def test_legends_and_titles_lie_within_their_figures(tmp_path, monkeypatch, targets):
    for method, support in (("fmaml", "emotions"), ("functionals_fixed", "emotions")):
        for target in ("emovo", "emodb", "cremad")[:targets]:
            for shots in (5, 20):
                make_run(
                    tmp_path / method / f"{target}{shots}",
                    **{"method": method, "support": support, "target": target, "shots": shots},
                    **({"positions": "known", "network": "fourier"} if method == "fmaml" else {}),
                )
    drawn = []
    savefig = Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda self, *a, **k: drawn.append(self) or savefig(self, *a, **k)
    )
    draw(collect([str(tmp_path)])[0])
    for figure in {id(each): each for each in drawn}.values():
        for text in (*figure.legends, *(axis.title for axis in figure.axes)):
            box = text.get_window_extent()
            assert box.x0 >= 0
            assert box.x1 <= figure.bbox.x1


def test_calibration_coverage_and_sexes_by_hand(tmp_path):
    # 40 answers at 0.25, all right; 60 at 0.855, half of them: errors of 75 and 35.5 points.
    right, of = np.zeros(100, int), np.zeros(100, int)
    right[[24, 25, 85]], of[[24, 25, 85]] = (20, 20, 30), (20, 20, 60)
    sexes = {
        "female": {"right": [9, *[0] * 6], "of": [10, *[0] * 6]},
        "male": {"right": [5, 3, *[0] * 5], "of": [10, 4, *[0] * 5]},
    }
    folder = make_run(tmp_path / "runs" / "a")
    results = json.loads((folder / "results.json").read_text())
    results["inductive"] |= {
        "by_confidence": {"right": right.tolist(), "of": of.tolist()},
        "by_sex": sexes,
    }
    change(folder, **results)
    runs, _ = collect([str(tmp_path / "runs")])
    found = answers_by_confidence(runs, "inductive", 10)
    assert found is not None
    assert found[0][:, [2, 8]].tolist() == [[40, 30], [40, 60]]
    assert found[1][[2, 8]] == pytest.approx([0.25, 0.855])
    assert calibration_error(*found) == pytest.approx(0.4 * 0.75 + 0.6 * 0.355)
    gap = gap_between_sexes(runs, "inductive")
    assert gap[0] == pytest.approx(0.4)
    assert np.isnan(gap[1:]).all()
    assert answers_by_confidence(runs, "transductive", 10) is None  # an older run's
    pictures, _ = draw(runs)
    svg = {picture.name: picture.svg.decode() for picture in pictures}
    assert "calibration error 51.3%" in svg["sureness"]
    assert "sexes" in svg


def test_latex_is_balanced_and_escaped(tmp_path):
    make_run(tmp_path / "a", method="meta_sgd", support="all")
    text = latex(table_of(collect([str(tmp_path)])[0]))
    rules = [line for line in text.splitlines() if line.endswith("rule")]
    assert rules == ["\\toprule", "\\midrule", "\\bottomrule"]  # booktabs
    text = text.removeprefix("% \\usepackage{booktabs}\n")
    bare = text.replace("\\%", "").replace("\\_", "")
    assert bare.count("{") == bare.count("}")
    assert bare.count("$") % 2 == 0
    assert re.findall(r"\\begin\{(\w+)\}", text) == re.findall(r"\\end\{(\w+)\}", text)[::-1]
    assert "%" not in bare
    assert "_" not in re.sub(r"\\label\{.*\}", "", bare)
    assert text.isascii()
    columns = re.search(r"\\begin\{tabular\}\{(\w+)\}", text)[1]
    rows = [line for line in text.splitlines() if line.endswith("\\\\")]
    assert {line.count("&") + 1 for line in rows} == {len(columns)}


# ---- which runs


def test_run_folders_are_found_at_any_depth_and_once(tmp_path):
    make_run(tmp_path / "grid" / "a")
    make_run(tmp_path / "grid" / "deep" / "b", seed=1)
    (tmp_path / "old.json").write_text("{}")  # no run folder: an older schema's lone file
    runs, remarks = collect([str(tmp_path), str(tmp_path / "grid" / "a")])
    assert [Path(run.path).name for run in runs] == ["a", "b"]
    assert remarks == []


def test_seeds_of_one_program(tmp_path):
    folder = make_run(tmp_path / "a", seed=3)
    description = json.loads((folder / "config.json").read_text())
    description["config"]["seeds_at_once"] = 3
    change(folder, "config.json", **description)
    for seed in (3, 4):
        (folder / f"seed{seed}").mkdir()
        shutil.copy(folder / "results.json", folder / f"seed{seed}")
        change(folder / f"seed{seed}", seed=seed, query_hash=str(seed))
    (folder / "results.json").unlink()
    runs, remarks = collect([str(tmp_path)])
    assert [run.seed for run in runs] == [3, 4]
    assert kinds(remarks) == [("unfinished", "seed5")]


def test_damaged_unfinished_and_duplicate_runs_are_named(tmp_path):
    good = make_run(tmp_path / "a")
    (make_run(tmp_path / "unfinished") / "results.json").unlink()
    (make_run(tmp_path / "cut") / "results.json").write_text('{"method": "fm')
    (make_run(tmp_path / "cut_config") / "config.json").write_text("[]")
    (make_run(tmp_path / "lone") / "config.json").unlink()
    change(make_run(tmp_path / "moved"), shots=10)
    older = make_run(tmp_path / "older")
    old = json.loads((older / "results.json").read_text())["transductive"]
    del old["by_episode"]
    change(older, transductive=old)
    short = make_run(tmp_path / "short")
    cut = json.loads((short / "results.json").read_text())["inductive"]
    cut["by_episode"]["uar"].pop()
    change(short, inductive=cut)
    change(make_run(tmp_path / "start"), target="none")
    change(make_run(tmp_path / "twin"), chance=0.2)
    runs, remarks = collect([str(tmp_path)])
    assert [run.path for run in runs] == [str(good)]
    assert kinds(remarks) == [
        ("damaged", "cut"),
        ("damaged", "cut_config"),
        ("damaged", "lone"),
        ("damaged", "moved"),
        ("damaged", "older"),
        ("damaged", "short"),
        ("duplicate", "twin"),
        ("unfinished", "unfinished"),
        ("untested", "start"),
    ]
    reasons = {Path(remark.subject).name: remark.reason for remark in remarks}
    assert "shots 10 where config.json says 5" in reasons["moved"]
    assert "'by_episode'" in reasons["older"]
    assert "inductive uar" in reasons["short"]
    assert "other figures" in reasons["twin"]


# ---- runs in one file


def saved(paths, file):
    """The file with all runs below the paths, and what was left out."""
    return file, save_runs([str(path) for path in paths], file)


def test_a_file_has_all_of_its_runs(tmp_path):
    # Counts of 7 x 25, 5 x 25 and 7 x 50 answers where shares are such, digits where they are not.
    for seed, accuracy in enumerate(([71 / 175, 1 / 3], [0.5, 0.25])):
        folder = make_run(tmp_path / "runs" / f"{seed}", accuracy, seed=seed, inner_lr=seed + 1)
        results = json.loads((folder / "results.json").read_text())
        figures = results["inductive"]["by_episode"]
        figures["accuracy"] = [round(x, 6) for x in accuracy]
        figures["emotion_accuracy"] = [round(k / 125, 6) for k in (1, 124)]
        figures["uar"] = figures["accuracy"][:]
        change(folder, inductive=results["inductive"])
    change(folder, inductive=results["transductive"])
    odd = make_run(tmp_path / "runs" / "odd", seed=2, test_query_per_fixed_class=10)
    results = json.loads((odd / "results.json").read_text())
    results["inductive"]["by_episode"]["uar"] = [round(k / 350, 6) for k in (7, 8, 9, 349)]
    change(odd, **results)
    (make_run(tmp_path / "runs" / "unfinished", seed=3) / "results.json").unlink()
    file, remarks = saved([tmp_path / "runs"], tmp_path / "grid.jsonl")
    assert kinds(remarks) == [("unfinished", "unfinished")]
    before, _ = load([str(tmp_path / "runs")])
    after, remarks = load([str(file)])
    assert remarks == []
    assert [run.path for run in after] == [f"{file}/{name}" for name in ("0", "1", "odd")]
    assert [run._replace(path="") for run in after] == [run._replace(path="") for run in before]
    shared, *lines = map(json.loads, file.read_text().splitlines())
    assert shared["config"]["target"] == "it"
    assert [line["config"]["seed"] for line in lines] == [0, 1, 2]
    assert [line["config"]["inner_lr"] for line in lines] == [1, 2, 0.1]
    of_first = lines[0]["results"]["inductive"]["by_episode"]
    assert of_first["emotion_accuracy"] == {"of": 125, "right": [1, 124]}
    assert of_first["accuracy"] == [0.405714, 0.333333]  # a third is none of 175
    assert "uar" not in of_first
    assert "inductive" not in lines[1]["results"]
    of_odd = lines[2]["results"]["inductive"]["by_episode"]
    assert of_odd["uar"] == {"of": 350, "right": [7, 8, 9, 349]}


@pytest.mark.slow
def test_a_report_of_files_is_that_of_their_folders(made, tmp_path):
    runs = made.parent / "runs"
    for target in ("it", "de"):
        saved(sorted(runs.glob(f"{target}_*")), tmp_path / "grids" / f"{target}.jsonl")
    report([str(tmp_path / "grids")], tmp_path / "out")
    for folder in ("tables", "figures"):
        names = {path.name for path in (made / folder).iterdir()}
        assert names == {path.name for path in (tmp_path / "out" / folder).iterdir()}
        for name in names:
            again = (tmp_path / "out" / folder / name).read_bytes()
            assert again == (made / folder / name).read_bytes(), name


def test_committed_results_are_whole():
    results = ROOT / "experiments" / "results"
    runs, remarks = load([str(results)])
    assert (len(runs), remarks) == (531, [])
    comparable, _ = collect([str(results)])  # as experiments/README.md says
    assert 200 < len(comparable) < len(runs)
    table = table_of(collect([str(results / "best.jsonl")])[0], "emotion_accuracy_inductive_5shot")
    figures = [entry.text.split(" (")[0] for entry in table.rows[0][1:]]
    # The README's.
    assert figures == ["76.7 ± 0.2", "57.8 ± 0.2", "51.4 ± 0.2", "41.7 ± 0.2", "56.9 ± 0.1"]


def test_seeds_of_one_program_in_a_file(tmp_path):
    folder = make_run(tmp_path / "a", seed=3)
    description = json.loads((folder / "config.json").read_text())
    description["config"]["seeds_at_once"] = 2
    change(folder, "config.json", **description)
    for seed in (3, 4):
        (folder / f"seed{seed}").mkdir()
        shutil.copy(folder / "results.json", folder / f"seed{seed}")
        change(folder / f"seed{seed}", seed=seed, query_hash=str(seed))
    file, _ = saved([tmp_path], tmp_path / "grid.jsonl")
    shutil.rmtree(folder)
    runs, remarks = collect([str(tmp_path)])
    assert [(run.path, run.seed) for run in runs] == [(f"{file}/seed3", 3), (f"{file}/seed4", 4)]
    assert remarks == []
    text = file.read_text()
    file.write_text(text.replace('"seed":4', '"seed":5'))
    _, remarks = collect([str(tmp_path)])
    assert kinds(remarks) == [("damaged", "seed4")]


def test_files_and_folders_stand_in_one_report(tmp_path):
    make_run(tmp_path / "a", seed=0)
    make_run(tmp_path / "b", seed=1)
    file, _ = saved([tmp_path], tmp_path / "old" / "grid.jsonl")
    shutil.rmtree(tmp_path / "b")
    make_run(tmp_path / "c", seed=2, inner_lr=0.3)
    again, _ = saved([file], tmp_path / "old" / "again.jsonl")
    assert again.read_text() == file.read_text()
    again.unlink()
    runs, remarks = collect([str(tmp_path), str(file)])
    assert [run.path for run in runs] == [str(tmp_path / "a"), f"{file}/b"]
    assert [remark[:2] for remark in remarks] == [
        ("duplicate", f"{file}/a"),
        ("mismatched", str(tmp_path / "c")),
    ]


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda text: text[:-300], "Unterminated string|Expecting|delimiter"),
        (lambda text: text.splitlines()[0] + "\n", "0 of its 2 runs are there"),
        (lambda text: "", "unpack"),
        (lambda text: "[1]\n{}\n", "integer"),
        (lambda text: text.replace('"run":', '"ran":', 1), "'run'"),
    ],
)
def test_a_damaged_file_is_a_sentence(tmp_path, damage, reason):
    for seed in (0, 1):
        make_run(tmp_path / f"{seed}", seed=seed)
    file, _ = saved([tmp_path], tmp_path / "damaged.jsonl")
    file.write_text(damage(file.read_text()))
    with pytest.raises(UserError, match=f"damaged.jsonl is damaged .*({reason})") as error:
        load([str(file)])
    assert "\n" not in str(error.value)
    runs, remarks = collect([str(tmp_path)])
    assert len(runs) == 2
    assert kinds(remarks) == [("damaged", "damaged.jsonl")]


def test_a_file_that_cannot_be_written_or_is_of_another_kind_is_refused(tmp_path):
    make_run(tmp_path / "a")
    with pytest.raises(UserError, match=r"name a \.jsonl file"):
        save_runs([str(tmp_path)], tmp_path / "grid.json")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write --save"):
        save_runs([str(tmp_path)], tmp_path / "file" / "grid.jsonl")


# ---- which runs stand beside each other


@pytest.mark.parametrize(
    ("odd", "difference"),
    [
        ({"hashes": {"data/emovo.npz": "decaf"}}, "differs in the data from"),
        ({"accuracy": (0.5, 0.6, 0.7)}, "episodes"),
        ({"test_query_per_class": 10}, "test_query_per_class"),
        ({"query_hash": "other"}, "the test's query clips"),
        ({"inner_lr": 0.3}, "inner_lr"),
    ],
)
def test_mismatched_runs_are_left_out_and_named(tmp_path, odd, difference):
    method = "anil" if "query_hash" in odd else "fmaml"
    make_run(tmp_path / "a", seed=0)
    make_run(tmp_path / "b", seed=1)
    make_run(tmp_path / "d", method="boil", seed=1)
    make_run(tmp_path / "odd", **{"seed": 1 if "query_hash" in odd else 2, "method": method} | odd)
    runs, remarks = collect([str(tmp_path)])
    assert [Path(run.path).name for run in runs] == ["a", "b", "d"]
    (named,) = (remark for remark in remarks if remark.kind != "missing")
    assert (named.kind, Path(named.subject).name) == ("mismatched", "odd")
    assert difference in named.reason


def test_other_feature_configuration_and_emotions_are_mismatched(tmp_path):
    make_run(tmp_path / "a", seed=0)
    make_run(tmp_path / "b", seed=1)
    change(make_run(tmp_path / "c", seed=2), "config.json", feature_config={"coefficients": 13})
    classes = ("fear", *(name for name in CLASSES if name != "fear"))
    swapped = make_run(tmp_path / "d", seed=3, emotions=classes[:5])
    results = json.loads((swapped / "results.json").read_text())
    for mode in ("transductive", "inductive"):
        results[mode]["recall"] = {name: results[mode]["recall"][name] for name in classes}
    change(swapped, **results | {"classes": classes})
    runs, remarks = collect([str(tmp_path)])
    assert [run.seed for run in runs] == [0, 1]
    assert kinds(remarks) == [("mismatched", "c"), ("mismatched", "d")]


def test_a_tie_ends_with_a_sentence(tmp_path):
    make_run(tmp_path / "a", inner_lr=0.1)
    make_run(tmp_path / "b", inner_lr=0.3)
    with pytest.raises(UserError, match="differ in inner_lr, and neither kind has more runs"):
        collect([str(tmp_path)])
    make_run(tmp_path / "c", inner_lr=0.3, target="de")  # the method's other cells decide
    runs, remarks = collect([str(tmp_path)])
    assert {run.config["inner_lr"] for run in runs} == {0.3}
    assert kinds(remarks) == [("mismatched", "a")]


def test_cells_may_be_trained_otherwise_but_that_is_said(tmp_path):
    make_run(tmp_path / "a", meta_steps=200)
    make_run(tmp_path / "b", meta_steps=100, shots=10)
    runs, remarks = collect([str(tmp_path)])
    assert len(runs) == 2
    (remark,) = remarks
    assert remark == (
        "trained otherwise",
        "F-MAML",
        "meta_steps is 200 in it 5-shot; 100 in it 10-shot",
    )


def test_holes_are_named(tmp_path):
    for seed in (0, 1):
        make_run(tmp_path / f"a{seed}", seed=seed)
    make_run(tmp_path / "b", shots=10)
    make_run(tmp_path / "c", target="de", shots=10)
    make_run(tmp_path / "d", method="anil")
    _, remarks = collect([str(tmp_path)])
    assert remarks == [("missing", "ANIL", "no run of seed 1 of 5-shot it; 10-shot de, it")]


# ---- the data, and the paper's numbers


def save_emofilm(path, samples, corpus="emofilm"):
    """Clips of the paper's emotions in numbers as given by language, of one number each."""
    languages = np.repeat(list(samples), list(samples.values()))
    labels = np.resize(PAPER_EMOTIONS, len(languages))
    count = len(languages)
    dataset = Dataset(
        corpus=corpus,
        feature_config={"coefficients": 1},
        features=np.arange(count, dtype=np.float32).reshape(-1, 1, 1),
        labels=labels,
        languages=languages,
        speakers=np.repeat("", count),
        scenes=np.repeat("", count),
        names=np.array([f"{i:04d}" for i in range(count)]),
        seconds=np.ones(count, np.float32),
    )
    return {str(path): save(path, dataset)}


@pytest.fixture
def emofilm_report(tmp_path):
    """Makes a report of an F-MAML run on such clips; its tables folder."""

    def make(samples, corpus="emofilm"):
        hashes = save_emofilm(tmp_path / "x.npz", samples, corpus)
        for shots in (5, 10):
            make_run(
                tmp_path / "runs" / str(shots),
                target="es",
                shots=shots,
                hashes=hashes,
                data=tuple(hashes),
            )
        remarks = report([str(tmp_path / "runs")], tmp_path / "out")
        return tmp_path / "out" / "tables", remarks

    return make


def test_papers_numbers_stand_beside_emofilms(emofilm_report):
    tables, _ = emofilm_report(PAPER_SAMPLES)
    text = (tables / "accuracy_inductive_5shot.md").read_text()
    assert "| Method | Spanish | Spanish, paper |" in text
    assert re.search(r"\| F-MAML \| 63.0 ± \d+.\d \| 69.13 \|", text)
    assert "MetaSER" not in text  # blank in our copy
    assert "bold" not in text.lower()  # nothing to compare with
    text = (tables / "accuracy_transductive_10shot.md").read_text()
    assert "| MetaSER† |  | 70.13 |" in text
    assert "| Supervised (cnn\\_lstm)† |  | 32.54 |" in text
    assert "paper" not in (tables / "emotion_accuracy_inductive_5shot.md").read_text()
    assert (tables / "data.csv").read_text().splitlines() == [
        "language,corpora,samples,anger,disgust,fear,happiness,sadness,neutral,silence",
        "en,emofilm,341,69,68,68,68,68,0,0",
        "es,emofilm,356,71,72,71,71,71,0,0",
        "it,emofilm,410,82,82,82,82,82,0,0",
    ]


@pytest.mark.parametrize(
    ("samples", "corpus"),
    [(PAPER_SAMPLES, "emovo"), (dict.fromkeys(PAPER_SAMPLES, 200), "emofilm")],
)
def test_papers_numbers_stand_nowhere_else(emofilm_report, samples, corpus):
    tables, remarks = emofilm_report(samples, corpus)  # 200: the demo's synthetic speech
    assert "69.13" not in "".join(path.read_text() for path in tables.iterdir())
    assert (("left out", "the paper's numbers") in [r[:2] for r in remarks]) == (
        corpus == "emofilm"
    )


def test_data_that_changed_are_not_counted(tmp_path):
    hashes = save_emofilm(tmp_path / "x.npz", {"it": 10})
    make_run(tmp_path / "a", hashes=dict.fromkeys(hashes, "0"), data=tuple(hashes))
    corpora, reason = read_corpora(collect([str(tmp_path)])[0])
    assert corpora == []
    assert "hold other clips by now" in reason
    (tmp_path / "x.npz").unlink()
    assert "does not exist" in read_corpora(collect([str(tmp_path)])[0])[1]


# ---- the folder and the page


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A report of two methods, two languages, two shots and some bad runs; its folder."""
    folder = tmp_path_factory.mktemp("report")
    for method, support in (("fmaml", "emotions"), ("metaser", "all")):
        for target in ("it", "de"):
            for shots in (5, 10):
                make_run(
                    folder / "runs" / f"{target}_{shots}shot_{method}",
                    **{"method": method, "support": support, "target": target, "shots": shots},
                )
    (make_run(folder / "runs" / "bad <&>") / "results.json").write_text("{")
    report([str(folder / "runs")], folder / "out")
    return folder / "out"


NAMES = ("accuracy", "emotion_accuracy")


def test_folder_is_complete(made):
    names = {str(path.relative_to(made)) for path in made.rglob("*") if path.is_file()}
    figures = (
        "loss_by_meta_step",
        "accuracy_by_shots",
        "accuracy_by_inner_step",
        "confusion",
        "recall",
    )
    assert names == {
        "report.html",
        "tables.md",
        *(f"figures/{name}.{kind}" for name in (*figures, "embedding") for kind in ("png", "svg")),
        *(
            f"tables/{figure}_{shots}shot.{kind}"
            for figure in (
                *(f"{name}_{mode}" for name in NAMES for mode in ("inductive", "transductive")),
                *(f"difference_{name}_inductive" for name in NAMES),
            )
            for shots in (5, 10)
            for kind in ("md", "csv", "tex")
        ),
    }


def test_figures_hold_their_figures_as_text(made):
    svg = (made / "figures" / "recall.svg").read_text()
    runs, _ = collect([str(made.parent / "runs")])
    recall = next(
        run.results[MODE]["recall"]
        for run in runs
        if (run.row, run.target, run.shots) == (METASER, "de", 5)
    )
    shown = re.findall(r">(\d+)</text>", svg)
    assert len(shown) == 2 * 2 * 7
    assert {f"{100 * share:.0f}" for share in recall.values()} <= set(shown)
    svg = (made / "figures" / "loss_by_meta_step.svg").read_text()
    for text in ("Italian", "German", "F-MAML, training tasks", "MetaSER, held-out speakers"):
        assert f">{text}</text>" in svg


def test_figures_that_cannot_be_drawn_are_named(tmp_path):
    change(
        make_run(tmp_path / "a" / "b", method="functionals", support="all"),
        curve=None,
        embedding=None,
    )
    remarks = report([str(tmp_path / "a")], tmp_path / "out")
    left_out = {subject for kind, subject, _ in remarks if kind == "left out"}
    assert {
        "the line chart of the query loss by meta-step",
        "the line chart of the accuracy by shots",
        "the scatter plot of the outputs of one test episode",
    } < left_out
    assert not (tmp_path / "out" / "figures" / "loss_by_meta_step.svg").exists()


@pytest.mark.parametrize("absent", [pytest.param(False, marks=pytest.mark.slow), True])
def test_runs_without_validation_are_reported(tmp_path, absent):
    for method, support in (("fmaml", "emotions"), ("metaser", "all")):
        folder = make_run(
            tmp_path / "runs" / method, method=method, support=support, target="emodb"
        )
        results = json.loads((folder / "results.json").read_text())
        curve = {
            name: values if not name.startswith("val_") else []
            for name, values in results["curve"].items()
            if not (absent and name.startswith("val_"))
        }
        results |= {"selection": {"meta_step": 200}, "curve": curve}
        change(folder, **results)
        plots.convergence(folder / "convergence.png", results)
        assert (folder / "convergence.png").stat().st_size > 0
    report([str(tmp_path / "runs")], tmp_path / "out")
    svg = (tmp_path / "out" / "figures" / "loss_by_meta_step.svg").read_text()
    assert ">EmoDB (de)</text>" in svg
    assert ">F-MAML, training tasks</text>" in svg
    assert "held-out" not in svg
    assert "<td>200</td>" in (tmp_path / "out" / "report.html").read_text()


CHECK = """<script>addEventListener("load", () => {
  document.title = JSON.stringify({
    tables: [...document.querySelectorAll("table")].map(t => [t.id, t.tBodies[0].rows.length]),
    images: [...document.images].map(i => [i.naturalWidth, i.naturalHeight]),
    fetched: performance.getEntriesByType("resource").map(e => e.name),
    wide: document.documentElement.scrollWidth - innerWidth,
  });
});</script>"""


@pytest.mark.parametrize("width", [1280, 500])
def test_page_in_chromium(made, tmp_path, width):
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    if not browser:
        pytest.skip("no Chromium; install Debian's package chromium")
    text = (made / "report.html").read_text()
    assert not re.search(r"<script|@import|url\(|(src|href)\s*=\s*[\"']?\s*(https?:|//)", text)
    page = tmp_path / "page.html"
    page.write_text(text.replace("</body>", CHECK + "</body>"))
    done = subprocess.run(
        [
            *(browser, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"),
            *("--disable-background-networking", "--disable-sync", "--enable-logging=stderr"),
            *("--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={tmp_path / 'profile'}"),
            *("--virtual-time-budget=10000", f"--window-size={width},900", "--dump-dom"),
            page.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "CONSOLE" not in done.stderr
    found = json.loads(re.search(r"<title>(.*)</title>", done.stdout)[1])
    tables = dict(found["tables"])
    assert tables["accuracy_transductive_5shot"] == 2 * 2
    assert tables["runs"] == 8
    assert len(tables) == 8 + 4 + 2
    assert len(found["images"]) == 6
    assert all(min(size) > 100 for size in found["images"])
    assert all(name.startswith("data:") for name in found["fetched"])
    assert found["wide"] <= 0
    assert "bad &lt;&amp;&gt;" in done.stdout


def command(*arguments, cwd=ROOT):
    return subprocess.run(
        [sys.executable, "-m", "fmaml_jax.report", *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.slow
def test_command_takes_flags_anywhere_and_replaces_an_earlier_report(tmp_path):
    make_run(tmp_path / "run", seed=4)
    done = command(tmp_path / "run", f"--save={tmp_path / 'run.jsonl'}")
    assert done.stdout == f"{tmp_path / 'run.jsonl'}: 1 run\n", done.stderr
    out = tmp_path / "new" / "out"
    (out / "tables").mkdir(parents=True)
    (out / "report.html").write_text("an earlier one")
    (out / "tables" / "stale.md").write_text("")
    done = command(f"--out={out}", tmp_path / "run.jsonl")
    assert done.returncode == 0, done.stderr
    assert "1 runs" in done.stdout
    assert "left out: the line chart of the query loss by meta-step" in done.stdout
    assert not (out / "tables" / "stale.md").exists()
    assert [path.name for path in out.parent.iterdir()] == ["out"]


def test_help_loads_no_library():
    check = "import sys, fmaml_jax.report.__main__; print({'jax', 'numpy'} & sys.modules.keys())"
    assert subprocess.check_output([sys.executable, "-c", check], cwd=ROOT) == b"set()\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [("nowhere", "--out=x"), ("--out=x",), (".", "--out="), (".", "--out=x", "--save=x.jsonl")],
)
def test_a_bad_command_line_is_one_sentence(tmp_path, arguments):
    done = command(*arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert not (ROOT / "x").exists()


def test_nothing_to_report_and_a_folder_of_other_files_are_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no run folder is in"):
        report([str(tmp_path / "empty")], tmp_path / "out")
    (make_run(tmp_path / "runs" / "a") / "results.json").unlink()
    with pytest.raises(UserError, match=r"no run can be reported: .*a is unfinished"):
        report([str(tmp_path / "runs")], tmp_path / "out")
    run = make_run(tmp_path / "b")
    with pytest.raises(UserError, match="holds other files"):
        report([str(run)], run)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="holds other files"):
        report([str(run)], tmp_path / "file")
    with pytest.raises(UserError, match=r"cannot (use|write) --out"):
        report([str(run)], tmp_path / "file" / "below")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b", "empty", "file", "runs"]
