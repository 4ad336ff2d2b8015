"""LongLLaDA's evaluation on needle in a haystack.

    python run.py configs/papers/longllada_niah.py
    LLADA_DEMO=1 python run.py configs/papers/longllada_niah.py  # tiny models, offline

LLaMA-3, LLaDA, LLaDA-1.5 and Dream from 2K to 32K tokens, with every lambda and number of steps.
LLADA_* variables choose among these and override the rest; docs/paper_configs.md has settings,
sources and differences.
"""

from mmengine.config import read_base

from opencompass_llada.report.summarizers import NeedleSummarizer

with read_base():
    from ..helpers.hardware import count_gpus as __count_gpus
    from ..helpers.paper_run import plan_run as __plan_run
    from ..helpers.tasks import make_eval as __make_eval, make_infer as __make_infer

__run = __plan_run("longllada", "niah", __count_gpus())

settings = __run["settings"]
models = __run["models"]
datasets = __run["datasets"]
if __run["combinations"]:
    model_dataset_combinations = __run["combinations"]

work_dir = "outputs/longllada_niah"

infer = __make_infer(__run)
eval = __make_eval(__run, dump_details=True)  # each answer with its score
summarizer = dict(type=NeedleSummarizer, models=__run["described_models"])
