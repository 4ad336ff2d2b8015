"""What all summarizers share: what they say of models, and how they end when results are missing.

Reads a run's config and files; writes log lines only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from opencompass_llada.logs import get_logger
from opencompass_llada.report.results import ModelFacts, ResultRow, describe_model
from opencompass_llada.runs.exit_status import describe_missing, find_missing
from opencompass_llada.runs.recorded_files import list_pairs

logger = get_logger(__name__)


def index_by_abbr(models: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return what a config's author says of models by their abbreviation."""
    return {str(model["abbr"]): dict(model) for model in models}


def merge_model_facts(
    config: Mapping[str, Any], described: Mapping[str, Mapping[str, Any]]
) -> list[ModelFacts]:
    """Merge what a run's config says of each model with what its author told the summarizer.

    Args:
        config: The run's config.
        described: By abbreviation: ``title`` and ``trained_length``, where known.

    Returns:
        One entry a model, in the config's order.
    """
    facts: dict[str, ModelFacts] = {}
    for model, _ in list_pairs(config):
        own = describe_model(model)
        told = described.get(own.abbr, {})
        facts[own.abbr] = ModelFacts(
            abbr=own.abbr,
            title=told.get("title", own.title),
            scaling=own.scaling,
            trained_length=told.get("trained_length"),
        )
    return list(facts.values())


def finish(
    config: Mapping[str, Any],
    work_dir: Path,
    rows: Sequence[ResultRow],
    described: Mapping[str, Mapping[str, Any]],
    *,
    log_board: bool = False,
) -> None:
    """Write the report that all summarizers write, then end with 1 if a result is missing.

    Args:
        config: The run's config.
        work_dir: The run's own directory; the report goes into its report/ folder.
        rows: From `table.read_results`.
        described: What the config's author says of models, by abbreviation.
        log_board: Log the leaderboard, where the summarizer has no table of its own.

    Raises:
        SystemExit: See `exit_if_missing`.
    """
    # Imported here: every task process imports the summarizers' modules to find their classes.
    from opencompass_llada.report.publish import write_report
    from opencompass_llada.report.runs import read_run
    from opencompass_llada.runs.provenance import record_run

    record_run(work_dir)
    run = read_run(work_dir, config=config, described=list(described.values()))
    paths = write_report([run], work_dir / "report")
    if log_board:
        board = (work_dir / "report" / "leaderboard.md").read_text(encoding="utf-8")
        logger.info("\n%s", board.partition("## Effective")[0])
    logger.info("wrote %s and %d files beside it", paths[0].resolve(), len(paths) - 1)
    exit_if_missing(config, work_dir, rows)


def exit_if_missing(config: Mapping[str, Any], work_dir: Path, rows: Sequence[ResultRow]) -> None:
    """End the run with status 1 if any result that its config asks for is missing or unusable.

    Args:
        config: The run's config.
        work_dir: The run's own directory.
        rows: From `table.read_results`.

    Raises:
        SystemExit: With status 1; the log lists what is missing and why.
    """
    absent = find_missing(config, work_dir)
    said = {(cell.model, cell.dataset) for cell in absent}
    faulty = [row for row in rows if row.status != "ok"]
    faulty = [row for row in faulty if (row.model, row.dataset) not in said]
    if absent:
        logger.error("%s", describe_missing(absent))
    if faulty:
        lines = [f"{row.model} on {row.dataset}: {row.reason}" for row in faulty]
        head = f"{len(faulty)} results hold no usable number:"
        logger.error("%s", "\n  ".join([head, *lines[:20]]))
    if absent or faulty:
        raise SystemExit(1)
