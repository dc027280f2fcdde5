"""For code that says ``import eli5``: kerasight answers in its place."""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Sequence
from types import ModuleType

__all__ = ["install_as_eli5"]

# The modules of eli5's Keras API that import no framework, parents first ...
_LIGHT = (
    "base",
    "explain",
    "formatters",
    "formatters.as_dict",
    "formatters.html",
    "formatters.image",
    "formatters.text",
    "ipython",
    "keras",
    "keras.gradcam",
)
# ... and the one that does, to be imported only when somebody asks for it.
_HEAVY = "eli5.keras.explain_prediction"


def install_as_eli5() -> None:
    """Have code that imports eli5 use kerasight for Keras models.

    Where eli5 is not installed, kerasight's modules answer to the name ``eli5`` and those of its
    submodules. Where it is, kerasight is registered in ``eli5.explain_prediction`` for Keras
    models, so that ``eli5.show_prediction`` and all other functions use it, and the rest of eli5 is
    left alone. To be called before the code that imports eli5; calling it again does nothing.

    Example:
        >>> import kerasight
        >>> kerasight.install_as_eli5()
        >>> from eli5.formatters.image import heatmap_to_image
    """
    import kerasight

    if sys.modules.get("eli5") is kerasight:
        return
    if importlib.util.find_spec("eli5") is None:
        sys.meta_path.insert(0, _Eli5Finder())
        sys.modules["eli5"] = kerasight
        for name in _LIGHT:
            sys.modules[f"eli5.{name}"] = importlib.import_module(f"kerasight.{name}")
        return
    keras = importlib.import_module("keras")
    registry = importlib.import_module("eli5.explain").explain_prediction
    # Its own explainer registers when this is imported; afterwards ours stands in its place.
    importlib.import_module("eli5.keras")
    registry.register(keras.Model, kerasight.explain_prediction_keras)


class _Eli5Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Answers for the modules of eli5 that are not in ``sys.modules``."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname == _HEAVY:
            return importlib.machinery.ModuleSpec(fullname, self)
        if fullname.startswith("eli5."):
            raise ModuleNotFoundError(
                f"No module named {fullname!r}: kerasight answers for eli5's Keras API, "
                "not for the rest of eli5",
                name=fullname,
            )
        return None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        module = importlib.import_module("kerasight" + spec.name.removeprefix("eli5"))
        self._own_spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        # It has run already, under its own name; importlib has just given it that of eli5.
        module.__spec__ = self._own_spec
