"""LongBench's metrics against OpenCompass's evaluators, which hold the originals' code."""

import random
import sys

import pytest
from opencompass.datasets.longbench import evaluators as stock

from opencompass_llada.benchmarks.longbench import scoring

ENGLISH = [
    "the",
    "a",
    "an",
    "Cat",
    "cat",
    "sat,",
    "on",
    "mat.",
    "12",
    "7",
    "Paragraph",
    "it's",
    "\n",
]
CHINESE = list("我们今天在北京大学研究，。！语言模型的长文本《理解》12 ") + ["段落", "A.I."]
CODE = ["return x", "`code`", "# note", "// note", "    y = f(a, b)", "", "for i in y:", "\t}"]
CLASSES = ["Date", "Date and time", "Place", "Person", "Other place", "time"]


def texts(words, joint, count, seed, longest=14):
    draw = random.Random(seed)
    made = [joint.join(draw.choices(words, k=draw.randint(0, longest))) for _ in range(count - 4)]
    return [*made, "", ".", " ", "\n"]


def pairs(words, joint, count=120):
    return list(zip(texts(words, joint, count, 1), texts(words, joint, count, 2), strict=True))


def by_stock(evaluator, prediction, references):
    return evaluator.score([prediction], [references])["score"] / 100


@pytest.mark.parametrize(
    ("name", "evaluator", "words", "joint"),
    [
        ("qa_f1", stock.LongBenchF1Evaluator("en"), ENGLISH, " "),
        ("qa_f1_zh", stock.LongBenchF1Evaluator("zh"), CHINESE, ""),
        ("rouge", stock.LongBenchRougeEvaluator("en"), ENGLISH, " "),
        ("rouge_zh", stock.LongBenchRougeEvaluator("zh"), CHINESE, ""),
        ("count", stock.LongBenchCountEvaluator(), ENGLISH, " "),
        ("code_similarity", stock.LongBenchCodeSimEvaluator(), CODE, "\n"),
    ],
)
def test_equal_on_random_texts(name, evaluator, words, joint):
    scores = []
    for prediction, answer in pairs(words, joint):
        if name == "count":
            answer = "12"
        ours = scoring.METRICS[name](prediction, answer, ())
        assert ours == pytest.approx(by_stock(evaluator, prediction, [answer]), abs=1e-12)
        scores.append(ours)
    assert 0 < sum(scores) < len(scores)  # neither all wrong nor all right


@pytest.mark.parametrize(("language", "word"), [("en", "Paragraph "), ("zh", "段落")])
def test_retrieval_equals_the_original_on_random_answers(language, word):
    evaluator = stock.LongBenchRetrievalEvaluator(language)
    metric = scoring.METRICS["retrieval" if language == "en" else "retrieval_zh"]
    draw = random.Random(3)
    scores = []
    for _ in range(60):
        named = [f"{word}{draw.randint(1, 3)}" for _ in range(draw.randint(0, 4))]
        prediction, answer = ", ".join(named), f"{word}{draw.randint(1, 3)}"
        scores.append(metric(prediction, answer, ()))
        assert scores[-1] == pytest.approx(by_stock(evaluator, prediction, [answer]))
    assert 0 < sum(scores) < len(scores)


def test_classification_equals_the_original_on_random_answers():
    evaluator = stock.LongBenchClassificationEvaluator()
    draw = random.Random(4)
    scores = []
    for _ in range(400):
        classes = draw.sample(CLASSES, k=len(CLASSES))
        prediction = " or ".join(draw.sample(CLASSES, k=draw.randint(0, 4)))
        answer = draw.choice(classes)
        reference = {"answers": [answer], "all_classes": classes}
        ours = scoring.classification_score(prediction, answer, classes)
        assert ours == pytest.approx(by_stock(evaluator, prediction, reference))
        scores.append(ours)
    assert {0.0, 1.0, 0.5} < set(scores)


def test_hand_made_values():
    assert scoring.qa_f1_score("The cat, sat!", "a Cat sat") == 1.0
    assert scoring.qa_f1_score("cat sat", "cat ran") == 0.5
    assert scoring.qa_f1_score("", "cat") == 0.0
    assert scoring.rouge_score("", "cat") == 0.0
    assert scoring.count_score("12 or 13", "12") == 0.5
    assert scoring.retrieval_score("Paragraph 1, not 12", "Paragraph 12") == 0.5
    assert scoring.code_similarity_score("```\n# x\n  return a", "  return a") == 1.0
    assert scoring.classification_score("Date and time", "Date", ["Date", "Date and time"]) == 0.5
    # The shorter class is part of the gold one's name and does not count against it.
    assert (
        scoring.classification_score("Date and time", "Date and time", ["Date", "Date and time"])
        == 1.0
    )
    assert scoring.classification_score("nothing", "Date", ["Date"]) == 0.0


def test_a_gold_answer_without_a_paragraph_is_an_error():
    with pytest.raises(ValueError, match="names no paragraph"):
        scoring.retrieval_score("Paragraph 1", "the first")


def test_rouge_of_long_texts_is_a_score_where_the_original_swallows_an_error():
    text = " ".join(f"w{number}" for number in range(sys.getrecursionlimit()))
    assert by_stock(stock.LongBenchRougeEvaluator("en"), text, [text]) == 0.0
    before = sys.getrecursionlimit()
    assert scoring.rouge_score(text, text) == pytest.approx(1.0)
    assert sys.getrecursionlimit() == before
