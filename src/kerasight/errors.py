"""Errors of a run over many pictures, and an error's message in one line."""

from __future__ import annotations

import re
import textwrap

__all__ = ["PictureError", "SetupError", "reason"]


class SetupError(ValueError):
    """Nothing can be done for any picture, as model, options or files are not as they must be.

    The message is the line that the user reads.
    """


class PictureError(ValueError):
    """Nothing can be done for one picture. The message is the line that the user reads."""


# Keras and TensorFlow put the call and its place in the code before the reason, and the operation
# and the arguments after it.
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
