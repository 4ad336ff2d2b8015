"""Describes LLaDA2.0-mini, -flash and all of their format, block-causal mixtures of experts.

Samples by default as the published ``generate``: blocks of 32 tokens, one step a token at
temperature 0, and all predictions revealed whose probability is at least 0.95. dFactory's copy of
``generate`` draws at temperature 0, too, against its own description; this one takes the best.
"""

from opencompass_llada.engines import MaskedDiffusionFamily

FAMILY = MaskedDiffusionFamily(
    name="llada2_moe",
    label="LLaDA2",
    turn_end="<|role_end|>",
    sampler_defaults={
        "remasking": "low_confidence",
        "schedule": "even",
        "acceptance": {"type": "threshold", "value": 0.95},
        "block_length": None,
    },
)
