"""RULER's configs: by name, by settings, from the dump; and a run to its table."""

import csv
import json
import os
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace

import pytest
from config_forms import NAMES, cells_of, read_form
from mmengine.config import Config
from ruler_data import STOCK, write_ruler

from opencompass_llada.assets import resolve_path
from opencompass_llada.benchmarks.benchmark import parse_groups
from opencompass_llada.benchmarks.counting import name_tokenizer
from opencompass_llada.benchmarks.needle.samples import HaystackStore
from opencompass_llada.benchmarks.ruler.dataset import RulerDataset
from opencompass_llada.benchmarks.ruler.prompts import TASKS, RulerSpec
from opencompass_llada.benchmarks.ruler.samples import build_samples
from opencompass_llada.prompting.encode import load_tokenizer
from opencompass_llada.report.averages import average_group
from opencompass_llada.report.summarizers import GroupSummarizer
from opencompass_llada.runs.planning import list_data_sets
from opencompass_llada.runs.tasks import CellByCellEvalTask

ROOT = Path(__file__).resolve().parents[1]
MAIN = ROOT / "configs/eval_llada_ruler.py"
BY_NAME = [name for name in NAMES if name.startswith("ruler_")]
SUMMARIZERS = sorted((ROOT / "configs/summarizers").glob("ruler*.py"))
HOST_KEYS = ("abbr", "type", "reader_cfg", "infer_cfg", "eval_cfg")


@pytest.fixture(autouse=True)
def clean_settings(monkeypatch, tmp_path):
    for name in list(os.environ):
        if name.startswith("LLADA_") or name == "TOKENIZER_MODEL":
            monkeypatch.delenv(name)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("OPENCOMPASS_LLADA_CACHE", str(tmp_path / "cache"))


def parse(path=MAIN):
    return Config.fromfile(str(path), format_python_code=False)


def options_of(dataset):
    return {key: value for key, value in dataset.items() if key not in HOST_KEYS}


def turns_of(dataset):
    return dataset["infer_cfg"]["prompt_template"]["template"]["round"]


@pytest.mark.parametrize("name", BY_NAME)
def test_data_sets_by_name(name, tmp_path):
    cfg, key = read_form(name), "ruler_embedded_datasets"
    key = key if name == "ruler_embedded" else "ruler_datasets"
    cfg.dump(str(tmp_path / "dumped.py"))
    again = parse(tmp_path / "dumped.py")[key]
    cells = cfg[key]
    assert len({cell["abbr"] for cell in cells}) == len(cells)
    assert [options_of(cell) for cell in again] == [options_of(cell) for cell in cells]
    for cell in cells:
        spec = RulerDataset.check_options(**options_of(cell))
        assert cell["eval_cfg"]["evaluator"]["match"] == TASKS[spec.task].match
        assert ("chat" in name) == cell["abbr"].endswith("_chat")
        assert f"_by-{name_tokenizer(spec.tokenizer)}" in cell["abbr"]
        assert str(spec.length) in cell["abbr"]
        roles = [turn["role"] for turn in turns_of(cell)]
        assert roles == (["HUMAN", "BOT"] if "chat" in name else ["HUMAN"])
    if name != "ruler_embedded":
        size = int(name.split("_")[1].removesuffix("k")) * 1024
        assert [cell["task"] for cell in cells] == list(TASKS)
        assert {(cell["length"], cell["num_samples"]) for cell in cells} == {(size, 100)}


def test_chat_prompts_are_the_stock_configs():
    stock = Config.fromfile(str(STOCK))["ruler_datasets"]
    ours = cells_of("ruler_4k_chat_gen")
    by_name = {entry["abbr"]: entry for entry in stock}
    assert len(by_name) == len(ours) == 13
    for cell in ours:
        theirs = by_name[f"ruler_{cell['task']}_4k"]
        assert [dict(turn) for turn in turns_of(cell)] == [dict(turn) for turn in turns_of(theirs)]
        assert cell["length"] == theirs["max_seq_length"]
        assert cell["num_samples"] == theirs["num_samples"]


def test_a_length_of_a_million():
    cells = list_data_sets("ruler", lengths=["128k", "1m"], tasks=["niah_single_2"])
    assert [cell["length"] for cell in cells] == [131072, 1048576]


def test_lengths_by_another_tokenizer_are_in_the_abbreviation(monkeypatch):
    monkeypatch.setenv("TOKENIZER_MODEL", "GSAI-ML/LLaDA-8B-Base")
    cells = cells_of("ruler_8k_base_gen")
    assert {cell["tokenizer"] for cell in cells} == {"GSAI-ML/LLaDA-8B-Base"}
    assert all(cell["abbr"].endswith("_length8192_by-LLaDA-8B-Base") for cell in cells)


@pytest.mark.parametrize("path", SUMMARIZERS, ids=lambda path: path.stem)
def test_group_tables(path):
    groups = parse_groups(parse(path)["summarizer"]["groups"])
    assert set(groups[-1].members) == set(TASKS)
    assert all(set(group.members) <= set(TASKS) for group in groups)


def test_the_average_is_the_papers():
    """LongLLaDA's row of LLaDA-8B-Base at 4K: 99.7, 65.2, 82.5 and 89.1."""
    table = parse(ROOT / "configs/summarizers/ruler_longllada.py")["summarizer"]["groups"]
    groups = {group.name: group for group in parse_groups(table)}
    rows = {}
    for name in ("NIAH", "AGG", "QA"):
        for task in groups[name].members:
            rows[task] = make_row(task, {"NIAH": 99.7, "AGG": 65.2, "QA": 82.5}[name])
    assert average_group(rows, groups["Avg"]).score == pytest.approx(89.1, abs=0.05)
    assert set(rows) == set(TASKS)


def make_row(task, score):
    return SimpleNamespace(task=task, n=100, score=score, standard_error=None, status="ok")


def test_main_config_runs_what_needs_no_data(capsys, tmp_path):
    cfg = parse()
    tasks = {dataset["task"] for dataset in cfg["datasets"]}
    assert tasks == {task for task in TASKS if not task.startswith("qa_")}
    assert {dataset["length"] for dataset in cfg["datasets"]} == {512, 1024, 2048}
    assert {model["max_out_len"] for model in cfg["models"]} == {48}
    for model in cfg["models"]:
        assert model["sampler"] == {"block_length": 16, "num_steps": 12}
    assert_rooms(cfg["datasets"])
    assert len(cfg["models"]) == 2
    said = capsys.readouterr().err
    assert "2 models, 60 results" in said
    assert "cwe from 2048" in said
    cfg.dump(str(tmp_path / "dumped.py"))
    again = parse(tmp_path / "dumped.py")
    assert [options_of(d) for d in again["datasets"]] == [options_of(d) for d in cfg["datasets"]]
    assert again["summarizer"]["groups"] == cfg["summarizer"]["groups"]


def assert_rooms(cells):
    """Assert that answers get 48 tokens, or what RULER keeps where that is less."""
    rooms = {cell["task"]: cell["infer_cfg"]["inferencer"]["max_out_len"] for cell in cells}
    assert rooms == {name: min(48, TASKS[name].tokens_to_generate) for name in rooms}
    assert (rooms["vt"], rooms["cwe"], rooms["niah_single_3"]) == (30, 48, 48)
    for cell in cells:
        assert cell["tokens_to_generate"] == rooms[cell["task"]]


def test_the_data_sets_by_name_keep_the_same_room():
    assert_rooms(cells_of("ruler_embedded"))


@pytest.mark.parametrize("given", [32, 64])
def test_a_length_that_is_asked_for_is_taken_for_every_task(monkeypatch, given):
    monkeypatch.setenv("LLADA_GENERATION_LENGTH", str(given))
    cfg = parse()
    for cell in cfg["datasets"]:
        assert cell["infer_cfg"]["inferencer"]["max_out_len"] == given
        assert cell["tokens_to_generate"] == given
    for model in cfg["models"]:
        assert model["sampler"] == {"block_length": given, "num_steps": given}


@pytest.mark.parametrize("task", ["niah_single_3", "niah_multikey_3", "niah_multivalue"])
def test_the_room_holds_the_answers_and_32_tokens_did_not(task):
    checkpoint = "asset:tiny-llada"
    spec = RulerSpec(
        task=task, length=2048, tokenizer=checkpoint, num_samples=6, path="asset:needlebench",
        essay_file="synthetic_en.jsonl",
    )  # fmt: skip
    tokenizer = load_tokenizer(resolve_path(checkpoint), {})
    texts = [
        " " + ", ".join(sample.answers)
        for sample in build_samples(spec, HaystackStore().tokenizer(checkpoint))
    ]
    counts = [len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts]
    assert max(counts) <= 48
    assert sum(count > 32 for count in counts) >= len(counts) - 1


def test_the_papers_settings_on_real_data(monkeypatch, tmp_path):
    folder = write_ruler(tmp_path / "ruler")
    for name, value in dict(
        MODELS="llada_8b_base,ultrallada", SCALING="none", DATA=str(folder), SAMPLES="2",
        TOKENIZER="asset:tiny-llada", LENGTHS="4500",
    ).items():  # fmt: skip
        monkeypatch.setenv(f"LLADA_{name}", value)
    monkeypatch.setattr(RulerDataset, "check_data", lambda same: None)
    cfg = parse()
    assert [cell["task"] for cell in cfg["datasets"]] == list(TASKS)
    assert "tokens_to_generate" not in cfg["datasets"][0]
    for model in cfg["models"]:
        assert model["max_out_len"] == 64
        assert model["sampler"] == {"block_length": 64, "num_steps": 64}
    paths = {cell["task"]: cell["path"] for cell in cfg["datasets"]}
    assert paths["qa_squad"] == paths["niah_single_2"] == str(folder.resolve())


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("TASK", "vt", "Did you mean 'LLADA_TASKS'"),
        ("TASKS", "vtt", "Did you mean 'vt'"),
        ("TASKS", "qa_squad", "embedded"),
        ("LENGTHS", "512", "too small for RULER's cwe"),
        ("MODELS", "tiny_lada", "Did you mean 'tiny_llada'"),
        ("DATA", "/nowhere", "COMPASS_DATA_CACHE"),
        ("PROMPT", "chatt", "Did you mean 'chat'"),
    ],
)
def test_wrong_settings_are_named_before_anything_runs(monkeypatch, name, value, message):
    monkeypatch.setenv(f"LLADA_{name}", value)
    with pytest.raises(ValueError, match=message):
        parse()


def test_a_run_ends_in_the_table_and_a_lost_shard_in_an_error(monkeypatch, tmp_path):
    from opencompass.tasks import OpenICLInferTask

    monkeypatch.setenv("LLADA_TASKS", "niah_single_1,fwe")
    monkeypatch.setenv("LLADA_LENGTHS", "480")
    monkeypatch.setenv("LLADA_SCALING", "none")
    monkeypatch.setenv("LLADA_STEPS", "3")
    parse().dump(str(tmp_path / "dumped.py"))
    cfg = parse(tmp_path / "dumped.py")
    run = Config(
        {
            "models": cfg["models"],
            "datasets": [deepcopy(cfg["datasets"])],
            "work_dir": str(tmp_path / "run"),
            "eval": {"runner": {"task": {"dump_details": True}}},
        }
    )
    OpenICLInferTask(run).run()
    CellByCellEvalTask(run).run()
    whole = Config({**cfg._cfg_dict.to_dict(), "work_dir": str(tmp_path / "run")})
    summarizer = GroupSummarizer(whole, groups=whole["summarizer"]["groups"])
    summarizer.summarize(time_str="now")
    rows = list(csv.DictReader((tmp_path / "run/summary/results_now.csv").open()))
    assert [(row["benchmark"], row["task"], row["length"]) for row in rows] == [
        ("ruler", "niah_single_1", "480"),
        ("ruler", "fwe", "480"),
    ]
    assert all(row["status"] == "ok" and row["n"] == "3" for row in rows)

    path = next((tmp_path / "run/predictions").rglob("*fwe*.json"))
    kept = json.loads(path.read_text())
    kept.pop("2")
    path.write_text(json.dumps(kept))
    next((tmp_path / "run/results").rglob("*fwe*.json")).unlink()
    with pytest.raises(RuntimeError, match="fwe"):
        CellByCellEvalTask(run).run()
    with pytest.raises(SystemExit):
        summarizer.summarize(time_str="later")
    rows = list(csv.DictReader((tmp_path / "run/summary/results_later.csv").open()))
    assert [row["status"] for row in rows] == ["ok", "missing"]
