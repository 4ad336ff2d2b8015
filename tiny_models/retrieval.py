"""Makes rows that teach retrieval: text with needles in it, questions at the end, answers masked.

Needles never have held-out keys; lists, strings and spans are drawn from all keys and all text.
Answers are followed by a full stop, the end-of-sequence token and more of it, as LLaDA's supervised
fine-tuning pads.
"""

from __future__ import annotations

import random
import re
import string
from collections.abc import Callable, Mapping
from typing import ClassVar, NamedTuple

import numpy as np

from opencompass_llada.benchmarks.needle.prompts import write_prompt, write_question
from opencompass_llada.finetune.packing import Row, TokenWindows
from opencompass_llada.finetune.tokens import TrainingTokenizer
from opencompass_llada.synthetic import grammar
from opencompass_llada.synthetic.grammar import KEYS, VALUES, Needle, fill
from opencompass_llada.tiny_models.draft import Draft, Query
from opencompass_llada.tiny_models.ruler_rows import RulerRows
from opencompass_llada.tiny_models.suite_rows import SUITE_STYLES, SuiteRows

#: Of strings to be copied exactly: natural text never teaches that a digit must not be dropped.
_ALPHABETS = (
    *(string.digits,) * 3,
    string.ascii_uppercase,
    string.ascii_lowercase,
    string.digits + "abcdef",
    string.ascii_uppercase + string.digits,
)

#: Words that follow each other with nothing but a space between them.
_WORD = r"[^\W\d_]+(?:['’-][^\W\d_]+)*"
_RUN = re.compile(rf"(?<![\w'’-]){_WORD}(?: {_WORD})*(?![\w'’-])")

#: Templates of values longer than `synthetic.grammar.VALUES`, for ordinary needles.
LONG_VALUES = (
    "{digit}" * 7,
    "{digit}" * 8,
    "{digit}" * 12,
    "{Name} {Name} {Name}",
    "the {quality} {thing} of {Name} {Name}",
    "{Quality} {Thing} and {Quality} {Thing}",
    "a {quality} {thing}, a {quality} {thing} and a {thing}",
    "{clause}",
    "{quality}-{thing}-{digit}{digit}{digit}",
    "{Name}-{Name} {digit}{digit}{digit}{digit}",
)


def draw_string(rng: random.Random) -> str:
    """Draw a string of 4 to 32 characters, whole or in groups parted by hyphens."""
    alphabet = rng.choice(_ALPHABETS)
    length = rng.choice((rng.randint(4, 10), rng.randint(4, 10), rng.randint(8, 32)))
    text = "".join(rng.choices(alphabet, k=length))
    if rng.random() < 0.25:
        size = rng.randint(3, 5)
        text = "-".join(text[start : start + size] for start in range(0, length, size))
    return text


def draw_words(rng: random.Random) -> str:
    """Draw one to three made-up capitalised words of one to five syllables.

    The grammar's own words are few, and a model that knows them all needs not copy them.
    """
    words = []
    for _ in range(rng.choice((1, 2, 2, 2, 3))):
        begin, vowel, middle, end = (
            grammar.RULES[name] for name in ("start", "vowel", "middle", "end")
        )
        word = rng.choice(begin).lower() if rng.random() < 0.75 else ""
        for _ in range(rng.choice((0, 1, 1, 1, 2, 2, 3, 4))):
            word += rng.choice(vowel) + rng.choice(middle)
        word += rng.choice(vowel) + (rng.choice(end) if rng.random() < 0.75 else "")
        words.append(word.capitalize())
    return rng.choice((" ", " ", " ", " ", "-", " the ", " of ")).join(words)


def draw_text_words(text: str, rng: random.Random) -> str:
    """Draw one to five neighbouring words of a text; the last may get capitals, like titles.

    A word is letters, with hyphens and apostrophes inside; numbers and punctuation part neighbours.
    """
    count = rng.choice((1, 2, 2, 3, 3, 4, 5))
    runs = [run.split(" ") for run in _RUN.findall(text)]
    places = [(run, start) for run in runs for start in range(len(run) - count + 1)]
    if not places:
        return draw_words(rng)
    run, start = rng.choice(places)
    plain = rng.randint(0, count)
    chosen = run[start : start + count]
    return " ".join([*chosen[:plain], *(word[0].upper() + word[1:] for word in chosen[plain:])])


class Words(NamedTuple):
    """The share of needles whose values are words, and what draws those."""

    share: float
    draw: Callable[[random.Random], str] = draw_words


_NO_WORDS, _HALF_WORDS = Words(0.0), Words(0.5)
_NUM_NEEDLES = (1, 1, 1, 2, 2, 3, 4, 6, 8)
_LONG_VALUE_SHARE = 0.3
#: Style ``many``: tokens of a row for each needle.
_TOKENS_A_NEEDLE = 512
#: Style ``text_words``: tokens of text that a value's words are drawn from.
_TOKENS_OF_WORDS = 32


class RetrievalRows(RulerRows):
    """Makes retrieval rows from a tokenizer and windows of text; see `finetune.rows.TaskRows`."""

    #: Each is a method of its name here or in `RulerRows`, but for those of `SuiteRows`. Those of
    #: share 0 are for recipes that ask for them: tiny-llada was pretrained without.
    STYLES: ClassVar[Mapping[str, float]] = {
        "needlebench": 3,  # NeedleBench's own prompt
        "question": 2,
        "prefix": 2,  # the answers' beginnings alone, of one to four questions
        "pairs": 1,
        "copy": 2,
        "strings": 2,
        "ruler_niah": 4,
        "ruler_vt": 1,
        "ruler_fwe": 1,
        "ruler_cwe": 1,
        "words": 0,  # NeedleBench's prompt about made-up words
        "many": 0,  # many questions at once, for long rows
        "text_words": 0,  # words of the training text are asked for, one or many
        **dict.fromkeys(SUITE_STYLES, 0),  # the generated suites
    }
    #: The longest copied span with its cue fits in it.
    SHORTEST = 110

    def __init__(
        self, windows: TokenWindows, tokens: TrainingTokenizer, styles: Mapping[str, float]
    ) -> None:
        """Keep the text to hide needles in, the tokenizer and the share of each style."""
        super().__init__(tokens.encode)
        self._suites = SuiteRows(tokens.encode)
        assert tokens.end_token_id is not None
        self._windows, self._styles = windows, dict(styles)
        self._decode, self._eos = tokens.decode, tokens.end_token_id

    def make(
        self, length: int, rng: random.Random, *, evaluation: bool = False, style: str | None = None
    ) -> Row:
        """Make one row; a style whose fixed text does not fit the length gives way to ``copy``."""
        style = style or rng.choices(list(self._styles), list(self._styles.values()))[0]
        draft: Draft
        if style in SUITE_STYLES:
            draft = self._suites.draft_suite(SUITE_STYLES[style], length, rng, evaluation)
        else:
            draft = getattr(self, f"_{style}")(length, rng, evaluation)
        if not draft.fits(length):
            draft = self._copy(length, rng, evaluation)
        return draft.make_row(length, rng, lambda n: self._windows.draw(n, rng), self._eos)

    def _needles(
        self, rng: random.Random, evaluation: bool, count: int, words: Words = _NO_WORDS
    ) -> list[Needle]:
        families = rng.choices(list(grammar.FAMILIES), k=count)
        if rng.random() < 0.5:
            families = families[:1] * count
        needles: dict[str, Needle] = {}
        while len(needles) < count:
            is_long = rng.random() < _LONG_VALUE_SHARE
            values = tuple(LONG_VALUES if is_long else VALUES)
            if words.share and rng.random() < words.share:
                values = (words.draw(rng),)
            needle = grammar.make_needle(rng, families[len(needles)], values)
            if grammar.held_out(needle) == evaluation:
                needles.setdefault(needle.key, needle)
        return list(needles.values())

    def _facts(self, needles: list[Needle], rng: random.Random) -> list[list[int]]:
        order = rng.sample(needles, k=len(needles))
        return [self._encode(f"\n{needle.fact}\n") for needle in order]

    def _query(self, question: str, answer: str) -> Query:
        return self._encode(question), self._encode(f" {answer}.")

    def _needlebench(
        self, length: int, rng: random.Random, evaluation: bool, words: Words = _NO_WORDS
    ) -> Draft:
        count = min(rng.choice(_NUM_NEEDLES), 1 + length // 256)
        needles = self._needles(rng, evaluation, count, words)
        asked = needles[0]
        question = str(asked.as_needlebench()["retrieval_question"])
        question = write_question(question, "English", guide=False)
        before, after = write_prompt("{context}", question, "English", "End").split("{context}")
        return Draft(
            head=self._encode(before),
            facts=self._facts(needles, rng),
            queries=[self._query(after, asked.value)],
        )

    def _words(self, length: int, rng: random.Random, evaluation: bool) -> Draft:
        return self._needlebench(length, rng, evaluation, Words(1.0))

    def _question(self, length: int, rng: random.Random, evaluation: bool) -> Draft:
        needles = self._needles(rng, evaluation, rng.choice(_NUM_NEEDLES))
        asked = needles[0]
        tails = (
            f"\n\nQuestion: {asked.question}\nAnswer: {asked.answer_prefix}",
            f"\n\n{asked.question} {asked.answer_prefix}",
            f"\n\nQ: {asked.question} A:",
        )
        queries = [self._query(rng.choice(tails), asked.value)]
        return Draft(facts=self._facts(needles, rng), queries=queries)

    def _prefix(self, length: int, rng: random.Random, evaluation: bool) -> Draft:
        needles = self._needles(rng, evaluation, rng.choice(_NUM_NEEDLES))
        return self._ask(needles, rng.randint(1, 4), rng)

    def _text_words(self, length: int, rng: random.Random, evaluation: bool) -> Draft:
        make = self._many if rng.random() < 0.5 else self._needlebench
        return make(length, rng, evaluation, Words(1.0, self._draw_text_words))

    def _draw_text_words(self, rng: random.Random) -> str:
        tokens = self._windows.draw(_TOKENS_OF_WORDS, rng)
        ends = np.flatnonzero(tokens == self._eos)
        document = max(np.split(tokens, ends), key=len)
        text = self._decode(document[document != self._eos].tolist())
        whole = text.split()[1:-1]  # the first and the last may be cut
        return draw_text_words(" ".join(whole), rng)

    def _many(
        self, length: int, rng: random.Random, evaluation: bool, words: Words = _HALF_WORDS
    ) -> Draft:
        most = max(4, length // _TOKENS_A_NEEDLE)
        count = rng.randint(1 + most // 2, most)
        needles = self._needles(rng, evaluation, count, words)
        return self._ask(needles, rng.randint(1 + most // 4, most), rng)

    def _ask(self, needles: list[Needle], most: int, rng: random.Random) -> Draft:
        queries = [self._query(f"\n{asked.answer_prefix}", asked.value) for asked in needles[:most]]
        return Draft(facts=self._facts(needles, rng), queries=queries)

    def _pairs(self, length: int, rng: random.Random, evaluation: bool) -> Draft:
        count = rng.randint(2, max(3, length // 24))
        return self._list(count, lambda: fill(rng.choice(VALUES), rng), rng)

    def _strings(self, length: int, rng: random.Random, evaluation: bool) -> Draft:
        return self._list(rng.choice((1, 2, 4, 8)), lambda: draw_string(rng), rng)

    def _list(self, count: int, draw_value: Callable[[], str], rng: random.Random) -> Draft:
        pairs: dict[str, str] = {}
        for _ in range(count):
            pairs.setdefault(fill(rng.choice(KEYS), rng), draw_value())
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
