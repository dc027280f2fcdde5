"""A heatmap, and what it says: of which target, with which score."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from kerasight.cam.maps import normalised, resized

if TYPE_CHECKING:
    from jaxtyping import Float, Float64

__all__ = ["Evidence", "Heatmap", "fused"]


@dataclass(frozen=True, eq=False)
class Evidence:
    """What a method found out of one target of one doc.

    Attributes:
        values: The evidence, shape ``(*spatial)``: neither cut off nor scaled.
        total: What it must sum to if it is complete: the score of the doc less that of the
            baseline; None where it need not sum to anything.
    """

    values: Float64[np.ndarray, "*spatial"]
    total: float | None = None


@dataclass(frozen=True, eq=False)
class Heatmap:
    """The heatmap of one class of one doc.

    Attributes:
        values: The heatmap, shape ``(*spatial)``, float64, in [0, 1]; in [-1, 1] if signed.
        evidence: What it was before its negative part was cut off and it was scaled.
        target: Index of the class.
        scores: The model's output, shape ``(classes,)``, or the logits that it was made of.
        rivals: Indices of the classes that ``target`` was compared with, the greatest score first.
        site: Where the model was looked at; None if it was looked at from outside.
        path: What that is called: the layer's path in the model, or those of several, with
            ``" + "`` between them.
        is_of_zeros: Whether the layer put out nothing but zeros.
        total: That of its `Evidence`.
    """

    values: Float64[np.ndarray, "*spatial"]
    evidence: Float64[np.ndarray, "*spatial"]
    target: int
    scores: Float[np.ndarray, " classes"]
    rivals: tuple[int, ...] = ()
    site: Any = None
    path: str = ""
    is_of_zeros: bool = False
    total: float | None = None

    @property
    def gap(self) -> float | None:
        """How far the evidence is from complete, as a share of what it must sum to.

        None where it need not sum to anything.
        """
        if self.total is None:
            return None
        missing = abs(float(self.evidence.sum()) - self.total)
        return missing / abs(self.total) if self.total else missing

    @property
    def score(self) -> float:
        """The model's output for the class, or its logit."""
        return float(self.scores[self.target])

    @property
    def peak(self) -> float:
        """The greatest of its values, whatever the sign."""
        return float(np.abs(self.values).max())


def fused(
    maps: Sequence[Heatmap],
    relu: bool,
    formula: Callable[[Sequence[Float64[np.ndarray, " ..."]]], Float64[np.ndarray, " ..."]]
    | None = None,
) -> Heatmap:
    """One heatmap of those of one class at several layers, at the greatest of their resolutions.

    Args:
        maps: The heatmaps.
        relu: Whether to cut off what is negative.
        formula: Makes evidence of that of each layer; None takes the mean of the heatmaps.
    """
    if formula is not None:
        evidence = formula([one.evidence for one in maps])
        return replace(
            maps[-1],
            values=normalised(evidence, relu),
            evidence=evidence,
            path=" + ".join(one.path for one in maps),
        )
    if len(maps) == 1:
        return maps[0]
    shape = np.max([one.values.shape for one in maps], axis=0)
    mean = np.mean([resized(one.values, shape) for one in maps], axis=0)
    # As bright as the brightest of them: what is blank at each layer is blank.
    brightest = max(one.peak for one in maps)
    return replace(
        maps[-1],
        values=normalised(mean, relu) * brightest,
        evidence=mean,
        total=None,
        path=" + ".join(one.path for one in maps),
    )
