from __future__ import annotations

from typing import Any
from unittest import mock

import keras
import numpy as np
import pytest
from frameworks import jax
from keras import layers as kl
from keras import ops
from tiny_models import DOC_BY_HAND, by_hand, make_doc
from tiny_transformers import vit

import kerasight
from kerasight.cam.methods import grad_cam, grad_cam_plus_plus, refine_cam, shapley_cam
from kerasight.cam.request import Request
from kerasight.keras.explainer import Explainer, Look
from kerasight.keras.subject import Subject
from kerasight.keras.targets import Classes
from kerasight.metrics.evaluation import evaluate

pytestmark = pytest.mark.filterwarnings("ignore::kerasight.base.HeatmapWarning")


def look(
    model: keras.Model, doc: np.ndarray, target: int = 0, layer: Any = None, **asked: Any
) -> Look:
    explainer = Explainer(model, Request.of(asked), layer)
    return explainer.look(doc, Classes(np.array([[target]])))


def evidence(model: keras.Model, doc: np.ndarray, target: int = 0, **asked: Any) -> np.ndarray:
    return look(model, doc, target, **asked).heatmaps()[0].evidence


# Places alone


@pytest.mark.parametrize("batch_size", [1, 3, 32])
def test_each_place_alone_has_its_own_score(batch_size: int) -> None:
    asked: dict[str, Any] = {"method": "recipro-cam", "batch_size": batch_size}
    # Class 0 is the mean of the picture, and class 1 that of its negative.
    found = evidence(by_hand(), DOC_BY_HAND, 0, **asked)
    np.testing.assert_allclose(found, np.array([[5, 6], [0, 4]]) / 4, atol=1e-6)
    found = evidence(by_hand(), DOC_BY_HAND, 1, **asked)
    np.testing.assert_allclose(found, np.array([[1, 0], [6, 2]]) / 4, atol=1e-6)
    # The probability of a place alone: the softmax of its quarter and the negative of it.
    found = evidence(by_hand("softmax"), DOC_BY_HAND, 0, **asked)
    scores = 1 / (1 + np.exp(-DOC_BY_HAND[0, ..., 0] / 2))
    np.testing.assert_allclose(found, scores - scores.min(), atol=1e-6)


def test_places_go_through_the_model_in_even_batches() -> None:
    sizes = []

    def scores_at(_: Subject, values: np.ndarray) -> np.ndarray:
        sizes.append(values.shape)
        return np.zeros((len(values), 1))

    with mock.patch.object(Subject, "scores_at", scores_at):
        evidence(by_hand(), DOC_BY_HAND, method="recipro-cam", batch_size=3)
    assert sizes == [(2, 2, 2, 2)] * 2


def test_tokens_of_no_place_stay_beside_a_place_alone() -> None:
    model, doc = vit(), make_doc((1, 16, 16, 3))
    seen = look(model, doc, method="recipro-cam")
    terms = seen.records[0].terms(0)[0]
    assert len(terms.before)
    given = []

    def scores_from(*_: Any, **__: Any) -> Any:
        def scores(outputs: np.ndarray) -> np.ndarray:
            given.append(outputs)
            return np.zeros((len(outputs), len(terms.scores)))

        return scores

    with mock.patch("kerasight.keras.scoring.scores_from", scores_from):
        seen.heatmaps()
    (outputs,) = given
    prefix = len(terms.before)
    np.testing.assert_array_equal(outputs[:, :prefix], [terms.before] * len(outputs))
    kept = np.any(outputs[:, prefix:], axis=2)
    np.testing.assert_array_equal(kept, np.eye(len(outputs), dtype=bool))


# Curvature


class Exponential(kl.Layer):
    """The exponential."""

    def call(self, x: Any) -> Any:
        return ops.exp(x)


def exponential(dtype: str | None = None) -> keras.Model:
    """The picture and half of its negative, whose exponentials are averaged."""
    model = keras.Sequential(
        [
            keras.Input((2, 2, 1)),
            kl.Conv2D(2, 1, use_bias=False, name="map", dtype=dtype),
            Exponential(dtype=dtype),
            kl.GlobalAveragePooling2D(dtype=dtype),
            kl.Dense(1, use_bias=False, name="score", dtype=dtype),
        ]
    )
    model.set_weights([np.array([[[[1.0, -0.5]]]]), np.array([[1.0], [3.0]])])
    return model


@pytest.mark.parametrize(("dtype", "exact"), [(None, 1e-4), ("mixed_float16", 0.05)])
def test_the_curvature_of_an_exponential(dtype: str | None, exact: float) -> None:
    doc = DOC_BY_HAND / 4 + 1
    activations = np.stack([doc[0, ..., 0], -doc[0, ..., 0] / 2], axis=-1)
    # Of a mean of exponentials, times 1 and 3, the second derivatives are the first.
    gradients = np.exp(activations) * [1, 3] / 4
    expected = shapley_cam(activations, gradients, gradients * activations)
    for batch_size in (1, 32):
        asked: dict[str, Any] = {"layer": "map", "batch_size": batch_size}
        found = evidence(exponential(dtype), doc, method="shapley-cam", **asked)
        np.testing.assert_allclose(found, expected, rtol=exact, atol=exact)
        assert not np.allclose(found, grad_cam(activations, gradients), rtol=0.1, atol=0)


def test_the_curvature_of_a_probability_is_that_of_jax() -> None:
    first, doc = kl.Conv2D(4, 3, name="map"), make_doc((1, 6, 6, 2))
    head = [kl.Conv2D(3, 3, activation="tanh"), kl.GlobalAveragePooling2D(), kl.Dense(3, "softmax")]
    model = keras.Sequential([keras.Input((6, 6, 2)), first, *head])
    seen = first(doc)

    def score(activations: Any) -> Any:
        for layer in head:
            activations = layer(activations)
        return activations[0, 1]

    gradient = jax.grad(score)
    gradients, products = jax.jvp(gradient, (seen,), (seen,))
    expected = shapley_cam(*(np.asarray(one)[0] for one in (seen, gradients, products)))
    found = evidence(model, doc, 1, method="shapley-cam", layer="map")
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())


def test_of_a_logit_that_is_linear_it_is_grad_cam_exactly() -> None:
    model, doc = by_hand("softmax"), DOC_BY_HAND
    found, expected = (
        evidence(model, doc, method=method, logits=True) for method in ("shapley-cam", "grad-cam")
    )
    np.testing.assert_array_equal(found, expected)


# Several layers


def stages() -> keras.Model:
    """Maps of a half, a quarter and an eighth of a picture of 32 x 32, two of each."""
    inputs = x = keras.Input((32, 32, 1))
    for name in ("half", "quarter", "eighth"):
        padding = "valid" if name == "eighth" else "same"
        x = kl.Conv2D(3, 3, 2, padding=padding, activation="tanh", name=f"{name}_1")(x)
        x = kl.Conv2D(3, 3, padding="same", activation="tanh", name=f"{name}_2")(x)
        if name == "quarter":
            x = kl.ZeroPadding2D(name="padded")(x)  # whose places are others
    model = keras.Model(inputs, kl.Dense(2)(kl.GlobalAveragePooling2D()(x)))
    random = np.random.default_rng(0)
    model.set_weights([random.normal(0, 0.5, one.shape) for one in model.get_weights()])
    return model


def test_several_layers_are_multiplied() -> None:
    model, doc = stages(), make_doc((1, 32, 32, 1))
    layers = ["half_2", "quarter_1", "eighth_2"]
    maps = [evidence(model, doc, method="grad-cam++", layer=layer) for layer in layers]
    (found,) = look(model, doc, method="refine-cam", layer=layers).heatmaps()
    assert found.path == "half_2 + quarter_1 + eighth_2"
    expected = refine_cam(maps)
    assert expected.max() > 0
    np.testing.assert_allclose(found.evidence, expected, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(found.values, expected / expected.max(), rtol=1e-3, atol=1e-4)


def test_the_last_layer_of_each_resolution_is_taken_up_to_a_quarter_of_the_doc() -> None:
    model, docs = stages(), np.concatenate([make_doc((1, 32, 32, 1), seed=seed) for seed in (0, 1)])
    alone = [
        kerasight.explain_prediction(model, doc[np.newaxis], method="refine-cam") for doc in docs
    ]
    for expl, of_many in zip(
        alone, kerasight.explain_predictions(model, docs, method="refine-cam"), strict=True
    ):
        assert expl.layer == of_many.layer == "quarter_2 + eighth_2"
        assert expl.targets[0].heatmap.shape == (8, 8)
        np.testing.assert_allclose(of_many.targets[0].heatmap, expl.targets[0].heatmap, atol=1e-4)
    chosen = kerasight.explain_prediction(
        model, docs[:1], method="refine-cam", layer=["quarter_2", "eighth_2"]
    )
    np.testing.assert_allclose(chosen.targets[0].heatmap, alone[0].targets[0].heatmap, atol=1e-4)


def test_a_layer_that_leads_nowhere_is_passed_over() -> None:
    inputs = keras.Input((32, 32, 1))
    x = kl.Conv2D(3, 3, 4, padding="same", activation="tanh", name="fine")(inputs)
    aside = kl.Conv2D(3, 1, name="aside")(x)
    x = kl.AveragePooling2D(2, name="coarse")(x)
    pool = kl.GlobalAveragePooling2D()
    scores = kl.Dense(2)(pool(x))
    model = keras.Model(inputs, [scores, pool(aside)])
    doc = make_doc((1, 32, 32, 1))
    assert look(model, doc, method="refine-cam").heatmaps()[0].path == "fine + coarse"


def test_what_has_one_resolution_is_looked_at_once() -> None:
    expl = kerasight.explain_prediction(vit(), make_doc((1, 16, 16, 3)), method="refine-cam")
    plain = kerasight.explain_prediction(vit(), make_doc((1, 16, 16, 3)), method="grad-cam++")
    assert expl.layer == plain.layer


def test_an_evaluation_leaves_the_choice_of_layers_to_it() -> None:
    docs = make_doc((1, 32, 32, 1))
    found = evaluate(
        stages(), docs, methods=["grad-cam", "refine-cam"], metrics=["increase"], random=False
    )
    assert [row.layer for row in found.rows] == ["eighth_2", "quarter_2 + eighth_2"]


def test_what_a_layer_has_for_the_product_is_by_grad_cam_plus_plus() -> None:
    (record,) = look(by_hand(), DOC_BY_HAND, method="refine-cam", layer="map").records
    (terms,) = record.terms(0)
    found = evidence(by_hand(), DOC_BY_HAND, method="refine-cam", layer="map")
    one = grad_cam_plus_plus(terms.activations, terms.gradients)
    np.testing.assert_allclose(found, refine_cam([one]))
