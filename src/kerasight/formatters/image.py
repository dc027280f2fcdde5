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
from kerasight.formatters.spans import Passage, spans_as_image
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

    The hotter a cell, the more opaque the heatmap is there; at 0 the picture shows through. A
    signed heatmap is opaque where it is far from 0 on either side.

    A text is drawn once for each class on white, each word on a tint: orange if it speaks for the
    class, blue if against it. The arguments are for pictures, and change nothing of it.

    Args:
        expl: An explanation with a Pillow image of any mode in ``image``. Each of its ``targets``
            has a ``heatmap`` of shape ``(height, width)`` with values in [0, 1], or in [-1, 1] if
            it is ``signed``. Without targets the picture stays as it is.
        resampling_filter: How the heatmap is brought to the size of the picture: a filter of
            ``PIL.Image.Resampling``, its name in any case (``"lanczos"``), or None for Pillow's
            default. ``BOX`` and ``NEAREST`` show the cells as they are.
        colormap: A Matplotlib colormap or its name, or any function that takes a float array
            ``(height, width)`` in [0, 1] and returns colours ``(height, width, 4)`` or
            ``(height, width, 3)`` in [0, 1]. A signed heatmap is moved to [0, 1] for it, so that
            0.5 stands for 0. None takes viridis, or for signed heatmaps a diverging colormap: red
            for the class, blue against it.
        alpha_limit: The greatest opacity of the heatmap, a real number in [0, 1]; None or 1 for no
            limit.

    Returns:
        A new RGBA image of the size of ``expl.image``; without a heatmap, a copy of the picture.
        For several targets, panels side by side, each with its class and score below.

    Raises:
        TypeError: If ``expl`` is no explanation, ``expl.image`` no Pillow image, the heatmap no
            NumPy array of real numbers, ``alpha_limit`` no number, or ``colormap`` neither a name
            nor callable.
        ValueError: If the heatmap has values outside [0, 1] (or [-1, 1] if it is signed), or NaN,
            there is no text, the picture has no pixels, ``alpha_limit`` lies outside of [0, 1], the
            colormap or filter is unknown, or the colormap returns no colours in [0, 1].
    """
    check_explanation(expl)
    if expl.kind == "text":
        if not expl.targets:
            raise ValueError(f"expl has no text to draw: {expl.error or 'it has no targets'}")
        return spans_as_image(
            [Passage(target, target.label, _note(target)) for target in expl.targets]
        )
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
    """Lay out the overlays of explanations: a row for each, with a panel for each target.

    Below each panel stand the class, by its name if that is known, and the score. Pictures too
    small for a legible caption are enlarged, by a whole factor.

    Args:
        expls: Explanations as `format_as_image` takes them. If one has only an ``error``, its row
            shows that.
        resampling_filter: As in `format_as_image`.
        colormap: As in `format_as_image`.
        alpha_limit: As in `format_as_image`.
        titles: A title for each explanation, such as the name of a method, a layer or a model, to
            stand above the class.
        columns: The number of panels in a row, whatever explanations they belong to; None gives
            each explanation a row of its own.

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
            [Panel(panel.picture, str(title), " · ".join(filter(None, panel[1:]))) for panel in row]
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
    if expl.kind == "text":
        return [
            Panel(spans_as_image([Passage(target)]), target.label, _note(target))
            for target in expl.targets or ()
        ] or [Panel(None, expl.error or "")]
    image = enlarged(image_of(expl))
    if not expl.targets:
        return [Panel(image, expl.error or "")]
    return [
        Panel(
            _overlay(image.copy(), target, resampling_filter, colormap, alpha_limit),
            target.label,
            _note(target),
        )
        for target in expl.targets
    ]


def _note(target: TargetExplanation) -> str:
    score = format_score(target.score, target.is_probability)
    return f"score {score}" if score else ""


def _overlay(
    image: Image.Image,
    target: TargetExplanation,
    resampling_filter: ResamplingFilter,
    colormap: Colormap | None,
    alpha_limit: float | None,
) -> Image.Image:
    """Draw one heatmap on an RGBA picture.

    It is drawn in strips that fit into a processor's cache; a photograph of 12 megapixels would be
    many times that.
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
    """The same by any function, which gets the whole heatmap at once."""

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

    # Most diverging colormaps are pale in the middle; that would veil the picture, which shows
    # through there. Both ends are about equally light, and differ for people who see no red or
    # green.
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
