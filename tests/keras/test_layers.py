from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from keras import layers as kl
from tiny_models import MODELS, Block, Chain, backbone, head, make_doc

from kerasight.keras import layers


@pytest.fixture
def nested() -> keras.Model:
    return MODELS["functional in sequential in sequential"]()


def twins() -> keras.Model:
    """Two backbones side by side, with the same names inside."""
    inputs = keras.Input((8, 8, 3))
    both = kl.Add(name="add")([backbone(name="left")(inputs), backbone(name="right")(inputs)])
    return keras.Model(inputs, kl.Dense(3)(kl.GlobalAveragePooling2D()(both)), name="twins")


def test_walk_gives_paths_at_any_depth(nested: keras.Model) -> None:
    paths = [path for path, _ in layers.walk(nested)]
    assert "middle" in paths
    assert "middle/backbone/conv" in paths
    assert "scores" in paths
    assert paths.index("middle/backbone/conv") < paths.index("middle/backbone/seen")


def test_walk_finds_the_layers_of_custom_layers_in_lists_and_dicts() -> None:
    model = Chain([Block(name="block"), *head()], name="chain")
    model(make_doc())
    assert {"block", "block/inside", "block/seen", "mix"} <= {
        path for path, _ in layers.walk(model)
    }


def test_walk_ends_where_a_layer_holds_one_it_stands_in() -> None:
    class Knot(kl.Layer):
        pass

    knot, other = Knot(name="knot"), Knot(name="other")
    vars(knot)["below"], vars(other)["back"] = other, knot
    model = Chain([knot], name="chain")
    assert [path for path, _ in layers.walk(model)] == ["knot", "knot/other"]


def test_a_layer_is_found_by_name_path_end_of_path_index_and_instance(nested: keras.Model) -> None:
    conv = nested.get_layer("middle").get_layer("backbone").get_layer("conv")
    assert layers.find(nested, "conv") is conv
    assert layers.find(nested, "backbone/conv") is conv
    assert layers.find(nested, "middle/backbone/conv") is conv
    assert layers.find(nested, conv) is conv
    assert layers.find(nested, 0) is nested.layers[0]
    assert layers.find(nested, -1) is nested.get_layer("scores")
    assert layers.find(nested, np.int64(-1)) is nested.get_layer("scores")


def test_an_unknown_name_is_refused_with_the_nearest(nested: keras.Model) -> None:
    with pytest.raises(ValueError, match=r"no layer 'Conv_1'.*'middle/backbone/conv'"):
        layers.find(nested, "Conv_1")
    with pytest.raises(ValueError, match=r"last layers are .*'scores'"):
        layers.find(nested, "zzzzzzzzzzzzzz")
    with pytest.raises(ValueError, match="has no layers"):
        layers.find(keras.Sequential(), "conv")


@pytest.mark.parametrize("index", [7, -7])
def test_an_index_out_of_range_is_refused_with_the_range(index: int) -> None:
    model = MODELS["sequential"]()
    with pytest.raises(ValueError, match="between -6 and 5"):
        layers.find(model, index)


def test_a_name_in_several_models_is_refused_with_the_paths() -> None:
    with pytest.raises(ValueError, match="'left/conv', 'right/conv'"):
        layers.find(twins(), "conv")
    model = twins()
    assert layers.find(model, "right/conv") is model.get_layer("right").get_layer("conv")


def test_a_name_of_the_outermost_model_goes_before_one_inside() -> None:
    outer = kl.Conv2D(4, 1, name="conv")
    model = keras.Sequential([keras.Input((8, 8, 3)), backbone(), outer])
    assert layers.find(model, "conv") is outer


def test_one_layer_held_in_two_places_is_no_ambiguity() -> None:
    shared = kl.Conv2D(3, 1, name="shared")
    model = Chain([Chain([shared], name="one"), Chain([shared], name="two")], name="chain")
    assert layers.find(model, "shared") is shared
    assert layers.find(model, "two/shared") is shared
    assert layers.path_of(model, shared) == "one/shared"


@pytest.mark.parametrize("layer", [2.5, True, ["conv"], b"conv"])
def test_other_types_are_refused(nested: keras.Model, layer: Any) -> None:
    with pytest.raises(TypeError, match=r"str.*int.*Layer"):
        layers.find(nested, layer)


def choose(calls: list[tuple[kl.Layer, tuple[int | None, ...] | None]]) -> list[int]:
    model = Chain([layer for layer, _ in calls], name="chain")
    return list(layers.candidates(model, calls))


def test_the_last_map_is_chosen_first() -> None:
    conv, relu, pool = kl.Conv2D(2, 1), kl.ReLU(), kl.GlobalAveragePooling2D()
    shape = (1, 4, 4, 2)
    assert choose([(conv, shape), (relu, shape), (pool, (1, 2))]) == [1, 0]


def test_maps_of_one_cell_are_not_chosen() -> None:
    conv = kl.Conv2D(2, 1)
    assert choose([(conv, (1, 4, 4, 2)), (kl.ReLU(), (1, 1, 1, 2))]) == [0]
    assert choose([(conv, (1, 1, 4, 2))]) == [0]
    first = kl.Conv2D(2, 1, data_format="channels_first")
    assert choose([(first, (1, 2, 1, 1))]) == []
    assert choose([(first, (1, 1, 4, 4))]) == [0]


def test_layers_that_drop_out_or_augment_are_not_chosen() -> None:
    shape = (1, 4, 4, 2)
    calls = [
        (kl.Conv2D(2, 1), shape),
        (kl.Dropout(0.5), shape),
        (kl.SpatialDropout2D(0.5), shape),
        (kl.GaussianNoise(0.1), shape),
        (kl.RandomFlip(), shape),
        (keras.Sequential([kl.RandomFlip(), kl.RandomZoom(0.1)]), shape),
    ]
    assert choose(calls) == [0]


def test_outputs_that_are_no_tensor_are_not_chosen() -> None:
    assert choose([(kl.Conv2D(2, 1), (1, 4, 4, 2)), (kl.ReLU(), None)]) == [0]


def test_layout_is_that_of_the_nearest_layer_that_knows() -> None:
    first = MODELS["channels first"]()
    assert layers.data_format(first) == "channels_first"
    assert layers.data_format(first, first.get_layer("seen")) == "channels_first"
    last = MODELS["functional"]()
    assert layers.data_format(last, last.get_layer("add")) == "channels_last"


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
    assert layers.data_format(model, before) == "channels_first"
    assert layers.data_format(model, after) == "channels_last"


def test_layout_can_be_known_from_the_axis_of_a_batch_normalisation() -> None:
    act = kl.Activation("tanh")
    model = keras.Sequential([keras.Input((3, 8, 8)), kl.BatchNormalization(axis=1), act])
    assert layers.data_format(model, act) == "channels_first"


def test_layout_is_keras_default_where_no_layer_knows() -> None:
    act = kl.Activation("tanh")
    model = keras.Sequential([keras.Input((3, 8, 8)), act, kl.Flatten()])
    assert layers.data_format(model, act) == keras.config.image_data_format()


def test_layout_of_a_model_inside_is_that_of_its_last_layer() -> None:
    inner = keras.Sequential(
        [
            kl.AveragePooling2D(2, data_format="channels_first"),
            kl.Permute((2, 3, 1)),
            kl.Conv2D(2, 1),
        ]
    )
    model = keras.Sequential([keras.Input((3, 8, 8)), inner, kl.GlobalAveragePooling2D()])
    assert layers.data_format(model, inner) == "channels_last"


def test_image_models_are_known_by_their_layers_at_any_depth(nested: keras.Model) -> None:
    assert layers.is_image_model(nested)
    assert not layers.is_image_model(keras.Sequential([kl.Dense(2)]))
