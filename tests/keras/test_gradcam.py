from __future__ import annotations

import keras
import numpy as np
import pytest
from fresh_python import imported_by
from tiny_models import make_doc

import kerasight
from kerasight.keras.gradcam import gradcam, gradcam_backend


def test_heatmap_is_the_relu_of_the_weighted_sum_divided_by_its_peak() -> None:
    activations = np.array([[[1, 2], [0, 1]], [[3, 0], [1, 4]]], dtype=np.float32)
    # 2 * first - 1 * second: [[0, -1], [6, -2]]
    heatmap = gradcam(np.array([2, -1], dtype=np.float32), activations)
    np.testing.assert_allclose(heatmap, [[0, 0], [6 / (6 + 1e-7), 0]], rtol=0, atol=1e-15)
    assert heatmap.dtype == np.float64


def test_heatmap_of_tiny_weights_stays_below_one_as_in_eli5() -> None:
    heatmap = gradcam(np.array([1e-7]), np.array([[[1.0], [0.5]]]))
    np.testing.assert_allclose(heatmap, [[0.5, 0.25]])


def test_heatmap_is_zero_where_nothing_speaks_for_the_class() -> None:
    assert not gradcam(np.array([-1.0]), np.ones((2, 3, 1))).any()
    assert not gradcam(np.zeros(3), np.zeros((2, 2, 3))).any()


def test_heatmap_of_ones_is_one() -> None:
    np.testing.assert_allclose(gradcam(np.ones(2), np.ones((1, 1, 2))), [[1]], rtol=1e-7)


def test_scaling_the_weights_leaves_the_heatmap() -> None:
    rng = np.random.default_rng(0)
    weights, activations = rng.normal(size=5), rng.random((4, 3, 5))
    np.testing.assert_allclose(
        gradcam(weights, activations), gradcam(100 * weights, activations), atol=1e-6
    )


@pytest.mark.parametrize(
    ("weights", "activations"),
    [((2,), (4, 4, 3)), ((3,), (3,)), ((3, 1), (4, 4, 3)), ((3,), (1, 1, 4, 4, 3))],
)
def test_shapes_that_do_not_fit_are_refused(
    weights: tuple[int, ...], activations: tuple[int, ...]
) -> None:
    with pytest.raises(ValueError, match=r"\(channels,\)"):
        gradcam(np.ones(weights), np.ones(activations))


def test_sequences_and_volumes_have_heatmaps_too() -> None:
    activations = np.array([[1.0, 0.0], [0.0, 1.0], [2.0, 1.0]])
    for shape in ((3,), (1, 3), (3, 1, 1)):
        heatmap = gradcam(np.array([1.0, -1.0]), activations.reshape(*shape, 2))
        np.testing.assert_allclose(heatmap, np.reshape([1, 0, 1], shape), rtol=1e-6)


def test_inputs_are_left_alone() -> None:
    weights, activations = np.ones(2), np.ones((2, 2, 2))
    gradcam(weights, activations)
    assert (weights == 1).all()
    assert (activations == 1).all()


def by_hand() -> tuple[keras.Model, np.ndarray]:
    """Two channels, made of a picture of one; pooled; two classes.

    The first channel is the picture, the second its double less one; class 0 is first minus second,
    class 1 three times the second.
    """
    model = keras.Sequential(
        [
            keras.Input((2, 2, 1)),
            keras.layers.Conv2D(2, 1, name="map"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(2, name="scores"),
        ]
    )
    model.get_layer("map").set_weights(
        [np.array([[[[1.0, 2.0]]]], np.float32), np.array([0.0, -1.0], np.float32)]
    )
    model.get_layer("scores").set_weights(
        [np.array([[1.0, 0.0], [-1.0, 3.0]], np.float32), np.zeros(2, np.float32)]
    )
    return model, np.array([[[[0.0], [1.0]], [[2.0], [0.5]]]], np.float32)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="weights must be finite, got NaN or infinity"):
        gradcam(np.array([1, value]), np.ones((2, 2, 2)))
    with pytest.raises(ValueError, match="activations must be finite, got NaN or infinity"):
        gradcam(np.ones(1), np.array([[[1.0], [value]]]))


def test_what_are_no_real_numbers_are_refused() -> None:
    with pytest.raises(TypeError, match="weights must be real numbers, got dtype complex128"):
        gradcam(np.array([1j]), np.ones((2, 2, 1)))


def test_backend_gives_the_terms_worked_out_by_hand() -> None:
    model, doc = by_hand()
    weights, activations, gradients, target, score = gradcam_backend(
        model, doc, [1], model.get_layer("map")
    )
    # Channels [0, 1, 2, .5] and [-1, 1, 3, 0]; the pool divides each gradient by four cells.
    np.testing.assert_array_equal(activations[..., 0], [[0, 1], [2, 0.5]])
    np.testing.assert_array_equal(activations[..., 1], [[-1, 1], [3, 0]])
    np.testing.assert_array_equal(gradients, np.broadcast_to([0, 0.75], (2, 2, 2)))
    np.testing.assert_array_equal(weights, [0, 0.75])
    assert (target, score) == (1, 3 * 0.75)
    assert type(target) is int
    assert type(score) is float
    # 0.75 * second, negative cut off, divided by 2.25
    np.testing.assert_allclose(gradcam(weights, activations), [[0, 1 / 3], [1, 0]], atol=1e-6)


def test_backend_takes_the_top_class_and_chooses_the_layer() -> None:
    model, doc = by_hand()
    # Means of the channels: 0.875 and 0.75, so that the scores are 0.125 and 2.25.
    *_, target, score = gradcam_backend(model, doc, None, None)
    assert (target, score) == (1, 2.25)


def test_the_name_is_the_function_and_carries_its_module() -> None:
    from kerasight.keras import gradcam as function

    assert callable(function)
    assert kerasight.keras.gradcam is function
    assert kerasight.keras.gradcam.gradcam is function
    assert kerasight.keras.gradcam.gradcam_backend is gradcam_backend
    import kerasight.keras.gradcam as module

    assert module.gradcam_backend is gradcam_backend
    assert kerasight.keras.gradcam is function


def test_the_formula_needs_no_framework() -> None:
    code = (
        "from kerasight.keras.gradcam import gradcam; import numpy as np; "
        "gradcam(np.ones(1), np.ones((1, 1, 1)))"
    )
    assert imported_by(code) == set()


def test_backend_refuses_what_is_no_single_class() -> None:
    model, _ = by_hand()
    doc = make_doc((1, 2, 2, 1))
    with pytest.raises(ValueError, match="exactly one"):
        gradcam_backend(model, doc, [0, 1], None)
    with pytest.raises(ValueError, match=r"\[0, 2\)"):
        gradcam_backend(model, doc, [2], None)
