"""What is the same for signals, volumes and videos; each has a file for its own picture."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from tiny_media import CELLS, SHAPES, heat, media

from kerasight.base import Explanation
from kerasight.formatters.image import format_as_image, format_as_sheet

KINDS = list(SHAPES)


@pytest.mark.parametrize("kind", KINDS)
def test_there_is_a_chart_of_each(kind: str) -> None:
    expl = media(kind)
    before = media(kind)
    shown = format_as_image(expl)
    assert shown.mode == "RGBA"
    assert 700 < shown.width < 1400
    assert shown == format_as_image(expl)
    assert expl == before
    assert shown != format_as_image(media(kind, heat(kind, 0.5)))


@pytest.mark.parametrize("kind", KINDS)
def test_several_targets_stand_above_each_other(kind: str) -> None:
    one, two = format_as_image(media(kind)), format_as_image(media(kind, heat(kind), heat(kind)))
    assert two.width == one.width
    assert 1.8 * one.height < two.height < 2 * one.height
    top = two.crop((0, 30, two.width, one.height - 30))
    assert top == one.crop((0, 30, one.width, one.height - 30))


@pytest.mark.parametrize("kind", KINDS)
def test_without_a_target_there_is_the_doc_alone(kind: str) -> None:
    alone = format_as_image(media(kind, targets=[]))
    values = np.asarray(alone.convert("RGB"), dtype=int)
    if kind != "video":  # which has colours of its own
        assert (np.ptp(values, axis=-1) < 12).all()  # no heat: all but grey
    failed = format_as_image(media(kind, targets=[], error="no class"))
    assert failed.height > alone.height


@pytest.mark.parametrize("kind", KINDS)
def test_a_signed_heatmap_is_red_and_blue(kind: str) -> None:
    def most(expl: Explanation) -> tuple[int, int]:
        expl.targets[0].signed = True
        values = np.asarray(format_as_image(expl).convert("RGB"), dtype=int)
        return int((values[..., 0] - values[..., 2]).max()), int(
            (values[..., 2] - values[..., 0]).max()
        )

    grey = np.zeros(SHAPES[kind])
    red, _ = most(media(kind, heat(kind, 1.0), doc=grey))
    assert red > 60
    _, blue = most(media(kind, heat(kind, -1.0), doc=grey))
    assert blue > 60


@pytest.mark.parametrize("kind", KINDS)
def test_options_are_heeded(kind: str) -> None:
    expl = media(kind)
    for changed in ({"colormap": "jet"}, {"alpha_limit": 0.3}, {"resampling_filter": "nearest"}):
        assert format_as_image(expl, **changed) != format_as_image(expl)
    with pytest.raises(ValueError, match="unknown colormap"):
        format_as_image(expl, colormap="yet")


@pytest.mark.parametrize("kind", KINDS)
def test_the_heat_may_be_cut_smoothed_and_without_its_sign(kind: str) -> None:
    # The hottest comes first, so that it is the first of equals.
    ramp = np.linspace(1, 0.1, heat(kind).size).reshape(CELLS[kind])
    expl, cut = media(kind, ramp), media(kind, np.minimum(ramp / np.sort(ramp.flat)[-2], 1))
    both = 2.5 / ramp.size * 100  # per cent of the cells
    difference = np.subtract(format_as_image(expl, outliers=both), format_as_image(cut), dtype=int)[
        ..., :3
    ]
    assert np.abs(difference[:, :1050]).max() <= 1  # beside it, the scale tells what is cut
    assert format_as_image(expl, blur=20) != format_as_image(expl)
    against = media(kind, -ramp)
    against.targets[0].signed = True
    assert format_as_image(against, absolute=True) == format_as_image(expl)


def test_a_sheet_may_hold_all_kinds() -> None:
    picture = Explanation("net", image=Image.new("RGB", (200, 100)))
    expls = [*map(media, KINDS), picture, Explanation("net", error="wrong")]
    shown = format_as_sheet(expls, titles=["a", "b", "c", "d", "e"])
    assert shown.height > sum(format_as_image(media(kind)).height for kind in KINDS)
    assert shown.height > format_as_sheet(expls).height  # a line more in each


def fails(expl: Explanation, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        format_as_image(expl)


@pytest.mark.parametrize("kind", KINDS)
def test_a_doc_that_is_none_is_refused(kind: str) -> None:
    fails(media(kind, doc=None), TypeError, rf"expl\.kind is '{kind}', got NoneType")
    axes = {"signal": r"\(steps, ", "volume": r"\(depth, height, ", "video": r"\(frames, height, "}
    fails(media(kind, doc=np.zeros((2, 2, 2))), ValueError, f"must have shape {axes[kind]}")
    broken = np.zeros(SHAPES[kind])
    broken.flat[0] = np.nan
    fails(media(kind, doc=broken), ValueError, r"expl\.doc must be finite")
    fails(media(kind, doc=np.full(SHAPES[kind], "a")), TypeError, "must hold real numbers")
    fails(media(kind, doc=np.zeros((0, *SHAPES[kind][1:]))), ValueError, "must have shape")


@pytest.mark.parametrize("kind", KINDS)
def test_a_heatmap_of_another_rank_is_refused(kind: str) -> None:
    axes = {"signal": r"\(steps,\)", "volume": r"\(depth, height, width\)", "video": r"\(frames, "}
    message = rf"heatmap must have shape {axes[kind]}.* got \(2, 2\)"
    fails(media(kind, np.zeros((2, 2))), ValueError, message)
    fails(media(kind, np.full(CELLS[kind], np.nan)), ValueError, "between 0 and 1")
    fails(media(kind, heat(kind, -1)), ValueError, "between 0 and 1")
    fails(media(kind, None, heat(kind)), TypeError, "got NoneType")


def test_a_kind_that_is_not_drawn_is_refused() -> None:
    fails(Explanation("net", kind="texture"), ValueError, "of kind 'texture' cannot be drawn")
