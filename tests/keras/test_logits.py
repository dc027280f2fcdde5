"""The score before the final softmax or sigmoid, wherever in the model that is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from frameworks import jax, on_tensorflow, tf
from keras import layers as kl
from tiny_models import MODELS, doc_for, make_doc, state_of

import kerasight
from kerasight.base import Explanation, RunError
from kerasight.keras import backends
from kerasight.keras.record import scores_of
from kerasight.keras.traces import WORTH_A_TRACE

pytestmark = pytest.mark.filterwarnings("ignore::kerasight.base.HeatmapWarning")


class Ending(keras.Model):
    """A body that ends in logits, and an end of the test's choice."""

    def __init__(self, end: Callable[[Any], Any], units: int = 3) -> None:
        super().__init__(name="ending")
        self.map = kl.Conv2D(4, 3, activation="relu", name="map")
        self.pool = kl.GlobalAveragePooling2D()
        self.dense = kl.Dense(units, name="dense")
        self.end = end

    def logits(self, inputs: Any) -> Any:
        return self.dense(self.pool(self.map(inputs)))

    def call(self, inputs: Any) -> Any:
        return self.end(self.logits(inputs))


class Compiled(Ending):
    def __init__(self, end: Callable[[Any], Any], units: int = 3) -> None:
        super().__init__(end, units)
        vars(self)["call"] = tf.function(self.call)


def in_a_model(end: Callable[[Any], Any]) -> Callable[[Any], Any]:
    inputs = keras.Input((3,))
    return keras.Model(inputs, end(inputs))


# An end, the number of units before it.
ENDS: dict[str, tuple[Callable[[Any], Any], int]] = {
    "keras.ops.softmax": (keras.ops.softmax, 3),
    "keras.ops.sigmoid": (keras.ops.sigmoid, 1),
    "keras.activations.softmax": (keras.activations.softmax, 3),
    "keras.activations.sigmoid": (keras.activations.sigmoid, 3),
    "a Softmax layer": (kl.Softmax(), 3),
    "an Activation layer": (kl.Activation("softmax"), 3),
    "an Activation layer, one unit": (kl.Activation("sigmoid"), 1),
    "a model": (in_a_model(kl.Softmax()), 3),
    "a model in a model": (in_a_model(in_a_model(kl.Activation("softmax"))), 3),
    "dropout after it": (lambda x: kl.Dropout(0.5, seed=1)(kl.Softmax()(x), training=False), 3),
    "tf.nn.softmax": (tf.nn.softmax, 3),
    "jax.nn.softmax": (jax.nn.softmax, 3),
    "jax.nn.sigmoid": (jax.nn.sigmoid, 1),
    "reshaped after it": (lambda x: keras.ops.reshape(keras.ops.softmax(x), (-1, 3)), 3),
    "one unit, without its axis": (lambda x: keras.ops.squeeze(keras.ops.sigmoid(x), -1), 1),
}


def explained(model: keras.Model, **asked: Any) -> Explanation:
    return kerasight.explain_prediction(model, make_doc(), layer="map", logits=True, **asked)


@pytest.mark.parametrize("kind", [Ending, Compiled])
@pytest.mark.parametrize("name", ENDS)
def test_the_logit_is_explained(name: str, kind: type[Ending]) -> None:
    end, units = ENDS[name]
    model = kind(end, units)
    model(make_doc())
    logits = np.asarray(keras.ops.convert_to_numpy(model.logits(make_doc())))[0]
    plain = Ending(lambda x: x, units)
    plain(make_doc())
    plain.set_weights(model.get_weights())
    expected = kerasight.explain_prediction(plain, make_doc(), layer="map", targets=[0])
    before = state_of(model)
    for _ in range(WORTH_A_TRACE + 2):  # eager and compiled
        found = explained(model, targets=[0]).targets[0]
        assert found.score == pytest.approx(logits[0], abs=1e-6)
        np.testing.assert_allclose(found.heatmap, expected.targets[0].heatmap, atol=1e-5)
        np.testing.assert_allclose(scores_of(model, make_doc(), logits=True)[0], logits, atol=1e-6)
    assert explained(model).targets[0].target == logits.argmax()
    assert state_of(model) == before


@pytest.mark.parametrize("name", MODELS)
def test_the_logits_of_each_kind_of_model_are_found(name: str) -> None:
    model, doc = MODELS[name](), doc_for(name)
    scores = scores_of(model, doc)[0]
    logits = scores_of(model, doc, logits=True)[0]
    again = keras.ops.sigmoid(logits) if name == "one sigmoid unit" else keras.ops.softmax(logits)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(again), scores, atol=1e-6)
    assert not np.allclose(logits, scores)
    target = kerasight.explain_prediction(model, doc, logits=True).targets[0]
    assert target.score == pytest.approx(logits.max(), abs=1e-6)


def test_a_model_that_ends_in_logits_is_explained_as_it_is() -> None:
    model = Ending(lambda x: x)
    model(make_doc())
    for bias in (-5.0, 0.3):  # which no probability can be, and which one might
        model.dense.set_weights([np.zeros((4, 3)) + 1e-3, np.full(3, bias)])
        expected = kerasight.explain_prediction(model, make_doc(), layer="map", targets=[1])
        found = explained(model, targets=[1])
        assert found.targets[0].score == pytest.approx(bias, abs=0.05)
        np.testing.assert_allclose(found.targets[0].heatmap, expected.targets[0].heatmap)


@pytest.mark.parametrize("kind", [Ending, Compiled])
def test_probabilities_from_elsewhere_are_refused(kind: type[Ending]) -> None:
    model = kind(lambda x: (keras.ops.softmax(x) + keras.ops.softmax(2 * x)) / 2)
    model(make_doc())
    for _ in range(WORTH_A_TRACE + 2):
        with pytest.raises(ValueError, match=r"cannot be found.*pass a model that ends in logits"):
            explained(model)
        with pytest.raises(ValueError, match="cannot be found"):
            scores_of(model, make_doc(), logits=True)
    assert kerasight.explain_prediction(model, make_doc()).targets[0].score < 1


def test_a_layer_without_gradient_is_named_though_the_logits_are_hidden() -> None:
    model = Ending(lambda x: tf.nn.softmax(tf.stop_gradient(x)))
    model(make_doc())
    with pytest.raises(ValueError, match="no gradient to the score"):
        explained(model)


def test_a_saturated_softmax_shows_its_logit() -> None:
    model = Ending(kl.Softmax())
    model(make_doc())
    kernel, bias = model.dense.get_weights()
    model.dense.set_weights([1000 * abs(kernel) * [1, -1, -1], bias])
    assert kerasight.explain_prediction(model, make_doc()).targets[0].heatmap.max() < 0.1
    assert explained(model).targets[0].heatmap.max() == pytest.approx(1)


def test_float16_logits_come_in_float32() -> None:
    keras.mixed_precision.set_dtype_policy("mixed_float16")
    try:
        model = Ending(kl.Activation("softmax", dtype="float32"))
        model(make_doc())
    finally:
        keras.mixed_precision.set_dtype_policy("float32")
    found = explained(model).targets[0]
    assert found.heatmap.max() == pytest.approx(1, abs=1e-3)
    assert scores_of(model, make_doc(), logits=True).dtype == np.float32


@on_tensorflow
def test_keras_notes_the_logits_on_the_results_of_its_softmax_and_sigmoid() -> None:
    # Undocumented, and looked for in one place: if this fails, each first explanation with
    # logits=True takes a trace longer, and that place can go.
    from kerasight.keras.backends.tensorflow import _KERAS_LOGITS

    logits = tf.constant([[1.0, 2.0]])
    for function in (keras.ops.softmax, keras.ops.sigmoid, keras.activations.softmax):
        np.testing.assert_array_equal(getattr(function(logits), _KERAS_LOGITS), logits)


@on_tensorflow
def test_where_keras_notes_nothing_the_graph_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kerasight.keras.backends.tensorflow._KERAS_LOGITS", "_nothing")
    for name in ("keras.ops.softmax", "a Softmax layer", "one unit, without its axis"):
        test_the_logit_is_explained(name, Ending)


# Where neither Keras nor a graph tells anything


LAST: dict[str, Callable[[], list[kl.Layer]]] = {
    "a Dense layer": lambda: [kl.Dense(3, activation="softmax")],
    "a Dense layer, one unit": lambda: [kl.Dense(1, activation="sigmoid")],
    "an Activation layer": lambda: [kl.Dense(3), kl.Activation("softmax")],
    "a Softmax layer": lambda: [kl.Dense(3), kl.Softmax()],
    "a Softmax layer in a model": lambda: [kl.Dense(3), in_a_model(kl.Softmax())],
}


def gated(last: list[kl.Layer]) -> keras.Model:
    """A model with a sigmoid in its middle as well, and two dense layers with weights to read."""
    inputs = keras.Input((8, 8, 3))
    x = kl.Conv2D(4, 3, activation="sigmoid", name="map")(inputs)
    x = kl.Dense(4, activation="softmax", name="gate")(kl.GlobalAveragePooling2D(name="pool")(x))
    for layer in last:
        x = layer(x)
    return keras.Model(inputs, x)


@pytest.mark.parametrize("name", LAST)
def test_the_last_activation_tells_the_logits_by_itself(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backends.current(), "logits", lambda scores: None)
    last = LAST[name]()
    model = gated(last)
    features = keras.Model(model.inputs, model.get_layer("gate").output)(make_doc())
    kernel, bias = last[0].get_weights()
    logits = (keras.ops.convert_to_numpy(features) @ kernel + bias)[0]
    before = state_of(model)
    for _ in range(WORTH_A_TRACE + 2):  # eager and compiled
        assert explained(model, targets=[0]).targets[0].score == pytest.approx(logits[0], abs=1e-6)
        np.testing.assert_allclose(scores_of(model, make_doc(), logits=True)[0], logits, atol=1e-6)
    assert state_of(model) == before


def test_an_activation_in_the_middle_tells_nothing_of_the_scores(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(backends.current(), "logits", lambda scores: None)
    dense = kl.Dense(3)
    model = gated([dense, kl.Rescaling(1)])
    dense.set_weights([np.zeros((4, 3)), np.array([-1.0, 2, 3])])  # no probabilities
    np.testing.assert_allclose(scores_of(model, make_doc(), logits=True), [[-1, 2, 3]])
    dense.set_weights([np.zeros((4, 3)), np.array([0.2, 0.3, 0.5])])  # which may be some
    with pytest.raises(RunError, match="cannot be found"):
        scores_of(model, make_doc(), logits=True)


def test_a_dense_layer_at_the_end_puts_out_logits_whatever_they_look_like(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(backends.current(), "logits", lambda scores: None)
    dense = kl.Dense(3)
    model = gated([dense])
    dense.set_weights([np.zeros((4, 3)), np.array([0.2, 0.3, 0.5])])
    np.testing.assert_allclose(scores_of(model, make_doc(), logits=True), [[0.2, 0.3, 0.5]])
