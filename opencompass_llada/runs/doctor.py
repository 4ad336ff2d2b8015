"""Looks for what a run needs on this machine, and refuses a run that lacks it.

``opencompass-llada doctor`` prints all findings, `check_config` raises for the first fault. Reads
headers and names only; downloads, installs and deletes nothing.
"""

from __future__ import annotations

import logging
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from opencompass_llada.assets import resolve_path
from opencompass_llada.benchmarks import counting
from opencompass_llada.benchmarks.benchmark import DataFiles, all_data_files
from opencompass_llada.old_names import dotted_name
from opencompass_llada.options import reject_unknown
from opencompass_llada.runs.machine import (
    EnvironmentFault,
    check_environment,
    list_gpus,
    read_requirements,
)
from opencompass_llada.runs.recorded_files import is_ours, list_pairs

logger = logging.getLogger(__name__)

#: Levels, as a report shows them. ``note``: absent, and not asked for; ``fetch``: absent, and
#: fetched when it is needed if there is a network; ``fault``: broken, or asked for and absent.
_LEVELS = {"ok": "ok   ", "note": "note ", "fetch": "FETCH", "fault": "FAULT"}
OPENCOMPASS_CACHE = "~/.cache/opencompass"
#: Free GiB below which OpenCompass cannot even write its configs and logs, and that are few.
_LEAST_DISK, _LITTLE_DISK = 0.1, 2


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's report."""

    topic: str
    level: str
    text: str
    remedy: str = ""  # the command, or the one change, that helps

    def __post_init__(self) -> None:
        """Require a remedy where something is wrong."""
        assert self.level in _LEVELS, self.level
        assert self.remedy or self.level in ("ok", "note"), f"{self.topic} lacks a remedy"


def run_doctor(config: str | None, data: str, work_dir: str) -> int:
    """Check everything, print the report and return 1 if anything is broken that was asked for."""
    asked = [name.strip() for name in data.split(",") if name.strip()]
    try:
        reject_unknown("benchmark", asked, _listed_files())
    except ValueError as error:
        sys.stderr.write(f"opencompass-llada doctor: {error}\n")
        return 2
    findings = list(examine(config, asked, Path(work_dir)))
    sys.stdout.write(write_report(findings))
    return int(any(finding.level == "fault" for finding in findings))


def write_report(findings: Sequence[Finding]) -> str:
    """Return the findings as text, one line each, with the remedy under what is not in order."""
    width = max((len(finding.topic) for finding in findings), default=0)
    lines = []
    for finding in findings:
        lines.append(f"{_LEVELS[finding.level]}  {finding.topic:<{width}}  {finding.text}")
        if finding.remedy:
            lines.append(f"{'':<{width + 9}}-> {finding.remedy}")
    faults = sum(finding.level == "fault" for finding in findings)
    lines.append(f"{faults} faults" if faults else "Nothing is broken that was asked for.")
    return "\n".join(lines) + "\n"


def examine(config: str | None, asked: Sequence[str], work_dir: Path) -> Iterator[Finding]:
    """Yield all findings; what needs the packages is left out where they do not fit."""
    checkout = Path(__file__).resolve().parents[2]
    packages = check_packages(checkout if (checkout / "requirements.txt").is_file() else None)
    yield packages
    yield check_disk(work_dir)
    if packages.level == "fault":
        return
    yield check_gpu()
    yield from check_attention()
    cache = os.environ.get("COMPASS_DATA_CACHE")
    if not cache:
        text = "COMPASS_DATA_CACHE is not set: real data is looked for in OpenCompass's own cache"
        yield Finding("data", "note", text)
    elif Path(cache).is_dir():
        yield Finding("data", "ok", f"COMPASS_DATA_CACHE={cache}")
    else:
        text = f"COMPASS_DATA_CACHE={cache}, which is no folder"
        yield Finding("data", "fault", text, f"mkdir -p {cache}   # or correct the variable")
    for name, own in _listed_files().items():
        yield check_files(name, own.path, own.files, asked=name in asked)
    yield check_tiktoken(asked=False)
    if config is not None:
        yield from _examine_file(config)


def _examine_file(config: str) -> Iterator[Finding]:
    """Yield findings on what a config file says and needs, up to the first fault."""
    from opencompass_llada.runs import checks, command_line

    topic, place = "config", ""
    remedy = f"correct {config}, or the LLADA_* variable that it names"
    try:
        cfg = command_line.read_config(config)
        place = f"{config}: "
        checks.check_form(cfg)
        checks.check_options(cfg, runs_locally=True)
        yield Finding(topic, "ok", f"{config}: models and data sets fit")
        topic, place, remedy = "data", "", "correct the file"
        yield from _examine_needs(cfg)
    except ValueError as error:
        remedy = _how_to_get(getattr(error, "topic", "")) or remedy
        yield Finding(topic, "fault", f"{place}{error}", remedy)


def check_config(cfg: Mapping[str, Any], *, runs_locally: bool) -> None:
    """Check a config's options, then the files and kernels that it needs, if tasks run here.

    Raises a ValueError for the first fault; logs what is absent and is going to be fetched.
    """
    from opencompass_llada.runs import chat_forms, checks

    checks.check_options(cfg, runs_locally=runs_locally)
    chat_forms.warn_of_chat_forms(cfg)
    for finding in _examine_needs(cfg) if runs_locally else ():
        if finding.level == "fault":
            raise ValueError(f"{finding.topic}: {finding.text}. Fix it: {finding.remedy}")
        if finding.level == "fetch":
            logger.warning("%s: %s. If that fails: %s", finding.topic, finding.text, finding.remedy)


def _examine_needs(cfg: Mapping[str, Any]) -> Iterator[Finding]:
    """Yield findings on what a config needs, each once; where all is there, read the data."""
    from opencompass_llada.runs import checks

    pairs = list(list_pairs(cfg))
    ours = [model for model, _ in pairs if is_ours(model)]
    paths = dict.fromkeys(str(model["path"]) for model in ours if "path" in model)
    findings = [check_checkpoint(path) for path in paths]
    backends = {str(model["attention_backend"]) for model in ours if "attention_backend" in model}
    if backends:
        findings += check_attention(frozenset(backends))
    findings += check_data([dataset for _, dataset in pairs])
    yield from findings
    if not any(finding.level == "fault" for finding in findings):
        checks.check_data(cfg)


def check_packages(checkout: Path | None) -> Finding:
    """Compare the installed versions with the requirements; see `read_requirements`."""
    try:
        requirements = read_requirements(checkout)
        check_environment(requirements)
    except EnvironmentFault as fault:
        text, _, remedy = str(fault).partition(" Install what fits: ")
        remedy = remedy or "make install, in a checkout; or pip install opencompass-llada"
        return Finding("packages", "fault", text, remedy)
    fit = f"Python {sys.version.split()[0]} and {len(requirements)} requirements fit together"
    held = (
        f"pyarrow {metadata.version('pyarrow')} is kept below 26, which needs numpy 2: OpenCompass"
    )
    return Finding("packages", "ok", f"{fit}; {held} has 1.26")


def check_gpu() -> Finding:
    """Compare the GPUs that the driver shows with what torch can use."""
    import torch

    cuda = torch.version.cuda
    build = f"torch {torch.__version__}, " + (f"CUDA {cuda}" if cuda else "no CUDA build")
    if torch.cuda.is_available():
        names = {torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())}
        text = f"{torch.cuda.device_count()} visible ({', '.join(sorted(names))}); {build}"
        return Finding("GPU", "ok", text)
    if not (gpus := list_gpus()):
        text = f"none; models run on the CPU, which does for the tiny ones; {build}"
        return Finding("GPU", "note", text)
    return Finding(
        "GPU",
        "fault",
        f"the driver shows {len(gpus)} GPUs, and torch can use none of them; {build}",
        "unset CUDA_VISIBLE_DEVICES if it hides them, else install a CUDA build: make install "
        "TORCH=torch TORCH_INSTALL_ARGS='...' (pytorch.org's selector gives the arguments for "
        "your driver)",
    )


def check_attention(asked: frozenset[str] = frozenset({"auto"})) -> list[Finding]:
    """Run every attention backend on a few numbers; those that are asked for must work."""
    import torch

    from opencompass_llada.networks.attention import ATTENTION_BACKENDS

    device = "cuda" if torch.cuda.is_available() else "cpu"
    faults = {name: try_backend(name, device) for name in ATTENTION_BACKENDS}
    working = [name for name, fault in faults.items() if not fault]
    text = f"works on {device}: {', '.join(working)}"
    absent = [name for name, fault in faults.items() if fault and name not in asked]
    if absent:
        text += f"; does not: {', '.join(absent)}"
    remedy = (
        f"attention_backend={working[0]!r} in the model's config" if working else "make install"
    )
    findings = [Finding("attention", "ok" if working else "note", text)]
    for name in sorted(asked):
        if fault := faults.get(name):
            text = f"{name} does not run on {device}: {fault}"
            findings.append(Finding("attention", "fault", text, remedy))
    return findings


def try_backend(name: str, device: str) -> str:
    """Compare a backend with the plain formula; return what is wrong, '' if its result is right."""
    import torch

    from opencompass_llada.networks.attention import attend_with, find_kernel

    generator = torch.Generator().manual_seed(0)
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    q, k, v = torch.randn(3, 1, 2, 16, 64, generator=generator).to(device, dtype)
    expected = (q.float() @ k.float().mT / 8).softmax(-1) @ v.float()
    try:
        found = attend_with(find_kernel(name, device), q, k, v)
    except (ValueError, RuntimeError, ImportError) as error:
        return str(error).splitlines()[0][:160]
    difference = (found.float() - expected).abs().max().item()
    return "" if difference < 0.05 else f"its result is off by {difference:.2g}"


def check_disk(folder: Path) -> Finding:
    """Check the space where results go; the folder need not exist."""
    existing = folder.resolve()
    while not existing.exists():
        existing = existing.parent
    if not existing.is_dir():
        text = f"{folder} is below {existing}, which is no folder"
        return Finding("disk", "fault", text, "name another one: -w FOLDER")
    free = shutil.disk_usage(existing).free / 2**30
    level = "fault" if free < _LEAST_DISK else "note" if free < _LITTLE_DISK else "ok"
    remedy = "free space there, or write results elsewhere: -w FOLDER" if level != "ok" else ""
    return Finding("disk", level, f"{free:.1f} GiB free at {existing}", remedy)


def check_data(datasets: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    """Check the files that data set configs read, each once, and GPT-4's tokenizer file."""
    wanted: dict[tuple[str, str], dict[str, None]] = {}
    for dataset in datasets:
        for topic, own in all_data_files().items():
            for path, names in own.needed(dataset, dotted_name(dataset.get("type"))):
                wanted.setdefault((topic, path), {}).update(dict.fromkeys(names))
    for (topic, path), files in wanted.items():
        yield check_files(topic, path, list(files), asked=True)
    tokenizers = {d.get("tokenizer") or d.get("tokenizer_model") for d in datasets}
    if tokenizers & set(counting.TIKTOKEN_FILES):
        yield check_tiktoken(asked=True)


def _listed_files() -> dict[str, DataFiles]:
    """Return the files that are looked for without a config that needs them, by name."""
    return {name: own for name, own in all_data_files().items() if own.files}


def _find_data_folder(path: str, below: str) -> Path:
    """Return where OpenCompass looks for a data set's folder, without downloading it."""
    location = Path(resolve_path(path)).expanduser()
    if location.exists() or location.is_absolute():
        return location
    cache = os.environ.get("COMPASS_DATA_CACHE", "")
    places = [Path(cache, below), Path(OPENCOMPASS_CACHE).expanduser() / below]
    return next((place for place in places if place.exists()), places[0])


def check_files(topic: str, path: str, files: Sequence[str], *, asked: bool) -> Finding:
    """Check names (``a|b`` for either) below a path; where asked for, their absence is a fault."""
    own = all_data_files()[topic]
    below = own.folders.get(path)
    folder = _find_data_folder(path, below or path)
    missing = [
        name for name in files if not any((folder / choice).exists() for choice in name.split("|"))
    ]
    if not missing:
        return Finding(topic, "ok", f"{len(files)} files at {folder}")
    remedy = "give the folder that holds them (LLADA_DATA=FOLDER for the shipped configs)"
    can_fetch = False
    if below is not None:
        from_hub = os.environ.get("DATASET_SOURCE") in ("HF", "ModelScope")
        can_fetch = not folder.exists() and (from_hub or not own.fetch)
        if own.fetch:
            fetch = own.fetch.replace("FOLDER", f'"$COMPASS_DATA_CACHE/{below}"')
            is_set = os.environ.get("COMPASS_DATA_CACHE")
            remedy = ("" if is_set else "export COMPASS_DATA_CACHE=DIR; ") + fetch
            remedy += f"   # or set the variable to a folder that has {below}"
    level = ("fetch" if can_fetch else "fault") if asked else "note"
    what = "no folder" if not folder.exists() else f"lacks {', '.join(missing)}:"
    return Finding(topic, level, f"{what} {folder}", remedy)


def _how_to_get(topic: str) -> str:
    """Return the command that fetches what a `MissingDataError` lacks; '' where none is known."""
    if topic == "tiktoken":
        return check_tiktoken(asked=True).remedy
    if (own := _listed_files().get(topic)) is None:
        return ""
    return check_files(topic, own.path, own.files, asked=True).remedy


def check_tiktoken(*, asked: bool) -> Finding:
    """Check GPT-4's tokenizer file without tiktoken, which would delete a damaged one."""
    state, path = counting.tiktoken_state(), counting.tiktoken_path()
    if state == "present":
        return Finding("tiktoken", "ok", str(path))
    if state == "damaged":
        text, _, remedy = counting.describe_damage().partition(" Copy ")
        return Finding("tiktoken", "fault", text, f"copy {remedy}")
    return Finding(
        "tiktoken",
        "fetch" if asked else "note",
        f"no file {path}; lengths by GPT-4's tokenizer need it",
        'export TIKTOKEN_CACHE_DIR=DIR; python -c "import tiktoken; '
        "tiktoken.get_encoding('cl100k_base')\"   # without a network: copy the file there, or "
        "LLADA_TOKENIZER=model",
    )


def check_checkpoint(path: str) -> Finding:
    """Check a checkpoint by its config.json and safetensors headers; fetches no hub id."""
    from opencompass_llada.networks import NETWORKS, is_hub_id, open_checkpoint, read_model_config

    try:
        folder = resolve_path(path)
        if is_hub_id(path) and not Path(path).is_dir():
            from huggingface_hub import try_to_load_from_cache

            cached = try_to_load_from_cache(path, "config.json")
            if not isinstance(cached, str):
                remedy = f"hf download {path}   # or give a folder as path"
                return Finding("checkpoint", "fetch", f"{path} is not in the hub's cache", remedy)
            folder = str(Path(cached).parent)
        if read_model_config(folder).get("model_type") not in NETWORKS:
            return Finding("checkpoint", "ok", f"{path}: config.json can be read")
        _, files = open_checkpoint(folder)
    except ValueError as error:
        said, _, advice = str(error).rpartition(". ")
        text, remedy = (said, advice) if said else (str(error), "")
        if Path(resolve_path(path)).expanduser().is_dir():
            remedy = f"hf download ORGANISATION/NAME --local-dir {path}   # {remedy}"
        elif is_hub_id(path):
            remedy = f"hf download {path} --force-download   # {remedy}"
        return Finding("checkpoint", "fault", text, remedy or "correct the model's path")
    size = sum(file.stat().st_size for file in files) / 2**20
    return Finding("checkpoint", "ok", f"{path}: {len(files)} files, {size:,.0f} MiB, headers fit")
