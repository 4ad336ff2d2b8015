"""Every data set config of the package, a sample of each: does everything build and run?

    python run.py configs/eval_llada_datasets.py          # or: make datasets

Takes all files of configs/datasets, in all their forms, whose data is on this machine, names the
others and what they lack, and runs each on the shipped tiny model: every task at its shortest and
its longest length, one sample, at the middle depth. Prompts are built at their full length (RULER's
are cached on disk) and cut in the middle to what the model takes. The scores mean nothing. Choose
otherwise in `settings` below, or by environment variables of the same names, which win::

    COMPASS_DATA_CACHE=... TIKTOKEN_CACHE_DIR=... LLADA_ABSENT=error    # all, or it fails
    LLADA_DATASETS=ruler_128k_base_gen,niah_zh

opencompass_llada/runs/every_data_set.py lists all settings.
"""

from mmengine.config import read_base

with read_base():
    from .helpers.planning import plan_data_sets as __plan_data_sets

# What to run; a setting that is left out takes its default.
settings = dict(
    models=["tiny_llada"],
    samples=1,
    prompt_limit=512,
    generation_length=16,
    steps=4,
    absent="skip",
)

__run = __plan_data_sets(settings)

settings = __run.settings
models = __run.models
datasets = __run.datasets

work_dir = "outputs/llada_datasets"

infer = __run.infer
eval = __run.eval
summarizer = __run.summarizer
custom_imports = __run.custom_imports
