"""Makes rows that teach retrieval: text with needles in it, questions at the end, answers masked.

Needles never have held-out keys; lists, strings and spans are drawn from all keys and all text.
Answers are followed by a full stop, the end-of-sequence token and more of it, as LLaDA's supervised
fine-tuning pads.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import ClassVar

import numpy as np

from opencompass_llada.benchmarks.needle.prompts import WORDINGS, write_question
from opencompass_llada.finetune.packing import Row, TokenWindows
from opencompass_llada.finetune.tokens import TrainingTokenizer
from opencompass_llada.synthetic.grammar import (
    FAMILIES,
    KEYS,
    VALUES,
    Needle,
    fill,
    held_out,
    make_needle,
)
from opencompass_llada.tiny_models.draft import Draft, Query, assemble
from opencompass_llada.tiny_models.random_text import (
    LONG_VALUES,
    draw_string,
    draw_text_words,
    draw_words,
)
from opencompass_llada.tiny_models.ruler_rows import RulerRows

DrawWords = Callable[[random.Random], str]
_NUM_NEEDLES = (1, 1, 1, 2, 2, 3, 4, 6, 8)
_LONG_VALUE_SHARE = 0.3
#: Style ``many``: tokens of a row for each needle, and the share of made-up words.
_TOKENS_A_NEEDLE, _WORDS_SHARE = 512, 0.5
#: Style ``text_words``: tokens of text that a value's words are drawn from.
_TOKENS_OF_WORDS = 32


class RetrievalRows(RulerRows):
    """Makes retrieval rows from a tokenizer and windows of text; see `finetune.rows.TaskRows`."""

    #: Each is a method of its name here or in `RulerRows`. Those of share 0 are for recipes that
    #: ask for them: tiny-llada was pretrained without.
    STYLES: ClassVar[Mapping[str, float]] = {
        "needlebench": 3,
        "question": 2,
        "prefix": 2,
        "pairs": 1,
        "copy": 2,
        "strings": 2,
        "ruler_niah": 4,
        "ruler_vt": 1,
        "ruler_fwe": 1,
        "ruler_cwe": 1,
        "words": 0,
        "many": 0,
        "text_words": 0,
    }
    #: The longest copied span with its cue fits in it.
    SHORTEST = 110

    def __init__(
        self, windows: TokenWindows, tokens: TrainingTokenizer, styles: Mapping[str, float]
    ) -> None:
        """Keep the text to hide needles in, the tokenizer and the share of each style."""
        super().__init__(tokens.encode)
        assert tokens.end_token_id is not None
        self._windows, self._styles = windows, dict(styles)
        self._decode, self._eos = tokens.decode, tokens.end_token_id

    def make(
        self, length: int, rng: random.Random, *, evaluation: bool = False, style: str | None = None
    ) -> Row:
        """Make one row; a style whose fixed text does not fit the length gives way to ``copy``."""
        style = style or rng.choices(list(self._styles), list(self._styles.values()))[0]
        draft: Draft = getattr(self, f"_{style}")(length, rng, evaluation)
        if not draft.fits(length):
            draft = self._copy(length, rng, evaluation)
        return assemble(draft, length, rng, lambda count: self._windows.draw(count, rng), self._eos)

    def _needles(
        self,
        rng: random.Random,
        evaluation: bool,
        most: int = 8,
        *,
        count: int | None = None,
        words: float = 0.0,
        draw: DrawWords = draw_words,
    ) -> list[Needle]:
        if count is None:
            count = min(rng.choice(_NUM_NEEDLES), most)
        families = rng.choices(list(FAMILIES), k=count)
        if rng.random() < 0.5:
            families = families[:1] * count
        needles: dict[str, Needle] = {}
        while len(needles) < count:
            values = tuple(LONG_VALUES if rng.random() < _LONG_VALUE_SHARE else VALUES)
            if words and rng.random() < words:
                values = (draw(rng),)
            needle = make_needle(rng, families[len(needles)], values)
            if held_out(needle) == evaluation:
                needles.setdefault(needle.key, needle)
        return list(needles.values())

    def _facts(self, needles: list[Needle], rng: random.Random) -> list[list[int]]:
        order = rng.sample(needles, k=len(needles))
        return [self._encode(f"\n{needle.fact}\n") for needle in order]

    def _query(self, question: str, answer: str) -> Query:
        return self._encode(question), self._encode(f" {answer}.")

    def _needlebench(
        self,
        length: int,
        rng: random.Random,
        evaluation: bool,
        *,
        words: float = 0.0,
        draw: DrawWords = draw_words,
    ) -> Draft:
        """NeedleBench's own prompt."""
        needles = self._needles(rng, evaluation, 1 + length // 256, words=words, draw=draw)
        wording, asked = WORDINGS["English"], needles[0]
        question = str(asked.as_needlebench()["retrieval_question"])
        before, after = wording.document.split("{context}")
        tail = wording.question.replace(
            "{question}", write_question(question, "English", guide=False)
        )
        return Draft(
            head=self._encode(wording.preface + before),
            facts=self._facts(needles, rng),
            queries=[self._query(after + tail, asked.value)],
        )

    def _words(self, length: int, rng: random.Random, evaluation: bool) -> Draft:
        """The same about made-up words."""
        return self._needlebench(length, rng, evaluation, words=1.0)

    def _question(self, length: int, rng: random.Random, evaluation: bool) -> Draft:
        needles = self._needles(rng, evaluation)
        asked = needles[0]
        tail = rng.choice(
            [
                f"\n\nQuestion: {asked.question}\nAnswer: {asked.answer_prefix}",
                f"\n\n{asked.question} {asked.answer_prefix}",
                f"\n\nQ: {asked.question} A:",
            ]
        )
        facts = self._facts(needles, rng)
        return Draft(facts=facts, queries=[self._query(tail, asked.value)])

    def _prefix(self, length: int, rng: random.Random, evaluation: bool) -> Draft:
        """The answers' beginnings alone, of one to four questions."""
        needles = self._needles(rng, evaluation)
        return self._ask(needles, rng.randint(1, 4), rng)

    def _text_words(self, length: int, rng: random.Random, evaluation: bool) -> Draft:
        """Words of the training text are asked for, one or many."""
        make = self._many if rng.random() < 0.5 else self._needlebench
        return make(length, rng, evaluation, words=1.0, draw=self._draw_text_words)

    def _draw_text_words(self, rng: random.Random) -> str:
        """Draw words of one document of the training text."""
        tokens = self._windows.draw(_TOKENS_OF_WORDS, rng)
        ends = np.flatnonzero(tokens == self._eos)
        document = max(np.split(tokens, ends), key=len)
        text = self._decode(document[document != self._eos].tolist())
        whole = text.split()[1:-1]  # the first and the last may be cut
        return draw_text_words(" ".join(whole), rng)

    def _many(
        self,
        length: int,
        rng: random.Random,
        evaluation: bool,
        *,
        words: float = _WORDS_SHARE,
        draw: DrawWords = draw_words,
    ) -> Draft:
        """Many questions at once, for long rows."""
        most = max(4, length // _TOKENS_A_NEEDLE)
        count = rng.randint(1 + most // 2, most)
        needles = self._needles(rng, evaluation, count=count, words=words, draw=draw)
        return self._ask(needles, rng.randint(1 + most // 4, most), rng)

    def _ask(self, needles: list[Needle], most: int, rng: random.Random) -> Draft:
        queries = [self._query(f"\n{asked.answer_prefix}", asked.value) for asked in needles[:most]]
        return Draft(facts=self._facts(needles, rng), queries=queries)

    def _pairs(self, length: int, rng: random.Random, evaluation: bool) -> Draft:
        pairs: dict[str, str] = {}
        for _ in range(rng.randint(2, max(3, length // 24))):
            pairs.setdefault(fill(rng.choice(KEYS), rng), fill(rng.choice(VALUES), rng))
        return self._list(pairs, rng)

    def _strings(self, length: int, rng: random.Random, evaluation: bool) -> Draft:
        pairs: dict[str, str] = {}
        for _ in range(rng.choice((1, 2, 4, 8))):
            pairs.setdefault(fill(rng.choice(KEYS), rng), draw_string(rng))
        return self._list(pairs, rng)

    def _list(self, pairs: Mapping[str, str], rng: random.Random) -> Draft:
        asked = rng.sample(list(pairs), k=min(len(pairs), rng.randint(1, 4)))
        order = rng.sample(list(pairs), k=len(pairs))
        return Draft(
            facts=[self._encode(f"\n{key}: {pairs[key]}.") for key in order],
            queries=[self._query(f"\n{key}:", pairs[key]) for key in asked],
        )

    def _copy(self, length: int, rng: random.Random, evaluation: bool) -> Draft:
        num_cue, num_answer = rng.randint(4, 12), rng.randint(3, 12)
        if not evaluation and rng.random() < 0.5:  # long spans: a dense signal that copying pays
            num_answer = rng.randint(12, length // 4)
        context = self._windows.draw(length, rng)
        start = rng.randrange(length - 2 * (num_cue + num_answer) - 30)
        span = context[start : start + num_cue + num_answer].tolist()
        cue = self._encode("\n\n") + span[:num_cue]
        return Draft(queries=[(cue, span[num_cue:])], context=context)
