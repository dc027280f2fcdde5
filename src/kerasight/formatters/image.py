"""Heatmaps as pictures: resize, colour, and lay over the image.

The order is resize, clip, colour, opacity. Resizing the numbers, not the colours, keeps every pixel
on the colormap: between a yellow and a blue cell lies what the colormap has between them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from kerasight.base import check_explanation
from kerasight.checks import integer, is_real
from kerasight.formatters.pixels import (
    Colormap,
    ResamplingFilter,
    greatest_opacity,
    image_of,
    pillow_filter,
    to_bytes,
)
from kerasight.formatters.sheet import Panel, enlarged, sheet
from kerasight.formatters.text import format_score

if TYPE_CHECKING:
    from jaxtyping import Float, Float32, Float64, Shaped, UInt8

    from kerasight.base import Explanation, TargetExplanation

__all__ = ["expand_heatmap", "format_as_image", "format_as_sheet", "heatmap_to_image"]


def format_as_image(
    expl: Explanation,
    resampling_filter: ResamplingFilter = Image.Resampling.LANCZOS,
    colormap: Colormap | None = None,
    alpha_limit: float | None = 0.65,
) -> Image.Image:
    """Lay the heatmap of an explanation over its picture.

    The hotter a place, the more opaque the heatmap: where it is 0, the picture shows through as it
    is. Where a heatmap is signed, what is far from 0 on either side is opaque.

    Args:
        expl: An explanation with a Pillow image of any mode in ``image``, and in ``targets`` those
            whose ``heatmap`` of shape ``(height, width)``, values in [0, 1], is to be laid over it;
            in [-1, 1] if it is ``signed``. Without targets there is no heatmap to lay over.
        resampling_filter: How the heatmap is brought to the size of the picture: a filter of
            ``PIL.Image.Resampling``, its name in any case (``"lanczos"``), or None for Pillow's
            default. ``BOX`` and ``NEAREST`` show the cells as they are.
        colormap: A Matplotlib colormap or its name, or any function that takes a float array
            ``(height, width)`` in [0, 1] and returns colours ``(height, width, 4)`` or
            ``(height, width, 3)`` in [0, 1]. A signed heatmap comes to it moved to [0, 1], so that
            0.5 stands for 0. None takes viridis, or for signed heatmaps a diverging one: red for
            the class, blue against it.
        alpha_limit: The greatest opacity of the heatmap, a real number in [0, 1]; None or 1 for no
            limit.

    Returns:
        A new RGBA image of the size of ``expl.image``. Without a heatmap, a copy of the picture. Of
        several targets, panels side by side, each with its class and score below.

    Raises:
        TypeError: If ``expl`` is no explanation, ``expl.image`` no Pillow image, the heatmap no
            NumPy array of real numbers, ``alpha_limit`` no number, or ``colormap`` neither a name
            nor callable.
        ValueError: If the heatmap has values outside [0, 1] (or [-1, 1] if it is signed), or NaN,
            the picture has no pixels, ``alpha_limit`` lies outside of [0, 1], the colormap or
            filter is unknown, or the colormap returns what are no colours in [0, 1].
    """
    check_explanation(expl)
    if len(expl.targets or ()) > 1:
        return format_as_sheet([expl], resampling_filter, colormap, alpha_limit)
    image = image_of(expl)
    if not expl.targets:
        return image
    return _overlay(image, expl.targets[0], resampling_filter, colormap, alpha_limit)


def format_as_sheet(
    expls: Sequence[Explanation],
    resampling_filter: ResamplingFilter = Image.Resampling.LANCZOS,
    colormap: Colormap | None = None,
    alpha_limit: float | None = 0.65,
    *,
    titles: Sequence[str] | None = None,
    columns: int | None = None,
) -> Image.Image:
    """Lay the overlays of explanations out: a row for each, in it a panel for each target.

    Below each panel stand the class, by its name where that is known, and the score. Pictures too
    small for a legible caption are enlarged, by a whole factor.

    Args:
        expls: Explanations as `format_as_image` takes them. Where there is only an ``error``, that
            stands in the row.
        resampling_filter: As in `format_as_image`.
        colormap: As in `format_as_image`.
        alpha_limit: As in `format_as_image`.
        titles: A title for each explanation, to stand above the class: the name of a method, a
            layer or a model, say.
        columns: How many panels stand in a row, whichever explanations they are of; None gives each
            explanation a row of its own.

    Returns:
        An opaque RGBA image on white.

    Raises:
        TypeError: As in `format_as_image`, or if ``titles`` is no list or ``columns`` no integer.
        ValueError: As in `format_as_image`; if there is no explanation, or not a title for each; or
            if ``columns`` is less than 1.
    """
    if isinstance(expls, str) or not isinstance(expls, Sequence):
        raise TypeError(
            f"expls must be a list of explanations to lay out, got {type(expls).__name__}"
        )
    if not expls:
        raise ValueError("there must be at least one explanation to lay out, got none")
    for number, expl in enumerate(expls, 1):
        check_explanation(expl, f"explanation {number}")
    if titles is not None and (isinstance(titles, str) or not isinstance(titles, Sequence)):
        raise TypeError(f"titles must be a list of titles, got {type(titles).__name__}")
    if titles is not None and len(titles) != len(expls):
        raise ValueError(
            f"titles must hold one for each of {len(expls)} explanations, and holds {len(titles)}"
        )
    if columns is not None:
        columns = integer("columns", columns, least=1)
    rows = [
        _panels(expl, resampling_filter, colormap, alpha_limit)
        if expl.image is not None or not expl.error
        else [Panel(None, expl.error)]
        for expl in expls
    ]
    if titles is not None:
        rows = [
            [
                Panel(
                    panel.picture, str(title), " · ".join(filter(None, (panel.title, panel.note)))
                )
                for panel in row
            ]
            for title, row in zip(titles, rows, strict=True)
        ]
    if columns is not None:
        panels = [panel for row in rows for panel in row]
        rows = [panels[at : at + columns] for at in range(0, len(panels), columns)]
    return sheet(rows)


def _panels(
    expl: Explanation,
    resampling_filter: ResamplingFilter,
    colormap: Colormap | None,
    alpha_limit: float | None,
) -> list[Panel]:
    image = enlarged(image_of(expl))
    if not expl.targets:
        return [Panel(image, expl.error or "")]
    return [
        Panel(
            _overlay(image.copy(), target, resampling_filter, colormap, alpha_limit),
            target.label,
            ""
            if target.score is None
            else f"score {format_score(target.score, target.is_probability)}",
        )
        for target in expl.targets
    ]


def _overlay(
    image: Image.Image,
    target: TargetExplanation,
    resampling_filter: ResamplingFilter,
    colormap: Colormap | None,
    alpha_limit: float | None,
) -> Image.Image:
    """One heatmap over an RGBA picture, which is drawn on.

    By strips that fit into a processor's cache: a photograph of 12 megapixels is many times that.
    """
    from matplotlib.colors import Colormap as Table

    least = -1 if target.signed else 0
    heatmap = _validate_heatmap(target.heatmap, least)
    if heatmap.ndim != 2:
        raise ValueError(f"heatmap must have shape (height, width), got {heatmap.shape}")
    known = _known(colormap, target.signed)
    rows: int | None = max(1, _STRIP // image.width)
    if isinstance(known, Table) and known.N <= _MOST_COLOURS:
        colour = _by_table(known, least, alpha_limit)
    else:
        colour, rows = _by_function(known, least, alpha_limit), None
    is_opaque = image.getchannel("A").getextrema() == (255, 255)
    for top, heat in _strips(heatmap, image.size, resampling_filter, rows):
        strip = Image.fromarray(colour(heat))
        if is_opaque:
            image.paste(strip, (0, top), strip)
        else:
            below = image.crop((0, top, image.width, top + strip.height))
            image.paste(_overlay_heatmap(strip, below), (0, top))
    if is_opaque:
        image.putalpha(255)  # blended by then with that of the heatmap
    return image


# Pixels of a strip, some 256 KiB as colours.
_STRIP = 1 << 16
# Steps that heat is told apart by where a table has its colours. At least so many, for an opacity
# that is right to a byte, and a whole number to each colour, so that none begins too early.
_STEPS = 4096
# Of a table that 16 bits can point into.
_MOST_COLOURS = 1 << 16


def _by_table(
    colormap: Any, least: int, alpha_limit: float | None
) -> Callable[[Float32[np.ndarray, "height width"]], UInt8[np.ndarray, "height width 4"]]:
    """A function from heat ``(height, width)`` to RGBA bytes, by a Matplotlib colormap."""
    count = colormap.N * math.ceil(_STEPS / colormap.N)
    table = colormap(np.arange(count) * colormap.N // count, bytes=True)[np.newaxis]
    middles = least + (1 - least) * (np.arange(count) + 0.5) / count
    _update_alpha(table, starting_array=np.abs(middles)[np.newaxis], alpha_limit=alpha_limit)
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
    """The same by any function, which sees the whole of the heat."""

    def colour(heat: Float32[np.ndarray, "height width"]) -> UInt8[np.ndarray, "height width 4"]:
        heat = heat.clip(least, 1)
        coloured = _colorize((heat - least) / (1 - least) if least else heat, colormap)
        _update_alpha(coloured, starting_array=np.abs(heat), alpha_limit=alpha_limit)
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

    # Not pale in the middle, as most are: there the picture shows through, and is not to be veiled.
    # Of about equal lightness, and told apart by people who see no red or no green.
    return LinearSegmentedColormap.from_list("kerasight_diverging", _DIVERGING)


_DIVERGING = ("#0a4fd0", "#2f8cff", "#9a9a9a", "#ff6a3d", "#d40f0f")


def heatmap_to_image(heatmap: Shaped[np.ndarray, "height width *colours"]) -> Image.Image:
    """Convert an array to a Pillow image, one pixel a cell.

    Args:
        heatmap: Float array with values in [0, 1]: ``(height, width)`` for a grey image,
            ``(height, width, 3)`` for RGB, ``(height, width, 4)`` for RGBA.

    Returns:
        Image of mode ``L``, ``RGB`` or ``RGBA``, values rounded to 0..255.

    Raises:
        TypeError: If ``heatmap`` is no NumPy array of real numbers.
        ValueError: If it has another shape, values outside [0, 1], or NaN.
    """
    _validate_heatmap(heatmap)
    if heatmap.ndim not in (2, 3):
        raise ValueError(
            "heatmap must have rank 2 (grey) or rank 3 (colours), "
            f"got rank {heatmap.ndim}, shape {heatmap.shape}"
        )
    if heatmap.ndim == 3 and heatmap.shape[2] not in (3, 4):
        raise ValueError(
            "a heatmap of rank 3 must have 3 channels (RGB) or 4 (RGBA), "
            f"got {heatmap.shape[2]}, shape {heatmap.shape}"
        )
    return Image.fromarray(to_bytes(heatmap))


def expand_heatmap(
    heatmap: Shaped[np.ndarray, "height width *colours"],
    image: Image.Image,
    resampling_filter: ResamplingFilter = Image.Resampling.LANCZOS,
) -> Image.Image:
    """Resize a heatmap to the size of a picture, and convert it to an image.

    Args:
        heatmap: Float array with values in [0, 1], of a shape that `heatmap_to_image` takes.
        image: The picture whose width and height the result gets.
        resampling_filter: As in `format_as_image`.

    Returns:
        Image of mode ``L``, ``RGB`` or ``RGBA``, of the size of ``image``. A grey heatmap is
        resized as floats and only then rounded to 0..255.

    Raises:
        TypeError: If ``image`` is no Pillow image, or ``heatmap`` no NumPy array.
        ValueError: If ``heatmap`` has another shape, values outside [0, 1], or NaN, or the filter
            is unknown.
    """
    if not isinstance(image, Image.Image):
        raise TypeError(f"image must be a PIL.Image.Image, got {type(image).__name__}")
    small = heatmap_to_image(heatmap)
    if heatmap.ndim == 2:
        return heatmap_to_image(_resize(heatmap, image.size, resampling_filter))
    return small.resize(image.size, resample=pillow_filter(resampling_filter))


def _strips(
    heatmap: Shaped[np.ndarray, "_ _"],
    size: tuple[int, int],
    resampling_filter: ResamplingFilter,
    rows: int | None = None,
) -> Iterator[tuple[int, np.ndarray]]:
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
        # Where a cell ends in the middle of a row, a strip might round otherwise than the whole.
        whole = np.asarray(values.resize(size, resample=used))
        yield from ((top, whole[top : top + rows]) for top in range(0, height, rows))
        return
    # Pillow resizes one way after the other too.
    wide = values.resize((width, values.height), resample=used)
    for top in range(0, height, rows):
        count = min(rows, height - top)
        part = (0, top * wide.height / height, width, (top + count) * wide.height / height)
        yield top, np.asarray(wide.resize((width, count), resample=used, box=part))


def _resize(
    heatmap: Shaped[np.ndarray, "_ _"], size: tuple[int, int], resampling_filter: ResamplingFilter
) -> Float32[np.ndarray, "height width"]:
    """Resize values in [0, 1] to ``size`` (width, height); filters that overshoot are clipped."""
    [(_, resized)] = _strips(heatmap, size, resampling_filter)
    return resized.clip(0, 1)


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


# Private names of eli5 that its tests call, with its arguments.


def _validate_heatmap(heatmap: Any, least: int = 0) -> np.ndarray:
    """The heatmap, if it is an array with real values in [least, 1]; raises if it is not."""
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


def _update_alpha(
    rgba: np.ndarray,
    starting_array: np.ndarray | None = None,
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
    alpha = _cap_alpha(alpha, alpha_limit)
    rgba[..., 3] = to_bytes(alpha) if is_bytes else alpha


def _cap_alpha(alpha: np.ndarray, limit: float | None) -> np.ndarray:
    """A new array with the values of ``alpha``, none above ``limit``; None sets no limit."""
    capped: np.ndarray = np.minimum(alpha, greatest_opacity(limit))
    return capped


def _overlay_heatmap(heatmap_image: Image.Image, image: Image.Image) -> Image.Image:
    """Lay an RGBA heatmap over an RGBA picture of the same size."""
    return Image.alpha_composite(image, heatmap_image)
