"""Every data set config of the package, a sample of each: does everything build and run?

    python run.py configs/eval_llada_datasets.py          # or: make datasets

Takes all files of configs/datasets whose data is on this machine, names the others and what they
lack, and runs each on the shipped tiny model: every task at its shortest and its longest length,
one sample, at the middle depth. Prompts are built at their full length (RULER's are kept on disk)
and cut in the middle to what the model takes. The scores mean nothing. Choose otherwise in
`settings` below, or by environment variables of the same names, which win::

    COMPASS_DATA_CACHE=... TIKTOKEN_CACHE_DIR=... LLADA_ABSENT=error    # all, or it fails
    LLADA_DATASETS=ruler_128k_base_gen,niah_zh

configs/helpers/datasets_run.py lists all settings.
"""

from mmengine.config import read_base

from opencompass_llada.report.summarizers import CoverageSummarizer

with read_base():
    from .helpers.datasets_run import plan_run as __plan_run
    from .helpers.hardware import count_gpus as __count_gpus
    from .helpers.tasks import make_eval as __make_eval, make_infer as __make_infer

# What to run; a setting that is left out takes its default.
settings = dict(
    models=["tiny_llada"],
    samples=1,
    prompt_limit=512,
    generation_length=16,
    steps=4,
    absent="skip",
)

__run = __plan_run(settings, __count_gpus())

settings = __run["settings"]
models = __run["models"]
datasets = __run["datasets"]

work_dir = "outputs/llada_datasets"

infer = __make_infer(__run)
eval = __make_eval(__run)
summarizer = dict(type=CoverageSummarizer, sets=__run["sets"])
