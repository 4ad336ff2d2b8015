r"""Writes what a paper prints of runs: a table, figures at column width, a paragraph on methods.

Nothing is measured or averaged here; the numbers are those of the report.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from opencompass_llada.files import write_text
from opencompass_llada.options import reject_unknown, unknown_name_message
from opencompass_llada.report.averages import make_board
from opencompass_llada.report.collect import Collection, collect
from opencompass_llada.report.comparisons import Comparison, compare_lines
from opencompass_llada.report.cost import find_costs
from opencompass_llada.report.drawing import fit_column, save_figure
from opencompass_llada.report.figures import HEAT_MAPS, make_plots
from opencompass_llada.report.groups import Explain, explain_difference, group_lines
from opencompass_llada.report.latex import PACKAGES, WIDTHS, escape_latex, write_latex
from opencompass_llada.report.lm_eval import read_lm_eval
from opencompass_llada.report.methods import write_methods
from opencompass_llada.report.scores import BOLD_NOTE, Score, choose_headlines, rank_scores
from opencompass_llada.report.tables import make_parts, score_cell
from opencompass_llada.report.writers import Cell, Table, escape_markdown

Key = tuple[str, str, int | None]  # series, column and length of a score
#: Of a difference to the baseline that is decided.
MARKS = {"better": "†", "worse": "‡"}
MAIN = r"""\documentclass[10pt,twocolumn]{article}
\usepackage[letterpaper,textwidth=7in,textheight=9in]{geometry}
%s
\usepackage{graphicx}
\setlength{\columnsep}{0.4in}
\begin{document}
\section*{Evaluation}
\input{methods}
\input{table}
%s\end{document}
"""
FIGURE = r"""\begin{figure%(star)s}[tp]
\centering
\includegraphics[width=\linewidth,height=0.85\textheight,keepaspectratio]{figures/%(name)s}
\caption{%(caption)s}\label{fig:%(label)s}
\end{figure%(star)s}
"""


@dataclass(frozen=True, kw_only=True)
class PaperOptions:
    """What is shown, and how wide."""

    models: tuple[str, ...] = ()  # lines of the leaderboard, in this order; () for all
    columns: tuple[str, ...] = ()  # see `choose_columns`; () for the headlines
    has_intervals: bool = True
    width: str = "two"  # of `WIDTHS`
    baseline: str | None = None  # line that marks are against; None for the first shown

    def __post_init__(self) -> None:
        """Check the width."""
        reject_unknown("width", [self.width], WIDTHS)


def run_paper(
    work_dirs: Sequence[str], folder: Path, options: PaperOptions, lm_eval: Sequence[str] = ()
) -> int:
    """Write a paper's files for the runs in some folders."""
    paths = write_paper(collect(work_dirs, read_lm_eval(lm_eval)), folder, options)
    sys.stdout.write(f"{len(paths)} files; for a look: cd {folder} && pdflatex main\n")
    return 0


def write_paper(collection: Collection, folder: Path, options: PaperOptions) -> list[Path]:
    """Write table.tex, methods.tex and .md, figures/ and main.tex, which shows them; return all.

    Raises:
        ValueError: For a model, column or baseline that there is not, before anything is written.
    """
    shown = choose_models(collection, options.models)
    scores = make_board(shown)
    columns = choose_columns(scores, options.columns)
    # Best numbers, and what Holm corrects for, are of the columns shown.
    own, _ = rank_scores([s for s in scores if (s.series, s.column, s.length) in columns])
    comparisons = compare_lines(own, options.baseline)
    table = make_paper_table(
        own,
        columns,
        has_intervals=options.has_intervals,
        comparisons=comparisons,
        explain=functools.partial(explain_difference, shown.results),
    )
    texts = {
        "table.tex": write_latex(table, width=options.width, label="tab:scores"),
        "methods.tex": escape_latex(text := write_methods(shown, scores, comparisons)) + "\n",
        "methods.md": escape_markdown(text) + "\n",
    }
    figures: list[Path] = []
    places = []
    number = shown.results.entry.nunique()
    maps_a_row = 6 if number > 16 else 4 if number > 8 or options.width == "two" else 2
    for name, caption, figure in make_plots(shown, scores, find_costs(shown), maps_a_row):
        # More panels than two side by side are not legible in one column.
        num_columns = figure.axes[0].get_subplotspec().get_gridspec().ncols
        width = options.width if num_columns <= 2 else "two"
        heading = fit_column(figure, WIDTHS[width], is_grid=name == HEAT_MAPS)
        told = heading if ":" in heading else caption
        figures += save_figure(figure, folder / "figures" / f"{name}.pdf")
        words = {"name": name, "label": name.replace("_", "-"), "star": "*" * (width == "two")}
        places.append(FIGURE % {**words, "caption": escape_latex(f"{told}.")})
    texts["main.tex"] = MAIN % (PACKAGES, "".join(places))
    for name, text in texts.items():
        write_text(folder / name, text)
    return [*(folder / name for name in texts), *figures]


def choose_models(collection: Collection, names: Sequence[str]) -> Collection:
    """Return the lines of some models alone, in the order of their names.

    Ranks, best numbers and comparisons are then among these.
    """
    entries = list(dict.fromkeys(collection.results.entry))
    reject_unknown("model", names, entries)
    if not names:
        return collection
    order = {name: place for place, name in enumerate(names)}
    frames = [
        frame[frame.entry.isin(order)].sort_values(
            "entry", key=lambda own: own.map(order), kind="stable"
        )
        for frame in (collection.results, collection.curves)
    ]
    return replace(collection, results=frames[0], curves=frames[1])


def choose_columns(scores: Sequence[Score], names: Sequence[str]) -> list[Key]:
    """Return the scores' keys that some names stand for; of none, the headlines.

    A name is a benchmark, for its main average at every length (``RULER``), one of its columns
    (``RULER: QA``), or that at one length (``RULER: QA at 4,096``).
    """
    if not names:
        return choose_headlines(scores)
    known: dict[str, list[Key]] = {}
    for score in scores:
        if score.status != "not run":
            key = (score.series, score.column, score.length)
            where = [f"{score.series}: {score.column}"]
            where += [] if score.length is None else [f"{where[0]} at {score.length:,}"]
            for name in where:
                known.setdefault(name, []).append(key)
    for series, column, _ in choose_headlines(scores):
        known.setdefault(series, known.get(f"{series}: {column}", []))
    for name in names:
        if name not in known:
            raise ValueError(unknown_name_message("column", name, known))
    chosen = [key for name in names for key in sorted(known[name], key=_length_first)]
    return list(dict.fromkeys(chosen))


def _length_first(key: Key) -> float:
    return float("inf") if key[2] is None else key[2]


def make_paper_table(
    scores: Sequence[Score],
    columns: Sequence[Key],
    *,
    has_intervals: bool = True,
    comparisons: Sequence[Comparison] = (),
    explain: Explain = lambda benchmark, one, other: "prompts",
) -> Table:
    """Return a line a model and a column a key; what all columns share is said in the title.

    Lines that were asked different things stand in parts of their own, the first line's first. A
    mark stands where a comparison with the baseline is decided.
    """
    shown = [own for own in comparisons if (own.series, own.column, own.length) in columns]
    marks = {(own.entry, (own.series, own.column, own.length)): MARKS.get(own.outcome, "")
             for own in shown}  # fmt: skip
    index = {(s.entry, (s.series, s.column, s.length)): s for s in scores}
    shown_scores = [s for s in scores if (s.series, s.column, s.length) in columns]
    groups = group_lines(shown_scores, columns, explain, is_overview=True, by_score=False)
    entries = [entry for group in groups for entry in group.entries]
    own = [index[e, key] for e in entries for key in columns if (e, key) in index]
    title, heads = _name_columns(columns)
    rows = []
    for entry in entries:
        cells = []
        for key in columns:
            cell = score_cell(index.get((entry, key)), {})
            value, bracket, interval = cell.text.partition(" [")
            text = f"{value}{marks.get((entry, key), '')}"
            cells.append(replace(cell, text=text + (bracket + interval if has_intervals else "")))
        rows.append((Cell(text=entry), *cells))
    return Table(
        name="scores",
        title=title,
        heads=("model", *heads),
        rows=tuple(rows),
        parts=make_parts(groups, entries),
        notes=(
            *_caption(own, any(c.is_best for row in rows for c in row), has_intervals),
            *_explain_marks(shown, columns),
        ),
    )


def _explain_marks(comparisons: Sequence[Comparison], columns: Sequence[Key]) -> Iterable[str]:
    """Yield what the marks are, where some lines were compared."""
    if paired := [own for own in comparisons if own.outcome != "not paired"]:
        better, worse = MARKS["better"], MARKS["worse"]
        yield (
            f"{better} better, {worse} worse than {paired[0].baseline} on the same prompts, at 5 % "
            "after Holm's correction"
        )
        # Single tasks beside averages are not compared at all.
        is_whole = {(own.series, own.column, own.length) for own in paired} == set(columns)
        is_whole &= len(paired) == len(comparisons)
        yield f"No mark: {'undecided' if is_whole else 'undecided, or not compared'}"


def _name_columns(columns: Sequence[Key]) -> tuple[str, list[str]]:
    """Return what all columns have in common, and each one's head without it."""
    series, names, lengths = (list(dict.fromkeys(part)) for part in zip(*columns, strict=True))
    several = {own: len({c[1] for c in columns if c[0] == own}) > 1 for own in series}
    heads = []
    for own, name, length in columns:
        parts = [f"{own}:"] if len(series) > 1 else []
        parts += [name] if several[own] or len(series) > 1 and name not in own else []
        if len(lengths) > 1 or length is not None:
            parts += ["all lengths" if length is None else f"{length:,}"]
        heads.append(" ".join(parts).rstrip(":") or name)
    if len(series) > 1:
        return "Scores in percent", heads
    return ": ".join(dict.fromkeys([series[0], *(names if len(names) == 1 else [])])), heads


def _caption(scores: Sequence[Score], has_best: bool, has_intervals: bool) -> Iterable[str]:
    """Yield the caption's sentences: units, samples, intervals, what bold and words mean."""
    for series in dict.fromkeys(s.series for s in scores if not s.higher_is_better):
        yield f"{series}: lower is better"
    if any(s.length is not None for s in scores):
        yield "Numbers in heads: context length in tokens"
    counts = sorted({s.n for s in scores if s.n and s.higher_is_better})
    if counts:
        number = f"{counts[0]:,}" + (f" to {counts[-1]:,}" if len(counts) > 1 else "")
        yield f"{number} samples a number"
    if has_intervals and any(s.low is not None for s in scores):
        yield "Brackets: 95 % intervals"
    if has_best:
        yield BOLD_NOTE
    if any(s.status == "missing" for s in scores):
        yield "missing: a part of the average has no result"
    if any(s.status == "not run" for s in scores):
        yield "-: not part of the run"
