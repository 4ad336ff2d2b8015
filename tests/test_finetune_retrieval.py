"""Retrieval rows: their answers are in their text, and held-out keys stay out."""

from __future__ import annotations

import random
import re

import numpy as np
import pytest

from opencompass_llada.benchmarks.generated.task import Vocabulary, find_task
from opencompass_llada.benchmarks.ruler.prompts import TEMPLATES
from opencompass_llada.finetune.packing import TokenWindows
from opencompass_llada.finetune.recipe import TextSource
from opencompass_llada.finetune.text import read_documents
from opencompass_llada.finetune.tokenizing import tokenize_source
from opencompass_llada.finetune.tokens import (
    TrainingTokenizer,
    train_tokenizer,
)
from opencompass_llada.synthetic.grammar import RULES, held_out, make_needle
from opencompass_llada.tiny_models.retrieval import (
    RetrievalRows,
    Words,
    draw_text_words,
    draw_words,
)
from opencompass_llada.tiny_models.ruler_rows import draw_pair, is_trained_pair
from opencompass_llada.tiny_models.suite_rows import SUITE_STYLES

STYLES, SHORTEST_ROW = RetrievalRows.STYLES, RetrievalRows.SHORTEST
PAIR = re.compile(r"for ([a-z']+(?:-[a-z']+)+) is: ")


@pytest.fixture(scope="module")
def sources():
    """Retrieval rows and tokenizer over generated text."""
    source = TextSource(generated_seed=7, num_documents=8)
    tokenizer = train_tokenizer((document.text for document in read_documents(source)), 400)
    text = tokenize_source(source, tokens_of(tokenizer), None)
    windows = TokenWindows([text], [1.0])
    return RetrievalRows(windows, tokens_of(tokenizer), STYLES), tokenizer


def tokens_of(tokenizer):
    return TrainingTokenizer(tokenizer=tokenizer, end_token_id=0, mask_token_id=None)


def answers_of(row):
    """Yield (start, end) of each answer."""
    (places,) = np.nonzero(row.weights == 1.0)
    starts = places[np.diff(places, prepend=-2) > 1]
    ends = places[np.diff(places, append=10**9) > 1] + 1
    return list(zip(starts, ends, strict=True))


def parts_of(style, answer):
    """Return what must be found in the text before an answer."""
    if style == "ruler_cwe":
        return re.split(r"\s*\d+\. ", answer)[1:]
    if style.startswith("suite_"):
        return re.findall(r"\w+", answer)
    return answer.split(", ") if style.startswith("ruler_") else [answer]


@pytest.mark.parametrize("style", STYLES)
def test_answers_can_be_found_in_the_text_before_them(sources, style):
    retrieval, tokenizer = sources
    for seed in range(12):
        row = retrieval.make(768, random.Random(seed), style=style)
        assert len(row.input_ids) == len(row.weights) == 768
        for start, end in answers_of(row):
            ids = row.input_ids[start:end]
            answer = tokenizer.decode(ids[ids != 0]).strip().rstrip(".")
            before = tokenizer.decode(row.input_ids[:start])
            for part in parts_of(style, answer):
                assert part in before, (style, seed, part)


def test_words_are_unlike_the_grammars(sources):
    rng = random.Random(0)
    drawn = [draw_words(rng) for _ in range(500)]
    assert len(set(drawn)) == 500
    known = {word.capitalize() for words in RULES.values() for word in words}
    new = [w for text in drawn for w in re.split(r"[ -]", text) if w not in {"the", "of"} | known]
    assert len(new) > 900
    retrieval, tokenizer = sources
    long = [tokenizer.encode(f" {word}", add_special_tokens=False) for word in new]
    assert np.mean([len(ids) >= 3 for ids in long]) > 0.5  # to be copied piece by piece


def test_text_words_are_neighbours_in_the_text():
    text = (
        "of 12 patients' dull suffering, the well-known [doctors] saw x9 and a naïve child's _toy"
    )
    runs = ["of", "dull suffering", "the well-known", "doctors", "saw", "and a naïve child's"]
    made_up = [draw_words(random.Random(seed)) for seed in range(2000)]
    drawn = {draw_text_words(text, random.Random(seed)) for seed in range(2000)}
    lower = {" ".join(w[0].lower() + w[1:] for w in value.split(" ")) for value in drawn}
    allowed = set()
    for words in map(str.split, runs):
        for first in range(len(words)):
            allowed |= {" ".join(words[first:end]) for end in range(first + 1, len(words) + 1)}
    assert allowed <= lower
    assert len(lower - allowed) < len(set(made_up))  # five never stand together: made-up words
    plain = {draw_text_words("one two three four five six", random.Random(i)) for i in range(2000)}
    assert {len(value.split()) for value in plain} == {1, 2, 3, 4, 5}
    assert {"two three", "two Three", "Two Three"} <= plain
    assert "Two three" not in plain


def test_text_words_are_of_one_document(sources):
    retrieval, tokenizer = sources
    documents = [tokenizer(text).input_ids for text in ("a few plain words", "of other kind")]
    joined = np.array([*documents[0], 0, *documents[1], 0], np.int32)

    class Windows:
        def draw(self, length, rng):
            return joined

    rows = RetrievalRows(Windows(), tokens_of(tokenizer), STYLES)
    drawn = {rows._draw_text_words(random.Random(seed)) for seed in range(300)}
    longest = max(documents, key=len)
    whole = set(tokenizer.decode(longest).split()[1:-1])
    assert {"few", "few plain", "Plain"} <= drawn
    assert whole == {"few", "plain"}
    assert not any("endoftext" in value.lower() for value in drawn)


def test_long_rows_about_words_of_the_text_ask_one_question_or_many(sources):
    retrieval, _ = sources
    rows = [retrieval._text_words(8192, random.Random(seed), False) for seed in range(40)]
    counts = [len(row.queries) for row in rows]
    assert 10 < counts.count(1) < 30
    assert max(counts) > 8


def test_long_rows_of_many_ask_many_questions(sources):
    counts = {
        length: [len(sources[0]._many(length, random.Random(i), False).queries) for i in range(40)]
        for length in (512, 8192)
    }
    assert max(counts[512]) == 4
    assert min(counts[8192]) >= 2
    assert max(counts[8192]) > 12


@pytest.mark.parametrize("style", STYLES)
def test_the_shortest_row_allowed_can_be_made(sources, style):
    for seed in range(40):
        row = sources[0].make(SHORTEST_ROW, random.Random(seed), style=style)
        assert len(row.input_ids) == SHORTEST_ROW


def test_prompts_are_rulers_own(sources):
    """Against the templates: the last words before the answer, singular or plural."""
    retrieval, tokenizer = sources
    ends = {"ruler_niah": TEMPLATES["niah"][-28:], "ruler_vt": TEMPLATES["vt"][-12:]}
    for style, end in ends.items():
        endings = (end, end.replace("are", "is"))
        for seed in range(10):
            pieces = getattr(retrieval, f"_{style}")(1024, random.Random(seed), False)
            before = tokenizer.decode([*pieces.head, *pieces.queries[0][0]])
            assert before.endswith(endings), before[-60:]


def test_evaluation_keys_are_never_trained_on(sources):
    retrieval, tokenizer = sources
    for evaluation in (False, True):
        rng = random.Random(0)
        needles = [n for _ in range(50) for n in retrieval._needles(rng, evaluation, 8, Words(0.5))]
        assert {held_out(needle) for needle in needles} == {evaluation}
        pairs = set()
        for seed in range(60):
            row = retrieval.make(
                1024, random.Random(seed), evaluation=evaluation, style="ruler_niah"
            )
            pairs |= set(PAIR.findall(tokenizer.decode(row.input_ids)))
        assert len(pairs) > 20
        assert {is_trained_pair(pair) for pair in pairs} == {not evaluation}
    share = np.mean([held_out(make_needle(random.Random(i), "password")) for i in range(2000)])
    assert 0.08 < share < 0.17


def test_one_pair_in_eight_is_trained_on():
    rng = random.Random(0)
    assert all(is_trained_pair(draw_pair(rng, trained=True)) for _ in range(20))
    from opencompass_llada.benchmarks.ruler.sources import adjective_nouns

    pairs = adjective_nouns()
    share = np.mean([is_trained_pair(pairs[rng.randrange(len(pairs))]) for _ in range(4000)])
    assert 0.10 < share < 0.15


@pytest.mark.parametrize("style", SUITE_STYLES)
def test_rows_of_suites_are_prompts_and_answers_of_evaluation(sources, style):
    """The last answer is the solver's, and words that are held out are no answer."""
    retrieval, tokenizer = sources
    task, held_out_words = find_task(SUITE_STYLES[style]), 0
    for seed in range(8):
        row = retrieval.make(768, random.Random(seed), style=style)
        same = retrieval.make(768, random.Random(seed), style=style)
        assert np.array_equal(row.input_ids, same.input_ids)
        start, end = answers_of(row)[0]
        prompt = tokenizer.decode(row.input_ids[:start])
        ids = row.input_ids[start:end]
        answer = tokenizer.decode(ids[ids != 0])
        assert task.solve(prompt.rpartition("<|endoftext|>")[2]) + "." == answer
        words = Vocabulary().allowed(re.findall(r"\b[a-z]{3,}\b", answer))
        held_out_words += len(words) - len(Vocabulary(for_training=True).allowed(words))
    assert held_out_words == 0 or style == "suite_coreference", "its code is drawn, not a word"
