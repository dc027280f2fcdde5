from __future__ import annotations

import tracemalloc
from typing import Any

import matplotlib
import numpy as np
import pytest
from matplotlib import colors
from PIL import Image
from tiny_pictures import HEAT, noise

from kerasight.base import Explanation, TargetExplanation
from kerasight.formatters.image import (
    _cap_alpha,
    _overlay_heatmap,
    _update_alpha,
    _validate_heatmap,
    expand_heatmap,
    format_as_image,
    format_as_sheet,
    heatmap_to_image,
)


def make(heatmap: Any = HEAT, image: Any = None) -> Explanation:
    image = Image.new("RGB", (2, 2), "black") if image is None else image
    return Explanation("net", image=image, targets=[TargetExplanation(0, heatmap=heatmap)])


# format_as_image


def test_an_overlay_worked_out_by_hand() -> None:
    grey = colors.LinearSegmentedColormap.from_list("grey", ["black", "white"], N=256)
    overlay = np.asarray(format_as_image(make(), "nearest", grey, alpha_limit=0.5))
    # Colour times opacity over black: 0 x 0, .25 x .25, .5 x .5, 1 x .5
    np.testing.assert_allclose(overlay[..., 0], [[0, 16], [64, 128]], atol=1)
    assert (overlay[..., 3] == 255).all()


def test_defaults_are_lanczos_viridis_and_an_opacity_of_065() -> None:
    expl = make(image=noise("RGB", (40, 30)))
    viridis = matplotlib.colormaps["viridis"]
    assert format_as_image(expl) == format_as_image(expl, Image.LANCZOS, viridis, 0.65)
    assert format_as_image(expl) != format_as_image(expl, Image.BOX, viridis, 0.65)
    assert format_as_image(expl) != format_as_image(expl, Image.LANCZOS, viridis, 0.5)
    assert format_as_image(expl) != format_as_image(expl, Image.LANCZOS, matplotlib.cm.jet, 0.65)


def test_the_result_is_rgba_of_the_size_of_the_picture() -> None:
    overlay = format_as_image(make(image=noise("RGB", (31, 17))))
    assert (overlay.mode, overlay.size) == ("RGBA", (31, 17))


@pytest.mark.parametrize("name", ["viridis", "jet", "cividis", "tab10"])
@pytest.mark.parametrize("resampling_filter", list(Image.Resampling))
def test_every_colour_lies_on_the_colormap(name: str, resampling_filter: Image.Resampling) -> None:
    colormap = matplotlib.colormaps[name]
    heatmap = np.random.default_rng(0).random((3, 4))
    transparent = Image.new("RGBA", (50, 40), (0, 0, 0, 0))
    overlay = np.asarray(format_as_image(make(heatmap, transparent), resampling_filter, colormap))
    visible = overlay[overlay[..., 3] > 0][:, :3]
    table = {tuple(colour) for colour in colormap(np.linspace(0, 1, 256), bytes=True)[:, :3]}
    assert {tuple(colour) for colour in visible} <= table


def test_the_heatmap_fades_between_its_cells() -> None:
    heatmap = np.array([[0.0, 1.0]])
    expl = make(heatmap, Image.new("RGBA", (64, 8), (0, 0, 0, 0)))
    alpha = np.asarray(format_as_image(expl, "bilinear", alpha_limit=None))[0, :, 3].astype(int)
    assert alpha[0] == 0
    assert alpha[-1] == 255
    assert (np.diff(alpha) >= 0).all()
    assert len(set(alpha)) > 25


@pytest.mark.parametrize("opacity", [255, 100])
@pytest.mark.parametrize("is_signed", [False, True])
@pytest.mark.parametrize("resampling_filter", ["nearest", "box", "bilinear", "lanczos"])
def test_a_large_picture_drawn_by_strips_is_as_if_drawn_at_once(
    resampling_filter: str, is_signed: bool, opacity: int
) -> None:
    viridis = matplotlib.colormaps["viridis"]
    heatmap = np.random.default_rng(0).random((12, 7))
    picture = noise("RGBA", (500, 450))  # a row of which a cell begins in the middle: 37.5
    picture.putalpha(opacity)
    expl = make(2 * heatmap - 1 if is_signed else heatmap, picture)
    expl.targets[0].signed = is_signed
    by_strips = np.asarray(format_as_image(expl, resampling_filter, viridis), dtype=int)
    # A function is given all of it.
    at_once = format_as_image(expl, resampling_filter, lambda heat: viridis(heat))
    difference = np.abs(by_strips - np.asarray(at_once, dtype=int))
    assert difference.max() <= 3
    assert (difference > 1).mean() < 1e-3


def test_a_large_picture_takes_no_array_of_its_size() -> None:
    expl = make(np.eye(7), Image.new("RGB", (2000, 1500)))
    format_as_image(make())
    tracemalloc.start()
    format_as_image(expl)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2000 * 1500  # less than a byte a pixel


def test_a_colormap_of_very_many_colours_has_them_all() -> None:
    greys = np.linspace(0, 1, 100_000)[:, None].repeat(3, axis=1)
    transparent = Image.new("RGBA", (256, 1), (0, 0, 0, 0))
    heatmap = np.linspace(0, 1, 256)[None]
    for count in (100_000, 65_536, 5000, 3, 1):
        colormap = colors.ListedColormap(greys[:: 100_000 // count][:count])
        assert count == colormap.N
        drawn = np.asarray(format_as_image(make(heatmap, transparent), "nearest", colormap))[0]
        wanted = 255 * colormap(heatmap[0])[:, 0]
        np.testing.assert_allclose(drawn[1:, 0], wanted[1:], atol=1)


def test_the_picture_shows_through_where_the_heatmap_is_zero() -> None:
    picture = noise("RGBA")
    assert format_as_image(make(np.zeros((7, 7)), picture)) == picture
    assert format_as_image(make(np.ones((7, 7)), picture), alpha_limit=0) == picture


def test_without_a_heatmap_comes_a_copy_of_the_picture() -> None:
    picture = noise("RGBA")
    for targets in (None, []):
        shown = format_as_image(Explanation("net", image=picture, targets=targets))
        assert shown == picture
        assert shown is not picture
    shown.putpixel((0, 0), (1, 2, 3, 4))
    assert shown != picture


def test_the_explanation_is_left_as_it_was() -> None:
    picture, heatmap = noise("RGB"), HEAT.copy()
    format_as_image(make(heatmap, picture))
    assert picture == noise("RGB")
    np.testing.assert_array_equal(heatmap, HEAT)


@pytest.mark.parametrize(
    "mode",
    ["1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV", "LAB"],
)
def test_pictures_of_any_mode_are_taken(mode: str) -> None:
    if mode in ("La", "RGBa"):
        picture = noise("RGBA").convert("LA" if mode == "La" else "RGBA").convert(mode)
    elif mode == "PA":
        picture = noise("P").convert("PA")
    elif mode == "LAB":
        picture = Image.fromarray(np.full((4, 5, 3), 128, np.uint8), mode="RGB")
        picture = Image.frombytes("LAB", (5, 4), picture.tobytes())
    else:
        picture = noise(mode)
    shown = format_as_image(Explanation("net", image=picture))
    assert (shown.mode, shown.size) == ("RGBA", (5, 4))
    if mode in ("L", "RGB", "CMYK", "YCbCr", "HSV"):
        wanted = np.asarray(picture.convert("RGB"), dtype=int)
        np.testing.assert_allclose(np.asarray(shown, dtype=int)[..., :3], wanted, atol=1)
    assert format_as_image(make(image=picture)).mode == "RGBA"


GREY = {
    "I;16": (np.array([[0, 32896, 65535]], np.uint16), [0, 128, 255]),
    "I of 16 bits": (np.array([[0, 32896, 65535]], np.int32), [0, 128, 255]),
    "I of 8 bits": (np.array([[0, 128, 255]], np.int32), [0, 128, 255]),
    "I of more": (np.array([[-100000, 0, 100000]], np.int32), [0, 128, 255]),
    "I of one value": (np.array([[-7, -7]], np.int32), [0, 0]),
    "F up to 1": (np.array([[0, 0.5, 1]], np.float32), [0, 128, 255]),
    "F up to 255": (np.array([[0, 128, 255]], np.float32), [0, 128, 255]),
}


@pytest.mark.parametrize("kind", list(GREY))
def test_grey_pictures_of_many_bits_do_not_turn_white(kind: str) -> None:
    values, wanted = GREY[kind]
    picture = Image.fromarray(values)
    assert picture.mode == kind.split()[0]
    shown = np.asarray(format_as_image(Explanation("net", image=picture)))
    for channel in range(3):
        np.testing.assert_array_equal(shown[0, :, channel], wanted)
    assert (shown[..., 3] == 255).all()


@pytest.mark.parametrize("image", [None, np.zeros((2, 2, 4)), "picture.png"])
def test_an_image_that_is_no_pillow_image_is_refused(image: Any) -> None:
    with pytest.raises(TypeError, match=type(image).__name__):
        format_as_image(Explanation("net", image=image))


@pytest.mark.parametrize("size", [(0, 0), (3, 0)])
def test_an_image_without_pixels_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=rf"at least one pixel, got {size[0]} x {size[1]}"):
        format_as_image(make(image=Image.new("RGB", size)))


@pytest.mark.parametrize(
    ("expl", "message"),
    [
        (None, "expl must be an Explanation, got NoneType"),
        ([make()], "got list: pass its items one by one"),
        (HEAT, "got ndarray"),
        (make().targets[0], "got TargetExplanation: pass the Explanation"),
        (Explanation("net", targets="cat"), r"expl\.targets must be a list .*, got str"),
        (
            Explanation("net", targets=["cat"]),
            r"expl\.targets must hold TargetExplanation, got str",
        ),
        (
            Explanation("net", targets=[TargetExplanation(0, score="0.5")]),
            "the score of class 0 must be a number or None, got str",
        ),
    ],
)
def test_what_is_no_explanation_is_refused(expl: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        format_as_image(expl)


def several(
    number: int = 3, size: tuple[int, int] = (200, 160), name: str | None = None
) -> Explanation:
    targets = [
        TargetExplanation(place, score=0.5 / (place + 1), heatmap=np.roll(HEAT, place), name=name)
        for place in range(number)
    ]
    return Explanation("net", image=noise("RGB", size), targets=targets)


def test_several_targets_stand_side_by_side_each_as_if_alone() -> None:
    expl = several()
    shown = format_as_image(expl, colormap="jet")
    assert shown.mode == "RGBA"
    gap = round(0.8 * 13)
    for place, target in enumerate(expl.targets):
        alone = format_as_image(
            Explanation("net", image=expl.image, targets=[target]), colormap="jet"
        )
        left = gap + place * (200 + gap)
        assert shown.crop((left, gap, left + 200, gap + 160)) == alone


def test_below_each_panel_stands_its_caption() -> None:
    def dark_below(expl: Explanation) -> int:
        below = np.asarray(format_as_image(expl).convert("L"))[-50:]
        return int((below < 128).sum())

    assert dark_below(several(2)) > 50
    # A longer name takes more ink, and a name that is wider than its panel more lines.
    assert dark_below(several(2, name="tiger cat")) > dark_below(several(2, name="ox"))
    low, high = (format_as_image(several(2, name=name)) for name in ("ox", "ox " * 30))
    assert high.height > low.height
    assert high.width == low.width


def test_a_name_of_a_million_letters_is_cut_like_one_of_a_thousand() -> None:
    for name in ("m", "i", "word ", "é", "\u0301"):
        few, many = (format_as_image(several(2, name=count * name)) for count in (1000, 10**6))
        assert few == many
    # As many letters as there is room for.
    beside = np.asarray(format_as_image(several(2, name=1000 * "i")).convert("L"))
    dark = (beside[180:] < 200).any(axis=0)
    assert dark[10:210].sum() > 90


def test_control_characters_in_a_caption_are_escaped() -> None:
    assert format_as_image(several(2, name="a\x1b\u202eb")) == format_as_image(
        several(2, name=r"a\x1b\u202eb")
    )


def test_captions_grow_with_the_picture() -> None:
    def caption_height(size: tuple[int, int]) -> int:
        return format_as_image(several(2, size)).height - size[1]

    assert caption_height((1600, 900)) > 5 * caption_height((200, 160))


def test_small_pictures_are_enlarged_until_a_caption_can_be_read() -> None:
    shown = format_as_image(several(2, (32, 20)))
    assert shown.width > 2 * 160
    picture = noise("RGB", (32, 20)).convert("RGBA")
    expl = several(2, (32, 20))
    plain = np.asarray(format_as_image(expl, alpha_limit=0))
    enlarged = np.asarray(picture).repeat(5, axis=0).repeat(5, axis=1)
    np.testing.assert_array_equal(plain[10:110, 10:170], enlarged)


def test_a_sheet_has_a_row_for_each_explanation_and_a_column_for_each_target() -> None:
    one, three = format_as_sheet([several()]), format_as_sheet([several()] * 3)
    assert one == format_as_image(several())
    assert three.width == one.width
    assert three.height > 2.8 * one.height


def test_an_explanation_that_failed_has_its_error_in_its_row() -> None:
    failed = Explanation("net", error="doc 1: there is NaN in it")
    shown = format_as_sheet([several(1), failed, several(2)])
    assert shown.height > format_as_sheet([several(1), several(2)]).height
    assert format_as_sheet([failed]).width >= 160
    alone = Explanation("net", image=Image.new("RGB", (200, 200), "red"), error="no class")
    assert (255, 0, 0, 255) in dict(map(reversed, format_as_sheet([alone]).getcolors()))


def test_a_sheet_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        format_as_sheet([])
    with pytest.raises(TypeError, match=r"expl\.image must be"):
        format_as_sheet([Explanation("net")])
    for nothing in (None, make(), "ab"):
        with pytest.raises(TypeError, match="expls must be a list of explanations"):
            format_as_sheet(nothing)
    with pytest.raises(TypeError, match="explanation 2 must be an Explanation, got str"):
        format_as_sheet([make(), "b"])


@pytest.mark.parametrize(
    ("heatmap", "error"),
    [
        (None, TypeError),
        ([[0.0]], TypeError),
        (np.full((2, 2), np.nan), ValueError),
        (np.full((2, 2), 1.1), ValueError),
        (np.zeros((2, 2, 3)), ValueError),
        (np.zeros((0, 2)), ValueError),
        (np.array([["hot"]]), TypeError),
        (np.array([[0.5]], dtype=object), TypeError),
        (np.array([[0.5 + 0.5j]]), TypeError),
    ],
)
def test_a_heatmap_that_is_none_is_refused(heatmap: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="heatmap"):
        format_as_image(make(heatmap))


# colormap


def test_a_colormap_may_be_a_name() -> None:
    expl = make(image=noise("RGB"))
    assert format_as_image(expl, colormap="jet") == format_as_image(
        expl, colormap=matplotlib.colormaps["jet"]
    )
    with pytest.raises(ValueError, match="unknown colormap 'yet'"):
        format_as_image(expl, colormap="yet")


def test_a_colormap_may_be_any_function_of_the_heatmap() -> None:
    seen = []

    def red(heat: np.ndarray) -> np.ndarray:
        seen.append(heat)
        return np.dstack([heat, 0 * heat, 0 * heat, 1 + 0 * heat])

    overlay = np.asarray(format_as_image(make(), "nearest", red, alpha_limit=1))
    assert seen[0].shape == (2, 2)
    np.testing.assert_allclose(overlay[..., 0], [[0, 16], [64, 255]], atol=1)
    assert not overlay[..., 1:3].any()


def test_a_colormap_may_leave_out_the_opacity() -> None:
    def three(heat: np.ndarray) -> np.ndarray:
        return np.dstack([heat, heat, heat])

    def four(heat: np.ndarray) -> np.ndarray:
        return np.dstack([heat, heat, heat, np.ones_like(heat)])

    assert format_as_image(make(), colormap=three) == format_as_image(make(), colormap=four)


@pytest.mark.parametrize(
    ("colormap", "error"),
    [
        (7, TypeError),
        (lambda heat: heat, ValueError),
        (lambda heat: np.full((*heat.shape, 3), 255), ValueError),
        (lambda heat: np.full((*heat.shape, 4), np.nan), ValueError),
        (lambda heat: np.full((*heat.shape, 4), -0.1), ValueError),
    ],
)
def test_a_colormap_that_gives_no_colours_is_refused(colormap: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="colormap must"):
        format_as_image(make(), colormap=colormap)


# resampling_filter


@pytest.mark.parametrize("resampling_filter", list(Image.Resampling))
def test_a_filter_may_be_a_member_an_integer_or_a_name(
    resampling_filter: Image.Resampling,
) -> None:
    expl = make(image=noise("RGB", (20, 20)))
    shown = format_as_image(expl, resampling_filter)
    assert shown == format_as_image(expl, int(resampling_filter))
    assert shown == format_as_image(expl, resampling_filter.name)
    assert shown == format_as_image(expl, resampling_filter.name.lower())


def test_no_filter_is_the_default_of_pillow() -> None:
    expl = make(image=noise("RGB", (20, 20)))
    assert format_as_image(expl, None) == format_as_image(expl, "bicubic")


@pytest.mark.parametrize("resampling_filter", ["sharp", 77, 1.5, [1]])
def test_an_unknown_filter_is_refused_with_the_known(resampling_filter: Any) -> None:
    with pytest.raises(ValueError, match=r"nearest, .*box, .*hamming|nearest, .*lanczos"):
        format_as_image(make(), resampling_filter)


# heatmap_to_image and expand_heatmap


def test_values_are_rounded_to_bytes() -> None:
    image = heatmap_to_image(np.array([[0, 0.999, 1, 0.5]]))
    assert image.mode == "L"
    assert list(np.asarray(image)[0]) == [0, 255, 255, 128]


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int64])
def test_a_mask_of_any_type_is_black_and_white(dtype: Any) -> None:
    image = heatmap_to_image(np.array([[0, 1]], dtype))
    assert list(np.asarray(image)[0]) == [0, 255]


@pytest.mark.parametrize(("channels", "mode"), [(3, "RGB"), (4, "RGBA")])
def test_coloured_arrays_become_coloured_images(channels: int, mode: str) -> None:
    image = heatmap_to_image(np.full((3, 5, channels), 0.2))
    assert (image.mode, image.size) == (mode, (5, 3))
    assert image.getpixel((4, 2)) == (51,) * channels


@pytest.mark.parametrize("shape", [(1,), (1, 1, 10), (1, 1, 1), (1, 1, 1, 3)])
def test_arrays_of_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="rank"):
        heatmap_to_image(np.zeros(shape))


def test_expanding_gives_the_size_of_the_picture() -> None:
    expanded = expand_heatmap(HEAT, Image.new("RGB", (4, 2)), resampling_filter=Image.BOX)
    assert expanded.mode == "L"
    np.testing.assert_array_equal(np.asarray(expanded), [[0, 0, 64, 64], [128, 128, 255, 255]])


def test_a_grey_heatmap_is_resized_before_it_is_rounded() -> None:
    heatmap = np.array([[0.0, 0.001]])  # which rounds to zero in bytes
    wide = np.asarray(expand_heatmap(1000 * heatmap, Image.new("L", (100, 1)), "bilinear"))
    assert len(np.unique(wide)) > 40


@pytest.mark.parametrize("channels", [3, 4])
def test_coloured_heatmaps_are_expanded_too(channels: int) -> None:
    expanded = expand_heatmap(np.zeros((10, 10, channels)), Image.new("L", (5, 5)), Image.BOX)
    assert expanded.size == (5, 5)


def test_expanding_refuses_what_is_no_picture() -> None:
    with pytest.raises(TypeError, match="got ndarray"):
        expand_heatmap(HEAT, np.ones((2, 2)))


@pytest.mark.parametrize(
    "heatmap", [np.array([-0.001]), np.array([1.001]), np.array([np.nan]), np.array([])]
)
def test_values_outside_of_0_and_1_are_refused(heatmap: np.ndarray) -> None:
    with pytest.raises(ValueError, match="heatmap"):
        _validate_heatmap(heatmap)
    with pytest.raises(TypeError, match=r"numpy\.ndarray, got list"):
        _validate_heatmap(heatmap.tolist())


# Opacity


def test_the_opacity_is_capped_in_a_new_array() -> None:
    alpha = np.array([[0.5, 0.49], [0.51, 0.5]])
    np.testing.assert_array_equal(_cap_alpha(alpha, 0.5), [[0.5, 0.49], [0.5, 0.5]])
    assert _cap_alpha(alpha, None) is not alpha
    np.testing.assert_array_equal(_cap_alpha(alpha, None), alpha)
    assert alpha[1, 0] == 0.51


@pytest.mark.parametrize("limit", [0, 1, 0.3, np.float32(0.3), np.int8(1), np.float64(0.3)])
def test_the_limit_may_be_any_real_number(limit: Any) -> None:
    assert _cap_alpha(np.ones((1, 1)), limit)[0, 0] == pytest.approx(float(limit))


@pytest.mark.parametrize("limit", [1.1, -0.1, float("nan"), float("inf")])
def test_a_limit_outside_of_0_and_1_is_refused(limit: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        _cap_alpha(np.zeros((1, 1)), limit)


@pytest.mark.parametrize("limit", ["0.5", [0.5], 1j])
def test_a_limit_that_is_no_real_number_is_refused(limit: Any) -> None:
    with pytest.raises(TypeError, match="real number"):
        _cap_alpha(np.zeros((1, 1)), limit)


def test_the_opacity_is_updated_in_place() -> None:
    rgba = np.zeros((1, 1, 4))
    _update_alpha(rgba, starting_array=np.ones((1, 1)))
    np.testing.assert_array_equal(rgba, [[[0, 0, 0, 1]]])
    _update_alpha(rgba, alpha_limit=0.25)
    np.testing.assert_array_equal(rgba, [[[0, 0, 0, 0.25]]])
    whole = np.full((1, 1, 4), 255, np.uint8)
    _update_alpha(whole, alpha_limit=0.2)
    np.testing.assert_array_equal(whole, [[[255, 255, 255, 51]]])


def test_overlaying_is_alpha_compositing() -> None:
    below = Image.new("RGBA", (1, 1), (0, 0, 0, 255))
    above = Image.new("RGBA", (1, 1), (255, 255, 255, 128))
    assert _overlay_heatmap(above, below).getpixel((0, 0)) == (128, 128, 128, 255)


# Signed heatmaps


def signed(heatmap: list[list[float]], grey: int = 128) -> Explanation:
    target = TargetExplanation(0, heatmap=np.array(heatmap), signed=True)
    picture = Image.new("L", (len(heatmap[0]), len(heatmap)), grey)
    return Explanation("net", image=picture, targets=[target])


def test_a_signed_heatmap_is_transparent_at_zero_and_opaque_at_both_ends() -> None:
    pixels = np.asarray(format_as_image(signed([[0, 1, -1]]), "nearest", alpha_limit=1))[0]
    assert pixels[0].tolist() == [128, 128, 128, 255]
    red, blue = pixels[1, :3].astype(int), pixels[2, :3].astype(int)
    assert red[0] > red[1:].max() + 100
    assert blue[2] > blue[:2].max() + 50


def test_a_colormap_of_the_users_gets_a_signed_heatmap_moved_to_zero_to_one() -> None:
    seen = []

    def colormap(heat: np.ndarray) -> np.ndarray:
        seen.append(heat)
        return np.ones((*heat.shape, 3))

    format_as_image(signed([[0, 1, -1]]), "nearest", colormap)
    np.testing.assert_allclose(seen[0], [[0.5, 1, 0]])


def test_a_negative_heatmap_that_is_not_signed_is_refused() -> None:
    expl = signed([[0, -0.5]])
    expl.targets[0].signed = False
    with pytest.raises(ValueError, match=r"between 0 and 1, got a minimum of -0\.5"):
        format_as_image(expl)
    with pytest.raises(ValueError, match=r"between -1 and 1, got a minimum of -1\.5"):
        format_as_image(signed([[0, -1.5]]))


def test_resizing_keeps_a_signed_heatmap_within_its_range() -> None:
    resized = np.asarray(format_as_image(signed([[-1, 1], [1, -1]] * 4), "lanczos"))
    assert resized.shape == (8, 2, 4)
    # LANCZOS overshoots: none of it is taken for the other sign.
    image = signed([[-1.0, -1.0], [-1.0, -0.9]])
    image.image = Image.new("L", (16, 16), 0)
    drawn = np.asarray(format_as_image(image, "lanczos", alpha_limit=1)).astype(int)
    assert (drawn[..., 2] > drawn[..., 0]).all()


# Sheets of other shapes


def test_a_sheet_may_have_titles_and_as_many_columns_as_asked() -> None:
    expls = [make() for _ in range(3)]
    three = format_as_sheet(expls, columns=3, titles=["first", "second", "third"])
    two = format_as_sheet(expls, columns=2, titles=["first", "second", "third"])
    one = format_as_sheet(expls, titles=["first", "second", "third"])
    assert three.width > two.width > one.width
    assert three.height < two.height < one.height
    assert format_as_sheet(expls, columns=1).size == format_as_sheet(expls).size
    assert one.height > format_as_sheet(expls).height  # a line more below each


@pytest.mark.parametrize(
    ("asked", "error", "message"),
    [
        ({"titles": ["one"]}, ValueError, "one for each of 2 explanations, and holds 1"),
        ({"titles": "ab"}, TypeError, "titles must be a list of titles, got str"),
        ({"titles": 2}, TypeError, "titles must be a list of titles, got int"),
        ({"columns": 0}, ValueError, "at least 1, got 0"),
        ({"columns": 1.5}, TypeError, "must be an integer, got float"),
    ],
)
def test_titles_and_columns_that_make_no_sense_are_refused(
    asked: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        format_as_sheet([make(), make()], **asked)
