"""Checks of benchmark files, and of all that one config needs.

Looks where OpenCompass looks (COMPASS_DATA_CACHE, then its own cache), without its download.

Reads headers and names only. Whether options fit together is `running.preflight`'s.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from opencompass_llada.benchmarks.counting import (
    TIKTOKEN_FILES,
    describe_damage,
    resolve_location,
    tiktoken_path,
    tiktoken_state,
)
from opencompass_llada.report.results import dotted_name
from opencompass_llada.runs.doctor.machine import Finding, check_attention

#: Short-context data sets, which OpenCompass downloads by itself: id -> folder below the cache and
#: a name in it.
STOCK_FILES = {
    "opencompass/gsm8k": ("data/gsm8k", "test.jsonl"),
    "opencompass/math": ("data/math", "math.json"),
    "opencompass/humaneval": ("data/humaneval", "human-eval-v2-20210705.jsonl"),
    "opencompass/mbpp": ("data/mbpp", "mbpp.jsonl"),
    "opencompass/mmlu": ("data/mmlu", "test"),
    "opencompass/ai2_arc-dev": ("data/ARC/ARC-c", "ARC-Challenge-Dev.jsonl"),
    "opencompass/hellaswag": ("data/hellaswag", "hellaswag.jsonl"),
    "opencompass/winogrande": ("data/winogrande", "dev.jsonl"),
}
#: Data set id -> folder below the cache, as OpenCompass has them.
LOCAL_FOLDERS = {
    **{name: folder for name, (folder, _) in STOCK_FILES.items()},
    "opencompass/needlebench": "data/needlebench",
    "opencompass/Longbench": "data/Longbench",
    "opencompass/longbenchv2": "data/longbenchv2",
    "data/ruler": "data/ruler",
    "./data/ruler": "data/ruler",
}
OPENCOMPASS_CACHE = "~/.cache/opencompass"


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """A benchmark's files, as far as this package's own configs read them."""

    path: str
    """What configs give as path."""
    files: tuple[str, ...]
    """Names below its folder; ``a|b`` is a file that may be in either place."""
    fetch: str
    """The command that fetches them into a folder that stands as ``FOLDER``."""


_GET = 'python -c "from opencompass.utils import get_data_path as get; get({})"'
BENCHMARKS = {
    "needlebench": Benchmark(
        path="opencompass/needlebench",
        files=("needles.jsonl", "en_un_asr.jsonl", "PaulGrahamEssays.jsonl", "zh_all.jsonl",
               "multi_needle_reasoning_en.json", "multi_needle_reasoning_zh.json"),
        fetch="hf download opencompass/needlebench --repo-type dataset --local-dir FOLDER",
    ),
    "ruler": Benchmark(
        path="data/ruler",
        files=("PaulGrahamEssays.jsonl", "dev-v2.0.json", "hotpotqa.json"),
        fetch=_GET.format("'data/ruler/hotpotqa.json', local_mode=True"),
    ),
    "longbench": Benchmark(
        path="opencompass/Longbench",
        files=("data/hotpotqa.jsonl|data.zip", "data/lcc.jsonl|data.zip"),
        fetch="hf download THUDM/LongBench data.zip --repo-type dataset --local-dir FOLDER",
    ),
    "longbench_v2": Benchmark(
        path="opencompass/longbenchv2",
        files=("data.json",),
        fetch="hf download THUDM/LongBench-v2 data.json --repo-type dataset --local-dir FOLDER",
    ),
}  # fmt: skip


def find_folder(path: str) -> Path:
    """Return where a data set's folder is or should be, without downloading it."""
    location = Path(resolve_location(path)).expanduser()
    if location.exists() or location.is_absolute():
        return location
    below = LOCAL_FOLDERS.get(path, path)
    cache = os.environ.get("COMPASS_DATA_CACHE", "")
    places = [Path(cache, below), Path(OPENCOMPASS_CACHE).expanduser() / below]
    return next((place for place in places if place.exists()), places[0])


def missing_files(folder: Path, files: Sequence[str]) -> list[str]:
    """Return the names that are not in a folder."""
    return [
        name for name in files if not any((folder / choice).exists() for choice in name.split("|"))
    ]


def check_files(topic: str, path: str, files: Sequence[str], *, asked: bool) -> Finding:
    """Check that files are there.

    Args:
        topic: A key of `BENCHMARKS`, or another name.
        path: As a config gives it.
        files: Names below the path; ``a|b`` for either.
        asked: Whether their absence is a fault.
    """
    folder = find_folder(path)
    missing = missing_files(folder, files)
    if not missing:
        return Finding(topic=topic, level="ok", text=f"{len(files)} files at {folder}")
    from_hub = os.environ.get("DATASET_SOURCE") in ("HF", "ModelScope")
    can_fetch = not folder.exists() and path in LOCAL_FOLDERS
    remedy = "give the folder that holds them (LLADA_DATA=FOLDER for the shipped configs)"
    if path in LOCAL_FOLDERS and topic in BENCHMARKS:
        below = LOCAL_FOLDERS[path]
        fetch = BENCHMARKS[topic].fetch.replace("FOLDER", f'"$COMPASS_DATA_CACHE/{below}"')
        variable = "" if os.environ.get("COMPASS_DATA_CACHE") else "export COMPASS_DATA_CACHE=DIR; "
        remedy = f"{variable}{fetch}   # or set the variable to a folder that has {below}"
    can_fetch = can_fetch and (from_hub or path in STOCK_FILES)
    level = ("fetch" if can_fetch else "fault") if asked else "note"
    what = "no folder" if not folder.exists() else f"lacks {', '.join(missing)}:"
    return Finding(topic=topic, level=level, text=f"{what} {folder}", remedy=remedy)


def how_to_get(topic: str) -> str:
    """Return the command that fetches a benchmark's files or tiktoken's; '' for others.

    Args:
        topic: Of a `counting.MissingDataError`.
    """
    if topic == "tiktoken":
        return check_tiktoken(asked=True).remedy
    if topic not in BENCHMARKS:
        return ""
    return check_files(topic, BENCHMARKS[topic].path, BENCHMARKS[topic].files, asked=True).remedy


def check_tiktoken(*, asked: bool) -> Finding:
    """Check GPT-4's tokenizer file without tiktoken, which would delete a damaged one."""
    state, path = tiktoken_state(), tiktoken_path()
    if state == "present":
        return Finding(topic="tiktoken", level="ok", text=str(path))
    if state == "damaged":
        text, _, remedy = describe_damage().partition(" Copy ")
        return Finding(topic="tiktoken", level="fault", text=text, remedy=f"copy {remedy}")
    return Finding(
        topic="tiktoken",
        level="fetch" if asked else "note",
        text=f"no file {path}; lengths by GPT-4's tokenizer need it",
        remedy='export TIKTOKEN_CACHE_DIR=DIR; python -c "import tiktoken; '
        "tiktoken.get_encoding('cl100k_base')\"   # without a network: copy the file there, or "
        "LLADA_TOKENIZER=model",
    )


def needed_files(dataset: Mapping[str, Any], kind: str) -> Iterator[tuple[str, str, list[str]]]:
    """Yield what a data set config reads: topic, path and file names.

    Args:
        dataset: The config.
        kind: Its class as a dotted name.
    """
    package = kind.rsplit(".", 1)[0]
    path = dataset.get("path")
    own = ("opencompass_llada.benchmarks.needle", "opencompass_llada.benchmarks.multi_needle")
    if ".needlebench" in package or package.startswith(own):
        names = [*dataset.get("file_list", []), dataset.get("needle_file_name")]
        yield "needlebench", str(path), [str(name) for name in names if name]
    elif package.startswith("opencompass_llada.benchmarks.ruler"):
        from opencompass_llada.benchmarks.ruler.prompts import TASKS

        facts = TASKS[dataset["task"]]
        name = getattr(facts, "file", None)
        if getattr(facts, "haystack", None) == "essay":
            name = dataset.get("essay_file", "PaulGrahamEssays.jsonl")
        if name:
            yield "ruler", str(dataset.get("path", "data/ruler")), [str(name)]
    elif package.startswith("opencompass_llada.benchmarks.longbench.dataset"):
        suffix = "_e" if dataset.get("benchmark") == "longbench_e" else ""
        file = f"data/{dataset['task']}{suffix}.jsonl"
        yield "longbench", str(dataset.get("path", "opencompass/Longbench")), [f"{file}|data.zip"]
    elif package == "opencompass_llada.benchmarks.longbench.v2":
        given = Path(str(dataset.get("path", "opencompass/longbenchv2")))
        is_file = given.suffix in (".json", ".jsonl")
        folder, data_file = (given.parent, given.name) if is_file else (given, "data.json")
        yield "longbench_v2", str(folder), [data_file]
    elif path in STOCK_FILES:
        yield "short context", str(path), [STOCK_FILES[path][1]]
    elif package.startswith("opencompass_llada.benchmarks.perplexity"):
        is_local = path != "generated" and not str(path).startswith("hub:")
        yield from [("perplexity", str(Path(str(path)).parent), [Path(str(path)).name])] * is_local


WRAPPER = "opencompass_llada.wrapper.LLaDACausalLM"


def check_needs(cfg: Mapping[str, Any]) -> Iterator[Finding]:
    """Check what a config needs, each thing once.

    Args:
        cfg: The resolved config of a run.
    """
    groups = list(cfg.get("model_dataset_combinations") or [cfg])
    models = [model for group in groups for model in group.get("models", [])]
    ours = [model for model in models if "type" in model and dotted_name(model["type"]) == WRAPPER]
    for path in dict.fromkeys(str(model["path"]) for model in ours if "path" in model):
        yield check_checkpoint(path)
    backends = {str(model["attention_backend"]) for model in ours if "attention_backend" in model}
    if backends:
        yield from check_attention(frozenset(backends))
    yield from check_data([d for group in groups for d in group.get("datasets", [])])


def check_data(datasets: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    """Check the files that data set configs read, each once, and GPT-4's tokenizer file.

    Args:
        datasets: Data set configs, of this package or OpenCompass's.
    """
    files: dict[tuple[str, str], dict[str, None]] = {}
    for dataset in datasets:
        for topic, path, names in needed_files(dataset, dotted_name(dataset.get("type"))):
            files.setdefault((topic, path), {}).update(dict.fromkeys(names))
    for (topic, path), wanted in files.items():
        yield check_files(topic, path, list(wanted), asked=True)
    tokenizers = {d.get("tokenizer") or d.get("tokenizer_model") for d in datasets}
    if tokenizers & set(TIKTOKEN_FILES):
        yield check_tiktoken(asked=True)


def check_checkpoint(path: str) -> Finding:
    """Check a checkpoint by its config.json and safetensors headers.

    Args:
        path: As a model config gives it. A hub id that is not in the hub's cache is not fetched.
    """
    from opencompass_llada.networks import NETWORKS, open_checkpoint, read_model_config

    topic = "checkpoint"
    is_hub_id = path.count("/") == 1 and not path.startswith((".", "/", "~"))
    try:
        folder = resolve_location(path)
        if is_hub_id and not Path(path).is_dir():
            cached = _cached_snapshot(path)
            if cached is None:
                return Finding(
                    topic=topic,
                    level="fetch",
                    text=f"{path} is not in the hub's cache",
                    remedy=f"hf download {path}   # or give a folder as path",
                )
            folder = cached
        if read_model_config(folder).get("model_type") not in NETWORKS:
            return Finding(topic=topic, level="ok", text=f"{path}: config.json can be read")
        _, files = open_checkpoint(folder)
    except ValueError as error:
        text, _, remedy = (
            str(error).rpartition(". ") if ". " in str(error) else (str(error), "", "")
        )
        return Finding(
            topic=topic, level="fault", text=text, remedy=_mend_checkpoint(path, is_hub_id, remedy)
        )
    size = sum(file.stat().st_size for file in files) / 2**20
    return Finding(
        topic=topic, level="ok", text=f"{path}: {len(files)} files, {size:,.0f} MiB, headers fit"
    )


def _mend_checkpoint(path: str, is_hub_id: bool, remedy: str) -> str:
    """Return the command that fetches a damaged checkpoint again, and what else its error says."""
    if Path(resolve_location(path)).expanduser().is_dir():
        return f"hf download ORGANISATION/NAME --local-dir {path}   # {remedy}"
    if is_hub_id:
        return f"hf download {path} --force-download   # {remedy}"
    return remedy or "correct the model's path"


def _cached_snapshot(name: str) -> str | None:
    """Return the folder of a hub checkpoint that was downloaded before."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(name, "config.json")
    return str(Path(found).parent) if isinstance(found, str) else None
