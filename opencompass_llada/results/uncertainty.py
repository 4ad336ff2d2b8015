"""Standard errors of cell scores. Knows numbers only."""

from __future__ import annotations

import math
from collections.abc import Sequence


def hit_rate_standard_error(num_hits: float, num_samples: int) -> float:
    """Return the standard error of a hit rate, in percentage points.

    The half-width of Wilson's score interval at one standard deviation (Wilson 1927, z = 1). Near
    50 % it is the binomial standard error; for 10 hits of 10, where that would claim 0, it is 4.5.

    Args:
        num_hits: Hits, 0 to num_samples.
        num_samples: Samples, at least 1.
    """
    rate = num_hits / num_samples
    variance = rate * (1 - rate) / num_samples + 1 / (4 * num_samples**2)
    return 100 * math.sqrt(variance) / (1 + 1 / num_samples)


def mean_standard_error(values: Sequence[float]) -> float | None:
    """Return the standard error of a mean: sample standard deviation over the root of n.

    Args:
        values: One score a sample.

    Returns:
        None for fewer than two values. 0 if all are alike, which says little for few samples.
    """
    num_values = len(values)
    if num_values < 2:
        return None
    mean = sum(values) / num_values
    squares = sum((value - mean) ** 2 for value in values)
    return math.sqrt(squares / (num_values - 1) / num_values)
