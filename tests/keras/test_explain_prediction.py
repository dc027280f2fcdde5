from __future__ import annotations

import inspect
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as kl
from PIL import Image
from tiny_models import (
    DOC_BY_HAND,
    MODELS,
    Chain,
    backbone,
    by_hand,
    doc_for,
    head,
    make_doc,
    scores_of,
    state_of,
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


@pytest.mark.parametrize("channels", [2, 13])
def test_other_numbers_of_channels_need_a_picture(channels: int) -> None:
    model = keras.Sequential(
        [keras.Input((8, 8, channels)), kl.Conv2D(4, 3, activation="relu"), *head()[1:]]
    )
    doc = make_doc((1, 8, 8, channels))
    with pytest.raises(ValueError, match=f"{channels} channels.*image="):
        kerasight.explain_prediction(model, doc)
    picture = Image.new("L", (20, 10))
    expl = kerasight.explain_prediction(model, doc, image=picture)
    assert expl.image is picture
    assert kerasight.format_as_image(expl).size == (20, 10)


def test_a_grey_doc_makes_a_grey_picture() -> None:
    expl = kerasight.explain_prediction(by_hand(), DOC_BY_HAND)
    assert expl.image.mode == "L"
    # Stretched from -4..2 to 0..255, as eli5 does.
    np.testing.assert_array_equal(np.asarray(expl.image), [[212, 255], [0, 170]])


def test_the_picture_is_the_one_that_keras_makes_of_the_doc(model: keras.Model) -> None:
    doc = make_doc() * 2 - 1
    expl = kerasight.explain_prediction(model, doc)
    assert expl.image == keras.utils.array_to_img(doc[0])


def test_a_channels_first_doc_makes_an_upright_picture() -> None:
    model, doc = MODELS["channels first"](), make_doc((1, 3, 8, 8))
    expl = kerasight.explain_prediction(model, doc)
    assert expl.image == keras.utils.array_to_img(np.moveaxis(doc[0], 0, -1))
    assert expl.targets[0].heatmap.shape == (4, 4)


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


@pytest.mark.parametrize("dtype", [np.float64, np.float16, np.uint8, np.int32, np.bool_])
def test_any_type_of_number_is_taken(model: keras.Model, dtype: Any) -> None:
    expl = kerasight.explain_prediction(model, (make_doc() * 2).astype(dtype))
    assert expl.targets[0].heatmap is not None


def test_dynamic_shapes_give_maps_of_the_size_of_the_doc() -> None:
    model = MODELS["dynamic shape"]()
    for height, width in [(8, 8), (12, 20)]:
        expl = kerasight.explain_prediction(model, make_doc((1, height, width, 3)))
        assert expl.targets[0].heatmap.shape == (height // 2, width // 2)


@pytest.mark.parametrize(
    "doc",
    [[[1.0]], "picture", None, Image.new("RGB", (8, 8)), tf.zeros((1, 8, 8, 3))],
    ids=lambda doc: type(doc).__name__,
)
def test_a_doc_that_is_no_array_is_refused_naming_its_type(model: keras.Model, doc: Any) -> None:
    with pytest.raises(TypeError, match=type(doc).__name__) as error:
        kerasight.explain_prediction(model, doc)
    assert len(str(error.value)) < 250


def test_a_doc_of_no_numbers_is_refused(model: keras.Model) -> None:
    with pytest.raises(TypeError, match="array of numbers"):
        kerasight.explain_prediction(model, np.full((1, 8, 8, 3), "a"))


@pytest.mark.parametrize("dtype", ["complex64", "m8[s]", "longdouble", "O"])
def test_a_doc_of_numbers_that_no_model_takes_is_refused(model: keras.Model, dtype: str) -> None:
    doc = np.zeros((1, 8, 8, 3), dtype)
    if doc.dtype == np.float64:
        pytest.skip("longdouble is no more than that here")
    with pytest.raises(
        TypeError, match=f"real and of at most 64 bits, got dtype {re.escape(str(doc.dtype))}"
    ):
        kerasight.explain_prediction(model, doc)


@pytest.mark.parametrize("rows", [1, 3, 4])
def test_few_rows_are_not_taken_for_the_channels_of_a_picture(rows: int) -> None:
    model = keras.Sequential(
        [keras.Input((rows, 64, 2)), kl.Conv2D(4, (1, 3), activation="relu"), *head()[1:]]
    )
    with pytest.raises(ValueError, match="no picture can be made of a doc with 2 channels"):
        kerasight.explain_prediction(model, make_doc((1, rows, 64, 2)))


class Transposing(keras.Model):
    """Takes channels first, and goes on with them last; not built before it is called."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Chain([kl.Conv2D(4, 3, activation="tanh"), *head()])

    def call(self, inputs: Any) -> Any:
        return self.inner(keras.ops.transpose(inputs, (0, 2, 3, 1)))


@pytest.mark.parametrize("rows", [2, 8])
def test_a_model_that_transposes_its_doc_first_gets_an_upright_picture(rows: int) -> None:
    doc = make_doc((1, 3, rows + 4, 8))
    model = Transposing()
    for _ in range(2):  # unbuilt and built
        expl = kerasight.explain_prediction(model, doc)
        assert expl.image == keras.utils.array_to_img(np.moveaxis(doc[0], 0, -1))


@pytest.mark.parametrize(
    ("shape", "says"),
    [
        ((8, 8, 3), r"\(1, 8, 8, 3\), got \(8, 8, 3\).*np.expand_dims\(doc, axis=0\)"),
        ((2, 8, 8, 3), r"\(1, 8, 8, 3\), got \(2, 8, 8, 3\); one input"),
        ((0, 8, 8, 3), r"got \(0, 8, 8, 3\)"),
        ((1, 8, 9, 3), r"\(1, 8, 8, 3\), got \(1, 8, 9, 3\)$"),
        ((5, 5), r"\(1, 8, 8, 3\), got \(5, 5\)$"),
    ],
)
def test_a_doc_of_the_wrong_shape_is_refused_with_both_shapes(
    model: keras.Model, shape: tuple[int, ...], says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        kerasight.explain_prediction(model, np.zeros(shape))


def test_a_doc_of_the_wrong_shape_is_refused_by_models_that_do_not_tell_theirs() -> None:
    model = MODELS["subclassed, no training argument"]()
    with pytest.raises(ValueError, match=r"\(1, any, any, any\), got \(8, 8, 3\).*expand_dims"):
        kerasight.explain_prediction(model, np.zeros((8, 8, 3)))
    kerasight.explain_prediction(model, make_doc())
    before = state_of(model)
    with pytest.raises(ValueError, match="shape"):
        kerasight.explain_prediction(model, make_doc((1, 8, 8, 2)), image=Image.new("L", (8, 8)))
    assert state_of(model) == before


def test_axes_of_any_size_still_want_a_size() -> None:
    with pytest.raises(ValueError, match=r"\(1, any, any, 3\), got \(1, 0, 8, 3\)"):
        kerasight.explain_prediction(MODELS["dynamic shape"](), np.zeros((1, 0, 8, 3)))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_doc_that_is_not_finite_is_refused(model: keras.Model, value: float) -> None:
    doc = make_doc()
    doc[0, 1, 2, 0] = value
    with pytest.raises(ValueError, match="NaN or infinity"):
        kerasight.explain_prediction(model, doc)


def test_a_model_of_several_inputs_is_refused() -> None:
    left, right = keras.Input((8, 8, 3)), keras.Input((8, 8, 3))
    x = kl.GlobalAveragePooling2D()(kl.Conv2D(2, 3)(kl.Add()([left, right])))
    model = keras.Model([left, right], kl.Dense(2)(x), name="pair")
    with pytest.raises(ValueError, match="'pair' has 2 inputs"):
        kerasight.explain_prediction(model, make_doc())


def test_a_model_of_one_named_input_is_explained() -> None:
    inputs = keras.Input((8, 8, 3), name="picture")
    x = kl.GlobalAveragePooling2D()(kl.Conv2D(2, 3, name="conv")(inputs))
    model = keras.Model({"picture": inputs}, kl.Dense(2)(x))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", HeatmapWarning)
        assert kerasight.explain_prediction(model, make_doc()).layer == "conv"


def test_outputs_in_a_dict_are_explained_by_the_first_name() -> None:
    inputs = keras.Input((8, 8, 3))
    x = kl.Conv2D(2, 3, name="conv")(inputs)
    pooled = kl.GlobalAveragePooling2D()(x)
    outputs = {"b": kl.Dense(2)(pooled), "a": kl.Dense(4)(pooled)}
    model = keras.Model(inputs, outputs)
    expl = kerasight.explain_prediction(model, make_doc(), targets=[3])
    scores = np.asarray(model(make_doc())["a"])[0]
    assert expl.targets[0].score == pytest.approx(scores[3], abs=1e-6)


@pytest.mark.parametrize("image", ["picture.png", np.zeros((8, 8, 3), np.uint8)])
def test_an_image_that_is_no_pillow_image_is_refused(model: keras.Model, image: Any) -> None:
    with pytest.raises(TypeError, match=f"PIL.Image.Image, got {type(image).__name__}"):
        kerasight.explain_prediction(model, make_doc(), image=image)


def test_an_image_without_pixels_is_refused(model: keras.Model) -> None:
    with pytest.raises(ValueError, match=r"at least one pixel, got size \(0, 4\)"):
        kerasight.explain_prediction(model, make_doc(), image=Image.new("RGB", (0, 4)))


@pytest.mark.parametrize("target", [-1, -(2**30), -(2**30) - 1, 2**70])
def test_no_number_out_of_range_is_a_class(model: keras.Model, target: int) -> None:
    with pytest.raises(ValueError, match=rf"target {target} is out of range"):
        kerasight.explain_prediction(model, make_doc(), targets=[target])


@pytest.mark.parametrize("number", [10**12, 2**100, -(10**12)])
def test_more_classes_than_there_are_are_all(model: keras.Model, number: int) -> None:
    expl = kerasight.explain_prediction(model, make_doc(), top_targets=number)
    order = scores_of(model, make_doc()).argsort()
    wanted = order[::-1] if number > 0 else order
    assert [target.target for target in expl.targets] == list(wanted)


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (["ant", None, "cat"], "must hold names .*got NoneType"),
        (["ant", 2.5, "cat"], "must hold names .*got float"),
        ({0: None}, "must hold names .*got NoneType"),
        ({"0": "ant"}, r"must have class indices \(int\) for keys, got '0'"),
    ],
)
def test_names_that_name_no_class_are_refused(model: keras.Model, names: Any, says: str) -> None:
    with pytest.raises(TypeError, match=f"target_names {says}"):
        kerasight.explain_prediction(model, make_doc(), target_names=names)


def test_digits_may_be_called_by_numbers(model: keras.Model) -> None:
    expl = kerasight.explain_prediction(model, make_doc(), targets=[2], target_names=[7, 8, 9])
    assert expl.targets[0].name == "9"


@pytest.mark.parametrize("progress", ["x", 1, []])
def test_progress_is_a_yes_or_no(model: keras.Model, progress: Any) -> None:
    with pytest.raises(TypeError, match="progress must be True, False or None"):
        kerasight.explain_prediction(model, make_doc(), progress=progress)


class Preprocessing(keras.Model):
    """As in keras-hub: ``predict`` runs a preprocessor, and calling the model does not."""

    def __init__(self, preprocessor: Any, stack: list[kl.Layer]) -> None:
        inputs = x = keras.Input((8, 8, 3))
        for layer in stack:
            x = layer(x)
        super().__init__(inputs, x, name="classifier")
        self.preprocessor = preprocessor


def test_pixels_given_to_a_model_with_a_preprocessor_are_warned_of() -> None:
    preprocessor = kl.Rescaling(1 / 255)
    model = Preprocessing(preprocessor, [kl.Conv2D(4, 3), *head()])
    pixels = make_doc() * 255
    with pytest.warns(
        UserWarning, match="'classifier' has a preprocessor, which predict"
    ) as record:
        kerasight.explain_prediction(model, pixels)
    assert record[0].filename == __file__
    with pytest.warns(UserWarning, match="preprocessor") as record:
        list(kerasight.explain_predictions(model, np.repeat(pixels, 3, axis=0)))
    assert len([one for one in record if "preprocessor" in str(one.message)]) == 1


@pytest.mark.parametrize("kind", ["preprocessed", "nothing to do", "inside"])
def test_a_preprocessor_that_has_run_is_not_hinted_at(kind: str) -> None:
    preprocessor = kl.Rescaling(1.0 if kind == "nothing to do" else 1 / 255)
    stack = [kl.Conv2D(4, 3), *head()]
    model = Preprocessing(preprocessor, [preprocessor, *stack] if kind == "inside" else stack)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", HeatmapWarning)
        kerasight.explain_prediction(model, make_doc() * (1 if kind == "preprocessed" else 255))


def test_unknown_arguments_are_refused(model: keras.Model) -> None:
    with pytest.raises(TypeError, match="blur"):
        kerasight.explain_prediction(model, make_doc(), blur=3)


def not_for_images() -> keras.Model:
    return keras.Sequential([keras.Input((4,)), kl.Dense(2)], name="table")


@pytest.mark.parametrize(
    "doc", [np.zeros((0,)), np.zeros((1, 2, 2, 3))], ids=["no doc", "a picture"]
)
def test_a_model_that_may_be_for_images_gets_an_error_that_asks_for_one(doc: np.ndarray) -> None:
    expl = kerasight.explain_prediction(keras.Sequential(), doc)
    assert isinstance(expl, Explanation)
    assert "supported" in expl.error
    assert '"image" argument' in expl.error
    assert expl.targets is None
    assert expl.image is None


@pytest.mark.parametrize("image", [None, Image.new("L", (2, 2))], ids=["", "image"])
@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (not_for_images, (4,)),
        (lambda: keras.Sequential([keras.Input((9, 2)), kl.Conv1D(2, 3)]), (9, 2)),
        (lambda: keras.Sequential([keras.Input((4, 4, 4, 1)), kl.Conv3D(2, 3)]), (4, 4, 4, 1)),
    ],
)
def test_a_model_not_for_images_gets_an_error_that_says_what_it_takes(
    make: Callable[[], keras.Model], shape: tuple[int, ...], image: Image.Image | None
) -> None:
    expl = kerasight.explain_prediction(make(), np.zeros((1, *shape)), image=image)
    assert "supported" in expl.error
    assert f"takes inputs of shape (any, {', '.join(map(str, shape))})" in expl.error
    assert '"image" argument' not in expl.error  # it would change nothing
    assert expl.targets is None


def test_a_model_without_image_layers_is_explained_where_an_image_is_given() -> None:
    model = keras.Sequential(
        [keras.Input((4, 4, 3)), kl.Dense(2, name="mix"), kl.Flatten(), kl.Dense(2)]
    )
    assert "supported" in kerasight.explain_prediction(model, make_doc((1, 4, 4, 3))).error
    expl = kerasight.explain_prediction(
        model, make_doc((1, 4, 4, 3)), image=Image.new("RGB", (4, 4))
    )
    assert expl.layer == "mix"


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


# Blank heatmaps


def test_a_saturated_softmax_is_warned_of() -> None:
    model = by_hand("softmax")
    model.layers[-1].set_weights([np.eye(2) * 1000])
    with pytest.warns(HeatmapWarning, match=r"saturated \(score 1\).*logits=True") as record:
        expl = kerasight.explain_prediction(model, DOC_BY_HAND)
    assert expl.targets[0].heatmap.max() < 0.01
    assert record[0].filename == __file__


def test_no_positive_evidence_is_warned_of() -> None:
    model = by_hand()
    model.layers[-1].set_weights([-np.eye(2)])
    with pytest.warns(HeatmapWarning, match=r"class 0 at layer 'map'.*no positive evidence"):
        kerasight.explain_prediction(model, np.abs(DOC_BY_HAND), targets=[0])


def test_a_layer_that_puts_out_zeros_is_warned_of() -> None:
    with pytest.warns(HeatmapWarning, match="output is zero everywhere"):
        kerasight.explain_prediction(by_hand(), np.zeros_like(DOC_BY_HAND))


def test_vanishing_gradients_of_logits_are_warned_of() -> None:
    model = by_hand()
    model.layers[-1].set_weights([np.eye(2) * 1e-9])
    with pytest.warns(HeatmapWarning, match="hardly depends on this layer"):
        kerasight.explain_prediction(model, DOC_BY_HAND)


def test_a_bright_heatmap_is_not_warned_of() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kerasight.explain_prediction(by_hand("softmax"), DOC_BY_HAND)


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

# Printed in eli5's tutorial for its photograph and the published weights.
PRINTED = np.array(
    [
        [0, 0.34700352, 0.81830257, 0.80335682, 0.90060196, 0.11643584, 0.01095215],
        [0.01533248, 0.3834124, 0.80703724, 0.85117104, 0.95316517, 0.28513848, 0],
        [0.00708034, 0.20260012, 0.77189809, 0.77733623, 0.99999865, 0.30238799, 0],
        [0, 0.04289391, 0.44958652, 0.3008664, 0.25115574, 0.06772013, 0],
        [0.01483664, 0, 0, 0, 0, 0.0057982, 0.01929006],
        [0, 0, 0, 0, 0, 0, 0.05308538],
        [0, 0, 0, 0, 0, 0.01124753, 0.06864622],
    ]
)


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
    model = keras.applications.MobileNet(alpha=0.25, weights=weights)
    expl = kerasight.explain_prediction(model, cat_dog)
    assert expl.layer == "conv_pw_13_relu"
    assert expl.targets[0].heatmap.shape == (7, 7)


@pytest.mark.parametrize("size", ["Small", "Large"])
def test_mobilenet_v3_is_not_explained_at_its_one_cell_classifier(size: str) -> None:
    model = getattr(keras.applications, f"MobileNetV3{size}")(
        weights=None, input_shape=(64, 64, 3), include_preprocessing=False
    )
    expl = kerasight.explain_prediction(model, make_doc((1, 64, 64, 3)))
    assert expl.targets[0].heatmap.shape == (2, 2)
