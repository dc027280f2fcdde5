"""Messages, one line each on standard error, and a progress bar."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.text import Text

from kerasight.checks import plural
from kerasight.errors import SetupError, reason
from kerasight.escapes import printable
from kerasight.progress import bars_put_aside, progress_bar

__all__ = [
    "Told",
    "as_options",
    "console",
    "describe",
    "log_said",
    "progress",
    "say",
    "standard_output",
]

_LONGEST_DESCRIPTION = 40
_MOST_TOLD = 20  # lines of which each says the same of another picture


def console(stream: Any) -> Console:
    """A console on a stream."""
    # Where there is no terminal, there is no width to keep to.
    return _Console(file=stream, width=None if stream.isatty() else 10_000)


def say(kind: str, colour: str, message: str) -> None:
    """Print one line on standard error."""
    line = Text.assemble((f"{kind}: ", f"bold {colour}"), printable(message))
    # If standard error cannot be written, the exit code still tells.
    with bars_put_aside(), contextlib.suppress(OSError):
        console(sys.stderr).print(line, soft_wrap=True)


@contextlib.contextmanager
def log_said() -> Iterator[None]:
    """Print what the library logs meanwhile, in the words of the command."""
    log, teller = logging.getLogger("kerasight"), _Teller()
    level, passes_on = log.level, log.propagate
    log.addHandler(teller)
    log.setLevel(logging.INFO)
    log.propagate = False
    try:
        yield
    finally:
        log.removeHandler(teller)
        log.setLevel(level)
        log.propagate = passes_on


class _Teller(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        """Print a line."""
        is_note = record.levelno < logging.WARNING
        say(*(("Note", "cyan") if is_note else ("Warning", "yellow")), record.getMessage())


class Told:
    """Errors and warnings that hundreds of pictures may share: told once, and then counted.

    Attributes:
        failures: How many errors there were.
    """

    def __init__(self) -> None:
        """Nothing is told yet."""
        self.failures = 0
        self._times: Counter[tuple[str, str]] = Counter()
        self._untold: dict[tuple[str, str], _Untold] = {}

    def fail(self, name: str, message: str, *, common: str = "", one_by_one: bool = False) -> None:
        """Tell an error.

        Args:
            name: The picture, folder or file that failed.
            message: The error.
            common: The part of the message that the same error has elsewhere; all, if not passed.
            one_by_one: Whether to tell each such error, up to some number, because the names
                matter.
        """
        self.failures += 1
        most = _MOST_TOLD if one_by_one else 1
        self._tell("Error", "red", f"{name}: {message}", common or message, most)

    def warn(self, name: str, message: str, *, common: str = "") -> None:
        """Tell a warning, as `fail` does an error."""
        self._tell("Warning", "yellow", f"{name}: {message}", common or message, 1)

    def _tell(self, kind: str, colour: str, line: str, common: str, most: int) -> None:
        # Messages are the same if they differ only in numbers.
        key = (kind, re.sub(r"[\d.]+", "#", common))
        self._times[key] += 1
        if self._times[key] <= most:
            say(kind, colour, line)
        else:
            self._untold.setdefault(key, _Untold(kind, colour, common)).times += 1

    def finish(self) -> None:
        """Tell how many more there were."""
        for one in self._untold.values():
            say(one.kind, one.colour, f"{plural(one.times, 'more picture')}: {one.common}")
        self._untold.clear()


@dataclass
class _Untold:
    """Errors that were counted and not told."""

    kind: str
    colour: str
    common: str
    times: int = 0


@contextlib.contextmanager
def standard_output() -> Iterator[Console]:
    """A console on standard output.

    Raises:
        SetupError: If it cannot be written: the disk is full, or nobody reads the pipe any more.
    """
    try:
        yield console(sys.stdout)
        sys.stdout.flush()
    except OSError as error:
        with contextlib.suppress(OSError, ValueError):  # of a stream without a descriptor
            # Python tries once more as it ends, and would print its own message.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SetupError(f"standard output cannot be written: {reason(error)}") from None


class _Console(Console):
    """A console whose caller decides what to do about a pipe that nobody reads."""

    def on_broken_pipe(self) -> None:
        """Raise an error, where rich would end Python."""
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))


def progress(total: int, in_steps: bool = False) -> Any:
    """A progress bar over pictures, on a terminal only, which disappears when it is closed.

    Args:
        total: How many pictures.
        in_steps: Whether it moves within a picture.
    """
    # A bar from 0 to 1 says no more than its description.
    bar_format = "{desc}" if total == 1 else None
    if in_steps:
        bar_format = "{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining}"
    return progress_bar(
        progress=None,
        delay=0,
        total=total,
        unit="picture",
        leave=False,
        dynamic_ncols=True,
        bar_format=bar_format,
        miniters=0,
        smoothing=0,
    )


def describe(bar: Any, name: str, step: str = "") -> None:
    """Write a name beside a progress bar; of a long name, such as a path, only the end."""
    name = printable(name)
    if len(name) > _LONGEST_DESCRIPTION:
        name = "…" + name[1 - _LONGEST_DESCRIPTION :]
    bar.set_description_str(f"{name}, {step}" if step else name)


_OPTIONS = {
    "logits=True": "--logits",
    "relu=False": "--signed",
    "counterfactual=True": "--counterfactual",
    "references holds": "--reference names",
    "pass column=": "pass --column",
}


def as_options(text: str) -> str:
    """A message of the library, with the command's options instead of the library's arguments."""
    for argument, option in _OPTIONS.items():
        text = text.replace(argument, option)
    return re.sub(
        r"\blayer=(?:[\"']([^\"']*)[\"'])?",
        lambda match: f"--layer {match[1]}" if match[1] else "--layer",
        text,
    )
