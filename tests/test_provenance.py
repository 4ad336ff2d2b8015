"""What a run records of itself, and how contents are named."""

import json
import subprocess

import pytest
import torch
from tiny import write_tiny_checkpoint

from opencompass_llada.files import host_name
from opencompass_llada.report.page import _add_up
from opencompass_llada.report.summarizers import LeaderboardSummarizer
from opencompass_llada.runs import hashes
from opencompass_llada.runs.hashes import hash_checkpoint, hash_rows, hash_text, hash_tokenizer
from opencompass_llada.runs.provenance import (
    find_commit,
    hash_files,
    read_provenance,
    record_model,
    record_run,
    recording,
)
from opencompass_llada.wrapper import LLaDACausalLM


class Rows:
    """Stands for a data set that OpenCompass built."""

    def __init__(self, rows):
        self.test = rows


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_tiny_checkpoint(tmp_path_factory.mktemp("model") / "tiny")


def test_a_model_process_records_what_only_it_knows(checkpoint, tmp_path, monkeypatch):
    for name, value in {"SLURM_JOB_ID": "12", "SLURM_ARRAY_TASK_ID": "3"}.items():
        monkeypatch.setenv(name, value)
    cfg = {"abbr": "tiny", "path": str(checkpoint), "sampler": {"block_length": 8, "num_steps": 4}}
    model = LLaDACausalLM(str(checkpoint), sampler=cfg["sampler"], seed=7, dtype="float32",
                          device="cpu")  # fmt: skip
    record_model(tmp_path, model, cfg, hash_files(cfg, fetch=False))
    rows = [{"prompt": "a"}, {"prompt": "b c"}]
    for name in ("first", "second"):
        with recording(tmp_path, model, cfg, {"abbr": name}, Rows(rows)):
            model.generate(["one two", "three"], max_out_len=8)
    known = read_provenance(tmp_path)
    own = known.models["tiny"]
    assert (own["device"], own["dtype"], own["seed"]) == ("cpu", "float32", 7)
    assert own["checkpoint_hash"] == hash_checkpoint(checkpoint)
    assert own["tokenizer_hash"] == hash_tokenizer(checkpoint)
    assert own["model_type"] == "llada"
    assert own["attention_backend"]
    assert own["cache_policy"] == "type=none", "the resolved one, not what the config sets"
    assert own["generates_by"] == "masked_diffusion"
    assert own["packages"]["torch"] == torch.__version__
    place = {"scheduler": "slurm", "job": "12", "array_index": "3"}
    assert (own["host"], own["job"]) == (host_name(), place)
    shown = dict(_add_up([*known.datasets.values(), {"dataset_hash": "of an earlier version"}]))
    assert shown["hosts and jobs"] == f"{host_name()}: Slurm job 12, index 3"
    for name in ("first", "second"):
        record = known.datasets["tiny", name]
        assert (record["host"], record["job"]) == (host_name(), place)
        # 4 steps of a batch of 2: counted for this data set alone, not since the model's start.
        assert (record["num_prompts"], record["num_generated_tokens"]) == (2, 16)
        assert (record["num_forward_passes"], record["num_batch_passes"]) == (8, 4)
        assert 0 < record["seconds"] <= record["wall_seconds"]
        assert record["peak_memory_bytes"] > 1e6
        assert (record["num_samples"], record["dataset_hash"]) == (2, hash_rows(rows))
    assert known.notes == ()


def test_the_cache_is_recorded_with_its_defaults(checkpoint, tmp_path):
    model = LLaDACausalLM(str(checkpoint), sampler={"cache": "dual"}, dtype="float32", device="cpu")
    cfg = {"abbr": "tiny", "path": str(checkpoint)}
    cached = record_model(tmp_path, model, cfg, {})["cache_policy"]
    assert cached == "type=dual, refresh=block, dtype=bfloat16"


def test_a_failing_data_set_leaves_no_record(checkpoint, tmp_path):
    class Model:
        engine = None

    def fail():
        with recording(tmp_path, Model(), {"abbr": "m"}, {"abbr": "d"}, Rows([])):
            raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        fail()
    assert read_provenance(tmp_path).datasets == {}


def test_the_starting_process_records_the_run(tmp_path):
    assert record_run(tmp_path) is None, "without a config there is no run"
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs/20260101_1.py").write_text("models=[]\n")
    path = record_run(tmp_path)
    record = json.loads(path.read_text())
    assert record["config"] == "models=[]\n"
    assert record["config_hash"] == hash_text("models=[]\n")
    assert record["wall_seconds"] >= 0
    assert record["packages"]["torch"]
    assert record_run(tmp_path) == path, "a second call replaces the first"
    assert len(read_provenance(tmp_path).runs) == 1


def test_the_commit_is_gits(repository_root):
    if not (repository_root / ".git").exists():
        assert find_commit() is None
        return
    head = subprocess.run(["git", "-C", repository_root, "rev-parse", "HEAD"], check=True,
                          capture_output=True, text=True).stdout.strip()  # fmt: skip
    assert find_commit().removesuffix("+changes") == head


def test_hashes_follow_contents(tmp_path, monkeypatch):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(bytes(1000))
        (tmp_path / name / "config.json").write_text("{}")
    first = hash_checkpoint(tmp_path / "a")
    assert first == hash_checkpoint(tmp_path / "b"), "the place does not count"
    (tmp_path / "b/model.safetensors").write_bytes(bytes(999) + b"1")
    assert hash_checkpoint(tmp_path / "b") != first
    monkeypatch.setattr(hashes, "WHOLE_BYTES", 10)
    assert hash_checkpoint(tmp_path / "a").startswith("sampled-")
    assert hash_checkpoint(tmp_path) == ""
    assert hash_tokenizer(tmp_path) == ""
    assert _hashes_of_tokenizers(tmp_path) == [1, 1, 2, 3, 4, 5]
    assert hash_rows([{"a": 1, "b": 2}]) == hash_rows([{"b": 2, "a": 1}])
    assert hash_rows([{"a": 1}, {"a": 2}]) != hash_rows([{"a": 2}, {"a": 1}])


def _hashes_of_tokenizers(folder):
    """Number tokenizers by the order in which their hashes first appear."""
    words = {"model": {"vocab": {"a": 0}}, "truncation": None}
    truncated, added = {**words, "truncation": {"max_length": 4}}, {**words, "added_tokens": ["b"]}
    contents = [
        {"tokenizer.json": json.dumps(words), "vocab.json": "{}"},
        {"tokenizer.json": json.dumps(truncated, indent=2), "tokenizer_config.json": "{}"},
        {"tokenizer.json": json.dumps(added)},
        {"tokenizer.json": json.dumps(words), "tokenizer_config.json": '{"add_bos_token": true}'},
        {"vocab.json": "{}", "tokenizer_config.json": '{"added_tokens_decoder": {"1": "<mask>"}}'},
        {"vocab.json": "{}"},
    ]
    hashes = []
    for place, files in enumerate(contents):
        (folder / f"tokenizer{place}").mkdir()
        for name, text in files.items():
            (folder / f"tokenizer{place}" / name).write_text(text)
        hashes.append(hash_tokenizer(folder / f"tokenizer{place}"))
    return [list(dict.fromkeys(hashes)).index(name) + 1 for name in hashes]


def test_a_summarizers_end_writes_the_report_before_it_fails(tmp_path):
    config = {
        "work_dir": str(tmp_path),
        "models": [{"type": "m", "abbr": "one", "path": "x"}],
        "datasets": [{"type": "d", "abbr": "set", "benchmark": "bench", "task": "t"}],
    }
    with pytest.raises(SystemExit) as stop:
        LeaderboardSummarizer(config).summarize()
    assert stop.value.code == 1
    text = (tmp_path / "report/leaderboard.md").read_text()
    assert "no predictions were written" in text
    assert (tmp_path / "report/report.html").is_file()
