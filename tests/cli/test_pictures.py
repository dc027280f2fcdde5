"""Pictures of the command: what is read, what is refused, what a folder holds."""

from __future__ import annotations

import re
from pathlib import Path

import keras
import numpy as np
import pytest
from cli.commands import explain, make_mean, refused, rows_of, run, save_model, save_picture
from keras import layers
from PIL import Image

import kerasight
from kerasight.cli import models
from kerasight.cli.console import PictureError
from kerasight.cli.pictures import read_mask


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
        self.others_are_done(good, bomb, "too large: a picture may have 100 pixels")

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
        for name in [*names, "inner/d.png", ".hidden.png"]:
            save_picture(f"folder/{name}")
        for name in ("notes.txt", "film.mpg", "model.h5"):
            Path("folder", name).write_text("no picture")
        result = explain("folder", save_picture("z.png"), "-m", save_model(make_mean()))
        expected = [str(Path("folder", name)) for name in sorted(names)]
        assert [row[0] for row in rows_of(result)] == [*expected, "z.png"]
        assert result.stderr == ""

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
        monkeypatch.setattr(models, "import_keras", lambda: pytest.fail("Keras was asked for"))
        Path("folder/inner.png").mkdir(parents=True)
        Path("folder/notes.txt").touch()
        line = refused(save_picture(), "folder", command=command)
        assert line == "folder: no picture in this folder"


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
