"""The rows of a job, and the Parquet files that hold them: its parts."""

from __future__ import annotations

import errno
import logging
import os
import secrets
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kerasight.checks import plural
from kerasight.errors import SetupError, reason
from kerasight.files import whole_file

if TYPE_CHECKING:
    import pyarrow as pa

    from kerasight.base import Explanation

__all__ = [
    "Parts",
    "Row",
    "batches_of",
    "failed_row",
    "finished_hashes",
    "finished_keys",
    "holds_answers",
    "mend",
    "paths_of",
    "rows_in",
    "rows_of",
    "schema",
    "table_of",
]

_log = logging.getLogger("kerasight")

_FOLDER = "parts"
_PICTURES = 1024  # in a part
_BYTES = 2**26  # of heatmaps and pictures in it, or it would fill the memory
_SECONDS = 30.0

Row = dict[str, Any]
"""A row by the names of `schema`; what it lacks is null."""


def schema() -> pa.Schema:
    """The columns of a job's rows: a row for each picture and target, or for one that failed."""
    import pyarrow as pa

    return pa.schema(
        [
            ("key", pa.string()),
            ("hash", pa.string()),
            ("place", pa.int32()),
            ("target", pa.int64()),
            ("name", pa.string()),
            ("score", pa.float64()),
            ("is_probability", pa.bool_()),
            ("layer", pa.string()),
            ("method", pa.string()),
            ("signed", pa.bool_()),
            ("heatmap", pa.list_(pa.float16())),
            ("shape", pa.list_(pa.int32())),
            ("picture", pa.binary()),
            ("error", pa.string()),
        ]
    )


def rows_of(
    key: str, hash: str | None, expl: Explanation, picture: bytes | None = None
) -> list[Row]:
    """The rows of an explanation, as dicts by the names of `schema`.

    Args:
        key: What the picture is called in the job.
        hash: The hash of its file or doc, if it could be read.
        expl: Its explanation. One with an ``error``, or without targets, is one row that says so.
        picture: A small JPEG of it, to be kept in the first of the rows.
    """
    if expl.error or not expl.targets:
        return [failed_row(key, hash, expl.error or "nothing of it was explained")]
    rows = []
    for place, one in enumerate(expl.targets):
        assert one.heatmap is not None
        is_class = not isinstance(one.target, str)
        rows.append(
            {
                "key": key,
                "hash": hash,
                "place": place,
                "target": int(one.target) if is_class else None,
                "name": one.name if is_class else one.target,
                "score": one.score,
                "is_probability": one.is_probability,
                "layer": expl.layer,
                "method": expl.method,
                "signed": one.signed,
                "heatmap": one.heatmap.astype(np.float16).ravel(),
                "shape": list(one.heatmap.shape),
                "picture": None if place else picture,
                "error": None,
            }
        )
    return rows


def failed_row(key: str, hash: str | None, error: str) -> Row:
    """The row of a picture that has no explanation, but an error."""
    return {"key": key, "hash": hash, "error": error}


def table_of(rows: Iterable[Mapping[str, Any]], metadata: Mapping[str, str] | None = None) -> Any:
    """Rows as an Arrow table.

    Args:
        rows: Rows as of `rows_of`; what they lack is null.
        metadata: What the schema says beside the columns.
    """
    import pyarrow as pa

    columns, rows = schema().with_metadata(metadata), list(rows)
    arrays = [pa.array([row.get(one.name) for row in rows], type=one.type) for one in columns]
    return pa.Table.from_arrays(arrays, schema=columns)


def rows_in(batch: pa.RecordBatch) -> Iterator[Row]:
    """The rows of a batch, with heatmaps as arrays: a Python number for each cell takes long."""
    heatmaps, others = batch["heatmap"], batch.drop_columns(["heatmap"])
    for place, row in enumerate(others.to_pylist()):
        values = heatmaps[place].values
        heatmap = None if values is None else values.to_numpy(zero_copy_only=False)
        yield {**row, "heatmap": heatmap}


@dataclass
class _Part:
    """A part that is not written yet."""

    path: Path
    rows: list[Row] = field(default_factory=list)
    pictures: int = 0
    bytes: int = 0


class Parts:
    """Writes rows, many at a time, each part whole or not at all.

    Left as a context, whatever the reason, it writes what it has.

    Args:
        folder: The job's folder.
        metadata: What each part says of how it was made, such as versions.
        pictures: How many pictures a part holds, at most.
        seconds: How long rows wait for others. What is not written yet is lost when the process is
            killed, and explained again.
    """

    def __init__(
        self,
        folder: Path,
        metadata: Mapping[str, str] | None = None,
        *,
        pictures: int = _PICTURES,
        seconds: float = _SECONDS,
    ) -> None:
        """Nothing is written yet."""
        self._folder = folder / _FOLDER
        self._metadata = metadata
        self._pictures = pictures
        self._seconds = seconds
        self._folder.mkdir(exist_ok=True)
        self._number = max((_number_of(path) for path in paths_of(folder)), default=0)
        self._begin()

    def _begin(self) -> None:
        """Begin a part. An interrupt comes before or after it has taken the place of the last."""
        self._number += 1
        self._written = time.monotonic()
        name = f"{self._number:08d}-{secrets.token_hex(4)}.parquet"
        self._part = _Part(self._folder / name)

    def add(self, rows: Sequence[Row]) -> None:
        """Add all rows of a picture.

        Raises:
            OSError: If it was time to write, and that failed. They are not lost: the next call
                tries again.
        """
        part = self._part
        part.bytes += sum(
            len(row.get("picture") or b"") + getattr(row.get("heatmap"), "nbytes", 0)
            for row in rows
        )
        part.pictures += 1
        part.rows.extend(rows)
        if (
            part.pictures >= self._pictures
            or part.bytes >= _BYTES
            or time.monotonic() - self._written >= self._seconds
        ):
            self.flush()

    def flush(self) -> None:
        """Write what has come since the last part.

        Raises:
            OSError: If that fails; the message says what to do.
        """
        if self._part.rows:
            # Interrupted just after it has written, it writes the same rows to the same file again.
            _write(table_of(self._part.rows, self._metadata), self._part.path)
            self._begin()

    def __enter__(self) -> Parts:
        return self

    def __exit__(self, *_: object) -> None:
        self.flush()


def _number_of(path: Path) -> int:
    number = path.name.partition("-")[0]
    return int(number) if number.isdecimal() else 0


def _write(table: Any, path: Path) -> None:
    """Write a part, so that it outlasts even a loss of power.

    Raises:
        OSError: If that fails; the message says what to do.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    data = pa.BufferOutputStream()
    pq.write_table(table, data, compression="zstd")
    try:
        with whole_file(path, "wb") as out:
            out.write(data.getvalue())
            out.flush()
            os.fsync(out.fileno())
        _sync(path.parent)
    except OSError as error:
        advice = "make room" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "see to that"
        raise OSError(
            error.errno,
            f"the job's part cannot be written: {reason(error)}; {advice}, and start the job again:"
            " it goes on after what it has written so far",
            str(path),
        ) from error


def _sync(folder: Path) -> None:
    """Have the names in a folder outlast a loss of power, where a folder can be opened."""
    if os.name != "nt":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


# Reading


class _BrokenError(ValueError):
    """A part is no whole Parquet file."""


def paths_of(folder: Path) -> list[Path]:
    """The parts of a job, in the order in which they were begun."""
    return sorted(
        path for path in (folder / _FOLDER).glob("*.parquet") if not path.name.startswith(".")
    )


def batches_of(
    folder: Path,
    columns: Sequence[str] | None = None,
    *,
    rows: int = 4096,
    keys: Collection[str] | None = None,
) -> Iterator[pa.RecordBatch]:
    """All rows of a job, some at a time; those of a picture one after the other.

    A job that is still running gives what it has written so far.

    Args:
        folder: The job's folder.
        columns: Which of the columns; None for all.
        rows: How many at a time, at most.
        keys: The pictures whose rows to give; None for all. The other columns are read of those
            parts alone that have some of them.

    Raises:
        SetupError: If a part is broken, or none of a job's.
    """
    for path in paths_of(folder):
        try:
            if keys is None:
                yield from _batches(path, columns, rows)
            else:
                yield from _of_keys(path, columns, rows, keys)
        except FileNotFoundError:  # it held errors alone, and the job has begun to try them again
            continue
        except _BrokenError as error:
            raise SetupError(
                f"{path} is no whole part of a job ({error}); delete it, and start the job again, "
                "which explains its pictures anew"
            ) from None


def _of_keys(
    path: Path, columns: Sequence[str] | None, rows: int, keys: Collection[str]
) -> Iterator[pa.RecordBatch]:
    import pyarrow as pa
    import pyarrow.compute as pc

    wanted = pa.array([*keys], pa.string())
    if any(
        pc.any(pc.is_in(batch["key"], wanted)).as_py() for batch in _batches(path, ["key"], rows)
    ):
        for batch in _batches(path, columns, rows):
            yield batch.filter(pc.is_in(batch["key"], wanted))


def _batches(path: Path, columns: Sequence[str] | None, rows: int) -> Iterator[pa.RecordBatch]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with path.open("rb") as file:  # whose own errors are not of its content
        try:
            part = pq.ParquetFile(file)
            if missing := set(schema().names) - set(part.schema_arrow.names):
                raise SetupError(
                    f"{path} is no part of a job, as it has no column {', '.join(sorted(missing))};"
                    " move it elsewhere"
                )
            yield from part.iter_batches(rows, columns=columns)
        except (pa.ArrowException, OSError) as error:
            if getattr(error, "errno", None) is not None:
                raise
            raise _BrokenError(reason(error)) from None


def finished_keys(folder: Path) -> set[str]:
    """The pictures of a job that are explained."""
    return {key for key, error in _keys(folder) if error is None}


def finished_hashes(folder: Path) -> dict[str, str | None]:
    """The pictures of a job that are explained, with the hashes of their files or docs."""
    found: dict[str, str | None] = {}
    for batch in batches_of(folder, ["key", "hash", "error"]):
        columns = (batch[name].to_pylist() for name in ("key", "hash", "error"))
        found.update((key, one) for key, one, error in zip(*columns, strict=True) if error is None)
    return found


def holds_answers(folder: Path) -> bool:
    """Whether any picture of a job is explained, or there may be one in a part that is broken."""
    try:
        return any(error is None for _, error in _keys(folder))
    except SetupError:
        return True


def _keys(folder: Path) -> Iterator[tuple[str, str | None]]:
    for batch in batches_of(folder, ["key", "error"]):
        yield from zip(batch["key"].to_pylist(), batch["error"].to_pylist(), strict=True)


def mend(folder: Path) -> None:
    """Make the parts of a job those of finished pictures alone, so that all others can be added.

    What was being written when the job was killed is deleted, and so is a part that is broken,
    which is said; parts with errors are written anew without them. Whenever this is interrupted, no
    finished picture is lost, and none stands twice. Only the process that has the job's lock may
    call it.

    Raises:
        OSError: If a part cannot be read or written.
        SetupError: If there is a Parquet file that is none of the job's.
    """
    for left in (folder / _FOLDER).glob(".*.part"):
        left.unlink()
    failed = 0
    for path in paths_of(folder):
        try:
            batches = _batches(path, ["error"], 4096)
            errors = sum(len(batch) - batch["error"].null_count for batch in batches)
            if errors:
                _write_without_errors(path)
        except _BrokenError as error:
            _log.warning(
                "%s is no whole part of a job (%s): it is deleted, and its pictures are explained "
                "anew",
                path,
                error,
            )
            path.unlink()
        else:
            failed += errors
    if failed:
        _log.info("to be tried again, as they failed before: %s", plural(failed, "picture"))


def _write_without_errors(path: Path) -> None:
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    table = pq.read_table(path, partitioning=None)
    table = table.filter(pc.is_null(table["error"]))
    if len(table):
        _write(table, path)
    else:
        path.unlink()
