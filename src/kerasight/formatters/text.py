"""Explanations as plain text, for terminals, logs and screen readers."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, TypeGuard

import numpy as np
from PIL import Image

from kerasight.base import FAINT, Explanation, TargetExplanation, check_explanation
from kerasight.checks import flag, is_real
from kerasight.escapes import printable
from kerasight.formatters.heat import DrawnHeat, usual_outliers
from kerasight.formatters.kinds import KINDS
from kerasight.formatters.places import hottest_in, strongest
from kerasight.formatters.spans import spans_as_lines

if TYPE_CHECKING:
    from jaxtyping import Shaped

__all__ = [
    "fewer_cells",
    "format_as_text",
    "format_score",
    "is_drawable",
    "place_in_words",
    "shape_of_doc",
]

SECTIONS = ("method", "description", "targets")
# Parts that eli5 shows for other models; an explanation of an image has none of them.
_OF_OTHER_MODELS = ("transition_features", "feature_importances", "decision_tree")

_FOR = (" ", "·", "░", "▒", "▓", "█")
_AGAINST = (" ", "-", "~", "=", "≈", "≡")
_MOST_CELLS = 32

_ROWS = ("upper", "", "lower")
_COLUMNS = ("left", "", "right")


def format_as_text(
    expl: Explanation, *, show: Collection[str] = SECTIONS, colour: bool = False
) -> str:
    r"""Describe an explanation in lines of text, with each heatmap as a block of characters.

    Two characters stand for a cell of the heatmap, from a space (0) over ``·░▒▓`` to ``█`` (1). In
    a signed heatmap, evidence against the class goes from a space over ``-~=≈`` to ``≡`` (-1).
    Larger heatmaps are averaged down to 32 cells a side; where pictures cut the heat of the hottest
    (see `kerasight.format_as_image`), that of the hottest 1 % of these is cut. Of a volume or a
    video there is the plane or the frame through the hottest cell.

    A text is wrapped, and below each line is one with these characters below its words. Then come
    the ten words of the greatest weights, with bars.

    Args:
        expl: An explanation, with or without a picture, heatmaps or an error.
        show: Which parts to show: ``"method"`` (with the layer), ``"description"`` and
            ``"targets"``. The names of eli5's parts for other kinds of models are allowed, and show
            nothing. The model's name and the error are always there.
        colour: Whether the words of a text have backgrounds in place of lines with characters: for
            a terminal, as in ``colour=sys.stdout.isatty()``.

    Returns:
        The text, without a newline at its end. Control characters in names and messages are written
        as escapes such as ``\x1b``: a terminal would obey them.

    Raises:
        TypeError: If ``expl`` is no explanation, ``show`` no collection, or ``colour`` no bool.
        ValueError: If ``show`` has a name that is no part of an explanation.
    """
    check_explanation(expl)
    flag("colour", colour)
    if not isinstance(show, Collection):
        raise TypeError(f"show must be a collection of names, got {type(show).__name__}")
    if isinstance(show, str) or any(
        name not in SECTIONS and name not in _OF_OTHER_MODELS for name in show
    ):
        raise ValueError(
            f"show must be a collection of names out of {', '.join(SECTIONS)}, got {show!r}"
        )
    about = [str(expl.estimator)]
    if "method" in show:
        about += [f"method: {expl.method}"] if expl.method else []
        about += [f"layer: {expl.layer}"] if expl.layer else []
    blocks = ["\n".join(map(printable, about))]
    if expl.error:
        blocks.append(f"Error: {_paragraph(expl.error)}")
    if "description" in show and expl.description:
        blocks.append(_paragraph(expl.description))
    if "targets" in show:
        blocks += [_target(expl, target, colour) for target in expl.targets or ()]
    return "\n\n".join(blocks)


def _paragraph(text: str) -> str:
    return printable(text.strip(), keep="\n\t")


def format_score(score: float | None, is_probability: bool = False) -> str:
    """A score as people read it, the same on pages, in texts and in captions.

    Args:
        score: The score, or None.
        is_probability: Whether to tell it in per cent.

    Returns:
        Such as ``"93.1%"``, or ``"12.34"`` if it is no probability. A probability that rounds to 0
        or 1 but is neither is ``"<0.1%"`` or ``">99.9%"``. Empty if there is no score.
    """
    if score is None:
        return ""
    if not is_probability:
        return f"{score:.4g}"
    text = f"{score:.1%}"
    if text == "0.0%" and score > 0:
        return "<0.1%"
    return ">99.9%" if text == "100.0%" and score < 1 else text


def place_in_words(
    heatmap: Shaped[np.ndarray, " ..."] | None,
    kind: str = "picture",
    shape: Sequence[int] | None = None,
) -> str:
    """Where a heatmap is hottest, in words.

    Args:
        heatmap: Array with the axes of the kind, ``(height, width)`` of a picture, with values in
            [0, 1] or [-1, 1], or anything else.
        kind: The ``kind`` of the explanation.
        shape: The lengths of these axes in what the heatmap belongs over; if None, of its own.

    Returns:
        Such as ``"hottest at the upper right"``, of a signal ``"hottest at step 37 of 128"``, of a
        volume ``"hottest at depth 13 of 24, in the centre"``, and the same with ``"frame"`` of a
        video; all count from 1. It begins with ``"strongest against it"`` if the value farthest
        from 0 is negative. ``"blank"`` if all values are 0, ``"nearly blank"`` if all are nearer to
        it than `FAINT`. Empty if this is no heatmap.
    """
    if not is_drawable(heatmap, kind):
        return ""
    cell = strongest(heatmap)
    value = heatmap[cell]
    if abs(value) < FAINT:
        return "nearly blank" if value else "blank"
    shape = heatmap.shape if shape is None else shape
    places = zip(KINDS[kind].cells, hottest_in(heatmap, shape), shape, strict=True)
    words = [f"at {name} {place + 1} of {length}" for name, place, length in places]
    if heatmap.ndim >= 2:
        words[-2:] = [_in_picture(cell[-2:], heatmap.shape[-2:])]
    return f"{'hottest' if value > 0 else 'strongest against it'} {', '.join(words)}"


def _in_picture(cell: Sequence[int], shape: Sequence[int]) -> str:
    """In which ninth of a picture a cell lies."""
    down, across = map(_third, cell, shape)
    if (down, across) == (1, 1):
        return "in the centre"
    if down == 1:
        return f"at the {_COLUMNS[across]}"
    if across == 1:
        return f"at the {('top', '', 'bottom')[down]}"
    return f"at the {_ROWS[down]} {_COLUMNS[across]}"


def _third(place: int, length: int) -> int:
    """The third of ``length`` cells in which a cell's middle lies: 0, 1 or 2."""
    return min(2, int(3 * (place + 0.5) / length))


def is_drawable(
    heatmap: Shaped[np.ndarray, " ..."] | None, kind: str = "picture"
) -> TypeGuard[Shaped[np.ndarray, " ..."]]:
    """Whether this is a heatmap: an array of finite real numbers with the axes of the kind."""
    return (
        isinstance(heatmap, np.ndarray)
        and is_real(heatmap)
        and kind in KINDS
        and heatmap.ndim == len(KINDS[kind].axes)
        and heatmap.size > 0
        and bool(np.isfinite(heatmap).all())
    )


def _target(expl: Explanation, target: TargetExplanation, colour: bool) -> str:
    """A class, its score, and its heatmap or its text, if there is one that can be drawn."""
    title = printable(target.label)
    if target.score is not None:
        title += f"  score {format_score(target.score, target.is_probability)}"
    if target.weighted_spans is not None:
        return "\n".join([title, *spans_as_lines(target, colour)])
    heatmap = target.heatmap
    if not is_drawable(heatmap, expl.kind):
        return title
    shape = shape_of_doc(expl, heatmap)
    where = place_in_words(heatmap, expl.kind, shape)
    if where.endswith("blank"):
        return f"{title}\n{where}"
    cell = strongest(heatmap)
    where += f": {heatmap[cell]:.2f}"
    if heatmap.ndim >= 2:
        row, column = cell[-2:]
        height, width = heatmap.shape[-2:]
        where += f" in row {row + 1}, column {column + 1} of {height} x {width}"
    # Of a stack the slice that the hottest cell is in.
    drawn = heatmap[np.newaxis] if heatmap.ndim == 1 else heatmap[cell[:-2]]
    cells = fewer_cells(drawn, _MOST_CELLS)
    heat = DrawnHeat(cells, target.signed, usual_outliers(heatmap), abs(float(heatmap[cell])))
    return "\n".join([title, where, *_block(heat.drawn)])


def shape_of_doc(expl: Explanation, heatmap: Shaped[np.ndarray, " ..."]) -> tuple[int, ...]:
    """The axes of what a heatmap belongs over: of a picture its own cells, else of the doc."""
    doc = expl.doc
    if isinstance(doc, np.ndarray) and doc.ndim == heatmap.ndim + 1 and doc.size:
        return doc.shape[:-1]
    return heatmap.shape


def _block(cells: Shaped[np.ndarray, "height width"]) -> list[str]:
    """Cells in lines of characters, in a frame, two characters a cell."""
    level = np.rint(np.abs(cells).clip(0, 1) * (len(_FOR) - 1)).astype(int)
    rows = [
        "".join(
            2 * (_FOR if value >= 0 else _AGAINST)[step]
            for value, step in zip(row, steps, strict=True)
        )
        for row, steps in zip(cells, level, strict=True)
    ]
    edge = "─" * (2 * cells.shape[1])
    return [f"┌{edge}┐", *(f"│{row}│" for row in rows), f"└{edge}┘"]


def fewer_cells(
    heatmap: Shaped[np.ndarray, "_ _"], most: int
) -> Shaped[np.ndarray, "rows columns"]:
    """The heatmap with at most ``most`` cells a side; more are averaged."""
    height, width = heatmap.shape
    if max(height, width) <= most:
        return heatmap
    factor = most / max(height, width)
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    values = Image.fromarray(np.ascontiguousarray(heatmap, dtype=np.float32))
    return np.asarray(values.resize(size, resample=Image.Resampling.BOX), dtype=np.float64)
