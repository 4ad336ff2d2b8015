"""What is known of benchmarks: one record each, and one more from outside in a few lines."""

import dataclasses
import json

import pytest
from toy_benchmark.facts import TOY
from work_dirs import make_model

from opencompass_llada.benchmarks import benchmark as benchmark_module
from opencompass_llada.benchmarks.benchmark import Benchmark, find_benchmark, register
from opencompass_llada.report.results import read_results
from opencompass_llada.runs.doctor import check_data, run_doctor
from opencompass_llada.runs.planning import list_data_sets, plan_run


@pytest.fixture
def toy(monkeypatch):
    monkeypatch.setattr(benchmark_module, "_registered", {})
    register(TOY)
    return TOY


def test_every_folder_states_its_benchmarks():
    assert set(benchmark_module.all_benchmarks()) >= {
        *("niah", "needlebench_multi", "ruler", "longbench", "longbench_e", "longbench_v2"),
        *("perplexity", "short"),
    }


def test_a_record_cannot_be_half_filled():
    with pytest.raises(TypeError, match="metrics"):
        Benchmark(name="toy", title="Toy")
    for field in dataclasses.fields(Benchmark):
        assert field.default is field.default_factory is dataclasses.MISSING, field.name


def test_an_unknown_benchmark_has_any_metric_and_a_name_is_taken_once(toy):
    assert find_benchmark("nowhere").metrics == ("score", "accuracy")
    register(toy)
    with pytest.raises(ValueError, match="'toy' is there already"):
        register(dataclasses.replace(toy, title="Another"))


def test_an_entry_point_adds_benchmarks(monkeypatch):
    class Point:
        def load(self):
            return (TOY,)

    benchmark_module._installed.cache_clear()
    monkeypatch.setattr(benchmark_module, "entry_points", lambda group: [Point()])
    try:
        assert find_benchmark("toy") is TOY
    finally:
        benchmark_module._installed.cache_clear()


def toy_cells(path):
    return list_data_sets("toy", data=str(path))


def test_a_run_of_it_is_planned_and_its_data_checked(toy, tmp_path, monkeypatch, capsys):
    rows = [dict(task=task, prompt="1 + 1 =", answer="2") for task in ("one", "two")]
    (tmp_path / "toy.jsonl").write_text("\n".join(map(json.dumps, rows)))
    monkeypatch.setenv("LLADA_TASKS", "two")
    settings = dict(models=["tiny_llada"], scaling=["none", "ntk"], data=str(tmp_path))
    run = plan_run("toy", settings, num_gpus=0)
    assert [cell["abbr"] for cell in run.datasets] == ["toy_two"]
    assert len(run.models) == 2
    assert "Toy: 2 models, 1 tasks" in capsys.readouterr().err
    assert run.infer["partitioner"]["type"].endswith("CostAwarePartitioner")
    monkeypatch.setenv("LLADA_TASKS", "three")
    with pytest.raises(ValueError, match="Valid: one, two"):
        plan_run("toy", settings, num_gpus=0)
    monkeypatch.delenv("LLADA_TASKS")
    with pytest.raises(FileNotFoundError):
        plan_run("toy", dict(settings, data="/nowhere"), num_gpus=0)


def test_the_report_takes_metric_and_benchmark_from_the_record(toy, tmp_path):
    model = make_model("toy-model")
    cells = toy_cells(tmp_path)
    folder = tmp_path / "results" / model["abbr"]
    folder.mkdir(parents=True)
    (folder / "toy_one.json").write_text(json.dumps(dict(hits=50.0, other=3.0)))
    rows = read_results(dict(models=[model], datasets=cells), tmp_path).itertuples()
    assert [(row.benchmark, row.metric, row.score, row.status) for row in rows] == [
        ("toy", "hits", 50.0, "ok"),
        ("toy", "hits", None, "missing"),
    ]


def test_the_doctor_checks_its_files(toy, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("COMPASS_DATA_CACHE", str(tmp_path))
    [finding] = check_data(toy_cells("me/toy"))
    assert (finding.topic, finding.level) == ("toy", "fault")
    assert "hf download me/toy" in finding.remedy
    (tmp_path / "data/toy").mkdir(parents=True)
    (tmp_path / "data/toy/toy.jsonl").write_text("")
    [finding] = check_data(toy_cells("me/toy"))
    assert finding.level == "ok"
    run_doctor(None, "toy", str(tmp_path))
    assert "toy" in capsys.readouterr().out
