"""UltraLLaDA's evaluation on LongBench.

    python run.py configs/papers/ultrallada_longbench.py
    LLADA_DEMO=1 python run.py configs/papers/ultrallada_longbench.py  # tiny models, offline

LLaDA-8B-Base and UltraLLaDA on 21 tasks, prompts cut in the middle to 16,000 tokens.
LLADA_* variables choose among these and override the rest; docs/paper_configs.md has settings,
sources and differences.
"""

from mmengine.config import read_base

with read_base():
    from ..helpers.hardware import count_gpus as __count_gpus
    from ..helpers.paper_run import plan_run as __plan_run
    from ..helpers.tasks import make_eval as __make_eval, make_infer as __make_infer

__run = __plan_run("ultrallada", "longbench", __count_gpus())

settings = __run["settings"]
models = __run["models"]
datasets = __run["datasets"]

work_dir = "outputs/ultrallada_longbench"

infer = __make_infer(__run)
eval = __make_eval(__run, dump_details=True)  # each answer with its score
summarizer = __run["summarizer"]
