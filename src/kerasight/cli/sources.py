"""The pictures that the command is given, and what it tells of those that cannot be opened."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from kerasight.classifiers.pictures import Source, read_picture, search, stem_below
from kerasight.cli.console import Told, say
from kerasight.errors import SetupError, reason

__all__ = ["sources_of"]


def sources_of(paths: Sequence[Path], told: Told) -> list[Source]:
    """The pictures at paths; a folder stands for the pictures in it and in its subfolders.

    Tells the user which files are left out of a folder, and which cannot be opened.

    Raises:
        SetupError: If there is no picture in a folder.
    """
    sources = []
    for path in paths:
        if not os.path.isdir(path):
            sources.append(_source_of(path, path.stem, told))
            continue
        found = search(path)
        for folder, why in found.unread:
            told.fail(str(folder), why, one_by_one=True)
        left_out = f"; left out: {found.left_out}" if found.left_out else ""
        if not found.pictures and not found.unread:
            raise SetupError(f"{path}: no picture in this folder{left_out}")
        if left_out:
            number = len(found.pictures)
            say("Note", "cyan", f"{path}: {number} picture{'s'[number == 1 :]}{left_out}")
        sources += [
            _source_of(picture, stem_below(path, picture), told) for picture in found.pictures
        ]
    told.finish()
    return sources


def _source_of(path: Path, stem: str, told: Told) -> Source:
    problem = ""
    try:
        if stat.S_ISREG(path.stat().st_mode):  # to open a pipe is to read it
            path.open("rb").close()
    except FileNotFoundError:
        problem = "no such file"
    except (OSError, ValueError) as error:
        problem = f"cannot be read: {reason(error)}"
    if problem:
        told.fail(str(path), problem, one_by_one=True)
    read = partial(read_picture, path)
    return Source(str(path), stem, read, path, problem, draft=read)
