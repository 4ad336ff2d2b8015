"""Compares the order of the leaderboard's lines under other settings (`runs.robustness`).

A setting counts for two lines if it changed at least one of them, in a run that had both; the
other's score stays. Means are over the cells that were run under all settings. Nothing here is an
interval: a small lead may turn by chance.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import pandas

from opencompass_llada.benchmarks.benchmark import find_benchmark
from opencompass_llada.report.collect import Collection
from opencompass_llada.report.scores import name_some
from opencompass_llada.report.writers import Cell, Table

#: What the run itself is called among the settings.
BASE = "as run"
#: The columns that say which cell a row is of, under any setting.
PLACE = ["benchmark", "task", "language", "haystack", "draws", "prompt", "tokenizer", "length",
         "depth"]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Order:
    """Two lines of a benchmark, and whether the first leads under every setting."""

    benchmark: str
    first: str  # the line that leads in the run itself
    second: str
    lead: float  # points, in the run itself
    num_settings: int  # others than the run itself
    num_held: int  # of these, in which the first leads as well
    not_held: tuple[str, ...]  # settings in which it does not: turned, or no lead

    @property
    def share(self) -> float:
        """The share of settings in which the order holds."""
        return self.num_held / self.num_settings


@dataclass(frozen=True, kw_only=True)
class SettingScores:
    """One line's mean score under each setting that it was run in."""

    benchmark: str
    entry: str
    scores: Mapping[str, float | None]  # by setting; None where a cell has no result
    asked: frozenset[str]  # settings of the runs that the line is of, whether or not they change it
    places: frozenset[int]  # the cells that the means are over

    @property
    def seed_deviation(self) -> float | None:
        """The standard deviation over seeds of one sampler; the largest of several samplers."""
        groups: dict[str, list[float]] = {}
        for name, score in self.scores.items():
            kind, _, what = name.partition(": ")
            if kind == "seeds" and score is not None:
                groups.setdefault(what.rpartition("seed ")[0].rstrip(", "), []).append(score)
        found = []
        for sampler, scores in groups.items():
            own = self.scores.get(f"decodings: {sampler}" if sampler else BASE)
            found.append(statistics.stdev([*scores, own]) if own is not None else None)
        known = [value for value in found if value is not None]
        return max(known, default=None)


def find_settings(collection: Collection) -> list[SettingScores]:
    """Return the scores of each line on each benchmark that was run under several settings."""
    variants = collection.variants
    if not len(variants):
        return []
    rows = pandas.concat([collection.results.assign(setting=BASE), variants], ignore_index=True)
    rows = rows[rows.benchmark.isin(variants.benchmark) & rows.entry.notna()]
    rows = rows.assign(place=rows.groupby(PLACE, dropna=False, sort=False).ngroup())
    found: list[SettingScores] = []
    for name, cells in rows.groupby("benchmark", sort=False):
        metrics = find_benchmark(name).metrics
        cells = cells[cells.metric == (metrics[0] if metrics else cells.metric.iloc[0])]
        for _, own in cells.groupby("entry", sort=False):
            asked = cells[(cells.setting != BASE) & cells.run.isin(own.run)]
            found += _score_line(own, asked)
    return found


def _score_line(own: pandas.DataFrame, asked: pandas.DataFrame) -> Iterator[SettingScores]:
    """Yield a line's means over the cells that its runs have under every setting, if any."""
    # Of two runs of one cell the later counts, as everywhere.
    by_age = own.sort_values("recorded", kind="stable", na_position="first")
    latest = by_age.groupby(["setting", "place"]).run.transform("last")
    own = own[own.run == latest.reindex(own.index)]
    parts = [set(cells.place) for frame in (own, asked) for _, cells in frame.groupby("setting")]
    places = set.intersection(*parts)
    if len(asked) and places and BASE in set(own.setting):
        shown = own[own.place.isin(places)]
        yield SettingScores(
            benchmark=own.benchmark.iloc[0],
            entry=own.entry.iloc[0],
            scores={name: _mean(cells) for name, cells in shown.groupby("setting", sort=False)},
            asked=frozenset(asked.setting),
            places=frozenset(places),
        )


def _mean(cells: pandas.DataFrame) -> float | None:
    whole = bool((cells.status == "ok").all())
    return float(cells.score.astype(float).mean()) if whole else None


def find_orders(settings: Sequence[SettingScores]) -> list[Order]:
    """Return each pair of lines that differ in the run itself, by how often the order holds."""
    orders: list[Order] = []
    for name in dict.fromkeys(own.benchmark for own in settings):
        lines = [
            own for own in settings if own.benchmark == name and own.scores.get(BASE) is not None
        ]
        for pair in combinations(lines, 2):
            if pair[0].places != pair[1].places:  # means over other cells
                continue
            first, second = sorted(pair, key=lambda own: own.scores[BASE] or 0.0, reverse=True)
            leads = dict(_leads(first, second))
            lead = (first.scores[BASE] or 0.0) - (second.scores[BASE] or 0.0)
            if lead > 0 and leads:
                held = [setting for setting, own in leads.items() if own > 0]
                orders.append(
                    Order(
                        benchmark=name,
                        first=first.entry,
                        second=second.entry,
                        lead=lead,
                        num_settings=len(leads),
                        num_held=len(held),
                        not_held=tuple(setting for setting in leads if setting not in held),
                    )
                )
    return sorted(orders, key=lambda order: (order.benchmark, order.share, order.lead))


def _leads(first: SettingScores, second: SettingScores) -> Iterator[tuple[str, float]]:
    """Yield the first line's lead under each setting of both runs that changed one of the two."""
    for setting in dict.fromkeys([*first.scores, *second.scores]):
        if setting not in first.asked & second.asked:
            continue
        scores = [own.scores.get(setting, own.scores[BASE]) for own in (first, second)]
        if None not in scores:
            yield setting, (scores[0] or 0.0) - (scores[1] or 0.0)


def make_robustness_tables(settings: Sequence[SettingScores]) -> list[Table]:
    """Return which orders hold, and each benchmark's scores by setting; none without settings."""
    orders = find_orders(settings)
    tables = [_make_orders(orders)] if orders else []
    for name in dict.fromkeys(own.benchmark for own in settings):
        tables.append(_make_scores(name, [own for own in settings if own.benchmark == name]))
    return tables


def _make_orders(orders: Sequence[Order]) -> Table:
    rows = tuple(
        (
            Cell(text=find_benchmark(own.benchmark).title),
            Cell(text=own.first),
            Cell(text=own.second),
            Cell(text=f"{own.lead:.1f}", value=own.lead),
            Cell(text=f"{own.num_held} of {own.num_settings}", value=float(own.num_held)),
            Cell(text=f"{own.share:.0%}", value=own.share),
            Cell(text="; ".join(own.not_held)),
        )
        for own in orders
    )
    return Table(
        name="order",
        title="Does the order hold?",
        heads=("benchmark", "leads", "before", "by, points", "settings", "share", "not under"),
        rows=rows,
        notes=(
            "Settings: those of LLADA_ROBUSTNESS that changed one of the two. The order holds "
            "where the first has the higher mean score; equal scores are no order. These are no "
            "intervals: a small lead may turn by chance. Lines whose runs had other cells or "
            "settings are not compared.",
        ),
        num_labels=3,
    )


def _make_scores(benchmark: str, lines: Sequence[SettingScores]) -> Table:
    names = list(dict.fromkeys(setting for own in lines for setting in own.scores))

    def show(own: SettingScores, setting: str) -> Cell:
        if setting not in own.scores:
            return Cell(text="-")
        score = own.scores[setting]
        return Cell(text="missing" if score is None else f"{score:.1f}", value=score)

    def show_deviation(own: SettingScores) -> Cell:
        value = own.seed_deviation
        return Cell(text="-" if value is None else f"{value:.1f}", value=value)

    rows = tuple(
        (Cell(text=own.entry), *(show(own, name) for name in names), show_deviation(own))
        for own in lines
    )
    title = find_benchmark(benchmark).title
    return Table(
        name=f"settings_{benchmark}",
        title=f"Scores by setting: {title}",
        heads=("model", *names, "deviation over seeds"),
        rows=rows,
        notes=(
            "Percent, the mean over all cells that were run under every setting. -: the setting "
            "does not change this model, or it draws no random numbers. Deviation over seeds: the "
            "standard deviation of a sampler's scores under its seeds, the first one's among them; "
            "the largest of several samplers.",
        ),
        num_labels=1,
    )


def describe_orders(orders: Sequence[Order]) -> list[str]:
    """Say in a sentence a benchmark which order holds under all settings, and which does not."""
    sentences = []
    for name in dict.fromkeys(order.benchmark for order in orders):
        own = [order for order in orders if order.benchmark == name]
        most = max(order.num_settings for order in own)
        turned = [order for order in own if order.num_held < order.num_settings]
        text = (
            f"{find_benchmark(name).title}: under up to {most} other settings "
            f"{len(own) - len(turned)} of {len(own)} pairs of models keep their order in all"
        )
        named = [
            f"{order.first} before {order.second} in {order.num_held} of {order.num_settings} "
            f"({order.share:.0%})"
            for order in turned
        ]
        sentences.append(text + (f"; not so {name_some(named)}." if named else "."))
    return sentences
