"""Reads perplexity over context length from a run: a tidy table and curves; draws nothing.

A point whose result is missing has no number, and so has a running mean that it belongs to.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import pandas

from opencompass_llada.likelihood import Estimate, pool
from opencompass_llada.likelihood.estimate import safe_exp
from opencompass_llada.report.results import finite, make_frame
from opencompass_llada.report.writers import plain_field, write_csv_rows, write_plain_table
from opencompass_llada.runs.recorded_files import list_pairs, read_result
from opencompass_llada.runs.run_folder import ModelFacts

BENCHMARK = "perplexity"
#: A row is a model at a context length. Numbers are None where the status is not ``ok``; errors and
#: intervals (95 %) are over the draws of masks and say nothing on the choice of the text.
CURVE_COLUMNS = (
    *("model", "title", "scaling"),
    "dataset",  # abbreviation of the cell that ends at this length
    "text",  # where it comes from
    # ``last``: the same last tokens of a window at every length. ``whole``: all tokens.
    # ``segment``: all chunks up to this length, each given what stands before it.
    "target",
    "length",  # of the context, tokens of the model: prefix and target together
    "estimator",  # ``bound``, ``longllada`` or ``autoregressive``
    *("perplexity", "perplexity_low", "perplexity_high"),
    *("nll_per_token", "standard_error"),  # nats
    "bits_per_byte",  # comparable between tokenizers
    *("num_tokens", "num_draws", "num_forward_passes", "status", "reason"),
)


def read_curves(
    cfg: Mapping[str, Any], work_dir: Path, models: Sequence[ModelFacts]
) -> pandas.DataFrame:
    """Read a run's points: `CURVE_COLUMNS`, by model, text, target as in the config, and length."""
    facts = {model.abbr: model for model in models}
    curves: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
    for model, dataset in list_pairs(cfg):
        if dataset.get("benchmark") == BENCHMARK:
            key = (str(model["abbr"]), str(dataset["path"]), str(dataset["target"]))
            curves.setdefault(key, []).append(dataset)
    points: list[dict[str, Any]] = []
    for (abbr, _, _), cells in curves.items():
        cells.sort(key=lambda cell: cell["length"])
        points += _read_curve(facts[abbr], cells, work_dir / "results" / abbr)
    return make_frame(points, CURVE_COLUMNS)


def _read_curve(
    facts: ModelFacts, cells: Sequence[Mapping[str, Any]], folder: Path
) -> Iterator[dict[str, Any]]:
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
            estimates.append(Estimate(**{f.name: result[f.name] for f in fields(Estimate)}))
            num_bytes += int(result["num_bytes"])
        yield {
            **dict.fromkeys(CURVE_COLUMNS),
            **{"model": facts.abbr, "title": facts.title, "scaling": facts.scaling},
            "dataset": str(cell["abbr"]),
            "text": str(cell["path"]),
            "target": str(cell["target"]),
            "length": int(cell["length"]),
            **({} if reason else _describe(pool(estimates), num_bytes)),
            "status": "missing" if reason else "ok",
            "reason": reason,
        }


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
    return {**result, "degrees_of_freedom": math.inf if degrees is None else degrees}, ""


def _describe(total: Estimate, num_bytes: int) -> dict[str, Any]:
    names = ("estimator", "perplexity", "nll_per_token", "standard_error", "num_tokens",
             "num_draws", "num_forward_passes")  # fmt: skip
    low, high = map(safe_exp, total.interval())
    bits = total.nll / math.log(2) / num_bytes
    ends = {"perplexity_low": low, "perplexity_high": high, "bits_per_byte": bits}
    return {name: getattr(total, name) for name in names} | ends


def write_curves(points: pandas.DataFrame) -> dict[str, str]:
    """Return the points as CSV, and a table in Markdown with one column a length, by suffix."""
    lengths = sorted(set(points.length))
    rows = []
    for _, curve in points.groupby(["model", "text", "target"], sort=False):
        shown = {
            point.length: "missing"
            if point.perplexity is None or point.standard_error is None
            else f"{point.perplexity:.4g} ± {point.perplexity * point.standard_error:.2g}"
            for point in curve.itertuples()
        }
        first, kinds = curve.iloc[0], sorted(curve.estimator.dropna().unique())
        name = plain_field(f"{first.title}, {first.scaling}")
        labels = [name, first.target, ", ".join(kinds)]
        rows.append([*labels, *(shown.get(length, "") for length in lengths)])
    heads = ["model", "target", "estimator", *(f"{length:,}" for length in lengths)]
    return {
        "csv": write_csv_rows(CURVE_COLUMNS, points[[*CURVE_COLUMNS]].to_numpy()),
        "md": write_plain_table(heads, rows, labels=3) + "\n",
    }
