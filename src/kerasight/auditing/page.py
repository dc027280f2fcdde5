"""An audit as a page: each finding with its pictures, and what each class looks like.

It needs no script, and fetches nothing. Maps have a pixel for each cell, which browsers enlarge.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from kerasight.auditing.result import Audit, ClassMaps, Finding, Share, Shown
from kerasight.base import TargetExplanation
from kerasight.checks import plural
from kerasight.escapes import escaped, printable
from kerasight.files import whole_file
from kerasight.formatters.document import asset, breakable, data_uri, head, img
from kerasight.formatters.outlines import outline
from kerasight.formatters.overlay import Style, overlay
from kerasight.formatters.text import format_score, place_in_words
from kerasight.jobs.reading import pictures_of

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

__all__ = ["as_html", "write_html"]

_TITLE = "What the heatmaps have in common"
_CLASSES = 50  # on the page; those with findings come first
_KEYS = 2000  # of a finding, in its list
_THUMBNAIL = (224, 224)
_LEAST = (300, 300)
_QUALITY = 75
_CELL = 16  # pixels, of a map with an outline
_OPACITY = 0.65


def write_html(audit: Audit, path: str | os.PathLike[str]) -> None:
    """Write an audit to a file that needs no other.

    Args:
        audit: The audit. Pictures are read again, from where its job had them; of those that have
            changed or are gone there is the small JPEG that the job may have kept, or nothing.
        path: The file.

    Raises:
        OSError: If it cannot be written.
        ValueError: If the job is not there any more.
    """
    text = (
        f"{head(_TITLE, _styles(), '')}<body>\n"
        f'<main class="kerasight ks-report ks-audit">\n<h1>{_TITLE}</h1>\n{_body(audit)}'
        "</main>\n</body>\n</html>\n"
    )
    with whole_file(path) as out:
        out.write(text)


def as_html(audit: Audit) -> str:
    """The same as a part of a page, as notebooks show it."""
    return (
        f'<div class="kerasight" role="group" aria-label="{_TITLE}">{_styles()}'
        f'<div class="ks-report ks-audit" style="padding:1rem">{_body(audit)}</div></div>'
    )


def _styles() -> str:
    files = ("viewer.css", "report.css", "audit.css")
    return "<style>" + "\n".join(map(asset, files)) + "</style>\n"


@dataclass(frozen=True, eq=False)
class _Page:
    """What the parts of a page need.

    Attributes:
        pictures: Thumbnails by key; None of those that are gone.
        maps: What is known of each class.
    """

    pictures: Mapping[str, Image.Image | None]
    maps: Mapping[object, ClassMaps]


def _body(audit: Audit) -> str:
    found = [finding.target for finding in audit.findings]
    order = sorted(audit.classes, key=lambda one: one.target not in found)
    shown = order[:_CLASSES]
    wanted = [one.key for finding in audit.findings for one in finding.pictures]
    for maps in shown:
        wanted += [one.key for one in maps.unlike]
        wanted += [one.key for cluster in maps.clusters for one in cluster.pictures]
    pictures = {
        key: None if picture is None else _thumbnail(picture)
        for key, picture in pictures_of(Path(audit.folder), wanted, least=_LEAST)
    }
    page = _Page(pictures, {one.target: one for one in audit.classes})
    parts = [_facts(audit), "<h2>Findings</h2>\n"]
    parts += [_finding(one, page) for one in audit.findings]
    if not audit.findings:
        parts.append(
            "<p>None. No cluster of heatmaps, and no share of heat at the border or in corners, is "
            "more than chance explains.</p>\n"
        )
    parts.append("<h2>Classes</h2>\n")
    if len(shown) < len(order):
        parts.append(
            f'<p class="ks-quiet">The first {len(shown)} of {len(order):,}, '
            "those with findings before others.</p>\n"
        )
    parts += [_class(one, page) for one in shown]
    return "".join(parts)


def _thumbnail(picture: Image.Image) -> Image.Image:
    small = picture.convert("RGB")
    small.thumbnail(_THUMBNAIL)
    return small


def _facts(audit: Audit) -> str:
    from kerasight import __version__

    said = [f"{audit.number:,} explained"]
    said += [f"{audit.errors:,} failed"] if audit.errors else []
    said += [f"{audit.left_out:,} without heat, left out"] if audit.left_out else []
    facts = {
        "Model": audit.model,
        "Method": audit.method,
        "Layer": audit.layer,
        "Pictures": ", ".join(said),
        "Job": audit.folder,
        "kerasight": __version__,
    }
    told = "".join(
        f"<div><dt>{name}</dt> <dd><bdi>{breakable(printable(value))}</bdi></dd></div>\n"
        for name, value in facts.items()
        if value
    )
    return f'<dl class="ks-facts">\n{told}</dl>\n'


# A finding


def _finding(finding: Finding, page: _Page) -> str:
    maps = page.maps[finding.target]
    most = float(max(finding.mean.max(), maps.mean.max()))
    its = f"These {finding.number:,} pictures" if finding.number > 1 else "This picture"
    figures = [
        _map(finding.mean, its, most=most, place=finding.place),
        _map(maps.mean, f"All {maps.number:,} of the class", most=most),
    ]
    keys = finding.keys[:_KEYS]
    listed = f"All {len(keys):,}" if len(keys) == len(finding.keys) else f"The first {len(keys):,}"
    names = "\n".join(escaped(printable(key)) for key in keys)
    return (
        '<article class="ks-card ks-finding">\n'
        f"<h3><bdi>{breakable(printable(finding.label))}</bdi></h3>\n"
        f"<p>{escaped(printable(finding.sentence))}</p>\n"
        f'<p class="ks-quiet">{_how_sure(finding.p_value)}</p>\n'
        f'<div class="ks-row">{"".join(figures)}</div>\n'
        f'<div class="ks-row">{_all_shown(finding.pictures, page, "in the place")}</div>\n'
        f"<details><summary>{listed} pictures, by name</summary><pre>{names}</pre></details>\n"
        "</article>\n"
    )


def _how_sure(p_value: float) -> str:
    """A p-value in words, and as it is."""
    number = f"{p_value:.2g}" if p_value >= 1e-4 else f"{p_value:.0e}".replace("e-0", "e-")
    words = "Hardly chance" if p_value > 1e-4 else "Not chance"
    return (
        f"{words}: were there nothing, an audit would show as much with a probability of at most "
        f"{number if p_value > 0 else '1e-300'} (corrected for all that was looked at)."
    )


# A class


def _class(maps: ClassMaps, page: _Page) -> str:
    means = _map(maps.mean, "mean", most=float(maps.mean.max()))
    means += _map(maps.spread, "spread", most=float(maps.spread.max()))
    groups = [_group("Share of heat in each cell", means)]
    if maps.clusters:
        greatest = max(float(one.mean.max()) for one in maps.clusters)
        clusters = (
            _map(one.mean, plural(one.number, "picture"), most=greatest)
            + "".join(_drawn(shown, page.pictures.get(shown.key)) for shown in one.pictures)
            for one in maps.clusters
        )
        columns = "".join(f'<div class="ks-cluster">{one}</div>' for one in clusters)
        groups.append(_group("Clusters of one half of them, and their most typical", columns))
    if maps.unlike:
        unlike = _all_shown(maps.unlike, page, "like the mean")
        groups.append(_group("Least like the others", unlike))
    return (
        f'<article class="ks-card ks-class"><h3><bdi>{breakable(printable(maps.label))}</bdi> '
        f'<span class="ks-index">{plural(maps.number, "picture")}</span></h3>\n'
        f"{_shares(maps)}"
        f'<div class="ks-row ks-small">{"".join(groups)}</div></article>\n'
    )


def _group(title: str, content: str) -> str:
    return f'<div class="ks-group"><h4>{title}</h4><div class="ks-row">{content}</div></div>'


def _shares(maps: ClassMaps) -> str:
    """Where the heat is, against chance, as a table."""
    named = {
        "at the border": maps.border,
        "in the corners": maps.corners,
        "outside of the object": maps.outside,
    }
    rows = "".join(_share(name, one) for name, one in named.items() if one is not None)
    if not rows:
        return ""
    return (
        "<table><thead><tr><th>Heat</th><th>share</th><th>95 % interval</th><th>by chance</th>"
        f"</tr></thead><tbody>{rows}</tbody></table>\n"
    )


def _share(name: str, share: Share) -> str:
    interval = "" if np.isnan(share.low) else f"{share.low:.1%} to {share.high:.1%}"
    return (
        f"<tr><th>{name}</th><td>{share.value:.1%}</td><td>{interval}</td>"
        f"<td>{share.chance:.1%}</td></tr>"
    )


# Figures


def _map(
    values: Float[np.ndarray, "rows columns"],
    caption: str,
    *,
    most: float,
    place: Bool[np.ndarray, "rows columns"] | None = None,
) -> str:
    """A map with a colour for each cell, up to a value that maps side by side have in common."""
    from matplotlib import colormaps

    shares = np.clip(values / most, 0, 1) if most else np.zeros_like(values)
    colours = (255 * colormaps["viridis"](shares)[..., :3]).round().astype(np.uint8)
    image = Image.fromarray(colours)
    if place is not None:
        size = (image.width * _CELL, image.height * _CELL)
        image = image.resize(size, Image.Resampling.NEAREST)
        region = np.kron(place, np.ones((_CELL, _CELL), bool))
        lines = outline(TargetExplanation("place", region=region), size)
        if lines is not None:
            image.paste(lines, mask=lines)
    where = place_in_words(shares)
    text = f"Map of {caption}, {where}" + (", with the place outlined" if place is not None else "")
    return (
        f'<figure class="ks-map">{img(image, text, None)}'
        f'<figcaption>{escaped(caption)} <span class="ks-quiet">up to {values.max():.1%} a cell'
        "</span></figcaption></figure>"
    )


def _all_shown(shown: Iterable[Shown], page: _Page, of: str) -> str:
    return "".join(_shown(one, page.pictures.get(one.key), of) for one in shown)


def _shown(shown: Shown, picture: Image.Image | None, of: str) -> str:
    """A picture with its heat over it, which goes under the pointer."""
    score = "" if shown.score is None else f", score {format_score(shown.score)}"
    return (
        f"<figure>{_drawn(shown, picture)}<figcaption><bdi>{breakable(printable(shown.key))}</bdi>"
        f'<span class="ks-quiet">{shown.value:.0%} {of}{score}</span></figcaption></figure>'
    )


def _drawn(shown: Shown, picture: Image.Image | None) -> str:
    if picture is None:
        return '<div class="ks-gone">not there any more, or changed</div>'
    nothing = Image.new("RGBA", (picture.width // 2, picture.height // 2), (0, 0, 0, 0))
    values = shown.heatmap / max(shown.heatmap.max(), np.finfo(float).tiny)
    heat = overlay(nothing, values, False, Style(alpha_limit=_OPACITY))
    text = f"{printable(shown.key)}, {place_in_words(values)}"
    return (
        f'<div class="ks-shown" tabindex="0" title="{escaped(printable(shown.key))}">'
        f'{img(picture, text, _QUALITY)}<img src="{data_uri(heat, None)}" alt=""></div>'
    )
