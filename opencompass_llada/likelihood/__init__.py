"""Scores texts: a masked diffusion model's likelihood bound, and autoregressive models exactly.

Knows no OpenCompass; windows of long texts are cut elsewhere.
"""

from opencompass_llada.likelihood.bound import (
    EntropyFunction,
    entropies_from_logits,
    enumerate_bound,
    estimate_bound,
    estimate_longllada,
    is_enumerable,
    sliced_entropies,
)
from opencompass_llada.likelihood.estimate import Estimate, pool, student_t_quantile
from opencompass_llada.likelihood.exact import CausalScorer, causal_logits, score_alternatives
from opencompass_llada.likelihood.options import ESTIMATORS, LikelihoodOptions, parse_scoring
from opencompass_llada.likelihood.texts import (
    Scorer,
    TextScorer,
    common_prefix_length,
    split_options,
)

__all__ = [
    "ESTIMATORS",
    "CausalScorer",
    "EntropyFunction",
    "Estimate",
    "LikelihoodOptions",
    "Scorer",
    "TextScorer",
    "causal_logits",
    "common_prefix_length",
    "entropies_from_logits",
    "enumerate_bound",
    "estimate_bound",
    "estimate_longllada",
    "is_enumerable",
    "parse_scoring",
    "pool",
    "score_alternatives",
    "sliced_entropies",
    "split_options",
    "student_t_quantile",
]
