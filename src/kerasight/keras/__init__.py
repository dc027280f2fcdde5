"""Explaining Keras models.

``kerasight.keras.gradcam`` is the function, as it is in eli5, and it carries the names of its
module, so that ``kerasight.keras.gradcam.gradcam_backend`` works, as does ``from
kerasight.keras.gradcam import gradcam_backend``.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from kerasight.keras.gradcam import gradcam, gradcam_backend

if TYPE_CHECKING:
    from kerasight.keras.explain_prediction import explain_prediction_keras

__all__ = ["explain_prediction_keras", "gradcam", "gradcam_backend"]

gradcam.gradcam = gradcam  # type: ignore[attr-defined]
gradcam.gradcam_backend = gradcam_backend  # type: ignore[attr-defined]


def __getattr__(name: str) -> Any:
    """Import what needs Keras only when it is asked for."""
    if name == "explain_prediction_keras":
        module = importlib.import_module("kerasight.keras.explain_prediction")
        return module.explain_prediction_keras
    if name in ("explain_prediction", "explain_predictions"):
        return importlib.import_module(f"kerasight.keras.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
