"""Runs two tasks of some seconds each, whatever a cell costs; `failures.py` disturbs them."""

from mmengine.config import read_base

with read_base():
    from opencompass_llada.configs.helpers.planning import plan_run as __plan_run

settings = dict(
    models=["tiny_llada"],
    scaling=["none"],
    data="embedded",
    lengths=[1024],
    depths=[0, 50, 75, 100],
    repeats=4,
)
__run = __plan_run("niah", settings)

models = __run.models
datasets = __run.datasets
infer = {**__run.infer, "partitioner": {**__run.infer["partitioner"], "num_tasks": 2}}
eval = __run.eval
summarizer = __run.summarizer
custom_imports = __run.custom_imports
