"""Rows and parts: whole or not at all, and nothing in them twice."""

from __future__ import annotations

import itertools
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kerasight.base import Explanation, TargetExplanation
from kerasight.jobs import parts


def expl_of(*targets: int | str) -> Explanation:
    heat = np.linspace(0, 1, 6).reshape(2, 3)
    return Explanation(
        "net",
        method="Grad-CAM",
        layer="last",
        targets=[
            TargetExplanation(one, score=0.5, heatmap=heat, name=f"class {one}", signed=True)
            for one in targets
        ],
    )


def rows_of(key: str, *targets: int) -> list[parts.Row]:
    return parts.rows_of(key, "ab", expl_of(*targets or (0,)), b"jpeg")


def failed(key: str) -> list[parts.Row]:
    return parts.rows_of(key, None, Explanation("net", error="no picture"))


def keys(folder: Path) -> list[str]:
    found: list[str] = pq.read_table(folder / "parts", columns=["key"])["key"].to_pylist()
    return sorted(found)


def test_rows_have_all_that_is_known_of_an_explanation() -> None:
    table = parts.table_of([*rows_of("a", 3, 1), *failed("b")], {"version": "1"})
    assert table.schema == parts.schema()
    assert table.schema.metadata == {b"version": b"1"}
    first, second, third = table.to_pylist()
    assert first == {
        "key": "a",
        "hash": "ab",
        "place": 0,
        "target": 3,
        "name": "class 3",
        "score": 0.5,
        "is_probability": False,
        "layer": "last",
        "method": "Grad-CAM",
        "signed": True,
        "heatmap": [np.float16(value / 5) for value in range(6)],
        "shape": [2, 3],
        "picture": b"jpeg",
        "error": None,
    }
    assert (second["place"], second["target"], second["picture"]) == (1, 1, None)
    assert third == {
        **dict.fromkeys(table.schema.names),
        "key": "b",
        "error": "no picture",
    }


def test_what_is_no_class_has_a_name_alone() -> None:
    (row,) = parts.rows_of("a", None, expl_of("age"))
    assert (row["target"], row["name"]) == (None, "age")


def test_an_explanation_of_nothing_is_an_error() -> None:
    (row,) = parts.rows_of("a", None, Explanation("net", targets=[]))
    assert row["error"]


def test_a_part_is_written_after_so_many_pictures_and_at_the_end(tmp_path: Path) -> None:
    with parts.Parts(tmp_path, pictures=2) as writer:
        for number, key in enumerate("abcde"):
            writer.add(rows_of(key, 0, 1))
            assert len(parts.paths_of(tmp_path)) == (number + 1) // 2
    found = [pq.read_table(path)["key"].to_pylist() for path in parts.paths_of(tmp_path)]
    assert found == [["a", "a", "b", "b"], ["c", "c", "d", "d"], ["e", "e"]]
    with parts.Parts(tmp_path) as writer:  # the next come after these
        writer.add(rows_of("f"))
    assert [batch["key"][0].as_py() for batch in parts.batches_of(tmp_path)] == list("acef")


def test_a_part_is_written_after_some_time_or_when_it_is_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = itertools.count(0, 10)
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    with parts.Parts(tmp_path, seconds=25) as writer:
        for key in "ab":
            writer.add(rows_of(key))
        assert not parts.paths_of(tmp_path)
        writer.add(rows_of("c"))
        assert len(parts.paths_of(tmp_path)) == 1
    monkeypatch.undo()
    large = parts.rows_of("d", None, expl_of(0), bytes(2**26))
    with parts.Parts(tmp_path) as writer:
        writer.add(large)
        assert len(parts.paths_of(tmp_path)) == 2


def test_left_by_an_exception_it_writes_what_it_has(tmp_path: Path) -> None:
    def interrupted() -> None:
        with parts.Parts(tmp_path) as writer:
            writer.add(rows_of("a"))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert keys(tmp_path) == ["a"]


def test_interrupted_after_it_has_written_it_writes_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = parts.Parts(tmp_path)
    writer.add(rows_of("a"))
    begin = writer._begin

    def interrupt() -> None:
        monkeypatch.setattr(writer, "_begin", begin)
        raise KeyboardInterrupt

    monkeypatch.setattr(writer, "_begin", interrupt)
    with pytest.raises(KeyboardInterrupt), writer:
        writer.flush()
    assert keys(tmp_path) == ["a"]


def test_pictures_that_failed_are_told_and_taken_out(tmp_path: Path) -> None:
    with parts.Parts(tmp_path, {"by": "1"}, pictures=2) as writer:
        for key in "abcdef":
            writer.add(failed(key) if key in "bcdf" else rows_of(key))
    rows = [row for batch in parts.batches_of(tmp_path) for row in batch.to_pylist()]
    errors = {row["key"]: row["error"] for row in rows if row["error"] is not None}
    assert errors == dict.fromkeys("bcdf", "no picture")
    assert parts.finished_keys(tmp_path) == set("ae")
    assert parts.holds_answers(tmp_path)
    (tmp_path / "parts" / ".00000004.parquet.12345678.part").write_bytes(b"half")
    parts.mend(tmp_path)
    assert keys(tmp_path) == ["a", "e"]
    assert len(list((tmp_path / "parts").iterdir())) == 2  # a part of errors alone is deleted
    assert {pq.read_schema(path).metadata[b"by"] for path in parts.paths_of(tmp_path)} == {b"1"}


def test_a_part_that_is_deleted_while_it_is_read_is_left_out(tmp_path: Path) -> None:
    with parts.Parts(tmp_path, pictures=1) as writer:
        for key in "abc":
            writer.add(rows_of(key))
    found = parts.batches_of(tmp_path)
    next(found)
    parts.paths_of(tmp_path)[1].unlink()
    assert [batch["key"].to_pylist() for batch in found] == [["c"]]


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_a_part_that_was_cut_is_told_and_deleted_with_nothing_else(
    tmp_path: Path, share: float, caplog: pytest.LogCaptureFixture
) -> None:
    with parts.Parts(tmp_path, pictures=1) as writer:
        for key in "abc":
            writer.add(rows_of(key))
    path = parts.paths_of(tmp_path)[1]
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(ValueError, match=f"{path.name} is no whole part of a job .*; delete it"):
        parts.finished_keys(tmp_path)
    assert parts.holds_answers(tmp_path)
    parts.mend(tmp_path)
    assert f"{path.name} is no whole part of a job" in caplog.text
    assert keys(tmp_path) == ["a", "c"]


def test_a_parquet_file_of_something_else_is_refused_and_stays(tmp_path: Path) -> None:
    with parts.Parts(tmp_path) as writer:
        writer.add(rows_of("a"))
    other = tmp_path / "parts" / "other.parquet"
    pq.write_table(pa.table({"key": ["b"]}), other)
    for look in (parts.finished_keys, parts.mend):
        with pytest.raises(ValueError, match=r"other.parquet is no part of a job, as it has no"):
            look(tmp_path)
    assert other.exists()
