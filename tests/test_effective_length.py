"""Effective context lengths and costs, on scores made by hand."""

import json

import pytest
from work_dirs import RULER_TASKS, make_model, ruler_cell, write_run

from opencompass_llada.report.averages import make_board
from opencompass_llada.report.collect import collect
from opencompass_llada.report.cost import find_costs
from opencompass_llada.report.scores import Score, find_effective_lengths


def make(entry="m", length=4096, score=90.0, low=None, high=None, **options):
    values = dict(
        entry=entry, kind="diffusion", benchmark="ruler", series="RULER", column="13 tasks",
        is_group=True, length=length, metric="score", higher_is_better=True, num_cells=13, n=13,
        score=score, low=low, high=high, status="missing" if score is None else "ok", reason="",
        protocol="p", is_own=False,
    )  # fmt: skip
    return Score(**{**values, **options})


def lengths_of(scores):
    made = [make(length=4096 * 2**i, score=score) for i, score in enumerate(scores)]
    return {item.rule: item.describe() for item in find_effective_lengths(made[::-1])}


@pytest.mark.parametrize(
    ("scores", "absolute", "relative"),
    [
        ([95, 90, 85, 70], "8,192", "16,384"),  # 85 % of 95 is 80.75
        ([95, 90, 86], "≥ 16,384", "≥ 16,384"),
        ([80, 79, 60], "< 4,096", "8,192"),
        ([85.6, 85.5], "4,096", "≥ 8,192"),
        # RULER's rule: the maximum length that passes; a dip is named and does not end it.
        ([95, 80, 90], "≥ 16,384, not at 8,192", "≥ 16,384, not at 8,192"),
        # What has no result is no length that falls short, and none that holds.
        ([95, None, 90], "≥ 16,384", "≥ 16,384"),
        ([95, 90, None], "≥ 8,192", "≥ 8,192"),
        ([95, None, 70], "4,096", "4,096"),
        ([None, 95], "≥ 8,192", "≥ 8,192"),
        ([None, 50], "< 8,192", "≥ 8,192"),
        ([None, None], "missing", "missing"),
        ([0, 0], "< 4,096", "< 4,096"),
    ],
)
def test_the_longest_length_that_holds(scores, absolute, relative):
    assert lengths_of(scores) == {"absolute": absolute, "relative": relative}


def test_a_dip_below_4k_does_not_hide_4k():
    """It said "< 1,000" where 4K is 100."""
    scores = [make(length=n, score=s) for n, s in ((1000, 50.0), (4000, 100.0), (8000, 20.0))]
    assert {i.describe() for i in find_effective_lengths(scores)} == {"4,000, not at 1,000"}


def test_a_length_that_was_not_run_is_no_length():
    scores = [make(length=4096, score=95.0), make(length=8192, score=None, status="not run")]
    assert {i.describe() for i in find_effective_lengths(scores)} == {"≥ 4,096"}
    assert find_effective_lengths(scores[1:]) == []


def test_the_interval_of_a_length():
    scores = [
        make(length=2048, score=99.0, low=95.0, high=100.0),
        make(length=4096, score=90.0, low=80.0, high=95.0),
        make(length=8192, score=80.0, low=70.0, high=88.0),
        make(length=16384, score=60.0, low=50.0, high=70.0),
    ]
    [absolute, _] = find_effective_lengths(scores)
    assert absolute.describe() == "4,096 [2,048 to 8,192]"
    [absolute, _] = find_effective_lengths(scores[1:3])
    assert absolute.describe() == "4,096 [< 4,096 to ≥ 8,192]"
    [absolute, _] = find_effective_lengths([scores[0], scores[3]])
    assert absolute.describe() == "2,048", "every length is told from the threshold"


def test_the_base_is_4k_where_it_was_measured():
    scores = [make(length=n, score=s) for n, s in ((2048, 100.0), (4096, 60.0), (8192, 52.0))]
    [_, relative] = find_effective_lengths(scores)
    assert (relative.base_length, relative.threshold) == (4096, pytest.approx(51))
    assert relative.tokens == 8192


def test_costs_are_sums_of_the_records(tmp_path):
    cells = [ruler_cell(task, 4096, num_samples=5) for task in RULER_TASKS]
    run = write_run(tmp_path / "a", [make_model("one"), make_model("two-ar")], cells)
    one, two = find_costs(collect([run]))
    assert one.seconds_per_sample == pytest.approx(0.02)
    assert (one.nfe_per_sample, one.num_batch_passes) == (8, 13 * 20)
    assert one.tokens_per_second == pytest.approx(32 / 0.02)
    assert (one.num_prompts, one.kind, two.kind) == (65, "diffusion", "autoregressive")
    assert one.peak_memory_bytes == 2**30
    lines = (run / "provenance/one.jsonl").read_text().splitlines()
    (run / "provenance/one.jsonl").write_text("\n".join(lines[:-1]) + '\n{"kind": "data')
    collection = collect([run])
    one = find_costs(collection)[0]
    assert (one.seconds, one.tokens_per_second) == (None, None)
    assert one.reason == "12 of 13 cells are recorded"
    assert any("torn" in note for note in collection.notes)
    assert len(make_board(collection)) > 0


def test_passes_of_older_records_are_not_taken_for_those_of_samples(tmp_path):
    run = write_run(tmp_path / "a", [make_model("one")], [ruler_cell("vt", 4096, num_samples=5)])
    path = run / "provenance/one.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    for record in records:
        record.pop("num_batch_passes", None)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    [one] = find_costs(collect([run]))
    assert (one.nfe_per_sample, one.num_batch_passes) == (None, None)
    assert one.reason == "recorded before passes were counted by sample"
    assert one.seconds_per_sample == pytest.approx(0.02)


def test_a_resumed_cells_record_is_no_total(tmp_path):
    cells = [ruler_cell(task, 4096, num_samples=5) for task in RULER_TASKS]
    run = write_run(tmp_path / "a", [make_model("one")], cells)
    path = run / "provenance/one.jsonl"
    path.write_text(path.read_text().replace('"num_prompts": 5', '"num_prompts": 2', 1))
    [one] = find_costs(collect([run]))
    assert (one.seconds, one.seconds_per_sample, one.num_prompts) == (None, None, None)
    assert one.reason.startswith("1 records are of resumed cells")


def test_scoring_that_nothing_counts_is_no_cost_of_zero(tmp_path):
    run = write_run(tmp_path / "a", [make_model("one")], [ruler_cell("vt", 4096)])
    path = run / "provenance/one.jsonl"
    counted = ("num_prompts", "num_generated_tokens", "num_forward_passes", "num_batch_passes",
               "seconds")  # fmt: skip
    records = [json.loads(line) for line in path.read_text().splitlines()]
    records = [record | {name: 0 for name in counted if name in record} for record in records]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    [one] = find_costs(collect([run]))
    assert (one.seconds, one.num_prompts, one.num_generated_tokens) == (None, None, None)
    assert "texts are scored" in one.reason
