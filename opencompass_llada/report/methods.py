"""Puts what runs recorded into a paragraph on methods, for a paper. Computes no score."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from opencompass_llada.benchmarks.benchmark import find_benchmark
from opencompass_llada.report.collect import Collection
from opencompass_llada.report.comparisons import Comparison
from opencompass_llada.report.results import is_packaged
from opencompass_llada.report.scores import Score
from opencompass_llada.runs.checkpoints import label_paths
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
    is_scaled = bool((collection.results.scaling != "none").any())
    yield f"We evaluated {len(facts)} model{'s' * (len(facts) > 1)}{' and scalings' * is_scaled}."
    if alike := [f"{verb} {fact}" for verb, fact in next(iter(facts.values()), ())
                 if (verb, fact) in shared]:  # fmt: skip
        yield f"All {_join(alike)}."
    for entry, own in facts.items():
        yield f"{entry}: {'; '.join(fact for verb, fact in own if (verb, fact) not in shared)}."


def _describe(collection: Collection, rows: Any) -> list[tuple[str, str]]:
    """Return facts on a line, each with the verb that all lines have it with where they share it.

    They are kind, checkpoint, scaling, trained length, sampler and precision.
    """
    first = rows.iloc[0]
    records = [
        collection.provenance[run].models.get(model, {})
        for run, model in dict.fromkeys(zip(rows.run, rows.model, strict=True))
    ]
    names = _short_names(collection)
    checkpoint = " + ".join(names[part] for part in str(first.checkpoint).split(" + "))
    scaling = "without RoPE scaling" if first.scaling == "none" else f"RoPE scaling {first.scaling}"
    hashes = _join(record.get("checkpoint_hash") for record in records)
    precision = _join((record.get("dtype") for record in records), _join(rows.dtype))
    options = (
        "default generation options" if own == "defaults" else f"generation options {own}"
        for own in rows.sampler
    )  # fmt: skip
    return [
        ("are of the kind:", _KINDS.get(first.kind, first.kind)),
        ("are of the", f"checkpoint {checkpoint} (content hash {hashes})"),
        ("ran", scaling),
        ("were", f"trained on {_tokens(rows.trained_length)}"),
        ("answered with", _join(options)),
        ("computed in", f"precision {precision}"),
    ]


def _short_names(collection: Collection) -> dict[str, str]:
    """Return checkpoints by as few parts of their paths as tell them apart.

    A whole path says nothing to a reader, and may name a person.
    """
    paths = {part for own in collection.results.checkpoint for part in str(own).split(" + ")}
    given = sorted(paths)
    return dict(zip(given, label_paths(given, [""] * len(given), {}), strict=True))


def _by_line(rows: Any, column: str, form: str = "{}") -> str:
    """Return the values of a column, with the lines that have them where lines differ."""
    lines: dict[str, list[str]] = {}
    for entry, own in rows.groupby("entry", sort=False)[column]:
        values = sorted(set(own.dropna()))
        lines.setdefault(_join(form.format(value) for value in values), []).append(str(entry))
    if len(lines) == 1:
        return next(iter(lines))
    return ", ".join(f"{values} ({_join(entries)})" for values, entries in lines.items())


def _tokens(lengths: Any) -> str:
    known = sorted({int(length) for length in lengths.dropna()})
    return f"{_join(f'{n:,}' for n in known)} tokens" if known else "a length that is not recorded"


def _benchmarks(collection: Collection) -> Iterator[str]:
    """Yield a sentence a benchmark: data, tasks, lengths and what counts them, samples a cell."""
    for name, rows in collection.results.groupby("benchmark", sort=False):
        data = _join("this package's generated text" if is_packaged(own) else Path(own).name
                     for own in rows.data)  # fmt: skip
        parts = [f"data: {data}"]
        if tasks := rows.task.dropna().nunique():
            parts.append(f"{tasks} task{'s' * (tasks > 1)}")
        if rows.length.notna().any():
            parts.append(f"context lengths in tokens: {_by_line(rows, 'length', '{:,}')}")
        if rows.tokenizer.notna().any():
            named = rows.assign(tokenizer=rows.tokenizer.str.removeprefix("asset:"))
            parts.append(f"counted by the tokenizer {_by_line(named, 'tokenizer')}")
        if rows.draws.notna().any():
            parts.append(f"{_join(rows.draws.fillna('published'))} draws of needles")
        if depths := rows.depth.dropna().nunique():
            parts.append(f"{depths} depths")
        if name != "perplexity" and rows.generation_length.notna().any():
            parts.append(f"generated tokens at most: {_by_line(rows, 'generation_length')}")
        unit = "windows of text" if name == "perplexity" else "samples"
        parts.append(f"{unit} a cell: {_by_line(rows, 'n', '{:,}')}")
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
    # Records of other harnesses hold commits of their own.
    own_records = [own for own in whole if DECIDING[0] in (own.get("packages") or {})]
    commits = (str(own["git_commit"])[:12] for own in own_records if own.get("git_commit"))
    if told := _join(commits, ""):
        versions[0] += f" (commit {told})"
    yield f"Versions: {_join(versions)}."
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
        verb = "were" if len({own.entry for own in paired}) > 1 else "was"
        yield (
            f"{_join(own.entry for own in paired)} {verb} compared "
            f"with {paired[0].baseline} on the samples that both answered, {_join(sorted(kinds))}, "
            "with Holm's correction at 5 %."
        )
    reasons: dict[str, dict[str, None]] = {}
    for own in comparisons:
        if own.p_value is None:
            is_partly = own.entry in {other.entry for other in paired}
            name = f"{own.entry} on {own.series}" if is_partly else own.entry
            reasons.setdefault(own.reason, {})[name] = None
    for reason, lines in reasons.items():
        yield f"Not compared with {comparisons[0].baseline}: {_join(lines)} ({reason})."
