"""`--datasets short_chat`: short-context benchmarks for models with a chat template.

`--datasets short_chat/gsm8k_datasets` is one of them. Answers of 512 tokens, with the sampler of
the model's config; configs/eval_llada_short.py has the published one.
"""

from mmengine.config import read_base

with read_base():
    from ..helpers.short_sets import short_cells as __short_cells

gsm8k_datasets = __short_cells(["gsm8k"], chat=True, generation_length=512)
math_datasets = __short_cells(["math"], chat=True, generation_length=512)
humaneval_datasets = __short_cells(["humaneval"], chat=True, generation_length=512)
mbpp_datasets = __short_cells(["mbpp"], chat=True, generation_length=512)
mmlu_datasets = __short_cells(["mmlu"], chat=True, generation_length=512)
arc_c_datasets = __short_cells(["arc_c"], chat=True, generation_length=512)
hellaswag_datasets = __short_cells(["hellaswag"], chat=True, generation_length=512)
