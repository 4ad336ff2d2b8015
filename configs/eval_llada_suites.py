"""Suites that need no download: generated texts of any length, five levels of difficulty each.

    python run.py configs/eval_llada_suites.py                  # or: make suites

Runs every shipped tiny model, unscaled, on the first level of every suite, and each once more with
the last window of the text alone and without any, and ends with a table with these floors. Choose
otherwise in `settings` below, or by environment variables of the same names, which win::

    LLADA_MODELS=llada_8b_base LLADA_SUITES=graph_walks,changing_state LLADA_LEVELS=1,3,5 \
        LLADA_LENGTHS=4k,32k LLADA_SAMPLES=50 python run.py configs/eval_llada_suites.py

docs/explanation/suites.md says what each measures, docs/reference/variables.md lists all settings.
Samples are cached in ~/.cache/opencompass_llada; OPENCOMPASS_LLADA_CACHE names another folder.
"""

from mmengine.config import read_base

with read_base():
    from .helpers.planning import plan_suites as __plan_suites

# What to run; a setting that is left out takes its default.
settings = dict(
    levels=[1],
    lengths=[256, 512, 1024],
    samples=8,
    readers=["full", "last_window", "no_context"],
)

__run = __plan_suites(settings)

settings = __run.settings
models = __run.models
datasets = __run.datasets
if __run.combinations:
    model_dataset_combinations = __run.combinations

work_dir = "outputs/llada_suites"

infer = __run.infer
eval = __run.eval
summarizer = __run.summarizer
custom_imports = __run.custom_imports
