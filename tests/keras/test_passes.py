from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as kl
from tiny_models import MODELS, Chain, backbone, doc_for, head, make_doc, scores_of, state_of

import kerasight
from kerasight.keras import passes
from kerasight.keras.anatomy import Anatomy
from kerasight.keras.record import record, record_batch, scorer
from kerasight.keras.targets import Classes
from kerasight.keras.traces import WORTH_A_TRACE


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


def test_scores_of_many_are_those_of_the_model_one_by_one(name: str) -> None:
    model, doc = MODELS[name](), doc_for(name)
    scores_of(model, doc)  # builds it
    before = state_of(model)
    docs = np.concatenate([doc, doc**2, -doc])
    found = scorer(model, docs)(docs)
    np.testing.assert_allclose(
        found, [scores_of(model, docs[i : i + 1]) for i in range(3)], rtol=1e-5, atol=1e-6
    )
    assert state_of(model) == before


def normalised() -> keras.Model:
    """Scores are the means of two channels, normalised to mean 0 and variance 1 of the past."""
    model = keras.Sequential(
        [
            keras.Input((4, 4, 2)),
            kl.BatchNormalization(epsilon=0, name="norm"),
            kl.GlobalAveragePooling2D(),
        ]
    )
    model.set_weights(np.float32([[1, 1], [0, 0], [3, 0], [4, 1]]))  # times, plus; mean, variance
    return model


def test_scores_of_many_are_with_the_weights_of_when_they_were_first_asked_for() -> None:
    model, doc = normalised(), np.full((1, 4, 4, 2), 5, np.float32)
    score = scorer(model, doc)
    np.testing.assert_allclose(score(doc), [[1, 5]])
    model.set_weights(np.float32([[1, 1], [0, 0], [1, 0], [4, 25]]))
    np.testing.assert_allclose(score(doc), [[1, 5]])
    np.testing.assert_allclose(scorer(model, doc)(doc), [[2, 1]])


def test_of_a_large_model_no_copy_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passes, "_MOST_WEIGHTS", 31)
    model, doc = normalised(), np.full((1, 4, 4, 2), 5, np.float32)
    score = scorer(model, doc)
    model.set_weights(np.float32([[1, 1], [0, 0], [1, 0], [4, 25]]))
    np.testing.assert_allclose(score(doc), [[2, 1]])


def test_what_cannot_be_compiled_is_scored_all_the_same() -> None:
    class Eager(kl.Layer):
        def call(self, inputs: Any) -> Any:
            return keras.ops.convert_to_tensor(np.asarray(inputs) * 2)

    model = Chain([Eager(), kl.GlobalAveragePooling2D()], name="eager")
    doc = np.full((1, 4, 4, 2), 5, np.float32)
    scores_of(model, doc)
    np.testing.assert_allclose(scorer(model, doc)(doc), [[10, 10]])


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
