"""Makes training rows in the form of the generated suites, of their first two levels.

A row is a prompt as evaluation has it, then its answer; where a text answers more questions of the
first level, some of them follow. One word in four is left out (`generated.task.Vocabulary`), and
the draws are the row's own, never those of an evaluation.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import cached_property

from opencompass_llada.benchmarks.generated.task import (
    AsksMore,
    GeneratedTask,
    Question,
    Vocabulary,
    find_task,
    list_suites,
)
from opencompass_llada.tiny_models.draft import Draft, Query

#: Style of rows -> the suite that it is of.
SUITE_STYLES = {f"suite_{name}": name for name in list_suites()}
_SECOND_LEVEL_SHARE = 0.25
#: Rows that do not fill their length, so that small texts are seen, too.
_SMALL_SHARE = 0.25
_NUM_MORE = (0, 1, 2, 3, 4, 6, 8)
#: Tokens kept for a further question and its answer.
_TOKENS_A_QUESTION = 36
_MOST_TRIED = 4
#: Lines whose tokens are kept; longer rows are tokenized as a whole.
_MOST_LINES = 200_000
_MOST_BY_LINES = 1024


class SuiteRows:
    """Makes drafts of rows of the generated suites from a tokenizer."""

    def __init__(self, encode: Callable[[str], list[int]]) -> None:
        """Keep the tokenizer."""
        self._encode_suite = encode
        self._lines: dict[str, list[int]] = {}
        self._sizes: dict[tuple[str, int], tuple[float, float]] = {}

    def draft_suite(self, name: str, length: int, rng: random.Random, evaluation: bool) -> Draft:
        """Return a draft of about as many items as fit, or in a quarter of the cases of fewer."""
        task = find_task(name)
        level = 2 if rng.random() < _SECOND_LEVEL_SHARE else 1
        num_more = rng.choice(_NUM_MORE) if isinstance(task, AsksMore) else 0
        room = length - task.generation_length(level) - num_more * _TOKENS_A_QUESTION
        if rng.random() < _SMALL_SHARE:
            room = int(room * rng.uniform(0.3, 1.0))
        vocabulary = Vocabulary(for_training=not evaluation)
        question, tokens = self._fit(task, level, room, rng.getrandbits(64), vocabulary)
        texts = [question.question]
        if isinstance(task, AsksMore):
            texts += task.more_questions(rng, question, num_more)
        context = question.head + question.context
        queries = [self._query_suite(task, context, text) for text in texts]
        while len(queries) > 1 and not Draft(head=tokens, queries=queries, is_whole=True).fits(
            length
        ):
            queries.pop()
        return Draft(head=tokens, queries=queries, is_whole=True)

    def _query_suite(self, task: GeneratedTask, context: str, question: str) -> Query:
        answer = task.solve(context + question)
        return self._encode_text(question), self._encode_suite(f"{answer}.")

    def _fit(
        self, task: GeneratedTask, level: int, room: int, seed: int, vocabulary: Vocabulary
    ) -> tuple[Question, list[int]]:
        """Return a question of about so many tokens, and those of its head and context."""
        smallest = task.smallest(level)
        base, item = self._size_of(task, level)
        size = max(smallest, int((room - base) / item))
        best: tuple[Question, list[int]] | None = None
        for _ in range(_MOST_TRIED):
            question = task.write(random.Random(seed), level, size, vocabulary)
            tokens = self._encode_text(question.head + question.context)
            over = len(tokens) + len(self._encode_text(question.question)) - room
            if over <= 0 and (best is None or len(tokens) > len(best[1])):
                best = question, tokens
            if -0.1 * room <= over <= 0 or (over > 0 and size == smallest):
                break
            rate = max(1.0, (len(tokens) - base) / size)
            size = max(smallest, size - int(over / rate) - (over > 0))
        return best or (question, tokens)

    def _size_of(self, task: GeneratedTask, level: int) -> tuple[float, float]:
        """Return the tokens of a prompt without items, and of an item: the same in any process."""
        key = (task.name, level)
        if key not in self._sizes:
            sizes = (task.smallest(level), 4 * task.smallest(level) + 16)
            vocabulary = Vocabulary(for_training=True)
            means = []
            for size in sizes:
                drawn = [task.write(random.Random(n), level, size, vocabulary) for n in range(8)]
                means.append(sum(len(self._encode_suite(own.prompt)) for own in drawn) / 8)
            item = max(1.0, (means[1] - means[0]) / (sizes[1] - sizes[0]))
            self._sizes[key] = means[0] - item * sizes[0], item
        return self._sizes[key]

    def _encode_text(self, text: str) -> list[int]:
        """Return a text's tokens, put together of those of its lines where that is the same."""
        if len(text) > 8 * _MOST_BY_LINES or not self._parts_at_lines:
            return self._encode_suite(text)
        if len(self._lines) > _MOST_LINES:
            self._lines.clear()
        tokens: list[int] = []
        for line in text.splitlines(keepends=True):
            found = self._lines.get(line)
            if found is None:
                found = self._lines[line] = self._encode_suite(line)
            tokens += found
        return tokens

    @cached_property
    def _parts_at_lines(self) -> bool:
        """Whether the tokens of every suite's text are those of its lines."""
        for name in list_suites():
            task = find_task(name)
            text = task.write(random.Random(name), 1, task.smallest(1) + 8, Vocabulary()).prompt
            lines = text.splitlines(keepends=True)
            if self._encode_suite(text) != sum(map(self._encode_suite, lines), []):
                return False
        return True
