"""RULER's scores: NVIDIA's own sums, and no score where a prediction is missing."""

import random

import pytest
from datasets import Dataset

from opencompass_llada.benchmarks.ruler.dataset import RulerEvaluator
from opencompass_llada.benchmarks.ruler.prompts import match_all, match_part


def nvidia_all(predictions, references):
    """The sum of NVIDIA RULER's string_match_all, written out as a plain loop."""
    total = 0.0
    for prediction, expected in zip(predictions, references, strict=True):
        found = 0.0
        for reference in expected:
            if reference.lower() in prediction.lower():
                found += 1.0
        total += found / len(expected)
    return round(total / len(predictions) * 100, 2)


def nvidia_part(predictions, references):
    """The sum of NVIDIA RULER's string_match_part."""
    total = 0.0
    for prediction, expected in zip(predictions, references, strict=True):
        total += max(1.0 if r.lower() in prediction.lower() else 0.0 for r in expected)
    return round(total / len(predictions) * 100, 2)


EXAMPLES = [
    # prediction, references, all, part
    ("7841 and 1203, as said", ["7841", "1203", "9000", "5555"], 0.5, 1.0),
    ("The answer is FRANCE.", ["france", "in France", "Normandy"], 1 / 3, 1.0),
    ("", ["a", "b"], 0.0, 0.0),
    ("nothing of it", ["Denmark"], 0.0, 0.0),
    ("ABCDE FGHIJ", ["abcde", "fghij"], 1.0, 1.0),
    ("12345678", ["2345"], 1.0, 1.0),  # a substring counts, as in the original
]


@pytest.mark.parametrize(("prediction", "references", "share", "any_"), EXAMPLES)
def test_examples_with_several_references(prediction, references, share, any_):
    assert match_all(prediction, references) == pytest.approx(share)
    assert match_part(prediction, references) == any_


@pytest.mark.parametrize(
    ("match", "expected"), [("all", nvidia_all), ("part", nvidia_part)], ids=["all", "part"]
)
def test_scores_equal_nvidias(match, expected):
    draw = random.Random(0)
    evaluator = RulerEvaluator(match=match)
    for _ in range(200):
        predictions, references = [], []
        for _ in range(draw.randint(1, 7)):
            predictions.append(" ".join(draw.choices(["Alpha", "beta", "GAMMA", "x"], k=3)))
            references.append(draw.sample(["alpha", "Beta", "gamma", "delta"], draw.randint(1, 4)))
        result = evaluator.score(predictions, references)
        assert result["score"] == expected(predictions, references)
        assert result["num_samples"] == len(predictions)


def test_all_and_part_differ_on_several_references():
    predictions, references = ["one two"], [["one", "two", "three", "four"]]
    assert RulerEvaluator(match="all").score(predictions, references)["score"] == 50.0
    assert RulerEvaluator(match="part").score(predictions, references)["score"] == 100.0


@pytest.mark.parametrize("task", ["niah", "vt", "cwe", "fwe", "qa"])
def test_scores_equal_the_stock_evaluators(task):
    import importlib

    stock = importlib.import_module(f"opencompass.datasets.ruler.ruler_{task}")
    theirs = getattr(stock, f"Ruler{task.title()}Evaluator")()
    ours = RulerEvaluator(match="part" if task == "qa" else "all")
    predictions = [example[0] for example in EXAMPLES]
    references = [example[1] for example in EXAMPLES]
    assert (
        ours.score(predictions, references)["score"]
        == theirs.score(predictions, references)["score"]
    )


def test_a_lost_shard_is_an_error():
    samples = Dataset.from_dict(
        {"answer": [["a"], ["b"], ["c"]], "subdivision": ["x"] * 3, "idx": [0, 1, 2]}
    )
    evaluator = RulerEvaluator()
    whole = evaluator.evaluate(
        k=1,
        n=1,
        original_dataset=samples,
        predictions=["a", "b", "-"],
        references=samples["answer"],
    )
    assert whole["score"] == pytest.approx(66.67)
    assert [detail["score"] for detail in whole["details"]] == [[100.0], [100.0], [0.0]]
    with pytest.raises(ValueError, match="2 predictions for 3 samples"):
        evaluator.evaluate(
            k=1, n=1, original_dataset=samples, predictions=["a", "b"], references=[["a"], ["b"]]
        )
    with pytest.raises(ValueError, match="no predictions"):
        evaluator.score([], [])


def test_an_unknown_match_is_refused():
    with pytest.raises(ValueError, match="Did you mean 'part'"):
        RulerEvaluator(match="parts")
