from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tiny_media import heat, media

from kerasight.formatters import video
from kerasight.formatters.overlay import Style
from kerasight.formatters.sheet import Panel, sheet
from kerasight.formatters.video import strip


@pytest.fixture
def panels(monkeypatch: pytest.MonkeyPatch) -> list[Panel]:
    """The panels of the picture, once it is drawn."""
    seen: list[Panel] = []

    def noticed(rows: Any, *args: Any, **kwargs: Any) -> Any:
        assert [len(row) for row in rows] == [4] * (len(rows) - 1) + [len(rows[-1])]
        seen.extend(panel for row in rows for panel in row)
        return sheet(rows, *args, **kwargs)

    monkeypatch.setattr(video, "sheet", noticed)
    return seen


def test_eight_frames_are_shown_and_the_hottest_is_among_them(panels: list[Panel]) -> None:
    expl = media("video")
    strip(expl, expl.targets[0], Style(alpha_limit=0))
    frames = [int(panel.title.split()[1]) for panel in panels]
    assert len(frames) == 8
    assert (frames[0], frames[-1]) == (1, 10)
    assert [panel.title for panel in panels if panel.note == "hottest"] == ["frame 8 of 10"]
    doc = np.rint(255 * (expl.doc - expl.doc.min()) / np.ptp(expl.doc))
    for frame, panel in zip(frames, panels, strict=True):
        small = np.asarray(panel.picture)[..., :3]
        factor = small.shape[0] // 6
        np.testing.assert_allclose(small[::factor, ::factor], doc[frame - 1], atol=1)


def test_the_heat_goes_over_smoothly_from_frame_to_frame(panels: list[Panel]) -> None:
    expl = media("video", doc=np.zeros((5, 3, 4, 1)), targets=media("video").targets)
    expl.targets[0].heatmap = np.array([0.0, 1.0])[:, None, None]
    strip(expl, expl.targets[0], Style("bilinear", lambda heat: np.ones((*heat.shape, 3)), 1))
    # Cells of 2.5 frames: their middles are frames 0.75 and 3.25.
    greys = [int(np.asarray(panel.picture)[0, 0, 0]) for panel in panels]
    np.testing.assert_allclose(greys, [0, 25.5, 127.5, 229.5, 255], atol=1)


def test_cells_are_shown_as_they_are_if_asked(panels: list[Panel]) -> None:
    expl = media("video", doc=np.zeros((6, 3, 4, 1)))
    expl.targets[0].heatmap = np.array([0.0, 1.0])[:, None, None]
    strip(expl, expl.targets[0], Style("nearest", lambda heat: np.ones((*heat.shape, 3)), 1))
    greys = [int(np.asarray(panel.picture)[0, 0, 0]) for panel in panels]
    assert greys == [0, 0, 0, 255, 255, 255]


def test_what_is_strongest_against_a_class_is_called_so(panels: list[Panel]) -> None:
    expl = media("video", heat("video", -1.0))
    expl.targets[0].signed = True
    strip(expl, expl.targets[0], Style())
    assert [panel.note for panel in panels if panel.note] == ["strongest against it"]


def test_a_blank_heatmap_has_no_hottest_frame(panels: list[Panel]) -> None:
    expl = media("video", heat("video", 0.0))
    strip(expl, expl.targets[0], Style())
    assert not [panel.note for panel in panels if panel.note]


def test_a_short_video_is_shown_whole(panels: list[Panel]) -> None:
    strip(media("video", doc=np.zeros((3, 4, 4, 3))), None, Style())
    assert [panel.title for panel in panels] == [f"frame {n} of 3" for n in (1, 2, 3)]
