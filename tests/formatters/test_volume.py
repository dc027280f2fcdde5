from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tiny_media import MIDDLE, heat, media

from kerasight.formatters import volume
from kerasight.formatters.overlay import Style
from kerasight.formatters.sheet import Panel, sheet
from kerasight.formatters.volume import three_planes

FACTOR = 36  # of the volume of 6 x 8 x 10
EDGE = 13


@pytest.fixture
def panels(monkeypatch: pytest.MonkeyPatch) -> list[Panel]:
    """The panels of the picture, once it is drawn."""
    seen: list[Panel] = []

    def noticed(rows: Any, *args: Any, **kwargs: Any) -> Any:
        seen.extend(rows[0])
        return sheet(rows, *args, **kwargs)

    monkeypatch.setattr(volume, "sheet", noticed)
    return seen


def grey_of(panel: Panel) -> np.ndarray:
    """A value for each voxel of a plane."""
    values = np.asarray(panel.picture)[EDGE:-EDGE, EDGE:-EDGE, 0]
    return values[FACTOR // 2 :: FACTOR, FACTOR // 2 :: FACTOR]


def test_the_planes_go_through_the_hottest_place_in_equal_scale(panels: list[Panel]) -> None:
    expl = media("volume")
    three_planes(expl, expl.targets[0], Style(alpha_limit=0))
    assert [panel.title for panel in panels] == ["depth 6 of 6", "height 4 of 8", "width 8 of 10"]
    assert [panel.note for panel in panels] == [
        "height ↓, width →",
        "depth ↓, width →",
        "depth ↓, height →",
    ]
    doc = expl.doc[..., 0]
    bytes_ = np.rint(255 * (doc - doc.min()) / np.ptp(doc))
    for axis, panel in enumerate(panels):
        plane = bytes_.take(MIDDLE["volume"][axis], axis=axis)
        np.testing.assert_allclose(grey_of(panel), plane, atol=1)
        height, width = plane.shape
        assert panel.picture.size == (FACTOR * width + 2 * EDGE, FACTOR * height + 2 * EDGE)


def test_the_heat_is_where_it_belongs_on_each_plane(panels: list[Panel]) -> None:
    expl = media("volume", doc=np.zeros((6, 8, 10, 1)))
    three_planes(expl, expl.targets[0], Style("nearest"))
    depth, height, width = (grey_of(panel) > 0 for panel in panels)
    assert np.argwhere(depth).tolist() == [[y, x] for y in (2, 3) for x in (6, 7)]
    assert np.argwhere(height).tolist() == [[z, x] for z in (4, 5) for x in (6, 7)]
    assert np.argwhere(width).tolist() == [[z, y] for z in (4, 5) for y in (2, 3)]


def test_the_coldest_place_counts_if_it_is_farther_from_zero(panels: list[Panel]) -> None:
    heatmap = heat("volume", -1.0)
    heatmap[0, 0, 0] = 0.5
    expl = media("volume", heatmap)
    expl.targets[0].signed = True
    three_planes(expl, expl.targets[0], Style())
    assert panels[0].title == "depth 6 of 6"


def test_without_a_heatmap_the_planes_go_through_the_middle(panels: list[Panel]) -> None:
    three_planes(media("volume"), None, Style())
    assert [panel.title for panel in panels] == ["depth 4 of 6", "height 5 of 8", "width 6 of 10"]


def test_marks_show_where_the_others_cut_a_plane(panels: list[Panel]) -> None:
    expl = media("volume")
    three_planes(expl, expl.targets[0], Style())
    alpha = np.asarray(panels[0].picture)[..., 3]
    assert np.flatnonzero(alpha[0]).tolist() == [EDGE + 270 - 1, EDGE + 270]  # width 8
    assert np.flatnonzero(alpha[:, 0]).tolist() == [EDGE + 126 - 1, EDGE + 126]  # height 4


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_three_channels_are_colours_and_others_grey(channels: int, panels: list[Panel]) -> None:
    doc = np.random.default_rng(0).random((2, 3, 4, channels))
    three_planes(media("volume", doc=doc), None, Style())
    values = np.asarray(panels[0].picture)[EDGE:-EDGE, EDGE:-EDGE, :3].astype(int)
    assert (np.ptp(values, axis=-1) > 0).any() == (channels == 3)


def test_large_volumes_are_reduced(panels: list[Panel]) -> None:
    three_planes(media("volume", doc=np.zeros((3, 40, 1000, 1))), None, Style())
    assert panels[0].picture.size == (640 + 2 * EDGE, round(0.64 * 40) + 2 * EDGE)


def test_a_blank_heatmap_has_no_hottest_place(panels: list[Panel]) -> None:
    expl = media("volume", heat("volume", 0.0))
    three_planes(expl, expl.targets[0], Style())
    assert panels[0].title == "depth 4 of 6"
