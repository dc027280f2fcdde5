"""Class activation maps: the formulas and what they share, in NumPy alone.

Nothing here knows a framework, a model or a picture. Arrays of one image have shape
``(*spatial, channels)``, with one to three spatial axes: ``(length, channels)``,
``(height, width, channels)`` or ``(depth, height, width, channels)``.
"""

from kerasight.cam import methods, request

__all__ = ["methods", "request"]
