"""Explanations as HTML: a fragment for a notebook, a page for a file, a report of many.

All of it is self-contained: pictures, styles and scripts are in the text, and nothing is fetched.

Without styles and scripts, as on GitHub or in a notebook that is not trusted, there is the overlay
of each class with a caption. The script makes the classes a choice and replaces the overlays by the
picture. It draws the heatmap over the picture from its cells, as `format_as_image` does, so that
users can change its opacity, read its values and enlarge it. A volume or a video is a picture for
each of its slices.

No element has an id, so that any number of fragments can stand on one page. The same explanation is
always the same text.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import IO, TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import Image

from kerasight.base import Explanation, TargetExplanation, check_explanation
from kerasight.escapes import escaped
from kerasight.files import whole_file
from kerasight.formatters.document import (
    asset,
    base64_of,
    breakable,
    data_uri,
    head,
    img,
    prose,
)
from kerasight.formatters.heat import DrawnHeat, heat_of
from kerasight.formatters.kinds import KINDS, drawn_kind
from kerasight.formatters.outlines import outline
from kerasight.formatters.overlay import Style, overlay
from kerasight.formatters.pixels import (
    Colormap,
    ResamplingFilter,
    greatest_opacity,
    image_of,
    pillow_filter,
)
from kerasight.formatters.places import evenly, hottest_in
from kerasight.formatters.sheet import enlarged
from kerasight.formatters.spans import scale_of_tints, spans_as_html
from kerasight.formatters.stack import Stack, draw_slice, enlargement, heat_slices, stack_of
from kerasight.formatters.text import (
    fewer_cells,
    format_score,
    is_drawable,
    place_in_words,
    shape_of_doc,
)

if TYPE_CHECKING:
    from jaxtyping import Int16, UInt8

__all__ = ["format_as_html", "format_html_styles", "write_report"]

_LANCZOS = Image.Resampling.LANCZOS

# Colours in the script's table: twice as many as a colormap of Matplotlib has, because the table
# holds the opacity too, which is to be right to a byte.
_TABLE_SIZE = 512
# Steps within a cell in the script's table of a filter.
_PLACES = 96


@dataclass(frozen=True)
class _Look:
    """How heatmaps are drawn, and how many pixels and cells a page holds at most."""

    style: Style
    side: int
    cells: int
    quality: int


# A picture is some 400 pixels wide in a notebook and some 300 in a report; many screens have two by
# two pixels for each of these.
_FRAGMENT = {"side": 640, "cells": 256, "quality": 85}
_REPORT = {"side": 448, "cells": 128, "quality": 80}
# Of the overlays in a report for readers without scripts.
_STILL_SIDE, _STILL_QUALITY = 320, 70

# Of a volume or a video: how many slices, how large each, and how many cells of heat.
_SLICES, _SLICE_LEAST, _SLICE_MOST, _SLICE_CELLS = 64, 240, 320, 32

# Without this on the element with the focus, JupyterLab takes the arrow keys.
_OWN_KEYS = 'data-lm-suppress-shortcuts="true"'


def format_as_html(
    expl: Explanation,
    *,
    resampling_filter: ResamplingFilter = _LANCZOS,
    colormap: Colormap | None = None,
    alpha_limit: float | None = 0.65,
    outliers: float | None = None,
    absolute: bool = False,
    blur: float = 0,
    title: str | None = None,
    page: bool = False,
    include_styles: bool = True,
) -> str:
    """Show an explanation in HTML that needs nothing but itself.

    A text is shown once for each class, each word on a tint: orange if it speaks for the class,
    blue if against it, as opaque as its weight is great. The weight is told under the pointer, and
    the words of the greatest weights in a table that unfolds.

    Of a picture, it shows that with the heatmap over it, the classes with their scores to choose
    from, and a slider for the heatmap's opacity. It tells the heat of the cell under the pointer,
    or of the cell that the arrow keys lead to; rows and columns count from 1. A click or Enter
    enlarges the picture. Without scripts the overlays of all classes stand side by side, with the
    opacity of ``alpha_limit``.

    One moves through a volume along its depth, and through a video frame by frame, with a slider or
    by playing it; of more than 64 slices, 64 are there, evenly chosen, the hottest among them. It
    begins with the hottest. A signal is a chart, and so are the others without scripts: what
    `kerasight.format_as_image` draws.

    Larger pictures are reduced to 640 pixels a side, larger heatmaps averaged down to 256 cells a
    side. EXIF and other data of the picture file are left out.

    Args:
        expl: An explanation. If there is nothing to draw on, or it has no targets, the rest is
            shown, with the ``error`` if there is one.
        resampling_filter: As in `kerasight.format_as_image`.
        colormap: As in `kerasight.format_as_image`; None for its default. A function must give
            equal values equal colours, wherever they stand in the array.
        alpha_limit: As in `kerasight.format_as_image`; the slider starts there.
        outliers: As in `kerasight.format_as_image`; the heat that is told is not cut. Of a heatmap
            with fewer cells on the page, it is the share of these.
        absolute: As in `kerasight.format_as_image`; so is the heat that is told.
        blur: As in `kerasight.format_as_image`; so is the heat that is told.
        title: The heading; if None, the name of the model.
        page: True returns a whole document, to be written to a file in UTF-8; False a fragment of
            one.
        include_styles: Whether a fragment contains the styles and the script. If not, put them once
            on its page: see `format_html_styles`.

    Returns:
        HTML with all names and messages escaped.

    Raises:
        TypeError: As from `kerasight.format_as_image`.
        ValueError: As from `kerasight.format_as_image`, or if a page is to have no styles.
    """
    check_explanation(expl)
    if page and not include_styles:
        raise ValueError("a page has its styles in itself: leave include_styles at True")
    look = _Look(
        Style(resampling_filter, colormap, alpha_limit, outliers, absolute, blur), **_FRAGMENT
    )
    heading = expl.estimator if title is None else title
    style, script = _styles() if include_styles and not page else ("", "")
    about = f"{expl.method or 'Explanation'} of {expl.estimator}"
    body = _fragment(expl, heading, look, "h1" if page else "p")
    fragment = (
        f'<div class="kerasight" data-kerasight="{_revision()}" role="group" '
        f'aria-label="{escaped(about)}">\n'
        f"{style}{body}{script if 'ks-data' in body else ''}</div>"
    )
    if not page:
        return fragment
    style, script = _styles()
    style = style.replace("</style>", f"\n{asset('page.css')}</style>")
    top = head(about if title is None else title, style, script)
    return f"{top}<body>\n<main>\n{fragment}\n</main>\n</body>\n</html>\n"


def format_html_styles() -> str:
    """The styles and the script for fragments with ``include_styles=False``.

    Returns:
        A ``<style>`` and a ``<script>`` element, to put once on the page, before or after the
        fragments.
    """
    return "".join(_styles())


def write_report(
    expls: Iterable[Explanation],
    file: str | os.PathLike[str] | IO[str],
    *,
    names: Iterable[object] | None = None,
    title: str = "Where the model looked",
    facts: Mapping[str, object] | None = None,
    resampling_filter: ResamplingFilter = _LANCZOS,
    colormap: Colormap | None = None,
    alpha_limit: float | None = 0.65,
    outliers: float | None = None,
    absolute: bool = False,
    blur: float = 0,
) -> int:
    """Write many explanations to one HTML page, to be searched, sorted and filtered.

    Each is written as it comes; memory holds one at a time. The file takes its place once it is
    whole: if the stream breaks off, the earlier file stays. In the browser, a picture is unpacked
    when it comes into view and freed when it leaves it. Without scripts there is the overlay of the
    first class of each.

    Larger pictures are reduced to 448 pixels a side, larger heatmaps averaged down to 128 cells. Of
    signals, volumes and videos there is what `kerasight.format_as_image` draws of the first class.

    Args:
        expls: Explanations as `format_as_html` takes them. If one has an ``error``, the page shows
            that.
        file: A path, or a text file open for writing in UTF-8; if the stream breaks off, such a
            file keeps what was written.
        names: A name for each, such as the path of the picture; if None, they are numbered.
        title: The title of the page.
        facts: What the page tells about itself, such as ``{"Model": "cats.keras", "Date":
            "2026-11-21"}``. The version of kerasight is always there.
        resampling_filter: As in `kerasight.format_as_image`.
        colormap: As in `format_as_html`.
        alpha_limit: As in `format_as_html`.
        outliers: As in `format_as_html`.
        absolute: As in `format_as_html`.
        blur: As in `format_as_html`.

    Returns:
        How many explanations were written.

    Raises:
        TypeError: As from `kerasight.format_as_image`, or if ``expls`` or ``names`` cannot be
            iterated over, or ``file`` is neither a path nor open for text.
        ValueError: As from `kerasight.format_as_image`, or if there are more or fewer names than
            explanations.
    """
    if isinstance(expls, str | bytes | Explanation) or not isinstance(expls, Iterable):
        hint = ": put it into a list" if isinstance(expls, Explanation) else ""
        raise TypeError(
            "expls must be explanations to iterate over, a list or a stream of them, "
            f"got {type(expls).__name__}{hint}"
        )
    if facts is not None and not isinstance(facts, Mapping):
        raise TypeError(f"facts must be a dict of names and values, got {type(facts).__name__}")
    if names is not None and (isinstance(names, str | bytes) or not isinstance(names, Iterable)):
        raise TypeError(f"names must be a list of names, got {type(names).__name__}")
    look = _Look(
        Style(resampling_filter, colormap, alpha_limit, outliers, absolute, blur), **_REPORT
    )
    named = _named(expls, names)
    if isinstance(file, str | os.PathLike):
        with whole_file(file) as out:
            return _write(named, out, _report_start(title, facts or {}, look), look)
    if isinstance(file, io.RawIOBase | io.BufferedIOBase) or not hasattr(file, "write"):
        raise TypeError(
            f"file must be a path, or a text file open for writing, got {type(file).__name__}"
        )
    return _write(named, file, _report_start(title, facts or {}, look), look)


def _write(named: Iterable[tuple[str, Explanation]], out: IO[str], start: str, look: _Look) -> int:
    """The page, card by card."""
    count, usual = 0, ""
    kinds: set[_Kind] = set()
    tables: set[str] = set()
    out.write(start)
    for name, expl in named:
        count += 1
        check_explanation(expl, f"explanation {count}")
        about = _meta(expl, with_estimator=True)
        if not usual and not expl.error:
            usual = about
            out.write(f'<p class="ks-meta">{breakable(about)}</p>\n')
        # Charts are as they are: the script draws over pictures alone.
        for kind in _kinds(expl, look) if expl.doc is None else []:
            if kind in kinds:
                continue
            has_table = kind.is_tinted or kind.colours in tables
            out.write(f"{_scale(kind, look)}{'' if has_table else _table(kind.colours, look)}\n")
            kinds.add(kind)
            if not kind.is_tinted:
                tables.add(kind.colours)
        out.write(_card(expl, name, "" if usual.startswith(about) else about, look))
    out.write("</section>\n</main>\n</body>\n</html>\n")
    return count


def _named(
    expls: Iterable[Explanation], names: Iterable[object] | None
) -> Iterator[tuple[str, Explanation]]:
    """Explanations with their names, one at a time; raises if there are not as many of each."""
    if names is None:
        yield from ((f"Picture {number}", expl) for number, expl in enumerate(expls, 1))
        return
    titles = iter(names)
    number, missing = 0, object()
    for number, expl in enumerate(expls, 1):
        name = next(titles, missing)
        if name is missing:
            raise ValueError(f"there must be a name for each explanation, got {number - 1}")
        yield str(name), expl
    if next(titles, missing) is not missing:
        raise ValueError(f"there are more names than the {number} explanations")


# The parts of a fragment


def _fragment(expl: Explanation, heading: str, look: _Look, level: str) -> str:
    """The markup of an explanation: a form, so that its radio buttons are a group.

    Its method keeps it from being sent anywhere. ``level`` is the element of the heading; a
    notebook needs one that stays out of the table of contents.
    """
    targets = expl.targets or []
    meta = _meta(expl, with_estimator=heading != expl.estimator)
    parts = [
        '<div class="ks-head">',
        f'<{level} class="ks-title"><bdi>{breakable(heading)}</bdi></{level}>',
        f'<p class="ks-meta">{breakable(meta)}</p>' if meta else "",
        _error(expl),
        "</div>",
    ]
    image, stills = _pictures(expl, look)
    width, layout, live = 22.0, "ks-stacked", ""
    if image is not None:
        aspect = image.width / image.height
        # Pictures of most shapes get the same area beside the text, panoramas a row of their own.
        width = max(8.0, min(width * math.sqrt(aspect), 30 * aspect))
        live = layout = "ks-stacked" if aspect > 2 else "ks-beside"
    if stills:
        # A chart has letters in it, which take its whole width to be read.
        is_chart = KINDS[expl.kind].is_chart
        layout = "ks-stacked" if is_chart else layout
        name = "ks-stills ks-wide" if is_chart else "ks-stills"
        parts.append(f'<div class="{name}">{"".join(stills)}</div>')
    kinds = _kinds(expl, look)
    scales = "".join(_scale(kind, look) for kind in kinds)
    texts = _texts(expl, scales)
    # Hidden is what only repeats captions, until the script takes those away.
    classes = "" if texts else _classes(targets, is_hidden=bool(stills))
    parts += [texts, '<div class="ks-panel">', classes]
    if image is not None:
        parts.append(f'<div class="ks-dials">{scales}</div>')
    if expl.description:
        text = prose(expl.description.strip())
        parts.append(f"<details><summary {_OWN_KEYS}>Method</summary><p>{text}</p></details>")
    parts.append("</div>")
    if image is not None and (targets or expl.image is None):
        parts.append(_data(expl, image, look))
        parts += [_table(one, look) for one in dict.fromkeys(kind.colours for kind in kinds)]
    then = "" if live in ("", layout) else f' data-live="{live}"'
    return (
        f'<form class="ks-view {layout}" method="dialog" style="--ks-width:{width:.1f}rem"{then}>'
        f"{''.join(parts)}</form>\n"
    )


def _pictures(expl: Explanation, look: _Look) -> tuple[Image.Image | None, list[str]]:
    """The picture that the script draws heatmaps over, if there is one, and the stills."""
    targets: Sequence[TargetExplanation | None] = expl.targets or [None]
    if expl.image is None and expl.doc is None:
        return None, []
    kind = drawn_kind(expl)
    if not kind.is_chart:
        expl = replace(expl, image=_fitted(image_of(expl), look.side))
    stills = [_still(_draw(expl, target, look.style), expl, target, look) for target in targets]
    if kind.is_stack:
        stack = stack_of(expl, kind.axes)
        return draw_slice(stack.plane(0), None, False, look.style, _factor(stack)), stills
    return expl.image, stills


def _draw(expl: Explanation, target: TargetExplanation | None, style: Style) -> Image.Image:
    """The still picture; without the heatmap where there is none."""
    has_heatmap = target is not None and target.heatmap is not None
    return drawn_kind(expl).still(expl, target if has_heatmap else None, style)


def _error(expl: Explanation) -> str:
    return f'<p class="ks-error">{prose(expl.error.strip())}</p>' if expl.error else ""


def _meta(expl: Explanation, *, with_estimator: bool) -> str:
    """Model, method, layer and size of the heatmaps in a line."""
    parts = [expl.estimator] if with_estimator else []
    parts += [expl.method] if expl.method else []
    parts += [f"layer\u00a0{expl.layer}"] if expl.layer else []
    heatmaps = [item.heatmap for item in expl.targets or () if is_drawable(item.heatmap, expl.kind)]
    if heatmaps:
        parts.append("\u00a0\u00d7\u00a0".join(map(str, heatmaps[0].shape)) + "\u00a0cells")
    return " · ".join(parts)


def _still(
    drawn: Image.Image, expl: Explanation, target: TargetExplanation | None, look: _Look
) -> str:
    """An overlay with a caption, side by side with the others where there are no styles."""
    caption = "" if target is None else breakable(_caption(target))
    return (
        '<figure class="ks-still" style="display:inline-block;margin:0 12px 12px 0">'
        f"{img(drawn, _alt(expl, target), _quality(expl, look.quality))}"
        f"<figcaption><bdi>{caption}</bdi></figcaption></figure>"
    )


def _quality(expl: Explanation, quality: int) -> int | None:
    """The quality of a JPEG; None for charts of lines, which a JPEG blurs."""
    return None if expl.kind == "signal" else quality


def _caption(target: TargetExplanation) -> str:
    score = format_score(target.score, target.is_probability)
    return f"{target.label}, score {score}" if score else target.label


def _alt(expl: Explanation, target: TargetExplanation | None, what: str = "Overlay") -> str:
    """A text for those who do not see the picture."""
    if target is None:
        return f"{expl.kind.capitalize()} without a heatmap"
    return f"{what} for {_caption(target)}, {_where(expl, target)}"


def _where(expl: Explanation, target: TargetExplanation) -> str:
    where = _place(expl, target)
    if where.endswith("blank"):
        return f"where the heatmap is {where}"
    return where or "without a heatmap"


def _place(expl: Explanation, target: TargetExplanation) -> str:
    shape = None if target.heatmap is None else shape_of_doc(expl, target.heatmap)
    return place_in_words(target.heatmap, expl.kind, shape)


def _texts(expl: Explanation, scales: str) -> str:
    """The texts of the classes below the scales, if this is the explanation of a text."""
    if expl.kind != "text" or not expl.targets:
        return ""
    texts = "".join(
        f'<figure class="ks-text"><figcaption class="ks-target">{_row(target)}</figcaption>'
        f"{spans_as_html(target)}</figure>"
        for target in expl.targets
    )
    dials = f'<div class="ks-dials">{scales}</div>' if scales else ""
    return f'<div class="ks-texts">{dials}{texts}</div>'


def _classes(targets: Sequence[TargetExplanation], *, is_hidden: bool) -> str:
    """The classes with their scores, which the script makes a choice."""
    rows = "".join(f'<div class="ks-target">{_row(target)}</div>' for target in targets)
    return f'<div class="ks-targets"{" hidden" if is_hidden else ""}>{rows}</div>' if rows else ""


def _row(target: TargetExplanation) -> str:
    index = f' <span class="ks-index">({escaped(target.target)})</span>' if target.name else ""
    score = format_score(target.score, target.is_probability)
    return (
        f'<span class="ks-class"><bdi>{breakable(target.name or target.label)}</bdi>{index}</span> '
        f'<span class="ks-score">{score}</span>'
    )


class _Kind(NamedTuple):
    """What has a scale of its own.

    Attributes:
        is_signed: Whether heat has a sign.
        outliers: How many cells, in per cent, are drawn as hot as the hottest.
        is_tinted: Whether it is words of a text that have tints.
    """

    is_signed: bool
    outliers: float = 0
    is_tinted: bool = False

    @property
    def colours(self) -> str:
        """The name of the colours, which are the same whatever is cut."""
        return "signed" if self.is_signed else "plain"

    @property
    def name(self) -> str:
        """The name of the scale."""
        return f"{self.colours}-{self.outliers:g}" if self.outliers else self.colours


def _kind(heat: DrawnHeat) -> _Kind:
    return _Kind(heat.is_signed, heat.outliers)


def _kinds(expl: Explanation, look: _Look) -> list[_Kind]:
    """The kinds of heatmaps that an explanation has."""
    if expl.kind == "text":
        found = [
            _Kind(item.signed, is_tinted=True) for item in expl.targets or () if item.weighted_spans
        ]
    elif expl.image is None and not (expl.kind in KINDS and KINDS[expl.kind].is_stack):
        return []
    else:
        axes = drawn_kind(expl).axes
        found = [
            _kind(heat_of(item, axes, look.style))
            for item in expl.targets or ()
            if item.heatmap is not None
        ]
    return list(dict.fromkeys(found))


def _scale(kind: _Kind, look: _Look) -> str:
    """The colours of a kind of heatmap from its lowest to its highest value."""
    if kind.is_tinted:
        return scale_of_tints(signed=kind.is_signed)
    # Half of the colours, as many as the bar is pixels wide.
    colours = Image.fromarray(np.ascontiguousarray(_colours(kind.colours, look)[None, ::2, :3]))
    if kind.is_signed:
        low, high, meaning = "\u22121", "+1", "from -1, most against it, to +1, most for it"
    else:
        low, high, meaning = "0", "1", "from 0, nothing, to 1, the hottest"
    note = f"{'±' if kind.is_signed else ''}1: hottest {kind.outliers:g}%"
    bar = (
        f'<img src="{data_uri(colours, None)}" alt="Colours of the heatmap {meaning}" '
        'width="256" height="12">'
    )
    return (
        f'<div class="ks-scale" data-kind="{kind.name}"><span class="ks-label">Heat</span> '
        f'<span class="ks-bar"><span>{low}</span> {bar} <span>{high}</span>'
        f"{f' <small>{note}</small>' if kind.outliers else ''}</span></div>"
    )


# The parts of a report


def _report_start(title: str, facts: Mapping[str, object], look: _Look) -> str:
    """Everything above the first explanation."""
    from kerasight import __version__

    percent = round(100 * greatest_opacity(look.style.alpha_limit))
    script = f"<script>{_script('report')}</script>\n"
    style = f"<style>{asset('viewer.css')}\n{asset('report.css')}</style>\n"
    top = head(title, style, script).replace(
        "</head>", f"<noscript><style>{asset('noscript.css')}</style></noscript>\n</head>"
    )
    told = "".join(
        f"<div><dt>{escaped(name)}</dt> <dd><bdi>{breakable(value)}</bdi></dd></div>\n"
        for name, value in [*facts.items(), ("kerasight", __version__)]
    )
    return f"""{top}<body>
<main class="kerasight ks-report">
<h1><bdi>{breakable(title)}</bdi></h1>
<dl class="ks-facts">
{told}</dl>
<form class="ks-tools" role="search" method="dialog" hidden>
<label>Search<input type="search" name="text" autocomplete="off"></label>
<label>Class<select name="class"><option value="">All</option></select></label>
<label hidden>Show<select name="state"><option value="">All</option></select></label>
<label><span>Least score</span><input type="number" name="least" step="any"></label>
<label><span>Greatest score</span><input type="number" name="greatest" step="any"></label>
<label>Order<select name="order">
<option value="given">As given</option>
<option value="name">Name</option>
<option value="class">Class</option>
<option value="falling">Highest score</option>
<option value="rising">Lowest score</option>
</select></label>
<label>Opacity<input type="range" name="opacity" min="0" max="100" value="{percent}"></label>
<button type="reset">Reset</button>
<output class="ks-count"></output>
</form>
<section class="ks-cards" aria-label="Explanations">
"""


def _card(expl: Explanation, name: str, about: str, look: _Look) -> str:
    """One explanation of a report; ``about`` says in what it differs from the others."""
    targets = expl.targets or []
    labels = json.dumps([target.label for target in targets])
    scores = json.dumps([_finite(target.score) for target in targets])
    percent = " data-percent" if targets and all(one.is_probability for one in targets) else ""
    parts = [
        f"<h2><bdi>{breakable(name)}</bdi></h2>",
        f'<p class="ks-meta">{breakable(about)}</p>' if about else "",
        _error(expl),
    ]
    first = targets[0] if targets else None
    if expl.image is not None:
        image = _fitted(image_of(expl), look.side)
        small = replace(expl, image=_fitted(image.copy(), _STILL_SIDE))
        shown = img(_draw(small, first, look.style), _alt(expl, first), _STILL_QUALITY)
        if targets:
            parts += [
                f'<div class="ks-stage" style="aspect-ratio:{image.width}/{image.height}"></div>',
                f"<noscript>{shown}</noscript>",
                _data(expl, image, look),
            ]
        else:
            parts.append(shown)
    elif expl.doc is not None:
        chart = _draw(expl, first, look.style)
        parts.append(img(chart, _alt(expl, first), _quality(expl, look.quality)))
    parts.append(_texts(expl, "") or _classes(targets, is_hidden=False))
    wide = " ks-wide" if expl.image is None and expl.doc is not None else ""
    return (
        f'<article class="ks-card{wide}" data-labels="{escaped(labels)}" data-scores="{scores}"'
        f'{percent}><form class="ks-view" method="dialog">{"".join(parts)}</form></article>\n'
    )


def _finite(score: float | None) -> float | None:
    return None if score is None or not math.isfinite(score) else float(score)


# Data for the script


def _data(expl: Explanation, image: Image.Image, look: _Look) -> str:
    """The picture, or the slices of a volume or a video, and the heatmaps."""
    data: dict[str, Any] = {
        "size": image.size,
        "opacity": greatest_opacity(look.style.alpha_limit),
    }
    targets = expl.targets or []
    if expl.image is None:
        kind = drawn_kind(expl)
        stack = stack_of(expl, kind.axes)
        chosen, start = _slices(expl, stack, look)
        count, factor = stack.shape[0], _factor(stack)
        drawn = [draw_slice(stack.plane(at), None, False, look.style, factor) for at in chosen]
        data |= {
            "targets": [_stack_data(expl, target, chosen, count, look) for target in targets]
            or [{"alt": _alt(expl, None)}],
            "name": kind.cells[0],
            "numbers": [at + 1 for at in chosen],
            "count": count,
            "start": chosen.index(start),
            "slices": [data_uri(one, look.quality) for one in drawn],
        }
    else:
        data["targets"] = [_target_data(expl, target, image.size, look) for target in targets]
        data["picture"] = data_uri(image, look.quality)
    text = json.dumps(data, separators=(",", ":"))
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return f'<script type="application/json" class="ks-data">{text}</script>'


def _slices(expl: Explanation, stack: Stack, look: _Look) -> tuple[list[int], int]:
    """Slices evenly chosen, and the one to show first."""
    axes = drawn_kind(expl).axes
    heats = [
        heat_of(item, axes, look.style).values
        for item in expl.targets or ()
        if item.heatmap is not None
    ]
    hottest = [hottest_in(heat, stack.shape)[0] for heat in heats if heat.any()]
    chosen = evenly(stack.shape[0], _SLICES, hottest)
    return chosen, hottest[0] if hottest else chosen[len(chosen) // 2]


def _factor(stack: Stack) -> float:
    return enlargement(stack.shape[1:], _SLICE_LEAST, _SLICE_MOST)


def _target_data(
    expl: Explanation, target: TargetExplanation, size: tuple[int, int], look: _Look
) -> dict[str, Any]:
    """A heatmap row by row, and the lines around what is explained."""
    data: dict[str, Any] = {"alt": _alt(expl, target, "Picture and heatmap")}
    if target.heatmap is None:
        return data
    heat = heat_of(target, KINDS["picture"].axes, look.style)
    overlay(Image.new("RGBA", (1, 1)), heat.values, heat.is_signed, look.style)  # may raise
    lines = outline(target, size)
    if lines is not None:
        data["outline"] = data_uri(lines, None)
    cells = fewer_cells(heat.values, look.cells)
    return {**data, **_cells_data(expl, target, heat._replace(values=cells))}


def _stack_data(
    expl: Explanation, target: TargetExplanation, chosen: list[int], count: int, look: _Look
) -> dict[str, Any]:
    """A heatmap slice by slice, each row by row."""
    data: dict[str, Any] = {"alt": _alt(expl, target, f"{expl.kind.capitalize()} and heatmap")}
    if target.heatmap is None:
        return data
    heat = heat_of(target, drawn_kind(expl).axes, look.style)
    slices = heat_slices(heat.values, 0, count, look.style)[chosen]
    cells = np.stack([fewer_cells(one, _SLICE_CELLS) for one in slices])
    return {**data, **_cells_data(expl, target, heat._replace(values=cells))}


def _cells_data(expl: Explanation, target: TargetExplanation, heat: DrawnHeat) -> dict[str, Any]:
    """Cells in 16 bits, from the lowest possible value to 1, and where the hottest is."""
    where = _place(expl, target)
    lowest = -1 if heat.is_signed else 0
    steps = np.rint((heat.values - lowest) / (1 - lowest) * 65535).clip(0, 65535).astype("<u2")
    return {
        "where": f"The heatmap is {where}." if where.endswith("blank") else where.capitalize(),
        "signed": heat.is_signed,
        "scale": _kind(heat).name,
        "factor": heat.factor,
        "most": heat.most,
        "shape": heat.values.shape[-2:],
        "cells": base64_of(steps.tobytes()),
    }


def _table(colours: str, look: _Look) -> str:
    """The colours of heatmaps as RGBA bytes, and the filter that smooths them."""
    tables = {"colours": _colours(colours, look), "filter": _shares(look.style.resampling_filter)}
    text = json.dumps({name: base64_of(table.tobytes()) for name, table in tables.items()})
    return f'<script type="application/json" class="ks-look" data-kind="{colours}">{text}</script>'


def _shares(resampling_filter: ResamplingFilter) -> Int16[np.ndarray, " places"]:
    """What a cell adds to the pixels around it, int16, from 3.5 cells before it to 3.5 after it.

    Pillow enlarges a single hot cell among cold ones; none of its filters reaches farther.
    """
    cells = Image.fromarray(np.eye(1, 13, 6, dtype=np.float32))
    size = (7 * _PLACES, 1)
    row = cells.resize(size, resample=pillow_filter(resampling_filter), box=(3, 0, 10, 1))
    shares: np.ndarray = np.rint(np.asarray(row)[0] * 2**14).astype("<i2")
    return shares


def _colours(name: str, look: _Look) -> UInt8[np.ndarray, "values 4"]:
    """RGBA of all values from the lowest to the highest, uint8 of shape ``(values, 4)``.

    The values are drawn over nothing, which leaves the heatmap's own colours and opacity.
    """
    values = (np.arange(_TABLE_SIZE) + 0.5) / _TABLE_SIZE
    ramp = values[None] if name == "plain" else 2 * values[None] - 1
    nothing = Image.new("RGBA", (_TABLE_SIZE, 1), (0, 0, 0, 0))
    style = replace(look.style, resampling_filter="nearest", alpha_limit=None)
    drawn = overlay(nothing, ramp, name != "plain", style)
    colours: np.ndarray = np.array(drawn)[0]
    # A transparent pixel has lost its colour, but the scale shows one: it takes its neighbour's.
    visible = np.flatnonzero(colours[:, 3])
    nearest = np.abs(np.arange(_TABLE_SIZE)[:, None] - visible).argmin(axis=1)
    colours[:, :3] = colours[visible[nearest], :3]
    return colours


def _fitted(image: Image.Image, side: int) -> Image.Image:
    """A picture no larger than ``side``; a very small one is enlarged, for a smooth heatmap."""
    image = enlarged(image)
    if max(image.size) > side:
        image.thumbnail((side, side), _LANCZOS)
    return image


# Styles and scripts


@lru_cache
def _script(name: str) -> str:
    """The script of a fragment or of a report, in a function of its own."""
    parts = [asset("viewer.js"), asset(f"{name}.js")]
    return "\n".join(["(() => {", '"use strict";', *parts, "})();"])


@lru_cache
def _revision() -> str:
    """Tells a fragment which script is its own: one notebook may hold those of two versions."""
    return hashlib.sha256(_script("fragment").encode()).hexdigest()[:8]


def _styles() -> tuple[str, str]:
    """The style and script elements of fragments."""
    script = _script("fragment").replace("__REVISION__", _revision())
    return f"<style>{asset('viewer.css')}</style>\n", f"<script>{script}</script>\n"
