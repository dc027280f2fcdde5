"""The options that the commands share, and their checks, before anything slow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from kerasight.cam.methods import METHODS
from kerasight.cam.request import Request
from kerasight.checks import nearest, one_of
from kerasight.classifiers.models import is_integer
from kerasight.errors import SetupError
from kerasight.interrupts import Heard

__all__ = [
    "METHOD_NAMES",
    "Absolute",
    "Alpha",
    "Blur",
    "ClassNames",
    "Colormap",
    "Force",
    "Images",
    "Imports",
    "Job",
    "Layers",
    "Model",
    "Outliers",
    "Preprocess",
    "Unsafe",
    "check_look",
    "known",
    "layer_keys",
    "request_of",
]

Job = Annotated[
    Path,
    typer.Argument(
        metavar="JOB", show_default=False, help="The folder of kerasight explain --job."
    ),
]

Images = Annotated[
    list[Path] | None,
    typer.Argument(
        metavar="[IMAGES]...",
        show_default=False,
        help="Pictures, in any format that Pillow reads, and folders, with their subfolders.",
    ),
]
Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        metavar="FILE|NAME",
        show_default=False,
        help="A .keras or .h5 file, or the name of a keras.applications model, such as "
        "MobileNetV2, which brings its ImageNet weights, preprocessing and class names. "
        "Default: the embedded demo model.",
    ),
]
Layers = Annotated[
    list[str] | None,
    typer.Option(
        "--layer",
        "-l",
        metavar="NAME|PATH|INDEX",
        show_default=False,
        help="The layer to explain. If it is passed several times, the heatmaps of the layers are "
        "fused. Default: the last layer with a map of height and width.",
    ),
]
Preprocess = Annotated[
    str | None,
    typer.Option(
        "--preprocess",
        metavar="NAME",
        show_default=False,
        help="For model files: how pixels become the model's input. none (0..255), unit "
        "(0..1), signed (-1..1), caffe, torch, or a module of keras.applications, such as "
        "resnet50. Default: that of the model, if its name is one of keras.applications; else "
        "none, with a warning unless the model rescales pixels itself.",
    ),
]
ClassNames = Annotated[
    Path | None,
    typer.Option(
        "--class-names",
        metavar="FILE",
        show_default=False,
        help="For model files: the names of the classes, in order. A text file with one name a "
        "line, a JSON list, or JSON as in imagenet_class_index.json.",
    ),
]
Imports = Annotated[
    list[str] | None,
    typer.Option(
        "--import",
        metavar="MODULE|FILE",
        show_default=False,
        help="For model files: a module or .py file to import first, such as one that defines "
        "layers of your own. May be passed several times.",
    ),
]
Unsafe = Annotated[
    bool,
    typer.Option(
        "--unsafe",
        help="For model files: run the Python code that they hold, such as that of Lambda layers. "
        "Only for files that you trust.",
    ),
]

Force = Annotated[
    bool,
    typer.Option(
        "--force",
        help="Replace files that kerasight did not make. Files that the command reads, such as the "
        "model and the pictures, are never replaced.",
    ),
]

Colormap = Annotated[
    str | None,
    typer.Option(
        "--colormap",
        metavar="NAME",
        show_default=False,
        help="A Matplotlib colormap. Default: viridis; with --signed, from blue (against the "
        "class) to red (for it).",
    ),
]
Alpha = Annotated[
    float,
    typer.Option("--alpha", metavar="0..1", help="Opacity of the heatmap where it is hottest."),
]
Outliers = Annotated[
    float | None,
    typer.Option(
        "--outliers",
        metavar="0..100",
        show_default=False,
        help="How many cells, in per cent, are drawn as hot as the hottest, so that a few do "
        "not darken the rest. Default: 1 for heatmaps of more than 64 x 64 cells, else 0.",
    ),
]
Absolute = Annotated[
    bool,
    typer.Option("--absolute", help="With --signed: draw the size of the heat alone."),
]
Blur = Annotated[
    float,
    typer.Option(
        "--blur",
        metavar="0..100",
        help="Smooth the heatmap by a Gaussian. Its standard deviation, in per cent of the "
        "heatmap's longer side.",
    ),
]

METHOD_NAMES = ", ".join(METHODS)


def layer_keys(layers: Sequence[str] | None) -> list[int | str]:
    """The layers as arguments of the library."""
    return [int(layer) if is_integer(layer) else layer for layer in layers or ()]


# Options of the library that the command calls by another name.
_CALLED = {"alpha": "--strength", "references": "--similar"}


def request_of(asked: Mapping[str, Any]) -> Request:
    """What the library is asked for.

    Args:
        asked: Options by their names in the library; other names are left alone.

    Raises:
        SetupError: If something has a value that it cannot have.
    """
    try:
        return Request.of(asked)
    except ValueError as error:
        argument, _, problem = str(error).partition(" ")
        raise SetupError(f"{_CALLED.get(argument, f'--{argument}')} {problem}") from None


def known(option: str, name: str, names: Sequence[str]) -> str:
    """The name in ``names`` that equals ``name`` but for case, hyphens, underscores and spaces.

    Raises:
        SetupError: If there is none.
    """
    try:
        return one_of(option, name, names)
    except ValueError as error:
        raise SetupError(str(error)) from None


def check_look(look: Mapping[str, Any]) -> None:
    """Raise SetupError if heatmaps cannot be drawn so.

    Args:
        look: How they are drawn, as arguments of `kerasight.format_as_image`.
    """
    alpha = look["alpha_limit"]
    if not 0 <= alpha <= 1:  # also False for NaN
        raise SetupError(f"--alpha must lie between 0 and 1, got {alpha:g}")
    for name in ("outliers", "blur"):
        share = look[name]
        if share is not None and not 0 <= share <= 100:
            raise SetupError(f"--{name} must lie between 0 and 100 per cent, got {share:g}")
    colormap = look["colormap"]
    if colormap is None:
        return
    with Heard():
        from matplotlib import colormaps

    if colormap not in colormaps:
        near = nearest(colormap, list(colormaps))
        raise SetupError(
            f"unknown --colormap {colormap!r}"
            f"{near or '; Matplotlib lists the names in matplotlib.colormaps'}"
        )
