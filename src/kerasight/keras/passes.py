"""Running a model forward and backward, to see it at a site.

A pass is run eagerly when a model is first seen, and compiled once it has come often enough
(`traces`). Both are the same lines: a `Run` of the model, linearised by the backend.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
from keras import ops

from kerasight.base import RunError
from kerasight.cam.inputs import Inputs
from kerasight.cam.layout import Layout
from kerasight.checks import plural
from kerasight.keras import backends
from kerasight.keras.anatomy import Anatomy
from kerasight.keras.backends import Linear, Watch
from kerasight.keras.logits import HiddenLogitsError
from kerasight.keras.run import Call, Run, changing_nothing, in_plain_words, outputs_of
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
    type_of,
    weak,
)
from kerasight.keras.sites import Choice, Site, guessed
from kerasight.keras.state import Contents
from kerasight.keras.targets import Target
from kerasight.keras.traces import WORTH_A_TRACE

if TYPE_CHECKING:
    from jaxtyping import Float, Shaped

__all__ = [
    "Pass",
    "classes_of_run",
    "gradients_from",
    "is_finite",
    "look",
    "maps_before",
    "scales_here",
    "typed",
]

# float16 has no numbers between 0 and 6e-8, where the gradients of a probability often lie. So the
# score is multiplied first, by the greatest of these at which no gradient overflows.
_FLOAT16_SCALES = (2.0**24, 2.0**15, 2.0**8, 1.0)


@dataclass(frozen=True)
class Pass:
    """What one forward and one backward pass gave, in the layout of the model.

    Attributes:
        site: Where the model was looked at; None if there was nowhere.
        activations: What was seen there, shape ``(docs, ...)``, or with another number of rows, as
            for several views of a doc; None if it was no single float tensor.
        gradients: Gradients of the targets with respect to it, shape ``(targets, docs, ...)``; None
            if the scores do not depend on it.
        target: What was explained, settled.
        scores: The model's output for all classes, shape ``(docs, classes)``.
        calls: The calls of the run; none if it was compiled.
        facts: What more was read from the outputs, each of shape ``(docs, ...)``.
    """

    site: Site | None
    activations: Float[np.ndarray, "rows ..."] | None
    gradients: Float[np.ndarray, "targets rows ..."] | None
    target: Target
    scores: Float[np.ndarray, "docs classes"]
    calls: Sequence[Call] = ()
    facts: Sequence[Shaped[np.ndarray, "docs ..."]] = ()

    def of_docs(self, docs: int) -> Pass:
        """The pass of so many docs, the first ones, where each has a row of its own."""
        return replace(
            self,
            activations=None if self.activations is None else self.activations[:docs],
            gradients=None if self.gradients is None else self.gradients[:, :docs],
            target=self.target.of_docs(slice(docs)),
            scores=self.scores[:docs],
            facts=[fact[:docs] for fact in self.facts],
        )


def look(
    anatomy: Anatomy, inputs: Inputs, target: Target, choice: Choice, *, logits: bool = False
) -> Pass:
    """Run a model once, and differentiate targets with respect to what is seen at a site.

    Args:
        anatomy: The model.
        inputs: Its inputs.
        target: What to explain.
        choice: Says where to look; of the positions that it gives, the first that has a gradient is
            taken.
        logits: Whether the scores are to be those before the final softmax or sigmoid. A model
            without one gives what it puts out.

    Raises:
        RunError: If the model cannot be explained so.
    """
    check_eager()
    traces, wanted, docs = anatomy.traces, choice.wanted, len(inputs)
    backend = backends.current()
    tensors, shapes = tensors_of(anatomy, inputs)
    if anatomy.readout.is_local and choice.wanted is None:
        return _look_eagerly(anatomy, tensors, target, choice, logits)  # it depends on the doc
    readout = anatomy.readout.key()
    asked_at = None if wanted is None else wanted.key()

    def counted(site: Site | None) -> tuple[Any, ...]:
        key = asked_at if site is None else site.key()
        return ("look", key, shapes, logits, target.kind(), readout)

    sized = counted(None)
    rows = rows_to_run(traces, sized, docs)
    if len(rows) > docs:
        found = look(anatomy, inputs[rows], target.of_docs(rows), choice, logits=logits)
        if found.activations is None or len(found.activations) == len(rows):
            return found.of_docs(docs)
    # The choice may depend on the size of the docs; where a layer is asked for, it hardly does.
    sizes = tuple((tuple(leaf.shape[1:]), type_of(leaf)) for leaf in inputs.leaves)
    place = (
        inputs.seen,
        choice.grid,
        readout,
        *((sizes,) if wanted is None else (shapes, asked_at)),
    )
    classes: int | None = traces.known((_CLASSES, readout))

    def count(site: Site, docs: int) -> None:
        """Note that docs went through a pass, and where it was looked at."""
        if traces.count(anatomy.model, counted(site), docs):
            traces.choose(place, site)
            traces.once((_CLASSES, readout), lambda: classes)

    def traced(site: Site | None, ready: _Trace | None = None) -> _Trace | None:
        """The pass, compiled for a site; if there is none yet, it is chosen by the shapes."""
        key, asked = counted(site), target
        if classes is not None and not backend.compiles_for_any_size:
            asked = target.check(classes)  # there may be fewer than are asked for
        arrays = [typed(leaf) for leaf in asked.leaves()]
        of_target = [
            (shape, str(array.dtype)) for shape, array in zip(asked.shapes(), arrays, strict=True)
        ]
        signature = signature_of((*shapes, *of_target), (*tensors.leaves, *arrays))
        wrong: list[Exception] = []

        def make() -> _Trace | None:
            try:
                at = wanted if site is None else site
                return ready or _Trace(anatomy, inputs, signature, choice.at(at), asked, logits)
            except _WrongTargetError as error:
                wrong.append(error.args[0])
            except _UntoldError:
                pass
            return None

        trace: _Trace | None = traces.get((*key, signature), key, make)
        if wrong or (site is None and trace is not None):
            traces.drop((*key, signature))
        if wrong:
            raise wrong[0]
        return trace

    def traced_at_once() -> _Trace | None:
        """The pass, compiled before it has run, which tells where to look."""
        nonlocal classes
        if anatomy.unbuilt or _may_be_of_others(tensors):
            return None
        if not traces.count(anatomy.model, counted(None), WORTH_A_TRACE):
            return None
        trace = traced(None)
        if trace is not None:
            classes = trace.classes
            count(trace.site(), WORTH_A_TRACE)
            traced(trace.site(), trace)
        return trace

    def run_first(docs: int) -> Pass:
        """Run some of the docs eagerly, which tells where to look."""
        nonlocal classes
        found = _look_eagerly(anatomy, tensors[:docs], target.of_docs(slice(docs)), choice, logits)
        classes = found.scores.shape[1]
        if found.gradients is not None and found.site is not None:
            count(found.site, docs)
        return found

    known = wanted if wanted is not None and wanted.call is not None else traces.chosen(place)
    if classes is None and not backend.compiles_for_any_size:
        known = None
    trace = None if known is None else traced(known)
    try:
        if trace is None and known is None and backend.compiles_each_operation:
            trace = traced_at_once()
        if trace is None and (docs >= WORTH_A_TRACE or backend.compiles_each_operation):
            # Many at once, eagerly, would take longer than a trace, and more memory by far: Keras
            # keeps what every layer put out.
            if known is None:
                first = run_first(1)
                if docs == 1:
                    return first
                known = None if first.gradients is None else first.site
            if known is not None:
                count(known, WORTH_A_TRACE)
                trace = traced(known)
        if trace is not None:
            ready = trace
            run = if_it_can(anatomy, lambda: ready.run(tensors, target))
            if run is not None:
                traces.once(Sizes.of(sized), Sizes).run.add(docs)
                return run
        if known is not None and known.is_settled:
            # Nothing else needs to be seen.
            found = _look_eagerly(anatomy, tensors, target, choice.at(known), logits)
            if found.gradients is not None:
                count(known, docs)
                return found
        return run_first(docs)
    except HiddenLogitsError:
        # A graph tells more: what each operation is, and what went into it.
        found = _look_eagerly(anatomy, tensors, target, choice, logits=False)
        if found.gradients is None or found.site is None:
            return found
        classes = found.scores.shape[1]
        count(found.site, WORTH_A_TRACE)
        trace = traced(found.site)
        if trace is None:
            raise
        return trace.run(tensors, target)


def gradients_from(
    anatomy: Anatomy, inputs: Inputs, site: Site, target: Target, *, logits: bool = False
) -> Callable[[Float[np.ndarray, "outputs ..."]], Float[np.ndarray, "targets outputs ..."]]:
    """The gradients of targets of one doc as a function of what is seen at a site.

    Args:
        anatomy: The model.
        inputs: Its inputs, of one doc.
        site: The site, as a pass gave it.
        target: What is explained of the doc, settled.
        logits: As in `look`.

    Returns:
        A function from what could be seen there ``(outputs, ...)``, in the model's layout, to
        gradients ``(targets, outputs, ...)`` with respect to it.
    """
    check_eager()
    traces, backend = anatomy.traces, backends.current()
    _, shapes = tensors_of(anatomy, inputs)
    arrays = [typed(leaf) for leaf in target.leaves()]
    key = ("gradients from", site.key(), shapes, logits, target.kind(), anatomy.readout.key())
    weak_anatomy, weak_site = weak(anatomy), site.weak()
    number = len(inputs.leaves)

    def gradients(anatomy: Anatomy, site: Site, outputs: Any, *given: Any) -> Any:
        run, linear = _linear(
            anatomy, packed(inputs, given[:number]), logits, site, replacement=outputs
        )
        position = next(at for at, seen in enumerate(run.watched) if seen is not None)
        explained = target.with_leaves(given[number:])
        found = None
        for scale in scales_here(run):
            found = _gradients(run, linear, position, explained, scale)
            if found is None or not backend.is_eager() or is_finite(found):
                break
        return ops.zeros((target.number, *outputs.shape)) if found is None else found

    def compiled(signature: Any) -> Any:
        def run(outputs: Any, *given: Any) -> Any:
            return gradients(weak_anatomy(), weak_site(), outputs, *given)

        return backend.compiled(run, signature, anatomy.model.variables)

    traces.count(anatomy.model, key, WORTH_A_TRACE)  # there are many outputs to come
    repeated = inputs

    def gradients_of(outputs: np.ndarray) -> np.ndarray:
        nonlocal repeated
        if len(repeated) != len(outputs):
            repeated = inputs.repeated(len(outputs))
        given = [ops.convert_to_tensor(leaf) for leaf in (outputs, *repeated.leaves, *arrays)]
        of_outputs = ((None, *outputs.shape[1:]), str(outputs.dtype))
        of_arrays = [(array.shape, str(array.dtype)) for array in arrays]
        signature = signature_of((of_outputs, *shapes, *of_arrays), given)
        trace = traces.get((*key, signature), key, lambda: compiled(signature))
        found = None if trace is None else if_it_can(anatomy, lambda: trace(*given))
        return as_array(gradients(anatomy, site, *given) if found is None else found)

    return gradients_of


def maps_before(
    anatomy: Anatomy, inputs: Inputs, site: Site, grid: tuple[int, ...] | None = None
) -> list[tuple[Site, tuple[int, ...]]]:
    """What could be looked at before a site, the last first.

    Args:
        anatomy: The model.
        inputs: Its inputs.
        site: The site, as a pass gave it.
        grid: The grid that tokens are the cells of; None if that is to be found out.

    Returns:
        Sites of maps, and the spatial size of each.
    """
    tensors, shapes = tensors_of(anatomy, inputs[:1])
    choice = Choice(anatomy, None, anatomy.size_of_docs(inputs), grid)

    def find() -> list[tuple[Callable[[], Site], tuple[int, ...]]]:
        run = once_built(
            anatomy, tensors, lambda: Run(anatomy, tensors, watch=lambda tensor, _: tensor)
        )
        end = next(at for at, call in enumerate(run.calls) if call.is_of(site))
        found = []
        for position in choice.positions(run.calls, 1):
            call = run.calls[position]
            if position < end and not isinstance(call.layer, _PADDING):
                there = choice.site(run.calls, position)
                assert there.layout is not None
                found.append((there.weak(), there.layout.spatial(call.shape)))
        return found

    key = ("maps before", site.key(), shapes, grid, anatomy.readout.key())
    return [(there(), size) for there, size in anatomy.traces.once(key, find)]


# What is in them is in the map before or after as well, and its places are moved.
_PADDING = (
    keras.layers.ZeroPadding1D,
    keras.layers.ZeroPadding2D,
    keras.layers.ZeroPadding3D,
)


class _WrongTargetError(Exception):
    """A model has no such target; its argument is the error that says so."""


class _UnreachedError(RunError):
    """The score depends on no token that stands for a place, as far as its gradients tell."""


class _UntoldError(Exception):
    """A trace cannot tell what an eager run can."""


class _Trace:
    """A pass, compiled for one model, site, kind of target and shape.

    Attributes:
        classes: How many classes the model has.
        site: Gives where it looks, without keeping the layer alive.
    """

    classes: int
    site: Callable[[], Site]

    def __init__(
        self,
        anatomy: Anatomy,
        inputs: Inputs,
        signature: Sequence[Any],
        choice: Choice,
        target: Target,
        logits: bool,
    ) -> None:
        """Trace the pass.

        Args:
            anatomy: The model.
            inputs: Inputs of its structure.
            signature: Shapes and types of the inputs, and of the arrays of the target.
            choice: Says where to look; if it names no site, by what a trace tells.
            target: A target of this kind, of the same shapes.
            logits: As in `look`.

        Raises:
            Exception: Whatever is asked of the trace that it cannot tell.
        """
        # The function lives on in its trace, and must not keep the model alive.
        wanted, size, grid = choice.wanted, choice.size, choice.grid
        weak_anatomy, weak_site = weak(anatomy), None if wanted is None else wanted.weak()

        def run(scale: Any, *given: Any) -> tuple[Any, ...]:
            number = len(inputs.leaves)
            docs, arrays = packed(inputs, given[:number]), given[number:]
            anatomy = weak_anatomy()
            choice = Choice(anatomy, None if weak_site is None else weak_site(), size, grid)

            def linear_run(guess: keras.layers.Layer | None) -> tuple[Run, Linear]:
                return _linear(anatomy, docs, logits, choice.wanted, guess)

            def settled(run: Run) -> Target:
                self.classes = classes_of_run(run, docs.docs.shape[0])
                try:
                    checked = target.check(self.classes)
                except ValueError as error:
                    raise _WrongTargetError(error) from error
                if [one.shape for one in checked.leaves()] != [
                    one.shape for one in target.leaves()
                ]:
                    raise _UntoldError  # there are fewer classes than are asked for
                return target.with_leaves(arrays).settled(run.scores)

            def gradients_at(run: Run, linear: Linear, position: int, target: Target) -> Any:
                return _gradients(run, linear, position, target, scale)

            def positions_in(run: Run) -> Iterator[int]:
                return choice.positions(run.calls, docs.docs.shape[0])

            seen = _seen(anatomy, choice, positions_in, linear_run, settled, gradients_at)
            if seen.gradients is None or seen.site is None or seen.position is None:
                raise _UntoldError  # the eager pass reports that there is no gradient
            is_known = choice.wanted is not None and choice.wanted.call is not None
            self.site = weak_site if is_known and weak_site is not None else seen.site.weak()
            self._scales, self._settled = _scales(seen.run), seen.target
            activations = seen.run.watched[seen.position]
            leaves = seen.target.leaves()
            self._leaves = len(leaves)
            return (activations, seen.gradients, seen.run.scores, *leaves, *seen.run.facts)

        self._function = backends.current().compiled(
            run, [((), "float32"), *signature], anatomy.model.variables
        )
        self._known: tuple[list[Any], list[Any]] | None = None

    def _tensors(self, *arrays: np.ndarray) -> list[Any]:
        """Tensors of small arrays, kept for the next run, which most often has the same ones."""
        key = [(array.dtype, array.shape, array.tobytes()) for array in arrays]
        known = self._known
        if known is None or known[0] != key:
            known = self._known = (key, [ops.convert_to_tensor(array) for array in arrays])
        return known[1]

    def run(self, tensors: Inputs, target: Target) -> Pass:
        """Run the pass."""
        arrays = [typed(leaf) for leaf in target.check(self.classes).leaves()]
        for place, scale in enumerate(self._scales):
            first, *last = self._tensors(np.asarray(scale, np.float32), *arrays)
            seen, gradients, scores, *rest = self._function(first, *tensors.leaves, *last)
            if len(self._scales) == 1 or is_finite(gradients):
                # One that overflowed would most likely do so again.
                self._scales = self._scales[place:]
                break
        return Pass(
            site=self.site(),
            activations=as_array(seen),
            gradients=as_array(gradients),
            target=self._settled.with_leaves(
                map(ops.convert_to_numpy, rest[: self._leaves])
            ).named(),
            scores=as_array(scores),
            facts=[as_array(fact) for fact in rest[self._leaves :]],
        )


def _look_eagerly(
    anatomy: Anatomy, tensors: Inputs, target: Target, choice: Choice, logits: bool
) -> Pass:
    """Run a pass operation by operation, which takes no preparation."""
    with _keeping_no_symbols(anatomy, tensors):
        try:
            return _look_at_each_operation(anatomy, tensors, target, choice, logits)
        except _UnreachedError:
            if logits:
                raise
        # A saturated probability has no gradients, and its logit shows where to look all the same.
        found = _look_at_each_operation(anatomy, tensors, target, choice, True)
        return _look_at_each_operation(anatomy, tensors, target, choice.at(found.site), logits)


@contextlib.contextmanager
def _keeping_no_symbols(anatomy: Anatomy, tensors: Inputs) -> Iterator[None]:
    """Where a model that keeps what passes through it keeps no symbols of the run."""
    before = None
    if backends.current().runs_on_symbols:
        with contextlib.suppress(Exception):  # what cannot be looked into
            before = Contents(anatomy.model)
    try:
        yield
    except BaseException:
        if before is not None:
            before.put_back()
        raise
    if before is not None and not before.holds():
        before.put_back()
        with changing_nothing(anatomy):
            outputs_of(anatomy.model, tensors)  # to keep numbers


def _look_at_each_operation(
    anatomy: Anatomy, tensors: Inputs, target: Target, choice: Choice, logits: bool
) -> Pass:
    is_ambiguous = _may_be_of_others(tensors)

    def linear_run(guess: keras.layers.Layer | None) -> tuple[Run, Linear]:
        return once_built(
            anatomy, tensors, lambda: _linear(anatomy, tensors, logits, choice.wanted, guess)
        )

    def settled(run: Run) -> Target:
        return target.check(classes_of_run(run, len(tensors))).settled(run.scores)

    def gradients_at(run: Run, linear: Linear, position: int, target: Target) -> Any:
        found = None
        for scale in _scales(run):
            with in_plain_words(anatomy.model):
                found = _gradients(run, linear, position, target, scale)
            if found is None or is_finite(found):
                break
        return found

    def positions_in(run: Run) -> Iterable[int]:
        # Mostly the first one will do, and to tell the map of a layer may take many others.
        positions = choice.positions(run.calls, len(tensors))
        if is_ambiguous:
            return _of_seen(anatomy, tensors, run, choice.wanted, list(positions))
        return positions

    seen = _seen(
        anatomy, choice, positions_in, linear_run, settled, gradients_at, watches_all=is_ambiguous
    )
    run = seen.run
    activations = None if seen.position is None else run.watched[seen.position]
    arrays = map(ops.convert_to_numpy, seen.target.leaves())
    return Pass(
        site=seen.site,
        activations=None if activations is None else as_array(activations),
        gradients=None if seen.gradients is None else as_array(seen.gradients),
        target=seen.target.with_leaves(arrays).named(),
        scores=as_array(run.scores),
        calls=run.calls,
        facts=[as_array(fact) for fact in run.facts],
    )


@dataclass
class _Seen:
    """What came of a run, and of its gradients at the site that was chosen."""

    run: Run
    target: Target
    position: int | None
    gradients: Any
    site: Site | None


def _seen(
    anatomy: Anatomy,
    choice: Choice,
    positions_in: Callable[[Run], Iterable[int]],
    linear_run: Callable[[keras.layers.Layer | None], tuple[Run, Linear]],
    settled: Callable[[Run], Target],
    gradients_at: Callable[[Run, Linear, int, Target], Any],
    watches_all: bool = False,
) -> _Seen:
    """Run a model, choose a site, and differentiate there.

    Args:
        anatomy: The model.
        choice: Says where to look.
        positions_in: The positions to look at in a run, the best first.
        linear_run: Runs the model, given the layer before whose first call nothing is watched.
        settled: The target, given a run.
        gradients_at: The gradients of the target at a position of a run.
        watches_all: Whether a guess where to look has failed.
    """
    rank = len(choice.size) + 2
    guess = guessed(anatomy, rank) if choice.wanted is None and not watches_all else None
    run, linear = linear_run(guess)
    target = settled(run)
    first: int | None = None
    gradients = None
    for position in positions_in(run):
        seen = run.watched[position]
        if seen is None and run.calls[position].shape:
            # Guessed wrong, and not watched: once more, with an eye on all.
            return _seen(anatomy, choice, positions_in, linear_run, settled, gradients_at, True)
        first = position if first is None else first
        if seen is not None:
            gradients = gradients_at(run, linear, position, target)
        if gradients is not None and anatomy.readout.is_local and not bool(ops.any(gradients)):
            continue  # as of another level of a pyramid than that of the box
        if gradients is not None:
            first = position
            break

    def gradient_of_token(position: int, tokens: int, number: int) -> np.ndarray | None:
        output = run.tokens[tokens]
        if run.watched[position] is None or output is None:
            return None
        # Weights that differ: the plain sum over what a layer normalisation puts out never changes.
        seed = np.zeros((1, *output.shape))
        seed[0, :, number] = np.random.default_rng(0).normal(size=output.shape[2])
        seeds = ops.convert_to_tensor(seed, output.dtype)
        (found,) = linear.pullback(seeds, 1 + tokens, [position])
        return None if found is None else as_array(found[0])

    if choice.wanted is None and any(call.has_tokens for call in run.calls):
        if not backends.current().is_eager():
            raise _UntoldError  # it takes numbers to tell which tokens reach the score
        places = choice.tokens(run.calls, first, gradient_of_token)
        for position in places:
            if run.watched[position] is None:
                return _seen(anatomy, choice, positions_in, linear_run, settled, gradients_at, True)
            found = gradients_at(run, linear, position, target)
            if found is not None and _reach_places(found, choice.layout(run.calls, position)):
                first = choice.token_source(run.calls, position)
                gradients = gradients_at(run, linear, first, target) if first != position else found
                break
        else:
            if places:
                raise _UnreachedError(
                    f"none of the tokens of model {anatomy.model.name!r} that stand for a place "
                    "reaches the score; pass layer="
                )
    site = None if first is None else choice.site(run.calls, first)
    return _Seen(run, target, first, gradients, site)


def _reach_places(gradients: Any, layout: Layout) -> bool:
    """Whether the score depends on more than one of the places of tokens."""
    values = layout.unfold(as_array(gradients), axis=1)
    return bool(np.any(values, axis=(0, 1, -1)).sum() > 1)


def _may_be_of_others(tensors: Inputs) -> bool:
    """Whether maps may be those of another input than that which is seen."""
    rank = len(tensors.docs.shape)
    return sum(len(leaf.shape) == rank for leaf in tensors.leaves) > 1


def _of_seen(
    anatomy: Anatomy, tensors: Inputs, run: Run, wanted: Site | None, positions: Sequence[int]
) -> list[int]:
    """Those of some positions of a run at which what is seen depends on the input that is seen.

    That is found out by another run, on zeros in its place.

    Raises:
        RunError: If it does at none, and that is where to look.
    """
    blank = tensors.with_docs(ops.zeros_like(tensors.docs))
    other = Run(anatomy, blank, watch=lambda tensor, _: tensor, wanted=wanted)

    def depends(position: int) -> bool:
        if len(other.watched) != len(run.watched):
            return True
        one, there = run.watched[position], other.watched[position]
        return (
            one is None or there is None or one.shape != there.shape or bool(ops.any(one != there))
        )

    found = [position for position in positions if depends(position)]
    if positions and not found and wanted is not None:
        raise RunError(
            f"layer {wanted.path(anatomy)!r} does not depend on the input that heatmaps are to "
            "belong over; pass another layer, or another input as seen="
        )
    return found


def _linear(
    anatomy: Anatomy,
    inputs: Inputs,
    logits: bool,
    wanted: Site | None,
    guess: keras.layers.Layer | None = None,
    replacement: Any = None,
) -> tuple[Run, Linear]:
    """A run of the model, and the derivative there of its scores and its tokens."""
    run: Run | None = None

    def outputs_and_sources(watch: Watch) -> tuple[list[Any], list[Any]]:
        nonlocal run
        run = Run(
            anatomy,
            inputs,
            logits=logits,
            watch=watch,
            wanted=wanted,
            guess=guess,
            replacement=replacement,
        )
        return [run.scores, *run.tokens, *run.facts], run.watched

    linear = backends.current().linearise(outputs_and_sources)
    assert run is not None
    run.scores, *rest = linear.outputs
    run.tokens, run.facts = rest[: len(run.calls)], rest[len(run.calls) :]
    run.watched = list(linear.sources)
    return run, linear


def _gradients(run: Run, linear: Linear, position: int, target: Target, scale: Any) -> Any:
    """Gradients of a target, shape ``(targets, docs, ...)``; None if there are none.

    As no doc's score depends on another doc, the gradients of all docs come from one pullback.
    """
    seeds = target.seed(run.scores) * ops.cast(scale, run.scores.dtype)
    (found,) = linear.pullback(seeds, 0, [position])
    return None if found is None else found / ops.cast(scale, found.dtype)


def scales_here(run: Run) -> tuple[float, ...]:
    """Those to try here: while a pass is compiled, one at which hardly anything overflows."""
    multiples = _scales(run)
    return multiples if backends.current().is_eager() else multiples[-2:-1] or multiples


def _scales(run: Run) -> tuple[float, ...]:
    """The multiples of the scores to try, one after the other, until nothing overflows."""
    return _FLOAT16_SCALES if run.is_float16 else (1.0,)


# Under which it is kept how many classes a model has.
_CLASSES = "classes"


def typed(leaf: Any) -> Shaped[np.ndarray, " ..."]:
    """An array of a target, in a type that compiled functions take."""
    if np.issubdtype(leaf.dtype, np.floating):
        return np.asarray(leaf, np.float32)
    known = np.iinfo(np.int32)  # no class has a number outside of it, which is told later
    return np.asarray(np.clip(leaf, known.min, known.max), np.int32)


def classes_of_run(run: Run, docs: int | None) -> int:
    """The number of classes that a run has scores of, a row for each of the docs."""
    classes = classes_in(tuple(run.scores.shape))
    rows = run.scores.shape[0]
    if docs is not None and rows not in (None, docs):
        raise RunError(
            "the model's output must have one row a doc, got shape "
            f"{tuple(run.scores.shape)} for {plural(docs, 'doc')}"
        )
    return classes


def is_finite(values: Any) -> bool:
    """Whether there is neither NaN nor infinity in a tensor."""
    return bool(ops.all(ops.isfinite(values)))
