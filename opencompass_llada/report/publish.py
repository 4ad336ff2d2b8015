"""Writes everything that is reported of runs into one folder. The one way that all reports go.

`opencompass-llada report` and the summarizers of the evaluation configs call it.
"""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from opencompass_llada.files import write_text
from opencompass_llada.report import writers
from opencompass_llada.report.averages import make_board
from opencompass_llada.report.collect import (
    CELL_KEY,
    TIDY_COLUMNS,
    CellKey,
    Collection,
    Imported,
    collect_runs,
    key_of,
)
from opencompass_llada.report.comparisons import Comparison, compare_lines
from opencompass_llada.report.cost import find_costs
from opencompass_llada.report.drawing import save_figure
from opencompass_llada.report.figures import HEAT_MAPS, make_plots
from opencompass_llada.report.floors import find_floors
from opencompass_llada.report.groups import explain_difference, sort_lines
from opencompass_llada.report.latex import write_latex
from opencompass_llada.report.length_use import compare_windows, describe_uses, list_lengths
from opencompass_llada.report.lm_eval import read_lm_eval
from opencompass_llada.report.page import choose_samples, make_plot, render_page
from opencompass_llada.report.paper_figures import compare, read_figures
from opencompass_llada.report.robustness import (
    describe_orders,
    find_orders,
    find_settings,
    make_robustness_tables,
)
from opencompass_llada.report.scores import (
    Score,
    choose_headlines,
    rank_scores,
)
from opencompass_llada.report.tables import Links, make_published, make_tables
from opencompass_llada.report.timings import find_timings
from opencompass_llada.report.trackers import open_tracker
from opencompass_llada.report.verdict import make_verdict
from opencompass_llada.runs.run_folder import RunFolder, find_runs

TITLE = "Long-context leaderboard"
MOST_NAMED = 4
MOST_LISTED = 20


def run_report(
    work_dirs: Sequence[str],
    folder: Path,
    title: str | None,
    *,
    baseline: str | None = None,
    lm_eval: Sequence[str] = (),
    log: str | None = None,
) -> int:
    """Write the report of the runs in some folders; return 1 if files of them are damaged.

    `lm_eval` are folders of lm-evaluation-harness' results, and `log` is where scores are sent
    (`open_tracker`). Missing results are no fault here: the report says which they are.

    Raises:
        ValueError: If there is nothing to report, or the baseline is no line.
    """
    send, runs = open_tracker(log) if log else None, find_runs(work_dirs)
    imported = read_lm_eval(lm_eval)
    paths = write_report(
        runs, folder, title or TITLE, baseline=baseline, imported=imported, send=send
    )
    sys.stdout.write(f"{len(runs)} runs, {len(paths)} files; open {paths[0].resolve()}\n")
    damage = [text for run in runs for text in run.damage]
    if damage:
        more = [f"and {len(damage) - MOST_LISTED} more"] if len(damage) > MOST_LISTED else []
        listed = "\n  ".join([*damage[:MOST_LISTED], *more])
        sys.stderr.write(
            f"opencompass-llada report: {len(damage)} files are damaged and nothing of them is "
            f"shown; a run with -r makes them again:\n  {listed}\n"
        )
    return int(bool(damage))


class Report(NamedTuple):
    """What was written of runs."""

    paths: list[Path]  # report.html first
    figures: list[Path]
    scores: Sequence[Score]
    verdict: Sequence[str]


def write_report(runs: Sequence[RunFolder], folder: Path, *rest: Any, **options: Any) -> list[Path]:
    """Write the report of runs as `make_report` does; return its files, report.html first."""
    return make_report(runs, folder, *rest, **options).paths


def make_report(
    runs: Sequence[RunFolder],
    folder: Path,
    title: str = TITLE,
    *,
    baseline: str | None = None,
    imported: Sequence[Imported] = (),
    send: Callable[[Sequence[Score]], None] | None = None,
) -> Report:
    """Read runs, one or more, and write their report.

    Raises:
        ValueError: If `baseline`, whom all are compared with, is no line; by default the first is.
    """
    collection = collect_runs(runs, imported)
    scores, remarks = rank_scores(make_board(collection))
    comparisons = compare_lines(scores, baseline)
    settings = find_settings(collection)
    floors = find_floors(collection)
    uses = compare_windows(scores, floors)
    told = describe_uses(scores, uses)
    verdict = [
        *make_verdict(scores, comparisons),
        *told.values(),
        *describe_orders(find_orders(settings)),
    ]
    lengths = list_lengths(scores, floors, uses)
    costs = find_costs(collection)
    samples = choose_samples(collection)
    links = _find_links(collection, samples.anchors)
    timings = find_timings(collection)
    explain = functools.partial(explain_difference, collection.results)
    tables = make_tables(
        *(scores, lengths, costs, compare(scores), links, timings, comparisons, explain),
        floors=floors,
        uses=told,
    )
    tables += make_robustness_tables(settings)
    notes = [*collection.notes, *remarks]
    heading = [*_write_list("Verdict", verdict), *_write_list("What to know", notes)]
    folder.mkdir(parents=True, exist_ok=True)
    plots = []
    figures: list[Path] = []
    for name, caption, figure in make_plots(collection, scores, costs, floors=floors):
        files = [folder / "plots" / f"{name}.{suffix}" for suffix in ("png", "svg")]
        figures += save_figure(figure, *files)
        if name != HEAT_MAPS:  # the page has its own, with values to hover
            plots.append(make_plot(name, caption, figure, files[1].read_bytes()))
    page = render_page(
        collection,
        samples,
        plots,
        list(sort_lines(scores, choose_headlines(scores))),
        title=title,
        subtitle=_describe(collection),
        verdict=verdict,
        notes=notes,
        tables=tables,
        published=make_published(read_figures()),
    )
    columns = [own.name for own in fields(Score) if own.repr]
    tidy = collection.results[[*TIDY_COLUMNS]]
    texts = {
        "report.html": page,
        "leaderboard.md": "\n".join([*heading, *map(writers.write_markdown, tables)]),
        "leaderboard.tex": "\n".join(map(write_latex, tables)),
        **{f"tables/{table.name}.csv": writers.write_csv(table) for table in tables},
        "scores.csv": writers.write_csv_rows(
            columns, ([getattr(own, name) for name in columns] for own in (*scores, *floors))
        ),
        "comparisons.csv": writers.write_csv_rows(
            [own.name for own in fields(Comparison)], map(asdict, comparisons)
        ),
        "results.csv": writers.write_csv_rows(list(TIDY_COLUMNS), tidy.to_numpy()),
        "provenance.json": _write_provenance(collection),
    }
    for name, text in texts.items():
        write_text(folder / name, text, errors="replace")
    if send is not None:
        send(scores)
    parquet = collection.write_parquet(folder / "results.parquet")
    paths = [*(folder / name for name in texts), parquet, *figures]
    return Report(paths=paths, figures=figures, scores=scores, verdict=verdict)


def _write_list(heading: str, texts: Sequence[str]) -> list[str]:
    """Return a heading and texts in Markdown; the lines of a text stay lines."""
    listed = ["- " + "\n  ".join(map(writers.escape_markdown, text.splitlines())) for text in texts]
    return [f"## {heading}", "", *listed, ""] if texts else []


def _find_links(collection: Collection, anchors: Mapping[CellKey, str]) -> Links:
    """Return the anchor behind each score that is of one cell."""
    links: dict[tuple[str, str, str, int | None], str] = {}
    for row in collection.rows:
        if row.depth is None:
            column = "perplexity" if row.benchmark == "perplexity" else row.task or row.dataset
            key = (row.entry, row.benchmark, column, row.length)
            links.setdefault(key, anchors.get(key_of(row), ""))
    return links


def _describe(collection: Collection) -> str:
    cells = collection.results.assign(bad=collection.results.status != "ok").groupby(CELL_KEY).bad
    bad = cells.any().sum()
    names = [run.name for run in collection.runs]
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    state = f"{bad} of them without a result" if bad else "all with a result"
    return (
        f"{collection.results.entry.nunique()} models and scalings, {cells.ngroups} "
        f"cells, {state}. Runs: {', '.join(names[:MOST_NAMED])}{more}. "
        f"Written {datetime.now().strftime('%Y-%m-%d %H:%M')}."
    )


def _write_provenance(collection: Collection) -> str:
    """Return everything recorded of the runs, with their resolved configs, as JSON."""
    content = {}
    for run in collection.runs:
        known = collection.provenance[run.name]
        content[run.name] = {
            "path": str(run.path),
            "configs": {file.name: file.read_text("utf-8", "replace") for file in run.config_files},
            "runs": [
                {name: value for name, value in record.items() if name != "config"}
                for record in known.runs
            ],
            "models": known.models,
            "datasets": [dict(record) for record in known.datasets.values()],
        }
    return json.dumps(content, indent=1, ensure_ascii=False, default=str) + "\n"
