"""OpenCompass's own long suites: MRCR v2, BABILong, AA-LCR, NeedleBench v2, LongBench v2, ...

    python run.py configs/eval_llada_published_suites.py

Runs the shipped tiny model on a few samples of each suite that come as code, in the published
layout: the way through, no measurement. Choose otherwise in `settings` below, or by environment
variables of the same names, which win. Two suites on their published files, of which only samples
that fit in 32,768 of the model's tokens are taken::

    LLADA_DATA=published LLADA_SUITES=mrcr,babilong LLADA_LENGTHS=32k LLADA_FIT=keep \
        LLADA_MODELS=llada_8b_base python run.py configs/eval_llada_published_suites.py

The suites' pages in docs/reference/benchmarks say what their files are and what was not tried on
them; docs/reference/variables.md lists all settings. Suites that need no download are
configs/eval_llada_suites.py.
"""

from mmengine.config import read_base

with read_base():
    from .helpers.planning import plan_published_suites as __plan_published_suites

# What to run; a setting that is left out takes its default.
settings = dict(
    models=["tiny_llada"],
    scaling=["none"],
    data="embedded",
)

__run = __plan_published_suites(settings)

settings = __run.settings
models = __run.models
datasets = __run.datasets
model_dataset_combinations = __run.combinations

work_dir = "outputs/llada_published_suites"

infer = __run.infer
eval = __run.eval
summarizer = __run.summarizer
custom_imports = __run.custom_imports
