"""The result of every explainer: an ``Explanation`` with a ``TargetExplanation`` for each target.

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
    "DocWeightedSpans",
    "Explanation",
    "FeatureWeight",
    "FeatureWeights",
    "HeatmapWarning",
    "RunError",
    "TargetExplanation",
    "WeightedSpans",
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
class FeatureWeight(_ComparesByField):
    """What a feature, such as a word, adds to a score; the fields are eli5's.

    Attributes:
        feature: What the feature is called.
        weight: How much it speaks for the target, or if negative against it.
        std: Always None; part of eli5's interface.
        value: How often it is in the doc.
    """

    feature: str
    weight: float
    std: float | None = None
    value: float | None = None


@dataclass(eq=False)
class FeatureWeights(_ComparesByField):
    """Features with their weights; the fields are eli5's.

    Attributes:
        pos: Those that speak for the target, the greatest weight first.
        neg: Those that speak against it, the lowest weight first.
        pos_remaining: How many more there are that speak for it.
        neg_remaining: How many more there are that speak against it.
    """

    pos: list[FeatureWeight] = field(default_factory=list)
    neg: list[FeatureWeight] = field(default_factory=list)
    pos_remaining: int = 0
    neg_remaining: int = 0


@dataclass(eq=False)
class DocWeightedSpans(_ComparesByField):
    """A text, and the weights of its parts; the fields are eli5's.

    Attributes:
        document: The text.
        spans: ``(feature, [(start, end), ...], weight)`` for each of its tokens in their order:
            what it is called, where it stands in ``document``, and how much it speaks for the
            target, in [0, 1], or in [-1, 1] if signed.
        preserve_density: Always None; part of eli5's interface.
        vec_name: Always None; part of eli5's interface.
    """

    document: str
    spans: list[tuple[str, list[tuple[int, int]], float]]
    preserve_density: bool | None = None
    vec_name: str | None = None


@dataclass(eq=False)
class WeightedSpans(_ComparesByField):
    """Texts with weights; the fields are eli5's.

    Attributes:
        docs_weighted_spans: One for each text of a doc.
        other: Always None; part of eli5's interface.
    """

    docs_weighted_spans: list[DocWeightedSpans]
    other: FeatureWeights | None = None


@dataclass(eq=False)
class TargetExplanation(_ComparesByField):
    """The explanation of one class, or of whatever else is explained.

    Attributes:
        target: Index of the class in the model's output; what is explained in words, such as
            ``"age"``, if it is no class.
        feature_weights: Of a text, its words with their weights; None for all else.
        proba: Always None; the model's output is in ``score``.
        score: The model's output for ``target``, unchanged: a probability if the model ends in a
            softmax or sigmoid, else a logit.
        weighted_spans: Of a text, where its words stand, with their weights; None for all else.
        heatmap: float64 array with the spatial axes of the explained layer, ``(height, width)`` of
            a picture, ``(steps,)`` of a signal or a text, ``(depth, height, width)`` of a volume
            and ``(frames, height, width)`` of a video, with values in [0, 1]: how much each place
            speaks for the class. If ``signed``, values in [-1, 1]: negative values speak against
            the class.
        name: Name of the class, if known. Not part of ``repr``, which is eli5's.
        signed: Whether the heatmap has a sign, as with ``relu=False``. Not part of ``repr``.
        is_probability: Whether ``score`` is shown in per cent: all scores of the model lie in
            [0, 1], and no logits were asked for. Not part of ``repr``.
        detail: What more is to be told of the target, such as ``"in the region of 312 pixels"``;
            empty if nothing. Not part of ``repr``.
        box: The box that is explained, ``(left, top, right, bottom)`` as shares of the picture's
            width and height; None if it is none. Not part of ``repr``.
        region: The region of the picture that is explained, a bool array ``(height, width)``; None
            if it is the whole. Not part of ``repr``.
        gap: How much is missing of what the evidence must sum to, as a share of it, for methods
            that are complete, such as integrated gradients; None for all others. Not part of
            ``repr``.
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
    detail: str = field(default="", repr=False)
    box: tuple[float, float, float, float] | None = field(default=None, repr=False)
    region: np.ndarray | None = field(default=None, repr=False)
    gap: float | None = field(default=None, repr=False)

    @property
    def label(self) -> str:
        """The target for a reader: a class by its name and index, and what more is to be told."""
        label = f"class {self.target}" if self.name is None else f"{self.name} ({self.target})"
        if isinstance(self.target, str):
            label = self.target
        return f"{label}, {self.detail}" if self.detail else label


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
        is_regression: Whether the score is a number that the model estimates, and of no class.
        targets: One ``TargetExplanation`` for each explained class.
        feature_importances: Always None; part of eli5's interface.
        decision_tree: Always None; part of eli5's interface.
        highlight_spaces: Always None; part of eli5's interface.
        transition_features: Always None; part of eli5's interface.
        image: The Pillow image to lay the heatmap over; None if the doc is no picture.
        layer: Path of the layer that was explained, such as ``"backbone/conv5_out"``, with the
            names of the models around it. Not part of ``repr``, which is eli5's.
        kind: What the doc is: ``"picture"``, ``"signal"``, ``"volume"``, ``"video"`` or ``"text"``.
            Not part of ``repr``.
        doc: What the heatmaps belong over, if it is no picture and no text: a signal ``(steps,
            channels)``, a volume ``(depth, height, width, channels)`` or a video ``(frames, height,
            width, channels)``. Not part of ``repr``.
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
    kind: str = field(default="picture", repr=False)
    doc: np.ndarray | None = field(default=None, repr=False)

    def _repr_png_(self) -> bytes | None:
        """The picture as PNG bytes, for notebooks; None if there is nothing to draw."""
        if self.image is None and self.doc is None and not (self.kind == "text" and self.targets):
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
