from __future__ import annotations

import itertools
import sys
from typing import Any

import keras
import matplotlib
import numpy as np
import pytest
from matplotlib import pyplot as plt

from kerasight import demo
from kerasight.cam.maps import resized
from kerasight.metrics import Road, road
from kerasight.metrics.road import (
    NOISE,
    _framed,
    _multigrid,
    _neighbours,
    _scale,
    impute,
)

matplotlib.use("agg")


# Imputation


def imputed_densely(doc: np.ndarray, removed: np.ndarray) -> np.ndarray:
    """The same equations, written out pixel by pixel and solved whole."""
    height, width, _ = doc.shape
    places = list(itertools.product(range(height), range(width)))
    matrix, right = np.eye(len(places)), doc.reshape(len(places), -1).astype(np.float64)
    for i, (y, x) in enumerate(places):
        if not removed[y, x]:
            continue
        weights = np.zeros(len(places))
        for j, (v, u) in enumerate(places):
            if max(abs(y - v), abs(x - u)) == 1:
                weights[j] = 1 / 6 if y == v or x == u else 1 / 12
        matrix[i] -= weights / weights.sum()
        right[i] = 0
    return np.linalg.solve(matrix, right).reshape(doc.shape)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("size", [(12, 12), (9, 14), (2, 30), (30, 1)])
def test_removed_pixels_solve_the_equations(size: tuple[int, int], share: float) -> None:
    rng = np.random.default_rng(0)
    doc = 100 * rng.random((*size, 3))
    removed = rng.random(size) < share
    removed[0, 0] = False
    error = np.abs(impute(doc, removed) - imputed_densely(doc, removed))
    assert error.max() < 0.01 * NOISE * doc.std()


def test_a_hole_at_the_edge_is_filled_from_within_the_picture() -> None:
    rng = np.random.default_rng(0)
    doc, removed = rng.random((12, 12, 1)), np.zeros((12, 12), bool)
    removed[:7, 3:] = True
    np.testing.assert_allclose(impute(doc, removed), imputed_densely(doc, removed), atol=1e-6)


def test_ramps_are_filled_exactly() -> None:
    y, x = np.mgrid[:40, :50]
    doc = np.stack([3.0 * x + 1, 2.0 * y - x, np.full((40, 50), 7)], axis=-1)
    removed = np.zeros((40, 50), bool)
    removed[5:30, 1:49] = True
    np.testing.assert_allclose(impute(doc, removed), doc, atol=1e-3)


def test_the_widest_holes_are_filled_within_a_tenth_of_the_noise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = sys.modules[road.__module__]
    doc = 100 * demo.preprocess(demo.draw_picture(1, size=224).image)[0]
    heat = resized(np.random.default_rng(0).random((7, 7)), doc.shape[:2])
    removed = heat > np.quantile(heat, 0.2)
    filled = impute(doc, removed)
    monkeypatch.setattr(module, "_TOLERANCE", 1e-7)
    error = np.abs(filled - impute(doc, removed))
    assert 0 < error.max() < 0.1 * NOISE * doc.std()
    assert np.sqrt((error**2).mean()) < 0.03 * NOISE * doc.std()


def test_what_stays_is_left_and_a_single_pixel_fills_all() -> None:
    doc = np.random.default_rng(0).random((8, 8, 2))
    removed = np.ones((8, 8), bool)
    removed[2, 5] = False
    np.testing.assert_allclose(impute(doc, removed), np.broadcast_to(doc[2, 5], doc.shape))
    np.testing.assert_array_equal(impute(doc, np.zeros((8, 8), bool)), doc)


def test_a_pixel_alone_is_the_weighted_mean_of_its_neighbours() -> None:
    doc = np.arange(9.0).reshape(3, 3, 1) ** 2
    removed = np.zeros((3, 3), bool)
    removed[1, 1] = True
    straight, diagonal = 1 + 9 + 25 + 49, 0 + 4 + 36 + 64
    assert impute(doc, removed)[1, 1, 0] == pytest.approx(straight / 6 + diagonal / 12)
    removed = np.zeros((3, 3), bool)
    removed[0, 0] = True
    # In the corner two beside it and one across, of 5 / 12 together.
    assert impute(doc, removed)[0, 0, 0] == pytest.approx((1 / 6 + 9 / 6 + 16 / 12) / (5 / 12))


def test_large_holes_are_solved_to_the_last_pixel() -> None:
    doc = np.random.default_rng(0).random((224, 224, 1))
    removed = np.zeros((224, 224), bool)
    removed[:, 20:] = True
    filled = impute(doc, removed)[..., 0]
    sums, weights = (
        _neighbours(np.pad(plane[:, np.newaxis], ((1, 1), (0, 0), (1, 1))))[1:-1, 0, 1:-1]
        for plane in (filled, np.ones_like(filled))
    )
    means = sums / weights
    np.testing.assert_allclose(filled[removed], means[removed], atol=1e-6)


@pytest.mark.parametrize("scale", [1e-30, 1, 1e30])
def test_the_range_of_the_pixels_does_not_matter(scale: float) -> None:
    rng = np.random.default_rng(0)
    doc, removed = rng.random((20, 13, 2)), rng.random((20, 13)) < 0.8
    np.testing.assert_allclose(impute(scale * doc, removed), scale * impute(doc, removed), 1e-6)


def test_holes_take_few_iterations(monkeypatch: pytest.MonkeyPatch) -> None:
    module = sys.modules[road.__module__]
    rng = np.random.default_rng(0)
    doc, removed = rng.random((224, 224, 1)), np.ones((224, 224), bool)
    removed[100:110, 30:200] = False
    whole = impute(doc, removed)
    monkeypatch.setattr(module, "_MOST_ITERATIONS", 24)
    np.testing.assert_allclose(impute(doc, removed), whole, rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", [(8, 8), (6, 10), (2, 4), (2, 2)])
def test_scaling_down_is_the_transpose_of_scaling_up(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    height, width = size
    fine = _framed(rng.random((height, 2, width)))
    half = rng.random((height // 2, 2, width // 2))
    coarser, finer = _scale(fine.shape)
    down, up = coarser(fine), finer(_framed(half))
    assert (down * _framed(half)).sum() == pytest.approx((fine * up).sum())
    # A flat plane stays flat on its way up, away from the edge.
    ones = finer(_framed(np.ones_like(half)))
    np.testing.assert_allclose(ones[2:-2, :, 2:-2], 1)


def test_the_preconditioner_is_symmetric_and_positive_definite() -> None:
    rng = np.random.default_rng(0)
    stays = rng.random((18, 1, 12)) < 0.3
    inside = _framed(~stays)
    left, cycle = _multigrid(1, _neighbours(_framed(stays)) * inside, inside)
    places = np.flatnonzero(inside)
    ones = np.eye(inside.size, dtype=np.float32)[places].reshape(-1, *inside.shape)
    matrix, system = (
        np.stack([operator(one).flatten() for one in ones])[:, places] for operator in (cycle, left)
    )
    np.testing.assert_allclose(matrix, matrix.T, atol=1e-6)
    stretched = np.linalg.eigvals(matrix @ system).real
    # Were it exact, all of them would be 1.
    assert 0.3 < stretched.min() < stretched.max() < 1.5


# ROAD


def corner_model(channels_first: bool = False) -> keras.Model:
    """Two classes: the mean of the top left quarter of three channels, and less than that."""
    data_format = "channels_first" if channels_first else "channels_last"
    model = keras.Sequential(
        [
            keras.Input((3, 8, 8) if channels_first else (8, 8, 3)),
            keras.layers.Cropping2D(((0, 4), (0, 4)), data_format=data_format),
            keras.layers.GlobalAveragePooling2D(data_format=data_format),
            keras.layers.Dense(2),
        ]
    )
    kernel = np.array([[1, 0], [1, 0], [1, 0]], np.float32) / 3
    model.layers[-1].set_weights([kernel, np.array([0, -9], np.float32)])
    return model


CORNER = np.array([[1.0, 0.0], [0.0, 0.0]]).repeat(4, 0).repeat(4, 1)


def lit_corner(docs: int = 1) -> np.ndarray:
    doc = np.zeros((docs, 8, 8, 3), np.float32)
    doc[:, :4, :4] = 1
    return doc


def test_imputing_the_lit_corner_darkens_it_and_imputing_the_rest_does_not() -> None:
    found = road(corner_model(), lit_corner(), CORNER, percentiles=[25], noise=0)
    np.testing.assert_allclose(found.untouched, [1])
    # All around the hole is dark, so that it fills with dark; of the rest, nothing is looked at.
    np.testing.assert_allclose(found.morf, [[0]], atol=1e-6)
    np.testing.assert_allclose(found.lerf, [[1]], atol=1e-6)
    assert found.score == pytest.approx(0.5)
    flipped = road(corner_model(), lit_corner(), 1 - CORNER, percentiles=[25], noise=0)
    assert flipped.score == pytest.approx(-0.5)


def test_scores_are_those_of_the_imputed_docs() -> None:
    rng = np.random.default_rng(0)
    doc = rng.random((1, 8, 8, 3), dtype=np.float32)
    heat = rng.permutation(64).reshape(8, 8) / 64.0
    found = road(corner_model(), doc, heat, percentiles=(75, 25), noise=0)
    np.testing.assert_array_equal(found.percentiles, [25, 75])
    for place, count in enumerate((16, 48)):
        for scores, removed in (
            (found.morf, heat >= 1 - count / 64),
            (found.lerf, heat < count / 64),
        ):
            assert removed.sum() == count
            expected = imputed_densely(doc[0], removed)[:4, :4].mean()
            assert scores[0, place] == pytest.approx(expected, rel=1e-4)
    np.testing.assert_allclose(found.scores, (found.lerf - found.morf).mean(axis=1) / 2)


def test_at_least_one_pixel_stays() -> None:
    model = keras.Sequential([keras.Input((2, 2, 1)), keras.layers.GlobalAveragePooling2D()])
    doc = np.array([[[[1.0], [2.0]], [[3.0], [4.0]]]], np.float32)
    found = road(model, doc, doc[0, ..., 0], percentiles=[99], noise=0)
    np.testing.assert_allclose((found.morf, found.lerf), [[[1]], [[4]]], rtol=1e-6)


def test_noise_is_a_share_of_the_spread_and_seeded() -> None:
    model = keras.Sequential([keras.Input((64, 64, 1)), keras.layers.Flatten()])
    rng = np.random.default_rng(0)
    doc = rng.normal(5, 3, (1, 64, 64, 1)).astype(np.float32)
    # The one class looks at the hottest pixel.
    heat = np.zeros((64, 64))
    heat[10, 20] = 1

    def scores(**kwargs: Any) -> float:
        found = road(model, doc, heat, targets=[10 * 64 + 20], percentiles=[50], **kwargs)
        return float(found.morf[0, 0])

    noises = [scores(noise=0.1, seed=seed) - scores(noise=0, seed=seed) for seed in range(30)]
    assert 0.3 / 2 < np.std(noises) < 0.3 * 2
    assert scores(noise=0.1, seed=3) == scores(noise=0.1, seed=3)


def test_chunked_equals_whole_and_many_docs_what_each_gives_alone() -> None:
    rng = np.random.default_rng(0)
    docs, heat = rng.random((3, 8, 8, 3), dtype=np.float32), rng.random((3, 4, 4)).round(1)
    whole = road(corner_model(), docs, heat, batch_size=1000)
    for batch_size in (1, 7):
        chunked = road(corner_model(), docs, heat, batch_size=batch_size)
        np.testing.assert_allclose(chunked.morf, whole.morf, rtol=1e-5)
        np.testing.assert_allclose(chunked.lerf, whole.lerf, rtol=1e-5)
    alone = [road(corner_model(), docs[i : i + 1], heat[i]).score for i in range(3)]
    np.testing.assert_allclose(whole.scores, alone, rtol=1e-5)
    assert whole.score == pytest.approx(np.mean(alone))
    np.testing.assert_array_equal(whole.percentiles, [20, 40, 60, 80])


def test_channels_first_gives_the_same_as_channels_last() -> None:
    rng = np.random.default_rng(0)
    docs, heat = rng.random((2, 8, 8, 3), dtype=np.float32), rng.random((2, 4, 4))
    turned = np.ascontiguousarray(np.moveaxis(docs, -1, 1))
    expected = road(corner_model(), docs, heat)
    found = road(corner_model(channels_first=True), turned, heat)
    np.testing.assert_allclose(found.morf, expected.morf, rtol=1e-4)
    np.testing.assert_allclose(found.lerf, expected.lerf, rtol=1e-4)


@pytest.mark.parametrize("percentiles", [[], [0], [100], [50, 120], [np.nan], [-5, 5]])
def test_percentiles_lie_between_0_and_100(percentiles: list[float]) -> None:
    with pytest.raises(ValueError, match="percentiles must hold numbers between 0 and 100"):
        road(corner_model(), lit_corner(), CORNER, percentiles=percentiles)


@pytest.mark.parametrize("percentiles", ["20", ["20", "40"], [True], None, [20j]])
def test_percentiles_are_numbers(percentiles: Any) -> None:
    with pytest.raises(TypeError, match="percentiles must be a list of numbers, got"):
        road(corner_model(), lit_corner(), CORNER, percentiles=percentiles)


@pytest.mark.parametrize(
    ("noise", "error"),
    [
        (-0.1, ValueError),
        (np.inf, ValueError),
        (np.nan, ValueError),
        ("a", TypeError),
        (True, TypeError),
    ],
)
def test_noise_is_a_number_not_below_0(noise: Any, error: type) -> None:
    with pytest.raises(error, match="noise must be"):
        road(corner_model(), lit_corner(), CORNER, noise=noise)


def make_road(docs: int = 1) -> Road:
    return Road(
        percentiles=np.array([20.0, 80.0]),
        morf=np.array([[0.5, 0.1], [0.3, 0.1]])[:docs],
        lerf=np.array([[0.9, 0.7], [0.9, 0.9]])[:docs],
        untouched=np.array([1.0, 0.8])[:docs],
        targets=np.array([7, 7])[:docs],
    )


def test_road_prints_its_score() -> None:
    assert repr(make_road()) == (
        "ROAD: score 0.2500 of 1 doc, MoRF 0.3000, LeRF 0.8000, 20, 80% removed "
        "(the higher the better)"
    )
    assert str(make_road(2)).startswith("ROAD: mean score 0.3000 of 2 docs")
    assert float(make_road(2)) == pytest.approx(0.3)


def test_both_curves_are_drawn_from_the_untouched_doc_on() -> None:
    ax = make_road(2).plot()
    least, most = ax.lines
    np.testing.assert_array_equal(least.get_xdata(), [0, 20, 80])
    np.testing.assert_allclose(least.get_ydata(), [0.9, 0.9, 0.8])
    np.testing.assert_allclose(most.get_ydata(), [0.9, 0.4, 0.1])
    assert (least.get_label(), most.get_label()) == (
        "least relevant first (LeRF)",
        "most relevant first (MoRF)",
    )
    assert ax.get_ylabel() == "mean score of 2 docs"
    assert ax.get_legend_handles_labels()[1][-1] == "score 0.300"
    other = plt.subplots()[1]
    assert make_road().plot(other, label="Grad-CAM", linestyle="--") is other
    assert other.lines[0].get_label() == "Grad-CAM, least relevant first (LeRF)"
    assert other.get_ylabel() == "score of class 7"


def test_what_is_not_solved_in_time_is_still_filled(monkeypatch: pytest.MonkeyPatch) -> None:
    from kerasight.metrics import road as function

    module = sys.modules[function.__module__]
    monkeypatch.setattr(module, "_MOST_ITERATIONS", 3)
    doc = np.random.default_rng(0).random((32, 32, 1))
    removed = np.zeros((32, 32), bool)
    removed[:, 1:] = True
    filled = impute(doc, removed)
    assert np.isfinite(filled).all()
    assert np.abs(filled - imputed_densely(doc, removed)).max() > 1e-6
