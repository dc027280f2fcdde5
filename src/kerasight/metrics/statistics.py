"""What a mean of few values is worth, without SciPy."""

from __future__ import annotations

import math

import numpy as np

from kerasight.metrics.common import integer

__all__ = ["t_quantile"]


def t_quantile(probability: float, degrees: int) -> float:
    """The value below which a variable of Student's t distribution lies with this probability.

    A mean of n independent values lies, with a probability of 95 %, within ``t_quantile(0.975,
    n - 1)`` standard errors of the true one: 12.7 for two values, 2.26 for ten, 1.96 for very many.

    By the finite series of the distribution for whole degrees of freedom (Abramowitz and Stegun,
    1964, `Handbook of Mathematical Functions`, 26.7.3 and 26.7.4), solved by halving.

    Args:
        probability: Of a value below, above 0 and below 1.
        degrees: Degrees of freedom, at least 1: mostly one less than there are values.

    Returns:
        The quantile; negative if ``probability`` is below a half.

    Raises:
        TypeError: If ``degrees`` is no whole number.
        ValueError: If an argument is out of its range.

    Example:
        >>> round(t_quantile(0.975, 9), 3)
        2.262
    """
    degrees = integer("degrees", degrees, least=1)
    if not 0 < probability < 1:
        raise ValueError(f"probability must be above 0 and below 1, got {probability}")
    if probability < 0.5:
        return -t_quantile(1 - probability, degrees)
    # The factor of each power of the cosine in the series: 1, 1/2, 3/8, ... for even degrees, and
    # 1, 2/3, 8/15, ... for odd ones.
    is_odd = degrees % 2
    powers = np.arange(is_odd, degrees - 1, 2)
    factors = np.cumprod(np.append(1.0, 1 - 1 / powers[1:]))[: len(powers)]

    def within(angle: float) -> float:
        """The probability of a value of a size below ``sqrt(degrees) * tan(angle)``."""
        total = math.sin(angle) * float(factors @ math.cos(angle) ** powers)
        return 2 / math.pi * (angle + total) if is_odd else total

    low, high = 0.0, math.pi / 2
    for _ in range(60):
        middle = (low + high) / 2
        if within(middle) < 2 * probability - 1:
            low = middle
        else:
            high = middle
    return math.sqrt(degrees) * math.tan((low + high) / 2) if low else 0.0
