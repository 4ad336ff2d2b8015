"""LongLLaDA's evaluation on needle in a haystack.

    python run.py configs/papers/longllada_niah.py
    LLADA_DEMO=1 python run.py configs/papers/longllada_niah.py  # tiny models, offline

LLaMA-3, LLaDA, LLaDA-1.5 and Dream from 2K to 32K tokens, with every lambda and number of steps.
LLADA_* variables choose among these and override the rest. Settings, sources and differences are in
docs/reference/paper_configs.md.
"""

from mmengine.config import read_base

with read_base():
    from ..helpers.planning import plan_paper as __plan_paper

__run = __plan_paper("longllada", "niah")

settings = __run.settings
models = __run.models
datasets = __run.datasets
if __run.combinations:
    model_dataset_combinations = __run.combinations

work_dir = "outputs/longllada_niah"

infer = __run.infer
eval = __run.eval
summarizer = __run.summarizer
custom_imports = __run.custom_imports
