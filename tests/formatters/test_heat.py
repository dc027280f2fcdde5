from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from kerasight.base import TargetExplanation
from kerasight.formatters.heat import DrawnHeat, heat_of
from kerasight.formatters.overlay import Style


def heat(heatmap: Any, *, signed: bool = False, **style: Any) -> DrawnHeat:
    target = TargetExplanation(0, heatmap=np.asarray(heatmap, dtype=float), signed=signed)
    return heat_of(target, ("depth", "height", "width")[-target.heatmap.ndim :], Style(**style))


# 1/10,000 to 1, shuffled.
RISING = (np.random.default_rng(0).permutation(10_000).reshape(100, 100) + 1) / 10_000


def test_a_heatmap_of_few_cells_is_drawn_as_it_is() -> None:
    values = np.random.default_rng(0).random((64, 64))
    assert heat(values).drawn.tobytes() == values.tobytes()
    assert heat(RISING, outliers=0).drawn.tobytes() == RISING.tobytes()


def test_of_many_cells_the_hottest_hundredth_is_drawn_alike() -> None:
    np.testing.assert_allclose(heat(RISING).drawn, np.minimum(RISING / 0.9901, 1), rtol=1e-12)
    assert (heat(RISING).drawn == 1).sum() == 100
    assert (heat(RISING, outliers=25).drawn == 1).sum() == 2500
    assert (heat(RISING, outliers=99).drawn == 1).sum() == 9900
    np.testing.assert_array_equal(heat(RISING).values, RISING)


@pytest.mark.parametrize("shape", [(64, 64), (4096,), (16, 16, 16)])
def test_cells_are_counted_along_all_axes(shape: tuple[int, ...]) -> None:
    assert heat(np.ones(shape)).outliers == 0
    assert heat(np.ones((shape[0] + 1, *shape[1:]))).outliers == 1


def test_one_cell_does_not_darken_the_others() -> None:
    spiky = np.tile(np.linspace(0, 0.02, 100), (100, 1))
    spiky[3, 4] = 1
    assert heat(spiky, outliers=0).drawn[:, 90].max() < 0.02
    assert heat(spiky).drawn[:, 90].min() > 0.9


def test_where_fewer_cells_have_heat_none_is_cut() -> None:
    few = np.zeros((100, 100))
    few[0, :50] = np.linspace(0.1, 1, 50)
    np.testing.assert_array_equal(heat(few).drawn, few)
    noisy = np.maximum(few, 1e-9)
    np.testing.assert_array_equal(heat(noisy).drawn, noisy)
    assert not heat(np.zeros((100, 100))).drawn.any()


def test_a_heatmap_that_is_nearly_blank_stays_so() -> None:
    drawn = heat(0.05 * RISING).drawn
    assert drawn.max() == 0.05
    assert (drawn == 0.05).sum() == 100


def test_signed_heat_is_cut_by_its_size_and_keeps_its_sign() -> None:
    signs = np.where(np.arange(100) % 2, 1, -1)
    cut = heat(signs * RISING, signed=True)
    assert cut.is_signed
    np.testing.assert_array_equal(cut.drawn, signs * heat(RISING).drawn)


def test_without_its_sign_heat_is_drawn_by_its_size() -> None:
    size = heat([[-1, 0.5], [0.25, -0.5]], signed=True, absolute=True)
    assert not size.is_signed
    np.testing.assert_array_equal(size.drawn, [[1, 0.5], [0.25, 0.5]])


def test_a_blurred_cell_is_a_gaussian_with_the_same_peak() -> None:
    row = np.zeros((1, 200))
    row[0, 100] = 0.8
    # One per cent of the longer side is two cells.
    away = np.arange(-8, 9)
    blurred = heat(row, blur=1, outliers=0).drawn
    np.testing.assert_allclose(blurred[0, 92:109], 0.8 * np.exp(-0.5 * (away / 2) ** 2))
    assert not blurred[0, :92].any()
    assert not blurred[0, 109:].any()
    cell = np.zeros((201, 201))
    cell[100, 100] = 1
    both = heat(cell, blur=1, outliers=0).drawn
    across = np.exp(-0.5 * (np.arange(-8, 9) / 2.01) ** 2)
    np.testing.assert_allclose(both[92:109, 92:109], across * across[:, np.newaxis])


@pytest.mark.parametrize("blur", [0.001, 3, 100])
@pytest.mark.parametrize("shape", [(30,), (1, 20), (4, 5, 6)])
def test_no_heat_is_lost_at_the_edges(blur: float, shape: tuple[int, ...]) -> None:
    np.testing.assert_allclose(heat(np.full(shape, 0.7), blur=blur).drawn, 0.7, rtol=1e-12)


def test_what_lies_side_by_side_cancels_out_unless_its_size_is_drawn() -> None:
    stripes = np.tile([1.0, -1.0], (40, 20))
    assert np.abs(heat(stripes, signed=True, blur=5).drawn[:, 10:30]).max() < 0.1
    np.testing.assert_allclose(heat(stripes, signed=True, blur=5, absolute=True).drawn, 1)
    assert not heat(np.zeros((4, 4)), blur=5).drawn.any()


def test_the_hottest_are_those_of_the_blurred_heat() -> None:
    cell = np.zeros((100, 100))
    cell[50, 50] = 1
    assert (heat(cell, blur=2, outliers=0).drawn == 1).sum() == 1
    disc = heat(cell, blur=2, outliers=0.5).drawn == 1
    assert 45 < disc.sum() < 60  # 50, and as many more as are just as far away
    down, across = np.nonzero(disc)
    assert np.hypot(down - 50, across - 50).max() < 4.5


@pytest.mark.parametrize(
    ("asked", "error", "message"),
    [
        ({"outliers": -1}, ValueError, "outliers must lie between 0 and 100 per cent, got -1"),
        ({"outliers": np.nan}, ValueError, "outliers must lie between 0 and 100"),
        ({"outliers": "1"}, TypeError, "outliers must be a real number or None, got str"),
        ({"blur": 101}, ValueError, "blur must lie between 0 and 100 per cent, got 101"),
        ({"blur": None}, TypeError, "blur must be a real number, got NoneType"),
        ({"absolute": 1}, TypeError, "absolute must be True or False, got int"),
    ],
)
def test_what_makes_no_sense_is_refused(
    asked: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        Style(**asked)
