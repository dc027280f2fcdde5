"""Preprocessing for a model file: what the user names, or what the model shows."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from kerasight.checks import plain
from kerasight.errors import SetupError

if TYPE_CHECKING:
    import keras

__all__ = ["RANGES", "applications", "by_name", "module_of", "of_model"]

_log = logging.getLogger("kerasight")

RANGES = ("none", "unit", "signed")
_IMAGENET_MODES = ("caffe", "torch")

# Operations in a graph for code such as x / 255.
_ARITHMETIC = frozenset({"Add", "Divide", "Multiply", "Normalize", "Subtract", "TrueDivide"})

# What keras.applications adds to the names of some models: their width, and the side of the input.
_ALPHA_AND_SIDE = re.compile(r"(_\d+\.\d+)?(_(\d+|None))?$")


def by_name(name: str) -> Callable[..., Any]:
    """A function like ``preprocess_input`` of the applications, by its name.

    It takes a float array ``(1, height, width, channels)`` of pixels 0..255, which it may change,
    and ``data_format``.

    Raises:
        SetupError: If the name is unknown.
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
        raise SetupError(f"unknown --preprocess {name!r}; known are {known}")
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
    # No module has MobileNetV3Small and its like; their names begin with the name of a module.
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


def of_model(called: str, model: keras.Model, channels: int) -> str:
    """Choose the preprocessing of a model if the user names none, and tell the user about it.

    Args:
        called: What messages call the model, such as its file.
        model: The model.
        channels: The number of channels of its input.

    Returns:
        A name for `by_name`: the module of an application if the model's name shows that it is one
        that does not preprocess by itself, else ``"none"``.
    """
    if _rescales(model):
        return "none"
    found = _application(model)
    if found is not None and channels == 3:
        name, application = found
        module = module_of(application)
        if _changes(by_name(module)):
            _log.info(
                "%s: by its name, %r is %s of keras.applications, so --preprocess %s is used; pass "
                "another if it was trained with another",
                called,
                name,
                application,
                module,
            )
            return module
    _log.warning(
        "%s: without --preprocess, the model gets pixels of 0..255, and does not rescale them "
        "before its first convolution; pass the preprocessing of its training, such as "
        "--preprocess unit (0..1) or signed (-1..1), or none if that was 0..255",
        called,
    )
    return "none"


def _rescales(step: Any, known: dict[int, bool | None] | None = None) -> bool | None:
    """Whether a part of a model rescales pixels before it uses them in any other way.

    Args:
        step: A model, layer or operation.
        known: The answers for layers so far, and None for the layers around this one.

    Returns:
        None if the part neither rescales nor uses them: a layer that flips or resizes, say.
    """
    import keras

    if not isinstance(step, keras.layers.Layer):
        return True if type(step).__name__ in _ARITHMETIC else None
    if isinstance(step, (keras.layers.Rescaling, keras.layers.Normalization)):
        return True
    parts = _parts(step)
    if not parts:
        # Nobody knows what a custom layer does, or a Lambda.
        is_known = type(step).__module__.split(".")[0] == "keras"
        is_open = is_known and not isinstance(step, keras.layers.Lambda) and not step.weights
        return None if is_open else False
    known = {} if known is None else known
    if id(step) not in known:
        known[id(step)] = None
        found = [answer for part in parts if (answer := _rescales(part, known)) is not None]
        # In a subclassed model, the order of calls is not known.
        if found:
            known[id(step)] = found[0] if _is_in_order(step) else any(found)
    return known[id(step)]


def _application(model: keras.Model) -> tuple[str, str] | None:
    """The application that a model is or begins with: the model's name, and the application's."""
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
    """Whether a function changes pixels; that of a model with its own preprocessing does not."""
    pixels = np.arange(0, 256, 17, dtype=np.float32)[:12].reshape(1, 2, 2, 3)
    return not np.array_equal(preprocess_input(pixels.copy(), data_format="channels_last"), pixels)
