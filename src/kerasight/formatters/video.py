"""The still picture of a video: a strip of its frames."""

from __future__ import annotations

from typing import TYPE_CHECKING

from PIL import Image

from kerasight.formatters.heat import heat_of
from kerasight.formatters.overlay import Style
from kerasight.formatters.places import evenly, hottest_in, strongest
from kerasight.formatters.sheet import LETTERS, Panel, sheet
from kerasight.formatters.stack import draw_slice, enlargement, heat_slices, stack_of

if TYPE_CHECKING:
    from kerasight.base import Explanation, TargetExplanation

__all__ = ["VIDEO_AXES", "strip"]

VIDEO_AXES = ("frames", "height", "width")

_FRAMES, _COLUMNS = 8, 4
# Lengths of the longer side of a frame on the picture.
_LEAST, _MOST = 270, 320


def strip(expl: Explanation, target: TargetExplanation | None, style: Style) -> Image.Image:
    """Up to eight frames in the order of time, evenly chosen, the hottest among them.

    Below each stands its number, counted from 1.

    Args:
        expl: An explanation with a video ``(frames, height, width, channels)`` as its ``doc``.
        target: Its target; None for the video alone.
        style: How to draw the heatmap.

    Returns:
        RGBA image.

    Raises:
        TypeError: As from `kerasight.format_as_image`.
        ValueError: As from `kerasight.format_as_image`.
    """
    stack = stack_of(expl, VIDEO_AXES)
    count = stack.shape[0]
    heat = None if target is None else heat_of(target, VIDEO_AXES, style)
    slices, hottest, note = None, [], ""
    if heat is not None:
        slices = heat_slices(heat.drawn, 0, count, style)
        value = float(heat.values[strongest(heat.values)])
        hottest = [hottest_in(heat.values, stack.shape)[0]] if value else []
        note = "hottest" if value > 0 else "strongest against it"
    factor = enlargement(stack.shape[1:], _LEAST, _MOST)
    panels = [
        Panel(
            draw_slice(
                stack.plane(at),
                None if slices is None else slices[at],
                heat is not None and heat.is_signed,
                style,
                factor,
            ),
            f"frame {at + 1} of {count}",
            note if at in hottest else "",
        )
        for at in evenly(count, _FRAMES, hottest)
    ]
    rows = [panels[at : at + _COLUMNS] for at in range(0, len(panels), _COLUMNS)]
    return sheet(rows, round(0.85 * LETTERS), has_margin=False)
