"""Which cells of a run count as missing, and what is said about them."""

import json

import pytest

from opencompass_llada.runs.exit_status import describe_missing, find_missing, read_last_error

CONFIG = {
    "models": [{"abbr": "good"}, {"abbr": "bad"}],
    "datasets": [{"abbr": "niah_4k"}, {"abbr": "niah_4k_depth[50]"}],
}


def write(root, model, dataset, *, result=None, predictions=True):
    if predictions:
        path = root / "predictions" / model / f"{dataset}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text('{"0": {"prediction": "x"}}')
    if result is not None:
        path = root / "results" / model / f"{dataset}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(result if isinstance(result, str) else json.dumps(result))


@pytest.fixture
def run(tmp_path):
    for model in ("good", "bad"):
        for dataset in CONFIG["datasets"]:
            write(tmp_path, model, dataset["abbr"], result={"score": 0})
    return tmp_path


def faults(root, **keywords):
    return {
        (cell.model, cell.dataset): (cell.stage, cell.reason)
        for cell in find_missing(CONFIG, root, **keywords)
    }


def test_a_complete_run_misses_nothing(run):
    assert find_missing(CONFIG, run) == []


@pytest.mark.parametrize(
    ("result", "reason"),
    [
        ({"error": "a shard is lost"}, "evaluator reported an error: a shard is lost"),
        ("{broken", "not valid JSON"),
        ({}, "empty"),
    ],
)
def test_unusable_results_are_missing(run, result, reason):
    write(run, "bad", "niah_4k", result=result)
    found = faults(run)
    assert list(found) == [("bad", "niah_4k")]
    assert found["bad", "niah_4k"][0] == "results"
    assert reason in found["bad", "niah_4k"][1]


def test_missing_files_are_missing_and_the_first_stage_is_named(run):
    (run / "predictions" / "bad" / "niah_4k.json").unlink()
    (run / "results" / "bad" / "niah_4k_depth[50].json").unlink()
    assert faults(run) == {
        ("bad", "niah_4k"): ("predictions", "no predictions were written"),
        ("bad", "niah_4k_depth[50]"): ("results", "no result was written"),
    }
    assert list(faults(run, stages=("predictions",))) == [("bad", "niah_4k")]


def test_shards_count_if_none_is_lost_or_unfinished(run):
    folder = run / "predictions" / "bad"
    (folder / "niah_4k.json").unlink()
    for number in (0, 1, 2):
        (folder / f"niah_4k_{number}.json").write_text('{"0": {"prediction": "x"}}')
    assert faults(run) == {}
    (folder / "niah_4k_1.json").unlink()
    assert faults(run)["bad", "niah_4k"] == ("predictions", "prediction shards [1] are missing")
    (folder / "niah_4k_1.json").write_text('{"0": {"prediction": "x"}}')
    (folder / "tmp_niah_4k_3.jsonl").write_text("{}")
    assert "tmp_niah_4k_3.jsonl" in faults(run)["bad", "niah_4k"][1]


def test_another_data_sets_files_are_not_taken_for_shards(tmp_path):
    write(tmp_path, "good", "niah_4k_depth[50]", result={"score": 1})
    assert ("good", "niah_4k") in faults(tmp_path)


def test_combinations_are_read_where_a_config_has_them(run):
    config = {
        "models": CONFIG["models"],
        "datasets": CONFIG["datasets"],
        "model_dataset_combinations": [
            {"models": [{"abbr": "good"}], "datasets": [{"abbr": "niah_4k"}, {"abbr": "absent"}]}
        ],
    }
    assert [(c.model, c.dataset) for c in find_missing(config, run)] == [("good", "absent")]


def test_the_log_of_the_task_and_its_last_error_are_named(run):
    (run / "results" / "bad" / "niah_4k_depth[50].json").unlink()
    log_path = run / "logs" / "eval" / "bad" / "niah_4k.out"
    log_path.parent.mkdir(parents=True)
    log_path.write_text(
        "INFO - Task [bad/niah_4k,bad/niah_4k_depth[50]]\n"
        "Traceback (most recent call last):\n  File ...\nKeyError: 'x'\n\n"
        "During handling of the above exception, another exception occurred:\n\n"
        "Traceback (most recent call last):\n  File ...\n"
        "opencompass_llada.networks.CheckpointError: wrong shape\n"
    )
    (cell,) = find_missing(CONFIG, run)
    assert cell.log_path == log_path
    assert read_last_error(log_path) == ["opencompass_llada.networks.CheckpointError: wrong shape"]
    text = describe_missing([cell])
    assert "bad on niah_4k_depth[50]" in text
    assert str(log_path) in text
    assert "CheckpointError: wrong shape" in text


def test_a_log_without_exception_gives_its_end(tmp_path):
    log_path = tmp_path / "x.out"
    log_path.write_text("one\ntwo\nthree\nKilled\n")
    assert read_last_error(log_path) == ["two", "three", "Killed"]


def test_many_missing_cells_are_counted(tmp_path):
    config = {"models": [{"abbr": "m"}], "datasets": [{"abbr": f"d{i}"} for i in range(30)]}
    text = describe_missing(find_missing(config, tmp_path), limit=5)
    assert text.startswith("30 (model, data set) pairs")
    assert text.endswith("and 25 more")
