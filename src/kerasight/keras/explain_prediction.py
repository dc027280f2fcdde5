"""A Keras model and an input in, an ``Explanation`` out."""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from numbers import Integral
from typing import Any, TypeAlias

import keras
import numpy as np
from PIL import Image

from kerasight.base import FAINT, Explanation, HeatmapWarning, TargetExplanation
from kerasight.cam.maps import normalised
from kerasight.explain import explain_prediction
from kerasight.keras import backends, layers, sites
from kerasight.keras.backends.common import LOWEST, TOP
from kerasight.keras.heatmaps import Heatmap, Question, heatmaps_of
from kerasight.keras.record import Terms, record, target_index

__all__ = [
    "explain_prediction_keras",
    "explain_prediction_keras_image",
    "explain_prediction_keras_not_supported",
]

TargetNames = Sequence[str] | Mapping[int, str]
LayerKey: TypeAlias = int | str | keras.layers.Layer | sites.Site
LayerKeys: TypeAlias = LayerKey | list[LayerKey]


@explain_prediction.register(keras.Model)
def explain_prediction_keras(
    model: keras.Model,
    doc: np.ndarray,
    targets: list[int] | None = None,
    layer: LayerKeys | None = None,
    image: Image.Image | None = None,
    *,
    top_targets: int | None = None,
    target_names: TargetNames | None = None,
    method: str = "grad-cam",
    logits: bool = False,
    relu: bool = True,
    counterfactual: bool = False,
    alpha: float | None = None,
    references: int | list[int] | None = None,
    smooth: int | None = None,
    seed: int = 0,
    batch_size: int = 32,
    progress: bool | None = None,
) -> Explanation:
    """Explain the prediction of a Keras image classifier with Grad-CAM or one of its relatives.

    Works on models of one image, however they are built: Functional, Sequential, subclassed, and
    models inside models. The model is run as it is, in inference mode, and is afterwards as it was
    before.

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
            still has a map of more than one cell, leaving out those that only drop out or augment;
            where the next layer takes something else, such as ``x + y``, it is what that takes.
            Else a name; a path such as ``"backbone/conv5_out"`` for a layer in a model inside the
            model, of which the last part is enough where it is unique; the attribute that holds it,
            such as ``"blocks.0.c2"``; an index into ``model.layers``; or the layer itself. With
            ``":input"`` at its end, a name stands for what goes into the layer. Later layers see
            objects, earlier ones edges; the map has the layer's resolution. Of a layer called
            several times in one pass (shared, Siamese), the last call that has a map is explained.
            A list of layers gives the mean of their heatmaps, at the greatest of their resolutions.
        image: The picture to lay the heatmap over, a Pillow image of any size and mode. None makes
            one of the size of ``doc``, which takes 1, 3 or 4 channels and stretches their values to
            0..255.
        top_targets: Explain this many classes, those with the greatest scores, the best first; if
            negative, those with the lowest. All in one pass. Not together with ``targets``.
        target_names: Names of the classes: a list with one for each, or a dict from index to name.
        method: ``"grad-cam"``, ``"grad-cam++"``, ``"hirescam"``, ``"xgrad-cam"``, ``"layercam"``,
            ``"eigen-cam"``, ``"eigengrad-cam"``, ``"score-cam"``, ``"ablation-cam"`` or
            ``"finer-cam"``: `kerasight.cam.methods` has their formulas and papers. Score-CAM runs
            the model once for each channel of the layer, Ablation-CAM what comes after the layer;
            all others take one pass.
        logits: Whether to explain the score before the final softmax or sigmoid, as the Grad-CAM
            paper does, and as a saturated probability calls for. The model is not changed.
            ``score`` is then the logit. A model that ends in neither is explained as it is.
        relu: Whether to cut off what speaks against the class. If False, the heatmap is signed, in
            [-1, 1]. Not with ``"grad-cam++"``, ``"layercam"``, ``"eigen-cam"``, ``"eigengrad-cam"``
            and ``"score-cam"``.
        counterfactual: Whether to show what speaks against the class, as the paper's
            counterfactual explanations: the gradient is negated. Of a head of one sigmoid unit,
            this is what speaks for the other class, where ``targets=[0]`` is always that unit. Not
            with ``"eigen-cam"``, ``"eigengrad-cam"`` and ``"score-cam"``.
        alpha: With ``"finer-cam"`` alone: how strongly to compare, at least 0, the paper's gamma.
            None is its 0.6; 0 compares with nothing, as Grad-CAM.
        references: With ``"finer-cam"`` alone: what to compare with. A number takes as many
            classes, those whose scores are nearest to that of the explained one; a list holds
            their indices, among which the explained class itself does not count. None is the
            paper's 3.
        smooth: Average over this many copies of ``doc`` with normal noise of 10 % of its range, as
            in SmoothGrad (Smilkov et al. 2017, https://arxiv.org/abs/1706.03825); the class, and
            what it is compared with, are those of ``doc`` itself. None does not.
        seed: Seed of that noise; equal seeds give equal heatmaps.
        batch_size: How many inputs go through the model at a time, where a method runs it often.
        progress: Whether to show a progress bar, by tqdm, for the methods that run the model
            often. None shows it on a terminal, and only after a second.

    Returns:
        An ``Explanation`` with the picture in ``image``, the path of the layer in ``layer``, and in
        ``targets`` one ``TargetExplanation`` (or as many as ``top_targets`` asks for), with
        ``heatmap`` (float64, ``(height, width)`` of the layer, in [0, 1]; in [-1, 1] and ``signed``
        if ``relu`` is False), ``target`` (the index of the class) and ``score`` (the model's output
        for it). If the model is no image model, an ``Explanation`` whose ``error`` says so.

    Raises:
        TypeError: If ``doc`` is no NumPy array of numbers, ``targets`` neither a list nor None, its
            item no integer, ``layer`` of another type than the above, or ``image`` no Pillow image;
            if another argument is of a type that it cannot be.
        ValueError: If the shape of ``doc`` does not fit the model, or it holds NaN or infinity; if
            ``targets`` does not hold exactly one class of the model; if there is no such layer, or
            it has no map, is not reached, or has no gradient to the score; if no picture can be
            made of ``doc``; if the model's output is not class scores; if the method is unknown or
            cannot do what is asked of it; if the logits cannot be found.

    Warns:
        HeatmapWarning: If the heatmap is blank or nearly so, saying why and what shows more.
    """
    _validate_type(doc)
    question = Question.of(
        method,
        logits=logits,
        relu=relu,
        counterfactual=counterfactual,
        alpha=alpha,
        references=references,
        smooth=smooth,
        seed=seed,
        batch_size=batch_size,
        progress=progress,
    )
    if is_image_model(model, doc, image):
        return _explained(model, doc, image, targets, layer, top_targets, target_names, question)
    return explain_prediction_keras_not_supported(model, doc)


def explain_prediction_keras_not_supported(model: keras.Model, doc: Any) -> Explanation:
    """The answer for a model that is not for images: an ``Explanation`` with an ``error``.

    Args:
        model: The model.
        doc: The input.

    Returns:
        An ``Explanation`` with the model's name, and what to pass.
    """
    declared = layers.declared_inputs(model)
    if len(declared) == 1 and len(declared[0].shape) != 4:
        advice = f"This one takes inputs of shape {_readable(declared[0].shape)}."
    else:
        advice = (
            'If this is one, pass the "image" argument: the Pillow image to lay the heatmap over.'
        )
    return Explanation(
        model.name,
        error=f'model "{model.name}" is not supported: kerasight explains classifiers of images, '
        "which take inputs of shape (batch, height, width, channels) and have layers such as "
        f"Conv2D. {advice}",
    )


def explain_prediction_keras_image(
    model: keras.Model,
    doc: np.ndarray,
    image: Image.Image | None = None,
    targets: list[int] | None = None,
    layer: LayerKeys | None = None,
    *,
    top_targets: int | None = None,
    target_names: TargetNames | None = None,
    **asked: Any,
) -> Explanation:
    """Explain the prediction of a Keras image classifier, whatever layers it has.

    Args:
        model: As in `explain_prediction_keras`, and so all others.
        doc: One input, shape ``(1, height, width, channels)``, or channels first.
        image: The picture to lay the heatmap over; None makes one from ``doc``.
        targets: The class to explain, as a list of one; None for the top class.
        layer: The layer to explain, or a list of them; None to have it chosen.
        top_targets: How many classes to explain, not together with ``targets``.
        target_names: Names of the classes.
        **asked: ``method``, ``logits``, ``relu``, ``counterfactual``, ``alpha``, ``references``,
            ``smooth``, ``seed``, ``batch_size`` and ``progress``.

    Returns:
        The explanation, with picture and heatmap.

    Raises:
        TypeError: As in `explain_prediction_keras`.
        ValueError: As in `explain_prediction_keras`.

    Warns:
        HeatmapWarning: If the heatmap is blank or nearly so.
    """
    question = Question.of(**asked)
    return _explained(model, doc, image, targets, layer, top_targets, target_names, question)


def _explained(
    model: keras.Model,
    doc: np.ndarray,
    image: Image.Image | None,
    targets: list[int] | None,
    layer: LayerKeys | None,
    top_targets: int | None,
    names: TargetNames | None,
    question: Question,
) -> Explanation:
    _validate_doc(model, doc)
    wanted = _wanted(targets, top_targets)
    check_names(names)
    if image is None:
        image = picture_of(model, doc)
    check_image(image)
    hint_at_preprocessor(model, doc)
    chosen = find_sites(model, doc, layer)
    (found,) = heatmaps_of(model, doc, wanted, chosen, question)
    if isinstance(found, ValueError):
        raise found
    return explanation_of(model, doc, found, image, names, question)


def explanation_of(
    model: keras.Model,
    doc: np.ndarray,
    heatmaps: Sequence[Heatmap],
    image: Image.Image,
    names: TargetNames | None,
    question: Question,
) -> Explanation:
    """The explanation of one input, from the heatmaps of its classes; warns of blank ones."""
    targets = []
    for one in heatmaps:
        target = TargetExplanation(
            one.target,
            score=one.score,
            heatmap=one.values,
            name=_name_of(one.target, names, len(one.terms.scores)),
            signed=not question.relu,
            is_probability=not question.logits
            and bool((one.terms.scores >= 0).all() and (one.terms.scores <= 1).all()),
        )
        targets.append(target)
        if np.abs(one.values).max() < FAINT and _is_heard():
            message = _why_blank(model, doc, one, question, target.label)
            warnings.warn(message, HeatmapWarning, stacklevel=_outside())
    return Explanation(
        model.name,
        description=_description(heatmaps[0].terms, question) + _comparisons(heatmaps, names),
        error="",
        method=question.title,
        targets=targets,
        image=image,
        layer=heatmaps[0].path,
    )


def _description(terms: Terms, question: Question) -> str:
    """What the explanation shows."""
    speaks = "speaks against the class" if question.counterfactual else "speaks for the class"
    if not question.relu:
        against = "for" if question.counterfactual else "against"
        speaks += f", and below zero what speaks {against} it"
    if not question.method.is_of_class:
        speaks = "the layer responds to most, whatever the class"
    text = (
        f"{question.method.title}: where in the image lies what {speaks}.\n"
        "`image` is the picture, and the `heatmap` of a target belongs over it.\n"
    )
    if len(terms.scores) == 1 and terms.score < (0 if question.logits else 0.5):
        text += (
            "If the model's one unit is a sigmoid, it predicts the other class: "
            "counterfactual=True shows what speaks for that one.\n"
        )
    return text


def _comparisons(heatmaps: Sequence[Heatmap], names: TargetNames | None) -> str:
    """What each class was compared with, a line for each, if it was."""
    lines = []
    for one in heatmaps:
        rivals = one.terms.rivals
        labels = [
            TargetExplanation(index, name=_name_of(index, names, len(one.terms.scores))).label
            for index in (one.target, *rivals[:_NAMED])
        ]
        more = f" and {len(rivals) - _NAMED} more" if len(rivals) > _NAMED else ""
        if rivals:
            lines.append(f"Compared: {labels[0]} with {', '.join(labels[1:])}{more}.\n")
    return "".join(lines)


_NAMED = 5  # so many rivals are named


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
    return np.full(min(abs(number), _MOST_CLASSES), TOP if number > 0 else LOWEST)


_MOST_CLASSES = 2**20  # more than any model has: to ask for more is to ask for all


def check_names(names: Any) -> None:
    """Raise TypeError unless ``names`` can name classes."""
    if names is None:
        return
    if not isinstance(names, (list, tuple, dict)):
        raise TypeError(
            "target_names must be a list with a name for each class, or a dict from class index to "
            f"name, got {type(names).__name__}"
        )
    for index in names if isinstance(names, dict) else ():
        if not isinstance(index, Integral):
            raise TypeError(
                f"target_names must have class indices (int) for keys, got {index!r}; of what JSON "
                "gives, {int(index): name for index, name in names.items()} makes such a dict"
            )
    for name in names.values() if isinstance(names, dict) else names:
        if not isinstance(name, (str, Integral)):  # digits are called by numbers
            raise TypeError(
                f"target_names must hold names (str), got {type(name).__name__}; a dict names some "
                "of the classes and leaves out the others"
            )


def check_image(image: Any) -> None:
    """Raise unless ``image`` is a picture to lay a heatmap over."""
    if not isinstance(image, Image.Image):
        raise TypeError(f"image must be a PIL.Image.Image, got {type(image).__name__}")
    if 0 in image.size:
        raise ValueError(f"image must have at least one pixel, got size {image.size}")


def hint_at_preprocessor(model: keras.Model, doc: np.ndarray) -> None:
    """Warn of a doc that looks as if it still had to go through the model's preprocessor.

    In keras-hub, ``predict`` runs it, and calling the model does not.
    """
    preprocess = getattr(model, "preprocessor", None)
    if not callable(preprocess) or doc.min() < 0 or doc.max() <= _PREPROCESSED:
        return
    if any(layer is preprocess for _, layer in layers.walk(model)):  # the model runs it itself
        return
    with contextlib.suppress(Exception):  # whatever it does, it is asked for a hint alone
        if np.array_equal(keras.ops.convert_to_numpy(preprocess(doc)), doc):
            return
    warnings.warn(
        f"model {model.name!r} has a preprocessor, which predict runs and an explanation does not, "
        f"and this doc, with values up to {doc.max():g}, looks as if it had not gone through it; "
        "if so, pass numpy.asarray(model.preprocessor(doc))",
        stacklevel=_outside(),
    )


_PREPROCESSED = 16  # most preprocessing leaves values of about 1, and pixels go to 255


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
            f"model {model.name!r} has {len(inputs)} inputs; kerasight explains models of one "
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
    if doc.dtype.kind not in "biuf" or doc.dtype.itemsize > 8:
        raise TypeError(
            f"doc must be an array of numbers, real and of at most 64 bits, got dtype {doc.dtype}"
        )


def _validate_doc(model: keras.Model, doc: Any) -> None:
    """Raise unless ``doc`` is one input that fits ``model``, finite throughout."""
    _validate_type(doc)
    check_shape(model, doc)
    if not np.isfinite(doc).all():
        raise ValueError("doc must be finite, got NaN or infinity in it")


def check_shape(model: keras.Model, docs: np.ndarray, number: int | None = 1) -> None:
    """Raise ValueError unless docs have the shape that a model declares.

    Args:
        model: The model.
        docs: One input with its batch axis, or several.
        number: How many there must be; None for any number.
    """
    name = "docs" if number is None else "doc"
    expected = _input_shape(model) or (None, None, None, None)
    wanted = (number, *expected[1:])
    if not _fits(docs.shape, wanted):
        advice = ""
        if _fits(docs.shape, wanted[1:]):
            advice = f"; add the batch axis with np.expand_dims({name}, axis=0)"
        elif number is not None and _fits(docs.shape[1:], wanted[1:]):
            advice = "; one input is explained at a time, for example doc[:1]"
        raise ValueError(f"{name} must have shape {_readable(wanted)}, got {docs.shape}{advice}")


def _fits(shape: tuple[int, ...], expected: tuple[int | None, ...]) -> bool:
    return len(shape) == len(expected) and all(
        size > 0 if wanted is None else size == wanted
        for size, wanted in zip(shape, expected, strict=True)
    )


def _readable(shape: tuple[int | None, ...]) -> str:
    return "(" + ", ".join("any" if size is None else str(size) for size in shape) + ")"


def picture_of(model: keras.Model, doc: np.ndarray) -> Image.Image:
    """The picture that ``doc`` holds, in the layout that the model takes.

    Raises:
        ValueError: If no picture can be made of so many channels.
    """
    if not model.built:  # its layers do not know yet what they take
        backends.current().forward(model, doc)
    return _extract_image(doc, layers.doc_format(model, doc))


def _extract_image(doc: np.ndarray, data_format: layers.DataFormat) -> Image.Image:
    """The picture that ``doc`` holds, values stretched to 0..255 as in eli5."""
    channels = doc.shape[-1] if data_format == "channels_last" else doc.shape[1]
    if channels not in layers.PICTURE_CHANNELS:
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


def find_sites(
    model: keras.Model, doc: np.ndarray, layer: LayerKeys | None
) -> list[sites.Site | None]:
    """Where to look: as given, or None in the place of what is to be chosen."""
    check_layers(layer)
    if isinstance(layer, list):
        return [_find_site(model, doc, one) for one in layer]
    return [None if layer is None else _find_site(model, doc, layer)]


def check_layers(layer: Any) -> None:
    """Raise ValueError if a list of layers has none, or TypeError if one in it is None."""
    if isinstance(layer, list) and not layer:
        raise ValueError("layer must hold at least one layer, got an empty list")
    if isinstance(layer, list) and any(one is None for one in layer):
        raise TypeError(
            "layer must hold layers, got None in the list; to have one chosen, pass it "
            "in place of the list"
        )


def _find_site(model: keras.Model, doc: np.ndarray, layer: LayerKey) -> sites.Site:
    """Find a site, also at a layer that is made when the model is first called."""
    try:
        return sites.find(model, layer)
    except ValueError:
        if model.built:
            raise
    backends.current().forward(model, doc)
    return sites.find(model, layer)


def _is_heard() -> bool:
    """Whether anybody would hear of a blank heatmap: what to do about it costs a pass to find."""
    for action, message, category, module, line in warnings.filters:
        if issubclass(HeatmapWarning, category) and not (message or module or line):
            return bool(action != "ignore")
    return True


def _why_blank(
    model: keras.Model, doc: np.ndarray, heatmap: Heatmap, question: Question, label: str
) -> str:
    """Why a heatmap is blank or nearly so, and what shows more, having looked."""
    terms, evidence = heatmap.terms, heatmap.evidence
    blank = f"the heatmap of {label} at layer {heatmap.path!r} is blank or nearly so: "
    if not terms.activations.any():
        return blank + "the layer's output is zero everywhere; try another layer, or another input"
    if not np.any(evidence > 0) and np.any(evidence < 0):
        what = "for" if not question.counterfactual else "against"
        reason = f"no positive evidence, nothing at this layer speaks {what} the class"
    elif not question.logits and _is_saturated(terms):
        reason = (
            f"the softmax or sigmoid is saturated (score {terms.score:.6g}), so that the "
            "probability hardly changes whatever the layer puts out"
        )
    else:
        reason = "the score hardly depends on this layer, its gradients nearly vanish"
    remedy, note = _remedy(model, doc, heatmap, question)
    return f"{blank}{reason}; {remedy or 'try another class, or another layer'}{note}"


def _remedy(
    model: keras.Model, doc: np.ndarray, heatmap: Heatmap, question: Question
) -> tuple[str, str]:
    """What to pass to see more: the first that shows it; empty if nothing does, and a note."""

    def peak(evidence: np.ndarray, relu: bool) -> float:
        return float(np.abs(normalised(evidence, relu)).max())

    can_be_signed = question.relu and question.method.is_signed
    if can_be_signed and peak(heatmap.evidence, relu=False) >= FAINT:
        return "relu=False shows what speaks against it", ""
    if question.logits:
        return "", ""
    target = np.array([[heatmap.target]])
    try:
        (found,) = heatmaps_of(
            model, doc, target, [heatmap.terms.site], replace(question, logits=True)
        )
    except ValueError as error:
        found = error
    if isinstance(found, ValueError):
        if _is_saturated(heatmap.terms):
            return "explain the logits: pass a model that ends in them", ""
        return "", ""
    evidence = found[0].evidence
    if peak(evidence, question.relu) >= FAINT:
        return "logits=True explains the logit instead", ""
    if can_be_signed and peak(evidence, relu=False) >= FAINT:
        return (
            "nor does anything speak for its logit: logits=True, relu=False shows what speaks "
            "against it"
        ), ""
    return "", "; logits=True does not help here"


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
