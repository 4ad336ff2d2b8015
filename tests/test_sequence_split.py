"""Passes that two processes split give one process's logits and answers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from split_passes import CASES, run_case
from test_durability import write_unfinished
from test_lost_predictions import NUM_SAMPLES, make_run
from tiny import tiny_model, write_tiny_checkpoint
from tiny_causal import write_llama_checkpoint
from tiny_jobs import Job, prepare
from tiny_sdar import write_tiny_sdar

from opencompass_llada.inference import MemoryPlan, NetworkSize
from opencompass_llada.runs import checks, durability, makers, tasks
from opencompass_llada.runs.checks import check_options
from opencompass_llada.runs.tasks import ShortNamedInferTask
from opencompass_llada.wrapper import LLaDACausalLM

WRAPPER = "opencompass_llada.wrapper.LLaDACausalLM"
TESTS = Path(__file__).resolve().parent


def run_processes(number, script, *arguments):
    """Run a script of the tests in so many processes; return what ended."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += [f"--nproc_per_node={number}", str(script), *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    environment["PYTHONPATH"] = f"{TESTS.parent}{os.pathsep}{TESTS}"
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    """What each of two processes found, by case."""
    folder = tmp_path_factory.mktemp("split")
    run = run_processes(2, TESTS / "split_passes.py", folder)
    assert run.returncode == 0, run.stderr[-3000:]
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.parametrize("name", CASES)
def test_two_processes_give_what_one_gives(split, name):
    alone, ranks = run_case(name, None), [found[name] for found in split]
    for ours in ranks:
        assert ours["answers"] == alone["answers"]
        for found, expected in zip(ours["full"], alone["full"], strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    for first, second in zip(*(ours["full"] for ours in ranks), strict=True):
        assert torch.equal(first, second), "another rounding could reveal another token"
    if "kept" in alone:  # each process holds its own heads' keys alone
        kept = torch.cat([ours["kept"] for ours in ranks], dim=1)
        torch.testing.assert_close(kept, alone["kept"], rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_a_task_of_two_processes_writes_one_processs_answers_once(tmp_path, monkeypatch):
    prepare(monkeypatch, tmp_path)
    job = Job(tmp_path, write_tiny_checkpoint(tmp_path / "tiny"))
    job.model |= {"device": "cpu", "sampler": {**job.model["sampler"], "cache": "dual"}}
    assert job.run() == 0
    alone = job.answers()
    # Of GPUs that are said to be there a task gets two, and torchrun starts its processes.
    job.model |= {"sequence_parallel": 2, "run_cfg": {"num_gpus": 2, "num_procs": 2}}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    monkeypatch.setenv("PYTHONPATH", str(TESTS.parent))
    monkeypatch.setattr(checks, "count_gpus", lambda: 2)
    job.work_dir = tmp_path / "split"
    assert job.run(debug=False) == 0
    assert job.answers() == alone
    (log,) = job.path.glob("logs/infer/*/*.out")
    text = log.read_text()
    assert text.count("Task [model/set]") == 2
    assert text.count("Small passes: ") == 1, "the others' lines would be the same"
    records = [json.loads(line) for line in (job.path / "provenance/model.jsonl").open()]
    assert [record["kind"] for record in records] == ["model", "dataset"]
    assert records[0]["sequence_parallel"] == 2


def test_no_process_takes_up_answers_that_the_first_sets_aside(tmp_path, monkeypatch):
    """Else the passes that they split would be those of different samples."""
    run = make_run("niah_embedded", tmp_path)
    (cell,) = run["datasets"]
    task = ShortNamedInferTask(Config(dict(run, datasets=[[cell]])))
    folder = tmp_path / "predictions" / "model"
    folder.mkdir(parents=True)
    earlier = write_unfinished(folder, f"tmp_{cell['abbr']}.jsonl")
    monkeypatch.setenv("RANK", "1")  # the second; the first sets aside while this one waits
    monkeypatch.setattr(tasks, "wait_for_all", lambda: earlier.unlink(missing_ok=True))
    generate, asked = LLaDACausalLM.generate, []

    def count(self, prompts, *arguments, **options):
        asked.extend(prompts)
        return generate(self, prompts, *arguments, **options)

    monkeypatch.setattr(LLaDACausalLM, "generate", count)
    task.run()
    assert len(asked) == NUM_SAMPLES


@pytest.mark.parametrize("rank", ["0", "1"])
def test_processes_wait_where_they_read_earlier_answers(tmp_path, monkeypatch, rank):
    """None goes on before the rest has read them: where all are there, the first removes them."""
    prepare(monkeypatch, tmp_path)
    job = Job(tmp_path, write_tiny_checkpoint(tmp_path / "tiny"))
    events, claim, restore = [], makers.claim, durability._restore_answers
    monkeypatch.setattr(tasks, "wait_for_all", lambda: events.append("wait"))
    monkeypatch.setattr(makers, "claim", lambda *a: (events.append("claim"), claim(*a)))
    monkeypatch.setattr(
        durability, "_restore_answers", lambda *a: (events.append("read"), restore(*a))[1]
    )
    monkeypatch.setenv("RANK", rank)
    job.run("--mode", "infer")
    assert events == [*["claim"][int(rank) :], "wait", "read", "wait"]


def test_what_cannot_be_split_is_refused_before_weights_load(tmp_path, monkeypatch):
    folder = str(write_tiny_checkpoint(tmp_path / "tiny"))
    with pytest.raises(ValueError, match="needs 2 processes, and this is one of 1"):
        LLaDACausalLM(folder, sequence_parallel=2)
    with pytest.raises(ValueError, match="sequence_parallel=0 must be a positive integer"):
        LLaDACausalLM(folder, sequence_parallel=0)
    with pytest.raises(ValueError, match="each of the processes of sequence_parallel=2"):
        LLaDACausalLM(folder, sequence_parallel=2, device="cuda:1")
    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.setenv("LOCAL_RANK", "0")
    with pytest.raises(ValueError, match="or sequence_parallel=3"):
        LLaDACausalLM(folder)
    with pytest.raises(ValueError, match="needs 2 processes, and this is one of 3"):
        LLaDACausalLM(folder, sequence_parallel=2)
    assert LLaDACausalLM(folder, sequence_parallel=2, tokenizer_only=True).get_token_len("ab") == 2


def check_model(folder, run_cfg=None, **keywords):
    ranks = keywords["sequence_parallel"]
    run_cfg = {"num_gpus": ranks, "num_procs": ranks} if run_cfg is None else run_cfg
    model = {"type": WRAPPER, "abbr": "m", "path": str(folder), "max_out_len": 4}
    data_set = {
        "abbr": "vt",
        "type": "opencompass_llada.benchmarks.ruler.dataset.RulerDataset",
        **{"task": "vt", "length": 512},
    }
    cfg = {"models": [{**model, **keywords, "run_cfg": run_cfg}], "datasets": [data_set]}
    check_options(cfg, runs_locally=False)


def test_a_config_is_checked_before_a_run(tmp_path):
    folder = write_tiny_checkpoint(tmp_path / "tiny")
    check_model(folder, sequence_parallel=2)
    with pytest.raises(ValueError, match=r"use run_cfg=dict\(num_gpus=2, num_procs=2\)"):
        check_model(folder, {"num_gpus": 2}, sequence_parallel=2)
    with pytest.raises(ValueError, match="or sequence_parallel=2 for prompts that are too long"):
        check_model(folder, {"num_gpus": 2, "num_procs": 2}, sequence_parallel=1)
    with pytest.raises(ValueError, match="sequence_parallel=3 must divide n_heads=2: attention"):
        check_model(folder, sequence_parallel=3)
    grouped = write_tiny_checkpoint(tmp_path / "grouped", n_kv_heads=1)
    with pytest.raises(ValueError, match="sequence_parallel=2 must divide n_kv_heads=1"):
        check_model(grouped, sequence_parallel=2)
    blocks = write_tiny_sdar(tmp_path / "sdar")
    with pytest.raises(ValueError, match="in which all tokens see each other"):
        check_model(blocks, sequence_parallel=2)
    causal = write_llama_checkpoint(tmp_path / "llama")
    with pytest.raises(ValueError, match="is autoregressive; leave it out"):
        check_model(causal, sequence_parallel=2)


def test_scoring_is_not_split(tmp_path, monkeypatch):
    folder = str(write_tiny_checkpoint(tmp_path / "tiny"))
    model = LLaDACausalLM(folder, sequence_parallel=2, tokenizer_only=True)
    with pytest.raises(ValueError, match="sequence_parallel=2 has no effect where texts are"):
        model.get_ppl(["ab"])


def test_the_plan_is_that_of_one_process():
    network = tiny_model(n_heads=4, n_kv_heads=2)
    size = NetworkSize.of(network, torch.bfloat16)
    options = dict(size=size, row_lengths=(8191,), block_length=32, cache_dtype="float8")
    one, two = (MemoryPlan(**options, ranks=ranks) for ranks in (1, 2))
    assert two.cache_bytes == one.cache_bytes / 2
    assert (one.pass_tokens, two.pass_tokens) == (8191, 4096)
    assert two.weight_bytes == one.weight_bytes
    assert one.activation_bytes / 2 < two.activation_bytes < one.activation_bytes
    assert "on each of 2 devices" in two.describe()


def test_the_benchmark_of_long_prompts_records_what_two_processes_do(tmp_path):
    record = tmp_path / "record.json"
    script = TESTS.parent / "benchmarks" / "long_prompts.py"
    words = ["--quick", "--length", 300, "--prefill", "sparse", "--precision", "float8"]
    run = run_processes(2, script, *words, "--record", record)
    assert run.returncode == 0, run.stderr[-3000:]
    found = json.loads(record.read_text())
    assert (found["ranks"], found["failed"], found["keep"]) == (2, {}, 0.3)
    answer = found["300 tokens"]
    assert (answer["passes"], answer["full_passes"], answer["answers_agree"]) == (32, 1, True)
    assert "on each of 2 devices" in answer["plan"]
