"""Puts what runs recorded into a paragraph on methods, for a paper. Computes no score."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from opencompass_llada.benchmarks.benchmark import find_benchmark
from opencompass_llada.report.collect import Collection
from opencompass_llada.report.comparisons import Comparison
from opencompass_llada.report.scores import Score
from opencompass_llada.runs.provenance import DECIDING

_KINDS = {
    "diffusion": "masked diffusion",
    "autoregressive": "autoregressive",
    "unknown": "kind not recorded",
}


#: How a difference in a metric is tested; '' for any other metric.
_TESTS = {
    "nats a token": "by Student's t on nats a token",
    "": "by flipping signs of the differences by needle or question (McNemar's test for hits)",
}


def write_methods(
    collection: Collection, scores: Sequence[Score], comparisons: Sequence[Comparison]
) -> str:
    """Return sentences on models, data, sampling, samples, versions, devices and statistics.

    What no run recorded is said to be so.
    """
    parts = [*_models(collection), *_benchmarks(collection), *_environment(collection)]
    return " ".join([*parts, *_statistics(scores, comparisons)])


def _join(values: Iterable[Any], none: str = "not recorded") -> str:
    words = list(dict.fromkeys(str(value) for value in values if value not in (None, "")))
    if len(words) < 2:
        return words[0] if words else none
    return f"{', '.join(words[:-1])} and {words[-1]}"


def _models(collection: Collection) -> Iterator[str]:
    """Yield what all lines of the leaderboard share, and a sentence on the rest of each."""
    facts = {
        str(entry): _describe(collection, rows)
        for entry, rows in collection.results.groupby("entry", sort=False)
    }
    shared = set.intersection(*map(set, facts.values())) if len(facts) > 1 else set()
    alike = [part for part in next(iter(facts.values()), ()) if part in shared]
    told = f", all {_join(alike)}" if alike else ""
    yield f"We evaluated {len(facts)} models and scalings{told}."
    for entry, parts in facts.items():
        yield f"{entry}: {'; '.join(part for part in parts if part not in shared)}."


def _describe(collection: Collection, rows: Any) -> list[str]:
    """Say of a line what it is: kind, checkpoint, scaling, trained length, sampler, precision."""
    first = rows.iloc[0]
    records = [
        collection.provenance[run].models.get(model, {})
        for run, model in dict.fromkeys(zip(rows.run, rows.model, strict=True))
    ]
    # A path says nothing to a reader, and may name a person: its last part does.
    names = [Path(part).name for part in str(first.checkpoint).split(" + ")]
    scaling = "without RoPE scaling" if first.scaling == "none" else f"RoPE scaling {first.scaling}"
    return [
        _KINDS.get(first.kind, first.kind),
        f"checkpoint {' + '.join(names)} (content hash "
        f"{_join(record.get('checkpoint_hash') for record in records)})",
        scaling,
        f"trained on {_tokens(rows.trained_length)}",
        f"sampler {_join(rows.sampler)}",
        f"precision {_join(record.get('dtype') for record in records)}",
    ]


def _tokens(lengths: Any) -> str:
    known = sorted({int(length) for length in lengths.dropna()})
    return f"{_join(f'{n:,}' for n in known)} tokens" if known else "a length that is not recorded"


def _benchmarks(collection: Collection) -> Iterator[str]:
    """Yield a sentence a benchmark: data, tasks, lengths and what counts them, samples a cell."""
    for name, rows in collection.results.groupby("benchmark", sort=False):
        data = _join("this package's generated text" if own.startswith("asset:") else Path(own).name
                     for own in rows.data)  # fmt: skip
        parts = [f"data: {data}"]
        if tasks := rows.task.dropna().nunique():
            parts.append(f"{tasks} task{'s' * (tasks > 1)}")
        if lengths := sorted(set(rows.length.dropna())):
            counted = _join(
                (str(own).removeprefix("asset:") for own in rows.tokenizer.dropna()), ""
            )
            counted = f", counted by the tokenizer {counted}" if counted else ""
            parts.append(f"context lengths {_join(f'{own:,}' for own in lengths)} tokens{counted}")
        if rows.draws.notna().any():
            parts.append(f"{_join(rows.draws.fillna('published'))} draws of needles")
        if depths := rows.depth.dropna().nunique():
            parts.append(f"{depths} depths")
        if name != "perplexity" and rows.generation_length.notna().any():
            most = _join(sorted(set(rows.generation_length.dropna())))
            parts.append(f"{most} generated tokens at most")
        counts = sorted(set(rows.n.dropna()))
        unit = "windows of text" if name == "perplexity" else "samples"
        parts.append(f"{_join(f'{own:,}' for own in counts)} {unit} a cell")
        if lost := int((rows.status != "ok").sum()):
            parts.append(f"{lost} results are missing")
        yield f"{find_benchmark(str(name)).title}: {'; '.join(parts)}."


def _environment(collection: Collection) -> Iterator[str]:
    """Yield versions, commits and devices as the processes of the lines shown recorded them."""
    shown, known = collection.results, collection.provenance
    models = dict.fromkeys(zip(shown.run, shown.model, strict=True))
    records = [known[run].models.get(model, {}) for run, model in models]
    whole = [*records, *(own for run in dict.fromkeys(shown.run) for own in known[run].runs)]
    versions = [
        f"{name} {_join((own.get('packages') or {}).get(name) for own in whole)}"
        for name in (*DECIDING, "opencompass")
    ]
    commits = _join((str(own["git_commit"])[:12] for own in whole if own.get("git_commit")), "")
    commit = f" (commit {commits})" if commits else ""
    yield f"Versions: {_join(versions)}{commit}."
    yield f"Device: {_join(record.get('device') for record in records)}."


def _statistics(scores: Sequence[Score], comparisons: Sequence[Comparison]) -> Iterator[str]:
    """Yield what intervals and decisions are made by, for what is shown."""
    shown = {s.benchmark for s in scores if s.low is not None}
    if shown:
        yield "All intervals are at 95 %."
    if any(find_benchmark(name).is_grid for name in shown):
        yield (
            "Intervals of means over depths are Wilson's score interval on the effective number "
            "of different needles."
        )
    if any(not find_benchmark(name).is_grid for name in shown - {"perplexity"}):
        yield (
            "Intervals of averages of tasks are Wilson's on the effective number of samples, with "
            "Korn and Graubard's correction; those of one task of hits are Clopper and Pearson's."
        )
    if "perplexity" in shown:
        yield "Intervals of perplexities are over the masks drawn, not over texts."
    if paired := [own for own in comparisons if own.p_value is not None]:
        kinds = {_TESTS.get(own.metric, _TESTS[""]) for own in paired}
        yield (
            f"Models were compared with {paired[0].baseline} on the samples that both answered, "
            f"{_join(sorted(kinds))}, with Holm's correction at 5 %."
        )
