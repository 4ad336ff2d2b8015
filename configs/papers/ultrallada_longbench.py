"""UltraLLaDA's evaluation on LongBench.

    python run.py configs/papers/ultrallada_longbench.py
    LLADA_DEMO=1 python run.py configs/papers/ultrallada_longbench.py  # tiny models, offline

LLaDA-8B-Base and UltraLLaDA on 21 tasks, prompts cut in the middle to 16,000 tokens.
LLADA_* variables choose among these and override the rest; docs/paper_configs.md has settings,
sources and differences.
"""

from mmengine.config import read_base

from opencompass_llada.running.local_runner import CoreSharingLocalRunner
from opencompass_llada.running.tasks import CellByCellEvalTask, ShortNamedInferTask

with read_base():
    from ..helpers.hardware import count_gpus as __count_gpus
    from ..helpers.paper_run import plan_run as __plan_run

__run = __plan_run("ultrallada", "longbench", __count_gpus())

settings = __run["settings"]
models = __run["models"]
datasets = __run["datasets"]

work_dir = "outputs/ultrallada_longbench"

infer = dict(
    partitioner=__run["partitioner"],
    runner=dict(
        type=CoreSharingLocalRunner,
        max_num_workers=__run["workers"],
        task=dict(type=ShortNamedInferTask),
    ),
)
eval = dict(  # OpenCompass reads this name.
    partitioner=__run["eval_partitioner"],
    runner=dict(
        type=CoreSharingLocalRunner,
        max_num_workers=__run["workers"],
        task=dict(type=CellByCellEvalTask, dump_details=True),
    ),
)
summarizer = __run["summarizer"]
