"""Running a model: for its scores, or forward and backward to see it at a site.

A pass is run eagerly when a model is first seen, and compiled once it has come often enough
(`traces`). Both are the same lines: a `Run` of the model, linearised by the backend.
"""

from __future__ import annotations

import contextlib
import hashlib
import weakref
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar

import keras
import numpy as np
from keras import ops

from kerasight.base import RunError
from kerasight.cam.inputs import Inputs
from kerasight.checks import plural
from kerasight.keras import backends
from kerasight.keras.anatomy import Anatomy
from kerasight.keras.backends import Linear, Watch
from kerasight.keras.logits import HiddenLogitsError
from kerasight.keras.run import Call, Run, Weights, changing_nothing, in_plain_words, outputs_of
from kerasight.keras.sites import Choice, Site, guessed
from kerasight.keras.state import Contents
from kerasight.keras.tap import tapped
from kerasight.keras.targets import Target
from kerasight.keras.traces import WORTH_A_TRACE, Traces, log_eager, outer_scope

if TYPE_CHECKING:
    from jaxtyping import Float

__all__ = ["Pass", "build", "check_eager", "frozen_scores", "look", "scores", "scores_from"]

Result = TypeVar("Result")

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
    """

    site: Site | None
    activations: Float[np.ndarray, "rows ..."] | None
    gradients: Float[np.ndarray, "targets rows ..."] | None
    target: Target
    scores: Float[np.ndarray, "docs classes"]
    calls: Sequence[Call] = ()

    def of_docs(self, docs: int) -> Pass:
        """The pass of so many docs, the first ones, where each has a row of its own."""
        return replace(
            self,
            activations=None if self.activations is None else self.activations[:docs],
            gradients=None if self.gradients is None else self.gradients[:, :docs],
            target=self.target.of_docs(slice(docs)),
            scores=self.scores[:docs],
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
    tensors, shapes = _tensors(anatomy, inputs)
    asked_at = None if wanted is None else wanted.key()
    sized = ("look", asked_at, shapes, logits, target.kind())
    rows = _rows_to_run(traces, sized, docs)
    if len(rows) > docs:
        found = look(anatomy, inputs[rows], target.of_docs(rows), choice, logits=logits)
        if found.activations is None or len(found.activations) == len(rows):
            return found.of_docs(docs)
    # The choice may depend on the size of the docs; where a layer is asked for, it hardly does.
    sizes = tuple((tuple(leaf.shape[1:]), str(leaf.dtype)) for leaf in inputs.leaves)
    place = (inputs.seen, *((sizes,) if wanted is None else (shapes, asked_at)))
    classes: int | None = traces.known(_CLASSES)

    def counted(site: Site | None) -> tuple[Any, ...]:
        key = asked_at if site is None else site.key()
        return ("look", key, shapes, logits, target.kind())

    def count(site: Site, docs: int) -> None:
        """Note that docs went through a pass, and where it was looked at."""
        if traces.count(anatomy.model, counted(site), docs):
            traces.choose(place, site)
            traces.once(_CLASSES, lambda: classes)

    def traced(site: Site | None, ready: _Trace | None = None) -> _Trace | None:
        """The pass, compiled for a site; if there is none yet, it is chosen by the shapes."""
        key, asked = counted(site), target
        if classes is not None and not backend.compiles_for_any_size:
            asked = target.check(classes)  # there may be fewer than are asked for
        arrays = [_typed(leaf) for leaf in asked.leaves()]
        of_target = [
            (shape, str(array.dtype)) for shape, array in zip(asked.shapes(), arrays, strict=True)
        ]
        signature = _signature((*shapes, *of_target), (*tensors.leaves, *arrays))
        wrong: list[Exception] = []

        def make() -> _Trace | None:
            try:
                at = wanted if site is None else site
                return ready or _Trace(anatomy, inputs, signature, at, asked, logits)
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
            run = _if_it_can(anatomy, lambda: ready.run(tensors, target))
            if run is not None:
                traces.once(_Sizes.of(sized), _Sizes).run.add(docs)
                return run
        if known is not None and known.is_settled:
            # Nothing else needs to be seen.
            found = _look_eagerly(anatomy, tensors, target, Choice(anatomy, known), logits)
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


@dataclass
class _Sizes:
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


def _rows_to_run(traces: Traces, key: Hashable, docs: int) -> np.ndarray:
    """The rows of docs to run; where these are more than there are docs, those at the end go.

    A number of docs that comes seldom, as that of the last docs of a stream, is filled up to one
    that a pass was compiled for. A doc by itself is not, as it is to be compared with others.
    """
    found = docs
    sizes: _Sizes | None = traces.known(_Sizes.of(key))
    if sizes and docs > 1 and not backends.current().compiles_for_any_size:
        larger = [size for size in sizes.run if size > docs]
        if larger and docs not in sizes.run:
            sizes.asked[docs] = sizes.asked.get(docs, 0) + 1
            found = min(larger) if sizes.asked[docs] <= WORTH_A_TRACE else docs
    rows: np.ndarray = np.minimum(np.arange(found), docs - 1)
    return rows


class _WrongTargetError(Exception):
    """A model has no such target; its argument is the error that says so."""


class _UntoldError(Exception):
    """A trace cannot tell what an eager run can."""


def scores(
    anatomy: Anatomy, inputs: Inputs, *, logits: bool = False
) -> Float[np.ndarray, "docs classes"]:
    """Run a model once: its scores.

    Args:
        anatomy: The model.
        inputs: Its inputs.
        logits: As in `look`.

    Returns:
        Array of shape ``(docs, classes)``, float32 or float64.

    Raises:
        RunError: If the output is not one score a class, or the logits cannot be found.
    """
    check_eager()
    traces, model, docs = anatomy.traces, anatomy.model, len(inputs)
    backend = backends.current()
    tensors, shapes = _tensors(anatomy, inputs)
    key = ("scores", shapes, logits)
    rows = _rows_to_run(traces, key, docs)
    if len(rows) > docs:
        return scores(anatomy, inputs[rows], logits=logits)[:docs]

    def traced() -> Any:
        signature = _signature(shapes, tensors.leaves)
        return traces.get(
            (*key, signature), key, lambda: _traced_scores(anatomy, inputs, signature, logits)
        )

    compiles_first = backend.compiles_each_operation and not anatomy.unbuilt
    if model.built and (docs >= WORTH_A_TRACE or compiles_first):
        traces.count(model, key, WORTH_A_TRACE)  # for the reason given in `look`
    found, trace = None, traced()
    if trace is not None:
        found = _if_it_can(anatomy, lambda: trace(*tensors.leaves))
        traces.once(_Sizes.of(key), _Sizes).run.add(docs)
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
    _check_scores(tuple(found.shape))
    return _as_array(found)


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
        logits: As in `look`.

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
    tensors, shapes = _tensors(anatomy, docs[:1])
    traces.count(model, key := ("scorer", shapes, logits), WORTH_A_TRACE)
    mark = _mark(weights)

    def traced(tensors: Inputs) -> Any:
        signature = _signature(shapes, tensors.leaves)

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
        tensors, _ = _tensors(anatomy, inputs)
        trace = for_all or traced(tensors)
        found = None if trace is None else _if_it_can(anatomy, lambda: trace(*tensors.leaves))
        return as_ever(inputs) if found is None else _as_array(found)

    return run


def _mark(weights: Weights) -> bytes:
    """What tells these values of the weights from others."""
    mark = hashlib.blake2b()
    for _, value in weights:
        mark.update(value.tobytes())
    return mark.digest()


def _weak(anatomy: Anatomy) -> Callable[[], Anatomy]:
    """What gives the anatomy of a model, without keeping the model alive."""
    weak_anatomy, weak_model = weakref.ref(anatomy), weakref.ref(anatomy.model)
    return lambda: weak_anatomy() or Anatomy(weak_model())


def _traced_scores(
    anatomy: Anatomy,
    inputs: Inputs,
    shapes: Sequence[Any],
    logits: bool,
    weights: Weights = (),
) -> Callable[..., Any]:
    weak_anatomy = _weak(anatomy)  # the function lives on in its trace

    def run(*leaves: Any) -> Any:
        given = _packed(inputs, leaves)
        return Run(weak_anatomy(), given, logits=logits, weights=weights).scores

    variables = () if weights else anatomy.model.variables
    return backends.current().compiled(run, shapes, variables)


def scores_from(
    anatomy: Anatomy, inputs: Inputs, site: Site, *, logits: bool = False
) -> Callable[[Float[np.ndarray, "outputs ..."]], Float[np.ndarray, "outputs classes"]]:
    """The scores of one doc as a function of what is seen at a site.

    No more of the model is run than needs to be, as far as it can be told.

    Args:
        anatomy: The model.
        inputs: Its inputs, of one doc.
        site: The site, as a pass gave it.
        logits: As in `look`.

    Returns:
        A function from what could be seen there ``(outputs, ...)``, in the model's layout, to
        scores ``(outputs, classes)``.
    """
    check_eager()
    traces, model = anatomy.traces, anatomy.model
    _, shapes = _tensors(anatomy, inputs)
    key = ("from", site.key(), shapes, logits)
    weak_anatomy, weak_site = _weak(anatomy), site.weak()

    def rest(anatomy: Anatomy, site: Site, outputs: Any, *leaves: Any) -> Any:
        return Run(
            anatomy,
            _packed(inputs, leaves),
            logits=logits,
            watch=lambda tensor, _: tensor,
            wanted=site,
            replacement=outputs,
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
        signature = _signature((of_outputs, *shapes), given)
        trace = traces.get((*key, signature), key, lambda: compiled(signature))
        found = None if trace is None else _if_it_can(anatomy, lambda: trace(*given))
        return _as_array(rest(anatomy, site, *given) if found is None else found)

    return scores_of


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

    tensors, _ = _tensors(anatomy, inputs)

    def run() -> None:
        ran.clear()
        with tapped([*anatomy.compiled_calls, *layers], note), changing_nothing(anatomy):
            outputs_of(anatomy.model, tensors)

    _once_built(anatomy, tensors, run)
    return ran


def check_eager() -> None:
    """Raise RuntimeError inside of a compiled function, where there are no numbers to explain."""
    if not backends.current().is_eager():
        raise RuntimeError(
            "explanations are run eagerly, and this is inside of a compiled function (tf.function, "
            "jax.jit), or of a dry run in which Keras infers shapes; explain outside of it, or "
            "pass the function that explains to tf.numpy_function or jax.pure_callback"
        )


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
        wanted: Site | None,
        target: Target,
        logits: bool,
    ) -> None:
        """Trace the pass.

        Args:
            anatomy: The model.
            inputs: Inputs of its structure.
            signature: Shapes and types of the inputs, and of the arrays of the target.
            wanted: Where to look; None to have it chosen by what a trace tells.
            target: A target of this kind, of the same shapes.
            logits: As in `look`.

        Raises:
            Exception: Whatever is asked of the trace that it cannot tell.
        """
        # The function lives on in its trace, and must not keep the model alive.
        weak_anatomy, weak_site = _weak(anatomy), None if wanted is None else wanted.weak()

        def run(scale: Any, *given: Any) -> tuple[Any, ...]:
            number = len(inputs.leaves)
            docs, arrays = _packed(inputs, given[:number]), given[number:]
            anatomy = weak_anatomy()
            choice = Choice(anatomy, None if weak_site is None else weak_site())

            def linear_run(guess: keras.layers.Layer | None) -> tuple[Run, Linear]:
                return _linear(anatomy, docs, logits, choice.wanted, guess)

            def settled(run: Run) -> Target:
                self.classes = _classes_of(run, docs.docs.shape[0])
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
            return (activations, seen.gradients, seen.run.scores, *seen.target.leaves())

        self._function = backends.current().compiled(
            run, [((), "float32"), *signature], anatomy.model.variables
        )

    def run(self, tensors: Inputs, target: Target) -> Pass:
        """Run the pass."""
        arrays = map(_typed, target.check(self.classes).leaves())
        given = [*tensors.leaves, *map(ops.convert_to_tensor, arrays)]
        for place, scale in enumerate(self._scales):
            seen, gradients, scores, *settled = self._function(
                ops.convert_to_tensor(np.float32(scale)), *given
            )
            if len(self._scales) == 1 or _is_finite(gradients):
                # One that overflowed would most likely do so again.
                self._scales = self._scales[place:]
                break
        return Pass(
            site=self.site(),
            activations=_as_array(seen),
            gradients=_as_array(gradients),
            target=self._settled.with_leaves(map(ops.convert_to_numpy, settled)).named(),
            scores=_as_array(scores),
        )


def _look_eagerly(
    anatomy: Anatomy, tensors: Inputs, target: Target, choice: Choice, logits: bool
) -> Pass:
    """Run a pass operation by operation, which takes no preparation."""
    with _keeping_no_symbols(anatomy, tensors):
        return _look_at_each_operation(anatomy, tensors, target, choice, logits)


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
        return _once_built(
            anatomy, tensors, lambda: _linear(anatomy, tensors, logits, choice.wanted, guess)
        )

    def settled(run: Run) -> Target:
        return target.check(_classes_of(run, len(tensors))).settled(run.scores)

    def gradients_at(run: Run, linear: Linear, position: int, target: Target) -> Any:
        found = None
        for scale in _scales(run):
            with in_plain_words(anatomy.model):
                found = _gradients(run, linear, position, target, scale)
            if found is None or _is_finite(found):
                break
        return found

    def positions_in(run: Run) -> Sequence[int]:
        positions = list(choice.positions(run.calls, len(tensors)))
        if is_ambiguous:
            return _of_seen(anatomy, tensors, run, choice.wanted, positions)
        return positions

    seen = _seen(
        anatomy, choice, positions_in, linear_run, settled, gradients_at, watches_all=is_ambiguous
    )
    run = seen.run
    activations = None if seen.position is None else run.watched[seen.position]
    arrays = map(ops.convert_to_numpy, seen.target.leaves())
    return Pass(
        site=seen.site,
        activations=None if activations is None else _as_array(activations),
        gradients=None if seen.gradients is None else _as_array(seen.gradients),
        target=seen.target.with_leaves(arrays).named(),
        scores=_as_array(run.scores),
        calls=run.calls,
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
    guess = guessed(anatomy) if choice.wanted is None and not watches_all else None
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
        found = linear.pullback(seeds, 1 + tokens, position)
        return None if found is None else _as_array(found[0])

    site = None if first is None else choice.site(run.calls, first, gradient_of_token)
    return _Seen(run, target, first, gradients, site)


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
) -> tuple[Run, Linear]:
    """A run of the model, and the derivative there of its scores and its tokens."""
    run: Run | None = None

    def outputs_and_sources(watch: Watch) -> tuple[list[Any], list[Any]]:
        nonlocal run
        run = Run(anatomy, inputs, logits=logits, watch=watch, wanted=wanted, guess=guess)
        return [run.scores, *run.tokens], run.watched

    linear = backends.current().linearise(outputs_and_sources)
    assert run is not None
    (run.scores, *run.tokens), run.watched = linear.outputs, list(linear.sources)
    return run, linear


def _gradients(run: Run, linear: Linear, position: int, target: Target, scale: Any) -> Any:
    """Gradients of a target, shape ``(targets, docs, ...)``; None if there are none.

    As no doc's score depends on another doc, the gradients of all docs come from one pullback.
    """
    seeds = target.seed(run.scores) * ops.cast(scale, run.scores.dtype)
    found = linear.pullback(seeds, 0, position)
    return None if found is None else found / ops.cast(scale, found.dtype)


def _scales(run: Run) -> tuple[float, ...]:
    """The multiples of the scores to try, one after the other, until nothing overflows."""
    return _FLOAT16_SCALES if run.is_float16 else (1.0,)


def _scores_eagerly(anatomy: Anatomy, tensors: Inputs, logits: bool) -> Any:
    return _once_built(anatomy, tensors, lambda: Run(anatomy, tensors, logits=logits).scores)


def _once_built(anatomy: Anatomy, tensors: Inputs, run: Callable[[], Result]) -> Result:
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
        return _once_built(anatomy, tensors, run)
    return result


def _build_for_good(model: keras.Model, tensors: Inputs) -> None:
    """Run a model so that it is built, and put back the weights that it had before."""
    before = [(one, ops.convert_to_numpy(one.value)) for one in model.variables]
    try:
        outputs_of(model, tensors)
    finally:
        for variable, value in before:
            variable.assign(value)


def _if_it_can(anatomy: Anatomy, run: Callable[[], Result]) -> Result | None:
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


def _tensors(anatomy: Anatomy, inputs: Inputs) -> tuple[Inputs, tuple[Any, ...]]:
    """Inputs as tensors, and the shapes and types to compile for.

    These are of any number of docs, of the sizes that the model declares.
    """
    declared = anatomy.inputs
    leaves = inputs.leaves
    # Not the number of docs: a Sequential model declares that of its first call.
    sizes = [one.shape[1:] for one in (declared if len(declared) == len(leaves) else leaves)]
    shapes = tuple(
        ((None, *size), str(leaf.dtype)) for size, leaf in zip(sizes, leaves, strict=True)
    )
    return _packed(inputs, [ops.convert_to_tensor(leaf) for leaf in leaves]), shapes


def _signature(open_sizes: Sequence[Any], arrays: Sequence[Any]) -> tuple[Any, ...]:
    """The shapes and types to compile for: those given, or else those of the arrays at hand."""
    if backends.current().compiles_for_any_size:
        return tuple(open_sizes)
    return tuple((tuple(array.shape), str(array.dtype)) for array in arrays)


# Under which it is kept how many classes a model has.
_CLASSES = "classes"


def _packed(inputs: Inputs, leaves: Sequence[Any]) -> Inputs:
    return Inputs(inputs.packed(leaves), inputs.seen)


def _typed(leaf: Any) -> np.ndarray:
    """An array of a target, in a type that compiled functions take."""
    return np.asarray(leaf, np.float32 if np.issubdtype(leaf.dtype, np.floating) else np.int32)


def _classes_of(run: Run, docs: int | None) -> int:
    """The number of classes that a run has scores of, a row for each of the docs."""
    classes = _check_scores(tuple(run.scores.shape))
    rows = run.scores.shape[0]
    if docs is not None and rows not in (None, docs):
        raise RunError(
            "the model's output must have one row a doc, got shape "
            f"{tuple(run.scores.shape)} for {plural(docs, 'doc')}"
        )
    return classes


def _check_scores(shape: tuple[int | None, ...]) -> int:
    """The number of classes, given the shape of a model's output."""
    if len(shape) != 2 or shape[1] is None:
        raise RunError(
            "the model's output must be class scores of shape (1, classes) to be explained, "
            f"got shape {(1, *shape[1:])}"
        )
    return shape[1]


def _is_finite(values: Any) -> bool:
    return bool(ops.all(ops.isfinite(values)))


def _as_array(values: Any) -> np.ndarray:
    array: np.ndarray = ops.convert_to_numpy(values)
    return array
