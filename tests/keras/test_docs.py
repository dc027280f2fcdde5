from __future__ import annotations

import re
import warnings
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers as kl
from PIL import Image
from tiny_models import DOC_BY_HAND, MODELS, Chain, by_hand, head, make_doc, state_of

import kerasight
from kerasight.base import HeatmapWarning

# Tiny random models have small gradients; what warns is tested where it says so.
pytestmark = pytest.mark.filterwarnings("ignore::kerasight.base.HeatmapWarning")


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


@pytest.mark.parametrize("dtype", [np.float64, np.float16, np.uint8, np.int32, np.bool_])
def test_any_type_of_number_is_taken(model: keras.Model, dtype: Any) -> None:
    expl = kerasight.explain_prediction(model, (make_doc() * 2).astype(dtype))
    assert expl.targets[0].heatmap is not None


@pytest.mark.parametrize(
    "doc",
    [[[1.0]], "picture", None, Image.new("RGB", (8, 8)), keras.ops.zeros((1, 8, 8, 3))],
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


@pytest.mark.parametrize("image", ["picture.png", np.zeros((8, 8, 3), np.uint8)])
def test_an_image_that_is_no_pillow_image_is_refused(model: keras.Model, image: Any) -> None:
    with pytest.raises(TypeError, match=f"PIL.Image.Image, got {type(image).__name__}"):
        kerasight.explain_prediction(model, make_doc(), image=image)


def test_an_image_without_pixels_is_refused(model: keras.Model) -> None:
    with pytest.raises(ValueError, match=r"at least one pixel, got size \(0, 4\)"):
        kerasight.explain_prediction(model, make_doc(), image=Image.new("RGB", (0, 4)))


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
    assert __file__ in {one.filename for one in record if "preprocessor" in str(one.message)}
    with pytest.warns(UserWarning, match="preprocessor") as record:
        list(kerasight.explain_predictions(model, np.repeat(pixels, 3, axis=0)))
    assert len([one for one in record if "preprocessor" in str(one.message)]) == 1


@pytest.mark.parametrize("kind", ["preprocessed", "nothing to do", "inside"])
def test_a_preprocessor_that_has_run_is_not_hinted_at(kind: str) -> None:
    preprocessor = kl.Rescaling(1.0 if kind == "nothing to do" else 1 / 255)
    stack = [kl.Conv2D(4, 3), *head()]
    model = Preprocessing(preprocessor, [preprocessor, *stack] if kind == "inside" else stack)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.simplefilter("ignore", HeatmapWarning)
        kerasight.explain_prediction(model, make_doc() * (1 if kind == "preprocessed" else 255))


def test_a_model_without_image_layers_is_explained_all_the_same() -> None:
    model = keras.Sequential(
        [keras.Input((4, 4, 3)), kl.Dense(2, name="mix"), kl.Flatten(), kl.Dense(2)]
    )
    expl = kerasight.explain_prediction(model, make_doc((1, 4, 4, 3)))
    assert (expl.layer, expl.image.size) == ("mix", (4, 4))
    expl = kerasight.explain_prediction(
        model, make_doc((1, 4, 4, 3)), image=Image.new("RGB", (4, 4))
    )
    assert expl.layer == "mix"
