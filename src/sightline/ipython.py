"""Explain, then format: one call for a notebook cell."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from sightline.base import Explanation
from sightline.explain import explain_prediction

if TYPE_CHECKING:
    from PIL import Image

try:
    from sightline.formatters.image import format_as_image
except ImportError as missing:  # a broken Pillow: explaining works, drawing does not
    format_as_image = missing  # type: ignore[assignment]

__all__ = ["FORMAT_KWARGS", "show_prediction"]

# Arguments that are about the picture; all the others are about the explanation.
FORMAT_KWARGS = frozenset({"resampling_filter", "colormap", "alpha_limit"})


def show_prediction(estimator: Any, doc: Any, **kwargs: Any) -> Image.Image | Explanation:
    """Explain a prediction and lay the heatmap over the picture.

    As the last line of a notebook cell, the result shows itself. Elsewhere (in a loop, say), pass
    it to ``IPython.display.display``, or ``save`` it: it is an ordinary Pillow image.

    Args:
        estimator: The model. Must be passed by position.
        doc: The input whose prediction is to be explained, shape ``(1, height, width, channels)``.
        **kwargs: ``resampling_filter``, ``colormap`` and ``alpha_limit`` are passed to
            `sightline.format_as_image`; all others (``targets``, ``layer``, ``image``) to
            `sightline.explain_prediction`.

    Returns:
        The overlay, an RGBA Pillow image of the size of the explained picture. If the model is not
        supported, the ``Explanation``, which shows its ``error``.
    """
    format_kwargs = {name: value for name, value in kwargs.items() if name in FORMAT_KWARGS}
    explain_kwargs = {name: value for name, value in kwargs.items() if name not in FORMAT_KWARGS}
    expl = explain_prediction(estimator, doc, **explain_kwargs)
    if expl.image is None:
        return expl
    if isinstance(format_as_image, ImportError):
        warnings.warn(
            f"the picture cannot be drawn, dependencies are missing ({format_as_image}); "
            "returning the Explanation instead",
            stacklevel=2,
        )
        return expl
    return format_as_image(expl, **format_kwargs)
