"""What the leaderboard knows of each benchmark: metric, groups, headline. Facts, no computation.

A benchmark that is not listed has one column a task (or data set) and no headline. To add one, or
another paper's averages, add an entry here; CONTRIBUTING.md says how.
"""

from __future__ import annotations

from dataclasses import dataclass

from opencompass_llada.benchmarks.longbench.facts import category_groups
from opencompass_llada.report.groups import Group, parse_groups
from opencompass_llada.ruler_patches.groups import ruler_groups


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """How a benchmark's results become columns."""

    name: str
    """``benchmark`` of the data set configs."""
    title: str
    """Heading."""
    metrics: tuple[str, ...]
    """The metric shown; the first that the rows have."""
    groups: tuple[Group, ...] = ()
    """Averages of tasks, as the papers define them. Empty for a grid of depths."""
    headline: str | None = None
    """The group that the leaderboard and the effective length look at; None for none."""
    is_grid: bool = False
    """Whether cells are places (length, depth), averaged over depths."""
    source: str = ""
    """Where the averages are defined."""


GRID_GROUP = "mean over depths"
BENCHMARKS = {
    entry.name: entry
    for entry in (
        Benchmark(
            name="niah",
            title="Needle in a haystack",
            metrics=("accuracy", "score"),
            headline=GRID_GROUP,
            is_grid=True,
            source="LongLLaDA (arXiv 2506.14429), figures 1 to 3: mean over depths",
        ),
        Benchmark(
            name="ruler",
            title="RULER",
            metrics=("score",),
            groups=tuple(parse_groups(ruler_groups)),
            headline="13 tasks",
            source="RULER (arXiv 2404.06654): mean of 13 tasks; VT+CWE+FWE is LongLLaDA's AGG, "
            "CWE+FWE UltraLLaDA's (arXiv 2510.10481)",
        ),
        Benchmark(
            name="longbench",
            title="LongBench",
            metrics=("score",),
            groups=tuple(parse_groups(category_groups("longbench"))),
            headline="Avg",
            source="LongBench (arXiv 2308.14508): six categories; Weighted is UltraLLaDA's total",
        ),
        Benchmark(
            name="longbench_e",
            title="LongBench-E",
            metrics=("score",),
            groups=tuple(parse_groups(category_groups("longbench_e"))),
            headline="Avg",
            source="LongBench (arXiv 2308.14508)",
        ),
        Benchmark(
            name="longbench_v2",
            title="LongBench v2",
            metrics=("accuracy",),
            source="LongBench v2 (arXiv 2412.15204)",
        ),
    )
}


def find_benchmark(name: str) -> Benchmark:
    """Return what is known of a benchmark; for an unknown one, its name and any metric."""
    known = BENCHMARKS.get(name)
    return known or Benchmark(name=name, title=name, metrics=("score", "accuracy"))
