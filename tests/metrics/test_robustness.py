"""Sensitivity: heatmaps of docs that are changed a little, worked out by hand."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
import pytest
from tiny_models import by_hand

from kerasight.metrics import Sensitivity, sensitivity

# The heatmap of class 0 is the picture, and that of class 1 its negative, cut off at 0 and divided
# by the peak. The first doc is for class 0 by a hair.
DOCS = np.array([[1.0, 2.0, -2.9, 0.0], [-4.0, 2.0, 1.0, 0.5]], np.float32).reshape(2, 2, 2, 1)


@pytest.fixture(scope="module")
def model() -> keras.Model:
    return by_hand()


def expected(sign: int, doc: int, radius: float, samples: int, seed: int) -> list[float]:
    def heatmap(picture: np.ndarray) -> np.ndarray:
        evidence = np.maximum(sign * picture, 0)
        return evidence / evidence.max()

    picture = DOCS[doc]
    reach, rng = radius * np.ptp(picture), np.random.default_rng([seed, doc])
    original, changes = heatmap(picture), []
    for _ in range(samples):
        noisy = heatmap(picture + rng.uniform(-reach, reach, picture.shape))
        changes.append(np.linalg.norm(noisy - original) / np.linalg.norm(original))
    return changes


def test_the_change_is_that_of_the_heatmap_of_the_same_class(model: keras.Model) -> None:
    found = sensitivity(model, DOCS, radius=0.1, samples=8, seed=5)
    np.testing.assert_array_equal(found.targets, [0, 1])
    np.testing.assert_allclose(
        found.changes, [expected(1, 0, 0.1, 8, 5), expected(-1, 1, 0.1, 8, 5)], atol=1e-5
    )
    assert found.layer == "map"
    assert found.method == "Grad-CAM"
    # Within this radius, the class of the greatest score is not always the one explained.
    noise = np.random.default_rng([5, 0]).uniform(-0.49, 0.49, (8, 4))
    assert ((DOCS[0].ravel() + noise).sum(axis=1) < 0).any()


def test_classes_and_options_are_those_of_an_explanation(model: keras.Model) -> None:
    found = sensitivity(model, DOCS, targets=[0], radius=0.1, samples=2, method="hirescam")
    np.testing.assert_allclose(found.changes[1], expected(1, 1, 0.1, 2, 0), atol=1e-5)
    assert found.method == "HiResCAM"
    np.testing.assert_array_equal(found.targets, [0, 0])
    again = sensitivity(model, DOCS, targets=[0], radius=0.1, samples=2, method="hirescam")
    np.testing.assert_array_equal(found.changes, again.changes)


def test_a_greater_change_moves_more(model: keras.Model) -> None:
    little, much = (sensitivity(model, DOCS, radius=radius).mean for radius in (0.01, 0.1))
    assert 5 * little < much


def test_of_a_blank_heatmap_there_is_no_share(model: keras.Model) -> None:
    docs = np.concatenate([np.abs(DOCS[:1]), DOCS[1:]])
    found = sensitivity(model, docs, targets=[1], samples=2)
    assert np.isnan(found.changes[0]).all()
    assert found.greatest == found.maxima[1]
    assert "1 doc with a blank heatmap left out" in repr(found)


def make() -> Sensitivity:
    changes = np.array([[0.1, 0.3], [0.2, 0.6]])
    return Sensitivity(changes, 0.02, np.array([3, 4]), "conv", "Grad-CAM")


def test_the_greatest_of_each_doc_is_averaged() -> None:
    found = make()
    np.testing.assert_allclose(found.maxima, [0.3, 0.6])
    assert float(found) == found.greatest == pytest.approx(0.45)
    assert found.error == pytest.approx(0.15)
    assert found.mean == pytest.approx(0.3)
    assert repr(found) == (
        "sensitivity: the heatmap moves by up to 0.450 ± 0.150 of its size, by 0.300 on average, "
        "if the doc changes by 2.0% of its range (Grad-CAM, layer conv, 2 docs, 2 samples each; "
        "the lower the steadier)"
    )
    one = Sensitivity(found.changes[:1], 0.02, found.targets[:1], "conv", "Grad-CAM")
    assert math.isnan(one.error)
    assert "0.300 of its size" in repr(one)


def test_samples_are_drawn_with_their_mean() -> None:
    samples, means = make().plot(color="red").lines
    np.testing.assert_allclose(samples.get_xydata(), [[0, 0.1], [0, 0.3], [1, 0.2], [1, 0.6]])
    np.testing.assert_allclose(means.get_ydata(), [0.2, 0.4])


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"radius": 0}, ValueError, "radius must be above 0"),
        ({"radius": "2%"}, TypeError, "radius must be a number, got str"),
        ({"samples": 0}, ValueError, "samples must be at least 1"),
        ({"top_targets": 2}, ValueError, "one class of a doc"),
        ({"targets": [5]}, ValueError, "the docs cannot be explained: doc 0: "),
    ],
)
def test_what_cannot_be_done_is_refused(
    model: keras.Model, settings: dict[str, Any], error: type, message: str
) -> None:
    with pytest.raises(error, match=message):
        sensitivity(model, DOCS, **settings)
