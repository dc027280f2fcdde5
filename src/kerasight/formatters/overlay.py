"""A heatmap over a picture: resize, colour, and lay it over.

The order is resize, clip, colour, opacity; `heat` has what comes before. Resizing the numbers, not
the colours, keeps every pixel on the colormap: between a yellow and a blue cell lies what the
colormap has between them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from kerasight.checks import flag, is_real
from kerasight.formatters.pixels import (
    Colormap,
    ResamplingFilter,
    greatest_opacity,
    pillow_filter,
    to_bytes,
)

if TYPE_CHECKING:
    from jaxtyping import Float, Float32, Float64, Shaped, UInt8

__all__ = [
    "Style",
    "capped_alpha",
    "checked_heatmap",
    "composited",
    "heat_in_strips",
    "overlay",
    "update_alpha",
]


@dataclass(frozen=True)
class Style:
    """How heatmaps are drawn; the fields are arguments of `kerasight.format_as_image`."""

    resampling_filter: ResamplingFilter = Image.Resampling.LANCZOS
    colormap: Colormap | None = None
    alpha_limit: float | None = 0.65
    outliers: float | None = None
    absolute: bool = False
    blur: float = 0

    def __post_init__(self) -> None:
        """Raises TypeError or ValueError if the heat cannot be drawn so."""
        flag("absolute", self.absolute)
        if self.outliers is not None:
            _check_per_cent("outliers", self.outliers, "a real number or None")
        _check_per_cent("blur", self.blur, "a real number")


def _check_per_cent(name: str, value: object, wanted: str) -> None:
    if not isinstance(value, Real):
        raise TypeError(f"{name} must be {wanted}, got {type(value).__name__}")
    if not 0 <= float(value) <= 100:  # also False for NaN
        raise ValueError(f"{name} must lie between 0 and 100 per cent, got {value}")


def overlay(
    image: Image.Image,
    heatmap: Shaped[np.ndarray, "rows columns"],
    is_signed: bool,
    style: Style,
) -> Image.Image:
    """Draw a heatmap on an RGBA picture.

    It is drawn in strips that fit into a processor's cache; a photograph of 12 megapixels would be
    many times that.

    Args:
        image: RGBA picture, which is changed.
        heatmap: Values in [0, 1], or in [-1, 1] if ``is_signed``.
        is_signed: Whether the heatmap has a sign.
        style: How to draw it.

    Returns:
        ``image``.

    Raises:
        TypeError: As from `kerasight.format_as_image`.
        ValueError: As from `kerasight.format_as_image`.
    """
    from matplotlib.colors import Colormap as Table

    least = -1 if is_signed else 0
    heatmap = checked_heatmap(heatmap, least)
    if heatmap.ndim != 2:
        raise ValueError(f"heatmap must have shape (height, width), got {heatmap.shape}")
    known = _known(style.colormap, is_signed)
    rows: int | None = max(1, _STRIP // image.width)
    if isinstance(known, Table) and known.N <= _MOST_COLOURS:
        colour = _by_table(known, least, style.alpha_limit)
    else:
        colour, rows = _by_function(known, least, style.alpha_limit), None
    is_opaque = image.getchannel("A").getextrema() == (255, 255)
    for top, heat in heat_in_strips(heatmap, image.size, style.resampling_filter, rows):
        strip = Image.fromarray(colour(heat))
        if is_opaque:
            image.paste(strip, (0, top), strip)
        else:
            below = image.crop((0, top, image.width, top + strip.height))
            image.paste(composited(strip, below), (0, top))
    if is_opaque:
        image.putalpha(255)  # pasting has blended it with that of the heatmap
    return image


# Pixels of a strip, some 256 KiB as colours.
_STRIP = 1 << 16
# Steps of heat in a table of colours, at least: so many make the opacity right to a byte. Each
# colour gets a whole number of them, so that none begins too early.
_STEPS = 4096
# As many as 16 bits can count.
_MOST_COLOURS = 1 << 16


def _by_table(
    colormap: Any, least: int, alpha_limit: float | None
) -> Callable[[Float32[np.ndarray, "height width"]], UInt8[np.ndarray, "height width 4"]]:
    """A function from heat ``(height, width)`` to RGBA bytes, by a Matplotlib colormap."""
    count = colormap.N * math.ceil(_STEPS / colormap.N)
    table = colormap(np.arange(count) * colormap.N // count, bytes=True)[np.newaxis]
    middles = least + (1 - least) * (np.arange(count) + 0.5) / count
    update_alpha(table, starting_array=np.abs(middles)[np.newaxis], alpha_limit=alpha_limit)
    words = np.ascontiguousarray(table[0]).view(np.uint32)[:, 0]
    factor = np.float32(count / (1 - least))

    def colour(heat: Float32[np.ndarray, "height width"]) -> UInt8[np.ndarray, "height width 4"]:
        place = heat * factor
        if least:
            place -= least * factor
        np.clip(place, 0, count - 1, out=place)
        pixels: np.ndarray = words.take(place.astype(np.uint16), mode="clip")
        return pixels.view(np.uint8).reshape(*heat.shape, 4)

    return colour


def _by_function(
    colormap: Callable[[np.ndarray], np.ndarray], least: int, alpha_limit: float | None
) -> Callable[[Float32[np.ndarray, "height width"]], UInt8[np.ndarray, "height width 4"]]:
    """The same by any function, which gets the whole heatmap at once."""

    def colour(heat: Float32[np.ndarray, "height width"]) -> UInt8[np.ndarray, "height width 4"]:
        heat = heat.clip(least, 1)
        coloured = _colorize((heat - least) / (1 - least) if least else heat, colormap)
        update_alpha(coloured, starting_array=np.abs(heat), alpha_limit=alpha_limit)
        return to_bytes(coloured)

    return colour


def _known(colormap: Any, is_signed: bool) -> Any:
    """A colormap by its name, a function as it is, and for None the default."""
    from matplotlib import colormaps

    if colormap is None:
        return _diverging() if is_signed else colormaps["viridis"]
    if isinstance(colormap, str):
        if colormap not in colormaps:
            raise ValueError(
                f"unknown colormap {colormap!r}; see matplotlib.colormaps for the names"
            )
        return colormaps[colormap]
    if not callable(colormap):
        raise TypeError(
            "colormap must be a Matplotlib colormap, its name, or a function, "
            f"got {type(colormap).__name__}"
        )
    return colormap


@lru_cache(maxsize=1)
def _diverging() -> Any:
    """The colormap of signed heatmaps: 0 is blue, 1 is red."""
    from matplotlib.colors import LinearSegmentedColormap

    # Most diverging colormaps are pale in the middle; that would veil the picture, which shows
    # through there. Both ends are about equally light, and differ for people who see no red or
    # green.
    return LinearSegmentedColormap.from_list("kerasight_diverging", _DIVERGING)


_DIVERGING = ("#0a4fd0", "#2f8cff", "#9a9a9a", "#ff6a3d", "#d40f0f")


def heat_in_strips(
    heatmap: Shaped[np.ndarray, "_ _"],
    size: tuple[int, int],
    resampling_filter: ResamplingFilter,
    rows: int | None = None,
) -> Iterator[tuple[int, Float32[np.ndarray, "rows width"]]]:
    """Resize float values to ``size`` (width, height), a number of rows at a time.

    Filters overshoot: nothing is clipped.

    Yields:
        The first row of a strip, and the strip: float32, not to be written to.
    """
    used = pillow_filter(resampling_filter)
    width, height = size
    rows = rows or height
    values = Image.fromarray(np.ascontiguousarray(heatmap, dtype=np.float32))
    if used in (Image.Resampling.NEAREST, Image.Resampling.BOX):
        # If a cell ends in the middle of a row, a strip might round differently from the whole.
        whole = np.asarray(values.resize(size, resample=used))
        yield from ((top, whole[top : top + rows]) for top in range(0, height, rows))
        return
    # Pillow resizes one way after the other too.
    wide = values.resize((width, values.height), resample=used)
    for top in range(0, height, rows):
        count = min(rows, height - top)
        part = (0, top * wide.height / height, width, (top + count) * wide.height / height)
        yield top, np.asarray(wide.resize((width, count), resample=used, box=part))


def _colorize(
    heat: Float[np.ndarray, "height width"], colormap: Callable[[np.ndarray], np.ndarray]
) -> Float64[np.ndarray, "height width 4"]:
    """Colours ``(height, width, 4)`` in [0, 1] for a float array ``(height, width)`` in [0, 1]."""
    coloured = np.array(colormap(heat), dtype=np.float64)
    if coloured.shape not in {(*heat.shape, 3), (*heat.shape, 4)}:
        raise ValueError(
            f"colormap must return colours of shape {(*heat.shape, 4)} or {(*heat.shape, 3)}, "
            f"got {coloured.shape}"
        )
    lowest, highest = coloured.min(), coloured.max()
    # Rounding may go a little too far. Also False where there is a NaN.
    if not (lowest >= -1e-6 and highest <= 1 + 1e-6):
        raise ValueError(
            f"colormap must return colours between 0 and 1, got a minimum of {lowest:g} and a "
            f"maximum of {highest:g}{'; divide by 255' if 2 < highest <= 255 else ''}"
        )
    if coloured.shape[2] == 3:
        coloured = np.dstack([coloured, np.ones(heat.shape)])
    return coloured


def checked_heatmap(heatmap: Any, least: int = 0) -> Shaped[np.ndarray, " ..."]:
    """The heatmap; raises if it is no array with real values in [least, 1]."""
    if not isinstance(heatmap, np.ndarray):
        raise TypeError(f"heatmap must be a numpy.ndarray, got {type(heatmap).__name__}")
    if not is_real(heatmap):
        raise TypeError(f"heatmap must hold real numbers, got an array of {heatmap.dtype}")
    if heatmap.size == 0:
        raise ValueError(f"heatmap must have at least one cell, got shape {heatmap.shape}")
    lowest, highest = heatmap.min(), heatmap.max()
    if not (lowest >= least and highest <= 1):  # also False where there is a NaN
        raise ValueError(
            f"heatmap values must lie between {least} and 1, got a minimum of {lowest} "
            f"and a maximum of {highest}"
        )
    return heatmap


def update_alpha(
    rgba: Shaped[np.ndarray, "*shape 4"],
    starting_array: Shaped[np.ndarray, "*shape"] | None = None,
    alpha_limit: float | None = None,
) -> None:
    """Set the opacity of ``rgba`` ``(height, width, 4)`` in place.

    The opacity is ``starting_array`` ``(height, width)`` in [0, 1], or what ``rgba`` has already,
    and nowhere more than ``alpha_limit``.
    """
    is_bytes = rgba.dtype == np.uint8
    alpha = starting_array
    if alpha is None:
        alpha = rgba[..., 3] / 255 if is_bytes else rgba[..., 3]
    alpha = capped_alpha(alpha, alpha_limit)
    rgba[..., 3] = to_bytes(alpha) if is_bytes else alpha


def capped_alpha(
    alpha: Shaped[np.ndarray, "*shape"], limit: float | None
) -> Shaped[np.ndarray, "*shape"]:
    """A new array with the values of ``alpha``, none above ``limit``; None sets no limit."""
    capped: np.ndarray = np.minimum(alpha, greatest_opacity(limit))
    return capped


def composited(heatmap_image: Image.Image, image: Image.Image) -> Image.Image:
    """Lay an RGBA heatmap over an RGBA picture of the same size."""
    return Image.alpha_composite(image, heatmap_image)
