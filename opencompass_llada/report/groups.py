"""Orders the lines of a table by score, and keeps apart those that were asked different things."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas

from opencompass_llada.report.scores import Score

#: Headline, series and length of a score: a column of a table.
Column = tuple[str, str, int | None]
#: Benchmark and two lines -> on what they were asked differently.
Explain = Callable[[str, str, str], str]
#: What is asked, with its name, by column of the results; hashes stand last and have no values.
_ASKED = {
    "prompt": "form of the prompts",
    "n": "samples a cell",
    "length": "lengths",
    "depth": "depths",
    "task": "tasks",
    "prompt_limit": "limit on prompts",
    "tokenizer": "tokenizer that counts lengths",
    "tokenizer_hash": "tokenizer that counts lengths",
    "template_hash": "wording of the prompts",
    "prompt_hash": "prompts",
}
_MOST_VALUES = 3


@dataclass(kw_only=True)
class LineGroup:
    """Lines that may be compared, the best first."""

    entries: list[str] = field(default_factory=list)
    asked: dict[Column, str] = field(default_factory=dict)  # protocol of each column
    reason: str = ""  # why it is apart; '' for the only group


def explain_difference(results: pandas.DataFrame, benchmark: str, one: str, other: str) -> str:
    """Say on what two lines were asked differently, such as ``samples a cell (2, not 10)``."""
    own, others = (results[(results.benchmark == benchmark) & (results.entry == name)]
                   for name in (one, other))  # fmt: skip
    found: dict[str, str] = {}
    for column, name in _ASKED.items():
        values = [sorted(set(frame[column].dropna())) for frame in (own, others)]
        is_hash = column.endswith("_hash")
        if values[0] != values[1] and name not in found and not (is_hash and found):
            found[name] = "" if is_hash else f" ({_list(values[0])}, not {_list(values[1])})"
    return ", ".join(name + values for name, values in found.items()) or "prompts"


def _list(values: Sequence[Any]) -> str:
    shown = [f"{value:,g}" if isinstance(value, int | float) else str(value) for value in values]
    if len(shown) > _MOST_VALUES:
        shown = [f"{len(shown)} from {shown[0]} to {shown[-1]}"]
    return " and ".join(shown) or "none"


def sort_lines(
    scores: Sequence[Score], columns: Sequence[Column]
) -> dict[str, dict[Column, Score]]:
    """Return what each line has in each column, by score in the first column, then the next."""
    lines: dict[str, dict[Column, Score]] = {score.entry: {} for score in scores}
    for score in scores:
        if score.score is not None:
            lines[score.entry][score.series, score.column, score.length] = score

    def key(entry: str) -> list[tuple[bool, float]]:
        own = [lines[entry].get(column) for column in columns]
        values = [s and (-(s.score or 0.0) if s.higher_is_better else s.score) for s in own]
        return [(value is None, value or 0.0) for value in values]

    return {entry: lines[entry] for entry in sorted(lines, key=key)}


def group_lines(
    scores: Sequence[Score],
    columns: Sequence[Column],
    explain: Explain,
    *,
    is_overview: bool,
    by_score: bool = True,
) -> list[LineGroup]:
    """Return groups of lines, in the order of `sort_lines` or, without it, that of the scores.

    In the overview lines that were asked differently in any of the columns are apart; in one
    benchmark's table, those that were asked the same in none.
    """
    lines = sort_lines(scores, columns)
    if not by_score:
        lines = {entry: lines[entry] for entry in dict.fromkeys(s.entry for s in scores)}
    groups: list[LineGroup] = []
    for entry in lines:
        asked = {c: lines[entry][c].protocol for c in columns if c in lines[entry]}
        group = next((g for g in groups if _fits(asked, g.asked, is_overview)), None)
        if group is None:
            group = LineGroup()
            groups.append(group)
        group.entries.append(entry)
        group.asked = asked | group.asked
    for group, before in zip(groups, [None, *groups], strict=False) if len(groups) > 1 else ():
        group.reason = _describe(group, before, lines, explain)
    return groups


def _fits(asked: dict[Column, str], known: dict[Column, str], is_overview: bool) -> bool:
    same = [asked[column] == known[column] for column in asked if column in known]
    return all(same) if is_overview or not same else any(same)


def _describe(
    group: LineGroup,
    before: LineGroup | None,
    lines: dict[str, dict[Column, Score]],
    explain: Explain,
) -> str:
    if before is None:
        if len(group.entries) == 1:
            return "No other line was asked all the same."
        return "These lines were asked the same and are ranked among themselves."
    told: dict[str, None] = {}
    for column, protocol in group.asked.items():
        if before.asked.get(column, protocol) != protocol:
            one, other = (
                next(entry for entry in own.entries if column in lines[entry])
                for own in (group, before)
            )
            told[f"{column[0]}: {explain(lines[one][column].benchmark, one, other)}"] = None
    return (
        "Not asked the same as the group before, and ranked apart from it where questions differ. "
        f"{'; '.join(told)}."
    )
