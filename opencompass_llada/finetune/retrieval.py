"""Rows that teach retrieval: text with needles in it, questions at the end, answers masked.

Styles (finetune.styles): NeedleBench's own prompt, a plain question, the answer prefix alone (with
one to four questions), key-value lists, copying a span of the text, copying random strings, and
RULER's tasks (finetune.ruler_rows); for long rows NeedleBench's prompt about made-up words, many
questions at once, and either of these about words of the training text. Needles of these never
have held-out keys; lists, strings and spans are drawn afresh each time, from all keys and all text.
The answers are followed by a full stop, the end-of-sequence token and more of it, as LLaDA's
supervised fine-tuning pads.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from opencompass_llada.benchmarks.needle.prompts import WORDINGS, write_question
from opencompass_llada.finetune.pieces import Pieces, Row, assemble
from opencompass_llada.finetune.random_strings import (
    LONG_VALUES,
    draw_string,
    draw_text_words,
    draw_words,
)
from opencompass_llada.finetune.ruler_rows import RulerRows
from opencompass_llada.finetune.styles import STYLES
from opencompass_llada.finetune.windows import TokenWindows
from opencompass_llada.synthetic.grammar import fill
from opencompass_llada.synthetic.needles import (
    FAMILIES,
    KEYS,
    VALUES,
    Needle,
    held_out,
    make_needle,
)

_NUM_NEEDLES = (1, 1, 1, 2, 2, 3, 4, 6, 8)
_LONG_VALUE_SHARE = 0.3
#: Style ``many``: tokens of a row for each needle, and the share of made-up words.
_TOKENS_A_NEEDLE, _WORDS_SHARE = 512, 0.5
#: Style ``text_words``: tokens of text that a value's words are drawn from.
_TOKENS_OF_WORDS = 32


class RetrievalRows:
    """Makes retrieval rows from a tokenizer and windows of text."""

    def __init__(
        self,
        windows: TokenWindows,
        encode: Callable[[str], list[int]],
        decode: Callable[[Sequence[int]], str],
        eos_token_id: int,
        styles: Mapping[str, float] = STYLES,
    ) -> None:
        """Keep what rows are made from.

        Args:
            windows: Text to hide needles in.
            encode: Turns a text into token ids.
            decode: Turns token ids into their text.
            eos_token_id: Ends an answer and fills the rest.
            styles: Share of each style, relative to the others.
        """
        self._windows = windows
        self._encode = encode
        self._decode = decode
        self._eos = eos_token_id
        self._styles = dict(styles)
        ruler = RulerRows(encode)
        self._makers: dict[str, Callable[[int, random.Random, bool], Pieces]] = {
            "needlebench": self._needlebench,
            "question": self._question,
            "prefix": self._prefix,
            "pairs": self._pairs,
            "copy": self._copy,
            "strings": self._strings,
            "ruler_niah": ruler.niah,
            "ruler_vt": ruler.tracing,
            "ruler_fwe": ruler.frequent,
            "ruler_cwe": ruler.common,
            "words": self._words,
            "many": self._many,
            "text_words": self._text_words,
        }

    def make(
        self, length: int, rng: random.Random, *, evaluation: bool = False, style: str | None = None
    ) -> Row:
        """Make one row.

        Args:
            length: Tokens of the row.
            rng: Source of randomness.
            evaluation: Take held-out keys instead of training keys.
            style: One of `styles.STYLES`; random if None.

        Returns:
            The row; a style whose fixed text does not fit the length gives way to ``copy``.
        """
        style = style or rng.choices(list(self._styles), list(self._styles.values()))[0]
        pieces = self._makers[style](length, rng, evaluation)
        if not pieces.fits(length):
            pieces = self._copy(length, rng, evaluation)
        return assemble(
            pieces, length, rng, lambda count: self._windows.draw(count, rng), self._eos
        )

    def _needles(
        self,
        rng: random.Random,
        evaluation: bool,
        most: int = 8,
        *,
        count: int | None = None,
        words: float = 0.0,
        draw: Callable[[random.Random], str] = draw_words,
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

    def _answer(self, needle: Needle) -> list[int]:
        return self._encode(f" {needle.value}.")

    def _needlebench(self, length: int, rng: random.Random, evaluation: bool) -> Pieces:
        return self._prompt(self._needles(rng, evaluation, most=1 + length // 256), rng)

    def _words(
        self,
        length: int,
        rng: random.Random,
        evaluation: bool,
        draw: Callable[[random.Random], str] = draw_words,
    ) -> Pieces:
        most = 1 + length // 256
        return self._prompt(self._needles(rng, evaluation, most, words=1.0, draw=draw), rng)

    def _prompt(self, needles: list[Needle], rng: random.Random) -> Pieces:
        wording, asked = WORDINGS["English"], needles[0]
        question = write_question(
            str(asked.as_needlebench()["retrieval_question"]), "English", guide=False
        )
        before, after = wording.document.split("{context}")
        tail = after + wording.question.replace("{question}", question)
        return Pieces(
            head=self._encode(wording.preface + before),
            facts=self._facts(needles, rng),
            queries=[(self._encode(tail), self._answer(asked))],
        )

    def _question(self, length: int, rng: random.Random, evaluation: bool) -> Pieces:
        needles = self._needles(rng, evaluation)
        asked = needles[0]
        tail = rng.choice(
            [
                f"\n\nQuestion: {asked.question}\nAnswer: {asked.answer_prefix}",
                f"\n\n{asked.question} {asked.answer_prefix}",
                f"\n\nQ: {asked.question} A:",
            ]
        )
        return Pieces(
            facts=self._facts(needles, rng),
            queries=[(self._encode(tail), self._answer(asked))],
        )

    def _prefix(self, length: int, rng: random.Random, evaluation: bool) -> Pieces:
        needles = self._needles(rng, evaluation)
        return self._ask(needles, rng.randint(1, 4), rng)

    def _text_words(self, length: int, rng: random.Random, evaluation: bool) -> Pieces:
        if rng.random() < 0.5:
            return self._many(length, rng, evaluation, words=1.0, draw=self._draw_text_words)
        return self._words(length, rng, evaluation, draw=self._draw_text_words)

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
        draw: Callable[[random.Random], str] = draw_words,
    ) -> Pieces:
        most = max(4, length // _TOKENS_A_NEEDLE)
        count = rng.randint(1 + most // 2, most)
        needles = self._needles(rng, evaluation, count=count, words=words, draw=draw)
        return self._ask(needles, rng.randint(1 + most // 4, most), rng)

    def _ask(self, needles: list[Needle], most: int, rng: random.Random) -> Pieces:
        asked = needles[:most]
        queries = [
            (self._encode(f"\n{needle.answer_prefix}"), self._answer(needle)) for needle in asked
        ]
        return Pieces(facts=self._facts(needles, rng), queries=queries)

    def _pairs(self, length: int, rng: random.Random, evaluation: bool) -> Pieces:
        pairs: dict[str, str] = {}
        for _ in range(rng.randint(2, max(3, length // 24))):
            pairs.setdefault(fill(rng.choice(KEYS), rng), fill(rng.choice(VALUES), rng))
        return self._list(pairs, rng)

    def _strings(self, length: int, rng: random.Random, evaluation: bool) -> Pieces:
        pairs: dict[str, str] = {}
        for _ in range(rng.choice((1, 2, 4, 8))):
            pairs.setdefault(fill(rng.choice(KEYS), rng), draw_string(rng))
        return self._list(pairs, rng)

    def _list(self, pairs: Mapping[str, str], rng: random.Random) -> Pieces:
        asked = rng.sample(list(pairs), k=min(len(pairs), rng.randint(1, 4)))
        order = rng.sample(list(pairs), k=len(pairs))
        return Pieces(
            facts=[self._encode(f"\n{key}: {pairs[key]}.") for key in order],
            queries=[(self._encode(f"\n{key}:"), self._encode(f" {pairs[key]}.")) for key in asked],
        )

    def _copy(self, length: int, rng: random.Random, evaluation: bool) -> Pieces:
        num_cue, num_answer = rng.randint(4, 12), rng.randint(3, 12)
        if not evaluation and rng.random() < 0.5:  # long spans: a dense signal that copying pays
            num_answer = rng.randint(12, length // 4)
        context = self._windows.draw(length, rng)
        start = rng.randrange(length - 2 * (num_cue + num_answer) - 30)
        span = context[start : start + num_cue + num_answer].tolist()
        cue = self._encode("\n\n") + span[:num_cue]
        return Pieces(queries=[(cue, span[num_cue:])], context=context)
