"""A small vision transformer for the demonstration's pictures, of which the tests keep weights."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
from keras import layers
from tiny_transformers import Prefix

from kerasight.demo.classifier import INPUT_SIZE, unpack_weights
from kerasight.demo.pictures import CLASS_NAMES

__all__ = ["WEIGHTS", "build_transformer", "load_transformer"]

WEIGHTS = Path(__file__).with_name("transformer.npz")

_WIDTH = 64
_HEADS = 4
_BLOCKS = 3
_SIDE = INPUT_SIZE // 8


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
    x = layers.Reshape((_SIDE * _SIDE, _WIDTH), name="row")(x)
    x = Prefix(1, name="class_token")(x)
    for block in range(1, _BLOCKS + 1):
        y = layers.LayerNormalization(epsilon=1e-5, name=f"attention_norm_{block}")(x)
        attention = layers.MultiHeadAttention(_HEADS, _WIDTH // _HEADS, name=f"attention_{block}")
        x = layers.Add(name=f"attended_{block}")([x, attention(y, y)])
        y = layers.LayerNormalization(epsilon=1e-5, name=f"dense_norm_{block}")(x)
        y = layers.Dense(2 * _WIDTH, activation="gelu", name=f"wide_{block}")(y)
        y = layers.Dense(_WIDTH, name=f"narrow_{block}")(y)
        x = layers.Add(name=f"block_{block}")([x, y])
    x = layers.LayerNormalization(epsilon=1e-5, name="norm")(x)
    x = layers.Dense(len(CLASS_NAMES), activation="softmax", name="probabilities")(x[:, 0])
    return keras.Model(image, x, name="demo_transformer")


def load_transformer() -> keras.Model:
    """Build the transformer and give it its trained weights."""
    model = build_transformer()
    with np.load(WEIGHTS) as stored:
        unpack_weights(model, dict(stored))
    return model
