from __future__ import annotations

import matplotlib
import numpy as np
import pytest
from PIL import ImageDraw
from tiny_media import media

from kerasight.formatters.overlay import Style
from kerasight.formatters.signal import lines

# Where the plot begins, and how wide it is; and its ground.
LEFT, WIDTH, GROUND = 176, 900, np.array([26, 29, 34])


def plot(expl: object, **style: object) -> np.ndarray:
    target = expl.targets[0] if expl.targets else None
    chart = lines(expl, target, Style(**style))
    return np.asarray(chart.convert("RGB"), dtype=int)[:, LEFT : LEFT + WIDTH]


def test_the_heat_lies_behind_its_steps() -> None:
    # Of 4 cells the third is hot: columns 450 to 675 of 900. Each row but the line's shows it.
    row = plot(media("signal", doc=np.zeros((12, 1))), resampling_filter="nearest")[4]
    yellow = np.array(matplotlib.colormaps["viridis"](1.0)[:3]) * 255
    hot = 0.65 * yellow + 0.35 * GROUND
    np.testing.assert_allclose(row[450:675], np.tile(hot, (225, 1)), atol=1.5)
    np.testing.assert_array_equal(row[:450], np.tile(GROUND, (450, 1)))
    np.testing.assert_array_equal(row[675:], np.tile(GROUND, (225, 1)))


def test_each_channel_is_a_line_through_the_middle_of_its_steps() -> None:
    doc = np.array([[0.0, 5], [0, 5], [1, -5], [0, 5]])
    values = plot(media("signal", doc=doc, targets=[]))
    assert values.shape[0] == 2 * 150 + 56
    bright = values[:300].min(axis=-1) > 200
    bright[[0, 148, 149, 150, 151, 299]] = False  # between the lanes and below them is paper
    for top, is_up in ((2, True), (152, False)):
        lane = bright[top : top + 145]
        first, third = (np.flatnonzero(lane[:, x]) for x in (113, 562))
        assert (third.mean() < 20) if is_up else (third.mean() > 120)
        assert (first.mean() > 120) if is_up else (first.mean() < 20)
        assert not lane[:, :110].any()  # before the middle of the first step


def test_a_step_is_seen_alone() -> None:
    values = plot(media("signal", doc=np.ones((1, 1)), targets=[]))
    bright = values[:140].min(axis=-1) > 200
    assert 10 < bright.sum() < 60
    assert abs(np.argwhere(bright).mean(axis=0)[1] - WIDTH / 2) < 1


@pytest.mark.parametrize("steps", [2000, 100_000])
def test_a_peak_in_a_long_signal_is_not_lost(steps: int) -> None:
    doc = np.zeros((steps, 1))
    doc[steps // 4] = 1
    values = plot(media("signal", doc=doc, targets=[]))
    bright = values[9:60].min(axis=-1) > 100
    assert np.abs(np.argwhere(bright)[:, 1] - WIDTH // 4).max() <= 2
    assert bright.any(axis=1).all()


def test_many_channels_are_rows_of_grey() -> None:
    doc = np.zeros((20, 24))
    doc[:, 3] = 1.0
    values = plot(media("signal", doc=doc, targets=[]))
    assert (values[36:48] == 255).all()
    assert not values[:36].any()
    assert not values[48:288].any()
    assert values.shape[0] == 24 * 12 + 56


def test_there_is_a_scale_of_the_heat_as_it_is_drawn() -> None:
    expl = media("signal", doc=np.zeros((12, 1)))
    chart = np.asarray(lines(expl, expl.targets[0], Style()).convert("RGB"), dtype=int)
    bar = chart[:150, 1200 - 124 + 45]
    yellow = np.array(matplotlib.colormaps["viridis"](1.0)[:3]) * 255
    np.testing.assert_allclose(bar[0], 0.65 * yellow + 0.35 * GROUND, atol=2)
    np.testing.assert_allclose(bar[149], GROUND, atol=2)
    without = lines(expl, None, Style())
    assert (np.asarray(without)[:150, 1200 - 124 + 1 :, :3] == 255).all()


def test_the_scale_tells_how_many_are_the_hottest(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    text = ImageDraw.ImageDraw.text

    def note(self: ImageDraw.ImageDraw, at: object, words: str, *args: object, **more: object):
        told.append(words)
        text(self, at, words, *args, **more)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", note)
    plot(media("signal"), outliers=25)
    assert "1: hottest 25%" in told
    expl = media("signal")
    expl.targets[0].signed = True
    plot(expl, outliers=2.5)
    assert "±1: hottest 2.5%" in told
    told.clear()
    plot(media("signal"))
    assert not [words for words in told if "hottest" in words]


def test_spikes_that_share_a_pixel_are_not_averaged_away() -> None:
    spiky = np.zeros(9000)
    spiky[1000:2000:10] = 0.5
    spiky[1500] = 1
    row = plot(media("signal", spiky, doc=np.zeros((9000, 1))))[4]
    yellow = np.array(matplotlib.colormaps["viridis"](1.0)[:3]) * 255
    np.testing.assert_allclose(row[120], 0.65 * yellow + 0.35 * GROUND, atol=20)
    np.testing.assert_array_equal(row[300], GROUND)


def test_the_hottest_step_is_the_brightest() -> None:
    expl = media("signal", np.array([0.25, 0.5, 0.75, 1.0]), doc=np.zeros((4, 1)))
    row = plot(expl, resampling_filter="nearest")[4]
    brightness = row[[112, 337, 562, 787]] @ [0.299, 0.587, 0.114]
    assert (np.diff(brightness) > 0).all()
