"""What tests ask of one framework by name: on another, the test that does so is skipped."""

from __future__ import annotations

import importlib
from typing import Any

import keras
import pytest

from kerasight.keras import backends

__all__ = ["compiles", "jax", "on_tensorflow", "on_tensorflow_as_long", "tf", "torch"]


class _Absent:
    """Stands for whatever is in a framework that Keras does not run on; to call it skips."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __getattr__(self, name: str) -> _Absent:
        return _Absent(f"{self.name}.{name}")

    def __call__(self, *_: Any, **__: Any) -> Any:
        pytest.skip(f"{self.name}: Keras runs on {keras.config.backend()}")


def _framework(name: str) -> Any:
    return importlib.import_module(name) if keras.config.backend() == name else _Absent(name)


tf = _framework("tensorflow")
jax = _framework("jax")
torch = _framework("torch")

compiles = pytest.mark.skipif(
    not backends.current().compiles, reason=f"{keras.config.backend()} compiles nothing"
)
on_tensorflow = pytest.mark.skipif(
    keras.config.backend() != "tensorflow", reason=f"Keras runs on {keras.config.backend()}"
)
on_tensorflow_as_long = pytest.mark.skipif(
    keras.config.backend() != "tensorflow",
    reason=f"takes minutes on {keras.config.backend()} without a GPU",
)
