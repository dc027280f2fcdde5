"""Where the objects of pictures are, of those of which it is known: by masks, or by boxes."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from kerasight.errors import PictureError, SetupError, reason

if TYPE_CHECKING:
    from jaxtyping import Bool, Float64

__all__ = ["Boxes", "Masks", "objects_of"]

Masks = str | os.PathLike[str] | Mapping[str, np.ndarray]
Boxes = str | os.PathLike[str] | Mapping[str, Sequence[float]]
_Objects = Callable[[str], "Float64[np.ndarray, 'rows columns'] | None"]
_SIDES = ("left", "top", "right", "bottom")


def objects_of(masks: Masks | None, boxes: Boxes | None, shape: tuple[int, int]) -> _Objects | None:
    """What tells, of a key, the share of each cell that the picture's object takes.

    Args:
        masks: As of `kerasight.audit`.
        boxes: Likewise.
        shape: Rows and columns of heatmaps.

    Returns:
        A function that gives None where it is not known; None without masks and boxes.

    Raises:
        SetupError: If there are both, or they cannot be read.
    """
    if masks is not None and boxes is not None:
        raise SetupError("masks and boxes exclude each other: both say where objects are")
    if masks is not None:
        read = _in_folder(Path(masks)) if not isinstance(masks, Mapping) else masks.get
        return lambda key: None if (mask := read(key)) is None else _cells(mask, shape)
    if boxes is not None:
        known = boxes if isinstance(boxes, Mapping) else _in_table(Path(boxes))
        return lambda key: None if key not in known else _in_box(known[key], shape)
    return None


def _in_folder(folder: Path) -> Callable[[str], Bool[np.ndarray, "height width"] | None]:
    """Masks as pictures, called as the pictures are but for their ending."""
    from kerasight.classifiers.pictures import read_mask

    if not folder.is_dir():
        raise SetupError(f"masks: {folder} is no folder")
    paths = {
        path.relative_to(folder).with_suffix("").as_posix(): path
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }

    def read(key: str) -> Bool[np.ndarray, "height width"] | None:
        path = paths.get(Path(key).with_suffix("").as_posix())
        if path is None:
            return None
        try:
            return read_mask(path)
        except PictureError as error:
            raise SetupError(f"masks: {path}: {error}") from None

    return read


def _in_table(path: Path) -> dict[str, list[float]]:
    """Boxes of a CSV file, as shares of the picture's sides."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            table = csv.DictReader(file)
            names = table.fieldnames or []
            key = next((one for one in ("key", "path") if one in names), None)
            if key is None or not set(_SIDES) <= set(names):
                raise SetupError(
                    f"boxes: {path} must have the columns key, {', '.join(_SIDES)}, and has "
                    f"{', '.join(names) or 'none'}"
                )
            return {row[key]: [float(row[side]) for side in _SIDES] for row in table}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SetupError(f"boxes: {path} cannot be read: {reason(error)}") from None
    except (TypeError, ValueError) as error:
        if isinstance(error, SetupError):
            raise
        raise SetupError(f"boxes: {path} has a side that is no number: {reason(error)}") from None


def _in_box(box: Sequence[float], shape: tuple[int, int]) -> Float64[np.ndarray, "rows columns"]:
    """The share of each cell that lies in a box."""
    left, top, right, bottom = box
    if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
        raise SetupError(
            "a box must be left, top, right and bottom as shares of the picture's sides, from 0 to "
            f"1, got {', '.join(f'{side:g}' for side in box)}"
        )
    rows, columns = (
        np.clip(np.minimum(high * cells, edges + 1) - np.maximum(low * cells, edges), 0, None)
        for low, high, cells, edges in (
            (top, bottom, shape[0], np.arange(shape[0])),
            (left, right, shape[1], np.arange(shape[1])),
        )
    )
    return np.outer(rows, columns)


def _cells(
    mask: Bool[np.ndarray, "height width"], shape: tuple[int, int]
) -> Float64[np.ndarray, "rows columns"]:
    """The share of each cell that a mask takes."""
    from PIL import Image

    picture = Image.fromarray(np.asarray(mask, bool).astype(np.float32))
    size = (shape[1], shape[0])
    return np.asarray(picture.resize(size, Image.Resampling.BOX), np.float64)
