"""What all runs of a model share: tensors, what is not built yet, and what is compiled for.

Passes (`passes`) and scores (`scoring`) are made of these.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import keras
import numpy as np
from keras import ops

from kerasight.base import RunError
from kerasight.cam.inputs import Inputs
from kerasight.keras import backends
from kerasight.keras.anatomy import Anatomy
from kerasight.keras.logits import HiddenLogitsError
from kerasight.keras.run import changing_nothing, outputs_of
from kerasight.keras.tap import tapped
from kerasight.keras.traces import WORTH_A_TRACE, Traces, log_eager, outer_scope

if TYPE_CHECKING:
    from jaxtyping import Float, Int64, Shaped

__all__ = [
    "Sizes",
    "as_array",
    "as_floats",
    "build",
    "check_eager",
    "classes_in",
    "if_it_can",
    "once_built",
    "packed",
    "rows_to_run",
    "signature_of",
    "tensors_of",
    "type_of",
    "weak",
]

Result = TypeVar("Result")


def build(
    anatomy: Anatomy, inputs: Inputs, layers: Sequence[keras.layers.Layer] = ()
) -> list[keras.layers.Layer]:
    """Run a model, so that what is not built yet gets built.

    Args:
        anatomy: The model.
        inputs: Its inputs.
        layers: Layers of which to note when they run.

    Returns:
        Those of ``layers`` that ran, in the order in which they ended, as often as they ran.
    """
    check_eager()
    ran: list[keras.layers.Layer] = []

    def note(layer: keras.layers.Layer, output: Any) -> Any:
        ran.append(layer)
        return output

    tensors, _ = tensors_of(anatomy, inputs)

    def run() -> None:
        ran.clear()
        with tapped([*anatomy.compiled_calls, *layers], note), changing_nothing(anatomy):
            outputs_of(anatomy.model, tensors)

    once_built(anatomy, tensors, run)
    return ran


def check_eager() -> None:
    """Raise RuntimeError inside of a compiled function, where there are no numbers to explain."""
    if not backends.current().is_eager():
        raise RuntimeError(
            "explanations are run eagerly, and this is inside of a compiled function (tf.function, "
            "jax.jit), or of a dry run in which Keras infers shapes; explain outside of it, or "
            "pass the function that explains to tf.numpy_function or jax.pure_callback"
        )


def once_built(anatomy: Anatomy, tensors: Inputs, run: Callable[[], Result]) -> Result:
    """Run a pass; again, if something was built in it.

    Where nothing may change, the weights that Keras makes have no values until the pass is over.
    What is not built after a pass is not reached in inference: a head for training alone.
    """
    unbuilt = anatomy.unbuilt
    try:
        result = run()
    except HiddenLogitsError:
        raise
    except ValueError:
        # Weights made of arrays cannot be made where nothing may change.
        if not unbuilt or outer_scope() is not None:
            raise
        _build_for_good(anatomy.model, tensors)
        anatomy.forget()
        return run()
    if any(layer.built for layer in unbuilt):
        anatomy.forget()
        return once_built(anatomy, tensors, run)
    return result


def _build_for_good(model: keras.Model, tensors: Inputs) -> None:
    """Run a model so that it is built, and put back the weights that it had before."""
    before = [(one, ops.convert_to_numpy(one.value)) for one in model.variables]
    try:
        outputs_of(model, tensors)
    finally:
        for variable, value in before:
            variable.assign(value)


def if_it_can(anatomy: Anatomy, run: Callable[[], Result]) -> Result | None:
    """What a compiled function returns; None if it fails, and is to be run eagerly.

    There it fails with a better message.
    """
    backend = backends.current()
    try:
        return run()
    except Exception as error:
        if not backend.is_own(error):
            raise
        told = backend.told(error, f"model {anatomy.model.name!r}")
        if isinstance(told, MemoryError):
            raise told from error
        log_eager(anatomy.model, f"what was compiled fails ({told})".partition("\n")[0])
        return None


def tensors_of(anatomy: Anatomy, inputs: Inputs) -> tuple[Inputs, tuple[Any, ...]]:
    """Inputs as tensors, and the shapes and types to compile for.

    These are of any number of docs, of the sizes that the model declares.
    """
    declared = anatomy.inputs
    leaves = inputs.leaves
    # Not the number of docs: a Sequential model declares that of its first call.
    sizes = [one.shape[1:] for one in (declared if len(declared) == len(leaves) else leaves)]
    shapes = tuple(((None, *size), type_of(leaf)) for size, leaf in zip(sizes, leaves, strict=True))
    return packed(inputs, [ops.convert_to_tensor(leaf) for leaf in leaves]), shapes


def type_of(array: Any) -> str:
    """The type of an array or tensor, as frameworks call it."""
    return "string" if getattr(array.dtype, "kind", "") in ("O", "S", "U") else str(array.dtype)


def signature_of(open_sizes: Sequence[Any], arrays: Sequence[Any]) -> tuple[Any, ...]:
    """The shapes and types to compile for: those given, or else those of the arrays at hand."""
    if backends.current().compiles_for_any_size:
        return tuple(open_sizes)
    return tuple((tuple(array.shape), type_of(array)) for array in arrays)


def packed(inputs: Inputs, leaves: Sequence[Any]) -> Inputs:
    """Other arrays or tensors in the place of those of some inputs."""
    return Inputs(inputs.packed(leaves), inputs.seen)


def weak(anatomy: Anatomy) -> Callable[[], Anatomy]:
    """What gives the anatomy of a model, without keeping the model alive."""
    weak_anatomy, weak_model = weakref.ref(anatomy), weakref.ref(anatomy.model)
    readout = anatomy.readout
    return lambda: weak_anatomy() or Anatomy(weak_model(), readout)


@dataclass
class Sizes:
    """Of a pass that is compiled for each number of docs.

    Attributes:
        run: The numbers of docs that it has run with.
        asked: How often it was asked for others, by their number of docs.
    """

    run: set[int] = field(default_factory=set)
    asked: dict[int, int] = field(default_factory=dict)

    @staticmethod
    def of(key: Hashable) -> Hashable:
        """Under which the sizes of a pass are kept."""
        return ("sizes", key)


def rows_to_run(traces: Traces, key: Hashable, docs: int) -> Int64[np.ndarray, " rows"]:
    """The rows of docs to run; where these are more than there are docs, those at the end go.

    A number of docs that comes seldom, as that of the last docs of a stream, is filled up to one
    that a pass was compiled for. A doc by itself is not, as it is to be compared with others.
    """
    found = docs
    sizes: Sizes | None = traces.known(Sizes.of(key))
    if sizes and docs > 1 and not backends.current().compiles_for_any_size:
        larger = [size for size in sizes.run if size > docs]
        if larger and docs not in sizes.run:
            sizes.asked[docs] = sizes.asked.get(docs, 0) + 1
            found = min(larger) if sizes.asked[docs] <= WORTH_A_TRACE else docs
    rows: np.ndarray = np.minimum(np.arange(found), docs - 1)
    return rows


def classes_in(shape: tuple[int | None, ...]) -> int:
    """The number of classes, given the shape of a model's output."""
    if len(shape) != 2 or shape[1] is None:
        raise RunError(
            "the model's output must be class scores of shape (1, classes) to be explained, "
            f"got shape {(1, *shape[1:])}; kerasight.targets has what else can be explained, such "
            "as target=targets.Region(class) of a segmentation, targets.Box(0) of a detector, or a "
            "function of the outputs"
        )
    return shape[1]


def as_floats(docs: Shaped[np.ndarray, " ..."]) -> Float[np.ndarray, " ..."]:
    """Numbers as such that may change a little: whole ones in float32."""
    return docs if np.issubdtype(docs.dtype, np.floating) else docs.astype(np.float32)


def as_array(values: Any) -> Shaped[np.ndarray, " ..."]:
    """A tensor as an array, wherever it is."""
    array: np.ndarray = ops.convert_to_numpy(values)
    return array
