"""Perplexity: a masked diffusion model's likelihood bound, LongLLaDA's estimator, and exact scores.

`bound` draws masks and gives the likelihood bound with its standard error, `enumeration` takes all
masks of a short target; `longllada` estimates as LongLLaDA's script does; `causal` scores
autoregressive models on the same tokens. Knows token ids and a model call; texts, windows and
OpenCompass live elsewhere.
"""

from opencompass_llada.likelihood.bound import (
    EntropyFunction,
    entropies_from_logits,
    enumerate_bound,
    estimate_bound,
    is_enumerable,
)
from opencompass_llada.likelihood.boundary import common_prefix_length, split_options
from opencompass_llada.likelihood.estimate import Estimate, pool, student_t_quantile
from opencompass_llada.likelihood.exact import CausalScorer, causal_logits, score_alternatives
from opencompass_llada.likelihood.longllada import estimate_longllada
from opencompass_llada.likelihood.options import ESTIMATORS, LikelihoodOptions, parse_scoring

__all__ = [
    "ESTIMATORS",
    "CausalScorer",
    "EntropyFunction",
    "Estimate",
    "LikelihoodOptions",
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
