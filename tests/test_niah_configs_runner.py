"""How tasks are cut and run: few for tiny models, each with its share of the cores."""

import json
import os

import pytest
from mmengine.config import Config
from opencompass.openicl.icl_prompt_template import PromptTemplate
from opencompass.openicl.icl_retriever import FixKRetriever
from opencompass.runners import LocalRunner
from tiny import write_tiny_checkpoint
from tiny_choices import ROWS, model_config, plain, questions

from opencompass_llada.runs.partitioner import PackingPartitioner
from opencompass_llada.runs.tasks import (
    THREADS_VARIABLE,
    CoreSharingLocalRunner,
    ShortNamedInferTask,
)
from opencompass_llada.wrapper import LLaDACausalLM


@pytest.fixture
def launched(monkeypatch):
    """Record the variable that task processes would inherit."""
    seen = []
    monkeypatch.setattr(
        LocalRunner, "launch", lambda self, tasks: seen.append(os.environ.get(THREADS_VARIABLE))
    )
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.delenv(THREADS_VARIABLE, raising=False)
    return seen


@pytest.mark.parametrize(("workers", "tasks", "threads"), [(2, 6, "4"), (4, 1, "8"), (16, 16, "1")])
def test_cores_are_divided_among_the_tasks_that_run_at_once(launched, workers, tasks, threads):
    runner = CoreSharingLocalRunner(task={"type": "x"}, max_num_workers=workers)
    runner.launch([None] * tasks)
    assert launched == [threads]
    assert THREADS_VARIABLE not in os.environ


def test_a_variable_that_is_set_stays(launched, monkeypatch):
    monkeypatch.setenv(THREADS_VARIABLE, "3")
    CoreSharingLocalRunner(task={"type": "x"}, max_num_workers=2).launch([None, None])
    assert launched == ["3"]
    assert os.environ[THREADS_VARIABLE] == "3"


def test_debug_mode_changes_nothing(launched):
    CoreSharingLocalRunner(task={"type": "x"}, max_num_workers=2, debug=True).launch([None])
    assert launched == [None]


@pytest.mark.parametrize(("models", "cells", "workers", "tasks"), [(3, 44, 2, 2), (8, 66, 2, 6)])
def test_tiny_models_are_packed_into_few_tasks(tmp_path, models, cells, workers, tasks):
    from opencompass_llada.runs.planning import small_cells_partitioner

    options = small_cells_partitioner(models * cells, cells, workers, num_gpus=0)
    cfg = {
        "models": [{"abbr": f"m{i}"} for i in range(models)],
        "datasets": [{"abbr": f"d{i}"} for i in range(cells)],
        "work_dir": str(tmp_path),
        "eval": {"runner": {"task": {"dump_details": True}}},
    }
    done = tmp_path / "out" / "m1" / "d0.json"
    done.parent.mkdir(parents=True)
    done.touch()
    made = PackingPartitioner(out_dir=str(tmp_path / "out"), num_tasks=options["num_tasks"])(
        Config(cfg)
    )
    pairs = [
        (model["abbr"], dataset["abbr"])
        for task in made
        for model, datasets in zip(task["models"], task["datasets"], strict=True)
        for dataset in datasets
    ]
    expected = {(f"m{i}", f"d{j}") for i in range(models) for j in range(cells)} - {("m1", "d0")}
    assert len(made) == tasks
    assert len(pairs) == len(set(pairs))
    assert set(pairs) == expected
    sizes = [sum(map(len, task["datasets"])) for task in made]
    assert max(sizes) - min(sizes) <= len(made)
    assert all(task["eval"]["runner"]["task"]["dump_details"] for task in made)


def test_every_task_gets_the_same_share_of_every_models_work(tmp_path):
    # One model may be ten times as slow as another: each one's data sets go to all tasks.
    lengths = [256, 512, 1024, 2048] * 5
    cells = {
        "models": [{"abbr": f"m{i}"} for i in range(3)],
        "datasets": [{"abbr": f"d{i}", "length": n} for i, n in enumerate(lengths)],
    }
    tasks = deal(tmp_path, [cells], 2)
    loads = [
        {
            model["abbr"]: sum(dataset["length"] for dataset in own)
            for model, own in zip(task["models"], task["datasets"], strict=True)
        }
        for task in tasks
    ]
    for model in ("m0", "m1", "m2"):
        own = [load[model] for load in loads]
        assert sum(own) == sum(lengths)
        assert max(own) - min(own) <= max(lengths)
    totals = [sum(load.values()) for load in loads]
    assert max(totals) - min(totals) <= 512
    # A model that does not load, or a cell that fails, is not the first of every task.
    assert [task["models"][0]["abbr"] for task in tasks] == ["m0", "m1"]
    for task in tasks:
        for own in task["datasets"]:
            places = [int(dataset["abbr"][1:]) for dataset in own]
            assert places == sorted(places)


def deal(tmp_path, cells, num_tasks):
    out = str(tmp_path / "out")
    partitioner = PackingPartitioner(out_dir=out, num_tasks=num_tasks)
    return partitioner.partition(cells, str(tmp_path), out)


def test_data_sets_without_a_length_are_dealt_like_the_others(tmp_path):
    known = [{"abbr": "long", "length": 1024}, {"abbr": "short", "length": 512}]
    datasets = known + [{"abbr": f"d{i}"} for i in range(40)]
    tasks = deal(tmp_path, [{"models": [{"abbr": "m"}], "datasets": datasets}], 2)
    assert sorted(len(task["datasets"][0]) for task in tasks) == [21, 21]


def test_a_task_keeps_two_configs_of_one_model_apart(tmp_path):
    # A sampler's steps differ by benchmark; each data set is answered with its own.
    needles = {"models": [{"abbr": "m", "steps": 4}], "datasets": [{"abbr": "needle"}]}
    ruler = {"models": [{"abbr": "m", "steps": 12}], "datasets": [{"abbr": "ruler"}]}
    (task,) = PackingPartitioner(out_dir=str(tmp_path / "out"), num_tasks=1).partition(
        [needles, ruler, {**needles, "datasets": [{"abbr": "other"}]}], str(tmp_path), "out"
    )
    asked = [
        (dataset["abbr"], model["steps"])
        for model, datasets in zip(task["models"], task["datasets"], strict=True)
        for dataset in datasets
    ]
    assert sorted(asked) == [("needle", 4), ("other", 4), ("ruler", 12)]


def test_large_models_get_tasks_of_their_own():
    from opencompass_llada.runs.planning import small_cells_partitioner

    options = small_cells_partitioner(3 * 66, 66, 1, num_gpus=1)
    assert options["type"] == "opencompass.partitioners.NaivePartitioner"
    assert options["n"] == 33


@pytest.mark.parametrize("num_shots", [0, 2])
def test_prompts_are_counted_only_where_examples_may_be_left_out(tmp_path, monkeypatch, num_shots):
    checkpoint = write_tiny_checkpoint(tmp_path / "tiny")
    dataset = questions()
    if num_shots:
        infer = dataset["infer_cfg"]
        infer["prompt_template"]["ice_token"] = "</E>"
        turns = infer["prompt_template"]["template"]
        infer["ice_template"] = {"type": PromptTemplate, "template": {**turns}}
        infer["prompt_template"]["template"] = {"begin": "</E>", **turns}
        infer["retriever"] = {"type": FixKRetriever, "fix_id_list": list(range(num_shots))}
    counted = []
    count = LLaDACausalLM.get_token_len
    monkeypatch.setattr(
        LLaDACausalLM, "get_token_len", lambda *given: counted.append(1) or count(*given)
    )
    sampler = {"block_length": 8, "num_steps": 2}
    model = model_config(checkpoint, max_seq_len=24, drop_middle=True, sampler=sampler)
    cfg = plain({"models": [model], "datasets": [[dataset]], "work_dir": str(tmp_path)})
    ShortNamedInferTask(Config(cfg)).run()
    answers = json.loads((tmp_path / "predictions/tiny/questions.json").read_text())
    assert bool(counted) == bool(num_shots)
    shown = [answer["origin_prompt"].count("Q: ") - 1 for answer in answers.values()]
    assert shown == [min(num_shots, 1)] * len(ROWS), "one example of two fits 24 tokens"
