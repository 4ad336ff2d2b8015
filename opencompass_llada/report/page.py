"""Renders the report's page: heat maps, samples, provenance. All that is not ours is escaped.

Chooses as many as fit; reads no files.

The page holds style, script and figures, and forbids every request and every other script by its
content security policy.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from opencompass_llada.report.cells import Sample
from opencompass_llada.report.collect import Collection
from opencompass_llada.report.figures import make_entry_grids
from opencompass_llada.report.frame import TidyRow
from opencompass_llada.report.grid import Grid
from opencompass_llada.report.heatmap import COLOUR_MAP, METRIC_NAMES
from opencompass_llada.report.published import LEFT_OUT, read_figures
from opencompass_llada.report.results import ResultRow
from opencompass_llada.report.runs import Run
from opencompass_llada.report.safe_text import show_controls
from opencompass_llada.report.score_intervals import grid_interval
from opencompass_llada.report.tables import Table, make_published
from opencompass_llada.runs.hashes import hash_text
from opencompass_llada.runs.provenance import Provenance


@dataclass(frozen=True, kw_only=True)
class HeatCell:
    """One place of a heat map."""

    text: str
    """Score without decimals, or ``–`` where it is missing."""
    level: str
    """Class of its colour: ``s0`` to ``s100``, or ``missing``."""
    hover: str
    """All that is known of it."""
    link: str
    """Anchor of its samples; '' if there are none."""
    ends_trained: bool
    """Whether it is the last column inside the trained length."""


@dataclass(frozen=True, kw_only=True)
class HeatMap:
    """One model's heat map."""

    title: str
    """Line of the leaderboard."""
    caption: str
    """Metric and number of samples."""
    heads: tuple[str, ...]
    """Lengths."""
    rows: tuple[tuple[str, tuple[HeatCell, ...]], ...]
    """Depth and its cells."""


def make_heat_maps(
    collection: Collection, anchors: Mapping[tuple[str, str, str], str]
) -> list[HeatMap]:
    """Make a heat map for each line of the leaderboard that has lengths and depths.

    Args:
        collection: What was read.
        anchors: Of samples, by run, model and data set.
    """
    maps = []
    for grid in make_entry_grids(collection):
        lines = []
        for depth in grid.depths:
            cells = []
            for length in grid.lengths:
                row = grid.rows.get((length, depth))
                link = anchors.get(_key(row), "") if isinstance(row, TidyRow) else ""
                interval = grid_interval(collection, [row]) if isinstance(row, TidyRow) else None
                cells.append(_make_cell(grid, length, depth, row, link, interval))
            lines.append((f"{depth:g}", tuple(cells)))
        number = f", {grid.num_samples} samples a cell" if grid.num_samples else ""
        maps.append(
            HeatMap(
                title=grid.title,
                caption=METRIC_NAMES.get(grid.metric, grid.metric) + number,
                heads=tuple(f"{length:,}" for length in grid.lengths),
                rows=tuple(lines),
            )
        )
    return maps


def _key(row: TidyRow) -> tuple[str, str, str]:
    return row.run, row.model, row.dataset


def _make_cell(
    grid: Grid,
    length: int,
    depth: float,
    row: ResultRow | None,
    link: str,
    interval: tuple[float, float] | None,
) -> HeatCell:
    score = grid.scores.get((length, depth))
    inside = [value for value in grid.lengths if value <= (grid.trained_length or 0)]
    ends = bool(inside) and length == inside[-1] and length != grid.lengths[-1]
    where = f"{length:,} tokens, depth {depth:g} %: "
    if score is None:
        reason = row.reason if row is not None else "not part of the run"
        status = row.status if row is not None else "missing"
        return HeatCell(
            text="–", level="missing", hover=f"{where}{status} ({reason})", link=link,
            ends_trained=ends,
        )  # fmt: skip
    hover = f"{where}{score:.1f} %"
    if row is not None and (number := row.n):
        hover += f" of {number} samples"
        if interval is not None:
            hover += f", 95 % interval {interval[0]:.0f} to {interval[1]:.0f}"
    return HeatCell(
        text=f"{score:.0f}", level=f"s{round(score)}", hover=hover, link=link, ends_trained=ends
    )


def write_colours() -> str:
    """Return CSS rules for the classes s0 to s100, in the figures' own colours."""
    from matplotlib import colormaps

    rules = []
    for level in range(101):
        red, green, blue, _ = colormaps[COLOUR_MAP](level / 100)
        shade = 0.2126 * red + 0.7152 * green + 0.0722 * blue
        text = "#fff" if shade < 0.5 else "#000"
        code = "".join(f"{round(255 * value):02x}" for value in (red, green, blue))
        rules.append(f".s{level},.s{level} a{{background:#{code};color:{text}}}")
    return "\n".join(rules)


#: Characters of configs that a page holds; the rest is in provenance.json beside it.
CONFIG_BUDGET = 400_000
_NOT_RECORDED = "not recorded"


@dataclass(frozen=True, kw_only=True)
class Part:
    """A table of facts."""

    title: str
    """Heading."""
    facts: tuple[tuple[str, str], ...]
    """Name and value."""


@dataclass(frozen=True, kw_only=True)
class RunView:
    """One run."""

    name: str
    """As in the tidy table."""
    path: str
    """Its folder."""
    parts: tuple[Part, ...]
    """The run, then its models."""
    configs: tuple[tuple[str, str], ...]
    """File name and text of each resolved config."""


def describe_runs(collection: Collection) -> list[RunView]:
    """Return every run's provenance.

    Args:
        collection: What was read.
    """
    budget = CONFIG_BUDGET // max(1, len(collection.runs))
    return [
        RunView(
            name=run.name,
            path=str(run.path),
            parts=tuple(_parts(run, collection.provenance[run.name])),
            configs=tuple(_configs(run, budget)),
        )
        for run in collection.runs
    ]


def _parts(run: Run, known: Provenance) -> Iterator[Part]:
    if not known.runs:
        yield Part(
            title="The run",
            facts=(("record", f"{_NOT_RECORDED}: it was not started by run.py or this package's "
                    "launcher"),),
        )  # fmt: skip
    for record in known.runs:
        yield Part(title=f"The run, {record.get('started', '')}", facts=tuple(_facts(record)))
    for model in dict.fromkeys(facts.abbr for facts in run.facts):
        own = known.models.get(model)
        facts = list(_facts(own)) if own else [("record", _NOT_RECORDED)]
        records = [record for (name, _), record in known.datasets.items() if name == model]
        if records:
            facts += list(_totals(records))
        yield Part(title=model, facts=tuple(facts))


def _facts(record: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in record.items():
        if name in ("kind", "model", "configs", "config"):
            continue
        if isinstance(value, Mapping):
            value = ", ".join(f"{key} {item}" for key, item in value.items())
        yield name.replace("_", " "), _NOT_RECORDED if value is None else str(value)


def _totals(records: list[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    yield "data sets recorded", str(len(records))
    hashes = sorted({str(r["dataset_hash"]) for r in records if r.get("dataset_hash")})
    yield "data set hashes", f"{len(hashes)} different; all in provenance.json"
    for name, form in (("wall_seconds", "{:.1f}"), ("num_prompts", "{:,.0f}"),
                       ("num_generated_tokens", "{:,.0f}"), ("num_forward_passes", "{:,.0f}"),
                       ("num_batch_passes", "{:,.0f}"), ("seconds", "{:.1f}")):  # fmt: skip
        values = [record.get(name) for record in records]
        known = [value for value in values if isinstance(value, int | float)]
        shown = form.format(sum(known)) if len(known) == len(values) else _NOT_RECORDED
        yield name.replace("_", " "), shown


def _configs(run: Run, budget: int) -> Iterator[tuple[str, str]]:
    room = budget // max(1, len(run.config_files))
    for file in run.config_files:
        text = file.read_text(encoding="utf-8", errors="replace")
        name = f"{file.name}, SHA-256 {hash_text(text)}"
        if len(text) > room:
            text = text[:room] + "\n… the whole text is in provenance.json"
        yield name, text


#: Characters of HTML that all samples together may take.
BUDGET = 2_600_000
#: What the markup around an answer, and around a prompt, takes.
_ANSWER_MARKUP, _PROMPT_MARKUP = 190, 420
#: Kept of each text where whole samples do not fit.
_SHORT = 140


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A model's answer to a prompt."""

    anchor: str
    """Unique in the page; the first answer of a cell has it."""
    entry: str
    """Line of the leaderboard."""
    prediction: str
    """What the model said."""
    score: float | None
    """0 to 100, where recorded."""


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """A prompt with the answers of all models that were asked it."""

    sample: Sample
    """Prompt, needle and what was expected."""
    answers: tuple[Answer, ...]
    """In the order of the leaderboard."""


@dataclass(frozen=True, kw_only=True)
class Block:
    """The samples of one data set."""

    anchor: str
    """Unique in the page."""
    title: str
    """Benchmark, task, length, depth."""
    dataset: str
    """Abbreviation."""
    cells: tuple[tuple[str, str], ...]
    """A line for each model: its name, and its score or status."""
    prompts: tuple[Prompt, ...]
    """The samples."""


def make_blocks(
    collection: Collection, budget: int = BUDGET
) -> tuple[list[Block], dict[tuple[str, str, str], str], str]:
    """Choose samples: three a cell, fewer or shorter ones where the page would get too large.

    Args:
        collection: What was read.
        budget: Characters that they may take.

    Returns:
        The blocks, the anchor of each cell by run, model and data set, and a remark on what was
        left out ('' if nothing).
    """
    most = max((len(cell.samples) for cell in collection.cells.values()), default=0)
    for keep in range(most, 0, -1):
        blocks, anchors = _build(collection, keep, short=False)
        if _estimate(blocks) <= budget:
            left_out = f"the first {keep} of each cell are shown" if keep < most else ""
            return blocks, anchors, left_out
    blocks, anchors = _build(collection, min(most, 1), short=True)
    kept, used = [], 0
    for block in blocks:
        used += _estimate([block])
        if used <= budget:
            kept.append(block)
            continue
        kept.append(replace(block, prompts=()))
    dropped = sum(not block.prompts for block in kept)
    remark = "the first sample of each cell is shown, shortened"
    return kept, anchors, remark + (f"; {dropped} data sets show none" if dropped else "")


def _build(
    collection: Collection, keep: int, *, short: bool
) -> tuple[list[Block], dict[tuple[str, str, str], str]]:
    """Return blocks by data set and prompts; models that were asked otherwise have their own."""
    rows: dict[tuple[str | None, ...], dict[tuple[str, str, str], TidyRow]] = {}
    for row in collection.rows:
        # Prompts are what is shared, whatever runs call the data set; a perplexity's are names.
        named = row.prompt_hash is None or row.benchmark == "perplexity"
        members = rows.setdefault((row.prompt_hash, row.dataset if named else row.benchmark), {})
        members.setdefault((row.run, row.model, row.dataset), row)
    blocks: list[Block] = []
    anchors: dict[tuple[str, str, str], str] = {}
    for number, members in enumerate(rows.values()):
        names = {key: f"c{number}-{place}" for place, key in enumerate(members)}
        shown = {key for key in members if collection.cells[key].samples}
        anchors |= {key: names[key] if key in shown else f"d{number}" for key in members}
        blocks.append(
            Block(
                anchor=f"d{number}",
                title=_title(next(iter(members.values()))),
                dataset=next(iter(members))[2],
                cells=tuple((row.entry, _state(row)) for row in members.values()),
                prompts=tuple(_prompts(collection, members, names, keep, short=short)),
            )
        )
    return blocks, anchors


def _prompts(
    collection: Collection,
    members: dict[tuple[str, str, str], TidyRow],
    names: dict[tuple[str, str, str], str],
    keep: int,
    *,
    short: bool,
) -> list[Prompt]:
    found = []
    for place in range(keep):
        answers, first = [], None
        for key, row in members.items():
            samples = collection.cells[key].samples
            if place >= len(samples):
                continue
            sample = samples[place]
            first = first or sample
            answers.append(
                Answer(
                    anchor=names[key] if place == 0 else "",
                    entry=row.entry,
                    prediction=_cut(sample.prediction) if short else sample.prediction,
                    score=sample.score,
                )
            )
        if first is not None:
            if short:
                first = replace(first, head=_cut(first.head), tail=first.tail[-_SHORT:])
            found.append(Prompt(sample=first, answers=tuple(answers)))
    return found


def _title(row: TidyRow) -> str:
    parts = [row.benchmark, row.task]
    parts += [f"{row.length:,} tokens"] if row.length is not None else []
    parts += [f"depth {row.depth:g} %"] if row.depth is not None else []
    return ", ".join(part for part in parts if part)


def _state(row: TidyRow) -> str:
    if row.score is None:
        return f"{row.status}: {row.reason}"
    return f"{row.metric} {row.score:.4g}" + (f", {row.n} samples" if row.n else "")


def _cut(text: str) -> str:
    return text if len(text) <= _SHORT else text[:_SHORT] + " …"


def _estimate(blocks: Sequence[Block]) -> int:
    """Return about how many characters blocks take, escaping counted with an eighth."""
    total = 0
    for block in blocks:
        total += 300 + sum(60 + len(entry) + len(state) for entry, state in block.cells)
        for prompt in block.prompts:
            sample = prompt.sample
            texts = len(sample.head) + len(sample.tail) + len(sample.needle) + len(sample.expected)
            total += _PROMPT_MARKUP + texts * 9 // 8
            for answer in prompt.answers:
                texts = len(answer.entry) + len(answer.prediction)
                total += _ANSWER_MARKUP + texts * 9 // 8
    return total


TEMPLATES = Path(__file__).with_name("templates")


@dataclass(frozen=True, kw_only=True)
class Plot:
    """A figure inside the page."""

    caption: str
    """What it shows."""
    address: str
    """The SVG as a data address."""
    width: int
    """CSS pixels."""
    height: int
    """CSS pixels."""


def make_plot(caption: str, figure: Any, svg: bytes) -> Plot:
    """Return a figure for the page.

    Args:
        caption: What it shows.
        figure: The matplotlib figure, for its size.
        svg: Its SVG.
    """
    width, height = figure.get_size_inches()
    return Plot(
        caption=caption,
        address="data:image/svg+xml;base64," + base64.b64encode(svg).decode("ascii"),
        width=round(96 * width),
        height=round(96 * height),
    )


def render_page(
    *,
    title: str,
    subtitle: str,
    collection: Collection,
    notes: Sequence[str],
    tables: Sequence[Table],
    plots: Sequence[Plot],
    blocks: Sequence[Block],
    anchors: dict[tuple[str, str, str], str],
    remark: str,
) -> str:
    """Return the page.

    Args:
        title: Heading.
        subtitle: What was reported, and when.
        collection: What was read.
        notes: What a reader has to know.
        tables: From `tables.make_tables`.
        plots: The figures.
        blocks: The samples.
        anchors: Of the samples.
        remark: What samples were left out; '' for none.
    """
    import jinja2
    import markupsafe

    loader = jinja2.FileSystemLoader(TEMPLATES)
    environment = jinja2.Environment(
        loader=loader,
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        finalize=_show,
    )
    style = (TEMPLATES / "style.css").read_text(encoding="utf-8") + write_colours()
    script = (TEMPLATES / "script.js").read_text(encoding="utf-8")
    policy = (
        f"default-src 'none'; img-src data:; style-src '{_source_hash(style)}'; "
        f"script-src '{_source_hash(script)}'; base-uri 'none'; form-action 'none'"
    )
    return environment.get_template("page.html").render(
        title=title,
        subtitle=subtitle,
        policy=policy,
        style=markupsafe.Markup(style),
        script=markupsafe.Markup(script),
        notes=notes,
        tables=tables,
        heat_maps=make_heat_maps(collection, anchors),
        plots=plots,
        published=make_published(read_figures(), LEFT_OUT),
        blocks=blocks,
        remark=remark,
        runs=describe_runs(collection),
    )


def _show(value: Any) -> Any:
    """Return what a template writes: NUL and changes of direction can be seen."""
    return show_controls(value) if type(value) is str else value


def _source_hash(text: str) -> str:
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return "sha256-" + base64.b64encode(digest).decode("ascii")
