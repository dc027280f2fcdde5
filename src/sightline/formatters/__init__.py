"""From an ``Explanation`` to something a person can look at."""

from sightline.formatters.image import format_as_image

__all__ = ["format_as_image"]
