"""Explanations as plain text, for terminals, logs and screen readers."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, TypeGuard

import numpy as np
from PIL import Image

from kerasight.base import FAINT, Explanation, TargetExplanation, check_explanation
from kerasight.checks import flag, is_real
from kerasight.escapes import printable
from kerasight.formatters.spans import spans_as_lines

if TYPE_CHECKING:
    from jaxtyping import Shaped

__all__ = ["fewer_cells", "format_as_text", "format_score", "is_drawable", "place_in_words"]

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
    Larger heatmaps are averaged down to 32 cells a side.

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
        blocks += [_target(target, colour) for target in expl.targets or ()]
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


def place_in_words(heatmap: Shaped[np.ndarray, " ..."] | None) -> str:
    """Where a heatmap is hottest, in words.

    Args:
        heatmap: Array ``(height, width)`` with values in [0, 1] or [-1, 1], or anything else.

    Returns:
        Such as ``"hottest at the upper right"``, or ``"strongest against it at the left"`` if the
        value farthest from 0 is negative. ``"blank"`` if all values are 0, ``"nearly blank"`` if
        all are nearer to it than `FAINT`. Empty if this is no heatmap.
    """
    if not is_drawable(heatmap):
        return ""
    row, column = strongest(heatmap)
    value = heatmap[row, column]
    if abs(value) < FAINT:
        return "nearly blank" if value else "blank"
    across, down = _third(column, heatmap.shape[1]), _third(row, heatmap.shape[0])
    if (down, across) == (1, 1):
        place = "in the centre"
    elif down == 1:
        place = f"at the {_COLUMNS[across]}"
    elif across == 1:
        place = f"at the {('top', '', 'bottom')[down]}"
    else:
        place = f"at the {_ROWS[down]} {_COLUMNS[across]}"
    return f"{'hottest' if value > 0 else 'strongest against it'} {place}"


def strongest(heatmap: Shaped[np.ndarray, "height width"]) -> tuple[int, int]:
    """Row and column of the cell with the value farthest from 0, the first of equals."""
    row, column = np.unravel_index(int(np.abs(heatmap).argmax()), heatmap.shape)
    return int(row), int(column)


def _third(place: int, length: int) -> int:
    """The third of ``length`` cells in which a cell's middle lies: 0, 1 or 2."""
    return min(2, int(3 * (place + 0.5) / length))


def is_drawable(
    heatmap: Shaped[np.ndarray, " ..."] | None,
) -> TypeGuard[Shaped[np.ndarray, "height width"]]:
    """Whether this is a heatmap: an array ``(height, width)`` of finite real numbers."""
    return (
        isinstance(heatmap, np.ndarray)
        and is_real(heatmap)
        and heatmap.ndim == 2
        and heatmap.size > 0
        and bool(np.isfinite(heatmap).all())
    )


def _target(target: TargetExplanation, colour: bool) -> str:
    """A class, its score, and its heatmap or its text, if there is one that can be drawn."""
    title = printable(target.label)
    if target.score is not None:
        title += f"  score {format_score(target.score, target.is_probability)}"
    if target.weighted_spans is not None:
        return "\n".join([title, *spans_as_lines(target, colour)])
    heatmap = target.heatmap
    if not is_drawable(heatmap):
        return title
    row, column = strongest(heatmap)
    where = place_in_words(heatmap)
    is_blank = where.endswith("blank")
    if not is_blank:
        where += f": {heatmap[row, column]:.2f} in row {row + 1}, column {column + 1}"
    height, width = heatmap.shape
    lines = [title, where if is_blank else f"{where} of {height} x {width}"]
    if not is_blank:
        lines += _block(heatmap)
    return "\n".join(lines)


def _block(heatmap: Shaped[np.ndarray, "height width"]) -> list[str]:
    """A heatmap in lines of characters, in a frame, two characters a cell."""
    cells = fewer_cells(heatmap, _MOST_CELLS)
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
