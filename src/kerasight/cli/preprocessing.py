"""How pixels become the input of a model file: as the user says, or as the model tells."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kerasight.checks import plain
from kerasight.cli.console import RunError, say

if TYPE_CHECKING:
    import keras

__all__ = ["RANGES", "applications", "by_name", "module_of", "of_model"]

RANGES = ("none", "unit", "signed")
_IMAGENET_MODES = ("caffe", "torch")

# Operations that a graph has where x / 255 stands in the code.
_ARITHMETIC = frozenset({"Add", "Divide", "Multiply", "Normalize", "Subtract", "TrueDivide"})

# What keras.applications adds to the names of some models: how wide they are, and for which input.
_ALPHA_AND_SIDE = re.compile(r"(_\d+\.\d+)?(_(\d+|None))?$")


def by_name(name: str) -> Callable[..., Any]:
    """A function as ``preprocess_input`` of the applications, by its name.

    It takes a float array ``(1, height, width, channels)`` of pixels 0..255, which it may change,
    and ``data_format``.

    Raises:
        RunError: If there is none.
    """
    import keras

    if name in RANGES:
        divisor, offset = {"none": (1, 0), "unit": (255, 0), "signed": (127.5, 1)}[name]
        return lambda pixels, data_format: pixels / divisor - offset
    if name in _IMAGENET_MODES:
        of_mode = keras.applications.imagenet_utils.preprocess_input
        return lambda pixels, data_format: of_mode(pixels, data_format=data_format, mode=name)
    modules = _modules()
    if name not in modules:
        known = ", ".join([*RANGES, *_IMAGENET_MODES, *modules])
        raise RunError(f"unknown --preprocess {name!r}; known are {known}")
    preprocess_input: Callable[..., Any] = modules[name].preprocess_input
    return preprocess_input


def applications() -> list[str]:
    """The names of the models of ``keras.applications``."""
    import keras

    public = [name for name in dir(keras.applications) if not name.startswith("_")]
    return [name for name in public if callable(getattr(keras.applications, name))]


def module_of(application: str) -> str:
    """The module of an application, with its ``preprocess_input`` and ``decode_predictions``."""
    modules = _modules()
    for name, module in modules.items():
        if hasattr(module, application):
            return name
    # MobileNetV3Small and its like stand in no module; its name begins as theirs.
    families = [name for name in modules if plain(application).startswith(plain(name))]
    return max(families, key=len)


def _modules() -> dict[str, Any]:
    """The modules of ``keras.applications`` that preprocess for a family of models."""
    import keras

    members = {name: getattr(keras.applications, name) for name in dir(keras.applications)}
    return {
        name: member
        for name, member in members.items()
        if hasattr(member, "preprocess_input") and name != "imagenet_utils"
    }


# What a model tells


def of_model(path: Path, model: keras.Model, channels: int) -> str:
    """The preprocessing of a model for which none was passed; what is done is said.

    Args:
        path: Its file.
        model: The model.
        channels: How many channels it takes.

    Returns:
        A name that `by_name` knows: that of an application's module where one is recognised by its
        name and does not preprocess by itself, else none.
    """
    if _rescales(model):
        return "none"
    found = _application(model)
    if found is not None and channels == 3:
        name, application = found
        module = module_of(application)
        if _changes(by_name(module)):
            say(
                "Note",
                "cyan",
                f"{path}: {name!r} is {application} of keras.applications by its name, and so "
                f"--preprocess {module} is taken; pass another if it was trained with that",
            )
            return module
    say(
        "Warning",
        "yellow",
        f"{path}: without --preprocess, pixels go in as 0..255, and nothing rescales them before "
        "the first convolution; pass what the model was trained with, such as --preprocess unit "
        "(0..1) or signed (-1..1), or none if it was 0..255",
    )
    return "none"


def _rescales(step: Any, known: dict[int, bool | None] | None = None) -> bool | None:
    """Whether a part of a model rescales pixels before it convolves, or makes use of them.

    Args:
        step: A model, layer or operation.
        known: The answers for layers that were asked, and None for those above this one.

    Returns:
        None if it does neither: a layer that flips or resizes, say.
    """
    import keras

    if not isinstance(step, keras.layers.Layer):
        return True if type(step).__name__ in _ARITHMETIC else None
    if isinstance(step, (keras.layers.Rescaling, keras.layers.Normalization)):
        return True
    parts = _parts(step)
    if not parts:
        # Who knows what a layer of somebody's own does, or a Lambda.
        is_known = type(step).__module__.split(".")[0] == "keras"
        is_open = is_known and not isinstance(step, keras.layers.Lambda) and not step.weights
        return None if is_open else False
    known = {} if known is None else known
    if id(step) not in known:
        known[id(step)] = None
        found = [answer for part in parts if (answer := _rescales(part, known)) is not None]
        # In a subclassed model, the order in which parts are called is not known.
        if found:
            known[id(step)] = found[0] if _is_in_order(step) else any(found)
    return known[id(step)]


def _application(model: keras.Model) -> tuple[str, str] | None:
    """The application that a model is, or that sees its input first: its own name, and Keras's."""
    import keras

    name = str(model.name)
    # NASNet is what Keras 3.3 calls both of its kinds.
    known = {plain(application): application for application in [*applications(), "NASNet"]}
    application = known.get(plain(_ALPHA_AND_SIDE.sub("", name)))
    if application is not None:
        return name, application
    first = next((part for part in _parts(model) if _rescales(part) is not None), None)
    return _application(first) if isinstance(first, keras.Model) else None


def _is_in_order(layer: keras.layers.Layer) -> bool:
    import keras

    return isinstance(layer, keras.Sequential) or hasattr(layer, "operations")


def _parts(layer: keras.layers.Layer) -> list[Any]:
    """The layers and operations directly inside a layer, in the order of their calls if known."""
    from kerasight.keras.layers import children

    return list(getattr(layer, "operations", None) or children(layer))


def _changes(preprocess_input: Callable[..., Any]) -> bool:
    """Whether a function is more than a placeholder, as that of models that do it themselves."""
    pixels = np.arange(0, 256, 17, dtype=np.float32)[:12].reshape(1, 2, 2, 3)
    return not np.array_equal(preprocess_input(pixels.copy(), data_format="channels_last"), pixels)
