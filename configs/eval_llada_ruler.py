"""RULER: 13 tasks of retrieval, tracing, aggregation and question answering by length.

    python run.py configs/eval_llada_ruler.py

Runs the shipped tiny model, without scaling and with ntk, on the 11 tasks that need no download,
and ends with a table of tasks and groups. Choose otherwise in `settings` below, or by environment
variables of the same names, which win. LongLLaDA's Table 2 for LLaDA-8B-Base::

    LLADA_DATA=ruler LLADA_MODELS=llada_8b_base LLADA_SCALING=none,ntk:theta_multiplier=4

docs/reference/variables.md lists all settings, docs/reference/models.md the models. Samples
are cached in ~/.cache/opencompass_llada; OPENCOMPASS_LLADA_CACHE names another folder, or `none`.
"""

from mmengine.config import read_base

with read_base():
    from .helpers.planning import plan_run as __plan_run

# What to run; a setting that is left out takes its default.
settings = dict(
    models=["tiny_llada"],
    scaling=["none", "ntk"],
    data="embedded",
    prompt="base",
)

__run = __plan_run("ruler", settings)

settings = __run.settings
models = __run.models
datasets = __run.datasets
if __run.combinations:
    model_dataset_combinations = __run.combinations

work_dir = "outputs/llada_ruler"

infer = __run.infer
eval = __run.eval
summarizer = __run.summarizer
custom_imports = __run.custom_imports
