"""Compares checkpoints by what was measured of them: which one is the best so far.

A perplexity's standard error is that of the masks drawn. Every step draws the same masks, so two
checkpoints are compared draw by draw, where the masks' part of the error cancels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

#: Standard errors of the difference by which a checkpoint must be better to be the best.
NUM_ERRORS = 2.0


class Measurement(NamedTuple):
    """What was measured of a network at one step."""

    figures: Mapping[str, float]
    """By name. ``perplexity@LENGTH`` has its standard error in ``perplexity_error@LENGTH``."""
    draws: Sequence[float] = ()
    """Nats a token of each draw at the longest length, text by text; empty if nothing is drawn.
    Draws 2 i and 2 i + 1 of a text are independent and of one stratum of the mask ratio."""


def score_figures(figures: Mapping[str, float]) -> float | None:
    """Return what checkpoints are compared by, the lower the better; None without figures.

    It is the perplexity at the longest length measured, else minus the mean of all figures.
    """
    if not figures:
        return None
    lengths = [
        int(name.removeprefix("perplexity@")) for name in figures if name.startswith("perplexity@")
    ]
    if lengths:
        return figures[f"perplexity@{max(lengths)}"]
    return -sum(figures.values()) / len(figures)


def compare_draws(now: Sequence[float], best: Sequence[float]) -> tuple[float, float]:
    """Return the mean difference of two checkpoints' draws, now less best, and its standard error.

    Nats a token; both made with the same masks, in the order of `Measurement.draws`. The variance
    of a pair's mean is estimated by their squared difference over 4, as `MaskSet.estimate` does.
    """
    pairs = np.subtract(now, best).reshape(-1, 2)
    spread = (pairs[:, 0] - pairs[:, 1]) / 2
    return float(pairs.mean()), math.sqrt(float((spread**2).sum())) / len(pairs)


def is_better(now: Sequence[float], best: Sequence[float]) -> bool:
    """Tell whether draws are lower than the best ones by more than `NUM_ERRORS` standard errors."""
    difference, error = compare_draws(now, best)
    return difference < -NUM_ERRORS * error
