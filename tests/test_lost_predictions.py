"""Lost and half-written prediction files: an error and a missing cell, never a score.

For every benchmark, with its own evaluator and summarizer, on predictions that were made in two
shards by OpenCompass's NumWorkerPartitioner.
"""

import csv
import importlib
import json
import shutil
from copy import deepcopy
from pathlib import Path

import pytest
from mmengine.config import Config
from opencompass.partitioners import NumWorkerPartitioner
from opencompass.tasks import OpenICLInferTask
from prompt_capture import plain
from tiny import write_tiny_checkpoint

from opencompass_llada.runs.every_data_set import find_data_sets
from opencompass_llada.runs.tasks import CellByCellEvalTask

ROOT = Path(__file__).resolve().parents[1]
NUM_SAMPLES = 4
# Data set config of each benchmark -> config of its summarizer, and the number that it shows.
BENCHMARKS = {
    "niah_embedded": ("niah", "score"),
    "multi_needle_embedded": ("multi_needle", "score"),
    "ruler_embedded": ("ruler", "score"),
    "graph_walks": ("ruler", "score"),
    "longbench_embedded": ("longbench", "score"),
    "longbench_v2_embedded": ("longbench_v2", "score"),
    "ppl_generated": ("perplexity", "perplexity"),
    "ppl_generated_longllada": ("perplexity", "perplexity"),
}


def lose_last(folder, name):
    (folder / f"{name}_1.json").unlink()


def lose_first(folder, name):
    (folder / f"{name}_0.json").unlink()


def lose_both(folder, name):
    lose_first(folder, name)
    lose_last(folder, name)


def tear_last(folder, name):
    path = folder / f"{name}_1.json"
    text = path.read_text()
    path.write_text(text[: len(text) // 2])


def lose_a_sample(folder, name):
    path = folder / f"{name}_1.json"
    rows = json.loads(path.read_text())
    rows.pop("1")
    path.write_text(json.dumps(rows))


def lose_an_answer(folder, name):
    path = folder / f"{name}_1.json"
    rows = json.loads(path.read_text())
    rows["1"].pop("prediction")
    path.write_text(json.dumps(rows))


def tear_the_whole(folder, name):
    rows = [json.loads((folder / f"{name}_{i}.json").read_text()) for i in (0, 1)]
    whole = {str(i): row for i, row in enumerate([*rows[0].values(), *rows[1].values()])}
    text = json.dumps(whole)
    lose_both(folder, name)
    (folder / f"{name}.json").write_text(text[: len(text) // 2])


DAMAGES = [
    lose_last,
    lose_first,
    lose_both,
    tear_last,
    lose_a_sample,
    lose_an_answer,
    tear_the_whole,
]


@pytest.fixture(scope="module", params=BENCHMARKS)
def predicted(request, tmp_path_factory):
    """Return a run whose one data set was predicted in two shards, and its summarizer's config."""
    folder = tmp_path_factory.mktemp(request.param)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENCOMPASS_LLADA_CACHE", "none")
        patch.setenv("CUDA_VISIBLE_DEVICES", "")
        patch.chdir(folder)  # the partitioner writes sizes below its folder
        run = make_run(request.param, folder)
        tasks = NumWorkerPartitioner(
            out_dir=str(folder / "predictions"), num_worker=2, min_task_size=1, force_rebuild=True
        )(Config(deepcopy(run)))
        assert len(tasks) == 2
        for task in tasks:
            OpenICLInferTask(task).run()
    summarizer = Config.fromfile(
        str(ROOT / f"configs/summarizers/{BENCHMARKS[request.param][0]}.py"),
        format_python_code=False,
    )["summarizer"]
    return run, plain(summarizer), BENCHMARKS[request.param][1]


def make_run(name, folder):
    """Return the config of a random model on the first cell of a data set config."""
    (file,) = find_data_sets([name])
    cell = deepcopy(file.cells[0])
    sizes = {"num_samples", "num_repeats_per_file", "num_texts"} & set(cell)
    for key in sizes:
        cell[key] = NUM_SAMPLES
    if not sizes:
        cell["reader_cfg"]["test_range"] = f"[0:{NUM_SAMPLES}]"
    if "likelihood" in cell["infer_cfg"]["inferencer"]:
        cell["infer_cfg"]["inferencer"]["likelihood"]["num_draws"] = 4
    else:
        cell["infer_cfg"]["inferencer"]["max_out_len"] = 4
    model = dict(
        type="opencompass_llada.wrapper.LLaDACausalLM",
        abbr="model",
        path=str(write_tiny_checkpoint(folder / "tiny")),
        sampler=dict(block_length=4, num_steps=1),
        max_seq_len=60,
        drop_middle=True,
        max_out_len=4,
        batch_size=2,
        run_cfg=dict(num_gpus=0),
    )
    return dict(models=[model], datasets=[cell], work_dir=str(folder))


def evaluate(run):
    task = dict(run, datasets=[run["datasets"]], eval=dict(runner=dict(task=dict(dump_details=1))))
    CellByCellEvalTask(Config(deepcopy(task))).run()


def summarize(run, config):
    """Summarize and return the rows of the table; SystemExit goes through after writing it."""
    options = {key: value for key, value in config.items() if key != "type"}
    module, _, name = config["type"].rpartition(".")
    kind = getattr(importlib.import_module(module), name)
    kind(Config(deepcopy(run)), **options).summarize("now")


def table(run):
    (path,) = [
        path
        for path in (Path(run["work_dir"]) / "summary").glob("*_now.csv")
        if path.name.startswith(("results", "perplexity"))
    ]
    with path.open() as lines:
        return list(csv.DictReader(lines))


def copy_run(run, folder):
    """Copy the predictions of a run into another folder and return its config."""
    shutil.copytree(Path(run["work_dir"]) / "predictions", folder / "predictions")
    return dict(run, work_dir=str(folder))


def test_two_whole_shards_have_a_score(predicted, tmp_path):
    run, summarizer, number = predicted
    run = copy_run(run, tmp_path)
    evaluate(run)
    summarize(run, summarizer)
    rows = table(run)
    assert rows
    assert {row["status"] for row in rows} == {"ok"}
    assert all(row[number] for row in rows)


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_damage_costs_the_score(predicted, tmp_path, damage):
    run, summarizer, number = predicted
    run = copy_run(run, tmp_path)
    damage(tmp_path / "predictions/model", run["datasets"][0]["abbr"])
    with pytest.raises(RuntimeError, match="could not be evaluated"):
        evaluate(run)
    assert not list((tmp_path / "results").rglob("*.json"))
    with pytest.raises(SystemExit) as stop:
        summarize(run, summarizer)
    assert stop.value.code == 1
    for row in table(run):
        assert (row["status"], row[number]) == ("missing", "")
