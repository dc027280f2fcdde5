"""Tables that fit the terminal: names and numbers are never broken, since people copy them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from kerasight.escapes import printable

__all__ = ["MOST_ROWS", "OverlayRow", "print_numbers", "print_overlays"]

MOST_ROWS = 200
"""The lines of a table of overlays, at most: nobody reads more of them."""

_GAP = 3  # columns between the cells of a table
_WIDE = 120  # columns of a terminal, in which all headings of numbers have room


class OverlayRow(NamedTuple):
    """The cells of an overlay's line; where there is none, its path is empty."""

    image: str
    label: str
    score: str
    layer: str
    overlay: str = ""


def print_overlays(out: Console, rows: Sequence[OverlayRow], more: int = 0) -> None:
    """Print the overlays as a table, or one below the other if the table is too wide.

    If there is no room for the layer in each line, and all overlays share it, it is printed once.

    Args:
        out: Where to print.
        rows: The overlays.
        more: How many others there are, which are only counted.
    """
    rows = [OverlayRow(*map(printable, row)) for row in rows]
    layers = {row.layer for row in rows}
    headings = ["Image", "Class", "Score", "Layer", "Overlay"]
    lines = [list(row) for row in rows]
    if not rows[0].overlay:
        for line in [headings, *lines]:
            del line[4]
    if _width([headings, *lines]) > out.width and len(layers) == 1:
        for line in [headings, *lines]:
            del line[3]
    if _width([headings, *lines]) <= out.width:
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
        for heading in headings:
            justify = "right" if heading == "Score" else "left"
            table.add_column(heading, justify=justify, no_wrap=True)  # type: ignore[arg-type]
        for line in lines:
            table.add_row(*map(Text, line))
        out.print(table)
    else:
        _print_below(out, rows, with_layers=len(layers) > 1)
    if more:
        out.print(f"... and {more:,} more")
    if "Layer" not in headings:
        out.print(Text(f"\nLayer: {rows[0].layer}"), soft_wrap=True)


def _width(lines: Sequence[Sequence[str]]) -> int:
    """How wide a table of these cells is."""
    columns = zip(*lines, strict=True)
    widths = [max(map(cell_len, column)) for column in columns]
    return sum(widths) + _GAP * (len(widths) - 1)


def _print_below(out: Console, rows: Sequence[OverlayRow], with_layers: bool) -> None:
    image = None
    longest = max(len(row.score) for row in rows)
    for row in rows:
        if row.image != image:
            image = row.image
            out.print(Text(image, style="bold"), soft_wrap=True)
        about = [row.score.rjust(longest), row.label, *([row.layer] if with_layers else [])]
        # The terminal breaks what is still too long, and copies it in one piece.
        below = f"\n  {row.overlay}" if row.overlay else ""
        out.print(Text(f"  {'  '.join(about)}{below}"), soft_wrap=True)


def print_numbers(
    out: Console, headings: Sequence[str], short: Sequence[str], lines: Sequence[Sequence[str]]
) -> None:
    """Print a table of numbers, in several parts if it is too wide.

    Args:
        out: Where to print.
        headings: The headings; each part has the first column.
        short: Shorter headings for a narrow terminal.
        lines: The cells. Those that begin with an asterisk are bold.
    """
    is_narrow = out.width < _WIDE
    head = short if is_narrow else headings
    if is_narrow:  # errors stand below their means
        lines = [[cell.replace(" ±", "\n±") for cell in line] for line in lines]
    columns = [list(column) for column in zip(head, *lines, strict=True)]
    numbers = [max(map(cell_len, "\n".join(column[1:]).split("\n"))) for column in columns]
    whole = [
        max(cell_len(column[0]), least) for column, least in zip(columns, numbers, strict=True)
    ]
    # A heading may be broken between its words.
    widths = [
        max(least, *map(cell_len, column[0].split()))
        for column, least in zip(columns, numbers, strict=True)
    ]
    gap = 1 if is_narrow else _GAP
    for number, part in enumerate(_parts(widths[1:], out.width - widths[0], gap)):
        table = Table(
            box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, (gap - 1) // 2)
        )
        table.add_column(head[0], no_wrap=True)
        # Where there is little room left, Rich would break numbers to have some of a heading whole.
        has_room = whole[0] + sum(gap + whole[place + 1] for place in part) <= out.width
        for place in part:
            width = (whole if has_room else widths)[place + 1]
            table.add_column(head[place + 1], justify="right", overflow="fold", width=width)
        for line in lines:
            cells = [line[0], *(line[place + 1] for place in part)]
            table.add_row(
                *(Text(cell, style="bold" if cell.startswith("*") else "") for cell in cells)
            )
        if number:
            out.print()
        out.print(table)


def _parts(widths: Sequence[int], room: int, gap: int) -> Iterator[list[int]]:
    """The columns that fit beside each other, part after part."""
    part: list[int] = []
    used = 0
    for place, width in enumerate(widths):
        if part and used + gap + width > room:
            yield part
            part, used = [], 0
        part.append(place)
        used += gap + width
    yield part
