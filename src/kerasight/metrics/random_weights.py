"""Random weights in the place of a model's own, layer by layer.

The model runs inside a ``keras.StatelessScope`` that maps each weight to another variable, and is
never changed itself.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from kerasight.cam.inputs import Inputs
from kerasight.keras.anatomy import Anatomy
from kerasight.keras.running import build

if TYPE_CHECKING:
    pass

__all__ = ["Unit", "drawn", "groups_of"]


@dataclass(frozen=True, eq=False)
class Unit:
    """A layer with weights of its own.

    Attributes:
        path: Its path.
        layer: The layer.
        weights: Its weights, without those of the layers inside it and those of whole numbers; each
            with the variable that replaces it in the scope.
    """

    path: str
    layer: Any
    weights: list[tuple[Any, Any]]

    def fill(self, scope: keras.StatelessScope, rng: np.random.Generator | None) -> None:
        """Give it random weights in a scope; if ``rng`` is None, its trained ones."""
        for weight, other in self.weights:
            other.assign(weight if rng is None else drawn(self.layer, weight, rng))
            scope.add_update((weight, other.value))


def groups_of(model: keras.Model, doc: Inputs, steps: int | None) -> list[list[Unit]]:
    """The layers to randomise at each step, those first that run last.

    Args:
        model: The model.
        doc: An input.
        steps: The number of groups; None makes one of each layer.

    Raises:
        ValueError: If no layer has weights, or the weights of one cannot be replaced.
    """
    anatomy = Anatomy(model)
    _check_functions(anatomy)
    paths = {id(layer): path for path, layer in anatomy.layers}
    layers = [*(layer for _, layer in anatomy.layers), model]
    ran = build(anatomy, doc, layers)
    last_call = {id(layer): place for place, layer in enumerate(ran)}
    units = []
    for layer in sorted(layers, key=lambda layer: last_call.get(id(layer), -1), reverse=True):
        inside = {id(weight) for child in anatomy.children(layer) for weight in child.weights}
        own = [
            (weight, _another(weight))
            for weight in layer.weights
            if id(weight) not in inside and "float" in str(weight.dtype)
        ]
        if own:
            units.append(Unit(paths.get(id(layer), layer.name), layer, own))
    if not units:
        raise ValueError(f"model {model.name!r} has no weights to draw at random")
    number = len(units)
    counts = np.linspace(1, number, min(steps or number, number))
    # The last step draws all of them, also if it is the only one.
    ends = sorted({*np.rint(counts[:-1]).astype(int).tolist(), number})
    return [units[start:end] for start, end in itertools.pairwise([0, *ends])]


def _another(weight: Any) -> Any:
    """A variable of the same value."""
    # Of an array: PyTorch's variables share the memory of one that they are made of. Not trainable,
    # as functions with gradients of their own would ask for its gradient.
    value = keras.ops.convert_to_numpy(weight.value)
    return keras.Variable(value, trainable=False, dtype=weight.dtype, name="random")


def _check_functions(anatomy: Anatomy) -> None:
    """Raise ValueError if a layer holds a function that runs with the weights of its trace."""
    # Of these, a pass reaches only `call`, and runs that line by line.
    known = {*dir(keras.Model), "predict_function", "test_function", "train_function"}
    model = anatomy.model
    for path, layer in [(model.name, model), *anatomy.layers]:
        theirs = [kind for kind in type(layer).__mro__ if not kind.__module__.startswith("keras.")]
        held = dict(itertools.chain(*(vars(owner).items() for owner in (*theirs[::-1], layer))))
        for name, value in held.items():
            if name not in known and hasattr(value, "get_concrete_function"):
                raise ValueError(
                    f"layer {path!r} has a tf.function, {name!r}, which keeps to the weights that "
                    "it was traced with; make it a plain method, so that others can be tried"
                )


def drawn(layer: Any, weight: Any, rng: np.random.Generator) -> Any:
    """New values for a weight."""
    values = np.asarray(weight.numpy(), dtype=np.float64)
    initializer = _initializer_of(layer, weight.name)
    config = {} if initializer is None else initializer.get_config()
    if "seed" in config:
        # As it is, it would give the same values again.
        config["seed"] = int(rng.integers(2**31))
        return type(initializer).from_config(config)(weight.shape, dtype=weight.dtype)
    if values.ndim > 1:
        return rng.normal(0, np.sqrt(np.mean(values**2)), values.shape)
    if isinstance(initializer, (keras.initializers.Zeros, keras.initializers.Ones)):
        return initializer(weight.shape, dtype=weight.dtype)
    return rng.permutation(values) if values.ndim else values


def _initializer_of(layer: Any, name: str) -> Any:
    """The initialiser of the weight of this name; None if the layer has none for it."""
    # Separable convolutions have a "depthwise_kernel", depthwise ones a "kernel".
    for prefix in (name, name.removesuffix("_kernel"), "depthwise"):
        initializer = getattr(layer, f"{prefix}_initializer", None)
        if isinstance(initializer, keras.initializers.Initializer):
            return initializer
    return None
