"""Short context: what post-training to long context costs at reasoning, code and knowledge.

    python run.py configs/eval_llada_short.py

Runs the shipped tiny model on a few samples in the benchmarks' formats: the way through, no
measurement. GSM8K, MATH, HumanEval, MBPP, MMLU, ARC-c, HellaSwag and Winogrande with LLaDA's
published settings, for a base checkpoint and one that was post-trained from it::

    LLADA_DATA=opencompass LLADA_MODELS=llada_8b_base,llada_8b_base=/my/checkpoint

Choose otherwise in `settings` below, or by environment variables of the same names, which win;
configs/helpers/short_run.py lists all, configs/helpers/short_facts.py the published settings.
HumanEval and MBPP run what the model writes: leave them out with LLADA_TASKS, or use a machine
that may be lost.
"""

from mmengine.config import read_base

from opencompass_llada.running.local_runner import CoreSharingLocalRunner
from opencompass_llada.running.tasks import CellByCellEvalTask, ShortNamedInferTask

with read_base():
    from .helpers.hardware import count_gpus as __count_gpus
    from .helpers.short_run import plan_run as __plan_run

# What to run; a setting that is left out takes its default.
settings = dict(
    models=["tiny_llada"],
    scaling=["none"],
    data="embedded",
)

__run = __plan_run(settings, __count_gpus())

settings = __run["settings"]
models = __run["models"]
datasets = __run["datasets"]
model_dataset_combinations = __run["combinations"]

work_dir = "outputs/llada_short"

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
        # dump_details: keep each answer with its score in the results.
        task=dict(type=CellByCellEvalTask, dump_details=True),
    ),
)
summarizer = __run["summarizer"]
