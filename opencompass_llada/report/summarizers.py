"""Writes a run's tables into summary/ and its report into report/, and exits with its state.

What is logged is short (`closing`); the tables are in the files.

One summarizer does it, and makes the run exit with 1 if a result is missing or unusable; its
subclasses name the tables that runs of a kind have besides.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, asdict, dataclass, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import pandas

from opencompass_llada.benchmarks.benchmark import Group, find_benchmark, parse_groups
from opencompass_llada.files import write_text
from opencompass_llada.options import reject_unknown
from opencompass_llada.report import writers
from opencompass_llada.report.averages import average_group
from opencompass_llada.report.closing import describe_end
from opencompass_llada.report.curves import BENCHMARK, read_curves, write_curves
from opencompass_llada.report.drawing import save_figure
from opencompass_llada.report.figures import draw_curves
from opencompass_llada.report.heatmap import draw_heat_maps, make_grids, write_means
from opencompass_llada.report.publish import make_report
from opencompass_llada.report.results import COLUMNS, read_results
from opencompass_llada.report.tables import MISSING, NOT_RUN
from opencompass_llada.runs.exit_status import MissingCell, describe_missing, find_missing
from opencompass_llada.runs.local_queue import working_beside
from opencompass_llada.runs.provenance import record_run
from opencompass_llada.runs.run_folder import RunFolder, read_run

logger = logging.getLogger(__name__)
MOST_LISTED = 20
Line = dict[str, Any]  # one model's rows at one length, by task
SummaryFile = tuple[str, str, Any]  # stem and suffix of a file in summary/; text, or what draws it


class FinishedRun(NamedTuple):
    """What a run is summarized from."""

    run: RunFolder
    results: pandas.DataFrame  # what `read_results` finds of the config at hand
    missing: list[MissingCell]
    stamp: str  # part of every file's name


@dataclass(eq=False)
class Summarizer:
    """Writes a run's report, and the tables of its subclass.

    Use one in any config: ``summarizer=dict(type=LeaderboardSummarizer)``. OpenCompass gives the
    run's config; `models` is what configs know of models besides: ``dict(abbr=..., title=...,
    trained_length=...)`` each. `baseline` is the line of the leaderboard that all are compared
    with, by default the first.
    """

    config: Mapping[str, Any]
    _: KW_ONLY
    models: Sequence[Mapping[str, Any]] = ()
    baseline: str | None = None
    has_scores: ClassVar[bool] = True  # whether more is told of results than that they are there

    def _write_tables(self, finished: FinishedRun) -> Iterable[SummaryFile]:
        """Yield the files of summary/."""
        return ()

    def summarize(self, time_str: str | None = None) -> None:
        """Write all files, log the end; exit with status 1, and a list, if a result is missing."""
        work_dir, written = Path(self.config["work_dir"]), []
        drawn: list[tuple[Callable[[], Any], Path]] = []
        run = read_run(work_dir, config=self.config, described=self.models)
        finished = FinishedRun(
            run=run,
            results=read_results(self.config, work_dir, run.facts),
            missing=find_missing(self.config, work_dir),
            stamp=time_str or datetime.now().strftime("%Y%m%d_%H%M%S"),
        )
        for stem, suffix, content in self._write_tables(finished):
            written.append(work_dir / "summary" / f"{stem}_{finished.stamp}.{suffix}")
            if isinstance(content, str):
                write_text(written[-1], content)
            else:
                drawn.append((content, written[-1]))
            if suffix == "md" and not self.has_scores:
                logger.info("\n%s", content)
        for path in written:
            logger.debug("wrote %s", path.resolve())
        if self.has_scores:
            record_run(work_dir)
            with working_beside(_draw, drawn, log=work_dir / "logs" / "summary.out"):
                report = make_report([run], work_dir / "report", baseline=self.baseline)
            pictures = [path for path in (*reversed(written), *report.figures)
                        if path.suffix == ".png"]  # fmt: skip
            picture = pictures[0] if pictures else None
            told = describe_end(report.scores, report.verdict, report.paths[0], picture)
            logger.info("%s", told)
            count = len(written) + len(report.paths)
            logger.info("All %d files are in summary/ and report/ of %s", count, work_dir.resolve())
        named = {(cell.model, cell.dataset) for cell in finished.missing}
        faulty = [
            f"{row.model} on {row.dataset}: {row.reason}"
            for row in finished.results.itertuples()
            if self.has_scores and row.status != "ok" and (row.model, row.dataset) not in named
        ]
        if finished.missing:
            logger.error("%s", describe_missing(finished.missing))
        if faulty:
            head = f"{len(faulty)} results hold no usable number:"
            logger.error("%s", "\n  ".join([head, *faulty[:MOST_LISTED]]))
        if finished.missing or faulty:
            raise SystemExit(1)


def _draw(pictures: Iterable[tuple[Callable[[], Any], Path]]) -> None:
    for make, path in pictures:
        save_figure(make(), path)


def _results_file(finished: FinishedRun) -> SummaryFile:
    return "results", "csv", writers.write_csv_rows(list(COLUMNS), finished.results.to_numpy())


class LeaderboardSummarizer(Summarizer):
    """Writes the report alone; for runs of any benchmarks."""


@dataclass(eq=False)
class NeedleSummarizer(Summarizer):
    """Writes means over depths and heat maps besides; for needle in a haystack.

    `metric` is what they show: ``accuracy`` (keyword hits) or ``score`` (NeedleBench's, with part
    credit for similar answers); by default accuracy, or score where nothing else is reported.
    """

    metric: str | None = None

    def __post_init__(self) -> None:
        """Check the metric."""
        if self.metric is not None:
            reject_unknown("metric", [self.metric], find_benchmark("niah").metrics)

    def _write_tables(self, finished: FinishedRun) -> Iterator[SummaryFile]:
        yield _results_file(finished)
        metric = self.metric or find_benchmark("niah").metrics[0]
        metric = _choose_metric(finished.results, metric)
        trained = {facts.abbr: facts.trained_length for facts in finished.run.facts}
        grids = make_grids(finished.results, metric, trained)
        if not grids:
            logger.warning("No data set has a length and a depth: there is no heat map to draw.")
            return
        yield "summary", "md", write_means(grids)
        grids = [replace(grid, rows={}) for grid in grids]  # no worker can be sent them
        names = [grid.model for grid in grids]
        for number, grid in enumerate(grids):  # a model may have several (languages, tokenizers)
            suffix = f"_{number}" if names.count(grid.model) > 1 else ""
            yield f"heatmap_{grid.model}{suffix}", "png", partial(draw_heat_maps, [grid])
        yield "heatmap_all", "png", partial(draw_heat_maps, grids)


def _choose_metric(results: pandas.DataFrame, metric: str) -> str:
    """Return the metric to show; OpenCompass's own NeedleBench evaluator has no accuracy."""
    places = set(results.dataset[results.length.notna() & results.depth.notna()])
    without = places - set(results.dataset[results.metric == metric])
    if without and without == places:
        logger.warning("No data set reports %r: means and heat maps show 'score' instead.", metric)
        return "score"
    if without:
        told = "%d data sets report no %r and are not in means and heat maps, among them %s; "
        told += "metric='score' shows them too."
        logger.warning(told, len(without), metric, min(without))
    return metric


@dataclass(eq=False)
class GroupSummarizer(Summarizer):
    """Writes a table of tasks and group averages besides; for benchmarks of many tasks.

    A group is ``dict(name='NIAH', members=['niah_single_1', ...], weighting='mean')`` (or
    ``'samples'``), its members what data sets' configs have as ``task``. `metric` is which number
    of the result files is shown.
    """

    groups: Sequence[Mapping[str, Any]] = ()
    metric: str = "score"

    def __post_init__(self) -> None:
        """Parse the groups."""
        self.parsed = parse_groups(self.groups)

    def _write_tables(self, finished: FinishedRun) -> Iterator[SummaryFile]:
        lines = make_lines(finished.results, self.metric)
        yield _results_file(finished)
        yield _averages_file(lines, self.parsed)
        firsts = [_first(line) for line in lines]
        title, label = f"{self.metric}, percent", ""
        if any(first.length is not None for first in firsts):
            title, label = f"{title}; lengths in tokens", "length"
        labelled = [
            ("" if first.length is None else f"{first.length:,}", line)
            for first, line in zip(firsts, lines, strict=True)
        ]
        table = _write_lines(labelled, label, self.parsed, num_left=2)
        notes = [
            f"- {group.name}: {'weighted by samples' if group.weighting == 'samples' else 'mean'} "
            f"of {', '.join(group.members)}"
            for group in self.parsed
        ]
        if counted := sorted({first.tokenizer for first in firsts if first.tokenizer}):
            notes.append(f"- lengths counted with: {', '.join(counted)}")
        if any(average_group(ln, g).status == "not run" for ln in lines for g in self.parsed):
            notes.append(f"- {NOT_RUN}: not part of this run, or a group with such a task")
        yield "summary", "md", "\n".join([title, "", table, "", *notes]).rstrip() + "\n"


@dataclass(eq=False)
class BreakdownSummarizer(Summarizer):
    """Writes a table with a line a model and part besides: LongBench-E by length, v2 by difficulty.

    `parts` are the labels of lines with their metrics in the result files, e.g. ``{'all': 'score',
    '0-4k': 'score_0-4k'}``; `groups` are as `GroupSummarizer` takes them.
    """

    parts: Mapping[str, str]
    groups: Sequence[Mapping[str, Any]] = ()

    def __post_init__(self) -> None:
        """Check the parts and parse the groups."""
        if not self.parts:
            raise ValueError("parts={} must name at least one metric, as in {'all': 'score'}.")
        self.parsed = parse_groups(self.groups)

    def _write_tables(self, finished: FinishedRun) -> Iterator[SummaryFile]:
        labelled = [
            (label, line)
            for label, metric in self.parts.items()
            for line in make_lines(finished.results, metric)
        ]
        lines = [line for _, line in labelled]
        yield _results_file(finished)
        yield _averages_file(lines, self.parsed)
        models = [_first(line).model for line in lines]
        by_model = sorted(labelled, key=lambda pair: models.index(_first(pair[1]).model))
        tasks = [task for line in lines for task in line]
        table = _write_lines(by_model, "part", self.parsed, num_left=3, tasks=tasks)
        note = f"- {NOT_RUN}: the data has no samples in this part, or a group such a task"
        yield "summary", "md", f"percent\n\n{table}\n\n{note}\n"


def make_lines(results: pandas.DataFrame, metric: str) -> list[Line]:
    """Collect rows that name a task into lines, in order of model, benchmark and length."""
    places = {model: place for place, model in enumerate(results.model.unique())}
    own = results[(results.metric == metric) & results.task.notna()]
    own = own.assign(place=own.model.map(places), tokens=own.length.fillna(0))
    own = own.sort_values(["place", "benchmark", "tokens"], kind="stable")
    keys = ["model", "benchmark", "length", "tokenizer"]
    lines: list[Line] = []
    for _, rows in own.groupby(keys, sort=False, dropna=False):
        line: Line = {}
        for row in rows.itertuples():
            if row.task in line:
                raise ValueError(
                    f"{row.model}: {line[row.task].dataset!r} and {row.dataset!r} both "
                    f"are task={row.task!r} at length={row.length}; a table has room for one of "
                    "them: give them different task names or lengths."
                )
            line[row.task] = row
        lines.append(line)
    return lines


def _first(line: Line) -> Any:
    """Return any of a line's rows: model, benchmark, length and tokenizer are the same in all."""
    return next(iter(line.values()))


def _averages_file(lines: Sequence[Line], groups: Sequence[Group]) -> SummaryFile:
    shared = ["model", "title", "scaling", "benchmark", "tokenizer", "length"]
    rows = [
        {name: getattr(_first(line), name) for name in (*shared, "metric")}
        | {"group": group.name, "weighting": group.weighting}
        | asdict(average_group(line, group))
        for line in lines
        for group in groups
    ]
    heads = [*shared, "group", "weighting", "metric", "num_tasks", "n", "score", "standard_error",
             "status", "reason"]  # fmt: skip
    return "groups", "csv", writers.write_csv_rows(heads, rows)


def _write_lines(
    labelled: Sequence[tuple[str, Line]],
    label: str,
    groups: Sequence[Group],
    *,
    num_left: int,
    tasks: Iterable[str] | None = None,
) -> str:
    """Write lines with their labels, if these have a heading, then a column a group and task."""
    names = list(dict.fromkeys(tasks or (task for _, line in labelled for task in line)))
    heads = ["model", "scaling", *([label] if label else [])]
    rows = []
    for text, line in labelled:
        first = _first(line)
        fields = [writers.plain_field(first.title), writers.name_scaling(first.scaling), text]
        fields = fields[: len(heads)]
        fields += [_show(average_group(line, group), "**{:.1f}**") for group in groups]
        rows.append([*fields, *(_show(line.get(task), "{:.1f}") for task in names)])
    heads += [*(f"**{group.name}**" for group in groups), *names]
    return writers.write_plain_table(heads, rows, num_left)


def _show(own: Any, form: str) -> str:
    """Return the score of an average or a row, and words where there is none."""
    if own is None or own.status == "not run":
        return NOT_RUN
    return MISSING if own.score is None else form.format(own.score)


class PerplexitySummarizer(Summarizer):
    """Writes the curves' table and figure besides; for perplexity."""

    def _write_tables(self, finished: FinishedRun) -> Iterator[SummaryFile]:
        facts = finished.run.facts
        points = read_curves(self.config, finished.run.path, facts)
        if points.empty:
            logger.warning("No data set says benchmark=%r: there is no curve to draw.", BENCHMARK)
            return
        for suffix, text in write_curves(points).items():
            yield "perplexity", suffix, text
        trained = {model.abbr: model.trained_length for model in facts}
        yield "perplexity", "png", partial(draw_curves, points, trained)


@dataclass(eq=False)
class SideBySideSummarizer(Summarizer):
    """Writes OpenCompass's table of models side by side besides; for its own data sets.

    `dataset_abbrs` (its lines) and `summary_groups` are as DefaultSummarizer takes them.
    """

    dataset_abbrs: Sequence[Any] | None = None
    summary_groups: Sequence[Mapping[str, Any]] = ()

    def _write_tables(self, finished: FinishedRun) -> Iterable[SummaryFile]:
        from opencompass.summarizers import DefaultSummarizer

        DefaultSummarizer(
            self.config, dataset_abbrs=self.dataset_abbrs, summary_groups=list(self.summary_groups)
        ).summarize(time_str=finished.stamp)
        return ()


@dataclass(eq=False)
class CoverageSummarizer(Summarizer):
    """Says of each data set config whether all of it ran, and no more: scores do not matter.

    A set is ``dict(name=..., datasets=[abbr, ...], absent=...)``; `absent` says why it was not run,
    and is empty for those that were.
    """

    sets: Sequence[Mapping[str, Any]]
    has_scores: ClassVar[bool] = False

    def _write_tables(self, finished: FinishedRun) -> Iterator[SummaryFile]:
        missing = {cell.dataset for cell in finished.missing}
        lines = ["| data set config | cells | without a result | |", "|---|---:|---:|---|"]
        for own in self.sets:
            lost = len(missing & set(own["datasets"]))
            state = f"not run: {own['absent']}" if own["absent"] else ("MISSING" if lost else "ran")
            name = writers.plain_field(own["name"])
            lines.append(f"| {name} | {len(own['datasets'])} | {lost} | {state} |")
        yield "summary", "md", "\n".join(lines) + "\n"
