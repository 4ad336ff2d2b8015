"""The papers' tables recomputed from their parts by our averages, and figures beside measured."""

from collections import defaultdict
from types import SimpleNamespace

import pytest
from work_dirs import DEPTHS, LENGTHS, RULER_TASKS, make_model, niah_cell, ruler_cell, write_run

from opencompass_llada.benchmarks.benchmark import Group, find_benchmark
from opencompass_llada.report.averages import average_group, make_board
from opencompass_llada.report.collect import collect
from opencompass_llada.report.paper_figures import LEFT_OUT, TRUST, Figure, compare, read_figures

LONGLLADA, ULTRALLADA = "LongLLaDA (arXiv 2506.14429v3)", "UltraLLaDA (arXiv 2510.10481v1)"
RULER_GROUPS = {group.name: group for group in find_benchmark("ruler").groups}


def row(task, score):
    return SimpleNamespace(task=task, n=100, score=score, standard_error=None, status="ok")


def average(parts):
    """Average all 13 tasks, each with the published score of its group."""
    alone = Group(name="VT", members=("vt",))  # UltraLLaDA's fourth part
    scores = {}
    for name, score in parts.items():
        scores |= dict.fromkeys(RULER_GROUPS.get(name, alone).members, score)
    line = {t: row(t, score) for t, score in scores.items()}
    return average_group(line, RULER_GROUPS["13 tasks"]).score


def tables(paper, benchmark):
    """Return published columns by (table, model, scaling, length), conflicting figures left out."""
    found = defaultdict(dict)
    for figure in read_figures():
        if (figure.paper, figure.benchmark) == (paper, benchmark) and figure.trust != "conflicting":
            key = (figure.table, figure.model, figure.scaling, figure.length)
            found[key][figure.column] = figure.value
    return found


PARTS = ("NIAH", "VT+CWE+FWE", "QA")
LONGLLADA_ROWS = {
    key: columns for key, columns in tables(LONGLLADA, "ruler").items() if "NIAH" in columns
}


def test_longlladas_ruler_averages_are_the_mean_of_13_tasks_to_rounding():
    """Parts are rounded to 0.05, so an average of them is off by at most that, and by its own."""
    assert len(LONGLLADA_ROWS) == 58
    for key, columns in LONGLLADA_ROWS.items():
        ours = average({name: columns[name] for name in PARTS})
        assert ours == pytest.approx(columns["13 tasks"], abs=0.1 + 1e-9), key


def test_the_mean_of_three_groups_is_not_what_they_report():
    wrong = [
        abs(sum(columns[name] for name in PARTS) / 3 - columns["13 tasks"]) > 0.1
        for columns in LONGLLADA_ROWS.values()
    ]
    assert sum(wrong) == len(wrong)


def test_ultralladas_48k_average_from_its_four_parts():
    [(_, columns)] = [
        item for item in tables(ULTRALLADA, "ruler").items() if item[0][0] == "table 12"
    ]
    ours = average(columns)
    # Its parts are of the row "diffusion NTK, EOD", whatever the notes call them.
    assert ours == pytest.approx(56.94, abs=0.005)


def test_longlladas_needle_overall_is_the_mean_of_its_lengths():
    by_line = defaultdict(dict)
    for figure in read_figures():
        if (figure.paper, figure.benchmark) == (LONGLLADA, "niah"):
            by_line[figure.model, figure.scaling][figure.length] = figure.value
    assert len(by_line) == 18
    for key, line in by_line.items():
        overall = line.pop(None)
        assert len(line) == 6
        cells = {str(length): row(str(length), value) for length, value in line.items()}
        group = Group(name="all", members=tuple(cells))
        ours = average_group(cells, group).score
        # Lengths decoded from figures are off by up to 0.2, and their errors partly cancel.
        assert ours == pytest.approx(overall, abs=0.05), key


def test_longbenchs_category_means_do_not_reproduce_longlladas_average():
    """The paper's Avg is no mean of its tasks: docs/experiments/longbench_average.md."""
    sizes = {group.name: len(group.members) for group in find_benchmark("longbench").groups}
    gaps = []
    for columns in tables(LONGLLADA, "longbench").values():
        names = [name for name in columns if name in sizes and name not in ("Avg", "Weighted")]
        assert len(names) == 6
        tasks = sum(sizes[name] * columns[name] for name in names) / sum(sizes[n] for n in names)
        gaps.append(columns["Avg"] - tasks)
    assert len(gaps) == 16
    assert 0 < min(gaps) < 0.1
    assert 1.3 < max(gaps) < 1.5


def test_every_figure_has_source_and_trust_and_dreams_longbench_is_left_out():
    figures = read_figures()
    assert {figure.trust for figure in figures} == set(TRUST)
    assert all(figure.source for figure in figures)
    assert not [f for f in figures if f.benchmark == "longbench" and "Dream" in f.model]
    assert any("placeholders" in reason for reason in LEFT_OUT)
    secondary = {f.trust for f in figures if f.paper == ULTRALLADA}
    assert secondary == {"second_hand", "conflicting"}
    pairs = [f for f in figures if f.trust == "conflicting"]
    assert all("another note has" in f.note for f in pairs)


def test_ultralladas_needles_stand_at_the_lengths_that_it_measures():
    """Its evaluation runs 8,192 to 131,072 tokens by 8,192; it has no point elsewhere."""
    needles = [f for f in read_figures() if (f.paper, f.benchmark) == (ULTRALLADA, "niah")]
    lengths = [figure.length for figure in needles if figure.table == "figure 1"]
    assert lengths == list(range(8192, 131073, 8192))


def test_an_unknown_trust_level_is_refused():
    figure = read_figures()[0]
    with pytest.raises(ValueError, match="Did you mean 'primary'"):
        Figure(**{**figure.__dict__, "trust": "primry"})


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    scaling = {"type": "ntk", "theta_multiplier": 4}
    models = [make_model("base"), make_model("scaled", rope_scaling=scaling)]
    cells = [ruler_cell(task, 8192) for task in RULER_TASKS]
    cells += [niah_cell(length, depth) for length in LENGTHS for depth in DEPTHS]
    titles = ["LLaDA-8B-Base"] * 2
    run = write_run(root / "a", models, cells, titles=titles)
    (run / "results/base/ruler_vt_length8192.json").unlink()
    return compare(make_board(collect([run])))


def test_published_figures_stand_beside_measured_ones(measured):
    pairs = {
        (p.measured.entry, p.figure.column, p.figure.length, p.figure.paper): p for p in measured
    }
    pair = pairs["LLaDA-8B-Base, ntk theta_multiplier=4", "13 tasks", 8192, LONGLLADA]
    assert pair.figure.value == 84.7
    assert pair.difference == pytest.approx(pair.measured.score - 84.7)
    assert pair.is_inside == (pair.measured.low <= 84.7 <= pair.measured.high)
    missing = pairs["LLaDA-8B-Base", "13 tasks", 8192, LONGLLADA]
    assert (missing.difference, missing.is_inside) == (None, None)
    assert pairs["LLaDA-8B-Base", "13 tasks", 8192, ULTRALLADA].figure.trust == "second_hand"


def test_needle_figures_are_compared_with_needlebenchs_score(measured):
    needles = [pair for pair in measured if pair.figure.benchmark == "niah"]
    assert {pair.measured.metric for pair in needles} == {"score"}
    assert {pair.figure.length for pair in needles} == {*LENGTHS, None}


def test_results_on_embedded_data_are_compared_with_nothing(tmp_path):
    cells = [{**ruler_cell(task, 8192), "path": "asset:needlebench"} for task in RULER_TASKS]
    run = write_run(tmp_path / "a", [make_model("base")], cells, titles=["LLaDA-8B-Base"])
    assert compare(make_board(collect([run]))) == []


def test_needles_drawn_independently_are_compared_with_nothing(tmp_path):
    drawn = {"draws": "independent"}
    cells = [niah_cell(length, depth, **drawn) for length in LENGTHS for depth in DEPTHS]
    run = write_run(tmp_path / "a", [make_model("base")], cells, titles=["LLaDA-8B-Base"])
    assert compare(make_board(collect([run]))) == []
