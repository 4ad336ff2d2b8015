"""The options --slurm and --dlc swap the runner alone; the commands of Slurm are faked."""

from __future__ import annotations

import logging
import os
import sys
from types import ModuleType, SimpleNamespace

import pytest
from mmengine.config import Config
from opencompass.registry import PARTITIONERS, RUNNERS
from opencompass.utils.run import fill_eval_cfg, fill_infer_cfg

from opencompass_llada.runs import cluster, host_options
from opencompass_llada.runs.cluster import OWN_START, check_gpus, fill_stage
from opencompass_llada.runs.exit_status import find_log, read_last_error
from opencompass_llada.runs.planning import plan_run
from opencompass_llada.runs.slurm_runner import JobNamingSlurmRunner, judge
from opencompass_llada.runs.task_lifetime import mark_job

FILLS = {"infer": fill_infer_cfg, "eval": fill_eval_cfg}


def arguments(**given):
    options = {"slurm": True, "dlc": False, "debug": False, "max_num_workers": 1}
    options |= {"partition": "gpu", "quotatype": None, "qos": None, "retry": 2, "dry_run": False}
    options["mode"] = "all"
    return SimpleNamespace(**{**options, "max_workers_per_gpu": 1, "work_dir": None, **given})


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


@pytest.fixture
def commands(tmp_path, monkeypatch):
    """Return a function that puts a command of Slurm on the path."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")

    def add(name, script):
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)

    return add


@pytest.mark.parametrize("stage", FILLS)
def test_the_option_swaps_the_runner_and_keeps_the_rest(cfg, stage, tmp_path):
    before = cfg[stage].to_dict()
    fill_stage(stage, FILLS[stage], cfg, arguments())
    runner = cfg[stage].runner
    assert runner.type == cluster.SLURM_RUNNER
    assert (runner.partition, runner.max_num_workers) == ("gpu", 3)
    assert runner.task == before["runner"]["task"]
    # Each task is a process of its own now, and starting it costs.
    told = {"num_workers": 3, "start_seconds": OWN_START}
    assert cfg[stage].partitioner == {**before["partitioner"], **told}
    PARTITIONERS.build({**cfg[stage].partitioner, "out_dir": str(tmp_path)})
    assert type(RUNNERS.build(runner)) is JobNamingSlurmRunner


def test_a_job_of_dlc_has_a_name_without_spaces_and_brackets():
    """OpenCompass puts it into a command of the shell without quotes."""
    name = "OpenICLInfer[tiny-llada: 4 data sets]"
    template = f"dlc submit pytorchjob --command 'cd /w; {{task_cmd}}'  --name {name} --priority 1"
    plain = template.replace(name, "OpenICLInfer-tiny-llada-4-data-sets")
    assert mark_job(template, name) == plain


@pytest.mark.parametrize("stage", FILLS)
def test_dlc_swaps_the_runner_alone(cfg, stage, tmp_path):
    aliyun = tmp_path / "aliyun.py"
    aliyun.write_text("workspace_id = 'w'\n")
    before = cfg[stage].to_dict()
    given = arguments(slurm=False, dlc=True, aliyun_cfg=str(aliyun))
    fill_stage(stage, FILLS[stage], cfg, given)
    assert cfg[stage].runner.task == before["runner"]["task"]
    told = {"num_workers": 3, "start_seconds": OWN_START}
    assert cfg[stage].partitioner == {**before["partitioner"], **told}
    assert type(RUNNERS.build(cfg[stage].runner)).__name__ == "DLCRunner"


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


def test_every_config_that_plans_a_run_names_what_plain_opencompass_imports(repository_root):
    files = [
        *repository_root.glob("configs/eval_*.py"),
        *repository_root.glob("configs/papers/*_*.py"),
    ]
    texts = {file.name: file.read_text() for file in files if file.name != "__init__.py"}
    assert len(texts) > 12
    line = "custom_imports = __run.custom_imports\n"
    assert [name for name, text in texts.items() if line not in text] == []


def test_plain_opencompass_keeps_the_stages_of_a_dumped_config(
    cfg, tmp_path, monkeypatch, commands
):
    """OpenCompass reads the dumped config, which imports `host_options`, then fills its stages."""
    commands("srun", "exit 1")
    commands("sinfo", "echo gpu")
    host = ModuleType("opencompass.cli.main")
    host.fill_infer_cfg, host.fill_eval_cfg = fill_infer_cfg, fill_eval_cfg
    host.get_logger = lambda: logging.getLogger("host of a test")
    monkeypatch.setitem(sys.modules, host.__name__, host)
    monkeypatch.delitem(sys.modules, host_options.__name__)
    run = plan_run("niah", {"models": ["tiny_llada"], "data": "embedded"}, announce=False)
    named = Config({**cfg.to_dict(), "custom_imports": run.custom_imports, "models": run.models})
    named.dump(str(tmp_path / "dumped.py"))
    read = Config.fromfile(str(tmp_path / "dumped.py"), format_python_code=False)
    read["work_dir"] = str(tmp_path)
    host.fill_infer_cfg(read, arguments())
    host.fill_eval_cfg(read, arguments())
    for stage in FILLS:
        assert read[stage].runner.type == cluster.SLURM_RUNNER
        assert read[stage].runner.task == cfg[stage].runner.task
        told = {"num_workers": 3, "start_seconds": OWN_START}
        assert read[stage].partitioner == {**cfg[stage].partitioner, **told}
    with pytest.raises(ValueError, match=r"-p gpus: .*Did you mean 'gpu'\?"):
        host.fill_infer_cfg(read, arguments(partition="gpus"))
    # The launcher's own functions, which do the same, are left alone.
    host.fill_infer_cfg = own = object()
    host_options.keep_stages(host)
    assert host.fill_infer_cfg is own


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
    with pytest.raises(ValueError, match="LLADA_GPUS"):
        cluster.check({"models": [model]}, arguments(dry_run=True))
    cluster.check({"models": [model]}, arguments(dry_run=True, mode="eval"))


def test_a_model_behind_an_api_needs_no_gpu():
    """It has no weights here, and its path is a name that the API knows."""
    check_gpus({"models": [{"type": "opencompass.models.OpenAI", "path": "gpt-4o"}]})


@pytest.mark.parametrize("stage", FILLS)
def test_the_sequential_runner_is_refused(stage):
    cfg = {stage: {"runner": {"type": "opencompass.runners.SlurmSequentialRunner"}}}
    given = arguments(slurm=False, partition=None)
    with pytest.raises(ValueError, match="one task after another.*SlurmRunner"):
        cluster.check(cfg, given)


def test_a_machine_without_slurm_is_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match="no srun"):
        cluster.check({}, arguments())
    cluster.check({}, arguments(dry_run=True))


def test_a_configs_own_slurm_runner_is_ours_and_takes_the_partition():
    cfg = {"eval": {"runner": {"type": "opencompass.runners.SlurmRunner", "retry": 5}}}
    cluster.use_own_runner(cfg, arguments(slurm=False))
    kept = {"type": cluster.SLURM_RUNNER, "retry": 5, "partition": "gpu", "quotatype": None}
    assert cfg["eval"]["runner"] == kept


def test_folders_of_one_node_are_warned_about(monkeypatch, caplog, tmp_path):
    ruler = {"benchmark": "ruler", "abbr": "r"}
    cfg = {"models": [{"abbr": "m"}], "datasets": [ruler]}
    monkeypatch.setenv("OPENCOMPASS_LLADA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(cluster, "node_local_type", lambda path: "ext4")
    cluster.warn_of_local_folders(tmp_path, cfg)
    assert f"-w {tmp_path}" in caplog.text
    assert f"{tmp_path / 'cache'}, is on a file system (ext4)" in caplog.text
    assert "set OPENCOMPASS_LLADA_CACHE" in caplog.text
    caplog.clear()
    monkeypatch.setattr(cluster, "node_local_type", lambda path: None)
    cluster.warn_of_local_folders(tmp_path, cfg)
    assert not caplog.text


SRUN = """echo "$@" >> {folder}/asked
echo "Slurm job 7 on node n1, OMP_NUM_THREADS=2"
echo "slurmstepd: error: *** JOB 7 ON n1 CANCELLED AT 2026-01-01T00:00:00 {why} ***" >&2
exit 1
"""


@pytest.fixture
def jobs(commands, tmp_path, monkeypatch, cfg):
    """Run two cells as one job of a Slurm that ends it so; return what srun was asked, and logs."""
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    monkeypatch.setattr("opencompass_llada.runs.slurm_runner.SPACING", 0)
    commands("scontrol", "exit 1")
    run = plan_run("niah", {"models": ["tiny_llada"], "lengths": [256], "data": "embedded"})
    fill_stage("infer", fill_infer_cfg, cfg, arguments())

    def launch(why):
        commands("srun", SRUN.format(folder=tmp_path, why=why))
        task = Config(
            {
                "models": run.models,
                "datasets": [run.datasets[:2]],
                "work_dir": str(tmp_path / "run"),
                "infer": cfg.infer.to_dict(),
            }
        )
        status = RUNNERS.build(cfg.infer.runner).launch([task])
        names = [own["abbr"] for own in run.datasets[:2]]
        logs = [find_log(tmp_path / "run", "tiny-llada", name, "predictions") for name in names]
        return status, (tmp_path / "asked").read_text(), logs

    return launch


def test_a_cancelled_job_is_named_and_not_repeated(jobs, caplog, tmp_path):
    status, asked, logs = jobs("")
    assert [code for _, code in status] == [1]
    assert asked.count("-p gpu -N1 -n1 -u -J") == 1
    assert "-m opencompass_llada.runs.tasks --infer /" in asked
    assert logs[0] == logs[1], "the log is that of both cells"
    said = read_last_error(logs[0])[0]
    assert said.startswith(
        "task: Slurm job 7 (OpenICLInfer[tiny-llada: 2 data sets]) was cancelled"
    )
    assert f"Log: {logs[0]}. Go on with -r." in said
    assert said.removeprefix("task: ") in caplog.text
    assert not list((tmp_path / "cwd").iterdir())
    assert not list((tmp_path / "run").glob(".*")), "the folder of tasks' configs is removed"


def test_a_job_whose_time_was_over_is_repeated(jobs, caplog):
    _, asked, logs = jobs("DUE TO TIME LIMIT")
    assert asked.count("-J") == 3
    assert "started once more (1 left)" in caplog.text
    assert "SLURM_TIMELIMIT" in read_last_error(logs[0])[0]


@pytest.mark.parametrize(
    ("text", "state", "job"),
    [
        ("srun: error: Unable to allocate resources: Invalid qos", "REFUSED", None),
        ("srun: job 12 queued and waiting\nsrun: Force Terminated job 12", "CANCELLED", "12"),
        ("Slurm job 3 on node a\nsrun: error: Node failure on a", "NODE_FAIL", "3"),
        ("slurmstepd: error: Detected 1 oom_kill event in StepId=3.0", "OUT_OF_MEMORY", None),
        ("Slurm job 3 on node a\nValueError: of the task", "FAILED", "3"),
    ],
)
def test_what_became_of_a_job_is_read_from_its_log(text, state, job, commands):
    commands("scontrol", "exit 1")
    outcome, number = judge(text)
    assert (outcome.state, number) == (state, job)


def test_slurms_own_record_of_a_job_wins(commands):
    commands("scontrol", "echo JobId=$3 JobState=NODE_FAIL Reason=None")
    outcome, number = judge("Slurm job 5 on node a\n*** JOB 5 ON a CANCELLED AT now ***")
    assert (outcome.state, number) == ("NODE_FAIL", "5")
