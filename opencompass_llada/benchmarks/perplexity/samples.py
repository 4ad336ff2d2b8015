"""Texts to measure perplexity on: generated, text files, jsonl files, or a data set of the hub.

Gives whole texts. Which tokens of them are scored is decided by `windows`, once a model's
tokenizer is known.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from datasets import Dataset
from opencompass.datasets.base import BaseDataset

from opencompass_llada.assets import resolve_path
from opencompass_llada.benchmarks.data_files import MissingDataError, read_json_lines, read_text
from opencompass_llada.options import build, check_fields, unknown_name_message
from opencompass_llada.synthetic import generate_documents

GENERATED = "generated"
HUB_PREFIX = "hub:"
#: Of the first generated text; each further one has `SEED_STEP` more. Neither tiny-llada's training
#: (seed 1) nor the embedded haystack (0) has seen any of them.
GENERATED_SEED = 3
SEED_STEP = 1000
#: Keys of a data set config that say what its cell is; the summarizer reads them, the text not.
CELL_KEYS = ("benchmark", "task", "length", "previous_length", "target")


@dataclass(frozen=True, kw_only=True)
class TextOptions:
    """Where texts come from and which are taken."""

    path: str
    """``generated``; a .txt file (one text), a folder of them, a .jsonl file, or ``hub:NAME``,
    which the `datasets` package loads from the hub or its cache without running its code."""
    num_texts: int = 1
    """Texts wanted, in the order that the source has."""
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
    """Split of a hub data set."""

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            ValueError: With the name, the value and the rule.
        """
        check_fields(self)
        for name in ("num_texts", "min_characters"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1.")
        if self.extended_at not in ("start", "end"):
            raise ValueError(
                unknown_name_message("extended_at", self.extended_at, ("start", "end"))
            )


class PerplexityDataset(BaseDataset):
    """OpenCompass data set of texts; keywords are the fields of `TextOptions`.

    Takes besides, without effect on the texts, what a curve is drawn by: see `CELL_KEYS`.
    """

    @staticmethod
    def load(**options: Any) -> Dataset:
        """Read the texts.

        Args:
            **options: Fields of `TextOptions`, and `CELL_KEYS`.

        Returns:
            Columns text and name.

        Raises:
            ValueError: For a wrong option or missing data.
        """
        return Dataset.from_list(read_texts(parse_text_options(options)))

    @staticmethod
    def check_options(**options: Any) -> TextOptions:
        """Check the keywords, before any file is opened."""
        return parse_text_options(options)

    @staticmethod
    def source(options: Mapping[str, Any]) -> TextOptions:
        """Return what its samples are made of: points of one curve share it."""
        return parse_text_options(options)

    @staticmethod
    def check_data(same: Sequence[Mapping[str, Any]]) -> None:
        """Read the texts of points with one source, and forget them; not those of the hub."""
        options = parse_text_options(same[0])
        if not options.path.startswith(HUB_PREFIX):
            read_texts(options)


def parse_text_options(options: Mapping[str, Any]) -> TextOptions:
    """Read a data set config's keywords.

    Raises:
        ValueError: For an unknown keyword (names the nearest), or a wrong value.
    """
    return build(TextOptions, options, "perplexity data set", also=CELL_KEYS)


def read_texts(options: TextOptions) -> list[dict[str, str]]:
    """Read the texts that the options ask for.

    Returns:
        ``{"text": ..., "name": ...}`` each, exactly ``num_texts``.

    Raises:
        MissingDataError: If the source is not there, or holds too few texts that are long enough.
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
    if options.path == GENERATED:
        return _generated_texts(options)
    if options.path.startswith(HUB_PREFIX):
        return _hub_texts(options)
    path = Path(resolve_path(options.path)).expanduser()
    if not path.exists():
        raise MissingDataError(
            f"path={options.path!r} is no file or folder here; give a .txt or .jsonl file, a "
            f"folder of .txt files, {HUB_PREFIX}NAME for a data set of the hub, or {GENERATED!r} "
            "(LLADA_DATA for the shipped configs)."
        )
    if path.suffix in (".jsonl", ".json"):
        return _jsonl_texts(path, options.text_field)
    files = sorted(path.glob("*.txt")) if path.is_dir() else [path]
    return ((file.name, read_text(file)) for file in files)


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


def _jsonl_texts(path: Path, field: str) -> Iterator[tuple[str, str]]:
    for number, (where, row) in enumerate(read_json_lines(path)):
        yield f"{path.name} {number}", _field(row, field, where)


def _hub_texts(options: TextOptions) -> Iterator[tuple[str, str]]:
    from datasets import load_dataset

    name = options.path.removeprefix(HUB_PREFIX)
    try:
        # Else `datasets` asks at the terminal, under an alarm that outlives the call.
        rows = load_dataset(name, options.hub_config, split=options.split, trust_remote_code=False)
    except Exception as error:  # any network, cache or hub error ends in the same remedy
        raise MissingDataError(
            f"path={options.path!r} could not be loaded by the datasets package "
            f"({type(error).__name__}: {str(error).partition(chr(10))[0][:200]}). Check name, "
            f"hub_config={options.hub_config!r} and split={options.split!r}, or fetch it where "
            f"there is a network (hf download {name} --repo-type dataset) and give the file."
        ) from error
    for number, row in enumerate(rows):
        where = f"{options.path}, row {number}"
        yield f"{name} {number}", _field(row, options.text_field, where)


def _field(row: Mapping[str, Any], field: str, source: str) -> str:
    if field not in row:
        raise MissingDataError(
            f"text_field={field!r} is no field of {source}, which has {', '.join(row)}; set "
            "text_field (LLADA_TEXT_FIELD) to one of them."
        )
    if not isinstance(row[field], str):
        raise ValueError(
            f"{source}: {field}={row[field]!r} must be a text; take the row out, or set text_field "
            "(LLADA_TEXT_FIELD) to the field that holds the text."
        )
    return row[field]
