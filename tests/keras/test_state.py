from __future__ import annotations

import array
import collections
import functools
import gc
import itertools
import logging
import random
import threading
import types
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import keras
import numpy as np
import pytest
from keras import layers as kl
from tiny_models import MODELS, Chain, make_doc

import kerasight
from kerasight.keras import state
from kerasight.keras.state import Contents, Snapshot, UnseenError
from kerasight.keras.tap import tapped


class Settings:
    def __init__(self) -> None:
        self.gain = 1.0

    def apply(self, inputs: Any) -> Any:
        return inputs


class Slots:
    __slots__ = ("gain",)

    def __init__(self) -> None:
        self.gain = 1.0


@dataclass(slots=True)
class SlotsWithReference:
    gain: float = 1.0
    table: dict[str, int] = field(default_factory=dict)
    __weakref__: Any = field(init=False, repr=False)


class Table(dict[str, int]):
    """A dict with attributes."""


class Base(kl.Layer):
    rate_of_all = 1.0
    table_of_all: ClassVar[dict[str, int]] = {"a": 1}

    @property
    def half(self) -> float:
        return 0.5

    def helper(self, inputs: Any) -> Any:
        return inputs


class Custom(Base):
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
        self.space = types.SimpleNamespace(gain=1.0)
        self.slots = Slots()
        self.slots_with_reference = SlotsWithReference()
        self.queue = collections.deque([1.0])
        self.bytes = bytearray(b"ab")
        self.numbers = array.array("d", [1.0])
        self.objects = np.array([1.0, None], dtype=object)
        self.attributed = Table(a=1)
        self.attributed.gain = 1.0  # of the dict that Keras puts in its place
        self.settings.attributed = Table(a=1)
        self.settings.attributed.gain = 1.0
        self.bound = self.settings.apply
        self.partial = functools.partial(np.full, (1,), fill_value=1.0)
        self.rng = np.random.default_rng(0)
        self.python_rng = random.Random(0)
        self._self_gain = 1.0
        self.plain_layer = Settings()
        self.plain_layer.layer = kl.Activation("relu")
        self.queued_layers = collections.deque([kl.Activation("relu")])
        self.settings.itself = self.settings

    def call(self, inputs: Any) -> Any:
        return inputs


class Other(Custom):
    pass


@pytest.fixture
def model() -> keras.Model:
    model = Chain(
        [kl.Conv2D(2, 3, activation="relu", name="conv"), Custom(name="custom"), kl.Flatten()],
        name="chain",
    )
    model(make_doc())
    return model


def snapshot(model: keras.Model) -> Snapshot:
    return Snapshot(model)


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
    "another array": lambda m: setattr(custom(m), "large", np.ones(5000)),
    "an attribute of an object of the user's": lambda m: setattr(custom(m).settings, "gain", 2.0),
    "another function": lambda m: setattr(custom(m), "function", np.sinh),
    "a namespace": lambda m: setattr(custom(m).space, "gain", 2.0),
    "a slot": lambda m: setattr(custom(m).slots, "gain", 2.0),
    "a slot emptied": lambda m: delattr(custom(m).slots, "gain"),
    "a slot of a dataclass": lambda m: setattr(custom(m).slots_with_reference, "gain", 2.0),
    "a dict in a slot": lambda m: custom(m).slots_with_reference.table.update(a=1),
    "a deque": lambda m: custom(m).queue.__setitem__(0, 2.0),
    "a bytearray": lambda m: custom(m).bytes.__setitem__(0, 7),
    "an array of Python's": lambda m: custom(m).numbers.__setitem__(0, 2.0),
    "an array of objects": lambda m: custom(m).objects.__setitem__(1, 2.0),
    "a large array in place": lambda m: custom(m).large.__setitem__(4999, 1.0),
    "an attribute of a dict": lambda m: setattr(custom(m).attributed, "gain", 2.0),
    "an attribute of a dict in an object": lambda m: setattr(
        custom(m).settings.attributed, "gain", 2.0
    ),
    "the object of a method": lambda m: setattr(custom(m).bound.__self__, "gain", 2.0),
    "an argument of a partial": lambda m: custom(m).partial.keywords.update(fill_value=3.0),
    "a generator drawn from": lambda m: custom(m).rng.random(),
    "a generator of Python's drawn from": lambda m: custom(m).python_rng.random(),
    "an attribute called _self_": lambda m: setattr(custom(m), "_self_gain", 2.0),
    "a layer in an object": lambda m: setattr(
        custom(m).plain_layer.layer, "activation", keras.activations.tanh
    ),
    "a layer in a deque": lambda m: setattr(
        custom(m).queued_layers[0], "activation", keras.activations.tanh
    ),
    "another class": lambda m: setattr(custom(m), "__class__", Other),
    "another name": lambda m: setattr(custom(m), "name", "renamed"),
    "a new attribute": lambda m: setattr(custom(m), "extra", 1),
    "an attribute less": lambda m: delattr(custom(m), "rate"),
}


@pytest.mark.parametrize("change", list(CHANGES))
def test_it_does_not_hold_after_a_change(model: keras.Model, change: str) -> None:
    taken = snapshot(model)
    assert taken.holds()
    CHANGES[change](model)
    assert not taken.holds()


CLASS_CHANGES: dict[str, tuple[type, str, Any]] = {
    "call": (Custom, "call", lambda self, inputs: inputs * 2),
    "call of the model": (Chain, "call", lambda self, inputs: inputs),
    "__call__": (Custom, "__call__", lambda self, inputs: inputs * 2),
    "a method of the class above": (Base, "helper", lambda self, inputs: inputs * 2),
    "a property": (Base, "half", property(lambda self: 0.25)),
    "an attribute": (Base, "rate_of_all", 2.0),
    "a method of an object's class": (Settings, "apply", lambda self, inputs: inputs * 2),
    "a layer of Keras's own": (kl.Conv2D, "call", lambda self, inputs: inputs),
}


@pytest.mark.parametrize("change", list(CLASS_CHANGES))
def test_it_does_not_hold_after_a_change_of_a_class(
    model: keras.Model, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = snapshot(model)
    changed, name, value = CLASS_CHANGES[change]
    monkeypatch.setattr(changed, name, value, raising=False)
    assert not taken.holds()


def test_it_does_not_hold_after_a_change_in_a_dict_of_a_class(
    model: keras.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = snapshot(model)
    monkeypatch.setitem(Base.table_of_all, "a", 2)
    assert not taken.holds()


def test_an_operation_in_a_graph_is_seen_to_change() -> None:
    inputs = keras.Input((4, 4, 3))
    model = keras.Model(inputs, keras.ops.leaky_relu(inputs, 0.2))
    taken = snapshot(model)
    assert taken.holds()
    (operation,) = (one for one in model.operations if not isinstance(one, kl.Layer))
    operation.negative_slope = 0.4
    assert not taken.holds()


def test_equal_values_in_the_place_of_the_former_are_no_change(model: keras.Model) -> None:
    taken = snapshot(model)
    layer = custom(model)
    layer.rate, layer.scales, layer.table = 2.0 / 4, [1.0, 2.0], {"a": 1}
    layer.mean, layer.large = np.zeros(3), np.zeros(5000)
    layer.space.gain, layer.attributed.gain = 2.0 / 2, 2.0 / 2
    assert taken.holds()
    layer.scales[0] = 3.0
    assert not taken.holds()


def test_what_points_at_each_other_and_long_chains_are_followed_without_recursion(
    model: keras.Model,
) -> None:
    first, second = Settings(), Settings()
    first.other, second.other = second, first
    custom(model).pair = first
    custom(model).logger = logging.getLogger("one.of.many")
    chain = nested = None
    for _ in range(1500):
        chain, nested = Slots(), [nested]
        chain.gain = custom(model).chain = chain
    custom(model).settings.nested = nested
    taken = snapshot(model)
    assert taken.holds()
    logging.getLogger("one.more")  # what nothing depends on
    assert taken.holds()
    second.gain = 2.0
    assert not taken.holds()


def too_long(layer: Any) -> None:
    layer.settings.chain = Settings()
    end = layer.settings.chain
    for _ in range(5000):
        end.next = Settings()
        end = end.next


UNSEEN: dict[str, Callable[[Any], Any]] = {
    "a long list": lambda layer: setattr(layer, "scales", list(range(10**6))),
    "a long chain": too_long,
    "a very large array": lambda layer: setattr(layer, "mean", np.zeros(10**6)),
    "an iterator": lambda layer: setattr(layer, "iterator", itertools.count()),
}


@pytest.mark.parametrize("change", list(UNSEEN))
def test_what_cannot_be_compared_is_refused(model: keras.Model, change: str) -> None:
    UNSEEN[change](custom(model))
    with pytest.raises(UnseenError):
        snapshot(model)


def test_contents_are_put_back_as_they_were(model: keras.Model) -> None:
    for change in CHANGES.values():
        taken, contents = snapshot(model), Contents(model)
        change(model)
        contents.put_back()
        if type(custom(model)) is Other:
            custom(model).__class__ = Custom
        if not taken.holds():
            # Nobody who draws from a generator as a model runs wants its numbers again.
            assert change in (
                CHANGES["a generator drawn from"],
                CHANGES["a generator of Python's drawn from"],
            )


def test_contents_are_not_put_back_over_what_was_built() -> None:
    model = Chain([kl.Dense(2)], name="unbuilt")
    contents = Contents(model)
    model(np.zeros((1, 3), np.float32))
    contents.put_back()
    assert model.stack[0].kernel.shape == (3, 2)
    model(np.zeros((1, 3), np.float32))


def test_kerass_bookkeeping_has_the_names_that_are_leant_on() -> None:
    """Of each name that `state` and `traces` know: whether Keras still calls it so."""
    inputs = keras.Input((3,))
    graph = keras.Model(inputs, kl.Dense(1)(inputs))
    graph.compile("sgd", "mse")
    graph.fit(np.zeros((1, 3)), np.zeros((1, 1)), verbose=0)
    graph.predict(np.zeros((1, 3)), verbose=0)
    graph.evaluate(np.zeros((1, 3)), np.zeros((1, 1)), verbose=0)
    elsewhere = set() if keras.config.backend() == "jax" else {"_jax_state"}
    for name in (state._KEPT | state._DROPPED) - elsewhere:
        assert name in vars(graph), name
    layer = kl.Dense(1)
    for name, value in (("trainable", False), ("autocast", False), ("name", "other")):
        taken = snapshot(layer)
        setattr(layer, name, value)
        assert not taken.holds(), name
    with keras.StatelessScope([(graph.weights[0], np.ones((3, 1)))]) as outer:
        with keras.StatelessScope() as inner:
            assert inner.original_scope is outer
        assert float(outer.state_mapping[id(graph.weights[0])][0, 0]) == 1.0


def test_calls_training_and_summaries_are_no_change(model: keras.Model) -> None:
    inputs = keras.Input((6, 6, 3))
    x = kl.BatchNormalization()(kl.Conv2D(2, 3)(inputs))
    x = kl.MultiHeadAttention(2, 2)(*[kl.Reshape((16, 2))(x)] * 2)
    model = keras.Model(inputs, kl.Dense(2)(kl.GlobalAveragePooling1D()(kl.Dropout(0.5)(x))))
    model.compile("sgd", "mse")
    docs, wanted = np.zeros((2, 6, 6, 3), np.float32), np.zeros((2, 2), np.float32)
    model.fit(docs, wanted, verbose=0)
    taken = snapshot(model)
    model(docs, training=True)
    model.predict(docs, verbose=0)
    model.evaluate(docs, wanted, verbose=0)
    model.train_on_batch(docs, wanted)
    model.summary(print_fn=lambda *_, **__: None)
    assert taken.holds()


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
