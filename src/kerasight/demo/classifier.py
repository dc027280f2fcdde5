"""The demonstration's classifier: its architecture, its weights and the picture to explain."""

from __future__ import annotations

from importlib import resources
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from PIL import Image

from kerasight.demo.pictures import CLASS_NAMES

if TYPE_CHECKING:
    import keras

__all__ = [
    "PICTURE_FILE",
    "WEIGHTS_FILE",
    "build_model",
    "load_model",
    "load_picture",
    "preprocess",
    "unpack_weights",
]

INPUT_SIZE = 96
WEIGHTS_FILE = "classifier.npz"
PICTURE_FILE = "pair.png"

# Channels of the 3 x 3 convolutions in each block; every block but the last halves its map.
_BLOCKS = ((16,), (16, 24), (32, 48), (64, 96))


def build_model() -> keras.Model:
    """Build the classifier with fresh random weights.

    Four blocks of 3 x 3 convolution, batch normalisation and ReLU end in a feature map of
    12 x 12 cells, `features`, which is averaged and read by one dense softmax layer.

    Returns:
        A functional Keras model from images (batch, 96, 96, 3) in -1 to 1, as `preprocess` makes
        them, to probabilities (batch, classes).
    """
    from keras import Model, layers

    image = x = layers.Input((INPUT_SIZE, INPUT_SIZE, 3), name="image")
    for block, widths in enumerate(_BLOCKS, start=1):
        for step, channels in enumerate(widths, start=1):
            suffix = f"{block}_{step}"
            stride = 2 if block == 1 else 1
            x = layers.Conv2D(
                channels, 3, stride, padding="same", use_bias=False, name=f"conv{suffix}"
            )(x)
            x = layers.BatchNormalization(momentum=0.95, name=f"norm{suffix}")(x)
            last = block == len(_BLOCKS) and step == len(widths)
            x = layers.ReLU(name="features" if last else f"relu{suffix}")(x)
        if 1 < block < len(_BLOCKS):
            x = layers.MaxPooling2D(2, name=f"pool{block}")(x)
    x = layers.GlobalAveragePooling2D(name="average")(x)
    x = layers.Dense(len(CLASS_NAMES), activation="softmax", name="probabilities")(x)
    return Model(image, x, name="kerasight_demo")


def load_model() -> keras.Model:
    """Build the classifier and give it its trained weights.

    Returns:
        A functional Keras model from images (batch, 96, 96, 3) in -1 to 1, as `preprocess` makes
        them, to the probabilities (batch, classes) of `CLASS_NAMES`.

    Example:
        >>> from kerasight.demo import CLASS_NAMES, load_model, load_picture, preprocess
        >>> model = load_model()
        >>> probabilities = model.predict(preprocess(load_picture()), verbose=0)
        >>> probabilities.shape == (1, len(CLASS_NAMES))
        True
    """
    model = build_model()
    path = resources.files(__package__).joinpath(WEIGHTS_FILE)
    with path.open("rb") as file, np.load(file) as stored:
        unpack_weights(model, dict(stored))
    return model


def unpack_weights(model: keras.Model, weights: dict[str, npt.NDArray[np.float16]]) -> None:
    """Give the model its weights, each named for its layer and its place in it."""
    for layer in model.layers:
        count = len(layer.get_weights())
        layer.set_weights([weights[f"{layer.name}/{i}"].astype(np.float32) for i in range(count)])


def load_picture() -> Image.Image:
    """Load the picture to explain: two objects of different classes, RGB, 384 x 384."""
    with resources.files(__package__).joinpath(PICTURE_FILE).open("rb") as file:
        return Image.open(file).convert("RGB")


def preprocess(image: Image.Image) -> npt.NDArray[np.float32]:
    """Turn a picture into the classifier's input.

    Args:
        image: A picture of any mode and size; it is converted to RGB and resized to 96 x 96
            without keeping its proportions.

    Returns:
        A batch of one image, float32, (1, 96, 96, 3), from -1 (black) to 1 (white).
    """
    small = image.convert("RGB").resize((INPUT_SIZE, INPUT_SIZE), Image.Resampling.BILINEAR)
    batch = np.asarray(small, dtype=np.float32)[None]
    return np.asarray(batch / 127.5 - 1, dtype=np.float32)
