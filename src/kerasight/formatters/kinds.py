"""What docs there are, and how each kind is drawn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from PIL import Image

from kerasight.formatters.heat import heat_of
from kerasight.formatters.outlines import outline
from kerasight.formatters.overlay import Style, overlay
from kerasight.formatters.pixels import image_of
from kerasight.formatters.signal import SIGNAL_AXES, lines
from kerasight.formatters.video import VIDEO_AXES, strip
from kerasight.formatters.volume import VOLUME_AXES, three_planes

if TYPE_CHECKING:
    from kerasight.base import Explanation, TargetExplanation

__all__ = ["KINDS", "Kind", "drawn_kind", "overlaid_picture"]


@dataclass(frozen=True)
class Kind:
    """How docs of a kind are drawn.

    Attributes:
        axes: The axes of a heatmap.
        still: Draws a doc, with the heatmap of a target over it if there is one, as an RGBA image.
        cells: What an index along each axis is called.
        is_chart: Whether ``still`` draws a chart, larger than the doc and with letters in it.
        is_stack: Whether one can move through it, slice by slice along the first axis.
    """

    axes: tuple[str, ...]
    still: Callable[[Explanation, TargetExplanation | None, Style], Image.Image]
    cells: tuple[str, ...]
    is_chart: bool = True
    is_stack: bool = False


def overlaid_picture(
    expl: Explanation, target: TargetExplanation | None, style: Style
) -> Image.Image:
    """The picture of an explanation with a heatmap over it, and the outline of what is explained.

    Args:
        expl: An explanation with an ``image``.
        target: Its target; None for the picture alone.
        style: How to draw the heatmap.

    Returns:
        A new RGBA image of the size of the picture.

    Raises:
        TypeError: As from `kerasight.format_as_image`.
        ValueError: As from `kerasight.format_as_image`.
    """
    image = image_of(expl)
    if target is not None:
        heat = heat_of(target, KINDS["picture"].axes, style)
        overlay(image, heat.drawn, heat.is_signed, style)
        drawn = outline(target, image.size)
        if drawn is not None:
            image.alpha_composite(drawn)
    return image


KINDS = {
    "picture": Kind(("height", "width"), overlaid_picture, ("row", "column"), is_chart=False),
    "signal": Kind(SIGNAL_AXES, lines, ("step",)),
    "volume": Kind(VOLUME_AXES, three_planes, ("depth", "row", "column"), is_stack=True),
    "video": Kind(VIDEO_AXES, strip, ("frame", "row", "column"), is_stack=True),
}


def drawn_kind(expl: Explanation) -> Kind:
    """The kind of an explanation; raises ValueError if docs of its kind are not drawn."""
    if expl.kind not in KINDS:
        raise ValueError(
            f"explanations of kind {expl.kind!r} cannot be drawn; those that can are "
            f"{', '.join(KINDS)}"
        )
    return KINDS[expl.kind]
