"""Tables of how often intervals and decisions hold."""

from __future__ import annotations

from documented.markdown import make
from documented.records import read_record
from documented.registry import table

#: How paired_comparisons.py draws needles.
_DRAWN = {"same": "hard for both alike", "own": "hard for each by its own", "once": "asked once"}


@table("needle_intervals")
def needle_intervals() -> str:
    """Return the intervals of means over all cells with NeedleBench's needles and with own ones."""
    cell = "{mean:.0f} [{low:.0f}, {high:.0f}]"
    rows = [
        [row["model"].partition(" target")[0].replace(", none", ""),
         cell.format(**row["published"]), cell.format(**row["independent"]),
         f"{row['times_narrower']:.1f}"]
        for row in read_record("needle_intervals.json")["rows"] if row["column"] == "all"
    ]  # fmt: skip
    return make(["percent of 200 answers", "published", "independent", "times narrower"], rows)


@table("interval_coverage")
def interval_coverage() -> str:
    """Return coverage and width of the leaderboard's intervals and of two others."""
    return make(
        ["case", "samples", "rate", "ours: coverage, width", "normal", "bootstrap"],
        [
            [row["case"], str(row["samples"]), str(row["rate"])]
            + [f"{row['coverage'][n]} %, {row['width'][n]}" for n in row["coverage"]]
            for row in read_record("interval_coverage.json")["results"]
            if row["samples"] in ((20, 100) if "losses" in row["case"] else (10, 50))
            and (row["case"] != "graded losses" or row["rate"] in (0.02, 0.1))
        ],
    )


@table("paired_comparisons")
def paired_comparisons() -> str:
    """Return how often the intervals of differences hold, and pairs of lines are decided."""
    return make(
        ["needles", "number", "rates", "interval: coverage, width", "decided", "intervals apart"],
        [
            [_DRAWN[row["kind"]], str(row["needles"])]
            + ["{:.0%} and {:.0%}".format(*row["rates"]).replace("%", " %")]
            + [f"{row['coverage']} %, {row['width']}"]
            + [f"{row['decided']} %", f"{row['intervals_apart']} %"]
            for row in read_record("paired_comparisons.json")["pairs"]
        ],
    )


@table("paired_families")
def paired_families() -> str:
    """Return how often a family of pairs has a wrong decision, and all of them right."""
    return make(
        ["needles", "number", "rates of the lines", "any wrong decision", "all pairs right"],
        [
            [_DRAWN[row["kind"]], str(row["needles"])]
            + [", ".join(f"{100 * rate:.0f}" for rate in row["rates"])]
            + [f"{row['any_wrong']} %", f"{row['all_right']} %"]
            for row in read_record("paired_comparisons.json")["groups"]
        ],
    )
