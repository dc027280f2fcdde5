"""The ``kerasight`` command, as it is installed, and as ``python -m kerasight``.

Whatever takes time to import is imported where an interrupt is answered.
"""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command.

    Raises:
        SystemExit: At its end, with its exit code; 130 if it was interrupted.
    """
    try:
        from kerasight.interrupts import Heard

        with Heard():
            from kerasight import cli
        cli.main()
    except KeyboardInterrupt:  # which the command could not answer: it was not there yet
        if sys.stderr is not None:
            print("Error: interrupted", file=sys.stderr)
        sys.exit(130)
    finally:
        _end_at_once()


def _end_at_once() -> None:
    """From now on, an interrupt is not told: all is said, and Python only puts things away."""
    import signal

    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


if __name__ == "__main__":
    main()
