"""Short context: what post-training to long context costs at reasoning, code and knowledge.

    python run.py configs/eval_llada_short.py

Runs the shipped tiny model on a few samples in the benchmarks' formats: the way through, no
measurement. GSM8K, MATH, HumanEval, MBPP, MMLU, ARC-c, HellaSwag and Winogrande with LLaDA's
published settings, for a base checkpoint and one that was post-trained from it::

    LLADA_DATA=opencompass LLADA_MODELS=llada_8b_base,llada_8b_base=/my/checkpoint

Choose otherwise in `settings` below, or by environment variables of the same names, which win;
opencompass_llada/benchmarks/short/plan.py lists all, facts.py beside it the published settings.
HumanEval and MBPP run what the model writes: leave them out with LLADA_TASKS, or use a machine
that may be lost.
"""

from mmengine.config import read_base

with read_base():
    from .helpers.planning import plan_run as __plan_run

# What to run; a setting that is left out takes its default.
settings = dict(
    models=["tiny_llada"],
    scaling=["none"],
    data="embedded",
)

__run = __plan_run("short", settings)

settings = __run.settings
models = __run.models
datasets = __run.datasets
model_dataset_combinations = __run.combinations

work_dir = "outputs/llada_short"

infer = __run.infer
eval = __run.eval
summarizer = __run.summarizer
custom_imports = __run.custom_imports
