"""Scores text: a likelihood bound of masked diffusion models, LongLLaDA's estimator, exact scores.

`bound` draws masks and gives the likelihood bound with its standard error, or takes all masks of a
short target; `longllada` estimates as LongLLaDA's script does; `exact` scores autoregressive models
on the same tokens; `texts` splits texts into tokens to score. Windows and OpenCompass live
elsewhere.
"""

from opencompass_llada.likelihood.bound import (
    EntropyFunction,
    entropies_from_logits,
    enumerate_bound,
    estimate_bound,
    is_enumerable,
)
from opencompass_llada.likelihood.estimate import Estimate, pool, student_t_quantile
from opencompass_llada.likelihood.exact import CausalScorer, causal_logits, score_alternatives
from opencompass_llada.likelihood.longllada import estimate_longllada
from opencompass_llada.likelihood.options import ESTIMATORS, LikelihoodOptions, parse_scoring
from opencompass_llada.likelihood.texts import TextScorer, common_prefix_length, split_options

__all__ = [
    "ESTIMATORS",
    "CausalScorer",
    "EntropyFunction",
    "Estimate",
    "LikelihoodOptions",
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
    "split_options",
    "student_t_quantile",
]
