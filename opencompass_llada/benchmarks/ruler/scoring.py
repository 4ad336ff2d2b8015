"""Scores one answer by RULER's two rules. Runs without OpenCompass; averages nothing.

``string_match_all`` and ``string_match_part`` of NVIDIA RULER
(scripts/eval/synthetic/constants.py): a reference counts if it stands anywhere in the prediction,
upper and lower case alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence


def match_all(prediction: str, references: Sequence[str]) -> float:
    """Return the share of references that stand in the prediction, 0 to 1."""
    answer = prediction.lower()
    return sum(reference.lower() in answer for reference in references) / len(references)


def match_part(prediction: str, references: Sequence[str]) -> float:
    """Return 1 if any reference stands in the prediction, else 0."""
    answer = prediction.lower()
    return float(any(reference.lower() in answer for reference in references))


MATCHES: dict[str, Callable[[str, Sequence[str]], float]] = {"all": match_all, "part": match_part}
