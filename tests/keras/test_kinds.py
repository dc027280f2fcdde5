"""Docs that are no pictures: signals, volumes, videos and texts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from frameworks import on_tensorflow
from keras import layers as kl
from PIL import Image
from tiny_models import make_doc

import kerasight
from kerasight import targets
from kerasight.cam.methods import CAMS, METHODS
from kerasight.cam.request import Request
from kerasight.keras.anatomy import Anatomy
from kerasight.keras.explainer import Explainer
from kerasight.keras.scoring import scores_from
from kerasight.keras.targets import Classes

OFTEN = 7


def signals() -> keras.Model:
    inputs = keras.Input((24, 3))
    x = kl.Conv1D(4, 5, padding="same", activation="tanh")(inputs)
    x = kl.Conv1D(6, 3, padding="same", activation="tanh", name="last")(kl.MaxPooling1D(2)(x))
    return keras.Model(inputs, kl.Dense(3)(kl.GlobalAveragePooling1D()(x)), name="signals")


def series() -> keras.Model:
    inputs = keras.Input((24,))
    x = kl.Conv1D(4, 5, padding="same", name="last")(kl.Reshape((24, 1))(inputs))
    return keras.Model(inputs, kl.Dense(3)(kl.GlobalAveragePooling1D()(x)), name="series")


def recurrent() -> keras.Model:
    inputs = keras.Input((12, 3))
    x = kl.Bidirectional(kl.LSTM(4, return_sequences=True), name="last")(inputs)
    return keras.Model(inputs, kl.Dense(3)(kl.GRU(4)(x)), name="recurrent")


def after_convolutions() -> keras.Model:
    inputs = keras.Input((12, 3))
    x = kl.Conv1D(4, 3, padding="same", name="last")(inputs)
    return keras.Model(inputs, kl.Dense(3)(kl.LSTM(4)(x)), name="after_convolutions")


def volumes() -> keras.Model:
    inputs = keras.Input((6, 8, 10, 1))
    x = kl.Conv3D(4, 3, padding="same", activation="tanh")(inputs)
    x = kl.Conv3D(5, 2, strides=2, name="last")(x)
    return keras.Model(inputs, kl.Dense(3)(kl.GlobalAveragePooling3D()(x)), name="volumes")


def videos() -> keras.Model:
    inputs = keras.Input((5, 8, 6, 3))
    x = kl.ConvLSTM2D(4, 3, padding="same", return_sequences=True, name="last")(inputs)
    return keras.Model(inputs, kl.Dense(3)(kl.GlobalAveragePooling3D()(x)), name="videos")


def frames() -> keras.Model:
    inputs = keras.Input((5, 8, 6, 1))
    x = kl.TimeDistributed(kl.Conv2D(4, 3, padding="same"), name="last")(inputs)
    x = kl.LSTM(4)(kl.TimeDistributed(kl.GlobalAveragePooling2D())(x))
    return keras.Model(inputs, kl.Dense(3)(x), name="frames")


def words() -> keras.Model:
    inputs = keras.Input((9,), dtype="int32")
    x = kl.Conv1D(6, 3, padding="same", name="last")(kl.Embedding(30, 8)(inputs))
    return keras.Model(inputs, kl.Dense(3)(kl.GlobalMaxPooling1D()(x)), name="words")


def attentive() -> keras.Model:
    inputs = keras.Input((9,), dtype="int32")
    x = kl.Embedding(30, 8)(inputs)
    x = kl.LayerNormalization(name="last")(x + kl.MultiHeadAttention(2, 4)(x, x))
    return keras.Model(inputs, kl.Dense(3)(kl.GlobalAveragePooling1D()(x)), name="attentive")


KINDS: dict[str, tuple[Callable[[], keras.Model], str, tuple[int, ...]]] = {
    "signals": (signals, "signal", (12,)),
    "series": (series, "signal", (24,)),
    "recurrent": (recurrent, "signal", (12,)),
    "recurrent after convolutions": (after_convolutions, "signal", (12,)),
    "volumes": (volumes, "volume", (3, 4, 5)),
    "videos": (videos, "video", (5, 8, 6)),
    "frames": (frames, "video", (5, 8, 6)),
    "words": (words, "text", (9,)),
    "words, by attention": (attentive, "text", (9,)),
}


def docs_for(model: keras.Model, number: int = 1, seed: int = 0) -> np.ndarray:
    shape = (number, *model.input_shape[1:])
    if any(isinstance(layer, kl.Embedding) for layer in model.layers):
        return np.random.default_rng(seed).integers(1, 30, shape)
    return make_doc(shape, seed)


@pytest.mark.parametrize("name", KINDS)
def test_each_kind_of_doc_is_explained_at_its_places(name: str) -> None:
    make, kind, shape = KINDS[name]
    model = make()
    doc = docs_for(model)
    each = [kerasight.explain_prediction(model, doc, targets=[0], relu=False) for _ in range(OFTEN)]
    for expl in each:
        assert (expl.layer, expl.kind, expl.image) == ("last", kind, None)
        heatmap = expl.targets[0].heatmap
        assert heatmap.shape == shape
        np.testing.assert_allclose(heatmap, each[0].targets[0].heatmap, atol=1e-5)
    assert f"in the {kind} lies what speaks for" in each[0].description
    if kind == "text":
        assert each[0].doc is None
        (spans,) = each[0].targets[0].weighted_spans.docs_weighted_spans
        assert [word for word, _, _ in spans.spans] == [f"#{number}" for number in doc[0]]
        np.testing.assert_allclose([heat for _, _, heat in spans.spans], heatmap, atol=1e-5)
    else:
        np.testing.assert_array_equal(each[0].doc, doc[0] if doc.ndim > 2 else doc[0][:, None])


@pytest.mark.parametrize("name", KINDS)
def test_a_stream_of_each_kind_gives_what_each_gives_alone(name: str) -> None:
    model = KINDS[name][0]()
    docs = docs_for(model, 5)
    found = list(kerasight.explain_predictions(model, docs, batch_size=2, relu=False))
    assert len(found) == 5
    for doc, expl in zip(docs, found, strict=True):
        alone = kerasight.explain_prediction(model, doc[np.newaxis], relu=False)
        np.testing.assert_allclose(expl.targets[0].heatmap, alone.targets[0].heatmap, atol=1e-5)
    one_by_one = kerasight.explain_predictions(model, list(docs), relu=False)
    assert [expl.targets[0].target for expl in one_by_one] == [
        expl.targets[0].target for expl in found
    ]


@pytest.mark.usefixtures("_float64")
@pytest.mark.parametrize("name", KINDS)
def test_gradients_of_each_kind_are_those_of_finite_differences(name: str) -> None:
    model = KINDS[name][0]()
    doc = docs_for(model)
    doc = doc.astype(np.float64) if doc.dtype == np.float32 else doc
    look = Explainer(model).look(doc, Classes(np.array([[1]])))
    (terms,) = look.records[0].terms(0)
    run = scores_from(Anatomy(model), look.inputs, terms.site)
    step, random = 1e-5, np.random.default_rng(0)
    for _ in range(5):
        place = tuple(int(random.integers(size)) for size in terms.activations.shape)
        changed = np.repeat(terms.activations[np.newaxis], 2, axis=0)
        changed[(0, *place)] += step
        changed[(1, *place)] -= step
        more, less = run(changed)[:, 1]
        assert (more - less) / (2 * step) == pytest.approx(terms.gradients[place], abs=1e-7)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_the_same_by_hand_whatever_the_number_of_axes(rank: int) -> None:
    conv = {1: kl.Conv1D, 2: kl.Conv2D, 3: kl.Conv3D}[rank]
    pool = {
        1: kl.GlobalAveragePooling1D,
        2: kl.GlobalAveragePooling2D,
        3: kl.GlobalAveragePooling3D,
    }[rank]
    inputs = keras.Input((2,) * rank + (1,))
    outputs = kl.Dense(2, use_bias=False)(pool()(conv(2, 1, use_bias=False)(inputs)))
    model = keras.Model(inputs, outputs)
    model.set_weights([np.array([1.0, -1.0]).reshape((1,) * (rank + 1) + (2,)), np.eye(2)])
    doc = make_doc((1, *(2,) * rank, 1)) - 0.5
    for target, sign in ((0, 1), (1, -1)):
        expl = kerasight.explain_prediction(model, doc, targets=[target], relu=False)
        np.testing.assert_allclose(
            expl.targets[0].heatmap, sign * doc[0, ..., 0] / np.abs(doc).max(), rtol=1e-5
        )


@pytest.mark.parametrize("method", CAMS)
@pytest.mark.parametrize("name", ["signals", "series", "volumes", "frames"])
@pytest.mark.filterwarnings("ignore::kerasight.base.HeatmapWarning")
def test_all_methods_take_docs_of_any_axes(name: str, method: str) -> None:
    model = KINDS[name][0]()
    asked: dict[str, Any] = {"method": method, "relu": not METHODS[method].is_signed}
    if METHODS[method].samples:
        asked["samples"] = 2
    expl = kerasight.explain_prediction(model, docs_for(model), **asked)
    assert expl.targets[0].heatmap.shape == KINDS[name][2]
    if method == "grad-cam":
        smooth = kerasight.explain_prediction(model, docs_for(model), smooth=3, **asked)
        assert np.isfinite(smooth.targets[0].heatmap).all()


def test_methods_that_change_a_doc_refuse_words() -> None:
    model = words()
    for method in ("score-cam", "opti-cam"):
        title = METHODS[method].title
        with pytest.raises(ValueError, match=f"{title} masks the doc, and words are no numbers"):
            kerasight.explain_prediction(model, docs_for(model), method=method)
    with pytest.raises(ValueError, match="smooth adds noise to the doc, and words are no numbers"):
        kerasight.explain_prediction(model, docs_for(model), smooth=2)


def test_a_signal_that_is_channels_first_is_shown_channels_last() -> None:
    inputs = keras.Input((3, 8))
    x = kl.AveragePooling1D(2, data_format="channels_first", name="last")(inputs)
    x = kl.GlobalAveragePooling1D(data_format="channels_first")(x)
    model = keras.Model(inputs, kl.Dense(2)(x))
    doc = make_doc((1, 3, 8))
    expl = kerasight.explain_prediction(model, doc, relu=False)
    assert (expl.doc.shape, expl.targets[0].heatmap.shape) == ((8, 3), (4,))


def test_a_subclassed_model_of_signals_is_explained() -> None:
    class Net(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.scores = kl.Conv1D(4, 3, name="conv"), kl.Dense(2)

        def call(self, x: Any) -> Any:
            return self.scores(keras.ops.mean(self.conv(x), axis=1))

    expl = kerasight.explain_prediction(Net(), make_doc((1, 9, 2)), relu=False)
    assert (expl.layer, expl.kind, expl.targets[0].heatmap.shape) == ("conv", "signal", (7,))


def test_of_a_signal_and_a_table_the_signal_is_seen() -> None:
    inputs = {"ecg": keras.Input((16, 2), name="ecg"), "age": keras.Input((1,), name="age")}
    x = kl.GlobalAveragePooling1D()(kl.Conv1D(4, 3, name="conv")(inputs["ecg"]))
    model = keras.Model(inputs, kl.Dense(2)(kl.Concatenate()([x, inputs["age"]])))
    doc = {"ecg": make_doc((1, 16, 2)), "age": np.ones((1, 1), np.float32)}
    expl = kerasight.explain_prediction(model, doc, relu=False)
    assert (expl.kind, expl.doc.shape, expl.targets[0].heatmap.shape) == ("signal", (16, 2), (14,))


def test_a_signal_without_its_batch_axis_is_refused() -> None:
    with pytest.raises(ValueError, match=r"shape \(1, 24, 3\), got \(24, 3\); add the batch axis"):
        kerasight.explain_prediction(signals(), make_doc((24, 3)))
    with pytest.raises(ValueError, match=r"docs must have shape \(docs, 24, 3\), got \(24, 3\)"):
        kerasight.explain_predictions(signals(), make_doc((24, 3)))


def test_a_picture_cannot_be_laid_under_a_signal() -> None:
    with pytest.raises(ValueError, match=r"image is a picture.*the doc is a signal"):
        kerasight.explain_prediction(
            signals(), make_doc((1, 24, 3)), image=Image.new("RGB", (8, 8))
        )


# Texts


@on_tensorflow  # where alone a model can take strings
@pytest.mark.parametrize("shape", [(), (1,)])
def test_a_text_is_explained_by_its_words(shape: tuple[int, ...]) -> None:
    numbers = kl.TextVectorization(output_sequence_length=6)
    numbers.adapt(["the film was great", "the film was bad"])
    inputs = keras.Input(shape, dtype="string")
    x = kl.Conv1D(4, 3, padding="same")(kl.Embedding(20, 8)(numbers(inputs)))
    model = keras.Model(inputs, kl.Dense(2)(kl.GlobalMaxPooling1D()(x)))
    text = "The film, was GREAT!"
    expl = kerasight.explain_prediction(model, text, relu=False)
    (spans,) = expl.targets[0].weighted_spans.docs_weighted_spans
    assert spans.document == text
    assert [word for word, _, _ in spans.spans] == ["the", "film", "was", "great"]
    assert [text[start:end] for _, [(start, end)], _ in spans.spans] == [
        "The",
        "film",
        "was",
        "GREAT",
    ]
    many = kerasight.explain_predictions(model, [text, "a bad film"] * 4, relu=False)
    found = [one.targets[0] for one in many]
    np.testing.assert_allclose(found[6].heatmap, expl.targets[0].heatmap, atol=1e-5)
    assert found[7].weighted_spans.docs_weighted_spans[0].document == "a bad film"


def test_numbers_of_words_are_told_by_a_vocabulary_or_by_tokens() -> None:
    model = words()
    doc = np.arange(1, 10)[np.newaxis]
    letters = list("_abcdefghijklmnopqrstuvwxyz___")
    named = kerasight.explain_prediction(model, doc, vocabulary=letters).targets[0]
    assert named.weighted_spans.docs_weighted_spans[0].document == "a b c d e f g h i"
    told = kerasight.explain_prediction(model, doc, tokens=list("ABCDEFGHI")).targets[0]
    assert told.weighted_spans.docs_weighted_spans[0].document == "A B C D E F G H I"
    (one,) = kerasight.explain_predictions(model, doc, vocabulary=letters)
    assert one.targets[0] == named
    with pytest.raises(ValueError, match="tokens must have one for each of 9 steps"):
        kerasight.explain_prediction(model, doc, tokens=["A"])
    with pytest.raises(ValueError, match="vocabulary must have a word for each id"):
        kerasight.explain_prediction(model, doc, vocabulary=["a", "b"])
    with pytest.raises(ValueError, match=r"no TextVectorization.*vocabulary="):
        kerasight.explain_prediction(model, "a text")


# Models whose answer is known: what decides is at a place that is drawn anew for each doc


def trained(model: keras.Model, docs: np.ndarray, answers: np.ndarray, epochs: int) -> keras.Model:
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.01), loss)
    model.fit(docs, answers, epochs=epochs, batch_size=32, verbose=0)
    return model


def share_that_hit(
    model: keras.Model,
    docs: np.ndarray,
    places: np.ndarray,
    within: float,
    **asked: Any,
) -> float:
    """The share of docs whose hottest place lies near to where the answer is."""
    hits = []
    size = np.array(docs.shape[1 : 1 + places.shape[1]])
    for expl, place in zip(
        kerasight.explain_predictions(model, docs, **asked), places, strict=True
    ):
        heatmap = expl.targets[0].heatmap
        hottest = np.array(np.unravel_index(heatmap.argmax(), heatmap.shape))
        middle = (hottest + 0.5) * size / heatmap.shape - 0.5
        hits.append(bool((np.abs(middle - place) <= within).all()))
    return float(np.mean(hits))


def bumps(number: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Noise with a bump in one of two channels, which is the class; and where it is."""
    rng = np.random.default_rng(seed)
    docs = rng.normal(0, 0.2, (number, 64, 2)).astype(np.float32)
    places, answers = rng.integers(6, 58, (number, 1)), rng.integers(0, 2, number)
    steps = np.arange(64)
    for doc, place, answer in zip(docs, places, answers, strict=True):
        doc[:, answer] += np.exp(-0.5 * ((steps - place[0]) / 2.5) ** 2)
    return docs, answers, places


def test_the_bump_in_a_signal_is_found() -> None:
    inputs = keras.Input((64, 2))
    x = kl.Conv1D(8, 7, padding="same", activation="relu")(inputs)
    x = kl.Conv1D(8, 5, padding="same", activation="relu")(kl.MaxPooling1D(2)(x))
    model = keras.Model(inputs, kl.Dense(2)(kl.GlobalMaxPooling1D()(x)))
    docs, answers, _ = bumps(512, seed=0)
    trained(model, docs, answers, epochs=8)
    docs, _, places = bumps(60, seed=1)
    assert share_that_hit(model, docs, places, within=4, method="hirescam") >= 0.95


def balls(number: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Noise with a ball that is brighter or darker than it, which is the class."""
    rng = np.random.default_rng(seed)
    docs = rng.normal(0, 0.2, (number, 12, 12, 12, 1)).astype(np.float32)
    places, answers = rng.integers(3, 9, (number, 3)), rng.integers(0, 2, number)
    axes = np.stack(np.meshgrid(*[np.arange(12)] * 3, indexing="ij"), axis=-1)
    for doc, place, answer in zip(docs, places, answers, strict=True):
        doc[((axes - place) ** 2).sum(-1) <= 5] += 1 if answer else -1
    return docs, answers, places


def test_the_ball_in_a_volume_is_found() -> None:
    inputs = keras.Input((12, 12, 12, 1))
    x = kl.Conv3D(6, 3, padding="same", activation="relu")(inputs)
    x = kl.Conv3D(6, 3, padding="same", activation="relu")(kl.MaxPooling3D(2)(x))
    model = keras.Model(inputs, kl.Dense(2)(kl.GlobalMaxPooling3D()(x)))
    docs, answers, _ = balls(256, seed=0)
    trained(model, docs, answers, epochs=8)
    docs, _, places = balls(60, seed=1)
    assert share_that_hit(model, docs, places, within=3, method="hirescam") >= 0.95


def sentences(number: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Random words, and one of three words somewhere among them that decides the class."""
    rng = np.random.default_rng(seed)
    docs = rng.integers(4, 40, (number, 16))
    places, answers = rng.integers(0, 16, (number, 1)), rng.integers(0, 3, number)
    docs[np.arange(number), places[:, 0]] = answers + 1
    return docs, answers, places


def _hits(
    model: keras.Model, docs: np.ndarray, answers: np.ndarray, places: np.ndarray, answer: int
) -> float:
    rows = answers == answer
    return share_that_hit(model, docs[rows], places[rows], within=0, method="hirescam")


@pytest.mark.filterwarnings("ignore::kerasight.base.HeatmapWarning")  # of the class of all else
def test_the_word_that_decides_is_found() -> None:
    inputs = keras.Input((16,), dtype="int32")
    x = kl.Conv1D(8, 1, activation="relu")(kl.Embedding(40, 8)(inputs))
    model = keras.Model(inputs, kl.Dense(3)(kl.GlobalMaxPooling1D()(x)))
    docs, answers, _ = sentences(512, seed=0)
    trained(model, docs, answers, epochs=15)
    docs, answers, places = sentences(60, seed=1)
    # A model that knows two of the words takes the third class for all else.
    known = [answer for answer in range(3) if _hits(model, docs, answers, places, answer) >= 0.95]
    assert len(known) >= 2


def squares(number: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A square that is red or green among noise; its mask, and where it is."""
    rng = np.random.default_rng(seed)
    docs = rng.uniform(0, 0.5, (number, 24, 24, 3)).astype(np.float32)
    masks, places = np.zeros((number, 24, 24), np.int32), rng.integers(4, 20, (number, 2))
    for doc, mask, (row, column) in zip(docs, masks, places, strict=True):
        answer = int(rng.integers(0, 2))
        doc[row - 3 : row + 4, column - 3 : column + 4, answer] = 1
        mask[row - 3 : row + 4, column - 3 : column + 4] = answer + 1
    return docs, masks, places


def test_the_object_in_a_segmentation_is_found() -> None:
    inputs = keras.Input((24, 24, 3))
    x = kl.Conv2D(8, 3, padding="same", activation="leaky_relu")(inputs)
    x = kl.Conv2D(8, 3, 2, padding="same", activation="leaky_relu")(x)
    x = kl.Conv2D(8, 3, padding="same", activation="leaky_relu")(
        kl.Conv2DTranspose(8, 2, strides=2)(x)
    )
    model = keras.Model(inputs, kl.Conv2D(3, 1)(x))
    docs, masks, _ = squares(192, seed=0)
    trained(model, docs, masks, epochs=20)
    model = keras.Model(inputs, kl.Softmax()(model.output))
    docs, masks, places = squares(60, seed=1)
    hits = []
    for doc, mask, place in zip(docs, masks, places, strict=True):
        target = targets.Region(int(mask.max()), mask > 0)
        found = share_that_hit(
            model, doc[np.newaxis], place[np.newaxis], within=4, target=target, method="hirescam"
        )
        hits.append(found)
    assert np.mean(hits) >= 0.95


def test_all_that_is_asked_reaches_docs_of_any_axes() -> None:
    model = volumes()
    asked = {"counterfactual": True, "layer": [model.layers[1], "last"], "top_targets": 2}
    expl = kerasight.explain_prediction(model, docs_for(model), **asked)
    assert [target.heatmap.shape for target in expl.targets] == [(6, 8, 10)] * 2
    request = Request.of({"logits": True})
    look = Explainer(model, request).look(docs_for(model), Classes.top(1))
    assert look.heatmaps()[0].values.shape == (3, 4, 5)
