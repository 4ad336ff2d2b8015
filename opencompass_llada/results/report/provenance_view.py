"""What the report shows of each run's provenance: facts in tables, and the resolved config."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from opencompass_llada.results.collect import Collection
from opencompass_llada.results.fingerprints import hash_text
from opencompass_llada.results.provenance import Provenance
from opencompass_llada.results.runs import Run

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
