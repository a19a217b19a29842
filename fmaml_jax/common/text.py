"""Text that people read or wrote: sentences, names, tables on a terminal, tables in files."""

import codecs
import csv
import difflib
import io
import math
import os
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from fmaml_jax.common.errors import UserError

LONGEST_NAME = 80
"""Letters of a label, a speaker or another name; a longer one is a text, or a mistake."""
_DELIMITERS = ",;\t"


class Row(NamedTuple):
    """A row of a table.

    Attributes:
        cells: stripped text by column, whose name is as `name_key` has it; "" where it is missing.
        place: what messages call the row: "line 3 of clips.csv".
        decimal_comma: whether 1,5 is a number, as it is where no comma separates cells.
    """

    cells: dict[str, str]
    place: str
    decimal_comma: bool = False


def one_line(text: str) -> str:
    """Text whose line breaks, tabs and runs of spaces are one space each."""
    return " ".join(text.split())


def clean_name(name: str) -> str:
    """A name (of a label, a speaker, a corpus) as it is kept and shown: composed, blanks single."""
    return one_line(unicodedata.normalize("NFC", name))


def name_key(name: str) -> str:
    """What names are compared by: those that differ in case, width or invisible marks are one."""
    folded = unicodedata.normalize("NFKC", name).casefold()
    visible = "".join(mark for mark in folded if unicodedata.category(mark) != "Cf")
    return one_line(unicodedata.normalize("NFKC", visible))


def one_spelling(names: Iterable[str]) -> list[str]:
    """The names, cleaned, each spelled as where its `name_key` came first."""
    first: dict[str, str] = {}
    return [first.setdefault(name_key(name), clean_name(name)) for name in names]


def require_name(name: str, what: str) -> None:
    """Refuses a name that is longer than `LONGEST_NAME`.

    Args:
        name: as it is kept.
        what: it is the name of: "label".

    Raises:
        UserError: it is.
    """
    if len(name) > LONGEST_NAME:
        raise UserError(
            f"the {what} {name[:20]!r}... has {len(name):,} letters, and a name has at most "
            f"{LONGEST_NAME}; shorten it"
        )


def shortened(name: str, letters: int = 24) -> str:
    """A name that has room in a picture."""
    return name if len(name) <= letters else f"{name[: letters - 1]}…"


def is_text(name: str) -> bool:
    """Whether a name can be written; that of a file may hold bytes that are no UTF-8."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of a sentence about an unknown name: the nearest known one, if one is near."""
    by_key = {name_key(other): other for other in known}
    near = difflib.get_close_matches(name_key(name), by_key, n=1)
    return f"; did you mean {by_key[near[0]]}?" if near else ""


def read_table(path: Path, *needed: str) -> list[Row]:
    """Rows of a CSV file whose first line names the columns; empty lines are passed over.

    The delimiter is a comma, a semicolon or a tab, whichever splits the first line most; the text
    is UTF-8 or, with a byte-order mark, UTF-16.

    Args:
        path: the file.
        needed: columns that have to be there.

    Raises:
        UserError: the file cannot be read or is no such table, a column is missing or there twice,
            or a row has more cells than there are columns.
    """
    text = _decode(path)
    first = next((line for line in text.splitlines() if line.strip(_DELIMITERS + ' "')), "")
    delimiter = max(
        _DELIMITERS, key=lambda mark: len(next(csv.reader([first], delimiter=mark), []))
    )
    # Strict, for a quotation mark that is never closed would swallow the rows behind it.
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        lines = [(reader.line_num, [cell.strip() for cell in row]) for row in reader]
    except csv.Error as error:
        raise UserError(
            f"line {reader.line_num} of {path} is not a line of a CSV file ({error}); mend it"
        ) from error
    lines = [(number, row) for number, row in lines if any(row)]
    if not lines:
        raise UserError(f"{path} is empty; its first line names the columns")
    columns = _columns(path, lines[0][1], needed, delimiter)
    return [_row(f"line {number} of {path}", columns, row, delimiter) for number, row in lines[1:]]


def _decode(path: Path) -> str:
    try:
        raw = path.read_bytes()
        is_utf16 = raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        text = raw.decode("utf-16" if is_utf16 else "utf-8-sig")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not a CSV file in UTF-8 ({error}); save it as one") from error
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise UserError(f"line {line} of {path} has a NUL byte; save the file as CSV in UTF-8")
    return text


def _columns(path: Path, header: Sequence[str], needed: Sequence[str], delimiter: str) -> list[str]:
    """The keys of the columns; those without a name, such as an index, are ""."""
    columns = [name_key(name) for name in header]
    while columns and not columns[-1]:
        columns.pop()
    for index, column in enumerate(columns):
        if column and column in columns[:index]:
            raise UserError(
                f"{path} has two columns {column} ({header[columns.index(column)]} and "
                f"{header[index]}); rename or remove one"
            )
    if missing := [column for column in needed if column not in columns]:
        found = ", ".join(filter(None, columns))
        raise UserError(
            f"{path} has no column{'s' * (len(missing) > 1)} {' and '.join(missing)}; it has "
            f"{found}; name its columns in its first line, such as {delimiter.join(needed)}"
        )
    return columns


def _row(place: str, columns: Sequence[str], cells: Sequence[str], delimiter: str) -> Row:
    if any(cells[len(columns) :]):
        raise UserError(
            f"{place} has {len(cells)} cells for {len(columns)} columns; put a cell that holds the "
            "delimiter into quotation marks, and write 1.5 for 1,5"
        )
    named = dict(zip(columns, cells, strict=False))
    named.pop("", None)
    return Row(dict.fromkeys(filter(None, columns), "") | named, place, delimiter != ",")


def read_part(row: Row) -> tuple[float, float | None]:
    """Where in its file a row's clip begins and ends, in seconds: its columns start and end.

    Returns:
        0 and None (the file's end) where they are missing or empty.

    Raises:
        UserError: one is no number, or the end is not after a start from 0 on.
    """
    begin, end = (_number(row, column) for column in ("start", "end"))
    begin = begin or 0.0
    if not 0 <= begin < (math.inf if end is None else end) or end == math.inf:
        last = "the end" if end is None else f"{end:g} s"
        raise UserError(
            f"{row.place} has a part from {begin:g} s to {last}; a part starts at 0 or "
            "later and ends after it starts"
        )
    return begin, end


def _number(row: Row, column: str) -> float | None:
    text = row.cells.get(column) or "nan"
    try:
        number = float(text.replace(",", ".") if row.decimal_comma else text)
    except ValueError as error:
        raise UserError(
            f"{row.place} has the {column} {text!r}, no number of seconds such as 1.5"
        ) from error
    return None if math.isnan(number) else number


def listed_file(folder: Path, name: str) -> Path:
    r"""The file that a table lists, relative to `folder`.

    Where there is none of the very name, a backslash separates folders, as on Windows, and accents
    may be composed or not, as macOS does not.
    """
    posix = name.replace("\\", "/")
    forms = (unicodedata.normalize(form, path) for path in (name, posix) for form in ("NFC", "NFD"))
    found = (folder / path for path in (name, *forms) if os.path.exists(folder / path))
    return next(found, folder / posix)


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
