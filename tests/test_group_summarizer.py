"""Group averages: right weights, honest gaps, and a run that fails when a result is missing."""

import csv
import json
import math

import pytest

from opencompass_llada.report.summarizers import GroupSummarizer

GROUPS = [
    {"name": "PAIR", "members": ["a", "b"]},
    {"name": "ALL", "members": ["a", "b", "c"], "weighting": "samples"},
    {"name": "MORE", "members": ["a", "d"]},
]
SCORES = {"a": (10.0, 1), "b": (20.0, 1), "c": (90.0, 8)}


def make_config(work_dir):
    return {
        "work_dir": str(work_dir),
        "models": [{"type": "m", "abbr": "one"}, {"type": "m", "abbr": "two"}],
        "datasets": [
            {
                "type": "somewhere.Dataset",
                "abbr": f"x{length}{task}",
                "benchmark": "bench",
                "task": task,
                "length": length,
            }
            for length in (2000, 500)
            for task in SCORES
        ],
    }


@pytest.fixture
def run(tmp_path):
    cfg = make_config(tmp_path)
    for model in cfg["models"]:
        for dataset in cfg["datasets"]:
            score, n = SCORES[dataset["task"]]
            write(tmp_path, model, dataset, {"score": score, "num_samples": n})
    return cfg, tmp_path


def write(root, model, dataset, result):
    contents = {"results": result, "predictions": {"0": {"prediction": "x"}}}
    for folder, content in contents.items():
        path = root / folder / model["abbr"] / f"{dataset['abbr']}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))


def read_csv(path):
    return list(csv.DictReader(path.open()))


def test_weights_order_and_files(run):
    cfg, root = run
    GroupSummarizer(cfg, groups=GROUPS).summarize(time_str="now")
    rows = read_csv(root / "summary/groups_now.csv")
    assert [(row["model"], row["length"]) for row in rows[::3]] == [
        ("one", "500"),
        ("one", "2000"),
        ("two", "500"),
        ("two", "2000"),
    ]
    scores = {row["group"]: row["score"] for row in rows}
    assert float(scores["PAIR"]) == pytest.approx(15.0)
    assert float(scores["ALL"]) == pytest.approx((10 + 20 + 8 * 90) / 10)
    assert {row["status"] for row in rows if row["group"] == "MORE"} == {"not run"}
    assert scores["MORE"] == ""
    tidy = read_csv(root / "summary/results_now.csv")
    assert {(row["benchmark"], row["task"]) for row in tidy} == {("bench", t) for t in SCORES}
    text = (root / "summary/summary_now.md").read_text()
    assert "| one | no scaling | 500 | **15.0** | **75.0** | - | 10.0 | 20.0 | 90.0 |" in text


def test_a_group_with_a_missing_member_has_no_number_and_the_run_fails(run):
    cfg, root = run
    (root / "results/one/x500b.json").unlink()
    with pytest.raises(SystemExit) as stop:
        GroupSummarizer(cfg, groups=GROUPS).summarize(time_str="now")
    assert stop.value.code == 1
    rows = read_csv(root / "summary/groups_now.csv")
    wrong = [row for row in rows if row["status"] == "missing"]
    assert [(row["model"], row["length"], row["group"]) for row in wrong] == [
        ("one", "500", "PAIR"),
        ("one", "500", "ALL"),
    ]
    assert all(row["score"] == "" and "b" in row["reason"] for row in wrong)
    text = (root / "summary/summary_now.md").read_text()
    assert "| one | no scaling | 500 | missing | missing | - | 10.0 | missing | 90.0 |" in text


@pytest.mark.parametrize("bad", [{"score": math.nan}, {"error": "lost a shard"}, {}])
def test_an_unusable_result_is_missing(run, bad):
    cfg, root = run
    write(root, cfg["models"][1], cfg["datasets"][0], bad)
    with pytest.raises(SystemExit):
        GroupSummarizer(cfg, groups=GROUPS).summarize(time_str="now")
    rows = read_csv(root / "summary/groups_now.csv")
    wrong = [row["group"] for row in rows if row["status"] == "missing"]
    assert wrong == ["PAIR", "ALL"], "of MORE a task was not asked for"


def test_standard_error_of_a_mean_of_tasks(run):
    cfg, root = run
    for dataset in cfg["datasets"]:
        details = [{"score": [value]} for value in (0.0, 100.0)]
        result = {"score": 50.0, "num_samples": 2, "details": details}
        write(root, cfg["models"][0], dataset, result)
    GroupSummarizer(cfg, groups=GROUPS[:1]).summarize(time_str="now")
    first = read_csv(root / "summary/groups_now.csv")[0]
    assert float(first["standard_error"]) == pytest.approx(50 / math.sqrt(2))
    assert first["n"] == "4"


@pytest.mark.parametrize(
    ("group", "message"),
    [
        ({"name": "g", "members": ["a"], "weigthing": "mean"}, "Did you mean 'weighting'"),
        ({"name": "g", "members": ["a"], "weighting": "sample"}, "Did you mean 'samples'"),
        ({"name": "g", "members": []}, "one or more"),
        ({"name": "g", "members": ["a", "a"]}, "twice"),
    ],
)
def test_wrong_groups_are_refused(tmp_path, group, message):
    with pytest.raises(ValueError, match=message):
        GroupSummarizer(make_config(tmp_path), groups=[group])


def test_two_data_sets_of_one_task_are_refused(run):
    cfg, _ = run
    cfg["datasets"].append({**cfg["datasets"][0], "abbr": "again"})
    with pytest.raises(ValueError, match="both are task='a' at length=2000"):
        GroupSummarizer(cfg, groups=GROUPS).summarize(time_str="now")
