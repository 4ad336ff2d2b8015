"""What mmengine imports before it looks up a class of this package by its dotted name.

mmengine imports ``<package>.registry`` for every dotted type and swallows an ImportError there, so
that a broken import would end as "... is not in the opencompass::model registry". Here it becomes
a RuntimeError that names the cause. Registers nothing: dotted names need no registration, and
short ones are taken by whoever registers last.
"""

from __future__ import annotations

import importlib
import logging

MODULES = (
    "opencompass_llada.wrapper",
    "opencompass_llada.wrapper.model",
    "opencompass_llada.benchmarks.multi_needle.samples",
    "opencompass_llada.benchmarks.multi_needle.scoring",
    "opencompass_llada.benchmarks.needle.dataset",
    "opencompass_llada.benchmarks.needle.scoring",
    "opencompass_llada.benchmarks.opencompass_bases",
    "opencompass_llada.benchmarks.short.inferencer",
    "opencompass_llada.benchmarks.longbench.dataset",
    "opencompass_llada.benchmarks.longbench.v2",
    "opencompass_llada.benchmarks.ruler.dataset",
    "opencompass_llada.benchmarks.perplexity.scoring",
    "opencompass_llada.benchmarks.perplexity.inferencer",
    "opencompass_llada.benchmarks.perplexity.samples",
    "opencompass_llada.report.perplexity_summarizer",
    "opencompass_llada.report.summarizer",
    "opencompass_llada.report.breakdown",
    "opencompass_llada.report.coverage",
    "opencompass_llada.report.group_summarizer",
    "opencompass_llada.report.leaderboard_summarizer",
    "opencompass_llada.report.side_by_side_summarizer",
    "opencompass_llada.runs.local_runner",
    "opencompass_llada.runs.partitioner",
    "opencompass_llada.runs.tasks",
)


def import_components(modules: tuple[str, ...] = MODULES) -> None:
    """Import every module that OpenCompass may ask a class of.

    Args:
        modules: Dotted module names.

    Raises:
        RuntimeError: If one cannot be imported, with the reason.
    """
    for module in modules:
        try:
            importlib.import_module(module)
        except ImportError as error:
            missing = getattr(error, "name", None)
            raise RuntimeError(
                f"{module} cannot be imported: {error}. OpenCompass would report its classes as "
                "missing from its registry. "
                + (f"Install what provides {missing!r}, or r" if missing else "R")
                + "einstall the package with its dependencies: pip install opencompass-llada"
            ) from error


def share_log_handlers() -> None:
    """Let this package's log lines appear wherever OpenCompass writes its own.

    Without it they would go nowhere in OpenCompass's task processes, which set up only their own
    logger. Leaves the logger alone if the user gave it handlers.
    """
    from opencompass.utils import get_logger

    own = logging.getLogger("opencompass_llada")
    if own.handlers:
        return
    for handler in get_logger().handlers:
        own.addHandler(handler)
    own.setLevel(logging.INFO)


import_components()
share_log_handlers()
