"""Reads NeedleBench's files: needles, and documents as tokens. Places no needles."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from opencompass_llada.benchmarks.counting import CountingTokenizer, load_counting_tokenizer
from opencompass_llada.benchmarks.data_files import (
    MissingDataError,
    find_data,
    read_json_lines,
    take,
)

HOW_TO_GET = (
    "Set COMPASS_DATA_CACHE to the folder whose data/needlebench holds NeedleBench's files "
    "(opencompass/needlebench on the Hugging Face hub; or set DATASET_SOURCE=HF to download it), "
    "give the folder itself as path=..., or use the embedded data: path='asset:needlebench' "
    "(LLADA_DATA=embedded for the shipped configs)."
)


@dataclass(frozen=True, kw_only=True)
class NeedleBenchNeedle:
    """One line of ``needles.jsonl``."""

    text: str
    """The sentence to hide, without the line breaks that are put around it."""
    question: str
    """The question, with its format hint as the file has it."""
    keyword: str
    """What the answer must contain (``arg2`` in the file)."""


def resolve_data_directory(path: str) -> Path:
    """Find NeedleBench's folder; see `data_files.find_data`."""
    return find_data(path, benchmark="NeedleBench", how_to_get=HOW_TO_GET)


def require_file(directory: Path, name: str) -> Path:
    """Return the path of a file of NeedleBench's folder; names those there if it is missing."""
    path = directory / name
    if not path.is_file():
        present = ", ".join(sorted(p.name for p in directory.glob("*.json*"))) or "none"
        raise MissingDataError(
            f"NeedleBench's file {name!r} is not in {directory} (its data files: {present}). "
            f"{HOW_TO_GET}",
            "needlebench",
        )
    return path


def read_needles(path: Path, language: str) -> list[NeedleBenchNeedle]:
    """Read the needles of one language, in the file's order."""
    needles = [
        parse_needle(row, where)
        for where, row in read_json_lines(path)
        if take(row, "language", where) == language
    ]
    if not needles:
        raise ValueError(f"language={language!r}: {path} holds no needle in that language.")
    return needles


def parse_needle(row: Mapping[str, Any], where: str) -> NeedleBenchNeedle:
    """Return the needle of a line of ``needles.jsonl``; refuses one that cannot be scored."""
    needle, keyword = (take(row, name, where, Any) for name in ("needle", "arg2"))
    if "*" in f"{needle}{keyword}":
        raise ValueError(
            f"{where}: the needle {needle!r} or its keyword {keyword!r} holds '*', which "
            "NeedleBench's answer column uses to divide needle from keyword; remove it."
        )
    texts = isinstance(needle, str) and isinstance(keyword, str)
    if not texts or not keyword.strip() or keyword not in needle:
        raise ValueError(
            f"{where}: the keyword arg2={keyword!r} must be a part of the needle {needle!r}: an "
            "empty one stands in every answer, and one that the needle lacks in none. Correct the "
            "line or take it out."
        )
    return NeedleBenchNeedle(
        text=needle, question=take(row, "retrieval_question", where), keyword=keyword
    )


class Haystack:
    """The documents of one file (a JSON object with ``text`` a line), each tokenized once."""

    def __init__(self, path: Path, tokenizer: CountingTokenizer) -> None:
        """Read the documents; tokenizes nothing yet."""
        self._tokenizer = tokenizer
        self._texts = [take(row, "text", where) for where, row in read_json_lines(path)]
        if not self._texts:
            raise ValueError(f"{path} holds no document; fetch it again.")
        self._tokens: dict[int, array] = {}

    def __len__(self) -> int:
        """Return the number of documents."""
        return len(self._texts)

    def take(self, order: Sequence[int], num_tokens: int) -> list[int]:
        """Return the first ``num_tokens`` tokens of the documents in the given order, or all.

        Documents are tokenized one by one and put end to end, as NeedleBench does.
        """
        taken: list[int] = []
        for document in order:
            if len(taken) >= num_tokens:
                break
            if document not in self._tokens:
                self._tokens[document] = array("l", self._tokenizer.encode(self._texts[document]))
            taken.extend(self._tokens[document])
        return taken[:num_tokens]


class HaystackStore:
    """Holds the tokenizers and tokenized files used last, which the cells of a run share."""

    def __init__(self, max_entries: int = 4) -> None:
        """Start empty; at most so many tokenizers, and haystacks, are held at once."""
        #: Returns the tokenizer of a name.
        self.tokenizer = lru_cache(max_entries)(load_counting_tokenizer)
        self._read = lru_cache(max_entries)(
            lambda path, mtime_ns, name: Haystack(path, self.tokenizer(name))
        )

    def haystack(self, path: Path, tokenizer_name: str) -> Haystack:
        """Return a file's documents under a tokenizer, reading them the first time."""
        return self._read(path, path.stat().st_mtime_ns, tokenizer_name)
