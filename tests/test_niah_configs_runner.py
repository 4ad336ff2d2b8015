"""How tasks are run, each with its share of the cores."""

import json
import os
from types import SimpleNamespace

import pytest
from mmengine.config import Config
from opencompass.openicl.icl_prompt_template import PromptTemplate
from opencompass.openicl.icl_retriever import FixKRetriever
from opencompass.registry import TASKS
from opencompass.runners import LocalRunner
from tiny import write_tiny_checkpoint
from tiny_choices import ROWS, model_config, plain, questions

from opencompass_llada.runs import machine
from opencompass_llada.runs.tasks import (
    THREADS_VARIABLE,
    CoreSharingLocalRunner,
    ShortNamedInferTask,
)
from opencompass_llada.wrapper import LLaDACausalLM


class Command:
    """Stands for a task that is run as a command: it shows its config and fails."""

    name = "a command"

    def __init__(self, folder):
        self.cfg, self.log = Config({"work_dir": str(folder)}), folder / "logs" / "a.out"

    def get_log_path(self, file_extension):
        return str(self.log)

    def get_command(self, cfg_path, template):
        return template.format(
            task_cmd=f"sh -c 'echo $CUDA_VISIBLE_DEVICES; cat {cfg_path}; exit 3'"
        )


def test_a_tasks_command_leaves_the_current_folder_alone(tmp_path, monkeypatch):
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    runner = CoreSharingLocalRunner(task={"type": "x"}, max_num_workers=1)
    task = Command(tmp_path / "run")
    assert runner._launch(task, [0, 1], 0) == ("a command", 3)
    devices, config = task.log.read_text().split("\n", 1)
    assert devices == "0,1"
    assert "work_dir = " in config
    assert os.listdir() == []
    assert os.listdir(tmp_path / "run") == ["logs"]


@pytest.fixture
def launched(monkeypatch):
    """Record the variable that task processes would inherit."""
    seen = []

    def work_off(self, tasks, session, side_by_side):
        seen.append(os.environ.get(THREADS_VARIABLE))
        return [0] * len(tasks)

    monkeypatch.setattr(CoreSharingLocalRunner, "_work_off", work_off)
    monkeypatch.setattr(LocalRunner, "launch", lambda self, tasks: work_off(self, tasks, None, 1))
    monkeypatch.setattr(TASKS, "build", lambda task: SimpleNamespace(name=task["cfg"]))
    monkeypatch.setattr(machine, "count_cores", lambda: 8)
    monkeypatch.delenv(THREADS_VARIABLE, raising=False)
    return seen


@pytest.mark.parametrize(("workers", "tasks", "threads"), [(2, 6, "4"), (4, 1, "8"), (16, 16, "1")])
def test_cores_are_divided_among_the_tasks_that_run_at_once(launched, workers, tasks, threads):
    runner = CoreSharingLocalRunner(task={"type": "x"}, max_num_workers=workers)
    names = [str(number) for number in range(tasks)]
    assert runner.launch(names) == [(name, 0) for name in names]
    assert launched == [threads]
    assert THREADS_VARIABLE not in os.environ


def test_a_variable_that_is_set_stays(launched, monkeypatch):
    monkeypatch.setenv(THREADS_VARIABLE, "3")
    CoreSharingLocalRunner(task={"type": "x"}, max_num_workers=2).launch(["a", "b"])
    assert launched == ["3"]
    assert os.environ[THREADS_VARIABLE] == "3"


def test_debug_mode_changes_nothing(launched):
    CoreSharingLocalRunner(task={"type": "x"}, max_num_workers=2, debug=True).launch([None])
    assert launched == [None]


@pytest.mark.parametrize("num_shots", [0, 2])
def test_prompts_are_counted_only_where_examples_may_be_left_out(tmp_path, monkeypatch, num_shots):
    checkpoint = write_tiny_checkpoint(tmp_path / "tiny")
    dataset = questions()
    if num_shots:
        infer = dataset["infer_cfg"]
        infer["prompt_template"]["ice_token"] = "</E>"
        turns = infer["prompt_template"]["template"]
        infer["ice_template"] = {"type": PromptTemplate, "template": {**turns}}
        infer["prompt_template"]["template"] = {"begin": "</E>", **turns}
        infer["retriever"] = {"type": FixKRetriever, "fix_id_list": list(range(num_shots))}
    counted = []
    count = LLaDACausalLM.get_token_len
    monkeypatch.setattr(
        LLaDACausalLM, "get_token_len", lambda *given: counted.append(1) or count(*given)
    )
    sampler = {"block_length": 8, "num_steps": 2}
    model = model_config(checkpoint, max_seq_len=24, drop_middle=True, sampler=sampler)
    cfg = plain({"models": [model], "datasets": [[dataset]], "work_dir": str(tmp_path)})
    ShortNamedInferTask(Config(cfg)).run()
    answers = json.loads((tmp_path / "predictions/tiny/questions.json").read_text())
    assert bool(counted) == bool(num_shots)
    shown = [answer["origin_prompt"].count("Q: ") - 1 for answer in answers.values()]
    assert shown == [min(num_shots, 1)] * len(ROWS), "one example of two fits 24 tokens"
