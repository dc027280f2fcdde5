"""Run the notebooks and store them with their outputs: ``python tests/notebooks/execute.py``.

Give the names of some to run only those. Those that take ImageNet weights where they can be had
take them from the folder that KERASIGHT_IMAGENET_DIR names, or from ``../shared/imagenet``, and are
not run without it.

What is stored depends neither on the machine nor on the time: run again, a notebook changes as far
as its numbers and pictures do.
"""

from __future__ import annotations

import base64
import copy
import io
import os
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
from nbclient import NotebookClient
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "notebooks"
VARIABLE = "KERASIGHT_IMAGENET_DIR"
IMAGENET = Path(os.environ.get(VARIABLE) or ROOT.parent / "shared" / "imagenet")
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def read(path: Path) -> Any:
    """A notebook, valid."""
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    return notebook


def takes_imagenet(notebook: Any) -> bool:
    """Whether a notebook runs on ImageNet weights where they can be had."""
    return any(VARIABLE in cell.source for cell in notebook.cells)


def execute(notebook: Any, imagenet: Path | None) -> Any:
    """Run a notebook from top to bottom, in an empty folder, with a kernel of its own.

    Args:
        notebook: The notebook; it is left as it is.
        imagenet: The folder with ImageNet weights. None lets nothing be downloaded, as on a machine
            without internet.

    Returns:
        A copy with the outputs of this run.

    Raises:
        nbclient.exceptions.CellExecutionError: If a cell fails; shows the cell and the traceback.
    """
    notebook = copy.deepcopy(notebook)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    with tempfile.TemporaryDirectory() as folder:
        environment = {
            "KERAS_BACKEND": "tensorflow",
            "OMP_NUM_THREADS": "1",  # PyTorch's others, where they wait, count as if they worked
            **os.environ,
            "KERAS_HOME": folder,  # nothing that was downloaded before
            # Where no one listens: a download fails at once, also where there is internet.
            "http_proxy": "http://127.0.0.1:9",
            "https_proxy": "http://127.0.0.1:9",
            "no_proxy": "",
        }
        environment.pop("MPLBACKEND", None)  # else figures are drawn, and not shown
        environment.pop("TF_CPP_MIN_LOG_LEVEL", None)  # a notebook sees to that
        environment.pop(VARIABLE, None)
        if imagenet is not None:
            environment[VARIABLE] = str(imagenet)
        client = NotebookClient(
            notebook,
            timeout=600,
            kernel_name="python3",
            coalesce_streams=True,
            record_timing=False,
            resources={"metadata": {"path": folder}},
        )
        client.execute(env=environment)
    return notebook


def tidy(notebook: Any) -> None:
    """Leave out of an executed notebook what is of the machine or of the moment, and save space.

    Raises:
        ValueError: If there are warnings left, which are not part of a notebook.
    """
    notebook.metadata = nbformat.from_dict(METADATA)
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        for output in cell.outputs:
            if output.get("name") == "stderr":
                raise ValueError(f"a cell warns:\n{cell.source}\n\n{output.text}")
            if "text" in output:
                output.text = _without_addresses(output.text)
            data = output.get("data", {})
            if "image/png" in data:
                data["image/png"] = _smaller(data["image/png"])
                data.pop("image/jpeg", None)  # the same picture again
            if "text/plain" in data:
                data["text/plain"] = _without_addresses(data["text/plain"])


def _without_addresses(text: str) -> str:
    """What Python shows of objects, without where they lie in memory."""
    return re.sub(r" at 0x[0-9A-Fa-f]+", "", text)


def _smaller(png: str) -> str:
    """A picture of 256 colours, a third of the size: a PNG in base64, as in a notebook."""
    picture = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")
    chosen = picture.quantize(256, method=Image.Quantize.MAXCOVERAGE, kmeans=1)
    colours = np.array(chosen.getpalette()).reshape(-1, 3)
    colours[(colours > 247).all(axis=1)] = 255  # paper is white
    chosen.putpalette(colours.ravel().tolist())
    # Dithered halfway: neither steps where colours flow, nor specks where they do not.
    plain = picture.quantize(palette=chosen, dither=Image.Dither.NONE).convert("RGB")
    between = Image.blend(picture, plain, 0.5)
    data = io.BytesIO()
    few = between.quantize(palette=chosen, dither=Image.Dither.FLOYDSTEINBERG)
    few.save(data, format="PNG", optimize=True)
    return base64.b64encode(data.getvalue()).decode("ascii") + "\n"


def main(names: list[str]) -> None:
    """Run notebooks and write them."""
    for path in sorted(FOLDER.glob("*.ipynb")):
        if names and path.stem not in names:
            continue
        notebook = read(path)
        folder = IMAGENET if takes_imagenet(notebook) else None
        if folder is not None and not folder.is_dir():
            print(f"{path.stem}: not run, for want of ImageNet weights; set {VARIABLE}")
            continue
        start = time.perf_counter()
        executed = execute(notebook, folder)
        tidy(executed)
        nbformat.write(executed, path)
        size = path.stat().st_size / 1000
        print(f"{path.stem}: {time.perf_counter() - start:.0f} s, {size:.0f} kB")


if __name__ == "__main__":
    main([Path(name).stem for name in sys.argv[1:]])
