"""Whether a model is still what it was, so that a trace of it can be used again.

A traced pass reads weights afresh each time, but all else (activations, rates, which layers there
are) is what Python said when it was traced. So the attributes of each layer are remembered then,
and compared before each use. Nothing here keeps a model alive.
"""

from __future__ import annotations

import types
import weakref
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from operator import itemgetter
from typing import Any

import keras
import numpy as np

from kerasight.keras.tap import untapped_attributes

__all__ = ["Snapshot"]

# What every layer and every model has is Keras's and TensorFlow's bookkeeping, of calls, losses,
# graphs, signatures and training, on which no output depends; but for these.
_KEPT = frozenset({"_dtype_policy", "_layers", "_trainable", "autocast"})
# And this is bookkeeping too. Only these two lists lean on names of Keras's own.
_DROPPED = frozenset({"_nodes_by_depth", "_operations_by_depth"})
_SIMPLE = (bool, bytes, complex, float, int, str, type(None))
_SMALL = 4096  # bytes of an array that are compared one by one


class Snapshot:
    """The attributes of some layers at one time.

    To compare each by its rules is slow, to compare the identities of all is fast. The second
    suffices as long as nothing that was remembered has died, since only then can another object
    have come to its identity.
    """

    def __init__(self, layers: Iterable[Any]) -> None:
        """Remember the attributes of ``layers``."""
        self._has_lost_some = False

        def note_death(_: Any) -> None:
            self._has_lost_some = True

        self._layers = [_Remembered(layer, note_death) for layer in layers]
        self._identities = self._identities_now()

    def holds(self) -> bool:
        """Whether all the layers are still there, with the same attributes."""
        identities = self._identities_now()
        if identities is None:
            return False
        if (
            not self._has_lost_some
            and identities == self._identities
            and all(remembered.has_same_insides() for remembered in self._layers)
        ):
            return True
        if not all(remembered.holds() for remembered in self._layers):
            return False
        # A change in the bookkeeping alone: compare with the identities of now from here on.
        self._identities = identities
        return True

    def _identities_now(self) -> list[Any] | None:
        """Of all attributes, and of what is in the lists among them; None if something is gone."""
        identities: list[Any] = []
        for remembered in self._layers:
            layer = remembered.layer()
            if layer is None:
                return None
            attributes = vars(layer)
            identities.append(len(attributes))
            try:
                identities.extend(map(id, remembered.get(attributes)))
                for name in remembered.flat:
                    value = attributes[name]
                    if isinstance(value, dict):
                        identities.extend(value)
                        value = value.values()
                    identities.extend(map(id, value))
            except (KeyError, RuntimeError, TypeError):
                # An attribute less, no list any more, or one that changes at this moment.
                return None
        return identities


class _Remembered:
    """One layer's attributes.

    Attributes:
        layer: Weak reference to the layer.
        get: Takes their values out of ``vars`` of the layer.
        flat: Names of the lists and the like in which objects are whose identities tell all.
    """

    def __init__(self, layer: Any, on_death: Any) -> None:
        self.layer = weakref.ref(layer)
        self._bookkeeping = _bookkeeping(isinstance(layer, keras.Model))
        attributes = self._relevant(layer)
        self._values = {name: _remember(value, on_death) for name, value in attributes.items()}
        # Two at least, or it would not give a tuple.
        self.get = itemgetter("_trainable", "_trainable", *self._values)
        insides = {name: value for name, value in self._values.items() if type(value) is _Inside}
        self.flat = [name for name, value in insides.items() if value.is_flat]
        self._deep = [name for name, value in insides.items() if not value.is_flat]

    def has_same_insides(self) -> bool:
        """Whether what can change inside without a change of identities is the same."""
        if not self._deep:
            return True
        attributes = vars(self.layer())
        return all(_is_same(self._values[name], attributes[name]) for name in self._deep)

    def holds(self) -> bool:
        """Whether the layer is there, with the same attributes."""
        layer = self.layer()
        if layer is None:
            return False
        attributes = self._relevant(layer)
        return attributes.keys() == self._values.keys() and all(
            _is_same(value, attributes[name]) for name, value in self._values.items()
        )

    def _relevant(self, layer: Any) -> dict[str, Any]:
        return {
            name: value
            for name, value in untapped_attributes(layer).items()
            if name not in self._bookkeeping and not name.startswith("_self_")
        }


@cache
def _bookkeeping(of_models: bool) -> frozenset[str]:
    """Names of the attributes that every layer has, or every model."""
    bare = keras.Model() if of_models else keras.layers.Layer()
    return (frozenset(vars(bare)) | _DROPPED) - _KEPT


@dataclass(frozen=True)
class _Inside:
    """A value that can change while it stays the same object.

    Attributes:
        kind: Its type.
        items: What was in it.
        is_flat: Whether that was objects with no insides of their own, so that to compare their
            identities is to compare them.
    """

    kind: type
    items: Any
    is_flat: bool = False


def _remember(value: Any, on_death: Any) -> Any:
    """A value as it can be kept: itself if it is plain, its items, or a weak reference to it."""
    if isinstance(value, _SIMPLE) or (
        type(value) is tuple and all(isinstance(item, _SIMPLE) for item in value)
    ):
        return value
    if isinstance(value, np.ndarray) and value.nbytes <= _SMALL and not value.dtype.hasobject:
        return _Inside(np.ndarray, (value.shape, value.dtype, value.tobytes()))
    if isinstance(value, (list, tuple, set, frozenset)):
        items = tuple(_remember(item, on_death) for item in value)
        return _Inside(type(value), items, _are_flat(items))
    if isinstance(value, dict):
        by_key = {key: _remember(item, on_death) for key, item in value.items()}
        return _Inside(dict, by_key, _are_flat(by_key.values()))
    try:
        reference = weakref.ref(value, on_death)
    except TypeError:  # an object that cannot be weakly referred to is kept
        return _Kept(value)
    if _is_plain_object(value):
        by_name = {key: _remember(item, on_death) for key, item in vars(value).items()}
        return _Inside(object, (reference, by_name))
    return reference


def _are_flat(items: Iterable[Any]) -> bool:
    return not any(isinstance(item, _Inside) for item in items)


@dataclass(frozen=True, eq=False)
class _Kept:
    value: Any


def _is_same(remembered: Any, value: Any) -> bool:
    """Whether ``value`` is what was remembered."""
    if isinstance(remembered, weakref.ref):
        return remembered() is value
    if isinstance(remembered, _Kept):
        return remembered.value is value
    if isinstance(remembered, _Inside):
        return _has_same_items(remembered, value)
    return type(remembered) is type(value) and bool(
        remembered == value or (remembered != remembered and value != value)  # NaN is NaN here
    )


def _has_same_items(remembered: _Inside, value: Any) -> bool:
    items: Any = remembered.items
    if remembered.kind is object:
        reference, attributes = items
        return (
            reference() is value
            and vars(value).keys() == attributes.keys()
            and all(_is_same(item, vars(value)[key]) for key, item in attributes.items())
        )
    if remembered.kind is np.ndarray:
        return isinstance(value, np.ndarray) and items == (
            value.shape,
            value.dtype,
            value.tobytes() if value.nbytes <= _SMALL else None,
        )
    if remembered.kind is dict:
        return (
            isinstance(value, dict)
            and value.keys() == items.keys()
            and all(_is_same(item, value[key]) for key, item in items.items())
        )
    is_of_kind: bool = type(value) is remembered.kind
    return (
        is_of_kind
        and len(value) == len(items)
        and all(_is_same(item, one) for item, one in zip(items, value, strict=True))
    )


def _is_plain_object(value: Any) -> bool:
    """Whether a value is of a class of the user's that just holds settings."""
    # Layers are remembered for themselves.
    if isinstance(value, (type, types.ModuleType, types.FunctionType, keras.layers.Layer)):
        return False
    library = type(value).__module__.split(".")[0]
    return library not in ("builtins", "keras", "numpy", "tensorflow") and hasattr(
        value, "__dict__"
    )
