"""A Keras model and an input in, an ``Explanation`` out."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any

import keras
import numpy as np
from PIL import Image

from sightline.base import Explanation, HeatmapWarning, TargetExplanation
from sightline.explain import explain_prediction
from sightline.keras import backends, layers
from sightline.keras.backends.common import LOWEST, TOP
from sightline.keras.gradcam import channel_weights, gradcam, weighted_sum
from sightline.keras.record import Terms, record, record_batch, target_index

__all__ = [
    "explain_prediction_keras",
    "explain_prediction_keras_image",
    "explain_prediction_keras_not_supported",
]

DESCRIPTION = (
    "Grad-CAM: where in the image lies what speaks for the class.\n"
    "`image` is the picture, and the `heatmap` of a target belongs over it.\n"
)

_PICTURE_CHANNELS = (1, 3, 4)

TargetNames = Sequence[str] | Mapping[int, str]

# Below this peak a heatmap is all but invisible over its picture.
_FAINT = 0.1


@explain_prediction.register(keras.Model)
def explain_prediction_keras(
    model: keras.Model,
    doc: np.ndarray,
    targets: list[int] | None = None,
    layer: int | str | keras.layers.Layer | None = None,
    image: Image.Image | None = None,
    *,
    top_targets: int | None = None,
    target_names: TargetNames | None = None,
) -> Explanation:
    """Explain the prediction of a Keras image classifier with Grad-CAM.

    Works on every model that runs: Functional, Sequential, subclassed, and models inside models.
    The model is run as it is, in inference mode, and is afterwards as it was before.

    Args:
        model: The classifier. Its output must be class scores, shape ``(1, classes)``:
            probabilities or logits. Of several outputs, the first is explained (as in
            ``model.outputs``: of a dict, the first by name). A head of one sigmoid unit has the one
            class 0.
        doc: The input whose prediction is to be explained, as the model takes it, preprocessing
            done: a NumPy array ``(1, height, width, channels)``, or ``(1, channels, height,
            width)`` for a channels-first model.
        targets: The class to explain: its index in the model's output, as a list of one, such as
            ``[243]``. None explains the class with the greatest score.
        layer: The layer whose output the heatmap is made of. None takes the last layer to run that
            still has a map of more than one cell, leaving out those that only drop out or augment.
            Else a name; a path such as ``"backbone/conv5_out"`` for a layer in a model inside the
            model, of which the last part is enough where it is unique; an index into
            ``model.layers``; or the layer itself. Later layers see objects, earlier ones edges; the
            map has the layer's resolution. Of a layer called several times in one pass (shared,
            Siamese), the last call is explained.
        image: The picture to lay the heatmap over, a Pillow image of any size and mode. None makes
            one of the size of ``doc``, which takes 1, 3 or 4 channels and stretches their values to
            0..255.
        top_targets: Explain this many classes, those with the greatest scores, the best first; if
            negative, those with the lowest. All in one pass. Not together with ``targets``.
        target_names: Names of the classes: a list with one for each, or a dict from index to name.

    Returns:
        An ``Explanation`` with the picture in ``image``, the path of the layer in ``layer``, and in
        ``targets`` one ``TargetExplanation`` (or as many as ``top_targets`` asks for), with
        ``heatmap`` (float64, ``(height, width)`` of the layer, in [0, 1]), ``target`` (the index of
        the class) and ``score`` (the model's output for it). If the model is no image model, an
        ``Explanation`` whose ``error`` says so.

    Raises:
        TypeError: If ``doc`` is no NumPy array of numbers, ``targets`` neither a list nor None, its
            item no integer, ``layer`` of another type than the above, or ``image`` no Pillow image.
        ValueError: If the shape of ``doc`` does not fit the model, or it holds NaN or infinity; if
            ``targets`` does not hold exactly one class of the model; if there is no such layer, or
            it has no map, is not reached, or has no gradient to the score; if no picture can be
            made of ``doc``; if the model's output is not class scores.

    Warns:
        HeatmapWarning: If the heatmap is blank or nearly so, saying why and what to try.
    """
    _validate_type(doc)
    if is_image_model(model, doc, image):
        return explain_prediction_keras_image(
            model,
            doc,
            image=image,
            targets=targets,
            layer=layer,
            top_targets=top_targets,
            target_names=target_names,
        )
    return explain_prediction_keras_not_supported(model, doc)


def explain_prediction_keras_not_supported(model: keras.Model, doc: Any) -> Explanation:
    """The answer for a model that is not for images: an ``Explanation`` with an ``error``.

    Args:
        model: The model.
        doc: The input.

    Returns:
        An ``Explanation`` with the model's name, and what to pass.
    """
    return Explanation(
        model.name,
        error=f'model "{model.name}" is not supported: sightline explains classifiers of images, '
        "which take inputs of shape (batch, height, width, channels) and have layers such as "
        'Conv2D. If this is one, pass the "image" argument: the Pillow image to lay the heatmap '
        "over.",
    )


def explain_prediction_keras_image(
    model: keras.Model,
    doc: np.ndarray,
    image: Image.Image | None = None,
    targets: list[int] | None = None,
    layer: int | str | keras.layers.Layer | None = None,
    *,
    top_targets: int | None = None,
    target_names: TargetNames | None = None,
) -> Explanation:
    """Explain the prediction of a Keras image classifier, whatever layers it has.

    Args:
        model: As in `explain_prediction_keras`, and so all others.
        doc: One input, shape ``(1, height, width, channels)``, or channels first.
        image: The picture to lay the heatmap over; None makes one from ``doc``.
        targets: The class to explain, as a list of one; None for the top class.
        layer: The layer to explain; None to have it chosen.
        top_targets: How many classes to explain, not together with ``targets``.
        target_names: Names of the classes.

    Returns:
        The explanation, with picture and heatmap.

    Raises:
        TypeError: As in `explain_prediction_keras`.
        ValueError: As in `explain_prediction_keras`.

    Warns:
        HeatmapWarning: If the heatmap is blank or nearly so.
    """
    _validate_doc(model, doc)
    wanted = _wanted(targets, top_targets)
    check_names(target_names)
    if image is None:
        image = _extract_image(doc, layers.data_format(model))
    elif not isinstance(image, Image.Image):
        raise TypeError(f"image must be a PIL.Image.Image, got {type(image).__name__}")
    found_layer = None if layer is None else find_layer(model, doc, layer)
    (found,) = record_batch(model, doc, wanted, found_layer)
    if isinstance(found, ValueError):
        raise found
    return explanation_of(model, found, image, target_names)


def explanation_of(
    model: keras.Model, terms: Sequence[Terms], image: Image.Image, names: TargetNames | None
) -> Explanation:
    """The explanation of one input, from the terms of its classes; warns of blank heatmaps."""
    targets = []
    for one in terms:
        weights = channel_weights(one.gradients)
        heatmap = gradcam(weights, one.activations)
        if heatmap.max() < _FAINT:
            message = _why_blank(one, weights)
            warnings.warn(message, HeatmapWarning, stacklevel=_outside())
        name = _name_of(one.target, names, len(one.scores))
        targets.append(TargetExplanation(one.target, score=one.score, heatmap=heatmap, name=name))
    return Explanation(
        model.name,
        description=DESCRIPTION,
        error="",
        method="Grad-CAM",
        targets=targets,
        image=image,
        layer=terms[0].path,
    )


def _wanted(targets: list[int] | None, top_targets: int | None) -> np.ndarray:
    """The classes to explain of one doc, as `record_batch` takes them, shape ``(1, targets)``."""
    if top_targets is None:
        target = target_index(targets)
        return np.array([[TOP if target is None else target]])
    if targets is not None:
        raise ValueError("pass either targets or top_targets, not both")
    return top_indices(top_targets)[np.newaxis]


def top_indices(top_targets: Any) -> np.ndarray:
    """As many of `TOP` as there are classes to explain, or of `LOWEST`, shape ``(targets,)``."""
    if not isinstance(top_targets, Integral) or isinstance(top_targets, bool):
        raise TypeError(f"top_targets must be an integer, got {type(top_targets).__name__}")
    number = int(top_targets)
    if number == 0:
        raise ValueError("top_targets must be at least 1, or negative for the lowest scores, got 0")
    return np.full(abs(number), TOP if number > 0 else LOWEST)


def check_names(names: Any) -> None:
    """Raise TypeError unless ``names`` can name classes."""
    if names is not None and not isinstance(names, (list, tuple, dict)):
        raise TypeError(
            "target_names must be a list with a name for each class, or a dict from class index to "
            f"name, got {type(names).__name__}"
        )


def _name_of(target: int, names: TargetNames | None, classes: int) -> str | None:
    if names is None:
        return None
    if isinstance(names, Mapping):
        name = names.get(target)
        return None if name is None else str(name)
    if len(names) != classes:
        raise ValueError(
            f"target_names must hold a name for each of the model's {classes} classes, and holds "
            f"{len(names)}"
        )
    return str(names[target])


def is_image_model(model: keras.Model, doc: np.ndarray, image: Any) -> bool:
    """Whether a model is to be explained as one for images."""
    expected = _input_shape(model)
    if expected is not None and len(expected) != 4:
        return False
    if image is not None or layers.is_image_model(model):
        return True
    if model.built or isinstance(model, keras.Sequential) or doc.ndim != 4:
        return False
    # Layers may be made when a model is first called.
    backends.current().forward(model, doc)
    return layers.is_image_model(model)


def _input_shape(model: keras.Model) -> tuple[int | None, ...] | None:
    """The shape of the model's one input with batch axis; None if the model does not tell.

    Raises:
        ValueError: If the model has several inputs.
    """
    inputs = layers.declared_inputs(model)
    if not inputs:
        return None
    if len(inputs) > 1:
        raise ValueError(
            f"model {model.name!r} has {len(inputs)} inputs; sightline explains models of one "
            "image. Wrap it in a model that takes the image alone and fixes the rest."
        )
    return tuple(inputs[0].shape)


def _validate_type(doc: Any) -> None:
    if not isinstance(doc, np.ndarray):
        raise TypeError(
            "doc must be a numpy.ndarray of shape (1, height, width, channels), got "
            f"{type(doc).__module__}.{type(doc).__qualname__}; numpy.asarray(...) makes one of a "
            "tensor, a list or a Pillow image"
        )
    if not (np.issubdtype(doc.dtype, np.number) or doc.dtype == np.bool_):
        raise TypeError(f"doc must be an array of numbers, got dtype {doc.dtype}")


def _validate_doc(model: keras.Model, doc: Any) -> None:
    """Raise unless ``doc`` is one input that fits ``model``, finite throughout."""
    _validate_type(doc)
    expected = _input_shape(model) or (None, None, None, None)
    single = (1, *expected[1:])
    if not _fits(doc.shape, single):
        advice = ""
        if _fits(doc.shape, single[1:]):
            advice = "; add the batch axis with np.expand_dims(doc, axis=0)"
        elif _fits(doc.shape[1:], single[1:]):
            advice = "; one input is explained at a time, for example doc[:1]"
        raise ValueError(f"doc must have shape {_readable(single)}, got {doc.shape}{advice}")
    if not np.isfinite(doc).all():
        raise ValueError("doc must be finite, got NaN or infinity in it")


def _fits(shape: tuple[int, ...], expected: tuple[int | None, ...]) -> bool:
    return len(shape) == len(expected) and all(
        size > 0 if wanted is None else size == wanted
        for size, wanted in zip(shape, expected, strict=True)
    )


def _readable(shape: tuple[int | None, ...]) -> str:
    return "(" + ", ".join("any" if size is None else str(size) for size in shape) + ")"


def _extract_image(doc: np.ndarray, data_format: layers.DataFormat) -> Image.Image:
    """The picture that ``doc`` holds, values stretched to 0..255 as in eli5."""
    first, last = doc.shape[1], doc.shape[-1]
    # Where the layers say one thing and the shape the other, the model starts with a permutation.
    if data_format == "channels_last" and last not in _PICTURE_CHANNELS:
        data_format = "channels_first" if first in _PICTURE_CHANNELS else data_format
    elif data_format == "channels_first" and first not in _PICTURE_CHANNELS:
        data_format = "channels_last" if last in _PICTURE_CHANNELS else data_format
    channels = last if data_format == "channels_last" else first
    if channels not in _PICTURE_CHANNELS:
        raise ValueError(
            f"no picture can be made of a doc with {channels} channels (shape {doc.shape}); pass "
            "image=, a Pillow image to lay the heatmap over"
        )
    image: Image.Image = keras.utils.array_to_img(doc[0], data_format=data_format)
    return image


def _get_activation_layer(
    model: keras.Model, layer: int | str | keras.layers.Layer | None
) -> keras.layers.Layer:
    """The layer that an explanation of ``model`` would take, and whether it can be taken.

    To see which one it is, a model is run once, on an input of zeros.

    Raises:
        TypeError: If ``layer`` is neither str, int, Layer nor None.
        ValueError: If there is no such layer, or none that has a map.
    """
    shape = _input_shape(model)
    if layer is not None:
        layer = layers.find(model, layer)
    if shape is None:
        if layer is None:
            raise ValueError(
                f"no layer of model {model.name!r} can be chosen before it is called: the shape of "
                "its input is not known"
            )
        return layer
    doc = np.zeros([1, *(_SIDE if size is None else size for size in shape[1:])], np.float32)
    return record(model, doc, None, layer).layer


_SIDE = 224  # for axes that may have any size


def find_layer(
    model: keras.Model, doc: np.ndarray, layer: int | str | keras.layers.Layer
) -> keras.layers.Layer:
    """Find a layer, also one that is made when the model is first called."""
    try:
        return layers.find(model, layer)
    except ValueError:
        if model.built:
            raise
    backends.current().forward(model, doc)
    return layers.find(model, layer)


def _why_blank(terms: Terms, weights: np.ndarray) -> str:
    """Why a heatmap is blank or nearly so, and what to try."""
    blank = f"the heatmap of class {terms.target} at layer {terms.path!r} is blank or nearly so: "
    if not terms.activations.any():
        return blank + "the layer's output is zero everywhere; try another layer, or another input"
    if not np.any(weighted_sum(weights, terms.activations) > 0) and terms.gradients.any():
        return blank + (
            "no positive evidence, nothing at this layer speaks for the class; try another class, "
            "or another layer"
        )
    if _is_saturated(terms):
        return blank + (
            f"the softmax or sigmoid is saturated (score {terms.score:.6g}), so that the "
            "probability hardly changes whatever the layer puts out; explain the logits instead: "
            "set the activation of the last layer to keras.activations.linear"
        )
    return blank + (
        "the score hardly depends on this layer, its gradients nearly vanish; try another layer, "
        "or another class"
    )


def _is_saturated(terms: Terms) -> bool:
    """Whether the scores look like probabilities, and this one is all but 0 or 1."""
    scores = terms.scores
    are_probabilities = scores.min() >= 0 and scores.max() <= 1
    if len(scores) > 1:
        are_probabilities &= abs(float(scores.sum()) - 1) < 1e-2
    return bool(are_probabilities and min(terms.score, 1 - terms.score) < 1e-3)


def _outside() -> int:
    """The ``stacklevel`` that makes a warning point at the first line outside of this package."""
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and (
        frame.f_globals.get("__name__", "").split(".")[0] in (__package__ or "").split(".")[:1]
        or frame.f_globals.get("__name__") == "functools"
    ):
        frame, level = frame.f_back, level + 1
    return level
