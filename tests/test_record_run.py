"""The record of a run: what is kept in docs/, and that a failed run leaves nothing."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CONFIG = "settings = dict(models=['tiny_llada'], draws=12)\nmodels = [dict(abbr='tiny')]\n"


@pytest.fixture
def record_run(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    spec = importlib.util.spec_from_file_location("record_run", ROOT / "benchmarks/record_run.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setenv("LLADA_DRAWS", "12")
    return module


def finish_run(config, work_dir):
    run = work_dir / "20260101_000000"
    for name, text in {
        "configs/20260101.py": CONFIG,
        "summary/perplexity_20260101.csv": "model,length\n",
        "summary/perplexity_20260101.png": "figure",
        "summary/perplexity_20260101.md": "| |",
    }.items():
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text(text)
    return run, 12.3


def call(record_run, monkeypatch, docs):
    arguments = ["record_run.py", "configs/eval_llada_ppl.py", "ppl_x", "--docs", str(docs)]
    monkeypatch.setattr(sys, "argv", arguments)
    record_run.main()


def test_table_figure_and_how_they_were_made_are_kept(record_run, monkeypatch, tmp_path):
    monkeypatch.setattr(record_run, "run_config", finish_run)
    call(record_run, monkeypatch, tmp_path)
    assert (tmp_path / "records/ppl_x.csv").read_text() == "model,length\n"
    assert (tmp_path / "images/ppl_x.png").read_text() == "figure"
    record = json.loads((tmp_path / "records/ppl_x.json").read_text())
    assert record["command"].endswith(
        "LLADA_DRAWS=12 python benchmarks/record_run.py configs/eval_llada_ppl.py ppl_x "
        f"--docs {tmp_path}"
    )
    assert record["settings"] == {"models": ["tiny_llada"], "draws": 12}
    assert record["seconds"] == 12
    assert {"commit", "date", "machine", "device", "load", "versions", "models"} <= set(record)
    assert record["commit"] is None or len(record["commit"].removesuffix("+changes")) == 40
    assert "opencompass-llada" in record["versions"]


def test_a_failed_run_leaves_nothing(record_run, monkeypatch, tmp_path):
    class Failed:
        returncode = 1

    monkeypatch.setattr(record_run.subprocess, "run", lambda *given, **options: Failed())
    with pytest.raises(SystemExit, match="status 1; nothing was recorded"):
        call(record_run, monkeypatch, tmp_path)
    assert list(tmp_path.iterdir()) == []
