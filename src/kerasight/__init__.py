"""kerasight shows where a Keras model looked.

Use it as ``import kerasight as eli5``: the names, arguments and results are those of eli5's Keras
API. Importing kerasight imports no framework; what a function needs comes with its first use.
"""

from __future__ import annotations

import importlib

TYPE_CHECKING = False  # as in typing, whose import would take most of the time that this one does
if TYPE_CHECKING:
    from typing import Any

    from kerasight import (
        auditing,
        base,
        callbacks,
        cam,
        demo,
        explain,
        formatters,
        ipython,
        jobs,
        keras,
        metrics,
        ray,
        targets,
    )
    from kerasight.auditing.findings import audit
    from kerasight.base import Explanation, HeatmapWarning, TargetExplanation
    from kerasight.compat import install_as_eli5
    from kerasight.explain import explain_prediction, explain_predictions
    from kerasight.formatters.animation import write_animation
    from kerasight.formatters.as_dict import format_as_dict
    from kerasight.formatters.html import format_as_html, write_report
    from kerasight.formatters.image import format_as_image
    from kerasight.formatters.text import format_as_text
    from kerasight.ipython import show_prediction, show_predictions
    from kerasight.keras.explain_prediction import explain_prediction_keras
    from kerasight.side_by_side import compare

__all__ = [
    "Explanation",
    "HeatmapWarning",
    "TargetExplanation",
    "audit",
    "auditing",
    "base",
    "callbacks",
    "cam",
    "compare",
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
    "jobs",
    "keras",
    "metrics",
    "ray",
    "show_prediction",
    "show_predictions",
    "targets",
    "write_animation",
    "write_report",
]

_MODULES = frozenset(
    {
        "auditing",
        "base",
        "callbacks",
        "cam",
        "compat",
        "demo",
        "explain",
        "formatters",
        "ipython",
        "jobs",
        "keras",
        "metrics",
        "ray",
        "targets",
    }
)
_WHERE = {
    "Explanation": "kerasight.base",
    "HeatmapWarning": "kerasight.base",
    "TargetExplanation": "kerasight.base",
    "audit": "kerasight.auditing.findings",
    "compare": "kerasight.side_by_side",
    "explain_prediction": "kerasight.explain",
    "explain_prediction_keras": "kerasight.keras.explain_prediction",
    "explain_predictions": "kerasight.explain",
    "format_as_dict": "kerasight.formatters.as_dict",
    "format_as_html": "kerasight.formatters.html",
    "format_as_image": "kerasight.formatters.image",
    "format_as_text": "kerasight.formatters.text",
    "install_as_eli5": "kerasight.compat",
    "show_prediction": "kerasight.ipython",
    "show_predictions": "kerasight.ipython",
    "write_animation": "kerasight.formatters.animation",
    "write_report": "kerasight.formatters.html",
}


def __getattr__(name: str) -> Any:
    """Import a module, or the module of a function, when it is first asked for."""
    if name in _MODULES:
        return importlib.import_module(f"kerasight.{name}")
    if name in _WHERE:
        value = getattr(importlib.import_module(_WHERE[name]), name)
        globals()[name] = value
        return value
    if name == "__version__":
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("kerasight")
        except PackageNotFoundError:  # imported from a folder, and not installed
            return "unknown"
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "__version__"})
