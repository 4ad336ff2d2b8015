"""LongLLaDA's evaluation on LongBench.

    python run.py configs/papers/longllada_longbench.py
    LLADA_DEMO=1 python run.py configs/papers/longllada_longbench.py  # tiny models, offline

LLaMA-3, LLaDA, LLaDA-1.5 and Dream on 21 tasks, prompts cut in the middle to 3,500 and 7,500.
LLADA_* variables choose among these and override the rest. Settings, sources and differences are in
docs/reference/paper_configs.md.
"""

from mmengine.config import read_base

with read_base():
    from ..helpers.planning import plan_paper as __plan_paper

__run = __plan_paper("longllada", "longbench")

settings = __run.settings
models = __run.models
datasets = __run.datasets

work_dir = "outputs/longllada_longbench"

infer = __run.infer
eval = __run.eval
summarizer = __run.summarizer
custom_imports = __run.custom_imports
