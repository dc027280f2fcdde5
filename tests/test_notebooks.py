"""Every notebook runs from top to bottom, shows its pictures, and is stored as it ran."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

FOLDER = Path(__file__).resolve().parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def read(path: Path) -> Any:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    return notebook


def code_cells(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def should_show_a_picture(cell: Any) -> bool:
    return "picture" in cell.metadata.get("tags", [])


def pictures(cell: Any) -> int:
    """How many of a cell's outputs are pictures."""
    count = 0
    for output in cell.outputs:
        data = output.get("data", {})
        count += "image/png" in data or "<img" in "".join(data.get("text/html", ""))
    return count


def printed(cell: Any) -> str:
    """What a cell printed, without the addresses of objects, the same in every run."""
    text = "".join(output.text for output in cell.outputs if output.get("name") == "stdout")
    return re.sub(r"0x[0-9A-Fa-f]+", "0x", text)


def test_there_are_notebooks() -> None:
    assert NOTEBOOKS


@each_notebook
def test_it_runs_from_top_to_bottom_and_shows_its_pictures(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "3")
    stored, notebook = code_cells(read(path)), read(path)
    for cell in code_cells(notebook):
        cell.outputs, cell.execution_count = [], None
    # A cell that fails raises CellExecutionError, which shows the cell and the traceback.
    NotebookClient(
        notebook,
        timeout=600,
        kernel_name="python3",
        resources={"metadata": {"path": str(tmp_path)}},
    ).execute()
    for before, cell in zip(stored, code_cells(notebook), strict=True):
        if should_show_a_picture(cell):
            assert pictures(cell), cell.source
        assert pictures(cell) == pictures(before), cell.source
        assert bool(printed(cell)) == bool(printed(before)), cell.source


@each_notebook
def test_it_is_stored_as_it_ran(path: Path) -> None:
    cells = code_cells(read(path))
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert any(should_show_a_picture(cell) for cell in cells)
    for cell in cells:
        assert cell.outputs or not should_show_a_picture(cell), cell.source
        for output in cell.outputs:
            assert output.output_type != "error", cell.source
            assert output.get("name") != "stderr", "warnings are not part of a notebook"


@each_notebook
def test_it_is_small_and_says_nothing_of_the_machine_it_ran_on(path: Path) -> None:
    assert path.stat().st_size < 1_500_000
    text = path.read_text(encoding="utf-8")
    for prefix in {sys.prefix, str(Path.home()), str(FOLDER.parent)}:
        assert len(prefix) < 2 or prefix not in text
    assert not re.search(r"[^\w:](/home/|/Users/|/tmp/|C:\\\\)", text)
