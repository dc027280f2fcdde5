"""What is known of a model: its layers and their paths, its inputs, where its channels are."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable, Iterable, Sequence
from functools import cached_property
from numbers import Integral
from typing import TYPE_CHECKING, Any, TypeVar

import keras

from kerasight.cam.inputs import Inputs, names_of
from kerasight.cam.layout import CHANNELS_LAST, Layout
from kerasight.checks import named_shapes, nearest
from kerasight.keras.layers import (
    IMAGE_LAYERS,
    channels_taken,
    children,
    hides_maps,
    only_drops_or_augments,
    own_layout,
    walk,
)
from kerasight.keras.logits import may_end_a_model
from kerasight.keras.sites import Site
from kerasight.keras.traces import Traces, traces_of
from kerasight.targets import SCORES, Readout

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Shaped

__all__ = ["PICTURE_CHANNELS", "Anatomy"]

Fact = TypeVar("Fact")

PICTURE_CHANNELS = (1, 3, 4)  # grey, RGB, RGBA


class Anatomy:
    """A model, and what is known of it.

    Made once for a call or a stream. What is asked in every call is kept from one to the next, for
    as long as the model stays as it is.

    Attributes:
        model: The model.
        readout: What scores are read from its outputs.
    """

    def __init__(self, model: keras.Model, readout: Readout = SCORES) -> None:
        """Nothing is looked at before it is asked for."""
        self.model = model
        self.readout = readout
        # By id of a layer: that and those inside it.
        self._children: dict[int, tuple[keras.layers.Layer, list[keras.layers.Layer]]] = {}
        self._is_new = True

    @cached_property
    def traces(self) -> Traces:
        """What is kept of the model between calls."""
        return traces_of(self.model)

    def refresh(self) -> None:
        """To be called before a pass: forget what no longer holds, if the model has changed."""
        self.__dict__.pop("traces", None)  # there may be another scope around
        if self.traces.refresh():
            known = self._known(
                "layers", lambda: [(path, weakref.ref(layer)) for path, layer in self.layers]
            )
            self.__dict__["layers"] = [(path, layer()) for path, layer in known]
        elif not self._is_new:
            self.forget()
        self._is_new = False

    @cached_property
    def layers(self) -> list[tuple[str, keras.layers.Layer]]:
        """All layers inside the model with their paths, each before the layers inside it."""
        return list(walk(self.model, self.children))

    def children(self, layer: keras.layers.Layer) -> list[keras.layers.Layer]:
        """The layers directly inside a layer."""
        if not layer.built:  # more may come
            return children(layer)
        if id(layer) not in self._children:
            self._children[id(layer)] = (layer, children(layer))
        return self._children[id(layer)][1]

    def children_with_maps(self, layer: keras.layers.Layer) -> list[keras.layers.Layer]:
        """The layers directly inside a layer that may have a map of the image."""
        return [] if hides_maps(layer) else self.children(layer)

    @cached_property
    def compiled_calls(self) -> list[keras.layers.Layer]:
        """The layers that the framework has compiled by themselves.

        Under a tap they run uncompiled, so that the layers inside them can be seen.
        """
        return [layer for layer in self.all if hasattr(layer.call, "python_function")]

    @cached_property
    def ends(self) -> list[keras.layers.Layer]:
        """The layers that may make logits, or probabilities of them."""
        return [layer for layer in self.all if may_end_a_model(layer)]

    @property
    def unbuilt(self) -> list[keras.layers.Layer]:
        """The layers that have no weights yet."""
        return [layer for layer in self.all if not layer.built]

    @property
    def all(self) -> list[keras.layers.Layer]:
        """The model, and all layers inside it."""
        return [self.model, *(layer for _, layer in self.layers)]

    def forget(self) -> None:
        """To be called when layers were made or built, as when a model is first called."""
        for known in (
            "layers",
            "compiled_calls",
            "ends",
            "inputs",
            "input_structure",
            "input_names",
        ):
            self.__dict__.pop(known, None)
        self._children.clear()

    def path_of(self, layer: keras.layers.Layer) -> str:
        """The path of a layer; its bare name if it is not in the model."""
        return next((path for path, found in self.layers if found is layer), str(layer.name))

    def around(self, layer: keras.layers.Layer) -> list[keras.layers.Layer]:
        """The layers that a layer is inside of."""
        path = self.path_of(layer)
        return [found for outer, found in self.layers if path.startswith(outer + "/")]

    def name_of(self, site: Site) -> str:
        """What a site is called, as `Site.path` says."""
        return self._known(("path", site.key()[:2]), lambda: site.path(self))

    def holds(self, layer: keras.layers.Layer) -> bool:
        """Whether a layer is in the model."""
        return any(found is layer for _, found in self.layers)

    @cached_property
    def inputs(self) -> list[Any]:
        """The symbolic inputs of the model; none if it does not tell them before it is called.

        Only Functional models tell them, and Sequential ones once they are built.
        """
        try:
            return list(self.model.inputs or ())
        except (AttributeError, ValueError):
            return []

    @cached_property
    def input_structure(self) -> Any:
        """The symbolic inputs in the structure that the model was made with; None if it tells none.

        A Sequential model has one input, and does not tell it as others do before it is called.
        """
        try:
            return self.model.input if self.inputs else None
        except (AttributeError, ValueError):
            return self.inputs[0]

    @cached_property
    def input_names(self) -> list[str]:
        """What the symbolic inputs are called: by their names in a dict, else by their layers."""
        named = names_of(self.input_structure) if self.inputs else []
        return [
            tensor.name if name.rpartition("/")[2].isdecimal() or not name else name
            for name, tensor in zip(named, self.inputs, strict=True)
        ]

    def inputs_of(self, docs: Shaped[np.ndarray, "docs ..."]) -> Inputs:
        """Docs of the one input in the structure that the model was made with, as in a dict.

        Raises:
            ValueError: If the model has several inputs.
        """
        if not self.inputs:  # a subclassed model, or a Sequential one
            return Inputs(docs)
        if len(self.inputs) > 1:
            raise ValueError(
                f"model {self.model.name!r} has {len(self.inputs)} inputs, "
                f"{self.inputs_in_words()}: pass a dict of arrays by these names, or a list of "
                "arrays in this order"
            )
        return Inputs.like(self.input_structure, docs)

    @property
    def output_names(self) -> list[str]:
        """What the outputs are called, where the model says it."""
        return list(getattr(self.model, "output_names", None) or ())

    def inputs_in_words(self) -> str:
        """The names and shapes of the inputs."""
        return named_shapes(self.input_names, [tensor.shape for tensor in self.inputs])

    def is_for_images(self) -> bool:
        """Whether the model has a layer, at any depth, that only images have."""
        return self._known(
            "is for images",
            lambda: any(isinstance(layer, IMAGE_LAYERS) for _, layer in self.layers),
        )

    def takes_words(self) -> bool:
        """Whether the model has a layer that takes words, or their numbers in a vocabulary."""
        of_words = (keras.layers.Embedding, keras.layers.TextVectorization)
        return self._known(
            "takes words", lambda: any(isinstance(layer, of_words) for _, layer in self.layers)
        )

    def takes_frames(self) -> bool:
        """Whether the model has a layer that sees frames one after the other."""
        of_frames = (keras.layers.TimeDistributed, keras.layers.ConvLSTM2D)
        return self._known(
            "takes frames", lambda: any(isinstance(layer, of_frames) for _, layer in self.layers)
        )

    def layout_of(self, layer: keras.layers.Layer) -> Layout:
        """Where the channels of a layer's output are.

        Only some layers know: the others have the layout of the nearest one before them that does,
        else of the nearest after them, else Keras's default.
        """
        layers = [item for _, item in self.layers]
        inside = [item for _, item in walk(layer)]
        position = next((at for at, item in enumerate(layers) if item is layer), 0)
        nearest = [*reversed([*layers[:position], layer, *inside]), *layers[position + 1 :]]
        return next(filter(None, map(own_layout, nearest)), _default_layout())

    @property
    def layout(self) -> Layout:
        """The layout of the first layer that says one, else Keras's default."""
        said = (own_layout(layer) for _, layer in self.layers)
        return next(filter(None, said), _default_layout())

    def size_of_docs(self, inputs: Inputs) -> tuple[int, ...]:
        """The spatial size of docs; of texts and series of numbers, their length."""
        shape = tuple(inputs.docs.shape)
        if len(shape) < 3:
            return shape[1:2] or (1,)
        size: tuple[int, ...] = self.layout_of_docs(shape).spatial(shape)
        return size

    def layout_of_docs(self, shape: tuple[int, ...]) -> Layout:
        """Where the channels of docs are, given the shape of a batch of them.

        The first layer that has a layout tells. If it takes fewer channels than the docs have in
        that layout, and just as many as they have in the other, the model starts with a
        transposition. The shape of the docs tells only where no layer does, or none can yet.
        """
        return self._known(("layout of docs", shape[1:]), lambda: self._layout_of_docs(shape))

    def _layout_of_docs(self, shape: tuple[int, ...]) -> Layout:
        said: Layout | None = None
        for _, layer in self.layers:
            own = own_layout(layer)
            # Augmentation does nothing once training is over, and its layout is a default.
            if own is None or only_drops_or_augments(layer):
                continue
            if said is None and isinstance(layer, keras.layers.Permute):  # it says what it makes
                return own.other
            said = said or own
            if own != said:
                return said
            channels = channels_taken(layer, own)
            if channels is not None:
                is_turned = own.other.channels(shape) == channels < own.channels(shape)
                return own.other if is_turned else own
        if said is not None and self.model.built:
            return said
        layout = said or _default_layout()
        here, there = layout.channels(shape), layout.other.channels(shape)
        is_other = here not in PICTURE_CHANNELS and there in PICTURE_CHANNELS
        return layout.other if is_other else layout

    def places_of(self, docs: Shaped[np.ndarray, "docs ..."]) -> Shaped[np.ndarray, "docs ..."]:
        """Docs as ``(docs, *spatial, channels)``; rows of numbers have one channel."""
        if docs.ndim <= 2:
            return docs.reshape(len(docs), -1, 1)
        return self.layout_of_docs(docs.shape).unfold(docs)

    def docs_of(
        self, places: Shaped[np.ndarray, "docs ..."], shape: tuple[int, ...]
    ) -> Shaped[np.ndarray, "docs ..."]:
        """The inverse of `places_of`, given the shape of a batch of docs."""
        if len(shape) <= 2:
            return places.reshape(len(places), *shape[1:])
        return self.layout_of_docs(shape).fold(places)

    def _known(self, fact: Hashable, find: Callable[[], Fact]) -> Fact:
        """A fact, found once for as long as the model stays as it is."""
        found: Fact = self.traces.once(fact, find)
        return found

    def find(self, layer: int | str | keras.layers.Layer) -> keras.layers.Layer:
        """Find a layer.

        Args:
            layer: An index into ``model.layers``, as ``model.get_layer(index=...)`` takes it, also
                from the end; a name or path, of which the last part is enough where it is unique;
                the attribute that holds it, such as ``"c2"`` or ``"blocks.0.c2"``, where no layer
                has that name; or a layer instance, which is returned as it is.

        Returns:
            The layer, at whatever depth.

        Raises:
            TypeError: If ``layer`` is of another type.
            ValueError: If there is no such layer, or several.
        """
        model = self.model
        if isinstance(layer, keras.layers.Layer):
            return layer
        if isinstance(layer, str):
            return self._find_by_name(layer)
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

    def _find_by_name(self, name: str) -> keras.layers.Layer:
        model, layers = self.model, self.layers
        exact = [found for path, found in layers if path == name] or _along(children(model), name)
        if exact:
            return exact[0]
        ends = {id(found) for found in _along([found for _, found in layers], name)}
        matches = [
            (path, found)
            for path, found in layers
            if path.endswith("/" + name) or id(found) in ends
        ]
        if not matches:
            held = _by_attribute([model], name) or _by_attribute([one for _, one in layers], name)
            matches = [(self.path_of(found), found) for found in held]
        if not matches:
            raise ValueError(f"no layer {name!r} in model {model.name!r}{_nearest(name, layers)}")
        if len(matches) > 1:
            paths = ", ".join(repr(path) for path, _ in matches)
            raise ValueError(
                f"several layers of model {model.name!r} are called {name!r}; pass one of the "
                f"paths {paths}"
            )
        return matches[0][1]


def _default_layout() -> Layout:
    return Layout.of(keras.config.image_data_format()) or CHANNELS_LAST


def _along(layers: Iterable[keras.layers.Layer], path: str) -> list[keras.layers.Layer]:
    """The layers that a path leads to from some, also where `walk` has another path for them."""
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
                # A framework may keep it elsewhere than among the attributes.
                is_computed = hasattr(type(value), part)
                value = vars(value).get(part) if is_computed else getattr(value, part, None)
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
    """The end of an error about a name that is not there: those to suggest."""
    paths = {key: repr(path) for path, layer in reversed(layers) for key in (path, layer.name)}
    last = [repr(path) for path, _ in layers][-5:]
    none_near = f"; its last layers are {', '.join(last)}" if last else "; it has no layers"
    return nearest(name, paths, most=5) or none_near
