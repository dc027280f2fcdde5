from __future__ import annotations

import logging
from typing import Any

import keras
import numpy as np
import pytest
from frameworks import jax
from keras import layers as kl
from tiny_models import MODELS, Chain, backbone, head, make_doc

import kerasight
from kerasight.keras.record import record
from kerasight.keras.traces import WORTH_A_TRACE

pytestmark = pytest.mark.skipif(
    keras.config.backend() != "jax", reason=f"Keras runs on {keras.config.backend()}"
)


def test_what_is_compiled_has_the_weights_of_now() -> None:
    model, doc = MODELS["functional"](), make_doc()
    for factor in range(1, 2 * WORTH_A_TRACE):
        model.set_weights([weight * 0.5 + 0.01 * factor for weight in model.get_weights()])
        found = record(model, doc, [0])
        np.testing.assert_allclose(found.scores, np.asarray(model(doc))[0], atol=1e-6)


def test_each_shape_is_compiled_once(caplog: pytest.LogCaptureFixture) -> None:
    model = MODELS["functional"]()
    docs = np.concatenate([make_doc(seed=seed) for seed in range(7)])
    seen: list[str] = []
    with caplog.at_level(logging.DEBUG, "jax"), jax.log_compiles():
        for _ in range(4):
            caplog.clear()
            list(kerasight.explain_predictions(model, docs, batch_size=5))
            seen += [one for one in caplog.messages if "compilation of jit(run)" in one]
    assert 2 <= len(seen) <= 3  # of five docs, of the last two, and of one by itself
    assert not [one for one in caplog.messages if "compilation of jit(run)" in one]


def test_a_model_keeps_no_tracers() -> None:
    class Keeps(kl.Layer):
        def call(self, inputs: Any) -> Any:
            self.last = inputs
            return inputs

    stack = [kl.Conv2D(4, 3), kl.Conv2D(4, 3), Keeps(), kl.GlobalAveragePooling2D(), kl.Dense(3)]
    model = Chain(stack, name="keeping")
    model(make_doc())
    for _ in range(WORTH_A_TRACE + 2):
        kerasight.explain_prediction(model, make_doc())
        np.asarray(stack[2].last)
        assert not any(isinstance(one.value, jax.core.Tracer) for one in model.variables)


@pytest.mark.parametrize("cut", [jax.lax.stop_gradient, keras.ops.round, keras.ops.zeros_like])
def test_a_layer_that_the_score_does_not_depend_on_is_told(cut: Any) -> None:
    class Cut(kl.Layer):
        def call(self, inputs: Any) -> Any:
            return cut(inputs)

    body = backbone()
    model = Chain([body, Cut(), *head()], name="cut")
    for _ in range(2):
        with pytest.raises(ValueError, match="no gradient to the score"):
            record(model, make_doc(), None, body.get_layer("squash"))


def test_a_function_of_jax_in_a_layer_is_explained() -> None:
    class Wavy(kl.Layer):
        def call(self, inputs: Any) -> Any:
            return jax.numpy.sin(inputs)

    model = Chain([kl.Conv2D(1, 1, use_bias=False), Wavy(), kl.GlobalAveragePooling2D()], name="w")
    doc = make_doc()
    model(doc)
    convolved = np.asarray(model.stack[0](doc))[0]
    for _ in range(WORTH_A_TRACE + 2):
        found = record(model, doc, [0], model.stack[0])
        np.testing.assert_allclose(found.gradients, np.cos(convolved) / 64, atol=1e-6)


def test_what_jax_compiles_by_itself_cannot_be_seen_and_is_said_to() -> None:
    class Hidden(keras.Model):
        def __init__(self) -> None:
            super().__init__(name="hidden")
            self.body, self.rest = backbone(), Chain(head(), name="rest")

        def call(self, inputs: Any) -> Any:
            return self.rest(jax.jit(self.body)(inputs))

    model = Hidden()
    model(make_doc())
    with pytest.raises(ValueError, match=r"never reached .* inside a function that is compiled"):
        record(model, make_doc(), None, model.body.get_layer("conv"))
    assert record(model, make_doc()).layer.name == "mix"


def test_a_shape_that_does_not_fit_names_the_model() -> None:
    class Multiplied(kl.Layer):
        def call(self, inputs: Any) -> Any:
            return jax.numpy.matmul(inputs, jax.numpy.zeros((7, 7)))

    model = Chain([Multiplied(), backbone(), *head()], name="chain")
    with pytest.raises(ValueError, match="'chain' cannot be run on a doc of this shape"):
        record(model, make_doc())


def test_inside_of_jit_nothing_is_explained() -> None:
    model = MODELS["functional"]()

    def explained(number: Any) -> Any:
        kerasight.explain_prediction(model, make_doc())
        return number

    with pytest.raises(RuntimeError, match="explanations are run eagerly"):
        jax.jit(explained)(1.0)
