"""The multiple-choice benchmark: its questions, and that both ways of scoring are counted."""

import sys

import pytest
from tiny_causal import write_llama_checkpoint

from opencompass_llada.wrapper import LLaDACausalLM


@pytest.fixture
def option_scoring(repository_root, monkeypatch):
    monkeypatch.syspath_prepend(str(repository_root / "benchmarks"))
    monkeypatch.delitem(sys.modules, "option_scoring", raising=False)
    import option_scoring

    return option_scoring


def test_questions_hold_all_facts_and_differ_in_the_option_alone(option_scoring):
    for number in range(8):
        texts, right = option_scoring.make_question(number, 2)
        assert len(set(texts)) == 4
        context = texts[right].rpartition("\n")[0]
        assert all(text.startswith(context) for text in texts)
        value = texts[right].removesuffix(".").split()[-1]
        assert value in context, "the right answer stands in the text"
    assert option_scoring.make_question(3, 2) == option_scoring.make_question(3, 2)


def test_both_ways_are_measured(option_scoring, tmp_path):
    scorer = LLaDACausalLM(str(write_llama_checkpoint(tmp_path / "llama"))).scorer
    questions = [option_scoring.make_question(number, 1) for number in range(2)]
    for whole in (True, False):
        found = option_scoring.measure(scorer, questions, whole)
        assert found["passes"] == 4
        assert found["accuracy"] in (0, 50, 100)
