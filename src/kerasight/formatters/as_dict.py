"""Explanations as plain dicts and lists, ready for JSON."""

from __future__ import annotations

import base64
import io
import math
from dataclasses import fields, is_dataclass
from numbers import Integral, Real
from typing import Any

import numpy as np
from PIL import Image

from kerasight.base import Explanation, TargetExplanation
from kerasight.checks import is_real
from kerasight.formatters.pixels import to_rgba

__all__ = ["format_as_dict"]

# Modes that a PNG holds as they are.
_MODES_OF_PNG = frozenset({"1", "L", "LA", "P", "RGB", "RGBA", "I;16"})


def format_as_dict(
    expl: Explanation | TargetExplanation, *, include_image: bool = True
) -> dict[str, Any]:
    """Convert an explanation to what ``json.dumps`` takes.

    The keys are the names of the fields, in their order. Heatmaps, regions and the signal, volume
    or video in ``doc`` become nested lists, of a heatmap ``(height, width)`` lists of rows. The
    picture becomes a dict with ``format`` (``"png"``), ``mode``, ``width``, ``height`` and
    ``data``, the file in Base64. Numbers that JSON does not know (NaN and infinities) become None.

    Args:
        expl: An explanation, or one of its targets.
        include_image: Whether to include the picture's ``data`` and the ``doc``, which take most of
            the room; if not, they are None.

    Returns:
        A dict of dicts, lists, str, int, float, bool and None that shares nothing with ``expl``.

    Raises:
        TypeError: If ``expl`` is no explanation, or a field has a value of another kind.
    """
    if not isinstance(expl, Explanation | TargetExplanation):
        raise TypeError(f"expl must be an Explanation or one of its targets, got {type(expl)}")
    return {
        item.name: None
        if item.name == "doc" and not include_image
        else _plain(getattr(expl, item.name), item.name, include_image)
        for item in fields(expl)
    }


def _plain(value: Any, name: str, include_image: bool) -> Any:
    """A value as JSON has it; ``name`` is for the error message."""
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, np.bool_):
        return bool(value)
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, np.ndarray):
        if is_real(value) and np.isfinite(value).all():  # as those of many millions of values are
            return value.tolist()
        return _plain(value.tolist(), name, include_image)
    if isinstance(value, Image.Image):
        return _picture(value, include_image)
    if isinstance(value, list | tuple):
        return [_plain(item, name, include_image) for item in value]
    if isinstance(value, dict):
        return {str(key): _plain(item, name, include_image) for key, item in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        return {
            item.name: _plain(getattr(value, item.name), item.name, include_image)
            for item in fields(value)
        }
    raise TypeError(f"{name} holds a value that JSON has no word for: {type(value).__name__}")


def _picture(image: Image.Image, include_image: bool) -> dict[str, Any]:
    """A picture as a PNG; a mode that PNG lacks becomes the RGBA that the overlays show."""
    image = image.copy() if image.mode in _MODES_OF_PNG else to_rgba(image)
    # The model saw no place, camera or rotation.
    image.info = {key: value for key, value in image.info.items() if key == "transparency"}
    data = None
    if include_image:
        file = io.BytesIO()
        image.save(file, format="PNG")
        data = base64.b64encode(file.getvalue()).decode("ascii")
    return {
        "format": "png",
        "mode": image.mode,
        "width": image.width,
        "height": image.height,
        "data": data,
    }
