"""The needle-in-a-haystack configs: parsed anywhere, chosen by name, repeatable from the dump."""

import json
import re
import shutil
from copy import deepcopy
from pathlib import Path

import pytest
from config_forms import cells_of
from mmengine.config import Config
from needle_data import write_needlebench
from tiny import write_tiny_checkpoint

import opencompass_llada.assets
from opencompass_llada.benchmarks.counting import name_tokenizer
from opencompass_llada.benchmarks.needle.dataset import NeedleBenchSingleDataset
from opencompass_llada.benchmarks.needle.samples import HaystackStore
from opencompass_llada.report.summarizers import NeedleSummarizer
from opencompass_llada.runs.tasks import CellByCellEvalTask
from opencompass_llada.wrapper import LLaDACausalLM

ROOT = Path(__file__).resolve().parents[1]
MAIN = "configs/eval_llada_niah.py"
HOST_KEYS = ("abbr", "type", "reader_cfg", "infer_cfg", "eval_cfg")


@pytest.fixture(scope="module")
def asset_folder(tmp_path_factory):
    """Stand in for the shipped files: a random model and small data of the same names."""
    folder = tmp_path_factory.mktemp("assets")
    write_tiny_checkpoint(folder / "tiny-llada", max_sequence_length=512)
    write_needlebench(folder / "needlebench", num_documents=60)
    return folder


@pytest.fixture(autouse=True)
def clean_settings(monkeypatch, asset_folder):
    import os

    for name in list(os.environ):
        if name.startswith("LLADA_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(opencompass_llada.assets, "FOLDER", asset_folder)
    # Tokenizers are kept by name, and other tests read the shipped one under the same name.
    monkeypatch.setattr(NeedleBenchSingleDataset, "store", HaystackStore())
    # The embedded template has some 500 bytes, and this tokenizer's tokens are bytes.
    monkeypatch.setenv("LLADA_LENGTHS", "900,1000")


def parse(monkeypatch=None, path=ROOT / MAIN, **variables):
    for name, value in variables.items():
        monkeypatch.setenv(f"LLADA_{name.upper()}", value)
    return Config.fromfile(str(path), format_python_code=False)


def dump_and_reload(cfg, path):
    cfg.dump(str(path))
    return Config.fromfile(str(path), format_python_code=False)


def plain(value):
    """Return a config value with classes as dotted names, as it stands in a dump."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return f"{value.__module__}.{value.__name__}" if isinstance(value, type) else value


def cell_options(dataset):
    """Return what a data set config gives to its class."""
    return {key: value for key, value in dataset.items() if key not in HOST_KEYS}


def test_all_scalings_are_each_models_own(monkeypatch):
    monkeypatch.setattr(NeedleBenchSingleDataset, "check_data", lambda same: None)
    cfg = parse(monkeypatch, models="tiny_llada,llama_3_8b_base", scaling="all")
    methods = [
        (model["abbr"].split("_")[0], model["rope_scaling"]["type"]) for model in cfg["models"]
    ]
    tiny, llama = "tiny-llada", "llama-3-8b-base"
    assert methods == [
        *((tiny, "none"), (tiny, "ntk"), (tiny, "diffusion_ntk")),
        *((llama, "none"), (llama, "ntk"), (llama, "ntk")),
    ]


def test_main_config_runs_three_scalings_from_inside_to_four_times(monkeypatch):
    monkeypatch.setattr(NeedleBenchSingleDataset, "load", None)  # parsing must not need it
    monkeypatch.delenv("LLADA_LENGTHS")
    with pytest.raises(ValueError, match="smallest length"):
        parse()  # 256 bytes hold no template: said at once, before any model is loaded
    cfg = parse(monkeypatch, lengths="1024,2048")
    assert [model["rope_scaling"] for model in cfg["models"]] == [
        {"type": "none"},
        {"type": "ntk", "target_length": 2048},
        {"type": "diffusion_ntk", "target_length": 2048},
    ]
    assert {dataset["depth"] for dataset in cfg["datasets"]} == {0, 25, 50, 75, 100}
    assert len(cfg["datasets"]) == 10


def test_default_lengths_are_half_to_four_times_the_trained_length(monkeypatch):
    monkeypatch.delenv("LLADA_LENGTHS")
    monkeypatch.setattr(NeedleBenchSingleDataset, "check_data", lambda same: None)
    cfg = parse()
    assert {dataset["length"] for dataset in cfg["datasets"]} == {256, 512, 1024, 2048}


def test_every_model_and_data_set_config_is_accepted_by_its_class():
    cfg = parse()
    for model in cfg["models"]:
        LLaDACausalLM.check_arguments(
            **{k: v for k, v in model.items() if k not in ("type", "abbr", "run_cfg")}
        )
    for dataset in cfg["datasets"]:
        NeedleBenchSingleDataset.check_options(**cell_options(dataset))
    for items in (cfg["models"], cfg["datasets"]):
        names = [item["abbr"] for item in items]
        assert len(names) == len(set(names))


def test_it_parses_alike_from_the_checkout_and_as_a_subpackage(tmp_path):
    """A wheel holds configs/ and needlebench/ as subpackages of opencompass_llada."""
    import shutil

    package = tmp_path / "site" / "opencompass_llada"
    for folder in ("configs", "needlebench"):
        shutil.copytree(ROOT / folder, package / folder)
    here = dump_and_reload(parse(), tmp_path / "here.py")
    there = dump_and_reload(parse(path=package / MAIN), tmp_path / "there.py")
    assert plain(here._cfg_dict.to_dict()) == plain(there._cfg_dict.to_dict())


def test_variables_choose_and_the_choice_is_said(monkeypatch, capsys):
    cfg = parse(
        monkeypatch,
        scaling="none,diffusion_ntk:target_length=4096,ntk:theta_multiplier=3.5",
        depths="0,100",
        repeats="3",
        steps="8",
        batch_size="5",
        workers="1",
    )
    assert [m["rope_scaling"] for m in cfg["models"]] == [
        {"type": "none"},
        {"type": "diffusion_ntk", "target_length": 4096},
        {"type": "ntk", "theta_multiplier": 3.5},
    ]
    assert {m["sampler"]["num_steps"] for m in cfg["models"]} == {8}
    assert {m["batch_size"] for m in cfg["models"]} == {5}
    assert [(d["depth"], d["length"]) for d in cfg["datasets"]] == [
        (0, 900),
        (0, 1000),
        (100, 900),
        (100, 1000),
    ]
    assert {d["num_repeats_per_file"] for d in cfg["datasets"]} == {3}
    said = capsys.readouterr().err
    assert "0,100" in said
    assert "$LLADA_DEPTHS" in said
    assert "tiny_llada" in said
    assert "3 models, 12 results" in said


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("LLADA_MODEL", "tiny_llada", "Did you mean 'LLADA_MODELS'"),
        ("LLADA_MODELS", "tiny_lada", "Did you mean 'tiny_llada'"),
        ("LLADA_SCALING", "nkt", "Did you mean 'ntk'"),
        ("LLADA_SCALING", "ntk:target_lenght=5", "target_length"),
        ("LLADA_SCALING", "ntk:2048", "option=number"),
        ("LLADA_LENGTHS", "4q", "whole numbers"),
        ("LLADA_DEPTHS", "0,-5", "whole numbers"),
        ("LLADA_DEPTHS", "0,500", "0 to 100"),
        ("LLADA_REPEATS", "1,2", "one value"),
        ("LLADA_REPEATS", "0", "whole number from 1"),
        ("LLADA_LENGTHS", "\u00b2", "whole numbers"),
        ("LLADA_LENGTHS", "0", "at least one whole number from 1"),
        ("LLADA_MODELS", ",", "at least one text"),
        ("LLADA_SCALING", ",", "at least one text"),
        ("LLADA_SCALING", "ntk:theta_multiplier=inf", "option=number"),
        ("LLADA_SCALING", "ntk:theta_multiplier=nan", "option=number"),
        ("LLADA_DATA", "/no,where", "/no,where"),
        ("LLADA_LANGUAGE", "english", "Valid: en, zh"),
        ("LLADA_LANGUAGE", "zh", "embedded"),
        ("LLADA_PROMPT", "chatt", "Did you mean 'chat'"),
        ("LLADA_DATA", "/nowhere", "COMPASS_DATA_CACHE"),
        ("LLADA_TOKENIZER", "/nowhere", "could not be loaded"),
        ("LLADA_LENGTHS", "100", "smallest length"),
    ],
)
def test_wrong_settings_are_named_before_anything_runs(monkeypatch, name, value, message):
    monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=message) as caught:
        parse()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "settings",
    [
        {"models": "tiny_llada"},
        {"models": ["tiny_llada"], "lengths": "256"},
        {"models": ["tiny_llada"], "lengths": [0]},
        {"models": ["tiny_llada"], "batch_size": 0},
        {"models": ["tiny_llada"], "steps": "4"},
        {"models": [], "steps": 4},
    ],
)
def test_wrong_settings_in_a_config_are_refused_like_wrong_variables(settings, monkeypatch):
    from opencompass_llada.benchmarks.needle.plan import PLAN
    from opencompass_llada.runs.settings import BATCH_SIZE, LEADING, read_settings

    monkeypatch.delenv("LLADA_LENGTHS")
    name = list(settings)[-1] if settings["models"] else "models"
    with pytest.raises(ValueError, match=rf"{name}=.*the config's settings.* must be"):
        read_settings(settings, {**LEADING, **PLAN.settings, **BATCH_SIZE})


def test_embedded_set_by_name_is_the_main_configs_default(monkeypatch):
    monkeypatch.delenv("LLADA_LENGTHS")
    monkeypatch.setattr(NeedleBenchSingleDataset, "check_data", lambda same: None)
    by_name = cells_of("niah_embedded")
    assert plain(list(parse()["datasets"])) == plain(list(by_name))


def test_language_of_given_data_and_the_chat_form(monkeypatch, asset_folder):
    cfg = parse(
        monkeypatch,
        data=str(asset_folder / "needlebench"),
        language="zh",
        prompt="chat",
        tokenizer="model",
    )
    cell = cfg["datasets"][0]
    assert cell["path"] == str((asset_folder / "needlebench").resolve())
    assert (cell["language"], cell["guide"]) == ("Chinese", True)
    assert cell["abbr"].endswith("_chat")


def test_a_tokenizer_is_known_by_its_content(monkeypatch, asset_folder, tmp_path):
    """Three shipped models with one tokenizer were asked three copies of each question."""
    monkeypatch.setattr(NeedleBenchSingleDataset, "check_data", lambda same: None)
    copy, other = tmp_path / "copy", tmp_path / "other"
    for folder in (copy, other):
        shutil.copytree(asset_folder / "tiny-llada", folder)
    content = json.loads((copy / "tokenizer.json").read_text())
    (copy / "tokenizer.json").write_text(json.dumps(content, indent=3))  # as another version writes
    content["added_tokens"].pop()
    (other / "tokenizer.json").write_text(json.dumps(content))
    cfg = parse(monkeypatch, models=f"tiny_llada,tiny_llada={copy},tiny_llada={other}")
    same, different = cfg["model_dataset_combinations"]
    assert [len({m["path"] for m in group["models"]}) for group in (same, different)] == [2, 1]
    assert {cell["tokenizer"] for cell in same["datasets"]} == {"asset:tiny-llada"}
    names = [{cell["abbr"] for cell in group["datasets"]} for group in (same, different)]
    assert not names[0] & names[1]
    assert len(cfg["datasets"]) == len(names[0] | names[1]) == len(names[0]) * 2
    name = name_tokenizer("asset:tiny-llada")
    assert name == name_tokenizer(str(copy)) != name_tokenizer(str(other))
    assert all(abbr.endswith(f"_by-{name}") for abbr in names[0])
    assert re.fullmatch("vocab[0-9]+-[0-9a-f]{6}", name), "readable, and by content"
    assert name_tokenizer("gpt-4") == "gpt-4"
    (copy / "chat_template.jinja").write_text(
        "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    )
    cfg = parse(monkeypatch, models=f"tiny_llada,tiny_llada={copy}", prompt="chat")
    told = [
        {cell["tokenizer"] for cell in g["datasets"]} for g in cfg["model_dataset_combinations"]
    ]
    assert told == [{"asset:tiny-llada"}, {str(copy)}], "chat prompts are counted with the template"
    monkeypatch.undo()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    shipped = Config.fromfile(str(ROOT / MAIN), format_python_code=False)
    assert "model_dataset_combinations" not in shipped, "all shipped models share one tokenizer"
    assert len({cell["length"] * 1000 + cell["depth"] for cell in shipped["datasets"]}) == len(
        shipped["datasets"]
    )


def test_models_with_their_own_tokenizers_get_their_own_cells(monkeypatch):
    monkeypatch.setattr(NeedleBenchSingleDataset, "check_data", lambda same: None)
    cfg = parse(monkeypatch, models="tiny_llada,llada_8b_base", scaling="none,ntk")
    groups = cfg["model_dataset_combinations"]
    assert [[model["abbr"] for model in group["models"]] for group in groups] == [
        ["tiny-llada", "tiny-llada_ntk-target_length2048"],
        ["llada-8b-base", "llada-8b-base_ntk-target_length16384"],
    ]
    for group, path in zip(groups, ("asset:tiny-llada", "GSAI-ML/LLaDA-8B-Base"), strict=True):
        assert {dataset["tokenizer"] for dataset in group["datasets"]} == {path}
    assert len(cfg["datasets"]) == 2 * 2 * 5


def test_8b_models_on_real_needlebench_get_the_published_set(monkeypatch, real_data_root):
    monkeypatch.delenv("LLADA_LENGTHS")
    monkeypatch.setenv("COMPASS_DATA_CACHE", str(real_data_root))
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(real_data_root / "data" / "tiktoken"))
    cfg = parse(monkeypatch, models="llada_8b_base", scaling="none", data="needlebench")
    published = cells_of("niah_en")
    for cell, theirs in zip(cfg["datasets"], published, strict=True):
        assert Path(cell["path"]).is_absolute()
        assert plain({**cell, "path": ""}) == plain({**theirs, "path": ""})


def run_inference(cfg, work_dir):
    from opencompass.tasks import OpenICLInferTask

    cfg = Config(
        {
            "models": cfg["models"],
            "datasets": [deepcopy(cfg["datasets"]) for _ in cfg["models"]],
            "work_dir": str(work_dir),
            "eval": {"runner": {"task": {"dump_details": True}}},
        }
    )
    OpenICLInferTask(cfg).run()
    return cfg


def read_predictions(work_dir):
    return {
        str(path.relative_to(work_dir)): [
            row["prediction"] for row in json.loads(path.read_text()).values()
        ]
        for path in sorted((work_dir / "predictions").rglob("*.json"))
    }


def test_dumped_config_repeats_the_run_without_the_variables(monkeypatch, tmp_path):
    cfg = parse(monkeypatch, depths="0,100", scaling="none,ntk", repeats="2")
    # Random numbers are drawn, so that a lost seed would show.
    for model in cfg["models"]:
        model["sampler"]["temperature"] = 1.0
    first = dump_and_reload(cfg, tmp_path / "first.py")
    run_cfg = run_inference(first, tmp_path / "one")
    for name in ("LENGTHS", "DEPTHS", "SCALING", "REPEATS"):
        monkeypatch.delenv(f"LLADA_{name}")
    monkeypatch.setenv("LLADA_MODELS", "nonsense")
    monkeypatch.setenv("COMPASS_DATA_CACHE", "/nowhere")
    run_inference(parse(path=tmp_path / "first.py"), tmp_path / "two")
    predictions = read_predictions(tmp_path / "one")
    assert len(predictions) == 8
    assert read_predictions(tmp_path / "two") == predictions
    assert len({text for texts in predictions.values() for text in texts}) > 1

    # The same files go through evaluation and summary; a lost cell makes the run fail.
    CellByCellEvalTask(run_cfg).run()
    summary_cfg = Config({**first._cfg_dict.to_dict(), "work_dir": str(tmp_path / "one")})
    summarizer = NeedleSummarizer(summary_cfg, models=summary_cfg["summarizer"]["models"])
    summarizer.summarize(time_str="now")
    assert (tmp_path / "one/summary/heatmap_all_now.png").is_file()
    next((tmp_path / "one/results").rglob("*.json")).unlink()
    with pytest.raises(SystemExit):
        summarizer.summarize(time_str="later")


def test_models_that_are_asked_otherwise_are_named_before_anything_runs(
    monkeypatch, tmp_path, capsys
):
    own = write_tiny_checkpoint(tmp_path / "own", max_sequence_length=512)
    parse(monkeypatch, models=f"{own},tiny_llada", scaling="none")
    told = capsys.readouterr().err
    assert "Not all models are asked the same" in told
    assert "own: 32 new tokens" in told
    assert "tiny-llada: 16 new tokens" in told
    parse(monkeypatch, models=f"{own},tiny_llada", scaling="none", generation_length="16",
          tokenizer=str(own))  # fmt: skip
    assert "Not all models" not in capsys.readouterr().err
