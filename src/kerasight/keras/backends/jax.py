"""JAX: ``jax.vjp`` and ``jax.jit``.

`kerasight.keras.backends.Backend` says what each function is for.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import keras
from jax.custom_derivatives import SymbolicZero, zero_from_primal

from kerasight.keras import backends
from kerasight.keras.backends.jaxprs import marked, through_all_uses, with_logits

try:
    from jax.extend.core import get_opaque_trace_state
except ImportError:  # before JAX 0.7
    from jax.core import get_opaque_trace_state

__all__ = ["compiled", "compiles", "compiles_each_operation", "compiles_for_any_size", "inference"]
__all__ += ["is_eager", "is_foreign", "is_own", "is_tensor", "linearise", "logits", "scope"]
__all__ += ["runs_on_symbols", "settings", "told"]

compiles = compiles_each_operation = runs_on_symbols = True
compiles_for_any_size = False
inference = backends.keeps_variables_alone


def linearise(
    function: Callable[[backends.Watch], tuple[Sequence[Any], Sequence[Any]]],
) -> backends.Linear:
    """Run a function once under ``jax.vjp``.

    What is watched passes through an identity of which the derivative notes what it is given: the
    gradient there. An argument on which nothing depends makes JAX keep track of it.
    """
    gradients: dict[int, Any] = {}
    numbers: dict[int, int] = {}  # by id of what came of watching, or was given if it is itself
    watched: list[tuple[Any, Any, bool]] = []  # what came of it, what was given, whether itself
    of_sources: list[int] = []
    # One run for all outputs. For those not asked for, no gradient is computed, not one of zeros.
    seeds: list[Any] = []
    chosen = jax.custom_vjp(lambda outputs: jax.numpy.zeros(()))
    chosen.defvjp(lambda outputs: (jax.numpy.zeros(()), None), lambda *_: (seeds,))

    def run(argument: Any) -> tuple[Any, Any]:
        def watch(tensor: Any, is_itself: bool) -> Any:
            number = numbers.get(id(tensor)) if is_itself else None
            if number is None:
                number = len(watched)
                seen = _noting(gradients, number)(tensor, argument)
                watched.append((seen, tensor, is_itself))
                numbers.update({id(one): number for one in (seen, tensor)[: 1 + is_itself]})
            return watched[number][0]

        def watched_run() -> Any:
            outputs, sources = function(watch)
            of_sources.extend(-1 if one is None else numbers[id(one)] for one in sources)
            return outputs, sources

        outputs, sources = watched_run() if is_eager() else with_logits(watched_run)
        return chosen([one for one in outputs if one is not None]), (outputs, sources)

    _, back, (outputs, sources) = jax.vjp(run, jax.numpy.zeros(()), has_aux=True)
    are_themselves = [is_itself for _, _, is_itself in watched]
    watched.clear()

    def pullback(given: Any, output: int, of: Sequence[int]) -> list[Any]:
        if len(of) > 1 and any(are_themselves[of_sources[source]] for source in of):
            return [pullback(given, output, [source])[0] for source in of]
        numbers, back_from = [of_sources[source] for source in of], None
        if are_themselves[numbers[0]]:
            noting = _noting(gradients, numbers[0])
            back_from = through_all_uses(function, output, of[0], len(sources), noting)
        some = [(at, one) for at, one in enumerate(outputs) if one is not None]
        zeros = [(at, zero_from_primal(one, symbolic_zeros=True)) for at, one in some]
        found: list[list[Any]] = [[] for _ in of]
        for seed in given:
            gradients.clear()
            if back_from is not None:
                back_from(seed)
            else:
                # Not None, for which JAX 0.6 refuses to pull back from one output after another.
                seeds[:] = [seed if at == output else zero for at, zero in zeros]
                back(jax.numpy.ones(()))
            for of_source, number in zip(found, numbers, strict=True):
                of_source.append(gradients.get(number))
        gradients.clear()
        return [None if one[0] is None else jax.numpy.stack(one) for one in found]

    return backends.Linear(outputs, sources, pullback)


def _noting(gradients: dict[int, Any], number: int) -> Any:
    """An identity that notes the gradient of what passes through it."""

    def backward(_: None, gradient: Any) -> tuple[Any, None]:
        if not isinstance(gradient, SymbolicZero):
            gradients[number] = gradient
        return gradient, None

    identity = jax.custom_vjp(lambda tensor, argument: tensor)
    identity.defvjp(lambda tensor, _: (tensor.value, None), backward, symbolic_zeros=True)
    return identity


def compiled(
    function: Callable[..., Any],
    signature: Sequence[tuple[tuple[int | None, ...], str]],
    variables: Sequence[Any] = (),
) -> Callable[..., Any]:
    """Compile a function ahead of time; XLA drops what its outputs do not need.

    The variables are arguments, since what is compiled holds all other arrays as they were.
    """
    read = [*variables]
    specs = [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in signature]

    def run(values: Sequence[Any], *tensors: Any) -> Any:
        with backends.Reading(zip(read, values, strict=True), noted):
            return with_logits(lambda: function(*tensors))

    def values() -> list[Any]:
        return [keras.ops.convert_to_tensor(one) for one in read]

    while True:
        noted: dict[int, Any] = {}
        lowered = jax.jit(run).lower(values(), *specs)
        if not noted:
            break
        read += noted.values()
    made = lowered.compile()

    def call(*tensors: Any) -> Any:
        nonlocal made
        try:
            return made(values(), *tensors)
        except ValueError:  # weights are on other devices now
            made = jax.jit(run).lower(values(), *tensors).compile()
            return made(values(), *tensors)

    return call


def is_tensor(value: Any) -> bool:
    """Whether something is a dense array, with a value or traced."""
    return isinstance(value, jax.Array)


def is_eager() -> bool:
    """Whether an operation gives a value: under ``jax.vjp`` it does, under ``jax.jit`` not."""
    return not isinstance(jax.numpy.zeros(()), jax.core.Tracer)


def scope() -> Any:
    """The state of all transformations."""
    return get_opaque_trace_state(convention="flax")


def is_foreign(value: Any, scope: Any) -> bool:
    """Whether an array is made under other transformations."""
    return is_tensor(value) and get_opaque_trace_state(convention="flax") != scope


def settings() -> Any:
    """JAX's own that numbers depend on, and that are read as a function is traced."""
    names = ("jax_default_matmul_precision", "jax_enable_x64", "jax_numpy_dtype_promotion")
    return tuple(getattr(jax.config, name) for name in names)


_OF_SHAPES = re.compile(r"\b(shape|dimension|size)s?\b")


def told(error: Exception, what: str) -> Exception:
    """An error without colours, and of a shape that does not fit as a ``ValueError``."""
    message = backends.without_colours(str(error))
    if isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" in message:
        return backends.out_of_memory(what, message)
    inner: BaseException | None = error
    while inner is not None:  # Keras wraps errors into others
        if isinstance(inner, jax.errors.TracerArrayConversionError):
            return backends.of_numpy_arrays(what)
        inner = inner.__cause__ or inner.__context__
    is_of_shapes = isinstance(error, TypeError) and _OF_SHAPES.search(message)
    if is_of_shapes or (isinstance(error, ValueError) and "resulted in an empty output" in message):
        return backends.of_wrong_shape(what, message)
    plain = backends.without_colours
    error.args = tuple(plain(one) if isinstance(one, str) else one for one in error.args)
    return error


def is_own(error: Exception) -> bool:
    """Whether an error was raised by what was compiled."""
    return isinstance(error, jax.errors.JaxRuntimeError)


def logits(scores: Any) -> Any:
    """Unknown where operations run at once; else the scores, marked."""
    return None if is_eager() else marked(scores)
