"""Makes training rows in the form of RULER's tasks, short enough for a tiny model's window.

Seven of eight adjective-noun keys are never trained on. Answers are joined by commas, those of one
key in the order of the text.
"""

from __future__ import annotations

import random
import string
import uuid
import zlib
from collections.abc import Callable, Sequence
from functools import lru_cache

from opencompass_llada.benchmarks.ruler import prompts, writers
from opencompass_llada.benchmarks.ruler.prompts import NiahTask, RulerSpec
from opencompass_llada.benchmarks.ruler.sources import adjective_nouns, plain_words
from opencompass_llada.tiny_models.draft import MIN_CONTEXT, Draft

TRAINED_SHARE = 8  # one adjective-noun pair in so many is trained on
_NIAH_TASKS = tuple(task for task in prompts.TASKS.values() if isinstance(task, NiahTask))
_KINDS = ("numbers", "words", "uuids")


def is_trained_pair(pair: str) -> bool:
    """Tell whether an adjective-noun pair may be a key of training rows."""
    return zlib.crc32(pair.encode()) % TRAINED_SHARE == 0


def draw_pair(rng: random.Random, *, trained: bool) -> str:
    """Draw an adjective-noun pair of the training split, or of what is held out."""
    pairs = adjective_nouns()
    while is_trained_pair(pair := pairs[rng.randrange(len(pairs))]) != trained:
        pass
    return pair


def _draw_name(kind: str, rng: random.Random, evaluation: bool) -> str:
    if kind == "numbers":
        return str(rng.randint(10**6, 10**7 - 1))
    if kind == "words":
        return draw_pair(rng, trained=not evaluation)
    return str(uuid.UUID(int=rng.getrandbits(128), version=4))


def _draw_niah_task(rng: random.Random) -> NiahTask:
    """Draw one of RULER's own eight tasks, or a mixture of their features."""
    if rng.random() < 0.6:
        return rng.choice(_NIAH_TASKS)
    num_keys = rng.randint(1, 4)
    return NiahTask(
        haystack=rng.choice(("repeat", "essay", "needle")),
        key_kind=rng.choice(("words", "words", "uuids")),
        value_kind=rng.choice(_KINDS),
        num_keys=num_keys,
        num_values=rng.choice((1, 1, 1, 2, 3)),
        num_queries=rng.randint(1, num_keys),
    )


@lru_cache(maxsize=64)
def _frequent_words_writer(length: int) -> writers.FrequentWordsWriter:
    return writers.FrequentWordsWriter(RulerSpec(task="fwe", length=length))


@lru_cache(maxsize=1)
def _common_words_writer() -> writers.CommonWordsWriter:
    return writers.CommonWordsWriter(RulerSpec(task="cwe", length=512), plain_words())


def _largest(
    write: Callable[[int], Draft], fewest: int, most: int, length: int, rng: random.Random
) -> Draft:
    """Return a draft of as many items as fit, or in a quarter of the cases of fewer."""
    items = most if rng.random() < 0.75 else rng.randint(fewest, most)
    while True:
        draft = write(items)
        if draft.fits(length) or items == fewest:
            return draft
        # Their length is about linear in the items: go there, and on by single items.
        items = max(fewest, min(items - 1, items * length // draft.fixed_length))


class RulerRows:
    """Makes drafts of RULER-like rows from a tokenizer."""

    def __init__(self, encode: Callable[[str], list[int]]) -> None:
        """Keep the tokenizer."""
        self._encode = encode

    def _ruler_niah(self, length: int, rng: random.Random, evaluation: bool) -> Draft:
        task = _draw_niah_task(rng)
        num_keys = max(task.num_keys, task.num_queries)

        def draw(kind: str) -> str:
            return _draw_name(kind, rng, evaluation)

        keys = list({draw(task.key_kind): None for _ in range(num_keys)})
        needles = [(key, draw(task.value_kind)) for key in keys for _ in range(task.num_values)]
        rng.shuffle(needles)
        asked = rng.sample(keys, k=min(task.num_queries, len(keys)))
        answers = [value for name in asked for key, value in needles if key == name]
        before, after = writers.question_template(task).split("{context}")
        head = self._encode(before)
        query = self._encode(after.format(query=writers.join_with_and(asked)))
        answer = self._encode(f" {', '.join(answers)}.")
        sentences = [writers.write_needle(task, *needle) for needle in needles]
        if task.haystack == "essay":
            facts = [self._encode(f" {sentence}") for sentence in sentences]
            return Draft(head=head, facts=facts, queries=[(query, answer)])

        def line() -> str:
            if task.haystack == "repeat":
                return prompts.SENTENCES
            return writers.write_needle(task, draw(task.key_kind), draw(task.value_kind))

        room = length - len(head) - len(query) - len(answer) - MIN_CONTEXT
        context = self._lines(sentences, line, room, rng)
        return Draft(head=head + context, queries=[(query, answer)], is_whole=True)

    def _lines(
        self, sentences: Sequence[str], fill: Callable[[], str], room: int, rng: random.Random
    ) -> list[int]:
        """Return the sentences, in their order, on lines between as many others as have room."""
        room = room if rng.random() < 0.75 else rng.randint(0, max(room, 0))
        room -= len(self._encode("\n".join(sentences)))
        lines: list[str] = []
        while (room := room - len(self._encode(f"\n{(line := fill())}"))) >= 0:
            lines.append(line)
        places = sorted((rng.randint(0, len(lines)) for _ in sentences), reverse=True)
        for place, sentence in zip(places, reversed(sentences), strict=True):
            lines.insert(place, sentence)
        return self._encode("\n".join(lines))

    def _ruler_vt(self, length: int, rng: random.Random, evaluation: bool) -> Draft:
        num_hops = rng.choice((1, 2, 3, 4, 4, 4))
        names = ["".join(rng.choices(string.ascii_uppercase, k=5)) for _ in range(num_hops + 1)]
        most = max(1, length // len(self._encode(prompts.SENTENCES)))
        value = rng.randint(10000, 99998)

        def write(num_items: int) -> Draft:
            places = sorted(rng.randint(0, num_items) for _ in names)
            prompt = writers.write_chain(names, value, places, num_items).prompt
            return self._whole(prompt, f"{', '.join(names)}.")

        return _largest(write, 1, most, length, rng)

    def _ruler_fwe(self, length: int, rng: random.Random, evaluation: bool) -> Draft:
        writer = _frequent_words_writer(max(length, 256))
        writer.seed, writer.rng = rng.getrandbits(32), rng
        vocabulary = writer.draw_vocabulary()
        answer = f" {', '.join(vocabulary[1 : 1 + writers.NUM_ASKED])}."

        def write(num_words: int) -> Draft:
            return self._whole(writer.write(vocabulary, num_words).prompt, answer)

        return _largest(write, writer.fewest, max(writer.fewest, length // 3), length, rng)

    def _ruler_cwe(self, length: int, rng: random.Random, evaluation: bool) -> Draft:
        writer = _common_words_writer()
        writer.seed = rng.getrandbits(32)
        repeats = rng.choice((2, 3, 3, 4) if length < 1024 else (3, 4, 6, 6))
        words = rng.sample(writer.words, writers.NUM_COMMON + max(1, length // 8))

        def write(num_others: int) -> Draft:
            prompt = writer.write_question(words[: writers.NUM_COMMON + num_others], (repeats, 1))
            # In the order of their first place, which the model can know.
            common = sorted(words[: writers.NUM_COMMON], key=lambda word: prompt.index(f" {word}"))
            return self._whole(prompt, f" {writers.number_words(common)}.")

        return _largest(write, 1, len(words) - writers.NUM_COMMON, length, rng)

    def _whole(self, prompt: str, answer: str) -> Draft:
        return Draft(head=self._encode(prompt), queries=[([], self._encode(answer))], is_whole=True)
