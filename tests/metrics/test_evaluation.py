"""Methods beside each other: the numbers are those of the metrics, and the table tells them."""

from __future__ import annotations

import csv
import itertools
import math
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from fresh_python import imported_by
from keras import layers

import kerasight
from kerasight import metrics
from kerasight.metrics import common, evaluation
from kerasight.metrics.evaluation import METRICS, RANDOM, Evaluation, Row, Study, evaluate
from kerasight.metrics.statistics import FEWEST, LEVEL, differs

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
            abs=1e-6,
        )
        assert row.score == pytest.approx(scores[row.position, row.target], abs=1e-6)
        assert row.layer == "map"
        assert row.doc == str(row.position)
        assert row.name is None
        assert row.seconds > 0


def test_no_picture_is_scored_twice(docs: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model()
    batches: list[np.ndarray] = []
    run = common._scores

    def counted(of: keras.Model, checked: Any, batch: np.ndarray, logits: bool) -> np.ndarray:
        batches.append(batch)
        return run(of, checked, batch, logits)

    monkeypatch.setattr(common, "_scores", counted)
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
    run = Study._heatmaps

    def counted(self: Study, *given: Any) -> Any:
        runs.append(run(self, *given))
        return runs[-1]

    monkeypatch.setattr(Study, "_heatmaps", counted)
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
    assert len(found.methods) == len(kerasight.cam.methods.METHODS)
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


# Five docs of two classes and one of one, so that the mean over docs is not that over classes.
SMALL = [0.1, 0.2, 0.1, 0.2, 0.1, 0.2, 0.1, 0.2, 0.1, 0.2, 0.9]
NEAR = [0.1, 0.3, 0.2, 0.1, 0.1, 0.2, 0.0, 0.3, 0.1, 0.2, 0.88]
RESULT = Evaluation(
    rows=(
        *make_rows(RANDOM, [0.9] * 11, math.nan, increase=50),
        *make_rows("grad-cam", SMALL, increase=50),
        *make_rows("hirescam", NEAR, increase=75),
        *make_rows("eigen-cam", [one + 0.5 for one in SMALL[:10]] + [math.nan], 3.0, increase=100),
    ),
    metrics=("insertion", "deletion", "increase"),
    logits=True,
)


def test_means_and_errors_are_over_docs() -> None:
    assert RESULT.methods == ("grad-cam", "hirescam", "eigen-cam", RANDOM)
    assert [column.name for column in RESULT.columns] == [
        "insertion",
        "deletion",
        "insertion_minus_deletion",
        "increase",
        "seconds",
    ]
    # Five docs of 0.15 and one of 0.9, which lies 0.625 above the mean of 0.275: the sum of squares
    # is 0.46875, by 5 for the variance, and by 6 for that of the mean.
    assert RESULT.mean("grad-cam", "deletion") == pytest.approx(0.275)
    assert RESULT.error("grad-cam", "deletion") == pytest.approx(math.sqrt(0.46875 / 30))
    assert RESULT.mean("eigen-cam", "deletion") == pytest.approx(0.65)
    assert RESULT.error("eigen-cam", "deletion") == pytest.approx(0, abs=1e-12)
    assert RESULT.mean("grad-cam", "seconds") == 3.0  # the median over docs
    assert math.isnan(RESULT.error("grad-cam", "seconds"))
    assert math.isnan(RESULT.mean(RANDOM, "seconds"))
    one = Evaluation(tuple(make_rows("grad-cam", [0.1, 0.2])), ("deletion",))
    assert one.mean("grad-cam", "deletion") == pytest.approx(0.15)
    assert math.isnan(one.error("grad-cam", "deletion"))  # two classes of one doc


def test_methods_are_told_apart_by_their_differences_doc_by_doc() -> None:
    # The means of the docs are 0, 0, 0, 0, 0 and 0.02 off, which is one of them.
    assert not RESULT.tells_apart("grad-cam", "hirescam", "deletion")
    # Five docs only, be they ever so far off.
    assert not RESULT.tells_apart("grad-cam", "eigen-cam", "deletion")
    ramp = np.arange(12) / 12
    rows = [
        *make_rows("a", ramp.tolist()),
        *make_rows("b", (ramp + 0.1 + 0.01 * (np.arange(12) // 2 % 2)).tolist()),
        *make_rows("c", (ramp + 0.1 * np.sin(np.arange(12) // 2 + 1)).tolist()),
    ]
    found = Evaluation(tuple(rows), ("deletion",))
    # The docs differ by much more than 0.1 from each other, and yet b is above a in each. c cannot
    # be told from either.
    assert found.error("a", "deletion") > 0.1
    assert found.tells_apart("a", "b", "deletion")
    assert found.tells_apart("b", "a", "deletion")
    assert not found.tells_apart("a", "c", "deletion")
    assert not found.tells_apart("a", "a", "deletion")
    assert not found.tells_apart("a", "b", "seconds")
    assert set(found.best("deletion")) == {"a", "c"}


def test_rounding_tells_no_methods_apart() -> None:
    values = np.linspace(0.1, 0.9, 20)
    rows = (*make_rows("a", values.tolist()), *make_rows("b", (values + 1e-7).tolist()))
    found = Evaluation((*rows, *make_rows("c", (values + 1e-3).tolist())), ("deletion",))
    assert not found.tells_apart("a", "b", "deletion")
    assert found.tells_apart("a", "c", "deletion")


def test_classes_of_a_doc_count_once() -> None:
    random = np.random.default_rng(0)

    def rows_of(method: str, values: np.ndarray, classes: int) -> list[Row]:
        return [
            Row(doc, str(doc), target, None, 0.5, method, "map", 0.1, {"deletion": value})
            for doc, value in enumerate(values)
            for target in range(classes)
        ]

    first, second = random.standard_normal((2, 7))
    for classes in (1, 40):
        rows = (*rows_of("a", first, classes), *rows_of("b", second, classes))
        found = Evaluation(rows, ("deletion",))
        assert found.error("a", "deletion") == pytest.approx(first.std(ddof=1) / math.sqrt(7))
        assert not found.tells_apart("a", "b", "deletion")


@pytest.mark.parametrize("docs", [2, 5, 20, 100])
@pytest.mark.parametrize("kind", ["normal", "hits"])
def test_methods_that_are_alike_are_seldom_told_apart(kind: str, docs: int) -> None:
    """Of 2,000 tables of methods drawn alike, 5 % at most name a best, or tell any two apart."""
    tables, methods, columns = 2000, 4, 2
    random = np.random.default_rng(docs)
    told = best = 0
    for _ in range(tables):
        # Docs differ, and two classes of a doc are alike, for each method in its own way.
        of_doc = random.standard_normal((columns, 1, docs))
        values = of_doc + random.standard_normal((columns, methods, docs))
        if kind == "hits":
            values = (values > 0).astype(float)
        level = LEVEL / (columns * math.comb(methods, 2))
        pairs = [
            differs(values[column, i] - values[column, j], level)
            for column in range(columns)
            for i, j in itertools.combinations(range(methods), 2)
        ]
        told += any(pairs)
        of_column = np.array(pairs).reshape(columns, -1)
        best += bool((of_column.sum(axis=1) >= methods - 1).any())
    # Three standard deviations of such a count.
    most = tables * (LEVEL + 3 * math.sqrt(LEVEL * (1 - LEVEL) / tables))
    assert best <= told <= most
    assert told == 0 if docs < FEWEST else told > 0


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


TOLD = Evaluation(
    rows=(
        *make_rows("grad-cam", [0.1 + 0.001 * (i % 5) for i in range(24)], increase=50),
        *make_rows("hirescam", [0.1 + 0.001 * (i % 7) for i in range(24)], increase=75),
        *make_rows("eigen-cam", [0.3 + 0.002 * (i % 5) for i in range(24)], 30.0, increase=50),
        *make_rows(RANDOM, [0.5 + 0.01 * (i % 3) for i in range(24)], math.nan, increase=50),
    ),
    metrics=("insertion", "deletion", "increase"),
)


def test_the_table_is_text() -> None:
    assert str(TOLD) == "\n".join(
        [
            "Method      Insertion ↑     Deletion ↓  Insertion \u2212 deletion ↑    Increase ↑  "
            "Seconds ↓",
            "─" * 87,
            f"grad-cam   1.000 ±0.000  *0.102 ±0.000{'*0.898 ±0.000':>24}   50.0% ±0.0%     *6.000",
            f"hirescam   1.000 ±0.000  *0.103 ±0.000{'*0.897 ±0.000':>24}  *75.0% ±0.0%     *6.000",
            f"eigen-cam  1.000 ±0.000   0.304 ±0.001{'0.696 ±0.001':>24}   50.0% ±0.0%     35.500",
            f"random     1.000 ±0.000   0.510 ±0.001{'0.490 ±0.001':>24}   50.0% ±0.0%",
            "",
            "Means of 12 docs, 24 classes, scores explained, ± the standard error over docs.",
            "* marks methods that no other is significantly better than; a column without * shows "
            "no significant difference.",
            "Best by insertion \u2212 deletion is one of grad-cam and hirescam.",
            "Not significantly better than random in Insertion and Increase: grad-cam and "
            "eigen-cam.",
            "Not significantly better than random in Insertion: hirescam.",
        ]
    )
    assert repr(TOLD) == "evaluation of 4 methods by 3 metrics on 12 docs, 24 classes"


def test_few_docs_tell_nothing_and_say_so() -> None:
    rows = [row for row in TOLD.rows if row.position < 2]
    few = Evaluation(tuple(rows), TOLD.metrics)
    assert few.summary("picture") == [
        "Means of 2 pictures, 4 classes, scores explained, ± the standard error over pictures.",
        "2 pictures are too few to compare methods: at least 6 are needed, and often many more.",
    ]
    assert not any("*" in cell for line in few.table() for cell in line[1:-1])
    one = Evaluation(tuple(row for row in rows if row.position < 1), TOLD.metrics)
    assert one.summary() == [
        "Means of 1 doc, 2 classes, scores explained.",
        "1 doc is too few to compare methods: at least 6 are needed, and often many more.",
    ]
    assert one.table()[1][1] == "1.000"


def test_where_chance_explains_all_differences_no_method_is_named() -> None:
    random = np.random.default_rng(3)
    rows = [row for name in "abc" for row in make_rows(name, random.random(20).tolist())]
    found = Evaluation((*rows, *make_rows(RANDOM, random.random(20).tolist())), ("deletion",))
    assert found.summary()[1:] == ["No two methods differ significantly: that takes more docs."]
    assert found.best("deletion") == found.methods
    assert found.beaten_by_random() == dict.fromkeys("abc", ("deletion",))
    assert not any("*" in line[1] for line in found.table())


def test_one_best_is_named_with_its_value() -> None:
    rows = [row for row in TOLD.rows if row.method != "hirescam"]
    found = Evaluation(tuple(rows), TOLD.metrics)
    assert found.summary(mark="Bold")[1:3] == [
        "Bold marks methods that no other is significantly better than; a column without Bold "
        "shows no significant difference.",
        "Best by insertion \u2212 deletion: grad-cam (0.898 ±0.000).",
    ]
    alone = Evaluation(tuple(row for row in rows if row.method == "grad-cam"), TOLD.metrics)
    assert len(alone.summary()) == 1  # nothing to compare with


def test_what_no_method_is_better_at_than_random_is_said_in_one_sentence() -> None:
    rows = [row for name in "abc" for row in make_rows(name, [0.2, 0.3] * 9, increase=0)]
    found = Evaluation(
        (*rows, *make_rows(RANDOM, [0.5, 0.5] * 9, increase=50)), ("increase", "deletion")
    )
    # What is worse is not better, though it can be told apart.
    assert found.tells_apart("a", RANDOM, "increase")
    assert found.summary()[-1] == "Not significantly better than random in Increase: all methods."
    assert found.beaten_by_random() == dict.fromkeys("abc", ("increase",))
    both = tuple(row for row in TOLD.rows if row.method in ("grad-cam", "hirescam", RANDOM))
    assert Evaluation(both, TOLD.metrics).summary()[2] == (
        "By insertion \u2212 deletion, only random is significantly worse than the best."
    )


def test_markdown_has_the_best_in_bold() -> None:
    lines = TOLD.to_markdown().splitlines()
    assert lines[0].startswith(
        "| Method | Insertion ↑ | Deletion ↓ | Insertion \u2212 deletion ↑ |"
    )
    assert lines[1] == "| --- | ---: | ---: | ---: | ---: | ---: |"
    assert lines[3] == (
        "| hirescam | 1.000 ±0.000 | **0.103 ±0.000** | **0.897 ±0.000** | **75.0% ±0.0%** | "
        "**6.000** |"
    )
    assert lines[5] == ("| random | 1.000 ±0.000 | 0.510 ±0.001 | 0.490 ±0.001 | 50.0% ±0.0% |  |")


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
        *("1.0", "0.9", "50.0", repr(1 - 0.9)),
    ]
    for line, row in zip(lines, RESULT.rows, strict=True):
        numbers = dict(zip(head[6:], line[6:], strict=True))
        for column, text in numbers.items():
            value = row.value(column)
            assert text == "" if math.isnan(value) else float(text) == value


def test_a_csv_file_of_means_has_their_errors(tmp_path: Path) -> None:
    TOLD.to_csv(tmp_path / "means.csv", means=True)
    with open(tmp_path / "means.csv", encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == len(TOLD.methods) * len(TOLD.columns)
    for line in lines:
        method, column = line["method"], line["metric"]
        numbers = {"mean": TOLD.mean(method, column), "error": TOLD.error(method, column)}
        for name, number in numbers.items():
            assert line[name] == "" if math.isnan(number) else float(line[name]) == number
        assert line["docs"] == ("0" if (method, column) == (RANDOM, "seconds") else "12")
        assert line["best"] == str(int(method in TOLD.best(column)))


def test_the_plot_is_the_table() -> None:
    pyplot = pytest.importorskip("matplotlib.pyplot")
    ax = TOLD.plot()
    texts = [text.get_text() for text in ax.texts]
    assert texts == [cell for line in TOLD.table()[1:] for cell in line[1:]]
    assert [label.get_text() for label in ax.get_yticklabels()] == list(TOLD.methods)
    drawn = ax.images[0].get_array()
    means = [TOLD.mean(method, "deletion") for method in TOLD.methods]
    shares = (np.array(means) - means[0]) / (means[3] - means[0])
    assert drawn[:, 1].tolist() == pytest.approx(1 - shares)
    assert math.isnan(drawn.filled(np.nan)[3, 4])
    _, own = pyplot.subplots()
    assert TOLD.plot(own, cmap="Greens") is own
    assert own.images[0].cmap.name == "Greens"
    pyplot.close("all")


def test_the_plot_has_error_bars() -> None:
    pyplot = pytest.importorskip("matplotlib.pyplot")
    rows = (*make_rows("a", [0.2] * 4 + [0.4] * 4), *make_rows("b", [0.7] * 8))
    ax = Evaluation(rows, ("deletion",)).plot()
    (bar, _), (none, dot) = ax.lines[:2], ax.lines[2:4]
    # Of the 0.4 between the means; a cell is drawn from -0.4 to 0.4. What leaves it is cut off.
    error = 0.1 / math.sqrt(3)
    assert bar.get_xdata().tolist() == pytest.approx([-0.4, -0.4 + 0.8 * error / 0.4])
    assert none.get_xdata().tolist() == pytest.approx([0.4, 0.4])
    assert np.ravel(dot.get_xdata()).tolist() == pytest.approx([0.4])
    pyplot.close("all")
