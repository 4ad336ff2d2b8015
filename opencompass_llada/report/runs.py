"""Finds the runs in work directories and what each was asked for. Reads no results.

A run is a folder with the configs/ that OpenCompass dumps at its start; a work directory is such a
folder or holds several. A folder that was run more than once (``-r``, or several hosts) has
several configs: their (model, data set) pairs are put together, the last one's settings count.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from opencompass_llada.report.results import ModelFacts, describe_model
from opencompass_llada.report.run_config import read_dumped_config
from opencompass_llada.runs.recorded_files import (
    dataset_name,
    find_damage,
    list_pairs,
    model_name,
    seal_fault,
)

Pair = tuple[Mapping[str, Any], Mapping[str, Any]]
#: What makes a model config another model, and not another way to run it.
MODEL_KEYS = ("path", "peft_path", "rope_scaling", "scaling_config", "type")
#: What changes answers of the same model.
WAYS_TO_RUN = ("sampler", "diffusion_config", "generation_kwargs", "max_out_len", "max_seq_len",
               "truncation", "drop_middle", "meta_template", "chat", "add_bos", "seed",
               "stop_words", "likelihood", "dtype", "tokenizer_path")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run's folder and what it was asked for."""

    path: Path
    """The folder that holds predictions/ and results/."""
    name: str
    """Unique among the runs of a report; the folder's name where that is."""
    pairs: tuple[Pair, ...] = field(hash=False)
    """Every (model config, data set config)."""
    facts: tuple[ModelFacts, ...]
    """What is known of the models, one an abbreviation."""
    ambiguous: frozenset[str]
    """Abbreviations that several different models of one config share."""
    notes: tuple[str, ...] = ()
    """What a reader of the results has to know."""
    damage: tuple[str, ...] = ()
    """Files that are torn, changed or of another run; nothing of them is shown."""
    config_files: tuple[Path, ...] = ()
    """The dumped configs, oldest first."""

    @property
    def datasets(self) -> frozenset[str]:
        """Names of all data sets, of whatever model."""
        return frozenset(dataset_name(dataset) for _, dataset in self.pairs)

    def as_config(self) -> dict[str, Any]:
        """Return the pairs in the form of an OpenCompass config."""
        groups: dict[int, dict[str, list[Any]]] = {}
        for model, dataset in self.pairs:
            group = groups.setdefault(id(model), {"models": [model], "datasets": []})
            group["datasets"].append(dataset)
        return {"model_dataset_combinations": list(groups.values()), "work_dir": str(self.path)}


def find_runs(work_dirs: Sequence[str | Path]) -> list[Run]:
    """Find the runs of several work directories.

    Args:
        work_dirs: Runs' own folders, or folders that hold them.

    Returns:
        Runs in order of the arguments and, within one, of their names (time stamps).

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
    return [read_run(folder, name) for folder, name in zip(unique, name_runs(unique), strict=True)]


def name_runs(folders: Sequence[Path]) -> list[str]:
    """Name folders by their last part, or by the last two where these are not unique."""
    short = [folder.resolve().name for folder in folders]
    longer = ["/".join(folder.resolve().parts[-2:]) for folder in folders]
    named = [
        name if short.count(name) == 1 else long for name, long in zip(short, longer, strict=True)
    ]
    return [
        name if named.count(name) == 1 else str(folder)
        for name, folder in zip(named, folders, strict=True)
    ]


def read_run(
    path: Path,
    name: str | None = None,
    *,
    config: Mapping[str, Any] | None = None,
    described: Iterable[Mapping[str, Any]] = (),
) -> Run:
    """Read what a run was asked for.

    Args:
        path: The run's folder.
        name: By default the folder's.
        config: The config, where it is at hand; it stands for the newest dumped one.
        described: What the config's author says of models (``abbr``, ``title``,
            ``trained_length``), besides what the dumped configs say.
    """
    files = sorted((path / "configs").glob("*.py"))
    configs: list[tuple[str, Mapping[str, Any]]] = []
    damage = []
    for file in files if config is None else files[:-1]:
        try:
            configs.append((file.name, read_run_config(file)))
        except ValueError as error:
            damage.append(f"{error}; what it asked for is not shown")
    if config is not None:
        configs.append((files[-1].name if files else "the config", config))
    told = [
        entry
        for _, known in configs
        for entry in (known.get("summarizer") or {}).get("models") or ()
    ]
    run = _assemble(path, name or path.resolve().name, configs, [*told, *described], tuple(files))
    return replace(run, damage=(*damage, *find_damage(path)))


def read_run_config(file: Path) -> dict[str, Any]:
    """Read a dumped config that a run can be read from.

    Args:
        file: ``RUN/configs/NAME.py``.

    Returns:
        Its values, with models and data sets.

    Raises:
        ValueError: If it is torn, not as the run wrote it, or names no models and data sets; names
            the file.
    """
    try:
        if fault := seal_fault(file, file.parents[1]):
            raise ValueError(f"{file} {fault}")
        config = read_dumped_config(file)
    except OSError as error:
        raise ValueError(f"{file} cannot be read ({error})") from error
    groups = config.get("model_dataset_combinations") or [config]
    for group in groups if isinstance(groups, list) else [groups]:
        for part in ("models", "datasets"):
            entries = group.get(part) if isinstance(group, Mapping) else None
            if not isinstance(entries, list) or not all(map(_is_entry, entries)):
                raise ValueError(f"{file} names no {part}: it is empty, torn or of another program")
    summarizer = config.get("summarizer") or {}
    told = (summarizer.get("models") or []) if isinstance(summarizer, Mapping) else None
    if not isinstance(told, list) or not all(isinstance(e, Mapping) and "abbr" in e for e in told):
        raise ValueError(f"{file} has a summarizer without models by abbr")
    return config


def _is_entry(entry: Any) -> bool:
    """Say whether this is the config of a model or a data set, with what it is read by."""
    if not isinstance(entry, Mapping) or not isinstance(entry.get("type"), str):
        return False
    if not all(isinstance(entry.get(key, ""), str) for key in ("abbr", "path")):
        return False
    numbers = (entry.get("length"), entry.get("depth"))
    return ("abbr" in entry or "path" in entry) and all(
        number is None or (isinstance(number, int | float) and not isinstance(number, bool))
        for number in numbers
    )


def _assemble(
    path: Path,
    name: str,
    configs: Sequence[tuple[str, Mapping[str, Any]]],
    described: Iterable[Mapping[str, Any]],
    files: tuple[Path, ...] = (),
) -> Run:
    pairs: dict[tuple[str, str], Pair] = {}
    models: dict[str, Mapping[str, Any]] = {}
    ambiguous: set[str] = set()
    notes: list[str] = []
    for file, config in configs:
        own: dict[str, Mapping[str, Any]] = {}
        asked: dict[tuple[str, str], Mapping[str, Any]] = {}
        earlier = dict(pairs)
        for model, dataset in list_pairs(config):
            abbr = model_name(model)
            # One name may be run in two ways on different data sets, not on the same one.
            first = asked.setdefault((abbr, dataset_name(dataset)), model)
            differing = _differences(own.setdefault(abbr, model), model)
            if differing := differing or _differences(first, model, WAYS_TO_RUN):
                ambiguous.add(abbr)
                differ = ", ".join(differing)
                notes.append(
                    f"{abbr!r} is the abbr of more than one model of {file} (they differ in "
                    f"{differ}): their results overwrote each other and are not shown"
                )
            pairs[abbr, dataset_name(dataset)] = (model, dataset)
            before, _ = earlier.get((abbr, dataset_name(dataset)), (model, dataset))
            differing = _differences(models.get(abbr, model), model)
            if differing := differing or _differences(before, model, WAYS_TO_RUN):
                both = "results of both lie under one name: shown"
                if (path / "superseded").is_dir():  # where `-r` puts what another maker made
                    both = "what was made before and differs lies in superseded/: shown"
                notes.append(
                    f"{abbr!r} was run again in this folder with another "
                    f"{', '.join(differing)}; {both} as {file} describes them"
                )
        models |= own
    told = {str(entry["abbr"]): entry for entry in described}
    return Run(
        path=path,
        name=name,
        pairs=tuple(pairs.values()),
        facts=tuple(_facts(models, told)),
        ambiguous=frozenset(ambiguous),
        notes=tuple(dict.fromkeys(notes)),
        config_files=files,
    )


def _differences(
    first: Mapping[str, Any], second: Mapping[str, Any], keys: Sequence[str] = MODEL_KEYS
) -> list[str]:
    return [key for key in keys if str(first.get(key)) != str(second.get(key))]


def _facts(
    models: Mapping[str, Mapping[str, Any]], told: Mapping[str, Mapping[str, Any]]
) -> Iterator[ModelFacts]:
    for abbr, model in models.items():
        own, entry = describe_model(model), told.get(abbr, {})
        yield ModelFacts(
            abbr=abbr,
            title=str(entry.get("title", own.title)),
            scaling=own.scaling,
            trained_length=entry.get("trained_length"),
        )
