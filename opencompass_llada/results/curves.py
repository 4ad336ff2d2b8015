"""Perplexity over context length as a tidy table and as curves with error bars.

Reads a config and the files under results/; a point whose result is missing has no number, and so
has a running mean that it belongs to.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from opencompass_llada.likelihood import Estimate, pool
from opencompass_llada.likelihood.estimate import safe_exp
from opencompass_llada.results.completeness import read_result
from opencompass_llada.results.safe_text import table_field, write_csv_rows
from opencompass_llada.results.table import ModelFacts, finite, list_pairs

BENCHMARK = "perplexity"


@dataclass(frozen=True, kw_only=True)
class CurvePoint:
    """One model at one context length."""

    model: str
    """Abbreviation."""
    title: str
    """Full name."""
    scaling: str
    """RoPE scaling."""
    dataset: str
    """Abbreviation of the cell that ends at this length."""
    text: str
    """Where the text comes from."""
    target: str
    """``last``: the same last tokens of a window at every length. ``whole``: all tokens.
    ``segment``: all chunks up to this length, each given what stands before it."""
    length: int
    """Context length, tokens of the model: prefix and target together."""
    estimator: str | None
    """``bound``, ``longllada`` or ``autoregressive``; None where missing."""
    perplexity: float | None
    """Exponential of the nats a token."""
    perplexity_low: float | None
    """Lower end of the 95 % interval over the draws of masks."""
    perplexity_high: float | None
    """Upper end."""
    nll_per_token: float | None
    """Nats."""
    standard_error: float | None
    """Of ``nll_per_token``, over the draws of masks; says nothing on the choice of the text."""
    bits_per_byte: float | None
    """Comparable between tokenizers."""
    num_tokens: int | None
    """Tokens scored."""
    num_draws: int | None
    """Masks drawn."""
    num_forward_passes: int | None
    """Forward passes of one row."""
    status: str
    """``ok`` or ``missing``."""
    reason: str = ""
    """Why, where it is missing."""


def read_curves(
    cfg: Mapping[str, Any], work_dir: str | Path, models: Sequence[ModelFacts]
) -> list[CurvePoint]:
    """Read the points that a run's config asks for.

    Args:
        cfg: The run's config. Its perplexity cells are known by ``benchmark='perplexity'``.
        work_dir: The run's own directory.
        models: What to say of the models.

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
    total_bytes, reason, reached = 0, "", 0
    for cell in cells:
        if cell["target"] != "segment":
            estimates, total_bytes, reason = [], 0, ""
        elif cell.get("previous_length") != reached:
            reason = reason or f"there is no cell that ends at {cell.get('previous_length')} tokens"
        reached = cell["length"]
        result, fault = _read_result(folder / f"{cell['abbr']}.json")
        reason = reason or (fault and f"{cell['abbr']}: {fault}")
        if not reason:
            estimates.append(_as_estimate(result))
            total_bytes += int(result["num_bytes"])
        yield _make_point(facts, cell, estimates, total_bytes, reason)


def _read_result(path: Path) -> tuple[dict[str, Any], str]:
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
    return result, ""


def _as_estimate(result: Mapping[str, Any]) -> Estimate:
    values = {field.name: result[field.name] for field in fields(Estimate)}
    if values["degrees_of_freedom"] is None:
        values["degrees_of_freedom"] = math.inf
    return Estimate(**values)


def _make_point(
    facts: ModelFacts,
    cell: Mapping[str, Any],
    estimates: Sequence[Estimate],
    num_bytes: int,
    reason: str,
) -> CurvePoint:
    numbers: dict[str, Any] = dict.fromkeys(
        ("estimator", "perplexity", "perplexity_low", "perplexity_high", "nll_per_token",
         "standard_error", "bits_per_byte", "num_tokens", "num_draws", "num_forward_passes")
    )  # fmt: skip
    if not reason:
        total = pool(estimates)
        low, high = total.interval()
        numbers = {
            "estimator": total.estimator,
            "perplexity": total.perplexity,
            "perplexity_low": safe_exp(low),
            "perplexity_high": safe_exp(high),
            "nll_per_token": total.nll_per_token,
            "standard_error": total.standard_error,
            "bits_per_byte": total.nll / math.log(2) / num_bytes,
            "num_tokens": total.num_tokens,
            "num_draws": total.num_draws,
            "num_forward_passes": total.num_forward_passes,
        }
    return CurvePoint(
        model=facts.abbr,
        title=facts.title,
        scaling=facts.scaling,
        dataset=str(cell["abbr"]),
        text=str(cell["path"]),
        target=str(cell["target"]),
        length=int(cell["length"]),
        status="missing" if reason else "ok",
        reason=reason,
        **numbers,
    )


def write_curves_csv(points: Sequence[CurvePoint]) -> str:
    """Return the points as CSV; what is missing is an empty field."""
    return write_csv_rows([field.name for field in fields(CurvePoint)], map(asdict, points))


def write_curves_markdown(points: Sequence[CurvePoint]) -> str:
    """Return a table of perplexities with their intervals' half-widths, one column a length."""
    lengths = sorted({point.length for point in points})
    lines = ["| model | target | estimator | " + " | ".join(f"{n:,}" for n in lengths) + " |"]
    lines += ["|---|---|---|" + "---:|" * len(lengths)]
    for curve in split_curves(points):
        shown = {point.length: _describe(point) for point in curve}
        kinds = {point.estimator for point in curve if point.estimator}
        name = table_field(f"{curve[0].title}, {curve[0].scaling}")
        fields_of_row = [shown.get(length, "") for length in lengths]
        lines.append(
            f"| {name} | {curve[0].target} | {', '.join(sorted(kinds))} | "
            + " | ".join(fields_of_row)
            + " |"
        )
    return "\n".join(lines) + "\n"


def split_curves(points: Sequence[CurvePoint]) -> list[list[CurvePoint]]:
    """Return the points of each model, text and target as a list of its own."""
    curves: dict[tuple[str, str, str], list[CurvePoint]] = {}
    for point in points:
        curves.setdefault((point.model, point.text, point.target), []).append(point)
    return list(curves.values())


def _describe(point: CurvePoint) -> str:
    if point.perplexity is None or point.standard_error is None:
        return "missing"
    return f"{point.perplexity:.4g} ± {point.perplexity * point.standard_error:.2g}"
