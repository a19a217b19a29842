"""The notebook of the documents runs from its first cell to its last."""

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.slow
# Of ipykernel's own dependencies.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_notebook_recognises_more_than_chance(monkeypatch):
    nbformat = pytest.importorskip("nbformat", reason="`make docs` installs nbclient")
    nbclient = pytest.importorskip("nbclient", reason="`make docs` installs nbclient")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.read(ROOT / "docs" / "notebook.ipynb", as_version=4)
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
    printed = "".join(
        output.text
        for cell in notebook.cells
        for output in cell.get("outputs", ())
        if output.output_type == "stream" and output.name == "stdout"
    )
    right = next(line for line in printed.splitlines() if line.endswith("chance it would be 5"))
    assert int(right.split()[0]) > 12
