"""LongBench: 21 tasks of long texts, with the papers' truncation and averages.

    python run.py configs/eval_llada_long.py

Runs the shipped tiny model on a sample set in LongBench's format that comes with the package.
Choose otherwise in `settings` below, or by environment variables of the same names, which win.
LongLLaDA's Table 1 and UltraLLaDA's, as their published code runs them::

    LLADA_DATA=longbench LLADA_WORDING=opencompass LLADA_OUTPUT_LENGTHS=repositories
    LLADA_MODELS=llada_8b_instruct LLADA_SCALING=none,ntk:theta_multiplier=4 LLADA_LENGTHS=3500,7500
    LLADA_MODELS=ultrallada LLADA_LENGTHS=16000

``LLADA_BENCHMARK=longbench_e`` scores by length, ``longbench_v2`` asks multiple choice.

docs/reference/variables.md lists all settings, docs/reference/models.md the models. The
config that OpenCompass dumps into the run's folder repeats the run without any variable.
"""

from mmengine.config import read_base

with read_base():
    from .helpers.planning import plan_run as __plan_run

# What to run; a setting that is left out takes its default.
settings = dict(
    models=["tiny_llada"],
    scaling=["none", "ntk"],
    data="embedded",
    benchmark="longbench",
)

__run = __plan_run("longbench", settings)

settings = __run.settings
models = __run.models
datasets = __run.datasets

work_dir = "outputs/llada_long"

infer = __run.infer
eval = __run.eval
summarizer = __run.summarizer
custom_imports = __run.custom_imports
