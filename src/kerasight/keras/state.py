"""Whether a model is still what it was, so that a trace of it can be used again.

A traced pass reads weights afresh each time, but all else (activations, rates, which layers there
are) is what Python said when it was traced. So everything that can be reached from the model is
remembered then, and compared before each use: the attributes of its layers and of their classes,
what is in their lists, dicts and arrays, and the objects that they hold. Nothing here keeps a model
alive.
"""

from __future__ import annotations

import array
import contextlib
import enum
import functools
import io
import itertools
import random
import sys
import types
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from operator import itemgetter
from typing import Any

import keras
import numpy as np

from kerasight.keras.tap import TAPPED, untapped_attributes

__all__ = ["Contents", "Snapshot", "UnseenError", "random_state"]

# The attributes that every layer and every model has are bookkeeping of Keras on its framework, of
# calls, losses, graphs, signatures and training. Outputs depend on these alone.
_KEPT = frozenset({"_dtype_policy", "_layers", "_trainable", "autocast", "name"})
# These are bookkeeping of models as well. Nothing but these lists leans on names of Keras's own.
_DROPPED = frozenset(
    {
        "_jax_state",
        "_nodes_by_depth",
        "_operations_by_depth",
        "history",
        "stop_evaluating",
        "stop_predicting",
        "stop_training",
    }
)

# To compare all of this before each pass must take less time than the pass.
_MOST_ITEMS = 20_000  # in lists, objects and the like, layers and classes not counted
_MOST_BYTES = 2**20  # in arrays
_TOO_MUCH = "it holds more objects, or larger arrays, than can be compared before each pass"

_ATOMS = frozenset({bool, bytes, complex, float, int, str, type(None), type(...), range, slice})
_SEQUENCES = (list, tuple, set, frozenset, deque)
_BUFFERS = (bytearray, array.array, memoryview)
_CONTAINERS = (*_SEQUENCES, *_BUFFERS, dict, np.ndarray)
_BOUND = (types.MethodType, functools.partial, property, staticmethod, classmethod)
_GENERATORS = (random.Random, np.random.Generator, np.random.RandomState)
# What has no insides, or none that are looked into: it is compared by its identity.
_WHOLE = (
    bool,
    bytes,
    complex,
    float,
    int,
    str,
    enum.Enum,
    np.generic,
    type,
    types.BuiltinFunctionType,
    types.FunctionType,
    types.ModuleType,
)
# Of classes: descriptors that Python makes with the class, and that would keep it alive.
_MADE_WITH_CLASS = (types.GetSetDescriptorType, types.MemberDescriptorType)

# Objects of these are not looked into: their classes answer for them, or nothing depends on them
# (loggers, locks, threads, files). Python's own modules are among them but for those that lend
# people something to keep settings in.
_LIBRARIES = (
    sys.stdlib_module_names | {"jax", "jaxlib", "keras", "numpy", "tensorflow", "torch"}
) - {
    "argparse",
    "collections",
    "configparser",
    "dataclasses",
    "functools",
    "types",
}


class UnseenError(Exception):
    """A model holds something whose changes cannot be seen, or not fast enough."""


class Snapshot:
    """What can be reached from a model at one time.

    Comparing each thing by its rules is slow, and comparing the identities of all is fast.
    Identities suffice as long as nothing that was remembered has died: only then can another object
    have taken its identity.
    """

    def __init__(self, model: Any) -> None:
        """Remember what can be reached from ``model``.

        Raises:
            UnseenError: If that is too much, or cannot be compared.
        """
        self._has_lost_some = False

        def note_death(_: Any) -> None:
            self._has_lost_some = True

        holders = _explore(model)
        # By id of what is looked into; where there can be no reference, its number.
        references: dict[int, Any] = {}
        for number, holder in enumerate(holders):
            if id(holder.value) not in references:
                reference = _reference(holder.value, note_death)
                references[id(holder.value)] = reference or _At(number)
        self._nodes = []
        for number, holder in enumerate(holders):
            of_value = references[id(holder.value)]
            at = of_value.number if isinstance(of_value, _At) else number
            reference = None if isinstance(of_value, _At) else of_value
            items = [
                references.get(id(item)) or _remember(item, note_death) for item in holder.items
            ]
            self._nodes.append(
                _Node(holder.part, type(holder.value), reference, at, holder.origin, items)
            )
        self._steps = [  # less to look up
            (node.reference, node.kind, node.origin, node.part.read, node.part.is_by_value)
            for node in self._nodes
        ]
        self._identities = self._identities_now()

    def holds(self) -> bool:
        """Whether the model is still there, and all that can be reached from it the same."""
        identities = self._identities_now()
        if identities is None:
            return False
        if not self._has_lost_some and identities == self._identities:
            return True
        try:
            if not self._is_same():
                return False
        except Exception:  # whatever an object does that is looked into
            return False
        # Other objects of the same value, or a tap: from here on, compare with those of now.
        self._identities = identities
        return True

    def _identities_now(self) -> list[Any] | None:
        """Of everything; None if something is gone."""
        identities: list[Any] = []
        contents: list[Sequence[Any]] = []
        try:
            for reference, kind, (parent, place), read, is_by_value in self._steps:
                value = contents[parent][place] if reference is None else reference()
                if type(value) is not kind:
                    return None
                items = read(value)
                contents.append(items)
                identities.append(len(items))
                identities += items if is_by_value else map(id, items)
        except Exception:  # less than there was, or something that changes at this moment
            return None
        return identities

    def _is_same(self) -> bool:
        """Whether everything is what was remembered, by its rules."""
        values: dict[int, Any] = {}
        for node in self._nodes:
            value = values.get(node.number) if node.reference is None else node.reference()
            if type(value) is not node.kind:
                return False
            items = node.part.read_untapped(value)
            if len(items) != len(node.items):
                return False
            for remembered, item in zip(node.items, items, strict=True):
                if isinstance(remembered, _At):
                    if values.setdefault(remembered.number, item) is not item:
                        return False
                elif not _is_same(remembered, item):
                    return False
        return True


class Contents:
    """What is in everything that can be reached from a model, to be put back.

    It keeps all of it alive.
    """

    def __init__(self, model: Any) -> None:
        """Take note of what there is."""
        self._holders = _explore(model)
        self._built = self._built_now()

    def holds(self) -> bool:
        """Whether there is nothing else than there was."""
        try:
            return all(
                [*map(id, holder.items)] == [*map(id, holder.part.read_untapped(holder.value))]
                for holder in self._holders
                if not holder.part.is_by_value
            )
        except Exception:  # other attributes, or whatever an object does that is looked into
            return False

    def put_back(self) -> None:
        """Make everything hold what it did, unless layers were built meanwhile."""
        if self._built_now() != self._built:
            return
        for holder in self._holders:
            with contextlib.suppress(Exception):  # whatever an object does that is written to
                holder.part.write(holder.value, holder.items)

    def _built_now(self) -> list[bool]:
        return [
            bool(holder.value.built)
            for holder in self._holders
            if isinstance(holder.value, keras.layers.Layer)
        ]


def random_state() -> tuple[Any, ...]:
    """The state of the generators of random numbers that Python and NumPy share with everybody."""
    of_numpy = np.random.get_state(legacy=False)  # noqa: NPY002
    return (random.getstate(), repr(_plain(of_numpy)))


@dataclass
class _Holder:
    """One part of something that can be reached.

    Attributes:
        value: What it is a part of.
        part: Reads and writes it.
        items: What was in it.
        origin: In which holder ``value`` was first found, and at which place of its items.
    """

    value: Any
    part: _Part
    items: Sequence[Any]
    origin: tuple[int, int]


@dataclass(frozen=True)
class _At:
    """What stands at a place that is looked into itself, by the number of its first holder."""

    number: int


@dataclass
class _Node:
    """A holder, as it is remembered; ``reference`` is None if its value is found by its place."""

    part: _Part
    kind: type
    reference: Any
    number: int
    origin: tuple[int, int]
    items: list[Any]


def _explore(model: Any) -> list[_Holder]:
    """All that can be reached from a model and may change, each once, the nearest first.

    Raises:
        UnseenError: If that is too much, or there is something that hides how it changes.
    """
    holders: list[_Holder] = []
    seen = {id(model)}
    items_left, bytes_left = _MOST_ITEMS, _MOST_BYTES
    ahead: deque[tuple[Any, tuple[_Part, ...], tuple[int, int]]] = deque()
    ahead.append((model, _parts(model), (-1, -1)))
    while ahead:
        value, parts, origin = ahead.popleft()
        for part in parts:
            items = part.read_untapped(value)
            number = len(holders)
            holders.append(_Holder(value, part, items, origin))
            if part.is_by_value:
                bytes_left -= len(items[0])
            elif part.is_counted:
                items_left -= 10 + len(items)
            if items_left < 0 or bytes_left < 0:
                raise UnseenError(_TOO_MUCH)
            for place, item in part.inside(value, items):
                if type(item) in _ATOMS or id(item) in seen:
                    continue
                inner = _parts(item)
                if inner:
                    seen.add(id(item))
                    ahead.append((item, inner, (number, place)))
        if isinstance(value, keras.Operation) or not _is_library(type(value)):
            for one in type(value).__mro__[:-1]:
                if id(one) not in seen:
                    seen.add(id(one))
                    part = _OfLibraryClass(one) if _is_library(one) else _OF_CLASSES
                    ahead.append((one, (part,), (-1, -1)))
    return holders


def _parts(value: Any) -> tuple[_Part, ...]:
    """How to look into a value; nothing for one that is compared as it is.

    Raises:
        UnseenError: If it hides how it changes.
    """
    kind = type(value)
    if isinstance(value, keras.Operation):
        return (_OfOperation(value),)
    if isinstance(value, _WHOLE) or _is_plain(value):
        return ()
    parts: list[_Part] = []
    if getattr(value, "nbytes", 0) > _MOST_BYTES and issubclass(kind, _CONTAINERS):
        raise UnseenError(_TOO_MUCH)
    if issubclass(kind, np.ndarray):
        if value.dtype.hasobject:
            parts.append(_OF_OBJECT_ARRAYS)
        elif value.flags.writeable:
            parts.append(_OF_BUFFERS)
    elif issubclass(kind, _BUFFERS):
        parts.append(_OF_BUFFERS)
    elif issubclass(kind, dict):
        parts.append(_OF_DICTS)
    elif issubclass(kind, _SEQUENCES):
        parts.append(_OF_SEQUENCES)
    elif issubclass(kind, _GENERATORS):
        parts.append(_OF_GENERATORS)
    # Keras puts a dict of its own in the place of others, which may have attributes.
    is_of_keras = issubclass(kind, dict) and kind.__module__.startswith("keras.")
    if is_of_keras or not _is_library(kind) or isinstance(value, _BOUND):
        if isinstance(getattr(value, "__dict__", None), dict):
            parts.append(_OF_OBJECTS)
        slots = _slots(kind)
        if slots:
            parts.append(_OfSlots(slots))
    if not parts and isinstance(value, Iterator) and not isinstance(value, io.IOBase):
        raise UnseenError(f"it holds an iterator ({kind.__name__})")
    return tuple(parts)


def _is_library(kind: type) -> bool:
    return kind.__module__.partition(".")[0] in _LIBRARIES


def _slots(kind: type) -> tuple[Any, ...]:
    found = itertools.chain.from_iterable(vars(one).values() for one in kind.__mro__)
    return tuple(one for one in found if isinstance(one, types.MemberDescriptorType))


class _Part:
    """Reads what is in one part of a value, and writes it.

    Attributes:
        is_by_value: Whether the items are made anew at each reading, and bytes or a string first.
        is_counted: Whether the items count as some of the most that can be compared.
    """

    is_by_value = False
    is_counted = True

    def read(self, value: Any) -> Sequence[Any]:
        """What is in it."""
        raise NotImplementedError

    def read_untapped(self, value: Any) -> Sequence[Any]:
        """What is in it where no tap is on."""
        return self.read(value)

    def write(self, value: Any, items: Sequence[Any]) -> None:
        """Put back what was read, if ``value`` can be changed."""

    def inside(self, _: Any, items: Sequence[Any]) -> Iterable[tuple[int, Any]]:
        """Those of the items that are looked into as well, with their places."""
        return () if self.is_by_value else enumerate(items)


class _OfOperation(_Part):
    """The attributes of a layer or another operation, less the bookkeeping."""

    is_counted = False

    def __init__(self, operation: Any) -> None:
        self._bookkeeping = _bookkeeping(isinstance(operation, keras.Model))
        self._names: tuple[str, ...] = tuple(self._relevant(untapped_attributes(operation)))
        self._number = -1
        # Two at least, or it would not give a tuple.
        self._get: Callable[[Any], tuple[Any, ...]] = (
            itemgetter(*self._names) if len(self._names) > 1 else self._get_few
        )

    def read(self, value: Any) -> Sequence[Any]:
        attributes = vars(value)
        # An attribute more or less, or a tap.
        if len(attributes) != self._number:
            return self.read_untapped(value)
        return self._get(attributes)

    def read_untapped(self, value: Any) -> Sequence[Any]:
        attributes = untapped_attributes(value)
        if self._relevant(attributes).keys() != set(self._names):
            raise LookupError("other attributes")
        self._number = len(attributes)
        return self._get(attributes)

    def write(self, value: Any, items: Sequence[Any]) -> None:
        # Past Keras, which would track what is set.
        attributes = vars(value)
        for name in self._relevant(attributes.copy()).keys() - set(self._names) - set(TAPPED):
            del attributes[name]
        for name, item in zip(self._names, items, strict=True):
            if name not in TAPPED and attributes.get(name, attributes) is not item:
                attributes[name] = item

    def _get_few(self, attributes: dict[str, Any]) -> tuple[Any, ...]:
        return tuple(attributes[name] for name in self._names)

    def _relevant(self, attributes: dict[str, Any]) -> dict[str, Any]:
        return {name: item for name, item in attributes.items() if name not in self._bookkeeping}


@cache
def _bookkeeping(of_models: bool) -> frozenset[str]:
    """Names of the attributes that every layer has, or every model."""
    # With names, or Keras would number those of the user's models otherwise.
    bare = keras.layers.Layer(name="bare")
    inputs = keras.Input((1,), name="inputs")
    # With a layer, without which some versions of Keras make no graph.
    graph = keras.Model(inputs, keras.layers.Identity(name="same")(inputs), name="graph")
    names = set(vars(bare)) | {name for name in vars(graph) if name.startswith("_self_")}
    if not of_models:
        return frozenset(names) - _KEPT
    return frozenset(names | set(vars(keras.Model(name="bare"))) | _DROPPED) - _KEPT


class _OfObjects(_Part):
    """The attributes of an object of a class of the user's."""

    def read(self, value: Any) -> Sequence[Any]:
        attributes = vars(value)
        return [*attributes, *attributes.values()]

    def write(self, value: Any, items: Sequence[Any]) -> None:
        _refill(vars(value), items)


class _OfDicts(_Part):
    def read(self, value: Any) -> Sequence[Any]:
        return [*value, *value.values()]

    def write(self, value: Any, items: Sequence[Any]) -> None:
        _refill(value, items)


def _refill(mapping: dict[Any, Any], items: Sequence[Any]) -> None:
    """Make a dict hold keys and values as they were read, past what a subclass does then."""
    half = len(items) // 2
    if [*map(id, mapping), *map(id, mapping.values())] != [*map(id, items)]:
        dict.clear(mapping)
        dict.update(mapping, zip(items[:half], items[half:], strict=True))


class _OfSequences(_Part):
    def read(self, value: Any) -> Sequence[Any]:
        return list(value)

    def write(self, value: Any, items: Sequence[Any]) -> None:
        if isinstance(value, (tuple, frozenset)) or [*map(id, value)] == [*map(id, items)]:
            return
        if isinstance(value, list):
            list.__setitem__(value, slice(None), items)
            return
        kind: Any = set if isinstance(value, set) else deque
        kind.clear(value)
        (kind.update if kind is set else kind.extend)(value, items)


class _OfObjectArrays(_Part):
    def read(self, value: Any) -> Sequence[Any]:
        return list(value.flat)

    def write(self, value: Any, items: Sequence[Any]) -> None:
        for place, item in enumerate(items):
            value.flat[place] = item


class _OfBuffers(_Part):
    """The bytes of an array, and how they are to be read."""

    is_by_value = True

    def read(self, value: Any) -> Sequence[Any]:
        if isinstance(value, np.ndarray):
            return (value.tobytes(), value.shape, value.dtype)
        return (bytes(value),)

    def write(self, value: Any, items: Sequence[Any]) -> None:
        if self.read(value) == items:
            return
        if isinstance(value, np.ndarray):
            former = np.frombuffer(items[0], value.dtype)
            if former.size == value.size:
                value[...] = former.reshape(value.shape)
        elif isinstance(value, bytearray):
            value[:] = items[0]
        elif isinstance(value, array.array):
            value[:] = array.array(value.typecode, items[0])


class _OfGenerators(_Part):
    """The state of a generator of random numbers."""

    is_by_value = True

    def read(self, value: Any) -> Sequence[Any]:
        if isinstance(value, random.Random):
            return (repr(value.getstate()),)
        if isinstance(value, np.random.Generator):
            return (repr(_plain(value.bit_generator.state)),)
        return (repr(_plain(value.get_state(legacy=False))),)


def _plain(state: Any) -> Any:
    """The state of one of NumPy's generators, its arrays as bytes."""
    if isinstance(state, dict):
        return {key: _plain(item) for key, item in state.items()}
    return state.tobytes() if isinstance(state, np.ndarray) else state


class _OfSlots(_Part):
    """What stands in the slots of an object."""

    def __init__(self, slots: tuple[Any, ...]) -> None:
        self._slots = slots

    def read(self, value: Any) -> Sequence[Any]:
        return [self._read_one(slot, value) for slot in self._slots]

    def write(self, value: Any, items: Sequence[Any]) -> None:
        for slot, item in zip(self._slots, items, strict=True):
            if self._read_one(slot, value) is item:
                continue
            if item is ...:
                slot.__delete__(value)
            else:
                slot.__set__(value, item)

    @staticmethod
    def _read_one(slot: Any, value: Any) -> Any:
        try:
            return slot.__get__(value)
        except AttributeError:
            return ...


class _OfClasses(_Part):
    """What was written into a class: methods, properties, attributes."""

    is_counted = False

    def read(self, value: Any) -> Sequence[Any]:
        return list(vars(value).values())

    def inside(self, value: Any, items: Sequence[Any]) -> Iterable[tuple[int, Any]]:
        names = list(vars(value))
        return [
            (place, item)
            for place, (name, item) in enumerate(zip(names, items, strict=True))
            if not (name.startswith("__") and name.endswith("__")) and name != "_abc_impl"
        ]


class _OfLibraryClass(_Part):
    """What stands in a class of Keras or the like; it may add to itself, but no `call`."""

    is_counted = False

    def __init__(self, kind: type) -> None:
        self._names = tuple(vars(kind))

    def read(self, value: Any) -> Sequence[Any]:
        items = list(map(vars(value).__getitem__, self._names))
        items += [getattr(value, name, None) for name in TAPPED]
        return items

    def inside(self, _: Any, items: Sequence[Any]) -> Iterable[tuple[int, Any]]:
        return ()


_OF_BUFFERS = _OfBuffers()
_OF_CLASSES = _OfClasses()
_OF_DICTS = _OfDicts()
_OF_GENERATORS = _OfGenerators()
_OF_OBJECTS = _OfObjects()
_OF_OBJECT_ARRAYS = _OfObjectArrays()
_OF_SEQUENCES = _OfSequences()


@dataclass(frozen=True, eq=False)
class _Kept:
    """A value to be compared by its identity, which cannot be weakly referred to."""

    value: Any


def _is_plain(value: Any) -> bool:
    """Whether a value is told by ``==``."""
    kind = type(value)
    return (
        kind in _ATOMS
        or isinstance(value, np.generic)
        or (kind is tuple and all(type(item) in _ATOMS for item in value))
    )


def _reference(value: Any, on_death: Any) -> Any:
    """A weak reference to a value; None if there is none, or it is what is in it that counts."""
    if issubclass(type(value), _CONTAINERS):
        return None
    try:
        return weakref.ref(value, on_death)
    except TypeError:
        return None


def _remember(value: Any, on_death: Any) -> Any:
    """A value that is not looked into, as it can be kept."""
    if _is_plain(value):
        return value
    if isinstance(value, _MADE_WITH_CLASS):
        return type(value)
    # An object that cannot be weakly referred to is kept.
    return _reference(value, on_death) or _Kept(value)


def _is_same(remembered: Any, value: Any) -> bool:
    """Whether ``value`` is what was remembered."""
    if isinstance(remembered, weakref.ref):
        return remembered() is value
    if isinstance(remembered, _Kept):
        return remembered.value is value
    if isinstance(value, _MADE_WITH_CLASS):
        return remembered is type(value)
    return type(remembered) is type(value) and bool(
        remembered == value or (remembered != remembered and value != value)  # NaN is NaN here
    )
