"""Interrupts while modules are imported; it imports next to nothing itself."""

from __future__ import annotations

import io
import signal
import sys

TYPE_CHECKING = False  # as in typing, which takes a while to import
if TYPE_CHECKING:
    from typing import Any

__all__ = ["Heard"]


class Heard:
    """A context around imports, which an interrupt ends with a KeyboardInterrupt.

    By itself, it may end otherwise: where an extension module that is being imported runs Python
    code, pybind11 makes an ImportError of the interrupt, NumPy an error of its own, and others
    nothing at all.

    Raises:
        KeyboardInterrupt: If there was an interrupt, whatever became of it within.
    """

    def __enter__(self) -> None:
        self._was_interrupted = False
        self._is_used = signal.getsignal(signal.SIGINT) is signal.default_int_handler
        if self._is_used:
            try:
                signal.signal(signal.SIGINT, self._note)
            except ValueError:  # in a thread, which no interrupt reaches
                self._is_used = False

    def _note(self, *_: Any) -> None:
        if not self._was_interrupted:
            self._was_interrupted = True
            self._stderr, sys.stderr = sys.stderr, io.StringIO()  # for what some print of it
        raise KeyboardInterrupt

    def __exit__(self, *_: object) -> None:
        if self._is_used:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        if self._was_interrupted:
            sys.stderr = self._stderr
            raise KeyboardInterrupt from None
