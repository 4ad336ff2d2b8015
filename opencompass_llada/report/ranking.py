"""Ranks with ties inside the intervals, among scores that ask the same. Knows scores only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from opencompass_llada.report.board import Score


def rank_scores(scores: Sequence[Score]) -> tuple[list[Score], list[str]]:
    """Give every score its rank in its column.

    A line's rank is 1 plus the number of lines whose 95 % interval lies wholly on the better side
    of its own; lines with overlapping intervals are tied. That is careful: two intervals that just
    touch differ at about the 0.6 % level, not 5 %. Scores of other protocols (prompts, tokenizer,
    number of samples) are ranked among themselves, and scores without an interval have no rank.

    Args:
        scores: From `board.make_board`.

    Returns:
        The scores with ranks, in order, and remarks on columns with several protocols.
    """
    columns: dict[tuple[str, str, int | None], list[Score]] = {}
    for score in scores:
        columns.setdefault((score.series, score.column, score.length), []).append(score)
    ranked: dict[int, Score] = {}
    mixed: dict[str, set[tuple[str, ...]]] = {}
    for (series, _, _), members in columns.items():
        known = [score for score in members if score.score is not None]
        by_protocol: dict[str, list[Score]] = {}
        for score in known:
            by_protocol.setdefault(score.protocol, []).append(score)
        if len(by_protocol) > 1:
            names = [" + ".join(score.entry for score in group) for group in by_protocol.values()]
            mixed.setdefault(series, set()).add(tuple(names))
        for group in by_protocol.values():
            for score in group:
                ranked[id(score)] = _rank(score, group)
    remarks: dict[tuple[str, ...], list[str]] = {}
    for series, groupings in mixed.items():
        remarks.setdefault(max(sorted(groupings), key=len), []).append(series)
    said = [
        f"{' and '.join(names)}: not all lines were asked the same (prompts, tokenizer, number of "
        f"samples or lengths differ), so ranks count within {' | '.join(grouping)}"
        for grouping, names in remarks.items()
    ]
    return [ranked.get(id(score), score) for score in scores], said


def _rank(score: Score, group: Sequence[Score]) -> Score:
    values = [other.score or 0.0 for other in group]
    best = max(values) if score.higher_is_better else min(values)
    score = replace(score, is_top=score.score == best and len(set(values)) > 1)
    others = [other for other in group if other.entry != score.entry and other.low is not None]
    if score.low is None or score.high is None:
        return score
    better = sum(_is_better(other, score) for other in others)
    worse = sum(_is_better(score, other) for other in others)
    return replace(score, rank=1 + better, tied=better + worse < len(others))


def _is_better(first: Score, second: Score) -> bool:
    """Whether the first's whole interval lies on the better side of the second's."""
    if first.low is None or first.high is None or second.low is None or second.high is None:
        return False
    if first.higher_is_better:
        return first.low > second.high
    return first.high < second.low
