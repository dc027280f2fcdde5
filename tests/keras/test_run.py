from __future__ import annotations

import contextlib
from typing import Any

import keras
import numpy as np
import pytest
from frameworks import on_tensorflow, tf
from keras import layers as kl
from tiny_models import Chain, backbone, head, make_doc

import kerasight
from kerasight.base import RunError
from kerasight.keras.record import record
from kerasight.keras.traces import WORTH_A_TRACE


def test_a_layer_that_returns_its_input_is_explained_on_its_own_path() -> None:
    inputs = keras.Input((2, 2, 1))
    same = kl.Activation("linear", name="same")(inputs)
    both = kl.Add()([3 * same, 2 * inputs])
    model = keras.Model(inputs, kl.Dense(1, use_bias=False)(kl.Flatten()(both)))
    model.layers[-1].set_weights([np.ones((4, 1), np.float32)])
    found = record(model, make_doc((1, 2, 2, 1)), None, model.get_layer("same"))
    np.testing.assert_array_equal(found.gradients, np.full((2, 2, 1), 3))


def test_of_a_layer_called_twice_the_last_call_is_explained() -> None:
    inputs = keras.Input((2, 2, 1))
    double = kl.Conv2D(1, 1, use_bias=False, name="double")
    twice = double(double(inputs))
    model = keras.Model(inputs, kl.Dense(1, use_bias=False)(kl.Flatten()(twice)))
    double.set_weights([np.full((1, 1, 1, 1), 2.0)])
    model.layers[-1].set_weights([np.ones((4, 1))])
    doc = make_doc((1, 2, 2, 1))
    found = record(model, doc, None, double)
    np.testing.assert_allclose(found.activations, 4 * doc[0])
    np.testing.assert_array_equal(found.gradients, np.ones((2, 2, 1)))


class Making(keras.Model):
    """Puts out what a function makes of its scores."""

    def __init__(self, make: Any) -> None:
        super().__init__(name="making")
        self.conv, self.scores, self.make = kl.Conv2D(2, 3), kl.Dense(3), make

    def call(self, inputs: Any) -> Any:
        return self.make(self.scores(keras.ops.mean(self.conv(inputs), (1, 2))))


@pytest.mark.parametrize(
    ("make", "got"),
    [
        (lambda scores: None, r"none; does its call return them\?"),
        (lambda scores: [], "none;"),
        (lambda scores: {}, "none;"),
        (lambda scores: [None, scores], "none;"),
        (lambda scores: tf.cast(scores, tf.complex64), "dtype complex64"),
        (tf.strings.as_string, "dtype string"),
        (tf.RaggedTensor.from_tensor, "RaggedTensor"),
    ],
)
def test_an_output_that_is_no_real_tensor_is_refused(make: Any, got: str) -> None:
    with pytest.raises(ValueError, match=f"first output of model 'making' must be .* got {got}"):
        record(Making(make), make_doc())


def raising(scores: Any) -> Any:
    raise RuntimeError("of my own")


@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (lambda scores: kl.Conv2D(2, 3)(scores), ValueError, "is incompatible with the layer"),
        (lambda scores: tf.matmul(scores, tf.zeros((7, 7))), ValueError, "1,3.*7,7"),
        pytest.param(
            lambda scores: tf.cast(tf.constant("a"), tf.float32),
            tf.errors.UnimplementedError,
            "",
            marks=on_tensorflow,
        ),
        (raising, RuntimeError, "of my own"),
    ],
)
def test_errors_of_the_models_own_come_in_plain_words(
    make: Any, error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says) as raised:
        record(Making(make), make_doc())
    assert "calling Making.call()" in str(raised.value)  # Keras says where
    assert "\x1b" not in str(raised.value)
    assert "{{" not in str(raised.value)


def test_one_unit_without_an_axis_of_its_own_is_class_zero() -> None:
    class Squeezed(Chain):
        def call(self, inputs: Any) -> Any:
            return keras.ops.squeeze(super().call(inputs), axis=-1)

    model = Squeezed([backbone(), *head("sigmoid", 1)], name="squeezed")
    found = record(model, make_doc(), [0])
    assert found.scores.shape == (1,)
    assert found.gradients.any()


def heatmap(model: keras.Model, **kwargs: Any) -> np.ndarray:
    doc = kwargs.pop("doc", None)
    expl = kerasight.explain_prediction(model, make_doc() if doc is None else doc, **kwargs)
    return expl.targets[0].heatmap


def test_what_a_model_does_to_itself_as_it_runs_does_not_last() -> None:
    class Restless(keras.Model):
        def __init__(self) -> None:
            super().__init__(name="restless")
            self.body = backbone()
            self.norm = kl.BatchNormalization(name="norm")
            self.drop = kl.Dropout(0.5, seed=1)
            self.rest = Chain(head(), name="rest")

        def call(self, inputs: Any) -> Any:
            x = self.norm(self.body(inputs), training=True)
            return self.rest(self.drop(x, training=True))

    model = Restless()
    model(make_doc())
    variables = [np.array(variable) for variable in model.variables]
    seed = np.array(model.drop.seed_generator.state)
    maps = [heatmap(model, targets=[0]) for _ in range(WORTH_A_TRACE + 2)]
    for before, after in zip(variables, model.variables, strict=True):
        np.testing.assert_array_equal(before, after)
    np.testing.assert_array_equal(model.drop.seed_generator.state, seed)
    np.testing.assert_allclose(maps[-1], maps[0], atol=1e-5)


def test_an_output_that_has_not_one_row_for_each_doc_is_refused() -> None:
    model = Making(lambda scores: keras.ops.concatenate([scores, scores]))
    with pytest.raises(RunError, match=r"one row a doc, got shape \(2, 3\) for 1 doc$"):
        record(model, make_doc())


def test_a_layer_that_fails_and_is_gone_on_without_does_no_harm() -> None:
    class Fails(kl.Layer):
        def call(self, inputs: Any) -> Any:
            raise RuntimeError("on purpose")

    class Trying(kl.Layer):
        def __init__(self, fails: kl.Layer) -> None:
            super().__init__(name="trying")
            self.fails = fails

        def call(self, inputs: Any) -> Any:
            for _ in range(2):
                with contextlib.suppress(RuntimeError):
                    self.fails(inputs)
            return 2 * inputs

    trying = Trying(Fails())
    found = record(Chain([backbone(), trying, *head()], name="chain"), make_doc(), None, trying)
    assert found.site.call == 0
    assert found.gradients.any()
