"""How pixels become the input of a model file for which nothing was passed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from cli.commands import (
    Subclassed,
    explain,
    make_mean,
    rows_of,
    run_as_it_is,
    save_model,
    save_picture,
)
from keras import layers
from tiny_models import drawn_by_numpy

from kerasight.classifiers import preprocessing
from kerasight.cli.console import log_said

PATH = Path("model.keras")
UNTOLD = "without --preprocess, the model gets pixels of 0..255"

# What Keras calls models of its applications, where that is more than the application in small.
NAMES = {
    **{
        f"ConvNeXt{size}": f"convnext_{size.lower()}" for size in ("Base", "Large", "Small", "Tiny")
    },
    "ConvNeXtXLarge": "convnext_xlarge",
    **{f"EfficientNetV2{size}": f"efficientnetv2-{size.lower()}" for size in "LMS"},
    **{f"EfficientNetV2B{size}": f"efficientnetv2-b{size}" for size in range(4)},
    "InceptionResNetV2": "inception_resnet_v2",
    "InceptionV3": "inception_v3",
    "MobileNet": "mobilenet_0.25_224",
    "MobileNetV2": "mobilenetv2_1.00_None",
    "MobileNetV3Large": "MobileNetV3Large",
    "MobileNetV3Small": "MobilenetV3small",
    "NASNetLarge": "nasnet_large",
    "NASNetMobile": "nasnet_mobile",
}
# The families that preprocess themselves.
INSIDE = ("ConvNeXt", "EfficientNet", "MobileNetV3")


def told(model: keras.Model, capsys: pytest.CaptureFixture[str], channels: int = 3) -> Any:
    """What is taken for a model, and what is said of it."""
    with log_said():
        return preprocessing.of_model(PATH, model, channels), capsys.readouterr().err


def behind(*first: Any, name: str = "model") -> keras.Model:
    """A convolution behind layers, or functions of a tensor."""
    inputs = x = keras.Input((32, 32, 3))
    for layer in (*first, layers.Conv2D(2, 1), layers.GlobalAveragePooling2D()):
        x = layer(x)
    return keras.Model(inputs, x, name=name)


class Scales(keras.Model):
    """Rescales in its call, with a layer that is made after the convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = [layers.Conv2D(2, 1), layers.GlobalAveragePooling2D()]
        self.scale = layers.Rescaling(1 / 255)

    def call(self, inputs: Any) -> Any:
        x = self.scale(inputs)
        for step in self.steps:
            x = step(x)
        return x


class Halves(layers.Layer):
    """Nobody can tell from outside what it does."""

    def call(self, inputs: Any) -> Any:
        return inputs / 2


class Loop(layers.Layer):
    """Holds a layer that holds it, as some do to reach what is around them."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = layers.Conv2D(3, 1)
        vars(self.inner)["outer"] = self  # or Keras would not end, either

    def call(self, inputs: Any) -> Any:
        return self.inner(inputs)


class TestApplications:
    @pytest.mark.parametrize("application", preprocessing.applications())
    def test_are_known_by_the_names_of_their_models(
        self, application: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        name = NAMES.get(application, application.lower())
        taken, line = told(behind(name=name), capsys)
        if application.startswith(INSIDE):  # but here it does not, and theirs does nothing
            assert taken == "none"
            assert UNTOLD in line
        else:
            assert taken == preprocessing.module_of(application)
            assert line == (
                f"Note: model.keras: by its name, {name!r} is {application} of keras.applications, "
                f"so --preprocess {taken} is used; pass another if it was trained with another\n"
            )

    @pytest.mark.parametrize(
        ("application", "taken"),
        [
            ("MobileNet", "mobilenet"),
            ("MobileNetV2", "mobilenet_v2"),
            ("MobileNetV3Small", "none"),
            ("EfficientNetB0", "none"),
            ("VGG16", "vgg16"),
        ],
    )
    def test_are_preprocessed_once(
        self, application: str, taken: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        build = getattr(keras.applications, application)
        with drawn_by_numpy():
            backbone = build(weights=None, include_top=False, input_shape=(32, 32, 3))
        # Its first layers tell, and many models around all of them would take long to make.
        stem = keras.Model(backbone.input, backbone.layers[8].output, name=backbone.name)
        around = behind(layers.RandomFlip(), stem)
        for model in (backbone, around, keras.Sequential([keras.Input((32, 32, 3)), around])):
            found, line = told(model, capsys)
            assert found == taken
            assert (line == "") == (taken == "none")
        for first in (layers.Rescaling(1 / 255), lambda x: x / 255):
            assert told(behind(first, stem), capsys) == ("none", "")
        for unknown in (layers.Lambda(lambda x: x / 255), Halves(), layers.Conv2D(3, 1)):
            found, line = told(behind(unknown, stem), capsys)
            assert found == "none"
            assert line.startswith(f"Warning: model.keras: {UNTOLD}, and does not rescale them ")

    def test_may_have_the_name_of_both(self, capsys: pytest.CaptureFixture[str]) -> None:
        taken, line = told(behind(name="NASNet"), capsys)
        assert taken == "nasnet"
        assert "is NASNet of keras.applications" in line

    def test_without_their_preprocessing_are_told(self, capsys: pytest.CaptureFixture[str]) -> None:
        with drawn_by_numpy():
            model = keras.applications.MobileNetV3Small(
                weights=None,
                include_top=False,
                input_shape=(32, 32, 3),
                include_preprocessing=False,
            )
        taken, line = told(model, capsys)
        assert taken == "none"
        assert UNTOLD in line

    def test_of_grey_pictures_are_not_preprocessed(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        taken, line = told(behind(name="vgg16"), capsys, channels=1)
        assert taken == "none"
        assert UNTOLD in line

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
    def test_have_a_module_of_their_own(self, application: str, module: str) -> None:
        assert preprocessing.module_of(application) == module


class TestModel:
    @pytest.mark.parametrize(
        "model",
        [
            behind(layers.Rescaling(1 / 255)),
            behind(layers.RandomFlip(), layers.Resizing(16, 16), layers.Rescaling(1 / 255)),
            behind(layers.Normalization(mean=[1.0] * 3, variance=[2.0] * 3)),
            behind(keras.Sequential([layers.RandomFlip(), layers.Rescaling(1 / 255)])),
            behind(lambda x: x / 127.5 - 1),
            behind(keras.applications.vgg16.preprocess_input),
            keras.Sequential([layers.Rescaling(1 / 255), layers.Conv2D(3, 1)]),
            keras.Sequential([layers.Rescaling(1 / 255), Loop()]),
            Scales(),
        ],
    )
    def test_that_rescales_is_left_alone(
        self, model: keras.Model, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert told(model, capsys) == ("none", "")

    @pytest.mark.parametrize(
        "model",
        [
            behind(),
            behind(layers.RandomFlip(), layers.Dropout(0.5), layers.ZeroPadding2D()),
            behind(layers.Conv2D(3, 1), layers.Rescaling(0.5)),
            behind(lambda x: x + layers.Conv2D(3, 1)(x)),
            keras.Sequential([layers.Conv2D(3, 1), layers.Rescaling(1 / 255)]),
            keras.Sequential([Loop()]),
            Subclassed(),
        ],
    )
    def test_that_does_not_is_told(
        self, model: keras.Model, capsys: pytest.CaptureFixture[str]
    ) -> None:
        model(np.zeros((1, 32, 32, 3), np.float32))
        assert told(model, capsys) == (
            "none",
            f"Warning: model.keras: {UNTOLD}, and does not rescale them before its first "
            "convolution; pass the preprocessing of its training, such as --preprocess unit (0..1) "
            "or signed (-1..1), or none if that was 0..255\n",
        )

    def test_sees_what_is_taken_for_it(self) -> None:
        model = make_mean()
        named = save_model(keras.Model(model.input, model.output, name="mobilenetv2_1.00_224"))
        arguments = (save_picture(), "-m", named)
        result = run_as_it_is("explain", *arguments)
        assert result.stderr.startswith(
            "Note: model.keras: by its name, 'mobilenetv2_1.00_224' is MobileNetV2 "
        )
        assert rows_of(result)[0][2] == "1"  # 255 of 0..255 is 1 of -1..1
        result = explain(*arguments, "--preprocess", "none")
        assert result.stderr == ""
        assert rows_of(result)[0][2] == "255"


def test_a_file_with_real_weights_is_recognised(
    imagenet: Callable[[str], Path], mobilenet_v2: keras.Model
) -> None:
    names = str(imagenet("imagenet_class_index.json"))
    arguments = ("-m", save_model(mobilenet_v2), "--class-names", names)
    result = run_as_it_is("explain", imagenet("cat_dog.jpg"), *arguments)
    assert [row[1] for row in rows_of(result)] == ["bull_mastiff (243)"]
    assert "--preprocess mobilenet_v2 is used" in result.stderr
    assert json.loads(Path(names).read_text())["243"][1] == "bull_mastiff"
