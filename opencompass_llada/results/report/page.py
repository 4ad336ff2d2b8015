"""Renders the report's page. Everything that is not of this package is escaped.

The page holds style, script and figures, and forbids every request and every other script by its
content security policy.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from opencompass_llada.results.collect import Collection
from opencompass_llada.results.fact_tables import make_published
from opencompass_llada.results.published import LEFT_OUT, read_figures
from opencompass_llada.results.report.heat import make_heat_maps, write_colours
from opencompass_llada.results.report.provenance_view import describe_runs
from opencompass_llada.results.report.samples import Block
from opencompass_llada.results.safe_text import show_controls
from opencompass_llada.results.table_cells import Table

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
