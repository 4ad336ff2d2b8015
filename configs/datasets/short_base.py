"""`--datasets short_base`: short-context benchmarks for base models.

`--datasets short_base/gsm8k_datasets` is one of them. Answers of 256 tokens, with the sampler of
the model's config; configs/eval_llada_short.py has the published one.
"""

from mmengine.config import read_base

with read_base():
    from ..helpers.short_sets import short_cells as __short_cells

gsm8k_datasets = __short_cells(["gsm8k"], generation_length=256)
math_datasets = __short_cells(["math"], generation_length=256)
humaneval_datasets = __short_cells(["humaneval"], generation_length=256)
mbpp_datasets = __short_cells(["mbpp"], generation_length=256)
mmlu_datasets = __short_cells(["mmlu"], generation_length=256)
arc_c_datasets = __short_cells(["arc_c"], generation_length=256)
hellaswag_datasets = __short_cells(["hellaswag"], generation_length=256)
winogrande_datasets = __short_cells(["winogrande"], generation_length=256)
