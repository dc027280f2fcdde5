"""Where the pictures of a job come from, what each is called, and how it is read again later."""

from __future__ import annotations

import csv
import os
import re
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kerasight.classifiers.pictures import is_picture, search
from kerasight.errors import PictureError, SetupError, reason

if TYPE_CHECKING:
    from jaxtyping import Shaped

__all__ = ["Again", "Entry", "Pictures", "find"]

_TABLES = (".csv", ".parquet")
_TARS = (".tar", ".tar.gz", ".tgz")

Wanted = Callable[..., bool]
"""Whether a picture is wanted, by its key; of a dataset, its doc comes second."""


@dataclass(frozen=True, eq=False)
class Entry:
    """A picture of a job.

    Attributes:
        key: What it is called.
        read: Reads the bytes of its file, or raises OSError or `PictureError`; None if it has none.
        path: Its file, if it is one by itself.
        doc: The model's input with its batch axis, if it comes from a dataset.
    """

    key: str
    read: Callable[[], bytes] | None = None
    path: Path | None = None
    doc: Shaped[np.ndarray, "1 ..."] | None = None


@dataclass(frozen=True)
class Pictures:
    """All pictures of a job.

    Attributes:
        facts: Where they come from, for the manifest and for `Again`.
        each: The pictures, one by one and in an order that stays, of those whose key is wanted.
            The others are not opened.
        total: How many there are, if that is known.
    """

    facts: Mapping[str, Any]
    each: Callable[[Wanted], Iterator[Entry]]
    total: int | None = None


def find(pictures: Any, column: str = "path", rank: int = 4) -> Pictures:
    r"""The pictures that a user names.

    Each has a key, which is what it is called in the job's rows:

    - of a folder, the path below the folder, with ``/`` between its parts;
    - of a list of paths, the path below the working directory, or the whole path if it is not below
      it; a path in the list may also be that of a folder or a tar;
    - of a table, the path as it stands there, likewise with ``/``;
    - of a tar, its name without the ending, as WebDataset has it; in a list, after the key of the
      tar and ``/``;
    - of a dataset, its number, from ``"000000"``.

    A byte in a name that is no UTF-8 is ``\xff``, or whatever it is, in the key.

    Args:
        pictures: The path of a folder, which is searched with its subfolders; of a CSV or Parquet
            file with a column of paths, relative to the file or absolute; of a tar, with gzip or
            without; or of a picture. Or a list of paths. Or a dataset, as
            `kerasight.explain_predictions` takes docs: a ``tf.data.Dataset``, a
            ``keras.utils.PyDataset``, an array, or any iterable of docs or batches. Labels in
            tuples are left off. It must come in the same order whenever the job goes on.
        column: The column of a table.
        rank: How many axes a batch of a dataset has.

    Raises:
        SetupError: If there is nothing of the kind, or it cannot be read.
        TypeError: If it is something else.
    """
    if isinstance(pictures, (str, os.PathLike)):
        path = Path(os.path.abspath(pictures))
        if not os.path.exists(path):
            raise SetupError(f"{pictures}: no such file or folder")
        if path.is_dir():
            return _of_folder(path)
        if path.name.lower().endswith(_TABLES):
            return _of_table(path, column)
        if _is_tar(path):
            facts = {"kind": "tar", "root": _text(str(path))}
            return Pictures(facts, lambda wanted: _in_tar(path, "", wanted))
        pictures = [path]
    if isinstance(pictures, (list, tuple)) and all(
        isinstance(one, (str, os.PathLike)) for one in pictures
    ):
        return _of_list([Path(os.path.abspath(one)) for one in pictures])
    if isinstance(pictures, bytes) or not (
        isinstance(pictures, Iterable) or hasattr(pictures, "__getitem__")
    ):
        raise TypeError(
            "pictures must be the path of a folder, a table or a tar, a list of paths, or a "
            f"dataset, got {type(pictures).__name__}"
        )
    facts = {"kind": "dataset", "root": "the dataset"}
    return Pictures(facts, lambda wanted: _in_dataset(pictures, rank, wanted))


# Names


def _text(name: str) -> str:
    """A name as text: bytes that are no UTF-8, which Python keeps as surrogates, are escaped."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _raw(text: str) -> str:
    """What `_text` was made of, if there was anything to escape."""
    return re.sub(r"\\x([89a-f][0-9a-f])", lambda match: chr(0xDC00 + int(match[1], base=16)), text)


def _key(path: Path, root: Path) -> str:
    """The path below a folder, or all of it if it is elsewhere."""
    return _text((path.relative_to(root) if path.is_relative_to(root) else path).as_posix())


def _is_tar(path: Path) -> bool:
    return path.name.lower().endswith(_TARS)


# Kinds


def _of_folder(root: Path) -> Pictures:
    paths = _in_folder(root)

    def each(wanted: Wanted) -> Iterator[Entry]:
        for path in paths:
            if wanted(key := _key(path, root)):
                yield Entry(key, path.read_bytes, path)

    return Pictures({"kind": "folder", "root": _text(str(root))}, each, len(paths))


def _in_folder(folder: Path) -> list[Path]:
    found = search(folder)
    for unread, why in found.unread:
        raise SetupError(f"{unread} {why}; a job needs all folders below {folder}")
    if not found.pictures:
        left_out = f"; left out: {found.left_out}" if found.left_out else ""
        raise SetupError(f"{folder}: no picture in this folder{left_out}")
    return found.pictures


def _of_list(paths: Sequence[Path]) -> Pictures:
    root = Path.cwd()
    if not paths:
        raise SetupError("there are no pictures: the list of paths is empty")
    spread = [one for path in paths for one in (_in_folder(path) if path.is_dir() else [path])]

    def each(wanted: Wanted) -> Iterator[Entry]:
        for path in spread:
            key = _key(path, root)
            if _is_tar(path):
                yield from _in_tar(path, f"{key}/", wanted)
            elif wanted(key):
                yield Entry(key, path.read_bytes, path)

    total = None if any(map(_is_tar, spread)) else len(spread)
    return Pictures({"kind": "list", "root": _text(str(root))}, each, total)


def _of_table(path: Path, column: str) -> Pictures:
    rows = _in_csv if path.name.lower().endswith(".csv") else _in_parquet
    next(rows(path, column), None)  # raises now what is wrong with it

    def each(wanted: Wanted) -> Iterator[Entry]:
        for number, name in enumerate(rows(path, column), 1):
            if not name:
                if wanted(key := f"row {number}"):
                    yield Entry(key, partial(_nothing_in, column))
            elif wanted(key := _text(Path(name).as_posix())):
                place = Path(path.parent, name)
                yield Entry(key, place.read_bytes, place)

    facts = {"kind": "table", "root": _text(str(path.parent)), "table": path.name, "column": column}
    return Pictures(facts, each)


def _nothing_in(column: str) -> bytes:
    raise PictureError(f"there is no path in column {column!r}")


def _in_csv(path: Path, column: str) -> Iterator[str | None]:
    try:
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            rows = csv.DictReader(file)
            _check_column(path, column, rows.fieldnames or [])
            for row in rows:
                yield row[column]
    except (OSError, csv.Error) as error:
        raise SetupError(f"{path} cannot be read: {reason(error)}") from None


def _in_parquet(path: Path, column: str) -> Iterator[str | None]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with path.open("rb") as file:
            table = pq.ParquetFile(file)
            _check_column(path, column, table.schema_arrow.names)
            for batch in table.iter_batches(columns=[column]):
                yield from batch[column].cast(pa.string()).to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise SetupError(f"{path} cannot be read: {reason(error)}") from None


def _check_column(path: Path, column: str, columns: Sequence[str]) -> None:
    if column not in columns:
        there = ", ".join(map(repr, columns)) or "none"
        raise SetupError(f"{path} has no column {column!r}, but {there}; pass column=")


def _in_tar(path: Path, prefix: str, wanted: Wanted) -> Iterator[Entry]:
    with _tar(path) as tar:
        for member in tar:
            name = _name_in_tar(member)
            if name is not None and wanted(key := prefix + name):
                # Now, as the tar is read from its beginning to its end, and not by several threads.
                data = _of_member(tar, member)
                yield Entry(key, partial(bytes, data))


@contextmanager
def _tar(path: Path) -> Iterator[tarfile.TarFile]:
    try:
        with tarfile.open(path) as tar:
            yield tar
    except (OSError, EOFError, tarfile.TarError) as error:
        raise SetupError(
            f"{path} cannot be read, or not to its end: {reason(error)}; make or copy it again"
        ) from None


def _of_member(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    assert file is not None
    data = file.read()
    if len(data) < member.size:
        raise tarfile.ReadError("unexpected end of data")
    return data


def _name_in_tar(member: tarfile.TarInfo) -> str | None:
    """What a picture in a tar is called; None if it is no picture."""
    hidden = member.name.rpartition("/")[2].startswith(".")
    if hidden or not member.isfile() or not is_picture(Path(member.name)):
        return None
    return _text(Path(member.name).with_suffix("").as_posix())


def _in_dataset(dataset: Any, rank: int, wanted: Wanted) -> Iterator[Entry]:
    number = 0
    for given in _given(dataset):
        for doc in _docs(given, rank):
            if wanted(key := f"{number:06d}", doc):
                yield Entry(key, doc=doc)
            number += 1


def _given(dataset: Any) -> Iterator[Any]:
    """What a dataset holds."""
    import keras

    if isinstance(dataset, keras.utils.PyDataset):  # which has an end, but no iterator that stops
        return (dataset[number] for number in range(len(dataset)))
    return iter(dataset)


def _docs(given: Any, rank: int) -> Iterator[Shaped[np.ndarray, "1 ..."]]:
    """The docs in a batch, or a doc by itself."""
    if isinstance(given, tuple):
        given = given[0]  # (docs, labels)
    if isinstance(given, list):
        for one in given:
            yield from _docs(one, rank)
        return
    array = np.asarray(given)
    if array.dtype.kind not in "biuf" or array.ndim not in (rank - 1, rank):
        raise SetupError(
            f"a dataset must hold docs, arrays of {rank - 1} axes, or batches of {rank}; got "
            f"{type(given).__name__} of shape {array.shape}, {array.dtype}"
        )
    batch = array if array.ndim == rank else array[np.newaxis]
    yield from (batch[row : row + 1] for row in range(len(batch)))


# Later


class Again:
    """Reads the pictures of a job again, by their keys; to be closed.

    Args:
        facts: Where they came from, as of `Pictures`.
    """

    def __init__(self, facts: Mapping[str, Any]) -> None:
        """Nothing is opened yet."""
        self._kind = str(facts.get("kind"))
        self._root = str(facts.get("root"))
        self._tar: tuple[str, tarfile.TarFile, dict[str, tarfile.TarInfo]] | None = None

    def read(self, key: str) -> bytes | None:
        """The bytes of a picture's file; None if it is not there any more, or never was a file."""
        if self._kind == "dataset":
            return None
        try:
            if self._kind == "tar":
                return self._in_tar(self._root, key)
            if match := re.match(r"(.+?(?:\.tar|\.tar\.gz|\.tgz))/(.+)", key, re.I | re.S):
                place = _there(self._root, match[1])
                if self._kind == "list" and place.is_file():
                    return self._in_tar(str(place), match[2])
            return _there(self._root, key).read_bytes()
        except (OSError, EOFError, KeyError, tarfile.TarError):
            return None

    def _in_tar(self, path: str, name: str) -> bytes:
        if self._tar is None or self._tar[0] != path:
            self.close()
            tar = tarfile.open(_there("", path))  # noqa: SIM115
            members = {found: one for one in tar if (found := _name_in_tar(one)) is not None}
            self._tar = (path, tar, members)
        _, tar, members = self._tar
        return _of_member(tar, members[name])

    def close(self) -> None:
        """Close what is open."""
        if self._tar is not None:
            self._tar[1].close()
            self._tar = None


def _there(root: str, key: str) -> Path:
    """The file that a key stands for."""
    path = Path(root, key)
    return path if os.path.lexists(path) else Path(_raw(root), _raw(key))
