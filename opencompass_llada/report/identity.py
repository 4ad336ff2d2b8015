"""Says which cells are the same cell, and which runs of a model are one line of the leaderboard.

A *protocol* is what a cell asks and how the answer is made. Runs of one model that disagree on any
of it, on the same benchmark, become lines of their own; two models with one name stay apart, too.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import pandas

from opencompass_llada.assets import resolve_path
from opencompass_llada.benchmarks.cells import plain_config
from opencompass_llada.families import generates_by
from opencompass_llada.networks.checkpoint import read_json_object
from opencompass_llada.presets import PRESETS, put_in, split_preset
from opencompass_llada.runs.checkpoints import cut_paths
from opencompass_llada.runs.hashes import hash_values
from opencompass_llada.sampling import STRATEGIES

Row = Any  # of the results, as `DataFrame.itertuples` gives it
#: Parts of a protocol that must agree for a whole benchmark, with what a note calls them.
SETTINGS = {"sampler": "sampler", "dtype": "precision", "prompt_limit": "limit on prompts"}
#: Parts that must agree task by task: they may differ between tasks of one benchmark.
TASK_SETTINGS = {
    "counted_by": "tokenizer that counts lengths",
    "template_hash": "prompt template",
    "generation_length": "generation length",
    "n": "number of samples",
}
#: With the prompts' own hash, which must agree cell by cell.
NAMES = {**SETTINGS, **TASK_SETTINGS, "prompt_hash": "prompt hash"}
#: Parts of a data set's config that do not change what the model is asked: names, places in the
#: grid (compared by themselves), how answers are scored, and how many samples there are.
NOT_PROMPTS = ("abbr", "type", "eval_cfg", "length", "depth", "task", "benchmark", "path", "name",
               "tokenizer", "tokenizer_model", "num_samples", "num_repeats_per_file", "n", "k",
               "max_seq_length", "previous_length", "cache", "cache_folder",
               "generation_reserve", "tokens_to_generate", "setting")  # fmt: skip
#: What records named the engine before they said how it generates.
_ENGINES = {"MaskedDiffusionEngine": "masked_diffusion", "AutoregressiveEngine": "autoregressive"}


def describe_sampler(model: Mapping[str, Any], recorded: Mapping[str, Any] | None = None) -> str:
    """Return how a model config generates and scores, as ``name=value`` in alphabetical order.

    A preset is what the process that held the model recorded of it, since another version's may be
    something else; without that record it is today's. Draws and estimator of a likelihood are part
    of it where the config gives them, and the seed where sampling draws random numbers. The
    generation length is not, since data sets set it.
    """
    preset, _ = split_preset(model.get("sampler"))
    if preset is not None:
        told = (recorded or {}).get("preset") or {}
        today = PRESETS.get(preset, {"preset": preset})
        model = put_in(model, told["options"] if told.get("name") == preset else today)
    options: dict[str, Any] = {}
    for key in ("generation_kwargs", "diffusion_config", "sampler"):
        options |= dict(model.get(key) or {})
    options["seed"] = options.get("seed", model.get("seed"))
    options["attention_block"] = model.get("attention_block")
    options["precision"] = model.get("precision")
    prefill = dict(model.get("prefill") or {})
    if prefill:
        options["prefill"] = ",".join(f"{name}:{prefill[name]}" for name in sorted(prefill))
    likelihood = model.get("likelihood") or {}
    options["draws"] = likelihood.get("num_draws")
    options["estimator"] = likelihood.get("estimator")
    strategy = STRATEGIES.get(str(options.get("remasking")))
    random = options.get("temperature") or (strategy is not None and strategy.score is None)
    left_out = ("generation_length", "max_out_len", *(() if random else ("seed",)))
    given = {key: options[key] for key in sorted(options) if options[key] is not None}
    named = [f"{name}={value}" for name, value in given.items() if name not in left_out]
    return " ".join(named) or "defaults"


def describe_protocol(
    model: Mapping[str, Any],
    dataset: Mapping[str, Any],
    recorded: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the columns of a cell's protocol that configs tell, and a model's own record."""
    inferencer = (dataset.get("infer_cfg") or {}).get("inferencer") or {}
    length = inferencer.get("max_out_len") or model.get("max_out_len")
    limit = ""
    if model.get("max_seq_len"):
        policy = model.get("truncation") or ("middle" if model.get("drop_middle") else "error")
        limit = f"{model['max_seq_len']} tokens, {policy}"
    return {
        "sampler": describe_sampler(model, recorded),
        "dtype": str(
            model.get("dtype") or (model.get("model_kwargs") or {}).get("torch_dtype") or ""
        ),
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
    return hash_values(plain_config({**prompts, "infer": infer, "how": how, "window": window}))


def find_kind(model: Mapping[str, Any], recorded: Mapping[str, Any] | None) -> str:
    """Tell whether a model is ``diffusion``, ``autoregressive`` or ``unknown``.

    By what the engine recorded, else by the family of the recorded ``model_type``, of config.json
    where that is at hand, or of the config's own ``model_type``. No name is guessed from.
    """
    record = recorded or {}
    told = record.get("generates_by") or _ENGINES.get(str(record.get("engine")))
    if told is None:
        names = (record.get("model_type"), _read_model_type(str(model.get("path"))),
                 model.get("model_type"))  # fmt: skip
        told = next(filter(None, (generates_by(str(name)) for name in names if name)), None)
    kinds = {"masked_diffusion": "diffusion", "uniform_diffusion": "diffusion", None: "unknown"}
    return kinds.get(told, str(told))


@lru_cache(maxsize=256)
def _read_model_type(path: str) -> str | None:
    try:
        content = read_json_object(Path(resolve_path(path)).expanduser() / "config.json")
    except (OSError, ValueError):
        return None
    return content.get("model_type")


def counted_by(row: Row) -> str | None:
    """Return what counts a row's lengths: the hash of its files, else its name."""
    return row.tokenizer_hash or row.tokenizer


def hash_protocol(row: Row) -> str:
    """Return the hash of what a cell asks: equal for two models that were asked the same.

    Prompts count by their own hash where predictions are left, else by their template.
    """
    asked = row.prompt_hash or row.template_hash
    if row.benchmark == "perplexity":  # its predictions name the texts and do not hold them
        asked = hash_values([row.prompt_hash, row.template_hash, Path(row.data).name, row.length])
        if counted_by(row) is None:  # tokens of nobody knows what: comparable with its own alone
            asked = hash_values([asked, row.checkpoint])
    return hash_values([asked, counted_by(row), row.n, row.prompt_limit])


def _find_protocol(rows: Iterable[Row]) -> dict[tuple[str, Any], Any]:
    """Return all that must agree in rows of one model, by name and task or place in the grid."""
    found: dict[tuple[str, Any], Any] = {}
    for row in rows:
        task = (row.task, row.language, row.haystack, row.draws, row.prompt, row.metric)
        place = (*task, row.length, row.depth)
        found |= {(name, None): getattr(row, name) for name in SETTINGS}
        # The number of windows of a text goes with the length.
        where = place if row.benchmark == "perplexity" else task
        for name in TASK_SETTINGS:
            value = counted_by(row) if name == "counted_by" else getattr(row, name)
            if value is not None:
                found.setdefault((name, where), value)
        if row.prompt_hash is not None:
            found["prompt_hash", place] = row.prompt_hash
    return found


def _name_differences(one: Mapping[Any, Any], other: Mapping[Any, Any]) -> list[str]:
    """Say what two protocols disagree on, such as ``number of samples (2, 10)``, if anything."""
    differing: dict[str, str] = {}
    for key in one.keys() & other.keys():
        if one[key] != other[key]:
            values = ("none" if value == "" else str(value) for value in (one[key], other[key]))
            differing.setdefault(key[0], ", ".join(values))
    if len(differing) > 1 and "n" in differing:
        differing.pop("prompt_hash", None)  # follows from another number of samples
    return [f"{NAMES[name]} ({differing[name]})" for name in NAMES if name in differing]


def separate(
    results: pandas.DataFrame, order: Sequence[str], checkpoints: Mapping[tuple[str, str], str]
) -> tuple[pandas.DataFrame, list[str]]:
    """Give each row the line that it belongs to, drop what was measured twice, and remark on it.

    `order` is of the runs, the oldest first; `checkpoints` are hashes of the weights that are
    recorded, by run and model.
    """
    entries, remarks = _tell_models_apart(results, checkpoints)
    named = results.assign(entry=entries)
    by_age = named.iloc[named.run.map(order.index).argsort(kind="stable")]
    dropped: set[Any] = set()
    apart: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for (entry, benchmark), own in by_age.groupby(["entry", "benchmark"], sort=False):
        what = f"{entry} on {benchmark}"
        classes: list[tuple[dict[str, list[Row]], dict[tuple[str, Any], Any]]] = []
        for name, rows in own.groupby("run", sort=False):
            members = list(rows.itertuples())
            protocol = _find_protocol(members)
            for same, agreed in classes:
                if not _name_differences(agreed, protocol):
                    same[name] = members
                    agreed |= protocol
                    break
            else:
                classes.append(({name: members}, protocol))
        first = next(iter(classes[0][0].items()))
        for place, (same, _) in enumerate(classes):
            joined = [row for rows in same.values() for row in rows]
            dropped |= _find_repeats(joined, what, remarks)
            if place:
                name, members = next(iter(same.items()))
                differences = _name_differences(*map(_find_protocol, (first[1], members)))
                apart[entry, name] += joined
                remarks.append(
                    f"{what}: runs {first[0]} and {name} disagree "
                    f"on {'; '.join(differences)}: kept apart"
                )
    for (entry, _), rows in apart.items():
        runs = list(dict.fromkeys(row.run for row in rows if row.Index not in dropped))
        label = f"{entry} [run{'s' if len(runs) > 1 else ''} {', '.join(runs)}]"
        named.loc[[row.Index for row in rows], "entry"] = label
    return named.drop(index=list(dropped)), remarks


def _find_repeats(rows: Iterable[Row], what: str, remarks: list[str]) -> set[Any]:
    """Find rows that were measured again in the same way; the number recorded later counts.

    That is two runs, or one folder resumed after its data sets' names changed. A cell without a
    number never hides one that has it. Without both times the run given later counts.
    """
    best: dict[tuple[Any, ...], Row] = {}
    dropped: set[Any] = set()
    pairs: dict[tuple[str, str], bool] = {}
    for row in rows:
        whole = row.dataset if row.task is None and row.length is None else None
        asked = (row.task, row.language, row.haystack, row.draws, row.prompt)
        place = (*asked, row.length, row.depth)
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
) -> tuple[pandas.Series, list[str]]:
    """Name entries so that each stands for one checkpoint under one scaling."""
    remarks: list[str] = []
    known = [checkpoints.get(key, "") for key in zip(results.run, results.model, strict=True)]
    frame = results[["entry", "checkpoint", "model"]].assign(weights=known)
    hashed = frame.weights.where(frame.weights != "")
    several = hashed.groupby(frame.checkpoint).transform("nunique") > 1
    frame["weights"] = frame.weights.where(several, "")
    entries = frame.entry.copy()
    for entry, own in frame.groupby("entry", sort=False):
        differs = own.nunique() > 1
        models = list(own.groupby(["checkpoint", "weights", "model"], sort=False))
        labels = []
        # A path may name a person, and lines' names stand in papers.
        short = cut_paths(path for (path, _, _), _ in models)
        for (path, weights, abbr), rows in models if len(models) > 1 else ():
            parts = [short[path]] if differs.checkpoint else []
            parts += [f"weights {weights or 'not recorded'}"] if differs.weights else []
            labels.append(f"{entry} [{', '.join(parts or [abbr])}]")
            entries[rows.index] = labels[-1]
        if labels:
            remarks.append(
                f"{len(labels)} models are called {entry!r}; they are shown as {', '.join(labels)}"
            )
    for abbr, shown in entries.groupby(results.model).unique().items():
        if len(shown) > 1:
            remarks.append(
                f"the abbr {abbr!r} stands for {len(shown)} models: {', '.join(sorted(shown))}; "
                "they are kept apart"
            )
    return entries, remarks
