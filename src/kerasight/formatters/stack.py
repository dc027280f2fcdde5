"""Volumes and videos as stacks of slices, and the heat on each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image

from kerasight.cam.maps import resized
from kerasight.formatters.overlay import Style, overlay
from kerasight.formatters.pixels import doc_of, pillow_filter, to_bytes

if TYPE_CHECKING:
    from jaxtyping import Real, Shaped, UInt8

    from kerasight.base import Explanation

__all__ = ["Stack", "draw_slice", "enlargement", "heat_slices", "stack_of"]


class Stack(NamedTuple):
    """A volume or a video, of which planes are shown as pictures.

    Attributes:
        values: Array ``(slices, height, width, channels)``, with 1 or 3 channels.
        lowest: Its lowest value, which is black.
        highest: Its highest value, which is white.
    """

    values: Real[np.ndarray, "slices height width channels"]
    lowest: float
    highest: float

    @property
    def shape(self) -> tuple[int, ...]:
        """The lengths of its axes but the channels."""
        return self.values.shape[:3]

    def plane(self, at: int, axis: int = 0) -> UInt8[np.ndarray, "rows columns 3"]:
        """The plane at an index of an axis, as colours."""
        values = self.values.take(at, axis=axis).astype(np.float64)
        shares = (values - self.lowest) / (self.highest - self.lowest or 1)
        return np.broadcast_to(to_bytes(shares), (*values.shape[:2], 3))


def stack_of(expl: Explanation, axes: Sequence[str]) -> Stack:
    """The doc of an explanation, to be shown plane by plane.

    Three channels are red, green and blue; of another number, their mean is shown in grey.

    Args:
        expl: An explanation with a ``doc``.
        axes: The names of the three axes that this must have besides the channels.

    Raises:
        TypeError: If the doc is no array of real numbers.
        ValueError: If it has another number of axes, or there is NaN or infinity in it.
    """
    doc = doc_of(expl, (*axes, "channels"))
    if doc.shape[-1] not in (1, 3):
        doc = doc.mean(axis=-1, keepdims=True, dtype=np.float64)
    return Stack(doc, float(doc.min()), float(doc.max()))


def heat_slices(
    heatmap: Shaped[np.ndarray, "_ _ _"], axis: int, count: int, style: Style
) -> Real[np.ndarray, "count rows columns"]:
    """Cut a heatmap across an axis.

    Args:
        heatmap: A heatmap with three axes.
        axis: The axis across which it is cut.
        count: Into how many slices; the heat is linear between two cells, or that of the nearest if
            the filter of ``style`` shows the cells as they are.
        style: How to draw the heatmap.
    """
    cut = np.moveaxis(heatmap, axis, 0)
    if pillow_filter(style.resampling_filter) in (Image.Resampling.NEAREST, Image.Resampling.BOX):
        nearest = ((np.arange(count) + 0.5) * len(cut) / count).astype(int)
        return np.asarray(cut[nearest])
    return resized(cut, (count, *cut.shape[1:]))


def enlargement(shape: tuple[int, ...], least: int, most: int) -> float:
    """By what factor to enlarge slices, a whole number, or to reduce them.

    Args:
        shape: The length of each axis.
        least: How long the longest side is to be about, if it is shorter.
        most: How long it may be.
    """
    longest = max(shape)
    return most / longest if longest > most else max(1, round(least / longest))


def draw_slice(
    pixels: UInt8[np.ndarray, "height width 3"],
    heat: Real[np.ndarray, "rows columns"] | None,
    is_signed: bool,
    style: Style,
    factor: float = 1,
) -> Image.Image:
    """A slice with the heat over it, as an RGBA image.

    Args:
        pixels: The slice.
        heat: The heat; None for none.
        is_signed: Whether the heat has a sign.
        style: How to draw the heat.
        factor: By what factor the slice is enlarged or reduced.
    """
    image = Image.fromarray(np.ascontiguousarray(pixels))
    if factor != 1:
        size = (max(1, round(factor * image.width)), max(1, round(factor * image.height)))
        is_larger = factor > 1
        used = Image.Resampling.NEAREST if is_larger else Image.Resampling.LANCZOS
        image = image.resize(size, used)
    image = image.convert("RGBA")
    return image if heat is None else overlay(image, heat, is_signed, style)
