"""Writes RULER samples of a number of items, and finds the number that fills a length.

Draws and wording are OpenCompass's ``RulerNiahDataset``, ``RulerVtDataset`` with one chain,
``RulerQaDataset``, ``RulerCweDataset`` with its worked example, and ``RulerFweDataset``; the order
of draws is theirs, and so are the samples. Counts tokens with what it is given, reads no file.
"""

from __future__ import annotations

import math
import random
import string
import uuid
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import cycle, islice

import numpy as np

from opencompass_llada.benchmarks.readers import PromptParts
from opencompass_llada.benchmarks.ruler.prompts import (
    SENTENCES,
    TEMPLATES,
    NiahTask,
    QuestionTask,
    RulerSpec,
)
from opencompass_llada.benchmarks.ruler.sources import Library, Question

#: Draws that are tried with the fewest items before a length is called too small.
MAX_REDRAWS = 20
NEEDLE = "One of the special magic {type_needle_v} for {key} is: {value}."
#: ``round(linspace(0, 100, 40))``: where needles may stand in an essay, percent.
DEPTHS = tuple(round(100 * number / 39) for number in range(40))
#: Variable tracking: assignments after the first, and letters of a variable.
NUM_HOPS = 4
NAME_LETTERS = 5
#: Words that are asked for in cwe, and how often each of them and of the others stands in the list.
NUM_COMMON = 10
REPEATS = (30, 3)
#: Exponent of fwe's Zipf law, and letters of its coded words.
ALPHA = 2.0
WORD_LENGTH = 6
#: The most frequent word of fwe is replaced by dots; the next three are asked for.
NUM_ASKED = 3
#: Tokens of length for each different word of fwe's vocabulary.
TOKENS_A_WORD = 50


@dataclass(frozen=True, kw_only=True)
class RulerSample:
    """One prompt with its answers."""

    prompt: str
    answers: tuple[str, ...]
    """What the answer must contain: all (``match='all'``) or one of them (``'part'``)."""
    part_lengths: tuple[int, int]
    """Characters of the prompt before the context and behind it."""
    num_tokens: int = 0
    """Of the prompt."""


def fill_template(
    template: str, context: str, answers: Sequence[str], **slots: object
) -> RulerSample:
    """Return the sample of a template with ``{context}``, filled with it and its other slots."""
    head, question = (part.format(**slots) for part in template.split("{context}"))
    parts = PromptParts(head=head, context=context, question=question)
    return RulerSample(prompt=parts.whole, answers=tuple(answers), part_lengths=parts.lengths)


class NoRoom(ValueError):
    """Not even a sample with the fewest items fits."""

    def __init__(self, needed: int) -> None:
        """Keep the tokens that the sample's prompt has."""
        super().__init__(f"the smallest prompt has {needed} tokens")
        self.needed = needed


class Writer:
    """Draws and writes samples of any number of items: sentences, words, documents."""

    fewest = 1
    """Items below which no sample can be written."""
    patience = 1
    """Draws of one size that are tried before the size is lowered."""
    most: int | None = None
    """Items at hand; None for any number."""
    last_tried: int | None = None
    """The number of items after which the search takes `most`; None if it never does."""

    def __init__(self, spec: RulerSpec) -> None:
        """Start the stream of random numbers."""
        self.seed = spec.seed
        self.rng = random.Random(spec.seed)
        #: Items that the search adds at a time.
        self.step = 10 if spec.as_published else 1
        #: Whether the search draws every size, so that samples are OpenCompass's.
        self.draws_all = not spec.is_beyond

    def draw(self, index: int, num_items: int) -> Callable[[], RulerSample]:
        """Take sample ``index``'s random draws, which is cheap; what is returned writes it."""
        raise NotImplementedError

    def with_answer(self, sample: RulerSample) -> str:
        """Return the text whose tokens the search counts, as OpenCompass: prompt and answers."""
        return f"{sample.prompt} {list(sample.answers)}"


def fit_samples(
    writer: Writer, count: Callable[[str], int], num_items: int, *, limit: int, num_samples: int
) -> Iterator[RulerSample]:
    """Yield samples of `find_num_items`'s number, or fewer where a draw's prompt is too long."""
    for index in range(num_samples):
        items, tries, totals = num_items, 0, []
        while True:
            sample = writer.draw(index, items)()
            totals.append(count(sample.prompt))
            if totals[-1] <= limit:
                break
            tries += 1
            if items > writer.fewest:
                if tries >= writer.patience:
                    items, tries = max(items - writer.step, writer.fewest), 0
            elif tries >= MAX_REDRAWS:
                raise NoRoom(min(totals))
        yield replace(sample, num_tokens=totals[-1])


def find_num_items(writer: Writer, count: Callable[[str], int], limit: int) -> int:
    """Return the number of items of which a sample with its answer just fits ``limit`` tokens.

    OpenCompass writes and tokenizes samples of 1, 2, 3, ... steps and takes the last before the
    first that is too long. Sizes that cannot be near the limit are only drawn here, not written:
    from a size with t tokens the next looked at is limit / t times as large, less four standard
    deviations of the length (items that vary by half of their mean). The last sizes are all tried.
    Where not all sizes are drawn, it is one standard deviation.
    """
    first = items = skip_until = max(writer.step, writer.fewest)
    while True:
        write = writer.draw(0, items)
        if items >= skip_until:
            total = count(writer.with_answer(write()))
            if total > limit:
                if items == first:
                    raise NoRoom(total)
                return items - writer.step
            if total == limit:  # OpenCompass's loop ends here too, one step further.
                items += writer.step
                return items if writer.most is None else min(items, writer.most)
            deviations = 4 if writer.draws_all else 1
            margin = min(1.0, deviations * 0.5 / math.sqrt(items))
            skip_until = int(items * limit / total * (1 - margin))
        if writer.last_tried is not None and writer.most is not None:
            if items >= writer.last_tried:
                return writer.most
            skip_until = min(skip_until, writer.last_tried)
        items += writer.step
        if not writer.draws_all:
            items = max(items, skip_until // writer.step * writer.step)


class NiahWriter(Writer):
    """Writes needles (niah, eight tasks); items are words of the essay, or sentences."""

    def __init__(
        self, spec: RulerSpec, task: NiahTask, pairs: Sequence[str], essay: Sequence[str] = ()
    ) -> None:
        """Keep task, adjective-noun pairs and, if the haystack is one, the essays' words."""
        super().__init__(spec)
        self.task = task
        self.pairs = pairs
        self.essay = essay
        self.num_keys = max(task.num_keys, task.num_queries)
        self.num_needles = self.num_keys * task.num_values
        if task.haystack == "essay":
            self.step = self.fewest = 500 if spec.as_published else 10
            if not spec.is_beyond:
                self.most = len(essay)
                # The original stops one step after the essays' end.
                self.last_tried = (len(essay) // self.step + 1) * self.step
        else:
            self.step = 25 if spec.as_published else 1
            self.fewest = self.num_needles

    def draw(self, index: int, num_items: int) -> Callable[[], RulerSample]:
        """Draw keys with their values, other needles, places and what is asked for."""
        task, rng = self.task, self.rng
        draw_key, draw_value = self._drawer(task.key_kind), self._drawer(task.value_kind)
        needles = [
            (draw_key(), [draw_value() for _ in range(task.num_values)])
            for _ in range(self.num_keys)
        ]
        others = []
        if task.haystack == "essay":
            places = sorted(rng.sample(DEPTHS, self.num_needles))  # percent
        else:  # numbers of sentences
            if task.haystack == "needle":
                others = [(draw_key(), [draw_value()]) for _ in range(num_items)]
            places = sorted(rng.sample(range(num_items), self.num_needles), reverse=True)
        asked = rng.sample(needles, task.num_queries)

        def write() -> RulerSample:
            hidden = self._list_sentences(needles)
            random.Random(self.seed).shuffle(hidden)
            if task.haystack == "essay":
                context = _hide_in_essay(_take(self.essay, num_items), hidden, places)
            else:
                repeated = task.haystack == "repeat"
                lines = [SENTENCES] * num_items if repeated else self._list_sentences(others)
                for place, needle in zip(places, hidden, strict=True):
                    lines.insert(place, needle)
                context = "\n".join(lines)
            query = join_with_and([self._name(task.key_kind, key) for key, _ in asked])
            answers = [self._name(task.value_kind, value) for _, own in asked for value in own]
            return fill_template(question_template(task), context, answers, query=query)

        return write

    def _drawer(self, kind: str) -> Callable[[], int]:
        """Return what draws a key or value as a number, which `_name` writes: most never are.

        It is `random.choice` and `randint` of Python written out, which a search of sizes asks for
        millions of times.
        """
        bits = self.rng.getrandbits
        if kind not in ("numbers", "words"):
            return lambda: bits(128)
        first, count = (10**6, 9 * 10**6) if kind == "numbers" else (0, len(self.pairs))
        width = count.bit_length()

        def draw() -> int:
            drawn = bits(width)
            while drawn >= count:
                drawn = bits(width)
            return first + drawn

        return draw

    def _name(self, kind: str, drawn: int) -> str:
        if kind == "numbers":
            return str(drawn)
        return self.pairs[drawn] if kind == "words" else str(uuid.UUID(int=drawn, version=4))

    def _list_sentences(self, needles: Sequence[tuple[int, list[int]]]) -> list[str]:
        kinds = self.task.key_kind, self.task.value_kind
        return [
            write_needle(self.task, self._name(kinds[0], key), self._name(kinds[1], value))
            for key, values in needles
            for value in values
        ]

    def with_answer(self, sample: RulerSample) -> str:
        """Return the prompt and the answers, without a space between, as OpenCompass counts."""
        return sample.prompt + " ".join(sample.answers)


def _take(words: Sequence[str], number: int) -> Sequence[str]:
    """Return the first words, over and over where there are fewer."""
    return words[:number] if number <= len(words) else list(islice(cycle(words), number))


def _hide_in_essay(words: Sequence[str], needles: Sequence[str], depths: Sequence[int]) -> str:
    """Put needles between sentences; the full stops between sentences are lost, as there."""
    sentences = [sentence.strip() for sentence in " ".join(words).split(". ") if sentence]
    parts, last = [], 0
    for depth, needle in zip(depths, needles, strict=True):
        place = int(len(sentences) * (depth / 100))
        parts += [" ".join(sentences[last:place]), needle]
        last = place
    return " ".join([*parts, " ".join(sentences[last:])])


def write_needle(task: NiahTask, key: str, value: str) -> str:
    """Return the sentence that hides a value."""
    return NEEDLE.format(type_needle_v=task.value_kind, key=key, value=value)


def question_template(task: NiahTask) -> str:
    """Return a task's prompt with ``{context}`` and ``{query}`` left to fill in."""
    template, kind = TEMPLATES["niah"], task.value_kind
    if task.num_queries * task.num_values == 1:
        kind = kind[:-1]
        for plural, singular in (("Some", "A"), ("are all", "is"), ("are", "is")):
            template = template.replace(plural, singular)
    return template.replace("{type_needle_v}", kind)


def join_with_and(names: Sequence[str]) -> str:
    """Join names as RULER does: ``a``; ``a, and b``; ``a, b, and c``."""
    return ", ".join(names[:-1]) + ", and " + names[-1] if len(names) > 1 else names[0]


class TracingWriter(Writer):
    """Writes variable tracking (vt); an item is one line of repeated sentences."""

    def __init__(self, spec: RulerSpec) -> None:
        """Start the second stream of random numbers."""
        super().__init__(spec)
        # The legacy generator: values come from numpy's, and must be those of the original.
        self.value_rng = np.random.RandomState(spec.seed)  # noqa: NPY002
        self.fewest = NUM_HOPS + 2  # fewer lines would be cut into sentences there
        # The original draws again and never shortens.
        self.patience = 20 if spec.as_published else 1

    def draw(self, index: int, num_items: int) -> Callable[[], RulerSample]:
        """Draw the variables in the chain's order, the first one's value, and places."""
        names: list[str] = []
        # Differs from the original, which fails where two are alike (once in a million samples).
        while len(set(names)) <= NUM_HOPS:
            names = [
                "".join(self.rng.choices(string.ascii_uppercase, k=NAME_LETTERS))
                for _ in range(NUM_HOPS + 1)
            ]
        value = int(self.value_rng.randint(10000, 99999))
        places = sorted(self.rng.sample(range(num_items), len(names)))
        return lambda: write_chain(names, value, places, num_items)


def write_chain(
    names: Sequence[str], value: int, places: Sequence[int], num_lines: int
) -> RulerSample:
    """Return a vt sample: a chain of assignments, each before the line at its place (ascending)."""
    chain = [f"VAR {names[0]} = {value}"]
    chain += [f"VAR {new} = VAR {old} " for old, new in zip(names, names[1:], strict=False)]
    lines = [SENTENCES + "\n"] * num_lines
    for number, (place, assignment) in enumerate(zip(places, chain, strict=True)):
        lines.insert(place + number, assignment)
    context = " ".join(lines).replace(". \n", ".\n")
    return fill_template(TEMPLATES["vt"], context, names, query=str(value), num_v=len(names))


class QuestionWriter(Writer):
    """Writes questions (qa, two tasks); an item is a document. Sample i asks question i."""

    most: int

    def __init__(self, spec: RulerSpec, task: QuestionTask, library: Library) -> None:
        """Keep documents and questions, of which there must be as many as samples."""
        super().__init__(spec)
        self.documents, self.questions = library
        if spec.num_samples > len(self.questions):
            raise ValueError(
                f"num_samples={spec.num_samples} is more than the {len(self.questions)} "
                f"questions of {task.file}; use at most that many."
            )
        self.fewest = max(len(asked.documents) for asked in self.questions[: spec.num_samples])
        self.most = len(self.documents)
        self.last_tried = self.most // self.step * self.step

    def draw(self, index: int, num_items: int) -> Callable[[], RulerSample]:
        """Draw the documents of a sample: the question's, related ones, then any."""
        question = self.questions[index]
        own, related = list(question.documents), list(question.related)
        missing = num_items - len(own)
        if num_items >= self.most:
            numbers = list(range(self.most))
        elif missing <= len(related):
            numbers = own + self.rng.sample(related, missing)
        else:
            taken = {*own, *related}
            others = [number for number in range(self.most) if number not in taken]
            numbers = own + related + self.rng.sample(others, missing - len(related))
        return partial(self._write, question, numbers)

    def _write(self, question: Question, numbers: Sequence[int]) -> RulerSample:
        documents = [self.documents[number] for number in numbers]
        # Differs from the original where all documents are taken: it shuffles its own list then.
        random.Random(self.seed).shuffle(documents)
        numbered = (f"Document {i}:\n{text}" for i, text in enumerate(documents, start=1))
        context = "\n\n".join(numbered)
        return fill_template(TEMPLATES["qa"], context, question.answers, query=question.text)


class CommonWordsWriter(Writer):
    """Writes common words (cwe); an item is one different word of the list.

    Below 4,096 tokens the words are repeated less often, and the worked example is shorter.
    """

    def __init__(self, spec: RulerSpec, words: Sequence[str]) -> None:
        """Shuffle all words, which are given sorted."""
        super().__init__(spec)
        self.words = list(words)
        random.Random(spec.seed).shuffle(self.words)
        if spec.as_published:
            self.example_size, self.example_repeats = 40, (10, 3)
            self.repeats = REPEATS
        else:
            self.example_size, self.example_repeats = 20, (3, 1)
            self.repeats = (6, 1)
        # With no uncommon word at all there would be nothing to tell the common ones from.
        self.fewest = NUM_COMMON + (not spec.as_published)
        self.most = len(self.words)
        self.last_tried = self.most // self.step * self.step

    def draw(self, index: int, num_items: int) -> Callable[[], RulerSample]:
        """Draw the words of the worked example and of the list, the common ones first."""
        example = self.rng.sample(self.words, self.example_size)
        words = self.rng.sample(self.words, num_items)

        def write() -> RulerSample:
            shown = self.write_question(example, self.example_repeats)
            question = self.write_question(words, self.repeats)
            prompt = f"{shown}{number_words(example[:NUM_COMMON])}\n{question}"
            # The worked example is part of what a window may cut off.
            head, ending = map(len, TEMPLATES["cwe"].split("{context}"))
            return RulerSample(
                prompt=prompt, answers=tuple(words[:NUM_COMMON]), part_lengths=(head, ending)
            )

        return write

    def write_question(self, words: Sequence[str], repeats: tuple[int, int]) -> str:
        """Return a list's prompt, each common word (they stand first) and other word repeated."""
        common, uncommon = words[:NUM_COMMON], words[NUM_COMMON:]
        listed = [*common] * repeats[0] + [*uncommon] * repeats[1]
        random.Random(self.seed).shuffle(listed)
        return TEMPLATES["cwe"].format(context=number_words(listed))

    def with_answer(self, sample: RulerSample) -> str:
        """Return the prompt and the numbered answers."""
        return f"{sample.prompt} {number_words(sample.answers)}"


def number_words(words: Sequence[str]) -> str:
    """Return ``1. first 2. second ...``."""
    return " ".join(f"{number}. {word}" for number, word in enumerate(words, start=1))


def _zeta() -> float:
    from scipy.special import zeta  # scipy takes a third of a second, which a plan has no use for

    return float(zeta(ALPHA))


class FrequentWordsWriter:
    """Writes frequent words (fwe): draws vocabularies and writes samples of any number of words."""

    def __init__(self, spec: RulerSpec) -> None:
        """Start the stream of random numbers."""
        self.seed = spec.seed
        self.vocabulary_size = spec.length // TOKENS_A_WORD
        self.rng = random.Random(spec.seed)
        # So many words that the last one asked for stands more often than the next.
        gap = (NUM_ASKED + 1) ** -ALPHA - (NUM_ASKED + 2) ** -ALPHA
        self.fewest = math.ceil(_zeta() / gap)

    def draw_vocabulary(self) -> list[str]:
        """Draw the coded words of a sample, the most frequent first, which is dots."""
        words: set[str] = set()
        while len(words) < self.vocabulary_size:
            words.add("".join(self.rng.choices(string.ascii_lowercase, k=WORD_LENGTH)))
        vocabulary = sorted(words)
        random.Random(self.seed).shuffle(vocabulary)
        vocabulary[0] = "..."
        return vocabulary

    def write(self, vocabulary: Sequence[str], num_words: int) -> RulerSample:
        """Write a sample of about that many words."""
        ranks = np.arange(1, len(vocabulary) + 1)
        counts = (num_words * (ranks**-ALPHA) / _zeta()).astype(int)
        words = [word for word, n in zip(vocabulary, counts, strict=True) for _ in range(n)]
        random.Random(self.seed).shuffle(words)
        return fill_template(TEMPLATES["fwe"], " ".join(words), vocabulary[1 : 1 + NUM_ASKED])


def make_frequent_words(spec: RulerSpec, count: Callable[[str], int]) -> Iterator[RulerSample]:
    """Yield samples of fwe of at most the data set's length.

    Both originals keep no room for the answer in this task, so that many prompts are too long
    with it; ``fwe_room=False`` makes those. All samples start from the number of words that fits
    the first vocabulary.
    """
    writer = FrequentWordsWriter(spec)
    keeps_room = spec.fwe_room or not spec.as_published
    limit = spec.length - spec.reserve if keeps_room else spec.length
    if writer.vocabulary_size <= NUM_ASKED:
        raise NoRoom((NUM_ASKED + 1) * TOKENS_A_WORD)
    vocabulary = writer.draw_vocabulary()

    def measure(num_words: int) -> int:
        return count(writer.write(vocabulary, num_words).prompt)

    if spec.as_published:
        step, num_words = spec.length // 32, spec.length // WORD_LENGTH
        while measure(num_words) < limit:
            num_words += step
        num_words = max(num_words - step, writer.fewest)
    else:
        # A word has at least one token.
        step, sizes = 1, range(writer.fewest, max(limit, writer.fewest) + 1)
        if not (num_fitting := bisect_right(sizes, limit, key=measure)):
            raise NoRoom(measure(writer.fewest))
        num_words = sizes[num_fitting - 1]
    for _ in range(spec.num_samples):
        vocabulary, words = writer.draw_vocabulary(), num_words
        sample = writer.write(vocabulary, words)
        while (total := count(sample.prompt)) > limit:
            if words <= writer.fewest:
                raise NoRoom(total)
            words = max(words - step, writer.fewest)
            sample = writer.write(vocabulary, words)
        yield replace(sample, num_tokens=total)
