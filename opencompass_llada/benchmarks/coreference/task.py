"""Writes, solves and scores multi-round coreference: the n-th of near-identical requests' replies.

After MRCR (Michelangelo, arXiv 2409.12640) as OpenAI publishes it (huggingface.co/datasets/openai/
mrcr, README.md): a conversation asks several times for the same kind of text on the same topic, and
the answer is the reply to the n-th, behind a random code. Its score is theirs. Their conversations
are long texts of a language model; here replies are rows of words, one line each, and the code has
four characters instead of ten, so that the smallest level fits the shipped models.
"""

from __future__ import annotations

import random
import re
import string
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from functools import lru_cache

from opencompass_llada.benchmarks.generated.prose import spread, words
from opencompass_llada.benchmarks.generated.task import Question, Vocabulary


@dataclass(frozen=True, kw_only=True)
class Wording:
    """How a language says it."""

    head: str
    turn: str
    """A request and its reply."""
    question: str
    join: str
    """What parts two pairs of words of a reply."""
    pair: str
    kinds: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Spec:
    """A level."""

    near: tuple[int, int]
    """Fewest and most requests that are the same as the one asked for."""
    pairs: Mapping[str, int]
    """Language -> pairs of words of a reply."""
    share: float
    """Of the other requests, those that have the kind or the topic of the one asked for."""


WORDINGS = {
    "en": Wording(
        head="Read the conversation. One of its replies is to be repeated.\n\n",
        turn="User: Write a {kind} about the {topic}.\nAssistant: {reply}\n",
        question=(
            "User: Write {code}, then repeat the {number} {kind} about the {topic}.\nAssistant:"
        ),
        join=", ",
        pair="{quality} {thing}",
        kinds=("poem", "song", "riddle", "story", "letter", "joke", "speech", "report"),
    ),
    "zh": Wording(
        head="读对话，重复其中一个回答。\n\n",
        turn="问：写{topic}的{kind}\n答：{reply}\n",
        question="问：先写{code}，再重复第{number}次写{topic}的{kind}\n答：",
        join="，",
        pair="{quality}的{thing}",
        kinds=("诗", "歌", "谜语", "故事", "信", "笑话", "讲话", "报告"),
    ),
}
SPECS = {
    1: Spec(near=(2, 2), pairs={"en": 1, "zh": 1}, share=0.0),
    2: Spec(near=(3, 4), pairs={"en": 2, "zh": 1}, share=0.0),
    3: Spec(near=(4, 6), pairs={"en": 3, "zh": 1}, share=0.25),
    4: Spec(near=(6, 9), pairs={"en": 4, "zh": 2}, share=0.5),
    5: Spec(near=(9, 16), pairs={"en": 6, "zh": 2}, share=0.5),
}
_LEVELS = {
    1: "the 1st or 2nd of two requests, replies of two words",
    2: "one of three or four requests, replies of four words",
    3: "one of four to six, replies of six words, a quarter of the others alike in kind or topic",
    4: "one of six to nine, replies of eight words, half of the others alike in kind or topic",
    5: "one of nine to sixteen, replies of twelve words, half of the others alike in kind or topic",
}
#: From level 2 on no reply asked for begins behind this share of the text.
_LAST_ASKED = 0.7
_CODE_LENGTH = 4
#: Replies among which the best guess is looked for, and on which its score is taken.
_GUESSES, _JUDGES = 24, 200
_QUESTIONS = {
    "en": re.compile(
        r"User: Write (\w+), then repeat the (\d+)\w\w (\w+) about the (\w+)\.\nAssistant:"
    ),
    "zh": re.compile(r"问：先写(\w+)，再重复第(\d+)次写(\w+)的(\w+)\n答："),
}
_TURNS = {
    "en": re.compile(r"^User: Write a (?P<kind>\w+) about the (?P<topic>\w+)\.$", re.MULTILINE),
    "zh": re.compile(r"^问：写(?P<topic>\w+)的(?P<kind>\w+)$", re.MULTILINE),
}


@dataclass(frozen=True, kw_only=True)
class Coreference:
    """The suite; see `generated.task.GeneratedTask`."""

    name: str = "coreference"
    levels: Mapping[int, str] = field(default_factory=lambda: _LEVELS)

    def generation_length(self, level: int) -> int:
        """Return tokens of a code, a reply and its end by the tokenizer that takes the most.

        A word has two at most, a Chinese character three, a character of the code one.
        """
        pairs = SPECS[level].pairs
        most = max(5 * pairs["en"], 18 * pairs["zh"])
        return 8 * -(-(_CODE_LENGTH + 2 + most) // 8)

    def smallest(self, level: int) -> int:
        """Return the fewest requests beside those that are the same."""
        return 1

    def write(self, rng: random.Random, level: int, size: int, vocabulary: Vocabulary) -> Question:
        """Write a conversation with ``size`` other requests; few of them have fewer of the same."""
        spec, wording = SPECS[level], WORDINGS[vocabulary.language]
        count = min(rng.randint(*spec.near), 2 + size // 2)
        last = count if level == 1 else max(1, int(_LAST_ASKED * count))
        number = rng.randint(1, last)
        topics = words("thing", vocabulary)
        asked = rng.choice(wording.kinds), rng.choice(topics)
        requests = _draw_requests(rng, asked, size, spec.share, wording.kinds, topics)
        for place in spread(rng, count, size + count):
            requests.insert(place, asked)
        replies = _draw_replies(rng, len(requests), level, vocabulary)
        wanted = [reply for own, reply in zip(requests, replies, strict=True) if own == asked]
        turns = [
            wording.turn.format(kind=own[0], topic=own[1], reply=reply)
            for own, reply in zip(requests, replies, strict=True)
        ]
        code = _draw_code(rng)
        return Question(
            head=wording.head,
            context="".join(turns),
            question=_ask(vocabulary.language, code, number, asked),
            answers=(f"{code} {wanted[number - 1]}",),
            chance=_find_best_guess(level, vocabulary)[1],
        )

    def solve(self, prompt: str) -> str:
        """Count the requests; where too few are seen, repeat the reply to the last of them."""
        language = "zh" if WORDINGS["zh"].head.strip() in prompt else "en"
        asked = list(_QUESTIONS[language].finditer(prompt))
        if not asked:
            return ""
        code, number, *rest = asked[-1].groups()
        topic, kind = rest if language == "zh" else reversed(rest)
        turn = WORDINGS[language].turn.format(kind=kind, topic=topic, reply="\0")
        pattern = re.escape(turn).replace("\0", "(.*)")
        replies = re.findall(pattern, prompt[: asked[-1].start()])
        if not replies:
            return ""
        reply = replies[min(int(number), len(replies)) - 1]
        return f"{' ' if language == 'en' else ''}{code} {reply}"

    def guess(self, rng: random.Random, level: int, question: str, vocabulary: Vocabulary) -> str:
        """Return the code and the reply that is most like others of its form."""
        found = _QUESTIONS[vocabulary.language].search(question)
        return f" {found[1]} {_find_best_guess(level, vocabulary)[0]}" if found else ""

    def more_questions(self, rng: random.Random, question: Question, count: int) -> list[str]:
        """Return questions for the replies to any requests of a conversation."""
        language = next(name for name, own in WORDINGS.items() if own.head == question.head)
        seen: Counter[tuple[str, str]] = Counter()
        asked = []
        for found in _TURNS[language].finditer(question.context):
            own = (found["kind"], found["topic"])
            seen[own] += 1
            asked.append((seen[own], own))
        chosen = rng.sample(asked, min(count, len(asked)))
        return [_ask(language, _draw_code(rng), number, own) for number, own in chosen]

    def score(self, prediction: str, answers: tuple[str, ...]) -> float:
        """Return `grade`'s score of the answer's first line, the best of several references.

        The code is a reference's first word.
        """
        lines = prediction.strip().splitlines()
        if not lines:
            return 0.0
        return max(
            (100 * grade(lines[0], answer, answer.partition(" ")[0]) for answer in answers),
            default=0.0,
        )


def grade(response: str, answer: str, code: str) -> float:
    """Return MRCR's score, 0 to 1: 0 without the code in front, else the ratio of the rest.

    Source: the ``grade`` of huggingface.co/datasets/openai/mrcr, README.md; OpenCompass's
    ``MRCREvaluator`` is the same. The ratio is `difflib.SequenceMatcher`'s.
    """
    if not response.startswith(code):
        return 0.0
    return SequenceMatcher(None, response.removeprefix(code), answer.removeprefix(code)).ratio()


def _draw_code(rng: random.Random) -> str:
    return "".join(rng.choices(string.ascii_lowercase + string.digits, k=_CODE_LENGTH))


def _ask(language: str, code: str, number: int, asked: tuple[str, str]) -> str:
    kind, topic = asked
    shown = _ordinal(number) if language == "en" else str(number)
    wording = WORDINGS[language].question
    return wording.format(code=code, number=shown, kind=kind, topic=topic)


def _draw_requests(
    rng: random.Random,
    asked: tuple[str, str],
    count: int,
    share: float,
    kinds: tuple[str, ...],
    topics: tuple[str, ...],
) -> list[tuple[str, str]]:
    """Draw requests that are not the one asked for; a share has its kind or its topic."""
    kind, topic = asked
    other_kinds = [own for own in kinds if own != kind]
    other_topics = [own for own in topics if own != topic]
    requests = []
    for _ in range(count):
        draw = rng.random()
        if draw < share / 2:
            requests.append((kind, rng.choice(other_topics)))
        elif draw < share:
            requests.append((rng.choice(other_kinds), topic))
        else:
            requests.append((rng.choice(kinds), rng.choice(other_topics)))
    return requests


def _draw_replies(rng: random.Random, count: int, level: int, vocabulary: Vocabulary) -> list[str]:
    """Draw replies, rows of pairs of words."""
    wording = WORDINGS[vocabulary.language]
    num_pairs = SPECS[level].pairs[vocabulary.language]
    qualities = rng.choices(words("quality", vocabulary), k=count * num_pairs)
    things = rng.choices(words("thing", vocabulary), k=count * num_pairs)
    pairs = [
        wording.pair.format(quality=quality, thing=thing)
        for quality, thing in zip(qualities, things, strict=True)
    ]
    return [
        wording.join.join(pairs[start : start + num_pairs])
        for start in range(0, len(pairs), num_pairs)
    ]


@lru_cache(maxsize=64)
def _find_best_guess(level: int, vocabulary: Vocabulary) -> tuple[str, float]:
    """Return a reply that is much like others of its form, and its mean score in percent.

    It is the best of `_GUESSES` for as many others. Its score is that against `_JUDGES` more, with
    a standard error of about half a point; a text that no reply can be might come higher.
    """
    rng = random.Random(f"coreference {level} {vocabulary}")
    replies = _draw_replies(rng, 2 * _GUESSES + _JUDGES, level, vocabulary)
    guesses, others = replies[:_GUESSES], replies[_GUESSES : 2 * _GUESSES]

    def mean(guess: str, references: list[str]) -> float:
        # grade's arguments, but for the code, which both have; a space stays in front.
        ratios = [grade(f" {guess}", f" {reply}", "") for reply in references]
        return 100 * sum(ratios) / len(ratios)

    best = max(guesses, key=lambda guess: mean(guess, others))
    return best, mean(best, replies[2 * _GUESSES :])


def _ordinal(number: int) -> str:
    """Return 1st, 2nd, 3rd, 4th, ..., 11th, ..."""
    ending = (
        "th" if 10 <= number % 100 <= 20 else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    )
    return f"{number}{ending}"


TASK = Coreference()
