"""The result of every explainer: an ``Explanation`` with a ``TargetExplanation`` for each class.

This module imports no framework, no NumPy and no picture library, so any module may import it.
"""

from __future__ import annotations

import io
import sys
from dataclasses import dataclass, field, fields
from numbers import Real
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

__all__ = [
    "FAINT",
    "DocError",
    "Explanation",
    "HeatmapWarning",
    "RunError",
    "TargetExplanation",
    "check_explanation",
    "outside",
]

FAINT = 0.1  # below this peak a heatmap is all but invisible over its picture


class HeatmapWarning(UserWarning):
    """An explanation was computed, but its heatmap is blank or nearly so.

    The message says why (a saturated softmax, no positive evidence, ...) and what to try.
    """


class RunError(ValueError):
    """A model cannot be explained as it was asked, whatever the doc."""


class DocError(ValueError):
    """A doc cannot be explained; others in its batch can."""


def _same(ours: Any, theirs: Any) -> bool:
    """Whether two field values are equal, arrays cell by cell."""
    if hasattr(ours, "shape") or hasattr(theirs, "shape"):
        if getattr(ours, "shape", None) != getattr(theirs, "shape", None):
            return False
        return bool((ours == theirs).all())
    return bool(ours == theirs)


class _ComparesByField:
    """Equality over dataclass fields, which may hold arrays."""

    __hash__ = None  # type: ignore[assignment]  # mutable, and equal by value

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return all(
            _same(getattr(self, item.name), getattr(other, item.name))
            for item in fields(self)  # type: ignore[arg-type]
        )


@dataclass(eq=False)
class TargetExplanation(_ComparesByField):
    """The explanation of one class.

    Attributes:
        target: Index of the class in the model's output.
        feature_weights: Always None for images; part of eli5's interface.
        proba: Always None; the model's output is in ``score``.
        score: The model's output for ``target``, unchanged: a probability if the model ends in a
            softmax or sigmoid, else a logit.
        weighted_spans: Always None for images; part of eli5's interface.
        heatmap: float64 array of shape ``(height, width)``, the spatial size of the explained
            layer, with values in [0, 1]: how much each place speaks for the class. If ``signed``,
            values in [-1, 1]: negative values speak against the class.
        name: Name of the class, if known. Not part of ``repr``, which is eli5's.
        signed: Whether the heatmap has a sign, as with ``relu=False``. Not part of ``repr``.
        is_probability: Whether ``score`` is shown in per cent: all scores of the model lie in
            [0, 1], and no logits were asked for. Not part of ``repr``.
    """

    target: int | str
    feature_weights: Any = None
    proba: float | None = None
    score: float | None = None
    weighted_spans: Any = None
    heatmap: np.ndarray | None = None
    name: str | None = field(default=None, repr=False)
    signed: bool = field(default=False, repr=False)
    is_probability: bool = field(default=False, repr=False)

    @property
    def label(self) -> str:
        """The class for a reader: its name and index, or ``class`` and its index."""
        return f"class {self.target}" if self.name is None else f"{self.name} ({self.target})"


@dataclass(eq=False)
class Explanation(_ComparesByField):
    """The explanation of a model's prediction for one input.

    In a notebook it shows itself: the picture with the heatmap over it, a choice of its classes
    and a slider, or, if there is nothing to show, the text of ``error``.

    Attributes:
        estimator: Name of the explained model.
        description: A description of the explanation, in words.
        error: Why there is no explanation; empty or None if there is one.
        method: Name of the method, ``"Grad-CAM"``.
        is_regression: Always False for classifiers.
        targets: One ``TargetExplanation`` for each explained class.
        feature_importances: Always None for images; part of eli5's interface.
        decision_tree: Always None for images; part of eli5's interface.
        highlight_spaces: Always None for images; part of eli5's interface.
        transition_features: Always None for images; part of eli5's interface.
        image: The Pillow image to lay the heatmap over.
        layer: Path of the layer that was explained, such as ``"backbone/conv5_out"``, with the
            names of the models around it. Not part of ``repr``, which is eli5's.
    """

    estimator: str
    description: str | None = None
    error: str | None = None
    method: str | None = None
    is_regression: bool = False
    targets: list[TargetExplanation] | None = None
    feature_importances: Any = None
    decision_tree: Any = None
    highlight_spaces: bool | None = None
    transition_features: Any = None
    image: Image.Image | None = None
    layer: str | None = field(default=None, repr=False)

    def _repr_png_(self) -> bytes | None:
        """The overlay as PNG bytes, for notebooks; None if there is no picture."""
        if self.image is None:
            return None
        # Imported here: formatters build on this module, and most explanations are never shown.
        from kerasight.formatters.image import format_as_image

        data = io.BytesIO()
        format_as_image(self).save(data, format="PNG")
        return data.getvalue()

    def _repr_html_(self) -> str:
        """The overlay with its controls as an HTML fragment, for notebooks."""
        # Imported here for the same reason.
        from kerasight.formatters.html import format_as_html

        return format_as_html(self)


def outside() -> int:
    """The ``stacklevel`` that makes a warning point at the first line outside of this package."""
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and (
        frame.f_globals.get("__name__", "").split(".")[0] == "kerasight"
        or frame.f_globals.get("__name__") == "functools"
    ):
        frame, level = frame.f_back, level + 1
    return level


def check_explanation(expl: object, name: str = "expl") -> None:
    """Raise TypeError unless ``expl`` is an explanation that can be shown.

    Args:
        expl: The object to check.
        name: Its name in the message.
    """
    if not isinstance(expl, Explanation):
        hint = ""
        if isinstance(expl, TargetExplanation):
            hint = ": pass the Explanation that holds it in its targets"
        elif isinstance(expl, list | tuple):
            hint = ": pass its items one by one"
        raise TypeError(f"{name} must be an Explanation, got {type(expl).__name__}{hint}")
    if expl.targets is None:
        return
    if not isinstance(expl.targets, list | tuple):
        raise TypeError(
            f"{name}.targets must be a list of TargetExplanation, got {type(expl.targets).__name__}"
        )
    for target in expl.targets:
        if not isinstance(target, TargetExplanation):
            raise TypeError(
                f"{name}.targets must hold TargetExplanation, got {type(target).__name__}"
            )
        if target.score is not None and not isinstance(target.score, Real):
            raise TypeError(
                f"the score of {target.label} must be a number or None, "
                f"got {type(target.score).__name__}"
            )
