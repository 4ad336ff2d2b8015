"""Renders the report's page by templates/page.html, which escapes all that is not ours.

The page holds style, script, figures and as many samples as fit, and forbids every request and
every other script by its content security policy.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from opencompass_llada.benchmarks.benchmark import find_benchmark
from opencompass_llada.report.averages import cell_interval
from opencompass_llada.report.collect import CELL_KEY, CellKey, Collection, key_of
from opencompass_llada.report.figures import CURVES
from opencompass_llada.report.heatmap import COLOUR_MAP, METRIC_NAMES, Grid, make_entry_grids
from opencompass_llada.report.results import Sample, shorten
from opencompass_llada.report.writers import show_controls
from opencompass_llada.runs.hashes import hash_text
from opencompass_llada.runs.machine import write_job

TEMPLATES = Path(__file__).with_name("templates")
MOST_PLACES = 8  # hosts and jobs named for a model
CONFIG_BUDGET = 400_000  # characters of configs in a page; the rest is in provenance.json
#: Sentences of the verdict that are not folded, so that a picture is on the first screen.
MOST_SENTENCES = 4
MOST_MAPS = 60  # heat maps of a page
MOST_ROWS = 400  # of each of its tables; the rest is in tables/
SAMPLE_BUDGET = 2_000_000  # characters of HTML that all samples together may take
#: What the markup around a data set, a prompt and an answer takes.
_BLOCK_MARKUP, _PROMPT_MARKUP, _ANSWER_MARKUP, _STATE_MARKUP = 300, 420, 190, 84
_SHORT = 140  # characters of each text where whole samples do not fit
_TOTALS = {"wall_seconds": "{:.1f}", "num_prompts": "{:,.0f}", "num_generated_tokens": "{:,.0f}",
           "num_forward_passes": "{:,.0f}", "num_batch_passes": "{:,.0f}",
           "seconds": "{:.1f}"}  # fmt: skip


def make_plot(name: str, caption: str, figure: Any, svg: bytes) -> dict[str, Any]:
    """Return a matplotlib figure for the page, given its SVG; sizes are CSS pixels."""
    width, height = (round(96 * inches) for inches in figure.get_size_inches())
    address = "data:image/svg+xml;base64," + base64.b64encode(svg).decode("ascii")
    return {"name": name, "caption": caption, "address": address, "width": width, "height": height}


class SampleAnswer(NamedTuple):
    """A model's answer to the prompt of a data set; the sample holds both."""

    anchor: str  # unique in the page; the first answer of a cell has it
    entry: str
    sample: Sample


class SampleBlock(NamedTuple):
    """The results of all models on one data set, and for each prompt their answers."""

    anchor: str
    rows: list[Any]
    prompts: list[list[SampleAnswer]]


class Samples(NamedTuple):
    """The samples of a page."""

    blocks: list[SampleBlock]
    anchors: dict[CellKey, str]  # of every cell; one without samples leads to its block
    remark: str  # what was left out; '' if nothing


def choose_samples(collection: Collection) -> Samples:
    """Choose three samples a cell, fewer or shorter ones where they would take too much room."""
    most = max((len(cell.samples) for cell in collection.cells.values()), default=0)
    for number in range(most, 0, -1):
        blocks, anchors = _make_blocks(collection, number, short=False)
        if sum(map(_estimate, blocks)) <= SAMPLE_BUDGET:
            remark = f"the first {number} of each cell are shown" if number < most else ""
            return Samples(blocks, anchors, remark)
    blocks, anchors = _make_blocks(collection, min(most, 1), short=True)
    used = 0
    for place, block in enumerate(blocks):
        used += _estimate(block)
        if used > SAMPLE_BUDGET:
            blocks[place] = block._replace(prompts=[])
    dropped = sum(not block.prompts for block in blocks)
    remark = "the first sample of each cell is shown, shortened"
    remark += f"; {dropped} data sets show none" if dropped else ""
    return Samples(blocks, anchors, remark)


def _make_blocks(
    collection: Collection, number: int, *, short: bool
) -> tuple[list[SampleBlock], dict[CellKey, str]]:
    """Return blocks by data set and prompts; models that were asked otherwise have their own."""
    cells = collection.results.drop_duplicates(CELL_KEY)
    # Prompts are what is shared, whatever runs call the data set; a perplexity's are names.
    named = cells.prompt_hash.isna() | (cells.benchmark == "perplexity")
    shared = [cells.prompt_hash, cells.dataset.where(named, cells.benchmark)]
    blocks: list[SampleBlock] = []
    anchors: dict[CellKey, str] = {}
    for place, (_, rows) in enumerate(cells.groupby(shared, sort=False, dropna=False)):
        group = {key_of(row): row for row in rows.itertuples()}
        names = {
            key: f"c{place}-{column}" if collection.cells[key].samples else f"d{place}"
            for column, key in enumerate(group)
        }
        anchors |= names
        prompts = [
            [
                SampleAnswer("" if index else names[key], row.entry, _cut(sample, short))
                for key, row in group.items()
                for sample in collection.cells[key].samples[index : index + 1]
            ]
            for index in range(number)
        ]
        blocks.append(SampleBlock(f"d{place}", list(group.values()), list(filter(None, prompts))))
    return blocks, anchors


def _cut(sample: Sample, short: bool) -> Sample:
    if not short:
        return sample
    head, prediction = shorten(sample.head, _SHORT), shorten(sample.prediction, _SHORT)
    return replace(sample, head=head, tail=sample.tail[-_SHORT:], prediction=prediction)


def _estimate(block: SampleBlock) -> int:
    """Return about how many characters a block takes, escaping counted with an eighth."""
    total = _BLOCK_MARKUP
    total += sum(_STATE_MARKUP + len(row.entry) + len(row.reason) for row in block.rows)
    for answers in block.prompts:
        sample = answers[0].sample
        texts = [sample.head, sample.tail, sample.needle, sample.expected]
        texts += [text for own in answers for text in (own.entry, own.sample.prediction)]
        total += _PROMPT_MARKUP + _ANSWER_MARKUP * len(answers) + sum(map(len, texts)) * 9 // 8
    return total


@lru_cache(maxsize=1)
def _write_colours() -> str:
    """Return CSS rules for the classes s0 to s100, in the figures' own colours."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    rules = []
    for level in range(101):
        colour = colormaps[COLOUR_MAP](level / 100)[:3]
        # Relative luminance; at 0.179 black and white have the same contrast (WCAG 2.2).
        linear = [(c / 12.92 if c <= 0.04 else ((c + 0.055) / 1.055) ** 2.4) for c in colour]
        red, green, blue = linear
        text = "#fff" if 0.2126 * red + 0.7152 * green + 0.0722 * blue < 0.179 else "#000"
        code = to_hex(colour)
        rules.append(f".s{level},.s{level} a{{background:{code};color:{text}}}")
    return "\n".join(rules)


def _add_up(records: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    """Yield name and sum of what the records of a model's data sets count."""
    yield "data sets recorded", str(len(records))
    hashes = {str(r["dataset_hash"]) for r in records if r.get("dataset_hash")}
    yield "data set hashes", f"{len(hashes)} different; all in provenance.json"
    yield "hosts and jobs", "; ".join(_list_places(records)) or "not recorded"
    for name, form in _TOTALS.items():
        values = [record.get(name) for record in records]
        known = [value for value in values if isinstance(value, int | float)]
        shown = form.format(sum(known)) if len(known) == len(values) else "not recorded"
        yield name.replace("_", " "), shown


def _list_places(records: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Yield where data sets ran: ``login1: Slurm job 12, node n1``, each once."""
    places: dict[str, None] = {}
    for record in records:
        job = record.get("job")
        told = write_job(job) if isinstance(job, Mapping) else ""
        if record.get("host"):
            places[f"{record['host']}{told and f': {told}'}"] = None
    shown = list(places)
    yield from shown[:MOST_PLACES]
    if len(shown) > MOST_PLACES:
        yield f"{len(shown) - MOST_PLACES} more in provenance.json"


def _show_config(file: Path, room: int) -> tuple[str, str]:
    """Return name with hash, and text, of a resolved config."""
    text = file.read_text(encoding="utf-8", errors="replace")
    name = f"{file.name}, SHA-256 {hash_text(text)}"
    if len(text) > room:
        text = text[:room] + "\n… the whole text is in provenance.json"
    return name, text


def _title_of(row: Any) -> str:
    return find_benchmark(row.benchmark).title


def _find_widest(grid: Grid) -> float | None:
    """Return the width of the widest interval of a map's cells, in points; None if none has one."""
    ends = map(cell_interval, grid.rows.values())
    return max((high - low for low, high in filter(None, ends)), default=None)


@lru_cache(maxsize=1)
def _compile_page() -> Any:
    """Return the page's template, compiled once a process."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        # NUL and changes of direction can be seen.
        finalize=lambda value: show_controls(value) if type(value) is str else value,
    )
    return environment.get_template("page.html")


def render_page(
    collection: Collection,
    samples: Samples,
    plots: Sequence[Mapping[str, Any]],
    entries: Sequence[str],
    **parts: Any,
) -> str:
    """Return the page, given its title, subtitle, verdict, notes, tables and published figures.

    `entries` are all lines, the best first; heat maps are in that order.
    """
    import markupsafe

    results = collection.results
    order = {entry: place for place, entry in enumerate(entries)}
    grids = sorted(make_entry_grids(results), key=lambda grid: order[grid.model])
    style = (TEMPLATES / "style.css").read_text(encoding="utf-8") + _write_colours()
    script = (TEMPLATES / "script.js").read_text(encoding="utf-8")
    policy = (
        f"default-src 'none'; img-src data:; style-src '{_source_hash(style)}'; "
        f"script-src '{_source_hash(script)}'; base-uri 'none'; form-action 'none'"
    )
    return _compile_page().render(
        **parts,
        curves=[plot for plot in plots if plot["name"].endswith(CURVES)],
        plots=[plot for plot in plots if not plot["name"].endswith(CURVES)],
        policy=policy,
        style=markupsafe.Markup(style),
        script=markupsafe.Markup(script),
        entries=entries,
        benchmarks=list(
            dict.fromkeys(map(_title_of, results.drop_duplicates("benchmark").itertuples()))
        ),
        lengths=sorted(set(results.length.dropna())),
        title_of=_title_of,
        most_sentences=MOST_SENTENCES,
        grids=grids[:MOST_MAPS],
        num_maps=len(grids),
        most_rows=MOST_ROWS,
        metric_names=METRIC_NAMES,
        find_widest=_find_widest,
        find_interval=cell_interval,
        anchor_of=lambda row: samples.anchors.get(key_of(row), ""),
        samples=samples,
        runs=collection.runs,
        provenance=collection.provenance,
        records_of=lambda known, model: [
            record for (name, _), record in known.datasets.items() if name == model
        ],
        add_up=_add_up,
        show_config=_show_config,
        config_budget=CONFIG_BUDGET // max(1, len(collection.runs)),
    )


def _source_hash(text: str) -> str:
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return "sha256-" + base64.b64encode(digest).decode("ascii")
