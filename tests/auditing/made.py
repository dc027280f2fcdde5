"""Jobs of heatmaps made by hand: objects that lie anywhere, and marks that lie in one place."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from cli.commands import noise_picture

from kerasight.auditing import Audit, ClassMaps, Finding, MapCluster, Share, Shown
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


KEY = "duck/a<b>\n\u202e.png"


def share_of(heat: np.ndarray) -> np.ndarray:
    found: np.ndarray = heat / heat.sum()
    return found


def shown(key: str, value: float = 0.5) -> Shown:
    return Shown(key, 0.75, share_of(spot(6, 6)), value)


def maps(target: int, label: str, *keys: str) -> ClassMaps:
    mean = share_of(np.mean(objects(9), axis=0))
    return ClassMaps(
        target=target,
        label=label,
        number=1234,
        mean=mean,
        spread=mean / 2,
        clusters=(MapCluster(56, mean, (shown("house.png"),)), MapCluster(1, mean, ())),
        border=Share(0.25, 0.2, 0.3, 24 / 49),
        corners=Share(0.125, float("nan"), float("nan"), 4 / 49),
        outside=None,
        unlike=tuple(map(shown, keys)),
    )


def make_audit() -> Audit:
    """One finding, on three pictures, of which one is gone and one has changed.

    Its job and its pictures are in the working directory.
    """
    keys = [KEY, "house.png", "gone.png", "changed.png"]
    job = make_job("job", [], root="photos", failed=())
    with manifest.locked(job), parts.Parts(job) as written:
        for key in keys:
            noise_picture(f"photos/{key}", size=(60, 40))
            hash = manifest.hash_of_file(f"photos/{key}")
            written.add([{**parts.failed_row(key, hash, ""), "place": 0, "error": None}])
    Path("photos/gone.png").unlink()
    noise_picture("photos/changed.png", seed=7)
    place = np.zeros((SIDE, SIDE), bool)
    place[-2:, -2:] = True
    finding = Finding(
        kind="cluster",
        target=0,
        label="duck & co",
        sentence="3 of 1,234 pictures <b>have</b> it.",
        p_value=2.5e-7,
        observed=0.1,
        chance=0.01,
        number=3,
        of=1234,
        mean=share_of(spot(6, 6)),
        place=place,
        keys=(KEY, "gone.png", "changed.png"),
        pictures=(shown(KEY, 0.875), shown("gone.png"), shown("changed.png")),
    )
    return Audit(
        folder=str(job),
        model="net.keras",
        method="Grad-CAM",
        layer="last",
        number=2500,
        errors=3,
        left_out=2,
        classes=(maps(1, "house"), maps(0, "duck & co", "house.png")),
        findings=(finding,),
    )
