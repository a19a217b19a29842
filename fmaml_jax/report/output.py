"""What `report` writes: the folder of a report, or one file of its runs."""

import contextlib
import os
import shutil
import tempfile
from collections import Counter
from pathlib import Path

from fmaml_jax.common.errors import UserError
from fmaml_jax.report import figures, grid_file, page, runs, tables
from fmaml_jax.report.runs import Remark


def report(paths: list[str], out: Path) -> list[Remark]:
    """Makes the report of the runs below `paths` as folder `out`.

    Returns:
        What was left out, and what else a reader has to know.

    Raises:
        UserError: nothing can be reported (see `runs.collect`), or `out` cannot be written.
    """
    check_out(out)
    found, remarks = runs.collect(paths)
    corpora, reason = tables.read_corpora(found)
    emofilm = tables.is_emofilm(corpora, found[0])
    made = tables.result_tables(found, emofilm)
    if corpora:
        made.insert(0, tables.data_table(corpora, found[0]))
    else:
        remarks.append(
            Remark(
                "left out",
                "the table of data and the paper's numbers",
                f"the data are not here: {reason}",
            )
        )
    if "emofilm" in {corpus.corpus for corpus in corpora} and not emofilm:
        reason = "classes or samples of each language are not those of EmoFilm (the table of data)"
        remarks.append(Remark("left out", "the paper's numbers", reason))
    made = tables.numbered(made)
    pictures, undrawn = figures.draw(found)
    remarks += undrawn

    files: dict[str, str | bytes] = {
        "report.html": page.render(found, remarks, made, pictures),
        "tables.md": "\n".join(map(tables.markdown, made)),
    }
    for table in made:
        files[f"tables/{table.name}.md"] = tables.markdown(table)
        files[f"tables/{table.name}.csv"] = tables.to_csv(table)
        files[f"tables/{table.name}.tex"] = tables.latex(table)
    for picture in pictures:
        files[f"figures/{picture.name}.png"] = picture.png
        files[f"figures/{picture.name}.svg"] = picture.svg
    write_folder(out, files)
    print(f"{out}/report.html: {len(found)} runs, {len(made)} tables, {len(pictures)} figures")
    _print_remarks(remarks)
    return remarks


def save_runs(paths: list[str], file: Path) -> list[Remark]:
    """Writes the runs below `paths` into one file, from which a report can be made as well.

    A run is named by its path from the deepest folder that all are in.

    Returns:
        What was left out.

    Raises:
        UserError: no run can be used (see `runs.load`), or the file cannot be written.
    """
    if file.suffix != grid_file.SUFFIX:
        raise UserError(f"--save={file} is of another kind; name a {grid_file.SUFFIX} file")
    found, remarks = runs.load(paths)
    places = [Path(os.path.abspath(run.path)) for run in found]
    top = os.path.commonpath([place.parent for place in places])
    records = {
        place.relative_to(top).as_posix(): run.record
        for place, run in zip(places, found, strict=True)
    }
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        grid_file.write(file, records)
    except OSError as error:
        raise UserError(
            f"cannot write --save={file}: {error.strerror}; choose a place that can be written"
        ) from error
    print(f"{file}: {len(found)} run{'s' * (len(found) > 1)}")
    _print_remarks(remarks)
    return remarks


def _print_remarks(remarks: list[Remark]) -> None:
    for (kind, reason), alike in runs.grouped(remarks).items():
        more = f" and {len(alike) - 1} more" if alike[1:] else ""
        print(f"{kind}: {alike[0].subject}{more}: {reason}")
    if kinds := Counter(remark.kind for remark in remarks):
        print(", ".join(f"{count} {kind}" for kind, count in kinds.items()))


def check_out(out: Path) -> None:
    """Refuses a folder that holds anything but an earlier report.

    Raises:
        UserError: so it is.
    """
    try:
        taken = out.exists() and (not out.is_dir() or any(out.iterdir()))
    except OSError as error:
        raise UserError(f"cannot use --out={out}: {error.strerror}; choose another") from error
    if taken and not (out / "report.html").is_file():
        raise UserError(f"--out={out} holds other files; choose a new folder or an earlier report")


def write_folder(out: Path, files: dict[str, str | bytes]) -> None:
    """Makes the folder with these files, in place of an earlier one, whole or not at all.

    Raises:
        UserError: it cannot be written.
    """
    out = Path(os.path.realpath(out))
    partial = None
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}.", suffix=".tmp"))
        new, old = partial / "new", partial / "old"
        for name, content in files.items():
            path = new / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        if out.exists():
            os.rename(out, old)
        os.rename(new, out)
    except OSError as error:
        raise UserError(
            f"cannot write --out={out}: {error.strerror}; choose a folder that can be written"
        ) from error
    finally:
        if partial:
            with contextlib.suppress(OSError):
                shutil.rmtree(partial)
