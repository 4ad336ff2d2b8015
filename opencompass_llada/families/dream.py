"""Describes Dream-v0-Base-7B, Dream-v0-Instruct-7B and every checkpoint of their format.

Special tokens are ``<|mask|>`` (151666), ``<|endoftext|>`` (151643, end of text and padding) and
``<|im_end|>`` (151645, end of a turn). Samples by default as the model card does and as LongLLaDA
evaluated Dream (arXiv 2506.14429); the checkpoints' own generation_config.json has the ``origin``
rule at temperature 0, which is ``sampler=dict(remasking='origin', temperature=0, top_p=None)``.
"""

from opencompass_llada.engines import MaskedDiffusionFamily

FAMILY = MaskedDiffusionFamily(
    name="Dream",
    label="Dream",
    turn_end="<|im_end|>",
    sampler_defaults={
        "remasking": "entropy",
        "temperature": 0.2,
        "top_p": 0.95,
        "block_length": None,
    },
    paper_defaults={"num_steps": 32},
)
