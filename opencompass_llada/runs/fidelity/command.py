"""``opencompass-llada fidelity``: run two settings on the same samples and say how they differ."""

from __future__ import annotations

import fnmatch
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

from opencompass_llada.files import write_text
from opencompass_llada.logs import get_logger
from opencompass_llada.options import nearest
from opencompass_llada.redaction import chosen_variables
from opencompass_llada.runs.fidelity.comparison import Answered, Comparison, compare
from opencompass_llada.runs.fidelity.samples import SampleSet
from opencompass_llada.runs.fidelity.settings import apply_setting
from opencompass_llada.runs.hashes import hash_values
from opencompass_llada.runs.provenance import describe_environment
from opencompass_llada.wrapper import LLaDACausalLM

logger = get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class FidelityRequest:
    """What to compare."""

    config: Mapping[str, Any]
    """A resolved OpenCompass config with ``models`` and ``datasets``."""
    first: Mapping[str, Any]
    """One setting, see `settings.parse_setting`."""
    second: Mapping[str, Any]
    """The other."""
    model: str | None = None
    """The model's ``abbr``; None for the config's first."""
    datasets: Sequence[str] = ("*",)
    """Patterns of data sets' ``abbr``."""
    limit: int | None = None
    """Samples of each data set; None for all."""


def run_fidelity(request: FidelityRequest) -> dict[str, Comparison]:
    """Run both settings and compare them.

    Args:
        request: What to compare.

    Returns:
        A comparison for each data set, and ``all`` of them together.

    Raises:
        ValueError: If no model or data set of the config is meant, or a setting does not fit.
    """
    if request.limit is not None and request.limit < 1:
        raise ValueError(f"limit={request.limit} must be at least 1 sample of each data set")
    for name in ("models", "datasets"):
        if not request.config.get(name):
            raise ValueError(f"the config has no {name}; give one that defines {name} = [...]")
    base = find_model(request.config, request.model)
    chosen = [c for c in request.config["datasets"] if _meant(c["abbr"], request.datasets)]
    if not chosen:
        names = ", ".join(c["abbr"] for c in list(request.config["datasets"])[:6])
        raise ValueError(f"no data set is named like {list(request.datasets)}; there are {names}")
    configs = [apply_setting(base, setting) for setting in (request.first, request.second)]
    for config in configs:
        LLaDACausalLM.check_arguments(**_keywords(config))
    sets = [SampleSet(config, request.limit) for config in chosen]
    answers = [answer_all(config, sets) for config in configs]
    found = {
        samples.name: compare(first, second)
        for samples, first, second in zip(sets, *answers, strict=True)
    }
    if len(sets) > 1:
        pooled = [[a for part in run for a in part] for run in answers]
        found["all"] = compare(*pooled)
    return found


def answer_all(config: Mapping[str, Any], sets: Sequence[SampleSet]) -> list[list[Answered]]:
    """Return a model's answers to all sets, in their order.

    Args:
        config: The model's config.
        sets: Data sets' samples.
    """
    model = LLaDACausalLM(**_keywords(config))
    _warm_up(model, sets[0])
    return [list(_answer(model, samples)) for samples in sets]


def _warm_up(model: LLaDACausalLM, samples: SampleSet) -> None:
    """Answer one sample, so that kernels and plans are made before the time is taken."""
    prompt = model.parse_template(samples.prompts()[0], mode="gen")
    model.answer([prompt], samples.max_out_len, samples.stopping_criteria)


def _answer(model: LLaDACausalLM, samples: SampleSet) -> Iterator[Answered]:
    prompts = [model.parse_template(prompt, mode="gen") for prompt in samples.prompts()]
    answers = model.answer(prompts, samples.max_out_len, samples.stopping_criteria)
    scores = samples.score([answer.text for answer in answers])
    rows = zip(answers, scores, prompts, samples.units(), strict=True)
    for answer, score, prompt, unit in rows:
        yield Answered(
            token_ids=tuple(answer.token_ids),
            text=answer.text,
            score=score,
            num_forward_passes=answer.generation.num_forward_passes,
            seconds=answer.generation.seconds,
            question=hash_values([str(prompt), samples.max_out_len, samples.stopping_criteria]),
            unit=unit,
        )


def find_model(config: Mapping[str, Any], name: str | None) -> dict[str, Any]:
    """Return a config's model of this package.

    Args:
        config: A resolved OpenCompass config.
        name: The model's ``abbr``; None for the first.

    Raises:
        ValueError: If there is none; names those that there are.
    """
    ours = [
        dict(model)
        for model in config["models"]
        if model["type"] is LLaDACausalLM or str(model["type"]).endswith("LLaDACausalLM")
    ]
    if not ours:
        raise ValueError("the config has no model of type LLaDACausalLM; only its settings differ")
    for model in ours:
        if name in (None, model["abbr"]):
            return model
    names = [model["abbr"] for model in ours]
    guess = nearest(str(name), names)
    hint = f" Did you mean {guess!r}?" if guess else ""
    raise ValueError(f"no model is called {name!r}.{hint} There are {', '.join(names)}.")


def _meant(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _keywords(config: Mapping[str, Any]) -> dict[str, Any]:
    host = ("type", "abbr", "run_cfg", "summarizer_abbr", "pred_postprocessor", "min_out_len")
    return {name: value for name, value in config.items() if name not in host}


def write_table(found: Mapping[str, Comparison]) -> str:
    """Return the comparisons as a table."""
    width = max(len(name) for name in found)
    lines = [
        f"{'data set':<{width}} {'n':>5} {'units':>5} {'tokens':>7} {'answers':>8} {'first':>7} "
        f"{'second':>7} {'difference (95 %)':>24} {'NFE':>13} {'seconds':>17}"
    ]
    for name, c in found.items():
        interval = f"{c.score_difference:+.2f}"
        if c.difference_low is not None:
            interval += f" ({c.difference_low:+.2f} to {c.difference_high:+.2f})"
        lines.append(
            f"{name:<{width}} {c.num_samples:>5} {c.num_units:>5} {c.token_agreement:>7.2%} "
            f"{c.answer_agreement:>8.2%} {c.first_score:>7.2f} {c.second_score:>7.2f} "
            f"{interval:>24} {c.first_passes:>6.1f}/{c.second_passes:<6.1f} "
            f"{c.first_seconds:>8.3f}/{c.second_seconds:<8.3f}"
        )
    lines.append(
        "n: different questions. units: of them independent ones (needles); the interval is over "
        "them."
    )
    return "\n".join(lines) + "\n"


def write_fidelity_record(
    path: Path, request: FidelityRequest, found: Mapping[str, Comparison]
) -> None:
    """Write settings, comparisons and what made them as JSON.

    Args:
        path: The file.
        request: What was compared.
        found: What came out.
    """
    made = describe_environment()
    record = {
        **{"command": made["command"], "date": date.today().isoformat()},
        "variables": chosen_variables(),
        **{"commit": made["git_commit"], "load": round(os.getloadavg()[0], 1)},
        "machine": f"{made['platform']}, {made['num_cores']} cores",
        "versions": {"python": made["python"], **made["packages"]},
        "first": dict(request.first),
        "second": dict(request.second),
        "model": find_model(request.config, request.model)["abbr"],
        "limit": request.limit,
        "results": {name: {**asdict(c), "speed_up": c.speed_up} for name, c in found.items()},
    }
    write_text(path, json.dumps(record, indent=1, default=str) + "\n")
    logger.info("Wrote %s", path)
