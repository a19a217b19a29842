"""`python -m fmaml_jax.report RUN_DIR... [--out=DIR]`: the paper's tables and figures from runs.

A RUN_DIR is a run folder, a file of runs, or a folder that holds some, at any depth. DIR gets
report.html, which needs no other file, tables.md, each table in tables/ (Markdown, CSV, LaTeX) and
each figure in figures/ (PNG, SVG). It is written whole or not at all, in place of an earlier
report. Runs that are damaged, unfinished, untested, there twice or not comparable are named and
left out. `--save=FILE.jsonl` puts the runs themselves into one small file instead.
"""

from pathlib import Path

from absl import flags

from fmaml_jax.common import console
from fmaml_jax.common.errors import UserError


def define_flags() -> None:
    """Where the report, or the runs' file, goes."""
    flags.DEFINE_string("out", "report", "folder of the report; an earlier one is replaced")
    flags.DEFINE_string("save", "", "instead of a report, one .jsonl file of all runs")


def main(paths: list[str]) -> None:
    """Makes what the command line asks for.

    Raises:
        UserError: see `output.report` and `output.save_runs`; or the command line lacks something.
    """
    out, file = flags.FLAGS.out, flags.FLAGS.save
    if not paths:
        raise UserError("no RUN_DIR is named; for example runs/sweep --out=runs/report")
    if file and flags.FLAGS["out"].present:
        raise UserError("--out makes a report and --save a file of runs; give one of them")
    if not out:
        raise UserError("--out= names no folder; for example --out=runs/report")

    from fmaml_jax.report import output  # late, so that --help does not wait for its libraries

    if file:
        output.save_runs(paths, Path(file))
    else:
        output.report(paths, Path(out))


def command() -> None:
    """The whole command, as it is installed."""
    define_flags()
    console.run(main, arguments=True, example="runs/best --out=report")


if __name__ == "__main__":
    command()
