from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from frameworks import tf
from keras import layers as kl
from tiny_models import Chain, backbone, head, make_doc

from kerasight.keras.record import record


def test_an_error_of_tensorflow_becomes_one_that_names_the_model() -> None:
    class Reshaped(kl.Layer):
        def call(self, inputs: Any) -> Any:
            return tf.reshape(inputs, (1, 4, 4, 12))

    model = Chain([Reshaped(), backbone(), *head()], name="chain")
    with pytest.raises(ValueError, match="'chain' cannot be run on a doc of this shape") as error:
        record(model, make_doc((1, 5, 5, 3)))
    assert isinstance(error.value.__cause__, tf.errors.InvalidArgumentError)


def test_a_layer_inside_a_tf_function_of_the_users_is_said_to_be_hidden() -> None:
    class Hidden(keras.Model):
        def __init__(self) -> None:
            super().__init__(name="hidden")
            self.body = backbone()
            self.rest = Chain(head(), name="rest")

        @tf.function
        def features(self, inputs: Any) -> Any:
            return self.body(inputs)

        def call(self, inputs: Any) -> Any:
            return self.rest(self.features(inputs))

    model = Hidden()
    with pytest.raises(ValueError, match=r"'body/conv'|'backbone/conv'.*inside a function"):
        record(model, make_doc(), None, model.body.get_layer("conv"))
    # What can be seen is explained, and no tensor of the trace has leaked into it.
    assert record(model, make_doc()).layer.name == "mix"
    assert np.isfinite(record(model, make_doc()).gradients).all()


def test_a_model_whose_own_call_is_under_tf_function_is_explained() -> None:
    class Compiled(keras.Model):
        def __init__(self) -> None:
            super().__init__(name="compiled")
            self.body = backbone()
            self.rest = Chain(head(), name="rest")

        @tf.function
        def call(self, inputs: Any) -> Any:
            return self.rest(self.body(inputs))

    model = Compiled()
    plain = np.asarray(model(make_doc()))[0]
    found = record(model, make_doc(), None, model.body.get_layer("conv"))
    np.testing.assert_allclose(found.scores, plain, atol=1e-6)
    assert found.gradients.any()


def test_a_gradient_that_comes_in_slices_is_made_whole() -> None:
    class FirstRow(kl.Layer):
        def call(self, inputs: Any) -> Any:
            return tf.gather(tf.reshape(inputs, (8, 8, 2)), [0], axis=0)

    model = Chain(
        [kl.Conv2D(2, 1, name="conv"), FirstRow(), kl.Flatten(), kl.Dense(2)], name="rows"
    )
    found = record(model, make_doc(), [0], model.stack[0])
    assert found.gradients[0].all()
    assert not found.gradients[1:].any()
