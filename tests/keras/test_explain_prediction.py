from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers as kl
from PIL import Image
from printed import PRINTED
from tiny_models import (
    DOC_BY_HAND,
    MODELS,
    Chain,
    backbone,
    by_hand,
    doc_for,
    drawn_by_numpy,
    head,
    make_doc,
    scores_of,
)

import kerasight
from kerasight.base import Explanation, HeatmapWarning
from kerasight.keras.explain_prediction import (
    _get_activation_layer,
    _validate_doc,
    explain_prediction_keras,
    explain_prediction_keras_image,
    explain_prediction_keras_not_supported,
)

# Tiny random models have small gradients; what warns is tested where it says so.
pytestmark = pytest.mark.filterwarnings("ignore::kerasight.base.HeatmapWarning")


def test_an_explanation_worked_out_by_hand() -> None:
    expl = explain_prediction_keras(by_hand(), DOC_BY_HAND, targets=[0])
    (target,) = expl.targets
    # The map is the picture times 1/4; negative cut off; divided by the peak of 1/2.
    np.testing.assert_allclose(target.heatmap, [[0.5, 1], [0, 0]], atol=1e-6)
    assert target.heatmap.dtype == np.float64
    assert (target.target, target.score, target.proba) == (0, -0.25, None)
    assert (expl.estimator, expl.method, expl.error) == ("by_hand", "Grad-CAM", "")
    assert (expl.layer, expl.is_regression, expl.highlight_spaces) == ("map", False, None)


def test_without_targets_the_top_class_is_explained() -> None:
    (target,) = explain_prediction_keras(by_hand(), DOC_BY_HAND).targets
    np.testing.assert_allclose(target.heatmap, [[0, 0], [1, 0]], atol=1e-6)
    assert (target.target, target.score) == (1, 0.25)


@pytest.mark.parametrize("name", list(MODELS))
def test_every_kind_of_model_is_explained(name: str) -> None:
    model, doc = MODELS[name](), doc_for(name)
    expl = kerasight.explain_prediction(model, doc)
    scores = scores_of(model, doc)
    (target,) = expl.targets
    assert not expl.error
    assert target.target == scores.argmax()
    assert target.score == pytest.approx(scores.max(), abs=1e-6)
    assert target.heatmap.min() >= 0
    assert target.heatmap.max() <= 1
    assert expl.image.size == (8, 8)


@pytest.mark.parametrize("name", list(MODELS))
def test_the_same_answer_comes_each_time(name: str) -> None:
    model, doc = MODELS[name](), doc_for(name)
    assert kerasight.explain_prediction(model, doc) == kerasight.explain_prediction(model, doc)


# The others have no get_config to be saved with.
SAVED = [
    name
    for name in MODELS
    if not any(word in name for word in ("subclassed", "custom", "never called"))
]


@pytest.mark.parametrize("name", SAVED)
def test_a_saved_and_loaded_model_gives_the_same_answer(name: str, tmp_path: Path) -> None:
    model, doc = MODELS[name](), doc_for(name)
    model.save(tmp_path / "model.keras")
    from tiny_models import Shift

    loaded = keras.models.load_model(tmp_path / "model.keras", custom_objects={"Shift": Shift})
    ours, theirs = (kerasight.explain_prediction(one, doc) for one in (model, loaded))
    assert ours.layer == theirs.layer
    np.testing.assert_allclose(theirs.targets[0].heatmap, ours.targets[0].heatmap, atol=1e-6)


def test_layer_may_be_name_path_index_or_instance() -> None:
    model, doc = MODELS["functional in sequential in sequential"](), make_doc()
    inner = model.get_layer("middle").get_layer("backbone").get_layer("conv")
    expls = [
        kerasight.explain_prediction(model, doc, layer=layer)
        for layer in ("conv", "backbone/conv", "middle/backbone/conv", inner)
    ]
    assert {expl.layer for expl in expls} == {"middle/backbone/conv"}
    assert all(expl == expls[0] for expl in expls)
    assert kerasight.explain_prediction(model, doc, layer=0).layer == "middle"
    assert kerasight.explain_prediction(model, doc, layer=-3).layer == "mix"


def test_layers_made_at_the_first_call_are_found_by_name() -> None:
    model = MODELS["custom layer, built late"]()
    assert kerasight.explain_prediction(model, make_doc(), layer="inside").layer == "block/inside"


def test_a_model_that_makes_all_its_layers_at_the_first_call_is_explained() -> None:
    class Late(keras.Model):
        def build(self, input_shape: Any) -> None:
            self.inner = Chain([backbone(), *head()], name="inner")
            self.built = True

        def call(self, inputs: Any) -> Any:
            return self.inner(inputs)

    expl = kerasight.explain_prediction(Late(), make_doc())
    assert expl.layer == "inner/mix"


def test_a_swapped_activation_shows_in_the_next_explanation() -> None:
    model = by_hand("softmax")
    before = kerasight.explain_prediction(model, DOC_BY_HAND, targets=[0]).targets[0]
    model.layers[-1].activation = keras.activations.linear
    after = kerasight.explain_prediction(model, DOC_BY_HAND, targets=[0]).targets[0]
    assert before.score == pytest.approx(1 / (1 + np.exp(0.5)))
    assert after.score == -0.25
    assert (before.is_probability, after.is_probability) == (True, False)


def test_new_weights_show_in_the_next_explanation() -> None:
    model = by_hand()
    before = kerasight.explain_prediction(model, DOC_BY_HAND, targets=[0]).targets[0].heatmap
    model.get_layer("map").set_weights([np.array([[[[-1.0, 1.0]]]])])
    after = kerasight.explain_prediction(model, DOC_BY_HAND, targets=[0]).targets[0].heatmap
    np.testing.assert_allclose(after, [[0, 0], [1, 0]], atol=1e-6)
    assert not np.allclose(before, after)


def test_frozen_weights_change_nothing() -> None:
    free, frozen = MODELS["functional"](), MODELS["frozen"]()
    frozen.set_weights(free.get_weights())
    ours, theirs = (kerasight.explain_prediction(one, make_doc()) for one in (free, frozen))
    np.testing.assert_array_equal(ours.targets[0].heatmap, theirs.targets[0].heatmap)


def test_channels_first_and_last_give_the_same_heatmap() -> None:
    def make(data_format: str) -> keras.Model:
        shape = (8, 6, 3) if data_format == "channels_last" else (3, 8, 6)
        inputs = keras.Input(shape)
        x = kl.AveragePooling2D(2, data_format=data_format)(inputs)
        x = kl.Activation("tanh", name="map")(x)
        x = kl.GlobalAveragePooling2D(data_format=data_format)(x)
        return keras.Model(inputs, kl.Dense(2)(x))

    last, first = make("channels_last"), make("channels_first")
    first.set_weights(last.get_weights())
    doc = make_doc((1, 8, 6, 3))
    ours = kerasight.explain_prediction(last, doc, targets=[1]).targets[0].heatmap
    theirs = kerasight.explain_prediction(first, np.moveaxis(doc, -1, 1), targets=[1])
    np.testing.assert_allclose(theirs.targets[0].heatmap, ours, atol=1e-6)
    assert ours.shape == (4, 3)


def test_flipping_the_picture_of_an_equivariant_model_flips_the_heatmap() -> None:
    model = keras.Sequential(
        [keras.Input((6, 6, 3)), kl.Conv2D(4, 1, activation="relu"), *head(None)[1:]]
    )
    doc = make_doc((1, 6, 6, 3))
    ours = kerasight.explain_prediction(model, doc, targets=[0]).targets[0].heatmap
    flipped = kerasight.explain_prediction(model, doc[:, :, ::-1], targets=[0]).targets[0].heatmap
    np.testing.assert_allclose(flipped, ours[:, ::-1], atol=1e-6)


def test_dynamic_shapes_give_maps_of_the_size_of_the_doc() -> None:
    model = MODELS["dynamic shape"]()
    for height, width in [(8, 8), (12, 20)]:
        expl = kerasight.explain_prediction(model, make_doc((1, height, width, 3)))
        assert expl.targets[0].heatmap.shape == (height // 2, width // 2)


def test_a_model_of_one_named_input_is_explained() -> None:
    inputs = keras.Input((8, 8, 3), name="picture")
    x = kl.GlobalAveragePooling2D()(kl.Conv2D(2, 3, name="conv")(inputs))
    model = keras.Model({"picture": inputs}, kl.Dense(2)(x))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.simplefilter("ignore", HeatmapWarning)
        assert kerasight.explain_prediction(model, make_doc()).layer == "conv"


def test_outputs_in_a_dict_are_explained_by_the_first_name() -> None:
    inputs = keras.Input((8, 8, 3))
    x = kl.Conv2D(2, 3, name="conv")(inputs)
    pooled = kl.GlobalAveragePooling2D()(x)
    outputs = {"b": kl.Dense(2)(pooled), "a": kl.Dense(4)(pooled)}
    model = keras.Model(inputs, outputs)
    expl = kerasight.explain_prediction(model, make_doc(), targets=[3])
    scores = keras.ops.convert_to_numpy(model(make_doc())["a"])[0]
    assert expl.targets[0].score == pytest.approx(scores[3], abs=1e-6)


def test_unknown_arguments_are_refused(model: keras.Model) -> None:
    with pytest.raises(TypeError, match="blur"):
        kerasight.explain_prediction(model, make_doc(), blur=3)


def not_for_images() -> keras.Model:
    return keras.Sequential([keras.Input((4,)), kl.Dense(2)], name="table")


@pytest.mark.parametrize(
    "doc", [np.zeros((0,)), np.zeros((1, 2, 2, 3))], ids=["no doc", "a picture"]
)
def test_a_model_without_layers_is_not_supported(doc: np.ndarray) -> None:
    expl = kerasight.explain_prediction(keras.Sequential(), doc)
    assert isinstance(expl, Explanation)
    assert "supported" in expl.error
    assert expl.targets is None
    assert expl.image is None


@pytest.mark.parametrize("image", [None, Image.new("L", (2, 2))], ids=["", "image"])
@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (not_for_images, (4,)),
        (lambda: keras.Sequential([keras.Input((9, 2)), kl.Flatten(), kl.Dense(2)]), (9, 2)),
        (lambda: keras.Sequential([keras.Input((4, 4, 1)), kl.Flatten()]), (4, 4, 1)),
        (lambda: keras.Sequential([keras.Input((4, 4, 4, 1)), kl.Flatten()]), (4, 4, 4, 1)),
    ],
)
def test_a_model_in_which_nothing_can_be_seen_is_told_what_was_looked_for(
    make: Callable[[], keras.Model], shape: tuple[int, ...], image: Image.Image | None
) -> None:
    expl = kerasight.explain_prediction(make(), np.zeros((1, *shape)), image=image)
    assert "is not supported: kerasight looks for a layer whose output still has the" in expl.error
    assert f"takes inputs of shape (any, {', '.join(map(str, shape))})" in expl.error
    assert expl.targets is None
    (expl,) = kerasight.explain_predictions(make(), np.zeros((1, *shape)))
    assert "is not supported: kerasight looks for" in expl.error


def test_not_supported_names_the_model_and_what_to_pass() -> None:
    expl = explain_prediction_keras_not_supported(not_for_images(), np.zeros((1, 4)))
    assert expl.estimator == "table"
    assert "takes inputs of shape (any, 4)" in expl.error


def test_the_helper_for_images_takes_its_arguments_in_its_own_order(model: keras.Model) -> None:
    picture = Image.new("RGB", (8, 8))
    expl = explain_prediction_keras_image(model, make_doc(), picture, [1], "conv")
    assert (expl.image, expl.targets[0].target, expl.layer) == (picture, 1, "conv")
    names = ["model", "doc", "targets", "layer", "image"]
    assert list(inspect.signature(explain_prediction_keras).parameters)[:5] == names


# The helpers that upstream's own tests call


@pytest.fixture
def simple() -> keras.Model:
    model = keras.Sequential(
        [
            keras.Input((32, 32, 1)),
            kl.Activation("linear", name="same"),
            kl.Conv2D(10, 3, name="one"),
            kl.Conv2D(20, 3, name="two"),
            kl.GlobalAveragePooling2D(name="pool"),
        ]
    )
    for index, layer in enumerate(model.layers):
        layer.name = f"layer{index}"
    return model


def test_get_activation_layer_finds_and_chooses(simple: keras.Model) -> None:
    one = simple.layers[1]
    assert _get_activation_layer(simple, -3) is one
    assert _get_activation_layer(simple, "layer0") is simple.layers[0]
    assert _get_activation_layer(simple, one) is one
    assert _get_activation_layer(simple, None) is simple.layers[2]


def test_get_activation_layer_refuses(simple: keras.Model) -> None:
    with pytest.raises(ValueError, match="no spatial axes"):
        _get_activation_layer(simple, "layer3")
    with pytest.raises(TypeError):
        _get_activation_layer(simple, 2.5)
    with pytest.raises(ValueError, match="not known"):
        _get_activation_layer(keras.Sequential(), None)


def test_get_activation_layer_of_a_dynamic_shape_runs_some_size() -> None:
    model = MODELS["dynamic shape"]()
    assert _get_activation_layer(model, None) is model.get_layer("mix")


def test_get_activation_layer_of_a_model_that_does_not_tell_its_shape() -> None:
    model = MODELS["subclassed, no training argument"]()
    assert _get_activation_layer(model, "conv").name == "conv"


def test_validate_doc(simple: keras.Model) -> None:
    _validate_doc(simple, np.zeros((1, 32, 32, 1)))
    for shape in [(3, 32, 32, 1), (5, 5)]:
        with pytest.raises(ValueError, match="must have shape"):
            _validate_doc(simple, np.zeros(shape))
    with pytest.raises(TypeError):
        _validate_doc(simple, 10)
    table = keras.Sequential([keras.Input((2, 3)), kl.Dense(1)])
    with pytest.raises(ValueError, match=r"\(1, 2, 3\), got \(5, 3\)"):
        _validate_doc(table, np.zeros((5, 3)))


# Real weights


def test_the_heatmap_of_the_tutorial_comes_out(
    mobilenet_v2: keras.Model, cat_dog: np.ndarray
) -> None:
    expl = kerasight.explain_prediction(mobilenet_v2, cat_dog)
    assert expl.targets[0].target == 243
    assert expl.targets[0].score == pytest.approx(0.80968, abs=1e-3)
    assert expl.layer == "out_relu"
    np.testing.assert_allclose(expl.targets[0].heatmap, PRINTED, atol=1e-3)


def test_compiled_and_in_a_batch_it_is_the_same_heatmap(
    mobilenet_v2: keras.Model, cat_dog: np.ndarray
) -> None:
    docs = np.concatenate([cat_dog, cat_dog[:, :, ::-1], -cat_dog])
    eager = [kerasight.explain_prediction(mobilenet_v2, doc[np.newaxis]) for doc in docs]
    streams = [list(kerasight.explain_predictions(mobilenet_v2, docs)) for _ in range(3)]
    for expls in streams:
        for one, other in zip(expls, eager, strict=True):
            assert one.targets[0].target == other.targets[0].target
            assert one.targets[0].score == pytest.approx(other.targets[0].score, abs=1e-5)
            np.testing.assert_allclose(one.targets[0].heatmap, other.targets[0].heatmap, atol=1e-5)


@pytest.mark.parametrize(
    ("targets", "box"), [(None, (54, 2, 170, 100)), ([282], (44, 130, 180, 212))]
)
def test_more_than_half_of_the_heat_lies_on_the_dog_and_on_the_cat(
    mobilenet_v2: keras.Model,
    cat_dog: np.ndarray,
    targets: list[int] | None,
    box: tuple[int, int, int, int],
) -> None:
    expl = kerasight.explain_prediction(mobilenet_v2, cat_dog, targets=targets)
    heat = kerasight.formatters.image.expand_heatmap(expl.targets[0].heatmap, expl.image)
    left, top, right, bottom = box
    heat = np.asarray(heat, dtype=float)
    assert heat[top:bottom, left:right].sum() > heat.sum() / 2


def test_mobilenet_is_not_explained_at_its_one_cell_classifier(
    imagenet: Callable[[str], Path], cat_dog: np.ndarray
) -> None:
    weights = str(imagenet("mobilenet_v1_025.weights.h5"))
    with drawn_by_numpy():
        model = keras.applications.MobileNet(alpha=0.25, weights=weights)
    expl = kerasight.explain_prediction(model, cat_dog)
    assert expl.layer == "conv_pw_13_relu"
    assert expl.targets[0].heatmap.shape == (7, 7)


@pytest.mark.parametrize("size", ["Small", "Large"])
def test_mobilenet_v3_is_not_explained_at_its_one_cell_classifier(size: str) -> None:
    make = getattr(keras.applications, f"MobileNetV3{size}")
    with drawn_by_numpy():
        model = make(weights=None, input_shape=(64, 64, 3), include_preprocessing=False)
    expl = kerasight.explain_prediction(model, make_doc((1, 64, 64, 3)))
    assert expl.targets[0].heatmap.shape == (2, 2)
