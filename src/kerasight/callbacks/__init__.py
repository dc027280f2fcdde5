"""Callbacks of Keras: where a model looks while it trains.

`ExplainPredictions` explains the same docs again and again during ``fit``, and hands the pictures
to writers: a folder, TensorBoard, Weights & Biases, MLflow, or a function of one's own.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kerasight.callbacks.explaining import ExplainPredictions
    from kerasight.callbacks.writers import (
        FolderWriter,
        MlflowWriter,
        TensorBoardWriter,
        WandbWriter,
        Writer,
    )

__all__ = [
    "ExplainPredictions",
    "FolderWriter",
    "MlflowWriter",
    "TensorBoardWriter",
    "WandbWriter",
    "Writer",
]


def __getattr__(name: str) -> object:
    """Import a module when a name of it is first asked for, as a callback imports Keras."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = "explaining" if name == "ExplainPredictions" else "writers"
    return getattr(import_module(f"{__name__}.{module}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
