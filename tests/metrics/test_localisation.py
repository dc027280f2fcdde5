from __future__ import annotations

import time
from typing import Any

import matplotlib
import numpy as np
import pytest
from matplotlib import pyplot as plt

from kerasight.base import Explanation, TargetExplanation
from kerasight.metrics import EnergyInMask, PointingGame, energy_in_mask, pointing_game

matplotlib.use("agg")


def spot(row: int, column: int, size: int = 4) -> np.ndarray:
    heatmap = np.zeros((size, size))
    heatmap[row, column] = 1
    return heatmap


def box(rows: slice, columns: slice, shape: tuple[int, int] = (8, 8)) -> np.ndarray:
    mask = np.zeros(shape, dtype=bool)
    mask[rows, columns] = True
    return mask


LEFT, RIGHT = box(slice(None), slice(0, 4)), box(slice(None), slice(4, 8))


# The pointing game


def test_a_hit_is_a_hottest_point_on_the_mask() -> None:
    assert pointing_game(spot(1, 0), LEFT).accuracy == 1
    assert pointing_game(spot(1, 0), RIGHT).accuracy == 0
    found = pointing_game([spot(1, 0), spot(1, 3), spot(1, 0)], [LEFT, LEFT, LEFT])
    np.testing.assert_array_equal(found.hits, [1, 0, 1])
    assert found.accuracy == pytest.approx(2 / 3)


def test_the_hottest_point_is_the_centre_of_its_cell() -> None:
    # A cell of 4 x 4 on 12 x 12 pixels has its centre in the middle of three.
    for pixel in range(12):
        mask = box(slice(4, 5), slice(pixel, pixel + 1), (12, 12))
        assert pointing_game(spot(1, 2), mask).accuracy == (pixel == 7)
    # On 8 x 8 pixels, it is where four of them meet.
    for pixel in range(8):
        mask = box(slice(2, 3), slice(pixel, pixel + 1))
        assert pointing_game(spot(1, 2), mask).accuracy == (pixel in (4, 5))


def test_a_map_of_the_size_of_the_mask_points_at_a_pixel() -> None:
    for pixel in range(8):
        mask = box(slice(3, 4), slice(pixel, pixel + 1))
        assert pointing_game(spot(3, 5, 8), mask).accuracy == (pixel == 5)


def test_the_distance_is_to_the_nearest_edge_of_the_mask() -> None:
    mask = box(slice(0, 2), slice(0, 3), (20, 20))
    # The centre of the cell is at (12.5, 7.5); the mask ends at (2, 3).
    found = pointing_game(spot(2, 1, 4).repeat(1, 0), mask)
    np.testing.assert_allclose(found.distances[0], [np.hypot(10.5, 4.5)])
    assert pointing_game(spot(2, 1), mask, tolerance=11.5).accuracy == 1
    assert pointing_game(spot(2, 1), mask, tolerance=11.4).accuracy == 0
    assert pointing_game(spot(2, 1), mask, tolerance=np.inf).accuracy == 1


def test_distances_are_the_least_of_all_pixels_also_on_scattered_masks() -> None:
    rng = np.random.default_rng(0)
    mask, heatmap = rng.random((23, 31)) < 0.02, np.ones((5, 6))
    (found,) = pointing_game(heatmap, mask).distances
    pixels = np.argwhere(mask) + 0.5
    centres = [((y + 0.5) * 23 / 5, (x + 0.5) * 31 / 6) for y in range(5) for x in range(6)]
    expected = [
        np.linalg.norm((np.abs(pixels - centre) - 0.5).clip(0, None), axis=1).min()
        for centre in centres
    ]
    np.testing.assert_allclose(found, expected, atol=1e-8)


def test_of_equally_hot_cells_each_counts_for_its_share() -> None:
    both = spot(1, 0) + spot(1, 3) + spot(2, 3)
    assert pointing_game(both, LEFT).accuracy == pytest.approx(1 / 3)
    quarter = box(slice(0, 4), slice(0, 4))
    # A map that is the same everywhere scores what chance does.
    assert pointing_game(np.ones((4, 4)), quarter).accuracy == 0.25
    almost = spot(1, 0) + (1 - 1e-9) * spot(1, 3)
    assert pointing_game(almost, LEFT).accuracy == 0.5


@pytest.mark.parametrize("heatmap", [np.zeros((4, 4)), -np.ones((4, 4)), -spot(1, 0)])
def test_a_heatmap_with_nothing_for_the_class_misses(heatmap: np.ndarray) -> None:
    found = pointing_game(heatmap, LEFT, tolerance=1000)
    assert found.accuracy == 0
    np.testing.assert_array_equal(found.distances[0], [np.inf])


def test_a_signed_heatmap_points_at_what_speaks_for_the_class() -> None:
    assert pointing_game(0.5 * spot(1, 0) - spot(1, 3), LEFT).accuracy == 1


def test_explanations_and_targets_are_taken_as_heatmaps_are() -> None:
    targets = [TargetExplanation(1, heatmap=spot(1, 0)), TargetExplanation(2, heatmap=spot(1, 3))]
    expl = Explanation("net", targets=targets)
    assert pointing_game(expl, LEFT).accuracy == 1
    assert pointing_game(targets[1], LEFT).accuracy == 0
    masks = np.stack([LEFT, RIGHT, RIGHT])
    assert pointing_game([expl, *targets], masks).accuracy == pytest.approx(2 / 3)
    assert energy_in_mask([expl, *targets], masks).mean == pytest.approx(
        np.mean(
            [
                energy_in_mask(spot(1, 0), LEFT).mean,
                energy_in_mask(spot(1, 0), RIGHT).mean,
                energy_in_mask(spot(1, 3), RIGHT).mean,
            ]
        )
    )


def test_flat_maps_of_many_cells_take_no_time() -> None:
    start = time.perf_counter()
    found = pointing_game(np.ones((224, 224)), box(slice(0, 112), slice(None), (224, 224)))
    assert found.accuracy == 0.5
    assert time.perf_counter() - start < 10


def test_the_pointing_game_prints_its_accuracy() -> None:
    found = pointing_game([spot(1, 0), spot(1, 3)], [LEFT, LEFT], tolerance=1.5)
    assert repr(found) == (
        "pointing game: accuracy 0.5000, 1 of 2 hit, tolerance 1.5 px (the higher the better)"
    )
    assert float(found) == 0.5


def test_hits_are_drawn_by_tolerance() -> None:
    distances = (np.array([0.0]), np.array([10.0]), np.array([np.inf]), np.array([0.0, 10.0]))
    ax = PointingGame(distances, tolerance=5.0).plot(label="Grad-CAM")
    steps, point = ax.lines
    np.testing.assert_allclose(steps.get_xdata(), [0, 5, 10, 10.8])
    np.testing.assert_allclose(steps.get_ydata(), [0.375, 0.375, 0.75, 0.75])
    assert steps.get_label() == "Grad-CAM 0.375"
    assert (point.get_xdata()[0], point.get_ydata()[0]) == (5, 0.375)
    assert ax.get_ylabel() == "hits of 4 explanations"
    other = plt.subplots()[1]
    hit = PointingGame((np.array([0.0]),), tolerance=0.0)
    assert hit.plot(other, color="red") is other
    np.testing.assert_allclose(other.lines[0].get_xdata(), [0, 1])


# Energy in the mask


def test_energy_is_the_share_of_the_heat_in_the_mask() -> None:
    heatmap = np.array([[0.1, 0.2], [0.3, 0.4]])
    assert energy_in_mask(heatmap, np.array([[True, False], [False, True]])).mean == 0.5
    # Blown up by a whole factor, halves stay halves.
    up, down = np.zeros((2, 6, 6), bool)
    up[:3], down[3:] = True, True
    found = energy_in_mask([np.array([[1.0], [1.0]])] * 2, [up, down])
    np.testing.assert_allclose(found.shares, [0.5, 0.5])
    np.testing.assert_allclose(found.areas, [0.5, 0.5])


def test_heat_between_two_cells_is_shared_bilinearly() -> None:
    # 1 and 0 side by side become 1, 0.75, 0.25 and 0.
    found = energy_in_mask(np.array([[1.0, 0.0]]), np.array([[True, False, True, False]]))
    assert found.mean == pytest.approx((1 + 0.25) / 2)


def test_what_speaks_against_the_class_is_no_heat() -> None:
    signed = np.array([[0.5, -1.0], [0.5, -1.0]])
    mask = np.array([[True, True], [False, False]])
    assert energy_in_mask(signed, mask).mean == 0.5


def test_a_blank_heatmap_has_no_energy_anywhere() -> None:
    assert energy_in_mask(np.zeros((2, 2)), LEFT).mean == 0
    assert energy_in_mask(-np.ones((2, 2)), LEFT).mean == 0


def test_tiny_heat_counts_like_any() -> None:
    assert energy_in_mask(1e-310 * np.ones((2, 2)), LEFT).mean == pytest.approx(0.5)


def test_a_flipped_heatmap_loses() -> None:
    heatmap = np.array([[0.9, 0.2], [0.7, 0.1]])
    assert energy_in_mask(heatmap, LEFT).mean > energy_in_mask(heatmap[:, ::-1], LEFT).mean
    assert pointing_game(heatmap, LEFT).accuracy > pointing_game(heatmap[:, ::-1], LEFT).accuracy


def test_energy_prints_beside_chance() -> None:
    one = energy_in_mask(np.ones((2, 2)), LEFT)
    assert repr(one) == ("energy in mask: 0.5000 of the heat of 1 explanation; 0.5000 by chance")
    two = EnergyInMask(np.array([0.5, 1.0]), np.array([0.1, 0.3]))
    assert str(two) == (
        "energy in mask: 0.7500 of the heat of 2 explanations on average; 0.2000 by chance"
    )
    assert float(two) == two.mean == 0.75


def test_energy_is_drawn_as_bars_beside_chance() -> None:
    found = EnergyInMask(np.array([0.5, 1.0]), np.array([0.1, 0.3]))
    ax = found.plot(color="red")
    assert [bar.get_height() for bar in ax.patches] == [0.5, 1.0]
    assert [segment[0, 1] for segment in ax.collections[0].get_segments()] == [0.1, 0.3]
    assert list(ax.lines[0].get_ydata()) == [0.75, 0.75]
    assert list(ax.get_xticks()) == [0, 1]
    other = plt.subplots()[1]
    assert EnergyInMask(np.array([0.5]), np.array([0.1])).plot(other) is other
    assert not other.lines
    many = EnergyInMask(np.linspace(0, 1, 80), np.full(80, 0.2)).plot()
    assert len(many.patches) == 80


# Masks


@pytest.mark.parametrize("metric", [pointing_game, energy_in_mask])
@pytest.mark.parametrize(
    ("masks", "error", "message"),
    [
        (LEFT.astype(np.uint8), TypeError, r"mask 0 must be .* booleans, got dtype uint8; .* > 0"),
        ([LEFT.tolist()], TypeError, "mask 0 must be .* booleans, got list"),
        (None, TypeError, "masks must be an array of booleans .* got NoneType"),
        ("mask", TypeError, "got str"),
        (LEFT[0], ValueError, r"masks must have shape .* got \(8,\)"),
        ([LEFT[0]], ValueError, r"mask 0 must have shape \(height, width\), got \(8,\)"),
        ([LEFT, LEFT], ValueError, "one mask for each explanation, got 2 for 1"),
        (np.zeros((8, 8), bool), ValueError, "mask 0 is empty"),
    ],
)
def test_what_is_no_mask_is_refused(metric: Any, masks: Any, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        metric(spot(1, 0), masks)


@pytest.mark.parametrize(
    ("tolerance", "error"),
    [(-1, ValueError), (np.nan, ValueError), ("15", TypeError), (True, TypeError)],
)
def test_the_tolerance_is_a_number_of_pixels(tolerance: Any, error: type) -> None:
    with pytest.raises(error, match="tolerance must be"):
        pointing_game(spot(1, 0), LEFT, tolerance=tolerance)
