"""Reads what RULER's samples are made of: word lists, essays and questions.

RULER draws keys from the sorted list of all adjective-noun pairs, some 6 million texts; here the
i-th pair is worked out when it is asked for. The words are those of the package wonderwords.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any

from opencompass_llada.benchmarks.data_files import read_json, read_json_lines, take
from opencompass_llada.runs.hashes import hash_text, once_a_version

WORD_FILES = ("nounlist.txt", "adjectivelist.txt", "verblist.txt")


@lru_cache(maxsize=1)
def word_lists() -> tuple[tuple[str, ...], ...]:
    """Return nouns, adjectives and verbs in wonderwords' order; read once a process."""
    try:
        from wonderwords import random_word
    except ImportError as error:
        raise ImportError(
            "RULER's keys and word lists come from the package wonderwords: pip install wonderwords"
        ) from error
    return tuple(tuple(random_word._get_words_from_text_file(name)) for name in WORD_FILES)


@lru_cache(maxsize=1)
def adjective_nouns() -> AdjectiveNouns:
    """Return the pairs of all adjectives and nouns; made once a process."""
    nouns, adjectives, _ = word_lists()
    return AdjectiveNouns(adjectives, nouns)


def plain_words() -> list[str]:
    """Return all nouns, adjectives and verbs, sorted, each once."""
    return sorted({word for words in word_lists() for word in words})


def words_digest() -> str:
    """Return a digest of the word lists: other words make other prompts."""
    return hash_text("\n\n".join("\n".join(words) for words in word_lists()))


class AdjectiveNouns(Sequence[str]):
    """``sorted({f'{adjective}-{noun}' ...})`` of all pairs, without making the list.

    Sorted texts that start with ``adjective-`` stand together, adjective by adjective, unless one
    such start begins another: with ``all`` and ``all-out``, ``all-ox`` < ``all-out-ant`` is false
    but ``all-art`` < ``all-out-ant`` is true. Only those few adjectives' pairs are listed.
    """

    def __init__(self, adjectives: Sequence[str], nouns: Sequence[str]) -> None:
        """Sort the words, each once, and find the adjectives that must be listed together."""
        self._nouns = sorted(set(nouns))
        clusters: dict[str, list[str]] = {}
        leader = ""
        for start in sorted({f"{word}-" for word in adjectives}):
            leader = leader if leader and start.startswith(leader) else start
            clusters.setdefault(leader, []).append(start)
        self._blocks: list[str | list[str]] = [
            leader if len(cluster) == 1 else sorted({s + n for s in cluster for n in self._nouns})
            for leader, cluster in clusters.items()
        ]
        sizes = (len(self._nouns) if isinstance(b, str) else len(b) for b in self._blocks)
        self._starts = [0, *accumulate(sizes)]

    def __len__(self) -> int:
        """Return the number of different pairs."""
        return self._starts[-1]

    def __getitem__(self, index):  # type: ignore[no-untyped-def, override]
        """Return the pair at an index (no slices)."""
        if not 0 <= index < len(self):
            raise IndexError(f"index={index} must be from 0 to {len(self) - 1}.")
        number = bisect_right(self._starts, index) - 1
        block, rest = self._blocks[number], index - self._starts[number]
        return block + self._nouns[rest] if isinstance(block, str) else block[rest]


@once_a_version
def read_essay_words(path: Path) -> tuple[str, ...]:
    """Return the words of all essays, as OpenCompass divides them."""
    rows = read_json_lines(path)
    texts = [take({"text": "", **row}, "text", where).strip() + " " for where, row in rows]
    return tuple(re.sub(r"\s+", " ", "".join(texts)).split(" "))


@dataclass(frozen=True, kw_only=True)
class Question:
    """One question of the data."""

    text: str
    answers: tuple[str, ...]
    """Any of them will do."""
    documents: tuple[int, ...]
    """Numbers of the documents that answer it."""
    related: tuple[int, ...]
    """Numbers of documents on the same subject, taken first to fill up."""


#: Sorted documents, each once, and questions in the file's order.
Library = tuple[list[str], list[Question]]


def read_library(path: Path, layout: str) -> Library:
    """Read SQuAD 2.0's dev-v2.0.json (``squad``) or HotpotQA's distractor file (``hotpotqa``)."""
    data = read_json(path)
    try:
        return _read_squad(data) if layout == "squad" else _read_hotpotqa(data)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(
            f"{path} is not {layout}'s published file ({type(error).__name__}: {error}). Fetch it "
            "again."
        ) from error


def _read_squad(data: Mapping[str, Any]) -> Library:
    """Take the questions that have an answer."""
    articles = [article["paragraphs"] for article in data["data"]]
    documents = sorted({part["context"] for article in articles for part in article})
    number = {text: index for index, text in enumerate(documents)}
    questions = []
    for article in articles:
        subject = [number[part["context"]] for part in article]
        for part, own in zip(article, subject, strict=True):
            related = tuple(index for index in subject if index != own)
            questions += [
                Question(
                    text=row["question"],
                    answers=tuple(answer["text"] for answer in row["answers"]),
                    documents=(own,),
                    related=related,
                )
                for row in part["qas"]
                if not row["is_impossible"]
            ]
    return documents, questions


def _read_hotpotqa(data: Sequence[Mapping[str, Any]]) -> Library:
    def texts(row: Mapping[str, Any]) -> list[str]:
        return [f"{title}\n{''.join(sentences)}" for title, sentences in row["context"]]

    documents = sorted({text for row in data for text in texts(row)})
    number = {text: index for index, text in enumerate(documents)}
    questions = [
        Question(
            text=row["question"],
            answers=(row["answer"],),
            documents=tuple(number[text] for text in texts(row)),
            related=(),
        )
        for row in data
    ]
    return documents, questions
