"""Multi-needle sets against OpenCompass's own classes, their scores, and the grids as configs."""

import json
import random
from pathlib import Path

import opencompass
import pytest
from config_forms import NAMES, cells_of
from mmengine.config import Config
from needle_data import write_lines, write_needlebench
from opencompass.datasets.needlebench.multi import (
    NeedleBenchMultiDataset,
    NeedleBenchMultiEvaluator,
)
from opencompass.datasets.needlebench.parallel import (
    NeedleBenchParallelDataset,
    NeedleBenchParallelEvaluator,
)
from tiny import write_tiny_checkpoint

from opencompass_llada.benchmarks.data_checks import options_of
from opencompass_llada.benchmarks.multi_needle.dataset import (
    MultiNeedleReasoningDataset,
    MultiNeedleReasoningEvaluator,
    MultiNeedleRetrievalDataset,
    MultiNeedleRetrievalEvaluator,
)
from opencompass_llada.benchmarks.needle.dataset import NeedleBenchSingleDataset
from opencompass_llada.benchmarks.needle.prompts import place_chain, place_needles

ROOT = Path(__file__).resolve().parents[1]
STOCK = Path(opencompass.__file__).parent / "configs/datasets"
REASONING = {
    "English": "multi_needle_reasoning_en.json",
    "Chinese": "multi_needle_reasoning_zh.json",
}
DEPTHS = [0, 25, 50, 100]


@pytest.fixture
def real_needles(real_data_root, monkeypatch):
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(real_data_root / "data/tiktoken"))
    monkeypatch.delenv("DATASET_SOURCE", raising=False)
    return real_data_root / "data/needlebench"


@pytest.fixture
def folder(real_needles, tmp_path):
    """Real files, with the Chinese texts under a name that the stock classes know."""
    for name in ("needles.jsonl", "PaulGrahamEssays.jsonl", *REASONING.values()):
        (tmp_path / name).symlink_to(real_needles / name)
    (tmp_path / "zh_tech.jsonl").symlink_to(real_needles / "zh_all.jsonl")
    return tmp_path


def options(folder, language, **others):
    files = {"English": ["PaulGrahamEssays.jsonl"], "Chinese": ["zh_tech.jsonl"]}
    return dict(path=str(folder), file_list=files[language], num_repeats_per_file=3,
                length=4000, length_buffer=1500, language=language, guide=True,
                **others)  # fmt: skip


@pytest.mark.parametrize("position", ["End", "Start"])
@pytest.mark.parametrize("language", ["English", "Chinese"])
def test_retrieval_prompts_equal_the_stock_classes_byte_for_byte(folder, language, position):
    given = options(folder, language, depths=DEPTHS, needle_file_name="needles.jsonl",
                    position=position)  # fmt: skip
    random.seed(0)  # the stock class draws its needles from this state
    stock = NeedleBenchParallelDataset.load(**given, tokenizer_model="gpt-4")
    own = MultiNeedleRetrievalDataset.load(**given, tokenizer="gpt-4")
    assert own["prompt"] == stock["prompt"]
    assert own["answer"] == stock["answer"]
    assert len(set(own["answer"])) == 3


@pytest.mark.parametrize(("depth", "count"), [(0, 2), (30, 3), (100, 5)])
@pytest.mark.parametrize("language", ["English", "Chinese"])
def test_reasoning_prompts_equal_the_stock_classes_byte_for_byte(folder, language, depth, count):
    given = options(folder, language, needle_file_name=REASONING[language], depth=depth,
                    num_needles=count, diff=10)  # fmt: skip
    stock = NeedleBenchMultiDataset.load(**given, tokenizer_model="gpt-4")
    own = MultiNeedleReasoningDataset.load(**given, tokenizer="gpt-4")
    assert own["prompt"] == stock["prompt"]
    assert own["answer"] == stock["answer"]


@pytest.mark.parametrize("language", ["English", "Chinese"])
def test_base_prompts_end_in_the_answers_beginning(folder, language):
    given = {**options(folder, language, depths=DEPTHS, needle_file_name="needles.jsonl"),
             "guide": False, "tokenizer": "gpt-4"}  # fmt: skip
    lines = (folder / "needles.jsonl").read_text().splitlines()
    needles = [row for row in map(json.loads, lines) if row["language"] == language]
    for row in MultiNeedleRetrievalDataset.load(**given):
        prompt = row["prompt"]
        assert prompt == prompt.rstrip(), "no space and no line break after the prefix"
        first = row["answer"].split("*")[0]
        asked = [r for r in needles if r["arg2"] == first and r["needle"] in prompt]
        (beginning,) = [r["retrieval_question"].split("'")[1].split("_")[0] for r in asked]
        assert prompt.endswith(beginning)
        assert all(prompt.count(key) >= 1 for key in row["answer"].split("#")[0].split("*"))
        assert "____" not in prompt
    given.pop("depths")
    given.update(needle_file_name=REASONING[language], depth=10, num_needles=2, diff=10)
    ends = {"English": " The answer is", "Chinese": "答案是"}
    for row in MultiNeedleReasoningDataset.load(**given):
        assert row["prompt"].endswith(ends[language])


def test_scores_equal_the_stock_evaluators():
    references = ["Ruby*Pearl#0*50", "Rod*Egg#0*50"]
    predictions = ["The Ruby and nothing", "a Rod, an Egg"]
    stock = NeedleBenchParallelEvaluator().score(predictions, references)
    own = MultiNeedleRetrievalEvaluator().score(predictions, references)
    assert own["score"] == stock["average_score"] == 75
    assert (own["Depth0"], own["Depth50"]) == (stock["Depth0"], stock["Depth50"]) == (100, 50)
    assert own["accuracy"] == 50
    references = ["Hillary Rodham Clinton*Hillary Rodham Clinton", "Texas Tech*Texas Tech"]
    predictions = ["hillary clinton", "TEXAS"]
    stock = NeedleBenchMultiEvaluator().score(predictions, references)
    own = MultiNeedleReasoningEvaluator().score(predictions, references)
    assert own["score"] == pytest.approx(stock["score"])
    assert own["accuracy"] == 0


@pytest.mark.parametrize(
    ("evaluator", "reference"),
    [
        (MultiNeedleRetrievalEvaluator(), "Ruby#0"),
        (MultiNeedleReasoningEvaluator(), "Ruby*Ruby"),
    ],
)
def test_lost_predictions_are_no_score(evaluator, reference):
    with pytest.raises(ValueError, match="1 predictions for 2 samples"):
        evaluator.evaluate(1, 1, [0, 1], predictions=["x"], references=None)
    with pytest.raises(ValueError, match="2 samples"):
        evaluator.score(["Ruby"], [reference] * 2)
    with pytest.raises(ValueError, match="no predictions"):
        evaluator.score([], [])


def test_places_of_several_needles():
    context = list(range(10))
    assert place_needles(context, [[-1], [-2, -2]], [0, 50]) == [
        -1, 0, 1, 2, 3, 4, -2, -2, 5, 6, 7, 8, 9,
    ]  # fmt: skip
    assert place_needles(context, [[-1]], [100])[-1] == -1
    chain = place_chain(context, [[-1], [-2]], 20, 10)
    assert [token for token in chain if token >= 0] == context, "no context token is lost"
    assert chain.index(-1) == 2 < chain.index(-2)


@pytest.fixture
def small(tmp_path):
    folder = write_needlebench(tmp_path / "needles", num_documents=60)
    records = [{"derivations": ["a is b", "b is c"], "derivation_count": 2, "question": "a is?",
                "answer": "c"}]  # fmt: skip
    (folder / REASONING["English"]).write_text(json.dumps(records))
    return dict(path=str(folder), file_list=["synthetic_en.jsonl"], num_repeats_per_file=2,
                language="English", needle_file_name="needles.jsonl", guide=True,
                tokenizer=str(write_tiny_checkpoint(tmp_path / "model")))  # fmt: skip


def test_any_tokenizer_and_an_exact_length(small):
    for guide in (True, False):
        data = MultiNeedleRetrievalDataset.load(
            **{**small, "guide": guide}, length=2000, depths=[10, 90], length_buffer="fit",
            generation_reserve=100, benchmark="b", task="t",
        )  # fmt: skip
        assert {len(prompt.encode()) for prompt in data["prompt"]} == {1900}
        for row in data:
            keywords = row["answer"].partition("#")[0].split("*")
            assert all(row["prompt"].count(keyword) == 1 for keyword in keywords)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"depths": [50, 10]}, "ascending"),
        ({"depths": []}, "at least one"),
        ({"depths": list(range(50))}, "give fewer depths"),
        ({"dpths": [1]}, "Did you mean 'depth"),
        ({"guide": False, "position": "Start"}, "position='End'"),
        ({"length": 400}, "too small"),
    ],
)
def test_wrong_cells_are_refused(small, changes, message):
    given = {"length": 3000, "depths": [10, 90], "length_buffer": "fit", **small, **changes}
    with pytest.raises(ValueError, match=message):
        MultiNeedleRetrievalDataset.load(**given)


def test_a_number_of_steps_that_no_record_has(small):
    small = {**small, "needle_file_name": REASONING["English"], "length": 3000,
             "length_buffer": "fit", "depth": 10, "diff": 10}  # fmt: skip
    assert len(MultiNeedleReasoningDataset.load(**small, num_needles=2)) == 2
    with pytest.raises(ValueError, match="use one of 2"):
        MultiNeedleReasoningDataset.load(**small, num_needles=4)


MULTI_FORMS = [name for name in NAMES if name.startswith("multi_")]


@pytest.mark.parametrize("name", MULTI_FORMS)
def test_sets_by_name_survive_the_dump(name, tmp_path):
    cells = cells_of(name)
    assert len({cell["abbr"] for cell in cells}) == len(cells)
    Config({"datasets": cells[:1]}).dump(str(tmp_path / "x.py"))
    again = Config.fromfile(str(tmp_path / "x.py"))["datasets"][0]
    assert again["type"].startswith("opencompass_llada.benchmarks.multi_needle.dataset.MultiNeedle")
    assert {cell["benchmark"] for cell in cells} == {"needlebench_multi"}
    assert {cell["guide"] for cell in cells} == {name.endswith("chat")}


def test_the_embedded_set_can_be_made():
    cells = cells_of("multi_needle_embedded")
    MultiNeedleRetrievalDataset.check_data([options_of(cell) for cell in cells])


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("form", ["", "_chat"])
def test_ultralladas_grid(language, form):
    cells = cells_of(f"niah_{language}_128k{form}")
    assert sorted({cell["length"] for cell in cells}) == [8192 * step for step in range(1, 17)]
    assert len(cells) == 16 * 11
    assert {cell["guide"] for cell in cells} == {bool(form)}
    for cell in cells:
        NeedleBenchSingleDataset.check_options(**options_of(cell))


def test_the_needle_file_may_hold_other_languages_and_blank_lines(small):
    path = Path(small["path"]) / "needles.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    write_lines(path, rows)
    path.write_text(path.read_text() + "\n\n")
    data = MultiNeedleRetrievalDataset.load(
        **small, length=3000, depths=[10, 50, 90], length_buffer="fit"
    )
    assert len(data) == 2
