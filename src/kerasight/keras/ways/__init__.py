"""How methods come to their evidence: a function for each of the things that formulas need.

A way takes a `kerasight.keras.subject.Subject`, asks the model what it needs to know, and calls the
formula of the method: it returns an `kerasight.cam.heatmap.Evidence` for each target.
"""

from __future__ import annotations

from collections.abc import Callable

from kerasight.cam.heatmap import Evidence
from kerasight.keras.subject import Subject
from kerasight.keras.ways import attention, gradients, layer, masks, optimised

__all__ = ["WAYS", "Way"]

Way = Callable[[Subject], list[Evidence]]

WAYS: dict[str, Way] = {
    "nothing": layer.of_activations,
    "gradients": layer.of_gradients,
    "scores": layer.of_scores_through_channels,
    "drops": layer.of_drops,
    "places": layer.of_places,
    "weights": optimised.of_weights,
    "curvature": layer.of_curvature,
    "layers": layer.of_one_of_layers,
    "path": gradients.along_path,
    "baselines": gradients.from_baselines,
    "noise": gradients.under_noise,
    "windows": masks.of_windows,
    "masks": masks.of_random_masks,
    "coalitions": masks.of_coalitions,
    "attention": attention.of_blocks,
    "attention gradients": attention.of_blocks_and_gradients,
    "gradients by block": attention.of_gradients_by_block,
}
"""The ways by what a formula needs."""
