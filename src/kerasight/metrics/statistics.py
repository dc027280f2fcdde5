"""What a mean of few values is worth, without SciPy."""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING

import numpy as np

from kerasight.checks import integer

if TYPE_CHECKING:
    from jaxtyping import Real

__all__ = ["FEWEST", "LEVEL", "differs", "standard_error", "t_quantile"]

LEVEL = 0.05
"""How often, at most, something is told of numbers that is only chance."""

# That five differences have the same sign is chance in one of 16 cases.
FEWEST = 6
"""How many differences it takes at least to tell anything at `LEVEL`, however they lie."""


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


def standard_error(values: Real[np.ndarray, " n"]) -> float:
    """The standard error of the mean of independent values ``(n,)``; NaN of fewer than two."""
    if len(values) < 2:
        return math.nan
    return float(values.std(ddof=1) / math.sqrt(len(values)))


def differs(differences: Real[np.ndarray, " n"], level: float = LEVEL) -> bool:
    """Whether the mean of independent differences is so far from 0 that it is not chance.

    By Student's t test, two-sided. It takes the differences to be normal, and where they are few
    values, such as hits and misses, a handful may be alike by chance and leave no error at all. So
    `FEWEST` must be other than 0; and where there is no error, their common sign must be as rare as
    ``level`` (the sign test).

    Args:
        differences: Shape ``(n,)``.
        level: How often it may be said of differences around 0. Of several comparisons each takes
            its share of what all of them may (Bonferroni).

    Returns:
        Whether they differ from 0.
    """
    number = int(np.count_nonzero(differences))
    if number < FEWEST:
        return False
    error = standard_error(differences)
    if error == 0:
        return 2.0 ** (1 - number) <= level
    quantile = _remembered_quantile(1 - level / 2, len(differences) - 1)
    return abs(float(differences.mean())) > quantile * error


_remembered_quantile = functools.lru_cache(maxsize=64)(t_quantile)
