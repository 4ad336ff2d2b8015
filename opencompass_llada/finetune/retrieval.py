"""Rows that teach retrieval: text with needles in it, questions at the end, answers masked.

Five styles: NeedleBench's own prompt, a plain question, the answer prefix alone (with one to four
questions), key-value lists, and copying a span of the text. Needles of the first three never have
held-out keys; lists and spans are drawn afresh each time, from all keys and all text. The answers
are followed by a full stop, the end-of-sequence token and more of it, as LLaDA's supervised
fine-tuning pads.

Rows are numpy int64 arrays of exactly the length asked for.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from opencompass_llada.datasets.needle_prompts import WORDINGS, write_question
from opencompass_llada.finetune.text import TokenWindows
from opencompass_llada.synthetic.grammar import fill
from opencompass_llada.synthetic.needles import (
    FAMILIES,
    KEYS,
    VALUES,
    Needle,
    held_out,
    make_needle,
)

EOS_WEIGHT = 0.1  # of each end-of-sequence token after the first, which is easy to predict
_STYLES = {"needlebench": 3, "question": 2, "prefix": 2, "pairs": 1, "copy": 2}
_NUM_NEEDLES = (1, 1, 1, 2, 2, 3, 4, 6, 8)
_MIN_CONTEXT = 24


@dataclass(frozen=True)
class Row:
    """One training row.

    Attributes:
        input_ids: int64 [length], unmasked.
        weights: float32 [length], weight of each position's loss; 0 where it is never masked.
    """

    input_ids: np.ndarray
    weights: np.ndarray


@dataclass(frozen=True)
class _Pieces:
    """A row before its context is cut to length: text pieces as token lists."""

    head: list[int]
    facts: list[list[int]]
    queries: list[tuple[list[int], list[int]]]  # (question, answer)
    context: np.ndarray | None = None


class RetrievalRows:
    """Makes retrieval rows from a tokenizer and windows of text."""

    def __init__(
        self, windows: TokenWindows, encode: Callable[[str], list[int]], eos_token_id: int
    ) -> None:
        """Keep what rows are made from.

        Args:
            windows: Text to hide needles in.
            encode: Turns a text into token ids.
            eos_token_id: Ends an answer and fills the rest.
        """
        self._windows = windows
        self._encode = encode
        self._eos = eos_token_id

    def make(
        self, length: int, rng: random.Random, *, evaluation: bool = False, style: str | None = None
    ) -> Row:
        """Make one row.

        Args:
            length: Tokens of the row.
            rng: Source of randomness.
            evaluation: Take held-out keys instead of training keys.
            style: One of the five; random if None.

        Returns:
            The row; a style whose fixed text does not fit the length gives way to ``copy``.
        """
        style = style or rng.choices(list(_STYLES), list(_STYLES.values()))[0]
        pieces = getattr(self, f"_{style}")(length, rng, evaluation)
        if length - _fixed_length(pieces) < _MIN_CONTEXT:
            pieces = self._copy(length, rng, evaluation)
        return self._assemble(pieces, length, rng)

    def _needles(self, rng: random.Random, evaluation: bool, most: int = 8) -> list[Needle]:
        count = min(rng.choice(_NUM_NEEDLES), most)
        families = rng.choices(list(FAMILIES), k=count)
        if rng.random() < 0.5:
            families = families[:1] * count
        needles: dict[str, Needle] = {}
        while len(needles) < count:
            needle = make_needle(rng, families[len(needles)])
            if held_out(needle) == evaluation:
                needles.setdefault(needle.key, needle)
        return list(needles.values())

    def _facts(self, needles: list[Needle]) -> list[list[int]]:
        return [self._encode(f"\n{needle.fact}\n") for needle in needles]

    def _answer(self, needle: Needle) -> list[int]:
        return self._encode(f" {needle.value}.")

    def _needlebench(self, length: int, rng: random.Random, evaluation: bool) -> _Pieces:
        needles = self._needles(rng, evaluation, most=1 + length // 256)
        wording, asked = WORDINGS["English"], needles[0]
        question = write_question(
            str(asked.as_needlebench()["retrieval_question"]), "English", guide=False
        )
        before, after = wording.document.split("{context}")
        tail = after + wording.question.replace("{question}", question)
        return _Pieces(
            self._encode(wording.preface + before),
            self._facts(needles),
            [(self._encode(tail), self._answer(asked))],
        )

    def _question(self, length: int, rng: random.Random, evaluation: bool) -> _Pieces:
        needles = self._needles(rng, evaluation)
        asked = needles[0]
        tail = rng.choice(
            [
                f"\n\nQuestion: {asked.question}\nAnswer: {asked.answer_prefix}",
                f"\n\n{asked.question} {asked.answer_prefix}",
                f"\n\nQ: {asked.question} A:",
            ]
        )
        return _Pieces([], self._facts(needles), [(self._encode(tail), self._answer(asked))])

    def _prefix(self, length: int, rng: random.Random, evaluation: bool) -> _Pieces:
        needles = self._needles(rng, evaluation)
        asked = needles[: rng.randint(1, 4)]
        queries = [
            (self._encode(f"\n{needle.answer_prefix}"), self._answer(needle)) for needle in asked
        ]
        return _Pieces([], self._facts(needles), queries)

    def _pairs(self, length: int, rng: random.Random, evaluation: bool) -> _Pieces:
        pairs: dict[str, str] = {}
        for _ in range(rng.randint(2, max(3, length // 24))):
            pairs.setdefault(fill(rng.choice(KEYS), rng), fill(rng.choice(VALUES), rng))
        asked = rng.sample(list(pairs), k=min(len(pairs), rng.randint(1, 4)))
        facts = [self._encode(f"\n{key}: {value}.") for key, value in pairs.items()]
        queries = [(self._encode(f"\n{key}:"), self._encode(f" {pairs[key]}.")) for key in asked]
        return _Pieces([], facts, queries)

    def _copy(self, length: int, rng: random.Random, evaluation: bool) -> _Pieces:
        num_cue, num_answer = rng.randint(4, 12), rng.randint(3, 12)
        if not evaluation and rng.random() < 0.5:  # long spans: a dense signal that copying pays
            num_answer = rng.randint(12, length // 4)
        context = self._windows.draw(length, rng)
        start = rng.randrange(length - 2 * (num_cue + num_answer) - 30)
        span = context[start : start + num_cue + num_answer].tolist()
        cue = self._encode("\n\n") + span[:num_cue]
        return _Pieces([], [], [(cue, span[num_cue:])], context)

    def _assemble(self, pieces: _Pieces, length: int, rng: random.Random) -> Row:
        room = length - _fixed_length(pieces)
        padding = rng.randint(1, 24) if room > 48 else 1
        room -= padding
        if pieces.context is not None:
            body, before = pieces.context[:room].tolist(), []
        else:
            num_context = room
            if room > 2 * _MIN_CONTEXT and rng.random() < 0.25:
                num_context = rng.randint(_MIN_CONTEXT, room - 1)
            before = self._windows.draw(room - num_context, rng).tolist()
            if before:
                before[-1] = self._eos
            body = _insert(self._windows.draw(num_context, rng).tolist(), pieces.facts, rng)
        ids = before + pieces.head + body
        weights = [0.0] * len(ids)
        for question, answer in pieces.queries:
            ids += question + answer
            weights += [0.0] * len(question) + [1.0] * len(answer)
        ids += [self._eos] * padding
        weights += [1.0] + [EOS_WEIGHT] * (padding - 1)
        assert len(ids) == length, (len(ids), length)
        return Row(np.array(ids, np.int64), np.array(weights, np.float32))


def _fixed_length(pieces: _Pieces) -> int:
    """Count the tokens of a row that are neither context nor padding."""
    queries = sum(len(question) + len(answer) for question, answer in pieces.queries)
    return len(pieces.head) + sum(map(len, pieces.facts)) + queries


def _insert(context: list[int], facts: list[list[int]], rng: random.Random) -> list[int]:
    """Insert facts at random places, in random order."""
    order = rng.sample(facts, k=len(facts))
    places = sorted(rng.randint(0, len(context)) for _ in order)
    out: list[int] = []
    previous = 0
    for place, fact in zip(places, order, strict=True):
        out += context[previous:place] + fact
        previous = place
    return out + context[previous:]
