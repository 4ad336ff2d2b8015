"""How tasks run on this machine: turns at GPUs, deaths and a second try, scores where answers are.

Workers here are stand-ins in the test's own process; tests/test_workers.py kills real ones.
"""

import contextvars
import json
import logging
import signal
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace

import pytest
from mmengine.config import Config
from test_lost_predictions import make_run

from opencompass_llada import shared_weights
from opencompass_llada.networks import checkpoint
from opencompass_llada.runs import local_queue, tasks, workers
from opencompass_llada.runs.local_queue import DeviceQueue, local_session
from opencompass_llada.runs.workers import WorkerDied


def task(path, num_gpus=1):
    return SimpleNamespace(name=path, num_gpus=num_gpus, model_cfgs=[{"path": path}])


def take(queue):
    turn = queue.take()
    return turn.place, turn.devices


def test_turns_go_in_order_and_to_free_gpus():
    queue = DeviceQueue([task("a"), task("b"), task("c", 2), task("d", 0)], [4, 7], 1)
    first, second = queue.take(), queue.take()
    assert (first.place, first.devices) == (0, (4,))
    assert (second.place, second.devices) == (1, (7,))
    assert take(queue) == (3, ()), "what needs no GPU does not wait for one"
    queue.give_back(first)
    assert queue._choose() is None, "one of two GPUs is free"
    queue.give_back(second)
    assert take(queue) == (2, (4, 7))
    assert queue.take() is None


def test_a_worker_goes_on_with_the_checkpoint_that_it_has():
    queue = DeviceQueue([task(path) for path in ("a", "b", "b", "a", "c")], [0, 1], 1)
    first, second = queue.take(), queue.take()
    queue.give_back(first)
    third = queue.take()
    assert (third.place, third.devices) == (3, (0,)), "b's worker is busy, a's is free"
    queue.give_back(second)
    assert take(queue) == (2, (1,))
    queue.give_back(third)
    assert take(queue) == (4, (0,))


def test_more_gpus_than_there_are_are_refused():
    with pytest.raises(ValueError, match="asks for 2 GPUs, and this run sees 1"):
        DeviceQueue([task("a", 2)], [0], 1)
    with pytest.raises(ValueError, match="max_workers_per_gpu=0 must be at least 1"):
        DeviceQueue([task("a")], [0], 0)


class Here:
    """Stands in for a worker: runs jobs in this process, and dies where a job says so."""

    def __init__(self, first):
        self._context = contextvars.Context()
        self._context.run(shared_weights._current.set, shared_weights.SharedWeights())
        STARTED.append(self)

    def run(self, job):
        try:
            self._context.run(job.work, *job.arguments)
        except SystemExit as ended:
            if ended.code == DEATH:
                raise WorkerDied(-signal.SIGKILL) from None
            return ended.code
        raise AssertionError("a task ends with a status")

    def end(self):
        return 0


DEATH = "killed"
STARTED = []


@pytest.fixture
def here(monkeypatch):
    monkeypatch.setattr(workers, "Worker", Here)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    STARTED.clear()


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Return a function that makes a run of two scalings on two cells, and its tasks."""
    made = make_run("niah_embedded", tmp_path)
    (model,), (cell,) = made["models"], made["datasets"]
    scaled = {**model, "abbr": "scaled", "rope_scaling": {"type": "ntk", "theta_multiplier": 4.0}}
    cells = [{**deepcopy(cell), "abbr": f"{cell['abbr']}_{number}th"} for number in range(2)]

    def make(name):
        folder = tmp_path / name
        run = dict(eval=dict(runner=dict(task=dict(dump_details=True))), work_dir=str(folder))
        one = [dict(models=[own], datasets=[[c]], **run) for own in (model, scaled) for c in cells]
        return folder, [Config(deepcopy(own)) for own in one]

    return make


def launch(kind, given, workers=1):
    runner = tasks.CoreSharingLocalRunner(
        task=dict(type=f"opencompass_llada.runs.tasks.{kind}"), max_num_workers=workers
    )
    return [status for _, status in runner.launch(given)]


def run_all(folder, given):
    with local_session() as session:
        session.score_by(given)
        statuses = launch("ShortNamedInferTask", given)
        scored = sorted(path.name for path in folder.glob("results/*/*.json"))
        return statuses + launch("CellByCellEvalTask", given), scored


def read_files(folder):
    """Return predictions, results and their makers by place in the folder."""
    stages = ("predictions", "results")
    paths = [path for stage in stages for path in folder.glob(f"{stage}/*/*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


@pytest.fixture
def loads(monkeypatch):
    """Count each read of weights."""
    load_file, loads = checkpoint.load_file, []

    def load(*given, **options):
        loads.append(1)
        return load_file(*given, **options)

    monkeypatch.setattr(checkpoint, "load_file", load)
    return loads


def die_on(model, times, monkeypatch):
    infer = tasks.ShortNamedInferTask._infer_and_record

    def infer_or_die(self):
        deaths = Path(self.work_dir) / "deaths"
        died = deaths.read_text() if deaths.is_file() else ""
        if self.model_cfg["abbr"] == model and len(died) < times:
            deaths.write_text(died + "x")
            raise SystemExit(DEATH)
        infer(self)

    monkeypatch.setattr(tasks.ShortNamedInferTask, "_infer_and_record", infer_or_die)


def test_one_worker_loads_once_scores_at_once_and_gives_the_files_of_separate_tasks(
    here, runs, loads
):
    folder, given = runs("apart")
    for kind in (tasks.ShortNamedInferTask, tasks.CellByCellEvalTask):
        for own in given:
            kind(deepcopy(own)).run()
    assert len(loads) == len(given)
    loads.clear()
    together, given = runs("together")
    statuses, scored = run_all(together, given)
    assert statuses == [0] * 8
    assert len(scored) == 4, "before the scoring stage"
    assert not (together / "logs" / "eval").exists(), "nothing was left to that stage"
    assert len(loads) == 1
    assert len(STARTED) == 1
    assert read_files(together) == read_files(folder)


def test_a_death_costs_one_task_that_is_run_once_more(here, runs, monkeypatch, caplog):
    whole, given = runs("whole")
    assert run_all(whole, given)[0] == [0] * 8
    folder, given = runs("killed")
    die_on("model", 1, monkeypatch)
    logging.getLogger("opencompass_llada").addHandler(caplog.handler)
    statuses, _ = run_all(folder, given)
    logging.getLogger("opencompass_llada").removeHandler(caplog.handler)
    assert statuses == [0] * 8
    assert read_files(folder) == read_files(whole)
    said = {record.message for record in caplog.records if "died" in record.message}
    told = "its process died (signal 9). The task is run once more, in a new process."
    assert said == {f"OpenICLInfer[model: 1 data sets]: {told}"}
    assert len(STARTED) == 2 + 1, "one of the run before, one that died, one after it"


def test_two_deaths_fail_the_task_and_no_other(here, runs, monkeypatch, caplog):
    folder, given = runs("killed")
    die_on("model", 2, monkeypatch)
    logging.getLogger("opencompass_llada").addHandler(caplog.handler)
    statuses = launch("ShortNamedInferTask", given)
    logging.getLogger("opencompass_llada").removeHandler(caplog.handler)
    assert statuses == [-signal.SIGKILL, 0, 0, 0]
    assert [
        record.message for record in caplog.records if "died (signal 9) again" in record.message
    ]
    answered = {path.parent.name for path in folder.glob("predictions/*/*_0th.json")}
    assert answered == {"scaled"}
    assert len(list(folder.glob("predictions/*/*_1th.json"))) == 2


def test_what_cannot_be_scored_at_once_is_left_to_the_scoring_stage(here, runs, monkeypatch):
    folder, given = runs("later")
    for own in given:
        own["datasets"][0][0]["eval_cfg"]["evaluator"] = dict(type="AccEvaluator")
    with local_session() as session:
        session.score_by(given)
        assert launch("ShortNamedInferTask", given) == [0] * 4
        assert not (folder / "results").exists(), "another's evaluator"
        assert launch("CellByCellEvalTask", given) == [0] * 4
    assert len(list(folder.glob("results/*/*.json"))) == 4
    assert {path.name for path in (folder / "logs" / "eval").iterdir()} == {"model", "scaled"}


def test_a_cell_in_shards_is_scored_when_its_last_shard_is_answered(runs):
    folder, given = runs("shards")
    whole = given[0]
    cell = whole["datasets"][0][0]
    name, size = cell["abbr"], len(tasks.build_dataset_from_cfg(cell).test)
    scoring = {("model", name): deepcopy(whole)}
    result = folder / "results" / "model" / f"{name}.json"
    for start, stop in ((1, size), (0, 1)):
        assert not result.exists()
        own = deepcopy(whole)
        shard = own["datasets"][0][0]
        shard["abbr"] = f"{name}_{start}-{stop}of{size}"
        shard["reader_cfg"]["test_range"] = f"[{start}:{stop}]"
        made = tasks.ShortNamedInferTask(own)
        made.scoring = scoring
        made.run()
    assert json.loads(result.read_text())


def test_a_session_inside_another_is_that_one():
    with local_session() as outer, local_session() as inner:
        assert inner is outer
    assert local_queue._current.get() is None
