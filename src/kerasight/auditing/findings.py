"""What the heatmaps of a job have in common that chance does not explain.

A model may be right for the wrong reason: by a watermark, a border, the hand that holds the thing.
Then the heatmaps of some pictures of a class are hot where those of others are not.
"""

from __future__ import annotations

import math
import os
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from kerasight.auditing.clusters import Others, Pattern, clusterings, pattern_of
from kerasight.auditing.gathering import Gathered, gather
from kerasight.auditing.objects import Boxes, Masks, objects_of
from kerasight.auditing.result import Audit, ClassMaps, Finding, MapCluster, Share, Shown
from kerasight.checks import integer
from kerasight.formatters.text import place_in_words
from kerasight.metrics.statistics import Estimate

if TYPE_CHECKING:
    from jaxtyping import Bool, Float32, Float64, Int64

__all__ = ["LEVEL", "audit"]

LEVEL = 0.01
"""The probability, at most, of a finding where there is nothing, over all of an audit."""

_FEWEST = 40  # pictures of a class that are clustered, or whose shares are compared
_SAMPLE = 1000  # of them that are clustered
_OTHERS = 20_000  # pictures that stand for all classes
_TIMES = 3  # as often as in other classes, at least, and as at the mirrored place; and as odds
_PICTURES = 12  # that show a finding
_TYPICAL = 2  # that show a cluster
_UNLIKE = 4  # that show what is unlike its class


def audit(
    folder: str | os.PathLike[str],
    *,
    masks: Masks | None = None,
    boxes: Boxes | None = None,
    seed: int = 0,
) -> Audit:
    """Find what the heatmaps of a job have in common, without its model.

    For each class, it gives the mean map and its spread; clusters of maps; the share of the heat at
    the border and in the corners; and the pictures whose heat is least like the others'. What
    chance does not explain is a finding:

    - A cluster, by spectral relevance analysis (`Lapuschkin et al. 2019
      <https://doi.org/10.1038/s41467-019-08987-4>`_), and a test of what it shows. One half of a
      class is clustered, and learnt is what tells a cluster from the rest, and from other classes.
      Then the pictures of the other half are counted that have it. They are a finding if they are
      more than three times as many, by share, as in other classes, from pictures of which nothing
      was learnt, and as have it at the mirrored place; at most half of the class; and if the others
      have less heat there than chance.
    - Heat at the border or in the corners, if its odds are more than three times those of chance,
      and of other classes; and heat outside of objects, if it is more than by chance.

    Heatmaps are those of the first class of each picture; what speaks against it is no heat. Those
    without heat, and those of another shape than most, are left out. Clusters, and what is compared
    with chance, need 40 pictures of a class, and maps of 3 x 3 cells or more; without other
    classes, clusters are never a finding.

    Args:
        folder: A job's folder, as of `kerasight.jobs.run`.
        masks: Where objects are: a folder of pictures, black but for the object, called as the
            job's keys but for their ending; or a dict of keys and boolean arrays ``(height,
            width)``.
        boxes: The same by boxes: a CSV file with the columns ``key``, ``left``, ``top``, ``right``
            and ``bottom``; or a dict of keys and these four, as shares of the picture's sides.
        seed: Of how classes are divided and clustered. The same seed gives the same audit.

    Returns:
        What was found, the surest first: printed, shown by notebooks, and as a page by
        `Audit.write_html`.

    Raises:
        ImportError: If scikit-learn is not installed.
        ValueError: If the folder holds no job, nothing of a picture, or a broken part; or masks or
            boxes cannot be read.
    """
    try:
        import sklearn  # noqa: F401
    except ImportError:
        raise ImportError("an audit needs scikit-learn: pip install 'kerasight[audit]'") from None
    seed = integer("seed", seed, least=0)
    of_job = gather(Path(folder))
    shape = of_job.maps.shape[1], of_job.maps.shape[2]
    rings = _rings_of(shape)
    objects = objects_of(masks, boxes, shape)
    random = np.random.default_rng(seed)
    others = np.sort(random.permutation(len(of_job.maps))[:_OTHERS])
    tried, candidates = 0, []
    summaries = []
    for one in _classes_of(of_job):
        summary = one.summary()
        looked_at: list[_Candidate | None] = []
        if rings is not None:
            border, of_border = _of_place(one, "border", "at the border", rings[0])
            corners, of_corners = _of_place(one, "corners", "in the corners", rings[1])
            summary = replace(summary, border=border, corners=corners)
            looked_at += [of_border, of_corners]
        if objects is not None:
            outside, of_outside = _outside(one, [objects(key) for key in one.keys])
            summary = replace(summary, outside=outside)
            looked_at.append(of_outside)
        if rings is not None and len(one.places) >= _FEWEST:
            clusters, patterns = _clustered(
                one, others[of_job.targets[others] != one.label_place], seed
            )
            summary = replace(summary, clusters=clusters)
            looked_at += patterns
        # Each has values of all pictures of its class, too many to be kept of all of them.
        known = [candidate for candidate in looked_at if candidate is not None]
        tried += len(known)
        candidates += [candidate for candidate in known if candidate.is_likely]
        summaries.append(summary)
    return Audit(
        folder=os.fspath(folder),
        model=of_job.model,
        method=of_job.method,
        layer=of_job.layer,
        number=of_job.number,
        errors=of_job.errors,
        left_out=of_job.number - len(of_job.maps),
        classes=tuple(summaries),
        findings=tuple(_findings(candidates, tried)),
    )


@dataclass(frozen=True, eq=False)
class _Class:
    """The pictures of a class.

    Attributes:
        of_job: All pictures.
        label_place: The class, as a place in the labels of the job.
        places: Its pictures, as places in the job.
    """

    of_job: Gathered
    label_place: int
    places: Int64[np.ndarray, " pictures"]

    @property
    def target(self) -> Hashable:
        """The class."""
        return self.of_job.labels[self.label_place][0]

    @property
    def label(self) -> str:
        """What a person calls it."""
        return self.of_job.labels[self.label_place][1]

    @cached_property
    def maps(self) -> Float32[np.ndarray, "pictures rows columns"]:
        """The heatmaps of its pictures."""
        maps: np.ndarray = self.of_job.maps[self.places]
        return maps

    @cached_property
    def mean(self) -> Float64[np.ndarray, "rows columns"]:
        """Their mean."""
        mean: np.ndarray = self.maps.mean(axis=0, dtype=np.float64)
        return mean

    @cached_property
    def keys(self) -> list[str]:
        """What its pictures are called."""
        return self.of_job.keys(self.places)

    def summary(self) -> ClassMaps:
        """What is to be said of it without a look at anything else."""
        likeness = _overlap(self.maps, self.mean)
        return ClassMaps(
            target=self.target,
            label=self.label,
            number=len(self.places),
            mean=self.mean,
            spread=self.maps.std(axis=0, dtype=np.float64),
            clusters=(),
            border=None,
            corners=None,
            outside=None,
            unlike=self.shown(np.argsort(likeness, kind="stable")[:_UNLIKE], likeness),
        )

    def shown(
        self, which: Int64[np.ndarray, " some"], values: Float64[np.ndarray, " pictures"]
    ) -> tuple[Shown, ...]:
        """Some of its pictures, with what they are ranked by."""
        keys, scores = self.of_job.keys(self.places[which]), self.of_job.scores[self.places[which]]
        return tuple(
            Shown(
                key=key,
                score=None if np.isnan(score) else float(score),
                heatmap=self.maps[one].astype(np.float64),
                value=float(values[one]),
            )
            for key, score, one in zip(keys, scores, which, strict=True)
        )


def _classes_of(of_job: Gathered) -> Iterator[_Class]:
    """The classes in order, those with numbers before those with names."""
    order = sorted(
        range(len(of_job.labels)),
        key=lambda one: (isinstance(target := of_job.labels[one][0], str), target),
    )
    by_class = np.argsort(of_job.targets, kind="stable")
    bounds = np.searchsorted(of_job.targets[by_class], np.arange(len(order) + 1))
    for one in order:
        yield _Class(of_job, one, by_class[bounds[one] : bounds[one + 1]])


def _overlap(
    maps: Float32[np.ndarray, "pictures rows columns"], mean: Float64[np.ndarray, "rows columns"]
) -> Float64[np.ndarray, " pictures"]:
    """The heat that each map has in common with another: 0 for none, 1 for all."""
    both = np.minimum(maps, mean.astype(np.float32))
    overlap: np.ndarray = both.sum(axis=(1, 2), dtype=np.float64)
    return overlap


# What may be a finding


@dataclass(frozen=True, eq=False)
class _Candidate:
    """What was looked at, and how likely chance is to show as much.

    Attributes:
        one: Its class.
        kind: As of `Finding`.
        sentence: As of `Finding`.
        log_p: The logarithm of its probability, as if it alone had been looked at.
        can_be: Whether it is one if it is improbable enough.
        observed: As of `Finding`.
        chance: As of `Finding`.
        shows: The pictures of the class that show it.
        heat: The share of their heat in the place, of all pictures of the class.
        place: As of `Finding`.
    """

    one: _Class
    kind: Literal["cluster", "border", "corners", "outside"]
    sentence: str
    log_p: float
    can_be: bool
    observed: float
    chance: float
    shows: Bool[np.ndarray, " pictures"]
    heat: Float64[np.ndarray, " pictures"]
    place: Bool[np.ndarray, "rows columns"] | None

    @property
    def is_likely(self) -> bool:
        """Whether it would be a finding if it alone had been looked at."""
        return self.can_be and self.log_p <= math.log(LEVEL)


def _findings(candidates: Sequence[_Candidate], tried: int) -> Iterator[Finding]:
    """Those that are improbable for all that was tried, the surest first (Bonferroni).

    Of several that the same pictures show, it is the surest.
    """
    told: list[_Candidate] = []
    correction = math.log(max(tried, 1))
    for found in sorted(candidates, key=lambda found: found.log_p):
        log_p = min(0.0, found.log_p + correction)
        if log_p > math.log(LEVEL):
            return
        if any(_is_same(found, other) for other in told):
            continue
        told.append(found)
        one = found.one
        which = np.flatnonzero(found.shows)
        which = which[np.argsort(-found.heat[which], kind="stable")]
        yield Finding(
            kind=found.kind,
            target=one.target,
            label=one.label,
            sentence=found.sentence,
            p_value=math.exp(log_p),
            observed=found.observed,
            chance=found.chance,
            number=len(which),
            of=len(one.places),
            mean=one.maps[which].mean(axis=0, dtype=np.float64),
            place=found.place,
            keys=tuple(one.of_job.keys(one.places[which])),
            pictures=one.shown(which[:_PICTURES], found.heat),
        )


def _is_same(found: _Candidate, other: _Candidate) -> bool:
    """Whether two of the same kind are shown by the same pictures, or by a part of these."""
    if found.one is not other.one or found.kind != other.kind:
        return False
    both = int(np.count_nonzero(found.shows & other.shows))
    return both > int(min(np.count_nonzero(found.shows), np.count_nonzero(other.shows))) / 2


# Clusters


def _clustered(
    one: _Class, others: Int64[np.ndarray, " others"], seed: int
) -> tuple[tuple[MapCluster, ...], list[_Candidate]]:
    """The clusters of a class; and those that may be findings, of 2 clusters, of 3, and so on.

    One half of the class is clustered. Whether the other half shows the same is another question,
    which clusters that always are there do not answer by themselves.
    """
    order = np.random.default_rng([seed, one.label_place]).permutation(len(one.places))
    half = len(order) // 2
    first, second = order[:half][:_SAMPLE], order[half:]
    roots = np.sqrt(one.maps.reshape(len(one.maps), -1))
    by_number, usual = clusterings(roots[first], seed)
    candidates = []
    if len(others) > 3:
        of_others = np.sqrt(one.of_job.maps[others].reshape(len(others), -1))
        learnt, looked_up = Others.of(of_others[::2]), of_others[1::2]
        patterns = (
            pattern_of(roots[first], clusters == cluster, learnt)
            for clusters in by_number.values()
            for cluster in range(clusters.max() + 1)
        )
        # Many clusters end in the same pattern, which is one question and not many.
        distinct = {
            pattern.weights.tobytes(): pattern for pattern in patterns if pattern is not None
        }
        candidates += [
            _of_pattern(one, pattern, roots, second, looked_up) for pattern in distinct.values()
        ]
    clusters = by_number[usual]
    sizes = np.bincount(clusters)
    return tuple(
        _cluster(one, first[clusters == cluster]) for cluster in np.argsort(-sizes, kind="stable")
    ), candidates


def _cluster(one: _Class, which: Int64[np.ndarray, " some"]) -> MapCluster:
    mean = one.maps[which].mean(axis=0, dtype=np.float64)
    likeness = _overlap(one.maps, mean)
    typical = which[np.argsort(-likeness[which], kind="stable")[:_TYPICAL]]
    return MapCluster(number=len(which), mean=mean, pictures=one.shown(typical, likeness))


def _of_pattern(
    one: _Class,
    pattern: Pattern,
    roots: Float32[np.ndarray, "pictures cells"],
    second: Int64[np.ndarray, " second"],
    others: Float32[np.ndarray, "others cells"],
) -> _Candidate:
    """What a cluster has in common, as a candidate: where it is hot, and who else has it.

    Args:
        one: The class.
        pattern: What was learnt from one half of it.
        roots: Square roots of the heat of all its pictures.
        second: The other half.
        others: The same of pictures of other classes from which nothing was learnt.
    """
    from scipy.stats import binom

    shape = one.mean.shape[0], one.mean.shape[1]
    shows = pattern.is_in(roots)
    count = int(np.count_nonzero(shows))
    in_others = (1 + np.count_nonzero(pattern.is_in(others))) / (1 + len(others))
    mirrored = max(np.count_nonzero(pattern.flipped(shape, axis).is_in(roots)) for axis in (0, 1))
    usual = max(in_others, (1 + mirrored) / (1 + len(roots)))
    log_p = binom.logsf(np.count_nonzero(shows[second]) - 1, len(second), min(1.0, _TIMES * usual))
    is_some = 0 < count < len(shows)
    excess = one.maps[shows].mean(axis=0) - one.maps[~shows].mean(axis=0) if is_some else one.mean
    most = max(float(excess.max()), float(np.finfo(float).tiny))
    place = excess >= most / 4
    heat = one.maps[:, place].sum(axis=1, dtype=np.float64)
    # Else it is the others that are odd.
    is_cold_else = is_some and heat[~shows].mean() < place.mean()
    where = place_in_words(np.clip(excess / most, 0, 1)).removeprefix("hottest ")
    return _Candidate(
        one=one,
        kind="cluster",
        sentence=(
            f"{count:,} of {len(shows):,} pictures have heat in the same place, {where}. Of the "
            f"pictures of other classes, {in_others:.2%} have."
        ),
        log_p=float(log_p),
        can_be=bool(is_cold_else and count <= len(shows) / 2),
        observed=count / len(shows),
        chance=float(in_others),
        shows=shows,
        heat=heat,
        place=place,
    )


# Shares of heat


def _rings_of(
    shape: tuple[int, int],
) -> tuple[Bool[np.ndarray, "rows columns"], Bool[np.ndarray, "rows columns"]] | None:
    """The border and the corners of maps; None if there is nothing between them."""
    if min(shape) < 3:
        return None
    border, corners = np.ones(shape, bool), np.zeros(shape, bool)
    border[1:-1, 1:-1] = False
    corners[[0, 0, -1, -1], [0, -1, 0, -1]] = True
    return border, corners


def _of_place(
    one: _Class,
    kind: Literal["border", "corners"],
    where: str,
    place: Bool[np.ndarray, "rows columns"],
) -> tuple[Share, _Candidate | None]:
    """The share of heat in a place, which may be a finding."""
    heat = one.maps[:, place].sum(axis=1, dtype=np.float64)
    chance = float(place.mean())
    share = _share(heat, chance)
    if len(heat) < _FEWEST:
        return share, None
    number = len(one.of_job.maps) - len(heat)
    in_all = one.of_job.heat_in(place)
    in_others = (in_all - heat.sum()) / number if number else chance
    # Paddings alone make the share in corners half as large again, or smaller.
    odds = _TIMES * max(chance, in_others) / (1 - max(chance, in_others))
    least = odds / (1 + odds)
    also = f", and in other classes it is {in_others:.1%}" if number else ""
    found = _Candidate(
        one=one,
        kind=kind,
        sentence=(
            f"{share.value:.1%} of the heat is {where}. By chance it would be {chance:.1%}{also}."
        ),
        log_p=_log_p(heat - least),
        can_be=True,
        observed=share.value,
        chance=max(chance, in_others),
        shows=heat > least,
        heat=heat,
        place=place,
    )
    return share, found


def _outside(
    one: _Class, inside: Sequence[Float64[np.ndarray, "rows columns"] | None]
) -> tuple[Share | None, _Candidate | None]:
    """The share of heat outside of objects, which may be a finding."""
    heat, chance = np.full(len(inside), np.nan), np.full(len(inside), np.nan)
    for place, object_ in enumerate(inside):
        if object_ is not None:
            heat[place] = 1 - float((one.maps[place] * object_).sum())
            chance[place] = 1 - float(object_.mean())
    is_known = ~np.isnan(heat)
    if not is_known.any():
        return None, None
    share = _share(heat[is_known], float(chance[is_known].mean()))
    if np.count_nonzero(is_known) < _FEWEST:
        return share, None
    more = np.nan_to_num(heat - chance, nan=-1.0)
    found = _Candidate(
        one=one,
        kind="outside",
        sentence=(
            f"{share.value:.1%} of the heat is outside of the object, more than the "
            f"{share.chance:.1%} by chance."
        ),
        log_p=_log_p(more[is_known]),
        can_be=True,
        observed=share.value,
        chance=share.chance,
        shows=more > 0,
        heat=np.nan_to_num(heat),
        place=None,
    )
    return share, found


def _share(values: Float64[np.ndarray, " pictures"], chance: float) -> Share:
    found = Estimate.of(values)
    return Share(found.mean, found.low, found.high, chance)


def _log_p(more: Float64[np.ndarray, " pictures"]) -> float:
    """How likely differences are whose mean is 0 or less, by Student's t test."""
    from scipy.stats import t

    found = Estimate.of(more)
    if not found.error > 0:
        return -math.inf if found.mean > 0 else 0.0
    return float(t.logsf(found.mean / found.error, len(more) - 1))
