"""RULER: 13 tasks of retrieval, tracing, aggregation and question answering by length.

    python run.py configs/eval_llada_ruler.py

Runs the shipped tiny model, without scaling and with ntk, on the 11 tasks that need no download,
and ends with a table of tasks and groups. Choose otherwise in `settings` below, or by environment
variables of the same names, which win. LongLLaDA's Table 2 for LLaDA-8B-Base::

    LLADA_DATA=ruler LLADA_MODELS=llada_8b_base LLADA_SCALING=none,ntk:theta_multiplier=4

configs/helpers/ruler_run.py lists all settings, docs/models.md the models. Samples are
kept in ~/.cache/opencompass_llada; OPENCOMPASS_LLADA_CACHE names another folder, or `none`.
"""

from mmengine.config import read_base

from opencompass_llada.report.summarizers import GroupSummarizer

with read_base():
    from .helpers.hardware import count_gpus as __count_gpus
    from .helpers.ruler_run import plan_run as __plan_run
    from ..ruler_patches.groups import ruler_groups as __ruler_groups
    from .helpers.tasks import make_eval as __make_eval, make_infer as __make_infer

# What to run; a setting that is left out takes its default.
settings = dict(
    models=["tiny_llada"],
    scaling=["none", "ntk"],
    data="embedded",
    prompt="base",
)

__run = __plan_run(settings, __count_gpus())

settings = __run["settings"]
models = __run["models"]
datasets = __run["datasets"]
if __run["combinations"]:
    model_dataset_combinations = __run["combinations"]

work_dir = "outputs/llada_ruler"

infer = __make_infer(__run)
eval = __make_eval(__run, dump_details=True)  # each answer with its score
summarizer = dict(type=GroupSummarizer, groups=__ruler_groups, models=__run["described_models"])
