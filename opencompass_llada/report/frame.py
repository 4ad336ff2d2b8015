"""The tidy table of several runs: one row a model, data set and metric, with what it means.

`collect` fills it; here are its columns and its two file formats, CSV and Parquet.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from opencompass_llada.files import replacing
from opencompass_llada.report.results import ResultRow
from opencompass_llada.report.safe_text import write_csv_rows

#: ``partial`` besides the three of one run: a result exists, and samples of it are missing.
STATUSES = ("ok", "missing", "failed", "partial")
KINDS = ("diffusion", "autoregressive", "unknown")


@dataclass(frozen=True, kw_only=True)
class TidyRow(ResultRow):
    """A result with where it comes from and what makes it comparable."""

    run: str
    """Name of the run."""
    entry: str
    """Line of the leaderboard: model and scaling, and what tells it from its likes."""
    checkpoint: str
    """The model's path in the config, and the adapter's besides where there is one."""
    kind: str
    """``diffusion``, ``autoregressive`` or ``unknown``."""
    sampler: str
    """How text was generated, besides its length."""
    generation_length: int | None
    """Tokens generated, where the config says."""
    prompt_limit: str
    """What bounds prompts (max_seq_len and truncation); empty for nothing."""
    template_hash: str
    """Of what the config says on prompts, lengths and places left out."""
    prompt_hash: str | None
    """Of the prompts themselves, in order; None where no predictions are left."""
    tokenizer_hash: str | None
    """Of what counts lengths, where its files are at hand."""
    data: str
    """Where the data came from (the config's path)."""
    trained_length: int | None
    """Tokens that the model was trained on, where known."""
    recorded: str
    """When the answers were made, ISO 8601 in UTC; empty where nothing says."""


def as_records(rows: Sequence[TidyRow]) -> list[dict[str, Any]]:
    """Return rows as dictionaries."""
    names = [field.name for field in fields(TidyRow)]
    return [{name: getattr(row, name) for name in names} for row in rows]


def write_tidy_csv(rows: Sequence[TidyRow]) -> str:
    """Return the table as CSV; what is missing is an empty field."""
    return write_csv_rows([field.name for field in fields(TidyRow)], as_records(rows))


def write_tidy_parquet(rows: Sequence[TidyRow], path: Path) -> Path:
    """Write the table as Parquet, with a type for every column even if all of it is missing.

    Args:
        rows: The table.
        path: File to write.
    """
    import pyarrow
    import pyarrow.parquet

    kinds = {"int": pyarrow.int64(), "float": pyarrow.float64(), "str": pyarrow.string()}
    schema = pyarrow.schema(
        [(field.name, kinds[str(field.type).split(" ")[0]]) for field in fields(TidyRow)]
    )
    table = pyarrow.Table.from_pylist(as_records(rows), schema=schema)
    with replacing(path) as temporary:
        pyarrow.parquet.write_table(table, temporary)
    return path
