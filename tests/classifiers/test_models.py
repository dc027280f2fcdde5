"""Models of the command: files, applications, their inputs, their class names."""

from __future__ import annotations

import json
from pathlib import Path

import keras
import numpy as np
import pytest
from cli.commands import (
    Subclassed,
    explain,
    make_area,
    make_mean,
    refused,
    rows_of,
    save_model,
    save_picture,
    scores_of,
)
from keras import layers

from kerasight.classifiers import models

NAMES = ["tabby cat", "dog/wolf", "crane", "crane"]


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
            "model 'table' takes no pictures: its input has shape (None, 10), and not (batch, "
            "height, width, channels)"
        )


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

    @pytest.mark.parametrize("inside", ["\x0b", "\x0c", "\x1c", "\x85", "\u2028"])
    def test_end_with_the_line_alone(self, inside: str) -> None:
        Path("names.txt").write_bytes(f"cat\r\ntabby{inside}dog\ncow\n".encode())
        assert models.read_class_names(Path("names.txt")) == ["cat", f"tabby{inside}dog", "cow"]

    def test_that_two_classes_share_are_refused_as_target(self) -> None:
        Path("names.txt").write_text("\n".join(NAMES))
        model = save_model(make_mean(classes=4))
        line = refused(save_picture(), "-m", model, "--class-names", "names.txt", "-t", "crane")
        assert line == "several classes are called 'crane'; pass one of the indices 2, 3"

    def test_must_be_as_many_as_the_classes(self) -> None:
        Path("names.txt").write_text("cat\ndog")
        line = refused(save_picture(), "-m", save_model(make_mean()), "--class-names", "names.txt")
        assert line == "there are 2 class names, and the model has 3 classes"

    @pytest.mark.parametrize(
        ("file", "content", "reason"),
        [
            ("names.txt", None, "no such file"),
            (".", None, "Is a directory"),
            ("names.txt", b"\xff\xfe\x00", "expected UTF-8 text with one name a line"),
            ("names.json", b"{", "expected UTF-8 text with one name a line"),
            ("names.json", b"3", "expected UTF-8 text with one name a line"),
            ("names.json", b'{"1": "cat"}', "expected UTF-8 text with one name a line"),
            ("names.json", b"[1, 2]", "expected UTF-8 text with one name a line"),
        ],
    )
    def test_that_cannot_be_read_are_refused(
        self, file: str, content: bytes | None, reason: str
    ) -> None:
        if content is not None:
            Path(file).write_bytes(content)
        line = refused(save_picture(), "-m", save_model(make_mean()), "--class-names", file)
        assert line.startswith(f"--class-names {file}: {reason}")


class TestModelFile:
    @pytest.mark.parametrize("name", ["model.keras", "model.h5"])
    @pytest.mark.filterwarnings("ignore::UserWarning")
    def test_may_have_either_format(self, name: str) -> None:
        save_model(make_mean(), name)
        assert rows_of(explain(save_picture(), "-m", name))[0][2] == "255"

    def test_without_pictures_is_refused(self) -> None:
        assert refused("-m", "model.keras") == (
            "--model needs pictures to explain: pass their files, as in kerasight explain --model "
            "model.keras cat.jpg"
        )

    def test_that_is_not_there_is_refused(self) -> None:
        assert refused(save_picture(), "-m", "no.keras") == "no.keras: no such file"
        Path("folder.keras").mkdir()
        assert refused(save_picture(), "-m", "folder.keras") == "folder.keras: not a file"

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
            "MobileNetV2: its ImageNet weights cannot be loaded: URL fetch failure on "
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
            "Warning: the names of the classes cannot be loaded: URL fetch failure\n"
        )


class TestFramework:
    def test_without_a_backend_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(keras.config, "backend", lambda: "numpy")
        assert refused().startswith("Keras cannot be used: kerasight explains models on Keras's")
