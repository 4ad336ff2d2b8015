"""A config of about ten lines runs own models on shipped benchmarks and OpenCompass's data sets."""

import json
import os
import shutil
import sys
from pathlib import Path

import pytest
from mmengine.config import Config

from opencompass_llada.assets import resolve_path
from opencompass_llada.cli import main
from opencompass_llada.runs.checks import check_options
from opencompass_llada.runs.evaluation import board_benchmarks, plan_evaluation
from opencompass_llada.runs.model_configs import parse_scaling
from opencompass_llada.runs.new_config import SHIPPED, NewConfig
from opencompass_llada.runs.run_folder import read_dumped_config
from opencompass_llada.runs.settings import read_length

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def clean_settings(monkeypatch):
    for name in list(os.environ):
        if name.startswith("LLADA_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


def parse(text, folder):
    file = folder / "my.py"
    file.write_text(text)
    return Config.fromfile(str(file), format_python_code=False)


def test_the_shipped_names_are_those_that_can_be_run():
    assert {*SHIPPED} == {*board_benchmarks()}


def test_ten_lines_run_two_benchmarks_and_a_stock_data_set(tmp_path, capsys):
    words = ["--model", "tiny_llada", "--benchmarks", "niah,ruler", "--lengths", "2k,4096"]
    words += ["--scaling", "none,ntk:target_length=4k", "--data", "embedded"]
    assert main(["new-config", *words, "--datasets", "gsm8k_gen"]) == 0
    text = capsys.readouterr().out
    assert 10 <= len([line for line in text.splitlines() if line.strip()]) <= 20
    assert 'lengths=["2k", 4096]' in text
    cfg = parse(text, tmp_path)
    assert cfg["work_dir"] == "outputs/niah-ruler-gsm8k_gen_tiny-llada"
    groups = cfg["model_dataset_combinations"]
    cells = [cell for group in groups for cell in group["datasets"]]
    assert {cell.get("benchmark", cell["abbr"].partition("_")[0]) for cell in cells} == {
        "niah",
        "ruler",
        "gsm8k",
    }
    assert {cell["length"] for cell in cells if "length" in cell} == {2048, 4096}
    names = [[model["abbr"] for model in group["models"]] for group in groups]
    assert names == [["tiny-llada", "tiny-llada_ntk-target_length4096"]] * 3, "one line each"
    [stock] = [g for g in groups if g["datasets"][0]["abbr"] == "gsm8k"]
    assert stock["models"][0]["sampler"]["num_steps"] is None, "any answer takes a token a step"
    cfg.dump(str(tmp_path / "dump.py"))
    assert len(read_dumped_config(tmp_path / "dump.py")["datasets"]) == len(cfg["datasets"])


def test_own_checkpoint_by_path_is_checked_and_planned(tmp_path, capsys):
    folder = tmp_path / "my-llada"
    folder.mkdir()
    with pytest.raises(ValueError, match=r"holds no config\.json"):
        NewConfig(models=[str(folder)])
    for file in (ROOT / "opencompass_llada/assets/tiny-llada").iterdir():
        (folder / file.name).symlink_to(file)
    output = tmp_path / "mine.py"
    words = ["new-config", "--model", f"mine={folder}", "--lengths", "512", "--data", "embedded"]
    assert main([*words, "-o", str(output)]) == 0
    assert "opencompass-llada run" in capsys.readouterr().out
    cfg = Config.fromfile(str(output), format_python_code=False)
    [group] = cfg["model_dataset_combinations"]
    assert [model["abbr"] for model in group["models"]] == ["mine"]
    check_options(cfg, runs_locally=True)
    assert main([*words, "-o", str(output)]) == 1
    assert "exists; give another file" in capsys.readouterr().err


def test_chat_is_asked_of_what_has_two_forms(tmp_path):
    text = NewConfig(models=["tiny_llada"], benchmarks=["niah"], chat=True, data="embedded").write()
    cfg = parse(text, tmp_path)
    assert all(cell["guide"] for cell in cfg["datasets"])
    assert "_chat" in cfg["datasets"][0]["abbr"]


def test_a_demo_takes_the_shipped_model_and_data(tmp_path, monkeypatch):
    monkeypatch.setenv("LLADA_DEMO", "1")
    text = NewConfig(
        models=["llada_8b_base"], benchmarks=["niah"], datasets=["gsm8k_gen"], lengths=["32k"]
    ).write()
    cfg = parse(text, tmp_path)
    assert {model["path"] for model in cfg["models"]} == {"asset:tiny-llada"}
    assert {cell["path"] for cell in cfg["datasets"]} == {"asset:needlebench"}


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"models": ["tiny_lada"]}, "Did you mean 'tiny_llada'"),
        ({"models": ["./nowhere"]}, "there is no folder './nowhere'"),
        ({"benchmarks": ["nia"]}, "Did you mean 'niah'"),
        ({"lengths": ["4kk"]}, "such as 4k for 4096"),
        ({"scaling": ["ntkk"]}, "Did you mean 'ntk'"),
        ({"datasets": ["gsm8k_gem"]}, "Did you mean 'gsm8k_gen'"),
    ],
    ids=str,
)
def test_what_is_wrong_is_named(changed, told):
    with pytest.raises(ValueError, match=told):
        NewConfig(**{"models": ["tiny_llada"], **changed}).write()


def test_k_is_1024_wherever_a_length_is_given(monkeypatch, tmp_path):
    assert [read_length(text) for text in ("4k", "128K", "4000", "4kk", "k", "-1")] == [
        *(4096, 131072, 4000),
        *(None, None, None),
    ]
    assert parse_scaling("ntk:target_length=32k", 4096)["target_length"] == 32768
    monkeypatch.setenv("LLADA_LENGTHS", "1k,512")
    cfg = Config.fromfile(str(ROOT / "configs/eval_llada_niah.py"), format_python_code=False)
    cells = cfg.get("datasets")
    assert {cell["length"] for cell in cells} == {512, 1024}
    monkeypatch.setenv("LLADA_LENGTHS", "1q")
    with pytest.raises(ValueError, match="4k is 4096"):
        Config.fromfile(str(ROOT / "configs/eval_llada_niah.py"), format_python_code=False)


def test_run_hands_its_words_to_opencompass(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["x"])
    assert main(["run"]) == 2
    assert "give a config" in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        main(["run", "nowhere.py", "--wrok-dir", "x"])
    assert ended.value.code == 2
    assert "Did you mean '--work-dir'" in capsys.readouterr().err
    assert json.dumps(sys.argv[1:]) == '["nowhere.py", "--wrok-dir", "x"]'


def test_models_that_are_asked_otherwise_are_named_and_can_be_asked_alike(tmp_path, capsys):
    own = shutil.copytree(resolve_path("asset:tiny-llada"), tmp_path / "own")
    given = dict(models=["tiny_llada", str(own)], lengths=[256], data="embedded")
    plan_evaluation(**given)
    told = capsys.readouterr().err
    assert "options={'niah': ...}" in told
    assert "tiny-llada: 16 new tokens, lengths by vocab2048" in told
    assert "own: 32 new tokens, lengths by vocab2048" in told
    plan_evaluation(**given, options={"niah": {"generation_length": 16}})
    assert "Not all models" not in capsys.readouterr().err
