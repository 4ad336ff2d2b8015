"""LLaDA-8B-Base, LLaDA-8B-Instruct, LLaDA-1.5, UltraLLaDA and every checkpoint of their format."""

from opencompass_llada.families.masked_diffusion import masked_diffusion_family
from opencompass_llada.prompting.encode import EOT_TOKEN

LLADA = masked_diffusion_family(
    name="llada",
    label="LLaDA",
    turn_end=EOT_TOKEN,
    paper_defaults={"num_steps": 128, "block_length": 32},
)
