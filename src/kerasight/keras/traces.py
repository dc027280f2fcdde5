"""What is kept about each model between calls: its traces, and what was found out about it.

Kept for as long as the model lives and stays as it is. Nothing here keeps a model alive.
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any

import keras

from kerasight.keras import backends
from kerasight.keras.state import Contents, Snapshot, UnseenError, random_state

if TYPE_CHECKING:
    from kerasight.keras.sites import Site

__all__ = ["WORTH_A_TRACE", "Traces", "lasting_scope", "log_eager", "outer_scope", "traces_of"]

# A trace costs about as much as this many eager passes of one doc.
WORTH_A_TRACE = 5

# A model that takes any size would gather a trace for each size. The one unused for longest goes.
_MOST = 16
_MOST_FACTS = 256

# A model that was seen so often to change as it ran is traced no more. The first time may be
# another thread's doing.
_STRIKES = 2

_log = logging.getLogger("kerasight")


class Traces:
    """The traces of one model.

    A pass runs eagerly until that has cost as much as a trace will, and is traced then: whoever
    explains a few docs waits for no trace, and whoever explains many soon has one. Threads that ask
    for the same trace share it.

    A trace gives the model's own answer as long as nothing changes that the model's Python code
    reads. Where that cannot be told, since the model changes itself as it runs or holds objects
    that cannot be looked into, it runs eagerly each time, and the log says so.
    """

    def __init__(self, model: Any, *, may_trace: bool = True) -> None:
        """Nothing is known yet about ``model``."""
        self._lock = threading.RLock()
        self._model = weakref.ref(model)
        self._may_trace = may_trace
        self._strikes = 0
        self._snapshot: Snapshot | None = None
        self._facts: OrderedDict[Hashable, Any] = OrderedDict()
        self._docs: OrderedDict[Hashable, int] = OrderedDict()
        self._chosen: OrderedDict[Hashable, Any] = OrderedDict()
        self._traces: OrderedDict[Hashable, Any] = OrderedDict()

    def refresh(self) -> bool:
        """Forget everything if the model has changed; returns whether it is what it was."""
        with self._lock:
            is_same = self._snapshot is not None and self._snapshot.holds()
            if not is_same and self._snapshot is not None:
                self._forget()
            return is_same

    def count(self, model: Any, key: Hashable, docs: int) -> bool:
        """Note that docs went through an eager pass.

        Args:
            model: The model that ran, built.
            key: What the pass was for.
            docs: How many.

        Returns:
            Whether the pass is worth a trace when it comes again. If so, the model's state is
            remembered from now on, to be compared before each later pass.
        """
        with self._lock:
            if self._snapshot is not None and not self._snapshot.holds():
                self._strike("it changes itself as it runs")
            if not self._may_trace:
                return False
            self._docs[key] = self._docs.pop(key, 0) + docs
            _keep_most(self._docs)
            if self._docs[key] < WORTH_A_TRACE:
                return False
            if self._snapshot is None:
                self._snapshot = self._looked_into(Snapshot, model)
            return self._may_trace

    def once(self, key: Hashable, compute: Callable[[], Any]) -> Any:
        """A fact about the model, computed once for as long as all but its weights stays."""
        with self._lock:
            snapshot = self._snapshot
            if key not in self._facts:
                found = compute()
                if snapshot is None or self._snapshot is not snapshot:
                    return found
                self._facts[key] = found
            self._facts.move_to_end(key)
            _keep_most(self._facts, _MOST_FACTS)
            return self._facts[key]

    def known(self, key: Hashable) -> Any:
        """A fact that was found out before; None if it was not."""
        with self._lock:
            return self._facts.get(key)

    def choose(self, key: Hashable, site: Site) -> None:
        """Remember the site that was chosen for inputs of a shape."""
        with self._lock:
            self._chosen[key] = site.weak()
            _keep_most(self._chosen)

    def chosen(self, key: Hashable) -> Site | None:
        """The site that was chosen before; None if none was."""
        with self._lock:
            site: Site | None = self._chosen.get(key, lambda: None)()
        return None if site is None or site.layer is None else site

    def get(self, key: Hashable, counted: Hashable, trace: Callable[[], Any]) -> Any:
        """The trace of a pass, made by ``trace`` where it is not there yet.

        Args:
            key: What the trace is for.
            counted: What its eager passes were counted for.
            trace: Makes it.

        Returns:
            The trace; None if the pass is not worth one, or cannot be traced.
        """
        with self._lock:
            is_worth_it = self._docs.get(counted, 0) >= WORTH_A_TRACE
            if self._snapshot is None or not is_worth_it or not backends.current().compiles:
                return None
            key = (key, _settings())
            if key not in self._traces:
                made = self._made(trace)
                if self._snapshot is None:
                    return None
                self._traces[key] = made
            self._traces.move_to_end(key)
            _keep_most(self._traces)
            return self._traces[key]

    def drop(self, key: Hashable) -> None:
        """Forget a trace that does not answer as the model does any more."""
        with self._lock:
            self._traces.pop((key, _settings()), None)

    def _made(self, trace: Callable[[], Any]) -> Any:
        """A new trace, if there can be one, and the model as it was before.

        A trace runs the model's Python code. Whatever that code stores in the model then are
        symbols of a graph, which nobody can read, and not values.
        """
        before, at_random = self._looked_into(Contents, self._model()), random_state()
        made = None
        if before is None:
            return None
        try:
            made = trace()
        except Exception as error:  # whatever a model does that only runs eagerly
            why = f"it cannot be traced ({type(error).__name__}: {error})"
            log_eager(self._model(), why.partition("\n")[0])
        finally:
            is_same = self._snapshot is not None and self._snapshot.holds()
            if not is_same:
                before.put_back()
        if not is_same:
            self._strike("it changes itself as it runs")
        elif random_state() != at_random:
            self._strike("it draws random numbers from Python or NumPy as it runs")
        return made

    def _looked_into(self, look: Callable[[Any], Any], model: Any) -> Any:
        """What is in the model; None if that cannot be told."""
        try:
            return look(model)
        except UnseenError as error:
            self._give_up(str(error))
        except Exception as error:  # whatever an object does that is looked into
            self._give_up(f"it cannot be looked into ({type(error).__name__}: {error})")
        return None

    def _strike(self, why: str) -> None:
        """Note that the model was seen not to stay as it was when it ran."""
        self._forget()
        self._strikes += 1
        if self._strikes >= _STRIKES:
            self._give_up(why)

    def _give_up(self, why: str) -> None:
        self._forget()
        self._may_trace = False
        log_eager(self._model(), why)

    def _forget(self) -> None:
        self._snapshot = None
        for known in (self._facts, self._docs, self._chosen, self._traces):
            known.clear()


def log_eager(model: Any, why: str) -> None:
    """Log that a model is run eagerly, and why, where it could be otherwise."""
    if not backends.current().compiles:
        return
    name = getattr(model, "name", None)
    _log.info("model %r is run eagerly each time, which takes longer: %s", name, why)


def _settings() -> Hashable:
    """What a trace holds as it was, beside the model."""
    own = (keras.config.floatx(), keras.config.epsilon(), keras.config.image_data_format())
    return *own, backends.current().settings()


def _keep_most(known: OrderedDict[Hashable, Any], most: int = _MOST) -> None:
    while len(known) > most:
        known.popitem(last=False)


_lock = threading.Lock()
_of_models: dict[int, Traces] = {}  # by id; a model may have a __eq__ of its own
_of_scopes: weakref.WeakKeyDictionary[Any, Traces] = weakref.WeakKeyDictionary()


def traces_of(model: Any) -> Traces:
    """What is kept about a model. It goes when the model goes.

    Inside a ``keras.StatelessScope`` of the user's nothing is kept, since the weights are those of
    the scope, and the next scope may have others.
    """
    scope = outer_scope()
    if scope is not None:
        return _of_scopes.get(scope) or Traces(model, may_trace=False)
    with _lock:
        if id(model) not in _of_models:
            _of_models[id(model)] = Traces(model)
            weakref.finalize(model, _of_models.pop, id(model), None).atexit = False
        return _of_models[id(model)]


def lasting_scope(model: Any) -> Any:
    """A ``keras.StatelessScope`` for one model, in which traces are kept for as long as it lives.

    It must map the model's variables to other variables, whose values may change, and which are
    themselves not exchanged for others.
    """
    scope = keras.StatelessScope()
    _of_scopes[scope] = Traces(model)
    return scope


def outer_scope() -> Any:
    """The ``keras.StatelessScope`` that this is run in; None if it is run in none."""
    # A scope knows the one around it; nothing else in Keras's public API does.
    with keras.StatelessScope(initialize_variables=False) as scope:
        return scope.original_scope
