"""What is compiled, when, and that it is never stale."""

from __future__ import annotations

import collections
import gc
import logging
import random
import threading
import types
import weakref
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from frameworks import compiles, on_tensorflow
from keras import layers as kl
from tiny_models import CLASSES, MODELS, SIDE, Shift, backbone, head, make_doc

import kerasight
from kerasight.keras import backends, traces
from kerasight.keras.record import record, scores_of
from kerasight.keras.traces import _MOST, WORTH_A_TRACE, traces_of

pytestmark = pytest.mark.filterwarnings("ignore::kerasight.base.HeatmapWarning")


# How often a model runs before what it does is compiled.
EAGER = 0 if backends.current().compiles_each_operation else WORTH_A_TRACE


class Counted(kl.Layer):
    """Counts how often its Python code runs: once in an eager pass, once in a trace."""

    def call(self, inputs: Any) -> Any:
        # Outside of the model, which would else be seen to change.
        RUNS[self] = RUNS.get(self, 0) + 1
        return inputs


RUNS: weakref.WeakKeyDictionary[Counted, int] = weakref.WeakKeyDictionary()


class Runs:
    def __init__(self, layer: Counted) -> None:
        self.layer = weakref.ref(layer)

    @property
    def number(self) -> int:
        return RUNS.get(self.layer(), 0)


def counting(size: int | None = SIDE) -> tuple[keras.Model, Runs]:
    counted = Counted(name="counted")
    stack = [keras.Input((size, size, 3)), backbone(), counted, *head()]
    model = keras.Sequential(stack, name="counting")
    RUNS.clear()
    return model, Runs(counted)


def heatmap(model: keras.Model, **kwargs: Any) -> np.ndarray:
    doc = kwargs.pop("doc", None)
    expl = kerasight.explain_prediction(model, make_doc() if doc is None else doc, **kwargs)
    return expl.targets[0].heatmap


def warm_up(model: keras.Model, **kwargs: Any) -> None:
    """Explain until the pass is traced."""
    for _ in range(WORTH_A_TRACE + 1):
        heatmap(model, **kwargs)


@compiles
def test_first_calls_are_eager_then_one_traces_and_later_ones_run_no_python() -> None:
    model, runs = counting()
    maps = []
    numbers = []
    for _ in range(EAGER + 4):
        maps.append(heatmap(model))
        numbers.append(runs.number)
    assert numbers == [*range(1, EAGER + 2), *[EAGER + 1] * 3]
    for one in maps[1:]:
        np.testing.assert_allclose(one, maps[0], atol=1e-5)


@on_tensorflow  # JAX compiles for each size
def test_a_batch_counts_for_its_docs() -> None:
    model, runs = counting()
    docs = np.concatenate([make_doc(seed=seed) for seed in range(12)])
    list(kerasight.explain_predictions(model, docs, batch_size=4))
    # Two eager batches, a doc by itself to compare with, and a trace at the third.
    assert runs.number == 4
    list(kerasight.explain_predictions(model, docs, batch_size=4))
    assert runs.number == 4


@on_tensorflow  # JAX compiles for each size
def test_of_many_docs_at_once_one_is_run_eagerly_and_all_of_them_compiled() -> None:
    model, runs = counting()
    docs = np.concatenate([make_doc(seed=seed) for seed in range(12)])
    list(kerasight.explain_predictions(model, docs, batch_size=12))
    assert runs.number == 2  # a doc to choose the layer with, and a trace


@compiles
def test_another_class_and_another_picture_need_no_new_trace() -> None:
    model, runs = counting()
    warm_up(model)
    before = runs.number
    for target in range(CLASSES):
        heatmap(model, targets=[target], doc=make_doc(seed=target))
    assert runs.number == before


def test_another_layer_has_its_own_trace() -> None:
    model, _ = counting()
    eager = heatmap(model, layer="conv"), heatmap(model, layer="mix")
    for _ in range(WORTH_A_TRACE + 2):
        np.testing.assert_allclose(heatmap(model, layer="conv"), eager[0], atol=1e-5)
        np.testing.assert_allclose(heatmap(model, layer="mix"), eager[1], atol=1e-5)
    assert eager[0].shape != eager[1].shape or not np.allclose(*eager)


@on_tensorflow  # JAX compiles for each size
def test_a_batch_of_any_size_shares_the_trace() -> None:
    model, runs = counting()
    warm_up(model)
    before = runs.number
    for number in (32, 7, 1):
        docs = np.concatenate([make_doc(seed=seed) for seed in range(number)])
        assert len(list(kerasight.explain_predictions(model, docs, batch_size=32))) == number
    assert runs.number == before


@on_tensorflow  # JAX compiles for each size
def test_all_sizes_of_a_dynamic_model_share_one_trace() -> None:
    model, runs = counting(None)
    # The layer is chosen anew for each size, but the trace is one.
    warm_up(model, layer="mix")
    before = runs.number
    for side in range(8, 30, 2):
        heatmap(model, layer="mix", doc=make_doc((1, side, side, 3)))
    assert runs.number == before


def test_the_number_of_traces_is_bounded() -> None:
    model = MODELS["subclassed, no training argument"]()
    for side in range(8, 8 + 2 * _MOST):
        docs = np.repeat(make_doc((1, side, side, 3)), WORTH_A_TRACE, axis=0)
        list(kerasight.explain_predictions(model, docs))
        heatmap(model, doc=docs[:1])
    known = traces_of(model)
    assert len(known._docs) <= _MOST
    assert len(known._chosen) <= _MOST
    assert len(known._traces) <= _MOST


def replace_kernel(model: keras.Model) -> None:
    """Another variable in the place of the kernel, as `enable_lora` and `quantize` put."""
    conv = model.get_layer("backbone").get_layer("conv")
    vars(conv)["_kernel"] = keras.Variable(np.flip(np.array(conv.kernel), axis=0))


def train(model: keras.Model) -> None:
    model.compile("sgd", "sparse_categorical_crossentropy")
    model.optimizer.learning_rate = 10.0
    model.fit(make_doc(), np.array([1]), verbose=0)


def forget(model: keras.Model) -> None:
    traces._of_models.pop(id(model))


CHANGES: dict[str, Callable[[keras.Model], Any]] = {
    "the activation of the last layer": lambda m: setattr(
        m.get_layer("scores"), "activation", keras.activations.linear
    ),
    "the activation of a layer inside": lambda m: setattr(
        m.get_layer("backbone").get_layer("squash"), "activation", keras.activations.relu
    ),
    "new weights": lambda m: m.get_layer("backbone").set_weights(
        [-weight for weight in m.get_layer("backbone").get_weights()]
    ),
    "training": train,
    "another variable": replace_kernel,
    "an array that a layer adds": lambda m: setattr(
        m.get_layer("backbone").get_layer("seen"), "disturbance", np.float32(0.5)
    ),
    "a layer more": lambda m: m.add(kl.Dense(2, kernel_initializer="ones")),
    "a layer less": lambda m: m.pop(),
}


@pytest.mark.parametrize("change", list(CHANGES))
def test_a_change_shows_in_the_next_explanation(change: str) -> None:
    model, _ = counting()
    warm_up(model, targets=[0])
    before = kerasight.explain_prediction(model, make_doc(), targets=[0])
    CHANGES[change](model)
    after = [
        kerasight.explain_prediction(model, make_doc(), targets=[0])
        for _ in range(WORTH_A_TRACE + 2)
    ]
    # Without traces there is nothing to be stale.
    forget(model)
    wanted = kerasight.explain_prediction(model, make_doc(), targets=[0])
    assert not np.isclose(before.targets[0].score, wanted.targets[0].score, atol=1e-6)
    for expl in after:
        assert expl.targets[0].score == pytest.approx(wanted.targets[0].score, abs=1e-5)
        np.testing.assert_allclose(expl.targets[0].heatmap, wanted.targets[0].heatmap, atol=1e-4)


@compiles
def test_flipping_trainable_changes_nothing_but_is_seen() -> None:
    model, runs = counting()
    maps = [heatmap(model) for _ in range(WORTH_A_TRACE + 2)]
    model.trainable = False
    maps += [heatmap(model) for _ in range(WORTH_A_TRACE + 2)]
    assert runs.number == 2 * (EAGER + 1)  # eager and traced, before and after
    for one in maps:
        np.testing.assert_allclose(one, maps[0], atol=1e-5)


def test_another_policy_shows_in_the_next_explanation() -> None:
    model, _ = counting()
    warm_up(model, targets=[0])
    before = record(model, make_doc(), [0])
    model.get_layer("mix").dtype_policy = keras.DTypePolicy("mixed_float16")
    after = record(model, make_doc(), [0])
    assert before.score != after.score
    assert before.score == pytest.approx(after.score, abs=1e-2)


@compiles
def test_eight_threads_share_a_trace_and_get_their_own_answers() -> None:
    model, runs = counting()
    docs = [make_doc(seed=seed) for seed in range(8)]
    alone, _ = counting()
    alone.set_weights(model.get_weights())
    wanted = [record(alone, doc, [1]) for doc in docs]
    barrier, answers, failures = threading.Barrier(8), {}, []

    def explain(number: int) -> None:
        try:
            barrier.wait(60)
            answers[number] = [record(model, docs[number], [1]) for _ in range(10)]
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=explain, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    for number, found in answers.items():
        for one in found:
            np.testing.assert_allclose(one.gradients, wanted[number].gradients, atol=1e-6)
            np.testing.assert_allclose(one.scores, wanted[number].scores, atol=1e-6)
    # Of 80 passes, eager were those up to the trace, and what the other threads were at then.
    assert runs.number <= WORTH_A_TRACE + 8 + 1
    assert "call" not in vars(model.get_layer("counted"))


def test_a_model_that_was_explained_can_be_forgotten() -> None:
    model, _ = counting()
    warm_up(model)
    warm_up(model, layer="conv")
    number = id(model)
    references = [weakref.ref(model), weakref.ref(model.get_layer("backbone"))]
    del model
    gc.collect()
    assert [reference() for reference in references] == [None, None]
    assert number not in traces._of_models


def test_the_models_own_compiled_functions_are_left_alone() -> None:
    model, _ = counting()
    model.compile("sgd", "sparse_categorical_crossentropy")
    model.predict(make_doc(), verbose=0)
    before = model.predict_function
    warm_up(model)
    assert model.predict_function is before


def test_losses_of_a_traced_pass_are_not_left_behind() -> None:
    model = keras.Sequential(
        [
            keras.Input((SIDE, SIDE, 3)),
            kl.Conv2D(2, 3, activity_regularizer="l2", name="conv"),
            Shift(),
            *head(),
        ]
    )
    for _ in range(WORTH_A_TRACE + 2):
        heatmap(model)
        assert np.isfinite([float(loss) for loss in model.losses]).all()
    model(make_doc())
    assert len(model.losses) == 1


# A model that is not what it was, or that changes as it runs


class Plain:
    """Settings, in an object."""

    def __init__(self, **settings: Any) -> None:
        vars(self).update(settings)


class Slotted:
    __slots__ = ("gain",)


class Scaled(kl.Layer):
    """Multiplies by what its settings say, wherever they stand."""

    gain_of_all = 1.0

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.space = types.SimpleNamespace(gain=1.0)
        self.slotted = Slotted()
        self.slotted.gain = 1.0
        self.queue = collections.deque([1.0])
        self.bytes = bytearray([1])
        self._self_gain = 1.0
        self.plain = Plain(layer=kl.Activation("linear"))
        self.plain.ring = self.plain

    def call(self, inputs: Any) -> Any:
        gain = self.space.gain * self.slotted.gain * self.queue[0] * self.bytes[0]
        return self.plain.layer(inputs * gain * self._self_gain * self.gain_of_all)


def scaled() -> tuple[keras.Model, Any]:
    layer = Scaled(name="scaled")
    inputs = x = keras.Input((SIDE, SIDE, 3))
    for one in (kl.Conv2D(2, 3, activation="sigmoid"), layer):
        x = one(x)
    x = keras.ops.leaky_relu(x - 0.5, 0.2)
    for one in head(None):
        x = one(x)
    return keras.Model(inputs, x, name="scaled_model"), layer


def change_operation(model: keras.Model, _: Any) -> None:
    (relu,) = (one for one in model.operations if hasattr(one, "negative_slope"))
    relu.negative_slope = 3.0


STALE: dict[str, Callable[[keras.Model, Any], Any]] = {
    "a namespace": lambda _, layer: setattr(layer.space, "gain", 3.0),
    "a slot": lambda _, layer: setattr(layer.slotted, "gain", 3.0),
    "a deque": lambda _, layer: layer.queue.__setitem__(0, 3.0),
    "a bytearray": lambda _, layer: layer.bytes.__setitem__(0, 3),
    "an attribute called _self_": lambda _, layer: setattr(layer, "_self_gain", 3.0),
    "a layer in an object": lambda _, layer: setattr(
        layer.plain.layer, "activation", keras.activations.tanh
    ),
    "an operation": change_operation,
    "a class": lambda _, layer: setattr(
        layer, "__class__", type("Other", (Scaled,), {"gain_of_all": 3.0})
    ),
}


@pytest.mark.parametrize("change", list(STALE))
def test_what_a_layer_reads_from_what_it_holds_shows_in_the_next_explanation(change: str) -> None:
    model, layer = scaled()
    warm_up(model, targets=[0])
    assert has_traces(model)
    before = record(model, make_doc(), [0]).score
    STALE[change](model, layer)
    after = record(model, make_doc(), [0]).score
    assert after != pytest.approx(before, abs=1e-4)
    assert after == pytest.approx(float(model(make_doc())[0, 0]), abs=1e-5)


def test_what_is_written_into_a_class_shows_in_the_next_explanation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, _ = scaled()
    warm_up(model, targets=[0])
    for name, value in (("gain_of_all", 3.0), ("call", lambda self, inputs: inputs * 5)):
        monkeypatch.setattr(Scaled, name, value)
        for _ in range(WORTH_A_TRACE + 2):
            found = record(model, make_doc(), [0]).score
            assert found == pytest.approx(float(model(make_doc())[0, 0]), abs=1e-5)


def test_a_renamed_layer_is_called_by_its_new_name() -> None:
    model, layer = scaled()
    for name in ("scaled", "renamed"):
        layer.name = name
        paths = {
            kerasight.explain_prediction(model, make_doc(), layer=layer).layer
            for _ in range(WORTH_A_TRACE + 2)
        }
        assert paths == {name}


def test_a_setting_of_keras_that_a_call_reads_is_read_again() -> None:
    class Gain(kl.Layer):
        def call(self, inputs: Any) -> Any:
            return inputs * keras.config.epsilon()

    stack = [kl.Conv2D(2, 3, name="conv"), kl.GlobalAveragePooling2D(), kl.Dense(3), Gain()]
    model = keras.Sequential([keras.Input((SIDE, SIDE, 3)), *stack])
    plain = keras.ops.convert_to_numpy(keras.Sequential(model.layers[:-1])(make_doc()))[0]
    usual = keras.config.epsilon()
    try:
        for gain in (1.0, 2.0, 1.0):
            keras.config.set_epsilon(gain)
            for _ in range(WORTH_A_TRACE + 2):
                found = record(model, make_doc(), [0], model.get_layer("conv"))
                np.testing.assert_allclose(found.scores, gain * plain, rtol=1e-5)
                scores = scores_of(model, make_doc())[0]
                np.testing.assert_allclose(scores, gain * plain, rtol=1e-5)
    finally:
        keras.config.set_epsilon(usual)


def has_traces(model: keras.Model) -> bool:
    """Whether a pass is kept to come again: a trace or, where nothing compiles, the site."""
    kept = traces_of(model)
    return any(one is not None for one in (kept._traces or kept._chosen).values())


class Keeps(kl.Layer):
    """Keeps what passed through it, in every way that people do, and counts."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.last = None
        self.all: list[Any] = []
        self.by_name: dict[str, Any] = {}
        self.plain = Plain(last=None, count=0)

    def call(self, inputs: Any) -> Any:
        self.last = self.plain.last = self.by_name["last"] = inputs * 1.0
        self.all.append(self.last)
        self.new = self.last
        self.plain.count += 1
        return self.last


class Remembers(kl.Layer):
    """Adds what passed through it before."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.last = None

    def call(self, inputs: Any) -> Any:
        before, self.last = self.last, inputs
        return inputs if before is None else inputs + keras.ops.mean(before)


class KeepsPerShape(kl.Layer):
    """Makes what it needs for a shape once, which a trace asks for with its own shape."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.grids: dict[Any, Any] = {}

    def call(self, inputs: Any) -> Any:
        shape = tuple(inputs.shape)
        if shape not in self.grids:
            self.grids[shape] = keras.ops.ones(shape[1:])
        return inputs * self.grids[shape]


class Draws(kl.Layer):
    def call(self, inputs: Any) -> Any:
        return inputs * random.random() * np.random.rand()  # noqa: NPY002


def with_layer(layer: kl.Layer) -> keras.Model:
    stack = [keras.Input((SIDE, SIDE, 3)), kl.Conv2D(2, 3), layer, *head()]
    model = keras.Sequential(stack, name="restless")
    # What it kept of the dry run in which Keras built the model.
    fresh: dict[str, Any] = {"last": None, "all": [], "by_name": {}, "grids": {}}
    vars(layer).update({name: fresh[name] for name in fresh.keys() & vars(layer).keys()})
    return model


def values_in(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [inner for item in value.values() for inner in values_in(item)]
    return value if isinstance(value, list) else [value]


@compiles
@pytest.mark.parametrize(
    "kind", [Keeps, Remembers, pytest.param(KeepsPerShape, marks=on_tensorflow), Draws]
)
@pytest.mark.parametrize("docs", [1, 8])
def test_a_model_that_changes_itself_is_run_eagerly_and_holds_numbers_afterwards(
    kind: type[kl.Layer], docs: int, caplog: pytest.LogCaptureFixture, monkeypatch: Any
) -> None:
    layer = kind(name="restless")
    model = with_layer(layer)
    made = []
    monkeypatch.setattr(traces.Traces, "_made", counted_calls(traces.Traces._made, made))
    doc = np.concatenate([make_doc(seed=seed) for seed in range(docs)])
    with caplog.at_level(logging.INFO, "kerasight"):
        for _ in range(4 * WORTH_A_TRACE):
            list(kerasight.explain_predictions(model, doc, batch_size=docs))
    assert len(made) <= traces._STRIKES
    assert not has_traces(model)
    (message,) = {one.getMessage() for one in caplog.records}
    assert "'restless' is run eagerly each time" in message
    held = [getattr(layer, name, None) for name in ("last", "all", "by_name", "new", "grids")]
    for value in values_in(held[0]) + [one for item in held[1:] for one in values_in(item)]:
        keras.ops.convert_to_numpy(value)  # a symbol of a graph raises here
    if kind is Keeps:
        keras.ops.convert_to_numpy(layer.plain.last)


def counted_calls(function: Callable[..., Any], calls: list[Any]) -> Callable[..., Any]:
    def counted(*args: Any) -> Any:
        calls.append(args)
        return function(*args)

    return counted


def test_what_a_model_with_a_memory_answers_is_what_an_eager_run_would() -> None:
    models = [with_layer(Remembers(name="restless")) for _ in range(2)]
    models[1].set_weights(models[0].get_weights())
    for seed in range(3 * WORTH_A_TRACE):
        found = record(models[0], make_doc(seed=seed), [0]).scores
        wanted = keras.ops.convert_to_numpy(models[1](make_doc(seed=seed)))[0]
        np.testing.assert_allclose(found, wanted, atol=1e-6, err_msg=str(seed))


@compiles
def test_a_model_that_holds_too_much_to_compare_is_run_eagerly(
    caplog: pytest.LogCaptureFixture,
) -> None:
    layer = Shift(name="shift")
    layer.numbers = list(range(10**6))
    model = with_layer(layer)
    with caplog.at_level(logging.INFO, "kerasight"):
        maps = [heatmap(model) for _ in range(WORTH_A_TRACE + 3)]
    for one in maps[1:]:
        np.testing.assert_array_equal(one, maps[0])
    assert not has_traces(model)
    assert "more objects, or larger arrays, than can be compared" in caplog.text


def test_a_logger_and_a_ring_of_objects_do_no_harm() -> None:
    layer = Shift(name="shift")
    layer.logger, layer.settings = logging.getLogger("a.b.c"), Plain()
    layer.settings.parent = Plain(child=layer.settings)
    model = with_layer(layer)
    warm_up(model)
    assert has_traces(model)


class WithHead(keras.Model):
    """Holds layers for training alone, and changes all that an inference can change."""

    def __init__(self, weights: Any = "zeros") -> None:
        super().__init__(name="with_head")
        self.conv, self.norm = kl.Conv2D(4, 3), kl.BatchNormalization()
        self.drop, self.scores = kl.Dropout(0.5, seed=1), kl.Dense(3)
        self.auxiliary = kl.Dense(3)
        self.count = self.add_weight(initializer="zeros", trainable=False, name="count")
        self.shift = MadeOfArrays() if weights == "array" else kl.Dense(4)

    def call(self, inputs: Any, training: bool = False) -> Any:
        self.count.assign_add(1.0)
        x = self.shift(self.norm(self.conv(inputs), training=True))
        x = keras.ops.mean(self.drop(x, training=True), (1, 2))
        return self.scores(x) + self.auxiliary(x) if training else self.scores(x)


class MadeOfArrays(kl.Layer):
    """Its weight is made of an array, which Keras does not do where nothing may change."""

    def build(self, _: Any) -> None:
        self.shift = keras.Variable(np.ones(4, np.float32))

    def call(self, inputs: Any) -> Any:
        return inputs + self.shift


def all_values(model: keras.Model) -> list[np.ndarray]:
    return [np.array(variable) for variable in model.variables]


def test_a_layer_that_is_never_built_leaves_the_model_alone() -> None:
    model = WithHead()
    model(make_doc())
    before = all_values(model)
    scores = [record(model, make_doc(), [0]).scores for _ in range(WORTH_A_TRACE + 2)]
    for was, value in zip(before, all_values(model), strict=True):
        np.testing.assert_array_equal(was, value)
    for one in scores[1:]:
        np.testing.assert_allclose(one, scores[0], atol=1e-5)
    assert not model.auxiliary.built
    assert has_traces(model)


@pytest.mark.parametrize("weights", ["zeros", "array"])
@pytest.mark.parametrize("layer", [None, "conv"])
def test_a_model_built_by_an_explanation_is_explained_with_the_weights_it_has_then(
    weights: str, layer: str | None
) -> None:
    model = WithHead(weights)
    if layer is not None:
        model.conv.name = layer
    first = kerasight.explain_prediction(model, make_doc(), targets=[0], layer=layer)
    assert float(np.array(model.count)) == 0
    before = all_values(model)
    again = kerasight.explain_prediction(model, make_doc(), targets=[0], layer=layer)
    for was, value in zip(before, all_values(model), strict=True):
        np.testing.assert_array_equal(was, value)
    assert again.targets[0].score == pytest.approx(first.targets[0].score, abs=1e-5)
    np.testing.assert_allclose(again.targets[0].heatmap, first.targets[0].heatmap, atol=1e-5)


def test_the_weights_of_a_scope_of_the_users_are_explained_in_it() -> None:
    model, runs = counting()
    warm_up(model, targets=[0])
    outside = record(model, make_doc(), [0]).scores
    others = [(weight, weight.value * 3 + 0.1) for weight in model.trainable_variables]
    number = runs.number
    for _ in range(WORTH_A_TRACE + 2):
        with keras.StatelessScope(others):
            inside = record(model, make_doc(), [0]).scores
            wanted = keras.ops.convert_to_numpy(model(make_doc()))[0]
        np.testing.assert_allclose(inside, wanted, atol=1e-6)
        assert not np.allclose(inside, outside, atol=1e-3)
    assert runs.number == number + 2 * (WORTH_A_TRACE + 2)  # all of them eager
    np.testing.assert_array_equal(record(model, make_doc(), [0]).scores, outside)


@on_tensorflow  # whose variables are what changes, where JAX's arrays are replaced
def test_in_a_lasting_scope_passes_are_traced_and_follow_its_variables() -> None:
    model, runs = counting()
    warm_up(model, targets=[0])
    outside = record(model, make_doc(), [0]).scores
    scope = traces.lasting_scope(model)
    others = [keras.Variable(weight, trainable=False) for weight in model.trainable_variables]
    for weight, other in zip(model.trainable_variables, others, strict=True):
        scope.add_update((weight, other.value))
    number = runs.number
    for factor in range(2, 2 * WORTH_A_TRACE):
        for weight, other in zip(model.trainable_variables, others, strict=True):
            other.assign(weight * factor + 0.1)
        with scope:
            inside = record(model, make_doc(), [0]).scores
        with keras.StatelessScope([*zip(model.trainable_variables, others, strict=True)]):
            wanted = keras.ops.convert_to_numpy(model(make_doc()))[0]
        np.testing.assert_allclose(inside, wanted, atol=1e-5)
    own = 2 * WORTH_A_TRACE - 2  # runs of the model itself
    assert runs.number == number + own + WORTH_A_TRACE + 1  # those before the trace, and it
    np.testing.assert_array_equal(record(model, make_doc(), [0]).scores, outside)


def test_what_is_found_out_about_a_model_is_bounded() -> None:
    model, _ = counting()
    warm_up(model)
    known = traces_of(model)
    for number in range(2 * traces._MOST_FACTS):
        known.once(("fact", number), lambda: None)
    assert len(known._facts) <= traces._MOST_FACTS
