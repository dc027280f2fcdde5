"""Small models with attention for the demonstration's pictures; the tests keep their weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers
from tiny_transformers import Prefix

from kerasight.demo import load_model
from kerasight.demo.classifier import INPUT_SIZE, unpack_weights
from kerasight.demo.pictures import CLASS_NAMES

__all__ = [
    "HEAD_WEIGHTS",
    "WEIGHTS",
    "build_transformer",
    "build_with_head",
    "head_of",
    "load_transformer",
    "load_with_head",
]

WEIGHTS = Path(__file__).with_name("transformer.npz")
HEAD_WEIGHTS = Path(__file__).with_name("attention_head.npz")

_WIDTH = 64
_HEADS = 4
_BLOCKS = 3


def build_transformer() -> keras.Model:
    """Build the transformer with fresh random weights.

    Three convolutions cut the picture into 12 x 12 patches that overlap (Xiao et al. 2021,
    https://arxiv.org/abs/2106.14881): with a few thousand pictures it learns far better so than
    from patches cut by one. A class token comes before the patches, and is all that the head reads.

    Returns:
        A functional Keras model from images (batch, 96, 96, 3) in -1 to 1, as
        `kerasight.demo.preprocess` makes them, to probabilities (batch, classes).
    """
    image = x = layers.Input((INPUT_SIZE, INPUT_SIZE, 3), name="image")
    for step, channels in enumerate((16, 32, _WIDTH), start=1):
        x = layers.Conv2D(channels, 3, 2, padding="same", use_bias=False, name=f"conv_{step}")(x)
        x = layers.BatchNormalization(momentum=0.95, name=f"norm_{step}")(x)
        x = layers.ReLU(name=f"relu_{step}")(x)
    x = layers.Conv2D(_WIDTH, 1, name="patches")(x)
    return keras.Model(image, _attended(x, _BLOCKS), name="demo_transformer")


def load_transformer() -> keras.Model:
    """Build the transformer and give it its trained weights."""
    model = build_transformer()
    with np.load(WEIGHTS) as stored:
        unpack_weights(model, dict(stored))
    return model


def build_with_head() -> keras.Model:
    """Build the demonstration's classifier, trained, with a fresh head of attention.

    The 12 x 12 cells of its last map, `features`, are tokens of one block of attention, in the
    place of the average. As in the transformer, a class token is all that is read in the end.

    Returns:
        A functional Keras model, from and to what `build_transformer` takes and returns.
    """
    classifier = load_model()
    x = _attended(classifier.get_layer("features").output, 1)
    return keras.Model(classifier.input, x, name="demo_with_head")


def head_of(model: keras.Model) -> keras.Model:
    """What `build_with_head` puts on `features`, as a model of its own: the same layers."""
    return keras.Model(model.get_layer("features").output, model.output)


def load_with_head() -> keras.Model:
    """Build the classifier with a head of attention, and give it its trained weights."""
    model = build_with_head()
    with np.load(HEAD_WEIGHTS) as stored:
        unpack_weights(head_of(model), dict(stored))
    return model


def _attended(x: Any, blocks: int) -> Any:
    """From a map to probabilities, by a class token and blocks of attention."""
    _, rows, columns, width = x.shape
    x = layers.Reshape((rows * columns, width), name="row")(x)
    x = Prefix(1, name="class_token")(x)
    for block in range(1, blocks + 1):
        y = layers.LayerNormalization(epsilon=1e-5, name=f"attention_norm_{block}")(x)
        attention = layers.MultiHeadAttention(_HEADS, width // _HEADS, name=f"attention_{block}")
        x = layers.Add(name=f"attended_{block}")([x, attention(y, y)])
        y = layers.LayerNormalization(epsilon=1e-5, name=f"dense_norm_{block}")(x)
        y = layers.Dense(2 * width, activation="gelu", name=f"wide_{block}")(y)
        y = layers.Dense(width, name=f"narrow_{block}")(y)
        x = layers.Add(name=f"block_{block}")([x, y])
    x = layers.LayerNormalization(epsilon=1e-5, name="norm")(x)
    return layers.Dense(len(CLASS_NAMES), activation="softmax", name="probabilities")(x[:, 0])
