"""`python -m fmaml_jax.report RUN_DIR... --out=DIR`: the paper's tables and figures from runs.

A RUN_DIR is a run folder, a file of runs, or a folder that holds some, at any depth. DIR gets
report.html, which needs no other file, tables.md, each table in tables/ (Markdown, CSV, LaTeX) and
each figure in figures/ (PNG, SVG). It is written whole or not at all, in place of an earlier
report. Runs that are damaged, unfinished, untested, there twice or not comparable are named and
left out. `--save=FILE.jsonl` instead of `--out` puts the runs themselves into one small file.
"""

from pathlib import Path

from absl import flags

from fmaml_jax.common import console
from fmaml_jax.common.console import UserError

OUT = flags.DEFINE_string("out", "", "folder of the report; an earlier one is replaced")
SAVE = flags.DEFINE_string("save", "", "instead of a report, one .jsonl file of all runs")


def main(paths: list[str]) -> None:
    """Makes what the command line asks for.

    Raises:
        UserError: see `output.report` and `output.save_runs`; or the command line lacks something.
    """
    if not paths:
        raise UserError("no RUN_DIR is named; for example runs/sweep --out=runs/report")
    if bool(OUT.value) == bool(SAVE.value):
        raise UserError("give --out or --save; for example --out=runs/report")
    from fmaml_jax.report import output  # late, since --help needs none of its libraries

    if OUT.value:
        output.report(paths, Path(OUT.value))
    else:
        output.save_runs(paths, Path(SAVE.value))


if __name__ == "__main__":
    console.run(main, arguments=True)
