from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from kerasight.cam.heatmap import Heatmap, fused


def heatmap(values: Any, **others: Any) -> Heatmap:
    values = np.array(values, np.float64)
    given = {"evidence": 10 * values, "target": 1, "scores": np.float32([0.25, 0.75])}
    return Heatmap(values, **{**given, **others})


def test_its_score_is_that_of_its_class_and_its_peak_has_no_sign() -> None:
    signed = heatmap([[0.25, -0.5]])
    assert (signed.score, signed.peak) == (0.75, 0.5)


def test_one_heatmap_is_left_as_it_is() -> None:
    alone = heatmap([[0.25, 0.5]])
    assert fused([alone], relu=True) is alone


def test_several_are_averaged_at_the_greatest_resolution() -> None:
    coarse = heatmap([[1.0]], path="late")
    fine = heatmap([[0.0, 1.0], [0.0, 0.0]], path="early")
    mean = fused([fine, coarse], relu=True)
    np.testing.assert_allclose(mean.evidence, [[0.5, 1], [0.5, 0.5]])
    np.testing.assert_allclose(mean.values, [[0.5, 1], [0.5, 0.5]], atol=1e-6)
    assert (mean.path, mean.target, mean.score) == ("early + late", 1, 0.75)


def test_the_mean_is_as_bright_as_the_brightest() -> None:
    faint = fused([heatmap([[0.0, 0.01]]), heatmap([[0.0, 0.02]])], relu=True)
    np.testing.assert_allclose(faint.values, [[0, 0.02]], atol=1e-6)


@pytest.mark.parametrize(("relu", "values"), [(False, [[0.5, -1]]), (True, [[1, 0]])])
def test_a_sign_is_kept_where_it_is_asked_for(relu: bool, values: Any) -> None:
    of_layers = [heatmap([[0.0, -1.0]]), heatmap([[1.0, -1.0]])]
    np.testing.assert_allclose(fused(of_layers, relu).values, values, atol=1e-6)


def test_sequences_and_volumes_are_averaged_too() -> None:
    assert fused([heatmap(np.ones(4)), heatmap(np.ones(8))], relu=True).values.shape == (8,)
    volumes = [heatmap(np.ones((2, 2, 2))), heatmap(np.ones((4, 2, 4)))]
    assert fused(volumes, relu=True).values.shape == (4, 2, 4)
