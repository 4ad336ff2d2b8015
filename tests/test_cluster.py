"""The options --slurm and --dlc swap the runner alone; no Slurm is needed."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from mmengine.config import Config
from opencompass.registry import PARTITIONERS, RUNNERS
from opencompass.utils.run import fill_eval_cfg, fill_infer_cfg

from opencompass_llada.runs.cluster import OWN_START, check_gpus, fill_stage
from opencompass_llada.runs.planning import plan_run

FILLS = {"infer": fill_infer_cfg, "eval": fill_eval_cfg}


def arguments(**given):
    options = {"slurm": True, "dlc": False, "debug": False, "max_num_workers": 1}
    options |= {"partition": "gpu", "quotatype": None, "qos": None, "retry": 2}
    return SimpleNamespace(**{**options, "max_workers_per_gpu": 1, **given})


@pytest.fixture
def cfg():
    settings = {
        "models": ["tiny_llada"],
        "lengths": [256],
        "repeats": 1,
        "workers": 3,
        "data": "embedded",
    }
    run = plan_run("niah", settings, announce=False)
    return Config({"infer": run.infer, "eval": run.eval, "lark_bot_url": None})


@pytest.mark.parametrize("stage", FILLS)
def test_the_option_swaps_the_runner_and_keeps_the_rest(cfg, stage, tmp_path):
    before = cfg[stage].to_dict()
    fill_stage(stage, FILLS[stage], cfg, arguments())
    runner = cfg[stage].runner
    assert runner.type.endswith("SlurmRunner")
    assert (runner.partition, runner.max_num_workers, runner.extra_command) == ("gpu", 3, ["-n1"])
    assert runner.task == before["runner"]["task"]
    # Each task is a process of its own now, and starting it costs.
    told = {"num_workers": 3, "start_seconds": OWN_START}
    assert cfg[stage].partitioner == {**before["partitioner"], **told}
    PARTITIONERS.build({**cfg[stage].partitioner, "out_dir": str(tmp_path)})
    RUNNERS.build(runner)


def test_a_number_of_workers_on_the_command_line_wins(cfg):
    fill_stage("infer", fill_infer_cfg, cfg, arguments(max_num_workers=64))
    assert cfg.infer.runner.max_num_workers == 64
    assert cfg.infer.partitioner.num_workers == 64


def test_a_config_without_stages_is_filled_as_by_opencompass():
    cfg = Config({"lark_bot_url": None})
    expected = Config({"lark_bot_url": None})
    fill_infer_cfg(expected, arguments())
    fill_stage("infer", fill_infer_cfg, cfg, arguments())
    assert cfg.infer == expected.infer


def test_gpus_of_other_nodes_are_planned_for(monkeypatch):
    monkeypatch.setenv("LLADA_GPUS", "16")
    run = plan_run(
        "niah", {"models": ["tiny_llada"], "lengths": [256], "data": "embedded"}, announce=False
    )
    assert run.models[0]["run_cfg"]["num_gpus"] == 1
    assert run.infer["runner"]["max_num_workers"] == 16


def test_a_large_model_is_not_sent_to_cpus(tmp_path):
    weights = tmp_path / "model.safetensors"
    with weights.open("wb") as file:
        file.truncate(2_000_000_000)
    ours = {"type": "opencompass_llada.wrapper.LLaDACausalLM"}
    for path, told in ((str(tmp_path), "2.0 GB of weights"), ("org/model", "not on this node")):
        model = {**ours, "abbr": "big", "path": path, "run_cfg": {"num_gpus": 0}}
        with pytest.raises(ValueError, match=f"'big' has .*{told}.*LLADA_GPUS"):
            check_gpus({"models": [model]})
        check_gpus({"models": [model | {"run_cfg": {"num_gpus": 1}}]})
    check_gpus({"models": [{**ours, "path": "asset:tiny-llada", "run_cfg": {"num_gpus": 0}}]})


def test_a_model_behind_an_api_needs_no_gpu():
    """It has no weights here, and its path is a name that the API knows."""
    check_gpus({"models": [{"type": "opencompass.models.OpenAI", "path": "gpt-4o"}]})
