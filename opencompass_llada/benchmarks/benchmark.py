"""Declares what a benchmark is: one record each, with its metrics, averages and files.

Each folder of `opencompass_llada.benchmarks` states its own in ``facts.py`` as ``BENCHMARKS``.
Another package adds one with `register`, or by an entry point of `ENTRY_POINTS` that names a
`Benchmark` or a sequence of them. Computes no score and reads no data.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import entry_points
from importlib.util import find_spec
from typing import Any

from opencompass_llada.old_names import dotted_name
from opencompass_llada.options import build, check_fields, reject_unknown

ENTRY_POINTS = "opencompass_llada.benchmarks"
WEIGHTINGS = ("mean", "samples")
#: The column of a grid's average.
GRID_GROUP = "mean over depths"


@dataclass(frozen=True, kw_only=True)
class Group:
    """A named average of tasks."""

    name: str
    """Heading of its column."""
    members: tuple[str, ...]
    """Task names as the data set configs give them (``task=...``)."""
    weighting: str = "mean"
    """``'mean'``: every task counts the same; ``'samples'``: by its number of samples."""

    def __post_init__(self) -> None:
        """Check weighting and members."""
        check_fields(self)
        reject_unknown(f"weighting of group {self.name!r}", [self.weighting], WEIGHTINGS)
        if not self.members or len(set(self.members)) < len(self.members):
            raise ValueError(
                f"group {self.name!r}: members={list(self.members)} must be one or more task "
                "names, none of them twice."
            )

    def to_config(self) -> dict[str, Any]:
        """Return the group as configs hold it."""
        weighting = {} if self.weighting == "mean" else {"weighting": self.weighting}
        return {"name": self.name, "members": list(self.members), **weighting}


def parse_groups(groups: Sequence[Mapping[str, Any]]) -> list[Group]:
    """Read groups from a config; a ValueError names an unknown key or a wrong value."""
    return [build(Group, options, "group") for options in groups]


@dataclass(frozen=True, kw_only=True)
class DataFiles:
    """The published files that one or several benchmarks read."""

    name: str
    """What ``opencompass-llada doctor`` calls them."""
    folders: Mapping[str, str]
    """Path as configs give it -> folder below ``COMPASS_DATA_CACHE``; the usual one first."""
    files: tuple[str, ...]
    """Names below that folder that the package's own configs read; ``a|b`` is a file that may be in
    either place. Empty where nothing is looked for unless a config asks for it."""
    fetch: str
    """The command that fetches them into a folder that stands as ``FOLDER``; '' where OpenCompass
    downloads them by itself."""
    needed: Callable[[Mapping[str, Any], str], Iterator[tuple[str, list[str]]]]
    """Path and names that a data set config reads, given it and its dotted class; nothing for data
    sets that do not read these files."""

    @property
    def path(self) -> str:
        """The usual path in configs."""
        return next(iter(self.folders))


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """All that other parts of the package know of a benchmark."""

    name: str
    """``benchmark=...`` of its data set configs."""
    title: str
    """Heading."""
    dataset_classes: tuple[str, ...]
    """Dotted names of its data set classes whose configs have no ``benchmark=...``."""
    metrics: tuple[str, ...]
    """What results report; the first that the rows have is shown, and a missing cell gets a row
    for each."""
    has_more_metrics: bool
    """Whether results hold other numbers besides, such as those of a part of the samples: then
    every number gets a row, and a missing cell one of the first metric."""
    is_percent: bool
    """Whether the metrics cannot be outside 0 to 100."""
    groups: tuple[Group, ...]
    """Averages of tasks, as the papers define them; () for none."""
    headline: str | None
    """The group that the leaderboard and the effective length look at; None for none."""
    is_grid: bool
    """Whether cells are places (length, depth), averaged over depths."""
    source: str
    """Where it, and its averages, are defined."""
    data: DataFiles
    """The files that it reads."""
    plan: str
    """Dotted name of the module that plans its runs. It holds ``DATA_SETS`` and, where the
    benchmark can be run by itself, ``PLAN``; both are of `runs.planning`."""


#: Of a benchmark that makes its texts itself.
NO_FILES = DataFiles(name="", folders={}, files=(), fetch="", needed=lambda dataset, kind: iter(()))
#: What holds for a benchmark whose metrics, averages and limits nobody states.
ANY_METRIC = Benchmark(
    name="",
    title="",
    dataset_classes=(),
    metrics=("score", "accuracy"),
    has_more_metrics=True,
    is_percent=False,
    groups=(),
    headline=None,
    is_grid=False,
    source="",
    data=NO_FILES,
    plan="",
)
_registered: dict[str, Benchmark] = {}


def register(benchmark: Benchmark) -> None:
    """Add a benchmark of another package for this process; a ValueError if the name is taken."""
    if all_benchmarks().get(benchmark.name, benchmark) != benchmark:
        raise ValueError(f"benchmark {benchmark.name!r} is there already; choose another name.")
    _registered[benchmark.name] = benchmark


def all_benchmarks() -> dict[str, Benchmark]:
    """Return every benchmark by its name."""
    return {**_installed(), **_registered}


@functools.cache
def _installed() -> dict[str, Benchmark]:
    """Collect the benchmarks of this package's folders and of installed packages."""
    package = __name__.rpartition(".")[0]
    folders = pkgutil.iter_modules(importlib.import_module(package).__path__)
    modules = [f"{package}.{folder.name}.facts" for folder in folders if folder.ispkg]
    stated = [importlib.import_module(name).BENCHMARKS for name in modules if find_spec(name)]
    stated += [point.load() for point in entry_points(group=ENTRY_POINTS)]
    found: dict[str, Benchmark] = {}
    for given in stated:
        for own in [given] if isinstance(given, Benchmark) else given:
            if found.setdefault(own.name, own) is not own:
                raise ValueError(
                    f"two benchmarks are called {own.name!r}, and results go by the name; rename "
                    "the one of another package."
                )
    return found


def find_benchmark(name: str) -> Benchmark:
    """Return what is known of a benchmark; for an unknown one, its name and any metric."""
    return all_benchmarks().get(name) or replace(ANY_METRIC, name=name, title=name)


def list_groups(benchmark: str) -> list[dict[str, Any]]:
    """Return the averages of a benchmark's tasks as its summarizer takes them."""
    return [group.to_config() for group in find_benchmark(benchmark).groups]


def benchmark_of(dataset: Mapping[str, Any]) -> Benchmark:
    """Return the benchmark of a data set config: as the config names it, else by its class.

    A class that no benchmark claims is a benchmark of its own, called by the class's last part.
    """
    if dataset.get("benchmark"):
        return find_benchmark(str(dataset["benchmark"]))
    kind = dotted_name(dataset.get("type"))
    claimed = (own for own in all_benchmarks().values() if kind in own.dataset_classes)
    return next(claimed, None) or find_benchmark(kind.rpartition(".")[2])


def all_data_files() -> dict[str, DataFiles]:
    """Return the files that benchmarks read, each set once, by its name."""
    return {own.data.name: own.data for own in all_benchmarks().values() if own.data.name}
