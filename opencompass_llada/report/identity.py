"""Says which cells are the same cell, and which runs of a model are one line of the leaderboard.

A *protocol* is what a cell asks and how the answer is made: the prompts, what counts their length,
the number of samples, the sampler, the generation length and the limit on prompts. Runs of one
model that disagree on any of it, on the same benchmark, become lines of their own, and a note says
what differs. Two models with one name stay apart, too.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import pandas

from opencompass_llada.assets import resolve_path
from opencompass_llada.old_names import dotted_name
from opencompass_llada.runs.hashes import hash_values
from opencompass_llada.sampling import STRATEGIES

#: A row of the results frame, as `DataFrame.itertuples` gives it.
Row = Any
#: Parts of a protocol that must agree for a whole benchmark, with what a note calls them.
SETTINGS = {"sampler": "sampler", "prompt_limit": "limit on prompts"}
#: Parts that must agree task by task: they may differ between tasks of one benchmark.
TASK_SETTINGS = {
    "counted_by": "tokenizer that counts lengths",
    "template_hash": "prompt template",
    "generation_length": "generation length",
    "n": "number of samples",
}
#: Benchmarks whose number of samples (windows of a text) goes with the length.
N_BY_CELL = ("perplexity",)
#: Parts that must agree cell by cell.
CELL_SETTINGS = {"prompt_hash": "prompt hash"}
NAMES = {**SETTINGS, **TASK_SETTINGS, **CELL_SETTINGS}
#: Parts of a data set's config that do not change what the model is asked: names, places in the
#: grid (compared by themselves), how answers are scored, and how many samples there are.
NOT_PROMPTS = ("abbr", "type", "eval_cfg", "length", "depth", "task", "benchmark", "path", "name",
               "tokenizer", "tokenizer_model", "num_samples", "num_repeats_per_file", "n", "k",
               "max_seq_length", "previous_length", "cache", "cache_folder",
               "generation_reserve", "tokens_to_generate")  # fmt: skip
#: What records named the engine before they said how it generates.
_ENGINES = {"MaskedDiffusionEngine": "masked_diffusion", "AutoregressiveEngine": "autoregressive"}


def describe_sampler(model: Mapping[str, Any]) -> str:
    """Return how a model config generates and scores, as ``name=value`` in alphabetical order.

    Precision and draws of a likelihood are part of it where the config gives them, and the seed
    where sampling draws random numbers. The generation length is not, since data sets set it.
    """
    options: dict[str, Any] = {}
    for key in ("generation_kwargs", "diffusion_config", "sampler"):
        options |= dict(model.get(key) or {})
    options["seed"] = options.get("seed", model.get("seed"))
    options["dtype"] = model.get("dtype") or (model.get("model_kwargs") or {}).get("torch_dtype")
    options["draws"] = (model.get("likelihood") or {}).get("num_draws")
    strategy = STRATEGIES.get(str(options.get("remasking")))
    random = options.get("temperature") or (strategy is not None and not strategy.confident)
    left_out = ("generation_length", "max_out_len", *(() if random else ("seed",)))
    named = [
        f"{name}={value}"
        for name, value in sorted(options.items())
        if name not in left_out and value is not None
    ]
    return " ".join(named) or "defaults"


def describe_protocol(model: Mapping[str, Any], dataset: Mapping[str, Any]) -> dict[str, Any]:
    """Return the columns of a cell's protocol that configs tell."""
    inferencer = (dataset.get("infer_cfg") or {}).get("inferencer") or {}
    length = inferencer.get("max_out_len") or model.get("max_out_len")
    limit = ""
    if model.get("max_seq_len"):
        policy = model.get("truncation") or ("middle" if model.get("drop_middle") else "error")
        limit = f"{model['max_seq_len']} tokens, {policy}"
    return {
        "sampler": describe_sampler(model),
        "generation_length": None if length is None else int(length),
        "prompt_limit": limit,
        "template_hash": _hash_template(dataset),
    }


def _hash_template(dataset: Mapping[str, Any]) -> str:
    """Return the hash of what a data set's config says on prompts, but for places in the grid."""
    prompts = {key: value for key, value in dataset.items() if key not in NOT_PROMPTS}
    infer = dict(prompts.pop("infer_cfg", None) or {})
    how = dict(infer.pop("inferencer", None) or {})
    how.pop("max_out_len", None)
    window = dict(how.pop("window", None) or {})
    window = {key: value for key, value in window.items() if not key.endswith("length")}
    return hash_values(_plain({**prompts, "infer": infer, "how": how, "window": window}))


def _plain(value: Any) -> Any:
    """Return a config value with classes as dotted names, as it stands in a dump."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if isinstance(value, str | int | float | type(None)) else dotted_name(value)


def find_kind(model: Mapping[str, Any], recorded: Mapping[str, Any] | None) -> str:
    """Tell masked diffusion from autoregressive models.

    By what the engine recorded, else by the family of the recorded ``model_type``, of config.json
    where that is at hand, or of the config's own ``model_type``. No name is guessed from.

    Returns:
        ``diffusion``, ``autoregressive`` or ``unknown``.
    """
    record = recorded or {}
    told = record.get("generates_by") or _ENGINES.get(str(record.get("engine")))
    if told is None:
        names = (record.get("model_type"), _read_model_type(str(model.get("path"))),
                 model.get("model_type"))  # fmt: skip
        told = next((kind for kind in map(_family_kind, names) if kind), None)
    return {"masked_diffusion": "diffusion", None: "unknown"}.get(told, str(told))


@lru_cache(maxsize=256)
def _family_kind(model_type: str | None) -> str | None:
    if not model_type:
        return None
    from opencompass_llada.families import generates_by  # imports torch, which a report spares

    return generates_by(str(model_type))


@lru_cache(maxsize=256)
def _read_model_type(path: str) -> str | None:
    try:
        file = Path(resolve_path(path)).expanduser() / "config.json"
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content.get("model_type") if isinstance(content, dict) else None


def counted_by(row: Row) -> str | None:
    """Return what counts a row's lengths: the hash of its files, else its name."""
    return row.tokenizer_hash or row.tokenizer


def hash_protocol(row: Row) -> str:
    """Return the hash of what a cell asks: equal for two models that were asked the same.

    The sampler is left out: it belongs to the model's line. Prompts count by their own hash where
    predictions are left, else by their template.
    """
    asked = row.prompt_hash or row.template_hash
    if row.benchmark == "perplexity":  # its predictions name the texts and do not hold them
        asked = hash_values([row.prompt_hash, row.template_hash, Path(row.data).name, row.length])
        if counted_by(row) is None:  # tokens of nobody knows what: comparable with its own alone
            asked = hash_values([asked, row.checkpoint])
    return hash_values([asked, counted_by(row), row.n, row.prompt_limit])


@dataclass(frozen=True)
class _RunOfModel:
    """The rows of one model on one benchmark in one run; at least one."""

    name: str
    rows: Sequence[Row]

    @cached_property
    def protocol(self) -> dict[tuple[str, Any], Any]:
        """Everything that must agree, by name and task or place in the grid."""
        found: dict[tuple[str, Any], Any] = {}
        for row in self.rows:
            task = (row.task, row.language, row.haystack, row.prompt, row.metric)
            place = (*task, row.length, row.depth)
            found |= {(name, None): getattr(row, name) for name in SETTINGS}
            for name in TASK_SETTINGS:
                value = counted_by(row) if name == "counted_by" else getattr(row, name)
                if value is not None:
                    found.setdefault((name, place if row.benchmark in N_BY_CELL else task), value)
            if row.prompt_hash is not None:
                found["prompt_hash", place] = row.prompt_hash
        return found

    def differences(self, other: _RunOfModel) -> list[str]:
        """Say what two runs disagree on, as in ``number of samples (2, 10)``.

        It is nothing if they are the same measurement or complete each other.
        """
        differing: dict[str, tuple[Any, Any]] = {}
        for key in self.protocol.keys() & other.protocol.keys():
            if self.protocol[key] != other.protocol[key]:
                differing.setdefault(key[0], (self.protocol[key], other.protocol[key]))
        if len(differing) > 1 and "n" in differing:
            differing.pop("prompt_hash", None)  # follows from another number of samples
        shown = {
            name: [str(v) if v != "" else "none" for v in differing[name]] for name in differing
        }
        return [f"{NAMES[name]} ({', '.join(shown[name])})" for name in NAMES if name in shown]


def separate(
    results: pandas.DataFrame,
    order: Mapping[str, int],
    checkpoints: Mapping[tuple[str, str], str],
) -> tuple[pandas.DataFrame, list[str]]:
    """Give each row the line that it belongs to, and drop what was measured twice.

    Args:
        results: Of all runs; ``entry`` holds title and scaling.
        order: Place of each run, the oldest first by recorded time.
        checkpoints: Hash of each (run, model abbreviation)'s weights, where recorded.

    Returns:
        The rows that are left, in their order, and remarks for the reader.
    """
    entries, remarks = _tell_models_apart(results, checkpoints)
    named = results.assign(entry=entries)
    by_age = named.iloc[named.run.map(order).argsort(kind="stable")]
    dropped: set[Any] = set()
    for (entry, benchmark), own in by_age.groupby(["entry", "benchmark"], sort=False):
        runs = [
            _RunOfModel(str(name), list(rows.itertuples()))
            for name, rows in own.groupby("run", sort=False)
        ]
        classes = _classify(runs)
        for place, same in enumerate(classes):
            dropped |= _find_repeats(same, f"{entry} on {benchmark}", remarks)
            if place:
                first, label = classes[0][0], f"{entry} [run {same[0].name}]"
                named.loc[[row.Index for run in same for row in run.rows], "entry"] = label
                remarks.append(
                    f"{entry} on {benchmark}: runs {first.name} and {same[0].name} disagree "
                    f"on {'; '.join(first.differences(same[0]))}: kept apart"
                )
    return named.drop(index=list(dropped)), remarks


def _classify(runs: Sequence[_RunOfModel]) -> list[list[_RunOfModel]]:
    """Put each run to the first class with which it agrees throughout."""
    classes: list[list[_RunOfModel]] = []
    for run in runs:
        for members in classes:
            if not any(member.differences(run) for member in members):
                members.append(run)
                break
        else:
            classes.append([run])
    return classes


def _find_repeats(same: Sequence[_RunOfModel], what: str, remarks: list[str]) -> set[Any]:
    """Find rows that were measured again in the same way; the number recorded later counts.

    That is two runs, or one folder resumed after its data sets' names changed. A cell without a
    number never hides one that has it. Without both times the run given later counts.
    """
    best: dict[tuple[Any, ...], Row] = {}
    dropped: set[Any] = set()
    pairs: dict[tuple[str, str], bool] = {}
    for row in (row for run in same for row in run.rows):
        whole = row.dataset if row.task is None and row.length is None else None
        place = (row.task, row.language, row.haystack, row.prompt, row.length, row.depth)
        key = (*place, counted_by(row), row.metric, whole)
        older = best.get(key)
        asked_alike = older is not None and older.prompt_hash == row.prompt_hash is not None
        if older is None or (older.run == row.run and not asked_alike):
            best[key] = row
            continue
        timed = bool(older.recorded and row.recorded)
        swapped = timed and older.recorded > row.recorded
        if (row.score is None) != (older.score is None):
            swapped = row.score is None
        best[key], loser = (older, row) if swapped else (row, older)
        dropped.add(loser.Index)
        pairs[older.run, row.run] = timed and pairs.get((older.run, row.run), True)
    for (first, second), timed in sorted(pairs.items()):
        who = f"runs {first} and {second}" if first != second else f"run {first}"
        told = " under two names" if first == second else ""
        order = "" if timed else ", by the order of the runs as given (they record no times)"
        remarks.append(
            f"{what}: {who} measured some cells alike{told}; the later number is shown{order}, and "
            "none is averaged with the other"
        )
    return dropped


def _tell_models_apart(
    results: pandas.DataFrame, checkpoints: Mapping[tuple[str, str], str]
) -> tuple[list[str], list[str]]:
    """Name entries so that each stands for one checkpoint under one scaling."""
    remarks: list[str] = []
    known = [checkpoints.get(key, "") for key in zip(results.run, results.model, strict=True)]
    hashes: dict[str, set[str]] = defaultdict(set)
    for path, content in zip(results.checkpoint, known, strict=True):
        hashes[path] |= {content} - {""}
    identities = [
        (path, content if len(hashes[path]) > 1 else "", model)
        for path, content, model in zip(results.checkpoint, known, results.model, strict=True)
    ]
    found: dict[str, dict[tuple[str, str, str], str]] = defaultdict(dict)
    for entry, identity in zip(results.entry, identities, strict=True):
        found[entry][identity] = entry
    for entry, labels in found.items():
        if len(labels) > 1:
            labels |= {identity: _extend(entry, identity, list(labels)) for identity in labels}
            remarks.append(
                f"{len(labels)} models are called {entry!r}; they are shown as "
                f"{', '.join(labels.values())}"
            )
    entries = [found[entry][own] for entry, own in zip(results.entry, identities, strict=True)]
    by_abbr = pandas.Series(entries, dtype=object).groupby(list(results.model)).unique()
    for abbr, shown in by_abbr.items():
        if len(shown) > 1:
            remarks.append(
                f"the abbr {abbr!r} stands for {len(shown)} models: {', '.join(sorted(shown))}; "
                "they are kept apart"
            )
    return entries, remarks


def _extend(
    entry: str, identity: tuple[str, str, str], found: Sequence[tuple[str, str, str]]
) -> str:
    """Add to a name what tells it from the others: path, contents, abbreviation."""
    path, content, abbr = identity
    parts = [path] if any(other[0] != path for other in found) else []
    if any(other[1] != content for other in found):
        parts.append(f"weights {content or 'not recorded'}")
    return f"{entry} [{', '.join(parts or [abbr])}]"
