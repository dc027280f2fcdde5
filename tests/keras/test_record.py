from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as kl
from tiny_models import MODELS, Chain, Shift, backbone, doc_for, head, make_doc, scores_of, state_of

from kerasight.cam.layout import CHANNELS_FIRST
from kerasight.keras import passes
from kerasight.keras.anatomy import Anatomy
from kerasight.keras.record import record, scorer


@pytest.fixture(params=list(MODELS))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def disturbed(model: keras.Model, doc: np.ndarray, shift: Shift, target: int, by: Any) -> float:
    shift.disturbance = by
    try:
        return float(scores_of(model, doc)[target])
    finally:
        shift.disturbance = np.zeros(())


@pytest.mark.usefixtures("_float64")
def test_gradients_are_those_of_central_finite_differences(name: str) -> None:
    model, doc = MODELS[name](), doc_for(name).astype(np.float64)
    scores_of(model, doc)  # builds it
    shift = Anatomy(model).find("seen")
    found = record(model, doc, [0], shift)
    assert found.gradients.dtype == np.float64
    assert found.gradients.shape == found.activations.shape
    if name == "shared":
        # The last call alone is explained; a disturbance of the layer is one of both calls. The
        # left half reaches the score with the opposite sign of the right.
        first = record_first_call(model, doc, shift)
        total = found.gradients + first
    else:
        total = found.gradients
    is_first = Anatomy(model).layout_of(shift) == CHANNELS_FIRST
    step = 1e-5
    rng = np.random.default_rng(1)
    for _ in range(12):
        place = tuple(int(rng.integers(size)) for size in found.gradients.shape)
        bump = np.zeros(found.gradients.shape)
        bump[place] = step
        bump = (np.moveaxis(bump, -1, 0) if is_first else bump)[np.newaxis]
        difference = disturbed(model, doc, shift, 0, bump) - disturbed(model, doc, shift, 0, -bump)
        np.testing.assert_allclose(total[place], difference / (2 * step), rtol=1e-6, atol=1e-10)


def record_first_call(model: keras.Model, doc: np.ndarray, shift: Shift) -> np.ndarray:
    """Gradients for the first of two calls, by differences in all cells."""
    shape = record(model, doc, [0], shift).gradients.shape
    gradients, step = np.zeros(shape), 1e-5
    calls = [0]

    own = shift.call

    def call(inputs: Any) -> Any:
        calls[0] += 1
        return own(inputs) if calls[0] == 1 else inputs

    vars(shift)["call"] = call
    try:
        for place in np.ndindex(*shape):
            bump = np.zeros((1, *shape))
            bump[(0, *place)] = step
            values = []
            for by in (bump, -bump):
                calls[0] = 0
                values.append(disturbed(model, doc, shift, 0, by))
            gradients[place] = (values[0] - values[1]) / (2 * step)
    finally:
        del vars(shift)["call"]
    return gradients


def test_activations_and_scores_are_the_models_own(name: str) -> None:
    model, doc = MODELS[name](), doc_for(name)
    scores = scores_of(model, doc)
    found = record(model, doc, None, Anatomy(model).find("squash" if name == "shared" else "seen"))
    np.testing.assert_allclose(found.scores, scores, atol=1e-6)
    assert found.target == scores.argmax()
    assert found.score == pytest.approx(float(scores.max()), abs=1e-6)
    assert found.activations.ndim == 3


@pytest.mark.parametrize("layer", [None, "seen"])
def test_the_model_is_left_as_it_was(name: str, layer: str | None) -> None:
    model, doc = MODELS[name](), doc_for(name)
    scores_of(model, doc)
    before = state_of(model)
    record(model, doc, [0], None if layer is None else Anatomy(model).find(layer))
    assert state_of(model) == before


@pytest.mark.parametrize("layer", [None, "scores", "pool"])
def test_the_model_is_left_as_it_was_by_a_call_that_fails(layer: str | None) -> None:
    model = MODELS["functional in sequential in sequential"]()
    scores_of(model, make_doc())
    before = state_of(model)
    with pytest.raises(ValueError, match=r"out of range|spatial"):
        record(model, make_doc(), [3 if layer is None else 0], layer and model.get_layer(layer))
    assert state_of(model) == before


def test_one_call_runs_the_model_once_and_builds_no_model(name: str) -> None:
    model, doc = MODELS[name](), doc_for(name)
    scores_of(model, doc)
    shift, runs = Anatomy(model).find("seen"), []
    own = shift.call
    vars(shift)["call"] = lambda inputs: runs.append(1) or own(inputs)
    nodes = len(shift._inbound_nodes)
    for layer in (None, shift):
        runs.clear()
        record(model, doc, None, layer)
        assert len(runs) == (2 if name == "shared" else 1)
    assert len(shift._inbound_nodes) == nodes


def test_the_chosen_layer_is_the_last_with_a_map(name: str) -> None:
    model, doc = MODELS[name](), doc_for(name)
    expected = {
        # The sum of two branches, which goes into a dropout, is no layer's output.
        "subclassed, training argument": "drop:input",
        "channels first": "squash",
        # The last layer of all has a map, but only the second output depends on it.
        "two outputs": "backbone/squash",
    }.get(name, "mix")
    assert record(model, doc).path.endswith(expected)


def test_a_layer_that_only_the_run_shows_to_have_one_cell_is_not_chosen() -> None:
    inputs = keras.Input((None, None, 3))
    x = kl.Conv2D(4, 3, padding="same", name="map")(inputs)
    x = kl.Conv2D(5, 8, activation="sigmoid", name="cell")(x)
    model = keras.Model(inputs, kl.Dense(2)(kl.GlobalAveragePooling2D()(x)))
    found = record(model, make_doc())
    assert found.layer.name == "map"
    wanted = record(model, make_doc(), [found.target], model.get_layer("map"))
    np.testing.assert_array_equal(found.gradients, wanted.gradients)
    assert record(model, make_doc((1, 9, 9, 3))).layer.name == "cell"


def test_a_model_whose_last_layer_is_a_model_is_explained_at_the_layer_inside() -> None:
    model = keras.Sequential(
        [keras.Input((8, 8, 3)), backbone(), kl.GlobalAveragePooling2D(), kl.Dense(2)]
    )
    assert Anatomy(model).path_of(record(model, make_doc()).layer) == "backbone/squash"


def test_what_runs_inside_an_attention_is_found_by_its_path() -> None:
    inputs = keras.Input((16, 16, 3))
    x = kl.Conv2D(8, 4, strides=4, name="patches")(inputs)
    x = kl.Reshape((16, 8))(x)
    x = kl.MultiHeadAttention(2, 4, name="attention")(x, x)
    model = keras.Model(inputs, kl.Dense(2)(kl.GlobalAveragePooling1D()(x)))
    model(make_doc((1, 16, 16, 3)))
    assert any(path.startswith("attention/") for path, _ in Anatomy(model).layers)


def test_a_custom_layer_that_goes_on_after_its_layers_is_explained_itself() -> None:
    class Residual(kl.Layer):
        def __init__(self, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            self.conv = kl.Conv2D(3, 3, padding="same", name="conv")

        def call(self, inputs: Any) -> Any:
            return inputs + self.conv(inputs)

    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            Residual(name="residual"),
            kl.GlobalAveragePooling2D(),
            kl.Dense(2),
        ]
    )
    assert Anatomy(model).path_of(record(model, make_doc()).layer) == "residual"


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


def test_channels_first_maps_come_channels_last() -> None:
    model, doc = MODELS["channels first"](), doc_for("channels first")
    found = record(model, doc, [0], model.get_layer("shrink"))
    assert found.activations.shape == (4, 4, 3)
    pooled = doc[0].reshape(3, 4, 2, 4, 2).mean((2, 4))
    np.testing.assert_allclose(found.activations, np.moveaxis(pooled, 0, -1), atol=1e-6)


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


def test_a_layer_of_another_model_is_refused() -> None:
    model, other = MODELS["functional"](), MODELS["functional"]()
    with pytest.raises(ValueError, match="not in model 'functional'"):
        record(model, make_doc(), None, other.get_layer("conv"))


def test_a_layer_that_is_never_reached_is_refused() -> None:
    class Spare(Chain):
        def __init__(self) -> None:
            super().__init__([backbone(), *head()], name="chain")
            self.spare = backbone(name="spare")

    model = Spare()
    with pytest.raises(ValueError, match="'spare/conv' is never reached"):
        record(model, make_doc(), None, model.spare.get_layer("conv"))


def test_a_layer_the_score_does_not_depend_on_is_refused() -> None:
    model = MODELS["two outputs"]()
    with pytest.raises(ValueError, match="'last_of_all' has no gradient"):
        record(model, make_doc(), None, model.get_layer("last_of_all"))


@pytest.mark.parametrize("layer", ["pool", "scores"])
def test_a_layer_without_spatial_axes_is_refused(layer: str) -> None:
    model = MODELS["functional"]()
    with pytest.raises(ValueError, match=f"'{layer}' has no spatial axes"):
        record(model, make_doc(), None, model.get_layer(layer))


def test_a_map_of_one_cell_is_refused_and_not_chosen() -> None:
    inputs = keras.Input((8, 8, 3))
    x = kl.Conv2D(4, 3, name="map")(inputs)
    x = kl.GlobalAveragePooling2D(keepdims=True, name="cell")(x)
    x = kl.Conv2D(3, 1, name="conv_preds")(x)
    model = keras.Model(inputs, kl.Softmax()(kl.Flatten()(x)))
    assert record(model, make_doc()).layer.name == "map"
    with pytest.raises(ValueError, match="'conv_preds' has a map of one cell"):
        record(model, make_doc(), None, model.get_layer("conv_preds"))


def test_a_layer_with_several_outputs_is_refused() -> None:
    class Two(kl.Layer):
        def call(self, inputs: Any) -> Any:
            return inputs, 2 * inputs

    inputs = keras.Input((8, 8, 3))
    one, two = Two(name="two")(kl.Conv2D(4, 3, name="conv")(inputs))
    model = keras.Model(inputs, kl.Dense(2)(kl.GlobalAveragePooling2D(name="pool")(one + two)))
    with pytest.raises(ValueError, match="no single float tensor"):
        record(model, make_doc(), None, model.get_layer("two"))
    # What the pooling takes, which is no layer's output.
    assert record(model, make_doc()).path == "pool:input"


def test_a_model_with_no_map_is_refused() -> None:
    model = keras.Sequential([keras.Input((8, 8, 3)), kl.Flatten(), kl.Dense(3)], name="flat")
    with pytest.raises(ValueError, match="no layer of model 'flat' is suitable"):
        record(model, make_doc())


def test_nan_is_refused_naming_the_layer() -> None:
    model = MODELS["functional"]()
    weights = model.get_layer("deeper").get_weights()
    model.get_layer("deeper").set_weights([weights[0] * np.nan, weights[1]])
    with pytest.raises(ValueError, match="NaN or infinity in the output of layer 'mix'"):
        record(model, make_doc(), [0])
    with pytest.raises(ValueError, match="NaN or infinity in the gradient of layer 'seen'"):
        record(model, make_doc(), [0], model.get_layer("seen"))


def test_an_output_that_is_no_class_scores_is_refused() -> None:
    model = keras.Sequential([keras.Input((8, 8, 3)), kl.Conv2D(2, 3)], name="segments")
    with pytest.raises(ValueError, match=r"class scores of shape \(1, classes\).*\(1, 6, 6, 2\)"):
        record(model, make_doc())


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
        (lambda scores: tf.cast(tf.constant("a"), tf.float32), tf.errors.UnimplementedError, ""),
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


@pytest.mark.parametrize(
    ("targets", "error"),
    [
        (0, TypeError),
        ((0,), TypeError),
        (np.array([0]), TypeError),
        ("0", TypeError),
        ([], ValueError),
        ([0, 1], ValueError),
        (["0"], TypeError),
        ([0.0], TypeError),
        ([True], TypeError),
        ([None], TypeError),
        ([-1], ValueError),
        ([3], ValueError),
    ],
)
def test_targets_that_are_no_list_of_one_class_are_refused(
    targets: Any, error: type[Exception]
) -> None:
    with pytest.raises(error, match="target"):
        record(MODELS["functional"](), make_doc(), targets)


def test_numpy_integers_are_integers() -> None:
    assert record(MODELS["functional"](), make_doc(), [np.int64(2)]).target == 2
    assert type(record(MODELS["functional"](), make_doc(), [np.uint8(2)]).target) is int


def test_other_backends_of_keras_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keras.config, "backend", lambda: "jax")
    with pytest.raises(NotImplementedError, match="KERAS_BACKEND=tensorflow"):
        record(MODELS["functional"](), make_doc())


# Scores of many inputs


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
