from __future__ import annotations

from typing import Any

import keras
import pytest
from keras import layers as kl
from tiny_models import MODELS, Block, Chain, head, make_doc

from kerasight.keras import layers


@pytest.fixture
def nested() -> keras.Model:
    return MODELS["functional in sequential in sequential"]()


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


class Holder(kl.Layer):
    def __init__(self, held: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.held = held


def test_layers_are_found_in_lists_that_hold_themselves_and_beside_a_million_numbers() -> None:
    held: list[Any] = [{"deep": ([kl.Activation("relu", name="inside")], {1, 2})}]
    held.append(held)
    holder = Holder(None, name="holder")
    vars(holder).update(held=held, numbers=list(range(10**6)))
    assert [child.name for child in layers.children(holder)] == ["inside"]
