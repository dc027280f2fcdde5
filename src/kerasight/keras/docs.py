"""The docs that users pass: checked against what the model takes, and the pictures in them."""

from __future__ import annotations

import contextlib
import warnings
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
from PIL import Image

from kerasight.base import outside
from kerasight.checks import is_real
from kerasight.keras import passes
from kerasight.keras.anatomy import PICTURE_CHANNELS, Anatomy

if TYPE_CHECKING:
    from jaxtyping import Shaped

__all__ = [
    "check_doc",
    "check_image",
    "check_shape",
    "check_type",
    "hint_at_preprocessor",
    "input_shape",
    "is_for_images",
    "picture_of",
    "readable",
]


def check_type(doc: Any) -> None:
    """Raise TypeError unless ``doc`` is an array of real numbers."""
    if not isinstance(doc, np.ndarray):
        raise TypeError(
            "doc must be a numpy.ndarray of shape (1, height, width, channels), got "
            f"{type(doc).__module__}.{type(doc).__qualname__}; numpy.asarray(...) makes one of a "
            "tensor, a list or a Pillow image"
        )
    if not is_real(doc) or doc.dtype.itemsize > 8:
        raise TypeError(
            f"doc must be an array of numbers, real and of at most 64 bits, got dtype {doc.dtype}"
        )


def check_doc(anatomy: Anatomy, doc: Any) -> None:
    """Raise unless ``doc`` is one input that fits ``model``, finite throughout."""
    check_type(doc)
    check_shape(anatomy, doc)
    if not np.isfinite(doc).all():
        raise ValueError("doc must be finite, got NaN or infinity in it")


def check_shape(anatomy: Anatomy, docs: Shaped[np.ndarray, " ..."], number: int | None = 1) -> None:
    """Raise ValueError unless docs have the shape that a model declares.

    Args:
        anatomy: The model.
        docs: One input with its batch axis, or several.
        number: How many there must be; None for any number.
    """
    name = "docs" if number is None else "doc"
    expected = input_shape(anatomy) or (None, None, None, None)
    wanted = (number, *expected[1:])
    if not _fits(docs.shape, wanted):
        advice = ""
        if _fits(docs.shape, wanted[1:]):
            advice = f"; add the batch axis with np.expand_dims({name}, axis=0)"
        elif number is not None and _fits(docs.shape[1:], wanted[1:]):
            advice = "; one input is explained at a time, for example doc[:1]"
        raise ValueError(f"{name} must have shape {readable(wanted)}, got {docs.shape}{advice}")


def _fits(shape: tuple[int, ...], expected: tuple[int | None, ...]) -> bool:
    return len(shape) == len(expected) and all(
        size > 0 if wanted is None else size == wanted
        for size, wanted in zip(shape, expected, strict=True)
    )


def readable(shape: tuple[int | None, ...]) -> str:
    """A shape as text, with ``any`` for an axis that may have any size."""
    return "(" + ", ".join("any" if size is None else str(size) for size in shape) + ")"


def picture_of(anatomy: Anatomy, doc: Shaped[np.ndarray, "1 _ _ _"]) -> Image.Image:
    """The picture that ``doc`` holds, values stretched to 0..255 as in eli5.

    Raises:
        ValueError: If no picture can be made of so many channels.
    """
    if not anatomy.model.built:  # its layers do not know yet what they take
        passes.build(anatomy, anatomy.inputs_of(doc))
    layout = anatomy.layout_of_docs(doc.shape)
    channels = layout.channels(doc.shape)
    if channels not in PICTURE_CHANNELS:
        raise ValueError(
            f"no picture can be made of a doc with {channels} channels (shape {doc.shape}); pass "
            "image=, a Pillow image to lay the heatmap over"
        )
    image: Image.Image = keras.utils.array_to_img(doc[0], data_format=layout.name)
    return image


def is_for_images(anatomy: Anatomy, doc: Shaped[np.ndarray, " ..."], image: Any) -> bool:
    """Whether a model is to be explained as one for images."""
    expected = input_shape(anatomy)
    if expected is not None and len(expected) != 4:
        return False
    if image is not None or anatomy.is_for_images():
        return True
    model = anatomy.model
    if model.built or isinstance(model, keras.Sequential) or doc.ndim != 4:
        return False
    # Layers may be made when a model is first called.
    passes.build(anatomy, anatomy.inputs_of(doc))
    return anatomy.is_for_images()


def input_shape(anatomy: Anatomy) -> tuple[int | None, ...] | None:
    """The shape of the model's one input with batch axis; None if the model does not tell.

    Raises:
        ValueError: If the model has several inputs.
    """
    inputs = anatomy.inputs
    if not inputs:
        return None
    if len(inputs) > 1:
        raise ValueError(
            f"model {anatomy.model.name!r} has {len(inputs)} inputs; kerasight explains models of "
            "one image. Wrap it in a model that takes the image alone and fixes the rest."
        )
    return tuple(inputs[0].shape)


def check_image(image: Any) -> None:
    """Raise unless ``image`` is a picture to lay a heatmap over."""
    if not isinstance(image, Image.Image):
        raise TypeError(f"image must be a PIL.Image.Image, got {type(image).__name__}")
    if 0 in image.size:
        raise ValueError(f"image must have at least one pixel, got size {image.size}")


def hint_at_preprocessor(anatomy: Anatomy, doc: Shaped[np.ndarray, "1 _ _ _"]) -> None:
    """Warn of a doc that looks as if it still had to go through the model's preprocessor.

    In keras-hub, ``predict`` runs it, and calling the model does not.
    """
    model = anatomy.model
    preprocess = getattr(model, "preprocessor", None)
    if not callable(preprocess) or doc.min() < 0 or doc.max() <= _PREPROCESSED:
        return
    if anatomy.holds(preprocess):  # the model runs it itself
        return
    with contextlib.suppress(Exception):  # whatever it does, it is asked for a hint alone
        if np.array_equal(keras.ops.convert_to_numpy(preprocess(doc)), doc):
            return
    warnings.warn(
        f"model {model.name!r} has a preprocessor, which predict runs and an explanation does not, "
        f"and this doc, with values up to {doc.max():g}, looks as if it had not gone through it; "
        "if so, pass numpy.asarray(model.preprocessor(doc))",
        stacklevel=outside(),
    )


_PREPROCESSED = 16  # most preprocessing leaves values of about 1, and pixels go to 255
