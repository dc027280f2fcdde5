"""What the command may write over, and how its files come to be whole."""

from __future__ import annotations

import errno
import os
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from cli.commands import (
    explain,
    forbid_keras,
    make_mean,
    make_softmax,
    noise_picture,
    refused,
    rows_of,
    run,
    save_model,
    save_picture,
)
from PIL import Image

from kerasight import cli
from kerasight.classifiers import models
from kerasight.cli.files import GrowingFile, write_overlay
from kerasight.metrics.evaluation import Study

QUICK = ("--method", "grad-cam", "--metric", "deletion", "--no-random", "--steps", "2")


class TestForeignFiles:
    @pytest.mark.parametrize(
        ("command", "option", "name"),
        [("explain", "--html", "report.html"), ("evaluate", "-o", "table.csv")],
    )
    def test_are_replaced_with_force_alone(
        self, command: str, option: str, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        arguments = (noise_picture(), "-m", save_model(make_softmax()), option, name)
        arguments += QUICK if command == "evaluate" else ()
        Path(name).write_text("<html>a page of somebody's</html>")
        with monkeypatch.context() as patch:
            forbid_keras(patch)
            line = refused(*arguments, command=command)
        full = {"-o": "--output"}.get(option, option)
        assert line == (
            f"{full} {name} exists, and was not made by this command: pass --force to replace "
            "it, or another name"
        )
        assert Path(name).read_text() == "<html>a page of somebody's</html>"
        assert run(command, *arguments, "--force").exit_code == 0
        ours = Path(name).read_bytes()
        assert b"somebody" not in ours
        # What it made itself, it may make again.
        assert run(command, *arguments).exit_code == 0
        assert len(Path(name).read_bytes()) == pytest.approx(len(ours), abs=20)

    def test_that_are_empty_may_be_replaced(self) -> None:
        Path("report.html").touch()
        explain(noise_picture(), "-m", save_model(make_softmax()), "--html", "report.html")
        assert Path("report.html").stat().st_size

    def test_keep_their_names_from_overlays(self) -> None:
        picture, model = noise_picture("cat.png"), save_model(make_softmax())
        foreign = Path(save_picture("overlays/cat-1.png"))
        before = foreign.read_bytes()
        arguments = (picture, "-m", model, "-t", "1")
        for _ in range(2):
            ((*_, overlay),) = rows_of(explain(*arguments))
            assert Path(overlay) == Path("overlays/cat-1-2.png")
        assert foreign.read_bytes() == before
        ((*_, overlay),) = rows_of(explain(*arguments, "--force"))
        assert Path(overlay) == foreign
        assert foreign.read_bytes() != before


class TestFilesThatAreRead:
    """Never written over, also with --force, whatever name they are called by."""

    @pytest.mark.parametrize("kind", ["itself", "symlink", "hard link", "case"])
    def test_the_model(self, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
        model, picture = save_model(make_mean()), save_picture()
        name = {"itself": model, "case": "Model.keras"}.get(kind, "link.html")
        if kind == "symlink":
            os.symlink(model, name)
        elif kind == "hard link":
            os.link(model, name)
        before = Path(model).read_bytes()
        forbid_keras(monkeypatch)
        for command, option in (("explain", "--html"), ("evaluate", "--output")):
            line = refused(picture, "-m", model, option, name, "--force", command=command)
            assert line == (
                f"{option} {name} is the model, and is never replaced: pass another name"
            )
        assert Path(model).read_bytes() == before

    def test_pictures_masks_and_class_names(self) -> None:
        model, picture = save_model(make_softmax()), save_picture("a.png")
        save_picture("masks/a.png")
        Path("names.txt").write_text("one\ntwo\nthree")
        Path("code.py").write_text("")
        arguments = (picture, "-m", model, "--class-names", "names.txt", "--force")
        arguments += ("--import", "code.py")
        for option, what in (
            ("a.png", "one of the pictures"),
            ("names.txt", "the file of class names"),
            ("code.py", "a file to import"),
        ):
            assert f"is {what}" in refused(*arguments, "--html", option)
            assert f"is {what}" in refused(*arguments, "-o", option, command="evaluate")
        line = refused(*arguments, "--masks", "masks", "-o", "masks/a.png", command="evaluate")
        assert line == (
            "--output masks/a.png is one of the masks, and is never replaced: pass another name"
        )

    def test_no_overlay_goes_over_a_picture_or_the_page(self) -> None:
        pictures = [noise_picture("cat.png"), noise_picture("cat-0.png", seed=1)]
        before = Path("cat-0.png").read_bytes()
        arguments = (*pictures, "-m", save_model(make_softmax()), "-t", "0", "-o", ".", "--force")
        rows = rows_of(explain(*arguments, "--html", "cat-0-2.png"))
        assert [row[4] for row in rows] == ["cat-0-3.png", "cat-0-0.png"]
        assert Path("cat-0.png").read_bytes() == before
        assert Path("cat-0-2.png").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


class TestInterrupts:
    def test_leave_whole_overlays_the_table_of_them_and_one_line(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from kerasight.classifiers import pictures
        from kerasight.cli import sources

        read = pictures.read_picture

        def interrupted(path: Path) -> Image.Image:
            if path.name == "c.png":
                raise KeyboardInterrupt
            return read(path)

        monkeypatch.setattr(sources, "read_picture", interrupted)
        names = [noise_picture(f"{name}.png") for name in "abcd"]
        model = save_model(make_softmax())
        explain(names[0], "-m", model, "--html", "report.html", "-o", "earlier")
        page = Path("report.html").read_bytes()
        result = run("explain", *names, "-m", model, "--html", "report.html")
        assert result.exit_code == 130
        rows = rows_of(result)
        assert result.stderr == f"Error: interrupted: {len(rows)} of 4 pictures done\n"
        assert [row[0] for row in rows] == names[: len(rows)]
        assert sorted(str(path) for path in Path("overlays").iterdir()) == [row[4] for row in rows]
        for row in rows:
            Image.open(row[4]).load()
        assert Path("report.html").read_bytes() == page
        assert "shown in" not in result.stdout

    @pytest.mark.parametrize("command", ["explain", "evaluate"])
    def test_before_the_first_picture_are_one_line(
        self, command: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def interrupted() -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(models, "import_keras", interrupted)
        result = run(command)
        assert result.exit_code == 130
        assert (result.stdout, result.stderr) == ("", "Error: interrupted\n")

    @pytest.mark.parametrize("reader", [cli._Group, cli._Command])
    def test_while_options_are_read_are_one_line(
        self, reader: type, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def interrupted(*_: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(reader, "parse_args", interrupted)
        result = run("explain")
        assert result.exit_code == 130
        assert (result.stdout, result.stderr) == ("", "Error: interrupted\n")

    def test_of_the_import_of_keras_do_not_bring_up_its_log(
        self, capfd: pytest.CaptureFixture[str]
    ) -> None:
        def fail(error: type[BaseException]) -> None:
            with models._hushed():
                os.write(2, b"log")
                raise error

        for error, told in ((KeyboardInterrupt, ""), (ImportError, "log")):
            with pytest.raises(error):
                fail(error)
            assert capfd.readouterr().err == told

    def test_of_an_evaluation_keep_an_earlier_table_and_their_own_lines(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        names = [noise_picture(f"{name}.png") for name in "ab"]
        arguments = (*names, "-m", save_model(make_softmax()), *QUICK)
        assert run("evaluate", *arguments).exit_code == 0
        whole = Path("evaluation.csv").read_text()
        rows = Study.rows

        def interrupted(self: Study, doc: np.ndarray, **asked: object) -> object:
            if asked["position"] == 1:
                raise KeyboardInterrupt
            return rows(self, doc, **asked)  # type: ignore[arg-type]

        monkeypatch.setattr(Study, "rows", interrupted)
        for _ in range(2):  # the second time, it replaces what the first one left
            result = run("evaluate", *arguments)
            assert result.exit_code == 130
            assert result.stdout.splitlines()[-1] == "1 line written to evaluation-interrupted.csv"
        assert Path("evaluation.csv").read_text() == whole
        assert Path("evaluation-interrupted.csv").read_text().count("\n") == 2
        assert not list(Path().glob(".*.part"))


class TestGrowingFile:
    MARKER = b"a,b"

    def test_takes_its_place_in_the_end(self) -> None:
        Path("table.csv").write_text("a,b\n0,0\n")
        file = GrowingFile(Path("table.csv"), self.MARKER)
        file.write("a,b\n")
        file.write("1,\udcff\n")
        assert Path("table.csv").read_text() == "a,b\n0,0\n"
        assert file.finish(is_whole=True) == Path("table.csv")
        assert Path("table.csv").read_text() == "a,b\n1,\\udcff\n"
        assert os.listdir() == ["table.csv"]

    def test_without_a_line_leaves_what_was_there(self) -> None:
        Path("table.csv").write_text("earlier")
        GrowingFile(Path("table.csv"), self.MARKER).finish(is_whole=True)
        assert Path("table.csv").read_text() == "earlier"

    def test_that_is_not_whole_goes_beside_what_is_there(self) -> None:
        expected = ["table.csv", "table-interrupted.csv", "table-interrupted.csv"]
        for number, name in enumerate(expected):
            file = GrowingFile(Path("table.csv"), self.MARKER)
            file.write(f"a,b\n{number}\n")
            assert file.finish(is_whole=False) == Path(name)
        assert Path("table.csv").read_text() == "a,b\n0\n"
        assert Path("table-interrupted.csv").read_text() == "a,b\n2\n"
        Path("table-interrupted.csv").write_text("of the user")
        file = GrowingFile(Path("table.csv"), self.MARKER)
        file.write("a,b\n3\n")
        assert file.finish(is_whole=False) == Path("table-interrupted-2.csv")

    def test_keeps_whole_pieces_when_the_disk_is_full(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        file = GrowingFile(Path("table.csv"), self.MARKER)
        file.write("a,b\n")
        inner = file._file
        assert inner is not None

        class Full:
            """Takes three bytes, and no more."""

            def __init__(self) -> None:
                self.room = 3

            def write(self, data: memoryview) -> int:
                if not self.room:
                    raise OSError(errno.ENOSPC, "No space left on device")
                taken = inner.write(data[: self.room])
                self.room -= taken
                return taken

            def __getattr__(self, name: str) -> object:
                return getattr(inner, name)

        monkeypatch.setattr(file, "_file", Full())
        with pytest.raises(OSError, match="No space left"):
            file.write("1,2\n")
        assert file.finish(is_whole=False) == Path("table.csv")
        assert Path("table.csv").read_text() == "a,b\n"

    @pytest.mark.skipif(sys.platform == "win32", reason="pipes with a name")
    def test_goes_through_a_pipe(self) -> None:
        os.mkfifo("pipe")
        read: list[str] = []
        reader = threading.Thread(target=lambda: read.append(Path("pipe").read_text()))
        reader.start()
        file = GrowingFile(Path("pipe"), self.MARKER)
        file.write("a,b\n")
        file.write("1,2\n")
        assert file.finish(is_whole=True) == Path("pipe")
        reader.join(10)
        assert read == ["a,b\n1,2\n"]


@pytest.mark.parametrize("size", [(1, 1), (5, 3), (700, 400), (300_000, 2)])
@pytest.mark.parametrize("is_opaque", [True, False])
@pytest.mark.parametrize("values", [255, 1])
def test_a_png_is_the_picture(size: tuple[int, int], is_opaque: bool, values: int) -> None:
    pixels = np.random.default_rng(0).integers(0, values, (*size[::-1], 4), dtype=np.uint8)
    if is_opaque:
        pixels[..., 3] = 255
    write_overlay(Image.fromarray(pixels), Path("a.png"))
    with Image.open("a.png") as picture:
        assert picture.mode == ("RGB" if is_opaque else "RGBA")
        assert picture.info["Software"] == "kerasight"
        np.testing.assert_array_equal(np.asarray(picture.convert("RGBA")), pixels)


@pytest.mark.parametrize("ending", ["jpg", "webp"])
@pytest.mark.parametrize("alpha", [255, 0])
def test_other_formats_have_the_picture_and_name_kerasight(ending: str, alpha: int) -> None:
    path = Path(f"a.{ending}")
    write_overlay(Image.new("RGBA", (40, 30), (200, 100, 50, alpha)), path)
    with Image.open(path) as picture:
        assert picture.getexif() == {0x0131: "kerasight"}
        mode = "RGBA" if (ending, alpha) == ("webp", 0) else "RGB"
        assert (picture.size, picture.mode) == ((40, 30), mode)
        pixel = np.array(picture.convert("RGBA").getpixel((20, 15)))
    white = {"jpg": (255, 255, 255, 255), "webp": (*pixel[:3], 0)}
    expected = (200, 100, 50, 255) if alpha else white[ending]
    np.testing.assert_allclose(pixel, expected, atol=4)


def test_a_png_of_a_drawing_is_small() -> None:
    drawing = Image.new("RGBA", (700, 400), "red")
    drawing.paste((0, 0, 255, 255), (100, 100, 400, 300))
    write_overlay(drawing, Path("a.png"))
    assert Path("a.png").stat().st_size < 700 * 400 * 3 / 100
