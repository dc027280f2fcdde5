from __future__ import annotations

import gc
import weakref
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers as kl
from PIL import Image
from tiny_models import (
    DOC_BY_HAND,
    MODELS,
    OF_EACH_WAY,
    Chain,
    backbone,
    by_hand,
    doc_for,
    few,
    head,
    make_doc,
    models_for,
    scores_of,
    state_of,
)

import kerasight
from kerasight.base import Explanation
from kerasight.cam.maps import resized
from kerasight.cam.methods import METHODS
from kerasight.cam.request import Request
from kerasight.keras.anatomy import Anatomy
from kerasight.keras.explainer import Explainer
from kerasight.keras.record import record
from kerasight.keras.targets import Classes
from kerasight.keras.traces import WORTH_A_TRACE

pytestmark = pytest.mark.filterwarnings("ignore::kerasight.base.HeatmapWarning")


def explain(model: keras.Model, doc: np.ndarray | None = None, **asked: Any) -> Explanation:
    doc = make_doc() if doc is None else doc
    if doc.shape[-1] == 2:  # of which no picture can be made
        asked["image"] = Image.new("L", (4, 4))
    return kerasight.explain_prediction(model, doc, **asked)


def heatmap(model: keras.Model, doc: np.ndarray | None = None, **asked: Any) -> np.ndarray:
    return explain(model, doc, **asked).targets[0].heatmap


# An explainer by itself, as the command line has it


@pytest.mark.parametrize("layer", [None, "conv", ["conv", "mix"]])
def test_an_explainer_gives_what_the_doors_give(layer: Any) -> None:
    model, names = MODELS["functional"](), ["ant", "bee", "cat"]
    docs = np.concatenate([make_doc(seed=seed) for seed in range(3)])
    picture = Image.new("RGB", (8, 8))
    explainer = Explainer(model, Request(logits=True), layer, names)
    look = explainer.look(docs, Classes.top(2))
    for place, doc in enumerate(docs):
        wanted = explain(
            model, doc[np.newaxis], layer=layer, logits=True, top_targets=2, target_names=names
        )
        found = look.explanation(place, picture)
        assert (found.layer, found.method, found.description) == (
            wanted.layer,
            wanted.method,
            wanted.description,
        )
        for one, other in zip(found.targets, wanted.targets, strict=True):
            assert (one.target, one.name) == (other.target, names[one.target])
            np.testing.assert_allclose(one.heatmap, other.heatmap, atol=1e-5)


def test_the_site_of_a_heatmap_is_one_to_look_at_again() -> None:
    model = MODELS["subclassed, training argument"]()
    first = Explainer(model).look(make_doc(), Classes.top(1)).heatmaps()[0]
    again = Explainer(model, layer=first.site).look(make_doc(), Classes.top(1)).heatmaps()[0]
    assert first.path == again.path == "drop:input"
    np.testing.assert_allclose(again.values, first.values, atol=1e-6)


def test_a_layer_that_is_not_there_is_told_before_the_model_runs() -> None:
    Explainer(MODELS["functional"](), layer=["conv", -1]).check_layer()
    with pytest.raises(ValueError, match="no layer 'cone'"):
        Explainer(MODELS["functional"](), layer=["conv", "cone"]).check_layer()
    # Its layers may be made when it is first called.
    Explainer(MODELS["custom layer, built late"](), layer="inside").check_layer()


# Models whose one input has a name, or stands in a list


@pytest.mark.parametrize("method", ["grad-cam", "score-cam", "ablation-cam"])
@pytest.mark.parametrize(
    "structure",
    [
        lambda x: {"image": x},
        lambda x: [x],
        pytest.param(
            lambda x: [{"image": x}],
            marks=pytest.mark.skipif(
                not hasattr(keras, "RematScope"), reason="of later versions of Keras"
            ),
        ),
    ],
    ids=["dict", "list", "nested"],
)
def test_a_doc_goes_in_where_the_model_has_its_input(structure: Any, method: str) -> None:
    plain = MODELS["functional"]()
    inputs = keras.Input((8, 8, 3), name="image")
    x = inputs
    model = keras.Model(structure(inputs), plain(x), name="structured")
    docs = np.concatenate([make_doc(seed=seed) for seed in range(WORTH_A_TRACE)])
    asked = {"method": method, "logits": True, "smooth": 2, "batch_size": 4}
    for _ in range(2):
        for one, other in zip(
            kerasight.explain_predictions(model, docs, **asked),
            kerasight.explain_predictions(plain, docs, **asked),
            strict=True,
        ):
            assert one.layer == f"functional/{other.layer}"
            np.testing.assert_allclose(one.targets[0].heatmap, other.targets[0].heatmap, atol=1e-4)


# Questions


@pytest.mark.parametrize("method", OF_EACH_WAY)
def test_each_method_explains_each_kind_of_model_and_leaves_it_as_it_was(method: str) -> None:
    for name in models_for(method):
        model, doc = MODELS[name](), doc_for(name)
        before_scores = scores_of(model, doc)
        before = state_of(model)
        if method == "finer-cam" and name == "one sigmoid unit":
            with pytest.raises(ValueError, match="no class to compare with"):
                explain(model, doc, method=method)
            continue
        for _ in range(2):
            expl = explain(model, doc, method=method, logits=True, **few(method))
        assert np.isfinite(expl.targets[0].heatmap).all()
        assert expl.method == METHODS[method].title
        assert state_of(model) == before
        np.testing.assert_array_equal(scores_of(model, doc), before_scores)


@pytest.mark.parametrize("method", OF_EACH_WAY)
def test_a_compiled_pass_gives_what_an_eager_one_does(method: str) -> None:
    model = MODELS["functional"]()
    asked = {"method": method, "targets": [1], **few(method)}
    maps = [heatmap(model, **asked) for _ in range(WORTH_A_TRACE + 3)]
    for later in maps:
        np.testing.assert_allclose(later, maps[0], atol=1e-4)


@pytest.mark.parametrize(
    ("asked", "error", "message"),
    [
        # Of all that `Request` refuses, one by its type, one by its value and one by the method.
        ({"relu": 0}, TypeError, "relu must be True or False, got int"),
        ({"smooth": -1}, ValueError, "smooth must be at least 0, got -1"),
        ({"method": "score-cam", "relu": False}, ValueError, "cannot do relu=False"),
        ({"method": "finer-cam", "references": [2]}, ValueError, r"reference 2 is .* \[0, 2\)"),
        ({"method": "finer-cam", "references": [-1]}, ValueError, "reference -1 is out of range"),
        ({"layer": []}, ValueError, "at least one layer"),
        ({"layer": ["map", None]}, TypeError, "got None in the list"),
        ({"layer": ["map", "mop"]}, ValueError, "no layer 'mop'.*'map'"),
    ],
)
def test_questions_that_make_no_sense_are_refused(
    asked: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        explain(by_hand(), DOC_BY_HAND, **asked)
    with pytest.raises(error, match=message):
        list(kerasight.explain_predictions(by_hand(), DOC_BY_HAND, **asked))


# Signs


def test_without_relu_the_heatmap_is_signed() -> None:
    expl = explain(by_hand(), DOC_BY_HAND, targets=[0], relu=False)
    np.testing.assert_allclose(expl.targets[0].heatmap, np.array([[0.25, 0.5], [-1, 0]]), atol=1e-6)
    assert expl.targets[0].signed
    assert expl.method == "Grad-CAM (signed)"
    assert "below zero what speaks against it" in expl.description
    assert not explain(by_hand(), DOC_BY_HAND, targets=[0]).targets[0].signed


@pytest.mark.parametrize("method", ["grad-cam", "hirescam", "xgrad-cam", "ablation-cam"])
def test_the_counterfactual_is_what_relu_cuts_off(method: str) -> None:
    signed = heatmap(by_hand(), DOC_BY_HAND, targets=[0], relu=False, method=method)
    against = explain(by_hand(), DOC_BY_HAND, targets=[0], counterfactual=True, method=method)
    cut_off = np.maximum(-signed, 0)
    np.testing.assert_allclose(against.targets[0].heatmap, cut_off / cut_off.max(), atol=1e-5)
    assert "speaks against the class" in against.description
    assert against.method == f"{METHODS[method].title} (counterfactual)"


def test_a_signed_counterfactual_is_the_negative() -> None:
    model = MODELS["functional"]()
    signed = heatmap(model, relu=False)
    np.testing.assert_allclose(heatmap(model, relu=False, counterfactual=True), -signed, atol=1e-6)


def one_unit(bias: float) -> keras.Model:
    """One sigmoid unit, which speaks for class 1; below one half the model says class 0."""
    model = keras.Sequential(
        [
            keras.Input((2, 2, 1)),
            kl.Conv2D(1, 1, use_bias=False, name="map"),
            kl.GlobalAveragePooling2D(),
            kl.Dense(1, activation="sigmoid"),
        ]
    )
    model.set_weights([np.ones((1, 1, 1, 1)), np.ones((1, 1)), np.array([bias])])
    return model


@pytest.mark.parametrize("asked", [{}, {"targets": [0]}, {"logits": True}])
def test_of_one_sigmoid_unit_the_counterfactual_is_the_other_class(asked: dict[str, Any]) -> None:
    model = one_unit(-3)
    expl = explain(model, DOC_BY_HAND, **asked)
    assert expl.targets[0].target == 0
    assert "counterfactual=True shows what speaks for that one" in expl.description
    np.testing.assert_allclose(expl.targets[0].heatmap > 0, [[True, True], [False, False]])
    other = heatmap(model, DOC_BY_HAND, counterfactual=True, **asked)
    np.testing.assert_allclose(other > 0, [[False, False], [True, False]])
    assert "that one" not in explain(one_unit(3), DOC_BY_HAND, **asked).description


def test_a_signed_heatmap_is_drawn_red_for_the_class_and_blue_against_it() -> None:
    expl = explain(
        by_hand(), DOC_BY_HAND, targets=[0], relu=False, image=Image.new("L", (2, 2), 128)
    )
    for_it, stronger, against, neither = (
        kerasight.format_as_image(
            expl, resampling_filter="nearest", alpha_limit=1
        ).get_flattened_data()
        if hasattr(Image.Image, "get_flattened_data")
        else list(
            kerasight.format_as_image(expl, resampling_filter="nearest", alpha_limit=1).getdata()
        )
    )
    assert neither == (128, 128, 128, 255)
    assert against[2] > against[0] + 100
    assert stronger[0] > stronger[2] + 50
    assert stronger[0] - stronger[2] > for_it[0] - for_it[2] > 0


# Several layers


def test_one_layer_in_a_list_is_that_layer() -> None:
    model = MODELS["functional"]()
    np.testing.assert_array_equal(heatmap(model, layer=["conv"]), heatmap(model, layer="conv"))


def test_several_layers_are_averaged_at_the_greatest_resolution() -> None:
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            kl.Conv2D(4, 3, padding="same", name="fine"),
            kl.AveragePooling2D(2, name="coarse"),
            kl.GlobalAveragePooling2D(),
            kl.Dense(2),
        ]
    )
    expl = explain(model, layer=["fine", "coarse"], relu=False)
    fine, coarse = (heatmap(model, layer=name, relu=False) for name in ("fine", "coarse"))
    mean = (fine + resized(coarse, (8, 8))) / 2
    assert expl.layer == "fine + coarse"
    np.testing.assert_allclose(expl.targets[0].heatmap, mean / abs(mean).max(), atol=1e-5)


def test_several_layers_work_with_every_method_and_in_a_stream() -> None:
    model = MODELS["functional in sequential in sequential"]()
    docs = np.concatenate([make_doc(seed=seed) for seed in range(3)])
    for method in (name for name, one in METHODS.items() if one.sees_layers):
        asked = {
            "layer": ["conv", "squash"],
            "method": method,
            "logits": True,
            **few(method),
        }
        stream = list(kerasight.explain_predictions(model, docs, **asked))
        for doc, expl in zip(docs, stream, strict=True):
            np.testing.assert_allclose(
                expl.targets[0].heatmap, heatmap(model, doc[np.newaxis], **asked), atol=1e-4
            )


# Noise


@pytest.mark.parametrize("method", OF_EACH_WAY)
def test_smoothing_averages_over_seeded_noise(method: str) -> None:
    model, random = MODELS["functional"](), np.random.default_rng(0)
    model.set_weights([random.normal(0, 0.5, weight.shape) for weight in model.get_weights()])
    layer = "conv" if METHODS[method].sees_layers else None
    asked = {"method": method, "targets": [1], "logits": True, "layer": layer, **few(method)}
    smooth = heatmap(model, smooth=4, **asked)
    np.testing.assert_allclose(heatmap(model, smooth=4, batch_size=3, **asked), smooth, atol=1e-4)
    assert not np.allclose(heatmap(model, smooth=4, seed=1, **asked), smooth, atol=1e-3)
    assert not np.allclose(heatmap(model, **asked), smooth, atol=1e-3)


def test_smoothing_is_the_mean_evidence_of_the_noisy_copies() -> None:
    model, random = by_hand(), np.random.default_rng(7)
    noisy = DOC_BY_HAND + random.normal(0, 0.1 * 6, (5, 2, 2, 1)).astype(
        np.float32
    )  # DOC_BY_HAND spans -4..2
    # Linear: the evidence for class 0 is the picture itself.
    mean = noisy.mean(axis=0)[..., 0]
    expected = mean / abs(mean).max()
    found = heatmap(model, DOC_BY_HAND, targets=[0], smooth=5, seed=7, relu=False)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_smoothing_explains_the_class_and_score_of_the_doc_itself() -> None:
    model = MODELS["functional"]()
    plain, smooth = explain(model), explain(model, smooth=3)
    assert smooth.targets[0].target == plain.targets[0].target
    assert smooth.targets[0].score == plain.targets[0].score
    assert smooth.method == "Grad-CAM (smoothed over 3)"


def test_smoothing_takes_docs_of_bytes() -> None:
    doc = np.arange(4, dtype=np.uint8).reshape(1, 2, 2, 1)
    assert np.isfinite(heatmap(by_hand(), doc, smooth=2)).all()


# Methods that run the model often


@pytest.mark.parametrize("name", ["functional", "channels first", "nested in subclassed", "shared"])
def test_ablation_sets_one_channel_after_the_other_to_zero(name: str) -> None:
    model, doc = MODELS[name](), doc_for(name)
    terms = record(model, doc, [1], Anatomy(model).find("seen"))
    drops = []
    axis = 0 if name == "channels first" else -1
    for channel in range(terms.activations.shape[-1]):
        # By hand: the layer's own call, with a channel less.
        call, calls = terms.layer.call, [0]
        runs = 2 if name == "shared" else 1

        def without(inputs: Any, *args: Any, **kwargs: Any) -> Any:
            output = keras.ops.convert_to_numpy(call(inputs, *args, **kwargs)).copy()  # noqa: B023
            calls[0] += 1  # noqa: B023
            if calls[0] == runs:  # noqa: B023
                np.moveaxis(output[0], axis, 0)[channel] = 0  # noqa: B023
            return keras.ops.convert_to_tensor(output)

        vars(terms.layer)["call"] = without
        drops.append(terms.score - float(scores_of(model, doc)[1]))
        del vars(terms.layer)["call"]
    evidence = terms.activations @ np.array(drops)
    found = heatmap(model, doc, targets=[1], layer="seen", method="ablation-cam", relu=False)
    assert abs(evidence).max() > 1e-4
    np.testing.assert_allclose(found, evidence / (abs(evidence).max() + 1e-7), atol=1e-2)


def test_ablation_runs_again_only_what_comes_after_the_layer() -> None:
    runs = {"before": 0, "after": 0}

    class Counted(kl.Layer):
        def call(self, inputs: Any) -> Any:
            from frameworks import tf

            def count(_: np.ndarray) -> np.float32:
                runs[self.name] += 1
                return np.float32(0)

            # Without state, as a convolution is: what nobody asks for is not run.
            zero = tf.numpy_function(count, [inputs], tf.float32, stateful=False)
            return inputs + tf.stop_gradient(tf.reshape(zero, ()))

    inputs = keras.Input((8, 8, 3))
    x = Counted(name="before")(inputs)
    x = kl.Conv2D(6, 3, name="map")(x)
    x = Counted(name="after")(kl.GlobalAveragePooling2D()(x))
    model = keras.Model(inputs, kl.Dense(3)(x))
    explain(model, layer="map", method="ablation-cam", batch_size=2)
    before = dict(runs)
    explain(model, layer="map", method="ablation-cam", batch_size=2)
    assert runs["before"] - before["before"] == 1  # the pass that sees the activations
    assert runs["after"] - before["after"] == 1 + 3


def test_ablation_of_a_layer_with_a_branch_around_it_keeps_the_branch() -> None:
    inputs = keras.Input((4, 4, 2))
    x = kl.Conv2D(2, 1, use_bias=False, name="map")(inputs)
    x = kl.GlobalAveragePooling2D()(kl.Add()([x, inputs]))
    model = keras.Model(inputs, kl.Dense(2, use_bias=False)(x))
    doc = make_doc((1, 4, 4, 2))
    # Linear: without channel k the score falls by the part that channel k has in it.
    terms = record(model, doc, [0], model.get_layer("map"))
    drops = terms.activations.mean(axis=(0, 1)) * model.layers[-1].get_weights()[0][:, 0]
    evidence = terms.activations @ drops
    found = heatmap(model, doc, targets=[0], layer="map", method="ablation-cam", relu=False)
    np.testing.assert_allclose(found, evidence / abs(evidence).max(), atol=1e-4)


def test_ablation_works_on_a_model_that_cannot_be_traced() -> None:
    class OnlyEager(kl.Layer):
        def call(self, inputs: Any) -> Any:
            return inputs * float(keras.ops.max(inputs) > -1e9)

    eager = Chain([backbone(), OnlyEager(), *head()], name="eager")
    traced = Chain([*eager.stack[:1], *eager.stack[2:]], name="traced")
    asked = {"layer": "conv", "method": "ablation-cam", "logits": True, "targets": [0]}
    eager(make_doc())
    for _ in range(2):
        np.testing.assert_allclose(heatmap(eager, **asked), heatmap(traced, **asked), atol=1e-4)


@pytest.mark.parametrize("name", ["functional", "channels first"])
@pytest.mark.parametrize("kind", ["probabilities", "their logits", "logits"])
def test_score_cam_weights_channels_by_what_the_model_says_through_them(
    name: str, kind: str
) -> None:
    model, doc = MODELS[name](), doc_for(name)
    without_softmax = MODELS[name]()
    without_softmax.set_weights(model.get_weights())
    without_softmax.layers[-1].activation = keras.activations.linear
    says = model if kind == "probabilities" else without_softmax
    terms = record(model, doc, [1], Anatomy(model).find("seen"))
    size = doc.shape[2:] if name == "channels first" else doc.shape[1:3]
    scores = []
    for channel in range(terms.activations.shape[-1]):
        mask = resized(terms.activations[..., channel], size)
        mask = (mask - mask.min()) / (mask.max() - mask.min())  # enlarged first
        mask = mask if name == "channels first" else mask[..., np.newaxis]
        scores.append(scores_of(says, (doc * mask).astype(np.float32))[1])
    weights = np.array(scores) if kind == "probabilities" else np.exp(scores)
    evidence = np.maximum(terms.activations @ (weights / weights.sum()), 0)
    asked = {"layer": "seen", "method": "score-cam", "logits": kind == "their logits"}
    for batch_size in (1, 3, 1000):
        found = heatmap(
            without_softmax if kind == "logits" else model,
            doc,
            targets=[1],
            batch_size=batch_size,
            **asked,
        )
        np.testing.assert_allclose(found, evidence / evidence.max(), atol=1e-4)


def seen_through(last: Any) -> keras.Model:
    """Two channels, and a class for what is in each."""
    inputs = keras.Input((2, 2, 2))
    x = kl.Conv2D(2, 1, use_bias=False, name="map")(inputs)
    x = kl.Dense(2, use_bias=False)(kl.GlobalAveragePooling2D()(x))
    model = keras.Model(inputs, last(x))
    model.set_weights([np.eye(2).reshape(1, 1, 2, 2), 40 * np.eye(2)])
    return model


@pytest.mark.parametrize(
    ("last", "of_the_other"),
    [
        (keras.activations.softmax, 0),
        (keras.activations.sigmoid, 0.5),  # of several labels: they sum to anything
        (lambda x: (keras.ops.softmax(x) + keras.ops.softmax(x)) / 2, 0),  # its logits are hidden
    ],
)
def test_score_cam_takes_for_probabilities_what_comes_out_of_a_softmax_or_sigmoid(
    last: Any, of_the_other: float
) -> None:
    model, doc = seen_through(last), np.zeros((1, 2, 2, 2), np.float32)
    doc[0, 0, 0, 0] = doc[0, 1, 1, 1] = 1  # each class in a corner of its own, with logit 10
    asked = {"method": "score-cam", "image": Image.new("L", (2, 2))}
    first, second = (heatmap(model, doc, targets=[index], **asked) for index in (0, 1))
    np.testing.assert_allclose(first, [[1, 0], [0, of_the_other]], atol=1e-3)
    np.testing.assert_allclose(second, [[of_the_other, 0], [0, 1]], atol=1e-3)


def test_score_cam_takes_small_logits_for_logits() -> None:
    # All in [0, 1], for this doc: the model says what they are.
    model = by_hand()
    model.layers[-1].set_weights([np.array([[0.4, 0.3], [0.1, 0.2]])])
    doc = np.array([[[[1.0], [0.5]], [[0.25], [0.0]]]], np.float32)
    scores = scores_of(model, doc)
    assert scores.min() > 0
    assert scores.max() < 1
    # Through the picture itself, and through its negative; class 0 weighs them 0.4 and 0.1.
    own = (1 + 0.25 + 0.0625) / 4
    other = (0.25 + 0.1875) / 4
    weights = np.exp([0.3 * own, 0.3 * other])
    share = weights / weights.sum()
    evidence = (share[0] - share[1]) * doc[0, ..., 0]
    found = heatmap(model, doc, targets=[0], method="score-cam")
    np.testing.assert_allclose(found, evidence / (evidence.max() + 1e-7), atol=1e-4)


def test_a_channel_that_is_the_same_everywhere_lets_nothing_through() -> None:
    model = by_hand()
    model.layers[0].set_weights([np.zeros((1, 1, 1, 2))])
    assert not heatmap(model, DOC_BY_HAND, method="score-cam").any()


def test_gradient_free_methods_need_no_gradient_at_a_layer_that_is_given() -> None:
    class Steps(kl.Layer):
        def call(self, inputs: Any) -> Any:
            return keras.ops.stop_gradient(keras.ops.round(8 * inputs) / 8)

    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            kl.Conv2D(4, 3, activation="relu", name="map"),
            Steps(),
            kl.GlobalAveragePooling2D(),
            kl.Dense(2),
        ]
    )
    with pytest.raises(ValueError, match="no gradient"):
        explain(model, layer="map")
    for method in ("eigen-cam", "score-cam", "ablation-cam"):
        assert heatmap(model, layer="map", method=method, targets=[0]).shape == (6, 6)


def test_several_classes_share_the_runs_of_score_cam(monkeypatch: pytest.MonkeyPatch) -> None:
    model = MODELS["functional"]()
    both = explain(model, method="score-cam", top_targets=2).targets
    for one in both:
        alone = heatmap(model, method="score-cam", targets=[one.target])
        np.testing.assert_allclose(one.heatmap, alone, atol=1e-5)


def test_a_bar_shows_how_far_a_slow_method_is(capsys: pytest.CaptureFixture[str]) -> None:
    for method in ("score-cam", "ablation-cam"):
        explain(MODELS["functional"](), method=method, progress=True)
        shown = capsys.readouterr().err
        assert f"{method}: " in shown
        assert "/5 " in shown  # channels
        for progress in (None, False):  # standard error is no terminal here
            explain(MODELS["functional"](), method=method, progress=progress)
        assert capsys.readouterr().err == ""


# Finer-CAM


def six_classes(last: str | None = "softmax") -> keras.Model:
    """Linear from its map to the logits of six classes."""
    return keras.Sequential(
        [
            keras.Input((4, 4, 2)),
            kl.Conv2D(5, 1, use_bias=False, name="map"),
            kl.GlobalAveragePooling2D(),
            kl.Dense(6, activation=last),
        ]
    )


SMALL = make_doc((1, 4, 4, 2))
ON_GREY = {"image": Image.new("L", (4, 4)), "method": "finer-cam", "logits": True, "relu": False}


def logits_by_hand(model: keras.Model, doc: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The map, shape ``(4, 4, 5)``, and the logits of six classes."""
    kernel, bias = model.layers[-1].get_weights()
    activations = doc[0] @ model.layers[0].get_weights()[0][0, 0]
    return activations, activations.mean(axis=(0, 1)) @ kernel + bias


def nearest(logits: np.ndarray, target: int, number: int) -> list[int]:
    order = [int(index) for index in np.argsort(abs(logits - logits[target]))]
    return [index for index in order if index != target][:number]


def compared(
    model: keras.Model, doc: np.ndarray, target: int, rivals: list[int], alpha: float
) -> np.ndarray:
    """The evidence of Finer-CAM, the score of a class less that of its rivals."""
    kernel = model.layers[-1].get_weights()[0]
    activations, _ = logits_by_hand(model, doc)
    return activations @ (kernel[:, target] - alpha * kernel[:, rivals].mean(axis=1))


def test_finer_cam_takes_a_share_of_the_nearest_classes_from_the_score() -> None:
    model = six_classes()
    _, logits = logits_by_hand(model, SMALL)
    for time in range(WORTH_A_TRACE + 3):  # eager, and compiled
        alpha, number = (None, 0.3, 2)[time % 3], (None, 1, 99)[time % 3]
        found = heatmap(model, SMALL, targets=[2], alpha=alpha, references=number, **ON_GREY)
        rivals = nearest(logits, 2, number or 3)
        evidence = compared(model, SMALL, 2, rivals, 0.6 if alpha is None else alpha)
        np.testing.assert_allclose(found, evidence / abs(evidence).max(), atol=1e-4)


def test_finer_cam_takes_classes_to_compare_with() -> None:
    model = six_classes()
    for references in ([1, 4], (4, 1), np.array([1, 2, 4, 4])):  # itself does not count
        for _ in range(WORTH_A_TRACE + 1):
            found = heatmap(model, SMALL, targets=[2], references=references, **ON_GREY)
            evidence = compared(model, SMALL, 2, [1, 4], 0.6)
            np.testing.assert_allclose(found, evidence / abs(evidence).max(), atol=1e-4)


def test_finer_cam_with_no_strength_is_grad_cam() -> None:
    model = six_classes()
    asked = {**ON_GREY, "targets": [2]}
    np.testing.assert_allclose(
        heatmap(model, SMALL, alpha=0, **asked),
        heatmap(model, SMALL, **{**asked, "method": "grad-cam"}),
        atol=1e-5,
    )


def test_finer_cam_compares_the_score_that_is_explained() -> None:
    # Of two probabilities, one is what the other is not: p - 0.6 (1 - p), a multiple of p.
    model = by_hand("softmax")
    probability = heatmap(model, DOC_BY_HAND, targets=[0], relu=False)
    found = heatmap(model, DOC_BY_HAND, targets=[0], method="finer-cam", relu=False)
    np.testing.assert_allclose(found, probability, atol=1e-5)


def test_each_class_has_rivals_of_its_own() -> None:
    model = six_classes()
    _, logits = logits_by_hand(model, SMALL)
    names = list("abcdef")
    for number in (2, [0, 3, 5]):
        expl = explain(
            model, SMALL, top_targets=6, references=number, target_names=names, **ON_GREY
        )
        for one in expl.targets:
            if number == 2:
                rivals = nearest(logits, one.target, 2)
            else:
                rivals = [index for index in (0, 3, 5) if index != one.target]
            evidence = compared(model, SMALL, one.target, rivals, 0.6)
            np.testing.assert_allclose(one.heatmap, evidence / abs(evidence).max(), atol=1e-4)
            rivals.sort(key=lambda index: -logits[index])
            shown = ", ".join(f"{names[index]} ({index})" for index in rivals)
            assert f"Compared: {one.label} with {shown}.\n" in expl.description
    assert "Compared" not in explain(by_hand(), DOC_BY_HAND).description


def test_a_long_list_of_rivals_is_cut_short() -> None:
    model = keras.Sequential([*six_classes().layers[:2], kl.Dense(9)])
    found = explain(model, SMALL, targets=[0], references=8, **{**ON_GREY, "logits": False})
    assert found.description.endswith(" and 3 more.\n")
    assert found.description.rpartition("Compared: ")[2].count("class ") == 1 + 5


def test_a_class_that_is_its_own_only_rival_is_refused() -> None:
    model = six_classes()
    with pytest.raises(ValueError, match=r"class 2 has no class to be .* none but itself"):
        explain(model, SMALL, targets=[2], references=[2], **ON_GREY)
    asked = {name: value for name, value in ON_GREY.items() if name != "image"}
    stream = kerasight.explain_predictions(
        model,
        np.concatenate([SMALL, SMALL]),
        images=[ON_GREY["image"]] * 2,
        targets=[[2], [1]],
        references=[2],
        errors="keep",
        **asked,
    )
    failed, sound = stream
    assert "class 2 has no class" in failed.error
    assert not sound.error


def test_with_noise_the_rivals_are_those_of_the_doc_itself() -> None:
    model, random = six_classes(), np.random.default_rng(0)
    model.layers[0].set_weights([random.normal(size=(1, 1, 2, 5))])
    model.layers[-1].set_weights([random.normal(size=(5, 6)), np.zeros(6)])
    # All others are all but as near to class 2.
    bias = [1, -1.01, 0, 1.02, -1.03, 1.04] - logits_by_hand(model, SMALL)[1]
    model.layers[-1].set_weights([model.layers[-1].get_weights()[0], bias])
    deviation = 0.1 * np.ptp(SMALL)
    noise = np.random.default_rng(3).normal(0, deviation, (8, 4, 4, 2)).astype(np.float32)
    copies = [copy[np.newaxis] for copy in SMALL + noise]
    of_doc = nearest(logits_by_hand(model, SMALL)[1], 2, 3)
    of_copies = [nearest(logits_by_hand(model, copy)[1], 2, 3) for copy in copies]
    assert any(set(of_copy) != set(of_doc) for of_copy in of_copies)
    mean = np.mean([compared(model, copy, 2, of_doc, 0.6) for copy in copies], axis=0)
    found = heatmap(model, SMALL, targets=[2], smooth=8, seed=3, **ON_GREY)
    np.testing.assert_allclose(found, mean / abs(mean).max(), atol=1e-4)
    # Of several classes with different numbers of rivals, too.
    two = explain(
        model,
        SMALL,
        top_targets=6,
        references=[1, 2],
        smooth=8,
        seed=3,
        **ON_GREY,
    ).targets
    for one in two:
        rivals = [index for index in (1, 2) if index != one.target]
        mean = np.mean([compared(model, copy, one.target, rivals, 0.6) for copy in copies], axis=0)
        np.testing.assert_allclose(one.heatmap, mean / abs(mean).max(), atol=1e-4)


def test_finer_cam_compares_two_classes_where_there_are_but_two() -> None:
    found = heatmap(by_hand(), DOC_BY_HAND, targets=[0], method="finer-cam", relu=False)
    np.testing.assert_allclose(found, [[0.25, 0.5], [-1, 0]], atol=1e-5)


# Nothing that is kept keeps a model alive


@pytest.mark.parametrize("method", OF_EACH_WAY)
def test_a_model_that_was_explained_goes_when_its_owner_lets_it_go(method: str) -> None:
    for name in ("functional", "nested in subclassed"):
        model = MODELS[name]()
        for _ in range(2):
            explain(model, method=method, logits=True, batch_size=2, **few(method))
        reference = weakref.ref(model)
        del model
        gc.collect()
        assert reference() is None, name


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (["ant", None, "cat"], "must hold names .*got NoneType"),
        (["ant", 2.5, "cat"], "must hold names .*got float"),
        ({0: None}, "must hold names .*got NoneType"),
        ({"0": "ant"}, r"must have class indices \(int\) for keys, got '0'"),
    ],
)
def test_names_that_name_no_class_are_refused(model: keras.Model, names: Any, says: str) -> None:
    with pytest.raises(TypeError, match=f"target_names {says}"):
        kerasight.explain_prediction(model, make_doc(), target_names=names)


def test_digits_may_be_called_by_numbers(model: keras.Model) -> None:
    expl = kerasight.explain_prediction(model, make_doc(), targets=[2], target_names=[7, 8, 9])
    assert expl.targets[0].name == "9"
