"""What a computation that JAX has traced tells: the logits of scores, and all uses of a tensor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
from jax.extend.core import Literal, Primitive

try:
    from jax.extend.core import DropVar as _Dropped
except ImportError:  # before JAX 0.10
    from jax.core import DropVar as _Dropped

__all__ = ["marked", "through_all_uses", "with_logits"]

# Marks scores in whose place their logits are wanted, once it is known what they were made of.
_MARK = Primitive("kerasight_scores")
_MARK.def_abstract_eval(lambda scores: scores)

# Operations that leave values what they are, if there are as many of them afterwards.
_PASSING_ON = frozenset(
    {
        "broadcast_in_dim",
        "convert_element_type",
        "copy",
        "reduce_precision",
        "reshape",
        "sharding_constraint",
        "squeeze",
        "stop_gradient",
    }
)
# Functions that users or JAX have compiled, and which are run as they are.
_COMPILED = frozenset({"closed_call", "jit", "pjit"})
_PRODUCTS = frozenset({"conv_general_dilated", "dot_general"})


def through_all_uses(function: Any, output: int, source: int, count: int, noting: Any) -> Any:
    """The derivative by a tensor itself, whatever uses it, and be it before it is watched.

    None if the function cannot be traced, which tells its uses: then those after that count.
    """

    def traced() -> Any:
        outputs, found = function(lambda one, is_itself: one if is_itself else jax.numpy.copy(one))
        return (outputs[output], found[source]) if len(found) == count else ()

    try:
        made = jax.make_jaxpr(lambda: with_logits(traced))()
    except Exception:  # Keras fails to word JAX's own errors anew, and raises others in their place
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


def marked(scores: Any) -> Any:
    """Scores, of which `with_logits` makes their logits."""
    return _MARK.bind(scores)


def with_logits(function: Callable[[], Any]) -> Any:
    """What a function returns, with the logits of scores that it marks in their place.

    Raises:
        LookupError: If they cannot be told.
    """
    made, shapes = jax.make_jaxpr(function, return_shape=True)()
    has_mark = any(step.primitive is _MARK for step in made.jaxpr.eqns)
    run = _Computation().run if has_mark else jax.core.eval_jaxpr
    found = run(made.jaxpr, made.consts)
    return jax.tree.unflatten(jax.tree.structure(shapes), found)


@dataclass(frozen=True)
class _Step:
    """An operation that was run: its name, and what it took."""

    name: str
    inputs: Sequence[Any]


class _Computation:
    """A run of a traced computation, in which it is noted what each value was made of."""

    def __init__(self) -> None:
        # By id: each value, which is kept alive, and what made it.
        self._made_by: dict[int, tuple[Any, _Step]] = {}

    def run(self, jaxpr: Any, consts: Sequence[Any], *arguments: Any) -> list[Any]:
        """Run it, with logits in the place of the scores that are marked."""
        values = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *arguments), strict=True))

        def value_of(variable: Any) -> Any:
            return variable.val if isinstance(variable, Literal) else values[variable]

        for equation in jaxpr.eqns:
            name, given = equation.primitive.name, [value_of(one) for one in equation.invars]
            made = equation.outvars
            if equation.primitive is _MARK:
                (scores,) = given
                logits = jax.numpy.reshape(self._logits(scores), scores.shape)
                found = [logits.astype(scores.dtype)]
            elif name in _COMPILED:
                inner = equation.params["jaxpr"]
                found = self.run(inner.jaxpr, inner.consts, *given)
            else:
                made = [one for one in made if not isinstance(one, _Dropped)]
                taken = list({one for one in equation.invars if not isinstance(one, Literal)})
                alone = jaxpr.replace(eqns=[equation], constvars=[], invars=taken, outvars=made)
                found = jax.core.eval_jaxpr(alone, (), *map(value_of, taken))
                self._made_by.update({id(one): (one, _Step(name, given)) for one in found})
            values.update(zip(made, found, strict=True))
        return [value_of(one) for one in jaxpr.outvars]

    def _logits(self, scores: Any) -> Any:
        """What went into the softmax or sigmoid that scores came out of.

        The scores themselves if they come from a matrix multiplication or convolution.
        """
        _, step = self._source(scores)
        if step is not None and step.name == "logistic":
            return step.inputs[0]
        if step is not None and step.name == "div":
            given = self._normalised_exponentials(*step.inputs)
            if given is not None:
                return given
        while step is not None and step.name == "add":
            weights = [one for one in step.inputs if self._source(one)[1] is None]
            others = [one for one in step.inputs if self._source(one)[1] is not None]
            if len(weights) != 1:
                break
            _, step = self._source(others[0])
        if step is not None and step.name in _PRODUCTS:
            return scores
        raise LookupError("no operation tells the logits")

    def _normalised_exponentials(self, powers: Any, total: Any) -> Any:
        """What a softmax takes, given what it divides by what; None if it is none."""
        _, exponential = self._source(powers)
        _, summed = self._source(total, of_any_size=True)
        if exponential is None or summed is None or summed.name != "reduce_sum":
            return None
        _, other = self._source(summed.inputs[0])
        if exponential.name != "exp" or other is None or other.name != "exp":
            return None
        given, shifted = self._source(exponential.inputs[0])
        if self._source(other.inputs[0])[0] is not given:
            return None
        if shifted is not None and shifted.name == "sub" and self._is_maximum(*shifted.inputs):
            return shifted.inputs[0]
        return exponential.inputs[0]

    def _is_maximum(self, values: Any, greatest: Any) -> bool:
        """Whether one is the maximum of the other, which a softmax takes off."""
        _, step = self._source(greatest, of_any_size=True)
        if step is not None and step.name == "max":  # of it and minus infinity
            steps = [self._source(one, of_any_size=True)[1] for one in step.inputs]
            step = next((one for one in steps if one is not None), None)
        return (
            step is not None
            and step.name == "reduce_max"
            and self._source(step.inputs[0])[0] is self._source(values)[0]
        )

    def _source(self, value: Any, of_any_size: bool = False) -> tuple[Any, _Step | None]:
        """A value before all that passed it on, and what made it; None if that was given."""
        while id(value) in self._made_by:
            step = self._made_by[id(value)][1]
            is_passed_on = step.name in _PASSING_ON and (
                of_any_size or step.inputs[0].size == value.size
            )
            if not is_passed_on:
                return value, step
            value = step.inputs[0]
        return value, None
