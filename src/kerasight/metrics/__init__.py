"""How good is a heatmap: measures of faithfulness, of localisation, and a sanity check.

Each works on explanations or on bare heatmaps, on one doc or many, and answers with a small object
that prints its number and plots itself:

- `deletion`, `insertion`: how fast the score falls as the hottest pixels go, or rises as they come.
- `average_drop`, `increase`: what becomes of the score when only the hot pixels are left.
- `road`: deletion of what matters most and least, with the pixels imputed and not painted over.
- `adcc`: what is left of the score, of how little, and whether the heatmap of that is the same.
- `completeness`: whether attributions sum to the score that they share out.
- `pointing_game`, `energy_in_mask`: whether the heat lies on the object, where that is known.
- `grid_pointing_game`: whether it lies on the picture of its class, in a mosaic of several.
- `sensitivity`: how far the heatmap moves if the doc changes a little.
- `sanity_check`: whether the heatmap depends on what the model has learnt.
- `complexity`: over how many places the heat is spread.
- `agreement`: whether several methods show the same places.

Importing this package imports NumPy and no framework.
"""

from kerasight.metrics.axioms import Completeness, completeness
from kerasight.metrics.coherence import Adcc, adcc
from kerasight.metrics.consensus import Agreement, agreement
from kerasight.metrics.entropy import Complexity, complexity
from kerasight.metrics.localisation import EnergyInMask, PointingGame, energy_in_mask, pointing_game
from kerasight.metrics.mosaics import GridPointingGame, grid_pointing_game
from kerasight.metrics.perturbation import (
    AverageDrop,
    Curve,
    Increase,
    average_drop,
    deletion,
    increase,
    insertion,
)
from kerasight.metrics.road import Road, road
from kerasight.metrics.robustness import Sensitivity, sensitivity
from kerasight.metrics.sanity import SanityCheck, sanity_check

__all__ = [
    "Adcc",
    "Agreement",
    "AverageDrop",
    "Completeness",
    "Complexity",
    "Curve",
    "EnergyInMask",
    "GridPointingGame",
    "Increase",
    "PointingGame",
    "Road",
    "SanityCheck",
    "Sensitivity",
    "adcc",
    "agreement",
    "average_drop",
    "completeness",
    "complexity",
    "deletion",
    "energy_in_mask",
    "grid_pointing_game",
    "increase",
    "insertion",
    "pointing_game",
    "road",
    "sanity_check",
    "sensitivity",
]
