from __future__ import annotations

import pytest

from kerasight.escapes import escaped, printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\nb\tc\r", r"a\nb\tc\r"),
        ("\x1b[2J\x1b]0;title\x07", r"\x1b[2J\x1b]0;title\x07"),
        ("\x00\x7f\x85\x9b31m", r"\x00\x7f\x85\x9b31m"),
        ("gnp.\u202eexe", r"gnp.\u202eexe"),
        ("\u061c\u200e\u200f\u2066\u2069", r"\u061c\u200e\u200f\u2066\u2069"),
        ("\u2028\u2029", r"\u2028\u2029"),
        ("\udcff", r"\udcff"),
    ],
)
def test_what_a_terminal_would_obey_is_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert printable(shown) == shown
    printable(text).encode("utf-8")


@pytest.mark.parametrize(
    "text", ["", "a b\u00a0c", "größe · 3", "猫", "عربي", "👩\u200d🔬", "می\u200cروم"]
)
def test_what_people_write_stays(text: str) -> None:
    assert printable(text) == text


def test_characters_may_be_kept() -> None:
    assert printable("a\nb\x1b", keep="\n") == "a\nb\\x1b"


def test_a_page_obeys_nothing_and_can_be_written() -> None:
    assert escaped('<a href="\'">&') == "&lt;a href=&quot;&#x27;&quot;&gt;&amp;"
    assert escaped("\udcff") == "?"
    assert escaped(3) == "3"
