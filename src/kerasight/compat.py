"""kerasight under the name ``eli5``, for code that says ``import eli5``."""

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
# ... and the one that does, which is imported only when it is asked for.
_HEAVY = "eli5.keras.explain_prediction"


def install_as_eli5() -> None:
    """Have code that imports eli5 use kerasight for Keras models.

    If eli5 is not installed, kerasight's modules answer to the name ``eli5`` and the names of its
    submodules. If eli5 is installed, kerasight registers itself in ``eli5.explain_prediction`` for
    Keras models, so ``eli5.show_prediction`` and all other functions use it; the rest of eli5 does
    not change. Call it before the code that imports eli5; a second call does nothing.

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
    # This import registers eli5's own explainer, which the next line replaces.
    importlib.import_module("eli5.keras")
    registry.register(keras.Model, kerasight.explain_prediction_keras)


class _Eli5Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds the modules of eli5 that are not in ``sys.modules``."""

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
        # The module has run under its own name; importlib has just given it the spec of eli5's.

        module.__spec__ = self._own_spec
