"""What the formatters share: pictures of any mode as RGBA, filters and opacities checked."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from numbers import Real
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from kerasight.checks import is_real

if TYPE_CHECKING:
    from jaxtyping import Shaped, UInt8

    from kerasight.base import Explanation

__all__ = [
    "Colormap",
    "ResamplingFilter",
    "doc_of",
    "greatest_opacity",
    "image_of",
    "pillow_filter",
    "to_bytes",
    "to_rgba",
]

Colormap = str | Callable[[np.ndarray], np.ndarray]
ResamplingFilter = Image.Resampling | int | str | None


def image_of(expl: Explanation) -> Image.Image:
    """The picture of an explanation as a new RGBA image; raises if there is none."""
    if not isinstance(expl.image, Image.Image):
        raise TypeError(
            f"expl.image must be a PIL.Image.Image to draw on, got {type(expl.image).__name__}"
        )
    if not all(expl.image.size):
        raise ValueError(
            f"expl.image must have at least one pixel, got {expl.image.width} x {expl.image.height}"
        )
    return to_rgba(expl.image)


def doc_of(expl: Explanation, axes: Sequence[str]) -> Shaped[np.ndarray, " ..."]:
    """The array of an explanation that heatmaps belong over; raises if there is none.

    Args:
        expl: An explanation.
        axes: The names of the axes that it must have.
    """
    doc, wanted = expl.doc, f"({', '.join(axes)})"
    if not isinstance(doc, np.ndarray):
        raise TypeError(
            f"expl.doc must be an array {wanted}, as expl.kind is {expl.kind!r}, "
            f"got {type(doc).__name__}"
        )
    if not is_real(doc):
        raise TypeError(f"expl.doc must hold real numbers, got an array of {doc.dtype}")
    if doc.ndim != len(axes) or doc.size == 0:
        raise ValueError(
            f"expl.doc must have shape {wanted}, as expl.kind is {expl.kind!r}, got {doc.shape}"
        )
    if not np.isfinite(doc).all():
        raise ValueError("expl.doc must be finite, got NaN or infinity")
    return doc


def to_rgba(image: Image.Image) -> Image.Image:
    """A new RGBA image of a Pillow image of any mode."""
    if image.mode == "RGBA":
        return image.copy()
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _grey_to_bytes(image).convert("RGBA")
    if image.mode == "La":  # the one mode that Pillow does not convert directly
        image = image.convert("LA")
    return image.convert("RGBA")


def _grey_to_bytes(image: Image.Image) -> Image.Image:
    """Scale grey images of more than 8 bits to 8; Pillow's ``convert`` would clip them to white.

    16-bit images are divided by 257. Mode ``I`` has 32 bits that mostly hold 16-bit or 8-bit
    pictures, and ``F`` holds any floats, so that their values tell the range: up to 1, up to 255,
    up to 65,535, or else from the lowest value to the highest.
    """
    values = np.asarray(image, dtype=np.float64)
    lowest, highest = float(values.min()), float(values.max())
    if image.mode.startswith("I;16"):
        values = values / 65535
    elif lowest >= 0 and highest <= 1 and image.mode == "F":
        pass
    elif lowest >= 0 and highest <= 255:
        values = values / 255
    elif lowest >= 0 and highest <= 65535:
        values = values / 65535
    else:
        values = (values - lowest) / ((highest - lowest) or 1)
    return Image.fromarray(to_bytes(values))


def to_bytes(values: Shaped[np.ndarray, "*shape"]) -> UInt8[np.ndarray, "*shape"]:
    """Values in [0, 1] as rounded uint8 in 0..255."""
    scaled: np.ndarray = values * np.float32(255)
    np.clip(scaled, 0, 255, out=scaled)
    np.rint(scaled, out=scaled)
    return scaled.astype(np.uint8)


def pillow_filter(resampling_filter: ResamplingFilter) -> Image.Resampling | None:
    """The Pillow filter for an enum member, an integer or a name."""
    if resampling_filter is None:
        return None
    try:
        if isinstance(resampling_filter, str):
            return Image.Resampling[resampling_filter.upper()]
        return Image.Resampling(resampling_filter)
    except (KeyError, ValueError):
        names = ", ".join(item.name.lower() for item in Image.Resampling)
        raise ValueError(
            f"unknown resampling_filter {resampling_filter!r}; known are {names}"
        ) from None


def greatest_opacity(limit: float | None) -> float:
    """The ``alpha_limit`` of `format_as_image` as a number; raises if it is none in [0, 1]."""
    if limit is None:
        return 1.0
    if not isinstance(limit, Real):
        raise TypeError(f"alpha_limit must be a real number or None, got {type(limit).__name__}")
    if math.isnan(limit) or not 0 <= limit <= 1:
        raise ValueError(f"alpha_limit must lie between 0 and 1, got {limit}")
    return float(limit)
