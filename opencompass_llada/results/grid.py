"""Arranges the rows of a length x depth benchmark as grids, one a model, for tables and figures.

Numbers only: reads no files and draws nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from opencompass_llada.results.table import ModelFacts, ResultRow


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


def make_grids(
    rows: Sequence[ResultRow], metric: str, models: Sequence[ModelFacts] = ()
) -> list[Grid]:
    """Arrange rows that have a length and a depth, one grid a model, language and tokenizer.

    Args:
        rows: From `table.read_results`.
        metric: Which metric's rows.
        models: What is known of the models besides.

    Returns:
        Grids in the rows' order.
    """
    trained = {facts.abbr: facts.trained_length for facts in models}
    groups: dict[tuple[str, str | None, str | None], list[ResultRow]] = {}
    for row in rows:
        if row.metric == metric and row.length is not None and row.depth is not None:
            groups.setdefault((row.model, row.language, row.tokenizer), []).append(row)
    languages = {language for _, language, _ in groups}
    return [
        _make_grid(group, trained.get(model), several_languages=len(languages) > 1)
        for (model, _, _), group in groups.items()
    ]


def _make_grid(
    rows: Sequence[ResultRow], trained_length: int | None, *, several_languages: bool
) -> Grid:
    first = rows[0]
    numbers = {row.n for row in rows if row.status == "ok"}
    scaling = "no scaling" if first.scaling == "none" else first.scaling
    language = f", {first.language}" if several_languages and first.language else ""
    scores = {(row.length, row.depth): row.score for row in rows}
    return Grid(
        model=first.model,
        title=f"{first.title}, {scaling}{language}",
        metric=first.metric,
        unit=_describe_unit(first.tokenizer),
        lengths=tuple(sorted({row.length for row in rows if row.length is not None})),
        depths=tuple(sorted({row.depth for row in rows if row.depth is not None})),
        scores={key: score for key, score in scores.items() if None not in key},  # type: ignore[misc]
        num_samples=numbers.pop() if len(numbers) == 1 else None,
        trained_length=trained_length,
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
        lines.append(f"| {grid.title} | " + " | ".join(fields) + " |")
    return "\n".join(lines) + "\n"


def _mean_field(grid: Grid, length: int) -> str:
    if length not in grid.lengths:
        return ""
    mean = grid.mean_over_depths(length)
    if mean is None:
        return f"missing {grid.num_missing(length)} of {len(grid.depths)}"
    return f"{mean:.1f}"
