"""Describes LLaDA-MoE-7B-A1B-Base, -Instruct and all of their format.

Samples as LLaDA does. Mask and end of text are the tokenizer's ``<|mask|>`` and its end of
sequence where config.json does not name them.
"""

from opencompass_llada.engines import MaskedDiffusionFamily

FAMILY = MaskedDiffusionFamily(
    name="llada_moe", label="LLaDA-MoE", turn_end="<|role_end|>", mask_token="<|mask|>"
)
