"""The callback: what it shows, what it refuses, and that it disturbs no training."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from frameworks import torch
from keras import layers, ops
from PIL import Image

import kerasight
from kerasight.callbacks import ExplainPredictions
from kerasight.formatters.image import format_as_sheet
from kerasight.targets import Class

# What weights are drawn at random speaks for no class now and then.
pytestmark = pytest.mark.filterwarnings("ignore::kerasight.base.HeatmapWarning")

Written = list[tuple[str, list[Image.Image], int, list[str]]]

BATCHES = 4  # in an epoch


def classifier(**asked: Any) -> keras.Model:
    """Draws at random as it trains, and has state that only training changes."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(4, 3),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.GlobalAveragePooling2D(),
            layers.Dropout(0.5),
            layers.Dense(2, activation="softmax"),
        ]
    )
    model.compile("adam", asked.pop("loss", "sparse_categorical_crossentropy"), **asked)
    return model


def docs_and_labels(number: int = 8 * BATCHES) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    docs = rng.normal(size=(number, 8, 8, 3)).astype("float32")
    return docs, rng.integers(0, 2, number)


DOCS, LABELS = docs_and_labels()


def fit(model: keras.Model, *callbacks: Any, **asked: Any) -> Any:
    asked = {"batch_size": 8, "epochs": 2, "verbose": 0} | asked
    return model.fit(DOCS, LABELS, callbacks=list(callbacks), **asked)


@pytest.fixture(scope="module")
def compiled() -> keras.Model:
    """A model whose training is compiled once for several tests."""
    return classifier()


@pytest.fixture
def written() -> Written:
    return []


@pytest.fixture
def write(written: Written) -> Callable[..., None]:
    def write(
        tag: str, pictures: Sequence[Image.Image], step: int, captions: Sequence[str]
    ) -> None:
        written.append((tag, list(pictures), step, list(captions)))

    return write


def test_a_training_is_bit_for_bit_what_it_is_without(tmp_path: Path) -> None:
    def trained(*callbacks: Any) -> tuple[list[np.ndarray], Any, int]:
        keras.utils.clear_session()  # an older Keras seeds its own generator once
        calls = 0

        def loss(true: Any, found: Any) -> Any:
            nonlocal calls  # of this Python code: a compiled training runs it when it is traced
            calls += 1
            return keras.losses.sparse_categorical_crossentropy(true, found)

        model = classifier(loss=loss, metrics=["accuracy"])
        found = fit(model, *callbacks, epochs=3, validation_data=(DOCS, LABELS))
        state = [*model.variables, *model.optimizer.variables, *model.metrics_variables]
        values = [ops.convert_to_numpy(one) for one in state]
        # What comes next at random is the same as well.
        values.append(ops.convert_to_numpy(keras.random.uniform((3,))))
        numpys = np.random.get_state()[1].tolist()  # noqa: NPY002
        return values, (found.history, numpys, random.getstate()), calls

    expected, expected_found, expected_calls = trained()
    for every, steps in (("epoch", 4), (3, 5)):
        # Three docs twice, each time: more than kerasight needs to compile its pass.
        watch = ExplainPredictions(DOCS[:3], tmp_path / str(every), every=every, smooth=2)
        values, found, calls = trained(watch)
        assert len(list((tmp_path / str(every)).iterdir())) == 3 * steps
        for one, other in zip(values, expected, strict=True):
            np.testing.assert_array_equal(one, other)
        assert found == expected_found
        assert calls == expected_calls


def test_modules_of_pytorch_stay_in_the_mode_that_they_are_in(write: Callable[..., None]) -> None:
    torch.is_tensor(None)  # or it is skipped
    model, modes = classifier(), []

    class Note(keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            model.layers[-1].eval()
            modes.append([layer.training for layer in (model, *model.layers)])

    note, other = Note(), Note()
    fit(model, note, ExplainPredictions(DOCS[:1], write, every=1), other)
    assert modes[0::2] == modes[1::2]
    assert {True, False} <= set(modes[0])


def test_pictures_are_those_of_the_model_as_it_is(
    write: Callable[..., None], written: Written
) -> None:
    def expected(model: keras.Model) -> list[Image.Image]:
        expls = kerasight.explain_predictions(model, DOCS[:2], top_targets=2)
        return [format_as_sheet([expl], alpha_limit=1).convert("RGB") for expl in expls]

    model = classifier()
    before = expected(model)
    fit(model, ExplainPredictions(DOCS[:2], write, tag="cam", top_targets=2, alpha_limit=1))
    (tag, pictures, step, captions), *_, (_, last, last_step, _) = written
    assert (tag, step, last_step) == ("cam", 0, 2)
    assert pictures == before
    assert last == expected(model) != before
    assert captions[0].count("class ") == captions[0].count("%") == 2


@pytest.mark.parametrize(
    ("asked", "of_fit", "steps"),
    [
        ({}, {}, [0, 1, 2]),
        ({}, {"initial_epoch": 5, "epochs": 7}, [5, 6, 7]),
        ({"every": 3}, {}, [0, 3, 6]),
        ({"every": 3}, {"initial_epoch": 1}, [4, 6]),
        ({"every": BATCHES}, {}, [0, 4, 8]),
    ],
)
def test_steps_are_the_epochs_or_batches_that_are_done(
    asked: Any,
    of_fit: Any,
    steps: list[int],
    compiled: keras.Model,
    write: Callable[..., None],
    written: Written,
) -> None:
    fit(compiled, ExplainPredictions(DOCS[:1], write, **asked), **of_fit)
    assert [step for _, _, step, _ in written] == steps


def test_batches_that_run_together_are_counted_one_by_one(
    write: Callable[..., None], written: Written
) -> None:
    if keras.config.backend() == "torch":
        pytest.skip("Keras on PyTorch runs batches one by one")
    if os.environ.get("KERASIGHT_LOWEST"):
        pytest.skip("this Keras tells the first of the batches that ran together")
    model = classifier(steps_per_execution=2)
    fit(model, ExplainPredictions(DOCS[:1], write, every=3))
    assert [step for _, _, step, _ in written] == [0, 4, 6]


def test_docs_of_a_model_that_is_not_built_are_explained_from_the_start(
    write: Callable[..., None], written: Written
) -> None:
    model = keras.Sequential([layers.Conv2D(2, 3), layers.GlobalMaxPooling2D(), layers.Dense(1)])
    model.compile("sgd", "mse")
    fit(model, ExplainPredictions(DOCS[:1], write))
    assert [step for _, _, step, _ in written] == [0, 1, 2]


def test_pictures_go_to_a_folder_by_name_and_to_functions(
    compiled: keras.Model, tmp_path: Path, write: Callable[..., None], written: Written
) -> None:
    image = Image.new("RGB", (200, 100), "red")
    watch = ExplainPredictions([DOCS[0]], [str(tmp_path), write], images=iter([image]))
    fit(compiled, watch, epochs=1)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["explanations-000000-00.png", "explanations-000001-00.png"]
    with Image.open(tmp_path / names[1]) as stored:
        assert stored.convert("RGB") == written[1][1][0]
        red, green, blue = (
            stored.convert("RGB").resize((1, 1), box=(10, 10, 210, 110)).getpixel((0, 0))
        )
        assert red > max(green, blue)


@pytest.mark.parametrize(
    ("arguments", "asked", "error", "message"),
    [
        ([iter([DOCS[0]])], {}, TypeError, "docs must be an array or a list.*take a batch"),
        ([DOCS[:0]], {}, ValueError, "docs must hold at least one doc"),
        ([DOCS, 3], {}, TypeError, "to must be a folder, a function .* got int"),
        ([DOCS], {"every": "batch"}, ValueError, 'every must be "epoch" or a number of batches'),
        ([DOCS], {"every": 0}, ValueError, "every must be at least 1"),
        ([DOCS], {"every": 1.5}, TypeError, "every must be an integer"),
        ([DOCS], {"tag": None}, TypeError, "tag must be a str"),
        ([DOCS], {"metod": "x"}, TypeError, "no argument 'metod'; the nearest name is method"),
        ([DOCS], {"errors": "keep"}, TypeError, "no argument 'errors'"),
        ([DOCS], {"method": "x"}, ValueError, "unknown method"),
        ([DOCS], {"target": Class(1), "targets": [1]}, ValueError, "pass either targets or"),
        ([DOCS], {"top_targets": 0}, ValueError, "top_targets must be"),
        ([DOCS], {"target_names": "ab"}, TypeError, "target_names must be a list"),
        ([DOCS], {"colormap": "x"}, ValueError, "colormap"),
        ([DOCS], {"alpha_limit": 2}, ValueError, "alpha_limit"),
    ],
)
def test_what_is_wrong_is_told_when_it_is_made(
    arguments: Any, asked: Any, error: Any, message: str
) -> None:
    with pytest.raises(error, match=message):
        ExplainPredictions(*arguments, **asked)


@pytest.mark.parametrize(
    ("docs", "asked", "message"),
    [
        (DOCS[:2], {"layer": "relu_x"}, "relu_x"),
        (DOCS[:2], {"targets": [2]}, "doc 0: target 2 is out of range"),
        (DOCS[:2, :4, :4, :2], {}, "shape"),
        (DOCS[:2], {"images": [None]}, "images must hold one for each"),
        (DOCS[:2], {"target_names": ["one"]}, "target_names must hold a name for each"),
    ],
)
def test_what_is_wrong_with_the_model_is_told_before_the_first_batch(
    docs: Any,
    asked: Any,
    message: str,
    compiled: keras.Model,
    write: Callable[..., None],
    written: Written,
) -> None:
    before = compiled.get_weights()
    with pytest.raises(ValueError, match=message):
        fit(compiled, ExplainPredictions(docs, write, **asked))
    assert not written
    for one, other in zip(compiled.get_weights(), before, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_model_without_a_place_to_look_at_is_refused(write: Callable[..., None]) -> None:
    model = keras.Sequential([keras.Input((4,)), layers.Dense(1)])
    model.compile("sgd", "mse")
    docs = DOCS[:, 0, :2].reshape(-1, 6)[:, :4]
    with pytest.raises(ValueError, match="not supported"):
        model.fit(docs, LABELS, callbacks=[ExplainPredictions(docs[:2], write)], verbose=0)


def test_a_writer_that_fails_later_is_told_once_and_ends_nothing(
    compiled: keras.Model,
    caplog: pytest.LogCaptureFixture,
    write: Callable[..., None],
    written: Written,
) -> None:
    def fail(tag: str, pictures: Any, step: int, captions: Any) -> None:
        if step:
            raise OSError("the disk is full")

    watch = ExplainPredictions(DOCS[:1], [fail, write])
    fit(compiled, watch, epochs=3)
    assert [step for _, _, step, _ in written] == [0, 1, 2, 3]
    (record,) = caplog.records
    assert (record.name, record.levelname) == ("kerasight", "WARNING")
    assert record.getMessage() == (
        "the pictures cannot be written after epoch 1, and training goes on: "
        "OSError: the disk is full"
    )


def test_docs_that_cannot_be_drawn_later_end_nothing(
    compiled: keras.Model,
    caplog: pytest.LogCaptureFixture,
    write: Callable[..., None],
    written: Written,
) -> None:
    calls = 0

    def colormap(heat: np.ndarray) -> np.ndarray:
        nonlocal calls
        calls += 1
        if calls > 2:  # when it is made, and before the first batch
            raise RuntimeError("no colours")
        return np.zeros((*heat.shape, 3))

    fit(compiled, ExplainPredictions(DOCS[:1], write, colormap=colormap))
    assert [step for _, _, step, _ in written] == [0]
    (record,) = caplog.records
    assert "the docs cannot be explained after epoch 1" in record.getMessage()


def test_a_model_that_has_become_nan_is_told_on_the_picture(
    write: Callable[..., None], written: Written
) -> None:
    model = classifier(loss=lambda true, found: ops.mean(found) * float("nan"))
    fit(model, ExplainPredictions(DOCS[:1], write))
    assert [step for _, _, step, _ in written] == [0, 1, 2]
    assert written[1][3][0].startswith("doc 0: ")
    assert "NaN" in written[1][3][0]
