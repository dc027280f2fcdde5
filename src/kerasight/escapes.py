"""Names from outside, for terminals, logs and captions."""

from __future__ import annotations

import re

__all__ = ["printable"]

# What moves the cursor, turns the writing around or breaks the line: the control characters C0 and
# C1, the marks, embeddings, overrides and isolates of bidirectional text, and the separators of
# lines and paragraphs. And the halves of characters, which cannot be written at all.
_CONTROLS = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


def printable(text: str, *, keep: str = "") -> str:
    r"""A text that stays on its line and does nothing to a terminal.

    Names of classes, layers, models and files may hold anything.

    Args:
        text: The text.
        keep: Characters to be left as they are, such as newlines.

    Returns:
        The text with escapes such as ``\x1b`` in the place of control characters.
    """
    return _CONTROLS.sub(
        lambda match: match[0] if match[0] in keep else ascii(match[0])[1:-1], text
    )
