"""Names and texts from outside, for terminals, logs, captions and pages."""

from __future__ import annotations

import html
import re

__all__ = ["escaped", "printable"]

# These move the cursor, turn the direction of writing or break the line: the control characters C0
# and C1, the marks, embeddings, overrides and isolates of bidirectional text, and the separators of
# lines and paragraphs. Surrogates, halves of characters, cannot be written at all.
_CONTROLS = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


def printable(text: str, *, keep: str = "") -> str:
    r"""Escape what a terminal would obey, so that a text stays on its line.

    Names of classes, layers, models and files may hold any character.

    Args:
        text: The text.
        keep: Characters to leave as they are, such as newlines.

    Returns:
        The text with escapes such as ``\x1b`` in place of control characters.
    """
    return _CONTROLS.sub(
        lambda match: match[0] if match[0] in keep else ascii(match[0])[1:-1], text
    )


def escaped(text: object) -> str:
    """Text for HTML; halves of characters, as undecodable file names have them, are replaced."""
    return html.escape(str(text).encode("utf-8", "replace").decode("utf-8"))
