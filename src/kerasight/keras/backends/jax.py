"""JAX: ``jax.vjp`` and ``jax.jit``.

`kerasight.keras.backends.Backend` says what each function is for.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import keras
from jax.custom_derivatives import SymbolicZero
from jax.extend.core import Literal

from kerasight.keras.backends import (
    Linear,
    Watch,
    of_wrong_shape,
    out_of_memory,
    without_colours,
)

try:
    from jax.extend.core import get_opaque_trace_state
except ImportError:  # before JAX 0.7
    from jax.core import get_opaque_trace_state

__all__ = ["compiled", "compiles_for_any_size", "is_eager", "is_foreign", "is_own", "is_tensor"]
__all__ += ["linearise", "logits", "runs_on_symbols", "scope", "told"]

compiles_for_any_size = False
runs_on_symbols = True


def linearise(function: Callable[[Watch], tuple[Sequence[Any], Sequence[Any]]]) -> Linear:
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

        outputs, sources = function(watch)
        of_sources.extend(-1 if one is None else numbers[id(one)] for one in sources)
        return chosen([one for one in outputs if one is not None]), (outputs, sources)

    _, back, (outputs, sources) = jax.vjp(run, jax.numpy.zeros(()), has_aux=True)
    are_themselves = [is_itself for _, _, is_itself in watched]
    watched.clear()

    def pullback(given: Any, output: int, source: int) -> Any:
        number, back_from = of_sources[source], None
        if are_themselves[number]:
            noting = _noting(gradients, number)
            back_from = _through_all_uses(function, output, source, len(sources), noting)
        some = [at for at, one in enumerate(outputs) if one is not None]
        found = []
        for seed in given:
            gradients.clear()
            if back_from is not None:
                back_from(seed)
            else:
                seeds[:] = [seed if at == output else None for at in some]
                back(jax.numpy.ones(()))
            found.append(gradients.get(number))
        gradients.clear()
        return None if found[0] is None else jax.numpy.stack(found)

    return Linear(outputs, sources, pullback)


def _noting(gradients: dict[int, Any], number: int) -> Any:
    """An identity that notes the gradient of what passes through it."""

    def backward(_: None, gradient: Any) -> tuple[Any, None]:
        if isinstance(gradient, SymbolicZero):
            return None, None
        gradients[number] = gradient
        return gradient, None

    identity = jax.custom_vjp(lambda tensor, argument: tensor)
    identity.defvjp(lambda tensor, _: (tensor.value, None), backward, symbolic_zeros=True)
    return identity


def _through_all_uses(function: Any, output: int, source: int, count: int, noting: Any) -> Any:
    """The derivative by a tensor itself, whatever uses it, and be it before it is watched.

    None if the function cannot be traced, which tells its uses: then those after that count.
    """

    def traced() -> Any:
        outputs, found = function(lambda one, is_itself: one if is_itself else jax.numpy.copy(one))
        return (outputs[output], found[source]) if len(found) == count else ()

    try:
        made = jax.make_jaxpr(traced)()
    except (jax.errors.JAXTypeError, jax.errors.JAXIndexError):
        return None
    if not made.jaxpr.outvars:  # it runs in another way
        return None
    jaxpr, (of_output, of_source) = made.jaxpr, made.jaxpr.outvars
    cut = next((at for at, step in enumerate(jaxpr.eqns, 1) if of_source in step.outvars), 0)
    used = [of_output, *(one for step in jaxpr.eqns[cut:] for one in step.invars)]
    made_later = {one for step in jaxpr.eqns[cut:] for one in step.outvars}
    free = {one for one in used if not isinstance(one, Literal)} - made_later
    needed = [of_source, *(free - {of_source})]
    before = jaxpr.replace(eqns=jaxpr.eqns[:cut], outvars=needed)
    after = jaxpr.replace(eqns=jaxpr.eqns[cut:], constvars=[], invars=needed, outvars=[of_output])

    def run(argument: Any) -> Any:
        itself, *others = jax.core.eval_jaxpr(before, made.consts)
        return jax.core.eval_jaxpr(after, (), noting(itself, argument), *others)[0]

    return jax.vjp(run, jax.numpy.zeros(()))[1]


def compiled(
    function: Callable[..., Any],
    signature: Sequence[tuple[tuple[int | None, ...], str]],
    variables: Sequence[Any] = (),
) -> Callable[..., Any]:
    """Compile a function ahead of time; XLA drops what its outputs do not need.

    The variables are arguments, since what is compiled holds all other arrays as they were.
    """

    def run(values: Sequence[Any], *tensors: Any) -> Any:
        with keras.StatelessScope(state_mapping=list(zip(variables, values, strict=True))):
            return function(*tensors)

    tensor = keras.ops.convert_to_tensor
    specs = [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in signature]
    made = jax.jit(run).lower([*map(tensor, variables)], *specs).compile()
    return lambda *tensors: made([*map(tensor, variables)], *tensors)


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


_OF_SHAPES = re.compile(r"\bshapes?\b|\bdimensions?\b|\bsizes?\b")


def told(error: Exception, what: str) -> Exception:
    """An error without colours, and of a shape that does not fit as a ``ValueError``."""
    message = without_colours(str(error))
    if isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" in message:
        return out_of_memory(what, message)
    if isinstance(error, TypeError) and _OF_SHAPES.search(message):
        return of_wrong_shape(what, message)
    error.args = tuple(without_colours(one) if isinstance(one, str) else one for one in error.args)
    return error


def is_own(error: Exception) -> bool:
    """Whether an error was raised by what was compiled."""
    return isinstance(error, jax.errors.JaxRuntimeError)


def logits(scores: Any) -> None:
    """Unknown: arrays carry no notes, and a softmax is no operation of its own."""
