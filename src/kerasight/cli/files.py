"""Files that the command writes: which it may replace, and how it writes them completely."""

from __future__ import annotations

import os
import secrets
import struct
import zlib
from collections.abc import Hashable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from kerasight.errors import SetupError
from kerasight.files import PNG_TEXT, SOFTWARE, is_made, whole_file

if TYPE_CHECKING:
    from PIL import Image

    from kerasight.classifiers.models import ModelOptions

__all__ = [
    "PAGE",
    "GrowingFile",
    "Guard",
    "check_writable",
    "is_free",
    "is_made_here",
    "write_overlay",
]

# The command knows the pages that it made by these bytes at their beginning.
PAGE = b'<meta name="generator" content="kerasight'

# Bytes of a picture that are compressed at a time: few enough to stay in a processor's cache.
_BAND = 2**18
_SAMPLED = 16  # rows that tell how to compress a picture
_MANY = 0.1  # of all places, such as begin a run of four equal bytes


# What may be written over


class Guard:
    """Files that must not be written over: inputs of the command, and other files of the user.

    Args:
        force: Whether other files of the user may be written over.
    """

    def __init__(self, force: bool) -> None:
        """Nothing is read yet."""
        self.force = force
        self._read: dict[Hashable, str] = {}

    @classmethod
    def of(cls, force: bool, pictures: Iterable[Path], of_model: ModelOptions) -> Guard:
        """The files that both commands read."""
        guard = cls(force)
        guard.keep("one of the pictures", *pictures)
        guard.keep("the model", of_model.model)
        guard.keep("the file of class names", of_model.class_names)
        guard.keep("a file to import", *of_model.imports)
        return guard

    def keep(self, what: str, *paths: str | Path | None) -> None:
        """Keep files from being written over, also with ``force``.

        Args:
            what: What each of them is, as in ``"the model"``.
            *paths: The files; None stands for none.
        """
        for path in paths:
            if path is not None:
                self._read.update(dict.fromkeys(_names_of(Path(path)), what))

    def what(self, path: Path) -> str | None:
        """What a protected file is, as passed to `keep`; None if the file is not protected."""
        return next((self._read[name] for name in _names_of(path) if name in self._read), None)

    def check(self, option: str, path: Path, marker: bytes) -> None:
        """Raise SetupError if a file may not be written.

        Args:
            option: The option that names it.
            path: The file.
            marker: The beginning of a file that the command made.
        """
        what = self.what(path)
        if what is not None:
            raise SetupError(f"{option} {path} is {what}, and is never replaced: pass another name")
        if not self.force and not is_made_here(path, marker):
            raise SetupError(
                f"{option} {path} exists, and was not made by this command: pass --force to "
                "replace it, or another name"
            )


def _names_of(path: Path) -> list[Hashable]:
    """Names of a file; two paths lead to one file if they share a name."""
    # On some file systems, two names that differ only in case are one.
    names: list[Hashable] = [os.path.realpath(path).casefold()]
    with suppress(OSError):
        found = path.stat()
        if found.st_ino:  # not every file system has them
            names.append((found.st_dev, found.st_ino))
    return names


def is_made_here(path: Path, marker: bytes) -> bool:
    """Whether nothing of the user's is lost if a file is replaced.

    Args:
        path: The file. If it is free, nothing is lost.
        marker: The beginning of a file that the command made.
    """
    return is_free(path) or is_made(path, marker)


def is_free(path: Path) -> bool:
    """Whether there is no file, or one that is empty or no regular one."""
    try:
        return not path.is_file() or not path.stat().st_size
    except OSError:
        return False


def check_writable(option: str, path: Path, is_folder: bool = False) -> None:
    """Raise SetupError if a file cannot be written, as far as is known before.

    Args:
        option: The option that names it.
        path: The file.
        is_folder: Whether it is a folder, to be made if it does not exist.
    """
    # os.path says nothing about files that may not be looked at; pathlib raises.
    if not is_folder and os.path.isdir(path):
        raise SetupError(f"{option} must be a file, and {path} is a folder")
    if is_folder and os.path.isfile(path):
        raise SetupError(f"{option} must be a folder, and {path} is a file")
    if os.path.exists(path) and not os.path.isfile(path) and not is_folder:
        return  # a device or a pipe
    place = Path(os.path.realpath(path))
    for above in place.parents:
        if os.path.isfile(above):
            raise SetupError(f"{option} {path} cannot be written: {above} is not a folder")
        if os.path.isdir(above):
            break
    for one in (above, place):
        if os.path.exists(one) and not os.access(one, os.W_OK):
            raise SetupError(f"{option} {path} cannot be written: no permission to write to {one}")


# Writing


class GrowingFile:
    """A text file that grows under another name, piece by piece, and moves to its path at the end.

    Args:
        path: Its path. A file that is there stays until the end.
        marker: The beginning of a file that the command made.
    """

    def __init__(self, path: Path, marker: bytes) -> None:
        """Nothing is written yet, and there is no file yet."""
        self._path = path
        self._marker = marker
        self._place = Path(os.path.realpath(path))
        self._aside: Path | None = None
        self._file: IO[bytes] | None = None
        self._length = 0

    def write(self, text: str) -> None:
        """Write a piece, or nothing of it.

        Raises:
            OSError: If that fails.
        """
        if self._file is None:
            self._file = self._opened()
        data = text.encode("utf-8", errors="backslashreplace")
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[self._file.write(rest) :]
        except BaseException:
            if self._aside is not None:
                self._file.truncate(self._length)
                self._file.seek(self._length)
            raise
        self._length += len(data)

    def _opened(self) -> IO[bytes]:
        if self._place.exists() and not self._place.is_file():  # a device or a pipe
            return self._path.open("wb", buffering=0)
        self._place.parent.mkdir(parents=True, exist_ok=True)
        aside = self._place.with_name(f".{self._place.name[:50]}.{secrets.token_hex(4)}.part")
        opened = aside.open("xb", buffering=0)
        self._aside = aside
        return opened

    def finish(self, is_whole: bool) -> Path:
        """Move the file to its path, if anything was written.

        Args:
            is_whole: Whether it is complete. If not, it does not replace a file: it goes beside it.

        Returns:
            The path of the file.

        Raises:
            OSError: If that fails.
        """
        if self._file is not None:
            self._file.close()
            self._file = None
        if self._aside is None:
            return self._path
        path = self._path
        if not self._length:
            self._aside.unlink()
        else:
            place = self._place
            if not is_whole and place.exists() and place.stat().st_size:
                path = self._free(path)
                place = Path(os.path.realpath(path))
            elif place.exists():
                self._aside.chmod(place.stat().st_mode)
            self._aside.replace(place)
        self._aside = None
        return path

    def _free(self, path: Path) -> Path:
        """A free path beside ``path`` for an incomplete file."""
        number = 1
        while True:
            ending = "" if number == 1 else f"-{number}"
            free = path.with_name(f"{path.stem}-interrupted{ending}{path.suffix}")
            if is_made_here(free, self._marker):
                return free
            number += 1


def write_overlay(picture: Image.Image, path: Path) -> None:
    """Write an RGBA picture as a file that names kerasight.

    Args:
        picture: RGBA. JPEG has it on white.
        path: The file, of an ending in `kerasight.files.OVERLAYS`.

    Raises:
        OSError: If it cannot be written.
        ValueError: If it is larger than a picture of this kind can be.
    """
    if path.suffix == ".png":
        _write_png(picture, path)
        return
    options: dict[str, Any] = {"quality": 90, "exif": b"Exif\0\0" + SOFTWARE}
    if path.suffix == ".webp":
        options["method"] = 0  # a quarter of the time of the usual one, for a quarter more bytes
    else:
        picture = _on_white(picture)
    with whole_file(path, "wb") as file:
        picture.save(file, "WEBP" if path.suffix == ".webp" else "JPEG", **options)


def _on_white(picture: Image.Image) -> Image.Image:
    """An RGBA picture as RGB."""
    if not _is_opaque(picture):
        from PIL import Image

        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return picture.convert("RGB")


def _is_opaque(picture: Image.Image) -> bool:
    return bool(picture.getchannel("A").getextrema() == (255, 255))


def _write_png(picture: Image.Image, path: Path) -> None:
    """Write an RGBA picture as a PNG file that names kerasight; an opaque picture as RGB.

    The row above is subtracted from each row, and of matches, at most runs of a byte are looked
    for. Overlays of photos take a tenth of the time of Pillow's defaults, for an eighth more bytes.
    Other threads run meanwhile.

    Args:
        picture: RGBA.
        path: The file.

    Raises:
        OSError: If it cannot be written.
    """
    width, height = picture.size
    mode, colours = ("RGB", 2) if _is_opaque(picture) else ("RGBA", 6)
    step = max(1, _BAND // (width * len(mode)))
    strategy = zlib.Z_RLE if _has_runs(picture, mode) else zlib.Z_HUFFMAN_ONLY
    compressed = zlib.compressobj(1, strategy=strategy)
    with whole_file(path, "wb") as file:

        def chunk(kind: bytes, data: bytes) -> None:
            file.write(struct.pack(">I", len(data)) + kind + data)
            file.write(struct.pack(">I", zlib.crc32(data, zlib.crc32(kind))))

        file.write(b"\x89PNG\r\n\x1a\n")
        chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, colours, 0, 0, 0))
        chunk(PNG_TEXT[:4], PNG_TEXT[4:])
        for top in range(0, height, step):
            rows = _filtered(picture, mode, top, min(top + step, height))
            chunk(b"IDAT", compressed.compress(rows.data))
        chunk(b"IDAT", compressed.flush())
        chunk(b"IEND", b"")


def _has_runs(picture: Image.Image, mode: str) -> bool:
    """Whether a byte often comes many times, as in drawings; in photos, it hardly does."""
    step = max(1, picture.height // _SAMPLED)
    rows = [_filtered(picture, mode, top, top + 1) for top in range(0, picture.height, step)]
    is_again = np.diff(np.concatenate(rows)) == 0
    return bool((is_again[:, 2:] & is_again[:, 1:-1] & is_again[:, :-2]).mean() > _MANY)


def _filtered(picture: Image.Image, mode: str, top: int, bottom: int) -> np.ndarray:
    """Rows as PNG has them: what they are of, and how they differ from those above them."""
    band = picture.crop((0, top - 1, picture.width, bottom))  # above the first, all is 0
    rows = np.frombuffer(band.tobytes("raw", mode), np.uint8).reshape(band.height, -1)
    filtered = np.empty((bottom - top, 1 + rows.shape[1]), np.uint8)
    filtered[:, 0] = 2  # PNG's number for "from the row above"
    np.subtract(rows[1:], rows[:-1], out=filtered[:, 1:])
    return filtered
