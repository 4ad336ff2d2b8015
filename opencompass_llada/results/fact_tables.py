"""Tables of effective lengths, costs and published figures. Computes nothing."""

from __future__ import annotations

from collections.abc import Sequence

from opencompass_llada.results.benchmarks import find_benchmark
from opencompass_llada.results.cost import Cost
from opencompass_llada.results.effective_length import (
    OWN_SHARE,
    RULER_THRESHOLD,
    EffectiveLength,
)
from opencompass_llada.results.published import TRUST, Comparison, Figure
from opencompass_llada.results.table_cells import (
    Cell,
    Table,
    length_cell,
    number_cell,
    score_cell,
)

RULE_NAMES = {
    "absolute": f"≥ {RULER_THRESHOLD:g} %",
    "relative": f"≥ {100 * OWN_SHARE:g} % of own",
}


def make_lengths(lengths: Sequence[EffectiveLength]) -> Table:
    """Return effective lengths with their thresholds."""
    rows = []
    for item in lengths:
        threshold = "missing" if item.threshold is None else f"{item.threshold:.1f}"
        base = "" if item.base_length is None else f"{item.base_length:,}"
        rows.append(
            (
                Cell(text=item.entry),
                Cell(text=item.series),
                Cell(text=RULE_NAMES[item.rule]),
                Cell(text=threshold, value=item.threshold),
                Cell(text=base, value=item.base_length),
                length_cell(item),
            )
        )
    return Table(
        name="effective_length",
        title="Effective context length",
        heads=("model", "benchmark", "rule", "threshold", "own score at", "effective length"),
        rows=tuple(rows),
        num_labels=3,
        notes=(
            "RULER's rule: the longest measured length whose score holds the threshold; shorter "
            "ones that do not are named. "
            f"{RULER_THRESHOLD:g} %: Llama2-7B at 4K on RULER's 13 tasks (arXiv 2404.06654); for "
            "other benchmarks it is an orientation. Relative: to the model's own score at 4K, or "
            "at the shortest measured length where 4K was not measured.",
            "≥: the longest measured length still holds. <: no measured length holds; the shortest "
            "is named. Brackets: the longest length whose 95 % interval lies wholly above the "
            "threshold, to the longest whose interval reaches it. Lengths without a result are "
            "passed over.",
        ),
    )


def make_costs(costs: Sequence[Cost]) -> Table:
    """Return what generation took."""
    rows = []
    for cost in costs:
        memory = cost.peak_memory_bytes
        numbers = (
            (cost.seconds, "{:.1f}"),
            (cost.seconds_per_sample, "{:.3g}"),
            (cost.nfe_per_sample, "{:.4g}"),
            (cost.num_batch_passes, "{:,.0f}"),
            (cost.tokens_per_second, "{:.1f}"),
            (None if memory is None else memory / 2**30, "{:.2f}"),
        )
        rows.append(
            (
                Cell(text=cost.entry),
                Cell(text=cost.kind),
                Cell(text=find_benchmark(cost.benchmark).title),
                *(number_cell(value, form, cost.reason) for value, form in numbers),
                Cell(text=cost.device or "not recorded"),
            )
        )
    return Table(
        name="cost",
        title="Cost of generation",
        heads=("model", "kind", "benchmark", "seconds", "seconds a sample", "NFE a sample",
               "passes of batches", "generated tokens/s", "peak memory, GiB", "device"),
        rows=tuple(rows),
        num_labels=3,
        notes=(
            "Seconds in the model, loading left out. NFE: forward passes that a sample went "
            "through until its answer was complete, as many as alone. Passes of batches: the "
            "model's calls, each for all samples of a batch. Prompt tokens are not counted as "
            "generated. Memory: tensors on the GPU; on a CPU the peak of the whole process, which "
            "the next data set inherits.",
        ),
    )  # fmt: skip


def make_comparisons(comparisons: Sequence[Comparison]) -> Table:
    """Return measured beside published figures."""
    rows = []
    for pair in comparisons:
        figure, score = pair.figure, pair.measured
        inside = {True: "yes", False: "no", None: ""}[pair.is_inside]
        rows.append(
            (
                Cell(text=score.entry),
                Cell(text=score.series),
                Cell(text=figure.column),
                Cell(text="" if figure.length is None else f"{figure.length:,}",
                     value=figure.length),
                score_cell(score),
                Cell(text=f"{figure.value:g}", value=figure.value, hover=figure.note),
                number_cell(pair.difference, "{:+.1f}", score.reason),
                Cell(text=inside),
                Cell(text=figure.trust.replace("_", "-"), hover=TRUST[figure.trust]),
                Cell(text=f"{figure.paper}, {figure.table}", hover=figure.source),
            )
        )  # fmt: skip
    return Table(
        name="published_beside_measured",
        title="Published beside measured",
        heads=("model", "benchmark", "column", "length", "measured", "published", "difference",
               "inside the interval", "trust", "paper"),
        rows=tuple(rows),
        num_labels=4,
        notes=tuple(f"{name.replace('_', '-')}: {text}" for name, text in TRUST.items()),
    )  # fmt: skip


def make_published(figures: Sequence[Figure], left_out: Sequence[str]) -> Table:
    """Return all published figures."""
    rows = [
        (
            Cell(text=f"{figure.paper}, {figure.table}"),
            Cell(text=figure.model),
            Cell(text=figure.scaling),
            Cell(text=figure.benchmark),
            Cell(text=figure.column),
            Cell(text="" if figure.length is None else f"{figure.length:,}", value=figure.length),
            Cell(text=f"{figure.value:g}", value=figure.value),
            Cell(text=figure.trust.replace("_", "-"), hover=TRUST[figure.trust]),
            Cell(text="; ".join(part for part in (figure.source, figure.note) if part)),
        )
        for figure in figures
    ]
    return Table(
        name="published",
        title="Published figures",
        heads=("paper", "model", "scaling", "benchmark", "column", "length", "value", "trust",
               "source"),
        rows=tuple(rows),
        num_labels=6,
        notes=(*(f"{name.replace('_', '-')}: {text}" for name, text in TRUST.items()),
               *(f"left out: {reason}" for reason in left_out)),
    )  # fmt: skip
