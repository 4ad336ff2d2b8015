"""Holds the texts that needles are hidden in, tokenized once for all cells of a process."""

from __future__ import annotations

import re
from array import array
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from opencompass_llada.benchmarks.counting import CountingTokenizer, load_counting_tokenizer
from opencompass_llada.benchmarks.data_files import read_json_lines, take

_SENTENCE_END = re.compile(r"[.!?\n] *(?=\S)|[。！？]")


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

    def take(self, order: Sequence[int], num_tokens: int, start: float | None = None) -> list[int]:
        """Return the first ``num_tokens`` tokens of the documents in the given order, or all.

        Documents are tokenized one by one and put end to end, as NeedleBench does. With ``start``
        the first begins with the first sentence behind this share of it, and what stands before
        comes last.
        """
        taken: list[int] = []
        before = ""
        if start is not None:
            first, *order = order
            text = self._texts[first]
            found = _SENTENCE_END.search(text, int(start * len(text)))
            before, text = (text[: found.end()], text[found.end() :]) if found else ("", text)
            taken += self._tokenizer.encode(text)
        for document in order:
            if len(taken) >= num_tokens:
                break
            if document not in self._tokens:
                self._tokens[document] = array("l", self._tokenizer.encode(self._texts[document]))
            taken.extend(self._tokens[document])
        if len(taken) < num_tokens:
            taken += self._tokenizer.encode(before)
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
