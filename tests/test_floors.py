"""Floors and ceilings in the report: planted runs whose last windows, chance and solvers are known.

No model runs.
"""

from __future__ import annotations

import csv
import json
from dataclasses import replace

import pytest
from work_dirs import make_model, niah_cell, ruler_cell, write_json, write_run

from opencompass_llada.report.averages import make_board
from opencompass_llada.report.collect import collect
from opencompass_llada.report.figures import draw_lengths
from opencompass_llada.report.floor_rows import FloorRows
from opencompass_llada.report.floors import find_floors
from opencompass_llada.report.length_use import (
    ALL_BENCHMARKS,
    compare_windows,
    describe_uses,
    find_window_lengths,
    list_lengths,
)
from opencompass_llada.report.publish import write_report
from opencompass_llada.report.results import read_results
from opencompass_llada.report.scores import LAST_WINDOW, rank_scores
from opencompass_llada.runs.run_folder import find_runs

LENGTHS = (512, 1024, 2048, 4096)
NUM = 20
WINDOW = 512
#: Hits of NUM samples: model -> reader -> by length.
PLANTED = {
    "far": {"full": (20, 19, 18, 6), "last_window": (None, 2, 3, 5), "no_context": (0, 1, 0, 0)},
    "near": {"full": (20, 4, 4, 3), "last_window": (None, 4, 5, 3), "no_context": (0, 0, 1, 0)},
}


def twin(cell, reader):
    more = {"window": WINDOW, "window_reserve": 8} if reader == "last_window" else {}
    suffix = f"last_window{WINDOW}" if more else reader
    return {**cell, "abbr": f"{cell['abbr']}_{suffix}", "reader": reader, **more}


def plant(run, model, cell, hits, bounds=None):
    """Write a result with so many hits, its first samples; OpenCompass lists what is no number."""
    path = run / "results" / model / f"{cell['abbr']}.json"
    result = json.loads(path.read_text())
    scores = [100.0 if number < hits else 0.0 for number in range(NUM)]
    for detail, score in zip(result["details"], scores, strict=True):
        detail["score"] = [score]
    result |= {"score": sum(scores) / NUM, **({"bounds": [bounds]} if bounds else {})}
    write_json(path, result)


BOUNDS = {"chance": {"score": 5.0}, "exact solver": {"score": 100.0}, "num_samples": NUM}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Write a run of two models on one task by all readers."""
    cells = [ruler_cell("vt", length, num_samples=NUM) for length in LENGTHS]
    windows = [twin(cell, "last_window") for cell in cells[1:]]
    others = [twin(cell, "no_context") for cell in cells]
    models = [make_model(name) for name in PLANTED]
    folder = tmp_path_factory.mktemp("floors") / "run"
    write_run(folder, models, [*cells, *windows, *others])
    for model, readers in PLANTED.items():
        for place, cell in enumerate(cells):
            plant(folder, model, cell, readers["full"][place], BOUNDS)
            plant(folder, model, others[place], readers["no_context"][place])
        for place, cell in enumerate(windows, start=1):
            plant(folder, model, cell, readers["last_window"][place])
    return folder


@pytest.fixture(scope="module")
def found(run):
    """Return scores, floors and comparisons of the run."""
    collection = collect([run])
    scores, _ = rank_scores(make_board(collection))
    floors = find_floors(collection)
    return scores, floors, compare_windows(scores, floors)


@pytest.fixture(scope="module")
def report(run, tmp_path_factory):
    """Return the folder of the run's report."""
    folder = tmp_path_factory.mktemp("report")
    write_report(find_runs([run]), folder)
    return folder


def test_floors_are_no_lines_of_the_leaderboard(run, found):
    scores, floors, _ = found
    assert {score.entry for score in scores} == {"far", "near"}
    assert len(scores) == len({(s.entry, s.column, s.length) for s in scores})
    ranks = {(s.entry, s.length): s.rank for s in scores if s.column == "vt"}
    assert ranks["far", 1024] == 1
    assert ranks["near", 1024] == 2, "of two lines, not of six"
    assert all(floor.rank is None and not floor.is_top for floor in floors)
    config = {
        "models": [make_model("far")],
        "datasets": [twin(ruler_cell("vt", 512), "no_context")],
    }
    assert len(read_results(config, run)) == 0, "nor are they rows of a run's own tables"


def test_every_reader_has_its_planted_score(found):
    _, floors, _ = found
    known = {(f.base, f.reader, f.length): f for f in floors if f.column == "vt" and f.base}
    assert len(known) == 2 * 2 * len(LENGTHS)
    for model, readers in PLANTED.items():
        for reader in ("last_window", "no_context"):
            for length, hits in zip(LENGTHS, readers[reader], strict=True):
                floor = known[model, reader, length]
                if hits is None:
                    assert (floor.score, floor.status) == (None, "same")
                else:
                    assert floor.score == pytest.approx(100 * hits / NUM)
    chance = [f for f in floors if f.reader == "chance" and f.column == "vt"]
    solver = [f for f in floors if f.reader == "exact solver" and f.column == "vt"]
    assert [f.score for f in chance] == [5.0] * len(LENGTHS)
    assert [f.score for f in solver] == [100.0] * len(LENGTHS)


def test_a_benchmark_says_where_it_does_not_measure_length(found):
    scores, floors, uses = found
    decided = {(use.entry, use.length): use.uses_length for use in uses if use.column == "vt"}
    assert decided == {
        ("far", 1024): True, ("far", 2048): True, ("far", 4096): False,
        ("near", 1024): False, ("near", 2048): False, ("near", 4096): False,
    }  # fmt: skip
    [told] = describe_uses(scores, uses).values()
    assert told.startswith("RULER does not measure length at 1,024 tokens for near (+0.0 [")
    assert "at 2,048 tokens for near" in told
    assert "at 4,096 tokens for far" in told
    assert "for far" not in told.partition("4,096")[0]
    alone = [score for score in scores if score.entry == "far"]
    uses = [use for use in uses if (use.entry, use.length) != ("far", 4096)]
    assert describe_uses(alone, [use for use in uses if use.entry == "far"]) == {}


def test_a_benchmark_without_lengths_says_it_too(found):
    own, floors = (
        [replace(score, length=None) for score in scores if score.length == 1024]
        for scores in found[:2]
    )
    uses = compare_windows(own, floors)
    [told] = describe_uses(own, uses).values()
    assert told.startswith("RULER does not measure length for near (+0.0 [")
    assert "far" not in told
    assert not any(length.measured for length in find_window_lengths(own, floors, uses))
    longer = {use.length for use in compare_windows([*found[0], *own], [*found[1], *floors])}
    assert longer == set(LENGTHS[1:]), "beside lengths None is their mean"


def test_a_model_that_is_worse_than_its_last_window_is_not_said_to_be_level(found):
    scores, floors, _ = found
    place = {"column": "vt", "length": 1024}
    [own] = (s for s in scores if (s.entry, s.column, s.length) == ("far", *place.values()))
    [floor] = (
        f
        for f in floors
        if (f.base, f.reader, f.column, f.length) == ("far", LAST_WINDOW, *place.values())
    )
    worse, better = replace(own, clusters=floor.clusters), replace(floor, clusters=own.clusters)
    [use] = compare_windows([worse], [better])
    assert use.high is not None
    assert use.high < 0
    [told] = describe_uses([worse], [use]).values()
    assert told.endswith("is not above 0.")


def lengths_of(scores, floors, uses):
    items = find_window_lengths(scores, floors, uses)
    return {(item.entry, item.series): item.describe() for item in items}


def test_the_effective_length_is_the_longest_that_beats_the_last_window(found):
    scores, floors, uses = found
    assert lengths_of(scores, floors, uses) == {
        ("far", "RULER"): "2,048 [2,048 to ≥ 4,096]",
        ("near", "RULER"): "≤ 512 [≤ 512 to ≥ 4,096]",
    }
    # One that falls short ends it, though a longer one does not.
    worse = [use for use in uses if (use.entry, use.length) != ("far", 1024)]
    near = next(use for use in uses if (use.entry, use.length, use.column) == ("near", 1024, "vt"))
    dipped = [*worse, replace(near, entry="far")]
    assert lengths_of(scores, floors, dipped)["far", "RULER"].startswith("≤ 512")
    # What has no result is passed over.
    assert lengths_of(scores, floors, worse)["far", "RULER"].startswith("2,048")
    # And a line whose reader did not run has no length.
    alone = [use for use in uses if use.entry == "near"]
    assert lengths_of(scores, floors, alone)["far", "RULER"] == "not measured"
    assert list_lengths(scores, (), ()) == [], "nothing is told of where no reader ran"


def test_several_benchmarks_have_one_effective_length_together(found):
    scores, floors, uses = found

    def rename(items):
        return [*items, *(replace(item, series="other") for item in items)]

    shown = lengths_of(rename(scores), rename(floors), rename(uses))
    assert shown["far", ALL_BENCHMARKS].startswith("2,048")
    # The mean of both at a length at which one is missing says nothing.
    other = [replace(score, series="other") for score in scores]
    lost = [
        replace(s, score=None, status="missing") if s.length == 2048 and s.status == "ok" else s
        for s in other
    ]
    assert lengths_of([*scores, *lost], rename(floors), rename(uses))[
        "far", ALL_BENCHMARKS
    ].startswith("1,024")


def test_a_missing_reader_is_missing_and_no_number(run, tmp_path):
    import shutil

    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    (folder / "results/far/ruler_vt_length2048_last_window512.json").unlink()
    collection = collect([folder])
    scores, floors = make_board(collection), find_floors(collection)
    floor = next(
        f for f in floors
        if (f.base, f.reader, f.length, f.column) == ("far", "last_window", 2048, "vt")
    )  # fmt: skip
    assert (floor.score, floor.status) == (None, "missing")
    uses = compare_windows(scores, floors)
    assert ("far", 2048) not in {(use.entry, use.length) for use in uses}
    assert lengths_of(scores, floors, uses)["far", "RULER"].startswith("1,024")
    assert any("last_window512" in note for note in collection.notes)


def test_the_report_shows_them_in_every_table_and_never_sorts_by_them(report):
    text = (report / "leaderboard.md").read_text()
    assert "does not measure length at 1,024 tokens for near" in text
    rows = list(csv.reader((report / "tables/ruler.csv").open()))
    lines = [row[0] for row in rows[1:]]
    for name in ("far (last window)", "far (no context)", "near (last window)", "chance",
                 "exact solver"):  # fmt: skip
        assert name in lines
        assert name in (report / "report.html").read_text()
    assert lines.index("far (last window)") < lines.index("near") < lines.index("chance")
    same = [row for row in rows if row[0] == "far (last window)"][0]
    assert "the same" in same
    page = (report / "report.html").read_text()
    cells = page.partition(">far (last window)</th>")[2].partition("</tr>")[0]
    assert "data-v" not in cells.replace('data-v="512"', "").partition("<td>")[2]
    scores = list(csv.DictReader((report / "scores.csv").open()))
    assert {row["reader"] for row in scores} == {
        "full", "last_window", "no_context", "chance", "exact solver"
    }  # fmt: skip
    assert {row["base"] for row in scores if row["reader"] == "last_window"} == {"far", "near"}
    assert "beats own last window" in (report / "tables/effective_length.csv").read_text()


def test_a_run_of_an_earlier_version_is_reported_without_them(tmp_path):
    cells = [ruler_cell("vt", length, num_samples=4) for length in LENGTHS]
    folder = write_run(tmp_path / "run", [make_model("one")], cells)
    assert find_floors(collect([folder])) == []
    write_report(find_runs([folder]), tmp_path / "report")
    text = (tmp_path / "report/leaderboard.md").read_text()
    assert "last window" not in text
    assert "does not measure length" not in text


def test_a_grid_has_floors_by_length_and_over_all(tmp_path):
    cells = [niah_cell(n, d, repeats=8) for n in (512, 1024) for d in (0, 100)]
    windows = [twin(cell, "last_window") for cell in cells if cell["length"] > WINDOW]
    folder = write_run(tmp_path / "run", [make_model("one")], [*cells, *windows])
    collection = collect([folder])
    floors = {f.length: f for f in find_floors(collection) if f.metric == "accuracy"}
    assert floors[512].status == "same"
    assert floors[1024].score is not None
    own = {s.length: s for s in make_board(collection) if s.metric == "accuracy"}
    assert floors[None].score == pytest.approx((own[512].score + floors[1024].score) / 2)
    assert floors[1024].window == WINDOW


def test_of_two_windows_the_later_counts(run, tmp_path):
    cells = [ruler_cell("vt", n, num_samples=4) for n in (1024, 4096)]
    older = [twin(cell, "last_window") for cell in cells]
    newer = [{**cell, "abbr": cell["abbr"] + "b", "window": 2048} for cell in older[1:]]
    folder = write_run(tmp_path / "run", [make_model("one")], [*cells, *older, *newer])
    for cell, day in ((older[0], 1), (older[1], 1), (newer[0], 2)):
        record = {"kind": "dataset", "model": "one", "dataset": cell["abbr"], "num_samples": 4,
                  "started": f"2026-01-0{day}T00:00:00+00:00"}  # fmt: skip
        with (folder / "provenance/one.jsonl").open("a") as lines:
            lines.write(json.dumps(record) + "\n")
    floors = [f for f in find_floors(collect([folder])) if f.column == "vt"]
    assert {(f.length, f.window, f.status) for f in floors} == {
        (1024, 2048, "same"), (4096, 2048, "ok")
    }  # fmt: skip


def test_curves_have_last_windows_and_chance_in_grey(found):
    scores, floors, _ = found
    assert not any(own.is_group and own.score is not None for own in scores), "a task has curves"
    axes = draw_lengths("RULER", scores, floors).axes[0]
    styles = [line.get_linestyle() for line in axes.lines if line.get_color() == "0.55"]
    assert sorted(styles) == ["--", "--", ":"]


def test_a_ceiling_below_100_is_said(found):
    _, floors, _ = found
    assert not any("below 100" in note for note in FloorRows(floors).explain())
    low = [
        replace(floor, score=90.0)
        if (floor.reader, floor.length) == ("exact solver", 1024)
        else floor
        for floor in floors
        if floor.column == "vt"
    ]
    [told] = [note for note in FloorRows(low).explain() if "below 100" in note]
    assert told.endswith("below 100: vt at 1,024 (exact solver 90.0)")
