"""The leaderboard in one command: every shipped model on three benchmarks, then the report.

    python run.py configs/eval_leaderboard.py

Runs each shipped tiny model, unscaled and with the scalings that fit it, on needle in a haystack,
a small RULER and perplexity, and ends with report/report.html in the run's folder. Choose otherwise
in `settings` and `options` below, or by LLADA_MODELS, LLADA_SCALING, LLADA_BENCHMARKS,
LLADA_LENGTHS and LLADA_WORKERS, which win. Runs made elsewhere join in with
``opencompass-llada report WORKDIR WORKDIR ... -o DIR``.
"""

from mmengine.config import read_base

from opencompass_llada.report.summarizers import LeaderboardSummarizer

with read_base():
    from .helpers.hardware import count_gpus as __count_gpus
    from .helpers.leaderboard_run import plan_run as __plan_run
    from .helpers.tasks import make_eval as __make_eval, make_infer as __make_infer

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

__run = __plan_run(settings, options, __count_gpus())

settings = __run["settings"]
models = __run["models"]
datasets = __run["datasets"]
model_dataset_combinations = __run["combinations"]

work_dir = "outputs/llada_leaderboard"

infer = __make_infer(__run)
eval = __make_eval(__run, dump_details=True)  # each answer with its score
summarizer = dict(type=LeaderboardSummarizer, models=__run["described_models"])
