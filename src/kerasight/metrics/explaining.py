"""What the metrics share that explain docs by themselves: a stream of heatmaps, and its options."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterable, Iterator, Mapping
from itertools import repeat
from typing import TYPE_CHECKING, Any

from PIL import Image

from kerasight.base import Explanation, HeatmapWarning

if TYPE_CHECKING:
    import keras

    from kerasight.keras.explainer import LayerKeys

__all__ = ["check_one_class", "explained", "without_warnings"]


def check_one_class(options: Mapping[str, Any]) -> None:
    """Raise ValueError if options ask for several classes of a doc."""
    if "top_targets" in options:
        raise ValueError("one class of a doc is checked at a time; pass it as targets, as in [243]")


def explained(
    model: keras.Model,
    docs: Iterable[Any],
    targets: list[list[int]] | None,
    layer: LayerKeys | None,
    options: Mapping[str, Any],
    what: str = "the docs",
) -> Iterator[Explanation]:
    """The explanations of docs, in batches, one by one.

    Args:
        model: The classifier.
        docs: The docs, as `kerasight.explain_predictions` takes them.
        targets: The classes of each doc; None for those with the greatest scores.
        layer: The layer to explain.
        options: How to explain.
        what: What errors call the docs.

    Raises:
        ValueError: If one cannot be explained.
    """
    from kerasight.explain import explain_predictions

    # A picture, which nobody sees, cannot be made of every doc. The bar that counts docs is enough.
    picture = Image.new("L", (1, 1))
    asked = {**options, "targets": targets, "layer": layer, "progress": False}
    try:
        for explanation in explain_predictions(model, docs, images=repeat(picture), **asked):
            if not explanation.targets:
                raise ValueError(explanation.error)
            yield explanation
    except ValueError as error:
        raise ValueError(f"{what} cannot be explained: {error}") from error


@contextlib.contextmanager
def without_warnings() -> Iterator[None]:
    """Docs and weights that are not the user's often give blank heatmaps, which need no warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", HeatmapWarning)
        yield
