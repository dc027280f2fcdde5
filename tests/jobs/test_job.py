"""Jobs: what they answer, that they go on, and that nothing is lost or stands twice."""

from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pyarrow as pa
import pytest
from cli.commands import doc_of, make_mean, noise_picture, noise_pictures, save_model
from frameworks import on_tensorflow, tf
from jobs import killing
from PIL import Image

import kerasight
from kerasight.jobs import Finished, job, manifest, parts, read, run, sources, worker
from kerasight.jobs.sources import Entry


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def mean() -> keras.Model:
    """Its scores are the means of red, green and blue."""
    return make_mean()


def explain(model: Any, pictures: Any = "photos", **options: Any) -> Finished:
    return run("job", pictures, model, **{"preprocess": "none", "progress": False, **options})


def told(finished: Finished) -> tuple[int, int, int]:
    return finished.done, finished.failed, finished.skipped


def rows() -> list[dict[str, Any]]:
    return read("job").to_pylist()


def times() -> Counter[str]:
    """How many rows each picture has in the Parquet files themselves."""
    return Counter(pa.parquet.read_table("job/parts", columns=["key"])["key"].to_pylist())


# What comes of it


def test_a_job_answers_as_explain_prediction_does(mean: keras.Model) -> None:
    noise_pictures(20)
    names = ["red", "green", "blue"]
    finished = explain(mean, class_names=names, top_targets=2, part_pictures=6)
    assert finished == Finished(20, 0, 0, Path("job"))
    assert len(os.listdir("job/parts")) == 4
    found = read("job").to_pylist()
    assert len(found) == 40
    for number in range(20):
        picture = f"{number:02}.png"
        doc = doc_of(f"photos/{picture}")
        expl = kerasight.explain_prediction(mean, doc, top_targets=2, target_names=names)
        assert expl.targets is not None
        for place, one in enumerate(expl.targets):
            row = found[2 * number + place]
            assert (row["key"], row["place"]) == (picture, place)
            assert row["hash"] == manifest.hash_of_file(f"photos/{picture}")
            assert (row["target"], row["name"]) == (one.target, one.name)
            assert row["score"] == pytest.approx(one.score, rel=1e-5)
            assert (row["layer"], row["method"]) == ("copy", "Grad-CAM")
            assert not row["signed"]
            assert not row["is_probability"]
            assert one.heatmap is not None
            heatmap = np.array(row["heatmap"]).reshape(row["shape"])
            np.testing.assert_allclose(heatmap, one.heatmap, atol=1e-3)
            assert row["picture"] is row["error"] is None


def test_pictures_may_be_kept_small(mean: keras.Model) -> None:
    noise_picture("photos/large.png", size=(400, 100))
    explain(mean, top_targets=2, thumbnails=True)
    first, second = (row["picture"] for row in rows())
    with Image.open(pa.BufferReader(first)) as picture:
        assert (picture.format, picture.size) == ("JPEG", (160, 40))
    assert second is None


def test_what_is_transparent_is_white_in_a_thumbnail() -> None:
    data = worker.thumbnail_of(Image.new("RGBA", (4, 4), (0, 0, 0, 0)))
    with Image.open(pa.BufferReader(data)) as picture:
        assert picture.getpixel((1, 1)) == (255, 255, 255)


def test_models_are_given_as_files_as_the_demo_and_with_a_function_of_their_own(
    mean: keras.Model,
) -> None:
    noise_pictures(3)
    explain(mean)
    expected = read("job")
    file = save_model(mean)
    run("of-file", "photos", file, preprocess="none", progress=False)
    assert read("of-file") == expected

    def to_doc(picture: Image.Image) -> np.ndarray:
        small = picture.convert("RGB").resize((4, 4), Image.Resampling.BILINEAR)
        return np.asarray(small, np.float32)[np.newaxis]

    for name, model in (("by-function", mean), ("file-by-function", file)):
        run(name, "photos", model, preprocess=to_doc, progress=False)
        assert read(name) == expected
    run("demo", "photos", None, progress=False)
    assert set(read("demo")["name"].to_pylist()) <= set(kerasight.demo.CLASS_NAMES)


def test_datasets_are_explained_by_their_numbers_and_keep_their_pictures(
    mean: keras.Model,
) -> None:
    noise_pictures(5)
    docs = np.concatenate([doc_of(f"photos/{one:02}.png") for one in range(5)])
    batches = [(docs[:3], np.zeros(3)), (docs[3:], np.zeros(2))]
    assert told(explain(mean, batches, preprocess=None)) == (5, 0, 0)
    assert [row["key"] for row in rows()] == [f"00000{one}" for one in range(5)]
    assert all(row["picture"] for row in rows())
    explain_of_folder = run("folder", "photos", mean, preprocess="none", progress=False)
    assert explain_of_folder.done == 5
    assert read("folder")["heatmap"] == read("job")["heatmap"]
    assert told(explain(mean, batches, preprocess=None)) == (0, 0, 5)
    with pytest.raises(ValueError, match="doc 000000 of the dataset is another than when the job"):
        explain(mean, docs[::-1], preprocess=None)
    docs[1, 0, 0, 0] = np.nan
    finished = run("nan", docs, mean, progress=False)
    assert told(finished) == (4, 1, 0)
    assert "must be finite" in read("nan")["error"][1].as_py()


def test_a_tf_data_dataset_is_one(mean: keras.Model) -> None:
    docs = np.random.default_rng(0).uniform(0, 255, (5, 4, 4, 3)).astype(np.float32)
    dataset = tf.data.Dataset.from_tensor_slices((docs, np.arange(5))).batch(2)
    assert told(explain(mean, dataset, preprocess=None)) == (5, 0, 0)


# Going on


def test_a_job_goes_on_with_what_is_new_or_failed_before(
    mean: keras.Model, caplog: pytest.LogCaptureFixture
) -> None:
    noise_pictures(4)
    Path("photos/bad.png").write_bytes(b"broken")
    Path("photos/cut.png").write_bytes(Path("photos/00.png").read_bytes()[:60])
    assert told(explain(mean, part_pictures=2)) == (4, 2, 0)
    errors = {row["key"]: row["error"] for row in rows() if row["error"]}
    assert errors["bad.png"] == "not a picture in a format that Pillow reads"
    assert errors["cut.png"].startswith("cannot be read: ")
    assert read("job", errors=False).num_rows == 4

    noise_picture("photos/bad.png")
    noise_picture("photos/new.png", seed=99)
    with caplog.at_level("INFO"):
        assert told(explain(mean, part_pictures=2)) == (2, 1, 4)
    assert "to be tried again, as they failed before: 2 pictures" in caplog.text
    assert set(times().values()) == {1}
    assert len(times()) == 7


def test_finished_pictures_are_not_opened(mean: keras.Model) -> None:
    noise_pictures(3)
    explain(mean)
    before = Path("job/parts", *os.listdir("job/parts")).read_bytes()
    for path in Path("photos").iterdir():
        path.write_bytes(b"something else")
    assert told(explain(mean)) == (0, 0, 3)
    assert Path("job/parts", *os.listdir("job/parts")).read_bytes() == before


def test_the_same_picture_twice_is_explained_once(
    mean: keras.Model, caplog: pytest.LogCaptureFixture
) -> None:
    noise_pictures(2)
    paths = ["photos/00.png", "photos/01.png", Path("photos/../photos/00.png").resolve()]
    assert told(explain(mean, paths)) == (2, 0, 0)
    assert "1 picture came more than once" in caplog.text
    assert times() == {"photos/00.png": 1, "photos/01.png": 1}


def test_names_may_hold_newlines_and_bytes_that_are_no_text(mean: keras.Model) -> None:
    noise_pictures(1)
    names = {b"a\nb.png": "a\nb.png"}
    if sys.platform == "linux":
        names[b"c\xff.png"] = "c\\xff.png"
    for name in names:
        Path("photos", os.fsdecode(name)).write_bytes(Path("photos/00.png").read_bytes())
    explain(mean)
    assert set(times()) == {"00.png", *names.values()}
    assert all(expl.image is not None for expl in read("job", "explanations"))


def test_another_question_is_refused_with_each_difference(mean: keras.Model) -> None:
    noise_pictures(2)
    explain(mean)
    before = read("job")
    with pytest.raises(ValueError, match=re.escape("method was 'grad-cam', is 'layercam'; ask")):
        explain(mean, method="layercam")
    with pytest.raises(ValueError, match=r"top_targets was not given, is 2; smooth was 0, is 3;"):
        explain(mean, top_targets=2, smooth=3)
    weights = mean.get_weights()
    mean.set_weights([2 * weight for weight in weights])
    with pytest.raises(ValueError, match=r"asked something else: model was '\w{32}', is '\w{32}';"):
        explain(mean)
    mean.set_weights(weights)
    noise_picture("others/00.png")
    with pytest.raises(ValueError, match=r"pictures' root was '.*photos', is '.*others'"):
        explain(mean, "others")
    assert read("job") == before
    # How many go through the model at a time changes no answer.
    assert told(explain(make_mean(), batch_size=1)) == (0, 0, 2)


def test_where_nothing_is_explained_yet_another_question_may_be_asked(mean: keras.Model) -> None:
    Path("photos").mkdir()
    Path("photos/bad.png").write_bytes(b"broken")
    assert told(explain(mean)) == (0, 1, 0)
    noise_picture("photos/bad.png")
    assert told(explain(mean, method="layercam")) == (1, 0, 0)
    assert rows()[0]["method"] == "LayerCAM"


def test_a_part_that_was_cut_is_made_again(
    mean: keras.Model, caplog: pytest.LogCaptureFixture
) -> None:
    noise_pictures(6)
    explain(mean, part_pictures=2)
    whole = read("job")
    path = parts.paths_of(Path("job"))[1]
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match=rf"{path.name} is no whole part .*; delete it, and start"):
        read("job")
    assert told(explain(mean)) == (2, 0, 4)
    assert f"{path.name} is no whole part of a job" in caplog.text
    again = {row["key"]: row for row in rows()}
    assert again == {row["key"]: row for row in whole.to_pylist()}
    assert set(times().values()) == {1}


def test_wrong_arguments_are_refused_and_leave_no_folder(mean: keras.Model) -> None:
    noise_pictures(1)
    for problem, options in {
        "there is no option 'mehtod'; the nearest name is method": {"mehtod": "layercam"},
        "unknown method 'x'": {"method": "x"},
        "target 3 is out of range": {"targets": [3]},
        "pass either targets or top_targets": {"targets": [0], "top_targets": 1},
        "unknown --preprocess 'x'": {"preprocess": "x"},
        "progress must be": {"progress": 1},
    }.items():
        with pytest.raises((TypeError, ValueError), match=problem):
            explain(mean, **options)
    with pytest.raises(ValueError, match="preprocess is for pictures, and a dataset holds"):
        explain(mean, np.zeros((1, 4, 4, 3)))
    with pytest.raises(ValueError, match="--preprocess is for model files; the demo model"):
        explain(None)
    assert not Path("job").exists()
    with pytest.raises(ValueError, match="no layer 'nope'"):
        explain(mean, layer="nope")
    assert told(explain(mean, layer="copy")) == (1, 0, 0)


def test_a_source_without_pictures_is_told(mean: keras.Model) -> None:
    with pytest.raises(ValueError, match="there is no picture in the dataset"):
        explain(mean, [np.zeros((0, 4, 4, 3))], preprocess=None)


def test_blank_heatmaps_are_counted(mean: keras.Model, caplog: pytest.LogCaptureFixture) -> None:
    for one in range(3):
        Image.new("RGB", (4, 4)).save(f"{one}.png")
    assert told(explain(mean, [f"{one}.png" for one in range(3)])) == (3, 0, 0)
    assert "0.png: the heatmap of class 0" in caplog.text
    assert "heatmaps of 3 pictures are blank or nearly so" in caplog.text
    assert len(caplog.records) == 2


# However it ends


def carry_out(explain: job.Explain = killing.explain, **options: Any) -> Finished:
    """A job over photos whose explanations need no model."""
    return job.carry_out(
        Path("job"),
        sources.find("photos"),
        explain,
        asked={"pictures": {"kind": "folder", "root": str(Path("photos").resolve())}},
        facts={},
        versions={"numpy": "2"},
        **{"progress": False, **options},
    )


def test_an_interrupt_keeps_what_is_explained() -> None:
    noise_pictures(9)

    def interrupted(pictures: Iterator[Entry]) -> Iterator[list[parts.Row]]:
        for number, found in enumerate(killing.explain(pictures)):
            if number == 5:
                raise KeyboardInterrupt
            yield found

    with pytest.raises(KeyboardInterrupt):
        carry_out(interrupted)
    assert len(times()) == 5
    assert told(carry_out()) == (4, 0, 5)
    assert set(times().values()) == {2}


def test_an_interrupt_in_the_model_keeps_what_came_out_of_it(
    mean: keras.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise_pictures(30)
    question = job.question_of("photos", mean, preprocess="none")
    pipeline = worker.Pipeline[Any]
    looked = iter(range(100))

    def begin(_: Any) -> None:
        if next(looked) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(
        worker,
        "Pipeline",
        {worker._Item: lambda *given, **options: pipeline(*given, begin=begin, **options)},
    )
    with pytest.raises(KeyboardInterrupt):
        carry_out(question.explain)
    assert len(times()) == 9  # the first, and the next eight


class FullDisk:
    """Files that are opened for bytes take no more than some, all together."""

    def __init__(self, room: int) -> None:
        self.room = room

    def __call__(self, path: Any, mode: str = "r", *given: Any, **options: Any) -> Any:
        file = open(path, mode, *given, **options)  # noqa: SIM115
        if mode == "xb":
            write = file.write
            file = _Writer(file, lambda data: self.written(write, data))
        return file

    def written(self, write: Any, data: Any) -> int:
        data = bytes(data)
        if len(data) > self.room:
            write(data[: self.room])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.room -= len(data)
        return int(write(data))


class _Writer:
    def __init__(self, file: Any, write: Any) -> None:
        self._file = file
        self.write = write

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def test_a_full_disk_is_told_and_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    noise_pictures(9)
    Path("photos/bad.png").write_bytes(killing.BROKEN)
    with monkeypatch.context() as patch:
        patch.setattr("kerasight.files.open", FullDisk(9000), raising=False)
        with pytest.raises(
            OSError, match=r"No space left on device; make room, and start"
        ) as told_:
            carry_out(part_pictures=2)
    assert told_.value.errno == errno.ENOSPC
    finished = len(times())
    assert 2 <= finished < 9
    assert not list(Path("job/parts").glob(".*"))
    # What failed is taken out of its part as the job goes on, for which there is no room either.
    with monkeypatch.context() as patch:
        patch.setattr("kerasight.files.open", FullDisk(0), raising=False)
        with pytest.raises(OSError, match="make room"):
            carry_out(part_pictures=2)
    assert len(times()) == finished
    carry_out(part_pictures=2)
    assert len(times()) == 10


def test_a_full_disk_is_asked_again_as_the_job_ends(tmp_path: Path) -> None:
    row = [parts.failed_row("a", None, "broken")]
    Path("job").mkdir()
    writer = parts.Parts(Path("job"), pictures=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kerasight.files.open", FullDisk(0), raising=False)
        with pytest.raises(OSError, match="make room"):
            writer.add(row)
    writer.flush()
    assert times() == {"a": 1}


def test_two_runs_never_write_to_one_folder(mean: keras.Model) -> None:
    noise_pictures(1)
    with (
        manifest.locked(Path("job")),
        pytest.raises(ValueError, match="another process is at work on the job in job; wait"),
    ):
        explain(mean)
    assert told(explain(mean)) == (1, 0, 0)


def test_other_versions_are_told_and_stand_in_the_parts(caplog: pytest.LogCaptureFixture) -> None:
    noise_pictures(2)
    carry_out()
    noise_picture("photos/new.png")
    job.carry_out(
        Path("job"),
        sources.find("photos"),
        killing.explain,
        asked=manifest.manifest_of(Path("job")).asked,
        facts={},
        versions={"numpy": "3"},
        progress=False,
    )
    assert (
        "goes on with other versions, whose heatmaps may differ: numpy was '2', is" in caplog.text
    )
    first, second = (pa.parquet.read_schema(path) for path in parts.paths_of(Path("job")))
    assert first.metadata[b"version of numpy"] == b"2"
    assert second.metadata[b"version of numpy"] == b"3"


@on_tensorflow  # or rather, on none
@pytest.mark.skipif(sys.platform == "win32", reason="processes are forked, and killed by a signal")
def test_killed_at_fifty_random_moments_each_picture_stands_once() -> None:
    number = 45
    for one in range(number):
        Path("pictures").mkdir(exist_ok=True)
        Image.new("RGB", (2, 2), (one, 0, 0)).save(f"pictures/{one:02}.png")
    for name in ("05x", "25x", "99"):
        Path(f"pictures/{name}.png").write_bytes(killing.BROKEN)
    done = subprocess.run(
        [sys.executable, killing.__file__, os.getcwd(), "50", "1"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for one in range(int(done.stdout)):
        folder = Path(f"job{one}")
        found = read(folder).to_pylist()
        assert Counter(row["key"] for row in found if row["error"] is None) == {
            f"{one:02}.png": 2 for one in range(number)
        }
        assert sorted(row["key"] for row in found if row["error"]) == [
            "05x.png",
            "25x.png",
            "99.png",
        ]
        for row in found:
            if row["error"] is None:
                assert row["score"] == int(row["key"][:2])
                assert row["heatmap"] == [np.float16(row["score"] / 255)] * 4
        assert sorted(os.listdir(folder)) == [".lock", "manifest.json", "parts"]
        assert not list((folder / "parts").glob(".*"))


@on_tensorflow
@pytest.mark.skipif(sys.platform == "win32", reason="processes are killed by a signal")
def test_a_real_job_that_is_killed_twice_goes_on_and_answers_as_one_that_is_not(
    mean: keras.Model,
) -> None:
    noise_pictures(60)
    file = save_model(mean)
    code = (
        "from kerasight.jobs import run; "
        f"run('job', 'photos', {file!r}, preprocess='none', part_pictures=2, smooth=40)"
    )
    written = 0
    for _ in range(2):
        process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
        until = written + 3
        while process.poll() is None and written < until:
            time.sleep(0.002)
            written = len(list(Path("job/parts").glob("[!.]*")))
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    before = len(times())
    assert 10 <= before < 60
    assert told(explain(file, smooth=40)) == (60 - before, 0, before)
    run("whole", "photos", file, preprocess="none", smooth=40, progress=False)
    by_key = {row["key"]: row for row in rows()}
    assert by_key == {row["key"]: row for row in read("whole").to_pylist()}
    assert set(times().values()) == {1}
    assert not list(Path("job/parts").glob(".*"))
