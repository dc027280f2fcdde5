"""What an audit found: classes, the clusters of their maps, and findings with their pictures."""

from __future__ import annotations

import os
from collections.abc import Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from kerasight.checks import plural
from kerasight.escapes import printable

if TYPE_CHECKING:
    from jaxtyping import Bool, Float64

__all__ = ["Audit", "ClassMaps", "Finding", "MapCluster", "Share", "Shown"]


_NAMED = 4  # pictures of a finding, where it is printed


@dataclass(frozen=True, eq=False)
class Shown:
    """A picture that shows something.

    Attributes:
        key: What it is called in the job.
        score: The model's score for its class, if the job has one.
        heatmap: The share of its heat in each cell, ``(rows, columns)``; sums to 1.
        value: What it is ranked by among the others.
    """

    key: str
    score: float | None
    heatmap: Float64[np.ndarray, "rows columns"]
    value: float


@dataclass(frozen=True, eq=False)
class Share:
    """The share of heat in some place, over the pictures of a class, against chance.

    Attributes:
        value: Its mean, 0 to 1.
        low: The lower end of the mean's 95 % confidence interval; NaN of a single picture.
        high: The upper end.
        chance: The share that heat would have there if it lay anywhere.
    """

    value: float
    low: float
    high: float
    chance: float


@dataclass(frozen=True, eq=False)
class MapCluster:
    """Pictures of one class whose heat lies alike.

    Attributes:
        number: How many there are, of those that were clustered.
        mean: Their mean share of heat in each cell, ``(rows, columns)``; sums to 1.
        pictures: The most typical of them; ``value`` is the overlap with ``mean``, 0 to 1.
    """

    number: int
    mean: Float64[np.ndarray, "rows columns"]
    pictures: tuple[Shown, ...]


@dataclass(frozen=True, eq=False)
class Finding:
    """Something that heatmaps have in common, and that chance does not explain.

    Attributes:
        kind: ``"cluster"``: some pictures of a class are hot in a place where those of other
            classes are not. ``"border"``, ``"corners"``: a class has its heat there. ``"outside"``:
            it has its heat outside of the object.
        target: Its class.
        label: What a person calls the class.
        sentence: What was found, with its numbers.
        p_value: How likely chance alone is to show as much, corrected for all that was looked at.
        observed: The share that the sentence gives: of pictures, for a cluster; else of heat.
        chance: What it is compared with.
        number: How many pictures show it.
        of: Of how many of the class.
        mean: Their mean share of heat in each cell, ``(rows, columns)``; sums to 1.
        place: The cells where it is; None of what has no fixed place.
        keys: All pictures that show it, the clearest first.
        pictures: The first of them; ``value`` is the share of their heat in the place.
    """

    kind: Literal["cluster", "border", "corners", "outside"]
    target: Hashable
    label: str
    sentence: str
    p_value: float
    observed: float
    chance: float
    number: int
    of: int
    mean: Float64[np.ndarray, "rows columns"]
    place: Bool[np.ndarray, "rows columns"] | None
    keys: tuple[str, ...]
    pictures: tuple[Shown, ...]


@dataclass(frozen=True, eq=False)
class ClassMaps:
    """The heatmaps of one class.

    Attributes:
        target: The class.
        label: What a person calls it.
        number: How many pictures there are, without those left out.
        mean: Their mean share of heat in each cell, ``(rows, columns)``; sums to 1.
        spread: Its standard deviation over pictures, cell by cell.
        clusters: Clusters of their maps, the largest first; empty of few pictures. Every class has
            some: they are a finding only if one is made of them.
        border: The share of heat in the outermost cells; None if a map has no others.
        corners: The share of heat in the four corner cells; likewise.
        outside: The share of heat outside of the object; None without masks and boxes.
        unlike: The pictures whose heat is least like their class's; ``value`` is its overlap with
            ``mean``, 0 to 1.
    """

    target: Hashable
    label: str
    number: int
    mean: Float64[np.ndarray, "rows columns"]
    spread: Float64[np.ndarray, "rows columns"]
    clusters: tuple[MapCluster, ...]
    border: Share | None
    corners: Share | None
    outside: Share | None
    unlike: tuple[Shown, ...]


@dataclass(frozen=True, eq=False)
class Audit:
    """The result of `kerasight.audit`. In a notebook it shows itself.

    Attributes:
        folder: The job's folder.
        model: What the model is called.
        method: The method of the heatmaps.
        layer: The layer that they are of.
        number: How many pictures the job has explained.
        errors: How many it could not explain.
        left_out: How many of ``number`` were left out: heatmaps without heat, or of another shape
            than most.
        classes: The classes, in order.
        findings: What was found, the clearest first.
    """

    folder: str
    model: str
    method: str
    layer: str
    number: int
    errors: int
    left_out: int
    classes: tuple[ClassMaps, ...]
    findings: tuple[Finding, ...]

    def __str__(self) -> str:
        """The findings, each with its first pictures, as a person reads them."""
        of = f"{plural(self.number, 'picture')} of {plural(len(self.classes), 'class')}"
        by = "".join(
            f" {word} {one}"
            for word, one in (("by", self.method), ("at", self.layer), ("of", self.model))
            if one
        )
        said = f"{of}{by}: {plural(len(self.findings), 'finding')}"
        lost = [f"{self.errors:,} more could not be explained"] if self.errors else []
        lost += [f"{self.left_out:,} were left out"] if self.left_out else []
        lines = [", ".join([said, *lost])]
        for one in self.findings:
            names = ", ".join(printable(key) for key in one.keys[:_NAMED])
            more = ", ..." if len(one.keys) > _NAMED else ""
            lines += ["", f"{one.label}: {one.sentence} (p {one.p_value:.1g})", f"  {names}{more}"]
        return "\n".join(lines)

    def write_html(self, path: str | os.PathLike[str]) -> None:
        """Write one page of it, a file that needs no other.

        Args:
            path: The file. Pictures are read again, from where the job had them; of those that
                have changed or are gone there is the small JPEG that it may have kept, or nothing.

        Raises:
            OSError: If it cannot be written.
            ValueError: If the job is not there any more.
        """
        from kerasight.auditing.page import write_html

        write_html(self, path)

    def _repr_html_(self) -> str:
        from kerasight.auditing.page import as_html

        return as_html(self)
