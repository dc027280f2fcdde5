"""Which layer: found by name, path, index or instance, or chosen among those that ran."""

from __future__ import annotations

import difflib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from numbers import Integral
from typing import Any, Literal

import keras

__all__ = [
    "PICTURE_CHANNELS",
    "children",
    "children_with_maps",
    "data_format",
    "declared_inputs",
    "doc_format",
    "find",
    "input_format",
    "is_image_model",
    "only_drops_or_augments",
    "output_format",
    "path_of",
    "walk",
    "walk_with_maps",
]

DataFormat = Literal["channels_last", "channels_first"]

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

# Nobody holds so many layers in one list, but numbers.
_MOST_HELD = 10_000

_PLAIN = frozenset({bool, float, int, str, type(None)})


# Layers that pass a picture on as it is once training is over, by the words in their class names:
# every library has its own, and Keras adds new ones with each version.
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


def children_with_maps(layer: keras.layers.Layer) -> list[keras.layers.Layer]:
    """The layers directly inside a layer that may have a map of the image.

    Not those of an attention: what they put out has the rank of one, and tokens and heads for axes.
    Nor that of a `TimeDistributed`, which has a map of one step at a time.
    """
    if "Attention" in type(layer).__name__ or isinstance(layer, keras.layers.TimeDistributed):
        return []
    return children(layer)


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
            elif isinstance(value, (dict, list, tuple, set, deque)):
                seen.add(id(value))
                items = value.copy().values() if isinstance(value, dict) else tuple(value)
                ahead.append(islice(items, _MOST_HELD))
                break
        else:
            ahead.pop()
    return found


def walk(model: keras.Model) -> Iterator[tuple[str, keras.layers.Layer]]:
    """All layers inside a model with their paths, each before the layers inside it.

    Yields:
        ``(path, layer)``, with ``path`` the names from the outermost layer to this one, joined by
        ``/``; the name of ``model`` is not part of it. A layer held in several places comes once,
        with the path of the first.
    """
    yield from _walk(model, children)


def _walk(
    layer: keras.layers.Layer,
    children_of: Callable[[keras.layers.Layer], list[keras.layers.Layer]],
) -> Iterator[tuple[str, keras.layers.Layer]]:
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


def walk_with_maps(model: keras.Model) -> Iterator[keras.layers.Layer]:
    """All layers inside a model that may have a map of the image."""
    for _, layer in _walk(model, children_with_maps):
        yield layer


def path_of(model: keras.Model, layer: keras.layers.Layer) -> str:
    """The path of a layer in a model; its bare name if it is not found there."""
    return next((path for path, found in walk(model) if found is layer), str(layer.name))


def find(model: keras.Model, layer: int | str | keras.layers.Layer) -> keras.layers.Layer:
    """Find a layer in a model.

    Args:
        model: The model to look in.
        layer: An index into ``model.layers``, as ``model.get_layer(index=...)`` takes it, also from
            the end; a name or path, of which the last part is enough where it is unique; the
            attribute that holds it, such as ``"c2"`` or ``"blocks.0.c2"``, where no layer has that
            name; or a layer instance, which is returned as it is.

    Returns:
        The layer, at whatever depth.

    Raises:
        TypeError: If ``layer`` is of another type.
        ValueError: If there is no such layer, or several.
    """
    if isinstance(layer, keras.layers.Layer):
        return layer
    if isinstance(layer, str):
        return _find_by_name(model, layer)
    if isinstance(layer, Integral) and not isinstance(layer, bool):
        number = len(model.layers)
        index = int(layer)
        if not -number <= index < number:
            raise ValueError(
                f"no layer {layer} in model {model.name!r}: it has {number} layers, "
                f"so that an index lies between {-number} and {number - 1}"
            )
        return model.layers[index]
    raise TypeError(
        "layer must be a name or path (str), an index (int), a keras.layers.Layer, or None, "
        f"got {type(layer).__name__}"
    )


def _find_by_name(model: keras.Model, name: str) -> keras.layers.Layer:
    layers = list(walk(model))
    exact = [found for path, found in layers if path == name] or _along(children(model), name)
    if exact:
        return exact[0]
    ends = {id(found) for found in _along([found for _, found in layers], name)}
    matches = [
        (path, found) for path, found in layers if path.endswith("/" + name) or id(found) in ends
    ]
    if not matches:
        held = _by_attribute([model], name) or _by_attribute([one for _, one in layers], name)
        matches = [(path_of(model, found), found) for found in held]
    if not matches:
        raise ValueError(f"no layer {name!r} in model {model.name!r}; {_nearest(name, layers)}")
    if len(matches) > 1:
        paths = ", ".join(repr(path) for path, _ in matches)
        raise ValueError(
            f"several layers of model {model.name!r} are called {name!r}; pass one of the "
            f"paths {paths}"
        )
    return matches[0][1]


def _along(layers: Iterable[keras.layers.Layer], path: str) -> list[keras.layers.Layer]:
    """Where a path leads that starts at one of some layers, also to one that is held elsewhere."""
    found = list(layers)
    for place, name in enumerate(path.split("/")):
        inside = found if place == 0 else [child for one in found for child in children(one)]
        found = list({id(one): one for one in inside if one.name == name}.values())
    return found


def _by_attribute(holders: Iterable[Any], name: str) -> list[keras.layers.Layer]:
    """The layers that are held under an attribute: ``"c2"``, or ``"blocks.0.c2"`` in a list."""
    found: dict[int, keras.layers.Layer] = {}
    for holder in holders:
        value: Any = holder
        for part in name.replace("/", ".").split("."):
            if isinstance(value, keras.layers.Layer):
                value = vars(value).get(part)
            elif isinstance(value, dict):
                value = value.get(part)
            elif isinstance(value, (list, tuple)) and part.isdecimal():
                value = dict(enumerate(value)).get(int(part))
            else:
                value = None
        if isinstance(value, keras.layers.Layer):
            found[id(value)] = value
    return list(found.values())


def _nearest(name: str, layers: Sequence[tuple[str, keras.layers.Layer]]) -> str:
    """The names to suggest for one that is not there."""
    paths: dict[str, str] = {}
    for path, layer in layers:
        paths.setdefault(path.casefold(), path)
        paths.setdefault(str(layer.name).casefold(), path)
    close = difflib.get_close_matches(name.casefold(), paths, n=5, cutoff=0.5)
    nearest = list(dict.fromkeys(paths[match] for match in close))
    if nearest:
        are = "name is" if len(nearest) == 1 else "names are"
        return f"the nearest {are} " + ", ".join(map(repr, nearest))
    last = [path for path, _ in layers][-5:]
    return "its last layers are " + ", ".join(map(repr, last)) if last else "it has no layers"


def declared_inputs(model: keras.Model) -> list[Any]:
    """The symbolic inputs of a model; none if it does not tell them before it is called.

    Only Functional models tell them, and Sequential ones once they are built.
    """
    try:
        return list(model.inputs or ())
    except (AttributeError, ValueError):
        return []


def is_image_model(model: keras.Model) -> bool:
    """Whether a model has a layer, at any depth, that only images have."""
    return any(isinstance(layer, IMAGE_LAYERS) for _, layer in walk(model))


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
    # A `ResidualDropoutBlock` does more than its name says. What is drawn at random is whole.
    return not any("float" in str(weight.dtype) for weight in layer.weights)


def data_format(model: keras.Model, layer: keras.layers.Layer | None = None) -> DataFormat:
    """Where the channels of a layer's output are; of the model's input, if no layer is given.

    Only some layers know: the others have the layout of the nearest one before them that does, else
    of the nearest after them, else Keras's default.
    """
    nearest: Iterable[keras.layers.Layer] = (item for _, item in walk(model))
    if layer is not None:
        layers = list(nearest)
        inside = [item for _, item in walk(layer)]
        position = next((i for i, item in enumerate(layers) if item is layer), 0)
        nearest = [*reversed([*layers[:position], layer, *inside]), *layers[position + 1 :]]
    for item in nearest:
        own = _own_format(item)
        if own is not None:
            return own
    default: DataFormat = keras.config.image_data_format()
    return default


PICTURE_CHANNELS = (1, 3, 4)  # grey, RGB, RGBA


def doc_format(model: keras.Model, doc: Any) -> DataFormat:
    """Where the channels of docs ``(docs, height, width, channels)``, or channels first, are.

    As the first layer that knows says. Where it takes fewer channels than the docs have on that
    axis, and just as many as they have on the other, the model starts with a transposition. The
    shape of the docs alone tells only where no layer does, or none can yet.
    """
    _, first, _, last = doc.shape

    def sizes(data_format: DataFormat) -> tuple[int, int]:
        """How many channels the docs have in a layout, and in the other."""
        return (last, first) if data_format == "channels_last" else (first, last)

    said: DataFormat | None = None
    for _, layer in walk(model):
        own = _own_format(layer)
        # Augmentation has a layout by default, which does nothing once training is over.
        if own is None or only_drops_or_augments(layer):
            continue
        if said is None and isinstance(layer, keras.layers.Permute):  # which says what it makes
            return _OTHER[own]
        said = said or own
        if own != said:
            return said
        channels = _channels_taken(layer, own)
        if channels is not None:
            here, there = sizes(own)
            return _OTHER[own] if there == channels < here else own
    if said is not None and model.built:
        return said
    default: DataFormat = said or keras.config.image_data_format()
    here, there = sizes(default)
    is_other = here not in PICTURE_CHANNELS and there in PICTURE_CHANNELS
    return _OTHER[default] if is_other else default


_OTHER: dict[DataFormat, DataFormat] = {
    "channels_last": "channels_first",
    "channels_first": "channels_last",
}


def _channels_taken(layer: keras.layers.Layer, data_format: DataFormat) -> int | None:
    """How many channels a layer takes; None if it is not built yet, or takes any number."""
    axes = getattr(layer.input_spec, "axes", None) or {}
    return axes.get(1) if data_format == "channels_first" else axes.get(-1, axes.get(3))


def output_format(layer: keras.layers.Layer) -> DataFormat | None:
    """The layout of what a layer puts out, if it says so, or else the last one inside it."""
    inside = [item for _, item in walk(layer)]
    return next(filter(None, map(_own_format, [layer, *reversed(inside)])), None)


def input_format(layer: keras.layers.Layer) -> DataFormat | None:
    """The layout of what goes into a layer, if it says so, or else the first one inside it."""
    for item in [layer, *(item for _, item in walk(layer))]:
        own = _own_format(item)
        if own is not None and isinstance(item, keras.layers.Permute):
            return "channels_first" if own == "channels_last" else "channels_last"
        if own is not None:
            return own
    return None


def _own_format(layer: keras.layers.Layer) -> DataFormat | None:
    """The layout of a layer's output, if the layer itself says it."""
    if isinstance(layer, keras.layers.Permute):
        formats: dict[tuple[int, ...], DataFormat] = {
            (2, 3, 1): "channels_last",
            (3, 1, 2): "channels_first",
        }
        return formats.get(tuple(layer.dims))
    if isinstance(layer, keras.layers.BatchNormalization):
        axis = layer.axis[0] if isinstance(layer.axis, (list, tuple)) else layer.axis
        return {1: "channels_first", 3: "channels_last"}.get(axis)  # type: ignore[return-value]
    own = getattr(layer, "data_format", None)
    # Flatten has one, but flattens either way: nobody sets it.
    if own in ("channels_last", "channels_first") and not isinstance(layer, keras.layers.Flatten):
        return own  # type: ignore[no-any-return]
    return None
