"""Writes RULER's aggregation tasks: common words (cwe) and frequent words (fwe).

Draws and wording are OpenCompass's ``RulerCweDataset``, with its worked example and its smaller
numbers of repeats below 4,096 tokens, and ``RulerFweDataset``.
"""

from __future__ import annotations

import math
import random
import string
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
from scipy.special import zeta

from opencompass_llada.benchmarks.ruler.prompts import TEMPLATES, RulerSpec
from opencompass_llada.benchmarks.ruler.writer import NoRoom, RulerSample, Writer

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


class CommonWordsWriter(Writer):
    """Writes samples of cwe; an item is one different word of the list."""

    def __init__(self, spec: RulerSpec, words: Sequence[str]) -> None:
        """Shuffle all words, which are given sorted."""
        super().__init__(spec)
        self.words = list(words)
        random.Random(spec.seed).shuffle(self.words)
        if spec.as_published:
            self.step = 10
            self.example_size, self.example_repeats = 40, (10, 3)
            self.repeats = REPEATS
        else:
            self.example_size, self.example_repeats = 20, (3, 1)
            self.repeats = (6, 1)
        # With no uncommon word at all there would be nothing to tell the common ones from.
        self.fewest = NUM_COMMON + (not spec.as_published)
        self.most = len(self.words)
        self.last_tried = self.most // self.step * self.step

    def draw(self, index: int, num_items: int) -> tuple[list[str], list[str]]:
        """Draw the words of the worked example and of the list, the common ones first."""
        example = self.rng.sample(self.words, self.example_size)
        return example, self.rng.sample(self.words, num_items)

    def write(self, drawn: tuple[list[str], list[str]]) -> RulerSample:
        """Write the worked example with its answer, then the question."""
        example, words = drawn
        shown = self.write_question(example, self.example_repeats)
        answer = number_words(example[:NUM_COMMON])
        question = self.write_question(words, self.repeats)
        return RulerSample(prompt=f"{shown}{answer}\n{question}", answers=tuple(words[:NUM_COMMON]))

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


class FrequentWordsWriter:
    """Draws vocabularies of fwe and writes samples of any number of words."""

    def __init__(self, spec: RulerSpec) -> None:
        """Start the stream of random numbers."""
        self.seed = spec.seed
        self.vocabulary_size = spec.length // TOKENS_A_WORD
        self.rng = random.Random(spec.seed)
        # So many words that the last one asked for stands more often than the next.
        gap = (NUM_ASKED + 1) ** -ALPHA - (NUM_ASKED + 2) ** -ALPHA
        self.fewest = math.ceil(float(zeta(ALPHA)) / gap)

    def draw_vocabulary(self) -> list[str]:
        """Draw the coded words of a sample, the most frequent first, which is dots."""
        size = self.vocabulary_size
        words = [self._draw_word() for _ in range(size)]
        while len(set(words)) < size:
            words.append(self._draw_word())
        vocabulary = sorted(set(words))
        random.Random(self.seed).shuffle(vocabulary)
        vocabulary[0] = "..."
        return vocabulary

    def _draw_word(self) -> str:
        return "".join(self.rng.choices(string.ascii_lowercase, k=WORD_LENGTH))

    def write(self, vocabulary: Sequence[str], num_words: int) -> RulerSample:
        """Write a sample of about that many words."""
        ranks = np.arange(1, len(vocabulary) + 1)
        counts = (num_words * (ranks**-ALPHA) / zeta(ALPHA)).astype(int)
        words = [word for word, n in zip(vocabulary, counts, strict=True) for _ in range(n)]
        random.Random(self.seed).shuffle(words)
        return RulerSample(
            prompt=TEMPLATES["fwe"].format(context=" ".join(words)),
            answers=tuple(vocabulary[1 : 1 + NUM_ASKED]),
        )


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
    step = max(1, spec.length // 32) if spec.as_published else 1

    def measure(vocabulary: Sequence[str], num_words: int) -> int:
        return count(writer.write(vocabulary, num_words).prompt)

    vocabulary = writer.draw_vocabulary()
    if spec.as_published:
        num_words = spec.length // WORD_LENGTH
        while measure(vocabulary, num_words) < limit:
            num_words += step
        num_words = max(num_words - step, writer.fewest)
    else:
        num_words = _last_that_fits(lambda n: measure(vocabulary, n), writer.fewest, limit)
    for _ in range(spec.num_samples):
        vocabulary, words = writer.draw_vocabulary(), num_words
        sample = writer.write(vocabulary, words)
        while (total := count(sample.prompt)) > limit:
            if words <= writer.fewest:
                raise NoRoom(total)
            words = max(words - step, writer.fewest)
            sample = writer.write(vocabulary, words)
        yield replace(sample, num_tokens=total)


def _last_that_fits(measure: Callable[[int], int], fewest: int, limit: int) -> int:
    """Return the largest number of words of at most ``limit`` tokens, by bisection."""
    if (total := measure(fewest)) > limit:
        raise NoRoom(total)
    low, high = fewest, max(limit, fewest) + 1  # a word has at least one token
    while high - low > 1:
        middle = (low + high) // 2
        if measure(middle) <= limit:
            low = middle
        else:
            high = middle
    return low
