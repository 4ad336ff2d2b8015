"""Declares a published suite: what its records, its data sets and its plan are made of."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from opencompass_llada.benchmarks.benchmark import Benchmark, DataFiles, Group, all_benchmarks
from opencompass_llada.options import check_fields, reject_unknown

#: ``path`` of data sets whose few samples are made on the spot, in the published layout.
EMBEDDED = "embedded"
#: What becomes of samples that are longer than the length asked for.
FITS = ("whole", "keep", "middle")
_stated: dict[str, Suite] = {}


@dataclass(frozen=True, kw_only=True)
class Suite:
    """All that is known of a published suite."""

    name: str
    """``benchmark=...`` of its data sets, and its folder."""
    title: str
    """Heading."""
    source: str
    """Where its tasks and metrics are defined."""
    tasks: Mapping[str, int]
    """Task -> tokens of an answer, as the suite's authors or OpenCompass give them."""
    path: str
    """What configs call its data: an id that OpenCompass knows, or ``folder``."""
    folder: str
    """Where its data lies below COMPASS_DATA_CACHE."""
    fetch: str
    """The command that fetches it into a folder that stands as ``FOLDER``."""
    find_files: Callable[[Mapping[str, Any]], list[str]]
    """Names below the folder that a data set config (``task``, ``length``) reads; ``a|b`` for
    either."""
    dataset: str
    """Its `SuiteDataset`, a dotted name below `opencompass_llada.benchmarks`."""
    evaluator: str
    """Its `SuiteEvaluator`, likewise."""
    lengths: tuple[int, ...] = ()
    """Tokens that its samples were made for; () where each has a length of its own."""
    default_lengths: tuple[int, ...] = ()
    """Those that are run unless others are asked for; () for all of ``lengths``."""
    embedded_lengths: tuple[int, ...] = ()
    """Lengths of the embedded samples, in tiny-llada's tokens."""
    embedded_tasks: tuple[str, ...] = ()
    """Tasks that have embedded samples; () for all."""
    any_length: bool = False
    """Whether samples are made for any length, so that a tokenizer counts in every one."""
    fit: str = "middle"
    """What becomes of samples that are longer than a length that is asked for, where they have
    lengths of their own: ``keep`` (only those that fit) or ``middle``, as its authors do."""
    metrics: tuple[str, ...] = ("score",)
    """What results report; the first is shown."""
    has_more_metrics: bool = False
    """Whether results report figures of parts of the samples besides."""
    groups: tuple[Group, ...] | None = None
    """Averages of tasks; by default the mean of all, where there are several."""
    headline: str | None = None
    """The group that leaderboards look at; by default the first."""
    plan: str | None = None
    """Its plan's module; by default ``plan`` in its folder."""

    def __post_init__(self) -> None:
        """Check every field."""
        check_fields(self)
        reject_unknown(f"fit of suite {self.name!r}", [self.fit], FITS)

    @property
    def averages(self) -> tuple[Group, ...]:
        """Its averages of tasks."""
        if self.groups is not None:
            return self.groups
        return (Group(name="mean", members=tuple(self.tasks)),) if len(self.tasks) > 1 else ()

    @property
    def how_to_get(self) -> str:
        """What to do where its data is missing."""
        fetch = self.fetch.replace("FOLDER", f'"$COMPASS_DATA_CACHE/{self.folder}"')
        return (
            f"Fetch it where there is a network: {fetch} . Or give the folder that holds it as "
            "path=... (LLADA_DATA=FOLDER), or run the few embedded samples: path='embedded' "
            "(LLADA_DATA=embedded, or data='embedded' in a config)."
        )

    def benchmark(self) -> Benchmark:
        """Return the record that reports and the doctor read; `list_suites` names it from then."""
        _stated[self.name] = self
        averages = self.averages
        return Benchmark(
            name=self.name,
            title=self.title,
            dataset_classes=(),
            metrics=self.metrics,
            has_more_metrics=self.has_more_metrics,
            is_percent=True,
            groups=averages,
            headline=self.headline or (averages[0].name if averages else None),
            is_grid=False,
            source=self.source,
            data=DataFiles(
                name=self.name,
                folders={self.path: self.folder},
                files=(),
                fetch=self.fetch,
                needed=self._list_needed,
            ),
            plan=self.plan or f"opencompass_llada.benchmarks.{self.name}.plan",
        )

    def _list_needed(
        self, dataset: Mapping[str, Any], kind: str
    ) -> Iterator[tuple[str, list[str]]]:
        if dataset.get("benchmark") == self.name and dataset["path"] != EMBEDDED:
            yield str(dataset["path"]), self.find_files(dataset)


def list_suites() -> dict[str, Suite]:
    """Return every suite whose record is a benchmark of `all_benchmarks`, by its name."""
    return {name: _stated[name] for name in all_benchmarks() if name in _stated}
