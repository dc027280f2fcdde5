"""Pictures of the command: what is read, what is refused, what a folder holds."""

from __future__ import annotations

import errno
import os
import re
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from cli.commands import (
    explain,
    forbid_keras,
    make_mean,
    refused,
    rows_of,
    run,
    save_model,
    save_picture,
)
from keras import layers
from PIL import Image, ImageFile

import kerasight
from kerasight.classifiers import models, pictures
from kerasight.classifiers.pictures import read_mask
from kerasight.errors import PictureError
from kerasight.formatters.pixels import to_rgba


class TestPictures:
    @pytest.fixture
    def good(self) -> tuple[str, ...]:
        return (save_picture("first.png"), save_picture("last.png"))

    def others_are_done(
        self, good: tuple[str, ...], bad: str | Path, line: str, model: str | None = None
    ) -> None:
        model = model or save_model(make_mean())
        result = run("explain", good[0], bad, good[1], "-m", model)
        assert result.exit_code == 2
        assert [row[0] for row in rows_of(result)] == list(good)
        assert all(Path(row[4]).is_file() for row in rows_of(result))
        assert result.stdout.splitlines()[-1] == "2 overlays written to overlays"
        assert result.stderr.count("\n") == 1
        assert re.fullmatch(f"Error: {re.escape(str(bad))}: {line}\n", result.stderr)

    def test_that_is_missing(self, good: tuple[str, ...]) -> None:
        self.others_are_done(good, "gone.png", "no such file")

    def test_that_may_not_be_read(
        self, good: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        save_picture("secret.png")
        opened = Path.open

        def locked(self: Path, *arguments: Any, **named: Any) -> Any:
            if self.name == "secret.png":
                raise PermissionError(errno.EACCES, "Permission denied", str(self))
            return opened(self, *arguments, **named)

        monkeypatch.setattr(Path, "open", locked)
        self.others_are_done(good, "secret.png", "cannot be read: Permission denied")

    def test_that_are_all_missing_are_told_before_the_model_is_loaded(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        forbid_keras(monkeypatch)
        result = run("explain", "a.png", "b.png", "-m", "MobileNetV2")
        assert result.exit_code == 2
        assert result.stdout == "No overlay written\n"
        assert result.stderr.splitlines() == [
            "Error: a.png: no such file",
            "Error: b.png: no such file",
        ]
        lines = run("explain", *(f"{n}.png" for n in range(300))).stderr.splitlines()
        assert len(lines) == 21
        assert lines[-1] == "Error: 280 more pictures: no such file"

    def test_that_is_no_picture(self, good: tuple[str, ...]) -> None:
        Path("text.png").write_text("text")
        self.others_are_done(good, "text.png", "not a picture in a format that Pillow reads")

    @pytest.mark.parametrize("name", ["cut.png", "cut.jpg", "cut.gif"])
    def test_that_is_cut_off(self, good: tuple[str, ...], name: str) -> None:
        pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(name)
        Path(name).write_bytes(Path(name).read_bytes()[:1500])
        self.others_are_done(good, name, "cannot be read: .+")

    @pytest.mark.parametrize("side", [11, 20])  # where Pillow warns, and where it raises
    def test_that_is_too_large(
        self, good: tuple[str, ...], side: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
        bomb = save_picture("bomb.png", size=(side, side))
        self.others_are_done(good, bomb, "too large: a picture may have at most 100 pixels")

    def test_that_is_too_small_for_the_model(self, good: tuple[str, ...]) -> None:
        inputs = keras.Input((None, None, 3))
        x = layers.GlobalAveragePooling2D()(layers.Conv2D(3, 4)(inputs))
        model = save_model(keras.Model(inputs, x))
        line = "model '.+' cannot be run on .+"
        self.others_are_done(good, save_picture("dot.png", size=(1, 1)), line, model)

    def test_with_a_strange_name(self) -> None:
        name = save_picture("[red]a\nb :cat:.png")
        result = explain(name, "-m", save_model(make_mean()))
        assert rows_of(result)[0][0] == r"[red]a\nb :cat:.png"

    def test_with_a_blank_heatmap_are_named_in_a_warning(
        self, recwarn: pytest.WarningsRecorder
    ) -> None:
        result = explain(save_picture(colour="black"), "-m", save_model(make_mean()))
        assert result.stderr.count("\n") == 1
        assert result.stderr.startswith("Warning: cat.png: the heatmap of class 0 at layer 'copy'")
        assert not [warning for warning in recwarn if warning.category is kerasight.HeatmapWarning]


class TestFolders:
    def test_stand_for_their_pictures_in_the_order_of_names(self) -> None:
        names = ["b.png", "a.JPG", "c.bmp"]
        for name in [*names, ".hidden.png"]:
            save_picture(f"folder/{name}")
        for name in ("notes.txt", "film.mpg", "model.h5"):
            Path("folder", name).write_text("no picture")
        result = explain("folder", save_picture("z.png"), "-m", save_model(make_mean()))
        expected = [str(Path("folder", name)) for name in sorted(names)]
        assert [row[0] for row in rows_of(result)] == [*expected, "z.png"]
        assert result.stderr == (
            "Note: folder: 3 pictures; left out: 3 files that are no pictures, 1 hidden file\n"
        )

    def test_are_searched_through_and_overlays_keep_them(self) -> None:
        names = ["cat/1.png", "cat/2.png", "dog/1.png", "dog/pups/1.png", "1.png"]
        for name in names:
            save_picture(f"classes/{name}")
        save_picture("classes/.cache/1.png")
        result = explain("classes", "-m", save_model(make_mean()), "--html", "page.html")
        expected = [str(Path("classes", name)) for name in sorted(names)]
        assert [row[0] for row in rows_of(result)] == expected
        overlays = [Path("overlays", name).with_suffix("") for name in sorted(names)]
        assert [row[4] for row in rows_of(result)] == [f"{path}-0.png" for path in overlays]
        assert all(Path(row[4]).is_file() for row in rows_of(result))
        assert result.stderr == "Note: classes: 5 pictures; left out: 1 hidden file\n"
        page = Path("page.html").read_text(encoding="utf-8")
        titles = re.findall(r"<h2><bdi>(.+?)</bdi></h2>", page)
        assert [title.replace("<wbr>", "") for title in titles] == expected

    @pytest.mark.skipif(sys.platform == "win32", reason="links take a right of their own")
    def test_follow_links_once(self) -> None:
        save_picture("classes/b/1.png")
        save_picture("elsewhere/c/2.png")
        for link, target in (
            ("classes/a", "b"),  # to what is found without it
            ("classes/b/loop", ".."),
            ("classes/d", "../elsewhere"),
            ("classes/e", "../elsewhere/c"),  # to what another one leads to
            ("classes/3.png", "b/1.png"),
            ("classes/gone.png", "nowhere.png"),
        ):
            Path(link).symlink_to(target)
        result = explain("classes", "-m", save_model(make_mean()))
        found = [str(Path(row[0]).relative_to("classes")) for row in rows_of(result)]
        assert found in (["b/1.png", "d/c/2.png"], ["b/1.png", "e/2.png"])
        assert result.stderr == (
            "Note: classes: 2 pictures; left out: 4 duplicate links, 1 broken link\n"
        )

    def test_leave_out_overlays_of_an_earlier_run(self) -> None:
        save_picture("photos/a.png")
        arguments = ("photos", "-m", save_model(make_mean()), "-o", "photos/overlays")
        for number in range(2):
            result = explain(*arguments)
            assert [row[0] for row in rows_of(result)] == [str(Path("photos/a.png"))]
            assert ("left out: 1 overlay by kerasight" in result.stderr) == bool(number)

    def test_that_cannot_be_read_are_a_line_each_and_the_rest_is_done(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("a/1.png", "b/1.png", "c/1.png"):
            save_picture(f"classes/{name}")
        scandir = os.scandir

        def locked(path: Any) -> object:
            if path in (Path("classes/a"), Path("classes/c")):
                raise PermissionError(errno.EACCES, "Permission denied", str(path))
            return scandir(path)

        model = save_model(make_mean())
        monkeypatch.setattr(os, "scandir", locked)
        with monkeypatch.context() as patch:
            patch.setattr(models, "import_keras", lambda: sys.exit("Keras was asked for"))
            told_before = run("explain", "classes", "-m", model).stderr
        for command in ("explain", "evaluate"):
            result = run(command, "classes", "-m", model)
            assert result.exit_code == 2
            assert sorted(result.stderr.splitlines()) == [
                f"Error: {Path('classes/a')}: cannot be read: Permission denied",
                f"Error: {Path('classes/c')}: cannot be read: Permission denied",
            ]
            assert result.stderr == told_before
            assert "1 " in result.stdout

    def test_report_what_is_called_a_picture_and_is_none(self) -> None:
        save_picture("folder/a.png")
        Path("folder/b.png").write_text("text")
        result = run("explain", "folder", "-m", save_model(make_mean()))
        assert result.exit_code == 2
        assert [row[0] for row in rows_of(result)] == [str(Path("folder/a.png"))]
        assert result.stderr == (
            f"Error: {Path('folder/b.png')}: not a picture in a format that Pillow reads\n"
        )

    @pytest.mark.parametrize("command", ["explain", "evaluate"])
    def test_without_pictures_are_refused_before_the_model_is_loaded(
        self, command: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        forbid_keras(monkeypatch)
        Path("folder/inner.png").mkdir(parents=True)
        line = refused(save_picture(), "folder", command=command)
        assert line == "folder: no picture in this folder"
        Path("folder/notes.txt").touch()
        line = refused(save_picture(), "folder", command=command)
        assert line == "folder: no picture in this folder; left out: 1 file that is no picture"


class TestLargePictures:
    """Read at a fraction of their size, for memory ends."""

    @pytest.fixture(autouse=True)
    def _small(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(pictures, "_LARGEST", 100)
        monkeypatch.setattr(pictures, "_BAND", 40)  # bands of less than the picture

    @pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "1", "I;16", "F"])
    @pytest.mark.parametrize(
        ("size", "expected"), [((10, 10), (10, 10)), ((12, 11), (6, 6)), ((40, 7), (20, 4))]
    )
    def test_have_each_square_of_pixels_made_one(
        self, mode: str, size: tuple[int, int], expected: tuple[int, int]
    ) -> None:
        rows, columns = np.indices(size[::-1])
        grey = Image.fromarray((4 * rows + 2 * columns).astype(np.uint8))
        name = "large.tif" if mode == "F" else "large.png"
        if mode == "I;16":
            grey = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
        else:
            grey = grey.convert(mode)
        grey.save(name)
        read = pictures.read_picture(Path(name))
        assert read.size == expected
        assert read.mode == ("RGB" if (mode, size) == ("RGB", expected) else "RGBA")
        read = read.convert("RGBA")
        factor = 1 if expected == size else 2
        whole = to_rgba(Image.open(name))
        np.testing.assert_allclose(
            np.asarray(read, dtype=int), np.asarray(whole.reduce(factor), dtype=int), atol=1
        )

    def test_of_jpeg_are_decoded_small_and_upright(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(pictures, "_LARGEST", 40 * 30)
        rows, columns = np.indices((60, 80))
        picture = Image.fromarray((2 * rows + columns).astype(np.uint8)).convert("RGB")
        exif = picture.getexif()
        exif[0x0112] = 6  # the camera was turned by 90 degrees
        picture.save("large.jpg", exif=exif, quality=95)
        sizes = []
        load = ImageFile.ImageFile.load
        monkeypatch.setattr(
            ImageFile.ImageFile, "load", lambda self: (sizes.append(self.size), load(self))[1]
        )
        read = pictures.read_picture(Path("large.jpg"))
        assert read.size == (30, 40)
        assert sizes[0] == (40, 30)
        expected = picture.transpose(Image.Transpose.ROTATE_270).reduce(2)
        np.testing.assert_allclose(
            np.asarray(read.convert("RGB"), dtype=int), np.asarray(expected, dtype=int), atol=6
        )

    @pytest.mark.parametrize(
        ("name", "least", "expected"),
        [
            ("large.jpg", (10, 8), (20, 15)),
            ("large.jpg", (15, 5), (20, 15)),
            ("large.jpg", (21, 16), (40, 30)),
            ("large.jpg", (41, 31), (80, 60)),
            ("large.png", (10, 8), (80, 60)),
        ],
    )
    def test_may_be_as_small_as_is_wanted(
        self,
        name: str,
        least: tuple[int, int],
        expected: tuple[int, int],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(pictures, "_LARGEST", 80 * 60)
        rows, columns = np.indices((60, 80))
        picture = Image.fromarray((2 * rows + columns).astype(np.uint8)).convert("RGB")
        picture.save(name, quality=95)
        read = pictures.read_picture(Path(name), least)
        assert read.size == expected
        expected_pixels = np.asarray(picture.reduce(80 // expected[0]), dtype=int)
        np.testing.assert_allclose(np.asarray(read.convert("RGB"), int), expected_pixels, atol=6)

    def test_have_overlays_of_that_size(self) -> None:
        name = save_picture("large.png", size=(30, 20))
        ((*_, overlay),) = rows_of(explain(name, "-m", save_model(make_mean())))
        assert Image.open(overlay).size == (10, 7)


class TestMasks:
    @pytest.mark.parametrize("mode", ["1", "L", "P", "I;16", "RGB", "RGBA", "LA"])
    def test_are_true_where_they_are_not_0(self, mode: str) -> None:
        expected = np.zeros((4, 6), dtype=bool)
        expected[1:3, 2:5] = True
        grey = Image.fromarray(expected.astype(np.uint8))
        Image.fromarray(np.array(grey.convert(mode if mode != "P" else "L"))).save("mask.png")
        if mode == "1":
            Image.fromarray(expected).save("mask.png")
        elif mode == "P":
            palette = grey.convert("P")
            palette.putpalette([255] * 768)  # the number of the colour counts, not the colour
            palette.save("mask.png")
        np.testing.assert_array_equal(read_mask(Path("mask.png")), expected)

    def test_leave_out_what_is_transparent(self) -> None:
        picture = Image.new("RGBA", (2, 1), (255, 255, 255, 0))
        picture.putpixel((1, 0), (0, 0, 1, 1))
        picture.save("mask.png")
        assert read_mask(Path("mask.png")).tolist() == [[False, True]]

    def test_without_an_object_are_refused(self) -> None:
        save_picture("mask.png", "black")
        with pytest.raises(PictureError, match="no object in it: it is 0 everywhere"):
            read_mask(Path("mask.png"))
