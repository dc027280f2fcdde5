"""The page of one explanation: what one sees and hears of it, and can do with it."""

from __future__ import annotations

import base64
import io
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect
from tiny_media import MIDDLE, SHAPES, media
from tiny_pictures import EVIL

from kerasight.base import Explanation, TargetExplanation
from kerasight.formatters.html import format_as_html, format_html_styles
from kerasight.formatters.image import format_as_image
from kerasight.formatters.overlay import Style, overlay
from kerasight.formatters.stack import heat_slices

pytestmark = pytest.mark.browser

HEAT = np.array([[0.0, 0.25, 0.5], [0.75, 1.0, 0.125]])
SIGNED = np.array([[-1.0, -0.5, 0.0], [0.25, 0.5, 0.004]])

OPACITY = 'role=slider[name="Opacity"]'
STAGE = ".ks-stage"


def make(*targets: TargetExplanation, size: tuple[int, int] = (300, 200)) -> Explanation:
    if not targets:
        targets = (
            TargetExplanation(3, score=0.9, heatmap=HEAT, name="house"),
            TargetExplanation(6, score=0.1, heatmap=HEAT[:, ::-1].copy(), name="rocket"),
        )
    image = Image.linear_gradient("L").resize(size).convert("RGB")
    return Explanation(
        "net", "Where it looked.", "", "Grad-CAM", targets=list(targets), image=image, layer="out"
    )


def signed(heatmap: np.ndarray = SIGNED) -> TargetExplanation:
    return TargetExplanation(1, score=2.5, heatmap=heatmap, name="cat", signed=True)


@pytest.fixture
def show(tmp_path: Path, open_page: Callable[..., Any]) -> Callable[..., Any]:
    """Opens the page of an explanation, or any HTML."""

    def shown(what: Explanation | str, *, is_live: bool = True, **options: Any) -> Any:
        text = what if isinstance(what, str) else format_as_html(what, page=True)
        path = tmp_path / "page.html"
        path.write_text(text, encoding="utf-8", newline="\n")
        page = open_page(path, **options)
        if is_live:
            page.locator(f"{STAGE} canvas").first.wait_for()
        return page

    return shown


def heat_on(page: Any) -> np.ndarray:
    """What the canvas holds, RGBA of shape ``(height, width, 4)``."""
    return rgba(Image.fromarray(heat_bytes(page)))


def heat_bytes(page: Any) -> np.ndarray:
    """The same in bytes, colours and opacity apart."""
    address = page.locator("canvas").evaluate("(canvas) => canvas.toDataURL()")
    shown = Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2])))
    return np.asarray(shown.convert("RGBA"))


def heat_wanted(expl: Explanation, number: int = 0, **arguments: Any) -> np.ndarray:
    """What `format_as_image` lays over the picture, on nothing."""
    nothing = Image.new("RGBA", expl.image.size, (0, 0, 0, 0))
    alone = Explanation("", image=nothing, targets=[expl.targets[number]])
    return rgba(format_as_image(alone, **arguments))


def rgba(image: Image.Image) -> np.ndarray:
    """Colours times opacity, and opacity: what one sees, and what a canvas keeps."""
    values = np.asarray(image, dtype=float)
    values[..., :3] *= values[..., 3:] / 255
    return values


def assert_same_heat(found: np.ndarray, wanted: np.ndarray) -> None:
    """Equal but for rounding, and for cells that fall on the border of two colours."""
    assert found.shape == wanted.shape
    difference = np.abs(found - wanted)
    assert difference.max() <= 8
    assert difference.mean() < 0.6


def move_to(page: Any, down: float, across: float) -> None:
    """The pointer to a place of the picture, as shares of its height and width."""
    box = page.locator(STAGE).bounding_box()
    page.mouse.move(box["x"] + across * box["width"], box["y"] + down * box["height"])


def set_slider(page: Any, percent: int) -> None:
    page.locator(OPACITY).fill(str(percent))


# The heatmap


@pytest.mark.parametrize(
    "resampling_filter", ["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"]
)
def test_it_draws_what_format_as_image_draws(show: Any, resampling_filter: str) -> None:
    expl = make()
    page = show(format_as_html(expl, page=True, resampling_filter=resampling_filter))
    wanted = heat_wanted(expl, resampling_filter=resampling_filter)
    assert_same_heat(heat_on(page), wanted)


def test_signed_heatmaps_too(show: Any) -> None:
    expl = make(signed())
    assert_same_heat(heat_on(show(expl)), heat_wanted(expl))


@pytest.mark.parametrize("look", [{}, {"absolute": True}, {"blur": 2, "outliers": 5}])
def test_heat_is_cut_and_smoothed_as_on_pictures(show: Any, look: dict[str, Any]) -> None:
    heatmap = np.random.default_rng(0).normal(size=(70, 90)) ** 3
    heatmap /= np.abs(heatmap).max()
    expl = make(signed(heatmap))
    page = show(format_as_html(expl, page=True, **look))
    assert_same_heat(heat_on(page), heat_wanted(expl, **look))


def test_heat_beyond_the_scale_is_told_as_what_it_is(show: Any) -> None:
    heatmap = np.full((100, 100), 0.1)
    heatmap[:, 0] = 0.25
    heatmap[50, 40] = 1
    page = show(make(TargetExplanation(0, heatmap=heatmap), TargetExplanation(1, heatmap=HEAT)))
    expect(page.get_by_text("1: hottest 1%")).to_be_visible()
    page.locator(STAGE).focus()
    page.keyboard.press("Home")
    expect(page.locator(".ks-reading")).to_contain_text("4.00 in row 51, column 41 of 100")
    assert page.locator(".ks-mark").evaluate("(mark) => mark.style.left") == "100%"
    page.get_by_role("radio").nth(1).check()
    expect(page.get_by_text("1: hottest 1%")).to_be_hidden()


def test_boxes_lie_over_the_heat_of_their_target_alone(show: Any) -> None:
    expl = make()
    expl.targets[1].box = (0.1, 0.2, 0.6, 0.7)
    page = show(expl)
    assert page.locator(f"{STAGE} .ks-lines").count() == 0
    page.get_by_role("radio").nth(1).check()
    address = page.locator(f"{STAGE} .ks-lines").get_attribute("src")
    lines = Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))).convert("RGBA")
    seen = Image.fromarray(heat_bytes(page))
    nothing = Image.new("RGBA", expl.image.size, (0, 0, 0, 0))
    alone = Explanation("", image=nothing, targets=[expl.targets[1]])
    assert_same_heat(rgba(Image.alpha_composite(seen, lines)), rgba(format_as_image(alone)))
    page.get_by_role("radio").nth(0).check()
    assert page.locator(f"{STAGE} .ks-lines").count() == 0


# Volumes and videos


def heat_of_slice(expl: Explanation, at: int, size: tuple[int, int]) -> np.ndarray:
    """What is laid over a slice, on nothing."""
    heatmap = expl.targets[0].heatmap
    heat = heat_slices(heatmap, 0, len(expl.doc), Style())[at]
    return rgba(overlay(Image.new("RGBA", size, (0, 0, 0, 0)), heat, False, Style()))


@pytest.mark.parametrize("kind", ["volume", "video"])
def test_one_moves_through_a_volume_and_a_video(show: Any, kind: str) -> None:
    expl = media(kind)
    page = show(expl)
    slider = page.get_by_role("slider", name={"volume": "Depth", "video": "Frame"}[kind])
    count, hottest = SHAPES[kind][0], MIDDLE[kind][0]
    assert slider.get_attribute("aria-valuetext") == f"{hottest + 1} of {count}"
    first = page.locator(f"{STAGE} img").get_attribute("src")
    size = tuple(heat_on(page).shape[1::-1])
    assert_same_heat(heat_on(page), heat_of_slice(expl, hottest, size))
    slider.fill(str(hottest - 1))
    page.wait_for_function(
        "(old) => document.querySelector('.ks-stage img').src !== old", arg=first
    )
    page.locator(f"{STAGE} img").evaluate("(image) => image.decode()")
    assert_same_heat(heat_on(page), heat_of_slice(expl, hottest - 1, size))
    assert slider.get_attribute("aria-valuetext") == f"{hottest} of {count}"


def test_a_button_plays_and_stops(show: Any) -> None:
    page = show(media("video"))
    slider = page.get_by_role("slider", name="Frame")
    before = slider.input_value()
    page.get_by_role("button", name="Play").click()
    page.wait_for_function(
        "(old) => document.querySelector('input[type=range]').value !== old", arg=before
    )
    page.get_by_role("button", name="Pause").click()
    stopped = slider.input_value()
    page.wait_for_timeout(400)
    assert slider.input_value() == stopped
    expect(page.get_by_role("button", name="Play")).to_be_visible()


def test_a_volume_may_be_enlarged_with_its_slider(show: Any) -> None:
    page = show(media("volume"))
    page.locator(STAGE).click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("slider", name="Depth").fill("0")
    expect(dialog.get_by_text("1 of 6")).to_be_visible()


def test_with_another_colormap_and_heatmaps_that_are_larger_than_the_picture(show: Any) -> None:
    heatmap = np.random.default_rng(0).random((100, 120))
    expl = make(TargetExplanation(0, heatmap=heatmap), size=(90, 60))
    expl.image = expl.image.resize((180, 120))  # not so small that it is enlarged
    page = show(format_as_html(expl, page=True, colormap="inferno"))
    assert_same_heat(heat_on(page), heat_wanted(expl, colormap="inferno"))


def test_the_slider_sets_the_greatest_opacity(show: Any) -> None:
    expl = make()
    page = show(expl)
    assert page.locator(OPACITY).input_value() == "65"
    for percent in (0, 30, 100):
        set_slider(page, percent)
        expect(page.get_by_text(f"{percent}%")).to_be_visible()
        assert_same_heat(heat_on(page), heat_wanted(expl, alpha_limit=percent / 100))
    assert page.locator(OPACITY).get_attribute("aria-valuetext") == "100%"


def test_the_slider_moves_by_mouse_and_by_key(show: Any) -> None:
    page = show(make())
    slider = page.locator(OPACITY)
    before = heat_on(page)
    box = slider.bounding_box()
    page.mouse.click(box["x"] + 0.2 * box["width"], box["y"] + box["height"] / 2)
    assert 10 < int(slider.input_value()) < 30
    assert heat_on(page)[..., 3].max() < before[..., 3].max()
    page.keyboard.press("End")
    assert slider.input_value() == "100"
    assert heat_on(page)[..., 3].max() == 255


def test_the_picture_has_pixels_and_lies_below(show: Any) -> None:
    page = show(make())
    image = page.locator(f"{STAGE} img")
    assert image.evaluate("(image) => image.complete && image.naturalWidth") == 300
    assert image.bounding_box() == page.locator("canvas").bounding_box()
    assert image.bounding_box()["width"] > 300


# The classes


def test_the_target_can_be_switched(show: Any) -> None:
    expl = make()
    page = show(expl)
    assert "house (3), score 0.9, hottest" in page.locator(f"{STAGE} img").get_attribute("alt")
    page.get_by_label("rocket").check()
    assert_same_heat(heat_on(page), heat_wanted(expl, 1))
    assert "rocket (6), score 0.1" in page.locator(f"{STAGE} img").get_attribute("alt")
    page.keyboard.press("ArrowUp")
    expect(page.get_by_label("house")).to_be_checked()
    assert_same_heat(heat_on(page), heat_wanted(expl, 0))


def test_the_slider_keeps_its_place_when_the_target_changes(show: Any) -> None:
    expl = make()
    page = show(expl)
    set_slider(page, 20)
    page.get_by_label("rocket").check()
    assert_same_heat(heat_on(page), heat_wanted(expl, 1, alpha_limit=0.2))


def test_one_class_is_no_choice(show: Any) -> None:
    page = show(make(TargetExplanation(3, score=0.9, heatmap=HEAT, name="house")))
    assert page.get_by_role("radio").count() == 0
    expect(page.locator(".ks-target")).to_contain_text("house (3) 0.9")


def test_the_scale_is_that_of_the_target(show: Any) -> None:
    page = show(make(TargetExplanation(3, heatmap=HEAT, name="house"), signed()))
    plain, both = page.locator('[data-kind="plain"].ks-scale'), page.locator(".ks-scale")
    expect(plain).to_be_visible()
    expect(both.nth(1)).to_be_hidden()
    page.get_by_label("cat").check()
    expect(plain).to_be_hidden()
    expect(both.nth(1)).to_be_visible()
    move_to(page, 0.25, 0.17)
    expect(page.locator(".ks-mark")).to_be_visible()


def test_a_class_without_a_heatmap_is_the_picture_alone(show: Any) -> None:
    page = show(make(TargetExplanation(3, heatmap=HEAT, name="house"), TargetExplanation(4)))
    page.get_by_label("class 4").check()
    assert not heat_on(page).any()
    expect(page.locator(".ks-reading")).to_have_text("There is no heatmap for this class.")
    move_to(page, 0.5, 0.5)
    page.locator(STAGE).press("ArrowUp")
    expect(page.locator(".ks-cell")).to_be_hidden()


# The heat


def test_the_heat_under_the_pointer_can_be_read(show: Any) -> None:
    page = show(make())
    reading = page.locator(".ks-reading")
    expect(reading).to_have_text("Point to read the heat, click to enlarge.")
    for row in range(2):
        for column in range(3):
            move_to(page, (row + 0.5) / 2, (column + 0.5) / 3)
            value = HEAT[row, column]
            expect(reading).to_have_text(
                re.compile(rf"^{value - 1e-9:.2f}|{value + 1e-9:.2f} in row")
            )
            expect(reading).to_contain_text(f"in row {row + 1}, column {column + 1} of 2 \u00d7 3")
    page.mouse.move(1, 1)
    expect(reading).to_have_text("Point to read the heat, click to enlarge.")


def test_the_cell_is_marked_on_the_picture_and_its_heat_on_the_scale(show: Any) -> None:
    page = show(make())
    move_to(page, 0.8, 0.4)
    stage, cell = (page.locator(name).bounding_box() for name in (STAGE, ".ks-cell"))
    assert math.isclose(cell["x"], stage["x"] + stage["width"] / 3, abs_tol=1)
    assert math.isclose(cell["y"], stage["y"] + stage["height"] / 2, abs_tol=1)
    assert math.isclose(cell["width"], stage["width"] / 3, abs_tol=1)
    bar, mark = (page.locator(name).bounding_box() for name in (".ks-bar", ".ks-mark"))
    # The cell holds a 1.
    assert math.isclose(mark["x"] + mark["width"] / 2, bar["x"] + bar["width"], abs_tol=1)


@pytest.mark.parametrize(
    ("column", "row", "text"),
    [(0, 0, "\u22121.00"), (1, 0, "\u22120.50"), (2, 0, "0.00"), (0, 1, "+0.25"), (2, 1, "0.00")],
)
def test_a_signed_value_has_its_sign(show: Any, column: int, row: int, text: str) -> None:
    page = show(make(signed()))
    move_to(page, (row + 0.5) / 2, (column + 0.5) / 3)
    expect(page.locator(".ks-reading b")).to_have_text(text)


def test_the_heat_is_that_of_the_target_and_of_the_cell_that_was_pointed_at(show: Any) -> None:
    page = show(make())
    page.locator(STAGE).focus()
    page.keyboard.press("Home")
    expect(page.locator(".ks-reading")).to_have_text("1.00 in row 2, column 2 of 2 \u00d7 3")
    page.keyboard.press("ArrowLeft")
    expect(page.locator(".ks-reading")).to_have_text("0.75 in row 2, column 1 of 2 \u00d7 3")


# Keyboard, screen reader, themes


def test_all_of_it_can_be_done_by_keyboard(show: Any) -> None:
    page = show(make())
    reading = page.locator(".ks-reading")
    page.keyboard.press("Tab")
    expect(page.locator(STAGE)).to_be_focused()
    # Coming to the picture says where it is hottest, and the arrow keys go on from there.
    expect(reading).to_have_text("1.00 in row 2, column 2 of 2 \u00d7 3")
    expect(reading).to_have_attribute("aria-live", "polite")
    for key, text in {
        "ArrowUp": "0.25 in row 1, column 2",
        "ArrowRight": "0.50 in row 1, column 3",
        "ArrowDown": "0.13 in row 2, column 3",
        "Home": "1.00 in row 2, column 2",
    }.items():
        page.keyboard.press(key)
        expect(reading).to_contain_text(text)
    for _ in range(4):
        page.keyboard.press("ArrowLeft")
    expect(reading).to_contain_text("row 2, column 1")
    page.keyboard.press("Escape")
    expect(page.locator(".ks-cell")).to_be_hidden()
    page.keyboard.press("Tab")
    expect(page.get_by_label("house")).to_be_focused()
    page.keyboard.press("ArrowDown")
    expect(page.get_by_label("rocket")).to_be_checked()
    page.keyboard.press("Tab")
    expect(page.locator(OPACITY)).to_be_focused()
    page.keyboard.press("ArrowRight")
    expect(page.locator(OPACITY)).to_have_value("66")
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    expect(page.get_by_text("Method")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_text("Where it looked.")).to_be_visible()


def test_moving_the_pointer_is_not_spoken(show: Any) -> None:
    page = show(make())
    move_to(page, 0.5, 0.5)
    expect(page.locator(".ks-reading")).to_have_attribute("aria-live", "off")


def test_everything_has_a_name_for_those_who_do_not_see_it(show: Any) -> None:
    page = show(make())
    tree = page.locator("main").aria_snapshot()
    for words in (
        'group "Grad-CAM of net"',
        'heading "net" [level=1]',
        'img "Picture and heatmap for house (3), score 0.9, hottest at the bottom"',
        'group "Class and score"',
        'radio "house (3) 0.9" [checked]',
        'radio "rocket (6) 0.1"',
        'slider "Opacity"',
        'img "Colours of the heatmap from 0, nothing, to 1, the hottest"',
    ):
        assert words in tree
    label = page.locator(STAGE).get_attribute("aria-label")
    assert label.startswith("Heat by cell. Arrow keys move")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_stand_out_in_light_and_in_dark(show: Any, faint_words: Any, scheme: str) -> None:
    expl = make()
    expl.error = "one of the `layers` was skipped"
    page = show(expl, color_scheme=scheme)
    assert faint_words(page.locator(".kerasight"), at_least=12) == []
    page.locator(STAGE).press("Enter")
    assert faint_words(page.get_by_role("dialog"), at_least=12) == []
    ground = page.locator(".kerasight").evaluate("(node) => getComputedStyle(node).backgroundColor")
    assert (ground == "rgb(255, 255, 255)") == (scheme == "light")


@pytest.mark.parametrize(
    ("attributes", "is_dark"),
    [
        ('data-jp-theme-light="true"', False),
        ('data-jp-theme-light="false"', True),
        ('data-theme="light"', False),
        ('data-theme="dark"', True),
        ('class="vscode-light"', False),
        ('class="vscode-dark"', True),
    ],
)
def test_the_theme_around_it_counts_more_than_that_of_the_machine(
    show: Any, attributes: str, is_dark: bool
) -> None:
    text = f"<!DOCTYPE html><title>x</title><body {attributes}>{format_as_html(make())}</body>"
    page = show(text, color_scheme="light" if is_dark else "dark")
    ground = page.locator(".kerasight").evaluate("(node) => getComputedStyle(node).backgroundColor")
    assert (ground == "rgb(255, 255, 255)") != is_dark


@pytest.mark.parametrize("width", [320, 360, 600, 1200])
def test_nothing_sticks_out_at_any_width(show: Any, width: int) -> None:
    expl = make(
        TargetExplanation(3, score=1e-9, heatmap=HEAT, name="a_very_long_name_" * 5),
        TargetExplanation(4, score=0.5, heatmap=HEAT, name="a name with several words " * 4),
    )
    expl.layer = "model/backbone/block_16/" * 4
    page = show(expl, viewport={"width": width, "height": 700})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    card = page.locator(".kerasight").bounding_box()
    for node in page.locator(".kerasight :is(p, label, canvas, output, .ks-bar)").all():
        box = node.bounding_box()
        if box:
            assert box["x"] >= card["x"]
            assert box["x"] + box["width"] <= card["x"] + card["width"]


# Without a script, and in company


def test_without_scripts_there_are_overlays_with_captions(show: Any) -> None:
    page = show(make(), is_live=False, java_script_enabled=False)
    overlays = page.locator(".ks-still img")
    for number, caption in enumerate(("house (3), score 0.9", "rocket (6), score 0.1")):
        expect(overlays.nth(number)).to_be_visible()
        assert overlays.nth(number).evaluate("(image) => image.naturalWidth") == 300
        expect(page.locator("figcaption").nth(number)).to_have_text(caption)
    # What would do nothing is not there.
    for role in ("slider", "radio", "button", "application"):
        assert page.get_by_role(role).count() == 0


# Large


def test_a_click_enlarges_the_picture_and_what_is_chosen_there_is_chosen_afterwards(
    show: Any,
) -> None:
    expl = make()
    page = show(expl)
    stage, dialog = page.locator(STAGE), page.get_by_role("dialog", name="net")
    small = stage.bounding_box()
    stage.click()
    expect(dialog).to_be_visible()
    large = dialog.locator(STAGE).bounding_box()
    assert large["width"] > 1.3 * small["width"]
    assert math.isclose(large["width"] / large["height"], 1.5, rel_tol=0.02)
    assert large["y"] + large["height"] < 700
    expect(page.locator(".ks-reading")).not_to_contain_text("enlarge")
    dialog.get_by_label("rocket").check()
    set_slider(page, 20)
    move_to(page, 0.25, 0.17)
    expect(page.locator(".ks-reading")).to_contain_text("0.50 in row 1, column 1")
    dialog.get_by_role("button", name="Close").click()
    expect(page.get_by_role("dialog")).to_have_count(0)
    expect(stage).to_be_visible()  # it comes back a moment after the dialog has gone
    assert stage.bounding_box() == small
    expect(page.get_by_label("rocket")).to_be_checked()
    assert_same_heat(heat_on(page), heat_wanted(expl, 1, alpha_limit=0.2))


def test_it_is_enlarged_by_keyboard_and_the_focus_comes_back(show: Any) -> None:
    page = show(make())
    stage = page.locator(STAGE)
    stage.focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog")).to_be_visible()
    expect(stage).to_be_focused()
    page.keyboard.press("ArrowUp")
    expect(page.locator(".ks-reading")).to_contain_text("in row 1, column 2")
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    expect(stage).to_be_focused()


@pytest.mark.parametrize("size", [(300, 1000), (1000, 200), (60, 40)])
@pytest.mark.parametrize("window", [(390, 700), (1000, 600)])
def test_a_large_picture_fits_into_the_window(
    show: Any, size: tuple[int, int], window: tuple[int, int]
) -> None:
    page = show(make(size=size), viewport={"width": window[0], "height": window[1]})
    page.locator(STAGE).press("Enter")
    stage = page.get_by_role("dialog").locator(STAGE).bounding_box()
    assert 0 <= stage["x"] <= stage["x"] + stage["width"] <= window[0]
    assert 0 <= stage["y"] <= stage["y"] + stage["height"] <= window[1]
    assert math.isclose(stage["width"] / stage["height"], size[0] / size[1], rel_tol=0.05)


def test_without_scripts_and_styles_all_overlays_are_there(show: Any) -> None:
    bare = re.sub(r"<(script|style).*?</\1>", "", format_as_html(make()), flags=re.DOTALL)
    page = show(f"<!DOCTYPE html><title>x</title>{bare}", is_live=False)
    for number, caption in enumerate(("house (3), score 0.9", "rocket (6), score 0.1")):
        expect(page.locator("figure img").nth(number)).to_be_visible()
        expect(page.locator("figcaption").nth(number)).to_have_text(caption)
    expect(page.get_by_role("radio")).to_have_count(0)


def test_equal_fragments_on_one_page_do_not_disturb_each_other(show: Any) -> None:
    fragment = format_as_html(make())
    page = show(f"<!DOCTYPE html><title>x</title>{fragment}{fragment}{fragment}")
    expect(page.locator("canvas")).to_have_count(3)
    page.get_by_label("rocket").nth(1).check()
    checked = [item.is_checked() for item in page.get_by_label("rocket").all()]
    assert checked == [False, True, False]
    page.locator(OPACITY).nth(2).fill("10")
    assert [item.input_value() for item in page.locator(OPACITY).all()] == ["65", "65", "10"]
    names = page.evaluate("Object.keys(window).filter((name) => /sl|sight|view/i.test(name))")
    assert "makeView" not in names
    assert page.evaluate("typeof makeView") == "undefined"


@pytest.mark.parametrize("is_first", [True, False])
def test_the_styles_may_stand_before_or_after_the_fragments(show: Any, is_first: bool) -> None:
    parts = [format_html_styles(), 2 * format_as_html(make(), include_styles=False)]
    text = "".join(parts if is_first else reversed(parts))
    page = show(f"<!DOCTYPE html><html><head><title>x</title></head><body>{text}</body></html>")
    expect(page.locator("canvas")).to_have_count(2)


def test_a_fragment_that_is_put_in_later_starts_too(show: Any) -> None:
    # As a notebook does it: the markup is put in, and then each script is made anew.
    page = show("<!DOCTYPE html><title>x</title><div></div>", is_live=False)
    page.locator("div").evaluate(
        """(host, text) => {
          host.innerHTML = text;
          for (const old of host.querySelectorAll('script')) {
            const script = document.createElement('script');
            for (const { name, value } of old.attributes) script.setAttribute(name, value);
            script.textContent = old.textContent;
            old.replaceWith(script);
          }
        }""",
        format_as_html(make()),
    )
    expect(page.locator("canvas")).to_have_count(1)


def test_a_place_that_is_as_wide_as_its_content_gives_it_room(show: Any) -> None:
    for style in ("display: inline-block", "display: inline-flex", "float: left"):
        place = f'<div style="{style}">{format_as_html(make())}</div>'
        page = show(f"<!DOCTYPE html><title>x</title>{place}")
        assert page.locator(".kerasight").bounding_box()["width"] > 600


def test_names_from_outside_run_nothing_and_read_as_they_are(show: Any) -> None:
    expl = make()
    for name in ("estimator", "description", "error", "method", "layer"):
        setattr(expl, name, EVIL)
    for target in expl.targets:
        target.name = EVIL
    text = f"<!DOCTYPE html><title>x</title>{format_as_html(expl, title=EVIL)}"
    page = show(text)
    expect(page.locator(".ks-title")).to_have_text(EVIL)
    expect(page.locator(".ks-error")).to_have_text(EVIL)
    expect(page.locator(".ks-class bdi").first).to_have_text(EVIL)
    assert EVIL in page.locator(f"{STAGE} img").get_attribute("alt")
    assert page.locator("[onerror]").count() == 0
    assert page.locator("script:not([type])").count() == 1


# Pictures for the documentation, of the embedded model


@pytest.fixture(scope="module")
def demo() -> Explanation:
    import kerasight
    from kerasight.demo import CLASS_NAMES, load_model, load_picture, preprocess

    picture = load_picture()
    return kerasight.explain_prediction(
        load_model(), preprocess(picture), image=picture, top_targets=3, target_names=CLASS_NAMES
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_embedded_picture(show: Any, take: Any, demo: Explanation, scheme: str) -> None:
    page = show(demo, color_scheme=scheme, viewport={"width": 780, "height": 700})
    if scheme == "dark":
        page.get_by_label("house").check()
    row, column = np.unravel_index(demo.targets[0].heatmap.argmax(), demo.targets[0].heatmap.shape)
    height, width = demo.targets[0].heatmap.shape
    if scheme == "light":
        move_to(page, (row + 0.5) / height, (column + 0.5) / width)
        expect(page.locator(".ks-reading b")).to_have_text("1.00")
    take(page.locator(".kerasight"), f"page-{scheme}")
