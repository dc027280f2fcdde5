"""What is kept about each model between calls: its traces, and what was found out about it.

Kept for as long as the model lives and stays as it is. Nothing here keeps a model alive.
"""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

from kerasight.keras.layers import walk
from kerasight.keras.sites import Site
from kerasight.keras.state import Snapshot

__all__ = ["WORTH_A_TRACE", "Traces", "traces_of"]

# A trace costs about as much as this many eager passes of one doc.
WORTH_A_TRACE = 5

# A model that takes any size would else gather a trace for each; the least used go first.
_MOST = 16


class Traces:
    """The traces of one model.

    A pass is run eagerly until as many docs went through it as its trace will cost, and is traced
    then: nobody who explains a few waits for a trace, and who explains many waits for little else.
    Threads that ask for the same trace share it.
    """

    def __init__(self) -> None:
        """Nothing is known yet."""
        self._lock = threading.RLock()
        self._snapshot: Snapshot | None = None
        self._facts: dict[Hashable, Any] = {}
        self._docs: OrderedDict[Hashable, int] = OrderedDict()
        self._chosen: OrderedDict[Hashable, Any] = OrderedDict()
        self._traces: OrderedDict[Hashable, Any] = OrderedDict()

    def refresh(self) -> None:
        """Forget everything if the model is no longer what it was."""
        with self._lock:
            if self._snapshot is not None and not self._snapshot.holds():
                self._snapshot = None
                for known in (self._facts, self._docs, self._chosen, self._traces):
                    known.clear()

    def count(self, model: Any, key: Hashable, docs: int) -> bool:
        """Note that docs went through an eager pass.

        Args:
            model: The model that ran, built.
            key: What the pass was for.
            docs: How many.

        Returns:
            Whether the pass is worth a trace when it comes again. What is remembered of the model
            holds from now on.
        """
        with self._lock:
            self._docs[key] = self._docs.pop(key, 0) + docs
            _keep_most(self._docs)
            if self._docs[key] < WORTH_A_TRACE:
                return False
            if self._snapshot is None:
                self._snapshot = Snapshot([model, *(layer for _, layer in walk(model))])
            return True

    def once(self, key: Hashable, compute: Callable[[], Any]) -> Any:
        """A fact about the model that holds for as long as it stays as it is."""
        with self._lock:
            if self._snapshot is None:
                return compute()
            if key not in self._facts:
                self._facts[key] = compute()
            return self._facts[key]

    def choose(self, key: Hashable, site: Site) -> None:
        """Remember the site that was chosen for inputs of a shape."""
        with self._lock:
            self._chosen[key] = (
                weakref.ref(site.layer),
                site.at_input,
                site.call,
                site.data_format,
            )
            _keep_most(self._chosen)

    def chosen(self, key: Hashable) -> Site | None:
        """The site that was chosen before; None if none was."""
        with self._lock:
            reference, *rest = self._chosen.get(key, (lambda: None,))
        layer = reference()
        return None if layer is None else Site(layer, *rest)

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
            if self._snapshot is None or self._docs.get(counted, 0) < WORTH_A_TRACE:
                return None
            if key not in self._traces:
                try:
                    self._traces[key] = trace()
                except Exception:  # whatever a model does that only runs eagerly
                    self._traces[key] = None
            self._traces.move_to_end(key)
            _keep_most(self._traces)
            return self._traces[key]


def _keep_most(known: OrderedDict[Hashable, Any]) -> None:
    while len(known) > _MOST:
        known.popitem(last=False)


_lock = threading.Lock()
_of_models: dict[int, Traces] = {}  # by id; a model may have a __eq__ of its own


def traces_of(model: Any) -> Traces:
    """What is kept about a model. It goes when the model goes."""
    with _lock:
        if id(model) not in _of_models:
            _of_models[id(model)] = Traces()
            weakref.finalize(model, _of_models.pop, id(model), None).atexit = False
        return _of_models[id(model)]
