"""Where data sets of the hub are looked for; the hub itself cannot be reached from tests."""

import json
import sys

import pytest
from needle_data import write_needlebench

from opencompass_llada.benchmarks.data_files import MissingDataError
from opencompass_llada.benchmarks.longbench.dataset import read_rows
from opencompass_llada.benchmarks.longbench.facts import TASKS
from opencompass_llada.benchmarks.longbench.v2 import read_rows as read_v2_rows
from opencompass_llada.benchmarks.needle.samples import resolve_data_directory

ROW = {"input": "Who?", "context": "A text.", "answers": ["one"], "length": 4}
V2_ROW = dict.fromkeys(("question", "choice_A", "choice_B", "choice_C", "choice_D"), "x") | dict(
    answer="A", context="A text.", difficulty="easy", length="short"
)


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """Stand in for the hub's download: a folder for each repository, made by the test."""
    asked = []

    def download(repo_id, repo_type):
        asked.append((repo_id, repo_type))
        return str(tmp_path / repo_id)

    monkeypatch.setenv("DATASET_SOURCE", "HF")
    monkeypatch.setenv("COMPASS_DATA_CACHE", str(tmp_path / "empty"))
    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    return tmp_path, asked


def test_needlebench_comes_from_its_repository(hub):
    root, asked = hub
    folder = write_needlebench(root / "opencompass/needlebench")
    assert resolve_data_directory("opencompass/needlebench") == folder
    assert asked == [("opencompass/needlebench", "dataset")]


def test_longbench_comes_from_its_repository(hub):
    root, asked = hub
    folder = root / "THUDM/LongBench/data"
    folder.mkdir(parents=True)
    (folder / "hotpotqa.jsonl").write_text(json.dumps(ROW) + "\n")
    (row,) = read_rows("opencompass/Longbench", TASKS["hotpotqa"], "longbench")
    assert row["answers"] == ["one"]
    assert asked == [("THUDM/LongBench", "dataset")]


def test_longbench_v2_comes_from_its_repository(hub):
    root, asked = hub
    folder = root / "THUDM/LongBench-v2"
    folder.mkdir(parents=True)
    (folder / "data.json").write_text(json.dumps([V2_ROW]))
    assert read_v2_rows("opencompass/longbenchv2")[0]["answer"] == "A"
    assert asked == [("THUDM/LongBench-v2", "dataset")]


@pytest.fixture
def no_opencompass(monkeypatch, tmp_path):
    """Make OpenCompass unimportable; return the data cache."""
    loaded = [name for name in sys.modules if name.partition(".")[0] in ("opencompass", "mmengine")]
    for name in {*loaded, "opencompass", "mmengine"}:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delenv("DATASET_SOURCE", raising=False)
    monkeypatch.setenv("COMPASS_DATA_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "cache"


@pytest.mark.parametrize("path", ["data/needlebench", "./data/needlebench"])
def test_the_cache_holds_without_opencompass(no_opencompass, path):
    folder = write_needlebench(no_opencompass / "data/needlebench")
    assert resolve_data_directory(path) == folder


@pytest.mark.parametrize("path", ["data/needlebench", "opencompass/needlebench"])
def test_missing_data_without_opencompass_says_where_it_was_looked_for(no_opencompass, path):
    with pytest.raises(MissingDataError) as raised:
        resolve_data_directory(path)
    assert f"looked at {no_opencompass / path}" in str(raised.value)
    assert "only it knows data set ids" in str(raised.value)
    assert "path='asset:needlebench'" in str(raised.value)
