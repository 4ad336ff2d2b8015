"""InfiniteBench: the published rows, OpenCompass's classes on the same files, the suite's rules."""

import json

import opencompass.datasets.infinitebench as stock
import pytest

from opencompass_llada.benchmarks.data_files import MissingDataError
from opencompass_llada.benchmarks.infinitebench.dataset import (
    CHOICES,
    InfiniteBenchDataset,
    InfiniteBenchEvaluator,
)
from opencompass_llada.benchmarks.infinitebench.facts import SUITE, TASKS
from opencompass_llada.benchmarks.infinitebench.scoring import METRICS
from opencompass_llada.benchmarks.published.dataset import load_tokenizer
from opencompass_llada.benchmarks.published.stock import load_stock
from opencompass_llada.runs.planning import list_data_sets

STOCK_DATASETS = {
    "passkey": stock.InfiniteBenchretrievepasskeyDataset,
    "number_string": stock.InfiniteBenchretrievenumberDataset,
    "kv_retrieval": stock.InfiniteBenchretrievekvDataset,
    "longbook_sum_eng": stock.InfiniteBenchensumDataset,
    "longbook_qa_eng": stock.InfiniteBenchenqaDataset,
    "longbook_choice_eng": stock.InfiniteBenchenmcDataset,
    "longbook_qa_chn": stock.InfiniteBenchzhqaDataset,
    "longdialogue_qa_eng": stock.InfiniteBenchendiaDataset,
    "code_debug": stock.InfiniteBenchcodedebugDataset,
    "code_run": stock.InfiniteBenchcoderunDataset,
    "math_calc": stock.InfiniteBenchmathcalcDataset,
    "math_find": stock.InfiniteBenchmathfindDataset,
}
#: Tasks whose wording asks the question itself.
UNASKED = ("code_debug", "longdialogue_qa_eng")
#: Answers as a model may give them, and none.
MALFORMED = ("", " ", "\n", "?", "A", "1.5", "é" * 40, "Option", "the correct option is:", "{x}")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("infinitebench")
    InfiniteBenchDataset.write_embedded(path)
    return path


def load(task, path, **options):
    return InfiniteBenchDataset.load(benchmark="infinitebench", task=task, path=path, **options)


def score(task, answers, rows):
    return InfiniteBenchEvaluator(task).score(answers, rows["answer"], rows)


def test_every_task_has_a_metric_a_stock_config_and_a_stock_class():
    assert set(TASKS) == set(METRICS) == set(STOCK_DATASETS) == set(SUITE.tasks)
    for name, task in TASKS.items():
        config = load_stock(f"infinitebench.infinitebench{task.stock}")
        assert config["type"] is STOCK_DATASETS[name]
        assert config["path"] == f"./{SUITE.path}/{name}.jsonl"


@pytest.mark.parametrize("task", TASKS)
def test_rows_are_those_of_the_stock_class(folder, task):
    theirs = STOCK_DATASETS[task].load(str(folder / f"{task}.jsonl"))
    ours = load(task, str(folder), prompt="chat")
    assert len(ours) == len(theirs) == 4
    for own, other in zip(ours, theirs, strict=True):
        unused = {"answer", *(["question"] if task in UNASKED else [])}
        assert all(str(other[name]) in own["prompt"] for name in other if name not in unused)
        if task in CHOICES:
            assert own["answer"][1] == other["answer"]
        else:
            given = other["answer"]
            golds = given if isinstance(given, list) else [given]
            assert own["answer"] == [str(gold) for gold in golds]


@pytest.mark.parametrize("prompt", ["base", "chat"])
@pytest.mark.parametrize("task", TASKS)
def test_gold_answers_score_all_points_and_malformed_ones_none(task, prompt):
    rows = load(task, "embedded", prompt=prompt)
    found = score(task, list(rows["gold"]), rows)
    assert found["score"] == pytest.approx(100)
    assert found["bounds"]["gold answer"]["score"] == pytest.approx(100)
    chance = found["bounds"].get("chance", {"score": None})["score"]
    assert chance == (25 if task in CHOICES else None)
    tokenizer = load_tokenizer("asset:tiny-llada")
    for row in rows:
        assert tokenizer.count(row["prompt"]) + 32 <= 512
        assert "{" not in row["prompt"].replace("{" + '"', "")
        if prompt == "base":
            assert row["prompt"] == row["prompt"].rstrip()
    for malformed in MALFORMED:
        scored = [METRICS[task](malformed, row["answer"]) for row in rows]
        assert all(0 <= one <= 1 for one in scored)
        if malformed in ("", " ", "\n", "?", "{x}"):
            assert not any(scored)


def test_long_books_lose_their_middle_in_the_models_tokens(tmp_path, folder):
    rows = [json.loads(line) for line in (folder / "code_debug.jsonl").read_text().splitlines()]
    text = "".join(json.dumps({**row, "context": row["context"] * 9}) + "\n" for row in rows)
    (tmp_path / "code_debug.jsonl").write_text(text)
    tokenizer = load_tokenizer("asset:tiny-llada")
    fitted = {"length": 512, "fit": "middle", "tokenizer": "asset:tiny-llada"}
    whole = load("code_debug", str(tmp_path))
    cut = load("code_debug", str(tmp_path), answer_length=64, **fitted)
    for own, full in zip(cut, whole, strict=True):
        assert 512 - 64 - 8 <= tokenizer.count(own["prompt"]) <= 512 - 64
        assert full["prompt"].startswith(own["prompt"][:300])
        assert full["prompt"].endswith(own["prompt"][-200:])


def test_a_task_whose_answer_has_no_room_is_left_out(capsys):
    options = {"data": "published", "tokenizer": "gpt-4"}
    cells = list_data_sets("infinitebench", lengths=[1024, 32768], **options)
    taken = {(cell["task"], cell["length"]) for cell in cells}
    assert len(taken) == 22
    assert "math_calc is given 30000 tokens of answer, no room in 1024" in capsys.readouterr().err
    with pytest.raises(ValueError, match="no room in 1024; ask for a greater length"):
        list_data_sets("infinitebench", lengths=[1024], tasks=["math_calc"], **options)
    options["generation_length"] = 128
    assert len(list_data_sets("infinitebench", lengths=[1024], **options)) == 12


def test_chat_prompts_fill_the_slots_that_opencompass_leaves_open():
    row = load("code_debug", "embedded", prompt="chat")[0]
    name, letter = row["answer"]
    assert f"\n{letter}. {name}\n" in row["prompt"]
    user = load_stock(f"infinitebench.infinitebench{TASKS['code_debug'].stock}")
    assert "{OPTION_A}" in str(user["infer_cfg"])
    assert "OPTION_A" not in user["reader_cfg"]["input_columns"]
    asked = load("math_find", "embedded", prompt="chat")[0]["prompt"]
    assert asked.startswith("What is the ")
    assert asked.endswith(" number of the list is: ")


#: Task, answer, gold answers, score by the rules of compute_scores.py. The first of each task are
#: published answers of chatglm3, gpt4 and claude2 (results/ of the repository).
PUBLISHED = [
    ("passkey", "The pass key is 71432.", ["71432"], 1),
    ("passkey", "It is 7 1 4 3 2", ["71432"], 0),
    ("number_string", " 3000077442.\n\nIf you", ["3000077442"], 1),
    ("math_find", "88", ["88"], 1),
    ("math_find", "85\n\nAs an AI language model, I cannot", ["88"], 0),
    ("math_find", "88.0", ["88"], 1),
    ("math_find", "0.5 or 1", ["0.5"], 1),
    ("code_run", " 24.\n\nThe value of func_6351(", ["4"], 0),
    ("code_run", "The value is: 4.", ["4"], 1),
    ("code_run", "4 is the value", ["4"], 0),
    ("code_run", "It is `-4`", ["-4"], 1),
    ("kv_retrieval", 'The value is: "c14cb8ba-002b"', ["c14cb8ba-002b"], 1),
    ("kv_retrieval", "c14cb8ba-002bx", ["c14cb8ba-002b"], 0),
    ("longdialogue_qa_eng", "Nicky Santoro", ["ACE", "ACE ROTHSTEIN"], 0),
    ("longdialogue_qa_eng", "Ace, I think", ["ACE", "ACE ROTHSTEIN"], 1),
    ("longdialogue_qa_eng", "Rothstein", ["ACE", "ACE ROTHSTEIN"], 0),
    ("longbook_choice_eng", "A. Walking Georgie", ["Walking Georgie", "A"], 1),
    ("longbook_choice_eng", "Walking Georgie", ["Walking Georgie", "A"], 1),
    ("longbook_choice_eng", "Bob", ["Bob", "C"], 0),
    ("longbook_choice_eng", "the answer is: A", ["Walking Georgie", "A"], 1),
    ("longbook_choice_eng", "the answer is B, not A", ["Walking Georgie", "A"], 0),
    ("longbook_choice_eng", "perhaps A or B", ["Walking Georgie", "A"], 1),
    ("code_debug", "B. repack_carchive", ["repack_carchive", "B"], 1),
    ("code_debug", "B", ["repack_carchive", "B"], 0),
    ("code_debug", "So the answer is:\n\n`repack_carchive`", ["repack_carchive", "B"], 1),
    ("code_debug", "So the answer is: C", ["repack_carchive", "B"], 0),
    ("code_debug", "So the answer is:", ["repack_carchive", "B"], 0),
    ("math_calc", "[79, 59, 1]", ["79", "59", "73", "78"], 0.5),
    ("math_calc", "[76, 79, 59]", ["79", "59"], 0),
    ("longbook_qa_eng", "The fox.", ["a dog", "fox"], 1),
    ("longbook_qa_eng", "red fox", ["fox"], 2 / 3),
    ("longbook_qa_chn", "红色苹果", ["苹果", "梨"], 2 / 3),
    ("longbook_qa_chn", "梨。", ["苹果", "梨"], 1),
    ("longbook_sum_eng", "a b c d", ["a b x y"], 0.5),
    ("longbook_sum_eng", "a b c d", ["z", "a b c d"], 1),
]


@pytest.mark.parametrize(("task", "prediction", "answers", "expected"), PUBLISHED)
def test_scores_are_the_suites_own(task, prediction, answers, expected):
    assert METRICS[task](prediction, answers) == pytest.approx(expected)


def test_opencompasss_number_stands_beside_the_score():
    rows = load("code_run", "embedded")
    found = score("code_run", list(rows["gold"]), rows)
    assert (found["score"], found["opencompass_accuracy"]) == (100, 0)
    rows = load("longbook_sum_eng", "embedded")
    found = score("longbook_sum_eng", list(rows["gold"]), rows)
    assert found["opencompass_rouge1"] == pytest.approx(100)


@pytest.mark.parametrize(
    ("task", "change", "message"),
    [
        ("passkey", {"answer": []}, "at least one answer"),
        ("code_debug", {"options": ["a", "b"]}, "options must be 4 texts, not 2"),
        ("code_debug", {"answer": ["none of them"]}, "must be one of the options"),
        ("code_run", {"input": "What is it?"}, "does not hold a call"),
        ("math_find", {"input": "What is it?"}, "does not hold the number"),
        ("passkey", {"context": None}, "context"),
    ],
)
def test_a_row_in_another_format_is_named(tmp_path, folder, task, change, message):
    row = json.loads((folder / f"{task}.jsonl").read_text("utf-8").splitlines()[0])
    file = tmp_path / f"{task}.jsonl"
    file.write_text(json.dumps({**row, **change}), "utf-8")
    with pytest.raises(ValueError, match=rf"{task}\.jsonl, line 1.*{message}"):
        load(task, str(tmp_path))


@pytest.mark.parametrize("answer", ["88", 88, ["88"], [88], 88.0])
def test_answers_are_published_in_several_forms(tmp_path, folder, answer):
    row = json.loads((folder / "math_find.jsonl").read_text("utf-8").splitlines()[0])
    (tmp_path / "math_find.jsonl").write_text(json.dumps({**row, "answer": answer}), "utf-8")
    [found] = load("math_find", str(tmp_path))
    assert METRICS["math_find"]("88", found["answer"]) == 1


def test_files_lie_below_the_data_cache(tmp_path, monkeypatch):
    InfiniteBenchDataset.write_embedded(tmp_path / SUITE.folder)
    monkeypatch.setenv("COMPASS_DATA_CACHE", str(tmp_path))
    assert load("passkey", SUITE.path)[:] == load("passkey", "embedded")[:]


def test_a_missing_file_says_how_to_fetch_it(tmp_path):
    with pytest.raises(MissingDataError, match="hf download xinrongzhang2022/InfiniteBench"):
        load("passkey", str(tmp_path))
