"""Describes LLaDA-8B-Base and -Instruct, LLaDA-1.5, UltraLLaDA and all of their format."""

from opencompass_llada.engines import MaskedDiffusionFamily
from opencompass_llada.prompting.encode import EOT_TOKEN

FAMILY = MaskedDiffusionFamily(
    name="llada",
    label="LLaDA",
    turn_end=EOT_TOKEN,
    paper_defaults={"num_steps": 128, "block_length": 32},
)
