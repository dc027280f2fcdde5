from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image

from kerasight.base import Explanation, TargetExplanation
from kerasight.formatters.image import format_as_image
from kerasight.formatters.outlines import outline

LIGHT, DARK = 255, 16


def drawn(size: tuple[int, int] = (20, 16), **fields: Any) -> np.ndarray:
    """The lines as numbers: 0 where there is none, else their grey."""
    lines = outline(TargetExplanation(0, **fields), size)
    assert lines is not None
    values = np.asarray(lines)
    return np.where(values[..., 3] > 0, values[..., 0], 0)


def test_a_box_has_a_light_line_within_it_and_a_dark_one_around_it() -> None:
    lines = drawn(box=(0.25, 0.25, 0.75, 0.75))  # from column 5 to 15, from row 4 to 12
    assert lines[8].tolist() == [0] * 4 + [DARK, LIGHT] + [0] * 8 + [LIGHT, DARK] + [0] * 4
    assert lines[:, 10].tolist() == [0] * 3 + [DARK, LIGHT] + [0] * 6 + [LIGHT, DARK] + [0] * 3


def test_lines_grow_with_the_picture_and_get_a_dark_edge_on_both_sides() -> None:
    lines = drawn((900, 600), box=(0.5, 0, 1, 1))
    assert lines[300, 446:460].tolist() == [0] * 2 + [DARK] * 2 + [LIGHT] * 4 + [DARK] * 2 + [0] * 4


def test_a_box_that_ends_with_the_picture_has_a_line_there() -> None:
    for box in ((0, 0, 1, 1), (-0.5, -1, 1.5, 2)):
        lines = drawn(box=box)
        assert (lines[0] == LIGHT).all()
        assert (lines[:, -1] == LIGHT).all()
        assert not lines[1:-1, 1:-1].any()


@pytest.mark.parametrize("box", [(0.5, 0.5, 0.5, 0.5), (2, 2, 3, 3), (1, 1, 1, 1)])
def test_the_smallest_box_is_seen(box: tuple[float, ...]) -> None:
    assert (drawn(box=box) == LIGHT).sum() == 1


def test_a_region_has_its_contour() -> None:
    region = np.zeros((16, 20), dtype=bool)
    region[4:12, 5:15] = True
    np.testing.assert_array_equal(drawn(region=region), drawn(box=(0.25, 0.25, 0.75, 0.75)))
    region[6:9, 8:11] = False  # a hole
    assert drawn(region=region)[7].tolist()[7:12] == [LIGHT, DARK, 0, DARK, LIGHT]


def test_a_region_of_another_size_is_brought_to_that_of_the_picture() -> None:
    region = np.array([[True, False]])
    lines = drawn((20, 4), region=region)
    assert lines[1].tolist()[8:12] == [0, LIGHT, DARK, 0]


def test_what_has_neither_has_no_lines() -> None:
    assert outline(TargetExplanation(0), (4, 4)) is None
    assert outline(TargetExplanation(0, region=np.zeros((2, 2), dtype=bool)), (4, 4)) is None


def test_the_lines_lie_over_the_heatmap_and_nothing_else_changes() -> None:
    picture, box = Image.new("RGB", (40, 30), "grey"), (0.2, 0.2, 0.8, 0.8)
    plain = TargetExplanation(0, heatmap=np.ones((2, 2)))
    boxed = TargetExplanation(0, heatmap=np.ones((2, 2)), box=box)
    shown, without = (
        np.asarray(format_as_image(Explanation("net", image=picture, targets=[target])))
        for target in (boxed, plain)
    )
    lines = drawn(picture.size, box=box)
    np.testing.assert_array_equal(shown[lines > 0, 0], lines[lines > 0])
    np.testing.assert_array_equal(shown[lines == 0], without[lines == 0])


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"box": 3}, TypeError, "box must be four numbers, left, top, right and bottom, got int"),
        ({"box": (0, 0, 1)}, TypeError, "box must be four numbers"),
        ({"box": (0, 0, 1, "1")}, TypeError, "box must be four numbers"),
        ({"box": (0, 0, 1, float("nan"))}, ValueError, "rising from 0 to 1"),
        ({"box": (0.5, 0, 0.2, 1)}, ValueError, "rising from 0 to 1"),
        ({"region": [[True]]}, TypeError, "region must be a NumPy array of booleans, got list"),
        ({"region": np.ones((2, 2))}, TypeError, "of booleans, got float64"),
        ({"region": np.ones(4, dtype=bool)}, ValueError, r"shape \(height, width\), got \(4,\)"),
    ],
)
def test_boxes_and_regions_that_are_none_are_refused(
    fields: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        outline(TargetExplanation(0, **fields), (4, 4))
