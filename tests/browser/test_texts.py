"""Texts on a page and in a report: legible, and with nothing that is only for pictures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import expect
from tiny_pictures import noise
from tiny_texts import SIGNED, TEXT, target_of_text, text

from kerasight.base import Explanation, TargetExplanation
from kerasight.formatters.html import format_as_html, write_report

pytestmark = pytest.mark.browser


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_are_legible_on_their_tints(
    scheme: str, tmp_path: Path, open_page: Callable[..., Any], faint_words: Callable[..., Any]
) -> None:
    path = tmp_path / "text.html"
    both = text(target_of_text(), target_of_text(-SIGNED, name="negative"))
    path.write_text(format_as_html(both, page=True), encoding="utf-8")
    page = open_page(path, color_scheme=scheme)
    for summary in page.get_by_text("Words by weight").all():
        summary.click()
    expect(page.get_by_role("cell", name="bad")).to_have_count(2)
    assert not faint_words(page.locator(".kerasight"), 40)
    assert page.locator(".ks-words").first.inner_text() == TEXT
    expect(page.get_by_title("good: +1.00")).to_be_visible()


@pytest.mark.parametrize("width", [360, 1000])
def test_long_words_and_lines_stay_on_the_page(
    width: int, tmp_path: Path, open_page: Callable[..., Any]
) -> None:
    path = tmp_path / "text.html"
    target = target_of_text()
    (doc,) = target.weighted_spans.docs_weighted_spans
    doc.document = doc.document + " long" * 200 + "o" * 300
    path.write_text(format_as_html(text(target), page=True), encoding="utf-8")
    page = open_page(path, viewport={"width": width, "height": 700})
    assert page.evaluate("document.documentElement.scrollWidth") == width


def test_a_report_of_texts_has_no_tools_for_pictures(
    tmp_path: Path, open_page: Callable[..., Any]
) -> None:
    path = tmp_path / "report.html"
    write_report([text(), text(target_of_text(name="other"))], path, names=["one", "two"])
    page = open_page(path)
    expect(page.get_by_text("All 2 shown")).to_be_visible()
    expect(page.get_by_role("slider", name="Opacity")).to_be_hidden()
    expect(page.get_by_text("Point at a picture")).to_have_count(0)
    page.get_by_label("Search").fill("other")
    expect(page.get_by_text("1 of 2 shown")).to_be_visible()
    expect(page.locator(".ks-words:visible")).to_have_count(1)


def test_texts_and_pictures_may_be_in_one_report(
    tmp_path: Path, open_page: Callable[..., Any]
) -> None:
    path = tmp_path / "report.html"
    target = TargetExplanation(0, score=0.5, heatmap=np.eye(2), signed=True)
    picture = Explanation("net", image=noise(), targets=[target], error="")
    write_report([text(), picture], path)
    page = open_page(path)
    expect(page.locator("canvas")).to_have_count(1)
    expect(page.get_by_role("slider", name="Opacity")).to_be_visible()
    hint = page.get_by_text("Point at a picture")
    expect(hint).to_be_visible()
    assert hint.locator("..").locator("img").count() == 1
