from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from keras import layers as kl
from keras import ops
from tiny_models import make_doc, scores_of, state_of
from tiny_transformers import CLASSES, TRANSFORMERS, WIDTH, Prefix, patches, scores, siglip, vit

import kerasight
from kerasight.base import RunError
from kerasight.cam.methods import METHODS
from kerasight.cam.request import Request
from kerasight.keras.explainer import Explainer, Look
from kerasight.keras.record import RecordOfBlocks
from kerasight.keras.tap import tapped
from kerasight.keras.targets import Classes

OFTEN = 7
OF_BLOCKS = [name for name, method in METHODS.items() if method.at == "blocks"]

every = pytest.mark.parametrize("method", OF_BLOCKS)
pytestmark = pytest.mark.filterwarnings("ignore::kerasight.base.HeatmapWarning")


class Held(kl.Layer):
    """Attention of two heads of one's own, with a softmax layer for its weights."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.query, self.key, self.value = (
            kl.EinsumDense("btc,chd->bhtd", (2, None, WIDTH // 2)) for _ in range(3)
        )
        self.out = kl.EinsumDense("bhtd,hdc->btc", (None, WIDTH))
        self.weigh = kl.Softmax()

    def call(self, x: Any) -> Any:
        products = ops.matmul(self.query(x), ops.transpose(self.key(x), (0, 1, 3, 2)))
        return self.out(ops.matmul(self.weigh(products), self.value(x)))


def held() -> keras.Model:
    """A class token, and two blocks of attention of one's own."""
    inputs = keras.Input((8, 8, 3))
    x = Prefix(name="prefix")(kl.Reshape((4, WIDTH))(patches()(inputs)))
    for number in range(2):
        y = kl.LayerNormalization(name=f"norm_{number}")(x)
        x = kl.Add(name=f"add_{number}")([x, Held(name=f"attention_{number}")(y)])
    x = kl.LayerNormalization(name="norm")(x)
    return keras.Model(inputs, scores(x[:, 0]), name="held")


def doc_of(model: keras.Model) -> np.ndarray:
    return make_doc((1, *model.input_shape[1:]))


def look_at(
    model: keras.Model, method: str, doc: Any = None, targets: tuple[int, ...] = (1,)
) -> Look:
    explainer = Explainer(model, Request.of({"method": method}))
    return explainer.look(doc_of(model) if doc is None else doc, Classes(np.array([targets])))


def seen_at(model: keras.Model, method: str, doc: Any = None) -> RecordOfBlocks:
    (record,) = look_at(model, method, doc).records
    assert isinstance(record, RecordOfBlocks)
    return record


def explain(model: keras.Model, method: str, doc: Any = None, **asked: Any) -> Any:
    doc = doc_of(model) if doc is None else doc
    return kerasight.explain_prediction(model, doc, method=method, **asked)


def maps_of(expl: Any) -> np.ndarray:
    return np.stack([one.heatmap for one in expl.targets])


# What is seen


def test_weights_are_those_that_a_layer_gives_when_it_is_asked() -> None:
    model = vit()
    seen = seen_at(model, "attention-rollout")
    x = keras.Model(model.input, model.get_layer("prefix").output)(doc_of(model))
    for number, block in enumerate(seen.blocks.attentions if seen.blocks else ()):
        layer = model.get_layer(f"block_{number}")
        y = layer.before(x)
        _, weights = layer.attention(y, y, return_attention_scores=True)
        np.testing.assert_allclose(block, ops.convert_to_numpy(weights), atol=1e-5)
        x = layer(x)


@pytest.mark.usefixtures("_float64")
@pytest.mark.parametrize("method", ["chefer", "legrad"])
def test_gradients_are_those_of_finite_differences(method: str) -> None:
    model = held()
    doc, step, random = doc_of(model).astype(np.float64), 1e-5, np.random.default_rng(0)
    seen = seen_at(model, method, doc)
    assert seen.blocks is not None
    head = model
    for number in range(2):
        layer = model.get_layer(f"attention_{number}").weigh
        if method == "legrad":  # the score of the block's tokens, as if they were the last
            x = model.get_layer("norm")(model.get_layer(f"add_{number}").output)
            head = keras.Model(model.input, model.get_layer("scores")(x[:, 0]))
        for _ in range(4):
            place = tuple(int(random.integers(size)) for size in (2, 5, 5))
            place = (place[0], 0, place[2]) if number or method == "legrad" else place
            change = np.zeros((1, 2, 5, 5))
            change[(0, *place)] = step

            def score(change: np.ndarray, layer: Any = layer, head: Any = head) -> float:
                with tapped([layer], lambda _, output: output + ops.convert_to_tensor(change)):
                    return float(head(doc)[0, 1])

            expected = (score(change) - score(-change)) / (2 * step)
            assert expected
            found = seen.blocks.gradients[number][(0, 0, *place)]
            assert found == pytest.approx(expected, rel=1e-5, abs=1e-9)


def test_maps_worked_out_by_hand() -> None:
    inputs = keras.Input((2, 2, 1))
    x = kl.Reshape((4, 1))(kl.Conv2D(1, 1, use_bias=False)(inputs))
    x = kl.Add()([x, kl.MultiHeadAttention(1, 1, use_bias=False)(x, x)])
    model = keras.Model(inputs, kl.Dense(1, use_bias=False)(kl.GlobalAveragePooling1D()(x)))
    one = np.ones((1, 1, 1))
    # Queries are zero, so that all tokens attend to all alike; values are the tokens.
    model.set_weights([one[None], 0 * one, one, one, one, one[0]])
    doc = np.array([[[[1.0], [2.0]], [[-4.0], [0.0]]]], np.float32)
    # The score is the mean: by A_ij it changes by the j-th token, a quarter of it.
    positive = np.maximum(doc[0, ..., 0], 0)
    for method, expected in (
        ("attention-rollout", np.full((2, 2), 1 / 4)),
        ("chefer", positive / 4 / 4),
        ("beyond-intuition", (1 / 4 + 1 / 4) * positive / 4),
        ("legrad", positive / 4),
    ):
        (heatmap,) = look_at(model, method, doc, (0,)).heatmaps()
        np.testing.assert_allclose(heatmap.evidence, expected, atol=1e-6, err_msg=method)


def test_readers_are_the_tokens_that_reach_the_score() -> None:
    class Two(kl.Layer):
        def call(self, x: Any) -> Any:
            return x[:, 0] + x[:, 1]

    deit = vit(2)
    two = keras.Model(deit.input, scores(Two()(deit.get_layer("norm").output)))
    for model, expected in (
        (vit(), np.eye(17)[0]),
        (vit(head="mean"), np.full(17, 1 / 17)),
        (two, np.eye(18)[0] / 2 + np.eye(18)[1] / 2),
    ):
        for method in ("attention-rollout", "chefer"):
            readers = seen_at(model, method).readers
            np.testing.assert_allclose(readers, expected[None, None], atol=1e-6)


def test_a_learnt_query_reads_what_it_attends_to() -> None:
    model = siglip()
    for method in ("attention-rollout", "chefer"):
        seen = seen_at(model, method)
        assert seen.blocks is not None
        assert seen.blocks.pooling is not None
        assert seen.readers is not None
        assert len(seen.blocks.attentions) == 1
        attention, gradient = seen.blocks.pooling
        weights = attention[0, :, 0]
        if method == "chefer":
            weights = np.maximum(weights * gradient[0, 0, :, 0], 0)
        expected = weights.mean(axis=0) / weights.mean(axis=0).sum()
        np.testing.assert_allclose(seen.readers[0, 0], expected, rtol=1e-5)


# Models


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_each_transformer_is_explained_or_refused_with_the_reason(name: str) -> None:
    make, _, grid = TRANSFORMERS[name]
    model = make()
    refused = {
        "attention spelled out": "no attention to be seen in model 'spelled_out'",
        "Swin": "64 asking 64, 16 asking 16",
    }
    for method in ("chefer", "legrad"):
        if name in refused:
            with pytest.raises(RunError, match=rf"(?s){refused[name]}.*method='hirescam'"):
                explain(model, method, targets=[0])
        else:
            expl = explain(model, method, targets=[0])
            assert expl.targets[0].heatmap.shape == grid
            assert expl.targets[0].heatmap.any()


@every
def test_models_stay_as_they_are_and_passes_give_the_same_when_compiled(method: str) -> None:
    inner = held()
    model = keras.Sequential([kl.Rescaling(0.5), inner, kl.Softmax()], name="nested")
    doc = doc_of(inner)
    expected, before = scores_of(model, doc), state_of(model)
    for logits in (False, True):
        each = [explain(model, method, doc, logits=logits, top_targets=2) for _ in range(OFTEN)]
        for one in each:
            np.testing.assert_allclose(maps_of(one), maps_of(each[0]), atol=1e-5)
        if not logits:
            found = [one.score for one in each[-1].targets]
            np.testing.assert_allclose(found, np.sort(expected.ravel())[:-3:-1], atol=1e-6)
    assert state_of(model) == before
    np.testing.assert_array_equal(scores_of(model, doc), expected)


@pytest.mark.parametrize("method", ["attention-rollout", "beyond-intuition", "legrad"])
def test_several_docs_are_those_of_each_alone(method: str) -> None:
    model = vit()
    docs = np.concatenate([make_doc((1, 16, 16, 3), seed=seed) for seed in range(OFTEN)])
    stream = kerasight.explain_predictions(model, docs, method=method, top_targets=2, batch_size=5)
    for doc, expl in list(zip(docs, stream, strict=True))[::3]:
        alone = explain(model, method, doc[None], top_targets=2)
        assert [one.target for one in expl.targets] == [one.target for one in alone.targets]
        np.testing.assert_allclose(maps_of(expl), maps_of(alone), atol=1e-4)


def test_who_asks_for_attention_scores_gets_them_and_who_does_not_gets_none() -> None:
    class Asking(kl.Layer):
        def __init__(self, asks: bool, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            self.asks = asks
            self.inner = kl.MultiHeadAttention(2, WIDTH // 2)

        def call(self, x: Any) -> Any:
            if not self.asks:
                return x + self.inner(x, x)
            output, weights = self.inner(x, x, return_attention_scores=True)
            return x + output * ops.mean(weights)

    for asks in (True, False):
        inputs = keras.Input((8, 8, 3))
        x = Prefix(0)(kl.Reshape((4, WIDTH))(patches()(inputs)))
        x = Asking(asks, name="block")(x)
        model = keras.Model(inputs, scores(kl.GlobalAveragePooling1D()(x)))
        expected = scores_of(model, doc_of(model))
        expl = explain(model, "chefer", targets=[2])
        assert expl.targets[0].score == pytest.approx(float(expected.ravel()[2]), abs=1e-6)


def test_layers_that_keep_what_they_were_asked_for_forget_it() -> None:
    inputs = keras.Input((8, 8, 3))
    x = Prefix()(kl.Reshape((4, WIDTH))(patches()(inputs)))
    layer = kl.GroupQueryAttention(WIDTH // 2, 2, 1, name="attention")
    x = kl.Add()([x, layer(x, x)])
    model = keras.Model(inputs, scores(x[:, 0]))
    before = {name: one for name, one in vars(layer).items() if isinstance(one, bool)}
    assert explain(model, "chefer").targets[0].heatmap.shape == (2, 2)
    assert {name: one for name, one in vars(layer).items() if isinstance(one, bool)} == before


def of_texts() -> keras.Model:
    words = keras.Input((6,), dtype="int32")
    x = kl.Embedding(20, WIDTH)(words)
    mask = ops.not_equal(words, 0)
    for number in range(2):
        y = kl.MultiHeadAttention(2, WIDTH // 2)(x, x, attention_mask=mask[:, None, :])
        x = kl.LayerNormalization(name=f"norm_{number}")(x + y)
    return keras.Model(words, scores(x[:, 0]), name="texts")


@every
def test_of_a_text_the_words_have_weights_and_padding_has_none(method: str) -> None:
    doc = np.array([[7, 3, 9, 4, 0, 0]])
    expl = explain(of_texts(), method, doc, targets=[1])
    assert expl.kind == "text"
    assert expl.targets[0].heatmap.shape == (6,)
    assert expl.targets[0].heatmap[:4].any()
    np.testing.assert_array_equal(expl.targets[0].heatmap[4:], 0)


@every
def test_smoothing_and_a_grid_are_heeded(method: str) -> None:
    model = vit(head="mean")
    assert explain(model, method, smooth=2).targets[0].heatmap.shape == (4, 4)
    assert explain(model, method, grid=(2, 8)).targets[0].heatmap.shape == (2, 8)
    with pytest.raises(RunError, match=r"attend to 17 tokens.*grid=\(3, 9\) does not fit"):
        explain(model, method, grid=(3, 9))


# What is refused


@every
def test_no_layer_can_be_asked_for(method: str) -> None:
    with pytest.raises(ValueError, match="looks at all blocks of a transformer, and has no use"):
        explain(vit(), method, layer="block_0")


def test_attention_that_keras_hides_is_refused_by_its_name() -> None:
    inputs = keras.Input((8, 8, 3))
    x = kl.Reshape((4, WIDTH))(patches()(inputs))
    x = kl.Attention(name="inline")([x, x])
    model = keras.Model(inputs, scores(kl.GlobalAveragePooling1D()(x)))
    with pytest.raises(RunError, match=r"attention of layer 'inline' cannot be seen.*hirescam"):
        explain(model, "chefer")


def test_attention_that_does_not_give_its_weights_is_refused_by_its_name() -> None:
    class Flash(kl.MultiHeadAttention):
        def call(
            self, query: Any, value: Any, key: Any = None, return_attention_scores: bool = False
        ) -> Any:
            if return_attention_scores:
                raise ValueError("Returning attention scores is not supported")
            return super().call(query, value)

    inputs = keras.Input((8, 8, 3))
    x = kl.Reshape((4, WIDTH))(patches()(inputs))
    model = keras.Model(
        inputs, scores(kl.GlobalAveragePooling1D()(Flash(2, 4, name="flash")(x, x)))
    )
    with pytest.raises(RunError, match=r"layer 'flash' cannot be seen.*flash attention.*hirescam"):
        explain(model, "legrad")


def test_a_network_without_attention_is_refused() -> None:
    inputs = keras.Input((8, 8, 3))
    x = kl.GlobalAveragePooling2D()(kl.Conv2D(4, 3)(inputs))
    model = keras.Model(inputs, kl.Dense(CLASSES)(x), name="cnn")
    with pytest.raises(RunError, match="no attention to be seen in model 'cnn'"):
        explain(model, "attention-rollout")
