"""Check a resolved OpenCompass config before any task starts.

A task that fails says so in a log file, minutes later; what can be known from the config and the
checkpoint's config.json is said here, at once. Looks only at models and needle cells of this
package; those of others are OpenCompass's business.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from opencompass_llada.assets import resolve_path
from opencompass_llada.datasets.needlebench import NeedleBenchSingleDataset, check_cells
from opencompass_llada.doctor.needs import check_needs
from opencompass_llada.families import Family, find_family
from opencompass_llada.logs import get_logger
from opencompass_llada.modeling import is_hub_id, read_model_config
from opencompass_llada.results.completeness import dataset_name, model_name
from opencompass_llada.running.hardware import count_gpus
from opencompass_llada.running.makers import HOST_KEYS, is_ours
from opencompass_llada.wrapper import LLaDACausalLM
from opencompass_llada.wrapper_options import WrapperOptions

logger = get_logger(__name__)

#: Bytes of a name that file systems take, less what is put around it (``tmp_``, a shard's samples).
_NAME_BYTES = 200


def read_config(path: str) -> Mapping[str, Any]:
    """Read a config file as OpenCompass does.

    Raises:
        Exception: Whatever the file's own code runs into.
    """
    from mmengine.config import Config

    return Config.fromfile(path, format_python_code=False)


def check_config(cfg: Mapping[str, Any], *, runs_locally: bool) -> None:
    """Check options (see `check_options`), then the files and kernels that the config needs.

    What is absent and can be fetched when it is needed is logged.

    Args:
        cfg: The resolved config.
        runs_locally: Whether the tasks run on this machine.

    Raises:
        ValueError: For the first fault; the message says what to do.
    """
    check_options(cfg, runs_locally=runs_locally)
    if not runs_locally:
        return  # files and kernels are those of other machines
    for finding in check_needs(cfg):
        if finding.level == "fault":
            raise ValueError(f"{finding.topic}: {finding.text}. Mend it: {finding.remedy}")
        if finding.level == "fetch":
            logger.warning("%s: %s. If that fails: %s", finding.topic, finding.text, finding.remedy)
    _check_cells(dataset for _, datasets in _groups(cfg) for dataset in datasets)


def check_options(cfg: Mapping[str, Any], *, runs_locally: bool) -> None:
    """Check models, data sets and how they fit together.

    Args:
        cfg: The resolved config.
        runs_locally: Whether the tasks run on this machine, so that its GPUs can be counted.

    Raises:
        ValueError: For the first fault; the message says what to do.
    """
    for models, datasets in _groups(cfg):
        _check_names("models", [str(m["abbr"]) for m in models if "abbr" in m])
        _check_names("datasets", [str(d["abbr"]) for d in datasets if "abbr" in d])
        for model in models:
            _check_processes(model, runs_locally)
            if is_ours(model):
                with _naming(model):
                    _check_model(model, datasets)


def _groups(cfg: Mapping[str, Any]) -> Iterator[tuple[list[Any], list[Any]]]:
    for group in cfg.get("model_dataset_combinations") or [cfg]:
        yield list(group.get("models", [])), list(group.get("datasets", []))


def _check_names(what: str, names: Sequence[str]) -> None:
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise ValueError(
            f"{what}: {twice[0]!r} is the abbr of {names.count(twice[0])} entries, whose results "
            "would overwrite each other; give each its own abbr"
        )


def check_file_names(cfg: Mapping[str, Any]) -> None:
    """Check that every model and data set is named by what can name its files.

    Args:
        cfg: The resolved config.

    Raises:
        ValueError: If an ``abbr`` leads out of the run's folder, or is no file's name.
    """
    for models, datasets in _groups(cfg):
        for what, items, name_of in (("models", models, model_name),
                                     ("datasets", datasets, dataset_name)):  # fmt: skip
            for item in items:
                if not isinstance(item.get("abbr", ""), str):
                    raise ValueError(f"{what}: abbr={item['abbr']!r} must be a text")
                name = name_of(item)
                size = len(name.encode("utf-8", "surrogatepass"))
                if (
                    not name.strip() or name in (".", "..") or size > _NAME_BYTES
                    or any(character in "/\\" or ord(character) < 32 for character in name)
                ):  # fmt: skip
                    raise ValueError(
                        f"{what}: abbr={name[:100]!r} names files in the run's folder, so it must "
                        f"be a plain name of at most {_NAME_BYTES} bytes without '/', '\\' or "
                        "control characters; a path would lead out of the folder. Rename it, e.g. "
                        f"abbr={_plain_name(name)!r}"
                    )


def _plain_name(name: str) -> str:
    parts = re.split(r"[/\\\x00-\x1f]+", name)
    return "_".join(part for part in parts if part.strip(". "))[:_NAME_BYTES] or "model"


def _check_processes(model: Mapping[str, Any], runs_locally: bool) -> None:
    run_cfg = model.get("run_cfg") or {}
    num_gpus = run_cfg.get("num_gpus", 0)
    name = model.get("abbr", model.get("path"))
    if run_cfg.get("num_procs", 1) > 1 and is_ours(model):
        raise ValueError(
            f"model {name!r}: run_cfg asks for num_procs={run_cfg['num_procs']}, and OpenCompass "
            "would give every process every sample; use num_procs=1"
        )
    if not runs_locally:
        return
    available = count_gpus()
    if num_gpus > available:
        raise ValueError(
            f"model {name!r}: run_cfg asks for num_gpus={num_gpus}, and {available} are visible "
            "here; lower it (0 runs on the CPU) or set CUDA_VISIBLE_DEVICES"
        )
    if num_gpus == 0 and available:
        logger.warning(
            "Model %s runs on the CPU, since its run_cfg has num_gpus=0, though %d GPUs are "
            "visible.",
            name,
            available,
        )


@contextmanager
def _naming(model: Mapping[str, Any]) -> Iterator[None]:
    """Put the model's name before the message of a ValueError raised inside."""
    try:
        yield
    except ValueError as error:
        name = model.get("abbr", model.get("path"))
        raise ValueError(f"model {name!r}: {error}") from error


def _check_model(model: Mapping[str, Any], datasets: Iterable[Mapping[str, Any]]) -> None:
    keywords = {key: model[key] for key in model if key not in HOST_KEYS}
    if not keywords.get("path"):
        raise ValueError("path is missing; give the checkpoint's folder, hub id or asset:NAME")
    options = LLaDACausalLM.check_arguments(**keywords)
    lengths = set()
    for dataset in datasets:
        inferencer = (dataset.get("infer_cfg") or {}).get("inferencer") or {}
        lengths.add(options.generation_length(inferencer.get("max_out_len")))
    family = _find_family(options)
    settings = options.settings
    if family is not None:
        settings = settings.with_defaults(family.sampler_defaults, family.seed_defaults)
    for length in sorted(lengths):
        settings.for_length(length)
        options.length_limit.prompt_limit(length)
    if family is None:
        return
    if not _is_left_to_the_hub(resolve_path(options.tokenizer_path)):
        LLaDACausalLM(**{**keywords, "tokenizer_only": True})
    family.check(resolve_path(options.path), options.rope_scaling, options.settings)


def _find_family(options: WrapperOptions) -> Family | None:
    """Read config.json; None where the task will fetch the checkpoint from the hub.

    Asking here would download 16 GB before the first log line.
    """
    path = resolve_path(options.path)
    if _is_left_to_the_hub(path):
        return None
    return find_family(read_model_config(path), options.path, options.family)


def _check_cells(datasets: Iterable[Mapping[str, Any]]) -> None:
    """Check data, tokenizer and lengths of the needle cells, once for each haystack."""
    haystacks: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for dataset in datasets:
        if is_ours(dataset, NeedleBenchSingleDataset):
            names = ("path", "file_list", "tokenizer", "language")
            key = tuple(str(dataset.get(name)) for name in names)
            haystacks.setdefault(key, []).append(dataset)
    for cells in haystacks.values():
        check_cells(cells)


def _is_left_to_the_hub(path: str) -> bool:
    return is_hub_id(path) and not Path(path).expanduser().is_dir()
