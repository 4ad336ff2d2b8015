"""Describes SDAR-1.7B, -4B and -8B, Chat and others, block-causal diffusion of Qwen3's network.

Samples by default as SDAR's generate.py with its command's settings, but at temperature 0: blocks
of the checkpoint's ``block_size``, one step a token, and all predictions revealed whose probability
is at least 0.85 (``low_confidence_dynamic``).
"""

from opencompass_llada.engines import MaskedDiffusionFamily

FAMILY = MaskedDiffusionFamily(
    name="sdar",
    label="SDAR",
    turn_end="<|im_end|>",
    sampler_defaults={
        "remasking": "maskgit_plus",
        "schedule": "even",
        "acceptance": {"type": "threshold", "value": 0.85},
        "block_length": None,
    },
)
