from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from keras import layers as kl
from tiny_models import make_doc

from kerasight.cam.maps import resized, stretched
from kerasight.cam.methods import opti_cam
from kerasight.cam.request import Request
from kerasight.keras.explainer import Explainer
from kerasight.keras.record import scores_of
from kerasight.keras.targets import Classes

pytestmark = pytest.mark.filterwarnings("ignore::kerasight.base.HeatmapWarning")


def evidence(model: keras.Model, doc: np.ndarray, targets: list[int], **asked: Any) -> np.ndarray:
    explainer = Explainer(model, Request.of({"method": "opti-cam", **asked}))
    heatmaps = explainer.look(doc, Classes(np.array([targets]))).heatmaps()
    return np.stack([one.evidence for one in heatmaps])


def small() -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((8, 8, 2)),
            kl.Conv2D(3, 3, 2, activation="tanh", name="map"),
            kl.GlobalAveragePooling2D(),
            kl.Dense(2, activation="softmax"),
        ]
    )


@pytest.mark.usefixtures("_float64")
def test_the_first_step_is_up_the_slope_of_finite_differences() -> None:
    model, doc = small(), make_doc((1, 8, 8, 2)).astype(np.float64)
    activations = keras.ops.convert_to_numpy(model.layers[0](doc))[0]

    def score(weights: np.ndarray) -> float:
        mask = stretched(resized(opti_cam(activations, weights), (8, 8)))
        return float(scores_of(model, doc * mask[..., np.newaxis])[0, 1])

    steps = 1e-5 * np.eye(3)
    slopes = np.array([score(step) - score(-step) for step in steps]) / 2e-5
    # The first step of Adam is of one length, whatever the slopes are.
    first = 0.1 * slopes / (np.abs(slopes) + 1e-4 * np.abs(slopes).max())
    (found,) = evidence(model, doc, [1], samples=1)
    np.testing.assert_allclose(found, opti_cam(activations, first), atol=2e-5)
    # Of the second, where the softmax is no longer even: by Adam, from both slopes.
    again = np.array([score(first + step) - score(first - step) for step in steps]) / 2e-5
    mean = (0.09 * slopes + 0.1 * again) / 0.19
    size = np.sqrt((0.000999 * slopes**2 + 0.001 * again**2) / 0.001999)
    second = first + 0.1 * mean / (size + 1e-4 * size.max())
    (found,) = evidence(model, doc, [1], samples=2)
    np.testing.assert_allclose(found, opti_cam(activations, second), atol=2e-5)


def two_spots() -> tuple[keras.Model, np.ndarray]:
    """Channels of a spot each, of which a class takes the mean; and a picture of both."""
    model = keras.Sequential(
        [
            keras.Input((8, 8, 2)),
            kl.AveragePooling2D(2, name="map"),
            kl.GlobalAveragePooling2D(),
            kl.Dense(2, use_bias=False),
        ]
    )
    model.set_weights([np.array([[1.0, -1.0], [-1.0, 1.0]])])
    doc = np.zeros((1, 8, 8, 2), np.float32)
    doc[0, 1:3, 1:3, 0] = doc[0, 5:7, 5:7, 1] = 1
    return model, doc


def test_the_channel_is_found_that_shows_what_the_class_is_made_of() -> None:
    model, doc = two_spots()
    first, second = (slice(0, 2), slice(0, 2)), (slice(2, 4), slice(2, 4))
    for found, (its, other) in zip(
        evidence(model, doc, [0, 1]), ((first, second), (second, first)), strict=True
    ):
        assert found[other].max() < 0.01 * found[its].max()


def test_each_class_is_searched_for_by_itself() -> None:
    model, doc = small(), make_doc((1, 8, 8, 2))
    asked: dict[str, Any] = {"samples": 6, "logits": True}
    for batch_size in (1, 32):
        both = evidence(model, doc, [0, 1], batch_size=batch_size, **asked)
        for target in (0, 1):
            (alone,) = evidence(model, doc, [target], **asked)
            np.testing.assert_allclose(both[target], alone, rtol=1e-3, atol=1e-4)
    assert not np.allclose(both[0], both[1], rtol=0.05)


def test_a_score_that_nothing_changes_leaves_all_channels_alike() -> None:
    model, doc = small(), make_doc((1, 8, 8, 2))
    model.layers[-1].set_weights([np.zeros((3, 2)), np.zeros(2)])
    activations = keras.ops.convert_to_numpy(model.layers[0](doc))[0]
    (found,) = evidence(model, doc, [0], samples=2)
    np.testing.assert_allclose(found, activations.mean(axis=-1), rtol=1e-4, atol=1e-6)
