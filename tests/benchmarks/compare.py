"""What kerasight and its peers do with the models that people build: the table of the README.

Run with ``tox -e compare``. Each library explains each kind of model by Grad-CAM, as its own
documentation says, and a cell says what came of it: yes, if a heatmap came; else the error.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from importlib import metadata
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from keras import layers as kl

warnings.simplefilter("ignore")
SIDE = 32
DOC = np.random.default_rng(0).random((1, SIDE, SIDE, 3), dtype=np.float32)

Explain = Callable[[keras.Model, np.ndarray, str | None], Any]


def of_kerasight(model: keras.Model, doc: np.ndarray, layer: str | None) -> Any:
    import kerasight

    return kerasight.explain_prediction(model, doc, layer=layer).targets[0].heatmap


def of_eli5(model: keras.Model, doc: np.ndarray, layer: str | None) -> Any:
    import eli5

    found = eli5.explain_prediction(model, doc, layer=layer)
    if found.error:
        raise ValueError(found.error)
    return found.targets[0].heatmap


def of_tf_keras_vis(model: keras.Model, doc: np.ndarray, layer: str | None) -> Any:
    from tf_keras_vis.gradcam import Gradcam
    from tf_keras_vis.utils.scores import CategoricalScore

    explainer = Gradcam(model, clone=False)
    return explainer(CategoricalScore([0]), doc, penultimate_layer=layer or -1)[0]


def of_tf_explain(model: keras.Model, doc: np.ndarray, layer: str | None) -> Any:
    from tf_explain.core.grad_cam import GradCAM

    return GradCAM().explain((doc, None), model, class_index=0, layer_name=layer)


def of_xplique(model: keras.Model, doc: np.ndarray, layer: str | None) -> Any:
    from xplique.attributions import GradCAM

    targets = np.eye(model(doc).shape[-1], dtype=np.float32)[:1]
    return np.asarray(GradCAM(model, conv_layer=layer)(doc, targets))[0]


PEERS: dict[str, Explain] = {
    "kerasight": of_kerasight,
    "eli5": of_eli5,
    "tf-keras-vis": of_tf_keras_vis,
    "tf-explain": of_tf_explain,
    "xplique": of_xplique,
}


def body(channels_first: bool = False) -> list[kl.Layer]:
    data_format = "channels_first" if channels_first else "channels_last"
    return [
        kl.Conv2D(8, 3, activation="relu", name="conv", data_format=data_format),
        kl.GlobalAveragePooling2D(data_format=data_format),
        kl.Dense(3, activation="softmax"),
    ]


class Subclassed(keras.Model):
    def __init__(self) -> None:
        super().__init__()
        self.stack = body()

    def call(self, inputs: Any) -> Any:
        for layer in self.stack:
            inputs = layer(inputs)
        return inputs


def functional(shape: tuple[int | None, ...] = (SIDE, SIDE, 3)) -> keras.Model:
    inputs = x = keras.Input(shape)
    for layer in body():
        x = layer(x)
    return keras.Model(inputs, x)


def nested() -> keras.Model:
    backbone = keras.applications.MobileNetV2(
        (SIDE, SIDE, 3), include_top=False, weights=None, alpha=0.35
    )
    return keras.Sequential(
        [keras.Input((SIDE, SIDE, 3)), backbone, kl.GlobalAveragePooling2D(), kl.Dense(3)]
    )


def called(model: keras.Model) -> keras.Model:
    model(DOC)
    return model


# What it is called: how to make it, its input, the layer to name.
KINDS: dict[str, tuple[Callable[[], keras.Model], np.ndarray, str | None]] = {
    "functional": (functional, DOC, None),
    "Sequential, built": (
        lambda: keras.Sequential([keras.Input((SIDE, SIDE, 3)), *body()]),
        DOC,
        None,
    ),
    "Sequential, not yet called": (lambda: keras.Sequential(body()), DOC, None),
    "a pretrained model inside": (nested, DOC, None),
    "the same, naming a layer inside it": (nested, DOC, "block_1_expand"),
    "subclassed": (lambda: called(Subclassed()), DOC, None),
    "input of any size": (lambda: functional((None, None, 3)), DOC, None),
    "channels first": (
        lambda: keras.Sequential([keras.Input((3, SIDE, SIDE)), *body(channels_first=True)]),
        np.moveaxis(DOC, -1, 1),
        None,
    ),
    "MobileNet (its head has one-cell maps)": (
        lambda: keras.applications.MobileNet((SIDE, SIDE, 3), weights=None, alpha=0.25),
        DOC,
        None,
    ),
}


def outcome(explain: Explain, make: Callable[[], keras.Model], doc: np.ndarray, layer: Any) -> str:
    """What comes of it, in a few words."""
    keras.utils.set_random_seed(0)
    try:
        found = np.squeeze(np.asarray(explain(make(), doc, layer)))
    except Exception as error:  # of whatever kind a library lets through
        return f"`{type(error).__name__}`"
    if found.ndim == 3 and found.shape[-1] in (1, 3):  # a coloured picture
        found = found[..., 0]
    if found.ndim != 2 or found.shape[0] != found.shape[1]:
        return f"a map of {' x '.join(map(str, found.shape)) or '1 cell'}"
    if np.ptp(found) <= 1e-5 * np.abs(found).max():
        return "one flat colour"
    return "yes"


def main() -> None:
    versions = [f"{name} {metadata.version(name)}" for name in PEERS]
    print("| | " + " | ".join(versions) + " |")
    print("|---" * (len(PEERS) + 1) + "|")
    for kind, (make, doc, layer) in KINDS.items():
        cells = [outcome(explain, make, doc, layer) for explain in PEERS.values()]
        # Some find no layer by themselves, and do well with one that is named.
        if layer is None and any(item.name == "conv" for item in make().layers):
            cells = [
                "yes, if the layer is named"
                if cell != "yes" and outcome(explain, make, doc, "conv") == "yes"
                else cell
                for cell, explain in zip(cells, PEERS.values(), strict=True)
            ]
        print(f"| {kind} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
