"""Says in a few sentences what the leaderboard shows: who leads, what is undecided or missing.

States nothing that the tables do not hold. The same scores give the same sentences.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from opencompass_llada.report.comparisons import Comparison
from opencompass_llada.report.pairs import difference_interval
from opencompass_llada.report.scores import Score, choose_headlines

MOST_NAMED = 3


def make_verdict(scores: Sequence[Score], comparisons: Sequence[Comparison]) -> list[str]:
    """Return the sentences: who leads each benchmark's headline, what is missing, the baseline.

    `scores` have ranks; `comparisons` are with one baseline.
    """
    leaders: list[str] = []
    gaps: list[str] = []
    for series, column, length in choose_headlines(scores):
        place = (series, column, length)
        members = [s for s in scores if (s.series, s.column, s.length) == place]
        name = series if column == series else f"{series} ({column})"
        where = name if length is None else f"{name} at {length:,} tokens"
        groups: dict[str, list[Score]] = {}
        for score in sorted(members, key=_sort_key):
            if score.score is not None:
                groups.setdefault(score.protocol, []).append(score)
        for number, group in enumerate(groups.values(), start=1):
            part = f", group {number} of {len(groups)}" if len(groups) > 1 else ""
            leaders.append(_describe_leader(f"{where}{part}", group))
        gaps += _describe_gaps(where, [s for s in members if s.status == "missing"], len(groups))
    return [*leaders, *gaps, *_describe_baseline(comparisons)]


def _sort_key(score: Score) -> float:
    return -(score.score or 0.0) if score.higher_is_better else score.score or 0.0


def _describe_gaps(where: str, missing: Sequence[Score], num_groups: int) -> Iterator[str]:
    if num_groups > 1:
        yield (
            f"{where}: {num_groups} groups of models were asked different things (prompts, "
            "tokenizer, number of samples or lengths) and are not compared with each other."
        )
    if missing:
        named = ", ".join(score.entry for score in missing[:MOST_NAMED])
        more = f" and {len(missing) - MOST_NAMED} more" if len(missing) > MOST_NAMED else ""
        yield f"{where}: {named}{more} has no score, since results are missing."


def _describe_leader(where: str, group: Sequence[Score]) -> str:
    """Say who is best of a group, the best of which come first."""
    leader = group[0]
    if len(group) == 1:
        return f"{where}: {leader.entry} has {_show(leader)}, with no other to compare it with."
    second = group[1]
    lead = _describe_difference(leader, second)
    if leader.rank is None:
        why = f" ({leader.undecided})" if leader.undecided else ""
        return f"{where}: {leader.entry} has the best score, {_show(leader)}; not tested{why}."
    if leader.is_decided:
        return f"{where}: {leader.entry} leads with {_show(leader)}, {lead}."
    return (
        f"{where}: {leader.entry} has the best score, {_show(leader)}, {lead}; {leader.undecided}."
    )


def _show(score: Score) -> str:
    form, unit = ("{:.1f}", " %") if score.higher_is_better else ("{:.4g}", "")
    parts = []
    if score.low is not None and score.high is not None:
        parts.append(f"[{form.format(score.low)}, {form.format(score.high)}]")
    parts += [f"n {score.n:,}"] if score.n else []
    told = f" ({', '.join(parts)})" if parts else ""
    return f"{form.format(score.score)}{unit}{told}"


def _describe_difference(leader: Score, second: Score) -> str:
    """Say by how much the best line is ahead of the next."""
    if leader.clusters is None or second.clusters is None:
        return f"{second.entry} follows with {_show(second)}"
    if not leader.clusters.is_paired_with(second.clusters):
        return f"{second.entry} follows with {_show(second)}"
    apart = leader.clusters.means_C - second.clusters.means_C
    mean = float(leader.clusters.weights_C @ apart)
    if abs(mean) < 1e-9:
        return f"level with {second.entry}"
    ends = difference_interval(leader.clusters, second.clusters)
    form, unit = ("{:.1f}", "points") if leader.clusters.is_bounded else ("{:.3f}", "nats a token")
    low, high = sorted(map(abs, ends)) if ends and ends[0] * ends[1] > 0 else ends or (None, None)
    between = "" if low is None else f" [{form.format(low)}, {form.format(high)}]"
    return f"{form.format(abs(mean))}{between} {unit} ahead of {second.entry}"


def _describe_baseline(comparisons: Sequence[Comparison]) -> Iterator[str]:
    counts = Counter(found.outcome for found in comparisons)
    if not comparisons:
        return
    parts = [f"{number} {name}" for name, number in sorted(counts.items())]
    yield (
        f"Against the baseline {comparisons[0].baseline}: of {len(comparisons)} comparisons "
        f"{', '.join(parts)} (5 % level, corrected for their number)."
    )
