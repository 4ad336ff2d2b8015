"""Multi-needle retrieval and reasoning on NeedleBench's data, lengths counted by any tokenizer.

Retrieval hides one needle at each of several depths and asks for all of them; reasoning hides the
steps of a derivation and asks for what follows. Prompts of the chat form equal OpenCompass's own
byte for byte when counted with GPT-4's tokenizer. Scores no answers (`scoring`).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from datasets import Dataset
from opencompass.datasets.base import BaseDataset

from opencompass_llada.benchmarks.multi_needle.prompts import (
    ReasoningNeedles,
    RetrievalNeedle,
    place_chain,
    place_parallel,
    read_reasoning_needles,
    read_retrieval_needles,
    write_reasoning_question,
    write_retrieval_prompt,
    write_retrieval_question,
)
from opencompass_llada.benchmarks.needle.haystack import (
    HaystackStore,
    document_orders,
    require_file,
    resolve_data_directory,
)
from opencompass_llada.benchmarks.needle.prompts import write_prompt
from opencompass_llada.benchmarks.needle.samples import (
    NeedleCell,
    find_source,
    parse_needle_cell,
    size_prompt,
)

#: What result tables read of a data set config; it does not change the samples.
TABLE_KEYS = ("benchmark", "task")
Place = Callable[[Sequence[int], Sequence[Sequence[int]]], list[int]]


@dataclass(frozen=True, kw_only=True)
class _MultiCell(NeedleCell):
    """Rules that both kinds of cell share."""

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ValueError: With the name, the value, the rule and a valid value.
        """
        super().__post_init__()
        if not self.guide and self.position != "End":
            raise ValueError(
                f"position={self.position!r} with guide=False: a base model's prompt ends in the "
                "beginning of the answer, after the question; use position='End'."
            )


@dataclass(frozen=True, kw_only=True)
class RetrievalCell(_MultiCell):
    """A cell of multi-needle retrieval."""

    depth: float = 0
    """No effect: see ``depths``."""
    depths: Sequence[float]
    """Where the needles stand, percent, ascending; one needle each."""

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ValueError: With the name, the value, the rule and a valid value.
        """
        super().__post_init__()
        depths = list(self.depths)
        if not depths or depths != sorted(depths) or not 0 <= depths[0] <= depths[-1] <= 100:
            raise ValueError(
                f"depths={depths} must be percentages from 0 to 100 in ascending order, at least "
                "one."
            )


@dataclass(frozen=True, kw_only=True)
class ReasoningCell(_MultiCell):
    """A cell of multi-needle reasoning; ``depth`` is that of the first needle."""

    num_needles: int
    """Steps of the derivation; NeedleBench asks for 2 to 5."""
    diff: float
    """Percent of the context between two needles; NeedleBench's is 10."""


class _MultiNeedleDataset(BaseDataset):
    """What both data sets offer to the checks before a run."""

    cell: ClassVar[type[NeedleCell]]

    @classmethod
    def check_options(cls, **options: Any) -> NeedleCell:
        """Check the keywords, before any file is opened."""
        return parse_needle_cell(_without_table_keys(options), cls.cell)

    @staticmethod
    def source(options: Mapping[str, Any]) -> tuple[Any, ...]:
        """Return what its samples are made of: cells that share it are checked together."""
        return find_source(options)

    @classmethod
    def check_data(cls, cells: Sequence[Mapping[str, Any]]) -> None:
        """Make one sample of the shortest and of the longest cell, and forget them."""
        by_length = sorted(cells, key=lambda cell: cell["length"])
        for options in (by_length[0], by_length[-1]):
            cls.load(**{**options, "num_repeats_per_file": 1})


class MultiNeedleRetrievalDataset(_MultiNeedleDataset):
    """OpenCompass data set of one cell; keywords are the fields of `RetrievalCell`."""

    cell = RetrievalCell

    #: Shared by all cells of a process; bounded.
    store: ClassVar[HaystackStore] = HaystackStore(max_entries=4)

    @staticmethod
    def load(**options: Any) -> Dataset:
        """Make the samples of a cell.

        Args:
            **options: Fields of `RetrievalCell`, and `TABLE_KEYS`.

        Returns:
            Columns prompt and answer (``KEYWORD*KEYWORD#DEPTH*DEPTH``, NeedleBench's own format).

        Raises:
            ValueError: For a wrong option, missing data or a length that cannot be had.
        """
        cell = parse_needle_cell(_without_table_keys(options), RetrievalCell)
        assert isinstance(cell, RetrievalCell)
        samples = retrieval_samples(cell, MultiNeedleRetrievalDataset.store)
        return Dataset.from_list(list(samples))


class MultiNeedleReasoningDataset(_MultiNeedleDataset):
    """OpenCompass data set of one cell; keywords are the fields of `ReasoningCell`."""

    cell = ReasoningCell

    @staticmethod
    def load(**options: Any) -> Dataset:
        """Make the samples of a cell.

        Args:
            **options: Fields of `ReasoningCell`, and `TABLE_KEYS`.

        Returns:
            Columns prompt and answer (``ANSWER*ANSWER``, NeedleBench's own format).

        Raises:
            ValueError: For a wrong option, missing data or a length that cannot be had.
        """
        cell = parse_needle_cell(_without_table_keys(options), ReasoningCell)
        assert isinstance(cell, ReasoningCell)
        samples = reasoning_samples(cell, MultiNeedleRetrievalDataset.store)
        return Dataset.from_list(list(samples))


def _without_table_keys(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name not in TABLE_KEYS}


def retrieval_samples(cell: RetrievalCell, store: HaystackStore) -> Iterator[dict[str, str]]:
    """Yield a cell's samples, file by file and repeat by repeat.

    Args:
        cell: The cell.
        store: Where tokenizers and tokenized haystacks are kept.
    """
    directory = resolve_data_directory(cell.path)
    path = require_file(directory, cell.needle_file_name)
    chosen = read_retrieval_needles(path, cell.language, len(cell.depths))

    def make(repeat: int) -> tuple[list[str], Callable[[str], str], str]:
        needles: list[RetrievalNeedle] = list(chosen)
        random.Random(repeat).shuffle(needles)
        question = write_retrieval_question(needles, cell.language, guide=cell.guide)
        keywords = "*".join(needle.keyword for needle in needles)
        depths = "*".join(map(str, cell.depths))

        def write(context: str) -> str:
            return write_retrieval_prompt(
                context, question, cell.language, cell.position, guide=cell.guide
            )

        return [needle.text for needle in needles], write, f"{keywords}#{depths}"

    yield from _samples(
        cell, store, make, lambda context, needles: place_parallel(context, needles, cell.depths)
    )


def reasoning_samples(cell: ReasoningCell, store: HaystackStore) -> Iterator[dict[str, str]]:
    """Yield a cell's samples, file by file and repeat by repeat.

    Args:
        cell: The cell.
        store: Where tokenizers and tokenized haystacks are kept.
    """
    directory = resolve_data_directory(cell.path)
    path = require_file(directory, cell.needle_file_name)
    records = read_reasoning_needles(path, cell.num_needles)

    def make(repeat: int) -> tuple[list[str], Callable[[str], str], str]:
        record: ReasoningNeedles = random.Random(repeat).choice(records)
        question = write_reasoning_question(record.question, cell.language, guide=cell.guide)

        def write(context: str) -> str:
            return write_prompt(context, question, cell.language, cell.position)

        return list(record.texts), write, f"{record.answer}*{record.answer}"

    yield from _samples(
        cell,
        store,
        make,
        lambda context, needles: place_chain(context, needles, cell.depth, cell.diff),
    )


def _samples(
    cell: NeedleCell,
    store: HaystackStore,
    make: Callable[[int], tuple[list[str], Callable[[str], str], str]],
    place: Place,
) -> Iterator[dict[str, str]]:
    """Yield samples; ``make`` gives needles, a writer of the prompt and the answer column."""
    tokenizer = store.tokenizer(cell.tokenizer)
    directory = resolve_data_directory(cell.path)
    for path in [require_file(directory, name) for name in cell.file_list]:
        haystack = store.haystack(path, cell.tokenizer)
        orders = document_orders(len(haystack), cell.num_repeats_per_file)
        for repeat, order in enumerate(orders):
            texts, write_around, answer = make(repeat)
            needles = [tokenizer.encode(f"\n{text}\n") for text in texts]
            context = haystack.take(order, cell.length)

            def write(
                num_tokens: int,
                context: Sequence[int] = context,
                needles: Sequence[Sequence[int]] = needles,
                write_around: Callable[[str], str] = write_around,
            ) -> str:
                return write_around(tokenizer.decode(place(context[:num_tokens], needles)))

            num_needle_tokens = sum(map(len, needles))
            prompt = size_prompt(cell, write, num_needle_tokens, len(context), tokenizer, path.name)
            yield {"prompt": prompt, "answer": answer}


def check_cells(configs: Sequence[Mapping[str, Any]]) -> None:
    """Make one sample of the shortest and of the longest retrieval cell, and forget them.

    Args:
        configs: Data set configs of `MultiNeedleRetrievalDataset`.

    Raises:
        ValueError: As `MultiNeedleRetrievalDataset.load`.
    """
    host_keys = ("abbr", "type", "reader_cfg", "infer_cfg", "eval_cfg", *TABLE_KEYS)
    by_length = sorted(configs, key=lambda config: config["length"])
    for config in (by_length[0], by_length[-1]):
        options = {name: value for name, value in config.items() if name not in host_keys}
        cell = parse_needle_cell(options, RetrievalCell)
        assert isinstance(cell, RetrievalCell)
        small = replace(cell, num_repeats_per_file=1)
        for _ in retrieval_samples(small, MultiNeedleRetrievalDataset.store):
            pass
