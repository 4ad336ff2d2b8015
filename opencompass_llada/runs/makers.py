"""Says what decides an answer, and tells answers that one maker made from those of another.

The *maker* of a cell's answers is all that decides them: files of the model, its options as they
resolve, samples, wording, lengths, versions; not batch size, GPUs, paths and names. ``NAME.maker``
is written before the first answer, for ``NAME.json`` and the unfinished ``tmp_NAME.jsonl`` alike.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Callable, Container, Iterable, Mapping
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from opencompass_llada import __version__
from opencompass_llada.benchmarks.data_checks import find_class
from opencompass_llada.files import write_text
from opencompass_llada.inference import PassOptions
from opencompass_llada.runs.hashes import find_folder, hash_rows, hash_values
from opencompass_llada.runs.provenance import add_record
from opencompass_llada.runs.recorded_files import (
    HOST_KEYS,
    SCORING,
    find_answer_files,
    is_ours,
    model_keywords,
    split_shard_name,
    type_name,
)
from opencompass_llada.sampling import SamplerConfig
from opencompass_llada.wrapper import LLaDACausalLM
from opencompass_llada.wrapper.keywords import WrapperOptions

logger = logging.getLogger(__name__)

SUFFIX = ".maker"
SUPERSEDED = "superseded"
NO_RECORD = "no record of what made them"
#: Keys of any wrapper's config that are hashed by content, resolved elsewhere or decide nothing.
_ELSEWHERE = (*HOST_KEYS[1:], "path", "tokenizer_path", "peft_path", "batch_size", "max_out_len",
              "max_num_workers")  # fmt: skip
#: Fields of `WrapperOptions` that are hashed by content, resolved below or decide nothing.
_RESOLVED = ("path", "tokenizer_path", "adapter", "settings", "placement", "batch_size",
             "max_out_len", "rope_scaling", "chat", "likelihood", "tokenizer_kwargs",
             "preset")  # fmt: skip
_INFERENCER_HOST = ("model", "batch_size", "save_every", "max_seq_len", "max_out_len",
                    "min_out_len", "dump_res_length", "dump_only_message_path", "dump_timer",
                    "output_json_filepath", "output_json_filename")  # fmt: skip

#: Parts of a maker that hold options which later versions add to.
_DEFAULTS: Mapping[str, Callable[[], Any]] = {
    "sampler": SamplerConfig,
    "options": lambda: {"passes": PassOptions()},
}

Maker = dict[str, Any]


class OwnOptions(NamedTuple):
    """What this package's wrapper makes of a model's keywords, with all defaults."""

    options: WrapperOptions
    reads_config: bool
    """Whether the checkpoint's files are at hand: what its config.json decides is then known."""


def read_options(model: Mapping[str, Any], *, fetch: bool) -> OwnOptions | None:
    """Return what the wrapper makes of a model's config; None for other wrappers.

    On ``fetch`` a hub id that is not on this machine is downloaded.
    """
    if not is_ours(model):
        return None
    keywords = model_keywords(model)
    folder = find_folder(str(keywords["path"]), fetch=fetch)
    if folder is not None:
        keywords["path"] = str(folder)
    return OwnOptions(LLaDACausalLM.check_arguments(**keywords), folder is not None)


def describe_data(dataset: Any, config: Mapping[str, Any]) -> Maker:
    """Return a maker's part on a built data set: the samples that the model is asked and shown."""
    rows = getattr(dataset, "test", None)
    part = {"samples": None if rows is None else hash_rows(rows)}
    infer = config.get("infer_cfg") or {}
    if "ice_template" in infer and type_name(infer.get("retriever") or {}) != "ZeroRetriever":
        part["examples"] = hash_rows(getattr(dataset, "train", None) or ())
    return part


def describe_weights(files: Mapping[str, tuple[str, str]], options: OwnOptions | None) -> Maker:
    """Return a maker's part on the model, whatever it is asked.

    ``files`` are from `hash_files`, ``options`` from `read_options`.
    """
    part: Maker = {name: "+".join(filter(None, own)) or None for name, own in files.items()}
    if options is not None:
        part["scaling"] = plain(options.options.rope_scaling)
    return part


def describe_maker(
    model: Mapping[str, Any],
    dataset: Mapping[str, Any],
    *,
    files: Mapping[str, tuple[str, str]],
    data: Mapping[str, Any],
    dtype: str | None,
    options: OwnOptions | None,
) -> Maker:
    """Return the maker of a model's answers on a data set, as it comes back from JSON.

    ``files`` are from `provenance.hash_files`, ``options`` from `read_options`; ``data`` is from
    `describe_data`, and empty where the samples are not known; ``dtype`` is that of the weights, if
    it is known.
    """
    infer = dict(dataset.get("infer_cfg") or {})
    inferencer = dict(infer.pop("inferencer", None) or {})
    reader = dataset.get("reader_cfg") or {}
    columns = {name: reader.get(name) for name in ("input_columns", "output_column")}
    wording = [infer, columns, model.get("meta_template")]
    own = _without(inferencer, _INFERENCER_HOST)
    if isinstance(own.get("likelihood"), Mapping):
        own["likelihood"] = _without(own["likelihood"], ("batch_size",))
    if (shortest := inferencer.get("min_out_len", model.get("min_out_len"))) is not None:
        own["min_out_len"] = shortest
    length = inferencer.get("max_out_len") or None
    scores = type_name(inferencer) in SCORING
    maker = {
        **describe_weights(files, options),
        **data,
        "wording": hash_values(plain(wording)),
        "inference": plain(own),
        "versions": {"opencompass_llada": __version__}
        | {name: metadata.version(name).partition(".")[0] for name in ("torch", "transformers")},
    }
    if options is not None:
        maker |= _describe_ours(options, length, scores=scores)
        if dtype is not None:
            maker["dtype"] = dtype
    else:
        others = _without(model, _ELSEWHERE)  # hashed, since an option may be a secret
        maker["options"] = {key: hash_values(plain(value)) for key, value in others.items()}
        if not scores:
            maker["generation_length"] = length or model.get("max_out_len")
    return json.loads(json.dumps(maker, default=str))


def _without(config: Mapping[str, Any], keys: Container[str]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key not in keys}


def _describe_ours(own: OwnOptions, length: int | None, *, scores: bool) -> Maker:
    """Return what this package's wrapper makes of its keywords, with all defaults."""
    options = own.options
    resolved = {f.name: getattr(options, f.name) for f in dataclasses.fields(options)}
    maker: Maker = {
        "chat": plain(options.chat),
        "options": plain(_without(resolved, _RESOLVED))
        | {"tokenizer_kwargs": hash_values(plain(options.tokenizer_kwargs))},
    }
    if options.chat is not None and options.chat.template is not None:
        template = Path(options.chat.template).expanduser()
        text = template.read_text("utf-8") if template.is_file() else None
        maker["chat"]["template"] = hash_values(text)
    if scores:
        maker["likelihood"] = plain(dataclasses.replace(options.likelihood, batch_size=1))
        return maker
    maker["generation_length"] = number = options.generation_length(length)
    if own.reads_config:
        maker["sampler"] = plain(options.settings.for_length(number))
        maker["seed"] = maker["sampler"].pop("seed", None)
    return maker


def list_differences(recorded: Mapping[str, Any] | None, expected: Mapping[str, Any]) -> list[str]:
    """Return the fields in which two makers differ, e.g. ``sampler.num_steps``.

    What ``expected`` leaves out is not known and not compared. An option that an earlier version
    did not have yet, and did not record, is at its default, which does what that version did.
    """
    if recorded is None:
        return [NO_RECORD]
    differing: list[str] = []
    for name, value in expected.items():
        other = recorded.get(name)
        if isinstance(value, Mapping) and isinstance(other, Mapping):
            earlier = plain(_DEFAULTS[name]()) if name in _DEFAULTS else {}
            other = {**{k: v for k, v in earlier.items() if k in value}, **other}
            inner = sorted(value.keys() | other.keys())
            differing += [f"{name}.{key}" for key in inner if value.get(key) != other.get(key)]
        elif name not in recorded or other != value:
            differing.append(name)
    return differing


def describe_scoring(
    model: Mapping[str, Any],
    dataset: Mapping[str, Any],
    answers: Iterable[Maker | None],
    **task: Any,
) -> Maker:
    """Return the maker of a result: of its answers, their scoring and the task's options."""
    how = [plain(dataset.get("eval_cfg")), plain(model.get("pred_postprocessor")), plain(task)]
    return {
        "answers": hash_values(list(answers)),
        "scoring": hash_values(how),
        "versions": {"opencompass_llada": __version__},
    }


def maker_path(file: Path) -> Path:
    """Return where the maker of a prediction file, finished or not, or of a result is written."""
    name = file.stem.removeprefix("tmp_") if file.suffix == ".jsonl" else file.stem
    return file.with_name(name + SUFFIX)


def read_maker(file: Path) -> Maker | None:
    """Return the maker of a prediction file or result; None if none is recorded or it is torn."""
    try:
        maker = json.loads(maker_path(file).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return maker if isinstance(maker, dict) else None


def write_maker(file: Path, maker: Maker) -> None:
    """Write the maker of a prediction file or result, whole or not at all."""
    text = json.dumps(maker, indent=1, ensure_ascii=False)
    write_text(maker_path(file), text + "\n", errors="replace")


def set_aside(run_path: Path, paths: Iterable[Path]) -> Path:
    """Move files of a run, as far as they exist, to ``superseded/TIME``, and return that folder."""
    target = run_path / SUPERSEDED / datetime.now(timezone.utc).strftime("%Y%m%d_%H%M%S_%f")
    for path in paths:
        if not path.exists():
            continue
        place = target / path.relative_to(run_path)
        place.parent.mkdir(parents=True, exist_ok=True)
        number = 1
        while place.exists():
            place = place.with_name(f"{path.name}.{number}")
            number += 1
        try:
            path.rename(place)
        except FileNotFoundError:  # another shard's task was first
            continue
        folder, *between, _ = path.relative_to(run_path).parts
        if folder == "predictions" and path.suffix != SUFFIX:
            dataset = maker_path(path).stem
            now = datetime.now(timezone.utc).isoformat(timespec="seconds")
            record = {"kind": "superseded", "model": between[0], "dataset": dataset}
            add_record(run_path, {**record, "started": now})
    return target


def plain(value: Any) -> Any:
    """Return a config's value as JSON has it; classes by the name of the module that defines them.

    Equal for a config as it was written and for one that OpenCompass dumped and read again.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return plain({f.name: getattr(value, f.name) for f in dataclasses.fields(value)})
    if isinstance(value, Mapping):
        return {
            str(key): plain(_resolve(item) if key == "type" else item)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, set | frozenset):
        return sorted(map(str, value))
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if hasattr(value, "__qualname__"):
        # Our own go without their module: a class that moves makes the same answers.
        package, _, _ = __name__.partition(".")
        module = value.__module__
        return f"{package if module.startswith(f'{package}.') else module}.{value.__qualname__}"
    return str(value)


def _resolve(kind: Any) -> Any:
    """Return the class that a dotted name stands for, the name itself where there is none."""
    try:
        return find_class(kind) if isinstance(kind, str) and "." in kind else kind
    except ValueError:
        return kind


def claim(run_path: Path, model: str, dataset: str, maker: Maker) -> None:
    """Set aside a cell's answers of another maker, then write the maker of those to come.

    Called before the first answer by the process that holds the model, so that a cell never holds
    answers of two makers. ``dataset`` may be a shard's name.
    """
    folder = run_path / "predictions" / model
    own = folder / f"{dataset}.json"
    whole, samples = split_shard_name(dataset)
    files = find_answer_files(folder, whole)
    if samples is None:  # shards of an earlier run of a data set that is now run whole
        others = [file.path for file in files if file.samples is not None]
    else:
        others = [file.path for file in files if file.path.stem in (whole, f"tmp_{whole}")]
    unfinished = folder / f"tmp_{dataset}.jsonl"
    if unfinished.exists() and (differing := list_differences(read_maker(unfinished), maker)):
        logger.warning(
            "%s on %s: the answers so far were not made as these are (%s); they are set aside.",
            model, dataset, ", ".join(differing),
        )  # fmt: skip
        others += [unfinished]
    # A cell whose answers are being made has no result that is theirs.
    result = run_path / "results" / model / f"{whole}.json"
    stale = [path for path in (*others, result, maker_path(result)) if path.exists()]
    if stale:
        set_aside(run_path, [item for path in stale for item in (path, maker_path(path))])
    write_maker(own, maker)
