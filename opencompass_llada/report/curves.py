"""Reads perplexity over context length from a run: a tidy table and curves; draws nothing.

A point whose result is missing has no number, and so has a running mean that it belongs to.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from opencompass_llada.likelihood import Estimate, pool
from opencompass_llada.likelihood.estimate import safe_exp
from opencompass_llada.report.results import finite
from opencompass_llada.report.runs import ModelFacts
from opencompass_llada.report.writers import plain_field, write_csv_rows, write_plain_table
from opencompass_llada.runs.recorded_files import list_pairs, read_result

BENCHMARK = "perplexity"


@dataclass(frozen=True, kw_only=True)
class CurvePoint:
    """One model at one context length; numbers are None where the status is not ``ok``."""

    model: str
    title: str
    scaling: str
    dataset: str  # abbreviation of the cell that ends at this length
    text: str  # where it comes from
    #: ``last``: the same last tokens of a window at every length. ``whole``: all tokens.
    #: ``segment``: all chunks up to this length, each given what stands before it.
    target: str
    length: int  # of the context, tokens of the model: prefix and target together
    estimator: str | None = None  # ``bound``, ``longllada`` or ``autoregressive``
    perplexity: float | None = None  # exponential of the nats a token
    perplexity_low: float | None = None  # of the 95 % interval over the masks drawn
    perplexity_high: float | None = None
    nll_per_token: float | None = None  # nats
    #: Of ``nll_per_token``, over the draws of masks; says nothing on the choice of the text.
    standard_error: float | None = None
    bits_per_byte: float | None = None  # comparable between tokenizers
    num_tokens: int | None = None
    num_draws: int | None = None  # of masks
    num_forward_passes: int | None = None  # of one row
    status: str = "ok"
    reason: str = ""


def read_curves(
    cfg: Mapping[str, Any], work_dir: str | Path, models: Sequence[ModelFacts]
) -> list[CurvePoint]:
    """Read the points that a run's config asks for (``benchmark='perplexity'``).

    Returns:
        Points by model, text and target in the config's order, and by length.
    """
    facts = {model.abbr: model for model in models}
    curves: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
    for model, dataset in list_pairs(cfg):
        if dataset.get("benchmark") == BENCHMARK:
            key = (str(model["abbr"]), str(dataset["path"]), str(dataset["target"]))
            curves.setdefault(key, []).append(dataset)
    points: list[CurvePoint] = []
    for (abbr, _, _), cells in curves.items():
        cells.sort(key=lambda cell: cell["length"])
        points += _read_curve(facts[abbr], cells, Path(work_dir) / "results" / abbr)
    return points


def _read_curve(
    facts: ModelFacts, cells: Sequence[Mapping[str, Any]], folder: Path
) -> Iterator[CurvePoint]:
    """Yield a curve's points; segments are added up from the first to the point's own."""
    estimates: list[Estimate] = []
    num_bytes, reason, reached = 0, "", 0
    for cell in cells:
        if cell["target"] != "segment":
            estimates, num_bytes, reason = [], 0, ""
        elif cell.get("previous_length") != reached:
            reason = reason or f"there is no cell that ends at {cell.get('previous_length')} tokens"
        reached = cell["length"]
        result, fault = _read_estimate(folder / f"{cell['abbr']}.json")
        reason = reason or (fault and f"{cell['abbr']}: {fault}")
        if not reason:
            degrees = result["degrees_of_freedom"]
            values = {field.name: result[field.name] for field in fields(Estimate)}
            values["degrees_of_freedom"] = math.inf if degrees is None else degrees
            estimates.append(Estimate(**values))
            num_bytes += int(result["num_bytes"])
        yield CurvePoint(
            model=facts.abbr,
            title=facts.title,
            scaling=facts.scaling,
            dataset=str(cell["abbr"]),
            text=str(cell["path"]),
            target=str(cell["target"]),
            length=int(cell["length"]),
            status="missing" if reason else "ok",
            reason=reason,
            **({} if reason else _numbers(pool(estimates), num_bytes)),
        )


def _read_estimate(path: Path) -> tuple[dict[str, Any], str]:
    """Return a result with what is wrong with it, '' if nothing."""
    result, fault = read_result(path)
    if fault:
        return {}, fault
    numbers = {field.name for field in fields(Estimate)} - {"estimator", "degrees_of_freedom"}
    for name in ("nll_per_token", *sorted(numbers), "num_bytes"):
        value = finite(result.get(name))
        if value is None or (value <= 0 and name in ("num_tokens", "num_bytes")):
            return {}, f"the result has no finite number {name!r}"
    degrees = result.get("degrees_of_freedom")
    if "estimator" not in result or (degrees is not None and finite(degrees) is None):
        return {}, "the result has no estimator with its degrees of freedom"
    return {"degrees_of_freedom": None, **result}, ""


def _numbers(total: Estimate, num_bytes: int) -> dict[str, Any]:
    low, high = total.interval()
    names = ("estimator", "perplexity", "nll_per_token", "standard_error", "num_tokens",
             "num_draws", "num_forward_passes")  # fmt: skip
    return {
        **{name: getattr(total, name) for name in names},
        "perplexity_low": safe_exp(low),
        "perplexity_high": safe_exp(high),
        "bits_per_byte": total.nll / math.log(2) / num_bytes,
    }


def write_curves(points: Sequence[CurvePoint]) -> dict[str, str]:
    """Return the points as CSV, and a table in Markdown with one column a length, by suffix."""
    lengths = sorted({point.length for point in points})
    rows = []
    for curve in split_curves(points):
        shown = {point.length: _describe(point) for point in curve}
        kinds = {point.estimator for point in curve if point.estimator}
        name = plain_field(f"{curve[0].title}, {curve[0].scaling}")
        labels = [name, curve[0].target, ", ".join(sorted(kinds))]
        rows.append([*labels, *(shown.get(length, "") for length in lengths)])
    heads = ["model", "target", "estimator", *(f"{length:,}" for length in lengths)]
    names = [field.name for field in fields(CurvePoint)]
    return {
        "csv": write_csv_rows(names, map(asdict, points)),
        "md": write_plain_table(heads, rows, labels=3) + "\n",
    }


def split_curves(points: Sequence[CurvePoint]) -> list[list[CurvePoint]]:
    """Return the points of each model, text and target as a list of its own."""
    curves: dict[tuple[str, str, str], list[CurvePoint]] = {}
    for point in points:
        curves.setdefault((point.model, point.text, point.target), []).append(point)
    return list(curves.values())


def _describe(point: CurvePoint) -> str:
    """Return a perplexity with the half-width of its interval."""
    if point.perplexity is None or point.standard_error is None:
        return "missing"
    return f"{point.perplexity:.4g} ± {point.perplexity * point.standard_error:.2g}"
