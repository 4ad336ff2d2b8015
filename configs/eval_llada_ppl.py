"""Perplexity over context length.

    python run.py configs/eval_llada_ppl.py

Runs the shipped tiny model on generated text, without scaling, with ntk and with diffusion_ntk,
from half to eight times its trained length, and ends with curves. Choose otherwise in `settings`
below, or by environment variables of the same names, which win::

    LLADA_MODELS=llada_8b_base LLADA_SCALING=none,ntk:theta_multiplier=14 LLADA_DATA=book.txt
    LLADA_ESTIMATOR=longllada LLADA_LENGTHS=1024,2048,4096,8192     # as LongLLaDA measures
    LLADA_TARGET=64      # the same last 64 tokens at every length, given a growing clean prefix

opencompass_llada/benchmarks/perplexity/plan.py lists all settings. An autoregressive model is
scored exactly on the same text: add OpenCompass's own ``HuggingFaceBaseModel`` to `models`.
"""

from mmengine.config import read_base

with read_base():
    from .helpers.planning import plan_run as __plan_run

# What to run; a setting that is left out takes its default.
settings = dict(
    models=["tiny_llada"],
    scaling=["none", "ntk", "diffusion_ntk"],
    data="generated",
    estimator="bound",
    target="whole",
    draws=12,
)

__run = __plan_run("perplexity", settings)

settings = __run.settings
models = __run.models
datasets = __run.datasets
if __run.combinations:
    model_dataset_combinations = __run.combinations

work_dir = "outputs/llada_ppl"

infer = __run.infer
eval = __run.eval
summarizer = __run.summarizer
custom_imports = __run.custom_imports
