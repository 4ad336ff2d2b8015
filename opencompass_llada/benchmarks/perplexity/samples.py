"""Reads texts to measure perplexity on, and cuts the windows that are scored out of them."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from opencompass_llada.assets import resolve_path
from opencompass_llada.benchmarks.data_files import MissingDataError, read_json_lines, read_text
from opencompass_llada.benchmarks.opencompass_bases import CheckedDataset
from opencompass_llada.options import check_at_least, check_fields, reject_unknown
from opencompass_llada.synthetic.grammar import generate_documents

GENERATED = "generated"
HUB_PREFIX = "hub:"
#: Of the first generated text; each further one has `SEED_STEP` more. Neither tiny-llada's training
#: (seed 1) nor the embedded haystack (0) has any of them.
GENERATED_SEED = 3
SEED_STEP = 1000
#: Keys of a data set config that say what its cell is; the summarizer reads them, the text not.
CELL_KEYS = ("benchmark", "task", "length", "previous_length", "target")
TARGETS = ("last", "segment", "whole")


@dataclass(frozen=True, kw_only=True)
class TextOptions:
    """Where texts come from and which are taken."""

    path: str
    """``generated``; a .txt file (one text), a folder of them, a .jsonl file, or ``hub:NAME``,
    which the `datasets` package loads from the hub or its cache without running its code."""
    num_texts: int = 1
    """Taken in the order that the source has."""
    min_characters: int = 1
    """Shorter texts are passed over; generated ones are made at least this long."""
    extended_at: str = "end"
    """Where a generated text grows with min_characters: at its ``end``, or at its ``start`` for
    windows that are counted from the end. The other end stays as it is."""
    text_field: str = "text"
    """Field of a jsonl or hub row that holds the text."""
    hub_config: str | None = None
    """Configuration of a hub data set that has several."""
    split: str = "test"

    def __post_init__(self) -> None:
        """Check every field."""
        check_fields(self)
        check_at_least(self, 1, "num_texts", "min_characters")
        reject_unknown("extended_at", [self.extended_at], ("start", "end"))


class PerplexityDataset(CheckedDataset):
    """OpenCompass data set of texts; keywords are the fields of `TextOptions`, and `CELL_KEYS`."""

    options_class = TextOptions
    title = "perplexity data set"
    table_keys = CELL_KEYS

    @classmethod
    def make_rows(cls, options: TextOptions) -> list[dict[str, str]]:
        """Read the texts: columns text and name."""
        return read_texts(options)

    @classmethod
    def count_rows(cls, options: TextOptions) -> int:
        """Return the number that was asked for; fewer are refused."""
        return options.num_texts

    @classmethod
    def check_data(cls, same: Sequence[Mapping[str, Any]]) -> None:
        """Read the texts of points with one source, and forget them; not those of the hub."""
        if not cls.check_options(**same[0]).path.startswith(HUB_PREFIX):
            super().check_data(same)


def read_texts(options: TextOptions) -> list[dict[str, str]]:
    """Return ``{"text": ..., "name": ...}`` of exactly as many texts as are asked for.

    Raises a MissingDataError if the source is not there, or holds too few that are long enough.
    """
    long_enough = (
        {"text": text, "name": name}
        for name, text in _all_texts(options)
        if len(text) >= options.min_characters
    )
    rows = list(islice(long_enough, options.num_texts))
    if len(rows) < options.num_texts:
        raise MissingDataError(
            f"num_texts={options.num_texts}, but {options.path} holds {len(rows)} texts of at "
            f"least min_characters={options.min_characters}; lower either (LLADA_TEXTS, "
            "LLADA_MIN_CHARACTERS) or give a longer source (LLADA_DATA)."
        )
    return rows


def _all_texts(options: TextOptions) -> Iterator[tuple[str, str]]:
    """Yield the name and the text of each."""
    if options.path == GENERATED:
        yield from _generated_texts(options)
        return
    if options.path.startswith(HUB_PREFIX):
        name = options.path.removeprefix(HUB_PREFIX)
        for number, row in enumerate(_load_from_hub(name, options)):
            where = f"{options.path}, row {number}"
            yield f"{name} {number}", _take_text(row, options.text_field, where)
        return
    path = Path(resolve_path(options.path)).expanduser()
    if not path.exists():
        raise MissingDataError(
            f"path={options.path!r} is no file or folder here; give a .txt or .jsonl file, a "
            f"folder of .txt files, {HUB_PREFIX}NAME for a data set of the hub, or {GENERATED!r} "
            "(LLADA_DATA for the shipped configs)."
        )
    if path.suffix in (".jsonl", ".json"):
        for number, (where, row) in enumerate(read_json_lines(path)):
            yield f"{path.name} {number}", _take_text(row, options.text_field, where)
        return
    for file in sorted(path.glob("*.txt")) if path.is_dir() else [path]:
        yield file.name, read_text(file)


def _generated_texts(options: TextOptions) -> Iterator[tuple[str, str]]:
    """Join generated documents until each text is long enough; no text depends on another."""
    for number in range(options.num_texts):
        text = ""
        for document in generate_documents(GENERATED_SEED + number * SEED_STEP, sys.maxsize):
            added = document["text"]
            text = text + added if options.extended_at == "end" else added + text
            if len(text) >= options.min_characters:
                break
        yield f"generated {number}", text


def _load_from_hub(name: str, options: TextOptions) -> Any:
    from datasets import load_dataset

    try:
        # Else `datasets` asks at the terminal, under an alarm that outlives the call.
        return load_dataset(name, options.hub_config, split=options.split, trust_remote_code=False)
    except Exception as error:  # any network, cache or hub error ends in the same remedy
        raise MissingDataError(
            f"path={options.path!r} could not be loaded by the datasets package "
            f"({type(error).__name__}: {str(error).partition(chr(10))[0][:200]}). Check name, "
            f"hub_config={options.hub_config!r} and split={options.split!r}, or fetch it where "
            f"there is a network (hf download {name} --repo-type dataset) and give the file."
        ) from error


def _take_text(row: Mapping[str, Any], field: str, where: str) -> str:
    if field not in row:
        raise MissingDataError(
            f"text_field={field!r} is no field of {where}, which has {', '.join(row)}; set "
            "text_field (LLADA_TEXT_FIELD) to one of them."
        )
    if not isinstance(row[field], str):
        raise ValueError(
            f"{where}: {field}={row[field]!r} must be a text; take the row out, or set text_field "
            "(LLADA_TEXT_FIELD) to the field that holds the text."
        )
    return row[field]


@dataclass(frozen=True, kw_only=True)
class WindowOptions:
    """One point of a curve over context length, the same whatever the curve's other points are.

    Of a text of 8 tokens 01234567, with a length of 4 and a target of 2 tokens, there are scored
    (given what stands before the bar): ``last`` 45|67, at every length the same tokens;
    ``segment``, previous_length 2: 01|23, so that the segments up to a length make up the text;
    ``whole`` |0123. A second window is 23|45 for ``last`` and |4567 for ``whole``.
    """

    length: int
    """Tokens of prefix and target together."""
    target: str = "last"
    target_tokens: int | None = None
    """Tokens scored, for ``last`` alone."""
    previous_length: int | None = None
    """Where the segment begins, for ``segment`` alone."""
    windows_per_text: int = 1
    """Windows taken of a text; they share no scored token. 1 for ``segment``."""

    def __post_init__(self) -> None:
        """Check how the numbers fit together."""
        check_fields(self, "window ")
        reject_unknown("target", [self.target], TARGETS)
        check_at_least(self, 1, "length", "windows_per_text")
        if self.target == "segment" and self.windows_per_text > 1:
            raise ValueError(
                f"windows_per_text={self.windows_per_text} must be 1 with target='segment', whose "
                "segments of all lengths make up one text; take more texts instead (LLADA_TEXTS)."
            )
        for name, target in (("target_tokens", "last"), ("previous_length", "segment")):
            if (getattr(self, name) is None) == (self.target == target):
                raise ValueError(
                    f"{name}={getattr(self, name)} with target={self.target!r}: target={target!r} "
                    "needs it, and it has no effect with others."
                )
        if self.target_tokens is not None and not 1 <= self.target_tokens <= self.length:
            raise ValueError(
                f"target_tokens={self.target_tokens} must be from 1 to length={self.length}, the "
                "shortest context; use a shorter target or longer lengths."
            )
        if self.previous_length is not None and not 0 <= self.previous_length < self.length:
            raise ValueError(
                f"previous_length={self.previous_length} must be from 0 to below "
                f"length={self.length}."
            )

    @property
    def needed_tokens(self) -> int:
        """Tokens of the shortest text that holds all windows."""
        if self.target == "last":
            return self.length + (self.windows_per_text - 1) * (self.target_tokens or 0)
        return self.length * self.windows_per_text

    def check_text(self, size: int, unit: str = "tokens") -> None:
        """Refuse a text that is too short; bytes are a bound that no fewer tokens pass."""
        if size < self.needed_tokens:
            raise ValueError(
                f"A text has {size} {unit}, and {self.windows_per_text} windows of {self.length} "
                f"tokens need {self.needed_tokens}; lower the lengths or the number of windows, "
                "raise min_characters (LLADA_MIN_CHARACTERS) to pass over short texts, or give "
                "longer ones."
            )


def cut_windows(
    token_ids: Sequence[int], options: WindowOptions
) -> Iterator[tuple[list[int], list[int]]]:
    """Yield (prefix, target) for each window of a text's tokens."""
    options.check_text(len(token_ids))
    ids, length = list(token_ids), options.length
    for number in range(options.windows_per_text):
        if options.target == "last":
            assert options.target_tokens is not None, "checked on construction"
            end = len(ids) - number * options.target_tokens
            border = end - options.target_tokens
            yield ids[end - length : border], ids[border:end]
        elif options.target == "segment":
            yield ids[: options.previous_length], ids[options.previous_length : length]
        else:
            yield [], ids[number * length : (number + 1) * length]
