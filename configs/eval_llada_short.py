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

with read_base():
    from .helpers.hardware import count_gpus as __count_gpus
    from .helpers.short_run import plan_run as __plan_run
    from .helpers.tasks import make_eval as __make_eval, make_infer as __make_infer

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

infer = __make_infer(__run)
eval = __make_eval(__run, dump_details=True)  # each answer with its score
summarizer = __run["summarizer"]
