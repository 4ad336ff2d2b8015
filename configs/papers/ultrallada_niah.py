"""UltraLLaDA's evaluation on needle in a haystack.

    python run.py configs/papers/ultrallada_niah.py
    LLADA_DEMO=1 python run.py configs/papers/ultrallada_niah.py  # tiny models, offline

LLaDA-8B-Base and UltraLLaDA from 8K to 128K tokens, 16 steps.
LLADA_* variables choose among these and override the rest. Settings, sources and differences are in
docs/reference/paper_configs.md.
"""

from mmengine.config import read_base

with read_base():
    from ..helpers.planning import plan_paper as __plan_paper

__run = __plan_paper("ultrallada", "niah")

settings = __run.settings
models = __run.models
datasets = __run.datasets
if __run.combinations:
    model_dataset_combinations = __run.combinations

work_dir = "outputs/ultrallada_niah"

infer = __run.infer
eval = __run.eval
summarizer = __run.summarizer
custom_imports = __run.custom_imports
