"""The scores of a model: of docs, of thousands of docs, and from what is seen at a site on.

Beside the scores, a run gives the facts that the readout tells of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from keras import ops

from kerasight.cam.inputs import Inputs
from kerasight.keras import backends
from kerasight.keras.anatomy import Anatomy
from kerasight.keras.logits import HiddenLogitsError
from kerasight.keras.run import Run, Weights
from kerasight.keras.running import (
    Sizes,
    as_array,
    check_eager,
    classes_in,
    if_it_can,
    once_built,
    packed,
    rows_to_run,
    signature_of,
    tensors_of,
    weak,
)
from kerasight.keras.sites import Site
from kerasight.keras.traces import WORTH_A_TRACE

if TYPE_CHECKING:
    from jaxtyping import Float, Shaped

__all__ = ["Scored", "frozen_scores", "scored", "scores", "scores_from"]


@dataclass(frozen=True)
class Scored:
    """What is read from a model's outputs in one run.

    Attributes:
        scores: The scores, shape ``(docs, classes)``, float32 or float64.
        facts: What more was read from the outputs, each of shape ``(docs, ...)``.
    """

    scores: Float[np.ndarray, "docs classes"]
    facts: Sequence[Shaped[np.ndarray, "docs ..."]]


def scores(
    anatomy: Anatomy, inputs: Inputs, *, logits: bool = False
) -> Float[np.ndarray, "docs classes"]:
    """The scores alone, as in `scored`."""
    found, *_ = _run(anatomy, inputs, logits)
    return as_array(found)


def scored(anatomy: Anatomy, inputs: Inputs, *, logits: bool = False) -> Scored:
    """Run a model once: its scores, and the facts of its readout.

    Args:
        anatomy: The model.
        inputs: Its inputs.
        logits: Whether the scores are to be those before the final softmax or sigmoid.

    Raises:
        RunError: If the output is not one score a class, or the logits cannot be found.
    """
    found, *facts = _run(anatomy, inputs, logits)
    return Scored(as_array(found), [as_array(fact) for fact in facts])


def _run(anatomy: Anatomy, inputs: Inputs, logits: bool) -> Sequence[Any]:
    """The scores and the facts of a run, as tensors."""
    check_eager()
    traces, model, docs = anatomy.traces, anatomy.model, len(inputs)
    backend = backends.current()
    tensors, shapes = tensors_of(anatomy, inputs)
    key = ("scores", shapes, logits, anatomy.readout.key())
    rows = rows_to_run(traces, key, docs)
    if len(rows) > docs:
        return [each[:docs] for each in _run(anatomy, inputs[rows], logits)]

    def traced() -> Any:
        signature = signature_of(shapes, tensors.leaves)
        return traces.get(
            (*key, signature), key, lambda: _traced_scores(anatomy, inputs, signature, logits)
        )

    compiles_first = backend.compiles_each_operation and not anatomy.unbuilt
    if model.built and (docs >= WORTH_A_TRACE or compiles_first):
        traces.count(model, key, WORTH_A_TRACE)  # for the reason given in `passes.look`
    found, trace = None, traced()
    if trace is not None:
        found = if_it_can(anatomy, lambda: trace(*tensors.leaves))
        traces.once(Sizes.of(key), Sizes).run.add(docs)
    if found is None:
        try:
            found = _scores_eagerly(anatomy, tensors, logits)
            traces.count(model, key, docs)
        except HiddenLogitsError:
            traces.count(model, key, WORTH_A_TRACE)
            trace = traced()
            if trace is None:
                raise
            found = trace(*tensors.leaves)
    classes_in(tuple(found[0].shape))
    read: Sequence[Any] = found
    return read


# A trace that holds weights has them several times over while it is made.
_MOST_WEIGHTS = 2**26


def frozen_scores(
    anatomy: Anatomy, docs: Inputs, *, logits: bool = False
) -> Callable[[Inputs], Float[np.ndarray, "docs classes"]]:
    """A function that gives `scores`, for a thousand docs and more; it takes time to make.

    The weights are compiled in, so that the framework can work them into each other before the
    model runs: most of batch normalisation goes into the convolutions.

    Args:
        anatomy: The model, which has run.
        docs: Inputs of the shape and type that all will have, however many.
        logits: As in `scores`.

    Returns:
        The function. It holds while the model stays as it is, weights included.
    """
    check_eager()
    traces, model = anatomy.traces, anatomy.model

    def as_ever(inputs: Inputs) -> np.ndarray:
        return scores(anatomy, inputs, logits=logits)

    if not (model.built and backends.current().compiles):
        return as_ever
    weights = [(one, ops.convert_to_numpy(one.value)) for one in model.variables]
    if sum(value.nbytes for _, value in weights) > _MOST_WEIGHTS:
        return as_ever
    tensors, shapes = tensors_of(anatomy, docs[:1])
    traces.count(model, key := ("scorer", shapes, logits, anatomy.readout.key()), WORTH_A_TRACE)
    mark = _mark(weights)

    def traced(tensors: Inputs) -> Any:
        signature = signature_of(shapes, tensors.leaves)

        def trace() -> Any:
            return mark, _traced_scores(anatomy, docs, signature, logits, weights)

        found = traces.get((*key, signature), key, trace)
        if found is not None and found[0] != mark:
            traces.drop((*key, signature))
            found = traces.get((*key, signature), key, trace)
        return None if found is None else found[1]

    for_all = traced(tensors) if backends.current().compiles_for_any_size else None
    if for_all is not None:
        weights = []  # which the trace holds by now

    def run(inputs: Inputs) -> np.ndarray:
        tensors, _ = tensors_of(anatomy, inputs)
        trace = for_all or traced(tensors)
        found = None if trace is None else if_it_can(anatomy, lambda: trace(*tensors.leaves))
        return as_ever(inputs) if found is None else as_array(found[0])

    return run


def _mark(weights: Weights) -> bytes:
    """What tells these values of the weights from others."""
    mark = hashlib.blake2b()
    for _, value in weights:
        mark.update(value.tobytes())
    return mark.digest()


def scores_from(
    anatomy: Anatomy, inputs: Inputs, site: Site, *, logits: bool = False
) -> Callable[[Float[np.ndarray, "outputs ..."]], Float[np.ndarray, "outputs classes"]]:
    """The scores of one doc as a function of what is seen at a site.

    No more of the model is run than needs to be, as far as it can be told.

    Args:
        anatomy: The model.
        inputs: Its inputs, of one doc.
        site: The site, as a pass gave it.
        logits: As in `scores`.

    Returns:
        A function from what could be seen there ``(outputs, ...)``, in the model's layout, to
        scores ``(outputs, classes)``.
    """
    check_eager()
    traces, model = anatomy.traces, anatomy.model
    _, shapes = tensors_of(anatomy, inputs)
    key = ("from", site.key(), shapes, logits, anatomy.readout.key())
    weak_anatomy, weak_site = weak(anatomy), site.weak()

    def rest(anatomy: Anatomy, site: Site, outputs: Any, *leaves: Any) -> Any:
        return Run(
            anatomy,
            packed(inputs, leaves),
            logits=logits,
            watch=lambda tensor, _: tensor,
            wanted=site,
            replacement=outputs,
            is_linearised=False,
        ).scores

    def compiled(signature: Any) -> Any:
        def run(outputs: Any, *leaves: Any) -> Any:
            return rest(weak_anatomy(), weak_site(), outputs, *leaves)

        return backends.current().compiled(run, signature, model.variables)

    traces.count(model, key, WORTH_A_TRACE)  # there are many outputs to come
    repeated = inputs

    def scores_of(outputs: np.ndarray) -> np.ndarray:
        nonlocal repeated
        if len(repeated) != len(outputs):
            repeated = inputs.repeated(len(outputs))
        given = [ops.convert_to_tensor(leaf) for leaf in (outputs, *repeated.leaves)]
        of_outputs = ((None, *outputs.shape[1:]), str(outputs.dtype))
        signature = signature_of((of_outputs, *shapes), given)
        trace = traces.get((*key, signature), key, lambda: compiled(signature))
        found = None if trace is None else if_it_can(anatomy, lambda: trace(*given))
        return as_array(rest(anatomy, site, *given) if found is None else found)

    return scores_of


def _traced_scores(
    anatomy: Anatomy,
    inputs: Inputs,
    shapes: Sequence[Any],
    logits: bool,
    weights: Weights = (),
) -> Callable[..., Any]:
    weak_anatomy = weak(anatomy)  # the function lives on in its trace

    def run(*leaves: Any) -> Any:
        given = packed(inputs, leaves)
        return _read(Run(weak_anatomy(), given, logits=logits, weights=weights))

    variables = () if weights else anatomy.model.variables
    return backends.current().compiled(run, shapes, variables)


def _scores_eagerly(anatomy: Anatomy, tensors: Inputs, logits: bool) -> Any:
    return once_built(anatomy, tensors, lambda: _read(Run(anatomy, tensors, logits=logits)))


def _read(run: Run) -> tuple[Any, ...]:
    """What a run gives: the scores, and the facts."""
    return (run.scores, *run.facts)
