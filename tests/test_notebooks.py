"""Every notebook runs from top to bottom, shows its pictures, and is stored as it ran."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from frameworks import on_tensorflow_as_long
from nbformat.v4 import new_output
from notebooks.execute import FOLDER, METADATA, VARIABLE, execute, read, takes_imagenet, tidy

NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
# The others train several models or take many methods, which JAX compiles for minutes.
SHORT = {"keras-image-classifiers", "transfer-learning"}
ON_IMAGENET = [path for path in NOTEBOOKS if takes_imagenet(read(path))]

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
each_on_imagenet = pytest.mark.parametrize("path", ON_IMAGENET, ids=lambda path: path.stem)


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
    """What a cell printed."""
    return "".join(output.text for output in cell.outputs if output.get("name") == "stdout")


def warned(cell: Any) -> str:
    """What a cell shows in red."""
    return "".join(output.text for output in cell.outputs if output.get("name") == "stderr")


def is_on_imagenet(notebook: Any) -> bool:
    """Whether a notebook that could have ImageNet weights had them when it ran."""
    return not any("no ImageNet weights" in printed(cell) for cell in code_cells(notebook))


def run(path: Path, imagenet: Path | None) -> Any:
    """Execute a notebook, in less than two minutes of one core.

    Its pictures are there, and nothing is in red, neither warnings nor TensorFlow's log.
    """
    before = os.times()
    notebook = execute(read(path), imagenet)
    after = os.times()
    # Not by the clock, since others may be at work on the machine. Always 0 on Windows.
    assert after.children_user - before.children_user < 120
    for cell in code_cells(notebook):
        assert bool(pictures(cell)) == should_show_a_picture(cell), cell.source
        assert not warned(cell)
    return notebook


def test_there_are_notebooks() -> None:
    assert {path.stem for path in NOTEBOOKS} == {
        "audit",
        "keras-image-classifiers",
        "segmentation-detection",
        "signals-volumes-texts",
        "transfer-learning",
        "transformer",
        "trust",
    }


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, marks=[] if path.stem in SHORT else on_tensorflow_as_long, id=path.stem)
        for path in NOTEBOOKS
    ],
)
def test_it_runs_from_top_to_bottom_without_internet(path: Path) -> None:
    notebook = run(path, imagenet=None)
    assert is_on_imagenet(notebook) != takes_imagenet(notebook)


@on_tensorflow_as_long
@each_on_imagenet
def test_it_runs_from_top_to_bottom_on_imagenet_weights(
    path: Path, imagenet: Callable[[str], Path]
) -> None:
    notebook = run(path, imagenet("mobilenet_v2.weights.h5").parent)
    assert is_on_imagenet(notebook)
    for stored, cell in zip(code_cells(read(path)), code_cells(notebook), strict=True):
        assert pictures(cell) == pictures(stored), cell.source
        assert bool(printed(cell)) == bool(printed(stored)), cell.source


@each_notebook
def test_it_is_stored_as_it_ran(path: Path) -> None:
    notebook = read(path)
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert any(should_show_a_picture(cell) for cell in cells)
    for cell in cells:
        assert bool(pictures(cell)) == should_show_a_picture(cell), cell.source
        assert not warned(cell)
        for output in cell.outputs:
            assert output.output_type != "error", cell.source
    assert is_on_imagenet(notebook), "stored from a run without ImageNet weights"


@each_notebook
def test_it_is_stored_tidily(path: Path) -> None:
    notebook = read(path)
    assert notebook.metadata == METADATA
    for cell in code_cells(notebook):
        assert set(cell.metadata) <= {"tags"}
        assert all("image/jpeg" not in output.get("data", {}) for output in cell.outputs)


@each_notebook
def test_it_is_small_and_says_nothing_of_the_machine_it_ran_on(path: Path) -> None:
    assert path.stat().st_size < 1_500_000
    text = path.read_text(encoding="utf-8")
    folders = {sys.prefix, str(Path.home()), str(FOLDER.parent), os.environ.get(VARIABLE, "")}
    for folder in folders:
        assert len(folder) < 2 or folder not in text
    assert not re.search(r"[^\w:](/home/|/Users/|/tmp/|/shared/|C:\\\\)", text)


@each_notebook
def test_it_begins_with_a_title_and_a_picture_and_ends_with_what_to_take_home(path: Path) -> None:
    notebook = read(path)
    assert notebook.cells[0].source.startswith("# ")
    shown = [cell for cell in code_cells(notebook) if cell.outputs]
    assert should_show_a_picture(shown[0])
    assert "## What to take home" in notebook.cells[-1].source


@each_notebook
def test_notebooks_that_it_links_to_are_there(path: Path) -> None:
    for cell in read(path).cells:
        if cell.cell_type == "markdown":
            for link in re.findall(r"\]\(([\w-]+\.ipynb)\)", cell.source):
                assert (FOLDER / link).exists(), link


def test_a_warning_is_not_stored() -> None:
    notebook = read(NOTEBOOKS[0])
    warning = new_output("stream", name="stderr", text="HeatmapWarning: blank\n")
    code_cells(notebook)[0].outputs = [warning]
    with pytest.raises(ValueError, match="a cell warns"):
        tidy(notebook)
