"""Retrieval rows: their answers are in their text, and held-out keys stay out."""

from __future__ import annotations

import random
import re

import numpy as np
import pytest

from opencompass_llada.datasets.ruler.tasks import TEMPLATES, NiahTask, TracingTask
from opencompass_llada.finetune.documents import read_documents
from opencompass_llada.finetune.pieces import Pieces, assemble
from opencompass_llada.finetune.random_strings import draw_text_words, draw_words
from opencompass_llada.finetune.recipe_parts import SHORTEST_ROW, TextSource
from opencompass_llada.finetune.retrieval import RetrievalRows
from opencompass_llada.finetune.ruler_rows import draw_pair, is_trained_pair
from opencompass_llada.finetune.styles import STYLES
from opencompass_llada.finetune.token_cache import tokenize_source
from opencompass_llada.finetune.tokenizer import train_tokenizer
from opencompass_llada.finetune.windows import TokenWindows
from opencompass_llada.synthetic.grammar import RULES
from opencompass_llada.synthetic.needles import held_out, make_needle

PAIR = re.compile(r"for ([a-z']+(?:-[a-z']+)+) is: ")


@pytest.fixture(scope="module")
def sources():
    """Retrieval rows and tokenizer over generated text."""
    source = TextSource(generated_seed=7, num_documents=8)
    tokenizer = train_tokenizer((document.text for document in read_documents(source)), 400)
    text = tokenize_source(
        source,
        lambda texts: tokenizer(list(texts)).input_ids,
        end_token_id=0,
        tokenizer_digest="",
        folder=None,
    )
    windows = TokenWindows([text], [1.0])
    return RetrievalRows(
        windows, lambda text: tokenizer(text).input_ids, tokenizer.decode, 0
    ), tokenizer


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


def test_text_words_are_the_texts_own_and_whole(sources):
    text = "of 12 patients' dull suffering, the well-known [doctors] saw x9 and many"
    whole = {"of", "patients", "dull", "suffering", "the", "well-known", "doctors", "saw", "and"}
    drawn = [draw_text_words(text, random.Random(seed)) for seed in range(200)]
    assert {word[0].lower() + word[1:] for value in drawn for word in value.split()} <= {
        *whole,
        *("many",),
    }
    assert {len(value.split()) for value in drawn} == {1, 2, 3, 4, 5}
    assert any(value[0].isupper() for value in drawn)
    assert any(value.islower() for value in drawn)
    assert draw_text_words("12 34", random.Random(0))  # made up
    retrieval, tokenizer = sources
    counts = {len(retrieval._text_words(8192, random.Random(i), False).queries) for i in range(40)}
    assert 1 in counts
    assert max(counts) > 8


def test_long_rows_of_many_ask_many_questions(sources):
    counts = {
        length: [len(sources[0]._many(length, random.Random(i), False).queries) for i in range(40)]
        for length in (512, 8192)
    }
    assert max(counts[512]) == 4
    assert min(counts[8192]) >= 2
    assert max(counts[8192]) > 12


@pytest.mark.parametrize(
    ("at_start", "lowest", "highest"), [(0.0, 0, 2), (0.5, 10, 30), (1.0, 40, 40)]
)
def test_the_first_fact_opens_the_context_as_often_as_asked(at_start, lowest, highest):
    facts, context = [[1, 1], [2]], np.zeros(60, np.int64)
    pieces = Pieces(head=[5], facts=facts, queries=[([6], [7])], context=context)
    opened = 0
    for seed in range(40):
        row = assemble(
            pieces, 80, random.Random(seed), lambda n: np.full(n, 9), 0, at_start=at_start
        )
        ids = row.input_ids.tolist()
        opened += ids[ids.index(5) + 1] == 1
        assert ids.index(1) < ids.index(2) < ids.index(6)  # the order of the text is kept
        assert ids.count(1) == 2
    assert lowest <= opened <= highest


@pytest.mark.parametrize("style", STYLES)
def test_the_shortest_row_allowed_can_be_made(sources, style):
    for seed in range(40):
        row = sources[0].make(SHORTEST_ROW, random.Random(seed), style=style)
        assert len(row.input_ids) == SHORTEST_ROW


def test_prompts_are_rulers_own(sources):
    """Against the templates: the last words before the answer, singular or plural."""
    retrieval, tokenizer = sources
    ends = {"ruler_niah": TEMPLATES[NiahTask][-28:], "ruler_vt": TEMPLATES[TracingTask][-12:]}
    for style, end in ends.items():
        endings = (end, end.replace("are", "is"))
        for seed in range(10):
            pieces = retrieval._makers[style](1024, random.Random(seed), False)
            before = tokenizer.decode([*pieces.head, *pieces.queries[0][0]])
            assert before.endswith(endings), before[-60:]


def test_evaluation_keys_are_never_trained_on(sources):
    retrieval, tokenizer = sources
    for evaluation in (False, True):
        rng = random.Random(0)
        needles = [n for _ in range(50) for n in retrieval._needles(rng, evaluation, words=0.5)]
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
    from opencompass_llada.datasets.ruler.words import adjective_nouns

    pairs = adjective_nouns()
    share = np.mean([is_trained_pair(pairs[rng.randrange(len(pairs))]) for _ in range(4000)])
    assert 0.10 < share < 0.15
