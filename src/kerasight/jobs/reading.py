"""Reads a job back: as a table, or as the explanations that it was made of."""

from __future__ import annotations

import io
import itertools
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from kerasight.base import Explanation, TargetExplanation
from kerasight.checks import one_of
from kerasight.classifiers.pictures import read_picture
from kerasight.errors import PictureError
from kerasight.jobs import manifest, parts
from kerasight.jobs.sources import Again

if TYPE_CHECKING:
    import pyarrow as pa
    from PIL import Image

__all__ = ["explanations", "pictures_of", "read"]

_FORMS = ("arrow", "pandas", "explanations")
_KINDS = {1: "signal", 2: "picture", 3: "volume"}  # by the axes of a heatmap


def read(
    folder: str | os.PathLike[str],
    form: Literal["arrow", "pandas", "explanations"] = "arrow",
    *,
    errors: bool = True,
    pictures: bool = True,
) -> Any:
    """Read what a job has explained so far, whether it is finished, running or interrupted.

    Args:
        folder: The job's folder.
        form: ``"arrow"`` for a ``pyarrow.Table`` with the columns of `schema`; ``"pandas"`` for a
            ``pandas.DataFrame`` with the same; ``"explanations"`` for a stream of `Explanation`,
            one for each picture, of which memory holds one at a time.
        errors: Whether pictures that could not be explained are in it: rows whose ``error`` is not
            null, explanations that have one.
        pictures: Whether to read pictures: in tables the column ``picture``, which holds the small
            JPEGs that the job has kept. An explanation has the picture itself, from where the job
            had it, or else that JPEG; None if neither is there, or the file has changed.

    Returns:
        What ``form`` says.

    Raises:
        ImportError: If pandas is asked for, and is not installed.
        ValueError: If the folder holds no job, or one of its parts is broken, or there is no such
            form.
    """
    folder, form = Path(folder), one_of("form", form, _FORMS)  # type: ignore[assignment]
    manifest.manifest_of(folder)
    if form == "explanations":
        found = explanations(folder, errors=errors, pictures=pictures)
        return (expl for _, expl in found)
    if form == "pandas":
        try:
            import pandas  # noqa: F401
        except ImportError:
            raise ImportError('form="pandas" needs pandas: pip install pandas') from None
    table = _table(folder, errors, pictures)
    return table.to_pandas() if form == "pandas" else table


def _table(folder: Path, errors: bool, pictures: bool) -> pa.Table:
    import pyarrow as pa
    import pyarrow.compute as pc

    names = [name for name in parts.schema().names if pictures or name != "picture"]
    schema = pa.schema([parts.schema().field(name) for name in names])
    table = pa.Table.from_batches(parts.batches_of(folder, names), schema)
    return table if errors else table.filter(pc.is_null(table["error"]))


def explanations(
    folder: Path,
    *,
    errors: bool = True,
    pictures: bool = True,
    least: tuple[int, int] | None = None,
) -> Iterator[tuple[str, Explanation]]:
    """The explanations of a job, each after the key of its picture.

    Args:
        folder: The job's folder.
        errors: As in `read`.
        pictures: As in `read`.
        least: A width and height of pictures that are enough, to read JPEGs that are far larger in
            less time; None reads pictures as they are.

    Raises:
        SetupError: If the folder holds no job, or one of its parts is broken.
    """
    found = manifest.manifest_of(folder)
    names = [name for name in parts.schema().names if pictures or name != "picture"]
    rows = (
        row for batch in parts.batches_of(folder, names, rows=256) for row in parts.rows_in(batch)
    )
    with closing(Again(found.asked["pictures"])) as again:
        for key, of_key in itertools.groupby(rows, itemgetter("key")):
            of_picture = list(of_key)
            expl = _explanation(of_picture, str(found.facts.get("estimator", "")))
            if expl.error and not errors:
                continue
            if pictures:
                expl.image = _picture(of_picture[0], again, least)
            yield key, expl


def pictures_of(
    folder: Path, keys: Collection[str], *, least: tuple[int, int] | None = None
) -> Iterator[tuple[str, Image.Image | None]]:
    """Some pictures of a job, each after its key, in the order of the job; as of `explanations`.

    Args:
        folder: The job's folder.
        keys: Those of the pictures.
        least: As of `explanations`.

    Raises:
        SetupError: As from `explanations`.
    """
    asked = manifest.manifest_of(folder).asked
    columns = ["key", "hash", "place", "picture"]
    with closing(Again(asked["pictures"])) as again:
        for batch in parts.batches_of(folder, columns, rows=64, keys=keys):
            for row in batch.to_pylist():
                if not row["place"]:
                    yield row["key"], _picture(row, again, least)


def _explanation(rows: Sequence[Mapping[str, Any]], estimator: str) -> Explanation:
    first = rows[0]
    if first["error"] is not None:
        return Explanation(estimator, error=first["error"])
    return Explanation(
        estimator,
        method=first["method"],
        is_regression=first["target"] is None,
        targets=[
            TargetExplanation(
                row["name"] if row["target"] is None else row["target"],
                score=row["score"],
                heatmap=row["heatmap"].astype(np.float64).reshape(row["shape"]),
                name=None if row["target"] is None else row["name"],
                signed=row["signed"],
                is_probability=row["is_probability"],
            )
            for row in rows
        ],
        layer=first["layer"],
        kind=_KINDS[len(first["shape"])],
    )


def _picture(
    row: Mapping[str, Any], again: Again, least: tuple[int, int] | None
) -> Image.Image | None:
    """The picture of a row: as it was explained, or what the job has kept of it."""
    data = again.read(row["key"])
    if data is None or manifest.hash_of([data]) != row["hash"]:
        data = row["picture"]
    if data is None:
        return None
    try:
        return read_picture(io.BytesIO(data), least)
    except PictureError:  # it is of those that could not be explained
        return None
