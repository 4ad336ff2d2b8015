"""`opencompass-llada time`: seconds measured alone, and what a report shows of others."""

import json

import pytest
from test_leaderboard import CELLS, MODELS
from tiny import write_tiny_checkpoint
from work_dirs import make_model, niah_cell, write_run

from opencompass_llada.cli import main
from opencompass_llada.report import timings
from opencompass_llada.report.averages import make_board
from opencompass_llada.report.collect import collect
from opencompass_llada.report.cost import find_costs
from opencompass_llada.report.figures import draw_costs
from opencompass_llada.report.publish import write_report
from opencompass_llada.report.scores import rank_scores
from opencompass_llada.report.tables import make_tables
from opencompass_llada.runs import machine, provenance, timing
from opencompass_llada.runs.run_folder import find_runs


@pytest.fixture
def run(tmp_path):
    """A finished run of two models on three lengths, whose checkpoint is here."""
    path = str(write_tiny_checkpoint(tmp_path / "checkpoint"))
    models = [
        make_model(name, path=path, max_out_len=4, sampler={"block_length": 4, "num_steps": steps})
        for name, steps in (("one", 2), ("two", 4))
    ]
    short = {"infer_cfg": {"inferencer": {"max_out_len": 4}}}
    cells = [niah_cell(length, depth, 3, **short) for length in (64, 128, 256) for depth in (0, 50)]
    return write_run(tmp_path / "run", models, cells)


def test_one_name_may_stand_for_a_sampler_a_benchmark(run, monkeypatch):
    alone(monkeypatch)
    [folder] = find_runs([run])
    (first, cell), *_ = folder.pairs
    other = {**first, "sampler": {"block_length": 4, "num_steps": 4}}
    content = timing.measure(folder, [(first, cell), (other, folder.pairs[-1][1])], rounds=1)
    assert [own["passes"] for own in content["cells"]] == [[2, 2, 2], [4, 4, 4]]


def alone(monkeypatch, others=0.0):
    monkeypatch.setattr(timing, "other_cores", lambda before, after: others)


def time(run, *options):
    return main(["time", str(run), "--rounds", "2", "--samples", "2", *options])


def test_the_shortest_and_the_longest_cell_of_each_model_are_timed(run, monkeypatch, capsys):
    alone(monkeypatch)
    assert time(run) == 0
    content = json.loads((run / "timing.json").read_text())
    assert [(cell["model"], cell["length"]) for cell in content["cells"]] == [
        ("one", 64), ("one", 256), ("two", 64), ("two", 256),
    ]  # fmt: skip
    for cell, passes in zip(content["cells"], (2, 2, 4, 4), strict=True):
        assert len(cell["seconds"]) == len(cell["cpu_seconds"]) == 4, "two samples, two rounds"
        assert cell["passes"] == [passes] * 4
        assert cell["joules"] == [None] * 4
        assert cell["peak_memory_bytes"] is None, "on a CPU nothing tells one model's"
    for model in content["models"].values():
        assert len(model["load_seconds"]) == 2
        assert len(model["first_call_seconds"]) == 4, "two cells, two rounds"
    assert content["is_alone"]
    assert "machine: alone" in capsys.readouterr().out


def test_a_report_shows_what_was_measured_alone_and_marks_what_was_not(run, monkeypatch, tmp_path):
    for others in (0.0, 1.4):
        alone(monkeypatch, others)
        assert time(run) == 0
        collection = collect([run])
        found = timings.find_timings(collection)
        assert [(one.entry, one.length, one.num_times) for one in found] == [
            ("one", 64, 4), ("one", 256, 4), ("two", 64, 4), ("two", 256, 4),
        ]  # fmt: skip
        assert all(own.low <= own.seconds <= own.high for own in found)
        lengths = [cost.timed and cost.timed.length for cost in find_costs(collection)]
        assert lengths == ([None, None] if others else [256, 256])
        write_report(find_runs([run]), tmp_path / "report")
        text = (tmp_path / "report/leaderboard.md").read_text()
        table = text[text.index("Timing, alone") :]
        assert table.count("(shared machine)") == (8 if others else 0), (
            "seconds and tokens a second"
        )
        assert ("Other processes kept 1.4 cores busy" in table) == bool(others)
        assert "(shared machine)" in text[text.index("Cost of") : text.index("Timing, alone")]


def test_answers_that_were_made_again_have_no_timing(run, monkeypatch):
    alone(monkeypatch)
    time(run)
    path = next((run / "predictions/one").glob("*length256*050.json"))
    path.write_text(path.read_text().replace("amber", "ochre"))
    assert {(own.entry, own.length) for own in timings.find_timings(collect([run]))} == {
        ("one", 64), ("two", 64), ("two", 256),
    }  # fmt: skip
    (run / "timing.json").write_text('{"cells": [')
    assert timings.find_timings(collect([run])) == []


def label_of_cost_axis(run):
    collection = collect([run])
    figure = draw_costs(rank_scores(make_board(collection))[0], find_costs(collection))
    figure.canvas.draw()
    for axes in figure.axes:
        for text in (axes.xaxis.label, axes.title):
            box = text.get_window_extent()
            assert 0 <= box.x0 < box.x1 <= figure.bbox.width, f"{text} is cut off"
    return {" ".join(axes.get_xlabel().split()) for axes in figure.axes}


def test_seconds_of_other_lengths_or_machines_are_not_drawn_together(run, monkeypatch):
    alone(monkeypatch)
    assert time(run) == 0
    assert "seconds a sample at 256 tokens, alone" in label_of_cost_axis(run).pop()
    path = run / "timing.json"
    whole = json.loads(path.read_text())
    path.write_text(json.dumps(whole | {"cells": whole["cells"][:3]}))
    assert [cost.timed.length for cost in find_costs(collect([run]))] == [256, 64]
    assert label_of_cost_axis(run).pop().startswith("forward passes")
    whole["models"]["two"]["device"] = "cuda:0 (another)"
    path.write_text(json.dumps(whole))
    assert label_of_cost_axis(run).pop().startswith("forward passes")


def test_seconds_of_a_shared_machine_are_neither_ranked_nor_drawn(tmp_path):
    run = write_run(tmp_path / "a", MODELS, CELLS)
    assert label_of_cost_axis(run) == {
        "forward passes a sample (NFE; seconds: not measured alone and alike)"
    }
    costs = find_costs(collect([run]))
    table = make_tables([], [], costs, [], {})[1]
    for name in ("seconds", "seconds a sample", "generated tokens/s"):
        cells = [row[table.heads.index(name)] for row in table.rows]
        assert all(cell.text.endswith("(shared machine)") for cell in cells)
        assert {cell.value for cell in cells} == {None}, "a text, which no sorting ranks"
    assert all(cost.is_shared for cost in costs)
    for path in (run / "provenance").glob("*.jsonl"):
        lines = [
            json.loads(line) | {"tasks_at_a_time": 1, "other_cores": 0.1}
            for line in path.read_text().splitlines()
        ]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert not any(cost.is_shared for cost in find_costs(collect([run])))
    assert label_of_cost_axis(run) == {"seconds a sample, mean of the run (one task at a time)"}
    path.write_text(path.read_text().replace('"other_cores": 0.1', '"other_cores": 1.1'))
    assert sum(cost.is_shared for cost in find_costs(collect([run]))) == 2, "on both benchmarks"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--samples", "0"], "--samples 0 must be at least 1"),
        (["--models", "oen"], "Did you mean 'one'"),
    ],
)
def test_wrong_options_are_refused(run, options, message, capsys):
    assert main(["time", str(run), *options]) == 2
    assert message in capsys.readouterr().err


def test_a_run_without_answers_is_refused(tmp_path, capsys):
    run = write_run(tmp_path / "a", MODELS, CELLS)
    for path in (run / "predictions").glob("*/*.json"):
        path.unlink()
    assert main(["time", str(run)]) == 2
    assert "has no generated answers" in capsys.readouterr().err


def test_other_processes_are_told_by_the_machines_busy_time():
    assert machine.other_cores((0.0, 10.0, 1.0), (10.0, 25.0, 8.0)) == 0.8
    assert machine.other_cores((0.0, 10.0, 1.0), (10.0, 12.0, 4.0)) == 0.0
    assert machine.other_cores(None, None) is None


def test_a_task_knows_how_many_go_on_beside_it(monkeypatch):
    monkeypatch.delenv(provenance.TASKS_VARIABLE, raising=False)
    assert provenance._read_tasks() is None
    monkeypatch.setenv(provenance.TASKS_VARIABLE, "2")
    assert provenance._read_tasks() == 2
