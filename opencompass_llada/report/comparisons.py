"""Compares every line of the leaderboard with a baseline, on the samples that both answered.

Ranks are of all pairs (`scores.rank_scores`); this is of pairs with one line, with their sizes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from opencompass_llada.benchmarks.benchmark import find_benchmark
from opencompass_llada.options import unknown_name_message
from opencompass_llada.report.pairs import (
    ALPHA,
    Clusters,
    clusters_to_decide,
    difference_interval,
    holm,
    pair_p_values,
)
from opencompass_llada.report.scores import Score, choose_headlines, main_metric


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A line's difference to the baseline in one column; no numbers where it is not paired."""

    entry: str
    baseline: str
    benchmark: str
    series: str
    column: str
    length: int | None
    metric: str  # what the difference is of: points of it, or ``nats a token`` of a perplexity
    difference: float | None = None  # the entry's mean less the baseline's
    low: float | None = None  # of the 95 % interval, not corrected for the number of comparisons
    high: float | None = None
    p_value: float | None = None
    adjusted_p: float | None = None  # by Holm, within the family
    num_pairs: int | None = None  # samples that both answered
    num_clusters: float | None = None  # effective number of independent ones (needles, documents)
    outcome: str = "not paired"  # or ``better``, ``worse``, ``undecided``
    more_samples: int | None = None  # about how many more clusters would decide; None if decided
    reason: str = ""  # why it is not paired


def compare_lines(scores: Sequence[Score], baseline: str | None = None) -> list[Comparison]:
    """Compare all lines with the baseline, the first by default.

    Compared are averages, and tasks of benchmarks without any, in a benchmark's main metric.
    A family, within which Holm corrects, is the headline of a benchmark with all lines, and another
    all its other columns with all lines: lengths do not cost the headline its decisions.

    Raises:
        ValueError: For a baseline that is no line.
    """
    entries = list(dict.fromkeys(score.entry for score in scores))
    if baseline is not None and baseline not in entries:
        raise ValueError(unknown_name_message("baseline", baseline, entries))
    baseline = baseline or next(iter(entries), "")
    columns: dict[Any, list[Score]] = defaultdict(list)
    for score in scores:
        benchmark = find_benchmark(score.benchmark)
        if score.is_group or not (benchmark.groups or benchmark.is_grid):
            columns[score.series, score.column, score.length].append(score)
    headlines = set(choose_headlines(scores))
    families: dict[tuple[str, bool], list[_Pair]] = defaultdict(list)
    for column, members in columns.items():
        is_main = members[0].metric == main_metric(scores, members[0].benchmark)
        if is_main and any(score.status != "not run" for score in members):
            base = next((score for score in members if score.entry == baseline), None)
            others = [score for score in members if score.entry != baseline]
            family = families[column[0], column in headlines]
            family += [_describe(score, base, baseline) for score in others]
    return [found for family in families.values() for found in _compare_family(family)]


class _Pair(NamedTuple):
    found: Comparison  # without its numbers
    higher_is_better: bool
    clusters: list[Clusters]  # of the line and the baseline; none where they are not paired


def _describe(score: Score, base: Score | None, baseline: str) -> _Pair:
    reason = _why_not(score, base, baseline)
    found = Comparison(
        entry=score.entry,
        baseline=baseline,
        benchmark=score.benchmark,
        series=score.series,
        column=score.column,
        length=score.length,
        metric="nats a token" if score.benchmark == "perplexity" else score.metric,
        reason=reason,
    )
    paired = [] if reason else [s.clusters for s in (score, base) if s and s.clusters]
    return _Pair(found, score.higher_is_better, paired)


def _why_not(score: Score, base: Score | None, baseline: str) -> str:
    """Say why two lines are not paired, '' if they are."""
    if base is None or base.score is None:
        return f"{baseline} has no score here"
    if score.score is None:
        return f"no score: {score.reason}"
    if score.protocol != base.protocol:
        return (
            f"not asked the same as {baseline}: prompts, tokenizer, number of samples or lengths "
            "differ"
        )
    if score.clusters is None or base.clusters is None:
        return "no scores by sample are recorded"
    if not score.clusters.is_paired_with(base.clusters):
        return "samples have other needles or gold answers"
    return ""


def _compare_family(family: Sequence[_Pair]) -> Iterator[Comparison]:
    """Yield the comparisons of a family with numbers, p-values corrected together, and outcomes."""
    first_and_second = np.array([0]), np.array([1])
    p_values = [
        float(pair_p_values(pair.clusters, *first_and_second)[0]) if pair.clusters else None
        for pair in family
    ]
    adjusted = iter(holm(np.array([p for p in p_values if p is not None])).tolist())
    all_adjusted = [None if p is None else next(adjusted) for p in p_values]
    num_undecided = sum(p is not None and p > ALPHA for p in all_adjusted)
    for pair, p_value, adjusted_p in zip(family, p_values, all_adjusted, strict=True):
        if adjusted_p is None:
            yield pair.found
            continue
        own, base = pair.clusters
        difference = float(own.weights_C @ (own.means_C - base.means_C))
        outcome = "better" if (difference > 0) == pair.higher_is_better else "worse"
        outcome = "undecided" if adjusted_p > ALPHA else outcome
        more = clusters_to_decide(own, base, num_undecided) if adjusted_p > ALPHA else None
        low, high = difference_interval(own, base) or (None, None)
        yield replace(
            pair.found,
            difference=difference,
            low=low,
            high=high,
            p_value=p_value,
            adjusted_p=adjusted_p,
            num_pairs=own.num_samples,
            num_clusters=own.effective_number,
            outcome=outcome,
            more_samples=more,
        )
