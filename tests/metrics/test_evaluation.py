"""Methods beside each other: the numbers are those of the metrics, and the table tells them."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
import pytest
from fresh_python import imported_by
from keras import layers
from tiny_transformers import vit

import kerasight
from kerasight import metrics
from kerasight.cam.inputs import Inputs
from kerasight.keras.explainer import Explainer
from kerasight.metrics import evaluation, trial
from kerasight.metrics.columns import METRICS
from kerasight.metrics.comparison import RANDOM
from kerasight.metrics.evaluation import evaluate

pytestmark = pytest.mark.filterwarnings("ignore::kerasight.base.HeatmapWarning")

METHODS = ["grad-cam", "layercam"]


def make_model(activation: str | None = "softmax", units: int = 3) -> keras.Model:
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, 2, activation="sigmoid", name="map")(inputs)
    x = layers.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, layers.Dense(units, activation, name="head")(x), name="net")
    random = np.random.default_rng(2)  # the same weights on each framework
    model.set_weights([random.normal(0, 0.5, one.shape) for one in model.get_weights()])
    return model


@pytest.fixture(scope="module")
def model() -> keras.Model:
    return make_model()


@pytest.fixture(scope="module")
def docs() -> np.ndarray:
    return np.random.default_rng(0).random((2, 8, 8, 3), dtype=np.float32)


MASKS = [np.eye(16, dtype=bool), np.arange(64).reshape(8, 8) > 40]


def heatmap(model: keras.Model, doc: np.ndarray, target: int, method: str) -> np.ndarray:
    expl = kerasight.explain_prediction(model, doc[None], [target], method=method, logits=True)
    return expl.targets[0].heatmap


# What is measured


def test_each_number_is_that_of_its_metric(model: keras.Model, docs: np.ndarray) -> None:
    targets = [[0, 2], [1]]
    masks = [[MASKS[0], MASKS[1]], MASKS[1]]
    found = evaluate(
        model,
        docs,
        methods=METHODS,
        metrics=METRICS,
        targets=targets,
        masks=masks,
        steps=4,
        seed=3,
        random=False,
    )
    assert found.logits
    assert found.metrics == tuple(METRICS)
    assert [(row.position, row.target, row.method) for row in found.rows] == [
        (doc, target, method)
        for doc, of_doc in enumerate(targets)
        for target in of_doc
        for method in METHODS
    ]
    where = [MASKS[0], MASKS[0], MASKS[1], MASKS[1], MASKS[1], MASKS[1]]
    scores = model.predict(docs, verbose=0)
    for row, mask in zip(found.rows, where, strict=True):
        doc = docs[row.position]
        of = (model, doc[None], heatmap(model, doc, row.target, row.method))
        settings: dict[str, Any] = {"targets": [row.target], "seed": 3}
        deletion = metrics.deletion(*of, steps=4, **settings).area
        insertion = metrics.insertion(*of, steps=4, **settings).area
        assert row.values == pytest.approx(
            {
                "pointing_game": metrics.pointing_game(of[2], mask).accuracy,
                "energy_in_mask": metrics.energy_in_mask(of[2], mask).mean,
                "deletion": deletion,
                "insertion": insertion,
                "average_drop": metrics.average_drop(*of, **settings).average,
                "increase": metrics.increase(*of, **settings).percent,
                "road": metrics.road(*of, **settings).score,
                "complexity": metrics.complexity(of[2]).mean,
                "insertion_minus_deletion": insertion - deletion,
            },
            abs=1e-6,
            nan_ok=True,  # of a blank heatmap there is no complexity
        )
        assert row.score == pytest.approx(scores[row.position, row.target], abs=1e-6)
        assert row.layer == "map"
        assert row.doc == str(row.position)
        assert row.name is None
        assert row.seconds > 0


def test_no_picture_is_scored_twice(docs: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model()
    batches: list[np.ndarray] = []
    run = trial._scores

    def counted(of: keras.Model, batch: Inputs, logits: bool) -> np.ndarray:
        batches.append(batch.docs)
        return run(of, batch, logits)

    monkeypatch.setattr(trial, "_scores", counted)
    names = ["deletion", "insertion", "average_drop", "increase", "road"]
    asked: dict[str, Any] = {"metrics": names, "steps": 4, "random": False, "targets": [[0, 1]]}
    evaluate(model, docs[:1], methods=["grad-cam"], **asked)
    # The doc; three points of each curve for each of two classes, and the baseline that both end
    # in; what two heatmaps leave; and eight imputed for each.
    assert [len(batch) for batch in batches] == [1, 7 + 7 + 2 + 16]
    # One heatmap is 0 all over, and leaves what deletion ends in.
    assert len({picture.tobytes() for picture in batches[1]}) == len(batches[1]) - 1
    batches.clear()
    # On a model that ends in an average and one dense layer, these three are the same formula.
    same = ["grad-cam", "hirescam", "xgrad-cam"]
    evaluate(model, docs[:1], methods=same, **{**asked, "metrics": names[:2]})
    assert [len(batch) for batch in batches] == [1, 7 + 7]


def test_a_method_that_takes_long_is_not_run_twice_to_warm_up(
    docs: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {"methods": ["score-cam"], "metrics": ["increase"], "random": False}
    runs: list[Any] = []
    run = Explainer.look

    def counted(explainer: Explainer, *given: Any) -> Any:
        runs.append(run(explainer, *given))
        return runs[-1]

    monkeypatch.setattr(Explainer, "look", counted)
    monkeypatch.setattr(evaluation, "_LONG", 1e9)
    expected = evaluate(make_model(), docs, **asked)
    assert len(runs) == 3
    runs.clear()
    monkeypatch.setattr(evaluation, "_LONG", 0.0)
    found = evaluate(make_model(), docs, **asked)
    assert len(runs) == 2
    for ours, theirs in zip(found.rows, expected.rows, strict=True):
        assert ours.values == theirs.values
        assert ours.seconds > 0


def test_the_class_with_the_greatest_score_is_taken_and_named(
    model: keras.Model, docs: np.ndarray
) -> None:
    found = evaluate(
        model,
        (doc for doc in docs),
        methods=["grad-cam"],
        metrics=["increase"],
        names=["first", "second"],
        target_names=["a", "b", "c"],
        random=False,
    )
    top = model.predict(docs, verbose=0).argmax(axis=1)
    assert [row.target for row in found.rows] == top.tolist()
    assert [row.doc for row in found.rows] == ["first", "second"]
    assert [row.name for row in found.rows] == ["abc"[target] for target in top]


def test_random_heatmaps_are_drawn_at_the_resolution_of_the_layer(
    model: keras.Model, docs: np.ndarray
) -> None:
    found = evaluate(
        model, docs, methods=METHODS, metrics=["deletion"], targets=[0, 1], steps=4, seed=5
    )
    assert found.methods == (*METHODS, RANDOM)
    rows = [row for row in found.rows if row.method == RANDOM]
    for row in rows:
        noise = np.random.default_rng([5, row.position, row.target]).random((3, 3))
        expected = metrics.deletion(
            model, docs[row.position, None], noise, targets=[row.target], steps=4, seed=5
        )
        assert row.values["deletion"] == pytest.approx(expected.area, abs=1e-6)
        assert math.isnan(row.seconds)
        assert row.layer == "map"


def test_what_a_doc_gives_does_not_depend_on_the_others(
    model: keras.Model, docs: np.ndarray
) -> None:
    asked: dict[str, Any] = {"methods": METHODS, "metrics": ["road"], "random": False}
    both = evaluate(model, docs, **asked)
    for place in range(2):
        alone = evaluate(model, docs[place : place + 1], **asked)
        expected = [row.values["road"] for row in both.rows if row.position == place]
        assert [row.values["road"] for row in alone.rows] == pytest.approx(expected, abs=1e-5)


def test_masks_that_are_not_known_leave_their_columns_out(
    model: keras.Model, docs: np.ndarray
) -> None:
    asked: dict[str, Any] = {"methods": METHODS, "metrics": ["energy-in-mask", "increase"]}
    found = evaluate(model, docs, masks=[None, MASKS[1]], **asked)
    energy = [row.value("energy_in_mask") for row in found.rows if row.method == "grad-cam"]
    assert math.isnan(energy[0])
    assert found.mean("grad-cam", "energy_in_mask") == energy[1]
    assert [column.name for column in evaluate(model, docs, **asked).columns] == [
        "increase",
        "seconds",
    ]


def test_layers_are_those_that_are_asked_for(model: keras.Model, docs: np.ndarray) -> None:
    asked: dict[str, Any] = {"methods": ["grad-cam"], "metrics": ["increase"]}
    found = evaluate(model, docs, layer=["map", "map"], **asked)
    assert {row.layer for row in found.rows} == {"map + map"}
    with pytest.raises(ValueError, match="doc 0: no layer 'mop'"):
        evaluate(model, docs, layer="mop", **asked)


def test_channels_first_docs_are_taken(docs: np.ndarray) -> None:
    inputs = keras.Input((3, 8, 8))
    x = layers.Permute((2, 3, 1))(inputs)
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3, name="map")(x))
    first = keras.Model(inputs, layers.Dense(3, "softmax")(x))
    inputs = keras.Input((8, 8, 3))
    last = keras.Model(inputs, first(layers.Permute((3, 1, 2))(inputs)))
    asked: dict[str, Any] = {"methods": METHODS, "metrics": ["deletion", "road"], "steps": 4}
    expected = evaluate(last, docs, layer="map", **asked)
    found = evaluate(first, np.moveaxis(docs, -1, 1), **asked)
    for ours, theirs in zip(found.rows, expected.rows, strict=True):
        assert ours.values == pytest.approx(theirs.values, abs=1e-5)


# Logits, and what models cannot do


def test_probabilities_are_explained_where_logits_are_not_wanted_or_hidden(
    model: keras.Model, docs: np.ndarray
) -> None:
    asked: dict[str, Any] = {"methods": ["grad-cam"], "metrics": ["deletion"], "steps": 4}
    plain = evaluate(model, docs, logits=False, **asked)
    assert not plain.logits
    assert plain.rows[0].values != evaluate(model, docs, **asked).rows[0].values
    inputs = keras.Input((8, 8, 3))
    x = model(inputs)
    hidden = keras.Model(inputs, (x + x) / 2)
    found = evaluate(hidden, docs, layer="map", **asked)
    assert not found.logits
    assert found.rows[0].values == pytest.approx(plain.rows[0].values, abs=1e-5)
    with pytest.raises(ValueError, match=r"doc 0: the logits of model .+ cannot be found"):
        evaluate(hidden, docs, layer="map", logits=True, **asked)


def test_a_score_below_0_has_no_share_to_lose(docs: np.ndarray) -> None:
    model = make_model(activation=None)
    scores = model.predict(docs, verbose=0)
    lowest, highest = scores.argmin(axis=1), scores.argmax(axis=1)
    assert (scores.min(axis=1) < 0).all()
    assert (scores.max(axis=1) > 0).all()
    found = evaluate(
        model,
        docs,
        targets=np.stack([lowest, highest], axis=1).tolist(),
        methods=["grad-cam"],
        metrics=["average_drop", "increase"],
        random=False,
    )
    drops = [row.value("average_drop") for row in found.rows]
    assert [math.isnan(drop) for drop in drops] == [True, False, True, False]
    assert found.mean("grad-cam", "average_drop") == pytest.approx((drops[1] + drops[3]) / 2)


def test_a_method_that_compares_classes_is_left_out_where_there_is_one(docs: np.ndarray) -> None:
    model = make_model("sigmoid", units=1)
    found = evaluate(model, docs[:1], metrics=["increase"])
    assert "finer-cam" not in found.methods
    assert len(found.methods) == len(kerasight.cam.methods.CAMS)
    with pytest.raises(ValueError, match="no class to compare with"):
        evaluate(model, docs[:1], methods=["finer-cam"], metrics=["increase"])


def test_methods_of_all_families_are_judged_each_where_it_looks() -> None:
    doc = np.random.default_rng(0).random((1, 16, 16, 3), dtype=np.float32)
    methods = ["hirescam", "refine-cam", "saliency", "occlusion", "legrad"]
    found = evaluate(vit(), doc, methods=methods, metrics=["complexity"], random=False)
    assert [bool(row.layer) for row in found.rows] == [True, True, False, False, False]
    assert [row.method for row in found.rows] == methods


# Options


def test_options_are_those_of_an_explanation(model: keras.Model, docs: np.ndarray) -> None:
    asked: dict[str, Any] = {"methods": METHODS, "metrics": ["deletion"], "steps": 4, "seed": 3}
    found = evaluate(model, docs[:1], targets=[1], random=False, smooth=2, **asked)
    for row in found.rows:
        expl = kerasight.explain_prediction(
            model, docs[:1], [1], method=row.method, logits=True, smooth=2, seed=3
        )
        expected = metrics.deletion(model, docs[:1], expl, steps=4, seed=3).area
        assert row.values["deletion"] == pytest.approx(expected, abs=1e-5)


def test_an_option_goes_to_the_methods_that_can_do_with_it(
    model: keras.Model, docs: np.ndarray
) -> None:
    names = ["grad-cam", "layercam", "finer-cam"]
    asked: dict[str, Any] = {"methods": names, "metrics": ["insertion"], "steps": 8}
    asked |= {"targets": [0], "random": False}
    for options, changed in (
        ({}, []),
        ({"relu": False}, ["grad-cam", "finer-cam"]),
        ({"alpha": 9.0}, ["finer-cam"]),
        ({"alpha": 9.0, "references": [2]}, ["finer-cam"]),
    ):
        found = evaluate(model, docs[:1], **asked, **options)
        for row in found.rows:
            own = options if row.method in changed else {}
            expl = kerasight.explain_prediction(
                model, docs[:1], [0], method=row.method, logits=True, **own
            )
            expected = metrics.insertion(model, docs[:1], expl, steps=8).area
            assert row.values["insertion"] == pytest.approx(expected, abs=1e-5)


# What is refused


def test_a_doc_that_fails_is_raised_or_kept(model: keras.Model, docs: np.ndarray) -> None:
    asked: dict[str, Any] = {
        "methods": ["grad-cam"],
        "metrics": ["increase"],
        "names": ["bad", "good"],
    }
    broken = docs.copy()
    broken[0, 0, 0, 0] = np.nan
    with pytest.raises(ValueError, match="doc bad: doc must be finite"):
        evaluate(model, broken, **asked)
    found = evaluate(model, broken, errors="keep", **asked)
    assert {row.doc for row in found.rows} == {"good"}
    assert {row.position for row in found.rows} == {1}
    assert found.errors == (("bad", "doc must be finite, got NaN or infinity in it"),)
    assert found.summary()[0] == "Means of 1 doc, logits explained."
    assert found.summary()[-1] == "Left out because of errors: 1 doc."
    with pytest.raises(TypeError, match="doc bad: doc must be a numpy"):
        evaluate(model, ["text", docs[0]], **asked)


@pytest.mark.parametrize(
    ("asked", "error", "message"),
    [
        ({"methods": ["grad"]}, ValueError, "unknown method 'grad'"),
        ({"methods": "grad-cam"}, ValueError, "methods must be a list of names, or None for all"),
        ({"methods": []}, ValueError, "methods must be a list of names, or None for all"),
        ({"metrics": ["drop"]}, ValueError, "unknown metric 'drop'; known are pointing_game, "),
        ({"metrics": [3]}, TypeError, r"metric must be the name of one \(str\), got int"),
        ({"steps": 0}, ValueError, "steps must be at least 1, got 0"),
        ({"seed": -1}, ValueError, "seed must be at least 0, got -1"),
        ({"alpha": 1.0}, ValueError, "method 'grad-cam' has no use for alpha"),
        ({"references": 2}, ValueError, "'grad-cam' has no use for references"),
        ({"methods": ["layercam"], "relu": False}, ValueError, "'layercam' cannot do relu=False"),
        ({"smooth": -1}, ValueError, "smooth must be at least 0, got -1"),
        ({"smoth": 3}, TypeError, "there is no option 'smoth'; the nearest name is smooth"),
        ({"method": "grad-cam"}, TypeError, "there is no option 'method'"),
        ({"counterfactual": True}, TypeError, "there is no option 'counterfactual'"),
        ({"layer": []}, ValueError, "layer must hold at least one layer"),
        ({"errors": "hide"}, ValueError, "errors must be 'raise' or 'keep', got 'hide'"),
        ({"targets": [1]}, ValueError, "targets must hold one for each doc, and ends at doc 1"),
        ({"masks": [None]}, ValueError, "masks must hold one for each doc, and ends at doc 1"),
        ({"names": ["a"]}, ValueError, "names must hold one for each doc, and ends at doc 1"),
        ({"names": "ab"}, TypeError, "names must be a list with one for each doc, .* got str"),
        ({"targets": 1}, TypeError, "targets must be a list with one for each doc, .* got int"),
        ({"masks": 1}, TypeError, "masks must be a list with one for each doc, .* got int"),
        ({"methods": 3}, ValueError, "methods must be a list of names, or None for all, got 3"),
        ({"metrics": 3}, ValueError, "metrics must be a list of names, or None for all, got 3"),
        ({"progress": "x"}, TypeError, "progress must be True, False or None, got str"),
        ({"target_names": 3}, TypeError, "target_names must be a list with a name for each class"),
        ({"random": "no"}, TypeError, "random must be True or False, got str"),
        ({"docs": None}, TypeError, "docs must be an array of shape .* got NoneType"),
        ({"docs": 3}, TypeError, "docs must be an array of shape .* got int"),
        ({"model": None}, TypeError, "estimator None is not supported: kerasight explains Keras 3"),
        ({"model": "m.keras"}, TypeError, "load the file with keras.models.load_model"),
        ({"targets": [7, 0]}, ValueError, "doc 0: target 7 is out of range"),
        ({"targets": [0.5, 0]}, TypeError, "a target must be an integer class index, got float"),
        ({"masks": [MASKS, None]}, ValueError, "doc 0: there must be a mask for each of the 1"),
    ],
)
def test_arguments_are_checked(
    asked: dict[str, Any], error: type[Exception], message: str, docs: np.ndarray
) -> None:
    given = {"model": make_model(), "docs": docs, "methods": ["grad-cam"], "metrics": ["increase"]}
    with pytest.raises(error, match=message):
        evaluate(**{**given, **asked})


def test_a_framework_is_imported_only_for_a_model() -> None:
    assert imported_by("import kerasight.metrics.evaluation") == set()


def test_a_bar_counts_the_docs(
    model: keras.Model, docs: np.ndarray, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: dict[str, Any] = {"methods": ["grad-cam"], "metrics": ["increase"]}
    evaluate(model, docs, progress=True, **asked)
    assert "2/2" in capsys.readouterr().err
    evaluate(model, docs, **asked)
    assert capsys.readouterr().err == ""
