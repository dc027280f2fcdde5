"""The same small networks twice, in Keras and in PyTorch, with the same weights."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import keras
import numpy as np
import torch
from keras import layers

import kerasight
from kerasight.cam.maps import normalised
from kerasight.cam.methods import METHODS

EQUAL = 1e-4
SIDE = 16
CLASSES = 5


class Seen(layers.Layer):
    """Hands on what it takes, and keeps it in ``docs``."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.docs: list[np.ndarray] = []

    def call(self, x: Any) -> Any:
        if isinstance(x, torch.Tensor) and x.device.type != "meta":
            self.docs.extend(keras.ops.convert_to_numpy(x))
        return x


class Twins:
    """A model of Keras, and one of PyTorch that computes the same.

    Args:
        model: The one of Keras.
        twin: The one of PyTorch, channels first, with its modules by the names of Keras's layers.
        doc: What both are run on, ``(1, height, width, channels)``.
    """

    def __init__(self, model: keras.Model, twin: torch.nn.Module, doc: np.ndarray) -> None:
        self.model, self.twin, self.doc = model, twin.eval(), doc
        self.tensor = channels_first(doc)
        with torch.no_grad():
            self.scores: np.ndarray = self.twin(self.tensor)[0].numpy()
        ours = keras.ops.convert_to_numpy(model(doc, training=False))[0]
        np.testing.assert_allclose(ours, self.scores, rtol=1e-5, atol=1e-5)

    def heatmap(
        self, method: str, target: int, layer: str | list[str] | None = None, **options: Any
    ) -> np.ndarray:
        """The heatmap of kerasight, signed where the method's can be."""
        expl = kerasight.explain_prediction(
            self.model,
            self.doc,
            targets=[target],
            layer=layer,
            method=method,
            relu=not METHODS[method].is_signed,
            **options,
        )
        heatmap: np.ndarray = expl.targets[0].heatmap
        return heatmap

    def docs_of(self, method: str, target: int, **options: Any) -> tuple[np.ndarray, np.ndarray]:
        """The heatmap, and the changed docs that the model was run on to make it.

        Each is there once: some are run alone before, to see how the model runs.
        """
        seen = self.model.get_layer("seen").docs
        seen.clear()
        heatmap = self.heatmap(method, target, **options)
        docs = {doc.tobytes(): doc for doc in seen if (doc != self.doc).any()}
        return heatmap, np.array([*docs.values()])


def make_twins(*, scale: float = 1, activation: str = "linear", relu: bool = True) -> Twins:
    """Two convolutions, with a pool between them, and a mean before the scores.

    Args:
        scale: What the scores, and so their gradients, are multiplied by.
        activation: Of the scores: ``"linear"`` or ``"softmax"``.
        relu: Whether a ReLU comes after each convolution; else tanh, which can be negative.
    """
    model = keras.Sequential(
        [
            keras.Input((SIDE, SIDE, 3)),
            Seen(name="seen"),
            layers.Conv2D(8, 3, padding="same", name="conv_1"),
            layers.Activation("relu" if relu else "tanh", name="act_1"),
            layers.MaxPooling2D(name="pool"),
            layers.Conv2D(6, 3, padding="same", name="conv_2"),
            layers.Activation("relu" if relu else "tanh", name="act_2"),
            layers.GlobalAveragePooling2D(name="mean"),
            layers.Dense(CLASSES, activation=activation, name="scores"),
        ]
    )
    act = torch.nn.ReLU if relu else torch.nn.Tanh
    modules: list[tuple[str, torch.nn.Module]] = [
        ("conv_1", torch.nn.Conv2d(3, 8, 3, padding=1)),
        ("act_1", act()),
        ("pool", torch.nn.MaxPool2d(2)),
        ("conv_2", torch.nn.Conv2d(8, 6, 3, padding=1)),
        ("act_2", act()),
        ("mean", torch.nn.AdaptiveAvgPool2d(1)),
        ("flat", torch.nn.Flatten()),
        ("scores", torch.nn.Linear(6, CLASSES)),
    ]
    if activation == "softmax":
        modules.append(("softmax", torch.nn.Softmax(dim=1)))
    twin = torch.nn.Sequential(OrderedDict(modules))
    rng = np.random.default_rng(1)
    for name in ("conv_1", "conv_2", "scores"):
        kernel, bias = (
            rng.normal(size=weights.shape).astype(np.float32)
            for weights in model.get_layer(name).get_weights()
        )
        kernel *= np.float32(np.sqrt(2 / np.prod(kernel.shape[:-1])))
        bias *= np.float32(0.1)
        if name == "scores":
            kernel, bias = np.float32(scale) * kernel, np.float32(scale) * bias
        model.get_layer(name).set_weights([kernel, bias])
        module: Any = twin.get_submodule(name)
        with torch.no_grad():
            module.weight.copy_(torch.from_numpy(np.moveaxis(kernel, (-1, -2), (0, 1)).copy()))
            module.bias.copy_(torch.from_numpy(bias))
    return Twins(model, twin, rng.normal(size=(1, SIDE, SIDE, 3)).astype(np.float32))


def channels_first(docs: np.ndarray) -> torch.Tensor:
    """Pictures ``(docs, height, width, channels)`` as PyTorch takes them."""
    return torch.from_numpy(np.moveaxis(docs, -1, 1).astype(np.float32))


def distance(ours: np.ndarray, raw: np.ndarray, method: str) -> float:
    """How far a heatmap is from a map that is scaled in the same way, at most."""
    return float(np.abs(ours - normalised(raw, relu=not METHODS[method].is_signed)).max())
