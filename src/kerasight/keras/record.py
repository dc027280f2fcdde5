"""One pass through a model: activations and gradients of one layer, checked, channels last."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import keras
import numpy as np

from kerasight.keras import backends, layers
from kerasight.keras.backends.common import TOP, Pass, Rivals
from kerasight.keras.sites import Choice, Site, rows_differ, spatial_shape
from kerasight.keras.traces import traces_of

__all__ = ["Terms", "record", "record_batch", "scorer", "scores_of", "target_index"]


@dataclass(frozen=True)
class Terms:
    """The terms of a heatmap.

    Attributes:
        site: Where the model was looked at.
        path: What that is called: the layer's path in the model.
        activations: What was seen there, shape ``(height, width, channels)``, float32 or float64.
        gradients: Gradients of ``score`` with respect to ``activations``, same shape and type.
        target: Index of the explained class.
        scores: The model's output, shape ``(classes,)``, or the logits that it was made of.
        rivals: Indices of the classes that ``target`` was compared with, the greatest score first.
    """

    site: Site
    path: str
    activations: np.ndarray
    gradients: np.ndarray
    target: int
    scores: np.ndarray
    rivals: tuple[int, ...] = ()

    @property
    def layer(self) -> keras.layers.Layer:
        """The recorded layer."""
        return self.site.layer

    @property
    def score(self) -> float:
        """The model's output for ``target``."""
        return float(self.scores[self.target])


def record(
    model: keras.Model,
    doc: np.ndarray,
    targets: list[int] | None = None,
    layer: keras.layers.Layer | Site | None = None,
) -> Terms:
    """Run a model forward and backward once, and see one layer, for one class of one input.

    Args:
        model: The classifier. Of several outputs the first is explained.
        doc: One input, shape ``(1, height, width, channels)``, or channels first.
        targets: The index of the class, as a list of one, or None for the top class.
        layer: The layer, at any depth, or the site; None to have it chosen, see `sites.Choice`. Of
            a layer called several times the last call with a map is taken.

    Raises:
        TypeError: If ``targets`` is neither a list nor None, or its item no integer.
        ValueError: If ``targets`` does not hold exactly one class; if the layer was not reached,
            has no map, or no gradient to the score; if there is NaN or infinity in either.
    """
    target = target_index(targets)
    wanted = Site(layer) if isinstance(layer, keras.layers.Layer) else layer
    (found,) = record_batch(model, doc, np.array([[TOP if target is None else target]]), wanted)
    if isinstance(found, ValueError):
        raise found
    return found[0]


def record_batch(
    model: keras.Model,
    docs: np.ndarray,
    targets: np.ndarray,
    site: Site | None = None,
    *,
    logits: bool = False,
    rivals: Rivals | None = None,
    needs_gradients: bool = True,
) -> list[list[Terms] | ValueError]:
    """Run a model forward and backward once, for several classes of several inputs.

    Args:
        model: As in `record`.
        docs: Inputs, shape ``(docs, height, width, channels)``, or channels first.
        targets: Integers, shape ``(docs, targets)``: indices of classes, or all `common.TOP` or all
            `common.LOWEST` for those with the greatest or the lowest scores.
        site: Where to look; None to have it chosen.
        logits: Whether the scores are to be those before the final softmax or sigmoid.
        rivals: If given, what is differentiated is the score of a class less a share of the mean
            score of these others.
        needs_gradients: Whether it is an error if the scores do not depend on the layer in a way
            that can be differentiated; else the gradients are zero.

    Returns:
        For each doc its terms, one for each target; or the error, if there is NaN or infinity in
        those of this doc, or a class has no rivals but itself.

    Raises:
        ValueError: If there is no such class; if the layer was not reached, has no map, or no
            gradient to the score; if there are no logits to be found, or there is but one class and
            it is to be compared.
    """
    chooser = Choice(model, site)
    traces = traces_of(model)
    traces.refresh()
    recorded = backends.current().forward_backward(model, docs, targets, chooser, logits, rivals)
    if rivals is not None and recorded.scores.shape[1] == 1:
        raise ValueError(
            "there is no class to compare with: the model puts out one; pass another method than "
            "finer-cam"
        )
    found = recorded.site
    if found is None:
        raise ValueError(_why_nothing(model, chooser, recorded))
    assert found.data_format is not None
    of_site = (weakref.ref(found.layer), found.at_input)
    name = traces.once(("path", of_site), lambda: found.path(model))
    activations, gradients = recorded.activations, recorded.gradients
    if activations is not None and activations.ndim == 4 and len(activations) != len(docs):
        raise ValueError(f"layer {name!r} has " + rows_differ(len(activations), len(docs)))
    if activations is None or activations.ndim != 4:
        was = "no single float tensor" if activations is None else f"shape {activations.shape}"
        raise ValueError(
            f"layer {name!r} has no spatial axes to draw a heatmap over: its output has {was}, "
            "where (1, height, width, channels) is needed; pass a convolution, an activation or a "
            "pooling layer before the last global pooling"
        )
    if spatial_shape(activations.shape, found.data_format) == (1, 1):
        raise ValueError(
            f"layer {name!r} has a map of one cell (output shape {activations.shape}), of which a "
            "heatmap would be one flat colour; pass a layer before the last global pooling"
        )
    if gradients is None and not needs_gradients:
        gradients = np.zeros((recorded.targets.shape[1], *activations.shape), activations.dtype)
    if gradients is None:
        raise ValueError(
            f"layer {name!r} has no gradient to the score: the score does not depend on its "
            "output, or only through an operation that cannot be differentiated, or that "
            "is rematerialised (keras.remat, tf.recompute_grad): what runs inside of it cannot be "
            "seen, and the layer around it can"
        )
    if found.data_format == "channels_first":
        activations, gradients = np.moveaxis(activations, 1, -1), np.moveaxis(gradients, 2, -1)
    return [
        _not_finite(name, activations[doc], gradients[:, doc])
        or _not_compared(recorded, doc)
        or [
            Terms(
                site=found,
                path=name,
                activations=activations[doc],
                gradients=gradients[rank, doc],
                target=int(target),
                scores=recorded.scores[doc],
                rivals=_rivals_of(recorded, doc, rank),
            )
            for rank, target in enumerate(recorded.targets[doc])
        ]
        for doc in range(len(docs))
    ]


def scores_of(
    model: keras.Model, docs: np.ndarray, *, logits: bool = False, batch_size: int = 32
) -> np.ndarray:
    """The scores of many inputs, a batch at a time; the fast way to run a model often.

    Args:
        model: The classifier.
        docs: Inputs, shape ``(docs, height, width, channels)``, or channels first.
        logits: Whether the scores are to be those before the final softmax or sigmoid.
        batch_size: How many go through the model at a time.

    Returns:
        The model's first output, shape ``(docs, classes)``, float32 or float64.

    Raises:
        ValueError: If the output is not one score a class, or there are no logits to be found.
    """
    batches = [docs[start : start + batch_size] for start in range(0, len(docs), batch_size)]
    backend = backends.current()
    traces_of(model).refresh()
    return np.concatenate([backend.scores(model, batch, logits) for batch in batches])


def scorer(
    model: keras.Model, docs: np.ndarray, *, logits: bool = False
) -> Callable[[np.ndarray], np.ndarray]:
    """What gives the scores of a batch, for a thousand inputs and more.

    Making it takes as long as some hundred of them. It then is up to a quarter faster than
    `scores_of`, since the weights are compiled in, and as exact.

    Args:
        model: The classifier. It has run, and stays as it is while its scores are asked for.
        docs: Inputs of the shape and type that all will have, however many.
        logits: Whether the scores are to be those before the final softmax or sigmoid.

    Returns:
        A function from a batch of inputs to scores ``(batch, classes)``, float32 or float64.
    """
    traces_of(model).refresh()
    return backends.current().scorer(model, docs, logits)


def _not_finite(name: str, activations: np.ndarray, gradients: np.ndarray) -> ValueError | None:
    for what, values in (("output", activations), ("gradient", gradients)):
        if not np.isfinite(values).all():
            return ValueError(
                f"there is NaN or infinity in the {what} of layer {name!r}; look at the model's "
                "weights and at the range of doc"
            )
    return None


def _rivals_of(recorded: Pass, doc: int, rank: int) -> tuple[int, ...]:
    """The classes that a class was compared with, the greatest score first."""
    if recorded.rivals is None:
        return ()
    found = np.flatnonzero(recorded.rivals[rank, doc])
    order = np.argsort(-recorded.scores[doc, found], kind="stable")
    return tuple(int(index) for index in found[order])


def _not_compared(recorded: Pass, doc: int) -> ValueError | None:
    if recorded.rivals is None:
        return None
    for rank, target in enumerate(recorded.targets[doc]):
        if not recorded.rivals[rank, doc].any():
            return ValueError(
                f"class {target} has no class to be compared with: references holds none but "
                "itself; pass others"
            )
    return None


def target_index(targets: Any) -> int | None:
    """The one class in ``targets``, or None where the top class is to be taken.

    Raises:
        TypeError: If ``targets`` is neither a list nor None, or its item no integer.
        ValueError: If it does not hold exactly one item.
    """
    if targets is None:
        return None
    if not isinstance(targets, list):
        raise TypeError(
            "targets must be a list of one class index, such as [243], or None for the top class, "
            f"got {type(targets).__name__}"
        )
    if len(targets) != 1:
        raise ValueError(
            f"targets must hold exactly one class index, got {len(targets)}; for several "
            "classes pass top_targets, or targets to explain_predictions"
        )
    return class_index(targets[0])


def class_index(target: Any) -> int:
    """A class index as a Python integer.

    Raises:
        TypeError: If it is no integer.
        ValueError: If it is negative: classes are not counted from the end, and what is negative
            has a meaning of its own further inside.
    """
    if not isinstance(target, Integral) or isinstance(target, bool):
        hint = "; of a name, pass names.index(name)" if isinstance(target, str) else ""
        raise TypeError(
            f"a target must be an integer class index, got {type(target).__name__}{hint}"
        )
    if target < 0:
        raise ValueError(f"target {target} is out of range: classes are counted from 0 upwards")
    return int(target)


def _why_nothing(model: keras.Model, chooser: Choice, recorded: Pass) -> str:
    """Why a run has shown nowhere to look."""
    if chooser.wanted is None:
        return chooser.why_none(recorded.calls, len(recorded.scores))
    name = chooser.wanted.path(model)
    if not any(item is chooser.wanted.layer for _, item in layers.walk(model)):
        return f"layer {name!r} is not in model {model.name!r}, nor does the model call it"
    return (
        f"layer {name!r} is never reached when model {model.name!r} runs, or only inside a "
        "tf.function, where it cannot be seen"
    )
