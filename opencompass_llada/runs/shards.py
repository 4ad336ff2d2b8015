"""Lets processes that know nothing of each other answer a run's samples: each a part of its own.

``LLADA_SHARD=i/n`` takes part i, from 0 on, of n. The first process to come writes who answers
what to ``provenance/shards.json`` of the run's folder, by cost; the others read it, so that parts
never overlap, whatever each finds there. Nothing is scored here.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from opencompass_llada.files import remove, settle, temporary_name
from opencompass_llada.runs import recorded_files as recorded
from opencompass_llada.runs.hashes import hash_values

VARIABLE = recorded.SHARD_VARIABLE
NUMBER_VARIABLE = "LLADA_NUM_SHARDS"
PLAN = "shards.json"
#: Keys of a model's config that decide no answer, and may differ from node to node.
_BY_NODE = ("run_cfg", "batch_size", "max_num_workers")

Range = tuple[int, int]
Pair = tuple[Mapping[str, Any], Mapping[str, Any]]


@dataclass(frozen=True)
class Shard:
    """One of the equal parts of a run."""

    index: int
    """From 0 on."""
    number: int
    """Of all shards."""

    def __str__(self) -> str:
        """Return what the variable holds."""
        return f"{self.index}/{self.number}"


@dataclass(frozen=True, kw_only=True)
class CellShares:
    """Who answers which samples of a cell."""

    total: int | None
    """Samples; None where the cell is not cut, and has one range, (0, 1)."""
    digest: str
    """Of what decides the cell's answers."""
    ranges: tuple[tuple[int, int, int], ...]
    """Shard, start and stop; in the order of samples."""

    def of(self, shard: int) -> list[Range]:
        """Return the ranges of a shard."""
        return [(start, stop) for own, start, stop in self.ranges if own == shard]


Plan = dict[tuple[str, str], CellShares]
"""By the names of model and data set."""


@dataclass(frozen=True, kw_only=True)
class OwnPart:
    """What one process of a run answers."""

    shard: Shard
    cells: Plan

    def shares(self, model: Mapping[str, Any], dataset: Mapping[str, Any]) -> CellShares:
        """Return who answers a cell."""
        return self.cells[recorded.model_name(model), recorded.dataset_name(dataset)]

    def owns(self, model: str, stem: str) -> bool:
        """Say whether a file of predictions, by its name without ``tmp_``, is this process's."""
        cell, samples = self.cells.get((model, stem)), None
        if cell is None:
            dataset, samples = recorded.split_shard_name(stem)
            cell = self.cells.get((model, dataset))
        if cell is None:
            return False
        own = cell.of(self.shard.index)
        if samples is None:
            return own == [(0, cell.total or 1)]
        return any(start <= samples[0] and samples[1] <= stop for start, stop in own)


def read_shard(variables: Mapping[str, str] = os.environ) -> Shard | None:
    """Return the part that LLADA_SHARD asks for, None where it is not set.

    ``auto`` takes it from the variables of a Slurm array (SLURM_ARRAY_TASK_ID and its kin), or of a
    Kubernetes indexed job (JOB_COMPLETION_INDEX, with LLADA_NUM_SHARDS). Only when asked to: the
    elements of many an array run different configs, of which parts alone would then be made.

    Raises:
        ValueError: For anything else than ``i/n`` with i below n, or where ``auto`` finds no array.
    """
    written = variables.get(VARIABLE, "").strip()
    if not written:
        return None
    if written == "auto":
        return _read_array(variables)
    match = re.fullmatch(r"(\d+)/(\d+)", written)
    if match is None:
        raise ValueError(
            f"{VARIABLE}={written!r} must be i/n, such as 0/8, or auto in a Slurm array or a "
            "Kubernetes indexed job"
        )
    return _check(int(match[1]), int(match[2]), f"{VARIABLE}={written}")


def _check(index: int, number: int, source: str) -> Shard:
    if number < 1:
        raise ValueError(f"{source}: a run has at least 1 shard; use {VARIABLE}=0/1 or more")
    if not 0 <= index < number:
        raise ValueError(
            f"{source}: shards count from 0, so that those of {number} are 0/{number} to "
            f"{number - 1}/{number}; use one of these"
        )
    return Shard(index, number)


def _read_array(variables: Mapping[str, str]) -> Shard:
    def number(name: str, default: int | None = None) -> int:
        text = variables.get(name, "").strip()
        if not text and default is not None:
            return default
        if not text.isdecimal():
            raise ValueError(
                f"{VARIABLE}=auto needs {name} as a whole number, and it is {text!r}; give "
                f"{VARIABLE}=i/n instead"
            )
        return int(text)

    if "SLURM_ARRAY_TASK_ID" in variables:
        count, first = number("SLURM_ARRAY_TASK_COUNT"), number("SLURM_ARRAY_TASK_MIN", 0)
        step = number("SLURM_ARRAY_TASK_STEP", 1) or 1
        index, rest = divmod(number("SLURM_ARRAY_TASK_ID") - first, step)
        last = number("SLURM_ARRAY_TASK_MAX", first + (count - 1) * step)
        if rest or last != first + (count - 1) * step:
            raise ValueError(
                f"{VARIABLE}=auto: the array has {count} tasks and gaps between {first} and "
                f"{last}, so that a task's number does not say its shard. Give {VARIABLE}=i/n, "
                f"such as {VARIABLE}=$SLURM_ARRAY_TASK_ID/8 for tasks of --array=0-7"
            )
        return _check(index, count, f"{VARIABLE}=auto")
    if "JOB_COMPLETION_INDEX" in variables:
        return _check(
            number("JOB_COMPLETION_INDEX"), number(NUMBER_VARIABLE), f"{VARIABLE}=auto"
        )  # fmt: skip
    raise ValueError(
        f"{VARIABLE}=auto finds neither a Slurm array (SLURM_ARRAY_TASK_ID) nor a Kubernetes "
        f"indexed job (JOB_COMPLETION_INDEX); give {VARIABLE}=i/n"
    )


def find_own(
    run_path: Path, pairs: Iterable[Pair], make: Callable[[int], Mapping[Any, Any]]
) -> OwnPart | None:
    """Return what this process answers of a run, None where it answers all.

    ``make`` cuts the cells into so many parts: names of model and data set -> samples (or None)
    and ranges, as in `CellShares`. It is called where the run has no plan yet.

    Raises:
        ValueError: If the folder's plan has another number of shards, or is for other cells.
    """
    shard = read_shard()
    if shard is None:
        return None
    digests = {_name(pair): _digest(*pair) for pair in pairs}
    plan = read_plan(run_path)
    if plan is None:
        made = make(shard.number)
        cells = {
            name: {"total": total, "digest": digests[name], "ranges": ranges}
            for name, (total, ranges) in made.items()
        }
        _write_plan(run_path, shard.number, cells)
        plan = read_plan(run_path)
        assert plan is not None, "it was written, by this process or another"
    number, known = plan
    if number != shard.number:
        raise ValueError(
            f"{VARIABLE}={shard}: the run in {str(run_path)!r} was begun with {number} shards. Use "
            f"{VARIABLE}=i/{number}, or another folder with -r NAME"
        )
    _refuse_other_cells(run_path, shard, known, digests)
    return OwnPart(shard=shard, cells=known)


def _refuse_other_cells(
    run_path: Path, shard: Shard, known: Plan, digests: Mapping[tuple[str, str], str]
) -> None:
    names = {*known, *digests}
    other = sorted(
        name for name in names
        if name not in known or known[name].digest != digests.get(name)
    )  # fmt: skip
    if other:
        first = ", ".join(f"{model} on {dataset}" for model, dataset in other[:3])
        raise ValueError(
            f"{VARIABLE}={shard}: {len(other)} of {len(names)} cells are not as the config of the "
            f"first shard had them in {str(run_path)!r}, among them {first}. Give all shards one "
            "config, the same LLADA_* variables and folders of data of the same name, or use "
            "another folder with -r NAME"
        )


def _name(pair: Pair) -> tuple[str, str]:
    return recorded.model_name(pair[0]), recorded.dataset_name(pair[1])


def _digest(model: Mapping[str, Any], dataset: Mapping[str, Any]) -> str:
    from opencompass_llada.runs import makers  # it imports OpenCompass, which takes seconds

    own = {key: value for key, value in model.items() if key not in _BY_NODE}
    return hash_values([makers.plain(own), makers.plain(dataset)])


def plan_path(run_path: Path) -> Path:
    """Return the file that says who answers what."""
    return run_path / recorded.PROVENANCE / PLAN


def _write_plan(
    run_path: Path, number: int, cells: Mapping[tuple[str, str], Mapping[str, Any]]
) -> None:
    """Write a plan where there is none; that of a process that was faster stays."""
    rows = [{"model": model, "dataset": name, **own} for (model, name), own in cells.items()]
    content = json.dumps({"shards": number, "cells": rows}, indent=0, ensure_ascii=False) + "\n"
    path = plan_path(run_path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(temporary_name(path.name))
    try:
        temporary.write_text(content, encoding="utf-8")
        settle(temporary)
        os.link(temporary, path)
    except FileExistsError:
        return
    except OSError:  # no links on this file system: of two at once, whose plans are equal, one wins
        os.replace(temporary, path)
    finally:
        remove(temporary)


def read_plan(run_path: Path) -> tuple[int, Plan] | None:
    """Return a run's number of shards and who answers what; None for a run without shards."""
    path = plan_path(run_path)
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        cells = {
            (row["model"], row["dataset"]): CellShares(
                total=row["total"],
                digest=row["digest"],
                ranges=tuple((own, start, stop) for own, start, stop in row["ranges"]),
            )
            for row in content["cells"]
        }
        return int(content["shards"]), cells
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is torn ({error!r}). Delete it, when no shard is at work, and start one "
            "again: it writes the same plan for the same config"
        ) from error


def find_unanswered(run_path: Path, shard: int, cells: Plan) -> list[tuple[str, str, Range]]:
    """Return model, data set and samples of a shard that are not answered; (0, 1) for all."""
    names = frozenset(name for _, name in cells)
    found = []
    for (model, name), own in cells.items():
        if not (ranges := own.of(shard)):
            continue
        files = recorded.find_finished(run_path / "predictions" / model, name, names)
        if files and files[0].is_whole:
            continue
        there = {i for file in files if file.total == own.total for i in file.samples or ()}
        found += [
            (model, name, (start, stop))
            for start, stop in ranges
            if own.total is None or not there.issuperset(range(start, stop))
        ]
    return found


def describe_unfinished(run_path: Path) -> str:
    """Say which shards of a run are not finished and how to go on; '' where all are, or none is."""
    plan = read_plan(run_path)
    if plan is None:
        return ""
    number, cells = plan
    lines = []
    for index in range(number):
        if missing := find_unanswered(run_path, index, cells):
            num_own = sum(bool(own.of(index)) for own in cells.values())
            num_open = len({(model, name) for model, name, _ in missing})
            lines.append(f"  {VARIABLE}={index}/{number}: {num_open} of its {num_own} cells")
    if not lines:
        return ""
    return (
        f"{len(lines)} of {number} shards are not finished. Start these again with the same "
        "command, then score again:\n" + "\n".join(lines)
    )


def refuse_command(shard: Shard, arguments: Any) -> None:
    """Refuse a command line that a shard cannot be run by; a ValueError says what to give."""
    what = f"{VARIABLE}={shard}"
    if arguments.mode in ("eval", "viz"):
        raise ValueError(
            f"{what}: a shard makes answers, and -m {arguments.mode} is for the whole run. Leave "
            f"{VARIABLE} out (env -u {VARIABLE} ...)"
        )
    if arguments.dry_run:
        raise ValueError(
            f"{what}: the first shard writes for all who answers what, and a dry run writes "
            f"nothing. Leave {VARIABLE} out of it (env -u {VARIABLE} ...)"
        )
    if arguments.slurm or arguments.dlc:
        option = "--slurm" if arguments.slurm else "--dlc"
        raise ValueError(
            f"{what}: a shard runs where its process is, and {option} starts jobs. Leave one out"
        )
    if getattr(arguments, "reuse", None) in (None, "latest"):
        raise ValueError(
            f"{what}: all shards need one folder, which is not named. Give -w DIR -r NAME; it is "
            "made if need be"
        )
