"""The still picture of a volume: three planes through its hottest place."""

from __future__ import annotations

from typing import TYPE_CHECKING

from PIL import Image, ImageDraw

from kerasight.formatters.heat import heat_of
from kerasight.formatters.overlay import Style
from kerasight.formatters.places import hottest_in
from kerasight.formatters.sheet import LETTERS, Panel, sheet
from kerasight.formatters.stack import draw_slice, enlargement, heat_slices, stack_of

if TYPE_CHECKING:
    from kerasight.base import Explanation, TargetExplanation

__all__ = ["VOLUME_AXES", "three_planes"]

VOLUME_AXES = ("depth", "height", "width")

# Lengths of the longest axis of a volume on the picture.
_LEAST, _MOST = 360, 640
# The marks around a plane that show where the other two cut it.
_MARK, _SPACE, _GREY = 10, 3, (96, 96, 96, 255)


def three_planes(expl: Explanation, target: TargetExplanation | None, style: Style) -> Image.Image:
    """The planes across each axis through the hottest place, side by side, in equal scale.

    Below each stands where it cuts its axis, counted from 1; marks around it show where the others
    cut it.

    Args:
        expl: An explanation with a volume ``(depth, height, width, channels)`` as its ``doc``.
        target: Its target; None for the volume alone. Then, and if the heatmap is blank, the planes
            go through the middle.
        style: How to draw the heatmap.

    Returns:
        RGBA image.

    Raises:
        TypeError: As from `kerasight.format_as_image`.
        ValueError: As from `kerasight.format_as_image`.
    """
    stack = stack_of(expl, VOLUME_AXES)
    shape = stack.shape
    heat = None if target is None else heat_of(target, VOLUME_AXES, style)
    place = tuple(length // 2 for length in shape)
    if heat is not None and heat.values.any():
        place = hottest_in(heat.values, shape)
    drawn = None if heat is None else heat.drawn
    is_signed = heat is not None and heat.is_signed
    factor = enlargement(shape, _LEAST, _MOST)
    panels = []
    for axis, name in enumerate(VOLUME_AXES):
        at = place[axis]
        cut = None if drawn is None else heat_slices(drawn, axis, shape[axis], style)[at]
        plane = draw_slice(stack.plane(at, axis), cut, is_signed, style, factor)
        down, across = (other for other in range(3) if other != axis)
        shares = [(place[other] + 0.5) / shape[other] for other in (across, down)]
        panels.append(
            Panel(
                _marked(plane, *shares),
                f"{name} {at + 1} of {shape[axis]}",
                f"{VOLUME_AXES[down]} ↓, {VOLUME_AXES[across]} →",
            )
        )
    return sheet([panels], round(0.85 * LETTERS), has_margin=False)


def _marked(plane: Image.Image, across: float, down: float) -> Image.Image:
    """A plane with marks around it at shares of its width and height."""
    edge = _MARK + _SPACE
    whole = Image.new("RGBA", (plane.width + 2 * edge, plane.height + 2 * edge), (0, 0, 0, 0))
    whole.paste(plane, (edge, edge))
    draw = ImageDraw.Draw(whole)
    x, y = edge + int(across * plane.width), edge + int(down * plane.height)
    for start in (0, whole.height - _MARK):
        draw.rectangle((x - 1, start, x, start + _MARK - 1), fill=_GREY)
    for start in (0, whole.width - _MARK):
        draw.rectangle((start, y - 1, start + _MARK - 1, y), fill=_GREY)
    return whole
