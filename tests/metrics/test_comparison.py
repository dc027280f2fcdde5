"""Means, their errors, and which methods differ significantly."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from metrics.rows import RESULT, make_rows

from kerasight.metrics.comparison import RANDOM, Comparison, Row
from kerasight.metrics.statistics import FEWEST, LEVEL, differs


def test_means_and_errors_are_over_docs() -> None:
    assert RESULT.methods == ("grad-cam", "hirescam", "eigen-cam", RANDOM)
    assert [column.name for column in RESULT.columns] == [
        "insertion",
        "deletion",
        "insertion_minus_deletion",
        "increase",
        "seconds",
    ]
    # Five docs of 0.15 and one of 0.9, which lies 0.625 above the mean of 0.275: the sum of squares
    # is 0.46875, by 5 for the variance, and by 6 for that of the mean.
    assert RESULT.mean("grad-cam", "deletion") == pytest.approx(0.275)
    assert RESULT.error("grad-cam", "deletion") == pytest.approx(math.sqrt(0.46875 / 30))
    assert RESULT.mean("eigen-cam", "deletion") == pytest.approx(0.65)
    assert RESULT.error("eigen-cam", "deletion") == pytest.approx(0, abs=1e-12)
    assert RESULT.mean("grad-cam", "seconds") == 3.0  # the median over docs
    assert math.isnan(RESULT.error("grad-cam", "seconds"))
    assert math.isnan(RESULT.mean(RANDOM, "seconds"))
    one = Comparison(tuple(make_rows("grad-cam", [0.1, 0.2])), ("deletion",))
    assert one.mean("grad-cam", "deletion") == pytest.approx(0.15)
    assert math.isnan(one.error("grad-cam", "deletion"))  # two classes of one doc


def test_methods_are_told_apart_by_their_differences_doc_by_doc() -> None:
    # The means of the docs are 0, 0, 0, 0, 0 and 0.02 off, which is one of them.
    assert not RESULT.tells_apart("grad-cam", "hirescam", "deletion")
    # Five docs only, be they ever so far off.
    assert not RESULT.tells_apart("grad-cam", "eigen-cam", "deletion")
    ramp = np.arange(12) / 12
    rows = [
        *make_rows("a", ramp.tolist()),
        *make_rows("b", (ramp + 0.1 + 0.01 * (np.arange(12) // 2 % 2)).tolist()),
        *make_rows("c", (ramp + 0.1 * np.sin(np.arange(12) // 2 + 1)).tolist()),
    ]
    found = Comparison(tuple(rows), ("deletion",))
    # The docs differ by much more than 0.1 from each other, and yet b is above a in each. c cannot
    # be told from either.
    assert found.error("a", "deletion") > 0.1
    assert found.tells_apart("a", "b", "deletion")
    assert found.tells_apart("b", "a", "deletion")
    assert not found.tells_apart("a", "c", "deletion")
    assert not found.tells_apart("a", "a", "deletion")
    assert not found.tells_apart("a", "b", "seconds")
    assert set(found.best("deletion")) == {"a", "c"}


def test_a_difference_is_of_docs_that_both_have_paired() -> None:
    # The means of docs are 0.05 less, 0, 0, 0, 0 and 0.02 greater by grad-cam: the mean is -0.005,
    # and the sum of squares around it 0.00275.
    found = RESULT.difference("grad-cam", "hirescam", "deletion")
    error = math.sqrt(0.00275 / 30)
    assert (found.mean, found.error) == (pytest.approx(-0.005), pytest.approx(error))
    assert found.high == pytest.approx(-0.005 + 2.5706 * error, abs=1e-6)
    assert RESULT.difference("hirescam", "grad-cam", "deletion").mean == -found.mean
    # The last doc has no value by eigen-cam.
    found = RESULT.difference("eigen-cam", "grad-cam", "deletion")
    assert (found.mean, found.error) == (pytest.approx(0.5), pytest.approx(0, abs=1e-12))
    with pytest.raises(ValueError, match="unknown method 'cam'"):
        RESULT.difference("cam", "hirescam", "deletion")


def test_rounding_tells_no_methods_apart() -> None:
    values = np.linspace(0.1, 0.9, 20)
    rows = (*make_rows("a", values.tolist()), *make_rows("b", (values + 1e-7).tolist()))
    found = Comparison((*rows, *make_rows("c", (values + 1e-3).tolist())), ("deletion",))
    assert not found.tells_apart("a", "b", "deletion")
    assert found.tells_apart("a", "c", "deletion")


def test_classes_of_a_doc_count_once() -> None:
    random = np.random.default_rng(0)

    def rows_of(method: str, values: np.ndarray, classes: int) -> list[Row]:
        return [
            Row(doc, str(doc), target, None, 0.5, method, "map", 0.1, {"deletion": value})
            for doc, value in enumerate(values)
            for target in range(classes)
        ]

    first, second = random.standard_normal((2, 7))
    for classes in (1, 40):
        rows = (*rows_of("a", first, classes), *rows_of("b", second, classes))
        found = Comparison(rows, ("deletion",))
        assert found.error("a", "deletion") == pytest.approx(first.std(ddof=1) / math.sqrt(7))
        assert not found.tells_apart("a", "b", "deletion")


@pytest.mark.parametrize("docs", [2, 5, 20, 100])
@pytest.mark.parametrize("kind", ["normal", "hits"])
def test_methods_that_are_alike_are_seldom_told_apart(kind: str, docs: int) -> None:
    """Of 2,000 tables of methods drawn alike, 5 % at most name a best, or tell any two apart."""
    tables, methods, columns = 2000, 4, 2
    random = np.random.default_rng(docs)
    told = best = 0
    for _ in range(tables):
        # Docs differ, and two classes of a doc are alike, for each method in its own way.
        of_doc = random.standard_normal((columns, 1, docs))
        values = of_doc + random.standard_normal((columns, methods, docs))
        if kind == "hits":
            values = (values > 0).astype(float)
        level = LEVEL / (columns * math.comb(methods, 2))
        pairs = [
            differs(values[column, i] - values[column, j], level)
            for column in range(columns)
            for i, j in itertools.combinations(range(methods), 2)
        ]
        told += any(pairs)
        of_column = np.array(pairs).reshape(columns, -1)
        best += bool((of_column.sum(axis=1) >= methods - 1).any())
    # Three standard deviations of such a count.
    most = tables * (LEVEL + 3 * math.sqrt(LEVEL * (1 - LEVEL) / tables))
    assert best <= told <= most
    assert told == 0 if docs < FEWEST else told > 0


def test_what_is_not_in_the_table_has_no_mean_and_no_best() -> None:
    with pytest.raises(
        ValueError, match=r"unknown column 'x'; known are pointing_game, .* seconds"
    ):
        RESULT.mean("grad-cam", "x")
    with pytest.raises(ValueError, match="unknown method 'x'; known are grad-cam, hirescam"):
        RESULT.mean("x", "insertion")
    with pytest.raises(ValueError, match="unknown column 'road'; known are insertion, deletion"):
        RESULT.best("road")
    assert math.isnan(RESULT.mean("grad-cam", "road"))  # a metric that was not measured


def test_times_that_differ_by_little_share_the_best() -> None:
    times = {"a": 0.0014, "b": 0.0020, "c": 0.0022}
    rows = [make_rows(name, [0.1], seconds)[0] for name, seconds in times.items()]
    assert Comparison(tuple(rows), ("deletion",)).best("seconds") == ("a", "b")
