from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny_media import heat, media

import kerasight
from kerasight.base import Explanation
from kerasight.formatters.animation import write_animation


@pytest.mark.parametrize("ending", ["gif", "webp", "GIF"])
@pytest.mark.parametrize(
    ("kind", "count", "size"), [("video", 10, (320, 240)), ("volume", 6, (320, 256))]
)
def test_each_frame_or_slice_is_one_of_the_animation(
    tmp_path: Path, ending: str, kind: str, count: int, size: tuple[int, int]
) -> None:
    path = tmp_path / f"shown.{ending}"
    assert write_animation(media(kind), path, duration=80) == count
    with Image.open(path) as shown:
        assert shown.format.lower() == ending.lower()
        assert (shown.n_frames, shown.size) == (count, size)
        assert shown.info["loop"] == 0
        shown.seek(1)
        shown.load()
        assert shown.info["duration"] == 80
    assert [item.name for item in tmp_path.iterdir()] == [path.name]


def frames_of(expl: Explanation, **kwargs: Any) -> list[np.ndarray]:
    file = io.BytesIO()
    write_animation(expl, file, format="webp", **kwargs)
    with Image.open(file) as shown:
        found = []
        for number in range(shown.n_frames):
            shown.seek(number)
            found.append(np.asarray(shown.convert("RGB"), dtype=int))
    return found


def test_the_heat_is_on_the_frames_that_it_belongs_to() -> None:
    doc = np.zeros((10, 6, 8, 1))
    doc[:, 0, 0, 0] = np.arange(10)  # so that no two frames are equal
    frames = frames_of(media("video", doc=doc), resampling_filter="nearest")
    green = [int(frame[-40, 40, 1]) for frame in frames]
    assert [number for number, value in enumerate(green) if value > 60] == [6, 7]


def test_the_heat_may_be_cut_smoothed_and_without_its_sign() -> None:
    ramp = np.linspace(0.1, 1, 60).reshape(5, 3, 4)
    size, against = media("video", ramp), media("video", -ramp)
    against.targets[0].signed = True
    wanted = frames_of(size, outliers=20, blur=5)
    np.testing.assert_array_equal(frames_of(against, outliers=20, blur=5, absolute=True), wanted)
    assert np.not_equal(wanted, frames_of(size, blur=5)).any()
    assert np.not_equal(wanted, frames_of(size, outliers=20)).any()


def test_several_targets_stand_side_by_side() -> None:
    one, two = media("video"), media("video", heat("video"), heat("video"))
    assert frames_of(two)[0].shape[1] > 2 * frames_of(one)[0].shape[1]
    assert frames_of(two)[0].shape[0] > frames_of(one)[0].shape[0]  # captions
    assert len(frames_of(media("video", targets=[]))) == 10


def test_it_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "shown.gif"
    path.write_bytes(b"before")
    wrong = media("video", np.full((5, 3, 4), np.nan))
    with pytest.raises(ValueError, match="between 0 and 1"):
        write_animation(wrong, path)

    def fail(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(KeyboardInterrupt):
        write_animation(media("video"), path)
    assert [item.read_bytes() for item in tmp_path.iterdir()] == [b"before"]


@pytest.mark.parametrize(
    ("kind", "file", "asked", "error", "message"),
    [
        ("signal", "a.gif", {}, ValueError, "only volumes and videos .* is of a signal"),
        ("video", "a.png", {}, ValueError, "unknown format 'png'; known are gif, webp"),
        ("video", "a", {}, ValueError, "end the path in .gif or .webp"),
        ("video", io.BytesIO(), {}, ValueError, "or pass format="),
        ("video", io.StringIO(), {"format": "gif"}, TypeError, "binary file .* got StringIO"),
        ("video", 3, {"format": "gif"}, TypeError, "got int"),
        ("video", "a.gif", {"duration": 5}, ValueError, "duration must be at least 10, got 5"),
        ("video", "a.gif", {"duration": 0.1}, TypeError, "duration must be an integer"),
    ],
)
def test_what_cannot_be_written_is_refused(
    kind: str, file: Any, asked: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        write_animation(media(kind), file, **asked)


def test_it_is_a_public_name() -> None:
    assert kerasight.write_animation is write_animation
