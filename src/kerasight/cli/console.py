"""What the user reads: one line on standard error for each thing to know, and a bar."""

from __future__ import annotations

import contextlib
import difflib
import re
import sys
import textwrap
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from kerasight.escapes import printable

__all__ = [
    "PictureError",
    "RunError",
    "as_options",
    "console",
    "describe",
    "nearest",
    "plain",
    "printable",
    "progress",
    "reason",
    "say",
]

_LONGEST_DESCRIPTION = 40


class RunError(Exception):
    """Nothing can be done for any picture. The message is the line that the user reads."""


class PictureError(Exception):
    """Nothing can be done for one picture. The message is the line that the user reads."""


def console(stream: Any) -> Console:
    """A console on a stream."""
    # Where there is no terminal, there is no width to keep to.
    return Console(file=stream, width=None if stream.isatty() else 10_000)


def say(kind: str, colour: str, message: str) -> None:
    """Print one line on standard error."""
    line = Text.assemble((f"{kind}: ", f"bold {colour}"), printable(message))
    with _bars_put_aside():
        console(sys.stderr).print(line, soft_wrap=True)


def _bars_put_aside() -> contextlib.AbstractContextManager[Any]:
    """Keep progress bars from being written over, and drawn into what is written."""
    if "tqdm" not in sys.modules:
        return contextlib.nullcontext()
    from tqdm import tqdm

    aside: contextlib.AbstractContextManager[Any] = tqdm.external_write_mode(file=sys.stderr)
    return aside


def progress(total: int, in_steps: bool = False) -> Any:
    """A progress bar over pictures, on a terminal only, which goes when it is closed.

    Args:
        total: How many pictures.
        in_steps: Whether it moves within a picture.
    """
    from tqdm import tqdm

    # A bar from 0 to 1 says no more than its description.
    bar_format = "{desc}" if total == 1 else None
    if in_steps:
        bar_format = "{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining}"
    return tqdm(
        total=total,
        unit="picture",
        leave=False,
        disable=None,
        dynamic_ncols=True,
        bar_format=bar_format,
        miniters=0,
        smoothing=0,
    )


def describe(bar: Any, name: str, step: str = "") -> None:
    """Say beside a progress bar what is being done; of a long name, such as a path, its end."""
    name = printable(name)
    if len(name) > _LONGEST_DESCRIPTION:
        name = "…" + name[1 - _LONGEST_DESCRIPTION :]
    bar.set_description_str(f"{name}, {step}" if step else name)


# What Keras and TensorFlow put around the reason: before it, what was called and where that stands
# in the code; after it, the operation and the arguments.
_BEFORE = re.compile(
    r"Exception encountered when calling .*|Graph execution error:|Detected at node .*|File \".*"
)
_AROUND = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"
    r"|\{\{function_node .*?\}\}|\[\[\{\{node .*?\}\}\]\]|\[Op:\w*\]( name:)?"
)


def reason(error: BaseException | str) -> str:
    """An exception's message in one line."""
    strerror = getattr(error, "strerror", None)
    text = _AROUND.sub("", strerror if isinstance(strerror, str) else str(error))
    paragraphs = [paragraph.strip() for paragraph in re.split(r"\n\s*\n", text)]
    found = next((one for one in paragraphs if one and not _BEFORE.match(one)), "")
    return textwrap.shorten(found, 500, placeholder=" ...") or type(error).__name__


_OPTIONS = {
    "logits=True": "--logits",
    "relu=False": "--signed",
    "counterfactual=True": "--counterfactual",
    "references holds": "--reference names",
}


def as_options(text: str) -> str:
    """A text of the library, with the options of the command in the place of its arguments."""
    for argument, option in _OPTIONS.items():
        text = text.replace(argument, option)
    return re.sub(
        r"\blayer=(?:[\"']([^\"']*)[\"'])?",
        lambda match: f"--layer {match[1]}" if match[1] else "--layer",
        text,
    )


def nearest(name: str, names: Sequence[str], most: int = 3) -> str:
    """The end of an error about a name that is not there; empty if none is near.

    Args:
        name: The name.
        names: Those that there are.
        most: How many of them to tell at most.
    """
    known = {plain(one): one for one in reversed(names)}
    close = difflib.get_close_matches(plain(name), known, n=most, cutoff=0.5)
    if not close:
        return ""
    are = "name is" if len(close) == 1 else "names are"
    return f"; the nearest {are} {', '.join(known[match] for match in close)}"


def plain(name: str) -> str:
    """A name without what people write now one way, now the other."""
    return re.sub(r"[\s_-]+", "", name).casefold()
