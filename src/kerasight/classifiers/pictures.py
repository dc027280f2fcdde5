"""Find and read pictures and masks."""

from __future__ import annotations

import contextlib
import functools
import math
import os
import stat
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np

from kerasight.errors import PictureError, SetupError, reason
from kerasight.files import is_overlay

if TYPE_CHECKING:
    from PIL import Image

__all__ = [
    "Found",
    "Source",
    "is_picture",
    "pictures_in",
    "quiet_decoders",
    "read_mask",
    "read_picture",
    "search",
    "stem_below",
]

Made = TypeVar("Made")

# Pixels of a picture, at most: enough for most cameras. A heatmap has some 50 cells, and memory
# is limited.
_LARGEST = 25_000_000
_BAND = 2**22  # pixels of a larger one that are reduced at a time

# Pillow knows the endings of films, but cannot read films.
_NO_PICTURES = frozenset({"MPEG"})


class Source(NamedTuple):
    """A picture to explain.

    Attributes:
        name: What the user calls it: the path as given.
        stem: The beginning of the names of files made from it: its path below the folder that was
            given, without the ending.
        read: Reads it, upright, as RGBA, or as RGB.
        path: Its file, if it has one.
        problem: Why it cannot be read, if that is known already.
        draft: Reads it as ``read`` does, perhaps smaller, but not smaller than a width and height.
    """

    name: str
    stem: str
    read: Callable[[], Image.Image]
    path: Path | None = None
    problem: str = ""
    draft: Callable[[tuple[int, int]], Image.Image] | None = None

    def pixels(self) -> int | None:
        """How many pixels it will have when it is read; None if that is not known before."""
        from PIL import Image

        if self.path is None or not os.path.isfile(self.path):
            return None
        try:
            with Image.open(self.path) as file:
                width, height = file.size
                return int(width * height // _factor(file.size) ** 2)
        except Exception:  # reading it will report this
            return 0


def pictures_in(folder: Path) -> list[tuple[str, Path]]:
    """The pictures in a folder and its subfolders, each after its relative path without the ending.

    Raises:
        SetupError: If there is none, or a folder cannot be read.
    """
    found = search(folder)
    for unread, why in found.unread:
        raise SetupError(f"{unread}: {why}")
    if not found.pictures:
        raise SetupError(f"{folder}: no picture in this folder")
    return [(stem_below(folder, path), path) for path in found.pictures]


def stem_below(folder: Path, path: Path) -> str:
    """The path of a file below a folder, without its ending."""
    return path.relative_to(folder).with_suffix("").as_posix()


@dataclass
class Found:
    """The contents of a folder.

    Attributes:
        pictures: The pictures, in the order of their paths.
        unread: Folders that cannot be read, and why.
        left_out: How many files were left out, and why, in words.
    """

    pictures: list[Path]
    unread: list[tuple[Path, str]]
    left_out: str


_LEFT_OUT = {
    "other": ("file that is no picture", "files that are no pictures"),
    "overlay": ("overlay by kerasight", "overlays by kerasight"),
    "hidden": ("hidden file", "hidden files"),
    "again": ("duplicate link", "duplicate links"),
    "broken": ("broken link", "broken links"),
}


def search(root: Path) -> Found:
    """Look for pictures in a folder and in all folders in it.

    The ending of a file tells whether it is a picture: a broken picture is reported, not left out.
    A link is followed if its target was not found without it.
    """
    pictures: list[Path] = []
    unread: list[tuple[Path, str]] = []
    left_out: Counter[str] = Counter()
    seen: set[tuple[int, int]] = set()  # device and number of each file and folder
    folders, links = [root], list[Path]()

    def take(path: Path) -> None:
        if not is_picture(path) or not os.path.isfile(path):
            left_out["other"] += 1
        elif is_overlay(path):
            left_out["overlay"] += 1
        else:
            pictures.append(path)

    while folders or links:
        if not folders:  # links come last, so that things are found under their own names
            link = links.pop()
            try:
                leads_to = link.stat()
            except OSError:
                left_out["broken"] += 1
                continue
            if (leads_to.st_dev, leads_to.st_ino) in seen:
                left_out["again"] += 1
            elif stat.S_ISDIR(leads_to.st_mode):
                folders.append(link)
            else:
                seen.add((leads_to.st_dev, leads_to.st_ino))
                take(link)
            continue
        folder = folders.pop()
        try:
            itself = folder.stat()
            if (itself.st_dev, itself.st_ino) in seen:
                continue
            with os.scandir(folder) as entries:
                inside = sorted(entries, key=lambda entry: entry.name, reverse=True)
        except OSError as error:
            unread.append((folder, f"cannot be read: {reason(error)}"))
            continue
        seen.add((itself.st_dev, itself.st_ino))
        for entry in inside:
            path = folder / entry.name
            if entry.name.startswith("."):
                left_out["hidden"] += 1
            elif entry.is_symlink():
                links.append(path)
            elif entry.is_dir(follow_symlinks=False):
                folders.append(path)
            else:
                seen.add((itself.st_dev, entry.inode()))
                take(path)
    return Found(
        pictures=sorted(pictures, key=lambda path: path.parts),
        unread=unread,
        left_out=", ".join(
            f"{left_out[kind]} {words[left_out[kind] > 1]}"
            for kind, words in _LEFT_OUT.items()
            if left_out[kind]
        ),
    )


def is_picture(path: Path) -> bool:
    """Whether a file is a picture by its ending."""
    return path.suffix.lower() in _suffixes()


@functools.cache
def _suffixes() -> set[str]:
    """The endings of the files that Pillow reads."""
    from PIL import Image, ImageFile

    def is_read(kind: str) -> bool:
        if kind in _NO_PICTURES or kind not in Image.OPEN:
            return False
        opener = Image.OPEN[kind][0]
        # Pillow leaves stubs such as HDF5 to other packages' code. Here, HDF5 files are models.
        return not (isinstance(opener, type) and issubclass(opener, ImageFile.StubImageFile))

    return {suffix for suffix, kind in Image.registered_extensions().items() if is_read(kind)}


def read_picture(file: Path | IO[bytes], least: tuple[int, int] | None = None) -> Image.Image:
    """A picture, upright as its EXIF data say, RGB or RGBA, of 25 megapixels at most.

    A larger picture is reduced: each square of 2 x 2 pixels, or 3 x 3 and so on, becomes one.

    Args:
        file: Its file, or its path.
        least: A width and height that are enough. A JPEG of twice that size or more is decoded at a
            half of its size, a quarter or an eighth, which takes half the time. Its pixels differ
            a little from those of the whole picture, reduced.

    Raises:
        PictureError: If it cannot be read.
    """
    return _read(file, _reduced, may_be_reduced=True, least=least)


def read_mask(path: Path) -> np.ndarray:
    """A mask, bool ``(height, width)``: True where the picture is neither black nor transparent.

    For a picture with a palette: True where the index of the colour is not 0.

    Raises:
        PictureError: If it cannot be read, or has no object.
    """
    mask = _read(path, _mask_of)
    if not mask.any():
        raise PictureError("no object in it: it is 0 everywhere")
    return mask


def _mask_of(picture: Any) -> np.ndarray:
    pixels = np.atleast_3d(np.asarray(picture))
    mask = np.asarray(pixels.any(axis=2))
    if picture.mode in ("LA", "La", "PA", "RGBA", "RGBa"):
        mask = np.asarray(pixels[..., :-1].any(axis=2) & (pixels[..., -1] > 0))
    return mask


def _read(
    path: Path | IO[bytes],
    make: Callable[[Image.Image], Made],
    may_be_reduced: bool = False,
    least: tuple[int, int] | None = None,
) -> Made:
    """The result of ``make`` on a picture, turned upright."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(path) as file:
            # Pillow only warns, and threads cannot catch warnings.
            if Image.MAX_IMAGE_PIXELS and file.width * file.height > Image.MAX_IMAGE_PIXELS:
                raise Image.DecompressionBombError
            if may_be_reduced and file.format == "JPEG":  # can be read at half its size, or less
                width, height = (-(-side // _factor(file.size)) for side in file.size)
                if least is not None:  # whichever way it is turned
                    width, height = min(width, max(least)), min(height, max(least))
                file.draft(file.mode, (width, height))
            # In place: a copy of a large picture costs hundreds of megabytes.
            ImageOps.exif_transpose(file, in_place=True)
            return make(file)
    except FileNotFoundError:
        why = "no such file"
    except UnidentifiedImageError:
        why = "not a picture in a format that Pillow reads"
    except Image.DecompressionBombError:
        why = f"too large: a picture may have at most {Image.MAX_IMAGE_PIXELS:,} pixels"
    except Exception as error:  # decoders raise errors of all kinds on broken files
        why = f"cannot be read: {reason(error)}"
    raise PictureError(why)


@contextlib.contextmanager
def quiet_decoders() -> Iterator[None]:
    """Silence Pillow's warnings in all threads; enter it while no other thread runs."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        yield


def _factor(size: tuple[int, int]) -> int:
    """The factor to divide both sides by, so that a picture has at most `_LARGEST` pixels."""
    return math.ceil(math.sqrt(size[0] * size[1] / _LARGEST))


def _reduced(picture: Image.Image) -> Image.Image:
    """A picture as RGBA, or if it is RGB as that, no larger than `_LARGEST`.

    A large picture is reduced band by band: there is never a second picture of its size.
    """
    from PIL import Image

    from kerasight.formatters.pixels import to_rgba

    factor = _factor(picture.size)
    if factor == 1:
        is_opaque = picture.mode == "RGB" and "transparency" not in picture.info
        return picture.copy() if is_opaque else to_rgba(picture)
    if picture.mode in ("I", "F"):  # scaled by the range of the whole picture
        return to_rgba(picture).reduce(factor)
    width, height = (-(-side // factor) for side in picture.size)
    small = Image.new("RGBA", (width, height))
    step = max(1, _BAND // (picture.width * factor))
    for top in range(0, height, step):
        bottom = min(picture.height, (top + step) * factor)
        band = picture.crop((0, top * factor, picture.width, bottom))
        small.paste(to_rgba(band).reduce(factor), (0, top))
    return small
