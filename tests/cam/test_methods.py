from __future__ import annotations

import re
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers as kl
from tiny_models import make_doc

import kerasight
from kerasight.cam import methods
from kerasight.cam.methods import CAMS, METHODS, find_method

# Channel by channel, as they stand in a picture.
FIRST = [[1, 2], [0, 1]]
SECOND = [[3, 0], [1, 4]]
ACTIVATIONS = np.stack([FIRST, SECOND], axis=-1).astype(np.float32)
GRADIENTS = np.stack([[[1, 0], [-2, 3]], [[-1, 1], [2, -6]]], axis=-1).astype(np.float32)


def close(found: np.ndarray, expected: Any) -> None:
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-12)


# Each formula by hand


def test_grad_cam_weights_channels_by_their_mean_gradients() -> None:
    # Means 1/2 and -1.
    close(methods.grad_cam(ACTIVATIONS, GRADIENTS), [[-2.5, 1], [-1, -3.5]])


def test_grad_cam_plus_plus_weights_positive_gradients_by_their_share() -> None:
    # Activations sum to 4 and 8; 1 / (2 + sum * gradient) for each positive gradient.
    first, second = 1 / 6 + 3 / 14, 1 / 10 + 2 / 18
    close(
        methods.grad_cam_plus_plus(ACTIVATIONS, GRADIENTS),
        [[first + 3 * second, 2 * first], [second, first + 4 * second]],
    )


def test_grad_cam_plus_plus_has_no_weight_where_the_line_below_is_zero() -> None:
    activations = np.array([[[-2.0]], [[0.0]]])
    close(methods.grad_cam_plus_plus(activations, np.ones((2, 1, 1))), [[0], [0]])


def test_hirescam_multiplies_place_by_place() -> None:
    close(methods.hirescam(ACTIVATIONS, GRADIENTS), [[-2, 0], [2, -21]])


def test_xgrad_cam_weights_gradients_by_activations() -> None:
    # (1*1 + 1*3) / 4 = 1 and (-3 + 2 - 24) / 8 = -25/8.
    close(
        methods.xgrad_cam(ACTIVATIONS, GRADIENTS),
        [[1 - 3 * 25 / 8, 2], [-25 / 8, 1 - 4 * 25 / 8]],
    )


def test_xgrad_cam_leaves_out_a_channel_that_sums_to_zero() -> None:
    activations = np.stack([FIRST, np.zeros((2, 2))], axis=-1)
    close(methods.xgrad_cam(activations, GRADIENTS), [[1, 2], [0, 1]])


def test_layercam_takes_positive_gradients_only() -> None:
    close(methods.layercam(ACTIVATIONS, GRADIENTS), [[1, 0], [2, 3]])


@pytest.mark.parametrize("flat", [False, True])
def test_eigen_cam_projects_on_the_first_singular_vector(flat: bool) -> None:
    # Rank one: (1, 2, 0, 2) times (3, 4), which has length 5. Once more places than channels, once
    # as many of both.
    matrix = np.outer([1, 2, 0, 2], [3, 4] if flat else [3, 0, 4, 0, 0])
    close(methods.eigen_cam(matrix.reshape(2, 2, -1)), [[5, 10], [0, 10]])
    close(methods.eigen_cam(-matrix.reshape(2, 2, -1)), [[5, 10], [0, 10]])


def test_eigen_cam_is_that_of_a_singular_value_decomposition() -> None:
    for shape in ((3, 5, 4), (2, 2, 9), (12, 12, 150)):  # few of either, and many of both
        activations = np.random.default_rng(0).random(shape)
        matrix = activations.reshape(-1, shape[2])
        expected = matrix @ np.linalg.svd(matrix)[2][0]
        expected *= np.sign(expected.sum())
        np.testing.assert_allclose(methods.eigen_cam(activations).ravel(), expected)


def test_eigen_cam_of_nothing_is_nothing() -> None:
    assert not methods.eigen_cam(np.zeros((2, 2, 3))).any()


@pytest.mark.parametrize(
    ("channels", "expected"),
    [((3, 4), [[10, -5], [-5, 0]]), ((3, -4), [[-10, 5], [5, 0]])],
)
def test_eigengrad_cam_projects_what_is_left_without_the_means(
    channels: tuple[int, int], expected: list[list[float]]
) -> None:
    # Without its means, rank one: (2, -1, -1, 0), which sums to zero, times channels of length 5.
    # The channels sum to 7 or -1 times it, and so the sign.
    products = np.array([10, -20]) + np.outer([2, -1, -1, 0], channels)
    activations, gradients = np.full((2, 2, 2), 2.0), products.reshape(2, 2, 2) / 2
    close(methods.eigengrad_cam(activations, gradients), expected)


def test_eigengrad_cam_of_what_is_the_same_everywhere_is_nothing() -> None:
    close(methods.eigengrad_cam(np.ones((2, 2, 2)), np.full((2, 2, 2), 3.0)), [[0, 0], [0, 0]])


def test_score_cam_weights_channels_by_the_softmax_of_logits() -> None:
    # exp: 1 and 3, so a quarter and three quarters.
    close(methods.score_cam(ACTIVATIONS, np.log([1, 3])), [[2.5, 0.5], [0.75, 3.25]])
    close(methods.score_cam(ACTIVATIONS, np.log([1, 3]) - 7), [[2.5, 0.5], [0.75, 3.25]])
    close(methods.score_cam(ACTIVATIONS, np.array([1e5, -1e5])), FIRST)


def test_score_cam_weights_channels_by_probabilities_as_they_are() -> None:
    for scores in ([0.2, 0.6], [2e-30, 6e-30]):  # of a class that is very unlikely, too
        close(
            methods.score_cam(ACTIVATIONS, np.array(scores), are_probabilities=True),
            [[2.5, 0.5], [0.75, 3.25]],
        )
    close(methods.score_cam(ACTIVATIONS, np.zeros(2), are_probabilities=True), [[0, 0], [0, 0]])


@pytest.mark.parametrize("are_probabilities", [True, False])
def test_score_cam_leaves_out_a_channel_that_is_the_same_everywhere(
    are_probabilities: bool,
) -> None:
    activations = np.stack([FIRST, np.full((2, 2), 9)], axis=-1)
    close(methods.score_cam(activations, np.array([0.1, 800]), are_probabilities), FIRST)
    nothing = methods.score_cam(np.ones((2, 2, 2)), np.array([0.1, 0.9]), are_probabilities)
    close(nothing, [[0, 0], [0, 0]])


def test_ablation_cam_weights_channels_by_drops() -> None:
    close(methods.ablation_cam(ACTIVATIONS, np.array([2, -1])), [[-1, 4], [-1, -2]])


def test_finer_cam_is_grad_cam_of_the_difference_that_was_differentiated() -> None:
    close(methods.finer_cam(ACTIVATIONS, GRADIENTS), [[-2.5, 1], [-1, -3.5]])


def test_refine_cam_multiplies_the_maps_of_layers() -> None:
    # Cut off at zero and scaled to [0, 1]; of the coarse one, linear between 0 and 1 on four cells.
    fine, coarse = [[-3, 1, 2, 3]], [[2.0, 4.0]]
    close(methods.refine_cam([fine, coarse]), [[0, 0.25 / 3, 0.75 * 2 / 3, 1]])
    close(methods.refine_cam([coarse, fine]), methods.refine_cam([fine, coarse]))
    # As long as the longest along each axis.
    close(methods.refine_cam([[[1], [0]], [[0, 1]]]), [[0, 1], [0, 0]])
    # What one layer does not tell is nowhere.
    close(methods.refine_cam([fine, [[7]]]), [[0, 0, 0, 0]])


def test_refine_cam_is_of_layers_with_as_many_axes() -> None:
    with pytest.raises(ValueError, match=r"with as many axes each; got \(1, 2\), \(2,\)$"):
        methods.refine_cam([[[1, 2]], [1, 2]])
    with pytest.raises(ValueError, match=r"got none$"):
        methods.refine_cam([])


def test_shapley_cam_takes_half_of_the_curvature_away() -> None:
    # Means of the gradients 1/2 and -1, of the products 2 and -3.
    products = np.stack([[[8, 0], [0, 0]], [[-3, -3], [-3, -3]]], axis=-1)
    first, second = 0.5 - 1, -1 + 1.5
    close(
        methods.shapley_cam(ACTIVATIONS, GRADIENTS, products),
        [[first + 3 * second, 2 * first], [second, first + 4 * second]],
    )
    for wrong in ((2, 2), (2, 2, 1)):
        with pytest.raises(ValueError, match="gradients the same, and products the same; got"):
            methods.shapley_cam(ACTIVATIONS, GRADIENTS, np.ones(wrong))


def test_shapley_cam_without_curvature_is_grad_cam() -> None:
    close(
        methods.shapley_cam(ACTIVATIONS, GRADIENTS, np.zeros_like(GRADIENTS)),
        methods.grad_cam(ACTIVATIONS, GRADIENTS).tolist(),
    )


def test_shapley_cam_shares_out_a_score_of_the_second_order() -> None:
    # Of one place, whose channels are players: y = 3 a - b + 2 a b, at a = 2 and b = 5.
    activations = np.array([[2.0, 5.0]])
    gradients, products = np.array([[3 + 10, -1 + 4]]), np.array([[2 * 5, 2 * 2]])
    # Each has its own, and half of the 20 of both; the sum is the score.
    close(methods.shapley_cam(activations, gradients, products), [(6 + 10) + (-5 + 10)])


def test_recipro_cam_is_the_score_of_each_place_above_the_least() -> None:
    close(methods.recipro_cam(ACTIVATIONS, [[-1, 2], [0.5, -4]]), [[3, 6], [4.5, 0]])
    for wrong in ((4,), (2, 2, 2)):
        with pytest.raises(
            ValueError, match=r"and place_scores \(\*spatial\); got \(2, 2, 2\) and"
        ):
            methods.recipro_cam(ACTIVATIONS, np.ones(wrong))
    with pytest.raises(ValueError, match="place_scores must be finite"):
        methods.recipro_cam(ACTIVATIONS, np.full((2, 2), np.nan))


def test_opti_cam_weights_channels_by_a_softmax() -> None:
    close(methods.opti_cam(ACTIVATIONS, np.log([1, 3])), [[2.5, 0.5], [0.75, 3.25]])
    close(methods.opti_cam(ACTIVATIONS, np.log([1, 3]) + 900), [[2.5, 0.5], [0.75, 3.25]])
    with pytest.raises(ValueError, match=r"and weights \(channels,\); got \(2, 2, 2\) and \(3,\)"):
        methods.opti_cam(ACTIVATIONS, np.ones(3))


# Space of one to three axes


def terms_of(method: str) -> list[np.ndarray]:
    """What its formula takes beside the activations."""
    other = {
        "nothing": [],
        "gradients": [GRADIENTS],
        "curvature": [GRADIENTS, 2 - GRADIENTS],
        "places": [GRADIENTS[..., 0]],
    }
    return other.get(METHODS[method].needs, [GRADIENTS[0, 0]])


# The formula of the maps of several layers takes no activations.
OF_ACTIVATIONS = [name for name in CAMS if METHODS[name].needs != "layers"]


@pytest.mark.parametrize("method", OF_ACTIVATIONS)
@pytest.mark.parametrize("space", [(4,), (1, 4), (1, 2, 2), (2, 1, 2)])
def test_places_count_and_not_how_they_are_arranged(method: str, space: tuple[int, ...]) -> None:
    formula, other = METHODS[method].formula, terms_of(method)
    expected = formula(ACTIVATIONS, *other).reshape(space)
    arranged = [one.reshape(*space, *one.shape[2:]) if one.ndim > 1 else one for one in other]
    found = formula(ACTIVATIONS.reshape(*space, 2), *arranged)
    assert found.shape == space
    assert found.any()
    close(found, expected)


def test_a_sequence_by_hand() -> None:
    # Two places, two channels, whose mean gradients are 1 and -2.
    activations, gradients = np.array([[1, 2], [3, 0]]), np.array([[2, -4], [0, 0]])
    close(methods.grad_cam(activations, gradients), [1 - 4, 3])
    close(methods.hirescam(activations, gradients), [2 - 8, 0])
    close(methods.layercam(activations, gradients), [2, 0])
    # Channels sum to 4 and 2: (1/4) * 2 and (2/2) * -4.
    close(methods.xgrad_cam(activations, gradients), [0.5 - 8, 1.5])


def test_a_volume_by_hand() -> None:
    # One channel, 2 x 1 x 3 places; its mean gradient is 3.
    activations = np.arange(6).reshape(2, 1, 3, 1)
    gradients = np.array([18, 0, 0, 0, 0, 0]).reshape(2, 1, 3, 1)
    close(methods.grad_cam(activations, gradients), [[[0, 3, 6]], [[9, 12, 15]]])
    close(methods.ablation_cam(activations, [2]), [[[0, 2, 4]], [[6, 8, 10]]])
    close(methods.score_cam(activations, [7]), [[[0, 1, 2]], [[3, 4, 5]]])


# The registry


SHAPE = ACTIVATIONS.shape


@pytest.mark.parametrize("method", OF_ACTIVATIONS)
@pytest.mark.parametrize("wrong", [(2,), (1, 1, 2, 2, 2), (2, 0, 2), ()])
def test_activations_of_another_shape_are_refused(method: str, wrong: tuple[int, ...]) -> None:
    with pytest.raises(
        ValueError, match=r"activations must have shape .*got " + re.escape(str(wrong))
    ):
        METHODS[method].formula(np.zeros(wrong), *terms_of(method))


@pytest.mark.parametrize("method", sorted({*OF_ACTIVATIONS} - {"eigen-cam"}))
def test_what_goes_with_them_must_fit_and_be_real_and_finite(method: str) -> None:
    formula, (other, *more) = METHODS[method].formula, terms_of(method)
    right = other.shape
    shapes = [(1, *right), right[:-1], (*right[:-1], 1)]
    for wrong in shapes:
        with pytest.raises(ValueError, match=rf"got \(2, 2, 2\) and {re.escape(str(wrong))}"):
            formula(ACTIVATIONS, np.ones(wrong), *more)
    for value in (np.nan, np.inf):
        with pytest.raises(ValueError, match="must be finite, got NaN or infinity"):
            formula(ACTIVATIONS, np.full(right, value), *more)
        with pytest.raises(ValueError, match="activations must be finite"):
            formula(np.full_like(ACTIVATIONS, value), np.ones(right), *more)
    for dtype in ("complex64", "U1", "O"):
        with pytest.raises(TypeError, match="must be real numbers, got dtype"):
            formula(ACTIVATIONS, np.ones(right).astype(dtype), *more)


def test_lists_are_terms_too() -> None:
    for method in OF_ACTIVATIONS:
        formula, other = METHODS[method].formula, terms_of(method)
        found = formula(ACTIVATIONS.tolist(), *(one.tolist() for one in other))
        close(found, formula(ACTIVATIONS, *other).tolist())


def test_each_method_is_documented_with_its_paper() -> None:
    for method in METHODS.values():
        text = method.formula.__doc__ or ""
        assert ".. math::" in text, method.name
        assert "https://" in text, method.name
    names = "grad-cam grad-cam++ hirescam xgrad-cam layercam eigen-cam eigengrad-cam score-cam"
    names += " ablation-cam finer-cam shapley-cam refine-cam recipro-cam opti-cam"
    assert list(CAMS) == names.split()


@pytest.mark.parametrize("name", ["grad-cam++", "GradCAM++", "Grad CAM++", "grad_cam++"])
def test_a_method_is_found_however_it_is_spelled(name: str) -> None:
    assert find_method(name).title == "Grad-CAM++"


def test_an_unknown_method_is_refused_with_the_list() -> None:
    with pytest.raises(ValueError, match=r"'lime'; known are grad-cam, .*, finer-cam, .*legrad$"):
        find_method("lime")
    with pytest.raises(ValueError, match=r"'layrcam'; the nearest name is layercam; known"):
        find_method("layrcam")
    with pytest.raises(TypeError, match=r"name of one \(str\), got NoneType"):
        find_method(None)


# Identities


def class_activation_model(activation: str | None = None) -> keras.Model:
    """Global average pooling and one dense layer: the network of class activation maps."""
    return keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            kl.Conv2D(6, 3, activation="relu", name="map"),
            kl.GlobalAveragePooling2D(name="pool"),
            kl.Dense(3, activation=activation, name="scores"),
        ]
    )


def few(method: str) -> dict[str, int]:
    """So few samples that it is quick."""
    return {"samples": 3} if METHODS[method].samples else {}


def heatmap(model: keras.Model, doc: np.ndarray, **asked: object) -> np.ndarray:
    return kerasight.explain_prediction(model, doc, **asked).targets[0].heatmap


@pytest.mark.parametrize("method", ["grad-cam", "hirescam", "xgrad-cam"])
@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.usefixtures("_float64")
def test_with_global_pooling_and_logits_they_are_the_class_activation_map(
    method: str, relu: bool
) -> None:
    model, doc = class_activation_model("softmax"), make_doc()
    activations = np.asarray(keras.ops.convert_to_numpy(model.layers[0](doc)))[0]
    expected = activations @ model.layers[-1].get_weights()[0][:, 1]  # Zhou et al. 2016
    if relu:
        expected = np.maximum(expected, 0)
    found = heatmap(model, doc, targets=[1], method=method, logits=True, relu=relu)
    assert (found < 0).any() != relu
    np.testing.assert_allclose(found, expected / abs(expected).max(), atol=1e-5)


# The powers of Grad-CAM++ and the exponentials of Score-CAM are no multiples.
@pytest.mark.parametrize("method", sorted({*CAMS} - {"grad-cam++", "refine-cam", "score-cam"}))
@pytest.mark.usefixtures("_float64")
def test_scaling_the_score_leaves_the_map_as_it_is(method: str) -> None:
    model, doc = class_activation_model(), make_doc()
    asked = {"targets": [1], "method": method, **few(method)}
    before = heatmap(model, doc, **asked)
    model.layers[-1].set_weights([7 * weight for weight in model.layers[-1].get_weights()])
    assert before.max() > 0.5
    np.testing.assert_allclose(heatmap(model, doc, **asked), before, atol=1e-4)


def flip_equivariant() -> keras.Model:
    """A network that answers a mirrored picture with mirrored maps: its kernels are symmetric."""
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            kl.Conv2D(6, 3, padding="same", activation="tanh", name="first"),
            kl.Conv2D(6, 3, padding="same", activation="relu", name="map"),
            kl.GlobalAveragePooling2D(),
            kl.Dense(3, activation="softmax"),
        ]
    )
    for layer in model.layers[:2]:
        kernel, bias = layer.get_weights()
        layer.set_weights([kernel + kernel[:, ::-1], bias])
    return model


@pytest.mark.parametrize("method", [*CAMS, "saliency", "input-x-gradient", "integrated-gradients"])
@pytest.mark.parametrize("smooth", [None, 2])
@pytest.mark.usefixtures("_float64")
def test_flipping_the_image_flips_the_map(method: str, smooth: int | None) -> None:
    model, doc = flip_equivariant(), make_doc().astype(np.float64)
    asked = {"targets": [1], "method": method, "logits": True, **few(method)}
    if smooth:  # noise is not mirrored: a doc without range has none
        doc = np.full_like(doc, 0.5)
        asked["smooth"] = smooth
    flipped = heatmap(model, doc[:, :, ::-1], **asked)
    np.testing.assert_allclose(flipped, heatmap(model, doc, **asked)[:, ::-1], atol=1e-6)
    assert flipped.max() > 0.5


# A network that has learnt something


@pytest.mark.parametrize("logits", [False, True])
def test_eigengrad_cam_tells_the_dog_and_the_cat_apart(
    mobilenet_v2: keras.Model, cat_dog: np.ndarray, logits: bool
) -> None:
    (expl,) = kerasight.explain_predictions(
        mobilenet_v2, cat_dog, targets=[[243, 282]], method="eigengrad-cam", logits=logits
    )
    assert_told_apart(expl, most=-0.3)


def test_score_cam_tells_the_dog_and_the_cat_apart(by_score_cam: kerasight.Explanation) -> None:
    assert_told_apart(by_score_cam, most=-0.15)


def assert_told_apart(expl: kerasight.Explanation, most: float) -> None:
    dog, cat = (target.heatmap for target in expl.targets)
    rows = np.arange(7)
    assert (dog.sum(axis=1) @ rows) / dog.sum() < 3  # the dog sits behind the cat
    assert (cat.sum(axis=1) @ rows) / cat.sum() > 4
    assert np.corrcoef(dog.ravel(), cat.ravel())[0, 1] < most
