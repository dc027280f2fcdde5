"""Files that are written whole or not at all, and files that kerasight made."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Literal

__all__ = ["OVERLAYS", "PNG_TEXT", "SOFTWARE", "is_made", "is_overlay", "whole_file"]

PNG_TEXT = b"tEXtSoftware\x00kerasight"
"""The chunk of PNG that names the program, in each overlay that the command makes."""

SOFTWARE = (
    b"II*\0\x08\0\0\0\x01\0"  # of one entry
    b"\x31\x01\x02\0\x0a\0\0\0\x1a\0\0\0\0\0\0\0kerasight\0"
)
"""EXIF data that name the program alone, in each overlay that is no PNG; of WebP, at its end."""

OVERLAYS = {".png": PNG_TEXT, ".jpg": SOFTWARE, ".webp": SOFTWARE}
"""What tells an overlay, by the ending of its name."""

_ENDS = 1024  # bytes at the beginning and the end of a file that may tell who made it


@contextmanager
def whole_file(path: str | os.PathLike[str], mode: Literal["w", "wb"] = "w") -> Iterator[IO[Any]]:
    """Open a file for writing that takes its place once it is written to its end.

    It is written beside its place, under a hidden name, and then renamed. If Ctrl-C or an exception
    interrupts that, nothing of it is left, and the earlier file stays as it was. Links are
    followed. A pipe, or anything else that is no regular file, is written to directly.

    Args:
        path: The file.
        mode: ``"w"`` for text, in UTF-8, with newlines alone between lines on any system; ``"wb"``
            for bytes.

    Yields:
        The open file.

    Raises:
        OSError: If it cannot be written.
    """
    text: dict[str, Any] = {} if mode == "wb" else {"encoding": "utf-8", "newline": "\n"}
    place = Path(os.path.realpath(path))
    if place.exists() and not place.is_file():  # a folder is refused here, in Python's words
        with open(path, mode, **text) as out:
            yield out
        return
    if place.exists() and not os.access(place, os.W_OK):  # renaming would not ask
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
    # File names may have 255 bytes: a long one is cut, to leave room for the rest.
    aside = place.with_name(f".{place.name[:50]}.{secrets.token_hex(4)}.part")
    try:
        with open(aside, mode.replace("w", "x"), **text) as out:
            yield out
        if place.exists():
            aside.chmod(place.stat().st_mode)
        aside.replace(place)
    except BaseException:
        with suppress(OSError):
            aside.unlink()
        raise


def is_made(path: Path, marker: bytes) -> bool:
    """Whether kerasight made a file, which then begins with ``marker``."""
    return _has(path, marker, 0)


def _has(path: Path, marker: bytes, whence: int) -> bool:
    """Whether something stands near the beginning of a file (0), or near its end (2)."""
    try:
        with path.open("rb") as file:
            file.seek(-min(_ENDS, path.stat().st_size) if whence else 0, whence)
            return marker in file.read(_ENDS)
    except OSError:
        return False


def is_overlay(path: Path) -> bool:
    """Whether a file is an overlay that the command made."""
    ending = path.suffix.lower()
    return ending in OVERLAYS and _has(path, OVERLAYS[ending], 2 if ending == ".webp" else 0)
