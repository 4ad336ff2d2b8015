"""Names of earlier versions: dumped configs of old runs hold them, and `-r` builds by them."""

import importlib
import subprocess
import sys

import pytest
from mmengine.registry import Registry

from opencompass_llada.old_names import MOVED

#: What dumped configs of version 0.1 name; every other name of `MOVED` is looked up in its module.
CLASSES = {
    "datasets.literal_template": "LiteralPromptTemplate",
    "datasets.longbench.dataset": "LongBenchDataset",
    "datasets.longbench.evaluator": "LongBenchEvaluator",
    "datasets.needle_evaluator": "NeedleBenchEvaluator",
    "datasets.needlebench": "NeedleBenchSingleDataset",
    "datasets.option_inferencer": "OptionScoringInferencer",
    "datasets.perplexity.evaluator": "PerplexityEvaluator",
    "datasets.ruler.dataset": "RulerDataset",
    "datasets.ruler.evaluator": "RulerEvaluator",
    **{
        f"{wing}.{module}": name
        for wing in ("results", "report")
        for module, name in {
            "breakdown": "BreakdownSummarizer",
            "coverage": "CoverageSummarizer",
            "group_summarizer": "GroupSummarizer",
            "leaderboard_summarizer": "LeaderboardSummarizer",
            "perplexity_summarizer": "PerplexitySummarizer",
            "side_by_side_summarizer": "SideBySideSummarizer",
            "summarizer": "NeedleSummarizer",
        }.items()
    },
    "running.local_runner": "CoreSharingLocalRunner",
    "running.partitioner": "PackingPartitioner",
    "running.tasks": "CellByCellEvalTask",
    "runs.local_runner": "CoreSharingLocalRunner",
}


@pytest.mark.parametrize("old", sorted(MOVED))
def test_every_old_module_leads_to_the_new_ones_classes(old):
    module = importlib.import_module(f"opencompass_llada.{old}")
    new = importlib.import_module(f"opencompass_llada.{MOVED[old]}")
    name = CLASSES.get(old) or next(n for n, v in vars(new).items() if isinstance(v, type))
    assert getattr(module, name) is getattr(new, name)
    with pytest.raises(AttributeError):
        _ = module.no_such_class


def test_a_dumped_type_is_built_by_its_old_name():
    registry = Registry("any", scope="opencompass_llada")
    found = registry.get("opencompass_llada.running.tasks.ShortNamedInferTask")
    from opencompass_llada.runs.tasks import ShortNamedInferTask

    assert found is ShortNamedInferTask


MODELS = [{"abbr": "one", "title": "One", "trained_length": 4096}]
GROUPS = [{"name": "both", "members": ["a", "b"], "weighting": "samples"}]


@pytest.mark.parametrize(
    ("old", "options"),
    [
        ("summarizer", {"metric": "score", "models": MODELS}),
        ("group_summarizer", {"groups": GROUPS, "metric": "score", "models": MODELS}),
        ("breakdown", {"parts": {"all": "score"}, "groups": GROUPS, "models": MODELS}),
        ("leaderboard_summarizer", {"models": MODELS}),
        ("perplexity_summarizer", {"models": MODELS}),
        (
            "side_by_side_summarizer",
            {"dataset_abbrs": ["a"], "summary_groups": [], "models": MODELS},
        ),
        ("coverage", {"sets": [{"name": "s", "datasets": ["a"], "absent": ""}]}),
    ],
)
def test_summarizers_of_dumped_configs_take_their_keywords(old, options):
    module = importlib.import_module(f"opencompass_llada.results.{old}")
    made = getattr(module, CLASSES[f"results.{old}"])(config={"work_dir": "w"}, **options)
    assert {name: getattr(made, name) for name in options} == options


def test_names_that_never_were_are_no_modules():
    for name in ("opencompass_llada.datasets.nothing", "opencompass_llada.nothing"):
        with pytest.raises(ModuleNotFoundError):
            importlib.import_module(name)


def test_old_names_cost_nothing_and_hide_no_file(repository_root):
    script = (
        "import sys, opencompass_llada; print('torch' in sys.modules, 'opencompass' in sys.modules)"
    )
    run = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=repository_root
    )
    assert run.stdout.split() == ["False", "False"]


def test_a_class_that_moved_makes_the_same_answers():
    from opencompass_llada.benchmarks.needle.dataset import NeedleBenchEvaluator
    from opencompass_llada.runs.makers import plain

    old = "opencompass_llada.datasets.needle_evaluator.NeedleBenchEvaluator"
    assert plain({"type": old}) == plain({"type": NeedleBenchEvaluator})
    assert plain({"type": old}) == {"type": "opencompass_llada.NeedleBenchEvaluator"}
