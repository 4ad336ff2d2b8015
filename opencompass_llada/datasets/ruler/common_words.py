"""RULER's common words extraction (cwe): a numbered list of words, some of them more often.

Draws and wording are OpenCompass's ``RulerCweDataset``, with its worked example and its smaller
numbers of repeats below 4,096 tokens. Reads no files.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from opencompass_llada.datasets.ruler.fitting import RulerSample
from opencompass_llada.datasets.ruler.tasks import TEMPLATES, CommonWordsTask, RulerSpec


@dataclass(frozen=True, kw_only=True)
class Draw:
    """What chance decides in one sample: the words of the example's list and of the list."""

    example: list[str]
    """Words of the example, the common ones first."""
    words: list[str]
    """Words of the list, the common ones first."""


class CommonWordsWriter:
    """Writes samples; an item is one different word of the list."""

    def __init__(self, spec: RulerSpec, task: CommonWordsTask, words: Sequence[str]) -> None:
        """Keep the task, shuffle the words and start the stream of random numbers.

        Args:
            spec: The data set.
            task: Its task's parameters.
            words: All words, sorted.
        """
        self.num_common = task.num_common
        self.seed = spec.seed
        self.words = list(words)
        random.Random(spec.seed).shuffle(self.words)
        self.rng = random.Random(spec.seed)
        if spec.as_published:
            self.example_size, self.example_repeats = 40, (10, 3)
            self.repeats = (task.common_repeats, task.uncommon_repeats)
        else:
            self.example_size, self.example_repeats = 20, (3, 1)
            self.repeats = (6, 1)
        self.step = 10 if spec.as_published else 1
        # With no uncommon word at all there would be nothing to tell the common ones from.
        self.fewest = task.num_common if spec.as_published else task.num_common + 1
        self.most = len(self.words)
        self.last_tried = self.most // self.step * self.step
        self.patience = 1

    def draw(self, index: int, num_items: int) -> Draw:
        """Take a sample's draws, in OpenCompass's order."""
        return Draw(
            example=self.rng.sample(self.words, self.example_size),
            words=self.rng.sample(self.words, num_items),
        )

    def write(self, drawn: Draw) -> RulerSample:
        """Write the sample of a draw."""
        example = self.write_question(drawn.example, self.example_repeats)
        answer = number_words(drawn.example[: self.num_common])
        question = self.write_question(drawn.words, self.repeats)
        return RulerSample(
            prompt=f"{example}{answer}\n{question}",
            answers=tuple(drawn.words[: self.num_common]),
        )

    def write_question(self, words: Sequence[str], repeats: tuple[int, int]) -> str:
        """Return the prompt of a list.

        Args:
            words: The common ones first.
            repeats: How often each common and each other word is listed.
        """
        common, uncommon = words[: self.num_common], words[self.num_common :]
        listed = [*common] * repeats[0] + [*uncommon] * repeats[1]
        random.Random(self.seed).shuffle(listed)
        return TEMPLATES[CommonWordsTask].format(context=number_words(listed))

    def with_answer(self, sample: RulerSample) -> str:
        """Return the prompt and the numbered answers, as OpenCompass counts."""
        return f"{sample.prompt} {number_words(sample.answers)}"


def number_words(words: Sequence[str]) -> str:
    """Return ``1. first 2. second ...``."""
    return " ".join(f"{number}. {word}" for number, word in enumerate(words, start=1))
