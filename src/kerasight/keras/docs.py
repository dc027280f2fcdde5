"""The docs that users pass: checked against what the model takes, and what they show."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
from PIL import Image

from kerasight.base import RunError, outside
from kerasight.cam.inputs import Inputs, names_of
from kerasight.checks import integer, is_real, named_shapes, nearest, plural, readable
from kerasight.keras import running
from kerasight.keras.anatomy import PICTURE_CHANNELS, Anatomy
from kerasight.keras.words import text_in, vectorizer_of

if TYPE_CHECKING:
    from jaxtyping import Shaped

__all__ = [
    "batch_of",
    "check_batch",
    "check_doc",
    "check_image",
    "check_shape",
    "check_type",
    "hint_at_preprocessor",
    "input_shape",
    "inputs_of",
    "kind_of",
    "number_of_docs",
    "picture_of",
    "rank_of_docs",
]


def inputs_of(anatomy: Anatomy, doc: Any, seen: str | int | None = None) -> Inputs:
    """What a user passed, in the structure that the model takes.

    Args:
        anatomy: The model.
        doc: An array; or a dict, list or tuple of arrays, for a model of several inputs.
        seen: Which of them heatmaps belong over: its name in a dict or that of its input layer, or
            its position; None for the one that can be a picture.

    Raises:
        TypeError: If something else than real numbers is in it, or ``seen`` is of another type.
        ValueError: If an input is missing, or ``seen`` names none, or is needed.
    """
    names, declared = anatomy.input_names, anatomy.inputs
    text = text_in(doc) if anatomy.takes_words() else None
    if text is not None:
        doc = _as_input(anatomy, text)
    if not isinstance(doc, (dict, list, tuple)):
        if text is None:
            check_type(doc)  # before a model of several inputs asks for more of them
        inputs = anatomy.inputs_of(doc)
        names = names or [""]
    elif not declared:
        inputs, names = Inputs(doc), names_of(doc)
    elif isinstance(doc, dict):
        flat = dict(zip(names_of(doc), Inputs(doc).leaves, strict=True))
        for name in names:
            if name not in flat:
                raise ValueError(
                    f"doc has no input {name!r} for model {anatomy.model.name!r}, which takes "
                    f"{anatomy.inputs_in_words()}; got {', '.join(map(repr, flat)) or 'none'}"
                )
        inputs = Inputs(Inputs(anatomy.input_structure).packed([flat[name] for name in names]))
    else:
        leaves = Inputs(doc).leaves
        by_name = isinstance(anatomy.input_structure, dict)
        if len(leaves) != len(names) or by_name:
            asked = "takes a dict of" if by_name else "has"
            raise ValueError(
                f"model {anatomy.model.name!r} {asked} {plural(len(names), 'input')}, "
                f"{anatomy.inputs_in_words()}; got a {type(doc).__name__} of "
                f"{plural(len(leaves), 'array')}"
            )
        inputs = Inputs(Inputs(anatomy.input_structure).packed(leaves))
    for name, leaf in zip(names, inputs.leaves, strict=True):
        if text is None:
            check_type(leaf, _called(name, names))
    return replace(inputs, seen=_seen(anatomy, names, inputs.leaves, seen))


def _seen(anatomy: Anatomy, names: Sequence[str], leaves: Sequence[Any], seen: Any) -> int:
    """The place of the input that heatmaps belong over."""
    shapes = [one.shape for one in anatomy.inputs or leaves]
    if isinstance(seen, str):
        if seen not in names:
            raise ValueError(
                f"model {anatomy.model.name!r} has no input {seen!r}{nearest(seen, names)}; it has "
                f"{named_shapes(names, shapes)}"
            )
        return list(names).index(seen)
    if seen is not None:
        place = integer("seen, if it is no name,", seen)
        if not -len(names) <= place < len(names):
            raise ValueError(
                f"seen must be the position of one of {plural(len(names), 'input')}, "
                f"{named_shapes(names, shapes)}; got {place}"
            )
        return place % len(names)
    for rank, what in _RANKS.items():
        able = [place for place, shape in enumerate(shapes) if len(shape) == rank]
        if len(able) > 1:
            raise ValueError(
                f"several inputs of model {anatomy.model.name!r} may be {what}: pass seen=, the "
                f"name or the position of one; the inputs are {named_shapes(names, shapes)}"
            )
        if able:
            return able[0]
    return 0


def _as_input(anatomy: Anatomy, text: str) -> Shaped[np.ndarray, "1 ..."]:
    """A text as a model takes it that starts with a TextVectorization.

    Raises:
        RunError: If the model has none.
    """
    if vectorizer_of(anatomy) is None:
        raise RunError(
            f"doc is a text, and model {anatomy.model.name!r} has no TextVectorization that makes "
            "numbers of it; pass the numbers of its words, and vocabulary= or tokens="
        )
    rank = len(anatomy.inputs[0].shape) if anatomy.inputs else 2
    return np.array(text, dtype=object).reshape((1,) * rank)


# Of several inputs that which is most likely to be seen, by the rank of a batch.
_RANKS = {4: "the picture", 5: "the volume", 3: "the signal", 2: "what heatmaps belong over"}


def _called(name: str, names: Sequence[str]) -> str:
    """What errors call an input."""
    return "doc" if len(names) < 2 else f"input {name!r} of doc"


def check_type(doc: Any, what: str = "doc") -> None:
    """Raise TypeError unless ``doc``, which errors call ``what``, is an array of real numbers."""
    if not isinstance(doc, np.ndarray):
        raise TypeError(
            f"{what} must be a numpy.ndarray of shape (1, height, width, channels), got "
            f"{type(doc).__module__}.{type(doc).__qualname__}; numpy.asarray(...) makes one of a "
            "tensor, a list or a Pillow image"
        )
    if not is_real(doc) or doc.dtype.itemsize > 8:
        raise TypeError(
            f"{what} must be an array of numbers, real and of at most 64 bits, got dtype "
            f"{doc.dtype}"
        )


def check_doc(anatomy: Anatomy, inputs: Inputs) -> None:
    """Raise ValueError unless ``inputs`` is one doc that fits the model, finite throughout."""
    check_shape(anatomy, inputs)
    names = _names(anatomy, inputs)
    for name, leaf in zip(names, inputs.leaves, strict=True):
        if is_real(leaf) and not np.isfinite(leaf).all():
            raise ValueError(f"{_called(name, names)} must be finite, got NaN or infinity in it")


def check_shape(anatomy: Anatomy, inputs: Inputs, number: int | None = 1) -> None:
    """Raise ValueError unless docs have the shape that a model declares.

    Args:
        anatomy: The model.
        inputs: One input with its batch axis, or several.
        number: How many there must be; None for any number.
    """
    names = _names(anatomy, inputs)
    for place, (name, leaf) in enumerate(zip(names, inputs.leaves, strict=True)):
        what = _called(name, names)
        if number is None:
            what = what.replace("doc", "docs")
        expected = input_shape(anatomy, place)
        if expected is None:
            # A batch of one has the rank that it has; else the batch axis may have been left out.
            is_free = place != inputs.seen or len(names) > 1 or leaf.shape[:1] == (1,)
            expected = (None,) * (max(leaf.ndim, 2) if is_free else 4)
        wanted = (number, *expected[1:])
        if not _fits(leaf.shape, wanted):
            advice = ""
            if _fits(leaf.shape, wanted[1:]):
                how = f"({what}, axis=0)" if len(names) == 1 else ""
                advice = f"; add the batch axis with np.expand_dims{how}"
            elif number is not None and _fits(leaf.shape[1:], wanted[1:]):
                advice = "; one input is explained at a time, for example doc[:1]"
            raise ValueError(f"{what} must have shape {readable(wanted)}, got {leaf.shape}{advice}")


def batch_of(anatomy: Anatomy, given: Any, seen: str | int | None = None) -> Inputs:
    """One doc or a batch, in the structure that the model takes; of one, the batch axis is added.

    Raises:
        TypeError: As in `inputs_of`.
        ValueError: As in `inputs_of`.
    """
    inputs = inputs_of(anatomy, given, seen)
    expected = input_shape(anatomy, inputs.seen)
    if inputs.docs.ndim == (4 if expected is None else len(expected)) - 1:
        leaves = [leaf[np.newaxis] for leaf in inputs.leaves]
        inputs = replace(inputs, structure=inputs.packed(leaves))
    return inputs


def rank_of_docs(anatomy: Anatomy) -> int:
    """The rank of a batch of docs, as the model declares it; that of pictures, if it does not."""
    ranks = {len(tensor.shape) for tensor in anatomy.inputs}
    return ranks.pop() if len(ranks) == 1 else 4


def check_batch(anatomy: Anatomy, shape: tuple[int, ...]) -> None:
    """Raise ValueError unless an array of this shape is a batch of docs."""
    rank = rank_of_docs(anatomy)
    if len(shape) == rank:
        return
    advice = "; of one doc make a batch with docs[np.newaxis]" if len(shape) == rank - 1 else ""
    axes = "height, width, channels" if rank == 4 else readable(anatomy.inputs[0].shape[1:])[1:-1]
    raise ValueError(f"docs must have shape (docs, {axes}), got {tuple(shape)}{advice}")


def number_of_docs(inputs: Inputs) -> int:
    """How many docs there are; raises ValueError if inputs differ in that."""
    rows = {len(leaf) for leaf in inputs.leaves}
    if len(rows) > 1:
        raise ValueError(
            "all inputs of a batch must have as many rows, got shapes "
            f"{', '.join(str(leaf.shape) for leaf in inputs.leaves)}"
        )
    return rows.pop()


def _names(anatomy: Anatomy, inputs: Inputs) -> list[str]:
    return anatomy.input_names or names_of(inputs.structure)


def _fits(shape: tuple[int, ...], expected: tuple[int | None, ...]) -> bool:
    return len(shape) == len(expected) and all(
        size > 0 if wanted is None else size == wanted
        for size, wanted in zip(shape, expected, strict=True)
    )


def picture_of(anatomy: Anatomy, inputs: Inputs) -> Image.Image | None:
    """The picture that one doc holds, values stretched to 0..255 as in eli5; None if it holds none.

    Raises:
        ValueError: If no picture can be made of so many channels.
    """
    if kind_of(anatomy, inputs) != "picture":
        return None
    if not anatomy.model.built:  # its layers do not know yet what they take
        running.build(anatomy, inputs)
    doc = inputs.docs
    layout = anatomy.layout_of_docs(doc.shape)
    channels = layout.channels(doc.shape)
    if channels not in PICTURE_CHANNELS:
        raise ValueError(
            f"no picture can be made of a doc with {channels} channels (shape {doc.shape}); pass "
            "image=, a Pillow image to lay the heatmap over"
        )
    image: Image.Image = keras.utils.array_to_img(doc[0], data_format=layout.name)
    return image


def kind_of(anatomy: Anatomy, inputs: Inputs) -> str | None:
    """What there is to see in docs, as ``Explanation.kind`` names it; None if it cannot be told."""
    rank = inputs.docs.ndim
    if rank <= 2:
        return "text" if anatomy.takes_words() else "signal" if rank == 2 else None
    if rank == 5:
        channels = anatomy.layout_of_docs(inputs.docs.shape).channels(inputs.docs.shape)
        return "video" if anatomy.takes_frames() or channels == _RGB else "volume"
    return {3: "signal", 4: "picture"}.get(rank)


_RGB = 3


def input_shape(anatomy: Anatomy, place: int = 0) -> tuple[int | None, ...] | None:
    """The shape of one of the model's inputs with batch axis; None if the model does not tell."""
    return tuple(anatomy.inputs[place].shape) if anatomy.inputs else None


def check_image(image: Any) -> None:
    """Raise unless ``image`` is a picture to lay a heatmap over."""
    if not isinstance(image, Image.Image):
        raise TypeError(f"image must be a PIL.Image.Image, got {type(image).__name__}")
    if 0 in image.size:
        raise ValueError(f"image must have at least one pixel, got size {image.size}")


def hint_at_preprocessor(anatomy: Anatomy, inputs: Inputs) -> None:
    """Warn of a doc that looks as if it still had to go through the model's preprocessor.

    In keras-hub, ``predict`` runs it, and calling the model does not.
    """
    model, doc = anatomy.model, inputs.docs
    preprocess = getattr(model, "preprocessor", None)
    if not callable(preprocess) or not is_real(doc) or doc.min() < 0 or doc.max() <= _PREPROCESSED:
        return
    if anatomy.holds(preprocess):  # the model runs it itself
        return
    if len(inputs.leaves) > 1:  # which only a preprocessor makes of a picture
        return
    with contextlib.suppress(Exception):  # whatever it does, it is asked for a hint alone
        if np.array_equal(keras.ops.convert_to_numpy(preprocess(doc)), doc):
            return
    warnings.warn(
        f"model {model.name!r} has a preprocessor, which predict runs and an explanation does not, "
        f"and this doc, with values up to {doc.max():g}, looks as if it had not gone through it; "
        "if so, pass numpy.asarray(model.preprocessor(doc))",
        stacklevel=outside(),
    )


_PREPROCESSED = 16  # most preprocessing leaves values of about 1, and pixels go to 255
