"""Checks a resolved OpenCompass config before any task starts.

Of this package's models and data sets all is checked that config.json tells; of others the form of
their config. What a run needs of the machine is `doctor`'s.
"""

from __future__ import annotations

import importlib.util
import inspect
import logging
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from opencompass_llada.assets import resolve_path
from opencompass_llada.benchmarks.data_checks import check_data as read_data
from opencompass_llada.benchmarks.data_checks import find_class, options_of
from opencompass_llada.devices import choose_device
from opencompass_llada.engines import CheckRequest
from opencompass_llada.families import find_family
from opencompass_llada.networks import is_hub_id
from opencompass_llada.networks.adapted_config import read_adapted_config
from opencompass_llada.options import check_value, reject_unknown, show
from opencompass_llada.redaction import refuse_secrets
from opencompass_llada.runs import recorded_files as recorded
from opencompass_llada.runs.machine import count_gpus
from opencompass_llada.wrapper import LLaDACausalLM

logger = logging.getLogger(__name__)

#: Bytes of a name that file systems take, less what is put around it (``tmp_``, a shard's samples).
_NAME_BYTES = 200
_MAPPING = Mapping[str, Any] | None
# Parts of the config of a model or a data set that OpenCompass reads itself.
_PARTS = {"models": ("run_cfg",), "datasets": ("reader_cfg", "infer_cfg", "eval_cfg")}


@contextmanager
def _naming_imports() -> Iterator[None]:
    """Mmengine imports what a config names when it is looked at."""
    try:
        yield
    except ImportError as error:
        raise ValueError(f"{error}; correct the name, or install what provides it") from error


@_naming_imports()
def check_options(cfg: Mapping[str, Any], *, runs_locally: bool) -> None:
    """Check models, data sets and how they fit together; of this machine its GPUs are counted."""
    _check_form(cfg)
    for models, datasets in recorded.list_groups(cfg):
        for what, items in (("models", models), ("datasets", datasets)):
            names = Counter(str(item["abbr"]) for item in items if "abbr" in item)
            if twice := [name for name, count in names.items() if count > 1]:
                raise ValueError(
                    f"{what}: {twice[0]!r} is the abbr of {names[twice[0]]} entries, whose results "
                    "would overwrite each other; give each its own abbr"
                )
        for dataset in datasets:
            with _naming("data set", dataset):
                _check_data_set(dataset)
        for model in models:
            with _naming("model", model):
                _find_known(model["type"])
                _check_processes(model, runs_locally)
                if recorded.is_ours(model):
                    _check_model(model, datasets, runs_locally)


@_naming_imports()
def _check_form(cfg: Mapping[str, Any]) -> None:
    """Check that everything that OpenCompass goes by has the form that it takes for granted."""
    for name in ("infer", "eval", "summarizer"):
        part = check_value(name, cfg.get(name), _MAPPING) or {}
        for key in ("partitioner", "runner"):
            check_value(f"{name}[{key!r}]", part.get(key), _MAPPING)
    check_value("work_dir", cfg.get("work_dir"), str | None)
    name = "model_dataset_combinations"
    groups = check_value(name, cfg.get(name), Sequence[Mapping[str, Any]] | None) or [cfg]
    for group in groups:
        for what in ("models", "datasets"):
            items = check_value(what, group.get(what), Sequence[Mapping[str, Any]] | None)
            if not items:
                raise ValueError(
                    f"{what} is {'empty' if what in group else 'missing'}: a run needs at least "
                    f"one; define {what} = [dict(type=..., abbr=..., ...)]"
                )
            for item in items:
                with _naming(what, item):
                    _check_item(what, item)


def _check_item(what: str, item: Mapping[str, Any]) -> None:
    if "type" not in item:
        raise ValueError("type=... is missing; give the class, e.g. LLaDACausalLM")
    if "abbr" in item and not check_value("abbr", item["abbr"], str):
        raise ValueError("abbr='' must name the results' files; give it a name or leave it out")
    for key in _PARTS[what]:
        check_value(key, item.get(key), _MAPPING)
    given = _max_out_len(item) if what == "datasets" else None
    length = check_value("max_out_len", given, int | None)
    if length is not None and length < 1:
        raise ValueError(f"max_out_len={length} of its inferencer must be at least 1")


def _max_out_len(dataset: Mapping[str, Any]) -> Any:
    inferencer = (dataset.get("infer_cfg") or {}).get("inferencer")
    return (check_value("inferencer", inferencer, _MAPPING) or {}).get("max_out_len")


def check_form(cfg: Mapping[str, Any], mode: str = "all") -> None:
    """Check what OpenCompass's tasks of a mode ask for, file names, and that no secret is there."""
    _check_form(cfg)
    with _naming_imports():
        refuse_secrets(cfg)
    for models, datasets in recorded.list_groups(cfg):
        for model in models:
            _check_file_name("models", model, recorded.model_name(model))
        for dataset in datasets:
            _check_file_name("datasets", dataset, recorded.dataset_name(dataset))
            if mode != "viz":
                with _naming("data set", dataset):
                    _check_parts(dataset, scores=mode != "infer")


def _check_file_name(what: str, item: Mapping[str, Any], name: str) -> None:
    if not isinstance(item.get("abbr", ""), str):
        raise ValueError(f"{what}: abbr={item['abbr']!r} must be a text")
    is_long = len(name.encode("utf-8", "surrogatepass")) > _NAME_BYTES
    is_plain = all(character not in "/\\" and ord(character) >= 32 for character in name)
    if is_long or not is_plain or not name.strip() or name in (".", ".."):
        parts = re.split(r"[/\\\x00-\x1f]+", name)
        better = "_".join(part for part in parts if part.strip(". "))[:_NAME_BYTES] or "model"
        raise ValueError(
            f"{what}: abbr={name[:100]!r} names files in the run's folder, so it must be a plain "
            f"name of at most {_NAME_BYTES} bytes without '/', '\\' or control characters; a path "
            f"would lead out of the folder. Rename it, e.g. abbr={better!r}"
        )


def _check_parts(dataset: Mapping[str, Any], *, scores: bool) -> None:
    _check_reader(dataset.get("reader_cfg") or {})
    infer = dataset.get("infer_cfg") or {}
    parts = [("infer_cfg", "inferencer"), ("infer_cfg", "retriever")]
    for key, name in [*parts, ("eval_cfg", "evaluator")] if scores else parts:
        part = check_value(name, (dataset.get(key) or {}).get(name), _MAPPING)
        if "type" not in (part or {}):
            raise ValueError(f"{key} has no {name}; give {name}=dict(type=...)")
    if not {"prompt_template", "ice_template"} & {*infer}:
        raise ValueError(
            "infer_cfg has no prompt_template; give prompt_template=dict(type=..., template=...)"
        )


def _check_reader(reader: Mapping[str, Any]) -> None:
    from opencompass.openicl.icl_dataset_reader import DatasetReader

    names = [name for name in inspect.signature(DatasetReader).parameters if name != "dataset"]
    reject_unknown("reader_cfg option", reader, names)
    for name, kind in (("input_columns", str | Sequence[str]), ("output_column", str | None)):
        if name not in reader:
            raise ValueError(
                f"reader_cfg has no {name}; give reader_cfg=dict(input_columns=['prompt'], "
                "output_column='answer') with the columns of this data set"
            )
        check_value(f"reader_cfg[{name!r}]", reader[name], kind)


def _find_known(kind: Any) -> Any:
    """Return a class that is looked at, None for those of a package of the user's."""
    module = kind.rpartition(".")[0] if isinstance(kind, str) else ""
    if not module or module.partition(".")[0] in ("opencompass", "opencompass_llada"):
        return find_class(kind)
    try:
        found = importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        found = False
    if not found:
        raise ValueError(
            f"type={kind!r}: there is no module {module!r} to import; correct the name, or put its "
            "folder on PYTHONPATH"
        )
    return None


def _check_data_set(dataset: Mapping[str, Any]) -> None:
    """Check the keywords of a data set and of its inferencer, as far as the classes tell them."""
    if (kind := _find_known(dataset["type"])) is None:
        return
    options = options_of(dataset)
    if hasattr(kind, "check_options"):
        kind.check_options(**options)
    else:
        signature = inspect.signature(kind.load)
        parameters = [*signature.parameters.values()]
        if parameters and parameters[0].name == "self":  # some of OpenCompass's
            signature = signature.replace(parameters=parameters[1:])
        try:
            signature.bind(**options)
        except TypeError as error:
            raise ValueError(
                f"{error}; {kind.__name__} takes {', '.join(signature.parameters)}"
            ) from error
    inferencer = dict((dataset.get("infer_cfg") or {}).get("inferencer") or {})
    found = _find_known(inferencer.pop("type")) if "type" in inferencer else None
    if found is not None and hasattr(found, "check_options"):
        found.check_options(**inferencer)


def _check_processes(model: Mapping[str, Any], runs_locally: bool) -> None:
    run_cfg = model.get("run_cfg") or {}
    if recorded.is_ours(model):
        reject_unknown("run_cfg option", run_cfg, ("num_gpus", "num_procs"))
    num_gpus, num_procs = (
        check_value(f"run_cfg[{name!r}]", run_cfg.get(name, default), int)
        for name, default in (("num_gpus", 0), ("num_procs", 1))
    )
    if num_gpus < 0 or num_procs < 1:
        raise ValueError(
            f"run_cfg: num_gpus={num_gpus} must be at least 0 and num_procs={num_procs} at least "
            "1; num_gpus=0 runs on the CPU"
        )
    if recorded.is_ours(model):
        _check_split(model, num_gpus, num_procs)
    if not runs_locally:
        return
    available = count_gpus()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if num_gpus > available:
        reason = "" if visible is None else f" (CUDA_VISIBLE_DEVICES={visible!r})"
        raise ValueError(
            f"run_cfg asks for num_gpus={num_gpus}, and {available} are visible here{reason}; "
            "lower it (0 runs on the CPU) or set CUDA_VISIBLE_DEVICES"
        )
    if num_gpus == 0 and available:
        logger.warning(
            "Model %s runs on the CPU, since its run_cfg has num_gpus=0, though %d GPUs are "
            "visible.", model.get("abbr", model.get("path")), available,
        )  # fmt: skip


def _check_split(model: Mapping[str, Any], num_gpus: int, num_procs: int) -> None:
    """Check that a model of this package has as many processes as split its passes."""
    ranks = check_value("sequence_parallel", model.get("sequence_parallel", 1), int)
    if ranks > 1 and (num_gpus, num_procs) != (ranks, ranks):
        raise ValueError(
            f"sequence_parallel={ranks} splits passes over {ranks} processes with a GPU each, and "
            f"run_cfg asks for num_gpus={num_gpus} and num_procs={num_procs}; use "
            f"run_cfg=dict(num_gpus={ranks}, num_procs={ranks})"
        )
    if ranks == 1 and num_procs > 1:
        raise ValueError(
            f"run_cfg asks for num_procs={num_procs}, and OpenCompass would give every process "
            f"every sample; use num_procs=1, or sequence_parallel={num_procs} for prompts that are "
            "too long for one GPU"
        )


@contextmanager
def _naming(what: str, item: Mapping[str, Any]) -> Iterator[None]:
    """Put the name of a model or data set before the message of a ValueError raised inside."""
    try:
        yield
    except ValueError as error:
        name = item.get("abbr", item.get("path"))
        raise ValueError(f"{what.removesuffix('s')} {show(name)}: {error}") from error


def _check_model(
    model: Mapping[str, Any], datasets: Sequence[Mapping[str, Any]], runs_locally: bool
) -> None:
    keywords = recorded.model_keywords(model)
    check_value("its config", keywords, Mapping[str, Any])
    if keywords.get("path") is None:
        raise ValueError("path is missing; give the checkpoint's folder, hub id or asset:NAME")
    options = LLaDACausalLM.check_arguments(**keywords)
    if runs_locally and options.placement.device is not None:
        choose_device(options.placement.device)
    lengths = {options.generation_length(_max_out_len(dataset)) for dataset in datasets}
    path, family, config = resolve_path(options.path), None, {}
    if not _is_left_to_the_hub(path):  # asking would download 16 GB before the first log line
        config = read_adapted_config(path, options.mask_token_id, options.adapter, fetch=False)
        family = find_family(config, options.path, options.family)
    inferencers = [(one.get("infer_cfg") or {}).get("inferencer") or {} for one in datasets]
    if any(recorded.type_name(kind) in recorded.SCORING for kind in inferencers):
        options.refuse_scoring()
    for length in sorted(lengths):
        sampler = options.settings.for_length(length)
        options.passes.prefill.check_answer(sampler.plan().padded_length)
        options.length_limit.prompt_limit(length)
    if family is None:
        return
    if not _is_left_to_the_hub(resolve_path(options.tokenizer_path)):
        LLaDACausalLM(**{**keywords, "tokenizer_only": True})
    family.check(
        CheckRequest(
            path=path,
            config=config,
            rope_scaling=options.rope_scaling,
            settings=options.settings,
            attention_block=options.attention_block,
            passes=options.passes,
            sequence_parallel=options.placement.sequence_parallel,
        )
    )


def check_data(cfg: Mapping[str, Any]) -> None:
    """Read the data of a config's data sets; see `data_checks.check_data`."""
    cells = [cell for _, datasets in recorded.list_groups(cfg) for cell in datasets]
    read_data(cell for cell in cells if _find_known(cell["type"]) is not None)


def _is_left_to_the_hub(path: str) -> bool:
    return is_hub_id(path) and not Path(path).expanduser().is_dir()
