"""Makes OpenCompass data sets of NeedleBench's cells, one a cell."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any, ClassVar

from opencompass_llada.benchmarks.needle.haystack import HaystackStore
from opencompass_llada.benchmarks.needle.samples import NeedleCell, find_source, make_samples
from opencompass_llada.benchmarks.opencompass_bases import CheckedDataset


class NeedleBenchDataset(CheckedDataset):
    """A cell of any of NeedleBench's tasks; keywords are the fields of its `options_class`."""

    title = "NeedleBench data set"
    #: Shared by all cells of a process; bounded.
    store: ClassVar[HaystackStore] = HaystackStore(max_entries=4)

    @classmethod
    def source(cls, options: Mapping[str, Any]) -> tuple[str, ...]:
        """Return folder, files, tokenizer and language."""
        return find_source(options)

    @classmethod
    def check_data(cls, same: Sequence[Mapping[str, Any]]) -> None:
        """Make the samples of the shortest cell and one of the longest, and forget them."""
        by_length = sorted(same, key=lambda options: options["length"])
        # Needles and questions differ in length: what fits the first sample need not fit all.
        for options in (by_length[0], {**by_length[-1], "num_repeats_per_file": 1}):
            for _ in cls.make_rows(cls.check_options(**options)):
                pass


class NeedleBenchSingleDataset(NeedleBenchDataset):
    """Retrieval of a single needle."""

    options_class = NeedleCell

    @classmethod
    def make_rows(cls, options: NeedleCell) -> Iterator[dict[str, str]]:
        """Make the samples; see `make_samples`."""
        return make_samples(options, cls.store)


def check_cells(configs: Sequence[Mapping[str, Any]]) -> None:
    """Make a few samples of single-needle data set configs.

    A fault in data, tokenizer or lengths shows this way before any model is loaded; OpenCompass
    itself builds the model first.

    Raises:
        ValueError: As `NeedleBenchSingleDataset.load`.
    """
    names = {field.name for field in fields(NeedleCell)}
    NeedleBenchSingleDataset.check_data(
        [{name: config[name] for name in config if name in names} for config in configs]
    )
