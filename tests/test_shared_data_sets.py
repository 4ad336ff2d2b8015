"""A data set is built once for inference and scoring of all models; answers and scores stay."""

import json
from copy import deepcopy

import pytest
from mmengine.config import Config
from test_lost_predictions import make_run

from opencompass_llada.runs import shared_data_sets, tasks
from opencompass_llada.runs.shared_data_sets import build_shared, sharing_data_sets


@pytest.fixture
def built(monkeypatch):
    """The names of the data sets that were built, in order."""
    names, build = [], tasks.build_dataset_from_cfg

    def count(cfg):
        names.append(cfg["abbr"])
        return build(cfg)

    monkeypatch.setattr(tasks, "build_dataset_from_cfg", count)
    return names


def run_both_stages(folder):
    """Answer a cell with two models and score it; return all files of answers and results."""
    run = make_run("niah_embedded", folder)
    (model,), cells = run["models"], run["datasets"]
    models = [model, deepcopy(model) | {"abbr": "other", "batch_size": 1}]
    task = dict(run, models=models, datasets=[cells, deepcopy(cells)])
    task["eval"] = dict(runner=dict(task=dict(dump_details=True)))
    tasks.ShortNamedInferTask(Config(deepcopy(task))).run()
    tasks.CellByCellEvalTask(Config(deepcopy(task))).run()
    return {
        str(path.relative_to(folder)): json.loads(path.read_text())
        for stage in ("predictions", "results")
        for path in sorted((folder / stage).glob("*/*.json"))
    }


def test_a_data_set_is_built_once_and_changes_nothing(tmp_path, monkeypatch, built):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    alone = run_both_stages(tmp_path / "alone")
    assert len(built) == 4, "each model's inference and scoring"
    built.clear()
    with sharing_data_sets():
        assert run_both_stages(tmp_path / "shared") == alone
    assert len(built) == 1
    assert len(alone) == 4


def our_config(folder, **changes):
    return make_run("niah_embedded", folder)["datasets"][0] | changes


def test_what_differs_is_built_apart(tmp_path, built):
    cell = our_config(tmp_path)
    with sharing_data_sets():
        first = build_shared(cell, tasks.build_dataset_from_cfg)
        assert build_shared(cell | {"infer_cfg": {}}, tasks.build_dataset_from_cfg) is first
        other = build_shared(cell | {"abbr": "other"}, tasks.build_dataset_from_cfg)
    assert other is not first
    assert other.test[0]["subdivision"] != first.test[0]["subdivision"]
    assert build_shared(cell, tasks.build_dataset_from_cfg) is not first, "outside nothing is held"


def test_what_is_held_outside_is_there_inside_and_stays(tmp_path, built):
    cell = our_config(tmp_path)
    with sharing_data_sets():
        for _ in range(2):
            with sharing_data_sets():
                build_shared(cell, tasks.build_dataset_from_cfg)
        build_shared(cell, tasks.build_dataset_from_cfg)
    assert len(built) == 1


def test_data_sets_of_others_are_built_each_time():
    with sharing_data_sets():
        made = [build_shared({"type": "mmlu", "abbr": "x"}, lambda config: []) for _ in range(2)]
    assert made[0] is not made[1], "they may draw random numbers"


def test_those_used_longest_ago_go_and_large_ones_are_not_held(tmp_path, monkeypatch, built):
    cells = {name: our_config(tmp_path, abbr=name) for name in "abc"}
    size = shared_data_sets._count_bytes(tasks.build_dataset_from_cfg(cells["a"]))
    assert size > 0
    built.clear()
    monkeypatch.setattr(shared_data_sets, "MOST_BYTES", 2 * size + size // 2)
    with sharing_data_sets():
        for name in "abacab":
            build_shared(cells[name], tasks.build_dataset_from_cfg)
    assert built == ["a", "b", "c", "b"]
    built.clear()
    monkeypatch.setattr(shared_data_sets, "MOST_BYTES", size - 1)
    with sharing_data_sets():
        for _ in range(2):
            build_shared(cells["a"], tasks.build_dataset_from_cfg)
    assert built == ["a", "a"]
