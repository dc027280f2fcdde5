"""Tables in the width that there is."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from kerasight.cli.tables import OverlayRow, print_numbers, print_overlays

CAT = OverlayRow("pictures/cat.png", "tabby cat (281)", "61.2%", "block/out", "over/cat-tabby.png")
DOG = OverlayRow("pictures/dog.png", "boxer (242)", "6.1%", "block/out", "over/dog-boxer.png")


def lines_of(width: int, *rows: OverlayRow) -> list[str]:
    console = Console(width=width, force_terminal=True, record=True, file=io.StringIO())
    print_overlays(console, rows)
    return [line.rstrip() for line in console.export_text().splitlines()]


class TestOverlays:
    def test_stand_in_a_table_where_there_is_room(self) -> None:
        lines = lines_of(75, CAT, DOG)
        assert [re.split(r" {2,}", line) for line in (lines[0], *lines[2:])] == [
            ["Image", "Class", "Score", "Layer", "Overlay"],
            [*CAT],
            [*DOG],
        ]
        assert max(map(len, lines)) == 75
        columns = [line.index(row.overlay) for line, row in zip(lines[2:], (CAT, DOG), strict=True)]
        assert columns == [lines[0].index("Overlay")] * 2

    @pytest.mark.parametrize("width", [74, 63])
    def test_leave_out_the_layer_that_they_share(self, width: int) -> None:
        lines = lines_of(width, CAT, DOG)
        assert re.split(r" {2,}", lines[0]) == ["Image", "Class", "Score", "Overlay"]
        assert lines[2].endswith(f"61.2%   {CAT.overlay}")
        assert lines[-2:] == ["", "Layer: block/out"]

    @pytest.mark.parametrize("width", [62, 40, 10])
    def test_stand_below_each_other_and_whole_where_there_is_none(self, width: int) -> None:
        more = DOG._replace(label="pug (254)", score="0.5%", overlay="over/dog-pug.png")
        assert lines_of(width, CAT, DOG, more) == [
            "pictures/cat.png",
            "  61.2%  tabby cat (281)",
            "  over/cat-tabby.png",
            "pictures/dog.png",
            "   6.1%  boxer (242)",
            "  over/dog-boxer.png",
            "   0.5%  pug (254)",
            "  over/dog-pug.png",
            "",
            "Layer: block/out",
        ]

    @pytest.mark.parametrize("width", [75, 10])
    def test_that_were_not_written_have_no_column(self, width: int) -> None:
        lines = lines_of(width, *(row._replace(overlay="") for row in (CAT, DOG)))
        if width == 75:
            assert lines[0].split() == ["Image", "Class", "Score", "Layer"]
            assert re.split(r" {2,}", lines[2]) == [*CAT[:4]]
        else:
            assert lines == [
                "pictures/cat.png",
                "  61.2%  tabby cat (281)",
                "pictures/dog.png",
                "   6.1%  boxer (242)",
                "",
                "Layer: block/out",
            ]

    def test_that_are_too_many_are_counted(self) -> None:
        console = Console(width=75, record=True, file=io.StringIO())
        print_overlays(console, [CAT], 12_345)
        assert console.export_text().splitlines()[-1] == "... and 12,345 more"

    def test_keep_layers_that_differ(self) -> None:
        assert lines_of(74, CAT, DOG._replace(layer="stem")) == [
            "pictures/cat.png",
            "  61.2%  tabby cat (281)  block/out",
            "  over/cat-tabby.png",
            "pictures/dog.png",
            "   6.1%  boxer (242)  stem",
            "  over/dog-boxer.png",
        ]

    def test_have_room_by_what_a_terminal_shows(self) -> None:
        wide = CAT._replace(image="\u732b\u732b.png")  # two columns each
        assert lines_of(67, wide)[0].startswith("Image ")
        assert "Layer: block/out" in lines_of(66, wide)

    def test_spell_out_what_a_terminal_obeys(self) -> None:
        shown = "\n".join(lines_of(200, CAT._replace(image="a\u202eb\x1b[2J", label="\x9bc\nd")))
        assert r"a\u202eb\x1b[2J" in shown
        assert r"\x9bc\nd" in shown


class TestNumbers:
    HEAD = ("Method", "Pointing game ↑", "Deletion ↓", "Seconds ↓")
    SHORT = ("Method", "Point. game ↑", "Del. ↓", "Sec. ↓")
    LINES = (("grad-cam", "*98.5% ±0.5%", "*0.110 ±0.021", "0.031"), ("random", "5.0%", "", ""))

    def parts(self, width: int) -> list[list[list[str]]]:
        """The words of each line of each part."""
        console = Console(width=width, force_terminal=True, record=True, file=io.StringIO())
        print_numbers(console, self.HEAD, self.SHORT, self.LINES)
        text = console.export_text()
        assert "…" not in text
        assert max(len(line.rstrip()) for line in text.splitlines()) <= width
        return [[line.split() for line in part.splitlines()] for part in text.split("\n\n")]

    def test_have_whole_headings_and_errors_beside_in_a_wide_terminal(self) -> None:
        ((head, _, first, second),) = self.parts(120)
        assert head == ["Method", "Pointing", "game", "↑", "Deletion", "↓", "Seconds", "↓"]
        assert first == ["grad-cam", "*98.5%", "±0.5%", "*0.110", "±0.021", "0.031"]
        assert second == ["random", "5.0%"]

    @pytest.mark.parametrize("width", [40, 28])
    def test_have_short_headings_and_errors_below_in_a_narrow_one(self, width: int) -> None:
        ((*_, head, _, first, below, second),) = self.parts(width)
        assert head[0] == "Method"
        assert first == ["grad-cam", "*98.5%", "*0.110", "0.031"]
        assert below == ["±0.5%", "±0.021"]
        assert second == ["random", "5.0%"]

    def test_are_whole_where_one_column_of_the_terminal_is_missing(self) -> None:
        one, two = self.parts(27)
        assert one[-3] == ["grad-cam", "*98.5%", "*0.110"]
        assert two[-2] == ["grad-cam", "0.031"]

    def test_stand_in_parts_where_there_is_no_room_at_all(self) -> None:
        one, two, three = self.parts(16)
        assert [part[-3] for part in (one, two)] == [["grad-cam", "*98.5%"], ["grad-cam", "*0.110"]]
        assert three[-2:] == [["grad-cam", "0.031"], ["random"]]
        assert {part[-1][0] for part in (one, two, three)} == {"random"}
