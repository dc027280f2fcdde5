"""Texts whose words are tinted by their weights: as HTML, in lines of text, as a picture.

A tint is a colour over whatever is behind the text, and the more opaque, the greater the weight. At
most it leaves letters a contrast of 4.5 on the light and on the dark pages that there are here.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

from PIL import Image, ImageDraw

from kerasight.base import (
    FAINT,
    DocWeightedSpans,
    FeatureWeight,
    FeatureWeights,
    TargetExplanation,
    WeightedSpans,
)
from kerasight.escapes import escaped, printable
from kerasight.formatters.sheet import dejavu

__all__ = ["Passage", "scale_of_tints", "spans_as_html", "spans_as_image", "spans_as_lines"]

# The orange and the blue of signed heatmaps, which also those tell apart who see no red or green.
_FOR, _AGAINST = (240, 96, 48), (47, 140, 255)
_MOST_OPAQUE = 0.65

# Words in a table; of lines in a picture, so many that it can still be shown.
_MOST_WORDS, _MOST_LINES = 10, 200

_MINUS = "\u2212"
_COLUMNS, _BAR = 78, 10
_SHADES_FOR, _SHADES_AGAINST = " ·░▒▓█", " -~=≈≡"
# Of the 256 colours that terminals have, for black letters.
_ANSI_FOR, _ANSI_AGAINST = (223, 216, 209, 203, 202), (189, 153, 111, 75, 69)


class Passage(NamedTuple):
    """A text under a caption.

    Attributes:
        target: What its words speak for or against.
        title: The first part of the caption.
        note: The second part.
    """

    target: TargetExplanation
    title: str = ""
    note: str = ""


class _Piece(NamedTuple):
    """A part of a text: a word with its weight, or what is between words."""

    text: str
    weight: float = 0.0
    word: str = ""


# A letter as it is shown, and the weight of the word that it is in.
_Letter = tuple[str, float]


def _docs(target: TargetExplanation) -> list[DocWeightedSpans]:
    spans = target.weighted_spans
    return spans.docs_weighted_spans if isinstance(spans, WeightedSpans) else []


def _pieces(doc: DocWeightedSpans) -> Iterator[_Piece]:
    """All of a text, piece by piece; of words that overlap, the first has what both have."""
    end = 0
    spans = [(start, stop, weight, word) for word, at, weight in doc.spans for start, stop in at]
    for start, stop, weight, word in sorted(spans, key=lambda span: span[:2]):
        start, stop = max(start, end), min(stop, len(doc.document))
        if start >= stop:
            continue
        if start > end:
            yield _Piece(doc.document[end:start])
        yield _Piece(doc.document[start:stop], weight, word)
        end = stop
    if end < len(doc.document):
        yield _Piece(doc.document[end:])


def _strength(weight: float) -> float:
    return min(1.0, abs(weight)) if math.isfinite(weight) else 0.0


def _told(weight: float, signed: bool) -> str:
    return f"{weight:+.2f}" if signed else f"{weight:.2f}"


def _remark(target: TargetExplanation) -> str:
    """What is to be told of a text in which hardly a word has weight; else empty."""
    weights = [_strength(weight) for doc in _docs(target) for _, _, weight in doc.spans]
    peak = max(weights, default=0.0)
    if peak >= FAINT or not _docs(target):
        return ""
    heatmap = target.heatmap
    if heatmap is not None and heatmap.size and abs(heatmap).max() >= FAINT:
        return "hardly a word has weight: the heat is on padding"
    return "nearly blank" if peak else "blank"


def _greatest(features: FeatureWeights) -> tuple[list[FeatureWeight], int]:
    """The words of the greatest weights, from those most for to those most against.

    Returns:
        The words, and how many more there are.
    """
    ranked = sorted([*features.pos, *features.neg], key=lambda one: -abs(one.weight))
    more = len(ranked[_MOST_WORDS:]) + features.pos_remaining + features.neg_remaining
    return sorted(ranked[:_MOST_WORDS], key=lambda one: -one.weight), more


def _called(word: str) -> str:
    """A word as it is shown alone; a space, which is one of a model of characters, as a sign."""
    return word if word.strip() else "␣" * len(word)


# HTML


def spans_as_html(target: TargetExplanation) -> str:
    """The text of a target, its words tinted, and folded below it those of the greatest weights.

    Args:
        target: A target with ``weighted_spans``, and ``feature_weights`` if they are to be shown.

    Returns:
        HTML that shows tints without scripts and styles as well; empty if there are no spans.
    """
    texts = "".join(
        f'<p class="ks-words" dir="auto" style="white-space:pre-wrap">{_marked(doc, target)}</p>'
        for doc in _docs(target)
    )
    remark = _remark(target)
    remark = f'<p class="ks-remark">{escaped(remark.capitalize())}.</p>' if remark else ""
    features = target.feature_weights
    return texts + remark + (_table(features, target.signed) if _has_any(features) else "")


def _has_any(features: object) -> bool:
    return isinstance(features, FeatureWeights) and bool(features.pos or features.neg)


def _marked(doc: DocWeightedSpans, target: TargetExplanation) -> str:
    """A text with an element around each word that has weight, and around what was cut off."""
    pieces = list(_pieces(doc))
    parts = []
    for number, piece in enumerate(pieces):
        text = escaped(piece.text)
        if round(_strength(piece.weight), 2):
            weight = _told(piece.weight, target.signed).replace("-", _MINUS)
            told = escaped(f"{_called(piece.word)}: {weight}")
            kind = "ks-word ks-against" if piece.weight <= -FAINT else "ks-word"
            text = (
                f'<span class="{kind}" title="{told}" style="{_tint(piece.weight)}">{text}</span>'
            )
        elif not piece.word and number and number == len(pieces) - 1 and _has_letters(piece.text):
            text = f'<span class="ks-unread" title="not seen by the model">{text}</span>'
        parts.append(text)
    return "".join(parts)


def _has_letters(text: str) -> bool:
    return any(letter.isalnum() for letter in text)


def _tint(weight: float) -> str:
    """A background, in the old way of writing it, which pages that clean HTML know as well."""
    red, green, blue = _AGAINST if weight < 0 else _FOR
    return f"background-color:rgba({red},{green},{blue},{_MOST_OPAQUE * _strength(weight):.2f})"


def _table(features: FeatureWeights, signed: bool) -> str:
    words, more = _greatest(features)
    rows = "".join(
        f"<tr><td><bdi>{escaped(_called(one.feature))}</bdi></td>"
        f'<td style="{_tint(one.weight)}">{_told(one.weight, signed).replace("-", _MINUS)}</td>'
        f"<td>{_times(one)}</td></tr>"
        for one in words
    )
    rest = f"<p>and {more} more</p>" if more else ""
    return (
        # Without the attribute, JupyterLab takes the keys that open it.
        '<details class="ks-ranking"><summary data-lm-suppress-shortcuts="true">Words by weight'
        '</summary><table><thead><tr><th scope="col">Word</th><th scope="col">Weight</th>'
        f'<th scope="col">Times</th></tr></thead><tbody>{rows}</tbody></table>{rest}</details>'
    )


def _times(one: FeatureWeight) -> str:
    return "" if one.value is None else f"{one.value:g}"


def scale_of_tints(signed: bool) -> str:
    """The tints from the lowest to the greatest weight, as HTML.

    Args:
        signed: Whether weights have a sign.
    """
    low, high, meaning = "0", "1", "from 0, nothing, to 1, the most"
    stops: dict[float, float] = {0: 1e-9, 100: 1.0}
    if signed:
        low, high = f"{_MINUS}1, against", "+1, for"
        meaning = "from -1, most against it, to +1, most for it"
        stops = {0: -1.0, 49.9: -1e-9, 50.1: 1e-9, 100: 1.0}  # the two colours must not mix
    colours = ",".join(f"{_tint(stop).partition(':')[2]} {at}%" for at, stop in stops.items())
    return (
        f'<div class="ks-scale" data-kind="{"signed" if signed else "plain"}">'
        '<span class="ks-label">Weight</span> <span class="ks-bar">'
        f"<span>{low}</span> "
        f'<span class="ks-tints" role="img" aria-label="Tints of the words {meaning}" '
        'style="display:inline-block;width:256px;height:12px;'
        f'background:linear-gradient(90deg,{colours})"></span> <span>{high}</span></span></div>'
    )


# Lines of text


def spans_as_lines(target: TargetExplanation, colour: bool = False) -> list[str]:
    """The text of a target in lines, and below it the words of the greatest weights, with bars.

    Args:
        target: As in `spans_as_html`.
        colour: Whether words have backgrounds, by the codes that terminals obey; if not, a line of
            shades is below each line in which a word has weight.

    Returns:
        The lines, with control characters of the text escaped; none if there are no spans.
    """
    lines = []
    for doc in _docs(target):
        for line in _wrapped(_letters(doc), _COLUMNS, _columns):
            lines.append(
                "".join(map(_coloured, _runs(line)) if colour else (one for one, _ in line))
            )
            shades = "".join(_shade(weight) * int(_columns(one)) for one, weight in line).rstrip()
            if shades and not colour:
                lines.append(shades)
    remark = _remark(target)
    lines += [remark] if remark else []
    features = target.feature_weights
    if not _has_any(features):
        return lines
    words, more = _greatest(features)
    most = max(_finite(one.weight) for one in words)
    lines.append("")
    for one in words:
        shade = (_SHADES_AGAINST if one.weight < 0 else _SHADES_FOR)[-1]
        bar = shade * round(_BAR * _finite(one.weight) / (most or 1))
        times = f" ({one.value:g} times)" if one.value and one.value > 1 else ""
        weight = _told(one.weight, target.signed)
        lines.append(f"{weight:>6}  {bar:{_BAR}}  {printable(_called(one.feature))}{times}")
    return lines + ([f"{'':{_BAR + 10}}and {more} more"] if more else [])


def _finite(weight: float) -> float:
    return abs(weight) if math.isfinite(weight) else 0.0


def _letters(doc: DocWeightedSpans) -> list[_Letter]:
    """A text letter by letter, as it is shown outside of HTML."""
    kept = {"\n": "\n", "\t": "    ", "\r": " "}
    return [
        (kept.get(letter) or printable(letter), piece.weight)
        for piece in _pieces(doc)
        for letter in piece.text
    ]


def _wrapped(
    letters: Sequence[_Letter], width: float, measure: Callable[[str], float]
) -> list[list[_Letter]]:
    """Letters in lines no wider than ``width``, broken at spaces where there are any."""
    lines: list[list[_Letter]] = [[]]
    used = 0.0
    for (ends, is_space), group in groupby(
        letters, key=lambda one: (one[0] == "\n", one[0].isspace())
    ):
        unit = list(group)
        if ends:
            lines += [[] for _ in unit]
            used = 0.0
            continue
        if lines[-1] and used + sum(measure(one) for one, _ in unit) > width:
            if is_space:  # the next word begins a line
                used = width
                continue
            lines.append([])
            used = 0.0
        for letter in unit:
            if lines[-1] and used + measure(letter[0]) > width:
                lines.append([])
                used = 0.0
            lines[-1].append(letter)
            used += measure(letter[0])
    return [_without_end(line) for line in lines]


def _without_end(line: list[_Letter]) -> list[_Letter]:
    end = len(line)
    while end and line[end - 1][0].isspace():
        end -= 1
    return line[:end]


def _columns(text: str) -> int:
    """How many columns of a terminal a letter takes, or the escape in its place."""
    if len(text) > 1:
        return len(text)
    if unicodedata.combining(text) or unicodedata.category(text) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(text) in "WF" else 1


def _level(weight: float, most: int) -> int:
    return round(_strength(weight) * most)


def _shade(weight: float) -> str:
    shades = _SHADES_AGAINST if weight < 0 else _SHADES_FOR
    return shades[_level(weight, len(shades) - 1)]


def _runs(line: Sequence[_Letter]) -> list[_Letter]:
    """Neighbours of one weight, joined."""
    groups = groupby(line, key=lambda one: one[1])
    return [("".join(one for one, _ in group), weight) for weight, group in groups]


def _coloured(run: _Letter) -> str:
    text, weight = run
    colours = _ANSI_AGAINST if weight < 0 else _ANSI_FOR
    level = _level(weight, len(colours))
    return f"\x1b[38;5;16;48;5;{colours[level - 1]}m{text}\x1b[0m" if level else text


# A picture

_WHITE, _BLACK, _GREY = (255, 255, 255), (24, 24, 24), (96, 96, 96)
_SIZE, _LINE, _MARGIN, _WIDTH = 16, 26, 20, 760


def spans_as_image(passages: Sequence[Passage]) -> Image.Image:
    """Texts below one another on white, each under its caption, with their words tinted.

    Args:
        passages: The texts. Of one with more than 200 lines, the rest is left out.

    Returns:
        RGBA image of some 80 letters a line.
    """
    font = dejavu(_SIZE)
    widths: dict[str, float] = {}

    def measure(letter: str) -> float:
        if letter not in widths:
            widths[letter] = font.getlength(letter)
        return widths[letter]

    lines: list[tuple[list[_Letter], tuple[int, int, int]]] = []
    for number, passage in enumerate(passages):
        lines += [([], _BLACK)] if number else []
        text = printable(" · ".join(filter(None, (passage.title, passage.note))))
        caption: list[_Letter] = [(one, 0.0) for one in text]
        lines += [(line, _GREY) for line in _wrapped(caption, _WIDTH, measure) if text]
        for doc in _docs(passage.target):
            wrapped = _wrapped(_letters(doc), _WIDTH, measure)
            lines += [(line, _BLACK) for line in wrapped[:_MOST_LINES]]
            lines += [([("…", 0.0)], _GREY)] if len(wrapped) > _MOST_LINES else []
        remark = _remark(passage.target)
        lines += [([(remark, 0.0)], _GREY)] if remark else []
    if any(passage.target.signed for passage in passages):
        are_numbers = all(isinstance(passage.target.target, str) for passage in passages)
        up, down = ("raises it", "lowers it") if are_numbers else ("for it", "against it")
        lines += [([], _BLACK), ([(up, 1.0), ("   ", 0.0), (down, -1.0)], _BLACK)]
    image = Image.new("RGBA", (_WIDTH + 2 * _MARGIN, _LINE * len(lines) + 2 * _MARGIN), _WHITE)
    draw = ImageDraw.Draw(image)
    for row, (line, ink) in enumerate(lines):
        left, top = float(_MARGIN), _MARGIN + row * _LINE
        for text, weight in _runs(line):
            width = font.getlength(text)
            if _strength(weight):
                box = (left - 1, top + 1, left + width + 1, top + _LINE - 3)
                draw.rounded_rectangle(box, radius=3, fill=_over_white(weight))
            draw.text((left, top + 2), text, fill=ink, font=font)
            left += width
    return image


def _over_white(weight: float) -> tuple[int, int, int]:
    opacity = _MOST_OPAQUE * _strength(weight)
    red, green, blue = (
        round(255 + (part - 255) * opacity) for part in (_AGAINST if weight < 0 else _FOR)
    )
    return red, green, blue
