from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from frameworks import on_tensorflow
from keras import layers as kl
from keras import ops

import kerasight
from kerasight import targets
from kerasight.base import DocError, RunError
from kerasight.cam.inputs import Inputs
from kerasight.keras import scoring

OUTSIDE = ["occlusion", "rise", "kernel-shap"]
every = pytest.mark.parametrize("method", OUTSIDE)


def explain(model: keras.Model, doc: Any, **asked: Any) -> kerasight.Explanation:
    if asked.get("method") == "rise":
        asked.setdefault("samples", 900)
    return kerasight.explain_prediction(model, doc, **{"relu": False, **asked})


def heatmap(model: keras.Model, doc: Any, **asked: Any) -> np.ndarray:
    found = explain(model, doc, **asked).targets[0].heatmap
    assert isinstance(found, np.ndarray)
    return found


def close(found: np.ndarray, evidence: Any, atol: float = 1e-5) -> None:
    """A heatmap is that of some evidence."""
    evidence = np.asarray(evidence, float)
    np.testing.assert_allclose(found, evidence / np.abs(evidence).max(), atol=atol)


def drawn(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def linear(shape: tuple[int, ...]) -> tuple[keras.Model, np.ndarray]:
    """A model whose first score is the sum of weights times values, plus 0.5; and the weights."""
    model = keras.Sequential([keras.Input(shape), kl.Flatten(), kl.Dense(2)])
    weights = drawn((int(np.prod(shape)), 2))
    model.set_weights([weights, np.float32([0.5, -0.5])])
    return model, weights[:, 0].reshape(shape)


class Function(keras.Model):
    """A model of any function of NumPy arrays: nothing can be differentiated or compiled."""

    def __init__(self, function: Callable[[np.ndarray], np.ndarray]) -> None:
        super().__init__(name="function")
        self.function = function

    def call(self, inputs: Any) -> Any:
        return ops.convert_to_tensor(self.function(ops.convert_to_numpy(inputs)).astype(np.float32))


# By hand


@pytest.mark.parametrize("shape", [(6,), (5, 2), (3, 4, 1), (2, 3, 2, 1)])
@pytest.mark.parametrize("method", ["occlusion", "kernel-shap"])
def test_of_a_linear_model_each_place_has_its_weight_times_its_value(
    method: str, shape: tuple[int, ...]
) -> None:
    model, weights = linear(shape)
    doc = drawn((1, *shape), seed=1)
    products = weights * doc[0]
    found = heatmap(model, doc, targets=[0], method=method, window=1, baseline="zero")
    close(found, products if len(shape) == 1 else products.sum(axis=-1))


def test_rise_is_nearly_that_with_many_masks() -> None:
    model, weights = linear((4,))
    doc = drawn((1, 4), seed=1)
    close(heatmap(model, doc, targets=[0], method="rise"), weights * doc[0], atol=0.1)


def test_channels_first_is_the_same_turned() -> None:
    # The scores are the means of three channels.
    doc = drawn((1, 4, 4, 3))
    last, first = (
        keras.Sequential(
            [
                keras.Input(shape),
                kl.GlobalAveragePooling2D(data_format=order),
                kl.Dense(2, kernel_initializer="ones"),
            ]
        )
        for shape, order in (((4, 4, 3), "channels_last"), ((3, 4, 4), "channels_first"))
    )
    turned = np.moveaxis(doc, -1, 1)
    close(heatmap(first, turned, method="occlusion"), heatmap(last, doc, method="occlusion"))


def test_the_drops_of_windows_that_overlap_are_averaged() -> None:
    model, doc = Function(lambda docs: docs.sum(axis=1)), np.float32([[[1], [2], [4]]])
    asked = {"method": "occlusion", "window": 2, "stride": 1, "baseline": 0}
    close(heatmap(model, doc, **asked), [3, 4.5, 6])


def test_rise_is_its_formula_less_what_a_place_without_effect_would_have() -> None:
    model, doc = Function(lambda docs: docs.prod(axis=1, keepdims=True)), np.float32([[1, 1]])
    # Of every four masks one keeps both: the score there is 1, and 0 elsewhere.
    close(heatmap(model, doc, method="rise"), [1, 1], atol=0.1)
    close(heatmap(model, doc, method="rise", counterfactual=True), [-1, -1], atol=0.1)


def test_the_value_of_a_segment_is_shared_out_among_its_places() -> None:
    model, doc = Function(lambda docs: docs.sum(axis=(1, 2))), np.ones((1, 2, 3, 1), np.float32)
    doc[0, 0] = 4
    labels = np.array([[7, 7, 7], [7, 2, 2]])
    asked = {"method": "kernel-shap", "segments": labels, "baseline": 0}
    expl = explain(model, doc, **asked)
    close(expl.targets[0].heatmap, [[13 / 4, 13 / 4, 13 / 4], [13 / 4, 1, 1]])
    assert expl.targets[0].gap == pytest.approx(0, abs=1e-6)
    assert "sums to 15, and the score rises by 15" in expl.description


# What holds of every model


def test_kernel_shap_is_complete_symmetric_linear_and_nothing_for_a_dummy() -> None:
    def first(docs: np.ndarray) -> np.ndarray:
        return (docs[:, :1] * docs[:, 1:2]) + 3 * docs[:, 2:3] ** 2

    def second(docs: np.ndarray) -> np.ndarray:
        return np.tanh(docs[:, 2:3] - docs[:, :1])

    doc = np.float32([[2, 2, 1, 5]])
    values = []
    for function in (first, second, lambda docs: first(docs) + second(docs)):
        expl = explain(Function(function), doc, method="kernel-shap")
        rise = float(function(doc)[0, 0] - function(0 * doc)[0, 0])
        found = expl.targets[0].heatmap
        assert expl.targets[0].gap == pytest.approx(0, abs=1e-6)
        assert found[3] == pytest.approx(0, abs=1e-6)
        values.append(found / found.sum() * rise)
    assert values[0][0] == pytest.approx(values[0][1])
    np.testing.assert_allclose(values[0], [2, 2, 3, 0], atol=1e-5)
    np.testing.assert_allclose(values[0] + values[1], values[2], atol=1e-5)


@every
def test_where_the_score_depends_on_nothing_no_place_has_any(method: str) -> None:
    model = Function(lambda docs: np.full((len(docs), 1), 0.9))
    with pytest.warns(kerasight.HeatmapWarning, match="hardly changes, whatever is hidden"):
        found = heatmap(model, drawn((1, 4, 4, 1)), method=method, samples=few(method))
    assert not found.any()


def few(method: str) -> int | None:
    return None if method == "occlusion" else 40


@every
def test_a_number_added_to_the_score_changes_nothing(method: str) -> None:
    doc = drawn((1, 6))
    maps = [
        heatmap(Function(lambda docs, more=more: docs[:, :1] + more), doc, method=method)
        for more in (0, 50)
    ]
    np.testing.assert_allclose(maps[0], maps[1], atol=1e-3)


# From outside


@every
def test_a_model_that_cannot_be_differentiated_is_explained(method: str) -> None:
    model = Function(lambda docs: np.stack([docs[:, 0] > 0, docs.sum(axis=1) > 1], axis=1))
    doc = np.float32([[1, 0.5, -0.2, 0.1]])
    expl = explain(model, doc, method=method, top_targets=2)
    assert [target.score for target in expl.targets] == [1, 1]
    close(expl.targets[0].heatmap, [1, 0, 0, 0], atol=0.1)
    assert expl.targets[1].heatmap[1] > 0.5
    assert expl.layer is None
    assert expl.kind == "signal"


@every
def test_categories_stay_whole_numbers(method: str) -> None:
    def table(docs: np.ndarray) -> np.ndarray:
        assert docs.dtype.kind in "iu"
        return np.array([0.0, 1.0, 5.0])[docs].sum(axis=1, keepdims=True)

    found = heatmap(Function(table), np.array([[2, 0, 1]]), method=method)
    close(found, [1, 0, 0.2], atol=0.1)
    with pytest.raises(RunError, match="baseline must be a whole number"):
        heatmap(Function(table), np.array([[2, 0, 1]]), method=method, baseline=0.5)


@every
@pytest.mark.parametrize("size", [(9,), (6, 7), (3, 4, 5)])
def test_each_kind_of_doc_is_explained_in_its_resolution(
    method: str, size: tuple[int, ...]
) -> None:
    model, _ = linear((*size, 3))
    for asked in ({}, {"baseline": "noise", "window": 2, "logits": True, "smooth": 2}):
        samples = None if method == "occlusion" else 130
        found = heatmap(model, drawn((1, *size, 3)), method=method, samples=samples, **asked)
        assert found.shape == size
        assert np.abs(found).max() == pytest.approx(1, abs=1e-4)


@every
def test_equal_seeds_give_equal_maps_whatever_the_size_of_batches(method: str) -> None:
    model, _ = linear((6, 6, 1))
    doc, samples = drawn((1, 6, 6, 1)), 80 if method != "occlusion" else None
    asked = {"method": method, "samples": samples, "baseline": "noise"}
    found = heatmap(model, doc, **asked)
    np.testing.assert_allclose(heatmap(model, doc, batch_size=7, **asked), found, atol=1e-4)
    assert not np.allclose(heatmap(model, doc, seed=1, **asked), found, atol=1e-3)


@every
def test_a_stream_gives_what_docs_give_by_themselves(method: str) -> None:
    model, _ = linear((4, 4, 1))
    docs, asked = drawn((3, 4, 4, 1)), {"method": method, "relu": False, "samples": few(method)}
    stream = kerasight.explain_predictions(model, docs, **asked)
    for doc, expl in zip(docs, stream, strict=True):
        found = heatmap(model, doc[np.newaxis], **asked)
        np.testing.assert_allclose(expl.targets[0].heatmap, found, atol=1e-4)


def test_no_more_docs_run_than_a_batch_and_of_many_the_weights_are_compiled_in(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sizes: list[int] = []
    model, _ = linear((3,))
    real = scoring.frozen_scores

    def watched(*args: Any, **kwargs: Any) -> Any:
        score = real(*args, **kwargs)

        def run(inputs: Inputs) -> np.ndarray:
            sizes.append(len(inputs))
            found: np.ndarray = score(inputs)
            return found

        return run

    monkeypatch.setattr(scoring, "frozen_scores", watched)
    heatmap(model, drawn((1, 3)), method="rise", samples=999, batch_size=300)
    assert sizes == []
    heatmap(model, drawn((1, 3)), method="rise", samples=1000, batch_size=300)
    assert sizes == [250] * 4


# Texts


def counting(mask_zero: bool) -> keras.Model:
    """The mean of the numbers of the words, or their sum if padding is not masked."""
    numbers = keras.initializers.Constant(np.arange(10.0)[:, np.newaxis])
    x = inputs = keras.Input((6,), dtype="int32")
    x = kl.Embedding(10, 1, mask_zero=mask_zero, embeddings_initializer=numbers)(x)
    x = kl.GlobalAveragePooling1D()(x)
    return keras.Model(inputs, kl.Dense(1, kernel_initializer="ones")(x))


IDS = np.array([[3, 5, 1, 9, 0, 0]])


@every
def test_hidden_words_become_padding(method: str) -> None:
    expl = explain(counting(mask_zero=False), IDS, method=method)
    close(expl.targets[0].heatmap, [3, 5, 1, 9, 0, 0], atol=0.1)
    assert expl.kind == "text"
    other = heatmap(counting(mask_zero=False), IDS, method=method, baseline=3)
    close(other, [0, 2, -2, 6, -3, -3], atol=0.1)


def test_masked_words_are_left_out_of_the_mean() -> None:
    # Of 3, 5, 1 and 9 the mean is 4.5; without one of them that of the other three.
    drops = 4.5 - np.array([15 / 3, 13 / 3, 17 / 3, 9 / 3])
    asked = {"method": "occlusion", "baseline": 0}
    close(heatmap(counting(mask_zero=True), IDS, **asked), [*drops, 0, 0])


def test_where_padding_alone_has_no_score_hidden_words_are_unknown() -> None:
    model = counting(mask_zero=True)
    found = heatmap(model, IDS, method="kernel-shap")
    # Word 1 stands for those that are not known.
    close(found, [2, 4, 0, 8, 0, 0])
    with pytest.raises(DocError, match="NaN or infinity in the scores of the doc with parts"):
        heatmap(model, IDS, method="kernel-shap", baseline=0)


def test_segments_of_a_text_are_for_all_steps() -> None:
    labels = np.array([1, 1, 2, 2, 3, 3])
    found = heatmap(counting(mask_zero=True), IDS, method="kernel-shap", segments=labels)
    close(found, [3, 3, 4, 4, 0, 0])
    with pytest.raises(ValueError, match=r"a label for each place, shape \(6,\); got \(4,\)"):
        heatmap(counting(mask_zero=True), IDS, method="kernel-shap", segments=labels[:4])


def judging(standardize: Any = "lower_and_strip_punctuation", mean: bool = False) -> keras.Model:
    """A text scores 5 for each "good", -3 for each "bad" and 1 for each "film"."""
    vectorize = kl.TextVectorization(
        vocabulary=["good", "bad", "film"], output_sequence_length=5, standardize=standardize
    )
    numbers = keras.initializers.Constant(np.array([[0.0], [0.5 * mean], [5], [-3], [1]]))
    inputs = keras.Input((1,), dtype="string")
    x = kl.Embedding(5, 1, mask_zero=mean, embeddings_initializer=numbers)(vectorize(inputs))
    scores = kl.GlobalAveragePooling1D()(x) if mean else 5 * kl.GlobalAveragePooling1D()(x)
    return keras.Model(inputs, scores)


@on_tensorflow
@every
def test_hidden_words_of_a_string_are_taken_out(method: str) -> None:
    # Five words are read: the sixth must not move up.
    expl = explain(judging(), '"Good," but a BAD film, bad', method=method)
    close(expl.targets[0].heatmap, [5, 0, 0, -3, 1], atol=0.1)
    weights = expl.targets[0].weighted_spans
    assert weights is not None
    assert weights.docs_weighted_spans[0].spans[0][1] == [(1, 5)]


@on_tensorflow
def test_a_text_without_words_has_one_that_is_unknown_where_it_has_no_score() -> None:
    expl = explain(judging(mean=True), "bad good", method="kernel-shap")
    # Alone -3 and 5, both 1, and none 0.5.
    close(expl.targets[0].heatmap, [-3.75, 4.25, 0, 0, 0])


@on_tensorflow
@pytest.mark.parametrize(
    ("asked", "standardize", "message"),
    [
        ({"baseline": 1}, "lower", "no use for a text as a string"),
        ({"smooth": 2}, "lower", "words are no numbers"),
        ({}, lambda text: text, "words cannot be taken out of this text"),
    ],
)
def test_what_cannot_be_done_with_a_string_is_refused(
    asked: dict[str, Any], standardize: Any, message: str
) -> None:
    with pytest.raises(RunError, match=message):
        explain(judging(standardize), "good  film", method="occlusion", **asked)


# Several inputs, and other targets


@every
def test_of_several_inputs_the_one_that_is_seen_is_hidden(method: str) -> None:
    picture, age = keras.Input((2, 2, 1), name="picture"), keras.Input((3,), name="age")
    joined = kl.Concatenate()([kl.Flatten()(picture), age])
    model = keras.Model([picture, age], kl.Dense(1, kernel_initializer="ones")(joined))
    docs = [np.ones((1, 2, 2, 1), np.float32), np.float32([[1, 2, -4]])]
    close(heatmap(model, docs, method=method, seen="age"), [0.25, 0.5, -1], atol=0.1)


def two_channels() -> keras.Model:
    """A segmentation: class 0 where a pixel is positive, class 1 where it is negative."""
    signs = keras.initializers.Constant(np.float32([[[[1, -1]]]]))
    return keras.Sequential([keras.Input((2, 2, 1)), kl.Conv2D(2, 1, kernel_initializer=signs)])


@every
def test_a_region_is_the_one_of_the_untouched_doc(method: str) -> None:
    doc = np.float32([[[[3], [1]], [[-1], [-2]]]])
    expl = explain(two_channels(), doc, method=method, baseline=-1, target=targets.Region(0))
    # Hidden pixels are none of the class any more, and count all the same.
    close(expl.targets[0].heatmap, [[1, 0.5], [0, 0]], atol=0.1)
    assert expl.targets[0].score == 2
    np.testing.assert_array_equal(expl.targets[0].region, [[True, True], [False, False]])
    with pytest.raises(DocError, match="gives class 0 no pixel"):
        explain(two_channels(), -np.abs(doc), method=method, target=targets.Region(0))


class Detector(keras.Model):
    """A box for each pixel, whose value is how sure the one class is; a box each is fixed."""

    def call(self, inputs: Any) -> Any:
        boxes = ops.convert_to_tensor(
            np.float32([[[0.2, 0.2, 0.4, 0.4], [0.7, 0.7, 0.2, 0.2]]])
        ) + ops.zeros_like(inputs[:, :, :1, 0])
        return {"logits": inputs[:, :, 0], "pred_boxes": boxes}


@every
def test_a_box_is_the_one_of_the_untouched_doc(method: str) -> None:
    doc = np.float32([[[[5]], [[4]]]])
    asked = {"method": method, "baseline": 0, "window": 1}
    expl = explain(Detector(name="detector"), doc, target=targets.Box(), **asked)
    # Of the other box, which is the surest while this one is hidden, there is nothing in it.
    close(expl.targets[0].heatmap, [[1], [0]], atol=0.15)
    assert expl.targets[0].box == pytest.approx((0.0, 0.0, 0.4, 0.4), abs=1e-6)


@every
@pytest.mark.parametrize(
    "target",
    [targets.Number(), targets.Likeness([1, 0]), targets.Output(0, targets.Number())],
    ids=str,
)
def test_other_targets_are_told_as_ever(method: str, target: targets.Readout) -> None:
    model, _ = linear((4,))
    ours = explain(model, drawn((1, 4)), method=method, target=target)
    saliency = explain(model, drawn((1, 4)), method="input-x-gradient", target=target)
    assert ours.targets[0].target == saliency.targets[0].target
    assert ours.targets[0].score == pytest.approx(saliency.targets[0].score)


# Refused


@every
def test_no_layer_can_be_asked_for(method: str) -> None:
    model, _ = linear((4,))
    with pytest.raises(ValueError, match=f"'{method}' hides parts of the doc, and looks at no"):
        explain(model, drawn((1, 4)), method=method, layer=0)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"window": (1, 1)}, r"window must be a whole number, or one for each axis of \(9,\)"),
        ({"window": 2, "stride": 3}, "stride at most as long as the window"),
        ({"method": "kernel-shap", "samples": 3}, "9 players cannot be told apart by fewer than"),
    ],
)
def test_what_does_not_fit_the_doc_is_refused(asked: dict[str, Any], message: str) -> None:
    model, _ = linear((9,))
    with pytest.raises(ValueError, match=message):
        explain(model, drawn((1, 9)), **{"method": "occlusion", **asked})


def test_a_window_is_at_most_the_whole_doc() -> None:
    model, _ = linear((3, 2, 1))
    doc = drawn((1, 3, 2, 1))
    found = heatmap(model, doc, method="occlusion", window=3, targets=[0])
    assert np.ptp(found) == 0
