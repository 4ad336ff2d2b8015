"""Lines that answered the same samples are compared by pairs: tests, intervals, ranks, verdict."""

import csv
import itertools
import json
import re
from dataclasses import replace

import numpy as np
import pandas
import pytest
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from work_dirs import RULER_TASKS, make_model, niah_cell, ruler_cell, write_json, write_run

from opencompass_llada.cli import main as run_command
from opencompass_llada.report.averages import make_board
from opencompass_llada.report.collect import collect, remark_on_draws
from opencompass_llada.report.comparisons import compare_lines
from opencompass_llada.report.pairs import (
    clusters_to_decide,
    decide_all,
    difference_interval,
    holm,
    make_clusters,
    pair_p_values,
)
from opencompass_llada.report.scores import Score, rank_scores
from opencompass_llada.report.verdict import make_verdict

HITS = [100.0] * 9 + [0.0]


def cluster(scores, places=1, **options):
    """Return one cluster a score, each asked at so many places."""
    samples = [(0, key, 1.0, value) for _ in range(places) for key, value in enumerate(scores)]
    return make_clusters(samples, **options)


def p_value(first, second):
    return pair_p_values([first, second], np.array([0]), np.array([1]))[0]


def make(entry, clusters, **options):
    values = dict(
        entry=entry, kind="diffusion", benchmark="ruler", series="RULER", column="13 tasks",
        is_group=True, length=4096, metric="score", n=10, status="ok", reason="", protocol="p",
        is_own=False, clusters=clusters,
        score=None if clusters is None else float(clusters.weights_C @ clusters.means_C),
    )  # fmt: skip
    return Score(**{**values, **options})


@pytest.mark.parametrize(("gains", "losses", "both"), [(6, 0, 4), (5, 1, 30), (3, 3, 0), (0, 0, 5)])
def test_hits_are_compared_by_mcnemars_exact_test(gains, losses, both):
    first = [100.0] * gains + [0.0] * losses + [100.0] * both
    second = [0.0] * gains + [100.0] * losses + [100.0] * both
    expected = mcnemar([[both, gains], [losses, 0]], exact=True).pvalue
    assert p_value(cluster(first), cluster(second)) == pytest.approx(min(expected, 1))


def test_six_gains_and_no_loss_by_hand():
    """Six discordant needles all on one side: 2 of 2^6 patterns reach that."""
    assert p_value(cluster([100.0] * 6 + [0.0] * 4), cluster([0.0] * 10)) == 2 / 64


@pytest.mark.parametrize("number", [3, 8, 12])
def test_graded_scores_are_compared_by_all_sign_flips(number):
    rng = np.random.default_rng(number)
    first, second = rng.uniform(20, 100, number), rng.uniform(0, 80, number)
    apart = first - second
    patterns = np.array(list(itertools.product([1, -1], repeat=number)))
    by_hand = (np.abs(patterns @ apart) >= abs(apart.sum()) * (1 - 1e-9)).mean()
    scipys = stats.permutation_test((apart,), np.mean, permutation_type="samples")
    found = p_value(cluster(first), cluster(second))
    assert found == pytest.approx(by_hand)
    assert found == pytest.approx(scipys.pvalue)


def test_many_clusters_are_flipped_at_random_and_no_p_value_is_zero():
    rng = np.random.default_rng(0)
    first, second = rng.uniform(0, 100, 60), rng.uniform(0, 100, 60)
    scipys = stats.permutation_test((first - second,), np.mean, permutation_type="samples",
                                    n_resamples=50_000, rng=1)  # fmt: skip
    assert p_value(cluster(first), cluster(second)) == pytest.approx(scipys.pvalue, abs=0.02)
    far = p_value(cluster(50 + first / 2), cluster(second / 10))
    assert 0 < far < 1e-4, "Hoeffding's bound, below what 9,999 patterns can tell"


def test_samples_of_one_needle_are_one_observation():
    """Twenty places of six needles tell no more of other needles than the six."""
    first, second = cluster([100.0] * 6, places=20), cluster([0.0] * 6, places=20)
    assert p_value(first, second) == 2 / 64
    assert (first.num_samples, first.effective_number) == (120, pytest.approx(6))


def test_nats_are_compared_by_students_t():
    first, second = [2.0, 2.5, 3.0, 2.2], [2.1, 2.7, 3.3, 2.4]
    options = {"is_bounded": False}
    expected = stats.ttest_rel(first, second)
    one, other = cluster(first, **options), cluster(second, **options)
    assert p_value(one, other) == pytest.approx(expected.pvalue)
    assert difference_interval(one, other) == pytest.approx(tuple(expected.confidence_interval()))
    assert difference_interval(cluster([2.0], **options), cluster([2.1], **options)) is None
    assert p_value(one, one) == 1


def test_an_interval_is_students_over_clusters():
    rng = np.random.default_rng(1)
    first, second = rng.uniform(40, 100, 20), rng.uniform(0, 80, 20)
    expected = stats.ttest_rel(first, second).confidence_interval()
    assert difference_interval(cluster(first), cluster(second)) == pytest.approx(tuple(expected))


def test_an_interval_has_a_width_where_no_cluster_differs():
    low, high = difference_interval(cluster(HITS), cluster(HITS))
    assert low == -high
    assert high > 25, "three of ten may yet differ"


def test_parts_of_an_average_are_compared_within_themselves():
    """A task on which one model is better by 50 points does not widen the interval."""
    first = make_clusters((task, i, 1 / 20, 50.0 + 50 * task + i % 2)
                          for task in (0, 1) for i in range(10))  # fmt: skip
    second = make_clusters((task, i, 1 / 20, 50.0) for task in (0, 1) for i in range(10))
    low, high = difference_interval(first, second)
    assert low <= 25.5 <= high
    assert high - low < 2


def test_holm_by_hand():
    assert holm(np.array([0.01, 0.04, 0.03])) == pytest.approx([0.03, 0.06, 0.06])
    many = np.random.default_rng(0).uniform(0, 0.2, 40)
    assert holm(many) == pytest.approx(multipletests(many, method="holm")[1])
    assert len(holm(np.array([]))) == 0


def test_about_how_many_more_clusters_would_decide():
    """(1.96 + 0.84)^2 times the variance over the difference squared, at 80 % power."""
    rng = np.random.default_rng(3)
    apart = rng.normal(5, 20, 40)
    first, second = cluster(50 + apart), cluster([50.0] * 40)
    needed = (2.8016 * apart.std(ddof=1) / apart.mean()) ** 2
    assert clusters_to_decide(first, second, 1) == pytest.approx(needed - 40, rel=0.05)
    assert clusters_to_decide(first, second, 10) > clusters_to_decide(first, second, 1)
    assert clusters_to_decide(first, first, 1) is None, "no difference was seen"
    assert clusters_to_decide(cluster([1.0]), cluster([0.0]), 1) is None, "one cluster alone"


def test_a_planted_order_is_found():
    rng = np.random.default_rng(4)
    own = rng.uniform(0, 30, 40)
    lines = [cluster(own + shift) for shift in (60, 40, 20, 0)]
    found = decide_all(lines, higher_is_better=True)
    assert found.better_LL.tolist() == np.triu(np.ones((4, 4), bool), 1).tolist()
    ranked, _ = rank_scores([make(str(i), line) for i, line in enumerate(lines)])
    assert [(s.rank, s.is_decided, s.undecided) for s in ranked] == [
        (rank, True, "") for rank in (1, 2, 3, 4)
    ]


def test_a_rank_is_given_only_where_the_pairs_decide_it():
    rng = np.random.default_rng(5)
    own = rng.uniform(40, 60, 30)
    near = cluster(own + rng.normal(1, 10, 30))
    scores = [make("best", cluster(own)), make("near", near), make("far", cluster(own - 40))]
    scores += [make("bare", None, score=99.0), make("other", cluster(own), protocol="q")]
    ranked, remarks = rank_scores(scores)
    assert [(s.rank, s.lowest_rank) for s in ranked] == [
        (1, 2), (1, 2), (3, 3), (None, None), (None, None)
    ]  # fmt: skip
    assert ranked[0].undecided.startswith("undecided against near (about ")
    assert ranked[3].undecided == "no scores by sample are recorded"
    assert ranked[4].undecided == "no other line was asked the same"
    assert "ranks count within best + near + far + bare; other" in remarks[0]


def test_lower_perplexity_is_better():
    options = {"higher_is_better": False, "column": "perplexity", "benchmark": "perplexity",
               "series": "Perplexity", "metric": "perplexity"}  # fmt: skip
    scores = [make("a", cluster([2.0, 2.5, 3.0], is_bounded=False), **options),
              make("b", cluster([3.0, 3.51, 4.02], is_bounded=False), **options)]  # fmt: skip
    assert [(s.rank, s.is_decided) for s in rank_scores(scores)[0]] == [(1, True), (2, True)]
    [found] = compare_lines(scores)
    assert (found.outcome, found.metric) == ("worse", "nats a token")
    assert found.low < found.difference < found.high
    [found] = compare_lines(scores, "b")
    assert found.outcome == "better"


def test_the_verdict_says_where_a_bound_is_compared_with_an_exact_value():
    options = {"higher_is_better": False, "column": "perplexity", "benchmark": "perplexity",
               "series": "Perplexity", "metric": "perplexity"}  # fmt: skip
    own = [cluster(nats, is_bounded=False) for nats in ([2.0, 2.5, 3.0], [3.0, 3.51, 4.02])]
    for kind, told in (("autoregressive", True), ("diffusion", False)):
        scores = [make("a", own[0], kind=kind, **options), make("b", own[1], **options)]
        verdict = make_verdict(rank_scores(scores)[0], [])
        assert any("upper bounds" in sentence for sentence in verdict) == told


def test_the_verdict_names_whom_a_leader_was_not_tested_against():
    scores = [make("best", cluster([90.0] * 7)), make("far", cluster([10.0 + i for i in range(7)]))]
    [told] = make_verdict(rank_scores(scores)[0], [])
    assert "best leads with 90.0 %" in told
    assert "not tested" not in told
    [told] = make_verdict(rank_scores([*scores, make("bare", None, score=89.0)])[0], [])
    assert told.endswith("bare follows with 89.0 % (n 10); not tested against bare.")


def hits(*counts):
    """Return a line of 20 questions a number of hits; the first are hit."""
    return [make(f"line {i}", cluster([100.0] * n + [0.0] * (20 - n))) for i, n in
            enumerate(counts)]  # fmt: skip


def test_the_verdict_names_all_that_are_level_and_each_numbers_own_line():
    ranked, _ = rank_scores(hits(15, 15, 15, 13, 12))
    [told] = make_verdict(ranked, [])
    assert "level with line 1; line 2, undecided against line 3 (about " in told
    assert re.search(
        r"line 3 \(about [\d,]+ more samples would decide this pair\); line 4 \(", told
    )
    assert "undecided against line 1" not in told
    ranked, _ = rank_scores(hits(15, 15, 15, 15, 15, 15, 14))
    [told] = make_verdict(ranked, [])
    assert "level with line 1; line 2; line 3 and 2 more, undecided against line 6 (about" in told
    [told] = make_verdict(rank_scores(hits(15, 15))[0], [])
    assert told.endswith("level with line 1.")
    bare = [make(name, None, score=75.0) for name in "abc"]
    [told] = make_verdict(rank_scores(bare)[0], [])
    assert "level with b; c; not tested" in told


def test_all_that_are_best_of_their_group_are_bold():
    lines = [*hits(15, 15, 14), *(replace(s, protocol="q") for s in hits(9, 9))]
    lines += [replace(hits(3)[0], protocol="r")]
    lines[1] = replace(lines[1], score=75.0 + 1e-13)
    ranked, _ = rank_scores(lines)
    assert [score.is_top for score in ranked] == [True, True, False, True, True, False]


def test_a_line_that_more_samples_would_decide_stands_before_those_that_none_would():
    """A difference that is the same of all questions has no variance to tell a number by."""
    steady = [make(f"steady {i}", cluster([74.0] * 4)) for i in range(4)]
    best, far = make("best", cluster([75.0] * 4)), make("far", cluster([100.0, 90.0, 80.0, 10.0]))
    ranked, _ = rank_scores([best, *steady, far])
    told = ranked[0].undecided
    assert re.fullmatch(r"undecided against far \(.*\); steady 0; steady 1 and 2 more", told)


def test_an_unknown_baseline_is_refused_with_the_valid_ones():
    with pytest.raises(ValueError, match="baseline.*'ona'.*one"):
        compare_lines([make("one", cluster(HITS))], "ona")


def test_families_are_the_headline_and_the_other_columns():
    better, worse = cluster([90.0] * 7), cluster([10.0 + i for i in range(7)])
    scores = [make(entry, own, length=length) for length in (4096, 8192, 16384)
              for entry, own in (("one", worse), ("two", better))]  # fmt: skip
    found = {item.length: item.adjusted_p for item in compare_lines(scores)}
    assert found == {16384: 2 / 128, 4096: 4 / 128, 8192: 4 / 128}


def test_few_draws_of_a_bound_are_said():
    results = pandas.DataFrame([{"entry": "one", "dataset": "ppl", "n": 2}])
    point = {"entry": "one", "dataset": "ppl", "estimator": "bound", "standard_error": 0.1}
    for draws, said in ((16, 1), (32, 0)):
        curves = pandas.DataFrame([{**point, "num_draws": draws}])
        assert len(remark_on_draws(curves, results)) == said
    exact = pandas.DataFrame([{**point, "standard_error": 0.0, "num_draws": 2}])
    assert remark_on_draws(exact, results) == []


def test_prompts_that_are_not_recorded_are_not_equal(tmp_path):
    """As of OpenCompass' own perplexity inferencer: then the data sets' configs tell."""
    cell = niah_cell(2000, 50)
    runs = [write_run(tmp_path / name, [make_model(name)], [cell | {"infer_cfg": {"p": name}}])
            for name in "ab"]  # fmt: skip
    for path in tmp_path.glob("*/predictions/*/*.json"):
        answers = json.loads(path.read_text())
        write_json(path, {n: {**own, "origin_prompt": ""} for n, own in answers.items()})
    collection = collect(runs)
    assert set(collection.results.prompt_hash) == {None}
    assert len({score.protocol for score in make_board(collection)}) == 2


MODELS = [make_model("one"), make_model("two"), make_model("three-ar")]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Return a run of which ``two`` misses everything, and one result of ``three-ar`` is gone."""
    folder = tmp_path_factory.mktemp("runs")
    cells = [niah_cell(length, depth, repeats=9) for length in (2000, 4000) for depth in (0, 100)]
    cells += [ruler_cell(task, 4096) for task in RULER_TASKS]
    run = write_run(folder / "a", MODELS, cells, quality=1.0)
    for cell in cells[:4]:
        path = run / f"results/two/{cell['abbr']}.json"
        result = json.loads(path.read_text())
        for detail in result["details"]:
            detail |= {"correct": [False], "score": [5.0]}
        write_json(path, {**result, "accuracy": 0.0, "score": 5.0})
    (run / "results/three-ar/ruler_vt_length4096.json").unlink()
    return run


def test_the_report_says_who_leads_and_what_is_missing(run, tmp_path):
    out = tmp_path / "out"
    assert run_command(["report", str(run), "-o", str(out), "--baseline", "two"]) == 0
    text = (out / "leaderboard.md").read_text()
    verdict = text.partition("## What to know")[0]
    assert text.startswith("## Verdict")
    assert "RULER" in verdict
    assert "three-ar has no score, since results are missing" in verdict
    assert "Against the baseline two" in verdict
    assert re.search(r"decided against two: one better, \+100.0 \\\[\+\d", verdict)
    rows = list(csv.DictReader((out / "comparisons.csv").open(newline="")))
    whole = {row["entry"]: row for row in rows
             if row["column"] == "mean over depths" and row["metric"] == "accuracy"
             and not row["length"]}  # fmt: skip
    assert whole["one"]["outcome"] == "better"
    assert float(whole["one"]["low"]) > 0
    assert (whole["one"]["num_pairs"], float(whole["one"]["num_clusters"])) == ("36", 9)
    lost = [row for row in rows if row["entry"] == "three-ar" and row["column"] == "13 tasks"]
    assert {row["outcome"] for row in lost} == {"not paired"}
    scores = list(csv.DictReader((out / "scores.csv").open(newline="")))
    assert "clusters" not in scores[0]
    means = [row for row in scores if row["column"] == "mean over depths"]
    assert {float(row["effective_n"]) for row in means} == {9}
    assert "1=" not in (out / "tables/leaderboard.csv").read_text()
    again = tmp_path / "again"
    run_command(["report", str(run), "-o", str(again), "--baseline", "two"])
    assert (again / "leaderboard.md").read_text() == text


def test_the_report_refuses_a_baseline_that_is_no_line(run, tmp_path, capsys):
    assert run_command(["report", str(run), "-o", str(tmp_path / "out"), "--baseline", "tow"]) == 2
    assert "two" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
