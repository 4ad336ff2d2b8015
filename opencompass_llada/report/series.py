"""Which results are columns of one table, and what such a table is called. Knows rows only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterator, Sequence
from dataclasses import replace

from opencompass_llada.benchmarks.facts import find_benchmark
from opencompass_llada.report.frame import TidyRow


def series_keys(rows: Sequence[TidyRow]) -> dict[int, tuple[str | None, ...]]:
    """Return for each row (by its id) what its columns are of.

    Benchmark, language and where the text is from; besides, where a run asks the same place twice,
    what counts lengths, the prompt's form and, if that does not tell them apart, the data set.
    """
    keys: dict[int, tuple[str | None, ...]] = {}
    for row in rows:
        data = row.haystack or ("embedded" if row.data.startswith("asset:") else "")
        keys[id(row)] = (row.benchmark, row.language, data)
    for more in (("tokenizer", "prompt"), ("dataset",)):
        places = Counter(
            (keys[id(r)], r.entry, r.metric, r.task or r.depth, r.length)
            for r in rows
            if r.task is not None or r.depth is not None
        )
        twice = {place[0] for place, count in places.items() if count > 1}
        for row in rows:
            if keys[id(row)] in twice:
                keys[id(row)] += tuple(getattr(row, name) for name in more)
    return keys


def name_series(keys: Sequence[tuple[str | None, ...]]) -> dict[tuple[str | None, ...], str]:
    """Name each series by the benchmark's title and what tells it from its likes."""
    names = {}
    for key in keys:
        likes = [other for other in keys if other[0] == key[0]]
        parts = [
            str(value)
            for place, value in enumerate(key)
            if place and value and len({other[place : place + 1] for other in likes}) > 1
        ]
        names[key] = ", ".join([find_benchmark(str(key[0])).title, *parts])
    return names


def rows_of_metric(
    rows: Sequence[TidyRow], metric: str, present: Container[str]
) -> Iterator[TidyRow]:
    """Yield a metric's rows, and the cells without a result that are to be shown among them.

    What a cell without a result would have reported is not known of every benchmark; its row then
    has a metric that no other row has.

    Args:
        rows: Of one series.
        metric: Name in the result files.
        present: The metrics that a number was reported for.
    """
    having = {(row.run, row.model, row.dataset) for row in rows if row.metric == metric}
    for row in rows:
        if row.metric == metric:
            yield row
        elif row.metric not in present and (row.run, row.model, row.dataset) not in having:
            yield replace(row, metric=metric)
