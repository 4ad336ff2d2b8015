"""How much narrower intervals of needle means are where each sample has a needle of its own.

    python benchmarks/needle_intervals.py

Compares two records of one command, with as many forward passes: docs/records/niah_tiny_models.csv,
whose draws are independent, and niah_tiny_models_published.csv, whose are NeedleBench's, at the
lengths that both have. The data sets say which needle each sample has. Runs no model and writes
benchmarks/records/needle_intervals.json.
"""

from __future__ import annotations

from collections import Counter
from statistics import fmean, median
from typing import Any

import pandas
from recording import ROOT, describe_run, write_record

from opencompass_llada.benchmarks.data_checks import options_of
from opencompass_llada.benchmarks.needle.dataset import NeedleBenchSingleDataset
from opencompass_llada.needlebench.niah import niah_cells
from opencompass_llada.report.statistics import clustered_interval, effective_number

DRAWS = {"published": "niah_tiny_models_published.csv", "independent": "niah_tiny_models.csv"}


def read_cells(draws: str) -> pandas.DataFrame:
    """Return the hit rates of a record, and the needles of each cell's samples."""
    read = pandas.read_csv(ROOT / "docs/records" / DRAWS[draws], keep_default_na=False)
    cells = read[read.metric == "accuracy"].assign(score=lambda own: own.score.astype(float))
    asked = niah_cells(
        data="embedded",
        draws=draws,
        lengths=sorted(map(int, set(cells.length))),
        depths=sorted(map(int, set(cells.depth))),
        repeats=int(cells.n.iloc[0]),
    )
    needles = {
        (cell["length"], cell["depth"]): NeedleBenchSingleDataset.load(**options_of(cell))["needle"]
        for cell in asked
    }
    places = zip(cells.length.astype(int), cells.depth.astype(float), strict=True)
    return cells.assign(needles=[list(needles[place]) for place in places])


def summarize(cells: pandas.DataFrame) -> dict[str, Any]:
    """Return mean, effective number of needles and interval of some cells, as the report does."""
    sizes = list(Counter(needle for own in cells.needles for needle in own).values())
    mean = fmean(cells.score)
    low, high = clustered_interval([mean] * len(sizes), sizes)
    number = effective_number([size / sum(sizes) for size in sizes])
    rounded = {"mean": mean, "needles": number, "low": low, "high": high, "width": high - low}
    return {name: round(value, 1) for name, value in rounded.items()}


def main() -> None:
    """Compare, print and write the record."""
    cells = {draws: read_cells(draws) for draws in DRAWS}
    both = set.intersection(*(set(table.length) for table in cells.values()))
    cells = {draws: table[table.length.isin(both)] for draws, table in cells.items()}
    rows: list[dict[str, Any]] = []
    for (title, scaling), _ in cells["independent"].groupby(["title", "scaling"], sort=False):
        own = {
            draws: table[(table.title == title) & (table.scaling == scaling)]
            for draws, table in cells.items()
        }
        for column in ("all", *sorted(set(own["independent"].length))):
            found = {
                draws: summarize(table[(table.length == column) | (column == "all")])
                for draws, table in own.items()
            }
            ratio = found["published"]["width"] / found["independent"]["width"]
            rows.append({"model": f"{title}, {scaling}", "column": str(column), **found,
                         "times_narrower": round(ratio, 2)})  # fmt: skip
    for row in rows:
        print(row)
    ratios = {
        name: [row["times_narrower"] for row in rows if (row["column"] == "all") == (name == "all")]
        for name in ("all", "one length")
    }
    record = {
        **describe_run(),
        "times_narrower": {
            name: {"least": min(own), "median": round(median(own), 2)}
            for name, own in ratios.items()
        },
        "rows": rows,
    }
    write_record(ROOT / "benchmarks/records/needle_intervals.json", record)


if __name__ == "__main__":
    main()
