"""Methods beside each other: every method, on every doc, by every metric."""

from __future__ import annotations

import csv
import itertools
import math
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from kerasight.cam.methods import METHODS, find_method
from kerasight.checks import flag, integer, one_of, plural
from kerasight.metrics.common import (
    Plan,
    Trial,
    axes,
    baselines,
    check_model,
    docs_of,
)
from kerasight.metrics.localisation import energy_in_mask, pointing_game
from kerasight.metrics.perturbation import AverageDrop, curve, masked_scores
from kerasight.metrics.road import NOISE, PERCENTILES, road_of
from kerasight.metrics.statistics import FEWEST, LEVEL, differs, standard_error
from kerasight.progress import check_progress, progress_bar

if TYPE_CHECKING:
    import os

    import keras
    from matplotlib.axes import Axes

    from kerasight.keras.explain_prediction import LayerKeys, TargetNames
    from kerasight.keras.heatmaps import Heatmap, Question

__all__ = ["METRICS", "RANDOM", "Evaluation", "Metric", "Row", "Study", "evaluate"]

RANDOM = "random"
"""Heatmaps of noise, in the place of a method. Every method should beat them."""


# What is measured


@dataclass(frozen=True)
class _Case:
    """All heatmaps of a doc, by several methods for its classes, and what they are measured on.

    They share what the metrics need of the doc, and the runs of the model.

    Attributes:
        trial: The model, the doc and the heatmaps.
        masks: For each heatmap where the object of its class is, if that is known.
        steps: Of curves.
        seed: Of the order of equally hot pixels, and of noise.
    """

    trial: Trial
    masks: list[np.ndarray | None]
    steps: int
    seed: int

    def areas(self, metric: Literal["deletion", "insertion"]) -> Plan[np.ndarray]:
        baseline = "mean" if metric == "deletion" else "blur"
        baseline_of = baselines(baseline, self.trial.docs, self.seed)
        found = yield from curve(metric, self.trial, baseline_of, self.steps, self.seed, baseline)
        return found.areas

    def located(self, values_of: Callable[..., np.ndarray]) -> Plan[np.ndarray]:
        """What a metric that looks at the mask says of each heatmap, NaN where there is none."""
        known = [place for place, mask in enumerate(self.masks) if mask is not None]
        values = np.full(len(self.masks), np.nan)
        if known:
            heatmaps = [self.trial.heatmaps[place] for place in known]
            values[known] = values_of(heatmaps, [self.masks[place] for place in known])
        yield from ()  # asks for no scores
        return values

    def masked(self) -> Plan[np.ndarray]:
        """The score of what each heatmap leaves of the doc."""
        return masked_scores(self.trial, baselines("mean", self.trial.docs, self.seed), "mean")

    def drops(self) -> Plan[np.ndarray]:
        before, after = self.trial.untouched, (yield from self.masked())
        # Of a score that is not above 0, there is no share to lose.
        has_share = before > 0
        drops = AverageDrop(np.where(has_share, before, 1), after, self.trial.targets, "mean").drops
        return np.where(has_share, drops, np.nan)

    def increases(self) -> Plan[np.ndarray]:
        after = yield from self.masked()
        return 100.0 * (after > self.trial.untouched)

    def road(self) -> Plan[np.ndarray]:
        found = yield from road_of(self.trial, np.array(PERCENTILES), NOISE, self.seed)
        return found.scores


@dataclass(frozen=True)
class Metric:
    """A column of an evaluation.

    Attributes:
        name: What users call it, and its column in a CSV file.
        title: Its column in a table.
        short: Its column where there is little room.
        is_higher_better: Whether more of it is better.
        show: A mean as text.
        measure: Given the heatmaps of a doc, a value for each. None for a column that is made of
            others.
        needs_mask: Whether it takes to know where the object is.
    """

    name: str
    title: str
    short: str
    is_higher_better: bool
    show: Callable[[float], str]
    measure: Callable[[_Case], Plan[np.ndarray]] | None = None
    needs_mask: bool = False

    def heading(self, is_short: bool = False) -> str:
        """The title, with an arrow to where better is."""
        return f"{self.short if is_short else self.title} {'↑' if self.is_higher_better else '↓'}"


def _share(value: float) -> str:
    return f"{100 * value:.1f}%"


def _percent(value: float) -> str:
    return f"{value:.1f}%"


def _plain(value: float) -> str:
    return f"{value:.3f}"


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric(
            "pointing_game",
            "Pointing game",
            "Point. game",
            True,
            _share,
            lambda case: case.located(lambda *given: pointing_game(*given).hits),
            needs_mask=True,
        ),
        Metric(
            "energy_in_mask",
            "Energy in mask",
            "Energy in mask",
            True,
            _share,
            lambda case: case.located(lambda *given: energy_in_mask(*given).shares),
            needs_mask=True,
        ),
        Metric(
            "deletion",
            "Deletion",
            "Del.",
            False,
            _plain,
            lambda case: case.areas("deletion"),
        ),
        Metric(
            "insertion",
            "Insertion",
            "Ins.",
            True,
            _plain,
            lambda case: case.areas("insertion"),
        ),
        Metric("average_drop", "Average drop", "Avg. drop", False, _percent, _Case.drops),
        Metric(
            "increase",
            "Increase",
            "Incr.",
            True,
            _percent,
            _Case.increases,
        ),
        Metric(
            "road",
            "ROAD",
            "ROAD",
            True,
            _plain,
            _Case.road,
        ),
    )
}
"""The metrics by name, in the order of their columns."""

_DIFFERENCE = Metric(
    "insertion_minus_deletion", "Insertion \u2212 deletion", "Ins. \u2212 del.", True, _plain
)
_SECONDS = Metric("seconds", "Seconds", "Sec.", False, _plain)
# By which share of the quickest others may be slower. Times of a few milliseconds jitter as much.
_SLACK = 0.5
# Methods that are the same formula on a model differ by this little, and always to the same side.
_ROUNDING = 1e-5


def find_metric(name: Any) -> Metric:
    """Find a metric by its name; case, hyphens and spaces do not count.

    Raises:
        TypeError: If ``name`` is no string.
        ValueError: If there is no such metric.
    """
    return METRICS[one_of("metric", name, METRICS)]


@dataclass(frozen=True)
class Row:
    """What a method is worth on one class of one doc.

    Attributes:
        position: The place of the doc among the docs.
        doc: Name of the doc.
        target: Index of the class.
        name: Its name, where it is known.
        score: The model's output for it.
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
        return self.seconds if column == "seconds" else self.values.get(column, math.nan)

    def cells(self, columns: Sequence[str]) -> list[str]:
        """A line of a CSV file, with these metrics; NaN is an empty cell."""
        numbers = [self.seconds, *(self.value(column) for column in columns)]
        about = [self.doc, str(self.target), self.name or "", repr(self.score)]
        return [
            *about,
            self.method,
            self.layer,
            *("" if math.isnan(number) else repr(float(number)) for number in numbers),
        ]


_MEANS = ["method", "metric", "mean", "error", "docs", "best"]
_ABOUT = ["doc", "target", "name", "score", "method", "layer", "seconds"]


# The result


@dataclass(frozen=True, eq=False, repr=False)
class Evaluation:
    """The result of `evaluate`: prints as a table of means, and has every number it was made of.

    The docs are taken for a sample of those that the methods will be used on: each mean has its
    standard error, and methods are compared doc by doc.

    Attributes:
        rows: One for each doc, class and method.
        metrics: Names of the metrics, in the order of their columns.
        logits: Whether the score before the final softmax or sigmoid was explained.
        errors: What went wrong, as pairs of the name of a doc and a message.
    """

    rows: tuple[Row, ...]
    metrics: tuple[str, ...]
    logits: bool = False
    errors: tuple[tuple[str, str], ...] = ()

    @property
    def methods(self) -> tuple[str, ...]:
        """Names of the methods, in the order in which they were asked for, ``"random"`` last."""
        return tuple(sorted(self._of_methods, key=lambda name: name == RANDOM))

    @cached_property
    def _of_methods(self) -> dict[str, list[Row]]:
        found: dict[str, list[Row]] = {}
        for row in self.rows:
            found.setdefault(row.method, []).append(row)
        return found

    @property
    def columns(self) -> tuple[Metric, ...]:
        """The columns of the table: of the metrics those with a value, and seconds."""
        columns = [METRICS[name] for name in self.metrics]
        if {"insertion", "deletion"} <= set(self.metrics):
            place = 1 + max(self.metrics.index(name) for name in ("insertion", "deletion"))
            columns.insert(place, _DIFFERENCE)
        return tuple(
            column
            for column in [*columns, _SECONDS]
            if any(not math.isnan(row.value(column.name)) for row in self.rows)
        )

    def mean(self, method: str, column: str) -> float:
        """The mean of a metric over docs; of a doc with several classes their mean counts.

        Of ``"seconds"`` the median over docs, which a doc that had to wait does not change.

        Args:
            method: Name of the method, or ``"random"``.
            column: Name of the metric, ``"insertion_minus_deletion"`` or ``"seconds"``.

        Returns:
            The mean; NaN if there is no value.

        Raises:
            ValueError: If there is no such method or column.
        """
        values = self._of_docs(self._values(method, column))
        if not values.size:
            return math.nan
        return float(np.median(values) if column == _SECONDS.name else values.mean())

    def error(self, method: str, column: str) -> float:
        """The standard error of a mean, of which the docs are a sample.

        The classes of a doc are not independent of each other, and count as one.

        Args:
            method: Name of the method, or ``"random"``.
            column: Name of the metric, or ``"insertion_minus_deletion"``.

        Returns:
            The error; NaN of fewer than two docs, and of ``"seconds"``.

        Raises:
            ValueError: If there is no such method or column.
        """
        values = self._of_docs(self._values(method, column))
        return math.nan if column == _SECONDS.name else standard_error(values)

    def tells_apart(self, one: str, other: str, column: str) -> bool:
        """Whether two methods differ by a metric, by more than may be chance.

        By Student's t test on their differences, doc by doc; of a doc with several classes the mean
        difference counts. Each of the comparisons that the table has room for, of all pairs of
        methods by all metrics, takes an equal share of 5 % (Bonferroni): of twenty tables of
        methods that are all alike, no more than one tells any of them from another. It takes six
        docs at least.

        Args:
            one: Name of a method, or ``"random"``.
            other: Name of another.
            column: Name of the metric, or ``"insertion_minus_deletion"``. ``"seconds"`` are of the
                machine, and never tell.

        Returns:
            Whether they can be told apart.

        Raises:
            ValueError: If there is no such method or column.
        """
        key = (*sorted((one, other)), column)
        if key not in self._told:
            differences = self._values(one, column) - self._values(other, column)
            differences[np.abs(differences) < _ROUNDING] = 0
            self._told[key] = column != _SECONDS.name and differs(
                self._of_docs(differences), LEVEL / max(self._comparisons, 1)
            )
        return self._told[key]

    @cached_property
    def _told(self) -> dict[tuple[str, ...], bool]:
        return {}

    @cached_property
    def _comparisons(self) -> int:
        """How many comparisons of two methods by a metric there are."""
        return math.comb(len(self.methods), 2) * len(self._compared)

    @cached_property
    def _compared(self) -> tuple[Metric, ...]:
        """The columns by which methods are compared."""
        return tuple(column for column in self.columns if column is not _SECONDS)

    @cached_property
    def _places(self) -> dict[tuple[int, int], int]:
        """The place of each class of each doc among all of them."""
        cases = dict.fromkeys((row.position, row.target) for row in self.rows)
        return {case: place for place, case in enumerate(cases)}

    def _values(self, method: str, column: str) -> np.ndarray:
        """A metric for each class of each doc, NaN where there is none."""
        _known("method", method, self.methods)
        _known("column", column, (*METRICS, _DIFFERENCE.name, _SECONDS.name))
        key = (method, column)
        if key not in self._arrays:
            values = np.full(len(self._places), np.nan)
            for row in self._of_methods[method]:
                values[self._places[row.position, row.target]] = row.value(column)
            self._arrays[key] = values
        return self._arrays[key]

    @cached_property
    def _arrays(self) -> dict[tuple[str, str], np.ndarray]:
        return {}

    def _of_docs(self, values: np.ndarray) -> np.ndarray:
        """Of values for each class of each doc the mean for each doc that has any."""
        docs = np.array([position for position, _ in self._places])
        known = ~np.isnan(values)
        _, doc, number = np.unique(docs[known], return_inverse=True, return_counts=True)
        means: np.ndarray = np.bincount(doc, values[known], len(number)) / number
        return means

    def best(self, column: str) -> tuple[str, ...]:
        """The methods that no other is significantly better than by a metric.

        These are all methods, if no difference is significant. By ``"seconds"``, these are the
        methods that take at most one and a half times as long as the fastest.

        Raises:
            ValueError: If the table has no such column.
        """
        columns = {one.name: one for one in self.columns}
        _known("column", column, columns)
        metric = columns[column]
        means = {method: self.mean(method, column) for method in self.methods}
        means = {method: mean for method, mean in means.items() if not math.isnan(mean)}
        if metric is _SECONDS:
            return tuple(
                name for name, mean in means.items() if mean <= (1 + _SLACK) * min(means.values())
            )
        return tuple(
            method for method in means if not any(self._beats(one, method, metric) for one in means)
        )

    def _beats(self, one: str, other: str, column: Metric) -> bool:
        """Whether a method is significantly better than another."""
        ours, theirs = (self.mean(name, column.name) for name in (one, other))
        is_better = ours > theirs if column.is_higher_better else ours < theirs
        return is_better and self.tells_apart(one, other, column.name)

    def _marked(self, column: Metric) -> tuple[str, ...]:
        """The methods to mark as the best: none, if that would be all."""
        best = self.best(column.name)
        known = [
            method for method in self.methods if not math.isnan(self.mean(method, column.name))
        ]
        return best if len(best) < len(known) else ()

    def beaten_by_random(self) -> dict[str, tuple[str, ...]]:
        """For each method the metrics by which it is not shown to be better than random heatmaps.

        Whether it is worse, or the difference may be chance.
        """
        if RANDOM not in self.methods:
            return {}
        found: dict[str, tuple[str, ...]] = {}
        for method in self.methods:
            lost = [
                column.name for column in self._compared if not self._beats(method, RANDOM, column)
            ]
            if lost and method != RANDOM:
                found[method] = tuple(lost)
        return found

    def table(
        self, best: Callable[[str], str] = "*{}".format, is_short: bool = False
    ) -> list[list[str]]:
        """The means with their standard errors as text: a list of headings, then one a method.

        Args:
            best: Marks the text of the best methods, if a method is significantly worse.
            is_short: Whether to shorten the headings.
        """
        columns = self.columns
        marked = {column.name: self._marked(column) for column in columns}
        lines = [["Method", *(column.heading(is_short) for column in columns)]]
        for method in self.methods:
            line = [method]
            for column in columns:
                text = self._cell(method, column)
                line.append(best(text) if method in marked[column.name] else text)
            lines.append(line)
        return lines

    def _cell(self, method: str, column: Metric) -> str:
        mean, error = self.mean(method, column.name), self.error(method, column.name)
        if math.isnan(mean):
            return ""
        return column.show(mean) + ("" if math.isnan(error) else f" ±{column.show(error)}")

    def summary(self, thing: str = "doc", mark: str = "*") -> list[str]:
        """What the table shows, in sentences.

        Args:
            thing: The word for a doc.
            mark: The name of the mark of the best.
        """
        what = "logits" if self.logits else "scores"
        docs = len({row.position for row in self.rows})
        errors = f", ± the standard error over {thing}s" if docs > 1 else ""
        sentences = [f"Means of {self._size(thing)}, {what} explained{errors}."]
        if self._comparisons:
            sentences += self._verdict(docs, thing, mark)
        if self.errors:
            sentences.append(f"Left out because of errors: {plural(len(self.errors), thing)}.")
        return sentences

    def _verdict(self, docs: int, thing: str, mark: str) -> list[str]:
        """Which differences between the methods are significant."""
        if docs < FEWEST:
            few = f"{plural(docs, thing)} {'is' if docs == 1 else 'are'} too few"
            return [f"{few} to compare methods: at least {FEWEST} are needed, and often many more."]
        told = [
            self.tells_apart(*pair, column.name)
            for column in self._compared
            for pair in itertools.combinations(self.methods, 2)
        ]
        if not any(told):
            return [f"No two methods differ significantly: that takes more {thing}s."]
        sentences = [
            f"{mark} marks methods that no other is significantly better than; a column without "
            f"{mark} shows no significant difference."
        ]
        if _DIFFERENCE in self._compared:
            sentences.append(self._verdict_by(_DIFFERENCE))
        titles = {column.name: column.title for column in self._compared}
        beaten: dict[tuple[str, ...], list[str]] = {}
        for method, lost in self.beaten_by_random().items():
            beaten.setdefault(lost, []).append(method)
        for lost, methods in beaten.items():
            where = _listed([titles[name] for name in lost])
            who = "all methods" if len(methods) == len(self.methods) - 1 > 1 else _listed(methods)
            sentences.append(f"Not significantly better than random in {where}: {who}.")
        return sentences

    def _verdict_by(self, column: Metric) -> str:
        """The best methods by a metric."""
        best = self.best(column.name)
        if len(best) == 1:
            return f"Best by {_inline(column)}: {best[0]} ({self._cell(best[0], column)})."
        if not self._marked(column):
            return f"By {_inline(column)}, no method is significantly worse than the best."
        if {*best, RANDOM} == set(self.methods) and RANDOM not in best:
            return f"By {_inline(column)}, only {RANDOM} is significantly worse than the best."
        return f"Best by {_inline(column)} is one of {_listed(best)}."

    def _size(self, thing: str) -> str:
        """How many docs and classes were judged."""
        docs = len({row.position for row in self.rows})
        classes = len(self._places)
        text = plural(docs, thing)
        return text if classes == docs else f"{text}, {plural(classes, 'class')}"

    def __str__(self) -> str:
        head, *lines = self.table()
        widths = [max(map(len, cells)) for cells in zip(head, *lines, strict=True)]
        text = [
            "  ".join(
                cell.ljust(width) if place == 0 else cell.rjust(width)
                for place, (cell, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in (head, *lines)
        ]
        text.insert(1, "─" * (sum(widths) + 2 * (len(widths) - 1)))
        return "\n".join([*text, "", *self.summary()])

    def __repr__(self) -> str:
        return (
            f"evaluation of {plural(len(self.methods), 'method')} by "
            f"{plural(len(self.metrics), 'metric')} on {self._size('doc')}"
        )

    def to_markdown(self) -> str:
        """The table in Markdown, with standard errors.

        The best methods are bold, if a method is significantly worse.
        """
        head, *lines = self.table("**{}**".format)
        ruler = ["---", *["---:"] * (len(head) - 1)]
        return "\n".join(f"| {' | '.join(line)} |" for line in [head, ruler, *lines])

    def to_csv(self, path: str | os.PathLike[str], means: bool = False) -> None:
        """Write all rows to a CSV file, one line for each doc, class and method.

        Args:
            path: The file, which is replaced.
            means: Whether to write the table instead, one line for each method and column: the
                mean, its standard error, the number of docs, and 1 if no other method is
                significantly better, else 0.
        """
        lines: Iterable[Sequence[object]]
        if means:
            heading, lines = _MEANS, self._lines_of_means()
        else:
            heading = csv_heading(self.metrics)
            lines = (row.cells(csv_columns(self.metrics)) for row in self.rows)
        with open(path, "w", encoding="utf-8", errors="backslashreplace", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(heading)
            writer.writerows(lines)

    def _lines_of_means(self) -> Iterator[Sequence[object]]:
        for column in self.columns:
            best = self.best(column.name)
            for method in self.methods:
                docs = len(self._of_docs(self._values(method, column.name)))
                mean, error = self.mean(method, column.name), self.error(method, column.name)
                numbers = ("" if math.isnan(number) else repr(number) for number in (mean, error))
                yield [method, column.name, *numbers, docs, int(method in best)]

    def plot(self, ax: Axes | None = None, **kwargs: Any) -> Axes:
        """Draw the table, each column coloured from its worst value to its best.

        Below each mean it stands as a dot between the least of its column, on the left, and the
        greatest, with its standard error to either side.

        Args:
            ax: Where to draw; None makes a new figure.
            **kwargs: Passed on to ``ax.imshow``, such as ``cmap``.

        Returns:
            The axes.
        """
        head, *lines = self.table()
        ranks = np.array(
            [[self._rank(method, column) for column in self.columns] for method in self.methods]
        )
        ax = axes(ax, width=2 + 1.3 * len(self.columns), height=1.6 + 0.5 * len(self.methods))
        image = ax.imshow(
            ranks, **{"cmap": "Blues", "vmin": 0.0, "vmax": 1.4, "aspect": "auto", **kwargs}
        )
        for (row, place), rank in np.ndenumerate(ranks):
            shade = np.array(image.cmap(image.norm(rank)))[:3] if np.isfinite(rank) else np.ones(3)
            color = "white" if shade @ (0.299, 0.587, 0.114) < 0.5 else "black"
            text = lines[row][place + 1]
            ax.text(
                place,
                row - 0.12,
                text,
                ha="center",
                va="center",
                color=color,
                fontsize="small",
                fontweight="bold" if text.startswith("*") else "normal",
            )
            column = self.columns[place]
            error = self.error(self.methods[row], column.name)
            if not math.isnan(error):
                low, span = self._range(column)
                share = (self.mean(self.methods[row], column.name) - low) / span
                ends = np.clip([share - error / span, share + error / span], 0, 1)
                ax.plot(place - 0.4 + 0.8 * ends, [row + 0.27] * 2, color=color, linewidth=1)
                ax.plot(place - 0.4 + 0.8 * share, row + 0.27, "o", color=color, markersize=2.5)
        headings = [heading.replace(" ", "\n", 1) for heading in head[1:]]
        ax.set_xticks(range(len(headings)), headings)
        ax.set_yticks(range(len(lines)), [line[0] for line in lines])
        ax.tick_params(length=0, top=False, labeltop=True, bottom=False, labelbottom=False)
        ax.spines[:].set_visible(False)
        ax.set_xlabel(
            f"Means of {self._size('doc')} with standard errors; darkest is the best mean, column "
            "by column"
        )
        return ax

    def _range(self, column: Metric) -> tuple[float, float]:
        """The least mean of a column, and how far it is to the greatest."""
        means = np.array([self.mean(name, column.name) for name in self.methods])
        low = float(np.nanmin(means))
        return low, float(np.nanmax(means)) - low or 1.0

    def _rank(self, method: str, column: Metric) -> float:
        """Where a method stands between the worst (0) and the best (1) by a metric."""
        low, span = self._range(column)
        share = (self.mean(method, column.name) - low) / span
        return float(share if column.is_higher_better else 1 - share)


def _known(what: str, name: str, known: Iterable[str]) -> None:
    """Raise ValueError unless a name is among those that are known."""
    known = list(known)
    if name not in known:
        raise ValueError(f"unknown {what} {name!r}; known are {', '.join(known)}")


def csv_columns(metrics: Iterable[str]) -> list[str]:
    """The metrics in a CSV file."""
    columns = list(metrics)
    if {"insertion", "deletion"} <= set(columns):
        columns.append(_DIFFERENCE.name)
    return columns


def csv_heading(metrics: Iterable[str]) -> list[str]:
    """The first line of a CSV file."""
    return [*_ABOUT, *csv_columns(metrics)]


def _inline(column: Metric) -> str:
    """The title of a column within a sentence."""
    return column.title[0].lower() + column.title[1:]


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


# Measuring


# Seconds, beside which those of preparing a method do not count.
_LONG = 2.0


@dataclass
class Study:
    """What is to be evaluated, whatever the doc; `evaluate` makes one, and runs it over docs.

    Attributes:
        model: The classifier.
        questions: The methods.
        metrics: The metrics.
        layer: The layer to explain, as `kerasight.explain_prediction` takes it.
        steps: In how many steps pixels are deleted and inserted.
        random: Whether to judge random heatmaps as well.
        batch_size: How many inputs go through the model at a time.
        seed: Of random heatmaps, of the order of equally hot pixels, and of noise.
        leaves_out: Whether to leave out methods that the model has no classes for.
        logits: Whether to explain the score before the final softmax or sigmoid; None until it is
            known whether that can be found.
        progress: Whether slow methods and metrics show a bar of their own.
        tell: If given, is called with the name of the method that is next, or with "metrics", and
            the share of the doc that is done.
    """

    model: keras.Model
    questions: tuple[Question, ...]
    metrics: tuple[Metric, ...]
    layer: LayerKeys | None
    steps: int
    random: bool
    batch_size: int
    seed: int
    leaves_out: bool
    logits: bool | None
    progress: bool | None = None
    tell: Callable[[str, float], None] | None = None
    _warm: dict[bool, list[Any]] = field(default_factory=dict, init=False, repr=False)
    _first: dict[str, tuple[list[Heatmap], float]] = field(
        default_factory=dict, init=False, repr=False
    )

    @classmethod
    def of(
        cls,
        model: keras.Model,
        *,
        methods: Sequence[str] | None = None,
        metrics: Sequence[str] | None = None,
        layer: LayerKeys | None = None,
        logits: bool | None = None,
        steps: int = 50,
        random: bool = True,
        batch_size: int = 32,
        seed: int = 0,
        progress: bool | None = None,
        tell: Callable[[str, float], None] | None = None,
    ) -> Study:
        """A study of what the user passed, checked; the arguments are those of `evaluate`."""
        check_model(model)
        from kerasight.keras.explain_prediction import check_layers
        from kerasight.keras.heatmaps import Question

        for name, value in (("methods", methods), ("metrics", metrics)):
            is_list = isinstance(value, Collection) and not isinstance(value, str)
            if value is not None and not (is_list and len(value)):
                raise ValueError(f"{name} must be a list of names, or None for all, got {value!r}")
        check_layers(layer)
        questions = {
            find_method(method).name: Question.of(
                method, logits=logits, seed=seed, batch_size=batch_size, progress=progress
            )
            for method in (METHODS if methods is None else methods)
        }
        return cls(
            model=model,
            questions=tuple(questions.values()),
            metrics=tuple(dict.fromkeys(map(find_metric, metrics or METRICS))),
            layer=layer,
            steps=integer("steps", steps, least=1),
            random=flag("random", random),
            batch_size=batch_size,
            seed=seed,
            leaves_out=methods is None,
            logits=logits,
            progress=progress,
            tell=tell,
        )

    def rows(
        self,
        doc: np.ndarray,
        *,
        targets: Sequence[int] | None = None,
        masks: Sequence[np.ndarray | None] | None = None,
        target_names: TargetNames | None = None,
        name: str = "",
        position: int = 0,
    ) -> list[Row]:
        """Explain a doc by every method, and measure what came out.

        Args:
            doc: One input, shape ``(1, height, width, channels)``, or channels first.
            targets: The classes to explain; None for the one with the greatest score.
            masks: For each of them where its object is, booleans ``(height, width)``, or None.
            target_names: Names of all classes.
            name: Name of the doc.
            position: Its place among others.

        Returns:
            One row for each class and method, class by class.

        Raises:
            ValueError: If a method or metric cannot do with the model or the doc.
        """
        from kerasight.keras.explain_prediction import _name_of, _validate_doc
        from kerasight.keras.record import scores_of

        _validate_doc(self.model, doc)
        scores = scores_of(self.model, doc)[0]
        targets = [int(scores.argmax())] if targets is None else list(targets)
        masks = [None] * len(targets) if masks is None else list(masks)
        if len(masks) != len(targets):
            raise ValueError(
                f"there must be a mask for each of the {len(targets)} classes, got {len(masks)}"
            )
        if self.logits is None:
            self.logits = _has_logits(self.model, doc)
        questions = [
            replace(question, logits=self.logits)
            for question in self.questions
            if not (self.leaves_out and question.method.compares and len(scores) == 1)
        ]
        layers = self._ready(doc, targets, questions)
        steps = len(questions) + len(self.metrics)
        found: dict[str, tuple[list[Heatmap], float]] = {}
        for question in questions:
            self._tell(question.method.name, len(found), steps)
            name_of_method = question.method.name
            warm = self._first.pop(name_of_method, None)
            found[name_of_method] = warm or self._timed(doc, targets, layers, question)
        maps = {
            (rank, method): heatmaps[rank].values
            for rank in range(len(targets))
            for method, (heatmaps, _) in found.items()
        }
        if self.random:
            shape = next(iter(maps.values())).shape
            for rank, target in enumerate(targets):
                drawn = np.random.default_rng([self.seed, position, target]).random(shape)
                maps[rank, RANDOM] = drawn
        case = self._case(doc, maps, targets, masks)
        values = self._measured(case, len(questions), steps)
        places = {key: place for place, key in enumerate(maps)}
        rows: list[Row] = []
        for rank, target in enumerate(targets):
            for method in (*found, *([RANDOM] if self.random else [])):
                heatmaps, seconds = found.get(method, (next(iter(found.values()))[0], math.nan))
                place = places[rank, method]
                rows.append(
                    Row(
                        position=position,
                        doc=name,
                        target=target,
                        name=_name_of(target, target_names, len(scores)),
                        score=float(scores[target]),
                        method=method,
                        layer=heatmaps[rank].path,
                        seconds=seconds,
                        values={metric: float(each[place]) for metric, each in values.items()},
                    )
                )
        return rows

    def _case(
        self,
        doc: np.ndarray,
        maps: dict[tuple[int, str], np.ndarray],
        targets: Sequence[int],
        masks: Sequence[np.ndarray | None],
    ) -> _Case:
        """The heatmaps of the doc, by the rank of the class and the method."""
        trial = Trial.of(
            self.model,
            docs_of(self.model, doc),
            list(maps.values()),
            [targets[rank] for rank, _ in maps],
            self.batch_size,
            False,
            self.progress,
            is_one_doc=True,
        )
        return _Case(trial, [masks[rank] for rank, _ in maps], self.steps, self.seed)

    def _tell(self, what: str, done: float, steps: int) -> None:
        if self.tell is not None:
            self.tell(what, done / steps)

    def _ready(
        self, doc: np.ndarray, targets: Sequence[int], questions: Sequence[Question]
    ) -> list[Any]:
        """The layers to explain, with all that is prepared at first use prepared.

        What a method costs is then what it costs from the second doc on. Of what takes long,
        little is preparation, and it is not done twice.
        """
        from kerasight.keras.explain_prediction import find_sites
        from kerasight.keras.heatmaps import heatmaps_of
        from kerasight.keras.record import scores_of
        from kerasight.keras.traces import WORTH_A_TRACE

        several = len(targets) > 1
        if several not in self._warm:
            layers = find_sites(self.model, doc, self.layer)
            docs = np.repeat(doc, WORTH_A_TRACE, axis=0)
            each = np.repeat([targets], WORTH_A_TRACE, axis=0)
            for question in questions:
                if question.method.needs in ("gradients", "nothing"):
                    (first, *_) = heatmaps_of(self.model, docs, each, layers, question)
                    if isinstance(first, ValueError):
                        raise first
                    if self.layer is None:
                        layers = [first[0].terms.site]
                else:
                    for _ in range(2):
                        scores_of(self.model, docs, logits=question.logits)
                heatmaps, seconds = self._timed(doc, targets, layers, question)
                if seconds > _LONG:
                    self._first[question.method.name] = heatmaps, seconds
            self._warm[several] = layers
        return self._warm[several]

    def _timed(
        self, doc: np.ndarray, targets: Sequence[int], layers: list[Any], question: Question
    ) -> tuple[list[Heatmap], float]:
        start = time.perf_counter()
        heatmaps = self._heatmaps(doc, targets, layers, question)
        return heatmaps, time.perf_counter() - start

    def _heatmaps(
        self, doc: np.ndarray, targets: Sequence[int], layers: list[Any], question: Question
    ) -> list[Heatmap]:
        """The heatmap of each class."""
        from kerasight.keras.heatmaps import heatmaps_of

        (found,) = heatmaps_of(self.model, doc, np.array([targets]), layers, question)
        if isinstance(found, ValueError):
            raise found
        return found

    def _measured(self, case: _Case, done: int, steps: int) -> dict[str, np.ndarray]:
        """All metrics of the heatmaps of a doc."""
        has_mask = any(mask is not None for mask in case.masks)
        plans = {
            metric.name: metric.measure(case)
            for metric in self.metrics
            if metric.measure is not None and (has_mask or not metric.needs_mask)
        }

        def tell(share: float) -> None:
            self._tell("metrics", done + share * (steps - done), steps)

        tell(0)
        values = dict(zip(plans, case.trial.results([*plans.values()], tell), strict=True))
        if {"insertion", "deletion"} <= values.keys():
            values[_DIFFERENCE.name] = values["insertion"] - values["deletion"]
        return values

    def evaluation(self, rows: Iterable[Row], errors: Iterable[tuple[str, str]] = ()) -> Evaluation:
        """The result of what was measured."""
        metrics = tuple(metric.name for metric in self.metrics)
        return Evaluation(tuple(rows), metrics, bool(self.logits), tuple(errors))


def _has_logits(model: keras.Model, doc: np.ndarray) -> bool:
    """Whether the score before the final softmax or sigmoid can be found."""
    from kerasight.keras.record import scores_of

    try:
        scores_of(model, doc, logits=True)
    except ValueError:
        return False
    return True


def evaluate(
    model: keras.Model,
    docs: Iterable[np.ndarray],
    *,
    methods: Sequence[str] | None = None,
    metrics: Sequence[str] | None = None,
    targets: Iterable[int | Sequence[int]] | None = None,
    masks: Iterable[np.ndarray | Sequence[np.ndarray | None] | None] | None = None,
    names: Iterable[object] | None = None,
    target_names: TargetNames | None = None,
    layer: LayerKeys | None = None,
    logits: bool | None = None,
    steps: int = 50,
    random: bool = True,
    batch_size: int = 32,
    seed: int = 0,
    errors: Literal["raise", "keep"] = "raise",
    progress: bool | None = None,
) -> Evaluation:
    """Explain docs by several methods, and judge the heatmaps by several metrics.

    What the metrics watch is always what the model puts out, mostly a probability. ``logits`` says
    what is explained: the score before the final softmax or sigmoid is what the methods' papers
    take, it does not saturate, and so it is the default where it can be found.

    Args:
        model: The classifier.
        docs: Its inputs, preprocessing done: an array ``(docs, height, width, channels)``, or
            anything to iterate over that holds docs, each ``(height, width, channels)`` or
            ``(1, height, width, channels)``; channels first for a channels-first model. They may
            differ in size if the model takes that.
        methods: Names of methods, as in `kerasight.explain_prediction`; None for all.
        metrics: Names of metrics, ``"pointing_game"``, ``"energy_in_mask"``, ``"deletion"``,
            ``"insertion"``, ``"average_drop"``, ``"increase"`` and ``"road"``; None for all. The
            first two are measured where there are masks.
        targets: For each doc the class to explain, or a list of them; None for the class with the
            greatest score.
        masks: For each doc where the object is: booleans ``(height, width)``, of any size; a list
            with one for each of its classes; or None where that is not known.
        names: What each doc is called in the rows; None numbers them.
        target_names: Names of the classes: a list with one for each, or a dict from index to name.
        layer: The layer to explain, as in `kerasight.explain_prediction`.
        logits: Whether to explain the score before the final softmax or sigmoid. None does where
            that can be found.
        steps: In how many steps `deletion` and `insertion` go.
        random: Whether to judge random heatmaps too: uniform noise at the resolution of the layer.
        batch_size: How many inputs go through the model at a time.
        seed: Of random heatmaps, of the order of equally hot pixels, and of noise.
        errors: What to do at a doc that cannot be explained or judged: ``"raise"`` its error, with
            its name; or ``"keep"`` it in the ``errors`` of the result, and go on.
        progress: Whether to show a progress bar, by tqdm; None shows it on a terminal.

    Returns:
        An `Evaluation`.

    Raises:
        TypeError: If an argument is of a type that it cannot be.
        ValueError: If an argument has a value that it cannot have; if there are not as many targets
            or masks as docs; if a doc cannot be explained or judged.

    Example:
        >>> import numpy as np
        >>> from kerasight import demo
        >>> from kerasight.metrics.evaluation import evaluate
        >>> model = demo.load_model()
        >>> pictures = [demo.draw_picture(seed, size=96) for seed in range(2)]
        >>> docs = np.concatenate([demo.preprocess(picture.image) for picture in pictures])
        >>> found = evaluate(
        ...     model,
        ...     docs,
        ...     targets=[picture.labels for picture in pictures],
        ...     masks=[picture.masks for picture in pictures],
        ...     methods=["grad-cam", "layercam"],
        ...     metrics=["pointing_game", "deletion"],
        ... )
        >>> found
        evaluation of 3 methods by 2 metrics on 2 docs
        >>> found.mean("grad-cam", "deletion") < found.mean("random", "deletion")
        True
    """
    if errors not in ("raise", "keep"):
        raise ValueError(f"errors must be 'raise' or 'keep', got {errors!r}")
    check_progress(progress)
    study = Study.of(
        model,
        methods=methods,
        metrics=metrics,
        layer=layer,
        logits=logits,
        steps=steps,
        random=random,
        batch_size=batch_size,
        seed=seed,
        progress=None if progress is None else False,  # the bar that counts docs is enough
    )
    # Imported only now, as it needs Keras.
    from kerasight.keras.explain_prediction import check_names

    check_names(target_names)
    rows: list[Row] = []
    failures: list[tuple[str, str]] = []
    with closing(_bar(docs, progress)) as bar:
        for position, (doc, name, of_doc, where) in enumerate(
            _together(docs, names, targets, masks)
        ):
            try:
                rows += study.rows(
                    _batch_of_one(doc),
                    targets=of_doc,
                    masks=where,
                    target_names=target_names,
                    name=name,
                    position=position,
                )
            except (TypeError, ValueError) as error:
                if errors == "raise":
                    kind = TypeError if isinstance(error, TypeError) else ValueError
                    raise kind(f"doc {name}: {error}") from error
                failures.append((name, str(error)))
            bar.update()
    return study.evaluation(rows, failures)


def _bar(docs: Any, progress: bool | None) -> Any:
    total = len(docs) if hasattr(docs, "__len__") else None
    return progress_bar(progress=progress, total=total, desc="evaluating", unit="doc")


def _together(
    docs: Iterable[Any],
    names: Iterable[object] | None,
    targets: Iterable[int | Sequence[int]] | None,
    masks: Iterable[Any] | None,
) -> Iterator[tuple[Any, str, list[int] | None, list[np.ndarray | None] | None]]:
    """Each doc with its name, its classes and their masks."""
    from kerasight.keras.record import class_index

    if not hasattr(docs, "__iter__") and not hasattr(docs, "__getitem__"):
        raise TypeError(
            "docs must be an array of shape (docs, height, width, channels), or something to "
            f"iterate over that holds docs, got {type(docs).__name__}"
        )
    given = [
        (what, _one_by_one(what, values))
        for what, values in (("names", names), ("targets", targets), ("masks", masks))
    ]
    for position, doc in enumerate(docs):
        found: list[Any] = []
        for what, values in given:
            try:
                found.append(None if values is None else next(values))
            except StopIteration:
                raise ValueError(
                    f"{what} must hold one for each doc, and ends at doc {position}"
                ) from None
        name, of_doc, where = found
        yield (
            doc,
            str(position if name is None else name),
            None if of_doc is None else [class_index(target) for target in np.atleast_1d(of_doc)],
            None if where is None else [where] if _is_array(where, 2) else list(where),
        )


def _one_by_one(what: str, values: Any) -> Iterator[Any] | None:
    """What was given for each doc; None if nothing was."""
    if values is None:
        return None
    if isinstance(values, (str, bytes)) or not isinstance(values, Iterable):
        raise TypeError(
            f"{what} must be a list with one for each doc, or None, got {type(values).__name__}"
        )
    return iter(values)


def _is_array(value: Any, rank: int) -> bool:
    return isinstance(value, np.ndarray) and value.ndim == rank


def _batch_of_one(doc: Any) -> Any:
    return doc[np.newaxis] if _is_array(doc, 3) else doc
