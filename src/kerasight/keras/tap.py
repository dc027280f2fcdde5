"""See what a layer puts out while its model runs.

The user's model runs as it is. For the length of a ``with`` block, the ``call`` of a layer is
wrapped on the instance, so that its output passes through a function of ours on its way. No graph
is cut, so that any layer that runs can be seen: nested at any depth, in a subclassed model, shared.

A tap acts in the thread that put it on, and nowhere else: to all other threads the wrapped layer
behaves as it always did. When the last tap on a layer is gone, so is the wrapper.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

__all__ = ["TAPPED", "tapped", "untapped_attributes"]

See = Callable[[Any, Any], Any]
Children = Callable[[Any], Iterable[Any]]
Arguments = tuple[tuple[Any, ...], dict[str, Any]]
Enter = Callable[[Any, tuple[Any, ...], dict[str, Any]], Arguments]
Activated = Callable[[Any, Any], Any]

# Keras runs a quantised layer through the second. Under `keras.RematScope` (of Keras 3.9 and later)
# it passes either to the third, and runs what that returns.
_REMAT = "rematerialized_call"
TAPPED = ("call", "quantized_call", _REMAT)
_ACTIVATION = "activation"
_MISSING = object()


@dataclass
class _Wrapped:
    """A layer that is tapped by at least one session, and what it had before."""

    layer: Any
    sessions: list[_Session] = field(default_factory=list)
    before: dict[str, Any] = field(default_factory=dict)


@dataclass(eq=False)
class _Session:
    """One ``with tapped(...)`` block, in one thread."""

    see: See
    children: Children | None
    enter: Enter | None
    activated: Activated | None
    layers: dict[int, Any] = field(default_factory=dict)
    ends: set[int] = field(default_factory=set)

    def add(self, layer: Any, is_end: bool = False) -> None:
        if is_end:
            self.ends.add(id(layer))
        if id(layer) not in self.layers:
            # First, so that a layer is unwrapped even if Ctrl-C comes in between.
            self.layers[id(layer)] = layer
            _wrap(layer, self, TAPPED)
        if is_end:
            _wrap(layer, self, (_ACTIVATION,))

    def close(self) -> None:
        while self.layers:
            number, layer = next(iter(self.layers.items()))
            _unwrap(layer, self)
            del self.layers[number]


_lock = threading.Lock()
_wrapped: dict[int, _Wrapped] = {}  # by id of the layer; the entry keeps the layer alive
_here = threading.local()


@contextmanager
def tapped(
    layers: Iterable[Any],
    see: See,
    children: Children | None = None,
    enter: Enter | None = None,
    ends: Iterable[Any] = (),
    activated: Activated | None = None,
) -> Iterator[None]:
    """Pass the output of each call of ``layers`` through ``see`` while the block runs.

    Args:
        layers: The layers to tap.
        see: Called as ``see(layer, output)`` whenever a tapped layer has run in this thread. What
            it returns goes on in the output's place.
        children: Called as ``children(layer)`` when a tapped layer is about to run; the layers that
            it returns are tapped as well. None taps only ``layers``.
        enter: Called as ``enter(layer, args, kwargs)`` when a tapped layer is about to run; what it
            returns are the arguments that the layer runs with. None leaves them as they are.
        ends: Layers to tap as well, together with their activation functions: the attribute
            ``activation`` or, where a layer such as ``Softmax`` has none, the layer itself.
        activated: Called as ``activated(given, output)`` when such a function has run.
    """
    session = _Session(see, children, enter, activated)
    sessions = _sessions()
    try:
        sessions.append(session)
        for layer in layers:
            session.add(layer)
        for layer in ends:
            session.add(layer, is_end=True)
        yield
    finally:
        try:
            session.close()
        except BaseException:
            session.close()  # Ctrl-C came in the midst of it: the rest
            raise
        finally:
            if session in sessions:
                sessions.remove(session)


def untapped_attributes(layer: Any) -> dict[str, Any]:
    """The attributes of a layer, as they are where no tap is on."""
    with _lock:
        attributes = dict(vars(layer))
        entry = _wrapped.get(id(layer))
        for name, before in entry.before.items() if entry else ():
            if before is _MISSING:
                attributes.pop(name, None)
            else:
                attributes[name] = before
    return attributes


def _sessions() -> list[_Session]:
    """The open sessions of this thread, the innermost last."""
    if not hasattr(_here, "sessions"):
        _here.sessions = []
    sessions: list[_Session] = _here.sessions
    return sessions


_WRAPPERS: dict[str, Callable[[Any, Callable[..., Any]], Callable[..., Any]]] = {}


def _wrap(layer: Any, session: _Session, methods: Iterable[str]) -> None:
    # Before the lock is taken: in Python 3.13 an interrupt at a comprehension would leave it taken.
    names = [name for name in methods if hasattr(layer, name)]
    with _lock:
        entry = _wrapped.get(id(layer)) or _Wrapped(layer)
        if session not in entry.sessions:
            entry.sessions.append(session)
        # Through the instance's dictionary: Keras tracks what is set as an attribute.
        attributes = vars(layer)
        for name in names:
            if name not in entry.before:
                function = getattr(layer, name)
                entry.before[name] = attributes.get(name, _MISSING)
                _wrapped[id(layer)] = entry
                attributes[name] = _WRAPPERS[name](layer, function)
        _wrapped[id(layer)] = entry


def _unwrap(layer: Any, session: _Session) -> None:
    """Take a session's tap off; nothing happens if it is off."""
    with _lock:
        entry = _wrapped.get(id(layer))
        if entry is None or session not in entry.sessions:
            return
        if len(entry.sessions) == 1:
            attributes = vars(layer)
            for name, before in entry.before.items():
                if before is _MISSING:
                    attributes.pop(name, None)
                else:
                    attributes[name] = before
            del _wrapped[id(layer)]
        entry.sessions.remove(session)


def _passing_through(layer: Any, method: Callable[..., Any]) -> Callable[..., Any]:
    """``method`` of ``layer``, its output passed through the innermost session that taps it."""

    # Not the attributes: a tf.function has state of its own.
    @functools.wraps(method, updated=())
    def call(*args: Any, **kwargs: Any) -> Any:
        sessions = _sessions()
        session = sessions[-1] if sessions else None
        if session is None or id(layer) not in session.layers:
            return method(*args, **kwargs)
        if session.children is not None:
            for child in session.children(layer):
                session.add(child)
        if session.enter is not None:
            args, kwargs = session.enter(layer, args, kwargs)
        # A method under @tf.function would run from its own trace, past every tap inside it.
        function = getattr(method, "python_function", method)
        output = function(*args, **kwargs)
        is_end = id(layer) in session.ends and not hasattr(layer, _ACTIVATION)
        if session.activated is not None and is_end and args:
            session.activated(args[0], output)
        return session.see(layer, output)

    return call


def _noting(layer: Any, function: Callable[..., Any]) -> Callable[..., Any]:
    """An activation function of ``layer`` that tells the session what went in and came out."""

    @functools.wraps(function)
    def activation(*args: Any, **kwargs: Any) -> Any:
        output = function(*args, **kwargs)
        sessions = _sessions()
        session = sessions[-1] if sessions else None
        if session is not None and session.activated is not None and id(layer) in session.ends:
            session.activated(args[0], output)
        return output

    return activation


def _not_rematerialised(layer: Any, method: Callable[..., Any]) -> Callable[..., Any]:
    """``method`` of ``layer``, which makes its ``call`` run again when gradients are asked for.

    Under a tap the ``call`` runs as it is, since what is computed twice cannot be seen once.
    """

    @functools.wraps(method)
    def rematerialized_call(layer_call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        sessions = _sessions()
        if sessions and id(layer) in sessions[-1].layers:
            return layer_call
        return method(layer_call, *args, **kwargs)

    return rematerialized_call


_WRAPPERS.update(dict.fromkeys(TAPPED, _passing_through))
_WRAPPERS.update({_REMAT: _not_rematerialised, _ACTIVATION: _noting})
