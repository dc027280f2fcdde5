from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from keras import layers as kl
from tiny_models import MODELS, Chain, backbone, make_doc

import kerasight
from kerasight.cam.layout import CHANNELS_FIRST, CHANNELS_LAST
from kerasight.cam.request import Request
from kerasight.keras import backends, layers
from kerasight.keras.anatomy import Anatomy
from kerasight.keras.explainer import Explainer
from kerasight.keras.targets import Classes
from kerasight.keras.traces import WORTH_A_TRACE, traces_of

pytestmark = pytest.mark.filterwarnings("ignore::kerasight.base.HeatmapWarning")


@pytest.fixture
def nested() -> keras.Model:
    return MODELS["functional in sequential in sequential"]()


def twins() -> keras.Model:
    """Two backbones side by side, with the same names inside."""
    inputs = keras.Input((8, 8, 3))
    both = kl.Add(name="add")([backbone(name="left")(inputs), backbone(name="right")(inputs)])
    return keras.Model(inputs, kl.Dense(3)(kl.GlobalAveragePooling2D()(both)), name="twins")


def test_a_layer_is_found_by_name_path_end_of_path_index_and_instance(nested: keras.Model) -> None:
    conv = nested.get_layer("middle").get_layer("backbone").get_layer("conv")
    assert Anatomy(nested).find("conv") is conv
    assert Anatomy(nested).find("backbone/conv") is conv
    assert Anatomy(nested).find("middle/backbone/conv") is conv
    assert Anatomy(nested).find(conv) is conv
    assert Anatomy(nested).find(0) is nested.layers[0]
    assert Anatomy(nested).find(-1) is nested.get_layer("scores")
    assert Anatomy(nested).find(np.int64(-1)) is nested.get_layer("scores")


def test_an_unknown_name_is_refused_with_the_nearest(nested: keras.Model) -> None:
    with pytest.raises(ValueError, match=r"no layer 'Conv_1'.*'middle/backbone/conv'"):
        Anatomy(nested).find("Conv_1")
    with pytest.raises(ValueError, match=r"last layers are .*'scores'"):
        Anatomy(nested).find("zzzzzzzzzzzzzz")
    with pytest.raises(ValueError, match="has no layers"):
        Anatomy(keras.Sequential()).find("conv")


@pytest.mark.parametrize("index", [7, -7])
def test_an_index_out_of_range_is_refused_with_the_range(index: int) -> None:
    model = MODELS["sequential"]()
    with pytest.raises(ValueError, match="between -6 and 5"):
        Anatomy(model).find(index)


def test_a_name_in_several_models_is_refused_with_the_paths() -> None:
    with pytest.raises(ValueError, match="'left/conv', 'right/conv'"):
        Anatomy(twins()).find("conv")
    model = twins()
    assert Anatomy(model).find("right/conv") is model.get_layer("right").get_layer("conv")


def test_a_name_of_the_outermost_model_goes_before_one_inside() -> None:
    outer = kl.Conv2D(4, 1, name="conv")
    model = keras.Sequential([keras.Input((8, 8, 3)), backbone(), outer])
    assert Anatomy(model).find("conv") is outer


def test_one_layer_held_in_two_places_is_no_ambiguity() -> None:
    shared = kl.Conv2D(3, 1, name="shared")
    model = Chain([Chain([shared], name="one"), Chain([shared], name="two")], name="chain")
    assert Anatomy(model).find("shared") is shared
    assert Anatomy(model).find("two/shared") is shared
    assert Anatomy(model).path_of(shared) == "one/shared"


class Held(keras.Model):
    """Subclassed, its layers named by Keras: people know them by their attributes."""

    def __init__(self) -> None:
        super().__init__(name="held")
        self.c1, self.c2 = kl.Conv2D(2, 1), kl.Conv2D(2, 1, name="c3")
        self.blocks = [Held.Pair(), Held.Pair()]
        self.by_name = {"last": kl.Conv2D(2, 1)}

    class Pair(kl.Layer):
        def __init__(self) -> None:
            super().__init__()
            self.left = kl.Conv2D(2, 1)


def test_a_layer_is_found_by_the_attribute_that_holds_it() -> None:
    model = Held()
    assert Anatomy(model).find("c1") is model.c1
    assert Anatomy(model).find("c3") is model.c2  # its name
    assert Anatomy(model).find("c2") is model.c2  # and its attribute
    assert Anatomy(model).find("blocks.1.left") is model.blocks[1].left
    assert Anatomy(model).find("blocks/1/left") is model.blocks[1].left
    assert Anatomy(model).find("by_name.last") is model.by_name["last"]
    with pytest.raises(ValueError, match=r"several layers of model 'held' are called 'left'"):
        Anatomy(model).find("left")
    for name in ("blocks", "blocks.7.left", "by_name.first", "c1.kernel", "name"):
        with pytest.raises(ValueError, match="no layer"):
            Anatomy(model).find(name)


def test_a_name_goes_before_an_attribute() -> None:
    model = Held()
    model.c3 = kl.Conv2D(2, 1)
    assert Anatomy(model).find("c3") is model.c2


@pytest.mark.parametrize("layer", [2.5, True, ["conv"], b"conv"])
def test_other_types_are_refused(nested: keras.Model, layer: Any) -> None:
    with pytest.raises(TypeError, match=r"str.*int.*Layer"):
        Anatomy(nested).find(layer)


def test_layout_is_that_of_the_nearest_layer_that_knows() -> None:
    first = MODELS["channels first"]()
    assert Anatomy(first).layout == CHANNELS_FIRST
    assert Anatomy(first).layout_of(first.get_layer("seen")) == CHANNELS_FIRST
    last = MODELS["functional"]()
    assert Anatomy(last).layout_of(last.get_layer("add")) == CHANNELS_LAST


def test_layout_changes_at_a_permutation() -> None:
    before, after = kl.Activation("tanh"), kl.Activation("tanh")
    model = keras.Sequential(
        [
            keras.Input((3, 8, 8)),
            kl.AveragePooling2D(2, data_format="channels_first"),
            before,
            kl.Permute((2, 3, 1)),
            after,
            kl.GlobalAveragePooling2D(),
        ]
    )
    assert Anatomy(model).layout_of(before) == CHANNELS_FIRST
    assert Anatomy(model).layout_of(after) == CHANNELS_LAST


def test_layout_can_be_known_from_the_axis_of_a_batch_normalisation() -> None:
    act = kl.Activation("tanh")
    model = keras.Sequential([keras.Input((3, 8, 8)), kl.BatchNormalization(axis=1), act])
    assert Anatomy(model).layout_of(act) == CHANNELS_FIRST


def test_layout_is_keras_default_where_no_layer_knows() -> None:
    act = kl.Activation("tanh")
    model = keras.Sequential([keras.Input((3, 8, 8)), act, kl.Flatten()])
    assert Anatomy(model).layout_of(act).name == keras.config.image_data_format()


def test_layout_of_a_model_inside_is_that_of_its_last_layer() -> None:
    inner = keras.Sequential(
        [
            kl.AveragePooling2D(2, data_format="channels_first"),
            kl.Permute((2, 3, 1)),
            kl.Conv2D(2, 1),
        ]
    )
    model = keras.Sequential([keras.Input((3, 8, 8)), inner, kl.GlobalAveragePooling2D()])
    assert Anatomy(model).layout_of(inner) == CHANNELS_LAST


# The layout of docs


def starting_with(*first: Any, shape: tuple[int, ...] = (3, 8, 6)) -> keras.Model:
    return keras.Sequential([keras.Input(shape), *first, kl.Flatten(), kl.Dense(2)])


@pytest.mark.parametrize("rows", [1, 3, 4])
@pytest.mark.parametrize("channels", [2, 12])
def test_few_rows_are_not_taken_for_channels(rows: int, channels: int) -> None:
    model = starting_with(kl.Conv2D(2, 1), shape=(rows, 64, channels))
    assert Anatomy(model).layout_of_docs((1, rows, 64, channels)) == CHANNELS_LAST
    first = starting_with(
        kl.MaxPooling2D(1, data_format="channels_first"), shape=(channels, rows, 64)
    )
    assert Anatomy(first).layout_of_docs((1, channels, 64, rows)) == CHANNELS_FIRST


@pytest.mark.parametrize(
    "transposed",
    [
        lambda: kl.Permute((3, 1, 2)),
        lambda: kl.Lambda(lambda x: keras.ops.transpose(x, (0, 3, 1, 2))),
    ],
    ids=["Permute", "Lambda"],
)
@pytest.mark.parametrize("channels", [3, 5])
def test_a_model_may_start_with_a_transposition(transposed: Any, channels: int) -> None:
    model = starting_with(
        kl.Rescaling(2.0),
        transposed(),
        kl.Conv2D(2, 1, data_format="channels_first"),
        shape=(8, 6, channels),
    )
    assert Anatomy(model).layout_of_docs((1, 8, 6, channels)) == CHANNELS_LAST


def test_a_subclassed_model_may_start_with_a_transposition() -> None:
    class Transposing(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.scores = kl.Conv2D(2, 1), kl.Dense(2)

        def call(self, inputs: Any) -> Any:
            x = self.conv(keras.ops.transpose(inputs, (0, 2, 3, 1)))
            return self.scores(keras.ops.mean(x, (1, 2)))

    model, doc = Transposing(), make_doc((1, 3, 8, 6))
    assert Anatomy(model).layout_of_docs(doc.shape) == CHANNELS_FIRST
    model(doc)
    assert Anatomy(model).layout_of_docs(doc.shape) == CHANNELS_FIRST


def test_augmentation_says_nothing_about_the_layout() -> None:
    flip = kl.RandomFlip()
    flip.data_format = "channels_last"  # an argument only of later versions of Keras
    model = starting_with(flip, kl.MaxPooling2D(2, data_format="channels_first"))
    assert Anatomy(model).layout_of_docs((1, 3, 8, 6)) == CHANNELS_FIRST


def test_a_layer_further_in_does_not_tell_how_many_channels_docs_have() -> None:
    model = starting_with(kl.Dense(8), kl.Conv2D(2, 1), shape=(8, 6, 3))
    assert Anatomy(model).layout_of_docs((1, 8, 6, 3)) == CHANNELS_LAST


@pytest.mark.parametrize(
    ("shape", "layout"),
    [
        ((1, 8, 6, 3), "channels_last"),
        ((1, 3, 8, 6), "channels_first"),
        ((1, 8, 6, 5), "channels_last"),
    ],
)
def test_where_no_layer_tells_the_shape_of_the_docs_does(
    shape: tuple[int, ...], layout: str
) -> None:
    assert Anatomy(starting_with(shape=shape[1:])).layout_of_docs(shape).name == layout


def test_image_models_are_known_by_their_layers_at_any_depth(nested: keras.Model) -> None:
    assert Anatomy(nested).is_for_images()
    assert not Anatomy(keras.Sequential([kl.Dense(2)])).is_for_images()


class Holder(kl.Layer):
    def __init__(self, held: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.held = held


def test_a_layer_is_walked_once_and_found_by_each_of_its_paths() -> None:
    shared = kl.Activation("relu", name="shared")
    inner = Holder([shared], name="inner")
    model = Chain([Holder(inner, name="a"), Holder([inner, shared], name="b")], name="model")
    assert [path for path, _ in layers.walk(model)] == ["a", "a/inner", "a/inner/shared", "b"]
    assert Anatomy(model).path_of(shared) == "a/inner/shared"
    for path in ("shared", "a/inner/shared", "b/inner/shared", "b/shared", "inner/shared"):
        assert Anatomy(model).find(path) is shared
    assert Anatomy(model).find("b/inner") is inner
    with pytest.raises(ValueError, match="no layer 'a/shared'"):
        Anatomy(model).find("a/shared")


def test_blocks_that_hold_those_before_them_are_walked_once_each() -> None:
    blocks: list[kl.Layer] = []
    for number in range(60):  # of which there are 2 ** 60 paths
        blocks.append(Holder(list(blocks), name=f"block_{number}"))
    blocks[0].held = blocks[-1]  # and round again
    model = Chain(blocks, name="model")
    assert len(list(layers.walk(model))) == 60
    assert Anatomy(model).find("block_59/block_30/block_7") is blocks[7]


# The tree of layers is walked through once


@pytest.fixture
def walked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The models that were walked through, as often as they were."""
    models: list[Any] = []

    def walk(model: keras.Model, *others: Any) -> Any:
        models.append(model)
        return layers.walk(model, *others)

    monkeypatch.setattr("kerasight.keras.anatomy.walk", walk)
    return models


def test_the_first_call_walks_once_and_a_later_one_never(
    nested: keras.Model, walked: list[Any]
) -> None:
    kerasight.explain_prediction(nested, make_doc(), logits=True)
    assert walked == [nested]
    for _ in range(WORTH_A_TRACE):
        kerasight.explain_prediction(nested, make_doc(), logits=True)
    walked.clear()
    for method in ("grad-cam", "layercam"):
        kerasight.explain_prediction(nested, make_doc(), logits=True, method=method)
    assert walked == []


def test_a_model_that_has_changed_is_walked_through_again(walked: list[Any]) -> None:
    model = Chain([backbone(), kl.GlobalAveragePooling2D(), kl.Dense(3)], name="chain")
    for name in ("conv", "renamed"):
        model.stack[0].get_layer(index=1).name = name
        for _ in range(WORTH_A_TRACE + 2):
            kerasight.explain_prediction(model, make_doc(), layer=name)
        assert walked
        walked.clear()
    with pytest.raises(ValueError, match="no layer 'conv'"):
        kerasight.explain_prediction(model, make_doc(), layer="conv")


@pytest.mark.parametrize("method", ["grad-cam", "score-cam"])
def test_a_stream_walks_once(nested: keras.Model, walked: list[Any], method: str) -> None:
    docs = np.concatenate([make_doc(seed=seed) for seed in range(40)])
    list(kerasight.explain_predictions(nested, docs, batch_size=8, method=method))
    traces = sum(trace is not None for trace in traces_of(nested)._traces.values())
    # A pass; and of Score-CAM, scores and logits, on JAX for each size.
    assert (1 if backends.current().compiles else 0) <= traces <= 4
    assert walked == [nested]


def test_layers_made_at_the_first_call_are_walked_once_more(walked: list[Any]) -> None:
    model = MODELS["custom layer, built late"]()
    assert kerasight.explain_prediction(model, make_doc()).layer == "mix"
    assert walked == [model] * 2


def test_a_model_that_changed_between_two_passes_is_walked_again() -> None:
    model = MODELS["sequential"]()
    explainer = Explainer(model, Request(logits=True))
    for _ in range(2):
        explainer.look(make_doc(), Classes.top(1))
    model.layers[-1].activation = keras.activations.linear
    scores = explainer.look(make_doc(), Classes.top(1)).heatmaps()[0].scores
    np.testing.assert_allclose(scores, keras.ops.convert_to_numpy(model(make_doc()))[0], atol=1e-6)
