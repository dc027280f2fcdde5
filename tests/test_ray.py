"""On a cluster of this machine's: the same answers as in one process, and nothing lost."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from cli.commands import doc_of, make_mean, noise_picture, noise_pictures, save_model
from cli.commands import run as command
from frameworks import on_tensorflow_as_long
from PIL import Image

import kerasight
from kerasight.jobs import parts, read, run
from kerasight.ray import Cluster

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'kerasight[ray]'")
pytest.importorskip("ray.data")


@pytest.fixture(scope="module", autouse=True)
def _cluster() -> Iterator[None]:
    """Two CPUs, however many there are. A process starts for each worker, and imports Keras."""
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        object_store_memory=100 * 2**20,
        log_to_driver=False,
        logging_level="ERROR",
    )
    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    yield
    ray.shutdown()


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def mean() -> keras.Model:
    """Its scores are the means of red, green and blue."""
    return make_mean()


def deadly(times: int) -> Any:
    """Preprocessing that ends its process at a black picture, so many times."""
    tally = Path("tally").absolute()
    tally.touch()

    def prepare(picture: Image.Image) -> np.ndarray:
        pixels = np.asarray(picture.convert("RGB").resize((4, 4)), np.float32)[np.newaxis]
        if not pixels.any() and tally.stat().st_size < times:
            with tally.open("a") as file:
                file.write("x")
            os.kill(os.getpid(), signal.SIGKILL)
        return pixels

    return prepare


def table_of(folder: str) -> list[dict[str, Any]]:
    rows = read(folder).to_pylist()
    return sorted(rows, key=lambda row: (row["key"], row["place"] or 0))


def test_a_job_answers_as_in_one_process_though_a_worker_is_killed(mean: keras.Model) -> None:
    noise_pictures(20)
    Image.new("RGB", (9, 7)).save("photos/10.png")
    Path("photos/bad.png").write_bytes(b"broken")
    prepare = deadly(1)
    asked: dict[str, Any] = {"preprocess": prepare, "top_targets": 2, "progress": False}
    finished = run("job", "photos", mean, engine="ray", workers=2, batch_size=4, **asked)
    assert Path("tally").read_text() == "x"  # a worker was killed
    assert (finished.done, finished.failed, finished.skipped) == (20, 1, 0)
    run("alone", "photos", mean, **asked)
    found, alone = table_of("job"), table_of("alone")
    assert len(found) == 41
    for row, other in zip(found[:-1], alone[:-1], strict=True):
        assert row.pop("score") == pytest.approx(other.pop("score"), rel=1e-5)
        np.testing.assert_allclose(row.pop("heatmap"), other.pop("heatmap"), atol=1e-3)
        assert row == other
    assert found[-1] == alone[-1]
    assert found[-1]["error"] == "not a picture in a format that Pillow reads"
    # One process and the cluster go on with each other's jobs.
    noise_picture("photos/new.png", seed=99)
    finished = run("job", "photos", mean, **asked)
    assert (finished.done, finished.failed, finished.skipped) == (1, 1, 20)


def test_a_dataset_of_arrays_answers_as_explain_predictions_does(mean: keras.Model) -> None:
    noise_pictures(8)
    docs = np.concatenate([doc_of(f"photos/{one:02}.png") for one in range(8)])
    names = np.array([f"number {one}" for one in range(8)])

    def read_docs(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {"doc": docs[batch["id"]], "key": names[batch["id"]]}

    dataset = ray.data.range(8, override_num_blocks=4).map_batches(read_docs)
    # There is room for what reads, however many workers there are to be.
    found = kerasight.ray.explain(dataset, mean, batch_size=3, workers=2).to_pandas()
    assert list(found) == parts.schema().names
    assert sorted(found["key"]) == sorted(names)
    expls = kerasight.explain_predictions(mean, docs)
    rows = {row["key"]: row for row in found.to_dict("records")}
    for name, expl in zip(names, expls, strict=True):
        assert expl.targets is not None
        (target,), row = expl.targets, rows[name]
        assert (row["target"], row["layer"]) == (target.target, expl.layer)
        assert row["score"] == pytest.approx(target.score, rel=1e-5)
        assert target.heatmap is not None
        heatmap = np.reshape(row["heatmap"], row["shape"])
        np.testing.assert_allclose(heatmap, target.heatmap, atol=1e-3)


def test_the_command_goes_on_with_a_job_by_workers(mean: keras.Model) -> None:
    noise_pictures(3)
    model = save_model(mean)
    job = ["photos", "-m", model, "--preprocess", "none", "--job", "job", "--no-overlays"]
    result = command("explain", *job, "--engine", "ray", "--workers", "1", "--target", "1")
    assert result.stdout.splitlines() == [
        "3 pictures explained, 0 failed, 0 explained before",
        "Rows written to job",
    ]
    noise_picture("photos/new.png")
    result = command("explain", *job, "--target", "1")
    assert result.stdout.startswith("1 picture explained, 0 failed, 3 explained before")
    assert [row["target"] for row in table_of("job")] == [1] * 4


@on_tensorflow_as_long
def test_pictures_that_end_each_worker_end_the_job_and_nothing_else(mean: keras.Model) -> None:
    noise_pictures(6)
    Image.new("RGB", (9, 7)).save("photos/05.png")
    asked: dict[str, Any] = {"preprocess": deadly(9), "progress": False, "part_pictures": 2}
    with pytest.raises(ValueError, match=r"ended 3 times .*the same 2 pictures.*batch_size"):
        run("job", "photos", mean, engine="ray", workers=1, batch_size=2, **asked)
    assert Path("tally").read_text() == "xxx"
    there = [row["key"] for row in table_of("job")]
    assert "05.png" not in there
    Path("tally").write_text(9 * "x")  # whatever it was, it is over
    finished = run("job", "photos", mean, **asked)
    assert (finished.failed, finished.skipped) == (0, len(there))
    assert [row["key"] for row in table_of("job")] == [f"{one:02}.png" for one in range(6)]


def test_what_a_cluster_cannot_do_is_told_before_anything_is_sent(mean: keras.Model) -> None:
    noise_pictures(1)
    with pytest.raises(ValueError, match="workers must be at least 1"):
        kerasight.ray.explain("photos", mean, workers=0)
    with pytest.raises(ValueError, match="num_gpus must be at least 0"):
        Cluster(num_gpus=-1)
    with pytest.raises(TypeError, match=r"ray\.data\.from_numpy"):
        kerasight.ray.explain(np.zeros((2, 4, 4, 3), np.float32), mean)
    with pytest.raises(ValueError, match="pass engine='ray' as well"):
        run("job", "photos", mean, workers=2)
    with pytest.raises(ValueError, match="unknown engine 'spark'"):
        run("job", "photos", mean, engine="spark")  # type: ignore[arg-type]
    twice = keras.layers.Lambda(lambda inputs: 2 * inputs, name="twice")
    model = keras.Sequential([keras.Input((4, 4, 3)), mean, twice])
    with pytest.raises(ValueError, match="Python code, in 'twice'; pass unsafe=True"):
        kerasight.ray.explain("photos", model, preprocess="none")
    assert not Path("job").exists()
