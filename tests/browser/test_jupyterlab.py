"""A real JupyterLab: the notebook is opened, its cells are run, and the overlays are seen."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import nbformat
import numpy as np
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output
from PIL import Image
from playwright.sync_api import expect

from kerasight.base import Explanation, TargetExplanation
from kerasight.formatters.html import format_as_html

pytestmark = pytest.mark.browser

# Loading the model and its first prediction, on a machine with other things to do.
RUNNING = 300_000

CELLS = [
    """\
import kerasight
from kerasight.demo import CLASS_NAMES, load_model, load_picture, preprocess

model = load_model()
picture = load_picture()
doc = preprocess(picture)
names = {"target_names": CLASS_NAMES, "image": picture}""",
    "kerasight.show_prediction(model, doc, **names)",
    """\
for target in (3, 6):
    display(kerasight.show_prediction(model, doc, targets=[target], **names))""",
    "kerasight.explain_prediction(model, doc, top_targets=3, **names)",
    """\
for top in (1, 2):
    display(kerasight.explain_prediction(model, doc, top_targets=top, **names))""",
]
KERNEL = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}

WIDTH = """(image) => image.decode().then(() => image.naturalWidth)"""


@pytest.fixture(scope="module")
def window(chromium: Any) -> Iterator[Any]:
    """A window, for addresses of this machine alone."""
    context = chromium.new_context(
        viewport={"width": 1080, "height": 960}, device_scale_factor=1.5, color_scheme="light"
    )
    context.set_default_timeout(60_000)
    page = context.new_page()
    abroad: list[str] = []
    errors: list[str] = []

    def requested(request: Any) -> None:
        if not request.url.startswith(("data:", "blob:", "http://127.0.0.1:", "ws://127.0.0.1:")):
            abroad.append(request.url)

    page.on("request", requested)
    page.on("pageerror", lambda error: errors.append(str(error)))
    yield page
    context.close()
    assert not abroad
    assert not [error for error in errors if "ks-" in error or "kerasight" in error]


def open_notebook(page: Any, address: str) -> None:
    page.goto(address)
    page.locator(".jp-Notebook .jp-CodeCell").first.wait_for()
    page.get_by_role("menuitem", name="Run", exact=True).wait_for()


def saved(cells: list[Any]) -> str:
    return nbformat.writes(new_notebook(cells=cells, metadata=KERNEL))


def run_all(page: Any) -> None:
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()


@pytest.fixture(scope="module")
def outputs(window: Any, jupyterlab: Callable[[str, str], str]) -> Any:
    """The output areas of the cells, after all of them have run."""
    open_notebook(
        window, jupyterlab("overlays.ipynb", saved([new_code_cell(cell) for cell in CELLS]))
    )
    expect(window.locator("#jp-main-statusbar")).to_contain_text("| Idle", timeout=RUNNING)
    prompt = window.locator(".jp-CodeCell .jp-InputPrompt").nth(len(CELLS) - 1)
    for _ in range(5):
        # A kernel that has only just come may miss it.
        run_all(window)
        with suppress(AssertionError):
            expect(prompt).not_to_have_text("[ ]:", timeout=10_000)
            break
    expect(prompt).to_have_text(re.compile(r"^\[\d+\]:$"), timeout=RUNNING)
    return window.locator(".jp-CodeCell .jp-Cell-outputArea")


def cell_outputs(outputs: Any, number: int) -> Any:
    area = outputs.nth(number)
    area.scroll_into_view_if_needed()
    return area


def take_cell(page: Any, take: Any, number: int, name: str) -> None:
    """JupyterLab from its menu to the end of a cell, with the cell as far up as it goes."""
    cell = page.locator(".jp-CodeCell").nth(number)
    cell.evaluate("(node) => node.scrollIntoView({ block: 'start' })")
    page.mouse.move(1, 1)
    expect(page.locator(".lm-Menu")).to_have_count(0)
    box = cell.bounding_box()
    height = min(960, box["y"] + box["height"] - 2)
    take(page, name, clip={"x": 0, "y": 0, "width": 1080, "height": height})


def test_show_prediction_as_the_last_line_shows_the_overlay(
    window: Any, outputs: Any, take: Any
) -> None:
    area = cell_outputs(outputs, 1)
    image = area.locator("img")
    expect(image).to_have_count(1)
    assert image.evaluate(WIDTH) == 384
    assert image.bounding_box()["width"] > 200
    take_cell(window, take, 1, "jupyterlab-show-prediction")


def test_display_in_a_loop_shows_each_overlay(outputs: Any) -> None:
    images = cell_outputs(outputs, 2).locator("img")
    expect(images).to_have_count(2)
    assert [image.evaluate(WIDTH) for image in images.all()] == [384, 384]
    assert len({image.get_attribute("src") for image in images.all()}) == 2


def opacity_of(area: Any, place: int = 0) -> int:
    """The greatest opacity of a heatmap, of 255."""
    values = """(canvas) => canvas.getContext('2d')
        .getImageData(0, 0, canvas.width, canvas.height).data.filter((_, i) => i % 4 === 3)
        .reduce((most, value) => Math.max(most, value), 0)"""
    return int(area.locator("canvas").nth(place).evaluate(values))


def test_a_bare_explanation_shows_itself_with_its_controls(
    window: Any, outputs: Any, take: Any
) -> None:
    area = cell_outputs(outputs, 3)
    image = area.locator(".ks-stage img")
    expect(image).to_be_visible()
    assert image.evaluate(WIDTH) == 384
    assert image.bounding_box()["width"] > 200
    assert opacity_of(area) == round(0.65 * 255)
    take_cell(window, take, 3, "jupyterlab-explanation")

    area.get_by_role("slider", name="Opacity").fill("20")
    assert opacity_of(area) == round(0.2 * 255)
    alt = image.get_attribute("alt")
    area.get_by_label("house").check()
    assert image.get_attribute("alt") != alt
    box = area.locator(".ks-stage").bounding_box()
    window.mouse.move(box["x"] + box["width"] / 3, box["y"] + box["height"] / 2)
    expect(area.locator(".ks-reading")).to_contain_text("of 12 \u00d7 12")


def test_the_keys_are_its_own_and_do_not_move_the_notebook(window: Any, outputs: Any) -> None:
    area = cell_outputs(outputs, 3)
    active = window.locator(".jp-Cell.jp-mod-active")
    area.locator(".ks-stage").focus()
    before = (
        active.get_attribute("data-windowed-list-index"),
        window.locator(".jp-CodeCell").count(),
    )
    # In a notebook these go to another cell, and make, cut and change cells.
    for key in ("Home", "ArrowUp", "ArrowUp", "ArrowDown", "x", "a", "m", "j"):
        window.keyboard.press(key)
    expect(area.locator(".ks-reading")).to_contain_text("in row")
    expect(area.locator(".ks-stage")).to_be_focused()
    radio = area.get_by_label("duck")
    radio.check()
    window.keyboard.press("ArrowUp")
    expect(area.get_by_label("house")).to_be_checked()
    window.keyboard.press("x")
    slider = area.get_by_role("slider", name="Opacity")
    slider.focus()
    value = int(slider.input_value())
    window.keyboard.press("ArrowUp")
    expect(slider).to_have_value(str(value + 1))
    window.keyboard.press("x")
    area.get_by_text("Method").focus()
    window.keyboard.press("Enter")
    expect(area.locator("details")).to_have_attribute("open", "")
    after = active.get_attribute("data-windowed-list-index"), window.locator(".jp-CodeCell").count()
    assert after == before


def test_it_is_enlarged_over_the_notebook(window: Any, outputs: Any) -> None:
    area = cell_outputs(outputs, 3)
    stage = area.locator(".ks-stage")
    width = stage.bounding_box()["width"]
    stage.click()
    dialog = window.get_by_role("dialog").filter(has=window.locator("canvas"))
    expect(dialog).to_be_visible()
    assert dialog.locator(".ks-stage").bounding_box()["width"] > 1.3 * width
    cells = window.locator(".jp-CodeCell").count()
    for key in ("x", "a", "ArrowUp"):
        window.keyboard.press(key)
    window.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    expect(stage).to_be_focused()
    assert window.locator(".jp-CodeCell").count() == cells


def test_explanations_in_a_loop_are_apart_from_each_other(outputs: Any) -> None:
    area = cell_outputs(outputs, 4)
    expect(area.locator("canvas")).to_have_count(2)
    area.get_by_role("slider", name="Opacity").nth(1).fill("5")
    assert opacity_of(area, 0) == round(0.65 * 255)
    assert opacity_of(area, 1) == round(0.05 * 255)


def test_the_theme_is_that_of_jupyterlab(window: Any, outputs: Any, take: Any) -> None:
    cell = cell_outputs(outputs, 3)
    ground = "(node) => getComputedStyle(node).backgroundColor"
    card = cell.locator(".kerasight")
    assert card.evaluate(ground) == "rgb(255, 255, 255)"
    window.get_by_role("menuitem", name="Settings", exact=True).click()
    labels = window.locator(".lm-Menu-itemLabel")
    labels.get_by_text("Theme", exact=True).hover()
    labels.get_by_text("JupyterLab Dark", exact=True).click()
    expect(window.locator("body")).to_have_attribute("data-jp-theme-light", "false")
    expect(card).to_have_css("background-color", "rgb(22, 24, 27)")
    if cell.locator("details").get_attribute("open") is not None:
        cell.get_by_text("Method").click()
    cell.get_by_role("slider", name="Opacity").fill("65")
    take_cell(window, take, 3, "jupyterlab-dark")


def test_a_notebook_that_is_not_trusted_shows_the_overlays(
    window: Any, jupyterlab: Callable[[str, str], str]
) -> None:
    targets = [
        TargetExplanation(3, score=0.9, heatmap=np.eye(3), name="house"),
        TargetExplanation(6, score=0.1, heatmap=np.eye(3)[::-1].copy(), name="rocket"),
    ]
    image = Image.new("RGB", (300, 200), "grey")
    expl = Explanation("net", method="Grad-CAM", targets=targets, image=image)
    # Run and saved by somebody else, whose signature is not on this machine.
    cell = new_code_cell("expl", execution_count=1)
    cell.outputs = [
        new_output(
            "execute_result",
            {"text/html": format_as_html(expl), "text/plain": "Explanation"},
            execution_count=1,
        )
    ]
    open_notebook(window, jupyterlab("from_elsewhere.ipynb", saved([cell])))
    area = window.locator(".jp-Cell-outputArea").first
    overlays = area.locator("figure img")
    expect(overlays).to_have_count(2)
    for overlay, caption in zip(overlays.all(), ("house (3)", "rocket (6)"), strict=True):
        expect(overlay).to_be_visible()
        assert overlay.evaluate(WIDTH) == 300
        assert caption in overlay.get_attribute("alt")
        expect(area.get_by_text(f"{caption}, score")).to_be_visible()
    assert area.locator("script, canvas").count() == 0
    # What would do nothing is not there.
    assert area.locator("input, select, button").count() == 0
