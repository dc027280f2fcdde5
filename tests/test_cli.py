"""The `sightline` command: what it writes, prints and refuses."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers
from PIL import Image, ImageOps
from rich.console import Console
from typer.testing import CliRunner, Result

import sightline
from sightline import cli

COLOUR = (255, 128, 0)
NAMES = ["tabby cat", "dog/wolf", "crane", "crane"]


def make_mean(
    shape: tuple[int | None, ...] = (4, 4, 3), classes: int | None = None, permute: bool = False
) -> keras.Model:
    """A model whose scores are the means of its channels; further classes have the score 0."""
    inputs = x = keras.Input(shape)
    if permute:
        x = layers.Permute((2, 3, 1), name="last")(x)
    channels = x.shape[-1]
    x = layers.Conv2D(channels, 1, use_bias=False, name="copy")(x)
    x = layers.GlobalAveragePooling2D(name="average")(x)
    head = layers.Dense(classes or channels, use_bias=False, name="head")
    model = keras.Model(inputs, head(x), name="mean")
    model.get_layer("copy").set_weights([np.eye(channels)[None, None]])
    head.set_weights([np.eye(channels, classes)])
    return model


def make_area() -> keras.Model:
    """A model of any size of picture, whose scores are the sums of its channels."""
    inputs = keras.Input((None, None, 3))
    copy = layers.Conv2D(3, 1, use_bias=False, name="copy")
    model = keras.Model(inputs, keras.ops.sum(copy(inputs), axis=(1, 2)), name="area")
    copy.set_weights([np.eye(3)[None, None]])
    return model


def make_softmax() -> keras.Model:
    """Three classes with probabilities of 0.5, 0.3 and 0.2 for a picture that is black."""
    inputs = keras.Input((4, 4, 3))
    x = layers.Conv2D(4, 3, padding="same", bias_initializer="ones", name="features")(inputs)
    x = layers.GlobalAveragePooling2D()(x)
    head = layers.Dense(3, activation="softmax", name="head")
    model = keras.Model(inputs, head(x), name="softmax")
    kernel = np.zeros((4, 3))
    kernel[0] = np.log([0.5, 0.3, 0.2])
    head.set_weights([kernel, np.zeros(3)])
    return model


@keras.saving.register_keras_serializable("test_cli")
class Subclassed(keras.Model):
    """Tells nothing about its input before it is called."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.copy = layers.Conv2D(3, 1, kernel_initializer="ones", name="copy")
        self.average = layers.GlobalAveragePooling2D()

    def call(self, inputs: Any) -> Any:
        return self.average(self.copy(inputs))


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def save_model(model: keras.Model, name: str = "model.keras") -> str:
    model.save(name)
    return name


def save_picture(
    name: str = "cat.png", colour: Any = COLOUR, size: tuple[int, int] = (6, 5), mode: str = "RGB"
) -> str:
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(name)
    return name


def run(*arguments: str | Path) -> Result:
    try:
        runner = CliRunner(mix_stderr=False)
    except TypeError:  # newer ones always keep the two apart
        runner = CliRunner()
    return runner.invoke(cli.app, [str(argument) for argument in arguments])


def explain(*arguments: str | Path) -> Result:
    result = run("explain", *arguments)
    assert result.exit_code == 0, result.stderr
    return result


def refused(*arguments: str | Path) -> str:
    """The one line with which a command is refused."""
    result = run("explain", *arguments)
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output + result.stderr
    lines = [line for line in result.stderr.splitlines() if not line.startswith("Note:")]
    assert len(lines) == 1, lines
    assert lines[0].startswith("Error: ")
    assert list(Path().glob("overlays/*")) == []
    return lines[0].removeprefix("Error: ")


def rows_of(result: Result) -> list[list[str]]:
    """The table's lines, cell by cell."""
    lines = result.stdout.splitlines()
    assert re.split(r"\s{2,}", lines[0].strip()) == ["Image", "Class", "Score", "Layer", "Overlay"]
    return [re.split(r"\s{2,}", line.strip()) for line in lines[2 : lines.index("", 2)]]


def scores_of(*arguments: str | Path) -> list[float]:
    """The plain scores of all classes of a model, in the order of the classes."""
    rows = rows_of(explain(*arguments, "--top", "9"))
    scores = {int(re.sub(r".*\((\d+)\)", r"\1", row[1])): row[2] for row in rows}
    return [
        float(score.rstrip("%")) / (100 if score.endswith("%") else 1)
        for _, score in sorted(scores.items())
    ]


class TestCommand:
    def test_alone_shows_help(self) -> None:
        result = run()
        assert result.exit_code == 0
        assert "explain" in result.stdout
        assert "--version" in result.stdout

    def test_tells_its_version(self) -> None:
        assert run("--version").stdout.strip() == f"sightline {version('sightline')}"

    def test_help_says_what_preprocessing_files_get(self) -> None:
        result = run("explain", "--help")
        assert result.exit_code == 0
        assert "Default: none." in re.sub(r"[\s│]+", " ", result.stdout)

    def test_runs_as_installed_with_nothing_but_the_table(self, tmp_path: Path) -> None:
        environment = {**os.environ, "COLUMNS": "40"}
        environment.pop("TF_CPP_MIN_LOG_LEVEL", None)
        folder = tmp_path / ("a long folder name, " * 5) / "overlays"
        result = subprocess.run(
            [Path(sys.executable).with_name("sightline"), "explain", "-o", folder],
            capture_output=True,
            text=True,
            env=environment,
            check=False,
        )
        assert result.stderr == ""
        assert result.returncode == 0
        header, rule, *rows, empty, count = result.stdout.splitlines()
        assert header.split() == ["Image", "Class", "Score", "Layer", "Overlay"]
        assert set(rule) == {"─"}
        assert len(rows) == len(list(folder.iterdir())) == 2
        for row, name in zip(rows, ("demo-rocket.png", "demo-house.png"), strict=True):
            assert row.startswith("demo picture ")
            assert row.rstrip().endswith(str(folder / name))
            assert (folder / name).is_file()
        assert empty == ""
        assert count == f"2 overlays written to {folder}"

    def test_runs_as_a_module_and_refuses_without_importing_keras(self) -> None:
        code = (
            "import runpy, sys\n"
            "sys.argv = ['sightline', 'explain', '--top', '2', '--target', '1']\n"
            "try: runpy.run_module('sightline.cli', run_name='__main__')\n"
            "except SystemExit as end: print(end.code)\n"
            "print({'keras', 'tensorflow', 'torch', 'jax'} & set(sys.modules))"
        )
        result = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=False
        )
        assert result.stdout.split() == ["2", "set()"]
        assert result.stderr == "Error: --top and --target exclude each other: pass one of them\n"

    @pytest.mark.parametrize("level", [None, "0"])
    def test_quiets_tensorflow_unless_told_how_loud(
        self, level: str | None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "")
        monkeypatch.delenv("TF_CPP_MIN_LOG_LEVEL")
        if level is not None:
            monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", level)
        monkeypatch.setattr(sys, "argv", ["sightline", "--version"])
        with pytest.raises(SystemExit):
            cli.main()
        assert os.environ["TF_CPP_MIN_LOG_LEVEL"] == (level or "3")

    def test_what_is_hushed_comes_out_with_an_exception(self, capfd: Any) -> None:
        with cli._hushed():
            os.write(2, b"chatter")
        assert capfd.readouterr().err == ""
        with pytest.raises(ZeroDivisionError), cli._hushed():
            raise ZeroDivisionError(os.write(2, b"the cause"))
        assert capfd.readouterr().err == "the cause"


class TestDemo:
    def test_explains_both_objects_of_its_own_picture(self) -> None:
        from sightline import demo

        result = explain()
        rows = rows_of(result)
        assert [row[1] for row in rows] == ["rocket (6)", "house (3)"]
        for image, label, score, layer, overlay in rows:
            name = label.split(" (")[0]
            assert image == "demo picture"
            assert label == f"{name} ({demo.CLASS_NAMES.index(name)})"
            assert score.endswith("%")
            assert layer == "features"
            assert Path(overlay) == Path("overlays") / f"demo-{name}.png"
            assert Image.open(overlay).size == demo.load_picture().size
        assert result.stderr == ""
        assert len(rows_of(explain("--top", "1"))) == 1

    def test_explains_other_pictures_and_says_who_does(self) -> None:
        result = explain(save_picture(), "--target", "Duck")
        ((image, label, *_),) = rows_of(result)
        assert (image, label.split()[0]) == ("cat.png", "duck")
        assert result.stderr.startswith("Note: without --model, the demo model")

    @pytest.mark.parametrize("option", ["--preprocess", "--class-names"])
    def test_takes_no_options_for_files(self, option: str) -> None:
        assert refused(option, "unit") == (
            f"{option} is for model files; the demo model brings its own"
        )


class TestOverlay:
    def test_is_what_the_library_draws(self) -> None:
        model = make_softmax()
        picture = Image.fromarray(
            np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
        )
        picture.save("noise.png")
        explain("noise.png", "-m", save_model(model), "-t", "0", "--colormap", "magma")
        small = picture.resize((4, 4), Image.Resampling.BILINEAR)
        doc = np.asarray(small, dtype=np.float32)[None]
        expl = sightline.explain_prediction(model, doc, targets=[0], image=picture)
        expected = sightline.format_as_image(expl, colormap="magma")
        assert Image.open("overlays/noise-0.png").tobytes() == expected.tobytes()

    def test_lies_over_the_upright_picture(self) -> None:
        pixels = np.random.default_rng(0).integers(0, 256, (16, 24, 3), dtype=np.uint8)
        picture = Image.fromarray(pixels)
        exif = picture.getexif()
        exif[0x0112] = 6  # the camera was turned by 90 degrees
        picture.save("turned.jpg", exif=exif)
        explain("turned.jpg", "-m", save_model(make_mean()), "--alpha", "0", "-o", "a/b")
        overlay = Image.open("a/b/turned-0.png")
        assert overlay.size == (16, 24)
        upright = ImageOps.exif_transpose(Image.open("turned.jpg"))
        assert overlay.convert("RGB").tobytes() == upright.tobytes()

    def test_of_16_bits_is_not_white(self) -> None:
        Image.fromarray(np.full((5, 6), 128 * 257, dtype=np.uint16)).save("deep.png")
        assert scores_of("deep.png", "-m", save_model(make_mean((4, 4, 1)))) == [128]

    def test_replaces_that_of_an_earlier_run(self) -> None:
        arguments = (save_picture(), "-m", save_model(make_mean()))
        explain(*arguments)
        explain(*arguments)
        assert [path.name for path in Path("overlays").iterdir()] == ["cat-0.png"]

    def test_never_replaces_one_of_the_same_run(self) -> None:
        pictures = [save_picture(name) for name in ("a/cat.png", "b/cat.png", "c/Cat.png")]
        result = explain(*pictures, pictures[0], "-m", save_model(make_mean()))
        expected = ["cat-0.png", "cat-0-2.png", "Cat-0-3.png", "cat-0-4.png"]
        assert [Path(row[4]).name for row in rows_of(result)] == expected
        assert sorted(path.name for path in Path("overlays").iterdir()) == sorted(expected)
        assert result.stdout.splitlines()[-1] == "4 overlays written to overlays"

    def test_never_replaces_a_picture(self) -> None:
        pictures = [save_picture("cat.png"), save_picture("cat-0.png")]
        before = Path("cat-0.png").read_bytes()
        result = explain(*pictures, "-m", save_model(make_mean()), "-o", ".")
        assert [row[4] for row in rows_of(result)] == ["cat-0-2.png", "cat-0-0.png"]
        assert Path("cat-0.png").read_bytes() == before

    def test_that_cannot_be_written_is_one_line_for_each_picture(self) -> None:
        Path("file").touch()
        result = run(
            "explain", save_picture(), "-m", save_model(make_mean()), "-o", "file/overlays"
        )
        assert result.exit_code == 2
        assert re.fullmatch(
            r"Error: cat\.png: file/overlays/cat-0\.png cannot be written: .+\n", result.stderr
        )
        assert result.stdout == "No overlay written\n"


class TestInput:
    @pytest.mark.parametrize(
        ("preprocess", "expected"),
        [
            (None, [255, 128, 0]),
            ("none", [255, 128, 0]),
            ("unit", [1, 128 / 255, 0]),
            ("signed", [1, 128 / 127.5 - 1, -1]),
            ("mobilenet_v2", [1, 128 / 127.5 - 1, -1]),
            ("caffe", [-103.939, 128 - 116.779, 255 - 123.68]),
            ("resnet50", [-103.939, 128 - 116.779, 255 - 123.68]),
            ("torch", [0.515 / 0.229, (128 / 255 - 0.456) / 0.224, -0.406 / 0.225]),
        ],
    )
    def test_is_preprocessed(self, preprocess: str | None, expected: list[float]) -> None:
        options = [] if preprocess is None else ["--preprocess", preprocess]
        scores = scores_of(save_picture(), "-m", save_model(make_mean()), *options)
        assert scores == pytest.approx(expected, rel=1e-3, abs=1e-3)

    def test_unknown_preprocessing_is_refused_with_the_known(self) -> None:
        line = refused(save_picture(), "-m", save_model(make_mean()), "--preprocess", "resnet51")
        assert line.startswith("unknown --preprocess 'resnet51'; known are none, unit, signed")
        assert "resnet50" in line

    @pytest.mark.parametrize(
        ("shape", "permute", "expected"),
        [
            ((4, 4, 1), False, [150]),  # how light orange is: .299, .587 and .114 of the colours
            ((4, 4, 3), False, [255, 128, 0]),
            ((4, 4, 4), False, [255, 128, 0, 255]),
            ((3, 7, 5), True, [255, 128, 0]),
            ((1, 7, 5), True, [150]),
            ((3, None, None), True, [255, 128, 0]),
            ((8, 8, 3), False, [255, 128, 0]),
        ],
    )
    def test_has_the_channels_of_the_model(
        self, shape: tuple[int, ...], permute: bool, expected: list[float]
    ) -> None:
        model = save_model(make_mean(shape, permute=permute))
        assert scores_of(save_picture(), "-m", model) == pytest.approx(expected, abs=2)

    @pytest.mark.parametrize("mode", ["L", "LA", "P", "CMYK", "RGBA", "1"])
    def test_is_made_of_pictures_of_all_modes(self, mode: str) -> None:
        name = save_picture("white.tif", "white" if mode != "CMYK" else 0, mode=mode)
        assert scores_of(name, "-m", save_model(make_mean())) == [255, 255, 255]

    @pytest.mark.parametrize("preprocess", ["caffe", "resnet50"])
    def test_preprocessing_for_colours_needs_colours(self, preprocess: str) -> None:
        model = save_model(make_mean((4, 4, 4)))
        assert refused(save_picture(), "-m", model, "--preprocess", preprocess) == (
            f"--preprocess {preprocess} is for RGB, and model.keras takes RGBA; pass none, unit or "
            "signed"
        )

    @pytest.mark.parametrize(
        ("size", "area"), [((6, 4), 24), ((1024, 256), 512 * 128), ((2, 2048), 512)]
    )
    def test_of_any_size_is_the_picture_up_to_a_limit(
        self, size: tuple[int, int], area: int
    ) -> None:
        arguments = ("-m", save_model(make_area()), "--preprocess", "unit")
        scores = scores_of(save_picture(colour="white", size=size), *arguments)
        assert scores == pytest.approx([area] * 3, rel=1e-3)

    def test_of_a_model_that_does_not_tell_is_the_picture(self) -> None:
        model = Subclassed(name="subclassed")
        model(np.zeros((1, 4, 4, 3), np.float32))
        scores = scores_of(save_picture(), "-m", save_model(model))
        assert scores == [383, 383, 383]

    @pytest.mark.parametrize("side", [4, 8])
    def test_of_two_channels_is_refused(self, side: int) -> None:
        assert refused(save_picture(), "-m", save_model(make_mean((side, side, 2)))) == (
            f"model 'mean' takes inputs of 2 channels, shape (None, {side}, {side}, 2); a picture "
            "has 1 (grey), 3 (RGB) or 4 (RGBA)"
        )

    def test_may_have_a_name(self) -> None:
        inputs = {"picture": keras.Input((4, 4, 3), name="picture")}
        x = layers.Conv2D(3, 1, kernel_initializer="ones")(inputs["picture"])
        model = save_model(keras.Model(inputs, layers.GlobalAveragePooling2D()(x)))
        assert scores_of(save_picture(), "-m", model) == [383, 383, 383]

    def test_of_two_pictures_is_refused(self) -> None:
        inputs = [keras.Input((4, 4, 3)), keras.Input((4, 4, 3))]
        pooled = layers.GlobalAveragePooling2D()(layers.Add()(inputs))
        model = save_model(keras.Model(inputs, pooled, name="pair"))
        assert refused(save_picture(), "-m", model).startswith("model 'pair' has 2 inputs")

    def test_that_is_no_picture_is_refused(self) -> None:
        inputs = keras.Input((10,))
        model = save_model(keras.Model(inputs, layers.Dense(2)(inputs), name="table"))
        assert refused(save_picture(), "-m", model) == (
            "model 'table' takes no pictures: its input has shape (None, 10), where (batch, "
            "height, width, channels) is needed"
        )


class TestClasses:
    def test_the_top_class_is_explained_by_default(self) -> None:
        ((_, label, score, layer, overlay),) = rows_of(
            explain(save_picture(colour="black"), "-m", save_model(make_softmax()))
        )
        assert (label, score, layer) == ("0", "50.0%", "features")
        assert Path(overlay) == Path("overlays/cat-0.png")

    @pytest.mark.parametrize("number", [2, 9])
    def test_the_n_top_classes_have_a_row_and_an_overlay_each(self, number: int) -> None:
        picture = save_picture(colour="black")
        result = explain(picture, "-m", save_model(make_softmax()), "--top", str(number))
        expected = [("0", "50.0%"), ("1", "30.0%"), ("2", "20.0%")][:number]
        assert [(row[1], row[2]) for row in rows_of(result)] == expected
        assert all(Path(row[4]).is_file() for row in rows_of(result))
        assert len({row[4] for row in rows_of(result)}) == len(expected)

    @pytest.mark.parametrize("top", ["0", "-1"])
    def test_top_must_be_positive(self, top: str) -> None:
        assert refused("--top", top) == f"--top must be at least 1, got {top}"

    def test_scores_that_are_no_probabilities_are_plain(self) -> None:
        ((*_, score, _, _),) = rows_of(explain(save_picture(), "-m", save_model(make_mean())))
        assert score == "255"

    @pytest.mark.parametrize(
        ("score", "text"), [(0.5, "50.0%"), (1, "100.0%"), (1e-4, "<0.1%"), (0, "0.0%")]
    )
    def test_probabilities_are_percent(self, score: float, text: str) -> None:
        assert cli._format_score(score, True) == text

    def test_one_sigmoid_is_one_class(self) -> None:
        inputs = keras.Input((4, 4, 3))
        x = layers.GlobalAveragePooling2D()(layers.Conv2D(2, 1, name="features")(inputs))
        outputs = layers.Dense(1, activation="sigmoid", kernel_initializer="zeros")(x)
        model = save_model(keras.Model(inputs, outputs))
        ((_, label, score, *_),) = rows_of(explain(save_picture(), "-m", model, "--top", "3"))
        assert (label, score) == ("0", "50.0%")

    def test_the_first_of_several_outputs_is_explained(self) -> None:
        inputs = keras.Input((4, 4, 3))
        x = layers.Conv2D(3, 1, kernel_initializer="ones", name="features")(inputs)
        outputs = {"b": layers.Dense(7)(x), "a": layers.GlobalAveragePooling2D()(x)}
        model = save_model(keras.Model(inputs, outputs))
        assert scores_of(save_picture(), "-m", model) == [383, 383, 383]

    @pytest.mark.parametrize("target", ["3", "-1"])
    def test_a_target_out_of_range_is_refused(self, target: str) -> None:
        assert refused(save_picture(), "-m", save_model(make_mean()), "-t", target) == (
            f"target {target} is out of range: the model puts out 3 classes, so that a target lies "
            "in [0, 3)"
        )

    def test_a_name_is_refused_where_names_are_not_known(self) -> None:
        line = refused(save_picture(), "-m", save_model(make_mean()), "-t", "cat")
        assert line.startswith("--target 'cat' is no index, and the names of the classes are not")

    def test_an_unknown_name_is_refused_with_the_nearest(self) -> None:
        assert refused("-t", "dack") == ("no class is called 'dack'; the nearest name is duck")
        assert refused("-t", "zzzzzz") == "no class is called 'zzzzzz'"


class TestClassNames:
    @pytest.mark.parametrize(
        ("file", "text"),
        [
            ("names.txt", "\ufeff" + "\n".join(NAMES) + "\n"),
            ("names.json", json.dumps(NAMES)),
            ("names.json", json.dumps(dict(enumerate(NAMES)))),
            ("names.json", json.dumps({str(i): ["n", name] for i, name in enumerate(NAMES)})),
        ],
    )
    def test_come_from_a_file(self, file: str, text: str) -> None:
        Path(file).write_text(text, encoding="utf-8")
        arguments = (save_picture(), "-m", save_model(make_mean(classes=4)), "--class-names", file)
        ((_, label, score, _, overlay),) = rows_of(explain(*arguments, "-t", "Dog/Wolf"))
        assert (label, score) == ("dog/wolf (1)", "128")
        assert Path(overlay) == Path("overlays/cat-dog_wolf.png")
        ((_, label, *_),) = rows_of(explain(*arguments, "-t", "Tabby_Cat"))
        assert label == "tabby cat (0)"
        rows = rows_of(explain(*arguments, "--top", "4"))
        assert [Path(row[4]).name for row in rows[2:]] == ["cat-crane.png", "cat-crane-2.png"]

    def test_that_two_classes_share_are_refused_as_target(self) -> None:
        Path("names.txt").write_text("\n".join(NAMES))
        model = save_model(make_mean(classes=4))
        line = refused(save_picture(), "-m", model, "--class-names", "names.txt", "-t", "crane")
        assert line == "several classes are called 'crane'; pass one of the indices 2, 3"

    def test_must_be_as_many_as_the_classes(self) -> None:
        Path("names.txt").write_text("cat\ndog")
        line = refused(save_picture(), "-m", save_model(make_mean()), "--class-names", "names.txt")
        assert line == "there are 2 class names, and the model puts out 3 classes"

    @pytest.mark.parametrize(
        ("file", "content", "reason"),
        [
            ("names.txt", None, "no such file"),
            (".", None, "Is a directory"),
            ("names.txt", b"\xff\xfe\x00", "neither UTF-8 text with one name a line"),
            ("names.json", b"{", "neither UTF-8 text with one name a line"),
            ("names.json", b"3", "neither UTF-8 text with one name a line"),
            ("names.json", b'{"1": "cat"}', "neither UTF-8 text with one name a line"),
            ("names.json", b"[1, 2]", "neither UTF-8 text with one name a line"),
        ],
    )
    def test_that_cannot_be_read_are_refused(
        self, file: str, content: bytes | None, reason: str
    ) -> None:
        if content is not None:
            Path(file).write_bytes(content)
        Path("model.keras").touch()  # they are read first
        line = refused(save_picture(), "-m", "model.keras", "--class-names", file)
        assert line.startswith(f"--class-names {file}: {reason}")


class TestLayer:
    @pytest.mark.parametrize("layer", ["copy", "1", "-3"])
    def test_is_found_by_name_and_index(self, layer: str) -> None:
        arguments = (save_picture(), "-m", save_model(make_mean()), "--layer", layer)
        assert [row[3] for row in rows_of(explain(*arguments))] == ["copy"]

    @pytest.mark.filterwarnings("ignore::UserWarning")
    def test_is_found_in_a_model_that_was_never_called(self) -> None:
        model = save_model(Subclassed(name="fresh"))
        result = explain(save_picture(), "-m", model, "-l", "copy")
        assert [row[3] for row in rows_of(result)] == ["copy"]

    def test_is_found_by_path(self) -> None:
        model = save_model(keras.Sequential([keras.Input((4, 4, 3)), make_mean()], name="outer"))
        result = explain(save_picture(), "-m", model, "-l", "mean/copy")
        assert [row[3] for row in rows_of(result)] == ["mean/copy"]

    @pytest.mark.parametrize(
        ("layer", "line"),
        [
            ("copi", "no layer 'copi' in model 'mean'; the nearest name is 'copy'"),
            ("9", "no layer 9 in model 'mean': it has 4 layers, so that an index lies between"),
            ("head", "cat.png: layer 'head' has no spatial axes to draw a heatmap over"),
        ],
    )
    def test_that_is_not_there_or_has_no_map_is_refused(self, layer: str, line: str) -> None:
        model = save_model(make_mean())
        assert refused(save_picture(), "-m", model, "-l", layer).startswith(line)


class TestModelFile:
    @pytest.mark.parametrize("name", ["model.keras", "model.h5"])
    @pytest.mark.filterwarnings("ignore::UserWarning")
    def test_may_have_either_format(self, name: str) -> None:
        save_model(make_mean(), name)
        assert rows_of(explain(save_picture(), "-m", name))[0][2] == "255"

    def test_without_pictures_is_refused(self) -> None:
        assert refused("-m", "model.keras") == (
            "--model needs pictures to explain: pass their files, as in sightline explain --model "
            "model.keras cat.jpg"
        )

    def test_that_is_not_there_is_refused(self) -> None:
        assert refused(save_picture(), "-m", "no.keras") == "no.keras: no such file"
        Path("folder.keras").mkdir()
        assert refused(save_picture(), "-m", "folder.keras") == "folder.keras: not a file"

    @pytest.mark.parametrize("name", ["broken.keras", "broken.h5"])
    def test_that_cannot_be_read_is_refused(self, name: str) -> None:
        Path(name).write_bytes(b"not a model")
        line = refused(save_picture(), "-m", name)
        assert line.startswith(f"{name}: Keras cannot load this model: ")

    def test_with_code_in_it_is_refused(self) -> None:
        inputs = keras.Input((4, 4, 3))
        x = layers.Conv2D(3, 1)(layers.Lambda(lambda x: x * 2, output_shape=(4, 4, 3))(inputs))
        model = save_model(keras.Model(inputs, layers.GlobalAveragePooling2D()(x)))
        line = refused(save_picture(), "-m", model)
        assert line.startswith("model.keras: Keras cannot load this model: ")
        assert "Lambda" in line

    def test_whose_output_is_no_score_is_refused(self) -> None:
        inputs = keras.Input((4, 4, 3))
        model = save_model(keras.Model(inputs, layers.Conv2D(3, 1)(inputs)))
        line = refused(save_picture(), "-m", model)
        assert line.startswith("cat.png: the model's output must be class scores")


class TestApplication:
    @pytest.fixture
    def weights(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        """Stands for MobileNetV2 and its class names; returns the weights that are asked for."""
        asked: list[str] = []

        def build(weights: str) -> keras.Model:
            asked.append(weights)
            return make_mean(classes=1000)

        def decode(predictions: np.ndarray, top: int) -> list[list[tuple[str, str, float]]]:
            order = predictions[0].argsort()[::-1][:top]
            return [[("n0", f"name_{i}", float(predictions[0][i])) for i in order]]

        monkeypatch.setattr(keras.applications, "MobileNetV2", build)
        monkeypatch.setattr(keras.applications.mobilenet_v2, "decode_predictions", decode)
        return asked

    @pytest.mark.parametrize("name", ["MobileNetV2", "mobilenetv2", "mobilenet_v2"])
    def test_brings_weights_preprocessing_and_names(self, name: str, weights: list[str]) -> None:
        result = explain(save_picture(), "-m", name, "--top", "2")
        assert weights == ["imagenet"]
        assert [row[1:3] for row in rows_of(result)] == [
            ["name_0 (0)", "1"],
            ["name_1 (1)", "0.003922"],
        ]
        assert Path("overlays/cat-name_1.png").is_file()

    @pytest.mark.usefixtures("weights")
    def test_shows_downloads_apart_from_the_table(self, monkeypatch: pytest.MonkeyPatch) -> None:
        build = keras.applications.MobileNetV2

        def downloading(weights: str) -> keras.Model:
            print("Downloading data", flush=True)
            return build(weights=weights)

        monkeypatch.setattr(keras.applications, "MobileNetV2", downloading)
        result = explain(save_picture(), "-m", "mobilenetv2")
        assert result.stdout.startswith("Image")
        assert result.stderr == "Downloading data\n"

    def test_takes_no_options_for_files(self) -> None:
        assert refused(save_picture(), "-m", "VGG16", "--preprocess", "unit") == (
            "--preprocess is for model files; the application VGG16 brings its own"
        )

    def test_that_is_unknown_is_refused_with_the_nearest(self) -> None:
        line = refused(save_picture(), "-m", "mobilnetv2")
        assert line.startswith(
            "--model 'mobilnetv2' is neither a .keras or .h5 file nor a model of "
            "keras.applications; the nearest names are MobileNetV2"
        )

    def test_that_cannot_be_downloaded_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def offline(weights: str) -> keras.Model:
            raise Exception(f"URL fetch failure on https://{weights}: None -- [Errno -2] no name")

        monkeypatch.setattr(keras.applications, "MobileNetV2", offline)
        assert refused(save_picture(), "-m", "mobilenetv2") == (
            "MobileNetV2: its ImageNet weights cannot be had: URL fetch failure on "
            "https://imagenet: None -- [Errno -2] no name"
        )

    @pytest.mark.usefixtures("weights")
    def test_does_without_names_that_cannot_be_downloaded(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def offline(predictions: np.ndarray, top: int) -> None:
            raise Exception("URL fetch failure")

        monkeypatch.setattr(keras.applications.mobilenet_v2, "decode_predictions", offline)
        result = explain(save_picture(), "-m", "mobilenetv2")
        assert rows_of(result)[0][1] == "0"
        assert result.stderr == (
            "Warning: the names of the classes cannot be had: URL fetch failure\n"
        )

    @pytest.mark.parametrize(
        ("application", "module"),
        [
            ("MobileNetV3Small", "mobilenet_v3"),
            ("MobileNet", "mobilenet"),
            ("ResNet50V2", "resnet_v2"),
            ("EfficientNetV2B0", "efficientnet_v2"),
            ("NASNetMobile", "nasnet"),
        ],
    )
    def test_is_preprocessed_by_its_own_module(self, application: str, module: str) -> None:
        found = cli._application_module(application)
        assert found is getattr(keras.applications, module)

    def test_each_has_a_module(self) -> None:
        for name in cli._application_names():
            assert callable(cli._application_module(name).preprocess_input)


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

    def test_that_is_a_folder(self, good: tuple[str, ...]) -> None:
        Path("folder").mkdir()
        self.others_are_done(good, "folder", "cannot be read: .+")

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
        assert not [warning for warning in recwarn if warning.category is sightline.HeatmapWarning]


class TestOptions:
    """What is checked before the model is loaded: the model here cannot be."""

    @pytest.fixture(autouse=True)
    def _no_keras(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def load() -> None:
            raise AssertionError("Keras was asked for")

        monkeypatch.setattr(cli, "_import_keras", load)

    @pytest.mark.parametrize("alpha", ["-0.1", "1.5", "nan"])
    def test_alpha_lies_between_0_and_1(self, alpha: str) -> None:
        assert refused("--alpha", alpha) == f"--alpha must lie between 0 and 1, got {alpha}"

    def test_colormap_is_known(self) -> None:
        assert refused("--colormap", "Viridi").startswith(
            "unknown --colormap 'Viridi'; the nearest names are viridis, "
        )
        assert refused("--colormap", "%%%%").startswith("unknown --colormap '%%%%'; Matplotlib")

    def test_top_and_target_exclude_each_other(self) -> None:
        line = refused("--top", "2", "--target", "1")
        assert line == "--top and --target exclude each other: pass one of them"

    def test_output_is_a_folder(self) -> None:
        Path("file").touch()
        assert refused("-o", "file") == "--output must be a folder, and file is a file"

    @pytest.mark.parametrize("arguments", [["--alpha", "much"], ["--top", "x"], ["--nonsense"]])
    def test_are_of_their_kind(self, arguments: list[str]) -> None:
        result = run("explain", *arguments)
        assert result.exit_code == 2
        assert "Error" in result.stderr
        assert "Traceback" not in result.stderr


class TestFramework:
    def test_without_a_backend_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(keras.config, "backend", lambda: "numpy")
        assert refused().startswith("Keras cannot be used: sightline explains models on Keras's")


class TestTable:
    ROW = cli._Row("pictures/cat.png", "tabby cat (281)", "61.2%", "block/out", "overlays/cat.png")

    def test_loses_nothing_in_a_narrow_terminal(self) -> None:
        console = Console(width=50, force_terminal=True, record=True, file=io.StringIO())
        console.print(cli._table([self.ROW]))
        text = console.export_text()
        assert "…" not in text
        header = text.splitlines()[0]
        for name, cell in zip(
            ["Image", "Overlay"], [self.ROW.image, self.ROW.overlay], strict=True
        ):
            start = header.index(name)
            column = [line[start:] for line in text.splitlines()[2:]]
            shown = "".join(re.split(r"\s{2,}|\s*$", part)[0] for part in column)
            assert shown == cell


@pytest.mark.parametrize(
    ("message", "line"),
    [
        ("", "RuntimeError"),
        ("one\n  two\n\nthree", "one two"),
        ("Exception encountered when calling X.\n\n\x1b[1mwhy\x1b[0m\n\nArguments", "why"),
        ("long " * 200, "long " * 98 + "long ..."),
    ],
)
def test_a_reason_is_one_line(message: str, line: str) -> None:
    assert cli._reason(RuntimeError(message)) == line


def test_keras_models_with_real_weights(
    imagenet: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    build = keras.applications.MobileNetV2
    index = json.loads(imagenet("imagenet_class_index.json").read_text())
    names = [index[str(i)] for i in range(1000)]
    monkeypatch.setattr(
        keras.applications,
        "MobileNetV2",
        lambda weights: build(weights=str(imagenet("mobilenet_v2.weights.h5"))),
    )
    monkeypatch.setattr(
        keras.applications.mobilenet_v2,
        "decode_predictions",
        lambda predictions, top: [[(*names[i], 0.0) for i in predictions[0].argsort()[::-1]]],
    )
    result = explain(imagenet("cat_dog.jpg"), "-m", "MobileNetV2", "--top", "2")
    assert [row[1] for row in rows_of(result)] == ["bull_mastiff (243)", "boxer (242)"]
