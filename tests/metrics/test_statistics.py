"""Tests of what a mean of few values is worth."""

import math

import numpy as np
import pytest

from kerasight.metrics.statistics import Estimate, t_quantile


# From printed tables of Student's t distribution.
@pytest.mark.parametrize(
    ("probability", "degrees", "expected"),
    [
        (0.975, 1, 12.706),
        (0.975, 2, 4.303),
        (0.975, 3, 3.182),
        (0.975, 4, 2.776),
        (0.975, 5, 2.571),
        (0.975, 9, 2.262),
        (0.975, 10, 2.228),
        (0.975, 29, 2.045),
        (0.975, 30, 2.042),
        (0.975, 120, 1.980),
        (0.95, 1, 6.314),
        (0.95, 7, 1.895),
        (0.95, 20, 1.725),
        (0.995, 1, 63.657),
        (0.995, 6, 3.707),
        (0.9995, 15, 4.073),
        (0.75, 1, 1.0),
        (0.75, 8, 0.706),
    ],
)
def test_quantiles_are_those_of_the_tables(probability, degrees, expected):
    assert t_quantile(probability, degrees) == pytest.approx(expected, abs=5.1e-4)


def test_one_and_two_degrees_have_formulas():
    for probability in (0.5001, 0.6, 0.9, 0.999, 0.999999):
        one = math.tan(math.pi * (probability - 0.5))
        two = (2 * probability - 1) / math.sqrt(2 * probability * (1 - probability))
        assert t_quantile(probability, 1) == pytest.approx(one, rel=1e-9)
        assert t_quantile(probability, 2) == pytest.approx(two, rel=1e-9)


def test_many_degrees_are_as_good_as_normal():
    assert t_quantile(0.975, 10**5) == pytest.approx(1.959964, abs=3e-5)
    assert t_quantile(0.975, 10**5 + 1) == pytest.approx(1.959964, abs=3e-5)


@pytest.mark.parametrize("degrees", [1, 2, 7, 40])
def test_the_distribution_is_symmetric(degrees):
    assert t_quantile(0.5, degrees) == 0
    assert t_quantile(0.2, degrees) == -t_quantile(0.8, degrees)


@pytest.mark.parametrize("probability", [0, 1, -0.1, 1.5, math.nan])
def test_a_probability_lies_between_0_and_1(probability):
    with pytest.raises(ValueError, match="probability must be above 0 and below 1"):
        t_quantile(probability, 3)


def test_degrees_are_a_whole_number_above_0():
    with pytest.raises(ValueError, match="degrees must be at least 1, got 0"):
        t_quantile(0.9, 0)
    with pytest.raises(TypeError, match="degrees"):
        t_quantile(0.9, 2.5)


def test_an_estimate_is_a_mean_with_its_interval() -> None:
    # The deviation is 0.1, and 4.303 the quantile of 2 degrees.
    found = Estimate.of(np.array([0.1, 0.2, 0.3]))
    margin = 4.3027 * 0.1 / math.sqrt(3)
    assert (found.mean, found.error) == pytest.approx((0.2, 0.1 / math.sqrt(3)))
    assert (found.low, found.high) == pytest.approx((0.2 - margin, 0.2 + margin), abs=1e-4)
    one = Estimate.of(np.array([0.4]))
    assert one.mean == pytest.approx(0.4)
    assert np.isnan([one.error, one.low, one.high]).all()
    assert math.isnan(Estimate.of(np.array([])).mean)
