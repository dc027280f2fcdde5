"""Overlays: what they are called, and how they are drawn and written."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kerasight.cli.files import Guard, is_free, write_overlay
from kerasight.errors import PictureError, reason
from kerasight.files import is_overlay

if TYPE_CHECKING:
    from kerasight.base import Explanation, TargetExplanation

__all__ = ["FORMATS", "draw_overlay", "free_path", "path_in_job"]

FORMATS = {"png": ".png", "webp": ".webp", "jpeg": ".jpg"}
"""The formats of overlays, with the endings of their names."""

_LONGEST = 120  # characters of a folder or a picture in the name of an overlay


def free_path(stem: Path, target: TargetExplanation, suffix: str, guard: Guard) -> Path:
    """A file that this run has not written yet, nor the user; it is kept from now on.

    Args:
        stem: The folder, and what its name begins with.
        target: The class.
        suffix: The ending.
        guard: What may not be written over.
    """
    name = f"{stem.name}-{_part_of(target)}"
    endings = itertools.chain([""], (f"-{number}" for number in itertools.count(2)))
    path = next(
        path
        for path in (stem.with_name(f"{name}{ending}{suffix}") for ending in endings)
        if guard.what(path) is None and (guard.force or is_free(path) or is_overlay(path))
    )
    guard.keep("an overlay of this run", path)
    return path


def path_in_job(folder: Path, key: str, expl: Explanation, place: int, suffix: str) -> Path:
    """The file of an overlay of a job, which is the same whenever the job runs.

    Args:
        folder: The folder of the overlays, below which it lies, whatever the key is.
        key: What the picture is called. What no file may be called so has a hash in its name.
        expl: Its explanation.
        place: The place of the class among those that are explained.
        suffix: The ending.

    Raises:
        PictureError: If there is such a file, and the command did not make it.
    """
    safe = re.sub(r'[\x00-\x1f\\:*?"<>|]', "_", key)
    parts = [part[:_LONGEST] for part in safe.split("/") if part not in ("", ".", "..")]
    name = "/".join(parts)
    if name != key:
        name += f"-{hashlib.blake2b(key.encode(), digest_size=6).hexdigest()}"
    targets = expl.targets or []
    part = _part_of(targets[place])
    if part in map(_part_of, targets[:place]):
        part += f"-{targets[place].target}"
    path = folder / f"{name}-{part}{suffix}"
    if not (is_free(path) or is_overlay(path)):
        raise PictureError(f"{path} exists, and was not made by this command: pass --output")
    return path


def _part_of(target: TargetExplanation) -> str:
    """A class as part of a file name."""
    safe = re.sub(r"[^\w.-]+", "_", target.name or "").strip("_")[:80]
    return safe or str(target.target)


class _OverlayError(PictureError):
    """An overlay cannot be written."""

    def __init__(self, path: Path, error: OSError) -> None:
        """The disk is full for all of them, and their names do not matter then."""
        super().__init__(f"{path} cannot be written: {reason(error)}")
        self.common = f"overlays cannot be written: {reason(error)}"


def draw_overlay(expl: Explanation, place: int, path: Path, look: Mapping[str, Any]) -> None:
    """Draw and write the overlay of one of the classes of an explanation.

    Args:
        expl: The explanation.
        place: The place of the class among its targets.
        path: The file.
        look: How heatmaps are drawn, as arguments of `kerasight.format_as_image`.

    Raises:
        PictureError: If it cannot be written.
    """
    from kerasight.formatters.image import format_as_image

    assert expl.targets is not None
    overlay = format_as_image(replace(expl, targets=[expl.targets[place]]), **look)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_overlay(overlay, path)
    except OSError as error:
        raise _OverlayError(path, error) from None
