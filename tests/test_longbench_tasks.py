"""The table of LongBench's tasks: OpenCompass's configs and the published rows as witnesses."""

import importlib
import json
from pathlib import Path

import opencompass
import pytest
from opencompass.datasets.longbench import evaluators as stock

from opencompass_llada.benchmarks.longbench.dataset import LongBenchDataset
from opencompass_llada.benchmarks.longbench.facts import (
    BUCKETS,
    CATEGORIES,
    LONGBENCH_E_TASKS,
    PROMPTS,
    TASKS,
    WORDINGS,
    bucket_of,
    category_groups,
    list_tasks,
    output_length,
)

METRIC_CLASSES = {
    "qa_f1": (stock.LongBenchF1Evaluator, "en"),
    "qa_f1_zh": (stock.LongBenchF1Evaluator, "zh"),
    "rouge": (stock.LongBenchRougeEvaluator, "en"),
    "rouge_zh": (stock.LongBenchRougeEvaluator, "zh"),
    "classification": (stock.LongBenchClassificationEvaluator, "en"),
    "retrieval": (stock.LongBenchRetrievalEvaluator, "en"),
    "retrieval_zh": (stock.LongBenchRetrievalEvaluator, "zh"),
    "count": (stock.LongBenchCountEvaluator, "en"),
    "code_similarity": (stock.LongBenchCodeSimEvaluator, "en"),
}
# LongLLaDA (arXiv 2506.14429v3), Table 1: SD MD Sum ICL Syn Code Avg, truncated to 4k and 8k.
PUBLISHED = [
    (15.1, 18.4, 32.0, 42.0, 54.7, 59.6, 34.1),
    (13.9, 13.1, 30.8, 40.7, 56.0, 57.4, 32.4),
    (14.7, 19.1, 31.5, 40.9, 52.4, 63.0, 34.0),
    (15.2, 18.6, 31.0, 41.4, 53.8, 59.2, 33.6),
    (25.1, 19.4, 30.6, 36.4, 62.8, 62.7, 37.2),
    (22.7, 14.0, 33.4, 33.2, 66.7, 66.4, 36.8),
    (22.1, 19.8, 33.0, 38.0, 63.3, 65.0, 37.8),
    (23.4, 19.8, 35.3, 39.8, 72.9, 67.3, 40.6),
    (24.4, 19.4, 31.6, 33.5, 63.6, 66.7, 37.6),
    (22.6, 14.5, 33.4, 33.0, 67.6, 67.6, 37.1),
    (21.8, 19.7, 33.1, 35.3, 63.4, 67.3, 37.8),
    (23.0, 20.6, 34.9, 39.3, 72.9, 67.9, 40.7),
    (17.2, 18.7, 25.0, 41.7, 47.6, 66.5, 33.6),
    (18.2, 18.3, 26.1, 44.5, 49.6, 69.4, 35.1),
    (31.9, 26.1, 33.6, 39.6, 46.6, 55.9, 37.0),
    (37.5, 28.3, 34.7, 40.7, 62.8, 56.1, 41.9),
]


@pytest.fixture(scope="module")
def stock_data_sets():
    """Return OpenCompass's own data set configs by task."""
    root = Path(opencompass.__file__).parent / "configs/datasets/longbench"
    found = {}
    for path in root.glob("*/longbench_*_gen_*.py"):
        module = ".".join(path.relative_to(root.parents[3]).with_suffix("").parts)
        for name, value in vars(importlib.import_module(module)).items():
            if name.endswith("_datasets"):
                found[value[0]["name"]] = value[0]
    return found


def test_prompts_are_opencompasss_but_for_two_tasks(stock_data_sets):
    assert set(stock_data_sets) == set(TASKS)
    different = set()
    for name, config in stock_data_sets.items():
        (turn,) = config["infer_cfg"]["prompt_template"]["template"]["round"]
        assert WORDINGS["opencompass"][name] == turn["prompt"]
        if PROMPTS[name] != turn["prompt"]:
            different.add(name)
    # THUDM/LongBench has a prompt of its own for qasper, and no line break after "Summary:".
    assert different == {"qasper", "multi_news"}
    assert "unanswerable" in PROMPTS["qasper"]
    assert PROMPTS["multi_news"].endswith("Summary:")


def test_metrics_lengths_and_first_lines_are_opencompasss(stock_data_sets):
    for name, config in stock_data_sets.items():
        task, evaluator = TASKS[name], config["eval_cfg"]["evaluator"]
        kind = (evaluator["type"], evaluator.get("language", "en"))
        assert METRIC_CLASSES[task.metric] == kind
        assert task.first_line == ("pred_postprocessor" in config["eval_cfg"])
        length = config["infer_cfg"]["inferencer"]["max_out_len"]
        if name == "qasper":  # 128 in THUDM/LongBench
            assert (length, task.max_new_tokens) == (32, 128)
        else:
            assert length == task.max_new_tokens
        assert output_length("repositories", name) == -(-length // 64) * 64


def test_the_table_has_the_published_shape():
    assert sum(task.num_samples for task in TASKS.values()) == 4750  # LongBench's README
    assert [sum(t.category == c for t in TASKS.values()) for c in CATEGORIES] == [4, 4, 4, 4, 3, 2]
    assert len(LONGBENCH_E_TASKS) == 13
    assert sum(t.language == "zh" for t in TASKS.values()) == 5
    no_chat = {task.name for task in TASKS.values() if not task.chat}
    assert no_chat == {"trec", "triviaqa", "samsum", "lsht", "lcc", "repobench-p"}
    assert set(PROMPTS) == set(TASKS)


def test_output_lengths_of_the_papers():
    assert {output_length("ultrallada", name) for name in TASKS} == {512}
    summaries = {name for name in TASKS if output_length("longllada", name) == 512}
    assert summaries == {"gov_report", "qmsum", "multi_news", "vcsum"}
    assert {output_length("longllada", name) for name in set(TASKS) - summaries} == {64}
    with pytest.raises(ValueError, match="Did you mean 'longllada'"):
        output_length("longlada", "trec")


def test_what_looks_like_a_placeholder_in_a_text_stays_text(tmp_path):
    row = {
        "context": "{input}{context}{idx}\n",
        "input": "{context}!\n",
        "answers": ["x"],
        "length": 1,
    }
    (tmp_path / "repobench-p.jsonl").write_text(json.dumps(row))
    [prompt] = LongBenchDataset.load(task="repobench-p", path=str(tmp_path))["prompt"]
    assert prompt.endswith("{input}{context}{idx}\n{context}!\nNext line of code:\n")


def test_buckets_meet_at_4000_and_8000():
    lengths = (0, 3999, 4000, 7999, 8000, 10**6)
    assert [bucket_of(n) for n in lengths] == ["0-4k", "0-4k", "4-8k", "4-8k", "8k+", "8k+"]
    assert list(BUCKETS) == ["0-4k", "4-8k", "8k+"]


def test_unknown_tasks_are_refused_with_the_nearest():
    with pytest.raises(ValueError, match="Did you mean 'hotpotqa'"):
        list_tasks("longbench", ["hotpot_qa"])
    with pytest.raises(ValueError, match="Unknown longbench_e task 'dureader'"):
        list_tasks("longbench_e", ["dureader"])


def test_categories_and_averages():
    groups = {group.name: group.to_config() for group in category_groups()}
    assert list(groups) == [*CATEGORIES, "Avg", "Weighted"]
    assert groups["Weighted"]["weighting"] == "samples"
    assert groups["Avg"]["members"] == list(TASKS)
    assert "weighting" not in groups["Avg"]
    assert "MD" not in {group.name for group in category_groups(names=["trec", "lcc"])}


def test_longlladas_average_is_nearest_to_the_mean_over_tasks():
    """Neither mean gives the published Avg; the mean over tasks is nearer to it in every row.

    Mean over tasks minus Avg is -1.5 to 0, weighted by samples +1.2 to +3.7 (both from the category
    columns, which are rounded to 0.1).
    """
    tasks = list(TASKS.values())
    counts = [[t.num_samples for t in tasks if t.category == c] for c in CATEGORIES]
    for *categories, published in PUBLISHED:
        by_task = sum(len(n) * x for n, x in zip(counts, categories, strict=True)) / 21
        by_sample = sum(sum(n) * x for n, x in zip(counts, categories, strict=True)) / 4750
        assert -1.5 < by_task - published < 0
        assert 1.2 < by_sample - published < 3.7
        assert abs(by_task - published) < abs(by_sample - published)
