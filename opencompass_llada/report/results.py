"""The results of an OpenCompass run as a tidy table: one row a model, data set and metric.

Reads a config and the files under results/. Draws nothing, averages nothing. A cell without a
usable result is a row that says so and has no number.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from opencompass_llada.benchmarks.facts import Benchmark, benchmark_of
from opencompass_llada.old_names import dotted_name
from opencompass_llada.report.safe_text import write_csv_rows
from opencompass_llada.report.statistics import hit_rate_standard_error, mean_standard_error
from opencompass_llada.runs.recorded_files import dataset_name, list_pairs, model_name, read_result

#: Classes whose own evaluators report ``score`` alone, where ours report more.
STOCK_PREFIX = "opencompass.datasets.needlebench"
LANGUAGES = {"English": "en", "Chinese": "zh"}
STATUSES = ("ok", "missing", "failed")


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """What a table or figure says about a model."""

    abbr: str
    """OpenCompass's abbreviation, unique in a run."""
    title: str
    """The model's full name."""
    scaling: str
    """RoPE scaling and its options, e.g. ``ntk target_length=2048``; ``none``."""
    trained_length: int | None
    """Tokens that the model was trained on, where known."""


@dataclass(frozen=True, kw_only=True)
class ResultRow:
    """One metric of one model on one data set."""

    model: str
    """Abbreviation."""
    title: str
    """Full name."""
    scaling: str
    """RoPE scaling."""
    benchmark: str
    """E.g. ``niah``."""
    dataset: str
    """Abbreviation."""
    task: str | None
    """Part of the benchmark, where the data set's config names it (``task=...``)."""
    language: str | None
    """``en`` or ``zh``."""
    prompt: str | None
    """``base`` (ends in the answer prefix) or ``chat``."""
    haystack: str | None
    """Names of the text files, joined by ``+``."""
    tokenizer: str | None
    """What the length is counted with."""
    length: int | None
    """Tokens."""
    depth: float | None
    """Percent."""
    metric: str
    """Name in the result file."""
    n: int | None
    """Samples scored."""
    score: float | None
    """None unless status is ``ok``."""
    standard_error: float | None
    """Of the score, in its units: of ``accuracy`` by Wilson at one standard deviation, of others
    the sample standard deviation over the root of n, where each sample's score is recorded."""
    status: str
    """``ok``, ``missing`` (no result file) or ``failed`` (a file without this number)."""
    reason: str = ""
    """Why, where the status is not ``ok``."""


def read_results(
    cfg: Mapping[str, Any], work_dir: str | Path, models: Sequence[ModelFacts] | None = None
) -> list[ResultRow]:
    """Read every result that a run's config asks for.

    Args:
        cfg: The config, with ``models`` and ``datasets`` or ``model_dataset_combinations``.
        work_dir: The run's own directory, which holds results/.
        models: What to say of the models; by default what `describe_model` reads from the config.

    Returns:
        Rows in the config's order; each cell has one a metric.
    """
    known = {facts.abbr: facts for facts in models or ()}
    rows: list[ResultRow] = []
    for model, dataset in list_pairs(cfg):
        facts = known.get(model_name(model)) or describe_model(model)
        rows += _cell_rows(facts, dataset, Path(work_dir))
    return rows


def describe_model(model: Mapping[str, Any]) -> ModelFacts:
    """Read from a model config what it says itself: name and scaling."""
    options = dict(model.get("rope_scaling") or {"type": "none"})
    factor = (model.get("scaling_config") or {}).get("scaling_factor", 1)
    if factor != 1:
        options = {"type": "ntk", "theta_multiplier": factor}
    method = str(options.pop("type"))
    if method == "none":  # a trained length may stand beside it, and scales nothing
        options = {}
    scaling = " ".join([method, *(f"{name}={value}" for name, value in options.items())])
    return ModelFacts(
        abbr=model_name(model),
        title=str(model.get("summarizer_abbr") or model_name(model)),
        scaling=scaling,
        trained_length=None,
    )


def _cell_rows(
    facts: ModelFacts, dataset: Mapping[str, Any], work_dir: Path
) -> Iterator[ResultRow]:
    """Yield a row for each metric of one model on one data set."""
    kind = dotted_name(dataset["type"])
    benchmark = benchmark_of(dataset)
    name = dataset_name(dataset)
    path = work_dir / "results" / facts.abbr / f"{name}.json"
    result, reason = read_result(path)
    status = "ok" if not reason else ("failed" if path.is_file() else "missing")
    if status == "ok" and (fault := _count_fault(dataset, _count("", result))):
        result, status, reason = {}, "failed", fault
    metrics = benchmark.metrics
    if benchmark.has_more_metrics:
        metrics = tuple(_numeric_names(result)) or metrics[:1]
    if _has_stock_evaluator(dataset):
        metrics = ("score",)
    elif kind.startswith(STOCK_PREFIX):
        metrics = tuple(metric for metric in metrics if metric in result)
    metrics = metrics or ("score",)
    language, guide, files = (dataset.get(key) for key in ("language", "guide", "file_list"))
    for metric in metrics:
        score = finite(result.get(metric))
        fault = _number_fault(benchmark, metric, score)
        fault = fault and f"{fault} ({path.relative_to(work_dir)})"
        usable = status == "ok" and not fault
        yield ResultRow(
            model=facts.abbr,
            title=facts.title,
            scaling=facts.scaling,
            benchmark=benchmark.name,
            dataset=name,
            task=dataset.get("task"),
            language=None if language is None else LANGUAGES.get(language, language),
            prompt=None if guide is None else ("chat" if guide else "base"),
            haystack="+".join(files) if files else None,
            tokenizer=dataset.get("tokenizer") or dataset.get("tokenizer_model"),
            length=dataset.get("length"),
            depth=dataset.get("depth"),
            metric=metric,
            n=_count(metric, result) if usable else None,
            score=score if usable else None,
            standard_error=_standard_error(metric, score, result) if usable else None,
            status="failed" if status == "ok" and fault else status,
            reason=reason or fault,
        )


def _has_stock_evaluator(dataset: Mapping[str, Any]) -> bool:
    evaluator = (dataset.get("eval_cfg") or {}).get("evaluator") or {}
    return dotted_name(evaluator.get("type")).startswith(STOCK_PREFIX)


def _numeric_names(result: Mapping[str, Any]) -> Iterator[str]:
    for name, value in result.items():
        if not name.startswith("num_") and finite(value) is not None:
            yield name


def finite(value: Any) -> float | None:
    """Return a number as float; None for anything else, infinities and booleans among it."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:  # an integer of hundreds of digits
        return None


def _number_fault(benchmark: Benchmark, metric: str, score: float | None) -> str:
    if score is None:
        return f"the result has no finite number {metric!r}"
    is_percent = benchmark.is_percent or metric.partition("_")[0] == "accuracy"
    if is_percent and not 0 <= score <= 100:
        return f"{metric}={score:g} is outside 0 to 100, which no evaluator gives"
    return ""


def _count(metric: str, result: Mapping[str, Any]) -> int | None:
    """Return the number of samples: as reported, or by the details.

    A metric of a part of the samples (``accuracy_easy``) has their number (``num_samples_easy``).
    """
    part = metric.partition("_")[2]
    reported = finite(result.get(f"num_samples_{part}", result.get("num_samples")))
    if reported is not None:
        return int(reported)
    details = result.get("details")
    return len(details) if details else None


def _count_fault(dataset: Mapping[str, Any], num_samples: int | None) -> str:
    """Say if a needle cell's result is of fewer or more samples than its config asks for.

    So it is where an evaluator scored what a lost shard left, or a folder was resumed with other
    settings. Says nothing where the config leaves the number open.
    """
    repeats, files = dataset.get("num_repeats_per_file"), dataset.get("file_list")
    reader = dataset.get("reader_cfg") or {}
    if not repeats or not files or dataset.get("n", 1) != 1 or "test_range" in reader:
        return ""
    expected = repeats * len(files)
    if num_samples is None or num_samples == expected:
        return ""
    return (
        f"the result is of {num_samples} samples and the config asks for {expected}: a "
        "part of the predictions was lost, or they were made with other settings; delete this "
        "cell's files under predictions/ and results/ and run again with -r"
    )


def _standard_error(metric: str, score: float | None, result: Mapping[str, Any]) -> float | None:
    num_samples = _count(metric, result)
    if score is None or not num_samples:
        return None
    if metric.partition("_")[0] == "accuracy":
        return hit_rate_standard_error(score / 100 * num_samples, num_samples)
    # OpenCompass writes each field of a detail as a list, one entry a run of the data set.
    details = result.get("details")
    details = details if isinstance(details, list) else []
    scores = [detail.get(metric) for detail in details if isinstance(detail, Mapping)]
    values = [value[0] if isinstance(value, list) and value else value for value in scores]
    numbers = [number for number in map(finite, values) if number is not None]
    return mean_standard_error(numbers) if len(numbers) == num_samples else None


def write_csv(rows: Sequence[ResultRow]) -> str:
    """Return the table as CSV; what is missing is an empty field."""
    return write_csv_rows([field.name for field in fields(ResultRow)], map(asdict, rows))
