"""What a layer is by itself: the layers inside it, and the layout of what goes in and comes out."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

import keras

from kerasight.cam.layout import CHANNELS_FIRST, CHANNELS_LAST, Layout

__all__ = [
    "IMAGE_LAYERS",
    "channels_taken",
    "children",
    "hides_maps",
    "input_layout",
    "only_drops_or_augments",
    "output_layout",
    "own_layout",
    "walk",
]

IMAGE_LAYERS = (
    keras.layers.Conv2D,
    keras.layers.Conv2DTranspose,
    keras.layers.DepthwiseConv2D,
    keras.layers.SeparableConv2D,
    keras.layers.AveragePooling2D,
    keras.layers.MaxPooling2D,
    keras.layers.GlobalAveragePooling2D,
    keras.layers.GlobalMaxPooling2D,
)

# A list longer than this holds numbers, not layers.
_MOST_HELD = 10_000

_PLAIN = frozenset({bool, float, int, str, type(None)})


# Words in the class names of layers that pass a picture on as it is once training is over. There is
# no list of the classes: every library has its own, and Keras adds new ones with each version.
_DROPS_OR_AUGMENTS = (
    "ActivityRegularization",
    "AugMix",
    "CutMix",
    "DropBlock",
    "DropPath",
    "Dropout",
    "GaussianNoise",
    "MixUp",
    "RandAugment",
    "Random",
    "StochasticDepth",
)


def children(layer: keras.layers.Layer) -> list[keras.layers.Layer]:
    """The layers directly inside a layer: those of a model, or those a custom layer holds."""
    if isinstance(layer, keras.Model):
        return list(layer.layers)
    # A copy, taken in one go: another thread may put a tap on meanwhile, or take one off.
    found = _held(vars(layer).copy().values())
    return [child for child in found if child is not layer]


def hides_maps(layer: keras.layers.Layer) -> bool:
    """Whether the layers inside a layer have no map of the image, though they may look so.

    Inside an attention, outputs have as many axes as a map, but these are heads and tokens. Inside
    a `TimeDistributed`, the map is that of one step.
    """
    return "Attention" in type(layer).__name__ or isinstance(layer, keras.layers.TimeDistributed)


def _held(values: Iterable[Any]) -> list[keras.layers.Layer]:
    """The layers among values, and in the lists and the like among them, each once, in order."""
    found: list[keras.layers.Layer] = []
    seen: set[int] = set()
    ahead = [islice(values, None)]
    while ahead:
        for value in ahead[-1]:
            if type(value) in _PLAIN or id(value) in seen:
                continue
            if isinstance(value, keras.layers.Layer):
                seen.add(id(value))
                found.append(value)
            elif isinstance(value, (dict, list, tuple, set, deque)) and value:
                seen.add(id(value))
                items = value.copy().values() if isinstance(value, dict) else tuple(value)
                ahead.append(islice(items, _MOST_HELD))
                break
        else:
            ahead.pop()
    return found


def walk(
    layer: keras.layers.Layer, children_of: Callable[[Any], list[keras.layers.Layer]] = children
) -> Iterator[tuple[str, keras.layers.Layer]]:
    """All layers inside a model or layer with their paths, each before the layers inside it.

    Args:
        layer: The model or layer.
        children_of: Gives the layers directly inside one.

    Yields:
        ``(path, layer)``, with ``path`` the names from the outermost layer to this one, joined by
        ``/``; the name of the model is not part of it. A layer held in several places comes once,
        with the path of the first.
    """
    seen = {id(layer)}
    ahead = [("", iter(children_of(layer)))]
    while ahead:
        prefix, siblings = ahead[-1]
        child = next(siblings, None)
        if child is None:
            ahead.pop()
        elif id(child) not in seen:
            seen.add(id(child))
            path = prefix + child.name
            yield path, child
            ahead.append((path + "/", iter(children_of(child))))


def only_drops_or_augments(layer: keras.layers.Layer) -> bool:
    """Whether a layer passes a picture on as it is, once training is over."""
    inner = children(layer)
    if inner and isinstance(layer, keras.Model):
        return all(
            only_drops_or_augments(item) or isinstance(item, keras.layers.InputLayer)
            for item in inner
        )
    if not any(word in type(layer).__name__ for word in _DROPS_OR_AUGMENTS):
        return False
    # A `ResidualDropoutBlock` does more than its name says: it has weights. The state of a
    # generator of random numbers, which a layer that only drops has, is made of integers.
    return not any("float" in str(weight.dtype) for weight in layer.weights)


def channels_taken(layer: keras.layers.Layer, layout: Layout) -> int | None:
    """How many channels a layer takes; None if it is not built yet, or takes any number."""
    axes = getattr(layer.input_spec, "axes", None) or {}
    return axes.get(1) if layout == CHANNELS_FIRST else axes.get(-1, axes.get(3))


def output_layout(layer: keras.layers.Layer) -> Layout | None:
    """The layout of what a layer puts out, if it says so, or else the last one inside it."""
    inside = [item for _, item in walk(layer)]
    return next(filter(None, map(own_layout, [layer, *reversed(inside)])), None)


def input_layout(layer: keras.layers.Layer) -> Layout | None:
    """The layout of what goes into a layer, if it says so, or else the first one inside it."""
    for item in [layer, *(item for _, item in walk(layer))]:
        own = own_layout(item)
        if own is not None:
            return own.other if isinstance(item, keras.layers.Permute) else own
    return None


def own_layout(layer: keras.layers.Layer) -> Layout | None:
    """The layout of a layer's output, if the layer itself says it."""
    if isinstance(layer, keras.layers.Permute):
        makes = {(2, 3, 1): CHANNELS_LAST, (3, 1, 2): CHANNELS_FIRST}
        return makes.get(tuple(layer.dims))
    if isinstance(layer, keras.layers.BatchNormalization):
        axis = layer.axis[0] if isinstance(layer.axis, (list, tuple)) else layer.axis
        return {1: CHANNELS_FIRST, 3: CHANNELS_LAST}.get(axis)
    if isinstance(layer, keras.layers.Flatten):  # people leave its layout at the default
        return None
    return Layout.of(getattr(layer, "data_format", None))
