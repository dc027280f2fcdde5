from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers as kl
from tiny_models import MODELS, Chain, make_doc

import kerasight
from kerasight.keras.layers import walk
from kerasight.keras.state import Snapshot
from kerasight.keras.tap import tapped


class Settings:
    def __init__(self) -> None:
        self.gain = 1.0


class Custom(kl.Layer):
    """A layer with state of every kind that Python code may read when it runs."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.rate = 0.5
        self.shape = (1, 2)
        self.mean = np.zeros(3)
        self.large = np.zeros(5000)
        self.scales = [1.0, 2.0]
        self.nested = [[1], {"a": (2, [3])}]
        self.table = {"a": 1}
        self.settings = Settings()
        self.function = np.tanh

    def call(self, inputs: Any) -> Any:
        return inputs


@pytest.fixture
def model() -> keras.Model:
    model = Chain(
        [kl.Conv2D(2, 3, activation="relu", name="conv"), Custom(name="custom"), kl.Flatten()],
        name="chain",
    )
    model(make_doc())
    return model


def snapshot(model: keras.Model) -> Snapshot:
    return Snapshot([model, *(layer for _, layer in walk(model))])


def test_it_holds_as_long_as_nothing_changes(model: keras.Model) -> None:
    taken = snapshot(model)
    assert taken.holds()
    model(make_doc())
    kerasight.explain_prediction(MODELS["functional"](), make_doc())
    assert taken.holds()


def test_new_values_of_the_weights_are_no_change(model: keras.Model) -> None:
    taken = snapshot(model)
    model.set_weights([weight + 1 for weight in model.get_weights()])
    model.layers[0].kernel.assign(model.layers[0].kernel * 2)
    assert taken.holds()


def custom(model: keras.Model) -> Any:
    return model.stack[1]


def replace_kernel(model: keras.Model) -> None:
    conv = model.stack[0]
    vars(conv)["_kernel"] = keras.Variable(np.zeros((3, 3, 3, 2)))


CHANGES: dict[str, Callable[[keras.Model], Any]] = {
    "another activation": lambda m: setattr(m.stack[0], "activation", keras.activations.tanh),
    "another variable": replace_kernel,
    "trainable flipped": lambda m: setattr(m.stack[0], "trainable", False),
    "another policy": lambda m: setattr(m.stack[0], "dtype_policy", "mixed_float16"),
    "another number": lambda m: setattr(custom(m), "rate", 0.25),
    "another tuple": lambda m: setattr(custom(m), "shape", (1, 3)),
    "an item of a list": lambda m: custom(m).scales.__setitem__(0, 3.0),
    "a list appended to": lambda m: custom(m).scales.append(3.0),
    "an item of a list in a list": lambda m: custom(m).nested[0].__setitem__(0, 5),
    "an item of a list in a tuple in a dict": lambda m: custom(m).nested[1]["a"][1].append(4),
    "an item of a dict": lambda m: custom(m).table.__setitem__("a", 2),
    "a key of a dict": lambda m: custom(m).table.__setitem__("b", 1),
    "a small array in place": lambda m: custom(m).mean.__setitem__(1, 1.0),
    "another array": lambda m: setattr(custom(m), "large", np.zeros(5000)),
    "an attribute of an object of the user's": lambda m: setattr(custom(m).settings, "gain", 2.0),
    "another function": lambda m: setattr(custom(m), "function", np.sinh),
    "a new attribute": lambda m: setattr(custom(m), "extra", 1),
    "an attribute less": lambda m: delattr(custom(m), "rate"),
}


@pytest.mark.parametrize("change", list(CHANGES))
def test_it_does_not_hold_after_a_change(model: keras.Model, change: str) -> None:
    taken = snapshot(model)
    assert taken.holds()
    CHANGES[change](model)
    assert not taken.holds()


def test_an_object_in_the_place_of_a_dead_one_is_told_apart(model: keras.Model) -> None:
    layer = custom(model)
    layer.function = lambda x: x
    taken = snapshot(model)
    # Freed and made anew, again and again: one comes to the place in memory of the first.
    place = id(layer.function)
    for _ in range(1000):
        layer.function = None
        layer.function = lambda x: 2 * x
        if id(layer.function) == place:
            break
    assert not taken.holds()


def test_a_tap_of_another_thread_is_no_change(model: keras.Model) -> None:
    taken = snapshot(model)
    answers = []
    with tapped([model, *model.layers], lambda _, output: output):
        thread = threading.Thread(target=lambda: answers.append(taken.holds()))
        thread.start()
        thread.join()
    assert answers == [True]
    assert taken.holds()


def test_it_keeps_no_model_alive_and_does_not_hold_without_it(model: keras.Model) -> None:
    inner = MODELS["functional in sequential in sequential"]()
    inner(make_doc())
    taken, reference = snapshot(inner), weakref.ref(inner)
    del inner
    gc.collect()
    assert reference() is None
    assert not taken.holds()


def test_nan_is_no_change(model: keras.Model) -> None:
    custom(model).rate = float("nan")
    taken = snapshot(model)
    custom(model).rate = float("nan")
    assert taken.holds()
