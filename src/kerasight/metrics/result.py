"""The result of an evaluation: as a table, in sentences, as CSV, and drawn."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from kerasight.checks import plural
from kerasight.files import whole_file
from kerasight.metrics.columns import COLUMNS, DIFFERENCE, Metric
from kerasight.metrics.common import axes
from kerasight.metrics.comparison import RANDOM, Comparison, csv_heading
from kerasight.metrics.statistics import FEWEST

if TYPE_CHECKING:
    import os

    from matplotlib.axes import Axes

__all__ = ["Evaluation"]

# What tells how faithful methods are; by the first that was measured, all of them are compared.
_FAITHFUL = (DIFFERENCE.name, "road", "insertion", "deletion", "average_drop")

_MEANS = ("method", "metric", "mean", "error", "docs", "best")


@dataclass(frozen=True, eq=False, repr=False)
class Evaluation(Comparison):
    """The result of `kerasight.metrics.evaluation.evaluate`: prints as a table of means.

    The docs are taken for a sample of those that the methods will be used on: each mean has its
    standard error, and methods are compared doc by doc.

    Attributes:
        rows: One for each doc, class and method.
        metrics: Names of the metrics, in the order of their columns.
        logits: Whether the score before the final softmax or sigmoid was explained.
        errors: The docs that failed, as pairs of a name and a message.
    """

    logits: bool = False
    errors: tuple[tuple[str, str], ...] = ()

    def table(self, best: str = "*{}", is_short: bool = False) -> list[list[str]]:
        """The means with their standard errors as text: a list of headings, then one a method.

        Args:
            best: How to write the number of the best methods, if a method is significantly worse:
                ``"{}"`` stands for the number.
            is_short: Whether to shorten the headings.
        """
        columns = {}
        for column in self.columns:
            marked = self._marked(column)
            texts = {method: self._cell(method, column) for method in self.methods}
            columns[column.heading(is_short)] = [
                best.format(text) if method in marked else text for method, text in texts.items()
            ]
        return [["Method", *columns], *map(list, zip(self.methods, *columns.values(), strict=True))]

    def _marked(self, column: Metric) -> tuple[str, ...]:
        """The methods to mark as the best: none, if that would be all."""
        best = self.best(column.name)
        known = sum(not math.isnan(self.mean(method, column.name)) for method in self.methods)
        return best if len(best) < known else ()

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
        if len(self.methods) > 1 and self.compared:
            sentences += self._verdict(docs, thing, mark)
        if self.errors:
            sentences.append(f"Left out because of errors: {plural(len(self.errors), thing)}.")
        return sentences

    def _verdict(self, docs: int, thing: str, mark: str) -> list[str]:
        """Which differences between the methods are significant."""
        if docs < FEWEST:
            few = f"{plural(docs, thing)} {'is' if docs == 1 else 'are'} too few"
            return [f"{few} to compare methods: at least {FEWEST} are needed, and often many more."]
        if not self.differences:
            return [f"No two methods differ significantly: that takes more {thing}s."]
        sentences = [
            f"{mark} marks methods that no other is significantly better than; a column without "
            f"{mark} shows no significant difference."
        ]
        if DIFFERENCE in self.compared:
            sentences.append(self._verdict_by(DIFFERENCE))
        faithful = {column.name: column for column in self.compared if column.name in _FAITHFUL}
        if faithful:
            leading = min(faithful, key=_FAITHFUL.index)
            sentences.append(self._leads_by(faithful[leading], thing))
        beaten: dict[tuple[str, ...], list[str]] = {}
        for method, lost in self.beaten_by_random().items():
            beaten.setdefault(lost, []).append(method)
        for lost, methods in beaten.items():
            where = _listed([COLUMNS[name].title for name in lost])
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

    def _leads_by(self, column: Metric, thing: str) -> str:
        """How far each method is behind the one of the best mean, and where that may be chance."""
        sign = 1 if column.is_higher_better else -1
        known = [name for name in self.methods if not math.isnan(self.mean(name, column.name))]
        first = max(known, key=lambda name: sign * self.mean(name, column.name))
        told: list[str] = []
        chance: list[str] = []
        for name in known:
            if name == first:
                continue
            lead = self.difference(first, name, column.name)
            text = f"{column.show(sign * lead.mean)} ±{column.show(lead.error)}"
            if self.tells_apart(first, name, column.name):
                told.append(f"{name} by {text}")
            else:
                chance.append(f"{name} ({text})")
        parts = [f"{first} is ahead of {_listed(told)}"] if told else []
        if chance:
            parts.append(f"no difference from {first} can be told for {_listed(chance)}")
        return f"By {_inline(column)}, {thing} by {thing}: {'; '.join(parts)}."

    def _size(self, thing: str) -> str:
        """How many docs and classes were judged."""
        docs = len({row.position for row in self.rows})
        classes = len(self.cases)
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
        head, *lines = self.table("**{}**")
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
        lines: list[Sequence[object]]
        if means:
            lines = [_MEANS, *self._lines_of_means()]
        else:
            lines = [csv_heading(self.metrics), *(row.cells(self.metrics) for row in self.rows)]
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(lines)
        # Names of files may hold what is no UTF-8.
        with whole_file(path, "wb") as file:
            file.write(text.getvalue().encode(errors="backslashreplace"))

    def _lines_of_means(self) -> Iterator[Sequence[object]]:
        for column in self.columns:
            best = self.best(column.name)
            for method in self.methods:
                mean, error = self.mean(method, column.name), self.error(method, column.name)
                numbers = ("" if math.isnan(number) else repr(number) for number in (mean, error))
                docs = len(self.of_docs(method, column.name))
                yield [method, column.name, *numbers, docs, int(method in best)]

    def plot(self, ax: Axes | None = None, **kwargs: Any) -> Axes:
        """Draw the table, each column coloured from its worst mean to its best.

        Below each mean, a dot shows where it lies between the lowest mean of its column (left) and
        the highest (right), and a line its standard error to either side.

        Args:
            ax: Where to draw; None makes a new figure.
            **kwargs: Passed on to ``ax.imshow``, such as ``cmap``.

        Returns:
            The axes.
        """
        (_, *headings), *lines = self.table()
        means, errors = (
            np.array(
                [[of(method, column.name) for column in self.columns] for method in self.methods]
            )
            for of in (self.mean, self.error)
        )
        lowest, highest = np.nanmin(means, axis=0), np.nanmax(means, axis=0)
        span = np.where(highest > lowest, highest - lowest, 1.0)
        shares, margins = (means - lowest) / span, errors / span
        is_higher_better = [column.is_higher_better for column in self.columns]
        ranks = np.where(is_higher_better, shares, 1 - shares)
        ax = axes(ax, width=2 + 1.3 * len(headings), height=1.6 + 0.5 * len(lines))
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
            share, margin = shares[row, place], margins[row, place]
            if not math.isnan(margin):
                ends = np.clip([share - margin, share + margin], 0, 1)
                ax.plot(place - 0.4 + 0.8 * ends, [row + 0.27] * 2, color=color, linewidth=1)
                ax.plot(place - 0.4 + 0.8 * share, row + 0.27, "o", color=color, markersize=2.5)
        ax.set_xticks(range(len(headings)), [one.replace(" ", "\n", 1) for one in headings])
        ax.set_yticks(range(len(lines)), self.methods)
        ax.tick_params(length=0, top=False, labeltop=True, bottom=False, labelbottom=False)
        ax.spines[:].set_visible(False)
        ax.set_xlabel(
            f"Means of {self._size('doc')} with standard errors; darkest is the best mean, column "
            "by column"
        )
        return ax


def _inline(column: Metric) -> str:
    """The title of a column within a sentence."""
    return column.title[0].lower() + column.title[1:]


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
