"""One partitioner: parts of the size that they should have, and each sample in one of them."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mmengine.config import Config
from tiny import write_tiny_checkpoint
from tiny_choices import ROWS, model_config, plain, questions

from opencompass_llada.files import append_line, sealed_line
from opencompass_llada.runs import costs, packing
from opencompass_llada.runs.packing import Span, cut_line, share_equally, share_out, split_open
from opencompass_llada.runs.partitioner import CostAwarePartitioner, count_samples, known_rows
from opencompass_llada.runs.planning import plan_run
from opencompass_llada.runs.provenance import Provenance
from opencompass_llada.runs.recorded_files import find_finished, split_shard_name
from opencompass_llada.runs.tasks import ShortNamedInferTask

RECORD = Path(__file__).parents[1] / "benchmarks/records/inference_h100.json"
lengths = st.integers(1, 40)


@st.composite
def lines(draw):
    cells = draw(st.lists(st.tuples(lengths, st.floats(0.01, 50), st.integers(0, 3)), min_size=1))
    return [
        Span(cell=number, start=0, stop=stop, seconds=seconds, step=step)
        for number, (stop, seconds, step) in enumerate(cells)
    ]


@settings(max_examples=150, deadline=None)
@given(lines(), st.integers(1, 12), st.floats(0, 100))
def test_a_line_is_cut_into_parts_of_the_sizes_with_each_sample_once(line, number, smallest):
    total = sum(span.cost for span in line)
    sizes = share_equally(total, number)
    parts = cut_line(line, sizes, smallest)
    assert parts == cut_line(line, sizes, smallest)
    assert len(parts) == number
    found = sorted((s.cell, i) for part in parts for s in part for i in range(s.start, s.stop))
    assert found == [(span.cell, i) for span in line for i in range(span.stop)]
    for span in (span for part in parts for span in part):
        whole = line[span.cell]
        is_cut = (span.start, span.stop) != (0, whole.stop)
        assert not (is_cut and (whole.step == 0 or whole.cost < smallest))
        assert not (is_cut and span.start % whole.step)
    # No part is off by more than the largest piece that may not be cut, at either end.
    uncut = max(
        span.cost if span.step == 0 or span.cost < smallest else span.step * span.seconds
        for span in line
    )
    for part, size in zip(parts, sizes, strict=True):
        assert abs(sum(span.cost for span in part) - size) <= 2 * uncut + 0.05 * size + 1e-6


@settings(max_examples=100, deadline=None)
@given(st.floats(0.1, 1e6), st.integers(1, 64), st.floats(0.01, 1e3))
def test_tasks_are_four_a_worker_or_fewer_and_none_too_short(total, workers, least):
    sizes = share_out(total, workers, least)
    assert sum(sizes) == pytest.approx(total)
    assert len(sizes) <= packing.MOST_ROUNDS * workers
    assert sizes == sorted(sizes, reverse=True)
    assert min(sizes) >= least or len(sizes) == 1
    if total >= 10 * workers * least:
        assert len(sizes) == 4 * workers
        assert sizes[0] == pytest.approx(4 * sizes[-1])


ranges = st.tuples(st.integers(0, 12), st.integers(0, 12)).map(lambda own: (min(own), max(own)))
some = st.lists(ranges.filter(lambda own: own[0] < own[1]), max_size=4)


@settings(max_examples=200, deadline=None)
@given(some, some)
def test_each_sample_is_planned_once_whatever_was_done(done, begun):
    free, kept = split_open([(0, 12)], done, begun)
    taken = []
    for start, stop in sorted(done):
        taken += [(start, stop)] if not taken or start >= taken[-1][1] else []
    covered = sorted(i for start, stop in [*taken, *free, *kept] for i in range(start, stop))
    assert covered == list(range(12))
    assert set(kept) <= set(begun)


def test_what_was_begun_outside_of_what_is_allowed_is_left_alone():
    assert split_open([(0, 5), (8, 10)], [(0, 2)], [(4, 6)]) == ([(2, 5), (8, 10)], [])
    assert split_open([(0, 10)], [(0, 5)], [(5, 10)]) == ([], [(5, 10)])


@pytest.mark.parametrize(("length", "mode"), [(n, "floor") for n in (4096, 16384, 32768, 131072)])
def test_passes_cost_what_was_measured(length, mode):
    record = json.loads(RECORD.read_text())
    cost = costs.ModelCost(shape=costs.LLADA_8B, rates=costs.GPU)
    assert cost.pass_seconds(length) == pytest.approx(
        record[f"{mode} {length}"]["seconds"], rel=0.05
    )


@pytest.mark.parametrize(
    ("run", "cache", "error"),
    [
        ("4K+32", "none", 0.1), ("4K+32", "prompt", 0.1), ("32K+32", "prompt", 0.1),
        ("32K+64", "prompt", 0.1), ("64K+32", "prompt", 0.1), ("16K+512", "prompt", 0.1),
        ("16K+512", "dual", 0.1),
    ],
)  # fmt: skip
def test_answers_cost_what_was_measured(run, cache, error):
    record = json.loads(RECORD.read_text())[f"run {run}"]
    shape, mode = record["shape"], "exact" if cache == "none" else cache
    model = {
        "type": "opencompass_llada.wrapper.LLaDACausalLM", "path": "nowhere/llada-8b-shape",
        "model_type": "llada", "run_cfg": {"num_gpus": 1}, "max_out_len": shape["new"],
        "sampler": {"block_length": shape["block"], "num_steps": shape["steps"], "cache": cache},
    }  # fmt: skip
    work = costs.describe_work(model, {"length": shape["prompt"], "infer_cfg": {}})
    seconds = costs.cost_of_model(model).sample_seconds(work)
    assert seconds == pytest.approx(record["modes"][mode]["seconds"], rel=error)


def test_what_finished_cells_took_corrects_the_rest():
    model = {"type": "elsewhere.Model", "abbr": "m", "path": "nowhere", "run_cfg": {"num_gpus": 1}}
    sets = [{"type": "elsewhere.Data", "abbr": f"d{i}", "length": 4096} for i in range(2)]
    estimates = costs.Estimates()
    own = estimates.sample(model, sets[0])
    record = {"seconds": 30 * own, "num_prompts": 10}
    known = Provenance(datasets={("m", "d0_0-10of20"): record})
    found = estimates.calibrate([(model, own) for own in sets], known)
    assert found.factor(model, sets[1]) == pytest.approx(3)
    assert found.factor({**model, "abbr": "other"}, sets[1]) == pytest.approx(3)
    assert costs.Calibration().factor(model, sets[0]) == 1


@pytest.fixture(scope="module")
def grid():
    """LongLLaDA's grid of one model without its data: two repeats of the embedded data's cells."""
    return plan_run(
        "niah",
        {"models": ["llada_8b_base"], "data": "embedded", "lengths": [2000, 8000, 32000],
         "repeats": 10, "depths": [0, 50, 100], "tokenizer": "asset:tiny-llada"},
        num_gpus=8, announce=False,
    )  # fmt: skip


def deal(run, folder, **options):
    cfg = {"models": run.models, "datasets": run.datasets, "work_dir": str(folder)}
    return CostAwarePartitioner(out_dir=str(folder / "predictions"), **options)(Config(cfg))


def samples_of(tasks):
    """Return (model, data set, sample) of all tasks, whole cells by all of their ten samples."""
    found = []
    for task in tasks:
        for model, datasets in zip(task["models"], task["datasets"], strict=True):
            for dataset in datasets:
                name, shard = split_shard_name(dataset["abbr"])
                own = range(*shard[:2]) if shard else range(10)
                found += [(model["abbr"], name, i) for i in own]
    return found


@pytest.mark.parametrize("options", [{"num_workers": 32}, {"num_tasks": 5}, {"task_seconds": 60}])
def test_a_grid_of_one_model_fills_all_workers(grid, tmp_path, options):
    tasks = deal(grid, tmp_path, **options)
    expected = {
        (grid.models[0]["abbr"], own["abbr"], i) for own in grid.datasets for i in range(10)
    }
    found = samples_of(tasks)
    assert len(found) == len(set(found)) == 90
    assert set(found) == expected
    again = deal(grid, tmp_path, **options)
    assert [task.to_dict() for task in tasks] == [task.to_dict() for task in again]
    estimates = costs.Estimates()
    seconds = [
        sum(estimates.sample(task["models"][0], own) * len(samples_of([
            {"models": task["models"], "datasets": [[own]]}])) for own in task["datasets"][0])
        for task in tasks
    ]  # fmt: skip
    assert seconds == sorted(seconds, reverse=True), "the longest first"
    longest = estimates.sample(grid.models[0], grid.datasets[2])
    load = costs.cost_of_model(grid.models[0]).load_seconds
    if "num_workers" in options:
        assert len(tasks) >= 32
        assert max(seconds) < 1.1 * sum(seconds) / 32 + longest
        assert min(seconds) > 5 * load - longest
    elif "num_tasks" in options:
        assert len(tasks) == 5
        assert max(seconds) - min(seconds) < 2 * longest + 0.05 * sum(seconds) / 5
    else:
        assert max(seconds) < 60 + 2 * longest


def test_a_data_set_without_a_number_of_samples_is_counted_and_one_that_is_lost_is_not_cut(caplog):
    dataset = plain(questions())
    assert known_rows(dataset) is None
    assert count_samples(dataset) == len(ROWS)
    dataset["reader_cfg"]["test_range"] = "[1:3]"
    assert count_samples(dataset) == 2
    dataset["reader_cfg"]["test_range"] = "[9:]"
    assert count_samples(dataset) == 0
    partitioner = CostAwarePartitioner(out_dir="predictions", num_workers=2)
    model = {"abbr": "stock", "type": "opencompass.models.OpenAI", "path": "gpt-4"}
    (task,) = partitioner.partition([{"models": [model], "datasets": [dataset]}], ".", "nowhere")
    assert task.datasets[0][0].abbr == dataset["abbr"], "an empty one, too, whose task says so"
    dataset["type"] = "nowhere.Data"
    assert count_samples(dataset) is None
    assert "is not cut" in caplog.text


def test_a_range_of_generated_samples_is_counted_without_making_them(grid):
    cell = dict(grid.datasets[0], path="/nowhere")
    assert known_rows(cell) == 10
    assert known_rows({**cell, "reader_cfg": {"test_range": "[2:9][0:3]"}}) == 3
    assert known_rows({**cell, "n": 2}) == 20
    assert known_rows({**cell, "reader_cfg": {"test_range": "[::2]"}}) is None


def test_small_runs_have_few_tasks_and_whole_cells(tmp_path):
    settings = {"models": ["tiny_llada"], "scaling": ["none"], "lengths": [256], "depths": [0, 50],
                "repeats": 2, "data": "embedded"}  # fmt: skip
    run = plan_run("niah", settings, num_gpus=0, announce=False)
    tasks = deal(run, tmp_path, num_workers=2)
    assert 1 <= len(tasks) <= 2
    names = [own["abbr"] for task in tasks for own in task["datasets"][0]]
    assert sorted(names) == sorted(own["abbr"] for own in run.datasets)


def test_models_on_gpus_share_no_task_with_others(tmp_path):
    models = [
        {"type": "x.M", "abbr": "cpu"},
        {"type": "x.M", "abbr": "gpu", "run_cfg": {"num_gpus": 1}},
    ]
    datasets = [{"type": "x.D", "abbr": "d", "length": 64}]
    run = SimpleNamespace(models=models, datasets=datasets)
    tasks = deal(run, tmp_path, num_workers=1)
    assert sorted(task["models"][0]["abbr"] for task in tasks) == ["cpu", "gpu"]


def test_two_configs_of_one_model_are_kept_apart_and_what_is_done_is_left_out(tmp_path):
    # A sampler's steps differ by benchmark; each data set is answered with its own.
    needles = {"models": [{"type": "x.M", "abbr": "m", "steps": 4}],
               "datasets": [{"type": "x.D", "abbr": "needle"}]}  # fmt: skip
    ruler = {"models": [{"type": "x.M", "abbr": "m", "steps": 12}],
             "datasets": [{"type": "x.D", "abbr": name} for name in ("ruler", "done")]}  # fmt: skip
    out = tmp_path / "predictions"
    (out / "m").mkdir(parents=True)
    (out / "m/done.json").touch()
    (task,) = CostAwarePartitioner(out_dir=str(out), num_tasks=1).partition(
        [needles, ruler, {**needles, "datasets": [{"type": "x.D", "abbr": "other"}]}],
        str(tmp_path), str(out),
    )  # fmt: skip
    asked = [
        (dataset["abbr"], model["steps"])
        for model, datasets in zip(task["models"], task["datasets"], strict=True)
        for dataset in datasets
    ]
    assert asked == [("needle", 4), ("other", 4), ("ruler", 12)]


def test_scoring_is_not_cut_and_shared_out(tmp_path):
    datasets = [{"type": "x.D", "abbr": f"d{i}"} for i in range(100)]
    kept = {"runner": {"task": {"dump_details": True}}}
    models = [{"type": "x.M", "abbr": "m"}]
    cfg = Config({"models": models, "datasets": datasets, "work_dir": str(tmp_path), "eval": kept})
    tasks = CostAwarePartitioner(out_dir=str(tmp_path / "results/"), num_workers=2)(cfg)
    assert len(tasks) == 2
    assert sorted(own["abbr"] for task in tasks for own in task["datasets"][0]) == sorted(
        own["abbr"] for own in datasets
    )
    assert all(task["eval"]["runner"]["task"]["dump_details"] for task in tasks)


@pytest.mark.parametrize("options", [{"num_workers": 0}, {"num_tasks": 0}, {"task_seconds": 0}])
def test_wrong_numbers_are_refused(options):
    with pytest.raises(ValueError, match=f"{[*options][0]}=0 must be"):
        CostAwarePartitioner(out_dir="predictions", **options)


@pytest.mark.parametrize(("dtype", "batch_size"), [("float32", 1), ("bfloat16", 2)])
def test_answers_are_the_same_however_they_are_cut(tmp_path, dtype, batch_size):
    # Cuts fall between batches, which are then the same: so are answers in 16 bit.
    checkpoint = write_tiny_checkpoint(tmp_path / "tiny")
    sampler = {"block_length": 8, "num_steps": 4, "temperature": 0.7}
    model = model_config(checkpoint, sampler=sampler, dtype=dtype, batch_size=batch_size)
    answers = {}
    for number in range(1, -(-len(ROWS) // batch_size) + 1):
        folder = tmp_path / str(number)
        run = SimpleNamespace(models=[plain(model)], datasets=[plain(questions())])
        tasks = deal(run, folder, num_tasks=number)
        assert len(tasks) == number
        for task in tasks:
            ShortNamedInferTask(task).run()
        files = find_finished(folder / "predictions/tiny", "questions")
        assert len(files) == number
        rows = [row for file in files for row in json.loads(file.path.read_text()).values()]
        answers[number] = [(row["origin_prompt"], row["prediction"]) for row in rows]
    assert len({prediction for _, prediction in answers[1]}) > 1
    assert all(own == answers[1] for own in answers.values())


def test_a_begun_shard_is_continued_as_it_is(tmp_path):
    run = SimpleNamespace(models=[{"type": "x.M", "abbr": "m"}], datasets=[plain(questions())])
    out = tmp_path / "predictions/m"
    total = len(ROWS)
    append_line(out / f"tmp_questions_1-3of{total}.jsonl", sealed_line({"idx": "0"}))
    (out / f"questions_0-1of{total}.json").write_text("{}")
    tasks = deal(run, tmp_path, num_tasks=8)
    names = {own["abbr"] for task in tasks for own in task["datasets"][0]}
    expected = {f"questions_{i}-{i + 1}of{total}" for i in range(3, total)}
    assert names == {f"questions_1-3of{total}"} | expected


def test_workers_take_tasks_in_order(monkeypatch):
    monkeypatch.syspath_prepend(str(RECORD.parents[1]))
    from cluster_simulation import OWN_START, simulate

    model = {"abbr": "m"}
    seconds = {("m", "a"): [30.0, 30.0], ("m", "b"): [10.0, 20.0, 30.0]}
    tasks = [([model], [[{"abbr": name}]]) for name in ("a", "b_1-3of3", "b_0-1of3")]
    made = simulate(tasks, seconds, 2, load=2.0)
    # One worker has 60 s of work, the other 50 and 10; each task starts and loads.
    end = 50 + 10 + 2 * (OWN_START + 2)
    assert made["hours"] * 3600 == pytest.approx(end)
    assert made["busy_share"] == pytest.approx(120 / (2 * end))
    assert made["above_perfect"] == pytest.approx(end / 60 - 1)


def test_the_simulation_shows_what_is_claimed():
    record = json.loads(RECORD.with_name("cluster_simulation.json").read_text())["results"]
    assert record["no_cache"]["grid_32_gpus"]["now"]["busy_share"] > 0.85
    for way in ("no_cache", "prompt_cached"):
        assert record[way]["papers_8_gpus"]["now"]["above_perfect"] < 0.04


def test_equal_prompts_are_not_cut_for_a_sampler_that_draws(tmp_path):
    checkpoint = write_tiny_checkpoint(tmp_path / "tiny")
    dataset = plain(questions())
    for temperature, repeats, expected in ((0.0, 2, 6), (0.7, 1, 3), (0.7, 2, None)):
        sampler = {"block_length": 8, "num_steps": 4, "temperature": temperature}
        model = plain(model_config(checkpoint, sampler=sampler))
        partitioner = CostAwarePartitioner(out_dir="predictions", num_workers=2)
        assert partitioner.count_to_cut(model, {**dataset, "n": repeats}) == expected
    dataset["reader_cfg"]["input_columns"] = ["nowhere"]
    assert partitioner.count_to_cut(model, dataset) is None, "its task says why"


def test_what_a_task_answered_before_changes_no_answer(tmp_path):
    checkpoint = write_tiny_checkpoint(tmp_path / "tiny")
    sampler = {"block_length": 8, "num_steps": 4, "temperature": 0.7}
    first, second = (plain(questions()) | {"abbr": name} for name in ("first", "second"))
    model = plain(model_config(checkpoint, sampler=sampler))
    cfg = {"models": [model], "datasets": [[first, second]], "work_dir": str(tmp_path)}
    ShortNamedInferTask(Config(cfg)).run()
    answers = [(tmp_path / f"predictions/tiny/{n}.json").read_text() for n in ("first", "second")]
    assert answers[0] == answers[1], "the same prompts, in two data sets"


def test_a_shard_does_not_go_on_with_a_whole_cell_that_others_have_parts_of(tmp_path, monkeypatch):
    run = SimpleNamespace(models=[{"type": "x.M", "abbr": "m"}], datasets=[plain(questions())])
    append_line(tmp_path / "predictions/m/tmp_questions.jsonl", sealed_line({"idx": "0"}))
    (task,) = deal(run, tmp_path, num_tasks=3)
    assert task["datasets"][0][0]["abbr"] == "questions", "as it was begun"
    found = []
    for index in range(3):
        monkeypatch.setenv("LLADA_SHARD", f"{index}/3")
        (task,) = deal(run, tmp_path)
        found += [own["abbr"] for own in task["datasets"][0]]
    assert found == [f"questions_{i}-{i + 1}of3" for i in range(3)]


def test_one_worker_has_a_task_a_model_unless_they_are_short(tmp_path, monkeypatch):
    def names(num_sets):
        models = [
            {"type": "x.M", "abbr": name, "run_cfg": {"num_gpus": 1}, "max_out_len": 64}
            for name in "abc"
        ]
        datasets = [{"type": "x.D", "abbr": f"d{i}", "length": 512} for i in range(num_sets)]
        tasks = deal(SimpleNamespace(models=models, datasets=datasets), tmp_path, num_workers=1)
        return sorted("".join(model["abbr"] for model in task["models"]) for task in tasks)

    cost = costs.cost_of_model({"type": "x.M", "run_cfg": {"num_gpus": 1}})
    assert names(5) == ["a", "b", "c"]
    monkeypatch.setattr(costs.ModelCost, "load_seconds", 100 * cost.load_seconds)
    assert names(5) == ["abc"]
