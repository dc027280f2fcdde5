"""A copy of a model that shares no weight with it, whatever kind of model it is.

Keras copies a model by its configuration, which subclassed models and custom layers often do not
have, and which does not hold what was set on a layer later. So the objects themselves are copied:
layers, the graph between them, and variables. What they share with the original is what no layer
changes as it runs: functions, classes, settings of the training.
"""

from __future__ import annotations

import contextlib
import copy
import sys
import types
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from kerasight.keras import backends
from kerasight.keras.layers import walk
from kerasight.keras.record import scores_of
from kerasight.keras.tap import untapped_attributes

__all__ = ["Copy", "copy_of"]

_FRAMEWORKS = frozenset({"jax", "jaxlib", "numpy", "tensorflow", "torch"})
_SHARED = (
    type,
    types.FunctionType,
    types.ModuleType,
    # What only training needs.
    keras.callbacks.Callback,
    keras.losses.Loss,
    keras.metrics.Metric,
    keras.optimizers.Optimizer,
)


@dataclass(frozen=True, eq=False)
class Copy:
    """A copy of a model.

    Attributes:
        model: The copy.
        layers: Its layers in the order in which they run, those first that do not, each once; the
            copy itself is the last.
        twins: What stands for an object of the original, by the id of that.
    """

    model: keras.Model
    layers: list[keras.layers.Layer]
    twins: dict[int, Any]

    def twin_of(self, layer: Any) -> Any:
        """The copy's layer for one of the original, also in a list; anything else as it is."""
        if isinstance(layer, list):
            return [self.twin_of(one) for one in layer]
        return self.twins.get(id(layer), layer) if isinstance(layer, keras.layers.Layer) else layer


def copy_of(model: keras.Model, doc: np.ndarray) -> Copy:
    """Copy a model, and make sure by a run that the copy stands on its own.

    Args:
        model: The model, run at least once, so that all its layers are built.
        doc: An input.

    Raises:
        ValueError: If no copy can be made.
    """
    originals = _layers_of(model)
    try:
        twins = _duplicate(model)
        twin = twins[id(model)]
        layers = _layers_of(twin)
        scores = scores_of(twin, doc)
        ran = [id(layer) for layer in backends.current().forward(twin, doc, [*layers, *originals])]
    except Exception as error:  # whatever there may be in a model that does not bear copying
        raise _no_copy(model, f"{type(error).__name__}: {error}") from error
    by_id = {id(layer): layer for layer in originals}
    strangers = [by_id[key].name for key in ran if key in by_id]
    if strangers:
        raise _no_copy(model, f"layer {strangers[0]!r} of the model runs when the copy does")
    if not np.allclose(scores, scores_of(model, doc), rtol=1e-3, atol=1e-5):
        raise _no_copy(model, "the copy's scores are not those of the model")
    last_call = {key: place for place, key in enumerate(ran)}
    layers.sort(key=lambda layer: last_call.get(id(layer), -1))
    return Copy(twin, layers, twins)


def _no_copy(model: keras.Model, why: str) -> ValueError:
    return ValueError(
        f"no copy can be made of model {model.name!r} to draw random weights in: {why}; keep all "
        "its layers in attributes, lists or dicts of the model, not in closures"
    )


def _layers_of(model: keras.Model) -> list[keras.layers.Layer]:
    """All layers of a model and the model itself, the last, each once."""
    each = {id(layer): layer for _, layer in walk(model)}
    each.pop(id(model), None)
    return [*each.values(), model]


def _duplicate(model: keras.Model) -> dict[int, Any]:
    """Copy all objects that a model is made of; the copies by the ids of the originals."""
    twins: dict[int, Any] = {}
    # Filled one after the other, since a graph may be deeper than Python recurses. The originals
    # are kept, so that none of their ids is given out a second time.
    originals: list[Any] = []
    unfilled: list[tuple[Any, Any]] = []

    def twin(value: Any) -> Any:
        if id(value) in twins:
            return twins[id(value)]
        kind = type(value)
        library = kind.__module__.partition(".")[0]
        new = value
        if isinstance(value, (tuple, frozenset)):
            items = [twin(item) for item in value]
            if any(ours is not theirs for ours, theirs in zip(items, value, strict=True)):
                # Not its type, which may be TensorFlow's, wrapped around a tuple of another.
                made = value.__class__
                new = made._make(items) if hasattr(made, "_make") else made(items)
        elif isinstance(value, types.MethodType):
            new = types.MethodType(value.__func__, twin(value.__self__))
        elif isinstance(value, (dict, list, set)):
            new = _empty_container(value, library)
        elif library in _FRAMEWORKS and hasattr(value, "__array__"):
            new = copy.deepcopy(value)
        elif _has_layers_perhaps(value, library):
            with contextlib.suppress(TypeError):  # of what is written in C, and is shared
                new = object.__new__(kind)
        if new is not value:
            twins[id(value)] = new
            originals.append(value)
            unfilled.append((value, new))
        return new

    twin(model)
    while unfilled:
        _fill(*unfilled.pop(), twin)
    return twins


def _empty_container(value: Any, library: str) -> Any:
    # TensorFlow's own only watch what is put into them.
    kind: Any = type(value)
    if library == "tensorflow":
        return next(plain for plain in (dict, list, set) if isinstance(value, plain))()
    new = kind.__new__(kind)
    if isinstance(value, defaultdict):
        new.default_factory = value.default_factory
    return new


def _has_layers_perhaps(value: Any, library: str) -> bool:
    """Whether an object is no container, and may all the same lead to a layer or a variable."""
    return (
        hasattr(value, "__dict__")
        and not isinstance(value, _SHARED)
        and library not in _FRAMEWORKS
        and library not in sys.stdlib_module_names
    )


def _fill(value: Any, new: Any, twin: Callable[[Any], Any]) -> None:
    """Put into a new object what is in the original, past all that watches what is put in."""
    if isinstance(new, dict):
        plain = OrderedDict if isinstance(new, OrderedDict) else dict
        for key, item in list(value.items()):
            plain.__setitem__(new, twin(key), twin(item))
    elif isinstance(new, list):
        list.extend(new, [twin(item) for item in list(value)])
    elif isinstance(new, set):
        set.update(new, [twin(item) for item in list(value)])
    elif type(new).__module__.partition(".")[0] in (*_FRAMEWORKS, "builtins"):
        return  # complete already: an array, a tuple, a method
    if hasattr(new, "__dict__"):
        is_layer = isinstance(value, keras.layers.Layer)
        attributes = untapped_attributes(value) if is_layer else dict(vars(value))
        vars(new).update({name: twin(item) for name, item in attributes.items()})
