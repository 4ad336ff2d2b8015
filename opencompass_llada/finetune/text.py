"""Text sources as one token array each, and random windows from them.

Reads local files and generated documents; packs nothing and masks nothing.
"""

from __future__ import annotations

import glob
import json
import os
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from opencompass_llada.finetune.recipe import TextSource
from opencompass_llada.synthetic import generate_documents


def _matching_files(source: TextSource) -> list[str]:
    files: list[str] = []
    for path in source.paths:
        found = sorted(glob.glob(os.path.expandvars(path)))
        if not found:
            raise ValueError(
                f"text source: no file matches path {path!r}. Correct the glob, set the "
                "environment variables in it, or use generated_seed."
            )
        files += found
    return files


def read_texts(source: TextSource) -> Iterator[str]:
    """Yield the documents of a source.

    Args:
        source: Files or generated documents.

    Yields:
        One document's text at a time.

    Raises:
        ValueError: If no file matches a path, or a line is no JSON or lacks the text field.
    """
    if source.generated_seed is not None:
        for document in generate_documents(source.generated_seed, source.num_documents):
            yield document["text"]
        return
    for name in _matching_files(source):
        text = Path(name).read_text(encoding="utf-8")
        if not name.endswith((".jsonl", ".json")):
            yield text
            continue
        # Not splitlines, which also breaks at U+2028 and the like, which JSON strings may hold.
        for number, line in enumerate(text.split("\n"), start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(
                    f"text source: line {number} of {name} is not a JSON object ({error}). Give "
                    "one object a line, or name a text file .txt."
                ) from error
            if source.text_field not in row:
                raise ValueError(
                    f"text source: line {number} of {name} has no field "
                    f"{source.text_field!r}; it has {', '.join(row)}. Set text_field."
                )
            yield row[source.text_field]


class TokenWindows:
    """Random windows of tokens from several sources, each one flat array of documents.

    Documents are joined by the end-of-sequence token.
    """

    def __init__(
        self,
        sources: Sequence[TextSource],
        encode: Callable[[Sequence[str]], Sequence[Sequence[int]]],
        eos_token_id: int,
    ) -> None:
        """Read and tokenise all sources.

        Args:
            sources: Where the text comes from.
            encode: Turns a list of texts into lists of token ids.
            eos_token_id: Put after each document.
        """
        self._weights = [source.weight for source in sources]
        self._arrays = []
        for source in sources:
            documents = [np.array(ids, np.int32) for ids in encode(list(read_texts(source)))]
            if not documents:
                raise ValueError(f"text source: {source} holds no document.")
            separator = np.array([eos_token_id], np.int32)
            self._arrays.append(
                np.concatenate([part for ids in documents for part in (ids, separator)])
            )

    @property
    def num_tokens(self) -> list[int]:
        """Tokens of each source."""
        return [len(array) for array in self._arrays]

    def draw(self, length: int, rng: random.Random) -> np.ndarray:
        """Draw a window.

        Args:
            length: Tokens.
            rng: Source of randomness.

        Returns:
            int32 [length]; a source shorter than that is repeated.
        """
        array = rng.choices(self._arrays, self._weights)[0]
        start = rng.randrange(max(1, len(array) - length))
        return np.resize(array[start : start + length], length)
