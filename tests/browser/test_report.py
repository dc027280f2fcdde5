"""The page of many explanations: it opens fast, and is searched, sorted and filtered."""

from __future__ import annotations

import io
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFilter
from playwright.sync_api import expect
from tiny_pictures import EVIL

from kerasight.base import Explanation, TargetExplanation
from kerasight.formatters.html import write_report

pytestmark = pytest.mark.browser

CARDS = "article:visible"
# What is to fit on the machine of somebody who has 500 pictures.
MOST_BYTES = 60_000_000


def target(
    index: int, name: str, score: float | None, place: int = 0, *, is_probability: bool = True
) -> TargetExplanation:
    heatmap = np.zeros((2, 3))
    heatmap.flat[place] = 1
    return TargetExplanation(
        index, score=score, heatmap=heatmap, name=name, is_probability=is_probability
    )


def explained(*targets: TargetExplanation, size: tuple[int, int] = (120, 80)) -> Explanation:
    image = Image.linear_gradient("L").resize(size).convert("RGB")
    return Explanation("net", method="Grad-CAM", targets=list(targets), image=image, layer="out")


PETS = {
    "b10.png": explained(target(0, "cat", 0.9), target(1, "dog", 0.05, 5)),
    "b9.png": explained(target(1, "dog", 0.6, 4), target(0, "cat", 0.3)),
    "broken.png": Explanation("net", error="broken.png cannot be read"),
    "a.png": explained(target(2, "ant", 0.2, 2)),
    "none.png": explained(target(1, "dog", None)),
}


@pytest.fixture
def show(tmp_path: Path, open_page: Callable[..., Any]) -> Callable[..., Any]:
    def shown(expls: dict[str, Explanation], **options: Any) -> Any:
        path = tmp_path / "report.html"
        write_report(expls.values(), path, names=expls, title="Pets")
        return open_page(path, **options)

    return shown


def names(page: Any) -> list[str]:
    return page.locator(f"{CARDS} h2").all_text_contents()


def test_all_are_shown_in_the_order_given(show: Any) -> None:
    page = show(PETS)
    expect(page.get_by_role("status").filter(has_text="shown")).to_have_text("All 5 shown")
    assert names(page) == list(PETS)
    expect(page.locator("canvas")).to_have_count(4)
    expect(page.get_by_text("broken.png cannot be read")).to_be_visible()
    for image in page.locator(".ks-stage img").all():
        assert image.evaluate("(image) => image.decode().then(() => image.naturalWidth)") == 240


@pytest.mark.parametrize(
    ("order", "wanted"),
    [
        ("Name", ["a.png", "b9.png", "b10.png", "broken.png", "none.png"]),
        ("Class", ["a.png", "b10.png", "b9.png", "none.png", "broken.png"]),
        ("Highest score", ["b10.png", "b9.png", "a.png", "broken.png", "none.png"]),
        ("Lowest score", ["a.png", "b9.png", "b10.png", "broken.png", "none.png"]),
    ],
)
def test_it_is_sorted(show: Any, order: str, wanted: list[str]) -> None:
    page = show(PETS)
    page.get_by_label("Order").select_option(order)
    expect(page.locator(f"{CARDS} h2")).to_have_text(wanted)
    page.get_by_role("button", name="Reset").click()
    expect(page.locator(f"{CARDS} h2")).to_have_text(list(PETS))


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ("B9", ["b9.png"]),
        ("cat", ["b10.png", "b9.png"]),
        ("dog b", ["b10.png", "b9.png"]),
        ("cannot", ["broken.png"]),
        ("dog (1)", ["b10.png", "b9.png", "none.png"]),
    ],
)
def test_it_is_searched_by_name_class_and_error(show: Any, words: str, wanted: list[str]) -> None:
    page = show(PETS)
    page.get_by_label("Search").fill(words)
    expect(page.locator(f"{CARDS} h2")).to_have_text(wanted)
    expect(page.locator(".ks-count")).to_have_text(f"{len(wanted)} of 5 shown")


def test_a_class_shows_its_cards_its_heatmaps_and_its_scores(show: Any) -> None:
    page = show(PETS)
    classes = page.get_by_role("combobox", name="Class", exact=True)
    assert classes.locator("option").all_text_contents() == [
        "All",
        "ant (2) · 1",
        "cat (0) · 2",
        "dog (1) · 3",
    ]
    classes.select_option(label="dog (1) · 3")
    expect(page.locator(f"{CARDS} h2")).to_have_text(["b10.png", "b9.png", "none.png"])
    # The heatmap of the class, whichever place it has on the card.
    expect(page.locator(CARDS).first.get_by_label("dog")).to_be_checked()
    expect(page.locator(".ks-stage img").first).to_have_attribute(
        "alt", "Picture and heatmap for dog (1), score 5.0%, hottest at the lower right"
    )
    page.get_by_label("Order").select_option("Highest score")
    expect(page.locator(f"{CARDS} h2")).to_have_text(["b9.png", "b10.png", "none.png"])
    page.get_by_label("Least score, %").fill("5")
    expect(page.locator(f"{CARDS} h2")).to_have_text(["b9.png", "b10.png"])
    page.get_by_label("Greatest score, %").fill("50")
    expect(page.locator(f"{CARDS} h2")).to_have_text(["b10.png"])


def checked(page: Any) -> list[str]:
    """The classes that the cards show."""
    return page.locator("label:has(:checked) bdi").all_text_contents()


def test_cards_come_back_to_their_first_class(show: Any) -> None:
    page = show(PETS)
    first = ["cat", "dog"]
    assert checked(page) == first
    classes = page.get_by_role("combobox", name="Class", exact=True)
    classes.select_option(label="dog (1) · 3")
    expect(page.locator(".ks-count")).to_have_text("3 of 5 shown")
    assert checked(page) == ["dog", "dog"]
    classes.select_option(label="All")
    expect(page.locator(".ks-count")).to_have_text("All 5 shown")
    assert checked(page) == first

    classes.select_option(label="dog (1) · 3")
    page.locator("article").nth(1).get_by_label("cat").check()
    page.get_by_role("button", name="Reset").click()
    expect(page.locator(".ks-count")).to_have_text("All 5 shown")
    assert checked(page) == first
    expect(page.locator(".ks-stage img").first).to_have_attribute("alt", re.compile("for cat"))


def test_scores_that_are_no_probabilities_are_compared_as_they_are(show: Any) -> None:
    logits = [target(0, "cat", score, is_probability=False) for score in (12.5, -3.0)]
    page = show({f"{one.score}": explained(one) for one in logits})
    expect(page.locator(".ks-score").first).to_have_text("12.5")
    assert page.get_by_label("score, %").count() == 0
    page.get_by_label("Least score").fill("10")
    expect(page.locator(f"{CARDS} h2")).to_have_text(["12.5"])


def test_what_failed_can_be_shown_alone_or_left_out(show: Any) -> None:
    page = show(PETS)
    state = page.get_by_label("Show")
    assert state.locator("option").all_text_contents() == ["All", "Explained · 4", "Failed · 1"]
    state.select_option(label="Failed · 1")
    expect(page.locator(f"{CARDS} h2")).to_have_text(["broken.png"])
    state.select_option(label="Explained · 4")
    expect(page.locator(".ks-count")).to_have_text("4 of 5 shown")
    expect(page.get_by_text("broken.png cannot be read")).to_be_hidden()
    page = show({"a.png": PETS["a.png"]})
    expect(page.locator(".ks-count")).to_have_text("All 1 shown")
    expect(page.get_by_label("Show")).to_be_hidden()


# Large, by keyboard, and for those who do not see it


def test_each_card_is_one_stop_of_the_tab_key(show: Any) -> None:
    page = show(PETS)
    expect(page.locator("canvas")).to_have_count(4)
    page.get_by_role("button", name="Reset").focus()
    stops = []
    for _ in range(4):
        page.keyboard.press("Tab")
        stops.append(
            page.evaluate(
                "document.activeElement.closest('article').querySelector('h2').textContent"
            )
        )
        assert page.evaluate("document.activeElement.className") == "ks-stage"
    assert stops == ["b10.png", "b9.png", "a.png", "none.png"]


def test_pictures_are_enlarged_one_after_the_other_as_they_are_shown(show: Any) -> None:
    page = show(PETS)
    page.get_by_label("Order").select_option("Name")
    expect(page.locator(f"{CARDS} h2").first).to_have_text("a.png")
    stage = page.locator(f"{CARDS} .ks-stage").nth(1)
    width = stage.bounding_box()["width"]
    stage.press("Enter")
    dialog = page.get_by_role("dialog")
    expect(dialog).to_have_accessible_name("b9.png")
    assert dialog.locator(".ks-stage").bounding_box()["width"] > 1.5 * width
    # There the classes are stops too.
    page.keyboard.press("Tab")
    expect(dialog.get_by_label("dog")).to_be_focused()
    page.keyboard.press("ArrowDown")
    expect(dialog.get_by_label("cat")).to_be_checked()
    dialog.get_by_role("slider", name="Opacity").fill("20")
    page.keyboard.press("PageDown")
    expect(dialog).to_have_accessible_name("b10.png")
    expect(dialog.get_by_role("slider", name="Opacity")).to_have_value("20")
    dialog.get_by_role("button", name="Next").click()
    expect(dialog).to_have_accessible_name("none.png")
    expect(dialog.get_by_role("button", name="Next")).to_be_disabled()
    dialog.get_by_role("button", name="Previous").click()
    dialog.get_by_role("button", name="Previous").press("Enter")
    expect(dialog).to_have_accessible_name("b9.png")
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    expect(stage).to_be_focused()
    assert names(page) == ["a.png", "b9.png", "b10.png", "broken.png", "none.png"]
    assert checked(page) == ["cat", "cat"]
    expect(page.get_by_role("slider", name="Opacity")).to_have_value("20")
    assert stage.bounding_box()["width"] == width


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_stand_out_in_light_and_in_dark(show: Any, faint_words: Any, scheme: str) -> None:
    page = show(PETS, color_scheme=scheme)
    expect(page.locator("canvas")).to_have_count(4)
    assert faint_words(page.locator(".kerasight"), at_least=30) == []
    page.locator(".ks-stage").nth(1).press("Enter")
    assert faint_words(page.get_by_role("dialog"), at_least=8) == []


def test_everything_has_a_name_for_those_who_do_not_see_it(show: Any) -> None:
    page = show({**PETS, "no_target.png": replace(PETS["a.png"], targets=None)})
    expect(page.locator("canvas")).to_have_count(4)
    unnamed = page.locator(":is(input, select, button, output, img, dialog, [role])").evaluate_all(
        """(nodes) => nodes.filter((node) => node.checkVisibility() && !(
             node.getAttribute('aria-label') || node.alt || node.labels?.[0]?.textContent.trim()
             || node.textContent.trim() || node.matches('[role=search]')))
           .map((node) => node.outerHTML)"""
    )
    assert unnamed == []
    headings = page.locator("h1, h2").evaluate_all("(nodes) => nodes.map((node) => node.tagName)")
    assert headings == ["H1"] + ["H2"] * 6


@pytest.mark.parametrize("width", [320, 390, 1200])
def test_names_are_not_broken_within_a_word(show: Any, width: int) -> None:
    classes = ("window_screen", "remote_control", "Chesapeake_Bay_retriever", "lynx")
    targets = [target(900 + place, name, 0.25) for place, name in enumerate(classes)]
    cards = {"photos/holiday_2024/IMG_1001.jpeg": explained(*targets), "b.png": explained(*targets)}
    page = show(cards, viewport={"width": width, "height": 800})
    broken = page.locator("h2 bdi, .ks-class bdi").evaluate_all(
        """(nodes) => nodes.flatMap((node) => [...node.childNodes])
           .filter((node) => node.nodeType === 3)
           .filter((node) => {
             const range = document.createRange();
             range.selectNode(node);
             return range.getClientRects().length > 1;
           }).map((node) => node.data)"""
    )
    assert broken == []


def test_nothing_found_is_said(show: Any) -> None:
    page = show(PETS)
    page.get_by_label("Search").fill("zebra")
    expect(page.locator(".ks-count")).to_have_text("0 of 5 shown")
    expect(page.get_by_text("Nothing matches.")).to_be_visible()


def test_a_card_has_what_a_page_has(show: Any) -> None:
    page = show(PETS)
    card = page.locator("article").first
    reading = card.locator(".ks-reading")
    expect(reading).to_have_text("Hottest at the upper left")
    card.get_by_label("dog").check()
    expect(reading).to_have_text("Hottest at the lower right")
    box = card.locator(".ks-stage").bounding_box()
    page.mouse.move(box["x"] + 0.9 * box["width"], box["y"] + 0.9 * box["height"])
    expect(reading).to_have_text("1.00 in row 2, column 3 of 2 \u00d7 3")
    card.locator(".ks-stage").focus()
    page.keyboard.press("ArrowUp")
    expect(reading).to_contain_text("row 1, column 3")


def test_one_slider_is_for_all(show: Any) -> None:
    page = show(PETS)
    expect(page.locator("canvas")).to_have_count(4)
    most = """(canvas) => {
      const copy = new OffscreenCanvas(canvas.width, canvas.height);
      const context = copy.getContext('2d', { willReadFrequently: true });
      context.drawImage(canvas, 0, 0);
      return context.getImageData(0, 0, copy.width, copy.height).data
        .filter((_, i) => i % 4 === 3).reduce((a, b) => Math.max(a, b), 0);
    }"""
    slider = page.get_by_role("slider", name="Opacity")
    for percent in (65, 20):
        slider.fill(str(percent))
        opacities = {canvas.evaluate(most) for canvas in page.locator("canvas").all()}
        assert opacities == {round(2.55 * percent)}


def test_pictures_come_and_go_with_the_view(show: Any) -> None:
    many = {f"{number}.png": explained(target(0, "cat", 0.5)) for number in range(80)}
    page = show(many)
    canvases = page.locator("canvas")
    expect(page.locator(".ks-count")).to_have_text("All 80 shown")
    canvases.first.wait_for()
    assert canvases.count() < 60
    first = page.locator("article").first
    expect(first.locator("canvas")).to_have_count(1)
    last = page.locator("article").last
    expect(last.locator("canvas")).to_have_count(0)
    height = first.bounding_box()["height"]
    last.scroll_into_view_if_needed()
    expect(last.locator("canvas")).to_have_count(1)
    expect(first.locator("canvas")).to_have_count(0)
    # An empty place keeps the size of its picture.
    assert first.bounding_box()["height"] == pytest.approx(height, abs=1)


def test_without_scripts_all_are_plain_figures(show: Any) -> None:
    page = show(PETS, java_script_enabled=False)
    assert names(page) == list(PETS)
    images = page.locator("article img")
    expect(images).to_have_count(4)
    for image in images.all():
        image.scroll_into_view_if_needed()
        assert image.bounding_box()["width"] > 100
    expect(page.locator(".ks-tools")).to_be_hidden()
    assert page.get_by_role("radio").count() == 0
    expect(page.locator("article").first).to_contain_text("dog")


def test_names_from_outside_run_nothing_and_read_as_they_are(show: Any) -> None:
    page = show({EVIL: explained(target(0, EVIL, 0.5)), "b": Explanation(EVIL, error=EVIL)})
    assert names(page) == [EVIL, "b"]
    expect(page.locator("canvas")).to_have_count(1)
    label = f"{EVIL} (0) · 1"
    page.get_by_role("combobox", name="Class", exact=True).select_option(label=label)
    expect(page.locator(f"{CARDS} h2")).to_have_text([EVIL])
    assert page.locator("[onerror]").count() == 0


@pytest.mark.parametrize("width", [320, 360, 800, 1400])
def test_nothing_sticks_out_at_any_width(show: Any, width: int) -> None:
    wide = {"a_long_name_without_a_space_" * 5: explained(target(0, "long_" * 20, 0.5)), **PETS}
    page = show(wide, viewport={"width": width, "height": 800})
    page.locator("canvas").first.wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= width


# 500 explanations


def photographs(number: int) -> Iterator[Explanation]:
    """Explanations of two classes each, of pictures of the sizes that photographs have.

    They are clouds of blurred noise at several scales, which a JPEG finds as hard as a photograph:
    at these sizes and this quality, some 30 kB.
    """
    random = np.random.default_rng(0)
    clouds = []
    for _ in range(12):
        total = np.zeros((768, 1024, 3))
        for scale in (2, 8, 32, 128):
            size = (max(2, 1024 // scale), max(2, 768 // scale))
            noise = random.integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
            part = Image.fromarray(noise).resize((1024, 768), Image.Resampling.BICUBIC)
            total += np.asarray(part, dtype=float) * (0.1 if scale == 2 else 0.3)
        image = Image.fromarray(total.clip(0, 255).astype(np.uint8))
        clouds.append(image.filter(ImageFilter.UnsharpMask()))
    for place in range(number):
        side = (224, 299, 512, 1024)[place % 4]
        image = clouds[place % 12].resize((side, side * 3 // 4)).rotate(place % 7)
        targets = []
        for score in (0.8 - 0.001 * place, 0.1):
            index = int(random.integers(0, 1000))
            heatmap = random.random((14, 14)) ** 3
            targets.append(TargetExplanation(index, score=score, heatmap=heatmap, name=f"c{index}"))
        yield Explanation("net", method="Grad-CAM", targets=targets, image=image, layer="out")


def test_500_explanations_open_at_once(tmp_path: Path, open_page: Callable[..., Any]) -> None:
    path = tmp_path / "report.html"
    assert write_report(photographs(500), path) == 500
    assert 15_000_000 < path.stat().st_size < MOST_BYTES
    started = time.perf_counter()
    page = open_page(path)
    page.locator(".ks-stage canvas").first.wait_for()
    print(f"{path.stat().st_size / 1e6:.1f} MB, first after {time.perf_counter() - started:.2f} s")
    expect(page.locator(".ks-count")).to_have_text("All 500 shown")


def test_few_of_many_pictures_are_held(tmp_path: Path) -> None:
    # The text is written away as it comes: what is left of an explanation is nothing.
    class Counting(io.StringIO):
        longest = 0

        def write(self, text: str) -> int:
            self.longest = max(self.longest, len(text))
            return len(text)

    out = Counting()
    write_report(photographs(8), out)
    assert out.longest < 200_000


# A picture for the documentation


def test_the_drawn_pictures(open_page: Any, take: Any, tmp_path: Path) -> None:
    import kerasight
    from kerasight.demo import CLASS_NAMES, draw_pair, load_model, preprocess

    pictures = [draw_pair(seed, size=256).image for seed in range(8)]
    expls = kerasight.explain_predictions(
        load_model(),
        [preprocess(picture)[0] for picture in pictures],
        images=pictures,
        top_targets=2,
        target_names=CLASS_NAMES,
    )
    path = tmp_path / "report.html"
    write_report(
        expls,
        path,
        names=[f"toys/{seed:02}.png" for seed in range(8)],
        facts={"Model": "the demo model", "Date": "2026-11-21 10:00+00:00"},
    )
    page = open_page(path, viewport={"width": 1120, "height": 730})
    expect(page.locator(".ks-count")).to_have_text("All 8 shown")
    page.get_by_label("Order").select_option("Highest score")
    for image in page.locator(".ks-stage img").all():
        assert image.evaluate("(image) => image.decode().then(() => image.naturalWidth)") == 256
    page.mouse.move(1, 1)
    take(page, "report")
    page.locator(f"{CARDS} .ks-stage").first.click()
    expect(page.get_by_role("dialog")).to_be_visible()
    page.mouse.move(1, 1)
    take(page, "report-large")
