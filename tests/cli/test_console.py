"""What the user reads."""

from __future__ import annotations

import io
import sys
from typing import Any

import pytest

from kerasight.cli import console


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("message", "line"),
    [
        ("", "RuntimeError"),
        ("one\n  two\n\nthree", "one two"),
        ("Exception encountered when calling X.\n\n\x1b[1mwhy\x1b[0m\n\nArguments", "why"),
        ("long " * 200, "long " * 98 + "long ..."),
        (
            "Exception encountered when calling C.call().\n\n\x1b[1m{{function_node __wrapped__Resh"
            "ape_device_/job:local/device:CPU:0}} too few values [Op:Reshape]\x1b[0m\n\nArguments",
            "too few values",
        ),
        ("too few values [Op:Reshape] name: ", "too few values"),
        (
            "Graph execution error:\n\nDetected at node a/b defined at (most recent call last):\n"
            '  File "a.py", line 5, in call\n\n  File "b.py", line 7, in call\n\ntoo few values\n'
            "\t [[{{node a/b}}]] [Op:__inference_f_58]",
            "too few values",
        ),
        ("\x1b[2J", "RuntimeError"),
    ],
)
def test_a_reason_is_one_line(message: str, line: str) -> None:
    assert console.reason(RuntimeError(message)) == line


def test_a_text_of_the_library_names_options() -> None:
    text = "logits=True, relu=False shows what speaks against it, counterfactual=True what for it"
    assert console.as_options(text) == (
        "--logits, --signed shows what speaks against it, --counterfactual what for it"
    )
    assert console.as_options("pass layer= if there is one") == "pass --layer if there is one"
    assert console.as_options("pass layer='a/b', or") == "pass --layer a/b, or"


def on_terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    # A width, where there is no real terminal to ask.
    monkeypatch.setattr("tqdm.std._screen_shape_wrapper", lambda: lambda _: (100, 40))
    return stream


class TestProgress:
    def test_is_shown_on_a_terminal_only(self, monkeypatch: pytest.MonkeyPatch) -> None:
        stream = io.StringIO()
        monkeypatch.setattr(sys, "stderr", stream)
        with console.progress(3) as bar:
            console.describe(bar, "cat.png")
            bar.update()
        assert stream.getvalue() == ""

    def test_shows_the_end_of_a_long_name_and_the_step(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        terminal = on_terminal(monkeypatch)
        with console.progress(2, in_steps=True) as bar:
            bar.update(0.5)
            console.describe(bar, "a\nlong " * 9 + "name.png", "road")
        shown = terminal.getvalue().split("\r")
        assert any(
            r"…" in part and r"a\nlong name.png, road  25%|" in part and len(part) <= 100
            for part in shown
        ), shown

    def test_of_one_picture_is_its_name(self, monkeypatch: pytest.MonkeyPatch) -> None:
        terminal = on_terminal(monkeypatch)
        with console.progress(1) as bar:
            console.describe(bar, "cat.png")
        assert "cat.png" in terminal.getvalue()
        assert "%" not in terminal.getvalue()

    def test_is_put_aside_for_a_line(self, monkeypatch: pytest.MonkeyPatch) -> None:
        terminal = on_terminal(monkeypatch)
        with console.progress(3) as bar:
            console.describe(bar, "cat.png")
            console.say("Error", "red", "what went wrong")
            after: Any = terminal.getvalue()
            bar.update()
        before, message, _ = after.partition("what went wrong")
        assert message
        line = before.rpartition("\n")[2].rpartition("\r")[2]
        assert "cat.png" not in line
        assert "Error: " in line
