"""Completeness: sums of attributions beside differences of scores."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

from kerasight.metrics import Completeness, completeness

WEIGHTS = np.array([[1.0, 0.0], [2.0, -1.0], [0.0, 1.0], [0.0, 3.0]])
DOCS = np.array([[1.0, 2.0, 0.0, 1.0], [0.0, 1.0, 4.0, 2.0]], np.float32).reshape(2, 2, 2, 1)


def linear(activation: str | None = None) -> keras.Model:
    """Its scores of the docs are 5 and 1, and 2 and 9."""
    model = keras.Sequential(
        [keras.Input((2, 2, 1)), layers.Flatten(), layers.Dense(2, activation)], name="linear"
    )
    model.set_weights([WEIGHTS, np.array([0.5, -0.5])])
    return model


@pytest.fixture(scope="module")
def model() -> keras.Model:
    return linear()


def attributions(*classes: int, baseline: float = 0) -> np.ndarray:
    weights = WEIGHTS.T[list(classes)].reshape(-1, 2, 2, 1)
    return (DOCS - baseline) * weights


def test_a_sum_of_the_difference_has_no_gap(model: keras.Model) -> None:
    found = completeness(model, DOCS, attributions(0, 1))
    np.testing.assert_array_equal(found.targets, [0, 1])
    np.testing.assert_allclose(found.differences, [5, 9])  # without the biases
    np.testing.assert_allclose(found.sums, [5, 9])
    np.testing.assert_allclose(found.gaps, 0, atol=1e-6)
    maps = attributions(0, 1).sum(axis=-1)
    for given in (maps, [maps[0], maps[1].ravel()]):
        assert completeness(model, DOCS, given).mean == pytest.approx(0, abs=1e-6)


def test_the_gap_is_a_share_of_the_difference(model: keras.Model) -> None:
    given = attributions(0, 1) * np.array([0.5, 1.1]).reshape(2, 1, 1, 1)
    found = completeness(model, DOCS, given)
    np.testing.assert_allclose(found.gaps, [0.5, 0.1], atol=1e-6)
    assert float(found) == found.mean == pytest.approx(0.3)
    # Class 1 of the first doc, whose score differs by 1, and that of class 0, given as it is.
    found = completeness(model, DOCS, attributions(0, 0), targets=[1, 0])
    np.testing.assert_allclose(found.gaps, [4, 0], atol=1e-6)
    assert completeness(model, DOCS[:1], -attributions(0)[:1]).mean == pytest.approx(2)


@pytest.mark.parametrize("baseline", [1.0, np.ones((2, 2, 1)), np.ones((2, 2, 2, 1))])
def test_the_baseline_is_what_the_scores_are_compared_with(
    model: keras.Model, baseline: Any
) -> None:
    found = completeness(model, DOCS, attributions(0, 1, baseline=1), baseline=baseline)
    np.testing.assert_allclose(found.differences, [5 - 3, 9 - 3])
    np.testing.assert_allclose(found.gaps, 0, atol=1e-6)


def test_logits_are_those_before_the_softmax(model: keras.Model) -> None:
    found = completeness(linear("softmax"), DOCS, attributions(0, 1), logits=True)
    np.testing.assert_allclose(found.gaps, 0, atol=1e-5)
    assert completeness(linear("softmax"), DOCS, attributions(0, 1)).mean > 1


def test_where_the_score_is_that_of_the_baseline_there_is_nothing_to_share_out(
    model: keras.Model,
) -> None:
    found = completeness(model, DOCS, attributions(0, 1), baseline=DOCS[0])
    assert math.isnan(found.gaps[0])
    assert found.mean == found.gaps[1]
    assert math.isnan(completeness(model, DOCS[:1], DOCS[:1], baseline=DOCS[0]).mean)


def test_it_prints_its_gap_and_draws_a_point_for_each_doc() -> None:
    found = Completeness(np.array([1.0, 3.0]), np.array([2.0, 3.0]), np.array([0, 1]), "0")
    assert repr(found) == (
        "completeness: mean gap 25.00% of the difference of scores, 2 docs, baseline 0 (the lower "
        "the better)"
    )
    ax = found.plot(color="red")
    np.testing.assert_allclose(ax.collections[0].get_offsets(), [[2, 1], [3, 3]])


@pytest.mark.parametrize(
    ("given", "settings", "error", "message"),
    [
        (DOCS[:1], {}, ValueError, "got 1 for 2 docs"),
        (3, {}, TypeError, "an array of shape .* got int"),
        ([DOCS[0], "map"], {}, TypeError, "attributions of doc 1 must be a numpy.ndarray .* str"),
        (DOCS * np.nan, {}, ValueError, "attributions of doc 0 must be finite"),
        (DOCS, {"targets": [2]}, ValueError, r"target 2 is out of range: .* \[0, 2\)"),
        (DOCS, {"baseline": "black"}, ValueError, "unknown baseline 'black'"),
    ],
)
def test_what_is_no_attribution_is_refused(
    model: keras.Model, given: Any, settings: dict[str, Any], error: type, message: str
) -> None:
    with pytest.raises(error, match=message):
        completeness(model, DOCS, given, **settings)
