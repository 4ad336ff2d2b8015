"""LongLLaDA's evaluation on RULER.

    python run.py configs/papers/longllada_ruler.py
    LLADA_DEMO=1 python run.py configs/papers/longllada_ruler.py  # tiny models, offline

LLaMA-3, LLaDA, LLaDA-1.5 and Dream at 4K, 8K and 16K tokens, with the paper's lambdas.
LLADA_* variables choose among these and override the rest; docs/paper_configs.md has settings,
sources and differences.
"""

from mmengine.config import read_base

from opencompass_llada.report.summarizers import GroupSummarizer

with read_base():
    from ..helpers.hardware import count_gpus as __count_gpus
    from ..helpers.paper_run import plan_run as __plan_run
    from ..helpers.tasks import make_eval as __make_eval, make_infer as __make_infer
    from ...ruler_patches.groups import longllada_groups as __groups

__run = __plan_run("longllada", "ruler", __count_gpus())

settings = __run["settings"]
models = __run["models"]
datasets = __run["datasets"]
if __run["combinations"]:
    model_dataset_combinations = __run["combinations"]

work_dir = "outputs/longllada_ruler"

infer = __make_infer(__run)
eval = __make_eval(__run, dump_details=True)  # each answer with its score
summarizer = dict(type=GroupSummarizer, groups=__groups, models=__run["described_models"])
