"""Writes everything that is reported of runs into one folder. The one way that all reports go.

`opencompass-llada report` and the summarizers of the evaluation configs call it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, fields
from datetime import datetime
from pathlib import Path

from opencompass_llada.files import write_text
from opencompass_llada.report.board import Score, make_board
from opencompass_llada.report.collect import Collection, collect_runs
from opencompass_llada.report.cost import find_costs
from opencompass_llada.report.effective_length import find_effective_lengths
from opencompass_llada.report.figures import HEAT_MAPS, make_plots, save_both
from opencompass_llada.report.frame import write_tidy_csv, write_tidy_parquet
from opencompass_llada.report.page import make_blocks, make_plot, render_page
from opencompass_llada.report.published import compare
from opencompass_llada.report.ranking import rank_scores
from opencompass_llada.report.runs import Run
from opencompass_llada.report.safe_text import escape_markdown, write_csv_rows
from opencompass_llada.report.tables import Links, Table, make_tables
from opencompass_llada.report.writers import WRITERS

TITLE = "Long-context leaderboard"


def write_report(runs: Sequence[Run], folder: Path, title: str = TITLE) -> list[Path]:
    """Read runs and write their report.

    Args:
        runs: From `runs.find_runs`; at least one.
        folder: Where to; files of the same names are replaced.
        title: Heading of the page.

    Returns:
        The files, report.html first.
    """
    collection = collect_runs(runs)
    scores, remarks = rank_scores(make_board(collection))
    lengths, costs = find_effective_lengths(scores), find_costs(collection)
    blocks, anchors, remark = make_blocks(collection)
    links = _find_links(collection, anchors)
    tables = make_tables(scores, lengths, costs, compare(scores), links)
    notes = [*collection.notes, *remarks]
    folder.mkdir(parents=True, exist_ok=True)
    plots, figures = [], []
    for name, caption, figure in make_plots(collection, scores, costs):
        paths = save_both(figure, folder / "plots", name)
        figures += paths
        if name != HEAT_MAPS:  # the page has its own, with values to hover
            plots.append(make_plot(caption, figure, paths[1].read_bytes()))
    page = render_page(
        title=title,
        subtitle=_describe(collection),
        collection=collection,
        notes=notes,
        tables=tables,
        plots=plots,
        blocks=blocks,
        anchors=anchors,
        remark=remark,
    )
    paths = [_write(folder / "report.html", page)]
    paths += _write_tables(folder, tables, notes)
    paths.append(_write(folder / "scores.csv", _write_scores(scores)))
    paths.append(_write(folder / "results.csv", write_tidy_csv(collection.rows)))
    paths.append(write_tidy_parquet(collection.rows, folder / "results.parquet"))
    paths.append(_write(folder / "provenance.json", _write_provenance(collection)))
    return [*paths, *figures]


def _find_links(collection: Collection, anchors: dict[tuple[str, str, str], str]) -> Links:
    """Return the anchor behind each score that is of one cell."""
    links: dict[tuple[str, str, str, int | None], str] = {}
    for row in collection.rows:
        if row.depth is None:
            column = "perplexity" if row.benchmark == "perplexity" else row.task or row.dataset
            anchor = anchors.get((row.run, row.model, row.dataset), "")
            links.setdefault((row.entry, row.benchmark, column, row.length), anchor)
    return links


def _describe(collection: Collection) -> str:
    entries = {row.entry for row in collection.rows}
    cells = {(row.run, row.model, row.dataset) for row in collection.rows}
    bad = {(r.run, r.model, r.dataset) for r in collection.rows if r.status != "ok"}
    runs = ", ".join(run.name for run in collection.runs[:4])
    more = f" and {len(collection.runs) - 4} more" if len(collection.runs) > 4 else ""
    state = f"{len(bad)} of them without a result" if bad else "all with a result"
    return (
        f"{len(entries)} models and scalings, {len(cells)} cells, {state}. Runs: {runs}{more}. "
        f"Written {datetime.now().strftime('%Y-%m-%d %H:%M')}."
    )


def _write_tables(folder: Path, tables: Sequence[Table], notes: Sequence[str]) -> list[Path]:
    """Write leaderboard.md and .tex with all tables, and a CSV file a table."""
    paths = []
    for suffix in ("md", "tex"):
        text = "\n".join(WRITERS[suffix](table) for table in tables)
        if suffix == "md" and notes:
            listed = "\n".join(
                "- " + "\n  ".join(map(escape_markdown, note.splitlines())) for note in notes
            )
            text = f"## What to know\n\n{listed}\n\n{text}"
        paths.append(_write(folder / f"leaderboard.{suffix}", text))
    for table in tables:
        paths.append(_write(folder / "tables" / f"{table.name}.csv", WRITERS["csv"](table)))
    return paths


def _write_scores(scores: Sequence[Score]) -> str:
    """Return all scores as CSV, a line each; what is missing is an empty field."""
    return write_csv_rows([field.name for field in fields(Score)], map(asdict, scores))


def _write_provenance(collection: Collection) -> str:
    """Return everything recorded of the runs, with their resolved configs, as JSON."""
    content = {}
    for run in collection.runs:
        known = collection.provenance[run.name]
        content[run.name] = {
            "path": str(run.path),
            "configs": {
                file.name: file.read_text(encoding="utf-8", errors="replace")
                for file in run.config_files
            },
            "runs": [
                {name: value for name, value in record.items() if name != "config"}
                for record in known.runs
            ],
            "models": known.models,
            "datasets": [dict(record) for record in known.datasets.values()],
        }
    return json.dumps(content, indent=1, ensure_ascii=False, default=str) + "\n"


def _write(path: Path, text: str) -> Path:
    write_text(path, text, errors="replace")
    return path
