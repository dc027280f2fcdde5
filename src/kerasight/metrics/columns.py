"""What an evaluation measures: each metric is a function of the heatmaps of a doc, and a column."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from kerasight.checks import one_of
from kerasight.metrics.common import baselines
from kerasight.metrics.entropy import complexity
from kerasight.metrics.localisation import energy_in_mask, pointing_game
from kerasight.metrics.perturbation import AverageDrop, curve, masked_scores
from kerasight.metrics.road import NOISE, PERCENTILES, road_of
from kerasight.metrics.trial import Plan, Trial

if TYPE_CHECKING:
    from jaxtyping import Bool, Float64

    Values = Plan[Float64[np.ndarray, " heatmaps"]]

__all__ = [
    "COLUMNS",
    "DEFAULT",
    "DIFFERENCE",
    "METRICS",
    "SECONDS",
    "Case",
    "Metric",
    "columns_of",
    "find_metric",
    "with_difference",
]


@dataclass(frozen=True)
class Case:
    """The heatmaps of a doc, by several methods and for several classes, to be judged.

    Attributes:
        trial: The model, the doc and the heatmaps.
        masks: For each heatmap the mask of the object of its class; None where it is not known.
        steps: The number of steps of deletion and insertion.
        seed: Seed of the order of equally hot pixels, and of noise.
    """

    trial: Trial
    masks: list[Bool[np.ndarray, "_ _"] | None]
    steps: int
    seed: int


def _hits(case: Case) -> Values:
    return _of_masks(case, lambda *given: pointing_game(*given).hits)


def _energies(case: Case) -> Values:
    return _of_masks(case, lambda *given: energy_in_mask(*given).shares)


def _of_masks(case: Case, values_of: Callable[..., Any]) -> Values:
    known = [place for place, mask in enumerate(case.masks) if mask is not None]
    values = np.full(len(case.masks), np.nan)
    if known:
        heatmaps = [case.trial.heatmaps[place] for place in known]
        values[known] = values_of(heatmaps, [case.masks[place] for place in known])
    yield from ()  # asks for no scores
    return values


def _deletions(case: Case) -> Values:
    return _areas(case, "deletion", "mean")


def _insertions(case: Case) -> Values:
    return _areas(case, "insertion", "blur")


def _areas(case: Case, metric: Literal["deletion", "insertion"], baseline: str) -> Values:
    baseline_of = baselines(baseline, case.trial.docs, case.seed)
    found = yield from curve(metric, case.trial, baseline_of, case.steps, case.seed, baseline)
    return found.areas


def _drops(case: Case) -> Values:
    before, after = case.trial.untouched, (yield from _masked(case))
    # A score that is not above 0 has no share to lose.
    has_share = before > 0
    drops = AverageDrop(np.where(has_share, before, 1), after, case.trial.targets, "mean").drops
    return np.where(has_share, drops, np.nan)


def _increases(case: Case) -> Values:
    after = yield from _masked(case)
    return 100.0 * (after > case.trial.untouched)


def _masked(case: Case) -> Values:
    return masked_scores(case.trial, baselines("mean", case.trial.docs, case.seed), "mean")


def _roads(case: Case) -> Values:
    found = yield from road_of(case.trial, np.array(PERCENTILES), NOISE, case.seed)
    return found.scores


def _complexities(case: Case) -> Values:
    yield from ()  # asks for no scores
    return complexity(case.trial.heatmaps).shares


@dataclass(frozen=True)
class Metric:
    """A column of an evaluation.

    Attributes:
        name: Its name for users, and its heading in a CSV file.
        title: Its heading in a table.
        short: Its heading in a narrow table.
        is_higher_better: Whether higher values are better.
        show: Formats a mean.
        measure: Given a `Case`, asks for scores, and returns a value for each heatmap, NaN where
            there is none. None for a column that is made of others.
        needs_mask: Whether it is only measured where a mask is known.
        on_request: Whether it is only measured where its name is given. It then takes no share of
            the level at which methods are told apart by the others.
    """

    name: str
    title: str
    short: str
    is_higher_better: bool
    show: Callable[[float], str]
    measure: Callable[[Case], Values] | None = None
    needs_mask: bool = False
    on_request: bool = False

    def heading(self, is_short: bool = False) -> str:
        """The title, with an arrow that points to better values."""
        return f"{self.short if is_short else self.title} {'↑' if self.is_higher_better else '↓'}"


_share, _percent, _plain = "{:.1%}".format, "{:.1f}%".format, "{:.3f}".format

METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("pointing_game", "Pointing game", "Point. game", True, _share, _hits, True),
        Metric("energy_in_mask", "Energy in mask", "Energy in mask", True, _share, _energies, True),
        Metric("deletion", "Deletion", "Del.", False, _plain, _deletions),
        Metric("insertion", "Insertion", "Ins.", True, _plain, _insertions),
        Metric("average_drop", "Average drop", "Avg. drop", False, _percent, _drops),
        Metric("increase", "Increase", "Incr.", True, _percent, _increases),
        Metric("road", "ROAD", "ROAD", True, _plain, _roads),
        Metric("complexity", "Complexity", "Cplx.", False, _share, _complexities, on_request=True),
    )
}
"""The metrics by name, in the order of their columns."""

DEFAULT: tuple[str, ...] = tuple(name for name, one in METRICS.items() if not one.on_request)
"""The names of those that are measured where none are given."""

DIFFERENCE = Metric(
    "insertion_minus_deletion", "Insertion \u2212 deletion", "Ins. \u2212 del.", True, _plain
)
"""The area of insertion less that of deletion: one number for both."""

SECONDS = Metric("seconds", "Seconds", "Sec.", False, _plain)
"""How long a method took."""

COLUMNS: dict[str, Metric] = {
    **METRICS,
    **{column.name: column for column in (DIFFERENCE, SECONDS)},
}
"""All columns by name."""


_PARTS = ("insertion", "deletion")


def columns_of(metrics: Iterable[str]) -> list[Metric]:
    """The columns of metrics; where insertion and deletion are among them, `DIFFERENCE` is next."""
    columns = [METRICS[name] for name in metrics]
    places = [place for place, column in enumerate(columns) if column.name in _PARTS]
    if len(places) == len(_PARTS):
        columns.insert(places[-1] + 1, DIFFERENCE)
    return columns


def with_difference(
    values: dict[str, Float64[np.ndarray, " heatmaps"]],
) -> dict[str, Float64[np.ndarray, " heatmaps"]]:
    """Values by metric; where insertion and deletion are among them, those of `DIFFERENCE` too."""
    if not values.keys() >= set(_PARTS):
        return values
    insertion, deletion = (values[name] for name in _PARTS)
    return {**values, DIFFERENCE.name: insertion - deletion}


def find_metric(name: Any) -> Metric:
    """Find a metric by its name; case, hyphens and spaces do not count.

    Raises:
        TypeError: If ``name`` is no string.
        ValueError: If there is no such metric.
    """
    return METRICS[one_of("metric", name, METRICS)]
