"""Files that are written whole or not at all, and files that kerasight made."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Literal

__all__ = ["OVERLAY", "is_made", "whole_file"]

OVERLAY = b"tEXtSoftware\x00kerasight"
"""What stands near the beginning of each PNG overlay that the command makes."""

_BEGINNING = 1024


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
    try:
        with path.open("rb") as file:
            return marker in file.read(_BEGINNING)
    except OSError:
        return False
