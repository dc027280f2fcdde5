"""Manifests: the question of a job, hashes of models, and the lock."""

from __future__ import annotations

import json
import os
import re
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tiny_models

from kerasight.cam.request import Request
from kerasight.jobs import manifest, parts

PICTURES = {"kind": "folder", "root": "/photos"}
VERSIONS = {"kerasight": "1"}


def asked_of(options: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    return manifest.asked_of(Request.of(options or {}), model="ab", pictures=PICTURES, **more)


def settle(folder: Path, asked: dict[str, Any]) -> manifest.Manifest:
    return manifest.settle(folder, asked, {"model": "cats.keras"}, VERSIONS)


def finish_one(folder: Path) -> None:
    """A part with a picture that is explained, so far as can be told without looking into it."""
    (folder / "parts").mkdir()
    (folder / "parts" / "00000001.parquet").touch()


def test_a_question_holds_what_answers_depend_on() -> None:
    options = {"method": "occlusion", "window": (2, 3), "baseline": 0.5, "batch_size": 3}
    assert asked_of(options, targets=[np.int64(3)], class_names=("a", "b")) == {
        "model": "ab",
        "pictures": PICTURES,
        "class_names": ["a", "b"],
        "targets": [3],
        "method": "occlusion",
        "window": [2, 3],
        "baseline": 0.5,
        "thumbnails": False,
        "draft": False,
    }
    named = asked_of(preprocess=tiny_models.make_doc)
    assert named["preprocess"] == "tiny_models.make_doc"


def test_arrays_are_told_apart() -> None:
    method, shape = "integrated-gradients", (8, 8, 3)
    zeros, ones = (
        asked_of({"method": method, "baseline": np.full(shape, value)}) for value in (0, 1)
    )
    assert zeros["baseline"] != ones["baseline"]
    assert zeros == asked_of({"method": method, "baseline": np.zeros(shape, int)})
    small = asked_of({"method": method, "baseline": np.zeros((2, 2))})
    assert small["baseline"] == [[0, 0], [0, 0]]


def test_what_cannot_be_written_down_is_refused() -> None:
    with pytest.raises(TypeError, match="a job cannot write down what object"):
        asked_of(layer=object())


@pytest.mark.parametrize("name", ["functional", "sequential", "subclassed, training argument"])
def test_the_hash_of_a_model_is_that_of_its_layers_and_weights(name: str) -> None:
    model, again = (tiny_models.MODELS[name]() for _ in range(2))  # with other names of layers
    for one in (model, again):
        one(tiny_models.doc_for(name))
    again.set_weights(model.get_weights())
    assert manifest.hash_of_model(model) == manifest.hash_of_model(again)
    weights = model.get_weights()
    weights[-1] = weights[-1] + 1
    again.set_weights(weights)
    assert manifest.hash_of_model(model) != manifest.hash_of_model(again)


def test_layers_count_where_weights_are_the_same() -> None:
    def hashed(**options: Any) -> str:
        layers = [keras.Input((4, 4, 1)), keras.layers.Conv2D(1, 2, **options)]
        model = keras.Sequential(layers)
        model.set_weights([np.ones((2, 2, 1, 1)), np.ones(1)])
        return manifest.hash_of_model(model)

    assert hashed() == hashed()
    assert len({hashed(), hashed(strides=2), hashed(activation="relu")}) == 3


def test_a_manifest_is_written_and_read(tmp_path: Path) -> None:
    asked = asked_of()
    written = settle(tmp_path, asked)
    assert manifest.manifest_of(tmp_path) == written
    assert (written.asked, written.facts, written.versions) == (
        asked,
        {"model": "cats.keras"},
        VERSIONS,
    )
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d", written.made)
    finish_one(tmp_path)
    assert settle(tmp_path, asked) == written


def test_another_question_is_refused_with_the_differences(tmp_path: Path) -> None:
    names = [f"a long name of class {number}" for number in range(100)]
    settle(tmp_path, asked_of({"method": "layercam", "smooth": 3}, class_names=names))
    settle(tmp_path, asked_of({"method": "layercam"}, class_names=names))  # nothing is answered
    finish_one(tmp_path)
    with pytest.raises(ValueError, match="asked something else") as told:
        settle(tmp_path, asked_of({"smooth": 5}, class_names=[*names[:-1], "b"]))
    assert re.search(
        r": class_names was \['a long name of class 0', .{,99}, is \['a long name .{,99}; "
        r"method was 'layercam', is 'grad-cam'; smooth was 0, is 5; ask the same, or pass another",
        str(told.value),
    )


def test_versions_are_those_of_what_runs() -> None:
    found = manifest.versions()
    framework = keras.config.backend()
    assert found["keras"] == keras.__version__
    assert found[framework] == sys.modules[framework].__version__
    assert set(found) == {"kerasight", "keras", framework, "numpy"}


def later(content: dict[str, Any]) -> str:
    return json.dumps({**content, "format": 2})


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (later, "has format 2, later than this version knows; upgrade kerasight"),
        (lambda content: json.dumps(content)[:40], "is broken"),
        (lambda content: "[]", "is broken"),
        (lambda content: json.dumps({**content, "kind": "something else"}), "is broken"),
        (lambda content: json.dumps({"kind": content["kind"], "format": 1}), "is broken"),
    ],
)
def test_a_manifest_of_a_later_version_or_a_broken_one_is_refused(
    tmp_path: Path, change: Callable[[dict[str, Any]], str], problem: str
) -> None:
    settle(tmp_path, asked_of())
    path = tmp_path / "manifest.json"
    path.write_text(change(json.loads(path.read_text())))
    before = path.read_text()
    for look in (manifest.manifest_of, lambda folder: settle(folder, asked_of())):
        with pytest.raises(ValueError, match=problem):
            look(tmp_path)
    assert path.read_text() == before


def test_what_is_no_job_is_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is no job: there is no such folder"):
        manifest.manifest_of(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"is no job: it has no manifest.json"):
        manifest.manifest_of(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"manifest.json cannot be read: Not a directory"):
        manifest.manifest_of(tmp_path / "file")


def test_a_folder_of_other_things_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with (
        pytest.raises(ValueError, match=r"not empty: it holds thesis.tex; pass another"),
        manifest.locked(tmp_path),
    ):
        pass
    assert os.listdir(tmp_path) == ["thesis.tex"]
    with (
        pytest.raises(ValueError, match=r"thesis.tex is a file; a job needs a folder"),
        manifest.locked(tmp_path / "thesis.tex"),
    ):
        pass


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "job"
    folder.mkdir()
    folder.chmod(stat.S_IRUSR | stat.S_IXUSR)
    if os.access(folder, os.W_OK):
        pytest.skip("this user may write everywhere")
    with (
        pytest.raises(ValueError, match="job cannot be a job's folder: Permission denied"),
        manifest.locked(folder),
    ):
        pass


def test_what_a_killed_process_left_is_no_hindrance(tmp_path: Path) -> None:
    left = tmp_path / ".manifest.json.0123abcd.part"
    left.touch()
    (tmp_path / ".lock").touch()
    with manifest.locked(tmp_path):
        assert not left.exists()


def test_the_lock_is_for_one_and_is_let_go(tmp_path: Path) -> None:
    with (
        manifest.locked(tmp_path),
        pytest.raises(ValueError, match="another process is at work on the job in"),
        manifest.locked(tmp_path),
    ):
        pass
    with manifest.locked(tmp_path):
        assert not parts.paths_of(tmp_path)
