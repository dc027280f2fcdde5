"""How methods come to their evidence: a function for each of the things that formulas need.

A way takes a `kerasight.keras.subject.Subject`, asks the model what it needs to know, and calls the
formula of the method: it returns an `kerasight.cam.heatmap.Evidence` for each target.
"""

from __future__ import annotations

from collections.abc import Callable

from kerasight.cam.heatmap import Evidence
from kerasight.cam.methods import Needs
from kerasight.keras.subject import Subject
from kerasight.keras.ways import attention, gradients, layer

__all__ = ["WAYS", "Way"]

Way = Callable[[Subject], list[Evidence]]

WAYS: dict[Needs, Way] = {
    "nothing": layer.of_activations,
    "gradients": layer.of_gradients,
    "scores": layer.of_scores_through_channels,
    "drops": layer.of_drops,
    "path": gradients.along_path,
    "baselines": gradients.from_baselines,
    "noise": gradients.under_noise,
    "attention": attention.of_blocks,
    "attention gradients": attention.of_blocks_and_gradients,
    "gradients by block": attention.of_gradients_by_block,
}
"""The ways by what a formula needs."""
