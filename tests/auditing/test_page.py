"""The page of an audit."""

from __future__ import annotations

from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from auditing.made import make_audit, maps

from kerasight.auditing import Audit, page


@pytest.fixture
def audit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Audit:
    monkeypatch.chdir(tmp_path)
    return make_audit()


class Elements(HTMLParser):
    """The elements of a page, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, Any]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in ("img", "meta", "link", "wbr"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text += data

    def of(self, tag: str) -> list[dict[str, Any]]:
        return [attributes for name, attributes in self.found if name == tag]


def test_a_file_says_all_and_fetches_nothing(audit: Audit) -> None:
    audit.write_html("audit.html")
    text = Path("audit.html").read_text(encoding="utf-8")
    found = Elements(text)
    assert found.open == []
    assert "script" not in {tag for tag, _ in found.found}
    assert all(image["src"].startswith("data:image/") for image in found.of("img"))
    assert "http" not in text.replace("http-equiv", "")
    for said in (
        "3 of 1,234 pictures <b>have</b> it.",
        "duck & co",
        "net.keras",
        "2,500 explained, 3 failed, 2 without heat, left out",
        "at most 2e-07".replace("e-07", "e-7"),
        "25.0%",
        "20.0% to 30.0%",
        "49.0%",
        "56 pictures",
        "88% in the place, score 0.75",
        "duck/a<b>\\n\\u202e.png",
    ):
        assert said in found.text, said
    assert "\u202e" not in text
    audit.write_html("again.html")
    assert Path("again.html").read_text(encoding="utf-8") == text


def test_a_picture_that_is_gone_or_has_changed_is_told(audit: Audit) -> None:
    found = Elements(page.as_html(audit))
    assert found.text.count("not there any more, or changed") == 2
    shown = [one for one in found.of("img") if "hottest at the lower right" in one.get("alt", "")]
    # The map of the finding, its first picture, and the house twice, as typical and as unlike.
    assert len([one for one in shown if one["src"].startswith("data:image/jpeg")]) == 4
    assert any("with the place outlined" in one["alt"] for one in found.of("img"))


def test_classes_with_findings_come_first(audit: Audit) -> None:
    text = Elements(page.as_html(audit)).text
    classes = text.partition("Classes")[2]
    assert classes.index("duck & co") < classes.index("house")


def test_without_findings_it_says_so(audit: Audit) -> None:
    text = Elements(page.as_html(replace(audit, findings=()))).text
    assert "None. No cluster of heatmaps" in text
    many = tuple(maps(number, f"class {number}") for number in range(60))
    text = Elements(page.as_html(replace(audit, findings=(), classes=many))).text
    assert "The first 50 of 60" in text
    assert "class 49" in text
    assert "class 50" not in text
