"""LongBench's configs: parsed anywhere, chosen by name, run through OpenCompass's own tasks."""

import csv
import os
from copy import deepcopy
from pathlib import Path

import pytest
from mmengine.config import Config
from opencompass.registry import LOAD_DATASET
from tiny import write_tiny_checkpoint

import opencompass_llada.assets
from opencompass_llada.benchmarks.longbench.facts import CATEGORIES, LONGBENCH_E_TASKS, TASKS
from opencompass_llada.report.summarizers import BreakdownSummarizer, GroupSummarizer
from opencompass_llada.runs.tasks import CellByCellEvalTask, ShortNamedInferTask
from opencompass_llada.wrapper import LLaDACausalLM

ROOT = Path(__file__).resolve().parents[1]
DATASET_FILES = sorted(p.stem for p in (ROOT / "configs/datasets").glob("longbench*.py"))
SUMMARIZER_FILES = sorted(p.stem for p in (ROOT / "configs/summarizers").glob("longbench*.py"))


@pytest.fixture(scope="module")
def asset_folder(tmp_path_factory):
    """Stand in for the shipped model with a random one; the sample set is the shipped one."""
    folder = tmp_path_factory.mktemp("assets")
    write_tiny_checkpoint(folder / "tiny-llada", max_sequence_length=512)
    (folder / "longbench").symlink_to(ROOT / "opencompass_llada/assets/longbench")
    return folder


@pytest.fixture(autouse=True)
def clean_settings(monkeypatch, asset_folder):
    for name in list(os.environ):
        if name.startswith("LLADA_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(opencompass_llada.assets, "FOLDER", asset_folder)


def parse(monkeypatch=None, path=ROOT / "configs/eval_llada_long.py", **variables):
    for name, value in variables.items():
        monkeypatch.setenv(f"LLADA_{name.upper()}", value)
    return Config.fromfile(str(path), format_python_code=False)


def dump_and_reload(cfg, path):
    cfg.dump(str(path))
    return Config.fromfile(str(path), format_python_code=False)


def plain(value):
    """Return a config value with classes by their names, which a dump may import elsewhere from."""
    if isinstance(value, dict):
        kind = {"type": plain(value["type"]).rsplit(".", 1)[-1]} if "type" in value else {}
        return {key: plain(item) for key, item in value.items()} | kind
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value.__name__ if isinstance(value, type) else value


def out_lengths(cfg):
    return {d["task"]: d["infer_cfg"]["inferencer"]["max_out_len"] for d in cfg["datasets"]}


def test_default_covers_every_category_with_the_sample_set(tmp_path):
    cfg = parse()
    assert {TASKS[dataset["task"]].category for dataset in cfg["datasets"]} == set(CATEGORIES)
    assert {dataset["path"] for dataset in cfg["datasets"]} == {"asset:longbench"}
    assert [model["rope_scaling"]["type"] for model in cfg["models"]] == ["none", "ntk"]
    assert {(m["max_seq_len"], m["drop_middle"]) for m in cfg["models"]} == {(1024, True)}
    for model in cfg["models"]:
        LLaDACausalLM.check_arguments(
            **{k: v for k, v in model.items() if k not in ("type", "abbr", "run_cfg")}
        )
    names = [group["name"] for group in cfg["summarizer"]["groups"]]
    assert names == [*CATEGORIES, "Avg", "Weighted"]
    again = dump_and_reload(cfg, tmp_path / "x.py")
    for key in ("settings", "models", "datasets", "infer", "eval", "summarizer"):
        assert plain(again[key]) == plain(cfg[key])


def test_it_parses_alike_as_a_subpackage(tmp_path):
    import shutil

    package = tmp_path / "site" / "opencompass_llada"
    shutil.copytree(ROOT / "configs", package / "configs")
    shutil.copytree(ROOT / "needlebench", package / "needlebench")
    here = dump_and_reload(parse(), tmp_path / "here.py")
    there = dump_and_reload(
        parse(path=package / "configs/eval_llada_long.py"), tmp_path / "there.py"
    )
    assert plain(here._cfg_dict.to_dict()) == plain(there._cfg_dict.to_dict())


@pytest.mark.parametrize("name", DATASET_FILES)
def test_data_sets_by_name_survive_the_dump_and_load(name, tmp_path, monkeypatch, request):
    cfg = parse(path=ROOT / f"configs/datasets/{name}.py")
    assert [key for key in cfg if key.endswith("_datasets")] == [f"{name}_datasets"]
    datasets = cfg[f"{name}_datasets"]
    again = dump_and_reload(Config({"datasets": datasets[:3]}), tmp_path / "x.py")["datasets"]
    assert plain(again) == plain(datasets[:3])
    if not name.endswith("embedded"):
        root = request.getfixturevalue("real_data_root")
        if not (root / "data" / "Longbench").is_dir() or name == "longbench_v2":
            pytest.skip("no data of this benchmark: set COMPASS_DATA_CACHE")
        monkeypatch.setenv("COMPASS_DATA_CACHE", str(root))
        monkeypatch.delenv("DATASET_SOURCE", raising=False)
    for config in deepcopy(datasets):
        config = config.to_dict()
        for key in ("infer_cfg", "eval_cfg"):
            del config[key]
        assert len(LOAD_DATASET.build(config).test) > 0


def test_data_set_files_have_the_published_tasks():
    counts = {
        name: len(parse(path=ROOT / f"configs/datasets/{name}.py")[f"{name}_datasets"])
        for name in DATASET_FILES
    }
    assert counts["longbench"] == 21
    assert counts["longbench_e"] == 13
    assert counts["longbench_v2"] == 1


@pytest.mark.parametrize("name", SUMMARIZER_FILES)
def test_summarizers_by_name_survive_the_dump(name, tmp_path):
    cfg = parse(path=ROOT / f"configs/summarizers/{name}.py")
    again = dump_and_reload(Config({"summarizer": cfg["summarizer"]}), tmp_path / "x.py")
    assert plain(again["summarizer"]) == plain(cfg["summarizer"])


def test_the_papers_runs_on_real_data(monkeypatch, real_data_root):
    if not (real_data_root / "data" / "Longbench").is_dir():
        pytest.skip("no LongBench data: set COMPASS_DATA_CACHE")
    monkeypatch.setenv("COMPASS_DATA_CACHE", str(real_data_root))
    monkeypatch.delenv("DATASET_SOURCE", raising=False)
    cfg = parse(
        monkeypatch,
        models="llada_8b_base",
        scaling="none,ntk:theta_multiplier=4",
        data="longbench",
        output_lengths="longllada",
        wording="opencompass",
    )
    assert [(m["max_seq_len"], m["rope_scaling"]["type"]) for m in cfg["models"]] == [
        (3500, "none"),
        (3500, "ntk"),
        (7500, "none"),
        (7500, "ntk"),
    ]
    assert {m["sampler"]["block_length"] for m in cfg["models"]} == {64}
    # Capped at one a token where a data set generates fewer than 512.
    assert {m["sampler"]["num_steps"] for m in cfg["models"]} == {512}
    assert {d["wording"] for d in cfg["datasets"]} == {"opencompass"}
    assert len(cfg["datasets"]) == 21
    assert all(Path(d["path"]).is_absolute() for d in cfg["datasets"])
    assert out_lengths(cfg)["vcsum"] == 512
    assert out_lengths(cfg)["lcc"] == 64
    ultra = parse(monkeypatch, models="ultrallada", scaling="none", output_lengths="ultrallada")
    assert {m["max_seq_len"] for m in ultra["models"]} == {16000}
    assert set(out_lengths(ultra).values()) == {512}
    by_length = parse(monkeypatch, benchmark="longbench_e", samples="2", lengths="500")
    assert [d["task"] for d in by_length["datasets"]] == list(LONGBENCH_E_TASKS)
    assert {d["reader_cfg"]["test_range"] for d in by_length["datasets"]} == {"[0:2]"}
    assert all(d["eval_cfg"]["evaluator"]["by_length"] for d in by_length["datasets"])


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("LLADA_BENCHMARK", "longbenche", "Did you mean 'longbench_e'"),
        ("LLADA_BENCHMARK", "longbench_e", "LLADA_DATA=longbench"),
        ("LLADA_TASKS", "hotpot", "Did you mean 'hotpotqa'"),
        ("LLADA_TASKS", "dureader", "tasks there: hotpotqa"),
        ("LLADA_OUTPUT_LENGTHS", "longlada", "Did you mean 'longllada'"),
        ("LLADA_LENGTHS", "4q", "whole numbers"),
        ("LLADA_DEPTHS", "0", "Unknown variable"),
        ("LLADA_DATA", "/nowhere", "COMPASS_DATA_CACHE"),
        ("LLADA_MODELS", "tiny_lada", "Did you mean 'tiny_llada'"),
    ],
)
def test_wrong_settings_are_named_before_anything_runs(monkeypatch, name, value, message):
    monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=message) as caught:
        parse()
    assert "\n" not in str(caught.value)


def run_all(cfg, work_dir):
    """Infer and evaluate in this process, as OpenCompass's tasks do."""
    task_cfg = Config(
        {
            "models": cfg["models"],
            "datasets": [deepcopy(cfg["datasets"]) for _ in cfg["models"]],
            "work_dir": str(work_dir),
            "eval": {"runner": {"task": {"dump_details": True}}},
        }
    )
    ShortNamedInferTask(deepcopy(task_cfg)).run()
    CellByCellEvalTask(deepcopy(task_cfg)).run()
    return Config({**cfg._cfg_dict.to_dict(), "work_dir": str(work_dir)})


def test_sample_set_runs_and_a_lost_file_is_a_missing_cell(monkeypatch, tmp_path):
    cfg = parse(monkeypatch, scaling="none", samples="1", lengths="300", steps="2")
    run = run_all(dump_and_reload(cfg, tmp_path / "x.py"), tmp_path)
    assert len(list((tmp_path / "results").rglob("*.json"))) == 6
    options = {key: run["summarizer"][key] for key in ("groups", "models")}
    GroupSummarizer(run, **options).summarize(time_str="now")
    text = (tmp_path / "summary/summary_now.md").read_text()
    assert "prompts up to 300" in text
    assert "**SD** | **MD** | **Sum** | **ICL** | **Syn** | **Code** | **Avg** | **Wei" in text
    next((tmp_path / "results").rglob("*trec*.json")).unlink()
    with pytest.raises(SystemExit):
        GroupSummarizer(run, **options).summarize(time_str="later")
    rows = list(csv.DictReader((tmp_path / "summary/groups_later.csv").open()))
    missing = {row["group"] for row in rows if row["status"] == "missing"}
    assert missing == {"ICL", "Avg", "Weighted"}
    assert {row["score"] for row in rows if row["group"] in missing} == {""}


def test_v2_sample_set_runs_and_is_broken_down(monkeypatch, tmp_path):
    cfg = parse(
        monkeypatch, scaling="none", samples="3", lengths="300", steps="2", benchmark="longbench_v2"
    )
    run = run_all(dump_and_reload(cfg, tmp_path / "x.py"), tmp_path)
    options = {key: run["summarizer"][key] for key in ("parts", "models")}
    BreakdownSummarizer(run, **options).summarize(time_str="now")
    rows = list(csv.DictReader((tmp_path / "summary/results_now.csv").open()))
    counts = {row["metric"]: row["n"] for row in rows}
    assert counts == {
        "accuracy": "3",
        "accuracy_easy": "2",
        "accuracy_hard": "1",
        "accuracy_short": "3",
    }
    text = (tmp_path / "summary/summary_now.md").read_text()
    assert "| hard |" in text
    assert "| medium |" not in text
    next((tmp_path / "results").rglob("*.json")).write_text('{"accur')
    with pytest.raises(SystemExit):
        BreakdownSummarizer(run, **options).summarize(time_str="later")
    assert "| all | missing |" in (tmp_path / "summary/summary_later.md").read_text()


def test_longbench_e_is_broken_down_by_length(monkeypatch, tmp_path, real_data_root):
    if not (real_data_root / "data" / "Longbench").is_dir():
        pytest.skip("no LongBench data: set COMPASS_DATA_CACHE")
    monkeypatch.setenv("COMPASS_DATA_CACHE", str(real_data_root))
    monkeypatch.delenv("DATASET_SOURCE", raising=False)
    cfg = parse(
        monkeypatch,
        scaling="none",
        samples="1",
        lengths="200",
        steps="1",
        benchmark="longbench_e",
        data="longbench",
        output_lengths="short",
        block_length="64",
    )
    run = run_all(dump_and_reload(cfg, tmp_path / "x.py"), tmp_path)
    options = {key: run["summarizer"][key] for key in ("parts", "groups", "models")}
    BreakdownSummarizer(run, **options).summarize(time_str="now")
    text = (tmp_path / "summary/summary_now.md").read_text()
    assert "| 0-4k |" in text
    rows = list(csv.DictReader((tmp_path / "summary/groups_now.csv").open()))
    assert {row["metric"] for row in rows if row["group"] == "Avg"} == {"score", "score_0-4k"}
