"""Writers, by what they wrote: files, TensorBoard's events, and runs of W&B and MLflow."""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from fresh_python import imported_by
from PIL import Image

from kerasight import callbacks
from kerasight.callbacks import (
    FolderWriter,
    MlflowWriter,
    TensorBoardWriter,
    WandbWriter,
    Writer,
)

SIZE = (30, 20)
STEPS = (0, 3)
CAPTIONS = ["cat (0): 51.0%", "dog (1): 7.0%"]


def picture(step: int, number: int) -> Image.Image:
    return Image.new("RGB", SIZE, (step, number, 200))


def write(writer: Writer, tag: str = "cams") -> None:
    for step in STEPS:
        writer(tag, [picture(step, number) for number in range(2)], step, CAPTIONS)


def test_nothing_heavy_is_imported_until_it_is_used() -> None:
    use = (
        "import kerasight; kerasight.callbacks.TensorBoardWriter('logs'), dir(kerasight.callbacks)"
    )
    assert imported_by(use) == set()


def test_every_public_name_is_there() -> None:
    assert set(callbacks.__all__) <= set(dir(callbacks))
    assert issubclass(callbacks.ExplainPredictions, keras.callbacks.Callback)
    with pytest.raises(AttributeError, match="'Explain'"):
        _ = callbacks.Explain


def test_a_folder_has_files_that_sort_by_step(tmp_path: Path) -> None:
    write(FolderWriter(tmp_path / "new"), "of/cams")
    paths = sorted((tmp_path / "new" / "of").iterdir())
    assert [path.name for path in paths] == [
        f"cams-{step:06}-{number:02}.png" for step in STEPS for number in range(2)
    ]
    with Image.open(paths[3]) as stored:
        assert stored.getpixel((0, 0)) == (3, 1, 200)


def test_tensorboard_shows_the_pictures_of_each_step(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util.tensor_util import make_ndarray

    write(TensorBoardWriter(tmp_path))
    (file,) = (tmp_path / "explanations").iterdir()  # one for all steps
    events = EventAccumulator(str(file.parent)).Reload()
    assert events.Tags()["tensors"] == ["cams"]
    assert events.SummaryMetadata("cams").plugin_data.plugin_name == "images"
    found = events.Tensors("cams")
    assert [event.step for event in found] == list(STEPS)
    width, height, *files = make_ndarray(found[1].tensor_proto)
    assert (int(width), int(height)) == SIZE
    colours = [Image.open(io.BytesIO(one)).getpixel((0, 0)) for one in files]
    assert colours == [(3, 0, 200), (3, 1, 200)]


def test_tensorboard_shows_them_beside_what_keras_logs(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    pytest.importorskip("tensorflow")  # by which Keras logs on any framework
    from tensorboard.backend.event_processing.event_multiplexer import EventMultiplexer

    layers = [
        keras.layers.Conv2D(1, 1, kernel_initializer="ones"),
        keras.layers.GlobalMaxPooling2D(),
    ]
    model = keras.Sequential([keras.Input((4, 4, 1)), *layers])
    model.compile("sgd", "mse")
    docs = np.ones((2, 4, 4, 1))
    watch = [
        keras.callbacks.TensorBoard(tmp_path, write_graph=False),
        callbacks.ExplainPredictions(docs, TensorBoardWriter(tmp_path)),
    ]
    asked: dict[str, Any] = {"validation_data": (docs, np.ones(2)), "verbose": 0}
    model.fit(docs, np.ones(2), epochs=2, callbacks=watch, **asked)
    runs = EventMultiplexer().AddRunsFromDirectory(str(tmp_path)).Reload()
    assert set(runs.Runs()) == {"explanations", "train", "validation"}
    assert [event.step for event in runs.Tensors("explanations", "explanations")] == [0, 1, 2]


def test_wandb_has_the_pictures_with_the_step_for_their_axis(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb = pytest.importorskip("wandb")
    for name in ("CACHE", "CONFIG", "DATA"):
        monkeypatch.setenv(f"WANDB_{name}_DIR", str(tmp_path))
    with pytest.raises(ValueError, match=r"no active run.*wandb.init\(\)"):
        write(WandbWriter())
    with wandb.init(mode="offline", dir=tmp_path, project="kerasight") as run:
        write(WandbWriter())
        write(WandbWriter(run), "others")
        summary = dict(run.summary)
    assert summary["cams/step"] == summary["others/step"] == STEPS[-1]
    assert summary["cams"]["captions"] == CAPTIONS
    assert (summary["cams"]["count"], summary["cams"]["format"]) == (2, "png")
    stored = list(Path(run.dir).rglob("*.png"))
    assert len(stored) == 2 * 2 * len(STEPS)


def test_mlflow_has_the_pictures_by_doc_and_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # a database takes more than skinny has
    mlflow = pytest.importorskip("mlflow")
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri((tmp_path / "new").as_uri())
    try:
        with mlflow.start_run() as run:
            write(MlflowWriter())
    finally:
        mlflow.set_tracking_uri(before)
    folder = next(tmp_path.rglob(f"{run.info.run_id}/artifacts/images"))
    found = {}
    for path in folder.glob("*.png"):
        (number, step) = re.match(r"cams~(\d+)\+step\+(\d+)", path.name).groups()
        with Image.open(path) as stored:
            found[int(step), int(number)] = stored.getpixel((0, 0))
    assert found == {(step, number): (step, number, 200) for step in STEPS for number in range(2)}


@pytest.mark.parametrize(
    ("package", "writer"),
    [
        ("tensorboard", TensorBoardWriter("logs")),
        ("wandb", WandbWriter()),
        ("mlflow", MlflowWriter()),
    ],
)
def test_a_missing_package_is_told(
    package: str, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    for name in [name for name in sys.modules if name.startswith(package + ".")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(ImportError, match=f"this writer needs {package} .*pip install {package}"):
        write(writer)
