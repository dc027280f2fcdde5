"""Explanations as pictures, pages, texts and data."""

from kerasight.formatters.as_dict import format_as_dict
from kerasight.formatters.html import format_as_html
from kerasight.formatters.image import format_as_image
from kerasight.formatters.text import format_as_text

__all__ = ["format_as_dict", "format_as_html", "format_as_image", "format_as_text"]
