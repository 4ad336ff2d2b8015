"""Gives one interface over all models: prompt ids in, generated ids or likelihoods out."""

from opencompass_llada.engines.autoregressive import (
    AutoregressiveEngine,
    AutoregressiveFamily,
    gather_end_tokens,
    refuse_non_finite,
)
from opencompass_llada.engines.base import (
    CausalTokens,
    CheckRequest,
    EndTokens,
    Engine,
    Family,
    Generation,
    LoadRequest,
    PromptSeeds,
    SamplerSettings,
    length_buckets,
)
from opencompass_llada.engines.masked_diffusion import MaskedDiffusionEngine, MaskedDiffusionFamily
