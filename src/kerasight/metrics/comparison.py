"""Methods compared: their means by each metric, and which of their differences are significant."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from kerasight.metrics.columns import COLUMNS, SECONDS, Metric, columns_of
from kerasight.metrics.statistics import LEVEL, Estimate, differs, standard_error

if TYPE_CHECKING:
    from jaxtyping import Float64

__all__ = ["RANDOM", "Comparison", "Row", "csv_heading"]

RANDOM = "random"
"""Heatmaps of noise, in the place of a method. Every method should beat them."""

# The fastest method may be slower by this share, as times of a few milliseconds vary as much.
_SLACK = 0.5
# Methods that are the same formula on a model differ by this little, and always to the same side.
_ROUNDING = 1e-5

_ABOUT = ("doc", "target", "name", "score", "method", "layer", "seconds")


@dataclass(frozen=True)
class Row:
    """How good the heatmap of one method is, for one class of one doc.

    Attributes:
        position: The place of the doc among the docs.
        doc: Name of the doc.
        target: Index of the class.
        name: Name of the class; None if it is not known.
        score: The model's output for the class.
        method: Name of the method, or ``"random"``.
        layer: Path of the layer.
        seconds: How long the method took to explain all classes of the doc; NaN for ``"random"``.
        values: The metrics by name; NaN where one cannot be computed.
    """

    position: int
    doc: str
    target: int
    name: str | None
    score: float
    method: str
    layer: str
    seconds: float
    values: dict[str, float] = field(default_factory=dict)

    def value(self, column: str) -> float:
        """A metric, or ``"seconds"``; NaN if it was not measured."""
        return self.seconds if column == SECONDS.name else self.values.get(column, math.nan)

    def cells(self, metrics: Iterable[str]) -> list[str]:
        """Its line in a CSV file, below `csv_heading` of these metrics; NaN is an empty cell."""
        numbers = (float(self.value(column)) for column in _csv_columns(metrics))
        return [_cell(value) for value in (*(getattr(self, one) for one in _ABOUT), *numbers)]


def csv_heading(metrics: Iterable[str]) -> list[str]:
    """The first line of a CSV file."""
    return [*_ABOUT, *_csv_columns(metrics)]


def _csv_columns(metrics: Iterable[str]) -> list[str]:
    """The columns of metrics, those that are made of others last."""
    columns = columns_of(metrics)
    return [one.name for one in sorted(columns, key=lambda column: column.measure is None)]


def _cell(value: Any) -> str:
    if value is None or value != value:
        return ""
    return repr(float(value)) if isinstance(value, (float, np.floating)) else str(value)


@dataclass(frozen=True, eq=False, repr=False)
class Comparison:
    """Methods, measured on the same docs.

    The docs are taken for a sample of those that the methods will be used on: each mean has its
    standard error, and methods are compared doc by doc.

    Attributes:
        rows: One for each doc, class and method.
        metrics: Names of the metrics, in the order of their columns.
    """

    rows: tuple[Row, ...]
    metrics: tuple[str, ...]

    @cached_property
    def methods(self) -> tuple[str, ...]:
        """Names of the methods, in the order in which they were asked for, ``"random"`` last."""
        methods = dict.fromkeys(row.method for row in self.rows)
        return tuple(sorted(methods, key=lambda name: name == RANDOM))

    @cached_property
    def columns(self) -> tuple[Metric, ...]:
        """The columns of the table, that is the metrics that have values, and seconds."""
        return tuple(
            column
            for column in (*columns_of(self.metrics), SECONDS)
            if any(not math.isnan(row.value(column.name)) for row in self.rows)
        )

    @property
    def compared(self) -> tuple[Metric, ...]:
        """The columns that tell how good a method is, all but seconds."""
        return tuple(column for column in self.columns if column is not SECONDS)

    def mean(self, method: str, column: str) -> float:
        """The mean over docs; a doc with several classes counts with the mean of its classes.

        For ``"seconds"``, the median over docs, as single docs may have had to wait.

        Args:
            method: Name of the method, or ``"random"``.
            column: Name of a metric, ``"insertion_minus_deletion"`` or ``"seconds"``.

        Returns:
            The mean; NaN if there is no value.

        Raises:
            ValueError: If there is no such method or column.
        """
        values = self.of_docs(method, column)
        if not values.size:
            return math.nan
        return float(np.median(values) if column == SECONDS.name else values.mean())

    def error(self, method: str, column: str) -> float:
        """The standard error of a mean over docs.

        The classes of a doc are not independent of each other, and count as one.

        Args:
            method: As in `mean`.
            column: As in `mean`.

        Returns:
            The error; NaN of fewer than two docs, and of ``"seconds"``.

        Raises:
            ValueError: If there is no such method or column.
        """
        values = self.of_docs(method, column)
        return math.nan if column == SECONDS.name else standard_error(values)

    def of_docs(self, method: str, column: str) -> Float64[np.ndarray, " docs"]:
        """The values that `mean` is the mean of: those of the docs that have one.

        Args:
            method: As in `mean`.
            column: As in `mean`.

        Raises:
            ValueError: If there is no such method or column.
        """
        return self._over_docs(self._values(method, column))

    def difference(self, one: str, other: str, column: str) -> Estimate:
        """How much greater a metric is by one method than by another, doc by doc.

        The docs that both have a value of are paired; one with several classes counts with the mean
        difference. What makes a doc hard for both is then no part of the error, which is mostly
        much less than those of the two means.

        Args:
            one: Name of a method, or ``"random"``.
            other: Name of another.
            column: As in `mean`.

        Returns:
            The mean difference, its standard error, and its 95 % confidence interval, as of this
            comparison alone: `tells_apart` says what holds for all of them together.

        Raises:
            ValueError: If there is no such method or column.
        """
        return Estimate.of(self._over_docs(self._gaps(one, other, column)))

    def _gaps(self, one: str, other: str, column: str) -> Float64[np.ndarray, " cases"]:
        """The differences of two methods for each class of each doc, NaN where there is none."""
        gaps: np.ndarray = self._values(one, column) - self._values(other, column)
        gaps[np.abs(gaps) < _ROUNDING] = 0
        return gaps

    def tells_apart(self, one: str, other: str, column: str) -> bool:
        """Whether two methods differ significantly by a metric.

        By Student's t test on their differences, doc by doc; a doc with several classes counts with
        the mean difference. All pairs of methods are compared by all metrics, and each comparison
        takes an equal share of a significance level of 5 % (Bonferroni). So of twenty tables of
        methods that are all alike, at most one shows a significant difference. The test needs six
        docs at least.

        Args:
            one: Name of a method, or ``"random"``.
            other: Name of another.
            column: Name of a metric, or ``"insertion_minus_deletion"``. Differences of
                ``"seconds"`` depend on the machine, and are never significant.

        Returns:
            Whether the difference is significant.

        Raises:
            ValueError: If there is no such method or column.
        """
        for method in (one, other):
            self._values(method, column)
        return (frozenset((one, other)), column) in self.differences

    @cached_property
    def differences(self) -> frozenset[tuple[frozenset[str], str]]:
        """The significant differences, pairs of methods, each with the name of the metric."""
        pairs = list(itertools.combinations(self.methods, 2))
        level = LEVEL / max(len(pairs) * len(self.compared), 1)
        found = set()
        for (one, other), column in itertools.product(pairs, self.compared):
            if differs(self._over_docs(self._gaps(one, other, column.name)), level):
                found.add((frozenset((one, other)), column.name))
        return frozenset(found)

    def best(self, column: str) -> tuple[str, ...]:
        """The methods that no other is significantly better than by a metric.

        These are all methods, if no difference is significant. By ``"seconds"``, these are the
        methods that take at most one and a half times as long as the fastest.

        Raises:
            ValueError: If the table has no such column.
        """
        columns = {one.name: one for one in self.columns}
        _check_known("column", column, columns)
        known = [name for name in self.methods if not math.isnan(self.mean(name, column))]
        if columns[column] is SECONDS:
            most = (1 + _SLACK) * min(self.mean(name, column) for name in known)
            return tuple(name for name in known if self.mean(name, column) <= most)
        return tuple(
            name for name in known if not any(self._beats(one, name, column) for one in known)
        )

    def _beats(self, one: str, other: str, column: str) -> bool:
        """Whether a method is significantly better than another."""
        gain = self.mean(one, column) - self.mean(other, column)
        is_better = gain > 0 if COLUMNS[column].is_higher_better else gain < 0
        return is_better and self.tells_apart(one, other, column)

    def beaten_by_random(self) -> dict[str, tuple[str, ...]]:
        """For each method the metrics by which it is not significantly better than random heatmaps.

        Methods that are better by all metrics are left out.
        """
        if RANDOM not in self.methods:
            return {}
        lost = {
            method: tuple(
                one.name for one in self.compared if not self._beats(method, RANDOM, one.name)
            )
            for method in self.methods
            if method != RANDOM
        }
        return {method: names for method, names in lost.items() if names}

    @cached_property
    def cases(self) -> dict[tuple[int, int], int]:
        """The place of each class of each doc, by the position of the doc and the class."""
        cases = dict.fromkeys((row.position, row.target) for row in self.rows)
        return {case: place for place, case in enumerate(cases)}

    def _values(self, method: str, column: str) -> Float64[np.ndarray, " cases"]:
        """The values of each class of each doc, NaN where there is none."""
        _check_known("method", method, self.methods)
        _check_known("column", column, COLUMNS)
        return self._arrays[method][column]

    @cached_property
    def _arrays(self) -> dict[str, dict[str, Float64[np.ndarray, " cases"]]]:
        arrays = {
            method: {column: np.full(len(self.cases), np.nan) for column in COLUMNS}
            for method in self.methods
        }
        for row in self.rows:
            for column, values in arrays[row.method].items():
                values[self.cases[row.position, row.target]] = row.value(column)
        return arrays

    def _over_docs(self, values: Float64[np.ndarray, " cases"]) -> Float64[np.ndarray, " docs"]:
        """From values of each class of each doc the mean of each doc that has any."""
        docs = np.array([position for position, _ in self.cases])
        known = ~np.isnan(values)
        _, doc, number = np.unique(docs[known], return_inverse=True, return_counts=True)
        means: np.ndarray = np.bincount(doc, values[known], len(number)) / number
        return means


def _check_known(what: str, name: str, known: Iterable[str]) -> None:
    """Raise ValueError unless a name is among those that are known."""
    if name not in known:
        raise ValueError(f"unknown {what} {name!r}; known are {', '.join(known)}")
