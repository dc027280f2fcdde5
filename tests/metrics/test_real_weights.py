"""The metrics on a network that has learnt something: MobileNetV2 with its ImageNet weights."""

from __future__ import annotations

import keras
import numpy as np
import pytest

import kerasight
from kerasight import metrics
from kerasight.cam.methods import CAMS, METHODS


def difference(model: keras.Model, doc: np.ndarray, heatmap: np.ndarray) -> float:
    """Insertion less deletion, for the dog."""
    return float(
        metrics.insertion(model, doc, heatmap, targets=[243], steps=5).area
        - metrics.deletion(model, doc, heatmap, targets=[243], steps=5).area
    )


@pytest.fixture(scope="module")
def of_random_heatmaps(mobilenet_v2: keras.Model, cat_dog: np.ndarray) -> list[float]:
    return [
        difference(mobilenet_v2, cat_dog, np.random.default_rng(seed).random((7, 7)))
        for seed in range(3)
    ]


@pytest.mark.filterwarnings("ignore::kerasight.base.HeatmapWarning")
@pytest.mark.parametrize("method", CAMS)
def test_random_heatmaps_lose_to_every_method(
    method: str,
    mobilenet_v2: keras.Model,
    cat_dog: np.ndarray,
    of_random_heatmaps: list[float],
    request: pytest.FixtureRequest,
) -> None:
    if method == "ablation-cam" and keras.config.backend() == "torch":
        pytest.skip("1,280 passes through MobileNetV2 take minutes on PyTorch without a GPU")
    if method == "score-cam":
        expl = request.getfixturevalue("by_score_cam")
    else:
        few = {"samples": 10} if METHODS[method].samples else {}
        expl = kerasight.explain_prediction(mobilenet_v2, cat_dog, [243], method=method, **few)
    found = difference(mobilenet_v2, cat_dog, expl.targets[0].heatmap)
    assert found > max(of_random_heatmaps) + 0.2


def test_the_sanity_check_ends_near_zero_correlation(
    mobilenet_v2: keras.Model, cat_dog: np.ndarray
) -> None:
    before = [weight.copy() for weight in mobilenet_v2.get_weights()]
    check = metrics.sanity_check(mobilenet_v2, cat_dog, steps=1, repeats=8)
    assert check.verdict == "passes"
    # By chance, the correlation of two smooth maps of 49 cells is about 0.25 off zero, so that the
    # mean of 8 is about 0.09 off.
    final = check.correlations[0, :, -1]
    assert abs(np.nanmean(final)) < 0.25, final
    assert check.final < 0.35, final
    for weight, same in zip(mobilenet_v2.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, same)
