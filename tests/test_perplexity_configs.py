"""Perplexity's main config: what its settings make, its dump, and what it refuses."""

import os
from pathlib import Path

import pytest
from mmengine.config import Config

from opencompass_llada.benchmarks.data_files import MissingDataError
from opencompass_llada.benchmarks.perplexity.samples import PerplexityDataset, read_texts
from opencompass_llada.runs.planning import plan_run

ROOT = Path(__file__).resolve().parents[1]
MAIN = ROOT / "configs/eval_llada_ppl.py"


@pytest.fixture(autouse=True)
def clean_settings(monkeypatch):
    for name in [*os.environ]:
        if name.startswith("LLADA_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


def parse(path=MAIN):
    return Config.fromfile(str(path), format_python_code=False)


def texts(**options):
    return read_texts(PerplexityDataset.check_options(**options))


def test_the_main_config_and_its_dump(tmp_path, monkeypatch, capsys):
    cfg = parse()
    assert [cell["length"] for cell in cfg["datasets"]] == [256, 512, 1024, 2048, 4096]
    assert {cell["target"] for cell in cfg["datasets"]} == {"whole"}
    assert len(cfg["models"]) == 3
    assert "Perplexity: 3 models, 15 points" in capsys.readouterr().err
    cfg.dump(str(tmp_path / "dump.py"))
    monkeypatch.setenv("LLADA_MODELS", "nonsense")
    again = parse(tmp_path / "dump.py")
    assert [cell["abbr"] for cell in again["datasets"]] == [c["abbr"] for c in cfg["datasets"]]
    assert again["summarizer"]["models"] == cfg["summarizer"]["models"]


def test_models_of_two_trained_lengths_get_lengths_of_their_own(monkeypatch):
    monkeypatch.setenv("LLADA_MODELS", "tiny_llada,llada_8b_base")
    monkeypatch.setenv("LLADA_TARGET", "64")
    cfg = parse()
    groups = cfg["model_dataset_combinations"]
    assert [max(c["length"] for c in group["datasets"]) for group in groups] == [4096, 32768]
    names = [(cell["abbr"]) for group in groups for cell in group["datasets"]]
    assert len(names) == 10


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("LLADA_ESTIMATOR", "bond", "Did you mean 'bound'"),
        ("LLADA_TARGET", "some", "number of tokens, or 'whole'"),
        ("LLADA_TARGET", "1000", "from 1 to length=256"),
        ("LLADA_DRAWS", "5", "use 6"),
        ("LLADA_DATA", "/nowhere.txt", "no file or folder"),
        ("LLADA_DATA", "SHORT", "9 bytes, and 1 windows of 4096 tokens need 4096"),
        ("LLADA_DRAW", "4", "Did you mean 'LLADA_DRAWS'"),
    ],
)
def test_wrong_settings_are_named_before_anything_runs(monkeypatch, tmp_path, name, value, message):
    if value == "SHORT":
        value = str(tmp_path / "short.txt")
        Path(value).write_text("too short")
    monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=message):
        parse()


def test_real_text_files_are_read(real_data_root, monkeypatch):
    path = real_data_root / "data/gov_report_001.txt"
    if not path.is_file():
        pytest.skip("no GovReport text")
    monkeypatch.setenv("LLADA_DATA", str(path))
    cfg = parse()
    assert {cell["path"] for cell in cfg["datasets"]} == {str(path)}
    assert {cell["num_texts"] for cell in cfg["datasets"]} == {1}
    with pytest.raises(MissingDataError):
        texts(path=str(path) + "x")


def test_a_run_that_is_given_no_data_takes_the_default(capsys):
    run = plan_run("perplexity", dict(models=["tiny_llada"]), num_gpus=0)
    assert {cell["path"] for cell in run.datasets} == {"generated"}
    assert "generated  [default]" in capsys.readouterr().err
