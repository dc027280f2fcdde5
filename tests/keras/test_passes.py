from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from frameworks import compiles, jax, tf, torch
from keras import layers as kl
from tiny_models import (
    MODELS,
    Chain,
    backbone,
    doc_for,
    head,
    make_doc,
    scores_of,
    state_of,
)

import kerasight
from kerasight.cam.inputs import Inputs
from kerasight.keras import backends, passes, scoring
from kerasight.keras.anatomy import Anatomy
from kerasight.keras.record import record, record_batch, scorer
from kerasight.keras.record import scores_of as scores_of_many
from kerasight.keras.run import Run
from kerasight.keras.targets import Classes
from kerasight.keras.traces import WORTH_A_TRACE, traces_of


@pytest.fixture(params=list(MODELS))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def mixed(policy: str, gain: float = 1.0) -> keras.Model:
    """Five channels of a picture, the first two classes apart by ``gain`` times the first."""
    inputs = keras.Input((8, 8, 3))
    x = kl.Conv2D(5, 3, padding="same", activation="relu", name="conv", dtype=policy)(inputs)
    x = kl.ReLU(name="out", dtype=policy)(x)
    x = kl.GlobalAveragePooling2D(dtype=policy)(x)
    x = kl.Dense(3, dtype=policy, name="logits")(x)
    outputs = kl.Softmax(dtype="float32")(x)
    model = keras.Model(inputs, outputs)
    rng = np.random.default_rng(0)
    model.set_weights([rng.normal(size=weight.shape) * gain for weight in model.get_weights()])
    return model


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_gives_gradients_in_float32(policy: str) -> None:
    model, exact = mixed(policy), mixed("float32")
    found, wanted = record(model, make_doc(), [0]), record(exact, make_doc(), [0])
    assert found.gradients.dtype == found.activations.dtype == np.float32
    assert found.layer.name == "out"
    tolerance = 0.01 if policy == "mixed_float16" else 0.05
    np.testing.assert_allclose(
        found.gradients, wanted.gradients, atol=tolerance * np.abs(wanted.gradients).max()
    )


def test_gradients_too_small_for_float16_are_kept() -> None:
    model, exact = mixed("mixed_float16", 1.8), mixed("float32", 1.8)
    doc = make_doc()
    target = int(scores_of(exact, doc).argsort()[1])
    found, wanted = record(model, doc, [target]), record(exact, doc, [target])
    assert np.abs(wanted.gradients).max() < 6e-8
    assert found.gradients.any()
    correlation = np.corrcoef(found.gradients.ravel(), wanted.gradients.ravel())[0, 1]
    assert correlation > 0.99


def test_gradients_too_large_for_the_greatest_scale_are_finite() -> None:
    model = mixed("mixed_float16", 1.0)
    model.get_layer("logits").set_weights([np.full((5, 3), 50.0), np.zeros(3)])
    found = record(model, 0.1 * make_doc(), [0])
    assert np.isfinite(found.gradients).all()


def test_an_output_that_is_no_class_scores_is_refused() -> None:
    model = keras.Sequential([keras.Input((8, 8, 3)), kl.Conv2D(2, 3)], name="segments")
    with pytest.raises(ValueError, match=r"class scores of shape \(1, classes\).*\(1, 6, 6, 2\)"):
        record(model, make_doc())


def test_a_model_that_cannot_be_traced_is_explained_each_time() -> None:
    class Eager(Chain):
        def call(self, inputs: Any) -> Any:
            if float(keras.ops.convert_to_numpy(inputs).mean()) > 100:
                return super().call(inputs * 0)
            return super().call(inputs)

    model = Eager([backbone(), *head()], name="eager")
    maps = [record(model, make_doc()).gradients for _ in range(WORTH_A_TRACE + 2)]
    for one in maps[1:]:
        np.testing.assert_array_equal(one, maps[0])


@pytest.mark.parametrize("name", list(MODELS))
def test_compiled_and_eager_agree_and_leave_the_model_alone(name: str) -> None:
    model, doc = MODELS[name](), doc_for(name)
    eager = record(model, doc, [0])
    for _ in range(WORTH_A_TRACE):
        record(model, doc, [0])
    before = state_of(model)
    for _ in range(2):
        compiled = record(model, doc, [0])
        assert compiled.layer is eager.layer
        np.testing.assert_allclose(compiled.gradients, eager.gradients, atol=1e-6)
        np.testing.assert_allclose(compiled.activations, eager.activations, atol=1e-5)
        np.testing.assert_allclose(compiled.scores, eager.scores, atol=1e-6)
    assert state_of(model) == before


def test_several_classes_compiled_are_those_of_one_by_one() -> None:
    model = MODELS["functional"]()
    anatomy, targets = Anatomy(model), Classes(np.array([[2, 0, 1, 0]]))
    inputs = anatomy.inputs_of(make_doc())
    eager = record_batch(anatomy, inputs, targets).terms(0)
    for _ in range(WORTH_A_TRACE):
        compiled = record_batch(anatomy, inputs, targets).terms(0)
    for target, one, other in zip([2, 0, 1, 0], eager, compiled, strict=True):
        alone = record(model, make_doc(), [target])
        assert one.target == other.target == target
        np.testing.assert_allclose(one.gradients, alone.gradients, atol=1e-7)
        np.testing.assert_allclose(other.gradients, alone.gradients, atol=1e-7)


def test_inside_a_tf_function_an_explanation_says_that_it_runs_eagerly() -> None:
    model = MODELS["functional"]()

    @tf.function(autograph=False)
    def explain() -> Any:
        return kerasight.explain_prediction(model, make_doc()).targets[0].score

    with pytest.raises(RuntimeError, match="explanations are run eagerly"):
        explain()


# The part of a model after a layer


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[[Exception], None]:
    """Lets all functions fail that are compiled from now on."""

    def fail(error: Exception) -> None:
        backend = backends.current()
        compile_ = backend.compiled

        def compiled(*args: Any) -> Any:
            compile_(*args)

            def run(*_: Any) -> Any:
                raise error

            return run

        monkeypatch.setattr(backend, "compiled", compiled)

    return fail


@pytest.fixture
def eager_runs(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The runs that were not compiled."""
    runs: list[Any] = []

    def run(*args: Any, **kwargs: Any) -> Run:
        if backends.current().is_eager():
            runs.append(args)
        return Run(*args, **kwargs)

    for module in (passes, scoring):
        monkeypatch.setattr(module, "Run", run)
    return runs


EXHAUSTED, OTHER = {
    "tensorflow": lambda: (
        tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor"),
        tf.errors.InternalError(None, None, "of the framework"),
    ),
    "jax": lambda: (
        jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: OOM when allocating tensor"),
        jax.errors.JaxRuntimeError("INTERNAL: of the framework"),
    ),
    "torch": lambda: (torch.OutOfMemoryError("OOM"), RuntimeError("of the framework")),
}[keras.config.backend()]()
COMPILES_AT_ONCE = backends.current().compiles_each_operation
DOCS = np.concatenate([make_doc(seed=seed) for seed in range(WORTH_A_TRACE)])


def explained(model: keras.Model) -> Any:
    return list(kerasight.explain_predictions(model, DOCS, targets=[1], errors="keep"))


def scored(model: keras.Model) -> Any:
    return scores_of_many(model, DOCS)


def scored_often(model: keras.Model) -> Any:
    inputs = Inputs(DOCS)
    return scorer(model, inputs)(inputs)


@compiles
@pytest.mark.parametrize(
    ("ask", "eager"),
    # One doc tells where to look, if a trace does not.
    [(explained, int(not COMPILES_AT_ONCE)), (scored, 0), (scored_often, 0)],
)
def test_where_memory_runs_out_nothing_is_run_again(
    ask: Any, eager: int, failing: Any, eager_runs: list[Any]
) -> None:
    failing(EXHAUSTED)
    with pytest.raises(MemoryError, match=r"'functional' ran; pass a smaller batch_size.*OOM"):
        ask(MODELS["functional"]())
    assert len(eager_runs) == eager


@compiles
@pytest.mark.filterwarnings("ignore::kerasight.base.HeatmapWarning")  # its weights are random
@pytest.mark.parametrize("ask", [explained, scored, scored_often])
def test_what_fails_otherwise_is_run_eagerly_and_logged(
    ask: Any, failing: Any, eager_runs: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    model = MODELS["functional"]()
    expected = ask(model)
    traces_of(model)._forget()
    failing(OTHER)
    eager_runs.clear()
    with caplog.at_level(logging.INFO, "kerasight"):
        found = ask(model)
    assert eager_runs
    assert {one.name for one in caplog.records} == {"kerasight"}
    assert "model 'functional' is run eagerly" in caplog.text
    assert "of the framework" in caplog.text
    if ask is explained:
        found = [one.targets[0].heatmap for one in found]
        expected = [one.targets[0].heatmap for one in expected]
    np.testing.assert_allclose(found, expected, atol=1e-5)


@compiles
def test_an_error_of_the_models_own_is_no_operators(failing: Any, eager_runs: list[Any]) -> None:
    failing(KeyError("of the model"))
    with pytest.raises(KeyError, match="of the model"):
        scored(MODELS["functional"]())
    assert not eager_runs


@pytest.mark.parametrize("forward", [True, False])
def test_memory_that_runs_out_in_an_eager_pass_is_told_as_well(forward: bool) -> None:
    @tf.custom_gradient
    def exhausting(values: Any) -> Any:
        def exhaust(upstream: Any) -> Any:
            raise EXHAUSTED

        return (exhaust(values) if forward else values), exhaust

    model = keras.Sequential(
        [keras.Input((8, 8, 3)), kl.Conv2D(2, 3, name="map"), kl.Lambda(lambda x: x), *head()],
        name="greedy",
    )
    model.layers[1].function = exhausting
    with pytest.raises(MemoryError, match="'greedy' ran; pass a smaller batch_size"):
        record(model, make_doc(), [0], model.get_layer("map"))


def test_a_layer_without_gradient_is_no_reason_to_speak_of_traces(
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = Chain([kl.Conv2D(2, 3, name="conv"), Stopped(), kl.GlobalAveragePooling2D()])
    docs = np.concatenate([make_doc(seed=seed) for seed in range(6)])
    model(docs)
    asked = {"layer": "conv", "method": "eigen-cam"}
    with caplog.at_level("INFO", logger="kerasight"):
        found = list(kerasight.explain_predictions(model, docs, **asked))
    assert len(found) == 6
    assert not caplog.records


class Stopped(kl.Layer):
    """Lets no gradient through."""

    def call(self, inputs: Any) -> Any:
        return keras.ops.stop_gradient(inputs)
