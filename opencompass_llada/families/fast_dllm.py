"""Describes Fast-dLLM v2, 1.5B and 7B: block-causal diffusion of Qwen2.5's network.

Samples by default as the model card does (Efficient-Large-Model/Fast_dLLM_v2_7B): temperature 0,
blocks of the checkpoint's ``bd_size`` in parts of 8, all predictions revealed whose probability is
at least 0.9. At a temperature its published top-p is 0.95, which is for the config to say.
"""

from opencompass_llada.engines import MaskedDiffusionFamily

FAMILY = MaskedDiffusionFamily(
    name="Fast_dLLM_Qwen",
    label="Fast-dLLM v2",
    turn_end="<|im_end|>",
    sampler_defaults={
        "remasking": "maskgit_plus",
        "schedule": "even",
        "acceptance": {"type": "threshold", "value": 0.9},
        "block_length": None,
        "sub_block_length": 8,
    },
)
