"""The class that explains batches: the same rows wherever it is carried, and its errors."""

from __future__ import annotations

import gc
import io
import pickle
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
import pytest
from cli.commands import doc_of, make_mean, noise_picture, save_model
from PIL import Image

import kerasight
from kerasight.classifiers import model_files
from kerasight.jobs import manifest, parts, worker
from kerasight.jobs.pipeline import Item
from kerasight.jobs.worker import BatchExplainer

NAMES = ["red", "green", "blue"]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    yield
    worker._HERE.clear()


@pytest.fixture(scope="module")
def mean() -> keras.Model:
    """Its scores are the means of red, green and blue."""
    return make_mean()


@pytest.fixture
def explainer(mean: keras.Model) -> BatchExplainer:
    return BatchExplainer(mean, preprocess="none", class_names=NAMES)


def made(number: int = 3) -> list[str]:
    return [noise_picture(f"{one}.png", seed=one) for one in range(number)]


def copy_of(explainer: BatchExplainer) -> BatchExplainer:
    found: BatchExplainer = pickle.loads(pickle.dumps(explainer))
    return found


def check_rows(found: dict[str, np.ndarray], paths: list[str], mean: keras.Model) -> None:
    """The columns are those of what `explain_prediction` says of the pictures."""
    assert list(found) == parts.schema().names
    for place, path in enumerate(paths):
        expl = kerasight.explain_prediction(mean, doc_of(path), target_names=NAMES)
        assert expl.targets is not None
        row, (target,) = {name: column[place] for name, column in found.items()}, expl.targets
        assert (row["target"], row["name"], row["layer"]) == (target.target, target.name, "copy")
        assert row["score"] == pytest.approx(target.score, rel=1e-5)
        assert target.heatmap is not None
        np.testing.assert_allclose(row["heatmap"].reshape(row["shape"]), target.heatmap, atol=1e-3)
        assert row["heatmap"].dtype == np.float16
        assert row["error"] is None
    assert len(found["key"]) == len(paths)


# Batches


def test_all_columns_that_pictures_come_in_give_the_same_rows(
    mean: keras.Model, explainer: BatchExplainer
) -> None:
    paths = made()
    data = [Path(path).read_bytes() for path in paths]
    images = np.stack([np.asarray(Image.open(path)) for path in paths])
    docs = np.concatenate(list(map(doc_of, paths)))
    for array in (images, docs):  # as batches without a copy are
        array.setflags(write=False)
    for column in (
        {"path": np.array(paths)},
        {"bytes": np.array(data, object)},
        {"image": images},
        {"doc": docs},
    ):
        found = explainer({**column, "key": np.array(["a", "b", "c"]), "label": [1, 2, 3]})
        check_rows(found, paths, mean)
        assert list(found["key"]) == ["a", "b", "c"]
    hashes = [manifest.hash_of_file(path) for path in paths]
    assert list(explainer({"path": paths})["hash"]) == hashes
    assert list(explainer({"bytes": data})["hash"]) == hashes


def test_pictures_may_be_of_any_size_and_number_of_channels(explainer: BatchExplainer) -> None:
    colour = np.full((5, 6, 3), (255, 128, 0), np.uint8)
    images = np.empty(5, object)
    images[:] = [
        colour,
        np.tile(colour, (2, 3, 1)),
        np.dstack([colour, np.full((5, 6), 255, np.uint8)]),
        colour[..., 0],
        colour[..., :1],
    ]
    found = explainer({"image": images})
    assert list(found["error"]) == [None] * 5
    assert list(found["target"]) == [0] * 5
    np.testing.assert_allclose(list(found["score"]), 255, rtol=1e-5)


def test_a_frame_of_pandas_goes_in_and_out_as_spark_has_it(
    mean: keras.Model, explainer: BatchExplainer
) -> None:
    paths = made()

    def explain(frames: Iterator[pd.DataFrame]) -> Iterator[pd.DataFrame]:
        for frame in frames:
            yield pd.DataFrame(explainer({name: frame[name] for name in frame}))

    frame = pd.DataFrame({"path": paths}, index=[7, 8, 9])
    (found,) = explain(iter([frame]))
    check_rows({name: found[name].to_numpy() for name in found}, paths, mean)
    assert list(found["key"]) == paths


def test_a_list_of_dicts_goes_in_and_out_as_beam_has_it(
    mean: keras.Model, explainer: BatchExplainer
) -> None:
    paths = made()
    batch = [{"key": path.upper(), "bytes": Path(path).read_bytes()} for path in paths]
    found = explainer({name: [one[name] for one in batch] for name in batch[0]})
    rows = [dict(zip(found, row, strict=True)) for row in zip(*found.values(), strict=True)]
    assert [row["key"] for row in rows] == ["0.PNG", "1.PNG", "2.PNG"]
    check_rows(found, paths, mean)


def test_each_class_asked_for_is_a_row(mean: keras.Model) -> None:
    paths = made(2)
    found = BatchExplainer(mean, preprocess="none", targets=[2, 0], thumbnails=True)(
        {"path": paths}
    )
    assert list(found["place"]) == [0, 1, 0, 1]
    assert list(found["target"]) == [2, 0, 2, 0]
    assert [one is None for one in found["picture"]] == [False, True, False, True]
    with Image.open(io.BytesIO(found["picture"][0])) as picture:
        assert picture.format == "JPEG"


def test_a_picture_that_cannot_be_explained_is_a_row_with_its_error(
    explainer: BatchExplainer,
) -> None:
    (path,) = made(1)
    Path("broken.png").write_bytes(b"broken")
    found = explainer({"path": ["nowhere.png", path, None, "broken.png"], "key": list("abcd")})
    assert list(found["error"]) == [
        "no such file",
        None,
        "its path must be a text, got NoneType",
        "not a picture in a format that Pillow reads",
    ]
    assert list(found["key"]) == list("abcd")
    assert found["heatmap"][0] is found["place"][0] is found["score"][0] is None
    nan, whole = np.full((4, 4, 3), np.nan, np.float32), doc_of(path)[0]
    errors = explainer({"doc": [nan, whole, whole[:2]]})["error"]
    assert "NaN" in errors[0]
    assert errors[1] is None
    assert "(1, 2, 4, 3)" in errors[2]
    errors = explainer({"image": [whole, whole[..., :2].astype(np.uint8)]})["error"]
    assert "uint8 array" in errors[0]
    assert "(4, 4, 2), uint8" in errors[1]
    assert "bytes of a file, got str" in explainer({"bytes": [path]})["error"][0]


def test_what_has_no_name_gets_none(explainer: BatchExplainer) -> None:
    (path,) = made(1)
    assert explainer({"doc": doc_of(path)})["key"][0] is None
    assert explainer({"path": [path]})["key"][0] == path


def test_a_batch_without_pictures_or_with_two_kinds_of_them_is_refused(
    explainer: BatchExplainer,
) -> None:
    with pytest.raises(ValueError, match="one of the columns path, bytes, image, doc; it has 'k'"):
        explainer({"k": [1]})
    with pytest.raises(ValueError, match="it has 'path', 'bytes'"):
        explainer({"path": ["a"], "bytes": [b"a"]})
    assert all(len(column) == 0 for column in explainer({"path": []}).values())


def test_what_is_kept_for_the_next_batch_does_not_silence_warnings(
    explainer: BatchExplainer,
) -> None:
    filters = list(warnings.filters)
    explainer({"path": made()})
    assert warnings.filters == filters


@pytest.mark.parametrize("column", ["path", "image"])
def test_pictures_are_freed_at_once_and_not_when_garbage_is_collected(
    explainer: BatchExplainer, column: str
) -> None:
    pictures = made(8)
    batch = pictures if column == "path" else [np.asarray(Image.open(one)) for one in pictures]
    explainer({column: batch[:1]})
    gc.collect()
    gc.disable()
    try:
        explainer({column: batch})
        assert not [one for one in gc.get_objects() if isinstance(one, Item)]
    finally:
        gc.enable()


def test_threads_may_share_it(mean: keras.Model, explainer: BatchExplainer) -> None:
    paths = made()
    found: list[dict[str, np.ndarray]] = []
    threads = [
        threading.Thread(target=lambda: found.append(explainer({"path": paths}))) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 3
    for columns in found:
        check_rows(columns, paths, mean)


# Elsewhere


def test_copies_load_the_model_once_at_the_first_batch(
    mean: keras.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths, loaded = made(), []
    load = model_files.load_file

    def noted(path: Path, *given: Any) -> keras.Model:
        loaded.append(path)
        return load(path, *given)

    monkeypatch.setattr(model_files, "load_file", noted)
    of_file = BatchExplainer(save_model(mean), preprocess="none", class_names=NAMES)
    in_memory = BatchExplainer(mean, preprocess="none", class_names=NAMES)
    assert len(pickle.dumps(of_file)) < 1000
    for explainer in (of_file, in_memory):
        loaded.clear()
        copies = [copy_of(explainer), copy_of(copy_of(explainer))]
        assert not loaded
        for copy in copies:
            check_rows(copy({"path": paths}), paths, mean)
            check_rows(copy({"doc": np.concatenate(list(map(doc_of, paths)))}), paths, mean)
        assert len(loaded) == 1


def test_a_file_is_found_from_other_folders(
    mean: keras.Model, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    paths = [str(Path(path).absolute()) for path in made()]
    explainer = BatchExplainer(save_model(mean), preprocess="none", class_names=NAMES)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    check_rows(copy_of(explainer)({"path": paths}), paths, mean)


class Twice(keras.layers.Layer):
    """A layer that no other process knows."""

    def call(self, inputs: Any) -> Any:
        return 2 * inputs


def test_a_model_that_others_cannot_load_is_told_when_it_is_sent(mean: keras.Model) -> None:
    def with_last(layer: keras.layers.Layer) -> keras.Model:
        return keras.Sequential([keras.Input((4, 4, 3)), mean, layer], name="net")

    lambdas = with_last(keras.layers.Lambda(lambda inputs: 2 * inputs, name="twice"))
    with pytest.raises(ValueError, match=r"'net' .* Python code, in 'twice'; pass unsafe=True"):
        pickle.dumps(BatchExplainer(lambdas))
    paths = made(1)
    asked: dict[str, Any] = {"preprocess": "none", "targets": [0]}
    plain = BatchExplainer(mean, **asked)({"path": paths})["score"][0]
    copy = copy_of(BatchExplainer(lambdas, unsafe=True, **asked))
    assert copy({"path": paths})["score"][0] == pytest.approx(2 * plain)

    for last in (Twice(), keras.layers.Activation(doc_of)):
        custom = with_last(last)
        with pytest.raises(ValueError, match=r"'net' .* do not know '(Twice|doc_of)'; pass"):
            pickle.dumps(BatchExplainer(custom))
    Path("layers.py").write_text(
        "import keras\n\n\nclass Twice(keras.layers.Layer):\n"
        "    def call(self, inputs):\n        return 2 * inputs\n"
    )
    copy = copy_of(BatchExplainer(with_last(Twice()), imports=["layers.py"], **asked))
    assert copy({"path": paths})["score"][0] == pytest.approx(2 * plain)

    class Unsaved(keras.layers.Layer):
        def call(self, inputs: Any) -> Any:
            return inputs

        def get_config(self) -> dict[str, Any]:
            raise NotImplementedError("it has a file that is open")

    with pytest.raises(ValueError, match=r"Keras cannot save it: .*open; save it to a file"):
        pickle.dumps(BatchExplainer(with_last(Unsaved())))


def test_a_model_whose_memory_runs_out_at_one_picture_ends_the_batch_and_the_next_one_goes_on(
    mean: keras.Model, explainer: BatchExplainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kerasight.keras.explainer import Explainer

    paths, look = made(), Explainer.look
    most = 0

    def limited(self: Explainer, docs: Any, *given: Any) -> Any:
        if len(docs) > most:
            raise MemoryError("memory ran out as model 'mean' ran; pass a smaller batch_size")
        return look(self, docs, *given)

    monkeypatch.setattr(Explainer, "look", limited)
    with pytest.raises(ValueError, match=r"ran out at 0.png, by itself; have fewer .*batch_size"):
        explainer({"path": paths})
    most = 1
    check_rows(explainer({"path": paths}), paths, mean)


def test_wrong_arguments_are_refused_where_it_is_made(mean: keras.Model) -> None:
    with pytest.raises(TypeError, match="there is no option 'metod'"):
        BatchExplainer(mean, metod="grad-cam")
    with pytest.raises(ValueError, match="unknown method"):
        BatchExplainer(mean, method="nothing")
    with pytest.raises(ValueError, match="either targets or top_targets"):
        BatchExplainer(mean, targets=[0], top_targets=2)
    with pytest.raises(ValueError, match="must hold at least one class"):
        BatchExplainer(mean, targets=[])
    with pytest.raises(ValueError, match="no such file"):
        BatchExplainer("nowhere.keras")
    with pytest.raises(ValueError, match="unknown --preprocess 'nothing'"):
        BatchExplainer(mean, preprocess="nothing")
    with pytest.raises(ValueError, match=r"neither a \.keras or \.h5 file nor a model"):
        BatchExplainer("MobilNet")({"path": []})
    with pytest.raises(ValueError, match=r"target.* 3"):
        BatchExplainer(mean, preprocess="none", targets=[3])({"path": []})
