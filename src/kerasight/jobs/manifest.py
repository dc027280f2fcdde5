"""What a job was asked, so that nothing else is ever answered in its folder; and its lock."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from datetime import datetime
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from kerasight.cam.methods import Method
from kerasight.cam.request import Request
from kerasight.errors import SetupError, reason
from kerasight.files import whole_file
from kerasight.jobs import parts

if TYPE_CHECKING:
    import keras
    from jaxtyping import Shaped

__all__ = [
    "NAME",
    "Manifest",
    "asked_of",
    "hash_of",
    "hash_of_doc",
    "hash_of_file",
    "hash_of_model",
    "locked",
    "manifest_of",
    "settle",
    "versions",
]

_log = logging.getLogger("kerasight")

NAME = "manifest.json"
"""The file in a job's folder that says what it was asked."""
_LOCK = ".lock"
_KIND = "job of kerasight"
_FORMAT = 1

# Options that change how a job runs, and not what comes of it.
_HOW = ("batch_size", "progress")


@dataclass(frozen=True)
class Manifest:
    """What stands in ``manifest.json``.

    Attributes:
        asked: The question: by name, all that the answers depend on, as JSON has it.
        facts: What else is to be told of the job, such as what the model is called.
        versions: Of the packages that it was begun with.
        made: When that was, as of ISO 8601.
    """

    asked: Mapping[str, Any]
    facts: Mapping[str, Any]
    versions: Mapping[str, str]
    made: str


def asked_of(
    request: Request,
    *,
    model: str,
    pictures: Mapping[str, Any],
    preprocess: str | Callable[..., Any] | None = None,
    class_names: Sequence[str] | None = None,
    targets: Sequence[int] | None = None,
    top_targets: int | None = None,
    layer: Any = None,
    thumbnails: bool = False,
    draft: bool = False,
) -> dict[str, Any]:
    """A job's question, as JSON has it.

    Args:
        request: The options of the explanation; those at their defaults are left out.
        model: The model's hash, of `hash_of_file` or `hash_of_model`, or an application's name.
        pictures: Where pictures come from.
        preprocess: The name of the preprocessing; of a function, where it is defined.
        class_names: The names of the classes, if they were passed.
        targets: The classes to explain, if they are the same for all pictures.
        top_targets: How many of the best classes to explain, if that was passed.
        layer: The layer, or several.
        thumbnails: Whether small pictures are kept.
        draft: Whether large pictures are read at a fraction of their size.
    """
    if callable(preprocess):
        preprocess = f"{preprocess.__module__}.{preprocess.__qualname__}"
    options = {
        one.name: value.name if isinstance(value, Method) else value
        for one in fields(Request)
        if one.name not in _HOW
        for value in [getattr(request, one.name)]
        if one.name == "method" or isinstance(value, np.ndarray) or value != one.default
    }
    asked = {
        "model": model,
        "pictures": pictures,
        "preprocess": preprocess,
        "class_names": class_names,
        "targets": targets,
        "top_targets": top_targets,
        "layer": layer,
        **options,
        "thumbnails": thumbnails,
        "draft": draft,
    }
    told = {name: value for name, value in asked.items() if value is not None}
    as_json: dict[str, Any] = json.loads(json.dumps(told, default=_plain))
    return as_json


def _plain(value: Any) -> Any:
    """What JSON has no word for: arrays, large ones by their hash, and numbers of NumPy."""
    array = np.asarray(value)
    if array.dtype.hasobject:
        raise TypeError(f"a job cannot write down what {type(value).__name__} {value!r} is")
    if array.size <= 64:
        return array.tolist()
    return f"array {array.shape}, {array.dtype}, {hash_of([array.tobytes()])}"


def hash_of(pieces: Iterable[bytes]) -> str:
    """The hash of bytes, which come in pieces: BLAKE2b of 16 bytes, in hex."""
    found = hashlib.blake2b(digest_size=16)
    for piece in pieces:
        found.update(piece)
    return found.hexdigest()


def hash_of_doc(doc: Shaped[np.ndarray, "1 ..."]) -> str:
    """The hash of an array, its shape and its type, as of `hash_of`."""
    array = np.ascontiguousarray(doc)
    return hash_of([f"{array.shape} {array.dtype}".encode(), array.tobytes()])


def hash_of_file(path: str | os.PathLike[str]) -> str:
    """The hash of a file, as of `hash_of`.

    Raises:
        OSError: If it cannot be read.
    """
    with open(path, "rb") as file:
        return hash_of(iter(lambda: file.read(2**20), b""))


def hash_of_model(model: keras.Model) -> str:
    """A hash of a model in memory: of its layers, as far as it tells them, and of its weights.

    What its layers are called does not count, as Keras numbers them anew in each session.
    """
    import keras

    try:
        config = model.get_config()
    except Exception:  # a subclassed model need not tell its layers
        config = {}
    weights = [keras.ops.convert_to_numpy(weight) for weight in model.weights]
    told = [type(model).__qualname__, _without_names(config)]
    told += [[weight.shape, str(weight.dtype)] for weight in weights]
    text = json.dumps(told, default=lambda value: type(value).__qualname__, sort_keys=True)
    return hash_of([text.encode(), *(weight.tobytes() for weight in weights)])


def _without_names(config: Any) -> Any:
    """A configuration with numbers in place of the names of layers, wherever they stand."""
    numbers: dict[str, str] = {}

    def note(part: Any) -> None:
        for one in part.values() if isinstance(part, dict) else part:
            if isinstance(one, (dict, list, tuple)):
                note(one)
        if isinstance(part, dict) and isinstance(part.get("name"), str):
            numbers.setdefault(part["name"], f"#{len(numbers)}")

    def numbered(part: Any) -> Any:
        if isinstance(part, dict):
            return {str(name): numbered(one) for name, one in part.items()}
        if isinstance(part, (list, tuple)):
            return [numbered(one) for one in part]
        return numbers.get(part, part) if isinstance(part, str) else part

    note(config)
    return numbered(config)


def versions() -> dict[str, str]:
    """The versions of what makes explanations."""
    import kerasight
    from kerasight.keras import backends

    framework = cast(ModuleType, backends.current()).__name__.rpartition(".")[2]
    others = {name: sys.modules[name].__version__ for name in ("keras", framework, "numpy")}
    return {"kerasight": kerasight.__version__, **others}


# The file


def manifest_of(folder: Path) -> Manifest:
    """The manifest of a job.

    Raises:
        SetupError: If there is none, or this version of kerasight cannot read it.
    """
    path = folder / NAME
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        what = f"it has no {NAME}" if folder.is_dir() else "there is no such folder"
        raise SetupError(f"{folder} is no job: {what}") from None
    except (OSError, NotADirectoryError) as error:
        raise SetupError(f"{path} cannot be read: {reason(error)}") from None
    except ValueError:
        found = None
    broken = SetupError(
        f"{path} is broken; if you have no copy of it, make a new job in another folder"
    )
    if not isinstance(found, dict) or found.get("kind") != _KIND:
        raise broken
    if isinstance(found.get("format"), int) and found["format"] > _FORMAT:
        raise SetupError(
            f"{path} was written by kerasight {found.get('versions', {}).get('kerasight', '')}, "
            f"and has format {found['format']}, later than this version knows; upgrade kerasight"
        )
    try:
        return Manifest(*(found[one.name] for one in fields(Manifest)))
    except KeyError:
        raise broken from None


def settle(
    folder: Path, asked: Mapping[str, Any], facts: Mapping[str, Any], now: Mapping[str, str]
) -> Manifest:
    """Write the manifest of a job, or see that it asks the same as the one that is there.

    Where no picture has been explained yet, another question takes the place of the first. Other
    versions of packages are told, and no hindrance. Only the process that has the job's lock may
    call it.

    Args:
        folder: The job's folder.
        asked: What `asked_of` makes of the question.
        facts: What else is to be told of the job.
        now: The `versions`.

    Raises:
        SetupError: If it asks something else, and what is different.
        OSError: If it cannot be written.
    """
    there = manifest_of(folder) if (folder / NAME).exists() else None
    if there is not None and parts.holds_answers(folder):
        if told := _differences(there.asked, asked):
            raise SetupError(
                f"{folder} holds a job that was asked something else: {'; '.join(told)}; ask the "
                "same, or pass another folder"
            )
        if told := _differences(there.versions, now):
            _log.warning(
                "%s: the job goes on with other versions, whose heatmaps may differ: %s",
                folder,
                "; ".join(told),
            )
        return there
    made = datetime.now().astimezone().isoformat(timespec="seconds")
    manifest = Manifest(asked, facts, now, made)
    with whole_file(folder / NAME) as out:
        content = {"kind": _KIND, "format": _FORMAT, **vars(manifest)}
        json.dump(content, out, indent=2, ensure_ascii=True)
        out.flush()
        os.fsync(out.fileno())
    return manifest


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What two questions ask differently, in words."""

    def flat(asked: Mapping[str, Any]) -> dict[str, Any]:
        pictures = asked.get("pictures", {})
        rest = {name: value for name, value in asked.items() if name != "pictures"}
        return {**{f"pictures' {name}": value for name, value in pictures.items()}, **rest}

    def shown(asked: Mapping[str, Any], name: str) -> str:
        if name in asked:
            return textwrap.shorten(repr(asked[name]), 80, placeholder=" ...")
        default = next((one.default for one in fields(Request) if one.name == name), None)
        return "not given" if default is None else repr(default)

    before, now = flat(before), flat(now)
    return [
        f"{name} was {shown(before, name)}, is {shown(now, name)}"
        for name in dict.fromkeys([*before, *now])
        if before.get(name) != now.get(name)
    ]


# The lock


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Have a job's folder for this process alone; it is made if it does not exist.

    The lock is the system's, which lets it go when the process ends, however it ends.

    Raises:
        SetupError: If another process has it, if the folder cannot be made or written to, or if it
            holds other things than a job.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        others = sorted(
            path.name
            for path in folder.iterdir()
            if path.name != _LOCK and not re.fullmatch(rf"\.{NAME}\.\w+\.part", path.name)
        )
        if others and NAME not in others:
            raise SetupError(
                f"{folder} is no folder of a job, and not empty: it holds {others[0]}; pass another"
            )
        lock = open(folder / _LOCK, "a+b")  # noqa: SIM115
    except FileExistsError:
        raise SetupError(f"{folder} is a file; a job needs a folder") from None
    except OSError as error:
        raise SetupError(f"{folder} cannot be a job's folder: {reason(error)}") from None
    with lock:
        try:
            _take(lock.fileno())
        except BlockingIOError:
            raise SetupError(
                f"another process is at work on the job in {folder}; wait for it, or end it"
            ) from None
        for left in folder.glob(f".{NAME}.*.part"):
            left.unlink()
        yield


def _take(descriptor: int) -> None:
    """Lock a file that is open for writing; raises BlockingIOError if another process has it."""
    if sys.platform == "win32":
        import msvcrt

        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except PermissionError:
            raise BlockingIOError from None
    else:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
