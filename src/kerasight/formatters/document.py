"""What pages are made of: their heads, pictures as addresses, names that may be broken."""

from __future__ import annotations

import base64
import hashlib
import io
import re
from functools import lru_cache
from importlib import resources
from typing import TYPE_CHECKING

from kerasight.escapes import escaped

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["asset", "base64_of", "breakable", "data_uri", "head", "img", "prose"]

# Letters of a part of a path that fit on a line of a card.
_LONGEST_PART = 24


@lru_cache
def asset(name: str) -> str:
    """A file of the folder ``page`` without its indentation and its comments."""
    folder = resources.files("kerasight.formatters") / "page"
    lines = (folder / name).read_text(encoding="utf-8").splitlines()
    stripped = [line.strip() for line in lines]
    return "\n".join(
        line
        for line in stripped
        if line and not line.startswith("//") and not (line[:2] == "/*" and line[-2:] == "*/")
    )


def head(title: str, style: str, script: str) -> str:
    """The head of a page that fetches nothing and runs no script but its own."""
    from kerasight import __version__

    code = script.removeprefix("<script>").rstrip().removesuffix("</script>")
    digest = base64_of(hashlib.sha256(code.encode()).digest())
    policy = (
        f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        # The command recognises its pages by this.
        f'<meta name="generator" content="kerasight {__version__}">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        '<link rel="icon" href="data:,">\n'
        f"<title>{escaped(title)}</title>\n{style}{script}</head>\n"
    )


def img(image: Image.Image, alt: str, quality: int | None) -> str:
    """A picture as an element; ``quality`` as of `data_uri`."""
    return (
        f'<img src="{data_uri(image, quality)}" alt="{escaped(alt)}" '
        f'width="{image.width}" height="{image.height}">'
    )


def data_uri(image: Image.Image, quality: int | None) -> str:
    """A picture as a ``data:`` address: a JPEG, or a PNG if it is to stay as it is.

    Args:
        image: RGB or RGBA.
        quality: The quality of the JPEG; None for a PNG. Transparent pictures are always PNGs.
    """
    image = image.copy()
    image.info.clear()  # a rotation would turn the picture, but not the heatmap
    is_opaque = image.mode == "RGB" or image.getchannel("A").getextrema()[0] == 255
    file = io.BytesIO()
    if quality is None or not is_opaque:
        kind = "png"
        image.save(file, format="PNG")
    else:
        kind = "jpeg"
        image.convert("RGB").save(file, format="JPEG", quality=quality)
    return f"data:image/{kind};base64,{base64_of(file.getvalue())}"


def base64_of(data: bytes) -> str:
    """Bytes as text."""
    return base64.b64encode(data).decode("ascii")


def breakable(text: object) -> str:
    """A name or a path that may be broken where its parts end, and not in the middle of a word.

    Browsers break lines at hyphens and spaces themselves.
    """
    parts = re.split(r"(?<=[/\\])", escaped(text))
    for number, part in enumerate(parts):
        if len(parts) == 1 or len(part) > _LONGEST_PART:
            parts[number] = re.sub(r"(?<=_)(?=\w)", "<wbr>", part)
    return "<wbr>".join(filter(None, parts))


def prose(text: str) -> str:
    """Sentences with names of code between backticks."""
    return re.sub(r"`([^`\n]+)`", r"<code>\1</code>", escaped(text))
