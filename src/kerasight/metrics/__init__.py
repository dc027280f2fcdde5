"""How good is a heatmap: measures of faithfulness, of localisation, and a sanity check.

Each works on explanations or on bare heatmaps, on one doc or many, and answers with a small object
that prints its number and plots itself:

- `deletion`, `insertion`: how fast the score falls as the hottest pixels go, or rises as they come.
- `average_drop`, `increase`: what becomes of the score when only the hot pixels are left.
- `road`: deletion of what matters most and least, with the pixels imputed and not painted over.
- `pointing_game`, `energy_in_mask`: whether the heat lies on the object, where that is known.
- `sanity_check`: whether the heatmap depends on what the model has learnt.

Importing this package imports NumPy and no framework.
"""

from kerasight.metrics.localisation import EnergyInMask, PointingGame, energy_in_mask, pointing_game
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
from kerasight.metrics.sanity import SanityCheck, sanity_check

__all__ = [
    "AverageDrop",
    "Curve",
    "EnergyInMask",
    "Increase",
    "PointingGame",
    "Road",
    "SanityCheck",
    "average_drop",
    "deletion",
    "energy_in_mask",
    "increase",
    "insertion",
    "pointing_game",
    "road",
    "sanity_check",
]
