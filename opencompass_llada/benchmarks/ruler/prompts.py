"""States RULER's 13 tasks: parameters, wording, scoring, and what a data set config says.

Facts of NVIDIA RULER (github.com/NVIDIA/RULER, scripts/synthetic.yaml and scripts/data) as
OpenCompass 0.5.4 has them: its variable tracking has no worked example. The rules of scoring are
those of its scripts/eval/synthetic/constants.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from opencompass_llada.benchmarks.readers import ReaderOptions
from opencompass_llada.options import check_at_least, reject_unknown

#: From this length on, prompts equal OpenCompass's (fwe's with ``fwe_room=False``). Below, where
#: RULER has no published figures, items are added one at a time, so that small windows are filled
#: and not missed.
PUBLISHED_FROM = 4096
#: Up to this length. Beyond, essays begin anew where they end (392,000 of GPT-4's tokens), as in
#: NVIDIA RULER since 2025, where OpenCompass's prompts stay shorter; and sizes that cannot be near
#: the length are not even drawn, which takes minutes a task at a million tokens.
PUBLISHED_UP_TO = 262144


def match_all(prediction: str, references: Sequence[str]) -> float:
    """Return the share of references that stand in the prediction in any case, 0 to 1."""
    answer = prediction.lower()
    return sum(reference.lower() in answer for reference in references) / len(references)


def match_part(prediction: str, references: Sequence[str]) -> float:
    """Return 1 if any reference stands in the prediction, else 0."""
    answer = prediction.lower()
    return float(any(reference.lower() in answer for reference in references))


MATCHES: dict[str, Callable[[str, Sequence[str]], float]] = {"all": match_all, "part": match_part}


@dataclass(frozen=True, kw_only=True)
class Task:
    """A task's parameters; some kinds have their own besides."""

    tokens_to_generate: int
    """Room kept for the answer."""
    match: str = "all"
    """How answers are scored: a key of `MATCHES`."""


@dataclass(frozen=True, kw_only=True)
class NiahTask(Task):
    """Needles in a haystack."""

    haystack: str
    """``repeat`` (one sentence over and over), ``essay`` or ``needle`` (other needles)."""
    key_kind: str = "words"
    """What needles are named by: ``words`` (adjective-noun) or ``uuids``."""
    value_kind: str = "numbers"
    """What is to be found: ``numbers`` (7 digits) or ``uuids``."""
    num_keys: int = 1
    num_values: int = 1
    """Of each key."""
    num_queries: int = 1
    """Keys asked for."""
    tokens_to_generate: int = 128


@dataclass(frozen=True, kw_only=True)
class QuestionTask(Task):
    """Questions on one or several of many documents."""

    file: str
    layout: str
    """``squad`` or ``hotpotqa``."""
    tokens_to_generate: int = 50
    match: str = "part"


def data_file_of(task: Task, essay_file: str) -> str | None:
    """Return the name of the file that a task's texts come from; None for generated ones."""
    if isinstance(task, QuestionTask):
        return task.file
    return essay_file if isinstance(task, NiahTask) and task.haystack == "essay" else None


TASKS: dict[str, Task] = {
    "niah_single_1": NiahTask(haystack="repeat"),
    "niah_single_2": NiahTask(haystack="essay"),
    "niah_single_3": NiahTask(haystack="essay", value_kind="uuids"),
    "niah_multikey_1": NiahTask(haystack="essay", num_keys=4),
    "niah_multikey_2": NiahTask(haystack="needle"),
    "niah_multikey_3": NiahTask(haystack="needle", key_kind="uuids", value_kind="uuids"),
    "niah_multivalue": NiahTask(haystack="essay", num_values=4),
    "niah_multiquery": NiahTask(haystack="essay", num_keys=4, num_queries=4),
    "vt": Task(tokens_to_generate=30),
    "cwe": Task(tokens_to_generate=120),
    # Both originals keep no room for it, see ``RulerSpec.fwe_room``.
    "fwe": Task(tokens_to_generate=50),
    "qa_squad": QuestionTask(file="dev-v2.0.json", layout="squad"),
    "qa_hotpotqa": QuestionTask(file="hotpotqa.json", layout="hotpotqa"),
}

SENTENCES = (
    "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."
)

#: Kind of task -> its prompt, with slots for `str.format`.
TEMPLATES: dict[str, str] = json.loads(
    Path(__file__).with_name("templates.json").read_text(encoding="utf-8")
)


@dataclass(frozen=True, kw_only=True)
class RulerSpec(ReaderOptions):
    """What a data set config says, checked: one task at one length."""

    task: str
    """A key of `TASKS`."""
    length: int
    """Tokens of prompt and answer together."""
    tokenizer: str = "gpt-4"
    """What counts them: ``'gpt-4'`` or a checkpoint's path."""
    num_samples: int = 100
    """Samples; a smaller number gives the first of a larger one."""
    path: str = "data/ruler"
    """Folder of essays and questions: where OpenCompass finds it, a folder, or ``asset:NAME``."""
    essay_file: str = "PaulGrahamEssays.jsonl"
    """The essay haystack: a JSON object with ``text`` a line."""
    tokens_to_generate: int | None = None
    """Room kept for the answer; None for the task's own."""
    chat: bool = False
    """Whether the tokens of the tokenizer's chat template count as part of the prompt."""
    fwe_room: bool = True
    """Whether fwe keeps room for the answer as all tasks do. False is both originals' form from
    `PUBLISHED_FROM` on: its prompt alone may have the whole length."""
    seed: int = 42
    """Of all draws; RULER's own is 42."""
    benchmark: str = "ruler"

    def __post_init__(self) -> None:
        """Check every field."""
        super().__post_init__()
        reject_unknown("RULER task", [self.task], TASKS)
        check_at_least(self, 1, "length", "num_samples")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed={self.seed} must be from 0 to {2**32 - 1}; RULER's own is 42.")
        if self.tokens_to_generate is not None and self.tokens_to_generate < 0:
            raise ValueError(
                f"tokens_to_generate={self.tokens_to_generate} must be 0 or more, or None for "
                "the task's own."
            )

    @property
    def facts(self) -> Task:
        """The task's parameters."""
        return TASKS[self.task]

    @property
    def reserve(self) -> int:
        """Tokens kept for the answer."""
        if self.tokens_to_generate is None:
            return self.facts.tokens_to_generate
        return self.tokens_to_generate

    @property
    def as_published(self) -> bool:
        """Whether prompts equal OpenCompass's at this length."""
        return self.length >= PUBLISHED_FROM

    @property
    def is_beyond(self) -> bool:
        """Whether the length is above those at which prompts equal OpenCompass's."""
        return self.length > PUBLISHED_UP_TO
