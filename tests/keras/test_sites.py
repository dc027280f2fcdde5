from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from frameworks import on_tensorflow
from keras import layers as kl
from keras import ops
from tiny_models import MODELS, Chain, make_doc

import kerasight
from kerasight.cam.layout import CHANNELS_LAST
from kerasight.cam.request import Request
from kerasight.keras import sites
from kerasight.keras.anatomy import Anatomy
from kerasight.keras.explainer import Explainer
from kerasight.keras.record import record
from kerasight.keras.run import Call
from kerasight.keras.targets import Classes

# How often a model is explained until the pass is compiled, and once more.
OFTEN = 7


def explained(model: keras.Model, doc: np.ndarray, **asked: Any) -> kerasight.TargetExplanation:
    """The explanation of class 0, the same one each time, also once the pass is compiled."""
    each = [
        kerasight.explain_prediction(model, doc, targets=[0], **asked).targets[0]
        for _ in range(OFTEN)
    ]
    for one in each[1:]:
        np.testing.assert_allclose(one.heatmap, each[0].heatmap, atol=1e-5)
    return each[0]


def choose(calls: list[tuple[kl.Layer, tuple[int, ...]]]) -> list[int]:
    """The positions to explain among outputs each made of the one before."""
    model = Chain([layer for layer, _ in calls], name="chain")
    made = [
        Call(layer, 0, shape, sources=(position - 1 if position else None,))
        for position, (layer, shape) in enumerate(calls)
    ]
    return list(sites.Choice(Anatomy(model), None).positions(made, docs=1))


def test_the_last_map_is_chosen_first() -> None:
    conv, relu, pool = kl.Conv2D(2, 1), kl.ReLU(), kl.GlobalAveragePooling2D()
    shape = (1, 4, 4, 2)
    assert choose([(conv, shape), (relu, shape), (pool, (1, 2))]) == [1, 0]


def test_maps_before_the_one_that_is_explained_are_not_looked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[str] = []
    layout = sites.Choice.layout

    def noting(choice: sites.Choice, calls: Any, position: int) -> Any:
        asked.append(calls[position].layer.name)
        return layout(choice, calls, position)

    monkeypatch.setattr(sites.Choice, "layout", noting)
    early, late = kl.Activation("tanh", name="early"), kl.Conv2D(2, 1, name="late")
    head = [kl.GlobalAveragePooling2D(), kl.Dense(2)]
    model = keras.Sequential([keras.Input((4, 4, 3)), early, late, *head])
    model.set_weights([np.ones_like(weight) for weight in model.get_weights()])
    explained = kerasight.explain_prediction(model, make_doc((1, 4, 4, 3)))
    assert explained.layer == "late"
    assert set(asked) == {"late"}


def test_maps_of_one_cell_are_not_chosen() -> None:
    conv = kl.Conv2D(2, 1)
    assert choose([(conv, (1, 4, 4, 2)), (kl.ReLU(), (1, 1, 1, 2))]) == [0]
    assert choose([(conv, (1, 1, 4, 2))]) == [0]
    first = kl.Conv2D(2, 1, data_format="channels_first")
    assert choose([(first, (1, 2, 1, 1))]) == []
    assert choose([(first, (1, 1, 4, 4))]) == [0]


def test_layers_that_drop_out_or_augment_are_not_chosen() -> None:
    shape = (1, 4, 4, 2)
    calls = [
        (kl.Conv2D(2, 1), shape),
        (kl.Dropout(0.5), shape),
        (kl.SpatialDropout2D(0.5), shape),
        (kl.GaussianNoise(0.1), shape),
        (kl.RandomFlip(), shape),
        (keras.Sequential([kl.RandomFlip(), kl.RandomZoom(0.1)]), shape),
    ]
    assert choose(calls) == [0]


def test_outputs_that_are_no_tensor_are_not_chosen() -> None:
    assert choose([(kl.Conv2D(2, 1), (1, 4, 4, 2)), (kl.ReLU(), ())]) == [0]


def test_a_layer_of_weights_is_chosen_whatever_its_name() -> None:
    class ResidualDropoutBlock(kl.Layer):
        def __init__(self, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            self.conv = kl.Conv2D(3, 3, padding="same", name="conv")

        def call(self, inputs: Any) -> Any:
            return inputs + self.conv(inputs)

    block = ResidualDropoutBlock(name="block")
    model = keras.Sequential(
        [keras.Input((8, 8, 3)), block, kl.GlobalAveragePooling2D(), kl.Dense(2)]
    )
    assert record(model, make_doc()).path == "block"


# A site


def test_the_name_of_a_site_finds_it_again() -> None:
    anatomy = Anatomy(MODELS["functional in sequential in sequential"]())
    for name, at_input in (("middle/backbone/conv", False), ("middle/backbone/conv:input", True)):
        site = sites.find_site(anatomy, name)
        assert (site.layer.name, site.at_input) == ("conv", at_input)
        assert site.path(anatomy) == name
        assert sites.find_site(anatomy, site) is site
    with pytest.raises(ValueError, match="no layer 'nowhere'"):
        sites.find_site(anatomy, "nowhere:input")


# What no layer put out


def summed(weight: float) -> keras.Model:
    """``a + weight * b`` of two convolutions, pooled: one class sums up its channels."""
    inputs = keras.Input((4, 4, 1))
    trunk = kl.Conv2D(2, 1, use_bias=False, name="trunk")(inputs)
    branch = kl.Conv2D(2, 1, use_bias=False, name="branch")(trunk)
    pooled = kl.GlobalAveragePooling2D(name="pool")(trunk + weight * branch)
    model = keras.Model(inputs, kl.Dense(1, use_bias=False)(pooled))
    model.get_layer("trunk").set_weights([np.array([1.0, 2.0]).reshape(1, 1, 1, 2)])
    model.get_layer("branch").set_weights([-np.eye(2).reshape(1, 1, 2, 2)])
    model.layers[-1].set_weights([np.ones((2, 1))])
    return model


def test_a_sum_that_is_no_layers_output_is_explained_where_it_goes_in() -> None:
    model, doc = summed(1e-6), make_doc((1, 4, 4, 1))
    found = record(model, doc, [0])
    assert found.path == "pool:input"
    # By hand: trunk is (x, 2x), branch is (-x, -2x).
    np.testing.assert_allclose(found.activations, doc[0] * [1.0, 2.0] * (1 - 1e-6), rtol=1e-6)
    np.testing.assert_allclose(found.gradients, np.full((4, 4, 2), 1 / 16), rtol=1e-6)
    target = explained(model, doc)
    np.testing.assert_allclose(target.heatmap, doc[0, ..., 0] / doc.max(), atol=1e-6)
    named = explained(model, doc, layer="pool:input")
    np.testing.assert_allclose(named.heatmap, target.heatmap, atol=1e-6)


def test_a_sum_is_explained_in_a_subclassed_model_too() -> None:
    class Net(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.trunk = kl.Conv2D(3, 3, padding="same", name="trunk")
            self.branch = kl.Conv2D(3, 3, padding="same", name="branch")
            self.head = keras.Sequential([kl.Flatten(name="flat"), kl.Dense(2)], name="head")

        def call(self, inputs: Any) -> Any:
            x = self.trunk(inputs)
            return self.head(x + self.branch(x))

    model = Net()
    model(make_doc())
    assert kerasight.explain_prediction(model, make_doc()).layer == "head:input"
    explained(model, make_doc())


@pytest.mark.parametrize("method", ["grad-cam", "ablation-cam", "score-cam", "layercam"])
def test_every_kind_of_method_works_where_a_sum_goes_in(method: str) -> None:
    model, doc = summed(0.5), make_doc((1, 4, 4, 1))
    heatmap = explained(model, doc, method=method).heatmap
    assert heatmap.shape == (4, 4)
    # What a place adds to the score is proportional to the pixel.
    if method != "score-cam":
        np.testing.assert_allclose(heatmap, doc[0, ..., 0] / doc.max(), atol=1e-5)


def test_all_that_is_made_of_a_sum_counts() -> None:
    """Two poolings take the sum; the gradient is that of both, eager and compiled."""
    inputs = keras.Input((2, 2, 1))
    x = kl.Conv2D(1, 1, use_bias=False)(inputs)
    x = x + 1.0
    both = kl.Concatenate()([kl.GlobalAveragePooling2D()(x), kl.Flatten()(x), ops.mean(x, (1, 2))])
    model = keras.Model(inputs, kl.Dense(1, use_bias=False)(both))
    model.layers[-1].set_weights([np.array([[4.0], [1.0], [2.0], [3.0], [4.0], [8.0]])])
    doc = make_doc((1, 2, 2, 1))
    for _ in range(OFTEN):
        gradients = record(model, doc, [0]).gradients
        np.testing.assert_allclose(gradients[..., 0], [[4.0, 5.0], [6.0, 7.0]], rtol=1e-6)


def test_what_only_was_cast_is_that_layers_output() -> None:
    inputs = keras.Input((8, 8, 3))
    x = kl.Conv2D(4, 3, name="conv", dtype="mixed_float16")(inputs)
    x = kl.ReLU(name="relu", dtype="mixed_float16")(x)
    pooled = kl.GlobalAveragePooling2D(dtype="float32")(x)
    model = keras.Model(inputs, kl.Dense(2, dtype="float32")(pooled))
    assert record(model, make_doc()).path == "relu"


# One layer, several calls


class OneReLU(keras.Model):
    """As people write who come from PyTorch: one activation for maps and for vectors."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = kl.Conv2D(4, 3), kl.Conv2D(4, 3)
        self.act = kl.ReLU(name="act")
        self.hidden, self.scores = kl.Dense(8), kl.Dense(3)

    def call(self, inputs: Any) -> Any:
        x = self.act(self.second(self.act(self.first(inputs))))
        return self.scores(self.act(self.hidden(ops.mean(x, (1, 2)))))


@pytest.mark.filterwarnings("ignore::kerasight.base.HeatmapWarning")  # its weights are random
@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"layer": "act"},
        {"smooth": 3},
        {"method": "ablation-cam"},
        {"method": "score-cam"},
        {"top_targets": 2, "targets": None},
    ],
    ids=str,
)
def test_of_an_activation_used_for_maps_and_vectors_the_last_map_is_explained(
    asked: dict[str, Any],
) -> None:
    model, doc = OneReLU(), make_doc()
    model(doc)
    asked = {"targets": [0], **asked}
    each = [kerasight.explain_prediction(model, doc, **asked) for _ in range(OFTEN)]
    for one in each:
        assert one.layer == "act"
        assert one.targets[0].heatmap.shape == (4, 4)
        np.testing.assert_allclose(one.targets[0].heatmap, each[0].targets[0].heatmap, atol=1e-5)
    x = model.act(model.second(model.act(model.first(doc))))
    x = keras.ops.convert_to_numpy(x)
    np.testing.assert_allclose(record(model, doc, [0]).activations, x[0], atol=1e-6)


@pytest.mark.parametrize("layer", [None, "act"])
def test_a_stream_of_docs_is_explained_where_one_doc_is(layer: str | None) -> None:
    model, docs = OneReLU(), np.concatenate([make_doc()] * 12)
    model(docs)
    each = list(kerasight.explain_predictions(model, docs, layer=layer))
    assert {one.targets[0].heatmap.shape for one in each} == {(4, 4)}


def test_one_activation_for_a_map_and_a_map_of_one_cell() -> None:
    act = kl.ReLU(name="act")
    inputs = keras.Input((8, 8, 3))
    x = act(kl.Conv2D(4, 3)(inputs))
    cell = act(kl.Conv2D(4, 1)(kl.GlobalAveragePooling2D(keepdims=True)(x)))
    model = keras.Model(inputs, kl.Dense(3)(kl.Flatten()(cell)))
    assert explained(model, make_doc()).heatmap.shape == (6, 6)
    assert explained(model, make_doc(), layer="act").heatmap.shape == (6, 6)


def test_a_last_call_of_which_the_score_knows_nothing_is_passed_over() -> None:
    conv, pool = kl.Conv2D(3, 1, use_bias=False, name="conv"), kl.GlobalAveragePooling2D()
    inputs = keras.Input((4, 4, 3))
    x = conv(inputs)
    outputs = [kl.Dense(2)(pool(x)), kl.Dense(2)(pool(conv(x)))]
    model = keras.Model(inputs, outputs)
    doc = make_doc((1, 4, 4, 3))
    for method in ("grad-cam", "ablation-cam"):
        explainer = Explainer(model, Request.of({"method": method}), layer="conv")
        look = explainer.look(doc, Classes(np.array([[0]])))
        assert np.abs(look.heatmaps()[0].evidence).max() > 0
        seen = look.records[0].activations
        np.testing.assert_allclose(seen[0], keras.ops.convert_to_numpy(conv(doc))[0], atol=1e-6)


# Rows


def test_several_views_on_the_batch_axis_are_passed_over_or_said() -> None:
    class Views(kl.Layer):
        def call(self, inputs: Any) -> Any:
            return ops.concatenate([inputs, ops.flip(inputs, axis=2)])

    class Mean(kl.Layer):
        def call(self, inputs: Any) -> Any:
            return ops.mean(inputs, axis=0, keepdims=True)

    conv = kl.Conv2D(4, 3, name="conv")
    tail = [Views(), conv, kl.GlobalAveragePooling2D(), kl.Dense(3), Mean()]
    model = Chain([kl.Conv2D(3, 1, name="stem"), *tail], name="views")
    assert record(model, make_doc()).path == "stem"
    with pytest.raises(ValueError, match=r"2 rows.* for 1 doc"):
        record(model, make_doc(), None, conv)
    with pytest.raises(ValueError, match=r"no layer .* is suitable: an output of 2 rows"):
        record(Chain(tail, name="views"), make_doc())


# Layouts


def test_a_map_is_laid_out_as_the_layer_that_takes_it_says() -> None:
    """Channels first between two transpositions that are operations."""
    inputs = keras.Input((12, 20, 3))
    x = kl.Conv2D(5, 3, data_format="channels_first", padding="same", name="conv")(
        ops.transpose(inputs, (0, 3, 1, 2))
    )
    x = kl.ReLU(name="relu")(ops.transpose(x, (0, 2, 3, 1)))
    x = kl.Dropout(0.5)(x)
    model = keras.Model(inputs, kl.Dense(3)(kl.GlobalAveragePooling2D()(x)))
    choice, calls = sites.Choice(Anatomy(model), None), calls_of_run(model)
    assert choice.layout(calls, len(calls) - 1) == CHANNELS_LAST


def calls_of_run(model: keras.Model) -> list[Call]:
    """The calls of the model above as far as the map goes, written out by hand."""
    conv, relu = model.get_layer("conv"), model.get_layer("relu")
    pool = next(one for one in model.layers if isinstance(one, kl.GlobalAveragePooling2D))
    return [
        Call(pool, 0, (1, 5), sources=(1,)),
        Call(relu, 0, (1, 12, 20, 5), sources=(None,)),
        Call(conv, 0, (1, 5, 12, 20), sources=(None,)),
    ][::-1]


# Tokens


def patches(name: str = "patches") -> kl.Layer:
    return kl.Conv2D(8, 4, strides=4, name=name)


class Heads(kl.Layer):
    """Attention of two heads, spelled out in operations and a softmax layer."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.qkv, self.soft, self.out = kl.Dense(24), kl.Softmax(name="soft"), kl.Dense(8)

    def call(self, x: Any) -> Any:
        q, k, v = (
            ops.transpose(ops.reshape(one, (-1, 16, 2, 4)), (0, 2, 1, 3))
            for one in ops.split(self.qkv(x), 3, -1)
        )
        weights = self.soft(ops.matmul(q, ops.transpose(k, (0, 1, 3, 2))))
        mixed = ops.transpose(ops.matmul(weights, v), (0, 2, 1, 3))
        return self.out(ops.reshape(mixed, (-1, 16, 8)))


def attention(x: Any) -> Any:
    return kl.MultiHeadAttention(2, 4)(x, x)


def heads(x: Any) -> Any:
    return Heads(name="heads")(x)


def spelled_out(x: Any) -> Any:
    """Attention of one's own in layers and operations at the top level of a model."""
    q, k, v = (kl.Permute((2, 1, 3))(kl.Reshape((16, 2, 4))(kl.Dense(8)(x))) for _ in range(3))
    weights = kl.Softmax()(ops.matmul(q, ops.transpose(k, (0, 1, 3, 2))))
    return kl.Dense(8)(kl.Reshape((16, 8))(kl.Permute((2, 1, 3))(ops.matmul(weights, v))))


def mixer(x: Any) -> Any:
    return kl.Permute((2, 1))(kl.Dense(16)(kl.Permute((2, 1))(x)))


@pytest.mark.parametrize("mix", [attention, heads, spelled_out, mixer])
@pytest.mark.parametrize("cls", [False, True])
def test_where_tokens_are_mixed_they_are_explained_and_not_the_map_before(
    mix: Any, cls: bool
) -> None:
    inputs = keras.Input((16, 16, 3))
    tokens = kl.Reshape((16, 8), name="tokens")(patches()(inputs))
    x = kl.LayerNormalization(name="norm")(kl.Add()([tokens, mix(tokens)]))
    x = x[:, 0] if cls else kl.GlobalAveragePooling1D()(x)
    model = keras.Model(inputs, kl.Dense(3)(x), name="vit")
    doc = make_doc((1, 16, 16, 3))
    assert explained(model, doc, relu=False).heatmap.shape == (4, 4)
    # Of the last tokens, the first alone reaches the score where that is read at the first.
    path = kerasight.explain_prediction(model, doc, targets=[0], relu=False).layer
    assert path == ("tokens" if cls else "norm")
    # Who wants to see the map before them says so.
    assert explained(model, doc, layer="patches", relu=False).heatmap.shape == (4, 4)


def pooled_by_attention(x: Any) -> Any:
    weights = kl.Softmax(axis=1)(kl.Dense(1)(kl.Dense(4, activation="tanh")(x)))
    return kl.GlobalAveragePooling1D()(kl.Multiply()([x, weights]))


@pytest.mark.parametrize(
    "head",
    [
        lambda x: kl.GlobalAveragePooling1D()(kl.Dense(8, activation="relu")(x)),
        lambda x: kl.LSTM(4)(x),
        lambda x: kl.GlobalMaxPooling1D()(kl.Conv1D(4, 3)(x)),
        pooled_by_attention,
    ],
    ids=["each token alone", "recurrent", "signal", "weighed"],
)
def test_maps_whose_tokens_are_not_mixed_by_attention_are_explained(head: Any) -> None:
    inputs = keras.Input((16, 16, 3))
    x = kl.Reshape((16, 8))(patches()(inputs))
    model = keras.Model(inputs, kl.Dense(3)(head(x)))
    assert record(model, make_doc((1, 16, 16, 3))).path == "patches"


def test_tokens_made_of_the_pooled_map_are_none_of_the_picture() -> None:
    inputs = keras.Input((16, 16, 3))
    x = kl.RepeatVector(5)(kl.GlobalAveragePooling2D()(patches()(inputs)))
    x = kl.GlobalAveragePooling1D()(kl.MultiHeadAttention(2, 4)(x, x))
    model = keras.Model(inputs, kl.Dense(3)(x))
    assert record(model, make_doc((1, 16, 16, 3))).path == "patches"


def test_a_map_made_of_mixed_tokens_is_explained() -> None:
    inputs = keras.Input((16, 16, 3))
    x = attention(kl.Reshape((16, 8))(patches()(inputs)))
    x = kl.Conv2D(8, 3, name="after")(ops.reshape(x, (-1, 4, 4, 8)))
    model = keras.Model(inputs, kl.Dense(3)(kl.GlobalAveragePooling2D()(x)))
    assert record(model, make_doc((1, 16, 16, 3))).path == "after"


def test_a_map_that_tokens_are_put_into_is_explained() -> None:
    inputs = keras.Input((16, 16, 3))
    x = attention(kl.Reshape((16, 8))(patches()(inputs)))
    x = kl.Reshape((16, 8))(kl.Reshape((4, 4, 8), name="map")(x))
    model = keras.Model(inputs, kl.Dense(3)(kl.GlobalAveragePooling1D()(x)))
    assert record(model, make_doc((1, 16, 16, 3))).path == "map"


def test_the_step_of_a_time_distributed_layer_is_not_taken_for_the_picture() -> None:
    inputs = keras.Input((8, 16, 3))
    x = kl.Conv2D(3, 1, name="whole")(inputs)
    x = kl.Permute((2, 1, 3))(x)
    strips = ops.reshape(x, (-1, 4, 4, 8, 3))
    x = kl.TimeDistributed(kl.Conv2D(4, 3, name="step"))(strips)
    model = keras.Model(inputs, kl.Dense(2)(kl.Flatten()(x)))
    assert "step" not in record(model, make_doc((1, 8, 16, 3))).path


# Rematerialised layers


@pytest.mark.skipif(not hasattr(keras, "RematScope"), reason="of later versions of Keras")
@pytest.mark.parametrize("mode", ["full", "activations"])
def test_rematerialised_layers_are_explained(mode: str) -> None:
    def made() -> keras.Model:
        inputs = keras.Input((8, 8, 3))
        x = kl.Conv2D(4, 3, activation="tanh", name="conv")(inputs)
        x = kl.Conv2D(4, 3, activation="tanh", name="last")(x)
        return keras.Model(inputs, kl.Dense(2)(kl.GlobalAveragePooling2D()(x)))

    with keras.RematScope(mode=mode):
        model = made()
    plain = made()
    plain.set_weights(model.get_weights())
    for layer in (None, "conv"):
        np.testing.assert_allclose(
            explained(model, make_doc(), layer=layer, relu=False).heatmap,
            explained(plain, make_doc(), layer=layer, relu=False).heatmap,
            atol=1e-6,
        )


@pytest.mark.skipif(not hasattr(keras, "remat"), reason="of later versions of Keras")
@on_tensorflow  # on JAX the layer is not seen at all
def test_what_runs_in_a_rematerialised_function_is_said_to() -> None:
    class Net(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.scores = kl.Conv2D(4, 3, name="conv"), kl.Dense(2)

        def call(self, inputs: Any) -> Any:
            return self.scores(ops.mean(keras.remat(self.conv)(inputs), (1, 2)))

    model = Net()
    model(make_doc())
    with pytest.raises(ValueError, match=r"no gradient.*rematerialised.*keras\.remat"):
        kerasight.explain_prediction(model, make_doc())
