"""Complexity: the entropy of the heat, and its share of the greatest that there is."""

from __future__ import annotations

import math

import numpy as np
import pytest

from kerasight.metrics import Complexity, complexity


def test_entropy_is_that_of_the_shares_of_heat() -> None:
    half = np.array([[0.5, 0.25], [0.25, 0.0]])  # log(2) / 2 + 2 * log(4) / 4
    one, two, four = np.zeros((2, 2)), np.array([[1.0, 1.0], [0.0, 0.0]]), np.ones((2, 2))
    one[1, 0] = 7
    found = complexity([one, two, half, four])
    np.testing.assert_allclose(found.entropies, np.log(2) * np.array([0, 1, 1.5, 2]), atol=1e-12)
    np.testing.assert_allclose(found.shares, [0, 0.5, 0.75, 1], atol=1e-12)
    assert float(found) == found.mean == pytest.approx(0.5625)
    # Deviations of 0.5625, 0.0625, 0.1875 and 0.4375.
    assert found.error == pytest.approx(math.sqrt(0.546875 / 3 / 4))


def test_what_speaks_against_a_class_is_heat_and_the_scale_is_none() -> None:
    heatmap = np.array([[0.5, -0.25], [0.25, 0.0]])
    for scale in (1, -4, 1e-310):
        assert complexity(scale * heatmap).mean == pytest.approx(0.75)


def test_maps_of_other_resolutions_compare_by_their_share() -> None:
    found = complexity([np.ones((2, 2)), np.ones((7, 7))])
    np.testing.assert_allclose(found.entropies, [math.log(4), math.log(49)])
    np.testing.assert_allclose(found.shares, 1)
    np.testing.assert_array_equal(found.cells, [4, 49])


def test_of_no_heat_and_of_one_cell_there_is_no_share() -> None:
    found = complexity([np.zeros((2, 2)), np.ones((1, 1)), np.ones((2, 2))])
    np.testing.assert_array_equal(found.entropies[:2], [math.nan, 0])
    np.testing.assert_allclose(found.shares, [math.nan, math.nan, 1])
    assert found.mean == pytest.approx(1)
    assert math.isnan(found.error)
    assert math.isnan(complexity(np.zeros((2, 2))).mean)


def test_it_prints_and_draws_its_shares() -> None:
    found = Complexity(np.log(2) * np.array([1.0, 2.0]), np.array([4, 4]))
    assert repr(found) == (
        "complexity: 0.7500 ± 0.2500 of the greatest entropy, 2 explanations (the lower the "
        "simpler)"
    )
    ax = found.plot(color="red")
    np.testing.assert_allclose([bar.get_height() for bar in ax.patches], [0.5, 1])
    assert list(ax.lines[0].get_ydata()) == [0.75, 0.75]
