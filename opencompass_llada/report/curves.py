"""Perplexity over context length: a tidy table, curves with error bars, and their figure.

Reads a config and the files under results/; a point whose result is missing has no number, and so
has a running mean that it belongs to.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from opencompass_llada.files import replacing
from opencompass_llada.likelihood import Estimate, pool
from opencompass_llada.likelihood.estimate import safe_exp
from opencompass_llada.report.results import ModelFacts, finite, list_pairs
from opencompass_llada.report.safe_text import table_field, write_csv_rows
from opencompass_llada.runs.recorded_files import read_result

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


#: Okabe and Ito's palette, told apart by the colour-blind; black is left for lines of reference.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = "osD^vP"
TARGET_TITLES = {
    "last": "the same {tokens} tokens, given a growing prefix",
    "segment": "all text up to a length, in chunks given what stands before them",
    "whole": "the whole text up to a length, nothing given",
}
ESTIMATOR_NAMES = {
    "bound": "likelihood bound",
    "longllada": "likelihood bound of chunks, as LongLLaDA's script",
    "autoregressive": "exact, autoregressive",
}


def draw_curves(
    points: Sequence[CurvePoint], trained_lengths: Mapping[str, int | None], path: Path
) -> Path:
    """Draw perplexity over context length, one panel a text and target.

    Args:
        points: From `curves.read_curves`.
        trained_lengths: Tokens that each model was trained on, by abbreviation, where known.
        path: PNG to write.

    Returns:
        The path.
    """
    figure = build_curves(points, trained_lengths)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=160, format=path.suffix[1:])
    return path


def build_curves(points: Sequence[CurvePoint], trained_lengths: Mapping[str, int | None]) -> Any:
    """Return the figure of `draw_curves`.

    Args:
        points: From `curves.read_curves`.
        trained_lengths: Tokens that each model was trained on, by abbreviation, where known.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels: dict[tuple[str, str], list[list[CurvePoint]]] = {}
    for curve in split_curves(points):
        panels.setdefault((curve[0].text, curve[0].target), []).append(curve)
    most = max((len(curves) for curves in panels.values()), default=0)
    figure = Figure(figsize=(7.0 * len(panels), 4.6 + 0.2 * most), layout="constrained")
    FigureCanvasAgg(figure)
    all_axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, ((text, target), curves) in zip(all_axes, panels.items(), strict=True):
        _draw_panel(axes, text, target, curves, trained_lengths)
    return figure


def _draw_panel(
    axes: Any,
    text: str,
    target: str,
    curves: Sequence[Sequence[CurvePoint]],
    trained_lengths: Mapping[str, int | None],
) -> None:
    for number, curve in enumerate(curves):
        _draw_curve(axes, curve, number)
    lengths = sorted({point.length for curve in curves for point in curve})
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(lengths, [f"{length:,}" for length in lengths], rotation=45, fontsize=8)
    axes.minorticks_off()
    known = [p.perplexity for curve in curves for p in curve if p.perplexity is not None]
    known = [value for value in known if math.isfinite(value)] or [1.0]  # all may be missing
    # A very wide bar runs out of the panel, so that the curves stay legible.
    axes.set_ylim(min(known) / 2, max(known) * 2)
    _label_perplexities(axes)
    _mark_trained_lengths(axes, {trained_lengths.get(c[0].model) for c in curves}, lengths)
    counts = {point.num_tokens for curve in curves for point in curve if point.num_tokens}
    tokens = f"{counts.pop():,}" if len(counts) == 1 else ""
    axes.set_title(TARGET_TITLES[target].format(tokens=tokens).replace("  ", " "), fontsize=10)
    axes.set_xlabel(f"context length, tokens (text: {Path(text).name})")
    axes.set_ylabel("perplexity a token\n(bars: 95 % over the masks drawn)")
    axes.grid(True, which="major", color="0.9")
    # Below the panel: inside, six models' names lie over curves and marks.
    axes.legend(fontsize=8, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.2))


def _draw_curve(axes: Any, curve: Sequence[CurvePoint], number: int) -> None:
    """Draw one model; a missing point breaks the line and is marked at the bottom."""
    colour, nan = COLOURS[number % len(COLOURS)], float("nan")
    values = [nan if point.perplexity is None else point.perplexity for point in curve]
    errors = [
        [value - (nan if low is None else low) for value, low in _ends(curve, values, "low")],
        [(nan if high is None else high) - value for value, high in _ends(curve, values, "high")],
    ]
    kinds = sorted({ESTIMATOR_NAMES[point.estimator] for point in curve if point.estimator})
    first = curve[0]
    scaling = "no scaling" if first.scaling == "none" else first.scaling
    axes.errorbar(
        [point.length for point in curve], values, yerr=errors, color=colour, capsize=2.5,
        marker=MARKERS[(number + number // len(COLOURS)) % len(MARKERS)],
        markersize=4.5, linewidth=1.5,
        label=f"{first.title}, {scaling} ({', '.join(kinds) or 'missing'})",
    )  # fmt: skip
    for point in curve:
        if point.perplexity is None:
            axes.annotate(
                "missing", (point.length, 0.02 + 0.05 * number), rotation=0, fontsize=7,
                xycoords=("data", "axes fraction"), ha="center", color=colour,
            )  # fmt: skip


def _ends(
    curve: Sequence[CurvePoint], values: Sequence[float], end: str
) -> list[tuple[float, float | None]]:
    return [
        (value, getattr(point, f"perplexity_{end}"))
        for point, value in zip(curve, values, strict=True)
    ]


def _label_perplexities(axes: Any) -> None:
    """Write plain numbers, several a decade where the curves span less than two."""
    from matplotlib.ticker import FuncFormatter, LogLocator

    low, high = axes.get_ylim()
    steps: tuple[float, ...] = (1.0, 2.0, 5.0) if high / low < 1000 else (1.0,)
    if high / low < 8:
        steps = (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0)
    axes.yaxis.set_major_locator(LogLocator(subs=steps))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))


def _mark_trained_lengths(axes: Any, trained: set[int | None], lengths: Sequence[int]) -> None:
    for length in sorted(value for value in trained if value is not None):
        if lengths[0] <= length <= lengths[-1]:
            axes.axvline(length, color="0.35", linestyle="--", linewidth=1)
            axes.annotate(
                f"trained on {length:,}", (length, 0.98), xycoords=("data", "axes fraction"),
                rotation=90, ha="right", va="top", fontsize=7.5, color="0.35",
            )  # fmt: skip
