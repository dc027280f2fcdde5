"""The same answers as eli5 0.16.0, in the same process, on the models that eli5 can explain."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator

import eli5
import eli5.formatters.image
import eli5.ipython
import eli5.keras.explain_prediction
import keras
import matplotlib
import numpy as np
import pytest
from eli5.keras.gradcam import gradcam_backend as eli5_gradcam_backend
from PIL import Image
from tiny_models import make_doc

import kerasight
import kerasight.ipython
from kerasight.base import HeatmapWarning

pytestmark = pytest.mark.parity

APPLICATIONS = [
    "MobileNetV2",
    "ResNet50",
    "ResNet50V2",
    "VGG16",
    "InceptionV3",
    "Xception",
    "DenseNet121",
    "NASNetMobile",
    "EfficientNetB0",
    "ConvNeXtTiny",
]
SIDE = 128


@pytest.fixture(scope="module", params=APPLICATIONS)
def model(request: pytest.FixtureRequest) -> Iterator[keras.Model]:
    """An application with random weights, and logits that are neither all alike nor saturated."""
    keras.utils.set_random_seed(7)
    make = getattr(keras.applications, request.param)
    model = make(
        weights=None, input_shape=(SIDE, SIDE, 3), classes=12, classifier_activation="linear"
    )
    head = model.layers[-1]
    kernel, bias = head.get_weights()
    head.set_weights([2 * kernel / np.ptp(model(blocks(), training=False)), bias])
    head.activation = keras.activations.softmax
    yield model
    keras.backend.clear_session()


def blocks() -> np.ndarray:
    """Blocks of colour in [-1, 1]."""
    small = make_doc((1, 8, 8, 3), seed=3) * 2 - 1
    return small.repeat(SIDE // 8, axis=1).repeat(SIDE // 8, axis=2)


@pytest.fixture
def doc() -> np.ndarray:
    return blocks()


def named_layers(model: keras.Model) -> list[str]:
    """Two layers with a map, at half and at three quarters of the model's depth."""
    mapped = [
        layer.name
        for layer in model.layers[1:]
        if len(layer.output.shape) == 4 and layer.output.shape[1] > 1
    ]
    return [mapped[len(mapped) // 2], mapped[3 * len(mapped) // 4]]


def layer_of_eli5(model: keras.Model) -> str:
    """The name of the layer that eli5 chooses."""
    name: str = eli5.keras.explain_prediction._get_activation_layer(model, None).name
    return name


# What goes on to the head of ConvNeXt is a sum, and no layer's output. eli5 takes one summand.
SUMS = {"convnext_tiny": "convnext_tiny_head_gap:input"}


def test_heatmap_score_and_target_are_those_of_eli5(model: keras.Model, doc: np.ndarray) -> None:
    peaks = []
    chosen = layer_of_eli5(model) if model.name in SUMS else None
    for layer in (chosen, *named_layers(model)):
        for targets in (None, [5]):
            theirs = eli5.explain_prediction(model, doc, layer=layer, targets=targets)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", HeatmapWarning)
                ours = kerasight.explain_prediction(model, doc, layer=layer, targets=targets)
            (one,), (other,) = ours.targets, theirs.targets
            assert one.target == other.target
            assert one.score == pytest.approx(other.score, abs=1e-5)
            np.testing.assert_allclose(one.heatmap, other.heatmap, rtol=0, atol=1e-5)
            assert ours.image == theirs.image
            assert (ours.estimator, ours.method) == (theirs.estimator, theirs.method)
            assert layer is None or ours.layer == layer
            peaks.append(other.heatmap.max())
            # Once more compiled, which it is after some docs.
            docs = np.repeat(doc, 5, axis=0)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", HeatmapWarning)
                if targets is None:
                    list(kerasight.explain_predictions(model, docs, layer=layer))
                ours = kerasight.explain_prediction(model, doc, layer=layer, targets=targets)
            assert ours.targets[0].target == other.target
            assert ours.targets[0].score == pytest.approx(other.score, abs=1e-5)
            np.testing.assert_allclose(ours.targets[0].heatmap, other.heatmap, atol=1e-5)
    assert max(peaks) > 0.05  # or the comparison would be one of zeros


def test_the_chosen_layer_is_that_of_eli5(model: keras.Model, doc: np.ndarray) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", HeatmapWarning)
        ours = kerasight.explain_prediction(model, doc).layer
    assert ours == SUMS.get(model.name, layer_of_eli5(model))


def test_the_terms_are_those_of_eli5(model: keras.Model, doc: np.ndarray) -> None:
    layer = model.get_layer(named_layers(model)[1])
    ours = kerasight.keras.gradcam.gradcam_backend(model, doc, [3], layer)
    theirs = eli5_gradcam_backend(model, doc, [3], layer)
    for one, other in zip(ours[:3], theirs[:3], strict=True):
        assert one.shape == other.shape
        assert one.dtype == other.dtype
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5 * np.abs(other).max())
    assert ours[3] == theirs[3]
    assert ours[4] == pytest.approx(theirs[4], abs=1e-5)


def test_the_formula_is_that_of_eli5() -> None:
    rng = np.random.default_rng(0)
    for scale in (1.0, 1e-7):
        weights, activations = scale * rng.normal(size=7), rng.random((5, 4, 7))
        np.testing.assert_allclose(
            kerasight.keras.gradcam(weights, activations),
            eli5.keras.gradcam(weights, activations),
            rtol=1e-12,
            atol=1e-15,
        )


@pytest.mark.parametrize(
    "name",
    [
        "explain_prediction",
        "show_prediction",
        "format_as_image",
        "explain_prediction_keras",
        "base.Explanation",
        "base.TargetExplanation",
        "explain.explain_prediction",
        "ipython.show_prediction",
        "keras.explain_prediction.explain_prediction_keras",
        "keras.explain_prediction.explain_prediction_keras_image",
        "keras.explain_prediction.explain_prediction_keras_not_supported",
        "keras.explain_prediction._validate_doc",
        "keras.explain_prediction._get_activation_layer",
        "keras.gradcam.gradcam",
        "keras.gradcam.gradcam_backend",
        "formatters.image.format_as_image",
        "formatters.image.heatmap_to_image",
        "formatters.image.expand_heatmap",
    ],
)
def test_names_arguments_and_defaults_are_those_of_eli5(name: str) -> None:
    def parameters(library: object) -> dict[str, object]:
        found = library
        for part in name.split("."):
            # eli5.keras.gradcam is the function, which hides the module of that name
            module = getattr(found, part, None)
            if module is None:
                import sys

                module = getattr(sys.modules["eli5.keras.gradcam"], part)
            found = module
        items = inspect.signature(found).parameters.values()
        return {item.name: item.default for item in items}

    ours, theirs = parameters(kerasight), parameters(eli5)
    # None, for it has another meaning where a heatmap is signed, as eli5's never are.
    same = {("colormap", None): matplotlib.cm.viridis}
    assert list(ours)[: len(theirs)] == list(theirs)
    for argument, default in theirs.items():
        if default is inspect.Parameter.empty:
            assert ours[argument] is inspect.Parameter.empty
        else:
            own = ours[argument]
            assert same.get((argument, own), own) == default


def test_the_colormap_that_is_taken_by_default_is_that_of_eli5() -> None:
    target = kerasight.TargetExplanation(0, heatmap=np.random.default_rng(0).random((4, 4)))
    expl = kerasight.Explanation("net", image=Image.new("RGB", (8, 8)), targets=[target])
    assert kerasight.format_as_image(expl) == kerasight.format_as_image(
        expl, colormap=matplotlib.cm.viridis
    )


def test_fields_print_in_the_order_of_eli5() -> None:
    ours = kerasight.Explanation("net", targets=[kerasight.TargetExplanation(1)])
    theirs = eli5.base.Explanation("net", targets=[eli5.base.TargetExplanation(1)])
    assert repr(ours) == repr(theirs)


def test_overlays_of_smooth_heatmaps_look_like_those_of_eli5() -> None:
    """Colours differ by design, since eli5 resizes colours; the cells' middles do not."""
    heatmap = np.outer(np.linspace(0.1, 0.9, 7), np.linspace(0.1, 0.9, 7))
    fields = {"image": Image.new("RGB", (70, 70), "gray")}
    ours = kerasight.Explanation(
        "net", targets=[kerasight.TargetExplanation(0, heatmap=heatmap)], **fields
    )
    theirs = eli5.base.Explanation(
        "net", targets=[eli5.base.TargetExplanation(0, heatmap=heatmap)], **fields
    )
    for resampling_filter in (Image.BOX, Image.NEAREST):
        one = np.asarray(kerasight.format_as_image(ours, resampling_filter), dtype=int)
        other = np.asarray(eli5.format_as_image(theirs, resampling_filter), dtype=int)
        np.testing.assert_allclose(one, other, atol=2)
