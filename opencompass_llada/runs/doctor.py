"""Looks for what a run needs on this machine, and refuses a run that lacks it.

One list of checks: ``opencompass-llada doctor`` prints all findings, `check_config` raises for the
first fault before a run. Reads headers and names only; downloads, installs and deletes nothing.
Whether a config's options fit together is `checks`'.
"""

from __future__ import annotations

import logging
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from opencompass_llada.assets import resolve_path
from opencompass_llada.benchmarks.benchmark import DataFiles, all_data_files
from opencompass_llada.benchmarks.counting import (
    TIKTOKEN_FILES,
    describe_damage,
    tiktoken_path,
    tiktoken_state,
)
from opencompass_llada.old_names import dotted_name
from opencompass_llada.options import reject_unknown
from opencompass_llada.runs.machine import (
    EnvironmentFault,
    check_environment,
    list_gpus,
    read_requirements,
)
from opencompass_llada.runs.recorded_files import WRAPPER

logger = logging.getLogger(__name__)

#: ``ok``; ``note``: absent, and not asked for; ``fetch``: absent, and fetched when it is needed if
#: there is a network; ``fault``: broken, or asked for and absent.
LEVELS = ("ok", "note", "fetch", "fault")
OPENCOMPASS_CACHE = "~/.cache/opencompass"
_GIB = 2**30
#: Below this, OpenCompass cannot even write its configs and logs.
_LEAST_DISK = 0.1 * _GIB
_LITTLE_DISK = 2 * _GIB


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's report."""

    topic: str
    level: str
    """One of `LEVELS`."""
    text: str
    remedy: str = ""
    """The command, or the one change, that helps; for every fault."""

    def __post_init__(self) -> None:
        """Require a remedy where something is wrong."""
        assert self.level in LEVELS, self.level
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
    signs = {"ok": "ok   ", "note": "note ", "fetch": "FETCH", "fault": "FAULT"}
    width = max((len(finding.topic) for finding in findings), default=0)
    lines = []
    for finding in findings:
        lines.append(f"{signs[finding.level]}  {finding.topic:<{width}}  {finding.text}")
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
    text = "COMPASS_DATA_CACHE is not set: real data is looked for in OpenCompass's own cache"
    if cache and not Path(cache).is_dir():
        text = f"COMPASS_DATA_CACHE={cache}, which is no folder"
        remedy = f"mkdir -p {cache}   # or correct the variable"
        yield Finding("data", "fault", text, remedy)
    elif cache:
        yield Finding("data", "ok", f"COMPASS_DATA_CACHE={cache}")
    else:
        yield Finding("data", "note", text)
    for name, own in _listed_files().items():
        yield check_files(name, own.path, own.files, asked=name in asked)
    yield check_tiktoken(asked=False)
    if config is not None:
        yield from _examine_file(config)


def _examine_file(config: str) -> Iterator[Finding]:
    """Yield findings on what a config file says and needs, up to the first fault."""
    from opencompass_llada.runs import checks

    def fault(topic: str, text: str, error: ValueError | None, otherwise: str) -> Finding:
        remedy = _how_to_get(getattr(error, "topic", "")) or otherwise
        return Finding(topic, "fault", text, remedy)

    correct = f"correct {config}, or the LLADA_* variable that it names"
    if not Path(config).is_file():
        yield fault("config", f"no file {config}", None, "ls configs/eval_*.py")
        return
    try:
        cfg = checks.read_config(config)
    except ValueError as error:
        yield fault("config", str(error), error, correct)
        return
    try:
        checks.check_file_names(cfg)
        checks.check_parts(cfg, scores=True)
        checks.check_options(cfg, runs_locally=True)
    except ValueError as error:
        yield fault("config", f"{config}: {error}", None, correct)
        return
    yield Finding("config", "ok", f"{config}: models and data sets fit")
    try:
        yield from _examine_needs(cfg)
    except ValueError as error:
        yield fault("data", str(error), error, "correct the file")


def check_config(cfg: Mapping[str, Any], *, runs_locally: bool) -> None:
    """Check a config's options, then the files and kernels that it needs, if tasks run here.

    What is absent and can be fetched when it is needed is logged.

    Raises:
        ValueError: For the first fault; the message says what to do.
    """
    from opencompass_llada.runs import checks

    checks.check_options(cfg, runs_locally=runs_locally)
    for finding in _examine_needs(cfg) if runs_locally else ():
        if finding.level == "fault":
            raise ValueError(f"{finding.topic}: {finding.text}. Mend it: {finding.remedy}")
        if finding.level == "fetch":
            logger.warning("%s: %s. If that fails: %s", finding.topic, finding.text, finding.remedy)


def _examine_needs(cfg: Mapping[str, Any]) -> Iterator[Finding]:
    """Yield findings on what a config needs, each once; where all is there, read the data."""
    from opencompass_llada.runs import checks

    groups = list(cfg.get("model_dataset_combinations") or [cfg])
    models = [model for group in groups for model in group.get("models", [])]
    ours = [model for model in models if "type" in model and dotted_name(model["type"]) == WRAPPER]
    paths = dict.fromkeys(str(model["path"]) for model in ours if "path" in model)
    findings = [check_checkpoint(path) for path in paths]
    backends = {str(model["attention_backend"]) for model in ours if "attention_backend" in model}
    if backends:
        findings += check_attention(frozenset(backends))
    findings += check_data([d for group in groups for d in group.get("datasets", [])])
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
    python = sys.version.split()[0]
    text = f"Python {python} and {len(requirements)} requirements fit together"
    return Finding("packages", "ok", text)


def check_gpu() -> Finding:
    """Compare the GPUs that the driver shows with what torch can use."""
    import torch

    gpus = list_gpus()
    cuda = getattr(torch.version, "cuda", None)
    build = f"torch {torch.__version__}, " + (f"CUDA {cuda}" if cuda else "no CUDA build")
    if torch.cuda.is_available():
        names = {torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())}
        text = f"{torch.cuda.device_count()} visible ({', '.join(sorted(names))}); {build}"
        return Finding("GPU", "ok", text)
    if not gpus:
        text = f"none; models run on the CPU, which does for the tiny ones; {build}"
        return Finding("GPU", "note", text)
    return Finding(
        topic="GPU",
        level="fault",
        text=f"the driver shows {len(gpus)} GPUs, and torch can use none of them; {build}",
        remedy=(
            "unset CUDA_VISIBLE_DEVICES if it hides them, else install a CUDA build: make install "
            "TORCH=torch TORCH_INSTALL_ARGS='...' (pytorch.org's selector gives the arguments for "
            "your driver)"
        ),
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
    remedy = f"attention_backend={working[0]!r} in the model's config" if working else ""
    return [
        Finding("attention", "ok" if working else "note", text),
        *(
            Finding(
                topic="attention",
                level="fault",
                text=f"{name} does not run on {device}: {faults[name]}",
                remedy=remedy or "make install",
            )
            for name in sorted(asked)
            if faults.get(name)
        ),
    ]


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
    free = shutil.disk_usage(existing).free
    level = "fault" if free < _LEAST_DISK else ("note" if free < _LITTLE_DISK else "ok")
    remedy = "free space there, or write results elsewhere: -w FOLDER" if level != "ok" else ""
    text = f"{free / _GIB:.1f} GiB free at {existing}"
    return Finding("disk", level, text, remedy)


def check_data(datasets: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    """Check the files that data set configs read, each once, and GPT-4's tokenizer file."""
    wanted: dict[tuple[str, str], dict[str, None]] = {}
    for dataset in datasets:
        for topic, path, names in needed_files(dataset, dotted_name(dataset.get("type"))):
            wanted.setdefault((topic, path), {}).update(dict.fromkeys(names))
    for (topic, path), files in wanted.items():
        yield check_files(topic, path, list(files), asked=True)
    tokenizers = {d.get("tokenizer") or d.get("tokenizer_model") for d in datasets}
    if tokenizers & set(TIKTOKEN_FILES):
        yield check_tiktoken(asked=True)


def needed_files(dataset: Mapping[str, Any], kind: str) -> Iterator[tuple[str, str, list[str]]]:
    """Yield what a data set config of a dotted class reads: topic, path and file names."""
    for name, own in all_data_files().items():
        for path, files in own.needed(dataset, kind):
            yield name, path, files


def _listed_files() -> dict[str, DataFiles]:
    """Return the files that are looked for without a config that needs them, by name."""
    return {name: own for name, own in all_data_files().items() if own.files}


def _find_data_folder(path: str) -> Path:
    """Return where OpenCompass looks for a data set's folder, without downloading it."""
    location = Path(resolve_path(path)).expanduser()
    if location.exists() or location.is_absolute():
        return location
    known = (own.folders[path] for own in all_data_files().values() if path in own.folders)
    below = next(known, path)
    cache = os.environ.get("COMPASS_DATA_CACHE", "")
    places = [Path(cache, below), Path(OPENCOMPASS_CACHE).expanduser() / below]
    return next((place for place in places if place.exists()), places[0])


def check_files(topic: str, path: str, files: Sequence[str], *, asked: bool) -> Finding:
    """Check names (``a|b`` for either) below a path; where asked for, their absence is a fault."""
    folder = _find_data_folder(path)
    missing = [
        name for name in files if not any((folder / choice).exists() for choice in name.split("|"))
    ]
    if not missing:
        return Finding(topic, "ok", f"{len(files)} files at {folder}")
    own = all_data_files().get(topic)
    remedy = "give the folder that holds them (LLADA_DATA=FOLDER for the shipped configs)"
    can_fetch = False
    if own is not None and path in own.folders:
        from_hub = os.environ.get("DATASET_SOURCE") in ("HF", "ModelScope")
        can_fetch = not folder.exists() and (from_hub or not own.fetch)
        if own.fetch:
            below, is_set = own.folders[path], os.environ.get("COMPASS_DATA_CACHE")
            fetch = own.fetch.replace("FOLDER", f'"$COMPASS_DATA_CACHE/{below}"')
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
    state, path = tiktoken_state(), tiktoken_path()
    if state == "present":
        return Finding("tiktoken", "ok", str(path))
    if state == "damaged":
        text, _, remedy = describe_damage().partition(" Copy ")
        return Finding("tiktoken", "fault", text, f"copy {remedy}")
    return Finding(
        topic="tiktoken",
        level="fetch" if asked else "note",
        text=f"no file {path}; lengths by GPT-4's tokenizer need it",
        remedy='export TIKTOKEN_CACHE_DIR=DIR; python -c "import tiktoken; '
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
                text = f"{path} is not in the hub's cache"
                remedy = f"hf download {path}   # or give a folder as path"
                return Finding("checkpoint", "fetch", text, remedy)
            folder = str(Path(cached).parent)
        if read_model_config(folder).get("model_type") not in NETWORKS:
            text = f"{path}: config.json can be read"
            return Finding("checkpoint", "ok", text)
        _, files = open_checkpoint(folder)
    except ValueError as error:
        said, _, advice = str(error).rpartition(". ")
        text, remedy = (said, advice) if said else (str(error), "")
        if Path(resolve_path(path)).expanduser().is_dir():
            remedy = f"hf download ORGANISATION/NAME --local-dir {path}   # {remedy}"
        elif is_hub_id(path):
            remedy = f"hf download {path} --force-download   # {remedy}"
        remedy = remedy or "correct the model's path"
        return Finding("checkpoint", "fault", text, remedy)
    size = sum(file.stat().st_size for file in files) / 2**20
    text = f"{path}: {len(files)} files, {size:,.0f} MiB, headers fit"
    return Finding("checkpoint", "ok", text)
