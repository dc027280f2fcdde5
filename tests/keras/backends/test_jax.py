from __future__ import annotations

import logging
from typing import Any

import keras
import numpy as np
import pytest
from frameworks import jax
from fresh_python import run_python
from keras import layers as kl
from tiny_models import MODELS, SIDE, Chain, backbone, doc_for, head, make_doc

import kerasight
from kerasight.cam.inputs import Inputs
from kerasight.keras import backends
from kerasight.keras.anatomy import Anatomy
from kerasight.keras.record import record, record_batch, scores_of
from kerasight.keras.targets import Classes
from kerasight.keras.traces import WORTH_A_TRACE, traces_of

pytestmark = pytest.mark.skipif(
    keras.config.backend() != "jax", reason=f"Keras runs on {keras.config.backend()}"
)


def test_what_is_compiled_has_the_weights_of_now() -> None:
    model, doc = MODELS["functional"](), make_doc()
    for factor in range(1, 2 * WORTH_A_TRACE):
        model.set_weights([weight * 0.5 + 0.01 * factor for weight in model.get_weights()])
        found = record(model, doc, [0])
        np.testing.assert_allclose(found.scores, np.asarray(model(doc))[0], atol=1e-6)


def test_gradients_come_back_from_one_output_after_another() -> None:
    given = jax.numpy.ones(2), jax.numpy.ones(2)

    def function(watch: backends.Watch) -> tuple[list[Any], list[Any]]:
        first, second = (watch(one, False) for one in given)
        return [2 * first, None, first + 3 * second], [first, second]

    linear = backends.current().linearise(function)
    for output, expected in ((0, [2, None]), (2, [1, 3]), (0, [2, None])):
        for found, factor in zip(
            linear.pullback(jax.numpy.ones((1, 2)), output, [0, 1]), expected, strict=True
        ):
            assert (found is None) == (factor is None)
            assert found is None or found.tolist() == [[factor, factor]]


def test_each_shape_is_compiled_once(caplog: pytest.LogCaptureFixture) -> None:
    model = MODELS["functional"]()
    docs = np.concatenate([make_doc(seed=seed) for seed in range(7)])
    seen: list[str] = []
    with caplog.at_level(logging.DEBUG, "jax"), jax.log_compiles():
        for _ in range(4):
            caplog.clear()
            list(kerasight.explain_predictions(model, docs, batch_size=5))
            seen += [one for one in caplog.messages if "compilation of jit(run)" in one]
    assert len(seen) == 2  # of five docs, with which the last two are filled up, and of one
    assert not [one for one in caplog.messages if "compilation of jit(run)" in one]


def test_what_a_short_batch_is_filled_up_with_is_left_out() -> None:
    model = MODELS["functional"]()
    docs = np.concatenate([make_doc(seed=seed) for seed in range(8)])
    targets = [[0], [1], [2], [0], [1], [2], [0], [1]]
    asked: dict[str, Any] = {"targets": targets, "relu": False}
    found = list(kerasight.explain_predictions(model, docs, batch_size=5, **asked))
    for doc, target, one in zip(docs, targets, found, strict=True):
        alone = kerasight.explain_prediction(model, doc[None], target, relu=False)
        assert one.targets[0].target == target[0]
        assert one.targets[0].score == pytest.approx(alone.targets[0].score, abs=1e-6)
        np.testing.assert_allclose(one.targets[0].heatmap, alone.targets[0].heatmap, atol=1e-5)


def test_a_size_that_comes_often_is_compiled_for_itself() -> None:
    model = MODELS["functional"]()
    docs = np.concatenate([make_doc(seed=seed) for seed in range(4)])
    record_batch(Anatomy(model), Inputs(docs), Classes.top(1))
    sizes = []
    for _ in range(WORTH_A_TRACE + 1):
        record_batch(Anatomy(model), Inputs(docs[:2]), Classes.top(1))
        sizes.append(len(traces_of(model)._traces))
    assert sizes == [1] * WORTH_A_TRACE + [2]


def test_where_the_layer_cannot_be_chosen_by_shapes_it_is_by_a_run() -> None:
    class Mixed(keras.Model):
        def __init__(self) -> None:
            super().__init__(name="mixed")
            self.conv = kl.Conv2D(4, 3, name="conv", dtype="mixed_float16")
            self.rest = [kl.GlobalAveragePooling2D(dtype="float32"), kl.Dense(3, dtype="float32")]

        def call(self, inputs: Any) -> Any:
            x = self.conv(inputs)
            for layer in self.rest:
                x = layer(x)
            return x

    model = Mixed()
    model(make_doc())
    for _ in range(3):
        assert record(model, make_doc()).path == "conv"
    assert traces_of(model)._traces


def test_a_class_that_there_is_not_is_told_and_keeps_nothing_from_being_compiled() -> None:
    model = MODELS["functional"]()
    for _ in range(2):
        with pytest.raises(ValueError, match="target 7 is out of range: the model puts out 3"):
            kerasight.explain_prediction(model, make_doc(), targets=[7])
    record(model, make_doc(), [2])
    assert traces_of(model)._traces


def test_a_variable_that_keras_does_not_track_is_not_kept_as_it_was() -> None:
    hidden = keras.Variable(np.float32(1.0))

    class Gain(kl.Layer):
        def call(self, inputs: Any) -> Any:
            return inputs * hidden.value

    stack = [keras.Input((8, 8, 3)), kl.Conv2D(2, 3), Gain(), *head(None)]
    model = keras.Sequential(stack, name="gains")
    for factor in range(1, 6):
        hidden.assign(factor)
        found = record(model, make_doc(), [0])
        np.testing.assert_allclose(found.scores, np.asarray(model(make_doc()))[0], atol=1e-6)
        logits = scores_of(model, make_doc())[0]
        np.testing.assert_allclose(logits, np.asarray(model(make_doc()))[0], atol=1e-6)
    assert traces_of(model)._traces


def test_a_setting_of_jax_is_not_held_as_it_was() -> None:
    class Product(kl.Layer):
        def call(self, inputs: Any) -> Any:
            precision = jax.config.jax_default_matmul_precision or "none"
            return inputs * {"none": 1.0, "highest": 2.0, "float32": 3.0}[precision]

    model = Chain([backbone(), *head(None), Product()], name="products")
    model(make_doc())
    plain = np.asarray(model(make_doc()))[0]
    for _ in range(2):
        np.testing.assert_allclose(record(model, make_doc()).scores, plain, rtol=1e-5)
        with jax.default_matmul_precision("highest"):
            np.testing.assert_allclose(record(model, make_doc()).scores, 2 * plain, rtol=1e-5)
    jax.config.update("jax_default_matmul_precision", "float32")
    try:
        np.testing.assert_allclose(record(model, make_doc()).scores, 3 * plain, rtol=1e-5)
        np.testing.assert_allclose(scores_of(model, make_doc())[0], 3 * plain, rtol=1e-5)
    finally:
        jax.config.update("jax_default_matmul_precision", None)
    assert len(traces_of(model)._traces) == 4  # of three settings, and of the scores


@pytest.mark.parametrize("name", MODELS)
def test_a_model_that_an_explanation_builds_keeps_no_tracers(name: str) -> None:
    model, doc = MODELS[name](), doc_for(name)
    for _ in range(2):
        kerasight.explain_prediction(model, doc, relu=False)
        assert model.variables
        assert not any(isinstance(one.value, jax.core.Tracer) for one in model.variables)
    model(doc)


def test_arrays_of_numpy_in_a_call_are_told_of() -> None:
    class Counting(kl.Layer):
        def call(self, inputs: Any) -> Any:
            return inputs * np.asarray(inputs).mean()

    model = Chain([backbone(), Counting(), *head()], name="counting")
    model(make_doc())
    with pytest.raises(ValueError, match="'counting' makes NumPy arrays of its tensors"):
        record(model, make_doc())


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


ON_TWO_DEVICES = """
import os
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"
import jax, keras, kerasight, numpy as np
from tiny_models import MODELS, make_doc

DOCS = np.concatenate([make_doc(seed=seed) for seed in range(5)])

def heatmaps(model):
    found = kerasight.explain_predictions(model, DOCS, batch_size=3, relu=False)
    return [one.targets[0].heatmap for one in found]

def seeded():
    model, random = MODELS["functional"](), np.random.default_rng(0)
    model.set_weights([random.normal(0, 0.5, one.shape) for one in model.get_weights()])
    return model

plain = seeded()
expected = heatmaps(plain)
"""

DISTRIBUTED = {
    "data": "keras.distribution.DataParallel(devices=devices)",
    # Keras 3.3 wants the mesh as well.
    "model": "keras.distribution.ModelParallel("
    "device_mesh=mesh, layout_map=layouts, batch_dim_name='batch')",
}


needs_fit = pytest.mark.skipif(
    not hasattr(keras, "RematScope"), reason="the fit of Keras 3.3 asks JAX 0.6 for what it lacks"
)


@pytest.mark.parametrize("fits", [False, pytest.param(True, marks=needs_fit)])
@pytest.mark.parametrize("kind", DISTRIBUTED)
def test_a_distributed_model_is_explained_before_and_after_fit(kind: str, fits: bool) -> None:
    run_python(
        ON_TWO_DEVICES
        + f"""
devices = keras.distribution.list_devices()
assert len(devices) == 2
mesh = keras.distribution.DeviceMesh((1, 2), ["batch", "model"], devices)
layouts = keras.distribution.LayoutMap(mesh)
layouts["conv.*kernel"] = (None, None, None, "model")
keras.distribution.set_distribution({DISTRIBUTED[kind]})
model = seeded()
np.testing.assert_allclose(heatmaps(model), expected, atol=1e-5)
if {fits}:
    model.compile("sgd", "sparse_categorical_crossentropy")
    model.fit(DOCS[:4], np.array([0, 1, 2, 0]), batch_size=2, verbose=0)
found = kerasight.explain_prediction(model, DOCS[:1], targets=[0], relu=False)
np.testing.assert_allclose(found.targets[0].score, np.asarray(model(DOCS[:1]))[0, 0], atol=1e-6)
"""
    )


def test_a_model_that_is_moved_to_other_devices_is_explained_there() -> None:
    run_python(
        ON_TWO_DEVICES
        + """
import logging
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from kerasight.keras.traces import traces_of

seen = []
class Notes(logging.Handler):
    def emit(self, record):
        seen.append(record.getMessage())
logging.getLogger("jax").addHandler(Notes())

def compiled():
    seen.clear()
    with jax.log_compiles():
        np.testing.assert_allclose(heatmaps(plain), expected, atol=1e-5)
    return sum("compilation of jit(run)" in one for one in seen)

everywhere = NamedSharding(Mesh(np.array(jax.devices()), ("all",)), PartitionSpec())
traces = list(traces_of(plain)._traces.values())
assert traces and compiled() == 0
for variable in plain.variables:
    variable.assign(jax.device_put(variable.value, everywhere))
# The trace of three docs is compiled once more, and is the same trace.
assert [compiled(), compiled()] == [1, 0]
assert all(one is other for one, other in zip(traces_of(plain)._traces.values(), traces))
"""
    )


@needs_fit
def test_in_a_callback_the_weights_of_that_epoch_are_explained() -> None:
    model, doc, found = MODELS["functional"](), make_doc(), []

    class Explains(keras.callbacks.Callback):
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            explained = kerasight.explain_prediction(self.model, doc, targets=[0], relu=False)
            found.append((explained.targets[0].score, float(self.model(doc)[0, 0])))

    model.compile(keras.optimizers.SGD(1.0), "sparse_categorical_crossentropy")
    docs = np.concatenate([make_doc(seed=seed) for seed in range(4)])
    model.fit(docs, np.array([0, 1, 2, 0]), epochs=4, verbose=0, callbacks=[Explains()])
    for score, expected in found:
        assert score == pytest.approx(expected, abs=1e-6)
    assert len({round(score, 4) for score, _ in found}) == 4
    assert not any(isinstance(one.value, jax.core.Tracer) for one in model.variables)


def exponentials(x: Any) -> Any:
    powers = jax.numpy.exp(x)
    return powers / powers.sum(axis=-1, keepdims=True)


@pytest.mark.parametrize(
    "end",
    [
        exponentials,
        lambda x: exponentials(x - x.max(axis=-1, keepdims=True)),
        lambda x: jax.jit(exponentials)(x),
    ],
)
def test_the_logits_of_a_softmax_written_out_are_found(end: Any) -> None:
    dense = kl.Dense(2)
    model = Chain([kl.Conv2D(1, 1), kl.GlobalAveragePooling2D(), dense, kl.Lambda(end)], name="w")
    model(make_doc())
    model.stack[0].set_weights([np.full((1, 1, 3, 1), 0.5), np.zeros(1)])
    dense.set_weights([np.array([[2.0, -4.0]]), np.array([0.5, 0.25])])
    seen = 0.5 * make_doc()[0].sum(axis=-1)
    logits = [2 * seen.mean() + 0.5, 0.25 - 4 * seen.mean()]
    asked: dict[str, Any] = {"layer": model.stack[0], "logits": True, "relu": False}
    for _ in range(2):
        found = kerasight.explain_prediction(model, make_doc(), targets=[1], **asked).targets[0]
        assert found.score == pytest.approx(logits[1], abs=1e-5)
        np.testing.assert_allclose(found.heatmap, -seen / abs(seen).max(), atol=1e-5)
        np.testing.assert_allclose(scores_of(model, make_doc(), logits=True)[0], logits, atol=1e-5)


def test_scores_of_a_product_and_a_bias_are_their_own_logits() -> None:
    kernel, bias = np.arange(6, dtype=np.float32).reshape(3, 2), np.ones(2, np.float32)
    end = kl.Lambda(lambda x: x @ kernel + bias)
    model = Chain([*backbone().layers[1:], *head(None), end], name="linear")
    scores = np.asarray(model(make_doc()))
    np.testing.assert_allclose(scores_of(model, make_doc(), logits=True), scores, atol=1e-6)


@pytest.mark.parametrize(
    "end",
    [
        lambda x: jax.numpy.exp(x) / jax.numpy.exp(2 * x).sum(axis=-1, keepdims=True),
        lambda x: jax.numpy.exp(x) / jax.numpy.cosh(x).sum(axis=-1, keepdims=True),
        lambda x: abs(x) / abs(x).sum(axis=-1, keepdims=True),
    ],
)
def test_what_is_no_whole_softmax_is_not_taken_for_one(end: Any) -> None:
    model = Chain([*backbone().layers[1:], *head(None), kl.Lambda(end)], name="halves")
    model(make_doc())
    with pytest.raises(ValueError, match="cannot be found"):
        scores_of(model, make_doc(), logits=True)


def test_of_a_sum_in_a_model_that_cannot_be_traced_the_next_layers_tell() -> None:
    class Asks(keras.Model):
        def __init__(self) -> None:
            super().__init__(name="asks")
            self.conv = kl.Conv2D(1, 1, kernel_initializer="ones", name="conv")
            self.pool = kl.GlobalAveragePooling2D(name="pool")

        def call(self, inputs: Any) -> Any:
            x = self.conv(inputs) + 1
            return self.pool(x) if inputs.sum() > 0 else self.pool(-x)

    model = Asks()
    model(make_doc())
    found = record(model, make_doc(), [0])
    assert found.path == "pool:input"
    np.testing.assert_allclose(found.gradients, np.full((SIDE, SIDE, 1), 1 / SIDE**2), rtol=1e-5)


def test_quantised_layers_are_explained() -> None:
    model = MODELS["functional"]()
    model.get_layer("scores").quantize("int8")
    for _ in range(2):
        found = record(model, make_doc(), [0])
        np.testing.assert_allclose(found.scores, np.asarray(model(make_doc()))[0], atol=1e-6)
        assert found.gradients.any()
