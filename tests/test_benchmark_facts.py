"""What is known of benchmarks: one record each, and one more from outside in a few lines."""

import dataclasses
import json

import pytest
from work_dirs import make_model

from opencompass_llada.benchmarks import facts
from opencompass_llada.benchmarks.facts import Benchmark, DataFiles, Group, find_benchmark, register
from opencompass_llada.report.results import read_results
from opencompass_llada.runs.doctor import check_data, run_doctor


class ToyDataset:
    """Stands for a data set class of another package."""


def needed(dataset, kind):
    if kind.endswith(".ToyDataset"):
        yield dataset["path"], ["toy.jsonl"]


TOY = Benchmark(
    name="toy",
    title="Toy",
    dataset_classes=(f"{__name__}.ToyDataset",),
    metrics=("hits",),
    has_more_metrics=False,
    is_percent=True,
    groups=(Group(name="both", members=("one", "two")),),
    headline="both",
    is_grid=False,
    source="this test",
    data=DataFiles(
        name="toy",
        folders={"me/toy": "data/toy"},
        files=("toy.jsonl",),
        fetch="hf download me/toy --local-dir FOLDER",
        needed=needed,
    ),
)


@pytest.fixture
def toy(monkeypatch):
    monkeypatch.setattr(facts, "_registered", {})
    register(TOY)
    return TOY


def test_every_folder_states_its_benchmarks():
    assert set(facts.all_benchmarks()) >= {
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

    facts._installed.cache_clear()
    monkeypatch.setattr(facts, "entry_points", lambda group: [Point()])
    try:
        assert find_benchmark("toy") is TOY
    finally:
        facts._installed.cache_clear()


def toy_cell(task, path):
    return dict(abbr=f"toy_{task}", type=ToyDataset, task=task, path=str(path))


def test_the_report_takes_metric_and_benchmark_from_the_record(toy, tmp_path):
    model = make_model("toy-model")
    cells = [toy_cell("one", tmp_path), toy_cell("two", tmp_path)]
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
    [finding] = check_data([toy_cell("one", "me/toy")])
    assert (finding.topic, finding.level) == ("toy", "fault")
    assert "hf download me/toy" in finding.remedy
    (tmp_path / "data/toy").mkdir(parents=True)
    (tmp_path / "data/toy/toy.jsonl").write_text("")
    [finding] = check_data([toy_cell("one", "me/toy")])
    assert finding.level == "ok"
    run_doctor(None, "toy", str(tmp_path))
    assert "toy" in capsys.readouterr().out
