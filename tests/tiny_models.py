"""Small models of each kind that people build, and what an explanation must leave alone."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import keras
import numpy as np
from keras import layers

from kerasight.cam.methods import METHODS

CLASSES = 3
SIDE = 8

# The methods that take any model that has a map, and not transformers alone.
ON_ANY_MODEL = tuple(name for name, method in METHODS.items() if method.at != "blocks")


def make_doc(shape: tuple[int, ...] = (1, SIDE, SIDE, 3), seed: int = 0) -> np.ndarray:
    """A picture of noise in [0, 1)."""
    return np.random.default_rng(seed).random(shape, dtype=np.float32)


@contextmanager
def drawn_by_numpy() -> Iterator[None]:
    """Kernels of layers that are built in the block are drawn by NumPy, where only sizes matter.

    By Keras, JAX compiles a program for each of their shapes: half a minute for an EfficientNetB0.
    """

    def draw(_: Any, shape: tuple[int, ...], dtype: Any = None) -> np.ndarray:
        scale = 1 / np.sqrt(max(np.prod(shape[:-1]), 1))
        return np.random.default_rng(0).normal(0, scale, shape).astype(dtype)

    with mock.patch.object(keras.initializers.VarianceScaling, "__call__", draw):
        yield


def by_hand(last: str | None = None) -> keras.Model:
    """Two channels, the picture and its negative; class 0 sums the first, class 1 the second."""
    model = keras.Sequential(
        [
            keras.Input((2, 2, 1)),
            layers.Conv2D(2, 1, use_bias=False, name="map"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(2, use_bias=False, activation=last, name="scores"),
        ],
        name="by_hand",
    )
    model.set_weights([np.array([[[[1.0, -1.0]]]]), np.eye(2)])
    return model


DOC_BY_HAND = np.array([[[[1.0], [2.0]], [[-4.0], [0.0]]]], np.float32)


class Shift(layers.Layer):
    """Adds an array, zero to begin with: a place to disturb what flows through a model."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.disturbance = np.zeros(())

    def call(self, inputs: Any) -> Any:
        return inputs + keras.ops.convert_to_tensor(self.disturbance, dtype=inputs.dtype)


def backbone(kind: str = "functional", name: str = "backbone", channels: int = 4) -> keras.Model:
    """Convolution, ``seen`` (a `Shift`), tanh: from a picture to a smaller map."""
    stack = [
        layers.Conv2D(channels, 3, strides=2, padding="same", name="conv"),
        Shift(name="seen"),
        layers.Activation("tanh", name="squash"),
    ]
    if kind == "sequential":
        return keras.Sequential(stack, name=name)
    if kind == "subclassed":
        return Chain(stack, name=name)
    inputs = x = keras.Input((None, None, 3))
    for layer in stack:
        x = layer(x)
    return keras.Model(inputs, x, name=name)


def head(activation: str | None = "softmax", units: int = CLASSES) -> list[layers.Layer]:
    return [
        layers.Conv2D(5, 2, padding="same", activation="sigmoid", name="mix"),
        layers.GlobalAveragePooling2D(name="pool"),
        layers.Dense(units, activation=activation, name="scores"),
    ]


class Chain(keras.Model):
    """Subclassed: its layers in a list, one after the other, no ``training`` argument."""

    def __init__(self, stack: list[layers.Layer], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.stack = stack

    def call(self, inputs: Any) -> Any:
        for layer in self.stack:
            inputs = layer(inputs)
        return inputs


class Branches(keras.Model):
    """Subclassed: layers in attributes and a dict, a skip connection, a ``training`` argument."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.first = layers.Conv2D(4, 3, padding="same", activation="tanh", name="first")
        self.side = {"left": layers.Conv2D(4, 1, name="left"), "seen": Shift(name="seen")}
        self.drop = layers.Dropout(0.5, name="drop")
        self.pool = layers.GlobalAveragePooling2D(name="pool")
        self.scores = layers.Dense(CLASSES, activation="softmax", name="scores")

    def call(self, inputs: Any, training: bool = True) -> Any:
        x = self.first(inputs)
        x = x * x + self.side["seen"](self.side["left"](x))
        return self.scores(self.pool(self.drop(x, training=training)))


class Block(layers.Layer):
    """A custom layer, no model, that makes its layers only when it is built."""

    def build(self, input_shape: Any) -> None:
        self.inner = [layers.Conv2D(4, 3, padding="same", name="inside"), Shift(name="seen")]
        self.built = True

    def call(self, inputs: Any) -> Any:
        x = inputs
        for layer in self.inner:
            x = layer(x)
        return keras.ops.tanh(x) + keras.ops.mean(inputs, axis=-1, keepdims=True)


def _functional() -> keras.Model:
    inputs = keras.Input((SIDE, SIDE, 3))
    x = layers.Conv2D(4, 3, padding="same", activation="tanh", name="conv")(inputs)
    x = Shift(name="seen")(x)
    y = layers.Conv2D(4, 3, padding="same", activation="tanh", name="deeper")(x)
    x = layers.Add(name="add")([x, y])
    for layer in head():
        x = layer(x)
    return keras.Model(inputs, x, name="functional")


def _nested(kind: str) -> Callable[[], keras.Model]:
    def make() -> keras.Model:
        middle = keras.Sequential([backbone(kind), layers.Activation("tanh")], name="middle")
        return keras.Sequential([keras.Input((SIDE, SIDE, 3)), middle, *head()], name="outer")

    return make


def _shared() -> keras.Model:
    """One tower over the two halves of a picture: each of its layers runs twice."""
    inputs = keras.Input((SIDE, SIDE, 3))
    tower = backbone(name="tower")
    left = tower(layers.Cropping2D(((0, 0), (0, SIDE // 2)), name="left")(inputs))
    right = tower(layers.Cropping2D(((0, 0), (SIDE // 2, 0)), name="right")(inputs))
    x = layers.Subtract(name="difference")([left, right])
    for layer in head():
        x = layer(x)
    return keras.Model(inputs, x, name="siamese")


def _two_outputs() -> keras.Model:
    inputs = keras.Input((SIDE, SIDE, 3))
    x = backbone()(inputs)
    first = layers.Dense(CLASSES, activation="softmax")(layers.GlobalAveragePooling2D()(x))
    later = layers.Conv2D(2, 1, name="last_of_all")(x)
    second = layers.Dense(2)(layers.GlobalMaxPooling2D()(later))
    return keras.Model(inputs, [first, second], name="two_outputs")


def _channels_first() -> keras.Model:
    inputs = keras.Input((3, SIDE, SIDE))
    x = layers.AveragePooling2D(2, data_format="channels_first", name="shrink")(inputs)
    x = Shift(name="seen")(x)
    x = layers.Activation("tanh", name="squash")(x)
    x = layers.GlobalAveragePooling2D(data_format="channels_first", name="pool")(x)
    return keras.Model(inputs, layers.Dense(CLASSES, activation="softmax")(x), name="first")


def _frozen() -> keras.Model:
    model = _functional()
    model.trainable = False
    return model


# Each has a layer "seen", a `Shift`, at some depth.
MODELS: dict[str, Callable[[], keras.Model]] = {
    "functional": _functional,
    "frozen": _frozen,
    "sequential": lambda: keras.Sequential(
        [keras.Input((SIDE, SIDE, 3)), *backbone("sequential").layers, *head()], name="sequential"
    ),
    "sequential, never called": lambda: keras.Sequential(
        [*backbone("sequential").layers, *head()], name="unbuilt"
    ),
    "subclassed, no training argument": lambda: Chain(
        [*backbone("sequential").layers, *head()], name="chain"
    ),
    "subclassed, training argument": lambda: Branches(name="branches"),
    "custom layer, built late": lambda: Chain([Block(name="block"), *head()], name="blocks"),
    "functional in sequential in sequential": _nested("functional"),
    "sequential in sequential in sequential": _nested("sequential"),
    "subclassed in sequential in sequential": _nested("subclassed"),
    "nested in subclassed": lambda: Chain([backbone(), *head()], name="around"),
    "shared": _shared,
    "two outputs": _two_outputs,
    "one sigmoid unit": lambda: keras.Sequential(
        [keras.Input((SIDE, SIDE, 3)), backbone(), *head("sigmoid", 1)], name="binary"
    ),
    "dynamic shape": lambda: keras.Sequential(
        [keras.Input((None, None, 3)), backbone(), *head()], name="dynamic"
    ),
    "channels first": _channels_first,
}


def doc_for(name: str) -> np.ndarray:
    return make_doc((1, 3, SIDE, SIDE) if name == "channels first" else (1, SIDE, SIDE, 3))


def scores_of(model: keras.Model, doc: np.ndarray) -> np.ndarray:
    """The model's first output for one input, shape ``(classes,)``."""
    outputs = model(doc, training=False)
    first = outputs[0] if isinstance(outputs, (list, tuple)) else outputs
    return np.asarray(keras.ops.convert_to_numpy(first))[0]


def state_of(model: keras.Model) -> dict[str, Any]:
    """All that an explanation must leave as it found it."""
    from kerasight.keras.layers import walk

    everything = [("", model), *walk(model)]
    return {
        "weights": [np.array(weight).tolist() for weight in model.get_weights()],
        "configs": {
            path: json.dumps(layer.get_config(), default=repr, sort_keys=True)
            for path, layer in everything
            if type(layer).__module__.startswith("keras.") and not isinstance(layer, keras.Model)
        },
        "attributes": {
            path: {name: id(value) for name, value in vars(layer).items() if name != "_called"}
            for path, layer in everything
        },
        "nodes": {
            path: (len(layer._inbound_nodes), len(layer._outbound_nodes))
            for path, layer in everything
        },
        "trainable": {path: layer.trainable for path, layer in everything},
    }


def few(method: str) -> dict[str, Any]:
    """Options with which a method runs the model but a few times."""
    asked: dict[str, Any] = {"window": SIDE // 2} if METHODS[method].hides else {}
    if METHODS[method].samples:
        asked["samples"] = 6 if METHODS[method].hides else 2
    return asked
