"""Says in a few sentences what the leaderboard shows: who leads, what is undecided or missing.

States nothing that the tables do not hold. The same scores give the same sentences.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence

from opencompass_llada.report.comparisons import Comparison
from opencompass_llada.report.pairs import difference_interval
from opencompass_llada.report.scores import (
    BOUND_NOTE,
    SAME,
    Score,
    choose_headlines,
    name_some,
)


def make_verdict(scores: Sequence[Score], comparisons: Sequence[Comparison]) -> list[str]:
    """Return the sentences: who leads each benchmark's headline, what is missing, the baseline.

    `scores` have ranks; `comparisons` are with one baseline.
    """
    leaders: list[str] = []
    gaps: list[str] = []
    headlines = choose_headlines(scores)
    for series, column, length in headlines:
        place = (series, column, length)
        members = [s for s in scores if (s.series, s.column, s.length) == place]
        name = series if column == series else f"{series} ({column})"
        where = name if length is None else f"{name} at {length:,} tokens"
        groups: dict[str, list[Score]] = {}
        for score in sorted(members, key=_sort_key):
            if score.score is not None:
                groups.setdefault(score.protocol, []).append(score)
        num_lines = sum(map(len, groups.values()))
        for group in groups.values():
            is_part = 1 < len(group) < num_lines
            part = f", {len(group)} of {num_lines} lines asked the same" if is_part else ""
            leaders.append(_describe_leader(f"{where}{part}", group))
            if not group[0].higher_is_better and len({score.kind for score in group}) > 1:
                gaps.append(f"{where}{part}: {BOUND_NOTE}.")
        gaps += _describe_gaps(where, [s for s in members if s.status == "missing"], len(groups))
    return [*leaders, *gaps, *_describe_baseline(comparisons, headlines)]


def _sort_key(score: Score) -> float:
    return -(score.score or 0.0) if score.higher_is_better else score.score or 0.0


def _describe_gaps(where: str, missing: Sequence[Score], num_groups: int) -> Iterator[str]:
    if num_groups > 1:
        yield (
            f"{where}: {num_groups} groups of models were asked different things (prompts, "
            "tokenizer, number of samples or lengths) and are not compared with each other."
        )
    if missing:
        named, have = name_some([s.entry for s in missing]), "have" if len(missing) > 1 else "has"
        yield f"{where}: {named} {have} no score, since results are missing."


def _describe_leader(where: str, group: Sequence[Score]) -> str:
    """Say who is best of a group, the best of which come first."""
    leader = group[0]
    if len(group) == 1:
        return f"{where}: {leader.entry} has {_show(leader)}, with no other to compare it with."
    lead = _describe_difference(leader, group[1])
    if leader.rank is None:
        why = f" ({leader.undecided})" if leader.undecided else ""
        level = [s.entry for s in group[1:] if abs((s.score or 0) - (leader.score or 0)) < SAME]
        lead = f", level with {name_some(level)}" if level else ""
        best = f"{leader.entry} has the best score, {_show(leader)}"
        return f"{where}: {best}{lead}; not tested{why}."
    if leader.is_decided:
        text = f"{where}: {leader.entry} leads with {_show(leader)}, {lead}"
        untested = [score.entry for score in group[1:] if not _is_paired(leader, score)]
        return f"{text}; not tested against {name_some(untested)}." if untested else f"{text}."
    told = "; ".join(filter(None, (lead, leader.undecided)))
    return f"{where}: {leader.entry} has the best score, {_show(leader)}, {told}."


def _is_paired(one: Score, other: Score) -> bool:
    if one.clusters is None or other.clusters is None:
        return False
    return one.clusters.is_paired_with(other.clusters)


def _show(score: Score) -> str:
    form, unit = ("{:.1f}", " %") if score.higher_is_better else ("{:.4g}", "")
    parts = []
    if score.low is not None and score.high is not None:
        parts.append(f"[{form.format(score.low)}, {form.format(score.high)}]")
    tokens = "" if score.higher_is_better else " tokens"
    parts += [f"n {score.n:,}{tokens}"] if score.n else []
    told = f" ({', '.join(parts)})" if parts else ""
    return f"{form.format(score.score)}{unit}{told}"


def _describe_difference(leader: Score, second: Score) -> str:
    """Say by how much the best line is ahead of the next; '' where both are level."""
    if leader.clusters is None or second.clusters is None or not _is_paired(leader, second):
        return f"{second.entry} follows with {_show(second)}"
    apart = leader.clusters.means_C - second.clusters.means_C
    mean = float(leader.clusters.weights_C @ apart)
    if abs(mean) < SAME:
        return ""
    ends = difference_interval(leader.clusters, second.clusters)
    form, unit = ("{:.1f}", "points") if leader.clusters.is_bounded else ("{:.3f}", "nats a token")
    # Fewer nats are better: the lead is positive either way.
    limits = sorted(math.copysign(1, mean) * end for end in ends or ())
    between = f" [{', '.join(map(form.format, limits))}]" if limits else ""
    return f"{form.format(abs(mean))}{between} {unit} ahead of {second.entry}"


def _describe_baseline(
    comparisons: Sequence[Comparison], headlines: Sequence[tuple[str, str, int | None]]
) -> Iterator[str]:
    """Name the largest decided differences of the headlines, and count all."""
    if not comparisons:
        return
    baseline, counts = comparisons[0].baseline, Counter(found.outcome for found in comparisons)
    parts = [f"{number} {name}" for name, number in sorted(counts.items())]
    yield (
        f"Against the baseline {baseline}: of {len(comparisons)} comparisons {', '.join(parts)} "
        "(5 % level, corrected for their number)."
    )
    for headline in headlines:
        decided = [
            found
            for found in comparisons
            if (found.series, found.column, found.length) == headline
            and found.outcome in ("better", "worse")
        ]
        largest = sorted(decided, key=lambda found: -abs(found.difference or 0.0))
        if largest:
            named = name_some(list(map(_describe_decided, largest)))
            yield f"{headline[0]} ({headline[1]}), decided against {baseline}: {named}."


def _describe_decided(found: Comparison) -> str:
    is_nats = found.metric == "nats a token"
    form, unit = ("{:+.3f}", found.metric) if is_nats else ("{:+.1f}", "points")
    ends = (
        ""
        if found.low is None or found.high is None
        else (f" [{form.format(found.low)}, {form.format(found.high)}]")
    )
    return f"{found.entry} {found.outcome}, {form.format(found.difference)}{ends} {unit}"
