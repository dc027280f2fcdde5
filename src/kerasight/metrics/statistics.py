"""Means of few values: their errors, and which differences are significant. Without SciPy."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from kerasight.checks import integer

if TYPE_CHECKING:
    from jaxtyping import Real

__all__ = ["FEWEST", "LEVEL", "Estimate", "differs", "standard_error", "t_quantile"]

LEVEL = 0.05
"""The probability, at most, to call a chance difference significant."""

# Five differences have the same sign by chance in one of 16 cases.
FEWEST = 6
"""The least number of differences that can be significant at `LEVEL`."""


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


@dataclass(frozen=True)
class Estimate:
    """A mean of independent values.

    Attributes:
        mean: The mean; NaN of no values.
        error: Its standard error; NaN of fewer than two values.
        low: The lower end of its 95 % confidence interval, by Student's t; NaN likewise.
        high: The upper end.
    """

    mean: float
    error: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Real[np.ndarray, " n"]) -> Estimate:
        """The estimate from values ``(n,)``."""
        mean = float(values.mean()) if len(values) else math.nan
        error = standard_error(values)
        margin = t_quantile(1 - LEVEL / 2, max(len(values) - 1, 1)) * error
        return cls(mean, error, mean - margin, mean + margin)


def differs(differences: Real[np.ndarray, " n"], level: float = LEVEL) -> bool:
    """Whether the mean of independent differences is so far from 0 that it is not chance.

    By Student's t test, two-sided, which takes the differences to be normal. Of hits and misses, a
    few differences may be equal by chance, and so have no error at all. Therefore at least `FEWEST`
    differences must be other than 0; and if they have no error, their common sign must be as
    improbable as ``level`` (the sign test).

    Args:
        differences: Shape ``(n,)``.
        level: The probability to say so of differences around 0. Of several comparisons, each
            takes its share of the level of all (Bonferroni).

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
