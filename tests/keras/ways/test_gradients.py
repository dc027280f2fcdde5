"""Gradients at the doc, and of many changed docs."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from frameworks import on_tensorflow
from keras import layers as kl
from keras import ops
from tiny_models import DOC_BY_HAND, by_hand, make_doc

import kerasight
from kerasight import targets
from kerasight.base import Explanation, HeatmapWarning
from kerasight.cam.methods import METHODS
from kerasight.cam.request import Request
from kerasight.keras.explainer import Explainer
from kerasight.keras.targets import Classes
from kerasight.keras.wanted import readout_of, target_of

AT_DOC = [name for name, method in METHODS.items() if method.at == "doc"]
COMPLETE = ["integrated-gradients"]


def explain(model: keras.Model, doc: Any, **asked: Any) -> Explanation:
    return kerasight.explain_prediction(model, doc, **asked)


def heatmap(model: keras.Model, doc: Any, **asked: Any) -> np.ndarray:
    return explain(model, doc, **asked).targets[0].heatmap


def scaled(evidence: Any) -> np.ndarray:
    return np.asarray(evidence) / np.abs(evidence).max()


def linear(weights: np.ndarray) -> keras.Model:
    """A picture ``(2, 2, channels)``: its values by weights, summed."""
    model = keras.Sequential(
        [keras.Input(weights.shape), kl.Flatten(), kl.Dense(1, use_bias=False)], name="linear"
    )
    model.set_weights([weights.reshape(-1, 1)])
    return model


def squares() -> keras.Model:
    """Of a picture ``(2, 2, 1)`` the sum of squares, and of cubes: two classes."""

    class Powers(kl.Layer):
        def call(self, x: Any) -> Any:
            return ops.stack([ops.sum(x**power, axis=(1, 2, 3)) for power in (2, 3)], axis=-1)

    inputs = keras.Input((2, 2, 1))
    return keras.Model(inputs, Powers()(inputs), name="squares")


# By hand


def test_the_gradient_of_a_linear_model_is_its_weights() -> None:
    weights = np.array([[[1.0, -3], [0, 2]], [[0.5, 0.5], [0, 0]]])
    model, doc = linear(weights), make_doc((1, 2, 2, 2))
    image = keras.utils.array_to_img(np.zeros((2, 2, 3)))
    found = heatmap(model, doc, method="saliency", image=image)
    np.testing.assert_allclose(found, scaled([[3, 2], [0.5, 0]]), atol=1e-6)
    for method in ("input-x-gradient", "integrated-gradients"):
        found = heatmap(model, doc, method=method, relu=False, image=image)
        np.testing.assert_allclose(found, scaled((weights * doc[0]).sum(axis=-1)), atol=1e-6)


def test_integrated_gradients_of_powers_are_the_powers() -> None:
    # The integral of the gradient of x ** n from 0 to x is x ** n, whatever n is.
    values = DOC_BY_HAND[0, ..., 0].astype(np.float64)
    for target, power in ((0, 2), (1, 3)):
        expl = explain(
            squares(),
            DOC_BY_HAND,
            targets=[target],
            method="integrated-gradients",
            relu=False,
            samples=200,
        )
        np.testing.assert_allclose(expl.targets[0].heatmap, scaled(values**power), atol=1e-4)
        assert expl.targets[0].gap == pytest.approx(0, abs=1e-4)
        total = (values**power).sum()
        assert f"sums to {total:.4g}, and the score rises by {total:.4g}" in (
            expl.description or ""
        )


@pytest.mark.parametrize("baseline", [1.0, np.ones((2, 2, 1)), np.ones((1, 2, 2, 1)), "mean"])
def test_integrated_gradients_start_at_the_baseline(baseline: Any) -> None:
    values = DOC_BY_HAND[0, ..., 0].astype(np.float64)
    level = values.mean() if isinstance(baseline, str) else 1
    found = heatmap(
        squares(),
        DOC_BY_HAND,
        targets=[0],
        method="integrated-gradients",
        baseline=baseline,
        relu=False,
    )
    np.testing.assert_allclose(found, scaled(values**2 - level**2), atol=1e-5)


def test_few_steps_leave_a_gap_that_is_warned_of() -> None:
    # One step, at half the way: 3 (x / 2) ** 2 x is three quarters of x ** 3.
    with pytest.warns(HeatmapWarning, match="misses 25% of what it must sum to: pass more samples"):
        expl = explain(
            squares(), DOC_BY_HAND, targets=[1], method="integrated-gradients", samples=1
        )
    assert expl.targets[0].gap == pytest.approx(0.25, abs=1e-5)
    assert explain(squares(), DOC_BY_HAND, method="saliency").targets[0].gap is None


def test_expected_gradients_take_the_mean_over_baselines() -> None:
    # From 0 and from 2, evenly: the mean of x ** 2 and x ** 2 - 4, but for chance.
    docs = np.stack([np.zeros((2, 2, 1)), np.full((2, 2, 1), 2)])
    asked: dict[str, Any] = {"method": "expected-gradients", "relu": False, "baseline": docs}
    values = DOC_BY_HAND[0, ..., 0].astype(np.float64)
    found = heatmap(squares(), DOC_BY_HAND, targets=[0], samples=4000, **asked)
    np.testing.assert_allclose(found, scaled(values**2 - 2), atol=0.05)
    few = heatmap(squares(), DOC_BY_HAND, targets=[0], samples=7, **asked)
    again = heatmap(squares(), DOC_BY_HAND, targets=[0], samples=7, batch_size=3, **asked)
    np.testing.assert_allclose(again, few, atol=1e-5)
    other = heatmap(squares(), DOC_BY_HAND, targets=[0], samples=7, seed=1, **asked)
    assert not np.allclose(other, few, atol=1e-2)


def test_smoothgrad_and_its_kin_are_moments_of_the_gradients_under_noise() -> None:
    # The gradient of squares is 2 x: of noise with deviation 0.6, 2 x, 4 (x ** 2 + 0.36), 4 * 0.36.
    values = DOC_BY_HAND[0, ..., 0].astype(np.float64)
    for method, expected in (
        ("smoothgrad", np.abs(2 * values)),
        ("smoothgrad-squared", 4 * (values**2 + 0.36)),
        ("vargrad", np.ones((2, 2))),
    ):
        found = heatmap(squares(), DOC_BY_HAND, targets=[0], method=method, samples=4000)
        np.testing.assert_allclose(found, scaled(expected), atol=0.06, err_msg=method)
    calm = heatmap(squares(), DOC_BY_HAND, targets=[0], method="smoothgrad", noise=1e-6)
    np.testing.assert_allclose(calm, scaled(np.abs(values)), atol=1e-4)


# Against finite differences


@pytest.mark.parametrize("logits", [False, True])
def test_saliency_is_what_finite_differences_say(logits: bool) -> None:
    model = keras.Sequential(
        [
            keras.Input((4, 4, 1)),
            kl.Conv2D(3, 3, activation="tanh"),
            kl.GlobalAveragePooling2D(),
            kl.Dense(3, activation="softmax"),
        ]
    )
    doc = make_doc((1, 4, 4, 1))

    def score(changed: np.ndarray) -> float:
        found = keras.ops.convert_to_numpy(model(changed))[0].astype(np.float64)
        return float(np.log(found[1] / found[0]) if logits else found[1])

    step, slopes = 1e-2, np.zeros((4, 4))
    for place in np.ndindex(4, 4):
        change = np.zeros_like(doc)
        change[(0, *place, 0)] = step
        slopes[place] = (score(doc + change) - score(doc - change)) / (2 * step)
    if logits:  # by differences of logits, which finite differences of probabilities give
        one, other = (
            explain_signed(model, doc, target, "input-x-gradient") / doc[0, ..., 0]
            for target in (1, 0)
        )
        np.testing.assert_allclose(scaled(one - other), scaled(slopes), atol=5e-3)
    else:
        found = heatmap(model, doc, targets=[1], method="saliency")
        np.testing.assert_allclose(found, scaled(np.abs(slopes)), atol=5e-3)


def explain_signed(model: keras.Model, doc: np.ndarray, target: int, method: str) -> np.ndarray:
    """The evidence for a logit, by the number that it sums to."""
    request = Request.of({"method": method, "logits": True, "relu": False})
    look = Explainer(model, request).look(doc, Classes(np.array([[target]])))
    return look.heatmaps()[0].evidence


# Identities: completeness, sensitivity, implementation invariance, linearity, symmetry


@pytest.mark.parametrize("method", COMPLETE)
@pytest.mark.parametrize("baseline", ["zero", "noise", 0.3])
def test_complete_methods_sum_to_the_difference_of_scores(method: str, baseline: Any) -> None:
    model = network()
    expl = explain(
        model, make_doc(), method=method, baseline=baseline, samples=300, top_targets=3, logits=True
    )
    for target in expl.targets:
        assert target.gap == pytest.approx(0, abs=0.02)


def network(twice: bool = False) -> keras.Model:
    keras.utils.set_random_seed(3)
    first, last = kl.Conv2D(4, 3, activation="relu"), kl.Dense(3, activation="softmax")
    inputs = keras.Input((8, 8, 3))
    x = kl.Flatten()(first(inputs))
    model = keras.Model(inputs, last(x))
    if not twice:
        return model
    # The same function by another road: half of each sum, added to itself.
    halves = [weight / 2 for weight in last.get_weights()]
    logits = kl.Dense(3)
    doubled = keras.Model(inputs, kl.Softmax()(kl.Add()([logits(x), logits(x)])))
    logits.set_weights(halves)
    return doubled


@pytest.mark.parametrize("method", AT_DOC)
def test_two_models_of_one_function_have_one_map(method: str) -> None:
    doc = make_doc()
    asked: dict[str, Any] = {"method": method, "targets": [1]}
    found, other = (heatmap(network(twice), doc, **asked) for twice in (False, True))
    np.testing.assert_allclose(found, other, atol=1e-4)


@pytest.mark.parametrize("method", AT_DOC)
@pytest.mark.filterwarnings("ignore::kerasight.base.HeatmapWarning")
def test_what_the_score_does_not_depend_on_has_no_evidence(method: str) -> None:
    inputs = keras.Input((4, 6, 1))
    hidden = kl.Dense(4, activation="tanh")(kl.Flatten()(inputs[:, :, :3]))
    model = keras.Model(inputs, kl.Dense(2)(hidden))
    found = heatmap(model, make_doc((1, 4, 6, 1)), method=method)
    assert found[:, :3].any()
    assert not found[:, 3:].any()


@pytest.mark.parametrize("method", ["input-x-gradient", "integrated-gradients"])
def test_the_evidence_for_a_sum_is_the_sum_of_the_evidence(method: str) -> None:
    model, doc = network(), make_doc()
    first, second, both = (
        Explained(model, doc, method, target)
        for target in (
            targets.Class(0),
            targets.Class(1),
            lambda outputs: outputs[:, 0] + outputs[:, 1],
        )
    )
    np.testing.assert_allclose(both.evidence, first.evidence + second.evidence, atol=1e-6)


class Explained:
    """The evidence of one explanation."""

    def __init__(self, model: keras.Model, doc: np.ndarray, method: str, target: Any) -> None:
        readout = readout_of(target, None)
        request = Request.of({"method": method, "relu": False})
        look = Explainer(model, request, readout=readout).look(doc, target_of(None, None, readout))
        self.evidence = look.heatmaps()[0].evidence


@pytest.mark.parametrize("method", ["saliency", "input-x-gradient", *COMPLETE, "smoothgrad"])
def test_places_that_are_alike_have_the_same_evidence(method: str) -> None:
    inputs = keras.Input((4, 4, 1))
    model = keras.Model(inputs, kl.Dense(2, activation="tanh")(kl.GlobalAveragePooling2D()(inputs)))
    doc = np.full((1, 4, 4, 1), 0.7, np.float32)
    # A doc without range gets no noise.
    found = heatmap(model, doc, method=method, relu=not METHODS[method].is_signed)
    np.testing.assert_allclose(found, found[0, 0], atol=1e-5)
    assert np.abs(found).max() > 0.5


# All kinds of docs and models


@pytest.mark.parametrize("method", AT_DOC)
@pytest.mark.parametrize("shape", [(7,), (6, 2), (5, 6, 3), (3, 4, 5, 1)])
@pytest.mark.filterwarnings("ignore::kerasight.base.HeatmapWarning")
def test_heatmaps_have_the_resolution_of_the_doc(method: str, shape: tuple[int, ...]) -> None:
    inputs = keras.Input(shape)
    model = keras.Model(inputs, kl.Dense(2)(kl.Dense(3, activation="tanh")(kl.Flatten()(inputs))))
    expl = explain(model, make_doc((1, *shape)), method=method, samples=few(method))
    assert expl.targets[0].heatmap.shape == (shape[:-1] or shape)
    assert expl.layer is None
    assert np.isfinite(expl.targets[0].heatmap).all()


def few(method: str) -> int | None:
    return 3 if METHODS[method].samples else None


def test_a_doc_that_is_channels_first_is_shown_channels_last() -> None:
    inputs = keras.Input((3, 4, 5))
    x = kl.AveragePooling2D(2, data_format="channels_first")(inputs)
    model = keras.Model(inputs, kl.Dense(2)(kl.Flatten()(x)))
    expl = explain(model, make_doc((1, 3, 4, 5)), method="integrated-gradients")
    assert expl.targets[0].heatmap.shape == (4, 5)
    assert expl.targets[0].gap == pytest.approx(0, abs=1e-4)


def test_whole_numbers_are_differentiated_as_numbers() -> None:
    doc = np.arange(16, dtype=np.uint8).reshape(1, 4, 4, 1)
    model = keras.Sequential(
        [keras.Input((4, 4, 1)), kl.Rescaling(1 / 255), kl.Flatten(), kl.Dense(2)]
    )
    found, same = (
        heatmap(model, one, method="input-x-gradient") for one in (doc, doc.astype(np.float32))
    )
    np.testing.assert_allclose(found, same, atol=1e-6)


# A linear model has no variance.
@pytest.mark.parametrize("method", sorted({*AT_DOC} - {"vargrad"}))
def test_words_are_looked_at_as_the_embedding_has_them(method: str) -> None:
    inputs = keras.Input((4,), dtype="int32")
    embedding = kl.Embedding(5, 1, name="embedding")
    model = keras.Model(inputs, kl.Dense(1, use_bias=False)(kl.Flatten()(embedding(inputs))))
    embedding.set_weights([np.array([[0.0], [1], [2], [-1], [3]])])
    model.layers[-1].set_weights([np.array([[1.0], [1], [2], [0]])])
    expl = explain(model, np.array([[1, 2, 3, 4]]), method=method)
    assert (expl.kind, expl.layer) == ("text", "embedding")
    assert expl.targets[0].heatmap.shape == (4,)
    if method in ("input-x-gradient", "integrated-gradients"):
        # Ids 1 to 4 stand for 1, 2, -1 and 3, with weights 1, 1, 2 and 0.
        np.testing.assert_allclose(expl.targets[0].heatmap, [0.5, 1, 0, 0], atol=1e-5)
    if method == "saliency":
        np.testing.assert_allclose(expl.targets[0].heatmap, [0.5, 0.5, 1, 0], atol=1e-5)


@on_tensorflow
def test_a_model_of_words_without_an_embedding_asks_for_a_layer() -> None:
    class OneHot(kl.Layer):
        def call(self, x: Any) -> Any:
            return ops.one_hot(x, 5)

    inputs = keras.Input((1,), dtype="string")
    words = kl.TextVectorization(output_sequence_length=4, vocabulary=["a", "b", "c"])
    numbers = OneHot(name="one_hot")(words(inputs))
    model = keras.Model(inputs, kl.Dense(2)(kl.Flatten()(numbers)))
    with pytest.raises(ValueError, match=r"has no Embedding that .* pass the layer that does as"):
        explain(model, "a b c", method="saliency")
    assert explain(model, "a b c", method="saliency", layer="one_hot").targets[0].heatmap.shape == (
        4,
    )


def test_a_layer_may_stand_in_the_place_of_the_doc() -> None:
    model = by_hand()
    expl = explain(
        model, DOC_BY_HAND, method="integrated-gradients", layer="map", targets=[0], relu=False
    )
    assert expl.layer == "map"
    # Linear: channel 0 is the doc, of which class 0 is the mean.
    np.testing.assert_allclose(expl.targets[0].heatmap, scaled(DOC_BY_HAND[0, ..., 0]), atol=1e-5)
    assert expl.targets[0].gap == pytest.approx(0, abs=1e-5)


def test_of_several_inputs_the_one_that_is_seen_is_differentiated() -> None:
    image, age = keras.Input((3, 3, 1), name="image"), keras.Input((1,), name="age")
    score = kl.Dense(1, use_bias=False)(kl.Flatten()(image)) * age
    model = keras.Model({"image": image, "age": age}, score)
    doc = {"image": make_doc((1, 3, 3, 1)), "age": np.array([[2.0]], np.float32)}
    found = explain(model, doc, method="integrated-gradients", relu=False)
    weights = model.get_weights()[0].reshape(3, 3)
    np.testing.assert_allclose(
        found.targets[0].heatmap, scaled(weights * doc["image"][0, ..., 0]), atol=1e-5
    )


def test_a_stream_gives_what_each_doc_gives() -> None:
    model, docs = network(), np.concatenate([make_doc(seed=seed) for seed in range(3)])
    for method in AT_DOC:
        asked: dict[str, Any] = {"method": method, "samples": few(method), "top_targets": 2}
        stream = list(kerasight.explain_predictions(model, docs, **asked))
        for doc, expl in zip(docs, stream, strict=True):
            alone = explain(model, doc[np.newaxis], **asked)
            for one, other in zip(expl.targets, alone.targets, strict=True):
                np.testing.assert_allclose(one.heatmap, other.heatmap, atol=1e-4)


def test_a_compiled_pass_gives_what_an_eager_one_does() -> None:
    model = network()
    maps = [heatmap(model, make_doc(), method="saliency") for _ in range(6)]
    for later in maps:
        np.testing.assert_allclose(later, maps[0], atol=1e-5)


def test_a_score_that_cannot_be_differentiated_by_the_doc_is_told() -> None:
    class Top(kl.Layer):
        def call(self, x: Any) -> Any:
            return ops.one_hot(ops.argmax(x, axis=-1), 4)

    inputs = keras.Input((2, 2, 1))
    model = keras.Model(inputs, kl.Dense(2)(Top()(kl.Flatten()(inputs))))
    with pytest.raises(ValueError, match="the doc has no gradient to the score"):
        explain(model, make_doc((1, 2, 2, 1)), method="saliency")


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"baseline": np.ones((3, 3, 1))}, r"shape of a doc, \(2, 2, 1\), or of several"),
        ({"baseline": np.ones((2, 2, 2, 1))}, "takes one baseline, got 2; expected-gradients"),
    ],
)
def test_a_baseline_must_fit(asked: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        explain(by_hand(), DOC_BY_HAND, method="integrated-gradients", **asked)
