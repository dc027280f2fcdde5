"""Blank heatmaps: why a heatmap shows nothing, and what to pass to see more."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from kerasight.base import FAINT, HeatmapWarning, outside
from kerasight.cam.heatmap import Heatmap
from kerasight.cam.inputs import Inputs
from kerasight.cam.maps import normalised
from kerasight.cam.request import Request
from kerasight.keras.targets import Classes

if TYPE_CHECKING:
    from kerasight.keras.explainer import Explainer

__all__ = ["warn_of"]


def warn_of(heatmap: Heatmap, label: str, explainer: Explainer, doc: Inputs) -> None:
    """Warn if a heatmap is blank or nearly so, unless such warnings are ignored.

    Args:
        heatmap: The heatmap.
        label: What a person calls its class.
        explainer: What was asked.
        doc: The doc.
    """
    if heatmap.peak < FAINT and _is_heard():
        message = _why(heatmap, label, explainer, doc)
        warnings.warn(message, HeatmapWarning, stacklevel=outside())


def _is_heard() -> bool:
    """Whether the warning would be shown; to find out what to say in it costs a pass."""
    for action, message, category, module, line in warnings.filters:
        if issubclass(HeatmapWarning, category) and not (message or module or line):
            return bool(action != "ignore")
    return True


def _why(heatmap: Heatmap, label: str, explainer: Explainer, doc: Inputs) -> str:
    """Why a heatmap is blank or nearly so, and what shows more, which was tried."""
    request, evidence = explainer.request, heatmap.evidence
    if request.method.at == "outside":
        return _why_from_outside(heatmap, label, explainer, doc)
    at = f" at layer {heatmap.path!r}" if heatmap.path else ""
    blank = f"the heatmap of {label}{at} is blank or nearly so: "
    if heatmap.is_of_zeros:
        return blank + "the layer's output is zero everywhere; try another layer, or another input"
    is_of_tokens = heatmap.site is not None and heatmap.site.layout.grid
    is_saturated = not request.logits and _is_saturated(heatmap)
    if is_of_tokens and not np.any(evidence) and not is_saturated:
        return blank + (
            "the score depends on none of its patches, as where the class token alone goes on; "
            "pass an earlier layer, or none to have one chosen"
        )
    if not np.any(evidence > 0) and np.any(evidence < 0):
        thing = "the class" if explainer.readout.has_classes else "the score"
        reason = f"no positive evidence, nothing at this layer speaks {_sides(request)[0]} {thing}"
    elif is_saturated:
        reason = (
            f"the softmax or sigmoid is saturated (score {heatmap.score:.6g}), so that the "
            "probability hardly changes whatever the layer puts out"
        )
    else:
        what = "this layer" if heatmap.path else "what was seen"
        reason = f"the score hardly depends on {what}, its gradients nearly vanish"
    remedy, note = _remedy(heatmap, explainer, doc)
    other = "another class, or another layer" if heatmap.path else "another class"
    return f"{blank}{reason}; {remedy or f'try {other}'}{note}"


def _why_from_outside(heatmap: Heatmap, label: str, explainer: Explainer, doc: Inputs) -> str:
    """The same where parts of the doc were hidden."""
    request, evidence = explainer.request, heatmap.evidence
    blank = f"the heatmap of {label} is blank or nearly so: "
    if not np.any(evidence > 0) and np.any(evidence < 0):
        reason = f"whatever is hidden, nothing turns out to speak {_sides(request)[0]} it"
    elif not request.logits and _is_saturated(heatmap):
        reason = (
            f"the softmax or sigmoid is saturated (score {heatmap.score:.6g}), so that the "
            "probability hardly changes whatever is hidden"
        )
    else:
        reason = "the score hardly changes, whatever is hidden"
    remedy, note = _remedy(heatmap, explainer, doc)
    return f"{blank}{reason}; {remedy or 'try another class, or hide more: a greater window'}{note}"


def _sides(request: Request) -> tuple[str, str]:
    """What positive evidence is, and what negative evidence is."""
    return ("against", "for") if request.counterfactual else ("for", "against")


def _remedy(heatmap: Heatmap, explainer: Explainer, doc: Inputs) -> tuple[str, str]:
    """The first option that shows more, or nothing if none does; and a note."""
    request = explainer.request

    def peak(evidence: np.ndarray, relu: bool) -> float:
        return float(np.abs(normalised(evidence, relu)).max())

    can_be_signed = request.relu and request.method.is_signed
    if can_be_signed and peak(heatmap.evidence, relu=False) >= FAINT:
        return f"relu=False shows what speaks {_sides(request)[1]} it", ""
    if request.logits:
        return "", ""
    site = None if request.method.at == "outside" else heatmap.site
    of_logits = replace(explainer, request=replace(request, logits=True), layer=site)
    try:
        (found,) = of_logits.look(doc, Classes(np.array([[heatmap.target]]))).heatmaps()
    except ValueError:
        if _is_saturated(heatmap):
            return "explain the logits: pass a model that ends in them", ""
        return "", ""
    evidence = found.evidence
    if peak(evidence, request.relu) >= FAINT:
        return "logits=True explains the logit instead", ""
    if can_be_signed and peak(evidence, relu=False) >= FAINT:
        return (
            "nor does anything speak for its logit: logits=True, relu=False shows what speaks "
            "against it"
        ), ""
    return "", "; logits=True does not help here"


def _is_saturated(heatmap: Heatmap) -> bool:
    """Whether the scores look like probabilities, and this one is all but 0 or 1."""
    scores = heatmap.scores
    are_probabilities = scores.min() >= 0 and scores.max() <= 1
    if len(scores) > 1:
        are_probabilities &= abs(float(scores.sum()) - 1) < 1e-2
    return bool(are_probabilities and min(heatmap.score, 1 - heatmap.score) < 1e-3)
