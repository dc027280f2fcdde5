"""What is kept about each model between calls: its traces, and what was found out about it.

Kept for as long as the model lives and stays as it is. Nothing here keeps a model alive.
"""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

from sightline.keras.layers import walk
from sightline.keras.state import Snapshot

__all__ = ["Traces", "traces_of"]

# A model that takes any size would else gather a trace for each; the least used go first.
_MOST = 16


class Traces:
    """The traces of one model.

    A pass is run eagerly at first sight, since a trace costs many of them, and traced at the
    second. Threads that ask for the same trace share it.
    """

    def __init__(self) -> None:
        """Nothing is known yet."""
        self._lock = threading.RLock()
        self._snapshot: Snapshot | None = None
        self._facts: dict[Hashable, Any] = {}
        self._chosen: dict[Hashable, weakref.ref[Any]] = {}
        self._seen: OrderedDict[Hashable, Any] = OrderedDict()

    def refresh(self) -> None:
        """Forget everything if the model is no longer what it was."""
        with self._lock:
            if self._snapshot is not None and not self._snapshot.holds():
                self._snapshot = None
                self._facts.clear()
                self._chosen.clear()
                self._seen.clear()

    def remember(self, model: Any, key: Hashable, chosen: Any = None) -> None:
        """Note that a pass was run, so that it is worth a trace when it comes again.

        Args:
            model: The model that ran, built.
            key: What the pass was for.
            chosen: The layer that was chosen in it.
        """
        with self._lock:
            if self._snapshot is None:
                self._snapshot = Snapshot([model, *(layer for _, layer in walk(model))])
            if chosen is not None:
                self._chosen[key] = weakref.ref(chosen)
            self._seen.setdefault(key, None)
            while len(self._seen) > _MOST:
                gone, _ = self._seen.popitem(last=False)
                self._chosen.pop(gone, None)

    def once(self, key: Hashable, compute: Callable[[], Any]) -> Any:
        """A fact about the model that holds for as long as it stays as it is."""
        with self._lock:
            if self._snapshot is None:
                return compute()
            if key not in self._facts:
                self._facts[key] = compute()
            return self._facts[key]

    def chosen(self, key: Hashable) -> Any:
        """The layer that was chosen for a pass before; None if none was."""
        with self._lock:
            reference = self._chosen.get(key)
        return None if reference is None else reference()

    def get(self, key: Hashable, trace: Callable[[], Any]) -> Any:
        """The trace for a pass that was seen before, made by ``trace`` where it is not there yet.

        Returns:
            The trace; None if the pass was never seen, or cannot be traced.
        """
        with self._lock:
            if key not in self._seen:
                return None
            self._seen.move_to_end(key)
            if self._seen[key] is None:
                try:
                    self._seen[key] = trace()
                except Exception:  # whatever a model does that only runs eagerly
                    self._seen[key] = _UNTRACEABLE
            found = self._seen[key]
        return None if found is _UNTRACEABLE else found


_UNTRACEABLE = object()

_lock = threading.Lock()
_of_models: dict[int, Traces] = {}  # by id; a model may have a __eq__ of its own


def traces_of(model: Any) -> Traces:
    """What is kept about a model. It goes when the model goes."""
    with _lock:
        if id(model) not in _of_models:
            _of_models[id(model)] = Traces()
            weakref.finalize(model, _of_models.pop, id(model), None).atexit = False
        return _of_models[id(model)]
