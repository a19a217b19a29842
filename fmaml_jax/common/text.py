"""Text that people read or wrote: one-line sentences, tables on a terminal, tables in files."""

import csv
from collections.abc import Sequence
from pathlib import Path

from fmaml_jax.common.errors import UserError


def one_line(text: str) -> str:
    """Text whose line breaks, tabs and runs of spaces are one space each."""
    return " ".join(text.split())


def read_table(path: Path) -> list[dict[str, str]]:
    """Rows of a CSV file with a header; missing cells are "", cells and column names stripped."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.reader(file))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} is no CSV file in UTF-8 ({error}); save it as one") from error
    rows = [[cell.strip() for cell in row] for row in rows if any(row)]
    if not rows:
        raise UserError(f"{path} is empty; its first line names the columns")
    header = [column.lower() for column in rows[0]]
    return [dict.fromkeys(header, "") | dict(zip(header, row, strict=False)) for row in rows[1:]]


def text_table(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells, the first of which are headings, as lines with columns two spaces apart.

    Columns of numbers are aligned right.
    """

    def aligned(column: Sequence[str]) -> list[str]:
        width = max(map(len, column))
        numbers = any(cell[:1].isdigit() for cell in column[1:])
        return [cell.rjust(width) if numbers else cell.ljust(width) for cell in column]

    columns = [aligned(column) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(cells).rstrip() for cells in zip(*columns, strict=True))
