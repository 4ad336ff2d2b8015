"""Reads RULER's word lists and essays, and digests of what samples are made of.

RULER draws keys from the sorted list of all adjective-noun pairs, some 6 million texts; here the
i-th pair is worked out when it is asked for. The words are those of the package wonderwords.
"""

from __future__ import annotations

import hashlib
import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import accumulate
from pathlib import Path

from opencompass_llada.benchmarks.data_files import find_file, read_json_lines, take

WORD_FILES = ("nounlist.txt", "adjectivelist.txt", "verblist.txt")


@lru_cache(maxsize=1)
def word_lists() -> tuple[tuple[str, ...], ...]:
    """Return nouns, adjectives and verbs in wonderwords' order; read once a process.

    Raises:
        ImportError: If wonderwords is not installed; says how to install it.
    """
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
    text = "\n\n".join("\n".join(words) for words in word_lists())
    return hashlib.sha256(text.encode()).hexdigest()


class AdjectiveNouns(Sequence[str]):
    """``sorted({f'{adjective}-{noun}' ...})`` of all pairs, without making the list.

    Sorted texts that start with ``adjective-`` stand together, adjective by adjective, unless one
    such start begins another: with ``all`` and ``all-out``, ``all-ox`` < ``all-out-ant`` is false
    but ``all-art`` < ``all-out-ant`` is true. Only those few adjectives' pairs are listed.
    """

    def __init__(self, adjectives: Sequence[str], nouns: Sequence[str]) -> None:
        """Sort the words, each once, and find the adjectives that must be listed together."""
        self._nouns = sorted(set(nouns))
        self._blocks: list[str | list[str]] = [
            cluster[0] if len(cluster) == 1 else self._list_pairs(cluster)
            for cluster in _clusters(sorted({f"{word}-" for word in adjectives}))
        ]
        sizes = (len(self._nouns) if isinstance(b, str) else len(b) for b in self._blocks)
        self._starts = [0, *accumulate(sizes)]

    def _list_pairs(self, starts: Sequence[str]) -> list[str]:
        return sorted({start + noun for start in starts for noun in self._nouns})

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


def _clusters(starts: Sequence[str]) -> Iterator[list[str]]:
    """Divide sorted texts into runs whose first member begins all others."""
    cluster: list[str] = []
    for start in starts:
        if cluster and not start.startswith(cluster[0]):
            yield cluster
            cluster = []
        cluster.append(start)
    if cluster:
        yield cluster


HOW_TO_GET = (
    "Set COMPASS_DATA_CACHE to the folder whose data/ruler holds RULER's files "
    "(PaulGrahamEssays.jsonl, dev-v2.0.json of SQuAD 2.0, hotpotqa.json: HotpotQA's "
    "hotpot_dev_distractor_v1.json), give the folder itself as path=..., or run the tasks that "
    "need no files: niah_single_1, niah_multikey_2, niah_multikey_3, vt, cwe, fwe "
    "(LLADA_DATA=embedded runs all niah tasks on generated text)."
)


def find_ruler_file(path: str, name: str) -> Path:
    """Find one of RULER's files; see `data_files.find_file`."""
    return find_file(path, name, benchmark="RULER", how_to_get=HOW_TO_GET)


def file_digest(path: Path) -> str:
    """Return a digest of a file's content; worked out once a process for an unchanged file."""
    facts = path.stat()
    return _digest(path, facts.st_mtime_ns, facts.st_size)


@lru_cache(maxsize=8)
def _digest(path: Path, mtime_ns: int, size: int) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def read_essay_words(path: Path) -> tuple[str, ...]:
    """Return the words of all essays, as OpenCompass divides them."""
    return _essay_words(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=2)
def _essay_words(path: Path, mtime_ns: int) -> tuple[str, ...]:
    rows = read_json_lines(path)
    texts = [take({"text": "", **row}, "text", where).strip() + " " for where, row in rows]
    return tuple(re.sub(r"\s+", " ", "".join(texts)).split(" "))
