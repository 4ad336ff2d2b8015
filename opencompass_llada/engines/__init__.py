"""Gives one interface over all models: prompt ids in, generated ids or likelihoods out."""

from opencompass_llada.engines.autoregressive import AutoregressiveEngine, AutoregressiveFamily
from opencompass_llada.engines.base import (
    CheckRequest,
    EndTokens,
    Engine,
    Family,
    Generation,
    LoadRequest,
    SamplerSettings,
    length_buckets,
)
from opencompass_llada.engines.masked_diffusion import MaskedDiffusionEngine, MaskedDiffusionFamily
