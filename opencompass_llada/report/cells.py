"""What one cell's files hold: how many samples, their prompts' hash, and some of them to show.

Reads predictions/ and the details in results/. Decides nothing about scores.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from opencompass_llada.report.results import finite
from opencompass_llada.runs.hashes import DIGITS, hash_text
from opencompass_llada.runs.recorded_files import find_predictions, read_answers, read_result

HEAD_CHARACTERS = 160
TAIL_CHARACTERS = 260
ANSWER_CHARACTERS = 400
#: Metrics that are means over samples; the first that is recorded is shown with each sample.
METRICS = ("accuracy", "score")
#: Names under which evaluators report what an answer is compared with.
_EXPECTED = ("keyword", "references", "answers", "answer", "gold", "reference")


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One prompt with a model's answer, shortened for showing."""

    head: str
    """The prompt's beginning."""
    tail: str
    """The prompt's end; empty where the head holds all of it."""
    length: int
    """Characters of the whole prompt."""
    needle: str
    """The hidden sentence, where there is one."""
    expected: str
    """What the answer must contain, or the gold answers."""
    prediction: str
    """The model's answer."""
    score: float | None
    """0 to 100, where the evaluator reports one a sample."""


@dataclass(frozen=True, kw_only=True, eq=False)
class CellFiles:
    """What is known of one model on one data set besides its score."""

    num_predictions: int | None
    """Samples that were answered; None without prediction files."""
    prompt_hash: str | None
    """Of all prompts in order; None without prediction files."""
    scores: Mapping[str, tuple[float, ...]]
    """By metric: one a sample, in the order of the data; without those that are not recorded."""
    units: tuple[str, ...]
    """What each sample depends on: its needle, else its gold answer; empty where neither is
    recorded."""
    samples: tuple[Sample, ...]
    """The first few."""


def read_cell(run_path: Path, model: str, dataset: str, keep: int) -> CellFiles:
    """Read a cell's files; those that are missing or torn leave their fields empty.

    Args:
        run_path: The run's folder.
        model: The model's abbreviation.
        dataset: The data set's abbreviation.
        keep: Samples to keep for showing.
    """
    answers = _read_predictions(run_path / "predictions" / model, dataset)
    details = _read_details(run_path / "results" / model / f"{dataset}.json")
    scores = {}
    for metric in METRICS:
        found = [_score_of(detail, metric) for detail in details]
        known = tuple(score for score in found if score is not None)
        if known and len(known) == len(found):
            scores[metric] = known
    shown = next(iter(scores), METRICS[0])
    prompts = [_as_text(answer.get("origin_prompt", "")) for answer in answers or ()]
    return CellFiles(
        num_predictions=None if answers is None else len(answers),
        prompt_hash=hash_text("\0".join(prompts))[:DIGITS] if prompts else None,
        scores=scores,
        units=_find_units(answers or (), details),
        samples=tuple(
            _make_sample(prompt, answer, details[index] if index < len(details) else {}, shown)
            for index, (prompt, answer) in enumerate(
                zip(prompts[:keep], (answers or ())[:keep], strict=True)
            )
        ),
    )


def _find_units(
    answers: Sequence[Mapping[str, Any]], details: Sequence[Mapping[str, Any]]
) -> tuple[str, ...]:
    needles = [_first(detail.get("needle")) for detail in details]
    golds = [answer.get("gold") for answer in answers]
    pairs = zip_longest(needles, golds)
    return tuple(_as_text(needle or gold or "") for needle, gold in pairs)


def _read_predictions(folder: Path, dataset: str) -> list[dict[str, Any]] | None:
    """Return the answers in order, shard after shard; what is wrong is said elsewhere."""
    answers: list[dict[str, Any]] = []
    files = find_predictions(folder, dataset)
    for path in files:
        content, fault = read_answers(path)
        if fault:
            return None
        answers += content.values()
    return answers if files else None


def _read_details(path: Path) -> list[dict[str, Any]]:
    details = read_result(path)[0].get("details") or []
    if isinstance(details, Mapping):  # OpenCompass's own evaluators number them
        details = [details[key] for key in sorted(filter(str.isdecimal, details), key=int)]
    return [dict(detail) for detail in details if isinstance(detail, Mapping)]


def _score_of(detail: Mapping[str, Any], metric: str) -> float | None:
    """Return a sample's score: the metric itself, or 0 or 100 for a hit rate."""
    value = _first(detail.get(metric))
    if value is None and metric.partition("_")[0] == "accuracy":
        value = _first(detail.get("correct"))
    if isinstance(value, bool):
        return 100.0 * value
    return finite(value)


def _first(value: Any) -> Any:
    """OpenCompass writes each field of a detail as a list, one entry a run of the data set."""
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
        needle=_shorten(_as_text(_first(detail.get("needle")) or "")),
        expected=_shorten(_as_text("" if expected is None else expected)),
        prediction=_shorten(_as_text(answer.get("prediction", ""))),
        score=_score_of(detail, metric),
    )


def _as_text(value: Any) -> str:
    """Return a prompt or answer as text: a conversation's turns one below the other."""
    if isinstance(value, str):
        return value
    if isinstance(value, Sequence):
        parts = [
            item.get("prompt", "") if isinstance(item, Mapping) else _as_text(item)
            for item in value
        ]
        return "\n".join(str(part) for part in parts)
    return str(value)


def _shorten(text: str) -> str:
    return text if len(text) <= ANSWER_CHARACTERS else text[:ANSWER_CHARACTERS] + " …"
