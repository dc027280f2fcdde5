"""Running the command in this process, and the models and pictures to run it on."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers
from PIL import Image
from typer.testing import CliRunner, Result

from kerasight import cli
from kerasight.classifiers import models

COLOUR = (255, 128, 0)


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


def make_unit() -> keras.Model:
    """A head of one sigmoid unit, whose score for any picture is 0.5."""
    inputs = keras.Input((4, 4, 3))
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(2, 1, name="features")(inputs))
    outputs = layers.Dense(1, activation="sigmoid", kernel_initializer="zeros")(x)
    return keras.Model(inputs, outputs, name="unit")


def make_hidden() -> keras.Model:
    """Its scores are probabilities that come from no softmax or sigmoid."""
    inputs = keras.Input((4, 4, 3))
    x = layers.Conv2D(3, 1, kernel_initializer="ones", name="features")(inputs)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, x / keras.ops.sum(x, axis=-1, keepdims=True), name="hidden")


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
    x = layers.Conv2D(4, 3, padding="same", name="features")(inputs)
    x = layers.GlobalAveragePooling2D()(x)
    head = layers.Dense(3, activation="softmax", name="head")
    model = keras.Model(inputs, head(x), name="softmax")
    filters = np.random.default_rng(0).normal(0, 0.2, (3, 3, 3, 4))
    filters -= filters.mean(axis=(0, 1, 2))  # so that no picture drives the softmax to its ends
    model.get_layer("features").set_weights([filters, np.ones(4)])
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
    """Run the command; where a model file is passed, with the pixels as most models here want them.

    Without --preprocess, it would say each time that it takes them so.
    """
    if (
        any(Path(one).suffix in (".keras", ".h5") for one in arguments)
        and "--preprocess" not in arguments
    ):
        arguments = (*arguments, "--preprocess", "none")
    return run_as_it_is(*arguments)


def run_as_it_is(*arguments: str | Path) -> Result:
    try:
        runner = CliRunner(mix_stderr=False)
    except TypeError:  # newer ones always keep the two apart
        runner = CliRunner()
    return runner.invoke(cli.app, [str(argument) for argument in arguments])


def explain(*arguments: str | Path) -> Result:
    result = run("explain", *arguments)
    assert result.exit_code == 0, result.stderr
    return result


def refused(*arguments: str | Path, command: str = "explain") -> str:
    """The one line with which a command is refused."""
    result = run(command, *arguments)
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output + result.stderr
    lines = [line for line in result.stderr.splitlines() if not line.startswith("Note:")]
    assert len(lines) == 1, lines
    assert lines[0].startswith("Error: ")
    assert list(Path().glob("overlays/*")) == []
    assert not Path("evaluation.csv").exists()
    return lines[0].removeprefix("Error: ")


def forbid_keras(patch: pytest.MonkeyPatch) -> None:
    """The test fails if the command asks for Keras."""
    patch.setattr(models, "import_keras", lambda: pytest.fail("Keras was asked for"))


def rows_of(result: Result) -> list[list[str]]:
    """The table's lines, cell by cell."""
    lines = result.stdout.splitlines()
    assert re.split(r"\s{2,}", lines[0].strip()) == ["Image", "Class", "Score", "Layer", "Overlay"]
    return [re.split(r"\s{2,}", line.strip()) for line in lines[2 : lines.index("", 2)]]


def noise_picture(name: str = "noise.png", size: tuple[int, int] = (9, 7), seed: int = 0) -> str:
    """A picture of noise, of which a heatmap is not flat."""
    pixels = np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(name)
    return name


def noise_pictures(number: int, folder: str = "photos") -> None:
    """Pictures of noise, ``00.png`` and so on, each of its own seed."""
    for one in range(number):
        noise_picture(f"{folder}/{one:02}.png", seed=one)


def doc_of(name: str, side: int = 4) -> np.ndarray:
    """What the models here see of a picture, without preprocessing."""
    with Image.open(name) as picture:
        small = picture.convert("RGB").resize((side, side), Image.Resampling.BILINEAR)
    return np.asarray(small, dtype=np.float32)[None]


def scores_of(*arguments: str | Path) -> list[float]:
    """The plain scores of all classes of a model, in the order of the classes."""
    rows = rows_of(explain(*arguments, "--top", "9"))
    scores = {int(re.sub(r".*\((\d+)\)", r"\1", row[1])): row[2] for row in rows}
    return [
        float(score.rstrip("%")) / (100 if score.endswith("%") else 1)
        for _, score in sorted(scores.items())
    ]
