"""The page: one HTML file that needs nothing beside it, no network and no script."""

import base64
import html
import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from string import Template

from fmaml_jax.report.figures import Picture
from fmaml_jax.report.runs import Remark, Run
from fmaml_jax.report.tables import Entry, Table

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
    for title, group in itertools.groupby(results, key=_group):
        body = "".join(map(_table, group))
        is_open = " open" if not groups else ""
        groups.append(f"<details{is_open}><summary>{_text(title)}</summary>{body}</details>")
    common, listed = _runs(runs)
    first = runs[0]
    facts = {
        "Runs": str(len(runs)),
        "Seeds": ", ".join(map(str, sorted({run.seed for run in runs}))),
        "Data": "; ".join(dict.fromkeys(", ".join(run.config["data"]) for run in runs)),
        "Classes": ", ".join(first.results["classes"]),
        "Test episodes a run": ", ".join(
            map(str, sorted({run.config["episodes"] for run in runs}))
        ),
        "Queries of an emotion, of a fixed class": "; ".join(
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
        runs=listed,
    )


def _fixed_class_sources(runs: Sequence[Run]) -> Iterator[str]:
    for label in runs[0].config["fixed"]:
        by_target = {run.target: run.results["fixed_class_sources"][label] for run in runs}
        parts = (f"{', '.join(corpora)} ({target})" for target, corpora in by_target.items())
        yield f"{label}: {', '.join(parts)}"


def _text(text: str) -> str:
    return html.escape(text)


def _group(table: Table) -> str:
    """What tables of one figure and mode share: the caption without its number and shots."""
    title, mode = table.caption.split(". ", 1)[-1].split(" in ", 1)
    return f"{title}, {mode.split(', ', 1)[1]}"


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
        f'<div class="scroll"><table id="{table.name}"><caption>{_text(table.caption)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
        f'<div class="notes">{notes}</div>'
    )


def _picture(picture: Picture) -> str:
    # An image of its own, since the ids in one SVG would clash with those in the next.
    data = base64.b64encode(picture.svg).decode()
    caption = _text(picture.caption)
    return (
        f'<figure id="{picture.name}"><div class="scroll sheet">'
        f'<img alt="{caption}" src="data:image/svg+xml;base64,{data}"></div>'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def _remarks(remarks: Sequence[Remark]) -> str:
    if not remarks:
        return "<p>Nothing was left out.</p>"
    rows = "".join(
        f"<tr><td>{_text(kind)}</td><td>{_text(subject)}</td><td>{_text(reason)}</td></tr>"
        for kind, subject, reason in remarks
    )
    return (
        '<div class="scroll"><table id="remarks" class="text"><thead><tr><th>what</th>'
        f"<th>of</th><th>why</th></tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _list(facts: dict[str, str]) -> str:
    items = "".join(f"<dt>{_text(name)}</dt><dd>{_text(fact)}</dd>" for name, fact in facts.items())
    return f"<dl>{items}</dl>"


def _runs(runs: Sequence[Run]) -> tuple[dict[str, str], str]:
    """Training settings that all runs share, and a table of the runs with those that differ."""
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
    head = ("run", "method", "target", "shots", "seed", "selected at meta-step", *differing)
    rows = [
        (
            run.path,
            run.row.label,
            run.target,
            str(run.shots),
            str(run.seed),
            str((run.results["selection"] or {}).get("meta_step", "")),
            *(str(run.training.get(name, "")) for name in differing),
        )
        for run in runs
    ]
    header = "".join(f'<th scope="col">{_text(name)}</th>' for name in head)
    body = "".join(
        "<tr>" + "".join(f"<td>{_text(value)}</td>" for value in row) + "</tr>" for row in rows
    )
    return common, (
        f'<div class="scroll"><table id="runs" class="text"><thead><tr>{header}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )
