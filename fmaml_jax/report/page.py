"""The page: one HTML file that needs nothing beside it, no network and no script."""

import base64
import html
import itertools
import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from string import Template

from fmaml_jax.report.figures import Picture
from fmaml_jax.report.runs import Remark, Run, grouped, reads
from fmaml_jax.report.tables import Entry, Table, target_name

NOT_SAID = "not recorded"
TEMPLATE = Path(__file__).with_name("page.html")


def render(
    runs: Sequence[Run],
    remarks: Sequence[Remark],
    tables: Sequence[Table],
    pictures: Sequence[Picture],
) -> str:
    """The page of a report, from `page.html`."""
    of_data = [table for table in tables if table.name == "data"]
    groups = []
    results = [table for table in tables if table.name != "data"]
    for title, group in itertools.groupby(results, key=lambda table: table.group):
        body = "".join(map(_table, group))
        is_open = " open" if not groups else ""
        groups.append(f"<details{is_open}><summary>{_text(title)}</summary>{body}</details>")
    common, differing, listed = _runs(runs)
    first = runs[0]
    facts = {
        "Runs": str(len(runs)),
        "Commit": ", ".join(dict.fromkeys(run.versions.get("commit", NOT_SAID) for run in runs)),
        "Seeds": ", ".join(map(str, sorted({run.seed for run in runs}))),
        "Data": "; ".join(dict.fromkeys(", ".join(run.config["data"]) for run in runs)),
        "Classes": ", ".join(first.results["classes"]),
        "Test episodes of each run": ", ".join(
            map(str, sorted({run.config["episodes"] for run in runs}))
        ),
        "Queries of each emotion, of each fixed class": "; ".join(
            sorted(
                {
                    f"{run.config['test_query_per_class']}, "
                    f"{run.config['test_query_per_fixed_class']}"
                    for run in runs
                }
            )
        ),
        "Fixed classes of the test come from": "; ".join(_fixed_class_sources(runs)),
    }
    return Template(TEMPLATE.read_text()).substitute(
        facts=_list(facts),
        data="".join(map(_table, of_data)),
        results="".join(groups),
        pictures="".join(map(_picture, pictures)),
        remarks=_remarks(remarks),
        common=_list(common),
        differing=differing,
        runs=listed,
    )


def _fixed_class_sources(runs: Sequence[Run]) -> Iterator[str]:
    for label in runs[0].config["fixed"]:
        by_target = {run.target: run.results["fixed_class_sources"][label] for run in runs}
        parts = (f"{', '.join(corpora)} ({target})" for target, corpora in by_target.items())
        yield f"{label}: {', '.join(parts)}"


def _text(text: str) -> str:
    return html.escape(text)


def _table(table: Table) -> str:
    def show(entry: Entry) -> str:
        text = f"<strong>{_text(entry.text)}</strong>" if entry.best else _text(entry.text)
        return text + (f"<sup>{_text(entry.signs)}</sup>" if entry.signs else "")

    soft = ' class="soft"'
    head = "".join(f'<th scope="col">{_text(name)}</th>' for name in table.header)
    body = "".join(
        f'<tr{soft * row[0].soft}><th scope="row">{show(row[0])}</th>'
        + "".join(f"<td>{show(entry)}</td>" for entry in row[1:])
        + "</tr>"
        for row in table.rows
    )
    notes = "".join(f"<p>{_text(note)}</p>" for note in table.notes)
    return (
        f'<div class="scroll"><table id="{table.name}"><caption>{_text(table.title)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
        f'<div class="notes">{notes}</div>'
    )


def _picture(picture: Picture) -> str:
    # An image of its own, since the ids in one SVG would clash with those in the next. Smaller than
    # three quarters, its letters could not be read.
    data = base64.b64encode(picture.svg).decode()
    size = f"max-width: {picture.width}px; min-width: {picture.width * 3 // 4}px"
    return (
        f'<figure id="{picture.name}"><div class="scroll sheet" style="max-width: '
        f'{picture.width + 18}px"><img alt="{_text(picture.alt)}" style="{size}" '
        f'src="data:image/svg+xml;base64,{data}"></div>'
        f"<figcaption>{_text(picture.title)}</figcaption></figure>"
    )


def _remarks(remarks: Sequence[Remark]) -> str:
    if not remarks:
        return "<p>Nothing was left out.</p>"
    rows = []
    for (kind, reason), alike in grouped(remarks).items():
        first, *others = (_text(remark.subject) for remark in alike)
        more = f"<details><summary>and {len(others)} more</summary>{'<br>'.join(others)}</details>"
        rows.append((_text(kind), first + more * bool(others), _text(reason)))
    return _text_table("remarks", ("what", "of", "why"), rows)


def _text_table(name: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of texts: of HTML in its cells, and not in its head."""
    header = "".join(f'<th scope="col">{_text(title)}</th>' for title in head)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return (
        f'<div class="scroll"><table id="{name}" class="text"><thead><tr>{header}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _list(facts: dict[str, str]) -> str:
    items = "".join(f"<dt>{_text(name)}</dt><dd>{_text(fact)}</dd>" for name, fact in facts.items())
    return f"<dl>{items}</dl>"


def _runs(runs: Sequence[Run]) -> tuple[dict[str, str], str, str]:
    """Training settings that all runs share, a table of those that differ, and one of the runs."""
    names = list(dict.fromkeys(name for run in runs for name in run.training))
    differing = [
        name for name in names if len({json.dumps(run.training.get(name)) for run in runs}) > 1
    ]
    common = {name: str(runs[0].training[name]) for name in names if name not in differing}
    versions = {json.dumps(run.versions, sort_keys=True) for run in runs}
    if len(versions) == 1:
        common |= {f"version: {name}": str(value) for name, value in runs[0].versions.items()}
    else:
        common["versions"] = f"{len(versions)} sets of versions and devices; see each run's record"

    cells: dict[tuple[str, ...], Counter[str]] = defaultdict(Counter)
    for run in runs:
        values = (
            _text(str(run.training.get(name, ""))) if reads(run, name) else "-"
            for name in differing
        )
        cells[_text(run.row.label), *values][f"{target_name(run.target)} {run.shots}-shot"] += 1
    settings = [(*of_row, _text(", ".join(where))) for of_row, where in cells.items()]
    difference = (
        _text_table("differing", ("method", *differing, "runs"), settings)
        if differing
        else "<p>All runs have the same settings.</p>"
    )
    rows = [
        (
            run.path,
            run.row.label,
            run.target,
            str(run.shots),
            str(run.seed),
            str((run.results["selection"] or {}).get("meta_step", "")),
            run.versions.get("commit", NOT_SAID),
        )
        for run in runs
    ]
    head = ("run", "method", "target", "shots", "seed", "selected at meta-step", "commit")
    listed = _text_table("runs", head, [tuple(map(_text, row)) for row in rows])
    return common, difference, listed
