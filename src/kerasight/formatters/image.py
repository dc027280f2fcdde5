"""Explanations as pictures: one, or many on a sheet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from kerasight.base import check_explanation
from kerasight.checks import integer
from kerasight.formatters.kinds import drawn_kind
from kerasight.formatters.overlay import (
    Style,
    capped_alpha,
    checked_heatmap,
    composited,
    heat_in_strips,
    update_alpha,
)
from kerasight.formatters.pixels import (
    Colormap,
    ResamplingFilter,
    image_of,
    pillow_filter,
    to_bytes,
)
from kerasight.formatters.sheet import Panel, enlarged, sheet
from kerasight.formatters.spans import Passage, spans_as_image
from kerasight.formatters.text import format_score

if TYPE_CHECKING:
    from jaxtyping import Float32, Shaped

    from kerasight.base import Explanation, TargetExplanation

__all__ = ["expand_heatmap", "format_as_image", "format_as_sheet", "heatmap_to_image"]


def format_as_image(
    expl: Explanation,
    resampling_filter: ResamplingFilter = Image.Resampling.LANCZOS,
    colormap: Colormap | None = None,
    alpha_limit: float | None = 0.65,
    *,
    outliers: float | None = None,
    absolute: bool = False,
    blur: float = 0,
) -> Image.Image:
    """Lay the heatmap of an explanation over its picture, signal, volume or video.

    The hotter a cell, the more opaque the heatmap is there; at 0 the picture shows through. A
    signed heatmap is opaque where it is far from 0 on either side. A light line with dark edges
    goes around the ``box`` and the ``region`` of a target.

    Signals, volumes and videos become charts with class and score above. The channels of a signal
    are lines above each other, with the heat behind them. Of a volume there are the three planes
    through the hottest place, of a video up to eight frames, the hottest among them. Their darkest
    value is black and their brightest white. Steps, planes and frames count from 1.

    A text is drawn once for each class on white, each word on a tint: orange if it speaks for the
    class, blue if against it. The arguments are for pictures, and change nothing of it.

    Args:
        expl: An explanation with a Pillow image of any mode in ``image``, or if it is of another
            ``kind`` an array in ``doc``: a signal ``(steps, channels)``, a volume ``(depth, height,
            width, channels)`` or a video ``(frames, height, width, channels)``. Each of its
            ``targets`` has a ``heatmap`` with the same axes without the channels, most often
            shorter, with values in [0, 1], or in [-1, 1] if it is ``signed``. Without targets the
            picture stays as it is.
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
        outliers: How many of the cells, in per cent, are drawn as hot as the hottest: the heat of
            all others is scaled up to that of these, so that a few do not darken the rest. None
            takes 1 for heatmaps of more than 64 x 64 cells (4,096, along however many axes), such
            as those at the resolution of the input, and 0 for smaller ones. If fewer cells have
            more than a thousandth of the greatest heat, nothing is cut.
        absolute: Whether to draw signed heat by its size alone, in the colours of heat without a
            sign.
        blur: The standard deviation of the Gaussian that smooths the heat along each axis, in per
            cent of the heatmap's longest side: at 1, of some two cells of 224. The hottest place
            stays as hot. It comes after ``absolute`` and before ``outliers``.

    Returns:
        A new RGBA image of the size of ``expl.image``; without a heatmap, a copy of the picture.
        For several targets, panels side by side, each with its class and score below. Of signals,
        volumes and videos a chart of some 1200 pixels, or one above the other.

    Raises:
        TypeError: If ``expl`` is no explanation, ``expl.image`` no Pillow image, ``expl.doc`` or
            the heatmap no NumPy array of real numbers, ``alpha_limit``, ``outliers`` or ``blur`` no
            number, ``absolute`` no bool, ``colormap`` neither a name nor callable, or ``box`` or
            ``region`` none.
        ValueError: If the heatmap has values outside [0, 1] (or [-1, 1] if it is signed), or NaN,
            or other axes than explanations of its kind; if ``doc`` has other axes, or NaN; if the
            picture has no pixels, ``alpha_limit`` lies outside of [0, 1], ``outliers`` or ``blur``
            outside of [0, 100], the colormap or filter is unknown, the colormap returns no colours
            in [0, 1], or ``box`` or ``region`` makes no sense; or if there is no text.
    """
    check_explanation(expl)
    if expl.kind == "text":
        if not expl.targets:
            raise ValueError(f"expl has no text to draw: {expl.error or 'it has no targets'}")
        return spans_as_image(
            [Passage(target, target.label, _note(target)) for target in expl.targets]
        )
    kind = drawn_kind(expl)
    if kind.is_chart or len(expl.targets or ()) > 1:
        return format_as_sheet(
            [expl],
            resampling_filter,
            colormap,
            alpha_limit,
            outliers=outliers,
            absolute=absolute,
            blur=blur,
        )
    style = Style(resampling_filter, colormap, alpha_limit, outliers, absolute, blur)
    return kind.still(expl, expl.targets[0] if expl.targets else None, style)


def format_as_sheet(
    expls: Sequence[Explanation],
    resampling_filter: ResamplingFilter = Image.Resampling.LANCZOS,
    colormap: Colormap | None = None,
    alpha_limit: float | None = 0.65,
    *,
    outliers: float | None = None,
    absolute: bool = False,
    blur: float = 0,
    titles: Sequence[str] | None = None,
    columns: int | None = None,
) -> Image.Image:
    """Lay out the overlays of explanations: a row for each, with a panel for each target.

    Below each panel stand the class, by its name if that is known, and the score. Pictures too
    small for a legible caption are enlarged, by a whole factor. Charts of signals, volumes and
    videos have their captions above, and each a row of its own.

    Args:
        expls: Explanations as `format_as_image` takes them. If one has only an ``error``, its row
            shows that.
        resampling_filter: As in `format_as_image`.
        colormap: As in `format_as_image`.
        alpha_limit: As in `format_as_image`.
        outliers: As in `format_as_image`, for each heatmap by itself.
        absolute: As in `format_as_image`.
        blur: As in `format_as_image`.
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
    style = Style(resampling_filter, colormap, alpha_limit, outliers, absolute, blur)
    rows = [
        _panels(expl, style)
        if expl.image is not None or expl.doc is not None or not expl.error
        else [Panel(None, expl.error)]
        for expl in expls
    ]
    if titles is not None:
        rows = [
            [
                panel._replace(
                    title=str(title), note=" · ".join(filter(None, (panel.title, panel.note)))
                )
                for panel in row
            ]
            for title, row in zip(titles, rows, strict=True)
        ]
    if columns is not None:
        panels = [panel for row in rows for panel in row]
        rows = [panels[at : at + columns] for at in range(0, len(panels), columns)]
    else:
        rows = [part for row in rows for part in _apart(row)]
    return sheet(rows)


def _apart(row: list[Panel]) -> list[list[Panel]]:
    """A row, or if there are charts in it, which are wide, a row for each."""
    return [[panel] for panel in row] if any(panel.is_chart for panel in row) else [row]


def _panels(expl: Explanation, style: Style) -> list[Panel]:
    if expl.kind == "text":
        return [
            Panel(spans_as_image([Passage(target)]), target.label, _note(target))
            for target in expl.targets or ()
        ] or [Panel(None, expl.error or "")]
    kind = drawn_kind(expl)
    if not kind.is_chart:
        expl = replace(expl, image=enlarged(image_of(expl)))
    if not expl.targets:
        return [Panel(kind.still(expl, None, style), expl.error or "", is_chart=kind.is_chart)]
    return [
        Panel(
            kind.still(expl, target, style),
            target.label,
            _note(target),
            kind.is_chart,
        )
        for target in expl.targets
    ]


def _note(target: TargetExplanation) -> str:
    score = format_score(target.score, target.is_probability)
    return f"score {score}" if score else ""


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
    checked_heatmap(heatmap)
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


def _resize(
    heatmap: Shaped[np.ndarray, "_ _"], size: tuple[int, int], resampling_filter: ResamplingFilter
) -> Float32[np.ndarray, "height width"]:
    """Resize values in [0, 1] to ``size`` (width, height); filters that overshoot are clipped."""
    [(_, resized)] = heat_in_strips(heatmap, size, resampling_filter)
    return resized.clip(0, 1)


# Private names of eli5 that its tests call, with its arguments.
_validate_heatmap = checked_heatmap
_update_alpha = update_alpha
_cap_alpha = capped_alpha
_overlay_heatmap = composited
