"""PyTorch: ``torch.autograd.grad``. Nothing is compiled.

`kerasight.keras.backends.Backend` says what each function is for.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import keras
import torch
from torch.overrides import TorchFunctionMode

from kerasight.keras.backends import (
    Linear,
    Watch,
    no_settings,
    of_wrong_shape,
    out_of_memory,
    without_colours,
)

__all__ = ["compiled", "compiles", "compiles_each_operation", "compiles_for_any_size", "inference"]
__all__ += ["is_eager", "is_foreign", "is_own", "is_tensor", "linearise", "logits"]
__all__ += ["runs_on_symbols", "scope", "settings", "told"]

compiles = compiles_each_operation = False
compiles_for_any_size = True
runs_on_symbols = False
settings = no_settings


@contextmanager
def inference(layers: Sequence[Any], *, is_linearised: bool, logits: bool) -> Iterator[Any]:
    """A block in which modules do not train, and what was compiled runs as it was written.

    Parameters that were made in inference mode are stood in for: they cannot be differentiated
    through.
    """
    modules, ahead = {}, list(layers)
    while ahead:  # as Module.modules does, which wants to hash them
        one = ahead.pop()
        if id(one) not in modules:
            modules[id(one)] = one
            ahead += filter(None, vars(one)["_modules"].values())
    training = [one for one in modules.values() if one.training]
    modes = nullcontext() if is_linearised else _modes(records=False)
    try:
        for one in training:
            vars(one)["training"] = False  # Keras has thoughts of its own on attributes
        noting = _NotingLogits() if logits else nullcontext()
        with modes, noting, torch.compiler.set_stance("force_eager"):
            variables = [one for one in layers[0].variables if one.value.is_inference()]
            yield [(one, one.value.clone()) for one in variables]
    finally:
        for one in training:
            vars(one)["training"] = True


@contextmanager
def _modes(*, records: bool) -> Iterator[None]:
    """A block outside of inference mode, in which operations are recorded, or are not."""
    with torch.inference_mode(False), torch.set_grad_enabled(records):
        yield


def linearise(function: Callable[[Watch], tuple[Sequence[Any], Sequence[Any]]]) -> Linear:
    """Run a function, of which PyTorch records what comes after the first tensor watched."""
    outputs, sources = _recorded(function, from_the_first=False)

    def pullback(seeds: torch.Tensor, output: int, of: Sequence[int]) -> list[torch.Tensor | None]:
        # A source loses its gradient in a checkpoint that is re-entrant.
        able = [one for one in of if outputs[output].requires_grad and sources[one].requires_grad]
        wanted = [sources[one] for one in able]
        if not able:
            return [None] * len(of)
        with torch.inference_mode(False):
            each = zip(
                *(
                    torch.autograd.grad(
                        outputs[output], wanted, seed, retain_graph=True, allow_unused=True
                    )
                    for seed in seeds.clone()
                ),
                strict=True,
            )
            stacked = (None if one[0] is None else torch.stack(one) for one in each)
            found = dict(zip(able, stacked, strict=True))
        return [found.get(one) for one in of]

    return Linear(outputs, sources, pullback)


def _recorded(function: Any, from_the_first: bool) -> Any:
    was_watched = False

    def watch(tensor: torch.Tensor, is_itself: bool) -> torch.Tensor:
        nonlocal was_watched
        was_watched = True
        torch.set_grad_enabled(True)
        if tensor.requires_grad:
            return tensor if is_itself else tensor.view_as(tensor)
        if tensor.is_inference():
            tensor = tensor.clone()
        return (tensor if is_itself else tensor.detach()).requires_grad_()

    with _modes(records=from_the_first):
        found = function(watch)
        is_whole = torch.is_grad_enabled() or not was_watched
    return found if is_whole else _recorded(function, True)


def compiled(
    function: Callable[..., Any],
    signature: Sequence[tuple[tuple[int | None, ...], str]],
    variables: Sequence[Any] = (),
) -> Callable[..., Any]:
    """Nothing is compiled."""
    raise NotImplementedError


def is_tensor(value: Any) -> bool:
    """Whether something is neither sparse nor nested."""
    return isinstance(value, torch.Tensor) and value.layout == torch.strided


def is_eager() -> bool:
    """Whether no shapes are inferred, and nothing is compiled."""
    return not (keras.ops.zeros(()).is_meta or torch.compiler.is_compiling())


def scope() -> Any:
    """None: tensors have values everywhere, but for those of which shapes are inferred."""


def is_foreign(value: Any, scope: Any) -> bool:
    """Whether a tensor has a shape alone."""
    return isinstance(value, torch.Tensor) and value.is_meta


_OF_SHAPES = re.compile(r"\bshapes?\b|\bdimensions?\b|\bsizes?\b|\bchannels\b")
_OF_MEMORY = re.compile(r"can't allocate memory|not enough memory")


def told(error: Exception, what: str) -> Exception:
    """An error without colours, and of a shape that does not fit as a ``ValueError``."""
    message = without_colours(str(error))
    if isinstance(error, torch.OutOfMemoryError):
        return out_of_memory(what, message)
    if type(error) is RuntimeError:
        if _OF_MEMORY.search(message):
            return out_of_memory(what, message)
        if _OF_SHAPES.search(message.partition("Arguments received by")[0]):
            return of_wrong_shape(what, message)
    error.args = tuple(without_colours(one) if isinstance(one, str) else one for one in error.args)
    return error


def is_own(error: Exception) -> bool:
    """Whether an error was raised by an operation."""
    return type(error) is RuntimeError or isinstance(error, torch.OutOfMemoryError)


# Where it is noted what went into a softmax or sigmoid; True of what came out of neither.
_LOGITS = "_logits_for_kerasight"
_TO_PROBABILITIES = {"sigmoid", "softmax"}
_LINEAR = {"addmm", "conv2d", "einsum", "linear", "matmul", "mm", "tensordot"}
# Operations that leave the scores what they are.
_PASSING_ON = {"__getitem__", "flatten", "permute", "reshape", "squeeze", "to", "unsqueeze", "view"}
_IN_PLACE = {"add_", "clamp_", "div_", "exp_", "mul_", "relu_", "sigmoid_", "sub_", "tanh_"}


class _NotingLogits(TorchFunctionMode):  # type: ignore[misc]
    """A block in which tensors are told from what they were made."""

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        output = function(*args, **(kwargs or {}))
        name = getattr(function, "__name__", "")
        known = getattr(args[0], _LOGITS, None) if args else None
        if name in _TO_PROBABILITIES and args:
            setattr(output, _LOGITS, args[0])
        elif name in _LINEAR:
            setattr(output, _LOGITS, True)
        elif name in _PASSING_ON and known is not None:
            passed_on = known if known is True else function(known, *args[1:], **(kwargs or {}))
            setattr(output, _LOGITS, passed_on)
        elif name == "add" and known is True and isinstance(args[-1], torch.nn.Parameter):
            setattr(output, _LOGITS, True)  # a bias
        elif known is not None and name in _IN_PLACE:
            setattr(output, _LOGITS, None)
        return output


def logits(scores: torch.Tensor) -> torch.Tensor | None:
    """What was noted in the block in which the model ran."""
    found = getattr(scores, _LOGITS, None)
    return scores if found is True else found
