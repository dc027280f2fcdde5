"""Agreement: rank correlations of methods, and the overlap of what they show hottest."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from kerasight.base import TargetExplanation
from kerasight.metrics import Agreement, agreement

RISING = np.array([[1.0, 2.0], [3.0, 4.0]])
SWAPPED = np.array([[1.0, 3.0], [2.0, 4.0]])  # ranks that differ by 1 twice: 1 - 6 * 2 / 60
FALLING = -RISING


def test_each_two_methods_are_compared_on_each_doc() -> None:
    methods = {"a": [RISING, RISING], "b": [SWAPPED, RISING], "c": [FALLING, RISING]}
    found = agreement(methods, share=0.25)
    assert found.names == ("a", "b", "c")
    np.testing.assert_allclose(
        found.correlations[0], [[1, 0.8, -1], [0.8, 1, -0.8], [-1, -0.8, 1]], atol=1e-12
    )
    np.testing.assert_allclose(found.correlations[1], 1)
    np.testing.assert_allclose(found.overlaps[0], [[1, 1, 0], [1, 1, 0], [0, 0, 1]])
    np.testing.assert_allclose(
        found.correlation, [[1, 0.9, 0], [0.9, 1, 0.1], [0, 0.1, 1]], atol=1e-12
    )
    assert found.overlap[0, 2] == 0.5
    assert found.errors[0, 1] == pytest.approx(0.1)  # 0.8 and 1
    assert float(found) == found.mean == pytest.approx(1 / 3)
    assert repr(found) == (
        "agreement of 3 methods on 2 docs at 2 x 2 cells: rank correlation 0.333 on average, from "
        "0.000 (a, c) to 0.900 (a, b)"
    )


def test_the_overlap_is_a_tenth_of_the_cells_by_chance() -> None:
    first, second = np.random.default_rng(0).random((2, 200, 200))
    assert agreement({"a": first, "b": second}).overlap[0, 1] == pytest.approx(0.1, abs=0.01)


def test_of_equally_hot_cells_each_counts_for_its_share() -> None:
    one, two = np.array([[1.0, 0.0], [0.0, 0.0]]), np.array([[1.0, 1.0], [0.0, 0.0]])
    found = agreement({"one": one, "two": two}, share=0.25)
    np.testing.assert_allclose(found.overlap, [[1, 0.5], [0.5, 1]])
    # One cell, and a third of each of three others, beside two cells.
    found = agreement({"one": one, "two": two}, share=0.5)
    np.testing.assert_allclose(found.overlap, [[1, 2 / 3], [2 / 3, 1]])


def test_heatmaps_are_compared_at_the_coarsest_of_their_resolutions() -> None:
    fine = np.kron(RISING, np.ones((3, 2))) + np.tile([[0.3, -0.3]], (6, 2))
    found = agreement({"fine": fine, "coarse": RISING})
    assert found.size == (2, 2)
    np.testing.assert_allclose(found.correlation, 1)
    assert agreement({"fine": fine, "coarse": RISING}, size=(6, 4)).correlation[0, 1] < 1


def test_of_a_map_that_is_the_same_everywhere_nothing_can_be_told() -> None:
    flat = np.ones((2, 2))
    found = agreement({"a": [RISING, RISING], "b": [flat, RISING]})
    assert np.isnan([found.correlations[0, 0, 1], found.overlaps[0, 0, 1]]).all()
    assert found.correlation[0, 1] == found.overlap[0, 1] == pytest.approx(1)
    blank = agreement({"a": flat, "b": flat})
    assert math.isnan(blank.mean)
    assert "nan" in repr(blank)
    assert [text.get_text() for text in blank.plot().texts] == [""] * 4


def test_it_is_drawn_as_a_matrix() -> None:
    values = np.array([[[1.0, -0.5], [-0.5, 1.0]]])
    ax = Agreement(("a", "b"), values, np.array([[[1, 0.25], [0.25, 1]]]), (7, 7), 0.1).plot()
    np.testing.assert_allclose(ax.images[0].get_array(), values[0])
    assert [text.get_text() for text in ax.texts][1] == "-0.50\n25%"
    assert [label.get_text() for label in ax.get_yticklabels()] == ["a", "b"]


@pytest.mark.parametrize(
    ("given", "settings", "error", "message"),
    [
        ([RISING, RISING], {}, TypeError, "dict of heatmaps by the name .* got list"),
        ({"a": RISING}, {}, ValueError, "two methods to agree, got 1"),
        ({"a": [RISING] * 2, "b": RISING}, {}, ValueError, "got as many as {'a': 2, 'b': 1}"),
        (
            {name: TargetExplanation(one, heatmap=RISING) for name, one in (("a", 1), ("b", 2))},
            {},
            ValueError,
            r"doc 0 are of different classes, \[1, 2\]",
        ),
        ({"a": RISING, "b": RISING}, {"share": 1.0}, ValueError, "above 0 and below 1, got 1.0"),
        ({"a": RISING, "b": RISING}, {"share": "10%"}, TypeError, "a number, got str"),
        ({"a": RISING, "b": RISING}, {"size": 7}, TypeError, "a height and a width .* got 7"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    given: Any, settings: dict[str, Any], error: type, message: str
) -> None:
    with pytest.raises(error, match=message):
        agreement(given, **settings)
