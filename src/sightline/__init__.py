"""sightline shows where a Keras image classifier looked.

Use it as ``import sightline as eli5``: the names, arguments and results are those of eli5's Keras
API. Importing sightline imports no framework; what a function needs comes with its first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sightline import base, demo, explain, formatters, ipython, keras, metrics
    from sightline.base import Explanation, HeatmapWarning, TargetExplanation
    from sightline.compat import install_as_eli5
    from sightline.explain import explain_prediction, explain_predictions
    from sightline.formatters.as_dict import format_as_dict
    from sightline.formatters.html import format_as_html, write_report
    from sightline.formatters.image import format_as_image
    from sightline.formatters.text import format_as_text
    from sightline.ipython import show_prediction, show_predictions
    from sightline.keras.explain_prediction import explain_prediction_keras

__all__ = [
    "Explanation",
    "HeatmapWarning",
    "TargetExplanation",
    "base",
    "demo",
    "explain",
    "explain_prediction",
    "explain_prediction_keras",
    "explain_predictions",
    "format_as_dict",
    "format_as_html",
    "format_as_image",
    "format_as_text",
    "formatters",
    "install_as_eli5",
    "ipython",
    "keras",
    "metrics",
    "show_prediction",
    "show_predictions",
    "write_report",
]

_MODULES = frozenset(
    {"base", "compat", "demo", "explain", "formatters", "ipython", "keras", "metrics"}
)
_WHERE = {
    "Explanation": "sightline.base",
    "HeatmapWarning": "sightline.base",
    "TargetExplanation": "sightline.base",
    "explain_prediction": "sightline.explain",
    "explain_prediction_keras": "sightline.keras.explain_prediction",
    "explain_predictions": "sightline.explain",
    "format_as_dict": "sightline.formatters.as_dict",
    "format_as_html": "sightline.formatters.html",
    "format_as_image": "sightline.formatters.image",
    "format_as_text": "sightline.formatters.text",
    "install_as_eli5": "sightline.compat",
    "show_prediction": "sightline.ipython",
    "show_predictions": "sightline.ipython",
    "write_report": "sightline.formatters.html",
}


def __getattr__(name: str) -> Any:
    """Import a module, or the module of a function, when it is first asked for."""
    if name in _MODULES:
        return importlib.import_module(f"sightline.{name}")
    if name in _WHERE:
        value = getattr(importlib.import_module(_WHERE[name]), name)
        globals()[name] = value
        return value
    if name == "__version__":
        from importlib.metadata import version

        return version("sightline")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "__version__"})
