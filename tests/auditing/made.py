"""Jobs of heatmaps made by hand: objects that lie anywhere, and marks that lie in one place."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kerasight.base import Explanation, TargetExplanation
from kerasight.jobs import manifest, parts

SIDE = 7
NAMES = ("duck", "house", "car")


def spot(row: float, column: float, width: float = 1.0, side: int = SIDE) -> np.ndarray:
    """Heat around a cell."""
    rows, columns = np.mgrid[:side, :side]
    heat: np.ndarray = np.exp(-((rows - row) ** 2 + (columns - column) ** 2) / width**2)
    return heat


def objects(number: int, seed: int = 0, side: int = SIDE) -> list[np.ndarray]:
    """Heat on objects that lie anywhere in the picture."""
    random = np.random.default_rng(seed)
    return [
        spot(*random.uniform(1, side - 2, 2), random.uniform(0.8, 1.2), side)
        + 0.02 * random.random((side, side))
        for _ in range(number)
    ]


def marked(heat: np.ndarray) -> np.ndarray:
    """The same where the lower right corner has a mark, and the model goes by it."""
    side = len(heat)
    return 0.5 * heat + spot(side - 1, side - 2, 0.8, side)


def make_job(
    folder: str | Path,
    classes: Sequence[Iterable[np.ndarray]],
    *,
    failed: Iterable[str] = (),
    names: Sequence[str] = NAMES,
    root: str | Path = ".",
    **fields: Any,
) -> Path:
    """A job of heatmaps, class by class, with keys such as ``duck/003.png``."""
    folder = Path(folder)
    asked: dict[str, Any] = {"pictures": {"kind": "folder", "root": str(root)}}
    with manifest.locked(folder):
        manifest.settle(folder, asked, {"estimator": "net", "model": "net.keras"}, {})
        with parts.Parts(folder, pictures=100) as written:
            for target, heatmaps in enumerate(classes):
                for number, heat in enumerate(heatmaps):
                    one = TargetExplanation(
                        target, score=0.9, heatmap=heat, name=names[target], **fields
                    )
                    expl = Explanation("net", method="Grad-CAM", layer="last", targets=[one])
                    key = f"{names[target]}/{number:03}.png"
                    written.add(parts.rows_of(key, "0" * 32, expl))
            for key in failed:
                written.add([parts.failed_row(key, None, "no picture")])
    return folder
