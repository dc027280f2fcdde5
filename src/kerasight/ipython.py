"""Explain, then format: one call for a notebook cell."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from kerasight.base import Explanation
from kerasight.explain import explain_prediction, explain_predictions

if TYPE_CHECKING:
    from PIL import Image

try:
    from kerasight.formatters.image import format_as_image, format_as_sheet
except ImportError as missing:  # a broken Pillow: explaining works, drawing does not
    format_as_image = format_as_sheet = missing  # type: ignore[assignment]

__all__ = ["FORMAT_KWARGS", "show_prediction", "show_predictions"]

# Arguments for drawing the picture; all others are for the explanation.
FORMAT_KWARGS = frozenset(
    {"resampling_filter", "colormap", "alpha_limit", "outliers", "absolute", "blur"}
)


def show_prediction(estimator: Any, doc: Any, **kwargs: Any) -> Image.Image | Explanation:
    """Explain a prediction and lay the heatmap over the picture.

    As the last line of a notebook cell, the result shows itself. Elsewhere (in a loop, say), pass
    it to ``IPython.display.display``, or ``save`` it: it is an ordinary Pillow image.

    Args:
        estimator: The model. Must be passed by position.
        doc: The input with its batch axis, of a picture ``(1, height, width, channels)``.
        **kwargs: ``resampling_filter``, ``colormap``, ``alpha_limit``, ``outliers``, ``absolute``
            and ``blur`` are passed to `kerasight.format_as_image`; all others (``targets``,
            ``top_targets``, ``layer``, ``image``, ...) to `kerasight.explain_prediction`.

    Returns:
        The overlay, an RGBA Pillow image of the size of the explained picture; for several classes,
        panels side by side, each with its class and score. Of a signal, a volume or a video, the
        chart that `kerasight.format_as_image` draws. Of a text, and if the model is not supported,
        the ``Explanation``, which shows itself: its words, or its ``error``.
    """
    format_kwargs, explain_kwargs = _split(kwargs)
    expl = explain_prediction(estimator, doc, **explain_kwargs)
    if not _can_be_drawn(expl):
        return expl
    if isinstance(format_as_image, ImportError):
        _warn_of_missing(format_as_image)
        return expl
    return format_as_image(expl, **format_kwargs)


def show_predictions(estimator: Any, docs: Any, **kwargs: Any) -> Image.Image | list[Explanation]:
    """Explain many predictions, and draw the overlays on one sheet.

    Args:
        estimator: The model. Must be passed by position.
        docs: The inputs: an array ``(docs, height, width, channels)``, or any iterable of docs or
            batches.
        **kwargs: ``resampling_filter``, ``colormap``, ``alpha_limit``, ``outliers``, ``absolute``
            and ``blur`` are passed to `kerasight.formatters.image.format_as_sheet`; all others
            (``targets``, ``top_targets``, ``target_names``, ``layer``, ``images``, ``batch_size``,
            ``progress``, ``errors``) to `kerasight.explain_predictions`.

    Returns:
        An RGBA Pillow image, with a row for each doc and a column for each of its classes. If there
        is nothing to draw on, as when the model is not supported, the explanations, which show
        their ``error``.
    """
    format_kwargs, explain_kwargs = _split(kwargs)
    expls = list(explain_predictions(estimator, docs, **explain_kwargs))
    if not any(map(_can_be_drawn, expls)):
        return expls
    if isinstance(format_as_sheet, ImportError):
        _warn_of_missing(format_as_sheet)
        return expls
    return format_as_sheet(expls, **format_kwargs)


def _can_be_drawn(expl: Explanation) -> bool:
    return expl.image is not None or expl.doc is not None


def _split(kwargs: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The arguments for drawing the picture, and those for the explanation."""
    about_picture = {name: value for name, value in kwargs.items() if name in FORMAT_KWARGS}
    return about_picture, {name: kwargs[name] for name in kwargs.keys() - about_picture.keys()}


def _warn_of_missing(missing: ImportError) -> None:
    warnings.warn(
        f"the picture cannot be drawn, since dependencies are missing ({missing}); "
        "returning the explanation instead",
        stacklevel=3,
    )
