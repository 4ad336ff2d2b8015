"""One interface over all models: prompt ids in, generated ids or likelihoods out."""

from opencompass_llada.engines.autoregressive import AutoregressiveEngine
from opencompass_llada.engines.base import Engine, Generation, Totals, length_buckets
from opencompass_llada.engines.masked_diffusion import MaskedDiffusionEngine
from opencompass_llada.engines.settings import SamplerSettings

__all__ = [
    "AutoregressiveEngine",
    "Engine",
    "Generation",
    "MaskedDiffusionEngine",
    "SamplerSettings",
    "Totals",
    "length_buckets",
]
