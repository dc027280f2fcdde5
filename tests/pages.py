"""HTML, read as a browser does, for tests of formatters."""

from __future__ import annotations

import io
from html.parser import HTMLParser
from typing import Any

from kerasight.formatters.html import write_report

VOID = {"br", "img", "input", "link", "meta", "wbr"}


class Reader(HTMLParser):
    """Elements with their attributes, and the text in each; raises if they do not nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.inside: list[tuple[str, list[str]]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(text)
        self.close()
        assert not self.inside, self.inside

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.inside.append((tag, []))

    def handle_endtag(self, tag: str) -> None:
        opened, parts = self.inside.pop()
        assert opened == tag
        self.texts.append((tag, "".join(parts)))

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.inside[-1][1].append(data)

    def all(self, tag: str, name: str = "") -> list[dict[str, str]]:
        """The attributes of all elements of a kind, and of a class."""
        return [
            attributes
            for found, attributes in self.elements
            if found == tag and (not name or name in attributes.get("class", "").split())
        ]

    def text(self, tag: str) -> str:
        return "\n".join(text for found, text in self.texts if found == tag)

    def visible(self) -> str:
        return " ".join(text for tag, text in self.texts if tag not in {"script", "style"})


def report(expls: Any, **kwargs: Any) -> str:
    out = io.StringIO()
    write_report(expls, out, **kwargs)
    return out.getvalue()


def skeleton(text: str) -> list[tuple[str, list[str]]]:
    """Elements and the names of their attributes: all that outside words may not change."""
    return [
        (tag, sorted(attributes))
        for tag, attributes in Reader(text).elements
        if tag not in {"wbr", "code"}  # where a line may end, and names of the code
    ]
