"""Keeps names of earlier versions importable: the configs that old runs dumped hold them.

Entries are for classes that OpenCompass builds by dotted name, and for nothing else. A name is
looked up in its new module when it is asked for, so that nothing is imported early.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

PACKAGE = __package__ or "opencompass_llada"
#: Module of an earlier version -> where its classes are now.
MOVED = {
    "benchmarks.literal_template": "benchmarks.opencompass_bases",
    "benchmarks.multi_needle.samples": "benchmarks.multi_needle.dataset",
    "benchmarks.multi_needle.scoring": "benchmarks.multi_needle.dataset",
    "benchmarks.needle.scoring": "benchmarks.needle.dataset",
    "benchmarks.perplexity.scoring": "benchmarks.perplexity.inferencer",
    "datasets.literal_template": "benchmarks.opencompass_bases",
    "datasets.longbench.dataset": "benchmarks.longbench.dataset",
    "datasets.longbench.evaluator": "benchmarks.longbench.dataset",
    "datasets.longbench.v2": "benchmarks.longbench.v2",
    "datasets.multi_needle": "benchmarks.multi_needle.dataset",
    "datasets.multi_needle_evaluator": "benchmarks.multi_needle.dataset",
    "datasets.needle_evaluator": "benchmarks.needle.dataset",
    "datasets.needlebench": "benchmarks.needle.dataset",
    "datasets.option_inferencer": "benchmarks.short.inferencer",
    "datasets.perplexity.evaluator": "benchmarks.perplexity.inferencer",
    "datasets.perplexity.inferencer": "benchmarks.perplexity.inferencer",
    "datasets.perplexity.texts": "benchmarks.perplexity.samples",
    "datasets.ruler.dataset": "benchmarks.ruler.dataset",
    "datasets.ruler.evaluator": "benchmarks.ruler.dataset",
    **{f"{folder}.{name}": "report.summarizers" for folder in ("report", "results")
       for name in ("breakdown", "coverage", "group_summarizer", "leaderboard_summarizer",
                    "perplexity_summarizer", "side_by_side_summarizer", "summarizer")},
    "running.local_runner": "runs.tasks",
    "running.partitioner": "runs.partitioner",
    "running.tasks": "runs.tasks",
    "runs.local_runner": "runs.tasks",
}  # fmt: skip


def dotted_name(kind: Any) -> str:
    """Return a class as configs name it today, whether it is a class, or a name of any version."""
    if not isinstance(kind, str | None):
        return f"{kind.__module__}.{kind.__qualname__}"
    module, _, name = (kind or "").removeprefix(f"{PACKAGE}.").rpartition(".")
    return f"{PACKAGE}.{MOVED[module]}.{name}" if module in MOVED else kind or ""


class OldNames(MetaPathFinder, Loader):
    """Finds modules of earlier versions; asked last, so that it never hides a file."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return a spec for a module of `MOVED` or a package above one, None for all others."""
        package, _, name = fullname.partition(".")
        is_package = any(old.startswith(f"{name}.") for old in MOVED)
        if package != PACKAGE or not (is_package or name in MOVED):
            return None
        return ModuleSpec(fullname, self, is_package=is_package)

    def create_module(self, spec: ModuleSpec) -> None:
        """Leave the making of the module to Python."""

    def exec_module(self, module: ModuleType) -> None:
        """Let the module ask the new one for what is looked up in it."""
        new = MOVED.get(module.__name__.removeprefix(f"{PACKAGE}."))
        if new is not None:
            module.__getattr__ = lambda name: getattr(  # type: ignore[method-assign]
                importlib.import_module(f"{PACKAGE}.{new}"), name
            )
