"""Describes LLaDA-MoE-7B-A1B-Base, -Instruct and all of their format.

Samples as LLaDA does.
"""

from opencompass_llada.engines import MaskedDiffusionFamily

FAMILY = MaskedDiffusionFamily(name="llada_moe", label="LLaDA-MoE", turn_end="<|role_end|>")
