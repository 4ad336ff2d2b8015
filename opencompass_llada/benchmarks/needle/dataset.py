"""Single-needle retrieval on NeedleBench's data: one OpenCompass data set a cell.

Makes no samples itself (`samples`), scores no answers (`scoring`) and lists no cells
(``needlebench/``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, ClassVar

from datasets import Dataset
from opencompass.datasets.base import BaseDataset

from opencompass_llada.benchmarks.needle.haystack import HaystackStore
from opencompass_llada.benchmarks.needle.samples import (
    NeedleCell,
    find_source,
    make_samples,
    parse_needle_cell,
)


class NeedleBenchSingleDataset(BaseDataset):
    """OpenCompass data set of one cell; keywords are the fields of `NeedleCell`."""

    #: Shared by all cells of a process; bounded.
    store: ClassVar[HaystackStore] = HaystackStore(max_entries=4)

    @staticmethod
    def load(**options: Any) -> Dataset:
        """Make the samples of a cell.

        Args:
            **options: Fields of `NeedleCell`.

        Returns:
            Columns prompt, answer (needle, ``*``, keyword: NeedleBench's own format), needle,
            keyword.

        Raises:
            ValueError: For a wrong option, missing data or a length that cannot be had.
        """
        cell = parse_needle_cell(options)
        return Dataset.from_list(list(make_samples(cell, NeedleBenchSingleDataset.store)))

    @staticmethod
    def check_options(**options: Any) -> NeedleCell:
        """Check the keywords, before any file is opened."""
        return parse_needle_cell(options)

    @staticmethod
    def source(options: Mapping[str, Any]) -> tuple[Any, ...]:
        """Return what its samples are made of: cells that share it are checked together."""
        return find_source(options)

    @staticmethod
    def check_data(cells: Sequence[Mapping[str, Any]]) -> None:
        """Make a few samples of cells with one source; see `check_cells`."""
        check_cells(cells)


def check_cells(configs: Sequence[Mapping[str, Any]]) -> None:
    """Make the samples of the shortest cell and one of the longest, and forget them.

    A fault in data, tokenizer or lengths shows this way before any model is loaded; OpenCompass
    itself builds the model first.

    Args:
        configs: Data set configs of this class.

    Raises:
        ValueError: As `NeedleBenchSingleDataset.load`.
    """
    names = {field.name for field in fields(NeedleCell)}
    by_length = sorted(configs, key=lambda config: config["length"])
    # Needles and questions differ in length: what fits the first sample need not fit the others.
    for config, change in ((by_length[0], {}), (by_length[-1], {"num_repeats_per_file": 1})):
        options = {name: value for name, value in config.items() if name in names}
        for _ in make_samples(parse_needle_cell(options | change), NeedleBenchSingleDataset.store):
            pass
