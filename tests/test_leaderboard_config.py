"""The leaderboard's config: what is shipped, planned together, repeatable from the dump."""

import os
from pathlib import Path

import pytest
from mmengine.config import Config

import opencompass_llada.assets
from opencompass_llada.report.summarizers import LeaderboardSummarizer
from opencompass_llada.runs.checks import check_options
from opencompass_llada.runs.model_table import KNOWN_MODELS
from opencompass_llada.runs.run_folder import read_dumped_config

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def clean_settings(monkeypatch):
    for name in list(os.environ):
        if name.startswith("LLADA_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


def parse():
    return Config.fromfile(str(ROOT / "configs/eval_leaderboard.py"), format_python_code=False)


def test_every_shipped_model_runs_every_benchmark(tmp_path):
    cfg = parse()
    known = {facts.path for facts in KNOWN_MODELS.values()}
    folders = [path.parent.name for path in opencompass_llada.assets.FOLDER.glob("*/config.json")]
    expected = {f"asset:{name}" for name in folders} & known
    assert "asset:tiny-llada" in expected
    groups = cfg["model_dataset_combinations"]
    assert {m["path"] for g in groups for m in g["models"]} == expected
    asked = {}
    for group in groups:
        for model in group["models"]:
            found = asked.setdefault(model["abbr"], set())
            found |= {d.get("benchmark", "niah") for d in group["datasets"]}
    assert set(map(frozenset, asked.values())) == {frozenset({"niah", "ruler", "perplexity"})}
    assert any(abbr.startswith("tiny-llada_diffusion_ntk") for abbr in asked)
    assert cfg["summarizer"]["type"] in (
        LeaderboardSummarizer,
        "opencompass_llada.report.summarizers.LeaderboardSummarizer",
    )
    check_options(cfg, runs_locally=True)
    cfg.dump(str(tmp_path / "dump.py"))
    dumped = read_dumped_config(tmp_path / "dump.py")
    assert [len(g["datasets"]) for g in dumped["model_dataset_combinations"]] == [
        len(g["datasets"]) for g in groups
    ]


def test_variables_choose_and_wrong_ones_are_refused(monkeypatch):
    monkeypatch.setenv("LLADA_BENCHMARKS", "ppl")
    monkeypatch.setenv("LLADA_MODELS", "tiny_llada")
    monkeypatch.setenv("LLADA_SCALING", "none")
    monkeypatch.setenv("LLADA_LENGTHS", "256")
    monkeypatch.setenv("LLADA_DTYPE", "float16")
    cfg = parse()
    [group] = cfg["model_dataset_combinations"]
    assert [model["dtype"] for model in group["models"]] == ["float16"]
    assert [d["length"] for d in group["datasets"]] == [256]
    assert os.environ["LLADA_MODELS"] == "tiny_llada", "hidden variables are put back"
    monkeypatch.setenv("LLADA_REPEATS", "3")
    with pytest.raises(ValueError, match="LLADA_REPEATS"):
        parse()


def test_each_benchmark_runs_the_variants_that_it_has(monkeypatch):
    monkeypatch.setenv("LLADA_MODELS", "tiny_llada,tiny_ar")
    default = parse()["model_dataset_combinations"]
    monkeypatch.setenv("LLADA_ROBUSTNESS", "wordings,decodings")
    groups = parse()["model_dataset_combinations"]

    def settings_of(groups, benchmark):
        cells = [cell for group in groups for cell in group["datasets"]]
        own = [cell for cell in cells if cell.get("benchmark", "niah") == benchmark]
        return {cell.get("setting", "").partition(":")[0] for cell in own}

    for benchmark in ("niah", "ruler", "perplexity"):
        assert settings_of(default, benchmark) == {""}
    assert settings_of(groups, "niah") == {"", "wordings", "decodings"}
    assert settings_of(groups, "ruler") == {"", "decodings"}, "wordings are of needles alone"
    assert settings_of(groups, "perplexity") == {""}, "no answer is decoded there"
    monkeypatch.setenv("LLADA_ROBUSTNESS", "wording")
    with pytest.raises(ValueError, match="Did you mean 'wordings'"):
        parse()
