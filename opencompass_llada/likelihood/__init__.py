"""Scores texts: a masked diffusion model's likelihood bound, and autoregressive models exactly."""

from opencompass_llada.likelihood.block_scorer import BlockScorer
from opencompass_llada.likelihood.estimate import Estimate, LikelihoodOptions, parse_scoring, pool
from opencompass_llada.likelihood.scorers import (
    CausalScorer,
    MaskedScorer,
    causal_logits,
    entropies_from_logits,
    sliced_entropies,
)
from opencompass_llada.likelihood.texts import TextScorer
