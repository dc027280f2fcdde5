from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from keras import layers as kl
from tiny_models import MODELS, Chain, Shift, backbone, doc_for, head, make_doc, scores_of, state_of

from kerasight.base import DocError, RunError
from kerasight.cam.layout import CHANNELS_FIRST
from kerasight.keras.anatomy import Anatomy
from kerasight.keras.record import record, record_batch
from kerasight.keras.record import scores_of as scores_of_many
from kerasight.keras.sites import Site
from kerasight.keras.targets import Classes


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
        # JAX traces a model again, to see all uses of what is no layer's output.
        again = keras.config.backend() == "jax" and name == "subclassed, training argument"
        assert len(runs) == (2 if name == "shared" or (again and layer is None) else 1)
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


def test_channels_first_maps_come_channels_last() -> None:
    model, doc = MODELS["channels first"](), doc_for("channels first")
    found = record(model, doc, [0], model.get_layer("shrink"))
    assert found.activations.shape == (4, 4, 3)
    pooled = doc[0].reshape(3, 4, 2, 4, 2).mean((2, 4))
    np.testing.assert_allclose(found.activations, np.moveaxis(pooled, 0, -1), atol=1e-6)


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


@pytest.mark.parametrize("kind", [tuple, list])
def test_of_a_layer_with_several_outputs_the_first_is_explained(kind: Any) -> None:
    class Two(kl.Layer):
        def call(self, inputs: Any) -> Any:
            return kind([inputs, 2 * inputs])

    inputs = keras.Input((8, 8, 3))
    one, two = Two(name="two")(kl.Conv2D(4, 3, name="conv")(inputs))
    model = keras.Model(inputs, kl.Dense(2)(kl.GlobalAveragePooling2D(name="pool")(one + two)))
    found = record(model, make_doc(), [0], model.get_layer("two"))
    whole = record(model, make_doc(), [0], model.get_layer("conv"))
    np.testing.assert_allclose(found.activations, whole.activations, rtol=1e-6)
    # What is added up is once the first, and twice what the second is made of.
    np.testing.assert_allclose(3 * found.gradients, whole.gradients, rtol=1e-5)
    # What the pooling takes, which is no layer's output.
    assert record(model, make_doc()).path == "pool:input"


def test_a_layer_that_puts_out_no_tensor_of_floats_is_refused() -> None:
    class Where(kl.Layer):
        def call(self, inputs: Any) -> Any:
            return keras.ops.cast(inputs > 0, "int32")

    inputs = keras.Input((8, 8, 3))
    x = keras.ops.cast(Where(name="where")(kl.Conv2D(4, 3)(inputs)), "float32")
    model = keras.Model(inputs, kl.Dense(2)(kl.GlobalAveragePooling2D()(x)))
    with pytest.raises(ValueError, match="no single float tensor"):
        record(model, make_doc(), None, model.get_layer("where"))


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


def test_other_backends_of_keras_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keras.config, "backend", lambda: "openvino")
    with pytest.raises(NotImplementedError, match="KERAS_BACKEND=tensorflow"):
        record(MODELS["functional"](), make_doc())


# Scores of many inputs


def test_scores_in_batches_are_those_of_all_at_once() -> None:
    model = MODELS["functional"]()
    docs = np.concatenate([make_doc(seed=seed) for seed in range(7)])
    whole = scores_of_many(model, docs)
    np.testing.assert_allclose(whole, keras.ops.convert_to_numpy(model(docs)), atol=1e-6)
    for batch_size in (1, 3, 1000):  # eager, then compiled
        np.testing.assert_allclose(
            scores_of_many(model, docs, batch_size=batch_size), whole, atol=1e-6
        )


def test_scores_that_are_no_class_scores_are_refused() -> None:
    with pytest.raises(ValueError, match="must be class scores"):
        scores_of_many(keras.Sequential([kl.Conv2D(2, 1)]), make_doc())


# Errors of one doc, and of the run


class Logarithm(kl.Layer):
    def call(self, inputs: Any) -> Any:
        return keras.ops.log(inputs)


def test_nan_in_one_doc_of_a_batch_is_that_docs_error() -> None:
    model = keras.Sequential(
        [keras.Input((8, 8, 3)), Logarithm(name="log"), kl.GlobalAveragePooling2D(), kl.Dense(2)]
    )
    docs = 1 + np.concatenate([make_doc(seed=seed) for seed in range(2)])
    docs[0, 3, 3] = -1
    anatomy = Anatomy(model)
    found = record_batch(anatomy, anatomy.inputs_of(docs), Classes.top(1))
    with pytest.raises(DocError, match="NaN or infinity in the output of layer 'log'"):
        found.terms(0)
    assert np.isfinite(found.terms(1)[0].gradients).all()


@pytest.mark.parametrize(
    ("name", "layer", "says"),
    [("functional", "pool", "no spatial axes"), ("two outputs", "last_of_all", "no gradient")],
)
def test_what_is_wrong_whatever_the_doc_is_an_error_of_the_run(
    name: str, layer: str, says: str
) -> None:
    model = MODELS[name]()
    anatomy = Anatomy(model)
    docs = anatomy.inputs_of(np.concatenate([make_doc(), make_doc()]))
    with pytest.raises(RunError, match=says):
        record_batch(anatomy, docs, Classes.top(1), Site(model.get_layer(layer)))


def test_both_kinds_of_error_are_value_errors() -> None:
    assert issubclass(DocError, ValueError)
    assert issubclass(RunError, ValueError)
    assert not issubclass(DocError, RunError)
    assert not issubclass(RunError, DocError)
