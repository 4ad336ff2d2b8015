"""The main job: needle in a haystack, from inside the tiny models' trained length to 4 times it.

    python run.py configs/eval_llada_niah.py

Runs the shipped tiny models on the embedded haystack: a masked diffusion model without scaling,
with ntk and with diffusion_ntk, the same one post-trained to 16,384 tokens, and their
autoregressive twin; ends with heat maps side by side. Choose otherwise in `settings` below, or by
environment variables of the same names, which win::

    LLADA_MODELS=llada_8b_base LLADA_SCALING=none,ntk:theta_multiplier=14 LLADA_DATA=needlebench

docs/reference/variables.md lists all settings, docs/reference/models.md the models. The
config that OpenCompass dumps into the run's folder repeats the run without any variable.
"""

from mmengine.config import read_base

with read_base():
    from .helpers.planning import plan_run as __plan_run

# What to run; a setting that is left out takes its default: all shipped models, every 25 %.
settings = dict(
    scaling=["all"],
    data="embedded",
    language="en",
    prompt="base",
)

__run = __plan_run("niah", settings)

settings = __run.settings
models = __run.models
datasets = __run.datasets
if __run.combinations:
    model_dataset_combinations = __run.combinations

work_dir = "outputs/llada_niah"

infer = __run.infer
eval = __run.eval
summarizer = __run.summarizer
custom_imports = __run.custom_imports
