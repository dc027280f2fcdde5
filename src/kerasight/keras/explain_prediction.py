"""The door for Keras models: a model and an input in, an ``Explanation`` out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras
import numpy as np
from PIL import Image

from kerasight.base import Explanation
from kerasight.cam.baselines import Baseline
from kerasight.cam.inputs import Inputs
from kerasight.cam.request import check_options, takes_options
from kerasight.checks import readable
from kerasight.explain import explain_prediction
from kerasight.keras import docs, sites
from kerasight.keras.anatomy import Anatomy
from kerasight.keras.explainer import Explainer, LayerKeys, TargetNames, request_for
from kerasight.keras.record import NothingToSeeError, record
from kerasight.keras.wanted import readout_of, target_of

if TYPE_CHECKING:
    from jaxtyping import Integer

__all__ = [
    "explain_prediction_keras",
    "explain_prediction_keras_image",
    "explain_prediction_keras_not_supported",
]


@explain_prediction.register(keras.Model)
def explain_prediction_keras(  # noqa: D417
    model: keras.Model,
    doc: Any,
    targets: list[int] | None = None,
    layer: LayerKeys | None = None,
    image: Image.Image | None = None,
    *,
    top_targets: int | None = None,
    target_names: TargetNames | None = None,
    target: Any = None,
    output: str | int | None = None,
    seen: str | int | None = None,
    vocabulary: Any = None,
    tokens: list[str] | None = None,
    method: str | None = None,
    logits: bool = False,
    relu: bool | None = None,
    counterfactual: bool = False,
    alpha: float | None = None,
    references: int | list[int] | None = None,
    grid: tuple[int, ...] | None = None,
    samples: int | None = None,
    baseline: Baseline | None = None,
    window: int | tuple[int, ...] | None = None,
    stride: int | tuple[int, ...] | None = None,
    segments: Integer[np.ndarray, " ..."] | None = None,
    smooth: int | None = None,
    noise: float | None = None,
    seed: int = 0,
    batch_size: int = 32,
    progress: bool | None = None,
) -> Explanation:
    """Explain the prediction of a Keras model with Grad-CAM or one of its relatives.

    Works on models of pictures, signals, volumes, videos and texts, however they are built:
    Functional, Sequential, subclassed, and models inside models. The model runs as it is, in
    inference mode, and stays as it was.

    Args:
        model: The model. Without ``target``, its output must be class scores, shape
            ``(1, classes)``: probabilities or logits. Of several outputs, the first is explained
            (as in ``model.outputs``: of a dict, the first by name), if ``output`` names no other. A
            head of one sigmoid unit has the one class 0.
        doc: The preprocessed input of the model. A NumPy array: a picture ``(1, height, width,
            channels)``, or ``(1, channels, height, width)`` for a channels-first model; a signal
            ``(1, steps, channels)`` or ``(1, steps)``; a volume or a video ``(1, depth, height,
            width, channels)``; a text as numbers of words ``(1, steps)``. A text as a string, for a
            model that starts with ``TextVectorization``. For a model of several inputs a dict, list
            or tuple of such arrays, one for each, as the model takes them.
        targets: The class to explain: its index in the model's output, as a list of one, such as
            ``[243]``. None explains the class with the highest score.
        layer: The layer to explain; the heatmap has the resolution of its output. A name; a path
            such as ``"backbone/conv5_out"`` for a layer in a model inside the model, or its last
            part if that is unique; the attribute that holds the layer, such as ``"blocks.0.c2"``;
            an index into ``model.layers``; or the layer itself. A name with ``":input"`` at its end
            explains the layer's input. Later layers see objects, earlier ones edges. None takes the
            last layer to run whose map has more than one cell, except layers that only drop out or
            augment; if the next layer takes something other than a layer's output, such as
            ``x + y``, None takes the input of that next layer. Of a transformer, None takes the
            last tokens from which patches reach the score. If one pass calls a layer several
            times (shared, Siamese), the last call with a map is explained. A list of layers gives
            the mean of their heatmaps, at the highest of their resolutions.
        image: The picture to lay the heatmap over, a Pillow image of any size and mode. None makes
            one from ``doc``, in its size, with 1, 3 or 4 channels, and values stretched to 0..255.
        top_targets: Explain this many classes in one pass: those with the highest scores, the best
            first; if negative, those with the lowest. Not together with ``targets``.
        target_names: Names of the classes: a list with one for each, or a dict from index to name.
        target: What to explain, if it is no class: one of `kerasight.targets`, such as ``Number()``
            for regression, ``Region(class)`` for segmentation or ``Box(0)`` for detection; or a
            function of the model's outputs that returns one number a doc, by ``keras.ops``. Not
            together with ``targets`` if it says itself which class.
        output: Of several outputs, the one to explain: its name, or its position. None takes the
            first, or what ``target`` says.
        seen: Of several inputs, the one that heatmaps belong over: its name, or its position. None
            takes the one that can be a picture. The others stay as they are, whatever a method
            does to the picture.
        vocabulary: Of a text given as numbers of words, the word of each number: a list, a dict, or
            a layer such as ``TextVectorization``. None asks a ``TextVectorization`` in the model.
        tokens: Of a text, the word of each step, in place of ``vocabulary``.

    The other arguments say how to explain: `kerasight.cam.request.Request` tells what each of them
    means, and which go together.

    Returns:
        An ``Explanation`` with the picture in ``image``, the path of the layer in ``layer``, and in
        ``targets`` one ``TargetExplanation`` (or as many as ``top_targets`` asks for), with
        ``heatmap`` (float64, the places of the layer, ``(height, width)`` of a picture, in [0, 1];
        in [-1, 1] and ``signed`` if ``relu`` is False), ``target`` (the index of the class, or what
        is explained in words) and ``score`` (the model's output for it). If no layer has places, an
        ``Explanation`` whose ``error`` says so.

    Raises:
        TypeError: If an argument has the wrong type: ``doc`` is no NumPy array of numbers,
            ``targets`` is neither None nor a list of integers, or ``image`` is no Pillow image.
        ValueError: If ``doc`` does not fit the model's inputs, or holds NaN or infinity; if there
            is no input ``seen``, or several could be the picture; if
            ``targets`` does not hold exactly one class of the model; if there is no such layer, or
            it has no map, does not run, or has no gradient to the score; if no picture can be made
            from ``doc``; if the model's output is not class scores; if the method is unknown or
            does not support an argument; if the logits cannot be found.

    Warns:
        HeatmapWarning: If the heatmap is blank or nearly so; it says why, and what shows more.
    """
    readout = readout_of(target, output, targets, top_targets)
    request = request_for(locals(), readout)
    explainer = Explainer(model, request, layer, target_names, readout, vocabulary, tokens)
    if isinstance(model, keras.Sequential) and not model.layers:
        return explain_prediction_keras_not_supported(model, doc)
    inputs = docs.inputs_of(explainer.anatomy, doc, seen)
    try:
        return _explained(explainer, inputs, image, targets, top_targets)
    except NothingToSeeError:
        if (
            docs.kind_of(explainer.anatomy, inputs) == "picture"
            and explainer.anatomy.is_for_images()
        ):
            raise
        return explain_prediction_keras_not_supported(model, doc)


def explain_prediction_keras_not_supported(model: keras.Model, doc: Any) -> Explanation:
    """The answer for a model in which nothing can be seen: an ``Explanation`` with an ``error``.

    Args:
        model: The model.
        doc: The input.

    Returns:
        An ``Explanation`` with the model's name, what was looked for, and what the model takes.
    """
    anatomy = Anatomy(model)
    takes = ""
    if len(anatomy.inputs) == 1:
        takes = f" This one takes inputs of shape {readable(anatomy.inputs[0].shape)}."
    if len(anatomy.inputs) > 1:
        takes = (
            f" This one takes {anatomy.inputs_in_words()}; seen= says which heatmaps are to belong "
            "over."
        )
    return Explanation(
        model.name,
        error=f'model "{model.name}" is not supported: kerasight looks for a layer whose output '
        "still has the places of the doc, of shape (batch, height, width, channels) for pictures, "
        "(batch, steps, channels) for signals and texts, (batch, depth, height, width, channels) "
        f"for volumes and videos, and there is none.{takes}",
    )


@takes_options()
def explain_prediction_keras_image(
    model: keras.Model,
    doc: Any,
    image: Image.Image | None = None,
    targets: list[int] | None = None,
    layer: LayerKeys | None = None,
    *,
    top_targets: int | None = None,
    target_names: TargetNames | None = None,
    target: Any = None,
    output: str | int | None = None,
    seen: str | int | None = None,
    **options: Any,
) -> Explanation:
    """Explain the prediction of a Keras model, whatever layers it has.

    Args:
        model: As in `explain_prediction_keras`, and so all others.
        doc: One input, shape ``(1, height, width, channels)``, or channels first; or several.
        image: The picture to lay the heatmap over; None makes one from ``doc``.
        targets: The class to explain, as a list of one; None for the top class.
        layer: The layer to explain, or a list of them; None to have it chosen.
        top_targets: How many classes to explain, not together with ``targets``.
        target_names: Names of the classes.
        target: What to explain, if it is no class.
        output: Of several outputs, the one to explain.
        seen: Of several inputs, the picture.
        **options: As in `kerasight.cam.request.Request`.

    Returns:
        The explanation, with picture and heatmap.

    Raises:
        TypeError: As in `explain_prediction_keras`.
        ValueError: As in `explain_prediction_keras`.

    Warns:
        HeatmapWarning: If the heatmap is blank or nearly so.
    """
    check_options(options)
    readout = readout_of(target, output, targets, top_targets)
    explainer = Explainer(model, request_for(options, readout), layer, target_names, readout)
    inputs = docs.inputs_of(explainer.anatomy, doc, seen)
    return _explained(explainer, inputs, image, targets, top_targets)


def _explained(
    explainer: Explainer,
    inputs: Inputs,
    image: Image.Image | None,
    targets: list[int] | None,
    top_targets: int | None,
) -> Explanation:
    anatomy = explainer.anatomy
    docs.check_doc(anatomy, inputs)
    target = target_of(targets, top_targets, explainer.readout)
    if image is not None:
        docs.check_image(image)
    elif anatomy.is_for_images():  # else it may be that nothing can be seen, and no picture wanted
        image = docs.picture_of(anatomy, inputs)
    docs.hint_at_preprocessor(anatomy, inputs)
    look = explainer.look(inputs, target)
    return look.explanation(0, docs.picture_of(anatomy, inputs) if image is None else image)


# Names of eli5's own, private there and here, for its tests and for code that leans on them.


def _validate_doc(model: keras.Model, doc: Any) -> None:
    """Raise unless ``doc`` is one input that fits ``model``."""
    anatomy = Anatomy(model)
    docs.check_doc(anatomy, docs.inputs_of(anatomy, doc))


def _get_activation_layer(
    model: keras.Model, layer: int | str | keras.layers.Layer | None
) -> keras.layers.Layer:
    """The layer that an explanation of ``model`` would take, and whether it can be taken.

    To see which one it is, a model is run once, on an input of zeros.

    Raises:
        TypeError: If ``layer`` is neither str, int, Layer nor None.
        ValueError: If there is no such layer, or none that has a map.
    """
    anatomy = Anatomy(model)
    shape = docs.input_shape(anatomy)
    if layer is not None:
        layer = sites.find_site(anatomy, layer).layer
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
