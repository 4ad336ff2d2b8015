"""UltraLLaDA's evaluation on RULER.

    python run.py configs/papers/ultrallada_ruler.py
    LLADA_DEMO=1 python run.py configs/papers/ultrallada_ruler.py  # tiny models, offline

LLaDA-8B-Base and UltraLLaDA on 13 tasks at 4K, 8K, 16K and 32K tokens.
LLADA_* variables choose among these and override the rest. Settings, sources and differences are in
docs/reference/paper_configs.md.
"""

from mmengine.config import read_base

with read_base():
    from ..helpers.planning import plan_paper as __plan_paper

__run = __plan_paper("ultrallada", "ruler")

settings = __run.settings
models = __run.models
datasets = __run.datasets
if __run.combinations:
    model_dataset_combinations = __run.combinations

work_dir = "outputs/ultrallada_ruler"

infer = __run.infer
eval = __run.eval
summarizer = __run.summarizer
custom_imports = __run.custom_imports
