"""Reads and writes results in the files of lm-evaluation-harness; runs none of it.

Its scores are shares, ours percent. Read are ``results_TIME.json`` and, of ``--log_samples``,
``samples_TASK_TIME.jsonl`` beside it, as versions 0.4.0 to 0.4.13 write them.
"""

from __future__ import annotations

import hashlib
import json
import math
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from opencompass_llada import __version__
from opencompass_llada.benchmarks.benchmark import find_benchmark
from opencompass_llada.files import write_text
from opencompass_llada.options import reject_unknown
from opencompass_llada.report.collect import (
    SAMPLE_COLUMNS,
    TIDY_COLUMNS,
    CellKey,
    Collection,
    Imported,
    collect,
    key_of,
)
from opencompass_llada.report.identity import find_kind
from opencompass_llada.report.results import (
    CellFiles,
    Row,
    as_text,
    finite,
    hash_prompts,
    read_cell_answers,
)
from opencompass_llada.report.statistics import mean_standard_error
from opencompass_llada.runs.checkpoints import cut_paths, label_paths, plain_name
from opencompass_llada.runs.hashes import hash_text, hash_values
from opencompass_llada.runs.provenance import Provenance
from opencompass_llada.runs.run_folder import RunFolder

NAME = "lm-evaluation-harness"
#: Metrics of its tasks that are shares of the samples or of a full score.
SHARES = ("acc", "acc_norm", "acc_bytes", "acc_mutual_info", "exact_match", "em", "f1", "mcc",
          "contains", "pass@1", "pass_at_1", "prompt_level_strict_acc", "inst_level_strict_acc",
          "prompt_level_loose_acc", "inst_level_loose_acc", "mc1", "mc2")  # fmt: skip
#: Of which less is better; files before 0.4.3 do not say so.
LOWER = ("perplexity", "word_perplexity", "byte_perplexity", "bits_per_byte", "brier_score")
#: What says, besides the task's own, how its prompts are written.
PROMPT_KEYS = ("dataset_name", "description", "doc_to_text", "doc_to_choice", "target_delimiter",
               "fewshot_delimiter")  # fmt: skip
CHAT_KEYS = ("system_instruction_sha", "chat_template_sha", "fewshot_as_multiturn")
#: Its RULER tasks with other names than ours; the metric is the length, -1: no sample of it.
RULER_TASKS = {"ruler_vt": "vt", "ruler_cwe": "cwe", "ruler_fwe": "fwe",
               "ruler_qa_squad": "qa_squad", "ruler_qa_hotpot": "qa_hotpotqa"}  # fmt: skip


def read_lm_eval(folders: Iterable[str | Path]) -> list[Imported]:
    """Read every results file in some folders and below.

    Raises:
        ValueError: If a folder holds none, or one is not as lm-evaluation-harness writes it.
    """
    found: dict[Path, Path] = {}
    for folder in map(Path, folders):
        paths = [folder] if folder.is_file() else sorted(folder.rglob("results*.json"))
        if not paths:
            raise ValueError(
                f"{str(folder)!r} holds no results*.json of {NAME}; give its --output_path."
            )
        found |= {path.resolve(): path for path in paths}
    labels = label_paths([str(path.parent) for path in found], [""] * len(found), {})
    return [_read_checked(path, label) for path, label in zip(found.values(), labels, strict=True)]


def _read_checked(path: Path, label: str) -> Imported:
    try:
        return _read_file(path, label)
    except (AttributeError, LookupError, OverflowError, TypeError) as error:
        raise ValueError(
            f"{path}, or the samples beside it, is not as {NAME} writes it "
            f"({type(error).__name__}: {error}); give its files unchanged, or leave this one out."
        ) from error


def _read_file(path: Path, label: str) -> Imported:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        tasks, config = dict(content["results"]), dict(content["config"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is no results file of {NAME} ({type(error).__name__}: {error}); it has "
            "'results' and 'config'."
        ) from error
    run = f"{label}/{path.stem}"
    model = str(content.get("model_name") or config.get("model_args") or config.get("model"))
    checkpoint, *others = _list_arguments(model, config.get("model_args"))
    title = cut_paths([model])[model]
    version = content.get("lm_eval_version")
    maker = content.get("exported_by") or f"{NAME} {version or 'of a version not recorded'}"
    date = finite(content.get("date"))
    shared = {
        **dict.fromkeys([*TIDY_COLUMNS, *SAMPLE_COLUMNS]),
        "run": run,
        "model": model,
        "title": title,
        "scaling": "none",
        "entry": f"{title} ({maker})",
        "checkpoint": " + ".join([checkpoint, *others]),
        "kind": find_kind({"path": checkpoint}, None),
        "sampler": str(config.get("gen_kwargs") or "defaults"),
        "dtype": str(config.get("model_dtype") or ""),
        "prompt_limit": "",
        "recorded": "" if date is None
        else datetime.fromtimestamp(date, timezone.utc).isoformat(timespec="seconds"),
        "status": "ok",
        "reason": "",
    }  # fmt: skip
    rows: list[Row] = []
    cells: dict[CellKey, CellFiles] = {}
    notes: list[str] = []
    for task in tasks:
        samples = _read_samples(path, task)
        for row in _read_task(content, task, samples, notes):
            rows.append({**shared, **row})
            cells[run, model, row["dataset"]] = CellFiles(
                num_predictions=row["n"], prompt_hash=row["prompt_hash"], scores={}, units=(),
                samples=(),
            )  # fmt: skip
    record = {"path": model, "device": config.get("device"), "dtype": config.get("model_dtype"),
              "packages": {NAME: version}, "git_commit": content.get("git_hash")}  # fmt: skip
    return Imported(
        run=RunFolder(path=path.parent, name=run, pairs=(), facts=(), ambiguous=frozenset(),
                      notes=tuple(notes)),
        rows=tuple(rows),
        cells=cells,
        provenance=Provenance(models={model: record}, runs=({"started": shared["recorded"]},)),
    )  # fmt: skip


def _list_arguments(name: str, given: Any) -> list[str]:
    """Return a model's checkpoint, and all else that it was loaded with: adapter, dtype, revision.

    Files of one name that differ in any of it are other models.
    """
    if isinstance(given, Mapping):
        given = ",".join(f"{key}={value}" for key, value in given.items())
    words = [word.strip() for word in str(given or "").split(",") if word.strip()]
    paths = [word for word in words if word.partition("=")[0] in ("pretrained", "model", "path")]
    others = [word for word in words if word not in paths[:1]]
    return [paths[0].partition("=")[2] if paths else name, *others]


def _samples_file(path: Path, task: str) -> Path:
    """Return where the samples of a task stand beside a results file: of its own name alone."""
    return path.with_name(f"samples_{task}_{path.stem.removeprefix('results_')}.jsonl")


def _read_samples(path: Path, task: str) -> list[dict[str, Any]]:
    """Return a task's samples in order of their documents, [] where they were not logged."""
    file = _samples_file(path, task)
    if not file.is_file():
        return []
    with file.open(encoding="utf-8") as lines:
        try:
            return sorted(map(json.loads, lines), key=lambda sample: int(sample["doc_id"]))
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{file} is torn or no samples file of {NAME}: {error}") from error


def _read_task(
    content: Mapping[str, Any], task: str, samples: Sequence[Mapping[str, Any]], notes: list[str]
) -> Iterator[Row]:
    """Yield a row a metric and filter of a task."""
    config = (content.get("configs") or {}).get(task) or {}
    better = (content.get("higher_is_better") or {}).get(task) or {}
    own = content["results"][task]
    shares = (config.get("metadata") or {}).get("shares") or ()
    asked = [*map(config.get, PROMPT_KEYS), *map(content.get, CHAT_KEYS)]
    for name, value in own.items():
        metric, _, chosen = name.partition(",")
        number = finite(value)
        if not chosen or number is None or metric.endswith("_stderr"):
            continue
        is_ruler = metric.isdecimal()
        if is_ruler and number < 0:
            continue
        if better.get(metric, metric not in LOWER) is False:
            notes.append(f"{task}, {metric}: lower is better, which columns of {NAME} cannot show")
            continue
        mine = [s for s in samples if s.get("filter", "none") == chosen and metric in s]
        mine = [s for s in mine if not is_ruler or s[metric] >= 0]
        scores = [
            finite(float(s[metric]) if isinstance(s[metric], bool) else s[metric]) for s in mine
        ]
        known = [score for score in scores if score is not None and 0 <= score <= 1]
        adds_up = len(known) == len(mine) > 0 and math.isclose(
            math.fsum(known) / len(known), number, abs_tol=1e-6
        )
        scale = 100.0 if adds_up or metric in (*SHARES, *shares) or is_ruler else 1.0
        error = finite(own.get(f"{metric}_stderr,{chosen}"))
        count = ((content.get("n-samples") or {}).get(task) or {}).get("effective") or 0
        if adds_up or is_ruler:  # of which the file counts all lengths together
            count = len(mine)
        shots = (content.get("n-shot") or {}).get(task)
        version = (content.get("versions") or {}).get(task)
        yield {
            **_name_place(content, task, metric, chosen),
            "n": int(count) or None,
            "score": scale * number,
            "standard_error": None if error is None else scale * error,
            "template_hash": hash_values([task, version, shots, *asked]),
            "prompt_hash": hash_prompts([_prompt(sample) for sample in mine]),
            "data": str(config.get("dataset_path") or task),
            "sample_scores": tuple(100.0 * score for score in known) if adds_up else None,
            "units": tuple(hash_text(_prompt(sample)) for sample in mine),
            "generation_length": (config.get("generation_kwargs") or {}).get("max_gen_toks"),
        }


def _name_place(content: Mapping[str, Any], task: str, metric: str, chosen: str) -> Row:
    """Return what says which question a metric is of."""
    if metric.isdecimal():
        name = RULER_TASKS.get(task, task)
        return {"benchmark": "ruler", "dataset": f"{task}_{metric}", "task": name,
                "length": int(metric), "metric": "score"}  # fmt: skip
    groups = (content.get("group_subtasks") or {}).items()
    group = next((name for name, members in groups if task in members), task)
    label = metric if chosen == "none" else f"{metric} ({chosen})"
    return {"benchmark": f"{group} ({NAME})", "dataset": task, "task": task, "metric": label}


def _prompt(sample: Mapping[str, Any]) -> str:
    """Return a sample's prompt; of options, what stands before all of them."""
    arguments = sample["arguments"]
    if isinstance(arguments, Mapping):
        return as_text(arguments["gen_args_0"]["arg_0"])
    return as_text(arguments[0][0])  # before 0.4.4


def run_export(work_dirs: Sequence[str], path: Path, model: str | None) -> int:
    """Write one model's results, and its samples beside them."""
    paths = export(collect(work_dirs), path, model)
    sys.stdout.write(f"{len(paths)} files; {paths[0].resolve()}\n")
    return 0


def export(collection: Collection, path: Path, model: str | None = None) -> list[Path]:
    """Write a line of the leaderboard as a results file; return its path, and the samples'.

    Raises:
        ValueError: For an unknown model, or none given where there are several; for a folder.
    """
    if path.is_dir():
        raise ValueError(f"{path} is a folder; give a file in it, such as {path / 'results.json'}")
    entries = list(dict.fromkeys(collection.results.entry))
    if model is None and len(entries) > 1:
        raise ValueError(
            f"a results file of {NAME} is of one model, and these runs have {len(entries)}: choose "
            f"one with --model: {', '.join(entries)}."
        )
    reject_unknown("model", [model or entries[0]], entries)
    rows = [row for row in collection.rows if row.entry == (model or entries[0])]
    rows = [row for row in rows if row.status == "ok"]
    if not rows:
        raise ValueError(f"{model or entries[0]} has no result that could be written.")
    names = _name_tasks(rows)
    content = _describe(collection, rows, names)
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    paths = [path]
    for key, name in names.items():
        own = [row for row in rows if key_of(row) == key]
        file = _samples_file(path, name)
        if lines := _sample_lines(collection, own):
            paths.append(file)
            write_text(file, "".join(f"{json.dumps(own, ensure_ascii=False)}\n" for own in lines))
        else:  # of an earlier export, whose numbers are others
            file.unlink(missing_ok=True)
    return paths


def _name_tasks(rows: Sequence[Any]) -> dict[CellKey, str]:
    """Return a name a cell: its data set, and the run where two runs have one of that name."""
    keys = dict.fromkeys(map(key_of, rows))
    counts = Counter(dataset for _, _, dataset in keys)
    return {
        (run, model, dataset): dataset + (f"_{plain_name(run)}" if counts[dataset] > 1 else "")
        for run, model, dataset in keys
    }


def _has_shares(row: Any) -> bool:
    """Tell whether samples have scores from 0 to 100; a perplexity's windows have nats."""
    return row.sample_scores is not None and row.benchmark != "perplexity"


def _scale(row: Any) -> float:
    return 0.01 if _has_shares(row) or find_benchmark(row.benchmark).is_percent else 1.0


def _describe(
    collection: Collection, rows: Sequence[Any], names: Mapping[CellKey, str]
) -> dict[str, Any]:
    first = rows[0]
    record = collection.provenance[first.run].models.get(first.model) or {}
    content: dict[str, Any] = {
        name: {} for name in ("results", "group_subtasks", "configs", "versions", "n-shot",
                              "higher_is_better", "n-samples")
    }  # fmt: skip
    for row in rows:
        name = names[key_of(row)]
        # The harness's: of 4 hits of 4 it is 0, where results.csv has Wilson's.
        error = mean_standard_error(row.sample_scores) if _has_shares(row) else None
        own = content["results"].setdefault(name, {"name": name, "alias": name})
        own |= {
            f"{row.metric},none": _scale(row) * row.score,
            f"{row.metric}_stderr,none": "N/A" if error is None else error / 100,
        }
        config = content["configs"].setdefault(name, {
            "task": name, "dataset_path": row.data, "output_type": "generate_until",
            "generation_kwargs": {"max_gen_toks": row.generation_length},
            "metadata": {"version": 1, "benchmark": row.benchmark, "shares": []},
        })  # fmt: skip
        if _scale(row) != 1:
            config["metadata"]["shares"].append(row.metric)
        content["group_subtasks"][name] = []
        content["versions"][name] = 1
        content["n-samples"][name] = {"original": row.n, "effective": row.n}
        better = content["higher_is_better"].setdefault(name, {})
        better[row.metric] = row.benchmark != "perplexity"
    recorded = max(row.recorded for row in rows)
    return {
        **content,
        "config": {"model": "opencompass-llada", "model_args": f"pretrained={first.checkpoint}",
                   "model_dtype": record.get("dtype"), "device": record.get("device"),
                   "gen_kwargs": first.sampler},
        "git_hash": record.get("git_commit"),
        "date": datetime.fromisoformat(recorded).timestamp() if recorded else None,
        "transformers_version": (record.get("packages") or {}).get("transformers"),
        "model_source": "opencompass-llada",
        "model_name": first.entry,
        "exported_by": f"opencompass-llada {__version__}",
    }  # fmt: skip


def _sample_lines(collection: Collection, rows: Sequence[Any]) -> list[dict[str, Any]]:
    """Return a data set's samples with their scores in every metric that has them, else []."""
    scored = [row for row in rows if _has_shares(row)]
    run = next(run for run in collection.runs if run.name == rows[0].run)
    answers = read_cell_answers(run.path, *key_of(rows[0])[1:]) or []
    scored = [row for row in scored if len(row.sample_scores) == len(answers)]
    lines = []
    for number, answer in enumerate(answers if scored else ()):
        prompt, target = as_text(answer.get("origin_prompt", "")), as_text(answer.get("gold", ""))
        response = as_text(answer.get("prediction", ""))
        hashes = {"doc_hash": "{}", "prompt_hash": prompt, "target_hash": target}
        lines.append({
            "doc_id": number,
            "doc": {},
            "target": target,
            "arguments": {"gen_args_0": {"arg_0": prompt, "arg_1": {}}},
            "resps": [[response]],
            "filtered_resps": [response],
            "filter": "none",
            "metrics": [row.metric for row in scored],
            **{name: hashlib.sha256(text.encode()).hexdigest() for name, text in hashes.items()},
            **{row.metric: row.sample_scores[number] / 100 for row in scored},
        })  # fmt: skip
    return lines
