"""Finds the runs in work directories and reads what each was asked for; reads no results.

A run is a folder with the configs/ that OpenCompass dumps at its start; a work directory is such a
folder or holds several. A folder that was run more than once (``-r``, or several hosts) has
several configs: their (model, data set) pairs are put together, the last one's settings count.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from opencompass_llada.runs import recorded_files as recorded

Config = Mapping[str, Any]
Pair = tuple[Config, Config]
#: What makes a model config another model, and not another way to run it.
MODEL_KEYS = ("path", "peft_path", "peft_kwargs", "rope_scaling", "scaling_config", "type")
#: What changes answers of the same model.
WAYS_TO_RUN = ("sampler", "diffusion_config", "generation_kwargs", "max_out_len", "max_seq_len",
               "truncation", "drop_middle", "meta_template", "chat", "add_bos", "seed",
               "stop_words", "likelihood", "dtype", "precision", "prefill", "attention_block",
               "mask_token_id", "tokenizer_path", "tokenizer_kwargs")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """What a table or figure says about a model."""

    abbr: str  # OpenCompass's abbreviation, unique in a run
    title: str
    scaling: str  # RoPE scaling and its options, e.g. ``ntk target_length=2048``; ``none``
    trained_length: int | None  # tokens that the model was trained on, where known


def describe_model(model: Config, described: Config | None = None) -> ModelFacts:
    """Return what a model's config says itself, and what its author says of it (`described`)."""
    options = dict(model.get("rope_scaling") or {"type": "none"})
    factor = (model.get("scaling_config") or {}).get("scaling_factor", 1)
    if factor != 1:
        options = {"type": "ntk", "theta_multiplier": factor}
    method = str(options.pop("type"))
    if method == "none":  # a trained length may stand beside it, and scales nothing
        options = {}
    abbr, told = recorded.model_name(model), described or {}
    return ModelFacts(
        abbr=abbr,
        title=str(told.get("title", model.get("summarizer_abbr") or abbr)),
        scaling=" ".join([method, *(f"{name}={value}" for name, value in options.items())]),
        trained_length=told.get("trained_length"),
    )


@dataclass(frozen=True, kw_only=True)
class RunFolder:
    """One run's folder and what it was asked for."""

    path: Path  # the folder that holds predictions/ and results/
    name: str  # unique among the runs of a report; the folder's name where that is
    pairs: tuple[Pair, ...] = field(hash=False)  # every (model config, data set config)
    facts: tuple[ModelFacts, ...]  # what is known of the models, one an abbreviation
    ambiguous: frozenset[str]  # abbreviations that several different models of one config share
    notes: tuple[str, ...] = ()  # what a reader of the results has to know
    damage: tuple[str, ...] = ()  # files torn, changed or of another run; not shown
    config_files: tuple[Path, ...] = ()  # the dumped configs, oldest first

    @cached_property
    def datasets(self) -> frozenset[str]:
        """Names of all data sets, of whatever model."""
        return frozenset(recorded.dataset_name(dataset) for _, dataset in self.pairs)

    def as_config(self) -> dict[str, Any]:
        """Return the pairs in the form of an OpenCompass config."""
        pairs = [{"models": [model], "datasets": [dataset]} for model, dataset in self.pairs]
        return {"model_dataset_combinations": pairs, "work_dir": str(self.path)}


def find_runs(work_dirs: Sequence[str | Path]) -> list[RunFolder]:
    """Find the runs in runs' own folders or folders that hold them; in order of name within one.

    Raises:
        ValueError: If a folder is missing or holds no run.
    """
    folders: list[Path] = []
    for given in map(Path, work_dirs):
        if not given.is_dir():
            raise ValueError(f"There is no folder {str(given)!r}; give the work dir of a run.")
        inside = [given, *sorted(path for path in given.iterdir() if path.is_dir())]
        found = [path for path in inside if any((path / "configs").glob("*.py"))]
        if not found:
            raise ValueError(
                f"{str(given)!r} holds no run: neither it nor a folder in it has configs/*.py, "
                "which OpenCompass writes at a run's start. Give the folder named by -w, or the "
                "time-stamped one in it."
            )
        folders += found
    unique = list({folder.resolve(): folder for folder in folders}.values())
    return [read_run(folder, name) for folder, name in zip(unique, _name_runs(unique), strict=True)]


def _name_runs(folders: Sequence[Path]) -> list[str]:
    """Name each folder by its last part, its last two, or the whole: the first that is unique."""
    named = [folder.resolve().name for folder in folders]
    for longer in (["/".join(f.resolve().parts[-2:]) for f in folders], list(map(str, folders))):
        pairs = zip(named, longer, strict=True)
        named = [name if named.count(name) == 1 else other for name, other in pairs]
    return named


def read_run(
    path: Path,
    name: str | None = None,
    *,
    config: Config | None = None,
    described: Iterable[Config] = (),
) -> RunFolder:
    """Read what a run was asked for.

    `config` stands for the newest dumped one where it is at hand; `described` is what its author
    says of models (``abbr``, ``title``, ``trained_length``) besides what the dumped configs say.
    """
    files = sorted((path / "configs").glob("*.py"))
    configs: list[tuple[str, Config]] = []
    damage = []
    for file in files if config is None else files[:-1]:
        try:
            configs.append((file.name, read_run_config(file)))
        except ValueError as error:
            damage.append(f"{error}; what it asked for is not shown")
    if config is not None:
        configs.append((files[-1].name if files else "the config", config))
    pairs, models, ambiguous, notes = _merge(configs, (path / "superseded").is_dir())
    summarizers = [known.get("summarizer") or {} for _, known in configs]
    told = [model for known in summarizers for model in known.get("models") or ()]
    by_abbr = {str(model["abbr"]): model for model in [*told, *described]}
    return RunFolder(
        path=path,
        name=name or path.resolve().name,
        pairs=tuple(pairs.values()),
        facts=tuple(describe_model(model, by_abbr.get(abbr)) for abbr, model in models.items()),
        ambiguous=frozenset(ambiguous),
        notes=tuple(dict.fromkeys(notes)),
        damage=(*damage, *recorded.find_damage(path)),
        config_files=tuple(files),
    )


def _merge(
    configs: Sequence[tuple[str, Config]], has_superseded: bool
) -> tuple[dict[tuple[str, str], Pair], dict[str, Config], set[str], list[str]]:
    """Return pairs and models of all configs, abbreviations of several models, and remarks."""
    pairs: dict[tuple[str, str], Pair] = {}
    models: dict[str, Config] = {}
    ambiguous: set[str] = set()
    notes: list[str] = []
    for file, config in configs:
        own: dict[str, Config] = {}
        asked: dict[tuple[str, str], Config] = {}
        earlier = dict(pairs)
        for model, dataset in recorded.list_pairs(config):
            abbr = recorded.model_name(model)
            key = (abbr, recorded.dataset_name(dataset))
            # One name may be run in two ways on different data sets, not on the same one.
            first = asked.setdefault(key, model)
            if differing := _differences(own.setdefault(abbr, model), first, model):
                ambiguous.add(abbr)
                notes.append(
                    f"{abbr!r} is the abbr of more than one model of {file} (they differ in "
                    f"{differing}): their results overwrote each other and are not shown"
                )
            pairs[key] = (model, dataset)
            before, _ = earlier.get(key, (model, dataset))
            if differing := _differences(models.get(abbr, model), before, model):
                both = "results of both lie under one name: shown"
                if has_superseded:  # where `-r` puts what another maker made
                    both = "what was made before and differs lies in superseded/: shown"
                notes.append(
                    f"{abbr!r} was run again in this folder with another "
                    f"{differing}; {both} as {file} describes them"
                )
        models |= own
    return pairs, models, ambiguous, notes


def _differences(other: Config, same_cell: Config, model: Config) -> str:
    """Name what makes it another model, else what makes it another way to run on one data set."""
    for first, keys in ((other, MODEL_KEYS), (same_cell, WAYS_TO_RUN)):
        if found := [key for key in keys if str(first.get(key)) != str(model.get(key))]:
            return ", ".join(found)
    return ""


def read_run_config(file: Path) -> dict[str, Any]:
    """Read a dumped config that a run can be read from.

    Raises:
        ValueError: If it is torn, not as the run wrote it, or names no models and data sets.
    """
    try:
        if fault := recorded.seal_fault(file, file.parents[1]):
            raise ValueError(f"{file} {fault}")
        config = read_dumped_config(file)
    except OSError as error:
        raise ValueError(f"{file} cannot be read ({error})") from error
    groups = config.get("model_dataset_combinations") or [config]
    for group in groups if isinstance(groups, list) else [groups]:
        for part in ("models", "datasets"):
            members = group.get(part) if isinstance(group, Mapping) else None
            if not isinstance(members, list) or not all(map(_is_readable, members)):
                raise ValueError(f"{file} names no {part}: it is empty, torn or of another program")
    summarizer = config.get("summarizer") or {}
    told = (summarizer.get("models") or []) if isinstance(summarizer, Mapping) else None
    if not isinstance(told, list) or not all(isinstance(m, Mapping) and "abbr" in m for m in told):
        raise ValueError(f"{file} has a summarizer without models by abbr")
    return config


def _is_readable(config: Any) -> bool:
    """Say whether this is the config of a model or a data set, with what it is read by."""
    if not isinstance(config, Mapping) or not isinstance(config.get("type"), str):
        return False
    if not all(isinstance(config.get(key, ""), str) for key in ("abbr", "path")):
        return False
    numbers = (config.get("length"), config.get("depth"))
    return ("abbr" in config or "path" in config) and all(
        number is None or (isinstance(number, int | float) and not isinstance(number, bool))
        for number in numbers
    )


def read_dumped_config(path: Path) -> dict[str, Any]:
    """Return a dumped config's values by name; classes are dotted names. Nothing in it is run.

    A dumped config is assignments of literals and of ``dict(...)``. A hand-written one, with
    imports and `read_base`, is refused.

    Raises:
        ValueError: For anything but literals and ``dict(...)``; names file and line.
    """
    try:
        tree = ast.parse(path.read_bytes().decode("utf-8"), filename=str(path))
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ValueError(f"{path} is no Python file ({error}); was it cut off?") from error
    values = {}
    for statement in tree.body:
        try:
            match statement:
                case ast.Assign(targets=[ast.Name(id=name)], value=value):
                    values[name] = _evaluate(value)
                case _:
                    raise _RefusedNode(statement)
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError) as error:
            node = error.args[0] if isinstance(error, _RefusedNode) else statement
            raise ValueError(
                f"{path}, line {node.lineno}: {ast.unparse(node)[:60]!r} is not what a dumped "
                "config holds (literals and dict(...)). Point to the run's own folder, whose "
                "configs/ OpenCompass wrote, not to a hand-written config."
            ) from error
    return values


class _RefusedNode(ValueError):
    """Holds what stands in a dumped config and is no literal."""


def _evaluate(node: ast.expr) -> Any:
    """Return the value of a literal or of ``dict(...)``, of a set a tuple; refuse all else."""
    match node:
        case ast.Constant() | ast.UnaryOp() | ast.BinOp():
            return ast.literal_eval(node)
        case ast.List(elts=items):
            return list(map(_evaluate, items))
        case ast.Tuple(elts=items) | ast.Set(elts=items):
            return tuple(map(_evaluate, items))
        case ast.Dict(keys=keys, values=items):
            named = filter(None, keys)  # a ``**`` has no key, so that there are more items
            return dict(zip(map(_evaluate, named), map(_evaluate, items), strict=True))
        case ast.Call(func=ast.Name(id="dict"), args=args, keywords=words) if all(
            word.arg for word in words
        ):
            return dict(*map(_evaluate, args), **{str(w.arg): _evaluate(w.value) for w in words})
    raise _RefusedNode(node)
