"""Methods beside each other: the numbers are those of the metrics, and the table tells them."""

from __future__ import annotations

import csv
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

import kerasight
from kerasight import metrics
from kerasight.metrics.evaluation import METRICS, RANDOM, Evaluation, Row, evaluate

pytestmark = pytest.mark.filterwarnings("ignore::kerasight.base.HeatmapWarning")

METHODS = ["grad-cam", "layercam"]


def make_model(activation: str | None = "softmax", units: int = 3) -> keras.Model:
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, 2, activation="sigmoid", name="map")(inputs)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(units, activation, name="head")(x), name="net")


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
        model, docs, methods=METHODS, targets=targets, masks=masks, steps=4, seed=3, random=False
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
                "insertion_minus_deletion": insertion - deletion,
            },
            abs=1e-5,
        )
        assert row.score == pytest.approx(scores[row.position, row.target], abs=1e-6)
        assert row.layer == "map"
        assert row.doc == str(row.position)
        assert row.name is None
        assert row.seconds > 0


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
    assert len(found.methods) == len(kerasight.keras.methods.METHODS)
    with pytest.raises(ValueError, match="no class to compare with"):
        evaluate(model, docs[:1], methods=["finer-cam"], metrics=["increase"])


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
    assert found.summary()[0] == "Means of 1 doc, logits explained; * is best."
    assert found.summary()[-1] == "Left out for errors: 1 doc."
    with pytest.raises(TypeError, match="doc bad: doc must be a numpy"):
        evaluate(model, ["text", docs[0]], **asked)


@pytest.mark.parametrize(
    ("asked", "error", "message"),
    [
        ({"methods": ["grad"]}, ValueError, "unknown method 'grad'"),
        ({"methods": "grad-cam"}, ValueError, "methods must be a list of names, or None for all"),
        ({"methods": []}, ValueError, "methods must be a list of names, or None for all"),
        ({"metrics": ["drop"]}, ValueError, "unknown metric 'drop'; known are pointing_game, "),
        ({"metrics": [3]}, TypeError, r"a metric must be the name of one \(str\), got int"),
        ({"steps": 0}, ValueError, "steps must be at least 1, got 0"),
        ({"seed": -1}, ValueError, "seed must be at least 0, got -1"),
        ({"layer": []}, ValueError, "layer must hold at least one layer"),
        ({"errors": "hide"}, ValueError, "errors must be 'raise' or 'keep', got 'hide'"),
        ({"targets": [1]}, ValueError, "targets must hold one for each doc, and ends at doc 1"),
        ({"masks": [None]}, ValueError, "masks must hold one for each doc, and ends at doc 1"),
        ({"names": ["a"]}, ValueError, "names must hold one for each doc, and ends at doc 1"),
        ({"names": "ab"}, TypeError, "names must be a list with one for each doc, .* got str"),
        ({"targets": 1}, TypeError, "targets must be a list with one for each doc, .* got int"),
        ({"masks": 1}, TypeError, "masks must be a list with one for each doc, .* got int"),
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
    code = (
        "import kerasight.metrics.evaluation, sys; "
        "print({'keras', 'tensorflow', 'matplotlib'} & set(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert run.stdout.strip() == "set()"


def test_a_bar_counts_the_docs(
    model: keras.Model, docs: np.ndarray, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: dict[str, Any] = {"methods": ["grad-cam"], "metrics": ["increase"]}
    evaluate(model, docs, progress=True, **asked)
    assert "2/2" in capsys.readouterr().err
    evaluate(model, docs, **asked)
    assert capsys.readouterr().err == ""


# The result


def make_rows(
    method: str, deletions: list[float], seconds: float = 0.5, **values: float
) -> list[Row]:
    return [
        Row(
            position=place // 2,
            doc=f"doc, {place // 2}",
            target=place % 2,
            name="cat" if place % 2 else None,
            score=0.25,
            method=method,
            layer="map",
            seconds=seconds + place // 2,
            values={
                "deletion": deletion,
                "insertion": 1.0,
                "insertion_minus_deletion": 1 - deletion,
                **values,
            },
        )
        for place, deletion in enumerate(deletions)
    ]


RESULT = Evaluation(
    rows=(
        *make_rows(RANDOM, [0.5, 0.5, 0.5, 0.9], math.nan, increase=50),
        *make_rows("grad-cam", [0.1, 0.2, 0.1, 0.2], increase=50),
        *make_rows("hirescam", [0.2, 0.10002, 0.2, 0.1], increase=75),
        *make_rows("eigen-cam", [0.3, 0.3, 0.3, math.nan], 3.0, increase=100),
    ),
    metrics=("insertion", "deletion", "increase"),
    logits=True,
)


def test_the_best_is_told_from_the_others() -> None:
    assert RESULT.methods == ("grad-cam", "hirescam", "eigen-cam", RANDOM)
    assert [column.name for column in RESULT.columns] == [
        "insertion",
        "deletion",
        "insertion_minus_deletion",
        "increase",
        "seconds",
    ]
    assert RESULT.mean("eigen-cam", "deletion") == pytest.approx(0.3)
    assert RESULT.mean("grad-cam", "seconds") == 1.0  # the median over docs
    assert math.isnan(RESULT.mean(RANDOM, "seconds"))
    # Those that look the same share it, be the numbers behind a little different.
    assert RESULT.best("deletion") == ("grad-cam", "hirescam")
    assert RESULT.best("insertion") == RESULT.methods
    assert RESULT.best("increase") == ("eigen-cam",)
    assert RESULT.best("seconds") == ("grad-cam", "hirescam")


def test_what_is_not_in_the_table_has_no_mean_and_no_best() -> None:
    with pytest.raises(
        ValueError, match=r"unknown column 'x'; known are pointing_game, .* seconds"
    ):
        RESULT.mean("grad-cam", "x")
    with pytest.raises(ValueError, match="unknown method 'x'; known are grad-cam, hirescam"):
        RESULT.mean("x", "insertion")
    with pytest.raises(ValueError, match="unknown column 'road'; known are insertion, deletion"):
        RESULT.best("road")
    assert math.isnan(RESULT.mean("grad-cam", "road"))  # a metric that was not measured


def test_times_that_differ_by_little_share_the_best() -> None:
    times = {"a": 0.0014, "b": 0.0020, "c": 0.0022}
    rows = [make_rows(name, [0.1], seconds)[0] for name, seconds in times.items()]
    assert Evaluation(tuple(rows), ("deletion",)).best("seconds") == ("a", "b")


def test_the_table_is_text() -> None:
    assert str(RESULT) == "\n".join(
        [
            "Method     Insertion ↑  Deletion ↓  Insertion \u2212 deletion ↑  Increase ↑  "
            "Seconds ↓",
            "─" * 81,
            "grad-cam        *1.000      *0.150                  *0.850       50.0%     *1.000",
            "hirescam        *1.000      *0.150                  *0.850       75.0%     *1.000",
            "eigen-cam       *1.000       0.300                   0.700     *100.0%      3.500",
            "random          *1.000       0.600                   0.400       50.0%",
            "",
            "Means of 2 docs, 4 classes, logits explained; * is best.",
            "Best by insertion \u2212 deletion: grad-cam and hirescam (0.850).",
            "Best in the most columns, time left out: grad-cam and hirescam (3 of 4).",
            "No better than random in Insertion and Increase: grad-cam.",
            "No better than random in Insertion: hirescam and eigen-cam.",
        ]
    )
    assert repr(RESULT) == "evaluation of 4 methods by 3 metrics on 2 docs, 4 classes"


def test_a_method_that_chance_may_have_put_second_is_named() -> None:
    rows = (
        *make_rows("grad-cam", [0.1, 0.2, 0.3, 0.4]),
        *make_rows("layercam", [0.2, 0.1, 0.4, 0.31]),
        *make_rows("eigen-cam", [0.3, 0.4, 0.5, 0.61]),
    )
    found = Evaluation(rows, ("deletion", "insertion"))
    assert found.summary("picture") == [
        "Means of 2 pictures, 4 classes, scores explained; * is best.",
        "Best by insertion \u2212 deletion: grad-cam (0.750); layercam differs from it by less "
        "than two standard errors.",
        "Best in the most columns, time left out: grad-cam (3 of 3).",
    ]


def test_what_no_method_is_better_at_than_chance_is_said_in_one_sentence() -> None:
    rows = [row for name in "abc" for row in make_rows(name, [0.2, 0.3], increase=0)]
    found = Evaluation((*rows, *make_rows(RANDOM, [0.5, 0.5], increase=50)), ("increase",))
    assert found.summary()[-1] == "No better than random in Increase: all methods."
    assert found.beaten_by_random() == dict.fromkeys("abc", ("increase",))


def test_markdown_has_the_best_in_bold() -> None:
    lines = RESULT.to_markdown().splitlines()
    assert lines[0].startswith(
        "| Method | Insertion ↑ | Deletion ↓ | Insertion \u2212 deletion ↑ |"
    )
    assert lines[1] == "| --- | ---: | ---: | ---: | ---: | ---: |"
    assert lines[3] == "| hirescam | **1.000** | **0.150** | **0.850** | 75.0% | **1.000** |"
    assert lines[5] == "| random | **1.000** | 0.600 | 0.400 | 50.0% |  |"


def test_a_csv_file_has_every_number(tmp_path: Path) -> None:
    RESULT.to_csv(tmp_path / "new.csv")
    with open(tmp_path / "new.csv", encoding="utf-8", newline="") as file:
        head, *lines = csv.reader(file)
    assert head == [
        *("doc", "target", "name", "score", "method", "layer", "seconds"),
        *("insertion", "deletion", "increase", "insertion_minus_deletion"),
    ]
    assert len(lines) == len(RESULT.rows)
    assert lines[0] == [
        *("doc, 0", "0", "", "0.25", "random", "map", ""),
        *("1.0", "0.5", "50.0", "0.5"),
    ]
    for line, row in zip(lines, RESULT.rows, strict=True):
        numbers = dict(zip(head[6:], line[6:], strict=True))
        for column, text in numbers.items():
            value = row.value(column)
            assert text == "" if math.isnan(value) else float(text) == value


def test_the_plot_is_the_table() -> None:
    pyplot = pytest.importorskip("matplotlib.pyplot")
    ax = RESULT.plot()
    texts = [text.get_text() for text in ax.texts]
    assert texts == [cell for line in RESULT.table()[1:] for cell in line[1:]]
    assert [label.get_text() for label in ax.get_yticklabels()] == list(RESULT.methods)
    drawn = ax.images[0].get_array()
    assert drawn[:, 1].tolist() == pytest.approx([1, 1, 2 / 3, 0], abs=1e-4)
    assert math.isnan(drawn.filled(np.nan)[3, 4])
    _, own = pyplot.subplots()
    assert RESULT.plot(own, cmap="Greens") is own
    assert own.images[0].cmap.name == "Greens"
    pyplot.close("all")
