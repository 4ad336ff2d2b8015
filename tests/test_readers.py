"""Readers that are shown less of a prompt never exceed their window.

No model runs here.
"""

from __future__ import annotations

import random

import pytest

from opencompass_llada.benchmarks.counting import load_counting_tokenizer
from opencompass_llada.benchmarks.readers import (
    PromptParts,
    ReaderOptions,
    read_as,
    split_prompt,
)

#: Of many sorts of tokens, characters of several bytes among them.
PIECES = ("The grass is green. ", "VAR X = 12345\n", "中文字符的文本，", "é😀𝔘 ", "    ", "\n\n\n")


def _parts(seed: int) -> PromptParts:
    rng = random.Random(seed)
    text = "".join(rng.choice(PIECES) for _ in range(rng.randrange(0, 2500)))
    return PromptParts(head="Read this.\n", context=text, question="\nWhat is it? It is")


@pytest.fixture(params=["tiny-llada", "SDAR-8B-Chat", "gpt-4"])
def tokenizer(request, monkeypatch):
    """Return a tokenizer that lengths are counted by; those of real data skip without it."""
    if request.param == "tiny-llada":
        return load_counting_tokenizer("asset:tiny-llada")
    if request.param == "gpt-4":
        root = request.getfixturevalue("real_data_root")
        monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(root / "data/tiktoken"))
        return load_counting_tokenizer("gpt-4")
    return load_counting_tokenizer(str(request.getfixturevalue("published_files")(request.param)))


@pytest.mark.parametrize("as_turn", [False, True])
def test_the_last_window_is_filled_and_never_exceeded(tokenizer, as_turn: bool) -> None:
    is_cut = []
    for seed in range(12):
        parts, window = _parts(seed), random.Random(seed).randrange(80, 600)
        read = {"window": window, "answer_length": 16, "tokenizer": tokenizer, "as_turn": as_turn}
        prompt = read_as(parts, "last_window", **read)
        end = prompt.removeprefix(parts.head).removesuffix(parts.question)
        total = tokenizer.count(prompt, as_turn=as_turn)
        assert prompt == parts.head + end + parts.question
        assert parts.context.endswith(end)
        assert total <= window - 16
        is_cut.append(end != parts.context)
        if is_cut[-1]:
            assert total >= window - 16 - 8
    assert True in is_cut


def test_a_context_that_fits_is_read_whole_and_none_is_left_out() -> None:
    tokenizer = load_counting_tokenizer("asset:tiny-llada")
    parts = PromptParts(head="Read. ", context="The sky is blue.", question=" The sky is")
    total = tokenizer.count(parts.whole)
    read = {"answer_length": 4, "tokenizer": tokenizer}
    assert read_as(parts, "last_window", window=total + 4, **read) == parts.whole
    assert read_as(parts, "last_window", window=total + 3, **read) != parts.whole
    assert read_as(parts, "full", window=None, **read) == parts.whole
    assert read_as(parts, "no_context", window=None, **read) == "Read.  The sky is"
    assert split_prompt(parts.whole, parts.lengths) == parts


def test_a_window_without_room_for_the_question_is_refused_with_one_that_has() -> None:
    tokenizer = load_counting_tokenizer("asset:tiny-llada")
    parts = PromptParts(head="Read. ", context="The sky is blue.", question=" The sky is")
    needed = tokenizer.count(parts.head + parts.question)
    read = {"answer_length": 4, "tokenizer": tokenizer}
    with pytest.raises(ValueError, match=f"Use a window of at least {needed + 4}"):
        read_as(parts, "last_window", window=needed + 3, **read)
    least = read_as(parts, "last_window", window=needed + 4, **read)
    assert tokenizer.count(least) <= needed  # a full stop joins a token that is there already


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"reader": "last"}, "Did you mean 'last_window'"),
        ({"reader": "last_window"}, "window=None"),
        ({"reader": "no_context", "window": 512}, "no other has one"),
        ({"window": 512}, "no other has one"),
    ],
)
def test_a_reader_and_its_window_belong_together(given: dict, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        ReaderOptions(**given)
