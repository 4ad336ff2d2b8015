"""L-Eval: the published rows, OpenCompass's classes on the same files, the suite's rules."""

import json
import shutil

import opencompass.datasets.leval as stock
import pytest

from opencompass_llada.benchmarks.data_files import MissingDataError
from opencompass_llada.benchmarks.leval.dataset import LEvalDataset, LEvalEvaluator
from opencompass_llada.benchmarks.leval.facts import SUITE, TASKS, list_files
from opencompass_llada.benchmarks.leval.scoring import METRICS
from opencompass_llada.benchmarks.published.dataset import load_tokenizer
from opencompass_llada.benchmarks.published.stock import load_stock

#: Tasks whose stock classes differ in what they read: one of each kind.
STOCK_DATASETS = {
    "coursera": stock.LEvalCourseraDataset,
    "topic_retrieval_longchat": stock.LEvalTopicRetrievalDataset,
    "news_summ": stock.LEvalNewsSummDataset,
}
MALFORMED = ("", " ", "\n", "?", "1.5", "é" * 40, "True", "The answer is", "A [fact:", "{x}")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("leval")
    LEvalDataset.write_embedded(path)
    return path


def load(task, path, **options):
    return LEvalDataset.load(benchmark="leval", task=task, path=str(path), **options)


def test_every_task_has_a_metric_and_all_but_two_a_stock_config():
    assert len(TASKS) == 20
    assert {task.metric for task in TASKS.values()} == set(METRICS)
    known = {name for name, task in TASKS.items() if task.stock}
    assert set(TASKS) - known == {"codeU", "sci_fi"}
    for name in known:
        config = load_stock(f"leval.{TASKS[name].stock}")
        assert (config["path"], config["name"]) == ("L4NLP/LEval", name)
        assert config["infer_cfg"]["inferencer"]["max_out_len"] == TASKS[name].answer_length


@pytest.mark.parametrize("task", STOCK_DATASETS)
def test_rows_are_those_of_the_stock_class(folder, tmp_path, monkeypatch, task):
    # Its files are called so that `datasets` finds the split without the hub's script.
    shutil.copy(folder / list_files(task).partition("|")[0], tmp_path / "test.jsonl")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    loader = STOCK_DATASETS[task]
    theirs = loader.load(path=str(tmp_path), cache_dir=str(tmp_path / "cache"))["test"]
    ours = load(task, folder, prompt="chat")
    assert len(ours) == len(theirs) >= 2
    for own, other in zip(ours, theirs, strict=True):
        assert own["answer"] == other["answer"]
        user = load_stock(f"leval.{TASKS[task].stock}")["infer_cfg"]["prompt_template"]
        template = user["template"]["round"][0]["prompt"]
        assert own["prompt"].endswith(template.format(**other))


@pytest.mark.parametrize("prompt", ["base", "chat"])
@pytest.mark.parametrize("task", TASKS)
def test_gold_answers_score_all_points_and_malformed_ones_none(task, prompt):
    rows = load(task, "embedded", prompt=prompt)
    evaluator, tokenizer = LEvalEvaluator(task), load_tokenizer("asset:tiny-llada")
    for row in rows:
        assert evaluator.score_answer(row["gold"], row) == pytest.approx(100)
        assert tokenizer.count(row["prompt"]) + 32 <= 512
        assert prompt == "chat" or row["prompt"] == row["prompt"].rstrip()
        for malformed in MALFORMED:
            found = evaluator.score_answer(malformed, row)
            assert 0 <= found <= 100
            if not malformed.strip():
                assert found == 0


#: Metric, answer, gold answer, score by the rules of auto_eval.py and em.py; several are answers of
#: the repository's Predictions.
PUBLISHED = [
    ("single_choice", "B", "(B) Their subconscious knew", 1),
    ("single_choice", "(B) Their subconscious", "(B) Their subconscious knew", 1),
    ("single_choice", "The Answer is B", "B", 0),
    ("single_choice", "no letter", "A", 1),
    ("single_choice", "no letter", "B", 0),
    ("several_choices", "ABC", "ABC", 1),
    ("several_choices", "A, B and C.", "A", 0),
    ("several_choices", "C. B.", "ABC", 0.25),
    ("several_choices", "BA", "AB", 1),
    ("several_choices", "AB", "ABC", 0.25),
    ("several_choices", "D", "ABC", 0),
    ("several_choices", "The answer: B)", "B", 1),
    ("worked_number", "So 9 x 2 = 18.\nThe answer is $1,800.00", "1800", 1),
    ("worked_number", "It makes 18 dollars", "18", 1),
    ("worked_number", "It makes 18 dollars of 20", "18", 0),
    ("worked_number", "nothing", "18", 0),
    ("program_output", "Let us see.\nSo the final output is [6, 15].", "[6 15]", 1),
    ("program_output", "The value printed is 3", "3", 1),
    ("program_output", "[5, 7, 9] and then some more words than there is room for", "[5 7 9]", 0),
    ("true_or_false", "It is false, not true", "False", 1),
    ("true_or_false", "Untrue", "True", 1),
    ("true_or_false", "perhaps", "False", 0),
    (
        "exact_match",
        "The first topic was The Role of Art in Society.",
        "The role of art in society",
        1,
    ),
    ("exact_match", "art", "The role of art in society", 0),
    ("f1", "Paris, France", "The Paris", 2 / 3),
    ("rouge", "a b c d", "a x c y", 0.5),
    ("rouge", "", "a x c y", 0),
]


@pytest.mark.parametrize(("metric", "prediction", "gold", "expected"), PUBLISHED)
def test_scores_are_the_suites_own(metric, prediction, gold, expected):
    assert METRICS[metric](prediction, gold) == pytest.approx(expected)


def test_opencompass_scores_nothing_of_quality_whose_options_are_whole():
    rows = load("quality", "embedded")
    found = LEvalEvaluator("quality").score(list(rows["gold"]), rows["answer"], rows)
    assert (found["score"], found["opencompass_accuracy"]) == (100, 0)
    assert found["bounds"]["chance"]["score"] == 25


def test_a_lost_answer_is_no_score():
    rows = load("tpo", "embedded")
    with pytest.raises(ValueError, match="3 predictions for 4 samples"):
        LEvalEvaluator("tpo").score(["A"] * 3, rows["answer"], rows)


def test_chance_of_several_right_options_is_a_part():
    rows = load("coursera", "embedded")
    assert {row["answer"]: row["chance"] for row in rows}["AC"] == 12.5
    assert {row["chance"] for row in rows if len(row["answer"]) == 1} == {25}


def test_fiction_is_asked_of_the_document_and_of_the_world():
    loyal, fact, *_ = load("sci_fi", "embedded")
    assert (loyal["answer"], fact["answer"]) == ("True", "False")
    assert "lives on the moon.\n" in loyal["prompt"]
    assert "document" not in fact["prompt"]
    assert "real-world knowledge" in fact["prompt"]


ROW = {
    "instructions": ["Who?"],
    "outputs": ["one"],
    "input": "A text.",
    "source": "x",
    "evaluation": "f1",
}


def write(folder, *rows):
    (folder / "financial_qa.jsonl").write_text("\n".join(map(json.dumps, rows)), "utf-8")
    return folder


def test_answers_for_judges_are_left_out(tmp_path):
    judged = [{**ROW, "evaluation": kind} for kind in ("LLM", "human")]
    assert len(load("financial_qa", write(tmp_path, ROW, *judged))) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"outputs": []}, "1 instructions need as many outputs"),
        ({"outputs": [" "]}, "none of them empty"),
        ({"evaluation": "taste"}, "evaluation='taste' must be exam"),
        ({"input": None}, "input"),
    ],
)
def test_a_row_in_another_format_is_named(tmp_path, change, message):
    with pytest.raises(ValueError, match=rf"financial_qa\.jsonl, line 2.*{message}"):
        load("financial_qa", write(tmp_path, ROW, {**ROW, **change}))


@pytest.mark.parametrize("place", list_files("tpo").split("|"))
def test_files_lie_as_on_the_hub_in_the_repository_or_bare(tmp_path, folder, place):
    (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(folder / "LEval/Exam/tpo.jsonl", tmp_path / place)
    assert len(load("tpo", tmp_path)) == 4


def test_files_lie_below_the_data_cache(tmp_path, monkeypatch):
    LEvalDataset.write_embedded(tmp_path / SUITE.folder)
    monkeypatch.setenv("COMPASS_DATA_CACHE", str(tmp_path))
    assert load("tpo", SUITE.path)[:] == load("tpo", "embedded")[:]


def test_a_missing_file_says_how_to_fetch_it(tmp_path):
    with pytest.raises(MissingDataError, match="hf download L4NLP/LEval"):
        load("tpo", tmp_path)
