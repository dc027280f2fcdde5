from __future__ import annotations

from typing import Any

import keras
import matplotlib
import numpy as np
import pytest
from matplotlib import pyplot as plt

import kerasight
from kerasight import demo
from kerasight.metrics import (
    AverageDrop,
    Curve,
    Increase,
    average_drop,
    deletion,
    increase,
    insertion,
)

matplotlib.use("agg")


def looking_at(rows: slice, columns: slice, side: int = 8) -> keras.Model:
    """A model whose one score is the mean of a part of the picture."""
    top, bottom, _ = rows.indices(side)
    left, right, _ = columns.indices(side)
    return keras.Sequential(
        [
            keras.Input((side, side, 1)),
            keras.layers.Cropping2D(((top, side - bottom), (left, side - right))),
            keras.layers.GlobalAveragePooling2D(),
        ]
    )


EVERYWHERE = looking_at(slice(None), slice(None))
CORNER = looking_at(slice(0, 4), slice(0, 4))
ONES = np.ones((1, 8, 8, 1), np.float32)
HOT_CORNER = np.array([[1.0, 0.0], [0.0, 0.0]]).repeat(4, 0).repeat(4, 1)


# Deletion and insertion


def test_of_a_flat_doc_and_a_model_of_all_pixels_alike_the_score_falls_evenly() -> None:
    curve = deletion(EVERYWHERE, ONES, np.eye(2), baseline=0, steps=8)
    np.testing.assert_allclose(curve.fractions, np.arange(9) / 8)
    np.testing.assert_allclose(curve.scores, [1 - np.arange(9) / 8], atol=1e-6)
    assert curve.area == pytest.approx(0.5)


def test_hot_pixels_that_the_model_looks_at_take_the_score_with_them() -> None:
    curve = deletion(CORNER, ONES, HOT_CORNER, baseline=0, steps=8)
    # The corner is a quarter of the picture: two of eight steps.
    np.testing.assert_allclose(curve.scores, [[1, 0.5, 0, 0, 0, 0, 0, 0, 0]], atol=1e-6)
    assert curve.area == pytest.approx(0.125)
    curve = deletion(CORNER, ONES, 1 - HOT_CORNER, baseline=0, steps=8)
    np.testing.assert_allclose(curve.scores, [[1, 1, 1, 1, 1, 1, 1, 0.5, 0]], atol=1e-6)
    assert curve.area == pytest.approx(0.875)


def test_insertion_brings_the_score_with_the_hot_pixels() -> None:
    curve = insertion(CORNER, ONES, HOT_CORNER, baseline=0, steps=8)
    np.testing.assert_allclose(curve.scores, [[0, 0.5, 1, 1, 1, 1, 1, 1, 1]], atol=1e-6)
    assert curve.area == pytest.approx(0.875)


def test_a_single_pixel_falls_in_one_step() -> None:
    model = looking_at(slice(5, 6), slice(2, 3))
    heat = np.random.default_rng(0).permutation(64).reshape(8, 8) / 64.0
    place = 63 - round(64 * heat[5, 2])  # how many are hotter
    curve = deletion(model, ONES, heat, baseline=0, steps=64)
    np.testing.assert_allclose(curve.scores[0], np.arange(65) <= place, atol=1e-6)
    # Half of a step lies on the slope.
    assert curve.area == pytest.approx((place + 0.5) / 64)


def test_of_a_linear_model_deletion_and_insertion_share_the_score_at_every_point() -> None:
    doc = np.random.default_rng(0).random((1, 8, 8, 1), dtype=np.float32)
    heat = np.random.default_rng(1).random((3, 5))
    gone = deletion(EVERYWHERE, doc, heat, baseline=0)
    here = insertion(EVERYWHERE, doc, heat, baseline=0)
    np.testing.assert_allclose(gone.scores + here.scores, doc.mean(), rtol=1e-5)
    np.testing.assert_allclose(gone.fractions, here.fractions)


def test_the_doc_itself_as_the_heatmap_deletes_the_greatest_pixels_first() -> None:
    doc = np.random.default_rng(0).random((1, 8, 8, 1), dtype=np.float32)
    curve = deletion(EVERYWHERE, doc, doc[0, ..., 0], baseline=0, steps=64)
    ascending = np.sort(doc.ravel())
    left = np.concatenate([np.cumsum(ascending)[::-1], [0]]) / 64
    np.testing.assert_allclose(curve.scores[0], left, atol=1e-6)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.uint8])
def test_pixels_go_with_all_their_channels_whatever_their_type(dtype: Any) -> None:
    colours = keras.layers.Dense(1, use_bias=False)
    model = keras.Sequential([keras.Input((2, 2, 3)), keras.layers.Flatten(), colours])
    colours.set_weights([10.0 ** np.arange(-6, 6).reshape(12, 1)])
    doc = np.arange(1, 13).reshape(1, 2, 2, 3).astype(dtype)
    curve = deletion(model, doc, np.array([[0.4, 0.3], [0.2, 0.1]]), baseline=0, steps=4)
    left = np.arange(12) >= 3 * np.arange(5)[:, np.newaxis]
    expected = (left * doc.ravel() * 10.0 ** np.arange(-6, 6)).sum(axis=1)
    np.testing.assert_allclose(curve.scores, [expected], rtol=1e-6)


def test_the_ends_are_the_doc_and_the_baseline() -> None:
    doc = np.random.default_rng(0).random((1, 8, 8, 1), dtype=np.float32)
    whole, corner = float(doc.mean()), float(doc[:, :4, :4].mean())
    gone = deletion(CORNER, doc, HOT_CORNER, baseline="mean")
    np.testing.assert_allclose(gone.scores[0, [0, -1]], [corner, whole], rtol=1e-5)
    here = insertion(CORNER, doc, HOT_CORNER, baseline="mean")
    np.testing.assert_allclose(here.scores[0, [0, -1]], [whole, corner], rtol=1e-5)


def test_defaults_are_the_mean_for_deletion_and_blur_for_insertion() -> None:
    assert deletion(CORNER, ONES, HOT_CORNER).baseline == "mean"
    assert insertion(CORNER, ONES, HOT_CORNER).baseline == "blur"
    big = np.ones((1, 16, 16, 1), np.float32)
    model = looking_at(slice(0, 4), slice(0, 4), side=16)
    assert deletion(model, big, HOT_CORNER).scores.shape == (1, 51)


def test_there_are_no_more_steps_than_pixels() -> None:
    curve = deletion(looking_at(slice(None), slice(None), 2), ONES[:, :2, :2], np.eye(2), steps=50)
    np.testing.assert_allclose(curve.fractions, [0, 0.25, 0.5, 0.75, 1])


def test_steps_that_do_not_divide_the_pixels_are_as_even_as_can_be() -> None:
    curve = deletion(EVERYWHERE, ONES, np.eye(2), baseline=0, steps=5)
    np.testing.assert_allclose(curve.fractions * 64, [0, 13, 26, 38, 51, 64])
    np.testing.assert_allclose(curve.scores[0], 1 - curve.fractions, atol=1e-6)
    assert curve.area == pytest.approx(0.5)


def test_a_signed_heatmap_is_deleted_down_to_what_speaks_against() -> None:
    signed = HOT_CORNER - 0.5
    np.testing.assert_array_equal(
        deletion(CORNER, ONES, signed, baseline=0).scores,
        deletion(CORNER, ONES, HOT_CORNER, baseline=0).scores,
    )


def test_many_docs_give_what_each_gives_alone() -> None:
    docs = np.random.default_rng(0).random((3, 8, 8, 1), dtype=np.float32)
    heat = np.random.default_rng(1).random((3, 4, 4)).round(1)
    heat[1] = 0  # all ties
    for metric in (deletion, insertion):
        together = metric(CORNER, docs, heat, baseline="noise")
        alone = [metric(CORNER, docs[i : i + 1], heat[i], baseline="noise") for i in range(3)]
        np.testing.assert_allclose(
            together.scores, np.concatenate([curve.scores for curve in alone]), rtol=1e-5
        )
        np.testing.assert_allclose(together.areas, [curve.area for curve in alone], rtol=1e-5)
        assert together.area == pytest.approx(np.mean([curve.area for curve in alone]))


@pytest.mark.parametrize("metric", [deletion, insertion, average_drop, increase])
def test_chunked_equals_whole(metric: Any) -> None:
    docs = np.random.default_rng(0).random((4, 8, 8, 1), dtype=np.float32)
    heat = np.random.default_rng(1).random((4, 3, 3))
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Conv2D(4, 3, activation="relu"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(3, activation="softmax"),
        ]
    )
    whole = metric(model, docs, heat, batch_size=1000)
    for batch_size in (1, 7):
        chunked = metric(model, docs, heat, batch_size=batch_size)
        np.testing.assert_allclose(float(chunked), float(whole), rtol=1e-5)
        for name in {"scores", "before", "after"} & set(vars(whole)):
            np.testing.assert_allclose(getattr(chunked, name), getattr(whole, name), rtol=1e-5)


def test_no_more_than_a_batch_of_docs_is_run_at_a_time(monkeypatch: Any) -> None:
    from kerasight.keras import record

    sizes = []
    scores_of = record.scores_of

    def watched(model: Any, docs: np.ndarray, **kwargs: Any) -> np.ndarray:
        sizes.append(len(docs))
        return scores_of(model, docs, **kwargs)

    monkeypatch.setattr(record, "scores_of", watched)
    deletion(CORNER, ONES.repeat(3, 0), [HOT_CORNER] * 3, steps=10, batch_size=7)
    assert sizes == [3, 7, 7, 7, 7, 2]


def test_logits_are_watched_if_asked_for() -> None:
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(2, activation="softmax", kernel_initializer="ones"),
        ]
    )
    model.layers[-1].set_weights([np.array([[3.0, 1.0]], np.float32), np.zeros(2, np.float32)])
    found = deletion(model, ONES, HOT_CORNER, baseline=0, logits=True, steps=4)
    np.testing.assert_allclose(found.scores, [[3, 2.25, 1.5, 0.75, 0]], rtol=1e-5, atol=1e-6)
    assert deletion(model, ONES, HOT_CORNER, baseline=0).scores.max() < 1


def test_a_right_heatmap_beats_the_wrong_one_on_the_real_demo() -> None:
    model, doc = demo.load_model(), demo.preprocess(demo.load_picture())
    expl = kerasight.explain_prediction(model, doc)
    assert expl.targets
    heatmap = expl.targets[0].heatmap
    assert heatmap is not None
    wrong = kerasight.TargetExplanation(expl.targets[0].target, heatmap=1 - heatmap)
    assert deletion(model, doc, expl).area < deletion(model, doc, wrong).area
    assert insertion(model, doc, expl).area > insertion(model, doc, wrong).area
    assert average_drop(model, doc, expl).average < average_drop(model, doc, wrong).average


def make_curve(scores: np.ndarray, metric: Any = "deletion") -> Curve:
    fractions = np.linspace(0, 1, scores.shape[1])
    return Curve(metric, fractions, scores, np.full(len(scores), 7), "mean")


def test_a_curve_prints_its_area() -> None:
    one = make_curve(np.array([[1.0, 0.0, 0.0]]))
    assert repr(one) == (
        "deletion: area 0.2500 of 1 doc, 2 steps, baseline mean (the lower the better)"
    )
    two = make_curve(np.array([[1.0, 0.0, 0.0], [1.0, 1.0, 0.0]]), "insertion")
    assert str(two) == (
        "insertion: mean area 0.5000 of 2 docs, 2 steps, baseline mean (the higher the better)"
    )
    assert float(two) == two.area == 0.5


def test_a_curve_is_drawn_point_by_point() -> None:
    curve = make_curve(np.array([[1.0, 0.25, 0.0]]))
    ax = curve.plot()
    (line,) = ax.lines
    np.testing.assert_array_equal(line.get_xdata(), [0, 0.5, 1])
    np.testing.assert_array_equal(line.get_ydata(), [1, 0.25, 0])
    assert line.get_label() == "deletion, area 0.375"
    assert ax.get_title() == "Deletion, baseline mean"
    assert (ax.get_xlabel(), ax.get_ylabel()) == (
        "pixels deleted, the hottest first",
        "score of class 7",
    )


def test_curves_of_many_docs_are_drawn_as_mean_and_band_and_share_axes() -> None:
    curve = make_curve(np.array([[1.0, 0.0, 0.0], [1.0, 1.0, 0.0]]), "insertion")
    ax = plt.subplots()[1]
    assert curve.plot(ax, label="Grad-CAM", color="red") is ax
    assert make_curve(np.ones((2, 3)), "insertion").plot(ax) is ax
    first, second = ax.lines
    np.testing.assert_array_equal(first.get_ydata(), [1, 0.5, 0])
    assert (first.get_color(), first.get_label()) == ("red", "Grad-CAM, area 0.500")
    assert second.get_label() == "insertion, area 1.000"
    band = ax.collections[0].get_paths()[0].vertices
    assert {0.25, 0.75} <= set(band[:, 1])
    assert ax.get_ylabel() == "mean score of 2 docs"


# Average drop and increase


def test_the_drop_is_what_the_mask_takes_in_per_cent() -> None:
    # Of a model of all pixels alike the hot quarter of a flat doc keeps a quarter of the score.
    found = average_drop(EVERYWHERE, ONES, HOT_CORNER, baseline=0)
    np.testing.assert_allclose(found.before, [1])
    np.testing.assert_allclose(found.after, [0.25], rtol=1e-6)
    np.testing.assert_allclose(found.drops, [75], rtol=1e-6)
    half = average_drop(EVERYWHERE, ONES, 0.5 * HOT_CORNER, baseline=0)
    np.testing.assert_allclose(half.drops, [87.5], rtol=1e-6)
    assert average_drop(CORNER, ONES, HOT_CORNER, baseline=0).average == 0


def test_what_is_taken_away_becomes_the_baseline() -> None:
    doc = np.random.default_rng(0).random((1, 8, 8, 1), dtype=np.float32)
    heat = np.random.default_rng(1).random((8, 8))
    masked = heat * doc[0, ..., 0] + (1 - heat) * doc.mean()
    for metric in (average_drop, increase):
        found = metric(EVERYWHERE, doc, heat)
        assert found.baseline == "mean"
        np.testing.assert_allclose(found.after, [masked.mean()], rtol=1e-5)
    found = average_drop(EVERYWHERE, doc, heat, baseline=2)
    np.testing.assert_allclose(found.after, [(heat * doc[0, ..., 0] + 2 - 2 * heat).mean()], 1e-5)


def test_what_speaks_against_the_class_is_masked_like_what_says_nothing() -> None:
    signed = HOT_CORNER - (1 - HOT_CORNER)
    assert average_drop(EVERYWHERE, ONES, signed, baseline=0).average == pytest.approx(75)


def distracted() -> keras.Model:
    """One score: the mean of the first channel, less that of the second."""
    model = keras.Sequential(
        [
            keras.Input((8, 8, 2)),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(1, use_bias=False),
        ]
    )
    model.layers[-1].set_weights([np.array([[1.0], [-1.0]], np.float32)])
    return model


def test_a_score_rises_when_what_distracts_is_masked() -> None:
    doc = np.zeros((1, 8, 8, 2), np.float32)
    doc[:, :4, :, 0], doc[:, 4:, :, 1] = 1, 0.5
    good, bad = np.zeros((2, 8, 8))
    good[:4], bad[4:] = 1, 1
    found = increase(distracted(), doc.repeat(2, 0), [good, bad], baseline=0)
    np.testing.assert_allclose(found.before, [0.25, 0.25])
    np.testing.assert_allclose(found.after, [0.5, -0.25])
    np.testing.assert_array_equal(found.increased, [True, False])
    assert found.percent == 50
    drop = average_drop(distracted(), doc.repeat(2, 0), [good, bad], baseline=0)
    # The first rises, and drops by nothing; the second goes past 0, by twice what there was.
    np.testing.assert_allclose(drop.drops, [0, 200])
    assert drop.average == 100


def test_a_score_that_stays_has_not_risen() -> None:
    assert increase(EVERYWHERE, ONES, np.ones((2, 2))).percent == 0


def test_there_is_no_drop_of_a_score_that_is_not_positive() -> None:
    with pytest.raises(ValueError, match=r"doc 1 for class 0 is -1, .* softmax"):
        average_drop(EVERYWHERE, np.concatenate([ONES, -ONES]), [HOT_CORNER] * 2)
    with pytest.raises(ValueError, match="doc 0 for class 0 is 0"):
        average_drop(EVERYWHERE, 0 * ONES, HOT_CORNER)
    assert increase(EVERYWHERE, -ONES, HOT_CORNER, baseline=0).percent == 100


@pytest.mark.parametrize("metric", [average_drop, increase])
def test_a_mask_of_values_above_1_is_refused(metric: Any) -> None:
    with pytest.raises(ValueError, match=r"heatmap 0 must have values up to 1 .* got 2; divide"):
        metric(EVERYWHERE, ONES, 2 * HOT_CORNER)


def test_drops_and_increases_print_well() -> None:
    before, after = np.array([0.5, 0.5]), np.array([0.25, 1.0])
    drop = AverageDrop(before, after, np.zeros(2, int), "mean")
    rise = Increase(before[1:], after[1:], np.zeros(1, int), "0")
    assert repr(drop) == (
        "average drop: 25.00% of the score, 2 docs, baseline mean (the lower the better)"
    )
    assert str(rise) == (
        "increase: the score rises for 100.00% of 1 doc, baseline 0 (the higher the better)"
    )
    assert (float(drop), float(rise)) == (25, 100)


@pytest.mark.parametrize(
    ("kind", "title"),
    [(AverageDrop, "Average drop: 25.0%"), (Increase, "Increase: 50.0% of docs")],
)
def test_scores_before_and_after_are_drawn_as_points(kind: Any, title: str) -> None:
    found = kind(np.array([0.5, 0.5]), np.array([0.25, 1.0]), np.zeros(2, int), "mean")
    ax = found.plot(color="red")
    np.testing.assert_array_equal(ax.collections[0].get_offsets(), [[0.5, 0.25], [0.5, 1.0]])
    assert ax.get_title() == title
    assert ax.get_xlim() == ax.get_ylim()
    other = plt.subplots()[1]
    negative = kind(np.array([-2.0]), np.array([-1.0]), np.zeros(1, int), "mean")
    assert negative.plot(other) is other
    assert other.get_xlim()[0] < -2
