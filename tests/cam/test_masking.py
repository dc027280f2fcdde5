from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest

from kerasight.cam.masking import (
    coalitions,
    kernel_shap,
    occlusion,
    relabelled,
    rise,
    rise_masks,
    segments,
    windows,
)


def random(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def close(found: np.ndarray, expected: object) -> None:
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, np.asarray(expected), rtol=1e-6, atol=1e-12)


# Occlusion


def test_windows_follow_each_other_until_the_end_is_covered() -> None:
    assert windows((6,), (4,), (2,)) == [(slice(0, 4),), (slice(2, 6),)]
    assert windows((3,), (3,), (1,)) == [(slice(0, 3),)]
    # Cut off where they do not fit.
    assert windows((5,), (4,), (2,)) == [(slice(0, 4),), (slice(2, 5),)]
    assert windows((2, 3), (1, 2), (1, 2)) == [
        (slice(0, 1), slice(0, 2)),
        (slice(0, 1), slice(2, 3)),
        (slice(1, 2), slice(0, 2)),
        (slice(1, 2), slice(2, 3)),
    ]


@pytest.mark.parametrize("size", [(7,), (7, 5), (4, 7, 5)])
def test_windows_leave_no_place_out(size: tuple[int, ...]) -> None:
    for window, stride in ((3, 1), (3, 2), (4, 4)):
        counts = np.zeros(size, int)
        for one in windows(size, [window] * len(size), [stride] * len(size)):
            assert all(0 <= part.start < part.stop <= size[i] for i, part in enumerate(one))
            counts[one] += 1
        assert counts.min() >= 1


def test_windows_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"along axis 1 .* axis, 3, .* got window 4 and stride 1"):
        windows((5, 3), (4, 4), (1, 1))
    with pytest.raises(ValueError, match=r"stride at most as long .* got window 2 and stride 3"):
        windows((5,), (2,), (3,))
    with pytest.raises(ValueError, match="stride must be at least 1, got 0"):
        windows((5,), (2,), (0,))
    with pytest.raises(TypeError, match="window must be an integer, got float"):
        windows((5,), (2.0,), (1,))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"window must have one length for each axis of \(5, 3\)"):
        windows((5, 3), (2,), (1, 1))


def test_occlusion_is_the_mean_drop_of_the_windows_that_hide_a_place() -> None:
    close(occlusion(np.array([2, 6]), windows((5,), (4,), (2,)), (5,)), [2, 2, 4, 4, 6])
    shown = occlusion(np.array([1, 2, 3, 4]), windows((3, 3), (2, 2), (1, 1)), (3, 3))
    close(shown, [[1, 1.5, 2], [2, 2.5, 3], [3, 3.5, 4]])
    close(occlusion(np.array([3]), [(slice(1, 2),)], (3,)), [0, 3, 0])


def test_occlusion_by_single_places_is_the_effect_of_each_where_effects_add_up() -> None:
    effects = random().normal(size=(3, 4))
    places = windows((3, 4), (1, 1), (1, 1))
    close(occlusion(np.array([effects[place].sum() for place in places]), places, (3, 4)), effects)


# RISE


def test_rise_masks_are_cells_that_are_enlarged_linearly() -> None:
    # Two cells on four steps: enlarged to 3 * 2, of which four are cut from the first or second.
    fades = np.array([0, 0, 1 / 3, 2 / 3, 1, 1])  # at -1/3, 0, 1/3, .. between the two centres
    possible = [np.zeros(4), np.ones(4)]
    possible += [one[at : at + 4] for one in (fades, 1 - fades) for at in (0, 1)]
    masks = rise_masks((4,), (2,), 200, 0.5, random())
    assert masks.shape == (200, 4)
    assert masks.dtype == np.float32
    distances = np.abs(masks[:, np.newaxis] - np.array(possible)).max(axis=-1)
    assert distances.min(axis=1).max() < 1e-6
    assert distances.min(axis=0).max() < 1e-6


@pytest.mark.parametrize(
    ("size", "cells"), [((9,), (4,)), ((9, 5), (4, 2)), ((4, 9, 5), (2, 3, 5)), ((6, 5), (6, 2))]
)
def test_rise_masks_have_the_mean_share_everywhere(
    size: tuple[int, ...], cells: tuple[int, ...]
) -> None:
    masks = rise_masks(size, cells, 4000, 0.3, random())
    assert masks.shape == (4000, *size)
    assert masks.min() >= 0
    assert masks.max() <= 1 + 1e-6
    np.testing.assert_allclose(masks.mean(axis=0), 0.3, atol=0.04)


def test_rise_masks_treat_axes_alike() -> None:
    # Of a picture whose rows are all kept or hidden together, and the other way round.
    for size, cells in (((8, 6), (3, 1)), ((6, 8), (1, 3))):
        masks = rise_masks(size, cells, 20, 0.5, random())
        along = masks if cells[0] == 3 else masks.swapaxes(1, 2)
        np.testing.assert_allclose(along, along[:, :, :1].repeat(6, axis=2), atol=1e-6)
        assert (np.ptp(along, axis=1) > 0.5).any()


def test_rise_masks_of_words_are_not_enlarged() -> None:
    masks = rise_masks((6,), (6,), 100, 0.5, random())
    assert set(np.unique(masks)) == {0, 1}
    assert len(np.unique(masks, axis=0)) > 40


def test_rise_masks_are_the_same_in_whatever_batches() -> None:
    whole = rise_masks((9, 5), (4, 2), 10, 0.5, random())
    drawn = random()
    parts = [rise_masks((9, 5), (4, 2), number, 0.5, drawn) for number in (3, 7)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    assert not np.array_equal(rise_masks((9, 5), (4, 2), 10, 0.5, random(1)), whole)


def test_rise_masks_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match=r"as steps along each axis, \(9, 5\); got \(4, 6\)"):
        rise_masks((9, 5), (4, 6), 1, 0.5, random())
    with pytest.raises(ValueError, match="number must be at least 1, got 0"):
        rise_masks((9,), (4,), 0, 0.5, random())
    for share in (0, 1, np.nan):
        with pytest.raises(ValueError, match="share must be between 0 and 1, got"):
            rise_masks((9,), (4,), 1, share, random())


def test_rise_sums_up_scores_where_masks_keep_a_place() -> None:
    masks = np.array([[[1, 0], [0.5, 0]], [[1, 1], [0, 0]]])
    close(rise(masks, np.array([2, 3]), 0.25), [[10, 6], [2, 0]])


def test_rise_of_batches_is_their_mean_by_the_number_of_masks() -> None:
    masks = rise_masks((6, 5), (3, 2), 10, 0.4, random())
    scores = random(1).normal(size=10)
    whole = rise(masks, scores, 0.4)
    first, second = rise(masks[:3], scores[:3], 0.4), rise(masks[3:], scores[3:], 0.4)
    np.testing.assert_allclose((3 * first + 7 * second) / 10, whole, atol=1e-6)


def test_rise_finds_the_places_that_matter() -> None:
    # A score that sees one place alone: evidence is 1 there, and the mean score elsewhere.
    masks = rise_masks((8,), (8,), 4000, 0.5, random())
    np.testing.assert_allclose(rise(masks, masks[:, 2], 0.5)[2], 1, atol=0.05)
    np.testing.assert_allclose(np.delete(rise(masks, masks[:, 2], 0.5), 2), 0.5, atol=0.05)


# Segments


def test_segments_are_blocks_counted_along_the_last_axis_first() -> None:
    assert segments((5,), (2,)).tolist() == [0, 0, 1, 1, 2]
    assert segments((3, 5), (2, 3)).tolist() == [[0, 0, 0, 1, 1]] * 2 + [[2, 2, 2, 3, 3]]
    assert segments((2, 2, 2), (1, 2, 1)).tolist() == [[[0, 1], [0, 1]], [[2, 3], [2, 3]]]
    assert segments((2,), (7,)).tolist() == [0, 0]


def test_labels_of_others_are_counted_anew() -> None:
    found = relabelled([[7, -2], [7, 30]], (2, 2))
    assert found.tolist() == [[1, 0], [1, 2]]
    assert found.dtype == np.int64
    np.testing.assert_array_equal(relabelled(found.astype(np.uint8), (2, 2)), found)


def test_labels_that_are_none_are_refused() -> None:
    with pytest.raises(TypeError, match=r"segments must be whole numbers .* got dtype float64"):
        relabelled(np.zeros((2, 2)), (2, 2))
    with pytest.raises(ValueError, match=r"a label for each place, shape \(2, 2\); got \(2, 3\)"):
        relabelled(np.zeros((2, 3), int), (2, 2))


# KernelSHAP

Game = Callable[[np.ndarray], float]


def shapley(game: Game, players: int, number: int = 10**6, seed: int = 0) -> np.ndarray:
    """The values that KernelSHAP finds for a game, a function of who is in."""
    asked = coalitions(players, number, random(seed))
    scores = np.array([game(one) for one in asked])
    ends = [game(np.full(players, value)) for value in (False, True)]
    return kernel_shap(asked, scores, *ends)


def gloves(who: np.ndarray) -> float:
    """A pair of gloves is worth 1; the first player has a left one, the two others a right one."""
    return float(who[0] and (who[1] or who[2]))


def votes(who: np.ndarray) -> float:
    """Three votes of 2, 1 and 1 carry what has three of the four."""
    return float(who @ [2, 1, 1] >= 3)


def test_shapley_values_by_hand() -> None:
    # The left glove completes a pair unless its owner comes first of all: 2 of 3 orders.
    close(shapley(gloves, 3), [2 / 3, 1 / 6, 1 / 6])
    close(shapley(votes, 3), [2 / 3, 1 / 6, 1 / 6])
    # One player on the one hand, and three of whom two are needed on the other.
    close(shapley(lambda who: 5 * who[0] + float(who[1:].sum() >= 2), 4), [5, *[1 / 3] * 3])
    close(shapley(lambda who: 3 + 4 * who[0], 1), [4])
    close(shapley(lambda who: who[0] + 2 * who[1] + 6 * (who[0] and who[1]) - 8, 2), [4, 5])


def test_shapley_values_are_means_over_all_orders() -> None:
    table = random().normal(size=(2,) * 5)

    def game(who: np.ndarray) -> float:
        return float(table[tuple(who.astype(int))])

    expected = np.zeros(5)
    for order in itertools.permutations(range(5)):
        who = np.zeros(5, bool)
        for player in order:
            before = game(who)
            who[player] = True
            expected[player] += (game(who) - before) / math.factorial(5)
    close(shapley(game, 5), expected)


@pytest.mark.parametrize("number", [62, 40])  # all coalitions, and drawn ones
def test_axioms(number: int) -> None:
    table, other = random().normal(size=(2, *(2,) * 6))

    def drawn(table: np.ndarray) -> Game:
        return lambda who: float(table[tuple(who.astype(int))])

    found = shapley(drawn(table), 6, number)
    # Efficiency.
    assert found.sum() == pytest.approx(table[(1,) * 6] - table[(0,) * 6], abs=1e-12)
    # Linearity: of the same coalitions, drawn or not.
    both = shapley(drawn(2 * table - other), 6, number)
    close(both, 2 * found - shapley(drawn(other), 6, number))
    # Without effect on the values: what all coalitions have.
    close(shapley(drawn(table + 7), 6, number), found)


def test_axioms_of_all_coalitions() -> None:
    table = random().normal(size=(2,) * 6)
    table = table + table.swapaxes(1, 4)  # the second player and the fifth are alike
    table[:, :, 1] = table[:, :, 0] + 0.5  # the third gives one half whoever else is in
    found = shapley(lambda who: float(table[tuple(who.astype(int))]), 6)
    assert found[1] == pytest.approx(found[4], abs=1e-12)
    assert found[2] == pytest.approx(0.5)
    order = [5, 3, 1, 0, 2, 4]
    renamed = table.transpose(order)
    close(shapley(lambda who: float(renamed[tuple(who.astype(int))]), 6), found[order])


def test_pairs_of_coalitions_are_exact_where_players_act_in_pairs() -> None:
    alone, together = random().normal(size=12), random(1).normal(size=(12, 12))
    together = np.triu(together, 1)
    found = shapley(lambda who: float(who @ alone + who @ together @ who), 12, 80)
    # Each has half of what two do together.
    close(found, alone + (together + together.T).sum(axis=0) / 2)


def test_drawn_coalitions_come_near_to_the_values_of_all() -> None:
    # Three act together, which pairs of coalitions do not undo.
    expected = np.repeat([1 / 3, 0], [3, 9])
    found = shapley(lambda who: float(who[:3].all()), 12, 3000)
    np.testing.assert_allclose(found, expected, atol=0.02)
    few = [shapley(lambda who: float(who[:3].all()), 12, 60, seed) for seed in range(50)]
    np.testing.assert_allclose(np.mean(few, axis=0), expected, atol=0.02)


def test_all_coalitions_are_asked_for_where_there_are_no_more() -> None:
    for number in (6, 7):
        found = coalitions(3, number, random())
        assert sorted(map(tuple, found.tolist())) == sorted(
            one for one in itertools.product([False, True], repeat=3) if len(set(one)) == 2
        )
    assert coalitions(1, 0, random()).shape == (0, 1)


def test_coalitions_are_drawn_in_pairs_by_the_kernel() -> None:
    found = coalitions(5, 29, random())
    assert found.shape == (28, 5)
    np.testing.assert_array_equal(found[:14], ~found[14:])
    many = coalitions(20, 20_000, random())
    shares = np.bincount(many.sum(axis=1), minlength=21) / len(many)
    kernel = np.array([0, *(1 / (size * (20 - size)) for size in range(1, 20)), 0])
    np.testing.assert_allclose(shares, kernel / kernel.sum(), atol=0.01)
    np.testing.assert_allclose(many.mean(axis=0), 0.5, atol=1e-12)
    np.testing.assert_array_equal(coalitions(20, 60, random()), coalitions(20, 60, random()))


def test_too_few_coalitions_are_refused() -> None:
    with pytest.raises(ValueError, match=r"9 players cannot be told apart by fewer than 16 .* 15;"):
        coalitions(9, 15, random())
    with pytest.raises(ValueError, match="players must be at least 1, got 0"):
        coalitions(0, 10, random())
