"""Reads the results of a run as a pandas frame, and the samples behind them; averages nothing.

A cell (a model on a data set) without a usable result is a row that says so and has no number.
Columns are objects, so that a missing value stays None: as NaN, it would vanish from a mean.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pandas

from opencompass_llada.benchmarks.benchmark import Benchmark, benchmark_of
from opencompass_llada.benchmarks.published.suite import EMBEDDED
from opencompass_llada.old_names import dotted_name
from opencompass_llada.report.statistics import hit_rate_standard_error, mean_standard_error
from opencompass_llada.runs import recorded_files as recorded
from opencompass_llada.runs.hashes import DIGITS, hash_text
from opencompass_llada.runs.run_folder import ModelFacts, describe_model

#: The columns, with their kind in a Parquet file; docs/reference/report_files.md explains them.
COLUMNS = {
    "model": "string",
    "title": "string",
    "scaling": "string",
    "benchmark": "string",
    "dataset": "string",
    "task": "string",
    "language": "string",  # ``en`` or ``zh``
    "prompt": "string",  # ``base`` (ends in the answer prefix) or ``chat``
    "haystack": "string",  # names of the text files, joined by ``+``
    "draws": "string",  # ``independent`` needles, and their seed if any; None for published ones
    "tokenizer": "string",  # what the length is counted with
    "length": "int64",  # tokens
    "depth": "float64",  # percent
    "metric": "string",  # name in the result file
    "n": "int64",  # samples scored
    "score": "float64",
    # Of ``accuracy`` by Wilson at one standard deviation; of others the standard deviation over
    # the root of n, where each sample's score is recorded.
    "standard_error": "float64",
    # ``ok``, ``missing`` (no result file), ``failed`` (a file without this number), ``partial``
    # (a result exists, and predictions of it are lost).
    "status": "string",
    "reason": "string",
}
Row = dict[str, Any]
#: Classes whose own evaluators report ``score`` alone, where ours report more.
STOCK_PREFIX = "opencompass.datasets.needlebench"
LANGUAGES = {"English": "en", "Chinese": "zh"}


def make_frame(rows: Iterable[Row], columns: Iterable[str]) -> pandas.DataFrame:
    """Return rows as a frame of objects."""
    return pandas.DataFrame(list(rows), columns=list(columns), dtype=object)


def read_results(
    cfg: Mapping[str, Any], work_dir: str | Path, models: Sequence[ModelFacts] | None = None
) -> pandas.DataFrame:
    """Read every result that a run's config asks for, a row a cell and metric in its order.

    `models` is what to say of the models; by default what the config does.
    """
    known = {facts.abbr: facts for facts in models or ()}
    rows: list[Row] = []
    for model, dataset in recorded.list_pairs(cfg):
        # A variant (`report.robustness`) or a floor (`report.floors`) is no cell of its own.
        if dataset.get("setting") or reader_of(dataset) != "full":
            continue
        facts = known.get(recorded.model_name(model)) or describe_model(model)
        rows += read_cell_rows(facts, dataset, Path(work_dir))
    return make_frame(rows, COLUMNS)


def read_cell_rows(facts: ModelFacts, dataset: Mapping[str, Any], work_dir: Path) -> Iterator[Row]:
    """Yield a row for each metric of one model on one data set."""
    benchmark, name = benchmark_of(dataset), recorded.dataset_name(dataset)
    path = work_dir / "results" / facts.abbr / f"{name}.json"
    result, reason = recorded.read_result(path)
    status = "ok" if not reason else ("failed" if path.is_file() else "missing")
    if status == "ok" and (fault := _count_fault(dataset, _count("", result))):
        result, status, reason = {}, "failed", fault
    language, guide, files = (dataset.get(key) for key in ("language", "guide", "file_list"))
    for metric in _list_metrics(dataset, benchmark, result):
        score, fault = finite(result.get(metric)), ""
        is_percent = benchmark.is_percent or metric.partition("_")[0] == "accuracy"
        if score is None:
            fault = f"the result has no finite number {metric!r}"
        elif is_percent and not 0 <= score <= 100:
            fault = f"{metric}={score:g} is outside 0 to 100, which no evaluator gives"
        fault = fault and f"{fault} ({path.relative_to(work_dir)})"
        usable = status == "ok" and not fault
        yield {
            "model": facts.abbr,
            "title": facts.title,
            "scaling": facts.scaling,
            "benchmark": benchmark.name,
            "dataset": name,
            "task": dataset.get("task"),
            "language": None if language is None else LANGUAGES.get(language, language),
            "prompt": None if guide is None else ("chat" if guide else "base"),
            "haystack": "+".join(files) if files else None,
            "draws": _describe_draws(dataset),
            "tokenizer": dataset.get("tokenizer") or dataset.get("tokenizer_model"),
            "length": dataset.get("length"),
            "depth": dataset.get("depth"),
            "metric": metric,
            "n": _count(metric, result) if usable else None,
            "score": score if usable else None,
            "standard_error": _standard_error(metric, score, result) if usable else None,
            "status": "failed" if status == "ok" and fault else status,
            "reason": reason or fault,
            "bounds": _first(result.get("bounds")),
        }


def reader_of(dataset: Mapping[str, Any]) -> str:
    """Return who reads a data set's prompts, one of `benchmarks.readers.READERS`."""
    return str(dataset.get("reader") or "full")


def is_packaged(data: str) -> bool:
    """Tell whether a data set's path stands for samples that come with this package."""
    return data == EMBEDDED or data.startswith("asset:")


def _describe_draws(dataset: Mapping[str, Any]) -> str | None:
    """Return how needles are drawn, where that is not NeedleBench's way."""
    seed = dataset.get("draw_seed")
    return dataset.get("draws") and f"{dataset['draws']}{f' (seed {seed})' if seed else ''}"


def _list_metrics(
    dataset: Mapping[str, Any], benchmark: Benchmark, result: Mapping[str, Any]
) -> tuple[str, ...]:
    """Return the metrics that a cell has a row for, whether or not its result has them."""
    evaluator = (dataset.get("eval_cfg") or {}).get("evaluator") or {}
    if dotted_name(evaluator.get("type")).startswith(STOCK_PREFIX):
        return ("score",)
    metrics = benchmark.metrics
    if benchmark.has_more_metrics:
        numbers = [name for name, value in result.items() if finite(value) is not None]
        metrics = tuple(name for name in numbers if not name.startswith("num_")) or metrics[:1]
    if dotted_name(dataset["type"]).startswith(STOCK_PREFIX):
        metrics = tuple(metric for metric in metrics if metric in result)
    return metrics or ("score",)


def finite(value: Any) -> float | None:
    """Return a number as float; None for anything else, infinities and booleans among it."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:  # an integer of hundreds of digits
        return None


def _count(metric: str, result: Mapping[str, Any]) -> int | None:
    """Return the number of samples, or of a part of them (``num_samples_easy``)."""
    part = metric.partition("_")[2]
    reported = finite(result.get(f"num_samples_{part}", result.get("num_samples")))
    if reported is not None:
        return int(reported)
    details = result.get("details")
    return len(details) if details else None


def _count_fault(dataset: Mapping[str, Any], num_samples: int | None) -> str:
    """Say if a needle cell's result is of fewer or more samples than its config asks for."""
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
    details = result.get("details")
    details = details if isinstance(details, list) else []
    scores = [_first(detail.get(metric)) for detail in details if isinstance(detail, Mapping)]
    numbers = [number for number in map(finite, scores) if number is not None]
    return mean_standard_error(numbers) if len(numbers) == num_samples else None


HEAD_CHARACTERS, TAIL_CHARACTERS, ANSWER_CHARACTERS = 160, 260, 400
#: Metrics that are means over samples; the first that is recorded is shown with each sample.
SAMPLE_METRICS = ("accuracy", "score")
#: Names under which evaluators report what an answer is compared with.
_EXPECTED = ("keyword", "references", "answers", "answer", "gold", "reference")


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One prompt with a model's answer, shortened for showing."""

    head: str  # the prompt's beginning
    tail: str  # its end; empty where the head holds all of it
    length: int  # characters of the whole prompt
    needle: str  # the hidden sentence, where there is one
    expected: str  # what the answer must contain, or the gold answers
    prediction: str
    score: float | None  # 0 to 100, where the evaluator reports one a sample


@dataclass(frozen=True, kw_only=True, eq=False)
class CellFiles:
    """What a cell's files hold besides its score."""

    num_predictions: int | None  # samples that were answered; None without prediction files
    prompt_hash: str | None  # of all prompts in order; None without prediction files
    scores: Mapping[str, tuple[float, ...]]  # by metric: one a sample, where recorded
    units: tuple[str, ...]  # what each sample depends on: its needle, else its gold answer, else ''
    samples: tuple[Sample, ...]  # the first few
    window_nats: tuple[float, ...] = ()  # nats a token of each window, of perplexity


def read_cell(run_path: Path, model: str, dataset: str, num_samples: int) -> CellFiles:
    """Read a cell's files, some samples of them to show.

    Files that are missing or torn leave their fields empty; what is wrong is said elsewhere.
    """
    answers = read_cell_answers(run_path, model, dataset)
    result, _ = recorded.read_result(run_path / "results" / model / f"{dataset}.json")
    details = result.get("details") or []
    if isinstance(details, Mapping):  # OpenCompass's own evaluators number them
        details = [details[key] for key in sorted(filter(str.isdecimal, details), key=int)]
    details = [detail for detail in details if isinstance(detail, Mapping)]
    scores = {}
    for metric in SAMPLE_METRICS:
        found = [_score_of(detail, metric) for detail in details]
        known = tuple(score for score in found if score is not None)
        if known and len(known) == len(found):
            scores[metric] = known
    shown = next(iter(scores), SAMPLE_METRICS[0])
    prompts = [as_text(answer.get("origin_prompt", "")) for answer in answers or ()]
    needles = [_first(detail.get("needle")) for detail in details]
    golds = [answer.get("gold") for answer in answers or ()]
    first = list(zip(prompts, answers or (), [*details, *({} for _ in prompts)], strict=False))
    windows = result.get("nll_by_window") or []
    return CellFiles(
        num_predictions=None if answers is None else len(answers),
        prompt_hash=hash_prompts(prompts),
        scores=scores,
        window_nats=tuple(nats for nats in map(finite, windows) if nats is not None),
        units=tuple(as_text(needle or gold or "") for needle, gold in zip_longest(needles, golds)),
        samples=tuple(_make_sample(*parts, shown) for parts in first[:num_samples]),
    )


def read_cell_answers(run_path: Path, model: str, dataset: str) -> list[dict[str, Any]] | None:
    """Return a cell's answers in order; None without prediction files, or where one is torn."""
    files = recorded.find_finished(run_path / "predictions" / model, dataset)
    read = [recorded.read_answers(file.path) for file in files]
    if not files or any(fault for _, fault in read):
        return None
    return [answer for content, _ in read for answer in content.values()]


def hash_prompts(prompts: Sequence[str]) -> str | None:
    """Return the hash of a cell's prompts in order; None where one is not recorded."""
    return hash_text("\0".join(prompts))[:DIGITS] if prompts and all(prompts) else None


def _score_of(detail: Mapping[str, Any], metric: str) -> float | None:
    """Return a sample's score: the metric itself, or 0 or 100 for a hit rate."""
    value = _first(detail.get(metric))
    if value is None and metric.partition("_")[0] == "accuracy":
        value = _first(detail.get("correct"))
    return 100.0 * value if isinstance(value, bool) else finite(value)


def _first(value: Any) -> Any:
    """OpenCompass writes each field of a detail as a list, one value a run of the data set."""
    return value[0] if isinstance(value, list) and value else value


def _make_sample(
    prompt: str, answer: Mapping[str, Any], detail: Mapping[str, Any], metric: str
) -> Sample:
    expected = next((detail[name] for name in _EXPECTED if detail.get(name)), answer.get("gold"))
    short = len(prompt) <= HEAD_CHARACTERS + TAIL_CHARACTERS
    return Sample(
        head=prompt if short else prompt[:HEAD_CHARACTERS],
        tail="" if short else prompt[-TAIL_CHARACTERS:],
        length=len(prompt),
        needle=shorten(as_text(_first(detail.get("needle")) or "")),
        expected=shorten(as_text("" if expected is None else expected)),
        prediction=shorten(as_text(answer.get("prediction", ""))),
        score=_score_of(detail, metric),
    )


def as_text(value: Any) -> str:
    """Return a prompt or answer as text: a conversation's turns one below the other."""
    if isinstance(value, str) or not isinstance(value, Sequence):
        return str(value)
    turns = [i.get("prompt", "") if isinstance(i, Mapping) else as_text(i) for i in value]
    return "\n".join(map(str, turns))


def shorten(text: str, most: int = ANSWER_CHARACTERS) -> str:
    """Cut a text after so many characters and say so."""
    return text if len(text) <= most else text[:most] + " …"
