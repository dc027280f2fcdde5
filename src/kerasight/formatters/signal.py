"""The still picture of a signal: its channels as lines above each other, the heat behind them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw

from kerasight.cam.maps import resized, stretched
from kerasight.formatters.heat import DrawnHeat, heat_of
from kerasight.formatters.overlay import Style, overlay
from kerasight.formatters.pixels import doc_of, to_bytes
from kerasight.formatters.sheet import LETTERS, dejavu

if TYPE_CHECKING:
    from jaxtyping import Float64, Real

    from kerasight.base import Explanation, TargetExplanation

__all__ = ["SIGNAL_AXES", "lines"]

SIGNAL_AXES = ("steps",)

# Of the picture: its width, and the room beside and below the plot.
_WIDTH, _LEFT, _RIGHT, _BELOW = 1200, 176, 124, 56
# Of a single lane, of all together, and between two.
_LANE, _HEIGHT, _BETWEEN = 150, 520, 4
# More channels than this are shown as rows of a picture: lines would have no room.
_MOST_LANES = 16
# Dark as a screen in a dark room: the colormap's brightest colour, the hottest, stands out, and
# where there is no heat there is no colour.
_GROUND, _LINE, _HALO = (26, 29, 34, 255), (245, 247, 250, 255), (16, 18, 22, 255)
_PAPER, _INK, _QUIET = (255, 255, 255, 255), (24, 24, 24, 255), (96, 96, 96, 255)
# Lines are drawn so many times as large, and reduced: Pillow draws them with steps.
_FINE = 4
_SMALL = round(0.8 * LETTERS)
_BAR = 18


def lines(expl: Explanation, target: TargetExplanation | None, style: Style) -> Image.Image:
    """The channels of a signal above each other, and the heat of each step behind them.

    Beside each channel stand its lowest and its highest value, and on the right the colours of the
    heat. Of more than 16 channels each is a row of grey values.

    Args:
        expl: An explanation with a signal ``(steps, channels)`` as its ``doc``.
        target: Its target; None for the signal alone.
        style: How to draw the heatmap.

    Returns:
        RGBA image.

    Raises:
        TypeError: As from `kerasight.format_as_image`.
        ValueError: As from `kerasight.format_as_image`.
    """
    signal = doc_of(expl, (*SIGNAL_AXES, "channels")).astype(np.float64)
    steps, channels = signal.shape
    heat = None if target is None else heat_of(target, SIGNAL_AXES, style)
    has_lines = channels <= _MOST_LANES
    width = _WIDTH - _LEFT - _RIGHT
    lane = round(min(_LANE, _HEIGHT / channels)) if has_lines else 0
    height = channels * lane if has_lines else max(channels, min(_HEIGHT, 12 * channels))
    if has_lines:
        plot = Image.new("RGBA", (width, height), _GROUND)
    else:
        rows = Image.fromarray(to_bytes(stretched(signal)).T)
        plot = rows.resize((width, height), Image.Resampling.BOX).convert("RGBA")
    if heat is not None:
        if heat.outliers and heat.values.size > width:
            # The hottest of what is shown: spikes are averaged away where several share a pixel.
            heat = heat._replace(values=resized(heat.values, (width,)))
        overlay(plot, heat.drawn[np.newaxis], heat.is_signed, style)
    whole = Image.new("RGBA", (_WIDTH, height + _BELOW), _PAPER)
    draw = ImageDraw.Draw(whole)
    if has_lines:
        for number in range(channels):
            top = number * lane
            _draw_line(plot, signal[:, number], top, lane - _BETWEEN)
            _label_lane(draw, signal[:, number], number, channels, top, lane)
            if number:
                gap = (0, top - _BETWEEN // 2, width, top + _BETWEEN // 2 - 1)
                ImageDraw.Draw(plot).rectangle(gap, fill=_PAPER)
    else:
        _label_rows(draw, channels, height)
    whole.paste(plot, (_LEFT, 0))
    _draw_axis(draw, steps, height)
    if heat is not None:
        _draw_scale(whole, heat, height, style)
    return whole


def _draw_line(
    plot: Image.Image, values: Real[np.ndarray, " steps"], top: int, height: int
) -> None:
    """A channel as a line with a dark edge, from the middle of each step's width to the next."""
    x, y = _corners(values, plot.width)
    lowest, highest = float(y.min()), float(y.max())
    share = np.full(len(y), 0.5) if highest == lowest else (y - lowest) / (highest - lowest)
    room = min(9.0, height / 8)
    points = np.column_stack([x, room + (1 - share) * (height - 1 - 2 * room)]) * _FINE
    corners = [(float(across), float(down)) for across, down in points]
    # Where there is more than a step a pixel, the line is close to an area: a thin one is enough.
    thick = 2.6 if len(values) <= plot.width else 1.4
    for colour, width in ((_HALO, thick + 2.4), (_LINE, thick)):
        large = Image.new("L", (plot.width * _FINE, height * _FINE), 0)
        pen = ImageDraw.Draw(large)
        size = round(width * _FINE)
        # Round joints take long, and nobody would see them on many steps.
        pen.line(corners, fill=255, width=size, joint="curve" if len(x) <= plot.width else None)
        if len(corners) == 1:
            [(across, down)] = corners
            pen.ellipse((across - size, down - size, across + size, down + size), fill=255)
        mask = large.resize((plot.width, height), Image.Resampling.BOX)
        plot.paste(colour, (0, top), mask)


def _corners(
    values: Real[np.ndarray, " steps"], width: int
) -> tuple[Float64[np.ndarray, " corners"], Float64[np.ndarray, " corners"]]:
    """Where a line has its corners: at each step, or twice a pixel if that is less."""
    steps = len(values)
    if steps <= 2 * width:
        return (np.arange(steps) + 0.5) * width / steps, values.astype(np.float64)
    # The lowest and the highest value within each pixel are what one sees.
    starts = np.arange(width) * steps // width
    ends = [np.minimum.reduceat(values, starts), np.maximum.reduceat(values, starts)]
    return (np.arange(width) + 0.5).repeat(2), np.column_stack(ends).ravel().astype(np.float64)


def _label_lane(
    draw: ImageDraw.ImageDraw,
    values: Real[np.ndarray, " steps"],
    number: int,
    channels: int,
    top: int,
    lane: int,
) -> None:
    """The name of a channel, and its range where there is room."""
    font, right = dejavu(_SMALL), _LEFT - 12
    bottom = top + lane - _BETWEEN
    if channels > 1:
        name = f"channel {number + 1}"
        draw.text((0, (top + bottom) / 2), name, fill=_INK, font=font, anchor="lm")
    if lane < 2.4 * _SMALL:
        return
    draw.text((right, top + 2), _short(values.max()), fill=_QUIET, font=font, anchor="rt")
    if values.max() > values.min():
        draw.text((right, bottom - 3), _short(values.min()), fill=_QUIET, font=font, anchor="rb")


def _short(value: float) -> str:
    return f"{value:.3g}".replace("-", "\u2212")


def _label_rows(draw: ImageDraw.ImageDraw, channels: int, height: int) -> None:
    """The numbers of channels that are rows of a picture."""
    font = dejavu(_SMALL)
    draw.text((_LEFT - 64, height / 2), "channel", fill=_INK, font=font, anchor="rm")
    for number in _ticks(channels, most=6):
        # The number of the topmost stays on the picture.
        y = max(_SMALL / 2, (number - 0.5) * height / channels)
        draw.text((_LEFT - 12, y), str(number), fill=_QUIET, font=font, anchor="rm")


def _draw_axis(draw: ImageDraw.ImageDraw, steps: int, top: int) -> None:
    """The numbers of steps, from 1, and the name of the axis."""
    font, width = dejavu(_SMALL), _WIDTH - _LEFT - _RIGHT
    for number in _ticks(steps, most=10):
        x = _LEFT + (number - 0.5) * width / steps
        draw.line((x, top, x, top + 6), fill=_QUIET, width=2)
        draw.text((x, top + 10), str(number), fill=_QUIET, font=font, anchor="mt")
    middle = _LEFT + width / 2
    draw.text((middle, top + 16 + _SMALL), "step", fill=_INK, font=font, anchor="mt")


def _ticks(count: int, most: int) -> list[int]:
    """Round numbers from 1 to ``count``, and 1 itself."""
    power = 10 ** max(0, math.floor(math.log10(count / most)) if count > most else 0)
    apart = next(power * factor for factor in (1, 2, 5, 10, 20) if count / (power * factor) <= most)
    return sorted({1, *range(apart, count + 1, apart)})


def _draw_scale(whole: Image.Image, heat: DrawnHeat, height: int, style: Style) -> None:
    """The colours of the heat as they are on the plot, from the lowest value to the highest."""
    is_signed = heat.is_signed
    least = -1 if is_signed else 0
    top, left, font = 0, _WIDTH - _RIGHT + 40, dejavu(_SMALL)
    bar = Image.new("RGBA", (_BAR, height), _GROUND)
    overlay(bar, np.linspace(1, least, height)[:, np.newaxis], is_signed, style)
    whole.paste(bar, (left, top))
    draw = ImageDraw.Draw(whole)
    ends = ("+1", "\u22121") if is_signed else ("1", "0")
    right, bottom = left + _BAR + 8, top + height
    draw.text((right, top), ends[0], fill=_QUIET, font=font, anchor="lt")
    draw.text((right, bottom - 1), ends[1], fill=_QUIET, font=font, anchor="ls")
    if is_signed:
        draw.text((right, (top + bottom) / 2), "0", fill=_QUIET, font=font, anchor="lm")
    middle = left + _BAR / 2
    draw.text((middle, bottom + 10), "heat", fill=_INK, font=font, anchor="mt")
    if heat.outliers:
        told = f"{'±' if is_signed else ''}1: hottest {heat.outliers:g}%"
        draw.text((_WIDTH, bottom + 16 + _SMALL), told, fill=_QUIET, font=font, anchor="rt")
