"""Pictures and masks: which there are, and how they are read."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np

from kerasight.cli.console import PictureError, RunError, reason

if TYPE_CHECKING:
    from PIL import Image

__all__ = [
    "Source",
    "expanded",
    "pictures_in",
    "read_mask",
    "read_picture",
    "source_of",
    "to_rgba",
]

Made = TypeVar("Made")

# Pillow knows films by their names, and cannot read them.
_NO_PICTURES = frozenset({"MPEG"})


class Source(NamedTuple):
    """A picture to explain.

    Attributes:
        name: What the user calls it: the path as given.
        stem: What the names of files made of it begin with.
        read: Reads it, upright, as RGBA.
    """

    name: str
    stem: str
    read: Callable[[], Image.Image]


def source_of(path: Path) -> Source:
    """A file as a picture to explain."""
    return Source(str(path), path.stem, lambda: read_picture(path))


def expanded(paths: Sequence[Path]) -> list[Path]:
    """The paths as given, with the pictures of a folder in its place.

    Raises:
        RunError: If there is none in a folder.
    """
    return [found for path in paths for found in (pictures_in(path) if path.is_dir() else [path])]


def pictures_in(folder: Path) -> list[Path]:
    """The pictures in a folder, but not in folders in it, in the order of their names.

    What a file is called tells whether it is one: a broken picture is to be reported, not passed
    over.

    Raises:
        RunError: If there is none, or the folder cannot be read.
    """
    suffixes = _suffixes()
    try:
        found = sorted(
            path
            for path in folder.iterdir()
            if path.suffix.lower() in suffixes and not path.name.startswith(".") and path.is_file()
        )
    except OSError as error:
        raise RunError(f"{folder}: {reason(error)}") from None
    if not found:
        raise RunError(f"{folder}: no picture in this folder")
    return found


def _suffixes() -> set[str]:
    """The endings of the files that Pillow reads."""
    from PIL import Image, ImageFile

    def is_read(kind: str) -> bool:
        if kind in _NO_PICTURES or kind not in Image.OPEN:
            return False
        opener = Image.OPEN[kind][0]
        # A stub is read by somebody else's code, as HDF5 is: here, it is a model.
        return not (isinstance(opener, type) and issubclass(opener, ImageFile.StubImageFile))

    return {suffix for suffix, kind in Image.registered_extensions().items() if is_read(kind)}


def read_picture(path: Path) -> Image.Image:
    """A picture as the photographer held the camera, RGBA.

    Raises:
        PictureError: If it cannot be read.
    """
    return _read(path, to_rgba)


def read_mask(path: Path) -> np.ndarray:
    """A mask, bool ``(height, width)``: True where the picture is neither black nor transparent.

    Of a picture with a palette, where the number of the colour is not 0.

    Raises:
        PictureError: If it cannot be read, or there is no object in it.
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


def _read(path: Path, make: Callable[[Image.Image], Made]) -> Made:
    """What is made of a picture, upright."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as file:
                return make(ImageOps.exif_transpose(file))
    except FileNotFoundError:
        why = "no such file"
    except UnidentifiedImageError:
        why = "not a picture in a format that Pillow reads"
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        why = f"too large: a picture may have {Image.MAX_IMAGE_PIXELS:,} pixels"
    except Exception as error:  # decoders raise all kinds of them on broken files
        why = f"cannot be read: {reason(error)}"
    raise PictureError(why)


def to_rgba(picture: Image.Image) -> Image.Image:
    """A new RGBA picture of one of any mode."""
    # Pillow's own convert clips pictures of 16 bits to white; the overlay's does not.
    from kerasight.base import Explanation
    from kerasight.formatters.image import format_as_image

    return format_as_image(Explanation(estimator="", image=picture))
