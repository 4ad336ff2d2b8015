"""Arranges the rows of a length x depth benchmark as grids, one a model, for tables and figures.

Numbers only: reads no files and draws nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from opencompass_llada.report.results import ModelFacts, ResultRow
from opencompass_llada.report.safe_text import table_field


@dataclass(frozen=True, kw_only=True)
class Grid:
    """One model's scores by length and depth."""

    model: str
    """Abbreviation."""
    title: str
    """Full name with scaling."""
    metric: str
    """What the scores are."""
    unit: str
    """What the lengths are counted with."""
    lengths: tuple[int, ...]
    """Tokens, ascending."""
    depths: tuple[float, ...]
    """Percent, ascending."""
    scores: dict[tuple[int, float], float | None] = field(hash=False)
    """By (length, depth); None for a missing cell."""
    num_samples: int | None
    """Samples a cell, where all cells have the same number."""
    trained_length: int | None
    """Tokens that the model was trained on, where known."""
    rows: dict[tuple[int, float], ResultRow] = field(default_factory=dict, hash=False, repr=False)
    """By (length, depth): where the scores are from."""

    def mean_over_depths(self, length: int) -> float | None:
        """Return a length's mean score, or None if any of its cells is missing."""
        scores = [self.scores.get((length, depth)) for depth in self.depths]
        known = [score for score in scores if score is not None]
        return sum(known) / len(known) if known and len(known) == len(scores) else None

    def num_missing(self, length: int) -> int:
        """Return how many of a length's cells are missing."""
        return sum(self.scores.get((length, depth)) is None for depth in self.depths)

    def mean(self) -> float | None:
        """Return the mean over all cells, or None if any is missing."""
        means = [self.mean_over_depths(length) for length in self.lengths]
        known = [mean for mean in means if mean is not None]
        return sum(known) / len(known) if known and len(known) == len(means) else None


class _Key(NamedTuple):
    """What all cells of a grid have in common, in the order in which a title names it."""

    model: str
    benchmark: str
    language: str | None
    prompt: str | None
    haystack: str | None
    tokenizer: str | None


def make_grids(
    rows: Sequence[ResultRow], metric: str, models: Sequence[ModelFacts] = ()
) -> list[Grid]:
    """Arrange rows that have a length and a depth.

    Each model has one grid for every benchmark, language, prompt form, haystack and tokenizer; the
    title names those that tell a run's grids apart.

    Args:
        rows: From `table.read_results`.
        metric: Which metric's rows.
        models: What is known of the models besides.

    Returns:
        Grids in the rows' order.

    Raises:
        ValueError: If two data sets stand for the same cell of a grid.
    """
    trained = {facts.abbr: facts.trained_length for facts in models}
    groups: dict[_Key, list[ResultRow]] = {}
    for row in rows:
        if row.metric == metric and row.length is not None and row.depth is not None:
            key = _Key(*(getattr(row, name) for name in _Key._fields))
            groups.setdefault(key, []).append(row)
    return [
        _make_grid(group, trained.get(key.model), _name_differences(key, list(groups)))
        for key, group in groups.items()
    ]


def _name_differences(key: _Key, keys: Sequence[_Key]) -> list[str]:
    """Return what tells a grid from the run's others besides its model and scaling."""
    same_language = [other for other in keys if other.language == key.language]
    same_model = [other for other in keys if other.model == key.model]
    parts: list[tuple[str | None, set[str | None]]] = [
        (key.benchmark, {other.benchmark for other in keys}),
        (key.language, {other.language for other in keys}),
        (key.prompt and f"{key.prompt} prompt", {other.prompt for other in keys}),
        (key.haystack, {other.haystack for other in same_language}),
        (_describe_unit(key.tokenizer), {other.tokenizer for other in same_model}),
    ]
    return [name for name, values in parts if name and len(values) > 1]


def _make_grid(
    rows: Sequence[ResultRow], trained_length: int | None, differences: Sequence[str]
) -> Grid:
    first = rows[0]
    numbers = {row.n for row in rows if row.status == "ok"}
    scaling = "no scaling" if first.scaling == "none" else first.scaling
    scores: dict[tuple[int | None, float | None], float | None] = {}
    for row in rows:
        if (row.length, row.depth) in scores:
            raise ValueError(
                f"model {row.model!r}: data set {row.dataset!r} has length {row.length} and depth "
                f"{row.depth:g}, which another one of the same grid has too; a heat map cannot "
                "show both. Evaluate one of them in a run of its own."
            )
        scores[row.length, row.depth] = row.score
    return Grid(
        model=first.model,
        title=", ".join([first.title, scaling, *differences]),
        metric=first.metric,
        unit=_describe_unit(first.tokenizer),
        lengths=tuple(sorted({row.length for row in rows if row.length is not None})),
        depths=tuple(sorted({row.depth for row in rows if row.depth is not None})),
        scores={key: score for key, score in scores.items() if None not in key},  # type: ignore[misc]
        num_samples=numbers.pop() if len(numbers) == 1 else None,
        trained_length=trained_length,
        rows={
            (row.length, row.depth): row
            for row in rows
            if row.length is not None and row.depth is not None
        },
    )


def _describe_unit(tokenizer: str | None) -> str:
    if tokenizer is None:
        return "tokens"
    if tokenizer == "gpt-4":
        return "GPT-4 tokens"
    return f"tokens of {tokenizer.removeprefix('asset:')}"


def write_markdown(grids: Sequence[Grid]) -> str:
    """Write a table of each grid's means over depths, one column a length.

    A mean with a missing cell is not shown: the field says how many are missing.

    Args:
        grids: Grids of one metric.

    Returns:
        Markdown.
    """
    lengths = sorted({length for grid in grids for length in grid.lengths})
    lines = [
        f"Mean {grids[0].metric} over depths, percent; lengths in tokens",
        "",
        "| model | " + " | ".join(f"{length:,}" for length in lengths) + " | all |",
        "|---|" + "---:|" * (len(lengths) + 1),
    ]
    for grid in grids:
        fields = [_mean_field(grid, length) for length in lengths]
        overall = grid.mean()
        fields.append("missing" if overall is None else f"{overall:.1f}")
        lines.append(f"| {table_field(grid.title)} | " + " | ".join(fields) + " |")
    return "\n".join(lines) + "\n"


def _mean_field(grid: Grid, length: int) -> str:
    if length not in grid.lengths:
        return ""
    mean = grid.mean_over_depths(length)
    if mean is None:
        return f"missing {grid.num_missing(length)} of {len(grid.depths)}"
    return f"{mean:.1f}"
