"""A small image classifier of our own, and pictures to explain, with nothing to download.

Eight classes of toy-like objects (`CLASS_NAMES`), a function that draws any number of pictures of
them, and a Keras model of about 100,000 weights that tells them apart::

    from kerasight.demo import load_model, load_picture, preprocess

    model = load_model()
    picture = load_picture()
    probabilities = model.predict(preprocess(picture))

The masks of drawn pictures say where the objects are, which the model never saw: what an
explanation points at can be checked against them. In the repository, ``tests/demo/train.py`` trains
the model and draws the picture anew.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kerasight.demo.classifier import load_model, load_picture, preprocess
    from kerasight.demo.pictures import Picture, draw_pair, draw_picture

__all__ = [
    "CLASS_NAMES",
    "Picture",
    "draw_pair",
    "draw_picture",
    "load_model",
    "load_picture",
    "preprocess",
]

CLASS_NAMES: tuple[str, ...]
"""The names of the eight classes, in the order of the classifier's output."""

_MODULES = {
    "CLASS_NAMES": "pictures",
    "Picture": "pictures",
    "draw_pair": "pictures",
    "draw_picture": "pictures",
    "load_model": "classifier",
    "load_picture": "classifier",
    "preprocess": "classifier",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
