from __future__ import annotations

import collections
from typing import Any

import keras
import numpy as np
import pytest
from tiny_models import CLASSES, MODELS, SIDE, Chain, backbone, doc_for, head, make_doc, scores_of

from kerasight.keras.layers import walk
from kerasight.metrics.copies import copy_of


def randomise(model: keras.Model) -> None:
    rng = np.random.default_rng(0)
    for weight in model.weights:
        weight.assign(rng.normal(size=weight.shape))


@pytest.mark.parametrize("name", MODELS)
def test_a_copy_gives_the_same_scores_and_shares_nothing(name: str) -> None:
    model, doc = MODELS[name](), doc_for(name)
    before = scores_of(model, doc)
    copied = copy_of(model, doc).model
    assert type(copied) is type(model)
    np.testing.assert_array_equal(scores_of(copied, doc), before)
    paths, there = dict(walk(model)), dict(walk(copied))
    assert list(paths) == list(there)
    assert not {id(layer) for layer in paths.values()} & {id(layer) for layer in there.values()}
    assert not {id(item) for item in model.variables} & {id(item) for item in copied.variables}
    assert len(copied.weights) == len(model.weights)
    randomise(copied)
    assert not np.allclose(scores_of(copied, doc), before)
    np.testing.assert_array_equal(scores_of(model, doc), before)


@pytest.mark.parametrize("name", ["functional", "subclassed, no training argument"])
def test_the_other_way_round_the_copy_is_left_alone(name: str) -> None:
    model, doc = MODELS[name](), doc_for(name)
    before = scores_of(model, doc)
    copied = copy_of(model, doc).model
    randomise(model)
    np.testing.assert_array_equal(scores_of(copied, doc), before)


def test_layers_are_found_again_in_the_copy() -> None:
    model, doc = MODELS["functional in sequential in sequential"](), make_doc()
    scores_of(model, doc)
    copied = copy_of(model, doc)
    paths = {id(layer): path for path, layer in walk(copied.model)}
    for path, layer in walk(model):
        assert paths[id(copied.twin_of(layer))] == path
    first, last = model.layers[0], model.layers[-1]
    assert copied.twin_of([first, "mix", last]) == [
        copied.twin_of(first),
        "mix",
        copied.twin_of(last),
    ]
    assert (copied.twin_of("mix"), copied.twin_of(-1), copied.twin_of(None)) == ("mix", -1, None)


class HeadFirst(keras.Model):
    """Its attributes are not set in the order in which they run, and one never runs."""

    def __init__(self) -> None:
        super().__init__()
        self.scores = keras.layers.Dense(CLASSES, name="scores")
        self.unused = keras.layers.Dropout(0.5, name="unused")
        self.conv = keras.layers.Conv2D(4, 3, name="conv")
        self.pool = keras.layers.GlobalAveragePooling2D(name="pool")

    def call(self, inputs: Any) -> Any:
        return self.scores(self.pool(self.conv(inputs)))


def test_layers_come_in_the_order_in_which_they_run() -> None:
    model, doc = HeadFirst(), make_doc()
    scores_of(model, doc)
    copied = copy_of(model, doc)
    assert [layer.name for layer in copied.layers] == [
        "unused",
        "conv",
        "pool",
        "scores",
        model.name,
    ]


def test_a_deep_model_is_copied() -> None:
    inputs = x = keras.Input((SIDE, SIDE, 3))
    for _ in range(400):
        x = keras.layers.Activation("linear")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    model, doc = keras.Model(inputs, keras.layers.Dense(2)(x)), make_doc()
    np.testing.assert_array_equal(scores_of(copy_of(model, doc).model, doc), scores_of(model, doc))


def test_a_trained_model_is_copied_without_its_training() -> None:
    model = keras.Sequential([keras.Input((SIDE, SIDE, 3)), backbone(), *head()])
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(make_doc((4, SIDE, SIDE, 3)), np.zeros(4), verbose=0)
    copied = copy_of(model, make_doc()).model
    assert copied.optimizer is model.optimizer


def test_what_was_set_on_a_layer_later_is_copied() -> None:
    model, doc = MODELS["functional"](), make_doc()
    model.get_layer("seen").disturbance = np.full((SIDE, SIDE, 4), 0.5)
    model.layers[-1].activation = keras.activations.linear
    copied = copy_of(model, doc).model
    np.testing.assert_array_equal(scores_of(copied, doc), scores_of(model, doc))
    copied.get_layer("seen").disturbance[:] = 7
    assert (model.get_layer("seen").disturbance == 0.5).all()


Pair = collections.namedtuple("Pair", ["first", "second"])


class Holder:
    """No layer, but holds some."""

    def __init__(self, layer: keras.layers.Layer) -> None:
        self.layer = layer

    def run(self, inputs: Any) -> Any:
        return self.layer(inputs)


class Holding(keras.Model):
    """Holds its layers in ways that are rarely seen."""

    def __init__(self) -> None:
        super().__init__()
        conv, pool, scores = (
            keras.layers.Conv2D(4, 3, name="conv"),
            keras.layers.GlobalAveragePooling2D(name="pool"),
            keras.layers.Dense(CLASSES, name="scores"),
        )
        self.tracked = [conv, pool, scores]
        self.pair = Pair(conv, pool)
        self.method = Holder(scores).run
        self.ordered = collections.OrderedDict(b=scores, a=conv)
        # Set past Keras, which would make a plain dict of it.
        vars(self)["counted"] = collections.defaultdict(lambda: "none", a=pool)
        self.names = {"conv", "pool"}
        self.frozen = frozenset({conv})

    def call(self, inputs: Any) -> Any:
        assert list(self.ordered) == ["b", "a"]
        assert self.counted["missing"] == "none"
        assert self.names == {"conv", "pool"}
        assert self.frozen == {self.ordered["a"]}
        return self.method(self.counted["a"](self.pair.first(inputs)))


def test_layers_may_be_held_in_any_way() -> None:
    model, doc = Holding(), make_doc()
    before = scores_of(model, doc)
    copied = copy_of(model, doc).model
    np.testing.assert_array_equal(scores_of(copied, doc), before)
    assert type(copied.pair) is Pair
    randomise(copied)
    assert not np.allclose(scores_of(copied, doc), before)
    np.testing.assert_array_equal(scores_of(model, doc), before)


class Closed(keras.Model):
    """Keeps a layer in a closure, where no copy comes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = conv = keras.layers.Conv2D(4, 3, name="conv")
        self.run = lambda inputs: conv(inputs)
        self.rest = Chain([keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(2)])

    def call(self, inputs: Any) -> Any:
        return self.rest(self.run(inputs))


def test_a_copy_that_runs_layers_of_the_original_is_none() -> None:
    model, doc = Closed(), make_doc()
    scores_of(model, doc)
    with pytest.raises(ValueError, match=r"no copy .* layer 'conv' of the model runs when the"):
        copy_of(model, doc)


class Registered(keras.layers.Layer):
    """Knows its instances by their identity."""

    known: frozenset[int] = frozenset()

    def call(self, inputs: Any) -> Any:
        return inputs if id(self) in self.known else 2 * inputs


def test_a_copy_that_answers_otherwise_is_none() -> None:
    layer = Registered()
    Registered.known = frozenset({id(layer)})
    model = keras.Sequential(
        [keras.Input((SIDE, SIDE, 3)), layer, keras.layers.GlobalAveragePooling2D()]
    )
    with pytest.raises(ValueError, match=r"no copy .* the copy's scores are not those of"):
        copy_of(model, make_doc())


class Uncopied(list):  # type: ignore[type-arg]
    """A list that cannot be made again."""

    def __new__(cls, name: str) -> Uncopied:
        return super().__new__(cls)

    def __init__(self, name: str) -> None:
        super().__init__([name])


def test_the_reason_is_told_if_something_cannot_be_copied() -> None:
    model = keras.Sequential([keras.Input((SIDE, SIDE, 3)), *head()])
    model.layers[0].names = Holder(Uncopied("a"))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"no copy .* TypeError: .*__new__"):
        copy_of(model, make_doc())
