"""LongBench's evaluators: several gold answers, parts by length, lost files; LongBench v2."""

import json
from contextlib import suppress

import pytest
from datasets import Dataset
from mmengine.config import Config
from opencompass.datasets.longbench import evaluators as stock
from opencompass.datasets.longbenchv2 import LongBenchv2Evaluator as StockV2Evaluator
from opencompass.utils.text_postprocessors import first_option_postprocess

from opencompass_llada.benchmarks.longbench.dataset import LongBenchEvaluator, score_answer
from opencompass_llada.benchmarks.longbench.facts import TASKS
from opencompass_llada.benchmarks.longbench.v2 import (
    LongBenchV2Dataset,
    LongBenchV2Evaluator,
    extract_answer,
    read_rows,
    write_prompt,
)
from opencompass_llada.runs.tasks import CellByCellEvalTask

GOLD = ["Paris, France", "Paris", "the city of Paris"]


def samples(*rows):
    """Return a test set of (answers, length) pairs."""
    return Dataset.from_list(
        [
            {
                "prompt": "",
                "answers": list(answers),
                "all_classes": ["a", "b"],
                "length": length,
                "subdivision": "x",
                "idx": number,
            }
            for number, (answers, length) in enumerate(rows)
        ]
    )


@pytest.mark.parametrize(
    ("task", "evaluator", "prediction", "gold"),
    [
        ("qasper", stock.LongBenchF1Evaluator("en"), "It is Paris", GOLD),
        ("qmsum", stock.LongBenchRougeEvaluator("en"), "It is the city Paris", GOLD),
        ("lcc", stock.LongBenchCodeSimEvaluator(), "# x\nreturn b", ["return a", "return b"]),
        ("multifieldqa_zh", stock.LongBenchF1Evaluator("zh"), "北京大学", ["上海", "北京大学。"]),
        ("dureader", stock.LongBenchRougeEvaluator("zh"), "我在北京大学", ["上海", "北京大学"]),
    ],
)
def test_the_best_of_several_gold_answers_counts_as_in_the_original(
    task, evaluator, prediction, gold
):
    expected = evaluator.score([prediction], [gold])["score"]
    assert score_answer(TASKS[task], prediction, gold) == pytest.approx(expected)
    alone = [score_answer(TASKS[task], prediction, [answer]) for answer in gold]
    assert score_answer(TASKS[task], prediction, gold) == max(alone) > min(alone)


def test_opencompass_adds_up_what_the_original_takes_the_best_of():
    gold = ["Paragraph 1", "Paragraph 2"]
    assert stock.LongBenchRetrievalEvaluator().score(["1 2"], [gold])["score"] == 100
    assert score_answer(TASKS["passage_retrieval_en"], "1 2", gold) == 50
    assert score_answer(TASKS["passage_count"], "3 and 4", ["3", "4"]) == 50
    classes = ["a", "b"]
    assert score_answer(TASKS["trec"], "a b", classes, classes) == 50


def test_only_the_first_line_counts_where_the_original_says_so():
    assert score_answer(TASKS["triviaqa"], "\n\nParis\nPassage: Rome", ["Paris"]) == 100
    assert score_answer(TASKS["hotpotqa"], "\n\nParis\nPassage: Rome", ["Paris"]) < 100
    assert score_answer(TASKS["trec"], "a\nb", ["b"], ["a", "b"]) == 0


def test_scores_and_parts_by_length():
    test_set = samples((["Paris"], 3999), (["Paris"], 4000), (["Rome"], 100))
    evaluator = LongBenchEvaluator(task="hotpotqa", by_length=True)
    predictions = ["Paris", "Rome", "Rome or Paris"]
    result = evaluator.evaluate(1, 1, test_set, predictions=predictions, test_set=test_set)
    assert result["score_0-4k"] == pytest.approx((100 + 50) / 2, abs=0.1)
    assert result["score_4-8k"] == 0
    assert "score_8k+" not in result
    assert (result["num_samples"], result["num_samples_0-4k"]) == (3, 2)
    assert result["score"] == pytest.approx(150 / 3, abs=0.1)
    assert [detail["score"][0] for detail in result["details"]] == pytest.approx(
        [100, 0, 50], abs=0.1
    )
    plain = LongBenchEvaluator(task="hotpotqa").score(predictions, test_set=test_set)
    assert not [name for name in plain if "4k" in name]


def test_a_missing_prediction_is_an_error():
    test_set = samples((["a"], 1), (["b"], 1))
    for evaluator in (LongBenchEvaluator(task="hotpotqa"), LongBenchV2Evaluator()):
        with pytest.raises(ValueError, match="1 predictions for 2 samples"):
            evaluator.evaluate(1, 1, test_set, predictions=["a"], test_set=test_set)
        with pytest.raises(ValueError, match="no predictions"):
            evaluator.score([], test_set=test_set.select([]))
    with pytest.raises(ValueError, match="Did you mean 'hotpotqa'"):
        LongBenchEvaluator(task="hotpot")


def run_evaluation(work_dir, folder, shards):
    """Evaluate two rows whose predictions lie in the given files; return the result or None."""
    from opencompass_llada.benchmarks.longbench.dataset import LongBenchDataset

    model = {"type": "m", "abbr": "model", "path": "x"}
    dataset = {
        "abbr": "set",
        "type": LongBenchDataset,
        "path": str(folder),
        "task": "hotpotqa",
        "reader_cfg": {"input_columns": ["prompt"], "output_column": "answers"},
        "eval_cfg": {"evaluator": {"type": LongBenchEvaluator, "task": "hotpotqa"}},
    }
    predictions = work_dir / "predictions" / "model"
    predictions.mkdir(parents=True)
    for name, text in shards.items():
        (predictions / name).write_text(text)
    cfg = {"models": [model], "datasets": [[dataset]], "work_dir": str(work_dir)}
    task = CellByCellEvalTask(Config({**cfg, "eval": {"runner": {"task": {"dump_details": True}}}}))
    with suppress(RuntimeError):
        task.run()
    result = work_dir / "results" / "model" / "set.json"
    assert result.exists() == (not task.failed)
    return json.loads(result.read_text()) if result.exists() else None


@pytest.mark.parametrize(
    "shards",
    [
        {},
        {"set.json": '{"0": {"prediction": "Paris"}}'},
        {"set.json": '{"0": {"prediction": "Paris"}, "1": {"pre'},
        {"set_0.json": '{"0": {"prediction": "Paris"}}'},
        {"set_1.json": '{"0": {"prediction": "Paris"}}'},
    ],
    ids=["no file", "a sample lost", "half-written", "second shard lost", "first shard lost"],
)
def test_lost_and_half_written_predictions_have_no_score(tmp_path, shards):
    folder = tmp_path / "data"
    folder.mkdir()
    row = {"input": "Where?", "context": "", "answers": ["Paris"], "length": 1}
    (folder / "hotpotqa.jsonl").write_text((json.dumps(row) + "\n") * 2)
    assert run_evaluation(tmp_path / "run", folder, shards) is None
    whole = {"set.json": '{"0": {"prediction": "Paris"}, "1": {"prediction": "Rome"}}'}
    result = run_evaluation(tmp_path / "whole", folder, whole)
    assert result["score"] == 50
    assert result["details"][0]["prediction"] == ["Paris"]


V2_ROW = {
    "_id": "1",
    "domain": "d",
    "difficulty": "easy",
    "length": "short",
    "question": " Which? ",
    "choice_A": "one\n",
    "choice_B": "two",
    "choice_C": "{question}",
    "choice_D": "four",
    "answer": "B",
    "context": "\nA text. {choice_A}\n",
}


def test_v2_prompt_is_the_originals():
    assert write_prompt(V2_ROW) == (
        "Please read the following text and answer the question below.\n\n"
        "<text>\nA text. {choice_A}\n</text>\n\n"
        "What is the correct answer to this question: Which?\n"
        "Choices:\n(A) one\n(B) two\n(C) {question}\n(D) four\n\n"
        'Format your response as follows: "The correct answer is (insert answer here)".'
    )


def test_v2_base_prompt_ends_in_the_answers_beginning():
    asked = write_prompt(V2_ROW).partition("\n\nFormat your")[0]
    assert write_prompt(V2_ROW, "base") == f"{asked}\n\nThe correct answer is"
    rows = LongBenchV2Dataset.load(path="asset:longbench/v2.jsonl", prompt="base")
    evaluator = LongBenchV2Evaluator()
    golds = [evaluator.solve(row) for row in rows]
    assert {len(gold) for gold in golds} == {len(" (A)")}
    for form in (" ({})", " {}", " ({}), since ..."):
        answers = [form.format(row["answer"]) for row in rows]
        found = evaluator.score(answers, rows["answer"], rows)
        assert (found["accuracy"], found["num_unanswered"]) == (100, 0)
    assert found["bounds"]["chance"]["accuracy"] == 25
    assert found["bounds"]["gold answer"]["accuracy"] == 100
    none = evaluator.score(["(A" for _ in rows], rows["answer"], rows)
    assert (none["accuracy"], none["num_unanswered"]) == (0, len(rows))
    chat = LongBenchV2Dataset.load(path="asset:longbench/v2.jsonl")
    assert evaluator.solve(chat[0]) == f"The correct answer is ({chat[0]['answer']})"
    with pytest.raises(ValueError, match="prompt of LongBench v2"):
        LongBenchV2Dataset.load(path="asset:longbench/v2.jsonl", prompt="bass")


@pytest.mark.parametrize(
    ("response", "letter"),
    [
        ("The correct answer is (B).", "B"),
        ("  **The correct answer is (C)**", "C"),
        ("The correct answer is D", "D"),
        ("The correct answer is A, no: The correct answer is (B)", "B"),
        ("the correct answer is (B)", None),
        ("The correct answer is (E)", None),
        ("", None),
    ],
)
def test_v2_answer_extraction(response, letter):
    assert extract_answer(response) == letter


def test_v2_accuracy_by_difficulty_and_length():
    parts = [("A", "easy", "short"), ("B", "hard", "short"), ("C", "hard", "medium")]
    told = {"subdivision": "x", "given": ""}
    test_set = Dataset.from_list(
        [
            {"answer": answer, "difficulty": difficulty, "length": length, "idx": idx, **told}
            for idx, (answer, difficulty, length) in enumerate(parts)
        ]
    )
    says = "The correct answer is ({})".format
    predictions = [says("A"), "I do not know", says("C")]
    result = LongBenchV2Evaluator().evaluate(
        1, 1, test_set, predictions=predictions, test_set=test_set
    )
    assert result["accuracy"] == pytest.approx(200 / 3)
    assert (result["accuracy_easy"], result["accuracy_hard"]) == (100, 50)
    assert (result["accuracy_short"], result["accuracy_medium"]) == (50, 100)
    assert "accuracy_long" not in result
    letters = [first_option_postprocess(text, "ABCD") for text in predictions]
    stock = StockV2Evaluator().score(letters, test_set["answer"], test_set)
    assert {name: result[name] for name in stock} == pytest.approx(stock)
    assert (result["num_samples"], result["num_unanswered"], result["num_samples_hard"]) == (
        3,
        1,
        2,
    )


def test_v2_files_as_list_as_lines_and_broken(tmp_path):
    (tmp_path / "data.json").write_text(json.dumps([V2_ROW, V2_ROW], indent=1))
    lines = tmp_path / "lines.jsonl"
    lines.write_text(json.dumps(V2_ROW) + "\n")
    assert len(LongBenchV2Dataset.load(path=str(tmp_path))) == 2
    assert LongBenchV2Dataset.load(path=str(lines), task="v2")["answer"] == ["B"]
    text = (tmp_path / "data.json").read_text()
    (tmp_path / "data.json").write_text(text[:-30])
    with pytest.raises(ValueError, match=r"data\.json, line \d+: not valid JSON.*half-written"):
        read_rows(str(tmp_path))
    lines.write_text(json.dumps(V2_ROW) + "\n" + json.dumps({**V2_ROW, "answer": "E"}) + "\n")
    with pytest.raises(ValueError, match=r"line 2: answer='E' must be one of A, B, C, D"):
        read_rows(str(lines))
    with pytest.raises(ValueError, match="Did you mean 'path'"):
        LongBenchV2Dataset.load(pth="x")


def test_v2_sample_set_holds_its_answers():
    rows = read_rows("asset:longbench/v2.jsonl")
    assert {row["difficulty"] for row in rows} == {"easy", "hard"}
    for row in rows:
        assert row[f"choice_{row['answer']}"] in row["context"]
