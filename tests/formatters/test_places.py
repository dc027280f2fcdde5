from __future__ import annotations

import numpy as np
import pytest

from kerasight.formatters.places import evenly, hottest_in, strongest


def test_the_strongest_cell_is_the_first_of_those_farthest_from_zero() -> None:
    assert strongest(np.array([0.1, -0.9, 0.9])) == (1,)
    heatmap = np.zeros((2, 3, 4))
    heatmap[1, 2, 0] = 0.2
    assert strongest(heatmap) == (1, 2, 0)


@pytest.mark.parametrize(
    ("cell", "cells", "length", "place"),
    [(4, 16, 128, 36), (0, 1, 24, 12), (2, 3, 3, 2), (1, 2, 1, 0), (6, 8, 4, 3)],
)
def test_the_middle_of_a_cell_lies_somewhere_in_the_doc(
    cell: int, cells: int, length: int, place: int
) -> None:
    assert hottest_in(np.eye(1, cells, cell)[0], (length,)) == (place,)


def test_places_are_evenly_chosen_and_have_those_that_are_wanted() -> None:
    assert evenly(3, 8) == [0, 1, 2]
    assert evenly(100, 5) == [0, 25, 50, 74, 99]
    assert evenly(100, 5, [52]) == [0, 25, 52, 74, 99]
    assert evenly(100, 5, [52, 51, 52]) == [0, 25, 51, 52, 99]
    assert evenly(100, 2, [1, 2, 3]) == [1, 2]
    assert len(set(evenly(65, 64, range(20, 40)))) == 64
