"""The outlines of boxes and regions on pictures."""

from __future__ import annotations

import math
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageChops, ImageFilter, ImageOps

from kerasight.base import TargetExplanation

__all__ = ["outline"]

if TYPE_CHECKING:
    from jaxtyping import Bool

_LIGHT, _DARK = (255, 255, 255, 255), (16, 16, 16, 255)
# A picture has this many times as many pixels along its shorter side as a dark edge is wide.
_FINENESS = 300
# Beyond it a single pixel would be rounded away in the means by which outlines are found.
_WIDEST = 4


def outline(target: TargetExplanation, size: tuple[int, int]) -> Image.Image | None:
    """The lines around the box and the region of a target: light ones with dark edges.

    Args:
        target: A target with a ``box``, a ``region``, both or neither.
        size: Width and height of the picture.

    Returns:
        A picture of that size, transparent where there is no line; None if there is none at all.

    Raises:
        TypeError: If ``box`` is no four numbers, or ``region`` no array of booleans.
        ValueError: If ``box`` is no box ``(left, top, right, bottom)``, or ``region`` no array
            ``(height, width)``.
    """
    masks = [] if target.box is None else [_inside_box(target.box, size)]
    masks += [] if target.region is None else [_inside_region(target.region, size)]
    lines = Image.new("RGBA", size, (0, 0, 0, 0))
    for mask in masks:
        _draw(lines, mask)
    return lines if lines.getbbox() else None


def _draw(lines: Image.Image, mask: Image.Image) -> None:
    """Draw along the inner border of a mask (mode L, 0 and 255)."""
    edge = max(1, min(_WIDEST, round(min(mask.size) / _FINENESS)))
    # Small pictures have no room for a second dark edge.
    is_small = min(mask.size) < _FINENESS / 2
    light, inner = (edge, edge) if is_small else (2 * edge, 3 * edge)
    # Where the mask ends with the picture, there is a line as well.
    wide = ImageOps.expand(mask, border=inner, fill=0)
    depths = [
        _blurred(wide, edge).point(lambda share: 255 if share > 0 else 0),
        wide,
        _blurred(wide, light).point(lambda share: 255 if share == 255 else 0),
        _blurred(wide, inner).point(lambda share: 255 if share == 255 else 0),
    ]
    whole = (inner, inner, inner + mask.width, inner + mask.height)
    grown, inside, within, core = (item.crop(whole) for item in depths)
    lines.paste(_DARK, mask=ImageChops.subtract(grown, core))
    lines.paste(_LIGHT, mask=ImageChops.subtract(inside, within))


def _blurred(mask: Image.Image, radius: int) -> Image.Image:
    """Means over squares: 0 or 255 where all of a square is outside, or inside."""
    return mask.filter(ImageFilter.BoxBlur(radius))


def _inside_box(box: Any, size: tuple[int, int]) -> Image.Image:
    if not isinstance(box, tuple | list | np.ndarray) or len(box) != 4:
        raise TypeError(
            f"box must be four numbers, left, top, right and bottom, got {type(box).__name__}"
        )
    if not all(isinstance(side, Real) for side in box):
        raise TypeError(f"box must be four numbers, left, top, right and bottom, got {box}")
    left, top, right, bottom = map(float, box)
    if not (all(map(math.isfinite, box)) and left <= right and top <= bottom):
        raise ValueError(
            "box must be left, top, right and bottom as shares of the picture's width and height, "
            f"rising from 0 to 1, got {tuple(map(float, box))}"
        )
    width, height = size
    # At least a pixel of it is in the picture.
    x = min(width - 1, max(0, round(left * width)))
    y = min(height - 1, max(0, round(top * height)))
    mask = Image.new("L", size, 0)
    mask.paste(255, (x, y, max(x + 1, round(right * width)), max(y + 1, round(bottom * height))))
    return mask


def _inside_region(region: Bool[np.ndarray, "rows columns"], size: tuple[int, int]) -> Image.Image:
    if not isinstance(region, np.ndarray) or region.dtype != bool:
        told = region.dtype if isinstance(region, np.ndarray) else type(region).__name__
        raise TypeError(f"region must be a NumPy array of booleans, got {told}")
    if region.ndim != 2 or region.size == 0:
        raise ValueError(f"region must have shape (height, width), got {region.shape}")
    mask = Image.fromarray(region.astype(np.uint8) * 255)
    if mask.size != size:
        mask = mask.resize(size, Image.Resampling.BILINEAR)
    return mask.point(lambda share: 255 if share >= 128 else 0)
