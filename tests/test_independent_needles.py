"""Independent draws: each sample its own needle, texts and wording, from its place alone."""

from types import SimpleNamespace

import pytest
from needle_data import FILES, write_needlebench
from work_dirs import make_model, niah_cell, write_run

from opencompass_llada.benchmarks.counting import load_counting_tokenizer
from opencompass_llada.benchmarks.data_checks import check_data, options_of
from opencompass_llada.benchmarks.multi_needle.dataset import (
    MultiNeedleReasoningDataset,
    MultiNeedleRetrievalDataset,
)
from opencompass_llada.benchmarks.needle.dataset import NeedleBenchSingleDataset
from opencompass_llada.benchmarks.needle.prompts import (
    FIT_TOLERANCE,
    NUM_WORDINGS,
    WORDINGS,
    write_question,
)
from opencompass_llada.needlebench.multi import multi_needle_cells
from opencompass_llada.needlebench.niah import niah_cells
from opencompass_llada.report.averages import cluster_rows, find_interval, make_board
from opencompass_llada.report.collect import collect
from opencompass_llada.report.heatmap import make_grids
from opencompass_llada.runs.papers import PAPERS, plan_paper
from opencompass_llada.runs.settings import only_variables
from opencompass_llada.synthetic.grammar import FAMILIES

LENGTHS, DEPTHS = (256, 512, 1024, 2048), (0, 25, 50, 75, 100)


def samples_of(cell, **changes):
    return list(NeedleBenchSingleDataset.load(**{**options_of(cell), **changes}))


def embedded(length=512, depth=50, **settings):
    """Return the samples of one embedded cell, by default four."""
    settings = {"repeats": 4, "prompt": "base", **settings}
    (cell,) = niah_cells(data="embedded", lengths=[length], depths=[depth], **settings)
    return samples_of(cell)


def context_of(sample, language="English"):
    """Return a sample's wording number and the text that stands for its context."""
    for number, wording in enumerate(WORDINGS[language]):
        before, after = (wording.preface + wording.single["End"]).split("{context}")
        after = after.split("{question}")[0]
        if sample["prompt"].startswith(before) and after in sample["prompt"]:
            found = sample["prompt"].removeprefix(before).rpartition(after)[0]
            if sample["needle"] in found:
                return number, found
    raise AssertionError(sample["prompt"][:200])


def test_a_sample_follows_from_its_place_alone():
    first = embedded()
    assert embedded(repeats=9)[:4] == first, "however many samples are asked"
    cells = niah_cells(data="embedded", lengths=[256, 512], depths=[75, 50], repeats=4)
    assert samples_of(cells[-1]) == first, "whatever other cells are asked"
    assert embedded(depth=50.0) == first
    for other in (embedded(256), embedded(depth=75), embedded(needle_seed=1)):
        assert not {s["needle"] for s in other} & {s["needle"] for s in first}
    chat = embedded(prompt="chat")
    assert [s["needle"] for s in chat] == [s["needle"] for s in first], "models are paired"


def test_no_needle_occurs_twice_over_a_run_and_all_fit():
    tokenizer = load_counting_tokenizer("asset:tiny-llada")
    cells = niah_cells(data="embedded", lengths=LENGTHS, depths=DEPTHS, repeats=10)
    found = {(cell["length"], cell["depth"]): samples_of(cell) for cell in cells}
    every = [sample for samples in found.values() for sample in samples]
    assert len({sample["needle"] for sample in every}) == len(every) == 200
    wordings, beginnings, families = set(), set(), set()
    for (length, depth), samples in found.items():
        for sample in samples:
            short = length - 16 - tokenizer.count(sample["prompt"])
            assert 0 <= short <= FIT_TOLERANCE
            number, context = context_of(sample)
            hidden = f"\n{sample['needle']}\n"
            assert context.count(sample["needle"]) == 1
            # Depth is of tokens: in characters it is nearly that.
            at = (tokenizer.count(context[: context.index(hidden)])) / max(
                1, tokenizer.count(context) - tokenizer.count(hidden)
            )
            assert at == pytest.approx(depth / 100, abs=0.05)
            wordings.add(number)
            beginnings.add(context.replace(hidden, "")[:40])
    for fact, _, _ in FAMILIES.values():
        start = fact.split("{")[0]
        families.add(any(sample["needle"].startswith(start) for sample in every))
    assert wordings == set(range(NUM_WORDINGS))
    assert families == {True}
    assert len(beginnings) > 150, "contexts begin in places of their own"


@pytest.mark.parametrize("language", ["English", "Chinese"])
def test_needles_of_a_file_occur_as_seldom_as_they_can(tmp_path, language):
    write_needlebench(tmp_path, num_needles=8)
    name = {"English": "en", "Chinese": "zh"}[language]
    cells = niah_cells(
        data=str(tmp_path), language=name, tokenizer="asset:tiny-llada", lengths=[900, 1000],
        depths=[50], repeats=16, needle_draws="independent",
    )  # fmt: skip
    for cell in cells:
        assert cell["abbr"].startswith(f"niah_needlebench_{name}_independent_length")
        samples = samples_of(cell, file_list=[FILES[language]])
        needles = [sample["needle"] for sample in samples]
        assert len(set(needles[:8])) == len(set(needles[8:])) == 8
        assert len({sample["prompt"] for sample in samples}) == 16
        assert {context_of(sample, language)[0] for sample in samples} <= set(range(NUM_WORDINGS))
    two = samples_of(cells[0], file_list=[FILES[language]] * 2, num_repeats_per_file=2)
    assert len({sample["needle"] for sample in two}) == 4, "the samples of each file have their own"


def test_every_wording_asks_in_both_forms():
    asked = "What is hidden? Please answer in the format 'The thing hidden is________.'"
    for number in range(NUM_WORDINGS):
        base = write_question(asked, "English", guide=False, number=number)
        chat = write_question(asked, "English", guide=True, number=number)
        assert base.startswith("What is hidden? ")
        assert base.endswith("The thing hidden is")
        assert chat.endswith("is________.'")
    for wordings in WORDINGS.values():
        for wording in wordings:
            for template in (*wording.single.values(), *wording.several.values()):
                assert template.count("{context}") == template.count("{question}") == 1
            assert set(wording.single) == set(wording.several) == {"End", "Start"}


def test_several_needles_are_drawn_for_each_sample(tmp_path):
    cells = multi_needle_cells("retrieval", data="embedded")
    answers = []
    for cell in cells:
        rows = list(MultiNeedleRetrievalDataset.load(**options_of(cell)))
        answers += [row["answer"].partition("#")[0] for row in rows]
        assert all(len(set(row["answer"].partition("#")[0].split("*"))) == 3 for row in rows)
    assert len({keyword for answer in answers for keyword in answer.split("*")}) == 3 * len(answers)
    write_needlebench(tmp_path)
    (cell,) = multi_needle_cells(
        "retrieval", data=str(tmp_path), tokenizer="asset:tiny-llada", lengths=[900], repeats=5,
        depths=[20, 80], needle_draws="independent",
    )  # fmt: skip
    rows = list(
        MultiNeedleRetrievalDataset.load(**{**options_of(cell), "file_list": [FILES["English"]]})
    )
    pairs = {frozenset(row["answer"].partition("#")[0].split("*")) for row in rows}
    assert len(pairs) > 1, "the published draws hide the same needles in every sample"


def test_the_papers_configs_and_real_data_keep_the_published_draws(monkeypatch):
    assert all("draws" not in cell for cell in niah_cells(lengths=[2000]))
    assert all("draws" not in cell for cell in multi_needle_cells("reasoning"))
    for benchmarks in PAPERS.values():
        assert benchmarks["niah"].settings["needle_draws"] == "published"
    with only_variables({"DEMO": "1"}):
        run = plan_paper("ultrallada", "niah")
    assert {cell.get("draws") for cell in run.datasets} == {None}
    assert {cell["needle_file_name"] for cell in run.datasets} == {"needles.jsonl"}


def test_names_tell_the_draws_apart():
    choices = ({}, {"needle_draws": "published"}, {"needle_seed": 7})
    names = [
        {cell["abbr"] for cell in niah_cells(data="embedded", lengths=[512], **given)}
        for given in choices
    ]
    assert len(set().union(*names)) == sum(map(len, names)), "-r never takes one for the other"
    assert all("_independent_length" in name for name in names[0])
    assert all("_independent7_length" in name for name in names[2])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"draws": "own"}, "draws"),
        ({"draws": "published"}, "needle_file_name='generated' with draws='published'"),
        ({"language": "Chinese"}, "in English alone"),
        ({"draw_seed": -1}, "draw_seed=-1"),
        (
            {"draws": "published", "needle_file_name": "needles.jsonl", "draw_seed": 2},
            "draw_seed=2 has no effect with draws='published'",
        ),
    ],
)
def test_wrong_draws_are_refused(change, message):
    (cell,) = niah_cells(data="embedded", lengths=[512], depths=[50])
    with pytest.raises(ValueError, match=message):
        NeedleBenchSingleDataset.check_options(**{**options_of(cell), **change})
    if "needle_file_name" not in change:
        return
    published = niah_cells(data="embedded", lengths=[512], depths=[50],
                           needle_draws="published", needle_seed=2)  # fmt: skip
    with pytest.raises(ValueError, match=message):
        check_data(published)


def test_reasoning_takes_its_own_file_and_no_generated_needles():
    (cell,) = multi_needle_cells("reasoning", lengths=[2000], depths=[10],
                                 needle_draws="independent")  # fmt: skip
    assert cell["needle_file_name"] == "multi_needle_reasoning_en.json"
    assert MultiNeedleReasoningDataset.check_options(
        **{k: v for k, v in options_of(cell).items() if k not in ("benchmark", "task")}
    ).place


def test_a_cell_whose_needles_do_not_fit_is_found_before_the_run():
    cells = niah_cells(data="embedded", lengths=[110, 512], repeats=10)
    with pytest.raises(ValueError, match="length=110 is too small"):
        check_data(cells)


def test_intervals_are_of_as_many_observations_as_there_are_needles():
    def rows(shared):
        hits = (100.0,) * 9 + (0.0,)
        return [
            SimpleNamespace(
                sample_scores=hits,
                **{"task": None, "length": cell, "depth": 0, "metric": "accuracy"},
                units=tuple(f"needle {i if shared else (cell, i)}" for i in range(10)),
            )
            for cell in range(20)
        ]

    both = [cluster_rows(rows(shared), [1 / 20] * 20, is_grid=True) for shared in (True, False)]
    assert [clusters.effective_number for clusters in both] == pytest.approx([10, 200])
    wide, narrow = (find_interval(clusters, is_grid=True, is_cell=False) for clusters in both)
    assert (wide[1] - wide[0]) / (narrow[1] - narrow[0]) > 4


def test_merged_reports_keep_the_draws_apart(tmp_path):
    places = [(length, depth) for length in (512, 1024) for depth in (0, 100)]
    published = [niah_cell(*place) for place in places]
    independent = [
        niah_cell(*place, draws="independent", abbr=f"niah_independent_{place[0]}_{place[1]}")
        for place in places
    ]
    one = write_run(tmp_path / "20260101_000000", [make_model("m")], published)
    two = write_run(tmp_path / "20260102_000000", [make_model("m")], independent, word="other")
    both = collect([one, two])
    assert len(make_grids(both.results, "accuracy", by="entry")) == 2
    board = [score for score in make_board(both) if score.metric == "accuracy"]
    assert {score.series for score in board} == {
        "Needle in a haystack",
        "Needle in a haystack, independent needles",
    }
    assert {score.n for score in board if score.length == 512} == {4}
    assert {score.entry for score in board} == {"m"}
    assert not [note for note in both.notes if "kept apart" in note or "alike" in note]
