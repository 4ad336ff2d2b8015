"""Shards: processes that know nothing of each other answer a run together, each sample once."""

from __future__ import annotations

import json
import shutil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import write_tiny_checkpoint
from tiny_jobs import ROWS, Job, prepare, stop_half_way

from opencompass_llada.files import FolderInUse, folder_lock
from opencompass_llada.runs import shards
from opencompass_llada.runs.partitioner import CostAwarePartitioner
from opencompass_llada.runs.provenance import read_provenance
from opencompass_llada.runs.recorded_files import find_finished, own_file, read_seals
from opencompass_llada.runs.shards import Shard, read_shard


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, None),
        ({"LLADA_SHARD": ""}, None),
        ({"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "8"}, None),
        ({"LLADA_SHARD": "0/1"}, Shard(0, 1)),
        ({"LLADA_SHARD": " 7/8 "}, Shard(7, 8)),
        (
            {"LLADA_SHARD": "auto", "SLURM_ARRAY_TASK_ID": "5", "SLURM_ARRAY_TASK_COUNT": "3",
             "SLURM_ARRAY_TASK_MIN": "1", "SLURM_ARRAY_TASK_MAX": "5",
             "SLURM_ARRAY_TASK_STEP": "2"},
            Shard(2, 3),
        ),
        (
            {"LLADA_SHARD": "auto", "JOB_COMPLETION_INDEX": "0", "LLADA_NUM_SHARDS": "4"},
            Shard(0, 4),
        ),
    ],
)  # fmt: skip
def test_a_shard_is_read_where_it_is_asked_for(variables, expected):
    assert read_shard(variables) == expected


ARRAY = {"LLADA_SHARD": "auto", "SLURM_ARRAY_TASK_COUNT": "3", "SLURM_ARRAY_TASK_MIN": "0"}


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"LLADA_SHARD": "0/0"}, "at least 1 shard"),
        ({"LLADA_SHARD": "5/4"}, "those of 4 are 0/4 to 3/4"),
        ({"LLADA_SHARD": "4/4"}, "those of 4 are 0/4 to 3/4"),
        ({"LLADA_SHARD": "-1/4"}, "must be i/n, such as 0/8"),
        ({"LLADA_SHARD": "three"}, "must be i/n, such as 0/8"),
        ({"LLADA_SHARD": "auto"}, "finds neither a Slurm array"),
        ({"LLADA_SHARD": "auto", "JOB_COMPLETION_INDEX": "1"}, "needs LLADA_NUM_SHARDS"),
        (
            {**ARRAY, "SLURM_ARRAY_TASK_ID": "7", "SLURM_ARRAY_TASK_MAX": "7"},
            "gaps between 0 and",
        ),
        ({**ARRAY, "SLURM_ARRAY_TASK_ID": ""}, "needs SLURM_ARRAY_TASK_ID as a whole number"),
    ],
)
def test_a_wrong_shard_is_refused_with_what_to_give(variables, said):
    with pytest.raises(ValueError, match=said):
        read_shard(variables)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 30), st.integers(64, 40000)), min_size=1, max_size=12),
    st.integers(1, 9),
    st.integers(1, 3),
)
def test_shards_are_disjoint_whole_and_the_same_for_all(cells, number, batch_size):
    sets = [
        {"type": "x.Data", "abbr": f"d{place}", "length": length, "reader_cfg": {}, "rows": rows}
        for place, (rows, length) in enumerate(cells)
    ]
    models = [
        {"type": "x.M", "abbr": name, "path": "nowhere", "batch_size": batch_size} for name in "ab"
    ]
    pairs = [(model, own) for model in models for own in sets]

    def cut():
        partitioner = CostAwarePartitioner(out_dir="predictions")
        partitioner._sizes = {str(own): own["rows"] for own in sets}
        return partitioner.cut_for_shards(pairs, number)

    made = cut()
    assert made == cut()
    assert set(made) == {(model["abbr"], own["abbr"]) for model, own in pairs}
    for (_, name), (total, ranges) in made.items():
        samples = [i for _, start, stop in ranges for i in range(start, stop)]
        assert samples == list(range(total)), name
        assert total == cells[int(name[1:])][0]
        assert all(0 <= shard < number for shard, _, _ in ranges)
        assert all(start % batch_size == 0 for _, start, _ in ranges)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_tiny_checkpoint(tmp_path_factory.mktemp("checkpoints") / "tiny")


class ShardedJob(Job):
    """The tiny job without --debug's work dir of a time: its folder is named."""

    def run(self, *words, shard=None):
        with pytest.MonkeyPatch.context() as patch:
            if shard is not None:
                patch.setenv("LLADA_SHARD", shard)
            return super().run("-r", "grid", *words)

    @property
    def path(self):
        return self.work_dir / "grid"


@pytest.fixture
def job(tmp_path, checkpoint, monkeypatch):
    prepare(monkeypatch, tmp_path)
    job = ShardedJob(tmp_path, checkpoint)
    job.model["batch_size"] = 1
    job.rest |= {"abbrs": ("one", "two")}
    return job


def predictions(job):
    """Return all answers, by model."""
    found = {}
    for folder in sorted((job.path / "predictions").iterdir()):
        files = find_finished(folder, "set")
        rows = [row for file in files for row in json.loads(file.path.read_text()).values()]
        found[folder.name] = [(row["gold"], row["prediction"]) for row in rows]
    return found


def test_shards_in_any_order_give_the_answers_of_one_process(job, caplog):
    assert [job.run(shard=f"{i}/3") for i in (2, 0)] == [0, 0]
    assert not (job.path / "results").exists(), "nothing is scored by a shard"
    caplog.clear()
    assert job.run("-m", "eval") == 1
    assert "1 of 3 shards are not finished" in caplog.text
    assert "LLADA_SHARD=1/3: " in caplog.text
    before = {p: p.stat().st_ino for p in job.path.glob("predictions/*/*.json")}
    assert job.run(shard="1/3") == 0
    assert {p: p.stat().st_ino for p in before} == before
    assert job.run("-m", "eval") == 0
    assert sorted(path.name for path in job.path.glob("results/*/*.json")) == ["set.json"] * 2
    sharded, names = predictions(job), {p.name for p in job.path.glob("predictions/*/*.json")}
    assert len(names) > 1, "some cell was cut"
    assert all(len(rows) == len(ROWS) for rows in sharded.values())
    # No two processes wrote one file of records, and what they wrote is read together.
    records = {p.name for p in (job.path / "provenance").iterdir()}
    assert {"files.shard-0.seals", "files.shard-1.seals", "files.shard-2.seals"} <= records
    assert "files.seals" in records, "of the scoring"
    assert len(read_provenance(job.path).datasets) == len(list(before)) + len(
        [p for p in job.path.glob("predictions/*/*.json") if p not in before]
    )
    # A shard that is started twice within a second of one process, as here, has one name.
    assert len(list((job.path / "configs").glob("*.py"))) in (4, 5)
    assert not list(job.path.glob(".lock*"))
    shutil.rmtree(job.path)
    job.work_dir.joinpath("grid").mkdir()
    assert job.run() == 0
    assert predictions(job) == sharded


def test_a_shard_that_was_stopped_goes_on_and_leaves_others_alone(job):
    assert job.run(shard="0/2") == 0
    assert job.run(shard="1/2") == 0
    everything = predictions(job)
    plan = shards.read_plan(job.path)
    own = shards.OwnPart(shard=Shard(1, 2), cells=plan[1])
    files = sorted(job.path.glob("predictions/*/*.json"))
    mine = [path for path in files if own.owns(path.parent.name, path.stem)]
    assert 0 < len(mine) < len(files)
    stop_half_way(mine[0], kept=1)
    other = next(path for path in files if path not in mine)
    other.write_text("torn")
    assert job.run(shard="1/2") == 0
    assert other.read_text() == "torn", "another shard's file is not this one's to heal"
    assert job.run("-m", "eval") == 1
    assert job.run(shard="0/2") == 0
    assert job.run("-m", "eval") == 0
    assert predictions(job) == everything


def test_what_does_not_go_together_is_refused(job):
    assert job.run(shard="0/2") == 0
    assert "was begun with 2 shards. Use LLADA_SHARD=i/2" in job.run(shard="0/3")
    assert "those of 4 are 0/4 to 3/4" in job.run(shard="5/4")
    assert "-m eval is for the whole run" in job.run("-m", "eval", shard="0/2")
    assert "a dry run writes nothing" in job.run("--dry-run", shard="0/2")
    assert "--slurm starts jobs" in job.run("--slurm", "-p", "x", shard="0/2")
    job.model["sampler"]["num_steps"] = 2
    said = job.run(shard="1/2")
    assert "2 of 2 cells are not as the config of the first shard had them" in said
    assert "another folder with -r NAME" in said
    job.model["sampler"]["num_steps"] = 4
    job.model["run_cfg"] = {"num_gpus": 0, "num_procs": 1}
    assert job.run(shard="1/2") == 0, "where a shard runs changes no answer"


def test_a_folder_has_to_be_named(job, monkeypatch):
    monkeypatch.setenv("LLADA_SHARD", "0/2")
    assert "Give -w DIR -r NAME" in Job.run(job)
    assert "Give -w DIR -r NAME" in Job.run(job, "-r")


def test_more_shards_than_there_is_work_end_well(job):
    job.rest["abbrs"] = ("one",)
    assert [job.run(shard=f"{i}/5") for i in range(5)] == [0] * 5
    assert job.run("-m", "eval") == 0


def test_locks_of_parts_go_together_and_none_with_that_of_the_whole(tmp_path):
    with folder_lock(tmp_path, "an evaluation", "shard-0"):
        with folder_lock(tmp_path, "an evaluation", "shard-1"):
            pass
        with pytest.raises(FolderInUse), folder_lock(tmp_path, "an evaluation", "shard-0"):
            pass
        with pytest.raises(FolderInUse), folder_lock(tmp_path, "an evaluation"):
            pass
        assert not (tmp_path / ".lock").exists()
    part = folder_lock(tmp_path, "an evaluation", "shard-0")
    with folder_lock(tmp_path, "an evaluation"), pytest.raises(FolderInUse), part:
        pass
    assert not list(tmp_path.glob(".lock*"))


def test_a_plan_is_written_once(tmp_path):
    cells = {("m", "d"): {"total": 4, "digest": "x", "ranges": [[0, 0, 4]]}}
    shards._write_plan(tmp_path, 1, cells)
    shards._write_plan(tmp_path, 2, {})
    number, plan = shards.read_plan(tmp_path)
    assert (number, plan["m", "d"].of(0)) == (1, [(0, 4)])
    assert [p.name for p in (tmp_path / "provenance").iterdir()] == ["shards.json"]
    shards.plan_path(tmp_path).write_text("{")
    with pytest.raises(ValueError, match="is torn"):
        shards.read_plan(tmp_path)


def test_the_newest_seal_counts_whichever_file_it_is_in(tmp_path, monkeypatch):
    from opencompass_llada.runs.recorded_files import seal_file

    file = tmp_path / "predictions/m/d.json"
    file.parent.mkdir(parents=True)
    for shard, content in (("1/2", "{}"), ("", "[]"), ("0/2", "3")):
        monkeypatch.setenv("LLADA_SHARD", shard)
        file.write_text(content)
        seal_file(file, file, holds=content)
        assert read_seals(tmp_path)["predictions/m/d.json"]["holds"] == content
    assert own_file("m", ".jsonl") == "m.shard-0.jsonl"
