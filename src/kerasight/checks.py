"""Checks of what users pass, and the words of their errors, each said once."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Mapping
from numbers import Integral
from typing import Any

import numpy as np

__all__ = [
    "flag",
    "integer",
    "is_real",
    "named_shapes",
    "nearest",
    "one_of",
    "plain",
    "plural",
    "readable",
]


def integer(name: str, value: Any, least: float = -math.inf) -> int:
    """An argument that must be a whole number.

    Args:
        name: Name of the argument.
        value: What was passed.
        least: The least that it may be.

    Raises:
        TypeError: If it is no whole number.
        ValueError: If it is less than ``least``.
    """
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise TypeError(f"{name} must be an integer, got {type(value).__name__}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")
    return int(value)


def flag(name: str, value: Any) -> bool:
    """An argument that must be True or False; raises TypeError if it is neither."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be True or False, got {type(value).__name__}")
    return bool(value)


def one_of(name: str, value: Any, known: Iterable[str]) -> str:
    """An argument that must be one of some names; case, hyphens and spaces do not count.

    Args:
        name: Name of the argument.
        value: What was passed.
        known: The names that there are.

    Returns:
        The name as it stands in ``known``.

    Raises:
        TypeError: If ``value`` is no string.
        ValueError: If it is none of the names.
    """
    if not isinstance(value, str):
        raise TypeError(f"{name} must be the name of one (str), got {type(value).__name__}")
    known = list(known)
    for one in known:
        if plain(one) == plain(value):
            return one
    raise ValueError(
        f"unknown {name} {value!r}{nearest(value, known, most=1)}; known are {', '.join(known)}"
    )


def nearest(name: str, known: Iterable[str], most: int = 3) -> str:
    """The end of an error about a name that is not there; empty if none is near.

    Args:
        name: The name.
        known: Those that there are; of a dict, by them, what to tell in their place.
        most: How many of them to tell at most.
    """
    told = known if isinstance(known, Mapping) else {one: one for one in known}
    by_plain: dict[str, str] = {}
    for one, text in told.items():
        by_plain.setdefault(plain(one), text)
    close = difflib.get_close_matches(plain(name), by_plain, n=most)
    texts = dict.fromkeys(by_plain[match] for match in close)
    if not texts:
        return ""
    are = "name is" if len(texts) == 1 else "names are"
    return f"; the nearest {are} {', '.join(texts)}"


def plain(name: str) -> str:
    """A name without what people write now one way, now the other."""
    return re.sub(r"[\s_-]+", "", name).casefold()


def is_real(values: np.ndarray) -> bool:
    """Whether an array holds real numbers or booleans."""
    return values.dtype.kind in "biuf"


def plural(number: int, thing: str) -> str:
    """``"1 doc"``, ``"12 docs"``, ``"2 classes"``."""
    if number == 1:
        return f"1 {thing}"
    return f"{number} {thing}{'es' if thing.endswith('s') else 's'}"


def named_shapes(names: Iterable[str], shapes: Iterable[Iterable[int | None]]) -> str:
    """The names of arrays, each with its shape, as text."""
    return ", ".join(
        f"{name!r} of shape {readable(shape)}" for name, shape in zip(names, shapes, strict=True)
    )


def readable(shape: Iterable[int | None]) -> str:
    """A shape as text, with ``any`` for an axis that may have any size."""
    return "(" + ", ".join("any" if size is None else str(size) for size in shape) + ")"
