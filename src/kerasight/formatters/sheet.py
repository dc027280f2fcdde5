"""Pictures in rows and columns, each with a caption below."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

from kerasight.escapes import printable

__all__ = ["LETTERS", "Panel", "dejavu", "enlarged", "sheet"]

# How high the letters of charts are; these are some 1200 pixels wide.
LETTERS = 20

# A caption of some twenty letters needs this many pixels.
_LEAST_SIDE = 160

_WHITE, _BLACK, _GREY = (255, 255, 255, 255), (24, 24, 24, 255), (96, 96, 96, 255)


class Panel(NamedTuple):
    """A picture, or none, with a caption.

    Attributes:
        picture: A picture of any mode.
        title: The first part of its caption, in black.
        note: The second part, in grey.
        is_chart: Whether the picture is a chart, and has its caption above it.
    """

    picture: Image.Image | None
    title: str = ""
    note: str = ""
    is_chart: bool = False


def enlarged(picture: Image.Image) -> Image.Image:
    """A picture enlarged by a whole factor, if it is too small for a legible caption."""
    factor = math.ceil(_LEAST_SIDE / max(picture.size))
    if factor <= 1:
        return picture
    size = (picture.width * factor, picture.height * factor)
    return picture.resize(size, Image.Resampling.NEAREST)


def sheet(
    rows: Sequence[Sequence[Panel]], letters: int | None = None, *, has_margin: bool = True
) -> Image.Image:
    """Lay panels out in rows, on white, columns aligned.

    Args:
        rows: The panels of each row; rows may be of different lengths.
        letters: How high the letters of captions are; if None, they grow with the pictures, but for
            those of charts.
        has_margin: Whether there is room around all panels, as between them.

    Returns:
        RGBA image.
    """
    widths = _widths(rows)
    has_charts = any(panel.is_chart for row in rows for panel in row)
    size = letters or (LETTERS if has_charts else max(13, round(min(widths) / 15)))
    font = dejavu(size)
    gap, space, line = round(0.8 * size), round(0.4 * size), round(1.35 * size)
    captions = [[_caption(panel, widths[i], font) for i, panel in enumerate(row)] for row in rows]

    def height_of_captions(number: int, is_above: bool) -> int:
        counts = [
            len(lines)
            for panel, lines in zip(rows[number], captions[number], strict=True)
            if panel.is_chart == is_above
        ]
        most = max(counts, default=0)
        # Below a picture there is room for a caption even where there is none.
        return space + line * most if most or (counts and not is_above) else 0

    margin = gap if has_margin else 0
    above = [height_of_captions(number, True) for number in range(len(rows))]
    below = [height_of_captions(number, False) for number in range(len(rows))]
    tallest = [max(panel.picture.height if panel.picture else 0 for panel in row) for row in rows]
    heights = [sum(parts) for parts in zip(above, tallest, below, strict=True)]
    whole = Image.new(
        "RGBA",
        (
            sum(widths) + gap * (len(widths) - 1) + 2 * margin,
            sum(heights) + gap * (len(heights) - 1) + 2 * margin,
        ),
        _WHITE,
    )
    draw = ImageDraw.Draw(whole)
    top = margin
    for number, row in enumerate(rows):
        left = margin
        at = top + above[number]
        for panel, lines, width in zip(row, captions[number], widths, strict=False):
            if panel.picture is not None:
                indent = (width - panel.picture.width) // 2
                whole.alpha_composite(panel.picture.convert("RGBA"), (left + indent, at))
            first = top if panel.is_chart else at + tallest[number] + space
            for place, (text, colour) in enumerate(lines):
                indent = round((width - font.getlength(text)) / 2)
                draw.text((left + indent, first + place * line), text, fill=colour, font=font)
            left += width + gap
        top += heights[number] + gap
    return whole


def _widths(rows: Sequence[Sequence[Panel]]) -> list[int]:
    """The width of each column."""
    widths = [_LEAST_SIDE] * max(map(len, rows))
    for row in rows:
        for column, panel in enumerate(row):
            if panel.picture is not None:
                widths[column] = max(widths[column], panel.picture.width)
    return widths


def _caption(
    panel: Panel, width: int, font: ImageFont.FreeTypeFont
) -> list[tuple[str, tuple[int, int, int, int]]]:
    """The lines of a caption with their colours."""
    title = [(line, _BLACK) for line in _wrapped(panel.title, width, font)]
    return title + [(line, _GREY) for line in _wrapped(panel.note, width, font)]


def _wrapped(text: str, width: int, font: ImageFont.FreeTypeFont, most: int = 3) -> list[str]:
    """Text in at most ``most`` lines no wider than ``width``; the rest is left out."""
    # Letters beyond the longest line would cost time, and nobody would see them.
    longest = 32 + round(16 * width / font.size)
    lines: list[str] = []
    for word in text.split():
        part = printable(word[:longest])
        joined = f"{lines[-1]} {part}" if lines else part
        if lines and font.getlength(joined) <= width:
            lines[-1] = joined
        else:
            lines.append(part)
        if len(lines) > most:
            break
    is_cut = len(lines) > most
    lines = lines[:most]
    for number, line in enumerate(lines):
        ends = "…" if is_cut and number == most - 1 else ""
        if font.getlength(line + ends) > width:
            lengths = [line[:kept] + "…" for kept in range(1, len(line) + 1)]
            line, ends = line[: bisect_right(lengths, float(width), key=font.getlength)], "…"
        lines[number] = line + ends
    return lines


@lru_cache(maxsize=8)
def dejavu(size: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which comes with Matplotlib and has most alphabets."""
    from matplotlib import font_manager

    return ImageFont.truetype(font_manager.findfont("DejaVu Sans"), size)
