"""UltraLLaDA's evaluation on needle in a haystack.

    python run.py configs/papers/ultrallada_niah.py
    LLADA_DEMO=1 python run.py configs/papers/ultrallada_niah.py  # tiny models, offline

LLaDA-8B-Base and UltraLLaDA from 8K to 128K tokens, 16 steps.
LLADA_* variables choose among these and override the rest; docs/paper_configs.md has settings,
sources and differences.
"""

from mmengine.config import read_base

from opencompass_llada.running.local_runner import CoreSharingLocalRunner
from opencompass_llada.running.tasks import CellByCellEvalTask, ShortNamedInferTask
from opencompass_llada.results.summarizer import NeedleSummarizer

with read_base():
    from ..helpers.hardware import count_gpus as __count_gpus
    from ..helpers.paper_run import plan_run as __plan_run

__run = __plan_run("ultrallada", "niah", __count_gpus())

settings = __run["settings"]
models = __run["models"]
datasets = __run["datasets"]
if __run["combinations"]:
    model_dataset_combinations = __run["combinations"]

work_dir = "outputs/ultrallada_niah"

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
summarizer = dict(type=NeedleSummarizer, models=__run["described_models"])
