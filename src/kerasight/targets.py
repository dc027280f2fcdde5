"""What to explain, where it is not the class of a classifier: ``target=`` of `explain_prediction`.

A `Readout` reads scores from what a model puts out, in ``keras.ops``, one for each thing that could
be explained. `Class` is what ``targets=[index]`` says; `Number` is for regression, `Region` for
segmentation, `Box` for detection, `Likeness` for embeddings; `Output` is for models of several
outputs; `Difference` compares two targets. Any other function of the outputs is a target, too.

Example:
    >>> from kerasight import targets
    >>> targets.Output("age", targets.Number())
    Output(name='age', of=Number(number=0))
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from keras import ops, tree

from kerasight.checks import integer, is_real, nearest, plural

if TYPE_CHECKING:
    from jaxtyping import Real, Shaped

__all__ = [
    "SCORES",
    "Box",
    "Class",
    "Difference",
    "Function",
    "Likeness",
    "Number",
    "Output",
    "Outputs",
    "Readout",
    "Region",
    "readout_from",
]


@dataclass(frozen=True, eq=False)
class Outputs:
    """What a model put out for a batch of docs.

    Attributes:
        structure: A tensor; or a dict, list or tuple of tensors.
        names: What its tensors are called, in the order of `leaves`.
        explained: Gives the tensor to explain in place of one of them: the logits that it was made
            of, where these are asked for.
    """

    structure: Any
    names: Sequence[str]
    explained: Callable[[Any], Any]

    @property
    def leaves(self) -> list[Any]:
        """The tensors; of a dict in the order of its names, as Keras has them."""
        return list(tree.flatten(self.structure))

    @property
    def first(self) -> Any:
        """The first tensor."""
        return self.leaves[0]

    def named(self, name: str | int) -> Any:
        """One of the tensors, by its name or its position.

        Raises:
            ValueError: If there is none.
        """
        leaves = self.leaves
        if isinstance(name, str):
            if name not in self.names:
                known = ", ".join(map(repr, self.names)) or f"no names, but {len(leaves)} outputs"
                raise ValueError(
                    f"the model has no output {name!r}{nearest(name, self.names)}; it has {known}"
                )
            return leaves[list(self.names).index(name)]
        if not 0 <= name < len(leaves):
            raise ValueError(
                f"the model has no output {name}: it puts out {plural(len(leaves), 'tensor')}"
            )
        return leaves[name]


class Readout(ABC):
    """What scores are read from what a model puts out, and which of them is explained."""

    # What the properties of these names say of a class, unless it says more than its class.
    _is_number: ClassVar[bool] = False
    _has_classes: ClassVar[bool] = True
    _is_local: ClassVar[bool] = False

    @abstractmethod
    def scores(self, outputs: Outputs) -> Any:
        """The scores of all that could be explained, shape ``(docs, things)``.

        Raises:
            ValueError: If the model does not put out what the target needs.
        """

    @property
    def index(self) -> int | None:
        """Which of the scores to explain; None for whatever the user asks for, or the greatest."""
        return None

    @property
    def is_number(self) -> bool:
        """Whether it is a number that a model estimates, for which less is as good as more."""
        return self._is_number

    @property
    def has_classes(self) -> bool:
        """Whether the scores are those of classes, which have names and may be probabilities."""
        return self._has_classes

    @property
    def is_local(self) -> bool:
        """Whether it is for the doc to say which part of the outputs is read."""
        return self._is_local

    def facts(self, outputs: Outputs) -> list[Any]:
        """Tensors ``(docs, ...)`` beside the scores, of which `told` makes words."""
        return []

    def settled(self, facts: Sequence[np.ndarray]) -> Readout:
        """The same of changed copies of a doc, with what the doc itself chose of the outputs.

        Args:
            facts: Those of the doc, as arrays.
        """
        return self

    def told(self, index: int, facts: Sequence[np.ndarray]) -> dict[str, Any]:
        """What an explanation tells of it: fields of ``TargetExplanation``.

        Args:
            index: Which of the scores is explained.
            facts: Those of one doc, as arrays.

        Raises:
            ValueError: If there is nothing of the kind in this doc.
        """
        return {}

    def key(self) -> Hashable:
        """What tells it from other targets; equal keys read the same of the same outputs."""
        return (type(self), *(_key_of(getattr(self, name)) for name in self.__dataclass_fields__))  # type: ignore[attr-defined]


def _key_of(value: Any) -> Hashable:
    if isinstance(value, Readout):
        return value.key()
    if isinstance(value, np.ndarray):
        data = np.ascontiguousarray(value)
        return (data.shape, str(data.dtype), hashlib.blake2b(data.tobytes()).digest())
    hashable: Hashable = value
    return hashable


@dataclass(frozen=True)
class _Scores(Readout):
    """The first output as it is."""

    def scores(self, outputs: Outputs) -> Any:
        return outputs.explained(outputs.first)


SCORES = _Scores()
"""The scores of a classifier: its first output."""


def _value(target: Readout, outputs: Outputs) -> Any:
    """The one score that a target is about, shape ``(docs, 1)``."""
    scores = _of_rank_2(target.scores(outputs), "the output")
    index = target.index
    if index is None:
        raise ValueError(f"{target} does not say which of its scores to take; pass a class as well")
    _check_index(index, scores, "class")
    return scores[:, index : index + 1]


def _of_rank_2(scores: Any, what: str) -> Any:
    if len(scores.shape) == 1:  # some models leave out the axis
        return ops.expand_dims(scores, -1)
    if len(scores.shape) != 2:
        raise ValueError(f"{what} must have shape (docs, numbers), got {tuple(scores.shape)}")
    return scores


def _check_index(index: int, scores: Any, what: str) -> None:
    number = scores.shape[-1]
    if number is not None and index >= number:
        raise ValueError(
            f"{what} {index} is out of range: the model puts out {number}, counted from 0"
        )


@dataclass(frozen=True)
class Class(Readout):
    """The score of a class, as ``targets=[index]``.

    Attributes:
        number: The index of the class.
    """

    number: int

    def __post_init__(self) -> None:
        integer("the class", self.number, 0)

    @property
    def index(self) -> int:
        return self.number

    def scores(self, outputs: Outputs) -> Any:
        return outputs.explained(outputs.first)


@dataclass(frozen=True)
class Number(Readout):
    """A number that a model estimates, as in regression: what raises it, and what lowers it.

    Heatmaps are signed, if the method can and ``relu`` is not passed.

    Attributes:
        number: Which of the numbers, if the model puts out several for a doc.
    """

    number: int = 0

    def __post_init__(self) -> None:
        integer("number", self.number, 0)

    @property
    def index(self) -> int:
        return self.number

    _is_number = True
    _has_classes = False

    def scores(self, outputs: Outputs) -> Any:
        scores = _of_rank_2(outputs.explained(outputs.first), "the output of a regression")
        _check_index(self.number, scores, "number")
        return scores

    def told(self, index: int, facts: Sequence[np.ndarray]) -> dict[str, Any]:
        return {"target": f"number {index}" if index else "the number"}


@dataclass(frozen=True)
class Output(Readout):
    """One of several outputs of a model.

    Attributes:
        name: Its name, as in ``model.output_names`` or the dict that the model puts out; or its
            position.
        of: What to explain of it; None explains it as the scores of classes.
    """

    name: str | int
    of: Readout = SCORES

    def __post_init__(self) -> None:
        if not isinstance(self.name, str):
            integer("output, if it is no name,", self.name, 0)
        if not isinstance(self.of, Readout):
            object.__setattr__(self, "of", readout_from(self.of))

    @property
    def index(self) -> int | None:
        return self.of.index

    @property
    def is_number(self) -> bool:
        return self.of.is_number

    @property
    def has_classes(self) -> bool:
        return self.of.has_classes

    @property
    def is_local(self) -> bool:
        return self.of.is_local

    def _one(self, outputs: Outputs) -> Outputs:
        return Outputs(outputs.named(self.name), [str(self.name)], outputs.explained)

    def scores(self, outputs: Outputs) -> Any:
        return self.of.scores(self._one(outputs))

    def facts(self, outputs: Outputs) -> list[Any]:
        return self.of.facts(self._one(outputs))

    def settled(self, facts: Sequence[np.ndarray]) -> Output:
        of = self.of.settled(facts)
        return self if of is self.of else replace(self, of=of)

    def told(self, index: int, facts: Sequence[np.ndarray]) -> dict[str, Any]:
        told = self.of.told(index, facts)
        if isinstance(self.of, Number):
            name = self.name if isinstance(self.name, str) else f"output {self.name}"
            return {**told, "target": f"{name} ({index})" if index else name}
        detail = ", ".join(filter(None, [told.get("detail", ""), f"of output {self.name!r}"]))
        return {**told, "detail": detail}


@dataclass(frozen=True, eq=False)
class Region(Readout):
    """A class in a region of a segmentation: the mean of its scores there.

    Attributes:
        number: The index of the class.
        mask: The region, a bool array of the size of the output ``(height, width)``, or of as many
            axes as that has; None takes the region that the model itself gives the class: where it
            has the greatest score, or, of a model with one class, a score above ``threshold``.
        threshold: Of a model with one class.
    """

    number: int
    mask: Shaped[np.ndarray, "*spatial"] | None = None
    threshold: float = 0.5

    def __post_init__(self) -> None:
        integer("the class of a region", self.number, 0)
        if self.mask is None:
            return
        mask = np.asarray(self.mask)
        if not 1 <= mask.ndim <= 3 or not is_real(mask):
            raise ValueError(
                "the mask of a region must be an array of shape (height, width), or of one or "
                f"three axes, got shape {mask.shape} and dtype {mask.dtype}"
            )
        if not mask.any():
            raise ValueError("the mask of a region must have at least one pixel in it, got none")
        object.__setattr__(self, "mask", mask.astype(bool))

    @property
    def index(self) -> int:
        return self.number

    def _region(self, outputs: Outputs) -> Any:
        """The region of each doc, 0 or 1, shape ``(docs, *spatial)``."""
        output = outputs.first
        if not 3 <= len(output.shape) <= 5:
            raise ValueError(
                "a region is of a model that puts out (docs, height, width, classes), got shape "
                f"{tuple(output.shape)}"
            )
        size = tuple(output.shape[1:-1])
        if self.mask is not None:
            if None not in size and size != self.mask.shape:
                raise ValueError(
                    "the mask of a region must have the size of the model's output, "
                    f"{' x '.join(map(str, size))}, got {' x '.join(map(str, self.mask.shape))}"
                )
            return ops.zeros_like(output[..., 0]) + ops.cast(self.mask, output.dtype)
        _check_index(self.number, output, "class")
        if output.shape[-1] == 1:
            return ops.cast(output[..., 0] > self.threshold, output.dtype)
        return ops.cast(ops.argmax(output, axis=-1) == self.number, output.dtype)

    def scores(self, outputs: Outputs) -> Any:
        region = self._region(outputs)
        scores = outputs.explained(outputs.first)
        _check_index(self.number, scores, "class")
        axes = tuple(range(1, len(scores.shape) - 1))
        # In float32: half a megapixel is more than float16 can count.
        region, scores = ops.cast(region, "float32"), ops.cast(scores, "float32")
        pixels = ops.maximum(ops.sum(region, axis=axes), 1)
        return ops.sum(scores * region[..., None], axis=axes) / pixels[:, None]

    def facts(self, outputs: Outputs) -> list[Any]:
        return [self._region(outputs)]

    def settled(self, facts: Sequence[np.ndarray]) -> Region:
        region = facts[0] > 0
        return replace(self, mask=region) if self.mask is None and region.any() else self

    def told(self, index: int, facts: Sequence[np.ndarray]) -> dict[str, Any]:
        region = facts[0] > 0
        cell = {1: "step", 2: "pixel", 3: "voxel"}[region.ndim]
        cells = int(region.sum())
        if not cells:
            raise ValueError(
                f"the model gives class {self.number} no {cell} of this doc; pass the region to "
                "explain as mask="
            )
        detail = f"in the region of {plural(cells, cell)}"
        return {"detail": detail, "region": region if region.ndim == 2 else None}


@dataclass(frozen=True)
class Box(Readout):
    """A class in one of the boxes that a detector finds.

    Boxes are counted by their scores, the surest first. One that overlaps with a surer one counts
    as the same, as in non-maximum suppression, and one without extent is none.

    Attributes:
        number: Which box, from 0.
        class_index: The class; None takes the one that the detector is surest of in this box.
        scores_of: The output with the logits of the classes, ``(docs, boxes, classes)``: its name,
            or None for ``"cls_logits"`` (RetinaNet) or ``"logits"`` (D-FINE, DETR).
        boxes_of: The output with the boxes, ``(docs, boxes, 4)``; None for ``"pred_boxes"``.
        decode: Makes of that output boxes ``(docs, boxes, 4)``, left, top, right and bottom as
            shares of the picture's width and height. None takes them for centres, widths and
            heights in such shares, as D-FINE and DETR have them.
        overlap: From which overlap on, as intersection over union, two boxes are the same.
        near: Where the box is, four shares as ``decode`` makes them: of changed copies of a doc the
            surest box that is the same is taken, or else that which overlaps most. None counts.
    """

    number: int = 0
    class_index: int | None = None
    scores_of: str | None = None
    boxes_of: str | None = None
    decode: Callable[[Any], Any] | None = None
    overlap: float = 0.5
    near: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        integer("the number of a box", self.number, 0)
        if self.class_index is not None:
            integer("the class of a box", self.class_index, 0)
        if not 0 < self.overlap <= 1:
            raise ValueError(f"overlap must lie in (0, 1], got {self.overlap:g}")

    @property
    def index(self) -> int | None:
        return self.class_index

    _is_local = True

    def _found(self, outputs: Outputs) -> tuple[Any, Any, Any, Any]:
        """Of each doc the row of the box and how sure it is; logits of all boxes, and boxes."""
        logits = outputs.named(_known_name(self.scores_of, ("cls_logits", "logits"), outputs))
        boxes = outputs.named(_known_name(self.boxes_of, ("pred_boxes",), outputs))
        boxes = _corners(boxes) if self.decode is None else self.decode(boxes)
        if self.number >= logits.shape[1]:
            raise ValueError(
                f"there is no box {self.number}: the model puts out {logits.shape[1]}, counted "
                "from 0"
            )
        logits, boxes = ops.cast(logits, "float32"), ops.cast(boxes, "float32")
        has_extent = ops.all(boxes[..., 2:] > boxes[..., :2], axis=-1)
        surest = ops.where(has_extent, ops.max(logits, axis=-1), -_NEVER)
        if self.near is not None:
            overlaps = _overlaps(boxes, ops.convert_to_tensor(self.near, "float32"))
            is_same = overlaps >= self.overlap
            any_same = ops.any(is_same, axis=-1, keepdims=True)
            surest = ops.where(any_same, ops.where(is_same, surest, -_NEVER), overlaps)
            return ops.argmax(surest, axis=-1), ops.max(surest, axis=-1), logits, boxes
        for _ in range(self.number):
            best = _row(boxes, ops.argmax(surest, axis=-1))
            surest = ops.where(_overlaps(boxes, best) >= self.overlap, -_NEVER, surest)
        return ops.argmax(surest, axis=-1), ops.max(surest, axis=-1), logits, boxes

    def scores(self, outputs: Outputs) -> Any:
        row, _, logits, _ = self._found(outputs)
        scores = _row(logits, row)[:, 0]
        if self.class_index is not None:
            _check_index(self.class_index, scores, "class")
        return scores

    def facts(self, outputs: Outputs) -> list[Any]:
        row, surest, _, boxes = self._found(outputs)
        return [_row(boxes, row)[:, 0], surest]

    def settled(self, facts: Sequence[np.ndarray]) -> Box:
        return replace(self, near=tuple(map(float, facts[0])))

    def told(self, index: int, facts: Sequence[np.ndarray]) -> dict[str, Any]:
        if facts[1] <= -_NEVER:
            raise ValueError(
                f"there is no box {self.number} in this doc: the model finds fewer that have an "
                "extent, and do not lie on a surer one"
            )
        box = tuple(float(edge) for edge in np.clip(facts[0], 0, 1))
        return {"detail": f"in box {self.number}", "box": box}


_NEVER = 1e9


def _known_name(name: str | None, usual: Sequence[str], outputs: Outputs) -> str:
    for one in (name,) if name is not None else usual:
        if one in outputs.names:
            return one
    outputs.named(name or usual[0])  # raises, and names what there is
    raise AssertionError


def _corners(boxes: Any) -> Any:
    middle, size = boxes[..., :2], boxes[..., 2:]
    return ops.concatenate([middle - size / 2, middle + size / 2], axis=-1)


def _row(values: Any, rows: Any) -> Any:
    """One row of each doc, shape ``(docs, 1, ...)``."""
    return ops.take_along_axis(values, ops.cast(rows, "int32")[:, None, None], axis=1)


def _overlaps(boxes: Any, one: Any) -> Any:
    """Intersection over union of boxes ``(docs, boxes, 4)`` with one of each doc."""
    least, most = (
        ops.maximum(boxes[..., :2], one[..., :2]),
        ops.minimum(boxes[..., 2:], one[..., 2:]),
    )
    common = ops.prod(ops.maximum(most - least, 0), axis=-1)
    areas = [ops.prod(each[..., 2:] - each[..., :2], axis=-1) for each in (boxes, one)]
    return common / ops.maximum(areas[0] + areas[1] - common, 1e-12)


@dataclass(frozen=True, eq=False)
class Likeness(Readout):
    """How alike an embedding is to another one: the cosine of the angle between them.

    Attributes:
        embedding: The other one, shape ``(numbers,)`` or ``(1, numbers)``.
    """

    embedding: Real[np.ndarray, " ..."]

    def __post_init__(self) -> None:
        embedding = np.asarray(self.embedding)
        if not is_real(embedding) or embedding.size != embedding.shape[-1] or not embedding.any():
            raise ValueError(
                "an embedding must be an array (numbers,) that is not all zeros, got shape "
                f"{embedding.shape} and dtype {embedding.dtype}"
            )
        object.__setattr__(self, "embedding", embedding.reshape(-1).astype(np.float32))

    @property
    def index(self) -> int:
        return 0

    _has_classes = False

    def scores(self, outputs: Outputs) -> Any:
        output = _of_rank_2(outputs.first, "an embedding")
        if output.shape[1] != self.embedding.size:
            raise ValueError(
                f"the model puts out {output.shape[1]} numbers a doc, and the embedding to compare "
                f"with has {self.embedding.size}"
            )
        other = self.embedding / np.linalg.norm(self.embedding)
        length = ops.sqrt(ops.sum(output * output, axis=-1, keepdims=True))
        return ops.sum(output * ops.cast(other, output.dtype), axis=-1, keepdims=True) / length

    def told(self, index: int, facts: Sequence[np.ndarray]) -> dict[str, Any]:
        return {"target": "likeness"}


@dataclass(frozen=True)
class Difference(Readout):
    """One target less another: why this, and not that.

    Attributes:
        first: A target, or the index of a class.
        second: The same.
    """

    first: Readout
    second: Readout

    def __post_init__(self) -> None:
        for name in ("first", "second"):
            object.__setattr__(self, name, readout_from(getattr(self, name)))

    @property
    def index(self) -> int:
        return 0

    _has_classes = False

    def scores(self, outputs: Outputs) -> Any:
        return _value(self.first, outputs) - _value(self.second, outputs)

    def told(self, index: int, facts: Sequence[np.ndarray]) -> dict[str, Any]:
        return {"target": f"{_in_words(self.first)} less {_in_words(self.second)}"}


def _in_words(target: Readout) -> str:
    if isinstance(target, Class):
        return f"class {target.number}"
    if isinstance(target, Output):
        return f"{_in_words(target.of)} of output {target.name!r}"
    if isinstance(target, Region):
        return f"class {target.number} in a region"
    if isinstance(target, Difference):
        return f"({_in_words(target.first)} less {_in_words(target.second)})"
    told = target.told(target.index or 0, [])
    return str(told.get("target", f"class {target.index}"))


@dataclass(frozen=True)
class Function(Readout):
    """Any function of a model's outputs to one number a doc.

    Attributes:
        function: Takes what the model puts out, in its structure, and returns a tensor ``(docs,)``
            or ``(docs, 1)``, by ``keras.ops`` alone, of the outputs alone.
    """

    function: Callable[[Any], Any] = field(repr=False)

    @property
    def index(self) -> int:
        return 0

    _has_classes = False

    def scores(self, outputs: Outputs) -> Any:
        explained = [outputs.explained(leaf) for leaf in outputs.leaves]
        found = self.function(tree.pack_sequence_as(outputs.structure, explained))
        shape = getattr(found, "shape", None)
        if shape is None or len(shape) not in (1, 2) or (len(shape) == 2 and shape[1] != 1):
            got = type(found).__name__ if shape is None else f"shape {tuple(shape)}"
            raise ValueError(
                "a function as target= must return one number a doc, a tensor of shape (docs,), "
                f"got {got}"
            )
        return _of_rank_2(found, "what a function returns")

    def told(self, index: int, facts: Sequence[np.ndarray]) -> dict[str, Any]:
        return {"target": getattr(self.function, "__name__", "").strip("<>") or "function"}


def readout_from(given: Any) -> Readout:
    """A target of what a user may pass as one.

    Raises:
        TypeError: If it is neither a target, nor the index of a class, nor a function.
    """
    if isinstance(given, Readout):
        return given
    if isinstance(given, (int, np.integer)) and not isinstance(given, bool):
        return Class(int(given))
    if callable(given) and not isinstance(given, type):
        return Function(given)
    called = "; call it, as in target=targets.Number()" if isinstance(given, type) else ""
    if isinstance(given, list):
        called = "; a list of classes is passed as targets="
    raise TypeError(
        "target must be one of kerasight.targets, the index of a class, or a function of the "
        f"model's outputs, got {getattr(given, '__name__', type(given).__name__)}{called}"
    )
