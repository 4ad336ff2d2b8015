"""The leaderboard in one command: every shipped model on three benchmarks, then the report.

    python run.py configs/eval_leaderboard.py

Runs each shipped tiny model, unscaled and with the scalings that fit it, on needle in a haystack,
a small RULER and perplexity, and ends with report/report.html in the run's folder. Choose otherwise
in `settings` and `options` below, or by LLADA_MODELS, LLADA_SCALING, LLADA_BENCHMARKS,
LLADA_LENGTHS and LLADA_WORKERS, which win. Runs made elsewhere join in with
``opencompass-llada report WORKDIR WORKDIR ... -o DIR``.
"""

from mmengine.config import read_base

with read_base():
    from .helpers.planning import plan_leaderboard as __plan_leaderboard

# What to run; a setting that is left out takes its default.
settings = dict(benchmarks=["niah", "ruler", "ppl"])
# What each benchmark is asked besides, small enough for minutes on two cores.
options = dict(
    niah=dict(
        data="embedded",
        language="en",
        prompt="base",
        lengths=[256, 512, 1024, 2048],
        depths=[0, 25, 50, 75, 100],
        repeats=4,
    ),
    ruler=dict(
        data="embedded",
        prompt="base",
        tasks=[
            *("niah_single_1", "niah_single_2", "niah_single_3", "niah_multikey_1"),
            *("niah_multikey_2", "niah_multikey_3", "niah_multivalue", "niah_multiquery"),
        ],
        lengths=[512, 1024],
        samples=2,
    ),
    ppl=dict(data="generated", estimator="bound", lengths=[256, 512, 1024, 2048], draws=8),
)

__run = __plan_leaderboard(settings, options)

settings = __run.settings
models = __run.models
datasets = __run.datasets
model_dataset_combinations = __run.combinations

work_dir = "outputs/llada_leaderboard"

infer = __run.infer
eval = __run.eval
summarizer = __run.summarizer
custom_imports = __run.custom_imports
