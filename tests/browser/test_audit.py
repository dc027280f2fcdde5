"""The page of an audit, in a browser."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from auditing.made import make_audit
from playwright.sync_api import expect

pytestmark = pytest.mark.browser


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    make_audit().write_html("audit.html")
    return tmp_path / "audit.html"


def test_a_picture_is_without_its_heat_under_the_pointer_and_with_the_focus(
    path: Path, open_page: Callable[..., Any]
) -> None:
    page = open_page(path)
    shown = page.locator(".ks-finding .ks-shown").first
    heat = shown.locator("img").nth(1)
    expect(heat).to_be_visible()
    assert heat.bounding_box() == shown.locator("img").first.bounding_box()
    shown.hover()
    expect(heat).to_be_hidden()
    page.mouse.move(1, 1)
    expect(heat).to_be_visible()
    shown.focus()
    expect(heat).to_be_hidden()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1000])
def test_it_fits_into_the_window_and_unfolds_its_names(
    path: Path, open_page: Callable[..., Any], scheme: str, width: int
) -> None:
    page = open_page(path, viewport={"width": width, "height": 700}, color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    names = page.locator(".ks-finding pre")
    expect(names).to_be_hidden()
    page.get_by_text("All 3 pictures, by name").click()
    expect(names).to_contain_text("gone.png")
