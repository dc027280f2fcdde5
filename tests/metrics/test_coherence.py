"""ADCC: its three parts, worked out by hand."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from tiny_models import by_hand

from kerasight.metrics import Adcc, adcc

# The heatmap of class 0 is the picture, cut off at 0 and divided by its peak.
DOC = np.array([[1.0, 2.0], [4.0, 1.0]], np.float32).reshape(1, 2, 2, 1)


@pytest.fixture(scope="module")
def model() -> keras.Model:
    return by_hand()


def test_its_parts_are_those_of_the_paper(model: keras.Model) -> None:
    found = adcc(model, DOC, baseline=0)
    heatmap, left = np.array([0.25, 0.5, 1, 0.25]), np.array([0.25, 1, 4, 0.25])
    coherency = (np.corrcoef(heatmap, left)[0, 1] + 1) / 2
    assert found.coherencies == pytest.approx([coherency], abs=1e-5)
    assert found.complexities == pytest.approx([0.5], abs=1e-5)
    assert found.drops == pytest.approx([(8 - 5.5) / 8], abs=1e-5)
    parts = [coherency, 0.5, 5.5 / 8]
    assert float(found) == found.mean == pytest.approx(3 / sum(1 / part for part in parts))
    assert (found.layer, found.method, found.baseline) == ("map", "Grad-CAM", "0")
    np.testing.assert_array_equal(found.targets, [0])


def test_the_baseline_and_the_options_are_those_that_are_asked_for(model: keras.Model) -> None:
    docs = np.concatenate([DOC, 2 * DOC])
    found = adcc(model, docs, method="hirescam", relu=False)
    # The mean colour is 2, so that 1, 2, 4 and 1 become 1.75, 2, 4 and 1.75.
    assert found.drops == pytest.approx([0, 0], abs=1e-6)
    left = np.array([1.75, 2, 4, 1.75])
    coherency = (np.corrcoef([0.25, 0.5, 1, 0.25], left)[0, 1] + 1) / 2
    assert found.coherencies == pytest.approx([coherency] * 2, abs=1e-5)
    assert found.method == "HiResCAM (signed)"
    assert found.error == pytest.approx(0, abs=1e-6)


def test_a_heatmap_of_nothing_is_coherent_with_none(model: keras.Model) -> None:
    mixed = np.array([[4.0, -1.0], [-1.0, -1.0]], np.float32).reshape(1, 2, 2, 1)
    scores = {"targets": [0], "baseline": -1.0}
    # Of a picture that is the same everywhere, so is the heatmap.
    flat = adcc(model, np.ones_like(DOC), **scores)
    assert flat.coherencies == pytest.approx([0.5])
    assert flat.complexities == pytest.approx([1], abs=1e-6)
    assert adcc(model, mixed, **scores).coherencies == pytest.approx([1], abs=1e-5)


def make() -> Adcc:
    parts = [np.array(part) for part in ([1.0, 0.5], [0.5, 0.5], [0.0, 1.0])]
    return Adcc(*parts, np.array([0, 1]), "mean", "conv", "Grad-CAM")


def test_one_part_of_nothing_makes_nothing_of_all() -> None:
    found = make()
    np.testing.assert_allclose(found.values, [3 / (1 + 2 + 1), 0])
    assert [found.mean, found.error] == pytest.approx([0.375, 0.375])
    assert repr(found) == (
        "ADCC: 0.375 ± 0.375 of 2 docs: coherency 0.750, complexity 0.500, average drop 50.0% "
        "(Grad-CAM, layer conv, baseline mean; the higher the better)"
    )


def test_parts_are_drawn_beside_each_other() -> None:
    ax = make().plot(color="red")
    np.testing.assert_allclose([bar.get_height() for bar in ax.patches], [0.375, 0.75, 0.5, 0.5])
    np.testing.assert_allclose(ax.lines[1].get_ydata(), [1, 0.5])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"top_targets": 2}, "one class of a doc"),
        ({"targets": [1]}, "the score of doc 0 for class 1 is -2, and a drop is a share"),
        ({"baseline": "black"}, "unknown baseline 'black'"),
    ],
)
def test_what_cannot_be_done_is_refused(
    model: keras.Model, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        adcc(model, DOC, **settings)
