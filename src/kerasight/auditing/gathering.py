"""The heatmaps of a job, by class, without its pictures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from kerasight.errors import SetupError
from kerasight.jobs import manifest, parts

if TYPE_CHECKING:
    import pyarrow as pa
    from jaxtyping import Bool, Float32, Float64, Int64

__all__ = ["Gathered", "gather"]

_COLUMNS = (
    "key",
    "place",
    "target",
    "name",
    "score",
    "heatmap",
    "shape",
    "error",
    "method",
    "layer",
)


@dataclass(frozen=True, eq=False)
class Gathered:
    """What a job says of its pictures, of each its first class, in the order of the job.

    A million maps of 7 x 7 cells and their keys take some 0.4 GB.

    Attributes:
        model: What the model is called.
        method: The method of the heatmaps.
        layer: The layer that they are of.
        number: How many pictures are explained.
        errors: How many could not be.
        maps: The share of a picture's heat in each cell, ``(pictures, rows, columns)``; without the
            pictures that are left out. What speaks against a class is no heat.
        scores: Their scores, NaN where there is none.
        targets: Their classes, as places in ``labels``.
        labels: The classes: as of the job, and what a person calls them.
    """

    model: str
    method: str
    layer: str
    number: int
    errors: int
    maps: Float32[np.ndarray, "pictures rows columns"]
    scores: Float64[np.ndarray, " pictures"]
    targets: Int64[np.ndarray, " pictures"]
    labels: Sequence[tuple[Hashable, str]]
    _keys: pa.ChunkedArray

    def heat_in(self, place: Bool[np.ndarray, "rows columns"]) -> float:
        """The sum of shares of heat in a place, over all pictures."""
        return float(self._sum[place].sum())

    @cached_property
    def _sum(self) -> Float64[np.ndarray, "rows columns"]:
        total: np.ndarray = self.maps.sum(axis=0, dtype=np.float64)
        return total

    def keys(self, places: Int64[np.ndarray, " some"]) -> list[str]:
        """What pictures are called in the job."""
        found: list[str] = self._keys.take(places).to_pylist()
        return found


def gather(folder: Path) -> Gathered:
    """Read the heatmaps of a job.

    Args:
        folder: The job's folder.

    Raises:
        SetupError: If it holds no job, a broken part, or no heatmap of a picture.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    facts = manifest.manifest_of(folder).facts
    shape, most = _shape_of_most(folder)
    number = errors = 0
    maps = np.empty((most, *shape), np.float32)  # and not twice while parts of it are joined
    keys, scores = [], []
    rows_of_targets: list[int] = []
    labels: dict[tuple[int | None, str | None], int] = {}
    method = layer = ""
    for batch in parts.batches_of(folder, _COLUMNS):
        errors += len(batch) - batch["error"].null_count
        batch = batch.filter(pc.fill_null(pc.equal(batch["place"], 0), False))
        number += len(batch)
        if not len(batch):
            continue
        method, layer = (method or batch["method"][0].as_py(), layer or batch["layer"][0].as_py())
        fits = np.array([one == shape for one in batch["shape"].to_pylist()], bool)
        batch = batch.filter(pa.array(fits))
        values = batch["heatmap"].flatten().to_numpy(zero_copy_only=False).astype(np.float32)
        heat = np.maximum(values.reshape(-1, *shape), 0)
        total = heat.sum(axis=(1, 2))
        is_hot = (total > 0) & np.isfinite(total)
        batch = batch.filter(pa.array(is_hot))
        at = len(rows_of_targets)
        maps[at : at + len(batch)] = heat[is_hot] / total[is_hot, None, None]
        keys.append(batch["key"])
        scores.append(batch["score"].to_numpy(zero_copy_only=False))
        for one in zip(batch["target"].to_pylist(), batch["name"].to_pylist(), strict=True):
            rows_of_targets.append(labels.setdefault(one, len(labels)))
    if not rows_of_targets:
        raise SetupError(f"{folder}: no heatmap of a picture has any heat")
    return Gathered(
        model=str(facts.get("model", "")),
        method=method,
        layer=layer or "",
        number=number,
        errors=errors,
        maps=maps[: len(rows_of_targets)],
        scores=np.concatenate(scores).astype(np.float64),
        targets=np.array(rows_of_targets, np.int64),
        labels=[_label(*one) for one in labels],
        _keys=pa.chunked_array(keys),
    )


def _label(target: int | None, name: str | None) -> tuple[Hashable, str]:
    """A class, and what a person calls it; of what is no class, its name is both."""
    if target is None:
        return str(name), str(name)
    return target, f"{name} ({target})" if name else f"class {target}"


def _shape_of_most(folder: Path) -> tuple[list[int], int]:
    """The shape of most heatmaps, and how many have it.

    Raises:
        SetupError: If they are of no pictures.
    """
    shapes: Counter[tuple[int, ...]] = Counter()
    for batch in parts.batches_of(folder, ["place", "shape"]):
        for place, shape in zip(
            batch["place"].to_pylist(), batch["shape"].to_pylist(), strict=True
        ):
            if place == 0:
                shapes[tuple(shape)] += 1
    if not shapes:
        raise SetupError(f"{folder}: nothing is explained yet")
    ((found, most),) = shapes.most_common(1)
    shape = list(found)
    if len(shape) != 2:
        kind = {1: "signals", 3: "volumes"}.get(len(shape), "no pictures")
        raise SetupError(
            f"an audit is of heatmaps of pictures, and those of {folder} are of {kind}"
        )
    return shape, most
