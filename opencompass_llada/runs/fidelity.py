"""Compares two settings of a model by what two runs recorded of the same samples.

Starts the two runs through the ordinary launch, or takes two finished ones; infers and scores
nothing itself.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import fnmatch
import json
import logging
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import pandas as pd
from opencompass.utils import build_dataset_from_cfg

from opencompass_llada.assets import resolve_path
from opencompass_llada.benchmarks.cells import plain_config
from opencompass_llada.files import write_text
from opencompass_llada.options import check_value, reject_unknown, unknown_name_message
from opencompass_llada.presets import OF_MODEL, as_options, names_preset
from opencompass_llada.prompting.encode import load_tokenizer
from opencompass_llada.redaction import chosen_variables
from opencompass_llada.report.results import finite, read_cell
from opencompass_llada.report.statistics import paired_interval
from opencompass_llada.runs import checks, command_line, doctor
from opencompass_llada.runs import recorded_files as recorded
from opencompass_llada.runs.hashes import hash_values
from opencompass_llada.runs.makers import read_maker
from opencompass_llada.runs.provenance import describe_environment, read_provenance
from opencompass_llada.runs.reductions import find_preset, write_out
from opencompass_llada.runs.run_folder import RunFolder, read_run
from opencompass_llada.sampling import SamplerConfig
from opencompass_llada.wrapper.keywords import KEYWORDS

logger = logging.getLogger(__name__)

_SAMPLER_OPTIONS = tuple(field.name for field in dataclasses.fields(SamplerConfig))
Figures = dict[str, float | int | None]


def compare(first: pd.DataFrame, second: pd.DataFrame) -> Figures:
    """Compare two settings' answers (of `pair_runs`); a question that occurs again counts once.

    Returns:
        Numbers of different questions and of independent units among them (such as needles);
        agreement of tokens (share of positions of the longer answer) and of whole answers; both
        scores, their difference (second less first) and its 95 % interval over units
        (`report.statistics.paired_interval`); passes and seconds a sample. None where not recorded.

    Raises:
        ValueError: If there are none, or they are not answers to the same samples.
    """
    if len(first) != len(second) or not len(first):
        raise ValueError(
            f"{len(first)} and {len(second)} answers cannot be compared; both settings must "
            "answer the same samples, at least one"
        )
    known = first["samples"].notna() & second["samples"].notna()
    differ = (first["gold"] != second["gold"]) | (known & (first["samples"] != second["samples"]))
    if differ.any():
        raise ValueError("the two runs answer other samples; run both with the same data")
    first, second = (own[~first["question"].duplicated()] for own in (first, second))
    differences = second["score"] - first["score"]
    alone = bool((first["is_own_score"] & second["is_own_score"]).all())
    interval = paired_interval(list(differences), list(first["unit"])) if alone else None
    low, high = interval or (None, None)
    found: dict[str, Any] = {
        "num_samples": len(first),
        "num_units": first["unit"].nunique(),
        "token_agreement": _token_agreement(first["token_ids"], second["token_ids"]),
        "answer_agreement": (first["text"] == second["text"]).mean(),
        "first_score": first["score"].mean(),
        "second_score": second["score"].mean(),
        "score_difference": differences.mean(),
        "difference_low": low,
        "difference_high": high,
    }
    for cost in ("passes", "seconds"):
        for name, own in (("first", first), ("second", second)):
            found[f"{name}_{cost}"] = own[cost].mean(skipna=False)
    found["speed_up"] = found["first_seconds"] / found["second_seconds"]
    return {name: None if pd.isna(value) else value for name, value in found.items()}


def _token_agreement(first: pd.Series, second: pd.Series) -> float | None:
    if first.isna().any() or second.isna().any():
        return None
    pairs = list(zip(first, second, strict=True))
    same = sum(x == y for a, b in pairs for x, y in zip(a, b, strict=False))
    total = sum(max(len(a), len(b)) for a, b in pairs)
    return same / total if total else 1.0


def pair_runs(
    paths: Sequence[Path],
    *,
    models: Sequence[str | None] = (None, None),
    datasets: Sequence[str] = ("*",),
) -> dict[str, tuple[pd.DataFrame, pd.DataFrame]]:
    """Read the answers of two finished runs to the data sets that both have, a row a sample.

    Args:
        paths: Two runs' folders, which may be one; the first model's tokenizer cuts the answers of
            both into tokens.
        models: The model's ``abbr`` in each; the first of each by default.
        datasets: Patterns of data sets' ``abbr``.

    Raises:
        ValueError: If they have none in common, or an answer or result is missing or damaged.
    """
    runs = [read_run(path) for path in paths]
    configs = [
        _named({recorded.model_name(m): m for m, _ in run.pairs}, model)
        for run, model in zip(runs, models, strict=True)
    ]
    names = [recorded.model_name(own) for own in configs]
    cells = [
        {recorded.dataset_name(d): d for m, d in run.pairs if recorded.model_name(m) == name}
        for run, name in zip(runs, names, strict=True)
    ]
    common = [name for name in cells[0] if name in cells[1] and _is_like(name, datasets)]
    if not common:
        raise ValueError(
            f"the runs have no data set named like {list(datasets)} in common: "
            + ", ".join([*cells[0], *cells[1]][:12])
        )
    path = str(configs[0].get("tokenizer_path") or configs[0].get("path"))
    tokenizer = None
    try:
        tokenizer = load_tokenizer(
            resolve_path(path), dict(configs[0].get("tokenizer_kwargs") or {})
        )
    except (OSError, ValueError) as error:
        logger.warning("Tokens are not compared, since the tokenizer is not here: %s", error)
    first, second = (
        {name: _read_cell(run, abbr, mine[name], tokenizer) for name in common}
        for run, abbr, mine in zip(runs, names, cells, strict=True)
    )
    return {name: (first[name], second[name]) for name in common}


def _read_cell(
    run: RunFolder, model: str, dataset: Mapping[str, Any], tokenizer: Any | None
) -> pd.DataFrame:
    """Return what a run recorded of a model on a data set, a row a sample."""
    name = recorded.dataset_name(dataset)
    if model in run.ambiguous:
        raise ValueError(f"{run.path}: {'; '.join(run.notes)}")
    for check in (recorded.predictions_fault, recorded.result_fault):
        if fault := check(run.path, model, name, run.datasets):
            raise ValueError(f"{run.path}: {model} on {name}: {fault}")
    answers: list[dict[str, Any]] = []
    for file in recorded.find_finished(run.path / "predictions" / model, name, run.datasets):
        hashed = (read_maker(file.path) or {}).get("samples") if file.is_whole else None
        content, _ = recorded.read_answers(file.path)
        answers += [{**answer, "samples": hashed} for answer in content.values()]
    rows = pd.DataFrame(answers).reindex(columns=["prediction", "gold", "samples", "origin_prompt"])
    if not rows["prediction"].map(lambda text: isinstance(text, str)).all():
        only = "only data sets whose answers are generated (GenInferencer) can be compared"
        raise ValueError(f"data set {name!r}: {only}")
    inferencer = (dataset.get("infer_cfg") or {}).get("inferencer") or {}
    asked = [inferencer.get("max_out_len"), inferencer.get("stopping_criteria")]
    # Data sets of other lengths and depths ask for the same needles or take the same questions;
    # their gold answers tell which. Elsewhere the same answer is no sign of it.
    gold = rows["gold"].map(lambda value: json.dumps(value, default=str))
    is_grid = bool({"length", "depth"} & dataset.keys())
    units = f"{dataset.get('benchmark', '')} " + gold if is_grid else name + rows.index.astype(str)
    scores, is_own_score = _read_scores(run.path, model, name, len(rows))
    passes, seconds = _read_costs(run, model, name)
    return rows.rename(columns={"prediction": "text"}).assign(
        gold=gold,
        unit=units,
        question=rows["origin_prompt"].map(lambda prompt: hash_values([prompt, *asked])),
        token_ids=[
            tokenizer(text, add_special_tokens=False)["input_ids"] if tokenizer else None
            for text in rows["prediction"]
        ],
        score=scores,
        is_own_score=is_own_score,
        passes=passes,
        seconds=seconds,
    )


def _read_scores(
    path: Path, model: str, dataset: str, num_samples: int
) -> tuple[list[float], bool]:
    """Return the score of each sample, and whether it is of it alone or of the whole data set."""
    by_metric = read_cell(path, model, dataset, 0).scores
    scores = list(by_metric.get("score") or next(iter(by_metric.values()), ()))
    if len(scores) == num_samples:
        return scores, True
    result = recorded.read_result(path / "results" / model / f"{dataset}.json")[0]
    numbers = {name: number for name in result if (number := finite(result[name])) is not None}
    if not numbers:
        raise ValueError(f"the metric of {dataset!r} gives no number: {sorted(result)}")
    return [numbers.get("score", next(iter(numbers.values())))] * num_samples, False


def _read_costs(run: RunFolder, model: str, dataset: str) -> tuple[float, float]:
    """Return the mean passes and seconds of a sample, NaN where they were not counted."""
    records = read_provenance(run.path).of_cell(model, dataset, run.datasets).values()
    prompts = sum(record.get("num_prompts") or 0 for record in records)
    # Records without batches' passes are of versions whose passes were the batches'.
    if not prompts or any(record.get("num_batch_passes") is None for record in records):
        return float("nan"), float("nan")
    passes, seconds = (
        sum(record[name] for record in records) for name in ("num_forward_passes", "seconds")
    )
    return passes / prompts, seconds / prompts


def _named(models: Mapping[str, Mapping[str, Any]], name: str | None) -> Mapping[str, Any]:
    """Return the model of a name, the first where none is given."""
    if not models:
        raise ValueError("there is no model; give a config or a run's folder that has one")
    if name is not None and name not in models:
        raise ValueError(unknown_name_message("model", name, models))
    return next(iter(models.values())) if name is None else models[name]


def _is_like(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def parse_setting(given: Sequence[str]) -> dict[str, Any]:
    """Read a setting, ``name=value`` each: sampler options or keywords of ``LLaDACausalLM``.

    Values are Python literals, or else text: ``cache=prompt``, ``cache={'type':'prompt'}``,
    ``sampler=fast`` for a preset.
    """
    found: dict[str, Any] = {}
    for item in given:
        name, equals, text = item.partition("=")
        if not equals:
            raise ValueError(f"{item!r} must be name=value, such as cache=prompt or num_steps=16")
        if name in found:
            raise ValueError(f"{name} is there twice: {item!r}; give each option of a setting once")
        try:
            found[name] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            found[name] = text
    reject_unknown("sampler option or model keyword", found, [*_SAMPLER_OPTIONS, *KEYWORDS])
    if "sampler" in found:
        remedy = "name a preset or options, or leave it out"
        check_value("sampler", found["sampler"], Mapping[str, Any] | str, remedy)
    for name in as_options(found.get("sampler")):
        if name in found:
            raise ValueError(f"{name} is there twice: by itself and in sampler; give it once")
    return found


def apply_setting(model: Mapping[str, Any], setting: Mapping[str, Any]) -> dict[str, Any]:
    """Return a model's config with a setting in it; sampler options go into ``sampler``.

    A preset is written out, as far as it fits the model; one that does not at all is refused.
    """
    options = {name: value for name, value in setting.items() if name in _SAMPLER_OPTIONS}
    keywords = {name: value for name, value in setting.items() if name not in options}
    options = {**as_options(keywords.pop("sampler", None)), **options}
    if options and model.get("diffusion_config"):
        raise ValueError(
            f"the model has diffusion_config={dict(model['diffusion_config'])}, beside which "
            f"{sorted(options)} cannot be set; write it as sampler=dict(...)"
        )
    sampler = {**as_options(model.get("sampler")), **options}
    applied = {**model, **keywords, **({"sampler": sampler} if sampler else {})}
    preset = find_preset(applied) if names_preset(setting.get("sampler")) else None
    if preset is not None and not preset.options:
        raise ValueError(f"{recorded.model_name(model)}: {preset.describe()}; leave it out")
    return dict(write_out(applied))


def list_options(model: Mapping[str, Any]) -> dict[str, Any]:
    """Return how a model's config generates, for a record: a setting may name a preset alone."""
    return {name: model[name] for name in ("sampler", *OF_MODEL) if name in model}


def find_model(config: Mapping[str, Any], name: str | None = None) -> dict[str, Any]:
    """Return a config's model of this package by its ``abbr``, the first by default."""
    ours = {recorded.model_name(m): m for m in config["models"] if recorded.is_ours(m)}
    if not ours:
        raise ValueError("the config has no model of type LLaDACausalLM; only its settings differ")
    return dict(_named(ours, name))


def limit_samples(dataset: Mapping[str, Any], limit: int) -> dict[str, Any]:
    """Return a data set's config with at most so many samples, evenly spread over the set."""
    reader = dict(dataset["reader_cfg"])
    given = reader.get("test_range") or ""
    if not isinstance(given, str):
        raise ValueError(f"data set {dataset['abbr']!r} has test_range={given}; --limit needs none")
    step = max(1, len(build_dataset_from_cfg(dataset).test) // limit)
    return {**dataset, "reader_cfg": {**reader, "test_range": f"{given}[::{step}][:{limit}]"}}


def start_run(
    models: Sequence[Mapping[str, Any]], datasets: Sequence[Mapping[str, Any]], work_dir: Path
) -> Path:
    """Run models on data sets as ``run.py`` does, in a process that prints to standard error.

    The run's folder lies in ``work_dir`` and is returned; a run that fails is a `RuntimeError`.
    """
    file = work_dir / "config.py"
    values = {"models": plain_config(models), "datasets": plain_config(datasets)}
    write_text(file, "".join(f"{name} = {value!r}\n" for name, value in values.items()))
    command = [sys.executable, "-m", "opencompass_llada.runs.launch", str(file), "-w",
               str(work_dir), "--debug"]  # fmt: skip
    status = subprocess.run(command, stdout=2, check=False).returncode
    if status:
        raise RuntimeError(f"the run of {file} ended with exit status {status}; it says why above")
    return max(folder for folder in work_dir.iterdir() if (folder / "configs").is_dir())


def check_record(path: Path | None) -> None:
    """Refuse, before anything runs, a record that could not be written."""
    if path is not None and (path.is_dir() or not path.parent.is_dir()):
        raise ValueError(f"--record {path} must be a file in a folder that there is")


def run_fidelity(given: argparse.Namespace) -> int:
    """Compare as the command line asks, print the table; 2 for options that do not fit."""
    try:
        check_record(given.record)
        settings = [parse_setting(given.first), parse_setting(given.second)]
        if given.runs and (any(settings) or given.limit is not None):
            raise ValueError("--runs are finished: leave out --first, --second and --limit")
        if not given.runs and not given.second:
            raise ValueError(
                "--second is missing: give the setting to compare, such as cache=prompt"
            )
        models, datasets = ([], []) if given.runs else prepare(given, settings)
        runs = given.runs or [
            start_run([model], datasets, given.work_dir / name)
            for model, name in zip(models, ("first", "second"), strict=True)
        ]
        both = (given.model, given.model)
        pairs = pair_runs(runs, models=both, datasets=given.datasets)
        found = {name: compare(*answers) for name, answers in pairs.items()}
    except ValueError as error:
        sys.stderr.write(f"opencompass-llada fidelity: {error}\n")
        return 2
    if len(pairs) > 1:
        sides = zip(*pairs.values(), strict=True)
        found["all"] = compare(*(pd.concat(side, ignore_index=True) for side in sides))
    sys.stdout.write(write_table(found))
    logger.info("Compared %s and %s; give them to --runs to compare them again.", *runs)
    if given.record:
        record = {
            **describe_making(),
            "first": settings[0],
            "second": settings[1],
            "options": list(map(list_options, models)),
            "runs": runs,
            "model": given.model,
            "limit": given.limit,
            "results": found,
        }
        write_text(given.record, json.dumps(record, indent=1, default=str) + "\n")
        logger.info("Wrote %s", given.record)
    return 0


def describe_making() -> dict[str, Any]:
    """Return what a record says of its making: command, date, commit, machine, versions."""
    made = describe_environment()
    return {
        "command": made["command"],
        "date": date.today().isoformat(),
        "variables": chosen_variables(),
        "commit": made["git_commit"],
        "load": round(os.getloadavg()[0], 1),
        "machine": f"{made['platform']}, {made['num_cores']} cores",
        "versions": {"python": made["python"], **made["packages"]},
    }


def prepare(
    given: argparse.Namespace, settings: Sequence[Mapping[str, Any]]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the model under each setting and the data sets, checked as before a run."""
    if given.limit is not None and given.limit < 1:
        raise ValueError(f"limit={given.limit} must be at least 1 sample of each data set")
    config = command_line.read_config(given.config)
    for name in ("models", "datasets"):
        if not config.get(name):
            raise ValueError(f"the config has no {name}; give one that defines {name} = [...]")
    base = find_model(config, given.model)
    datasets = [d for d in config["datasets"] if _is_like(recorded.dataset_name(d), given.datasets)]
    if not datasets:
        names = ", ".join(recorded.dataset_name(d) for d in list(config["datasets"])[:6])
        raise ValueError(f"no data set is named like {given.datasets}; there are {names}")
    models = [apply_setting(base, setting) for setting in settings]
    for model in models:
        cfg = {"models": [model], "datasets": datasets}
        checks.check_form(cfg)
        doctor.check_config(cfg, runs_locally=True)
    if given.limit is not None:
        datasets = [limit_samples(dataset, given.limit) for dataset in datasets]
    return models, datasets


class _Missing:
    """Stands in a table for what is not recorded."""

    def __format__(self, form: str) -> str:
        return "-"


_COLUMNS = (
    ("n", 5, "{num_samples}"),
    ("units", 5, "{num_units}"),
    ("tokens", 7, "{token_agreement:.2%}"),
    ("answers", 8, "{answer_agreement:.2%}"),
    ("first", 7, "{first_score:.2f}"),
    ("second", 7, "{second_score:.2f}"),
    ("difference (95 %)", 25,
     "{score_difference:+.2f} ({difference_low:+.2f} to {difference_high:+.2f})"),
    ("NFE", 13, "{first_passes:.1f}/{second_passes:.1f}"),
    ("seconds", 17, "{first_seconds:.3f}/{second_seconds:.3f}"),
)  # fmt: skip


def write_table(found: Mapping[str, Figures]) -> str:
    """Return comparisons as a table; what is not recorded is a dash."""
    names = max(len(name) for name in found)
    rows = [["data set".ljust(names), *(title for title, _, _ in _COLUMNS)]]
    for name, figures in found.items():
        shown = {key: _Missing() if value is None else value for key, value in figures.items()}
        rows.append([name.ljust(names), *(form.format(**shown) for _, _, form in _COLUMNS)])
    widths = [names, *(width for _, width, _ in _COLUMNS)]
    lines = [" ".join(map(str.rjust, row, widths)) for row in rows]
    return "\n".join(lines) + (
        "\nn: different questions. units: of them independent ones (needles); the interval is over "
        "them.\n"
    )
