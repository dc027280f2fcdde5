"""Sources: what pictures are called, in which order, and how they are read again."""

from __future__ import annotations

import csv
import io
import os
import sys
import tarfile
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cli.commands import save_picture

from kerasight.jobs import sources
from kerasight.jobs.sources import Again, Entry


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def find(pictures: Any, *, done: Sequence[str] = (), **options: Any) -> list[Entry]:
    found = sources.find(pictures, **options)
    return list(found.each(lambda key, *_: key not in done))


def keys(pictures: Any, **options: Any) -> list[str]:
    """What they are called; each is what is read by its key later, too."""
    facts = sources.find(pictures, **options).facts
    with closing(Again(facts)) as again:
        for one in find(pictures, **options):
            if one.read is not None:
                assert again.read(one.key) == one.read()
    return [one.key for one in find(pictures, **options)]


def make_tar(path: str, names: Sequence[str], mode: Any = "w") -> str:
    data = Path(save_picture("one.png")).read_bytes()
    with tarfile.open(path, mode) as tar:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = len(data) + len(name)
            tar.addfile(info, io.BytesIO(data + name.encode("utf-8", "surrogateescape")))
    return path


def test_a_folder_by_paths_below_it() -> None:
    for name in ("b.png", "a/c.jpg", "a/.hidden.png", "d.txt"):
        Path("photos", name).parent.mkdir(parents=True, exist_ok=True)
        Path("photos", name).write_bytes(name.encode())
    assert keys("photos") == ["a/c.jpg", "b.png"]
    assert sources.find(Path("photos")).total == 2
    assert [one.key for one in find("photos", done=["a/c.jpg"])] == ["b.png"]
    (one,) = find("photos", done=["b.png"])
    assert one.path == Path("photos/a/c.jpg").resolve()


def test_a_list_of_paths_by_paths_below_the_working_directory(tmp_path: Path) -> None:
    elsewhere = tmp_path.parent / f"{tmp_path.name}-elsewhere.png"
    save_picture(str(elsewhere))
    for name in ("a.png", "photos/b.png", "photos/c.png"):
        save_picture(name)
    paths = ["photos", elsewhere, "./a.png", make_tar("t.tar", ["x/1.jpg"])]
    assert keys(paths) == [
        "photos/b.png",
        "photos/c.png",
        elsewhere.as_posix(),
        "a.png",
        "t.tar/x/1",
    ]
    assert sources.find(paths).total is None
    assert keys("a.png") == ["a.png"]
    elsewhere.unlink()


def test_a_table_by_the_paths_in_it(tmp_path: Path) -> None:
    names = ["a.png", "sub/b,\nc.png"]
    for name in names:
        save_picture(f"photos/{name}")
    paths = [*names, str(tmp_path / "photos" / "a.png")]
    with open("photos/table.csv", "w", newline="", encoding="utf-8-sig") as file:
        csv.writer(file).writerows([["label", "path"], *([1, path] for path in paths)])
    pq.write_table(pa.table({"file": pa.array(paths).dictionary_encode()}), "photos/t.parquet")
    expected = [*names, (tmp_path / "photos" / "a.png").as_posix()]
    assert keys("photos/table.csv") == expected
    assert keys("photos/t.parquet", column="file") == expected


def test_a_row_without_a_path_is_an_error_of_its_own() -> None:
    save_picture("a.png")
    Path("t.csv").write_text("n,path\n1,\n2,a.png\n3\n")
    first, second, third = find("t.csv")
    assert (first.key, second.key, third.key) == ("row 1", "a.png", "row 3")
    for one in (first, third):
        assert one.read is not None
        with pytest.raises(ValueError, match="there is no path in column 'path'"):
            one.read()


@pytest.mark.parametrize(("ending", "mode"), [(".tar", "w"), (".tar.gz", "w:gz"), (".tgz", "w:gz")])
def test_a_tar_by_names_without_their_endings(ending: str, mode: str) -> None:
    names = ["a/2.png", "a/1.jpg", "a/1.cls", "a/._1.jpg", "b.c.jpeg", "new\nline.png"]
    tar = make_tar(f"shard{ending}", names, mode)
    assert keys(tar) == ["a/2", "a/1", "b.c", "new\nline"]
    assert [one.key for one in find(tar, done=["a/2", "b.c"])] == ["a/1", "new\nline"]
    # Of several, each by its own name, as shards may count from 0 each.
    assert keys([tar, make_tar("more.tar", ["a/2.png"])])[-2:] == [
        f"shard{ending}/new\nline",
        "more.tar/a/2",
    ]


@pytest.mark.skipif(sys.platform != "linux", reason="names are text elsewhere")
def test_bytes_in_names_that_are_no_text_are_escaped() -> None:
    Path("photos").mkdir()
    name = os.fsdecode(b"caf\xe9.png")
    save_picture("a.png")
    Path("photos", name).write_bytes(b"x")
    assert keys("photos") == ["caf\\xe9.png"]
    assert keys(make_tar("t.tar", [name])) == ["caf\\xe9"]
    Path("t.csv").write_bytes(b"path\nphotos/caf\xe9.png\n")
    assert keys("t.csv") == ["photos/caf\\xe9.png"]


class Batches(keras.utils.PyDataset):
    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> Any:
        return np.full((2, 3, 3, 1), index), np.zeros(2)


def docs() -> Any:
    yield np.full((2, 3, 3, 1), 0), np.zeros(2)
    yield [np.full((3, 3, 1), 1), np.full((3, 3, 1), 1)]


@pytest.mark.parametrize(
    "dataset", [Batches(), docs(), np.repeat([0, 1], 2 * 9).reshape(4, 3, 3, 1), list(docs())]
)
def test_a_dataset_by_numbers(dataset: Any) -> None:
    found = find(dataset, done=["000001"])
    assert [one.key for one in found] == ["000000", "000002", "000003"]
    for one, value in zip(found, (0, 1, 1), strict=True):
        assert one.doc is not None
        np.testing.assert_array_equal(one.doc, np.full((1, 3, 3, 1), value))
    facts = sources.find(dataset).facts
    assert facts["kind"] == "dataset"
    assert Again(facts).read("000000") is None


def test_docs_of_another_rank() -> None:
    (one,) = find([np.zeros((5, 2))], rank=3)
    assert one.doc is not None
    assert one.doc.shape == (1, 5, 2)
    with pytest.raises(
        ValueError, match=r"arrays of 3 axes, or batches of 4; got ndarray of shape"
    ):
        find([np.zeros((5, 2))])
    with pytest.raises(ValueError, match="got str of shape"):
        find(iter(["a"]))


def test_what_is_not_there_is_told() -> None:
    for problem, pictures in {
        "nowhere: no such file or folder": "nowhere",
        "the list of paths is empty": [],
        "no picture in this folder; left out: 1 file that is no picture": "empty",
    }.items():
        Path("empty").mkdir(exist_ok=True)
        Path("empty/a.txt").touch()
        with pytest.raises(ValueError, match=problem):
            sources.find(pictures)
    with pytest.raises(TypeError, match=r"pictures must be the path of a folder, .*, got int"):
        sources.find(3)


def test_a_picture_that_is_not_there_is_an_error_of_its_own() -> None:
    (one,) = find(["nowhere.png"])
    assert one.read is not None
    with pytest.raises(FileNotFoundError):
        one.read()


def test_a_missing_column_is_told_with_those_that_are_there() -> None:
    Path("t.csv").write_text("file,n\na.png,1\n")
    pq.write_table(pa.table({"file": ["a.png"]}), "t.parquet")
    with pytest.raises(ValueError, match="no column 'path', but 'file', 'n'; pass column="):
        sources.find("t.csv")
    with pytest.raises(ValueError, match="no column 'path', but 'file'; pass column="):
        sources.find("t.parquet")
    Path("empty.csv").touch()
    with pytest.raises(ValueError, match="no column 'path', but none"):
        sources.find("empty.csv")


def test_broken_tables_and_tars_are_told_after_what_is_whole() -> None:
    Path("t.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match=r"t.parquet cannot be read: "):
        sources.find("t.parquet")
    whole = Path(make_tar("t.tar", ["a.png", "b.png", "c.png"])).read_bytes()
    Path("t.tar").write_bytes(whole[: 512 * 5])
    found = sources.find("t.tar").each(lambda _: True)
    assert next(found).key == "a"
    with pytest.raises(ValueError, match=r"t.tar cannot be read, or not to its end: .*; make or"):
        list(found)
    Path("t.tar.gz").write_bytes(b"no tar at all")
    with pytest.raises(ValueError, match=r"t.tar.gz cannot be read, or not to its end"):
        find("t.tar.gz")


def test_a_folder_that_cannot_be_read_is_told() -> None:
    save_picture("photos/a.png")
    save_picture("photos/closed/b.png")
    os.chmod("photos/closed", 0)
    try:
        if os.access("photos/closed", os.R_OK):
            pytest.skip("this user may read everything")
        with pytest.raises(ValueError, match="closed cannot be read: Permission denied; a job"):
            sources.find("photos")
    finally:
        os.chmod("photos/closed", 0o700)


def test_what_is_gone_is_not_read_again() -> None:
    save_picture("photos/a.png")
    tar = make_tar("t.tar", ["a.png"])
    for pictures, key in (("photos", "a.png"), (tar, "a"), ([tar], "t.tar/a")):
        facts = sources.find(pictures).facts
        Path("photos/a.png").rename("kept.png")
        Path(tar).rename("kept.tar")
        with closing(Again(facts)) as again:
            assert again.read(key) is None
            assert again.read("other") is None
        Path("kept.png").rename("photos/a.png")
        Path("kept.tar").rename(tar)
