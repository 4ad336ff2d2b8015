"""UltraLLaDA's evaluation on LongBench.

    python run.py configs/papers/ultrallada_longbench.py
    LLADA_DEMO=1 python run.py configs/papers/ultrallada_longbench.py  # tiny models, offline

LLaDA-8B-Base and UltraLLaDA on 21 tasks, prompts cut in the middle to 16,000 tokens.
LLADA_* variables choose among these and override the rest. Settings, sources and differences are in
docs/reference/paper_configs.md.
"""

from mmengine.config import read_base

with read_base():
    from ..helpers.planning import plan_paper as __plan_paper

__run = __plan_paper("ultrallada", "longbench")

settings = __run.settings
models = __run.models
datasets = __run.datasets

work_dir = "outputs/ultrallada_longbench"

infer = __run.infer
eval = __run.eval
summarizer = __run.summarizer
custom_imports = __run.custom_imports
