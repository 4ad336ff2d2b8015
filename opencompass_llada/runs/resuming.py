"""Decides what a resumed run reuses: which run it is, and which of its cells this config made.

Compares each file of predictions or results with the maker that the present config gives it
(`makers`). What differs is moved to the run's ``superseded/`` before the first task, and so made
again; where nothing can be (``-m eval``, ``-m viz``), it is refused.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from opencompass_llada.devices import parse_dtype
from opencompass_llada.runs import makers
from opencompass_llada.runs import recorded_files as recorded
from opencompass_llada.runs.provenance import hash_files
from opencompass_llada.runs.run_folder import read_dumped_config
from opencompass_llada.wrapper import LLaDACausalLM

logger = logging.getLogger(__name__)

_BY_NUMBER = "shards named by number alone"
_NO_ANSWERS = "no answers beside the result"
#: Differences that a mode which makes no answers reports and does not refuse.
_TOLD = (makers.NO_RECORD, _BY_NUMBER, _NO_ANSWERS, "versions")
#: Differences of a result that go when it is scored again.
_RESCORED = ("answers", "scoring")


@dataclass(frozen=True, kw_only=True)
class ResumedAs:
    """How a run is resumed."""

    mode: str  # OpenCompass's ``-m``
    runs_locally: bool  # the tasks run on this machine, so that their device is known
    debug: bool  # they run in this process and see its GPUs
    scoring: Mapping[str, Any]  # see `makers.describe_scoring`
    #: Which answers, by names of model and file, are looked at; not those of others at work.
    owns: Callable[[str, str], bool] = lambda model, stem: True


class _Cell:
    """A model on a data set, a run's files of it, and what of them is not this config's."""

    def __init__(self, run_path: Path, model: Any, dataset: Any, datasets: Container[str]) -> None:
        self.model, self.dataset = model, dataset
        self.model_name, name = recorded.model_name(model), recorded.dataset_name(dataset)
        self.name = f"{self.model_name} on {name}"
        folder = run_path / "predictions" / self.model_name
        self.answers = recorded.find_answer_files(folder, name, datasets)
        self.finished = recorded.find_finished(folder, name, datasets)
        self.result = run_path / "results" / self.model_name / f"{name}.json"
        self.differing: list[str] = []
        self.paths: list[Path] = []


def choose_run(cfg: Mapping[str, Any], work_dir: Path) -> str | None:
    """Return the newest run in a work directory that was asked for the same cells.

    None where the folder holds no run; runs of other cells only are refused and named.
    """
    asked = _cells(cfg)
    others: list[tuple[int, str]] = []
    for folder in sorted(work_dir.iterdir(), reverse=True) if work_dir.is_dir() else []:
        found: set[tuple[str, str]] = set()
        for file in sorted((folder / "configs").glob("*.py")):
            try:
                found |= _cells(read_dumped_config(file))
            except (ValueError, KeyError, TypeError) as error:
                logger.warning("%s is passed over: %s", file, error)
        if found == asked and found:
            return folder.name
        if found:
            others.append((len(found & asked), folder.name))
    if not others:
        return None
    named = ", ".join(
        f"{name} ({common} of this config's {len(asked)} cells)"
        for common, name in sorted(others, reverse=True)[:5]
    )
    raise ValueError(
        f"-r: no run in {str(work_dir)!r} was asked for the same models and data sets as this "
        f"config. There are {named}. Name the one to continue with -r NAME, or leave -r out"
    )


def check_resumed(cfg: Mapping[str, Any], run_path: Path, how: ResumedAs) -> None:
    """Set aside, or refuse by a ValueError, what another maker than this config made."""
    models = {recorded.model_name(model): model for model, _ in recorded.list_pairs(cfg)}
    files = {name: hash_files(model, fetch=False) for name, model in models.items()}
    datasets = recorded.list_names(cfg)
    cells = [_Cell(run_path, *pair, datasets) for pair in recorded.list_pairs(cfg)]
    for cell in cells:
        stems = {file: makers.maker_path(file.path).stem for file in cell.answers}
        cell.answers = [file for file in cell.answers if how.owns(cell.model_name, stems[file])]
    cells = [cell for cell in cells if cell.answers or cell.result.exists()]
    by_data: dict[str, list[_Cell]] = {}
    for cell in cells:
        own = {k: v for k, v in cell.dataset.items() if k not in ("infer_cfg", "eval_cfg")}
        by_data.setdefault(str(makers.plain(own)), []).append(cell)
    for same in by_data.values():
        built = _build(same[0].dataset) if how.mode != "viz" else None
        for cell in same:
            _compare(cell, files[cell.model_name], built, how)
    found = [cell for cell in cells if cell.differing]
    makes = how.mode in ("all", "infer")
    if makes:
        _set_aside_strangers(cfg, run_path, models, files)
    if not found:
        return
    told = _count(found)
    if makes:
        target = makers.set_aside(run_path, [path for cell in found for path in cell.paths])
        logger.warning(
            "%d of %d cells in %s were not made as this config makes them, and are made again: %s. "
            "What was there lies in %s.",
            len(found), len(cells), run_path, told, target,
        )  # fmt: skip
        return
    known = (*_TOLD, *_RESCORED) if how.mode == "eval" else _TOLD
    refused = [cell for cell in found if any(not n.startswith(known) for n in cell.differing)]
    if refused:
        names = ", ".join(cell.name for cell in refused[:5])
        raise ValueError(
            f"-r: {len(refused)} of {len(cells)} cells in {str(run_path)!r} were made by something "
            f"else than this config describes: {_count(refused)}; first {names}. Give the config "
            f"that made them; or leave out -m {how.mode}, and they are made again and the old ones "
            "set aside"
        )
    if how.mode == "eval":
        done = "may be of another maker than this config; what is there is scored (again)"
        paths = [path for cell in found for path in cell.paths]
        makers.set_aside(run_path, [p for p in paths if p.is_relative_to(run_path / "results")])
    else:
        done = "cannot be compared with this config and are shown as they are"
    logger.warning("%d of %d cells in %s %s: %s.", len(found), len(cells), run_path, done, told)


def _set_aside_strangers(
    cfg: Mapping[str, Any],
    run_path: Path,
    models: Mapping[str, Mapping[str, Any]],
    files: Mapping[str, Mapping[str, tuple[str, str]]],
) -> None:
    """Set aside cells of data sets not asked for now, of another model under an asked one's name.

    A report describes all cells of a name by the newest config.
    """
    asked = _cells(cfg)
    paths: list[Path] = []
    for name, model in models.items():
        own = sorted((run_path / "predictions" / name).glob(f"*{makers.SUFFIX}"))
        wanted = makers.describe_weights(files[name], makers.read_options(model, fetch=False))
        wanted.pop("tokenizer", None)
        for maker in own:
            dataset, answers = recorded.split_shard_name(maker.stem)[0], maker.with_suffix(".json")
            found = makers.read_maker(answers)
            if (name, dataset) not in asked and makers.list_differences(found, wanted):
                result = run_path / "results" / name / f"{dataset}.json"
                unfinished = maker.with_name(f"tmp_{maker.stem}.jsonl")
                paths += [result, makers.maker_path(result), answers, unfinished, maker]
    if paths:
        logger.warning(
            "Cells of data sets that this config does not ask for were made by other models under "
            "the names of its own; they lie in %s.",
            makers.set_aside(run_path, paths),
        )


def _compare(cell: _Cell, files: Mapping[str, tuple[str, str]], built: Any, how: ResumedAs) -> None:
    """Compare a cell's answers and result with what this config would make."""
    model, dataset, result = cell.model, cell.dataset, cell.result
    expected = makers.describe_maker(
        model,
        dataset,
        files=files,
        data={},
        dtype=_dtype_of(model, how),
        options=makers.read_options(model, fetch=False),
    )
    for file in cell.answers:
        wanted = {**expected, **_samples(built, dataset, file)}
        found = makers.list_differences(makers.read_maker(file.path), wanted)
        if file.number is not None:
            found = [_BY_NUMBER]
        if found:
            cell.differing += found
            cell.paths += [file.path, makers.maker_path(file.path)]
    if result.exists():
        answered = [makers.read_maker(file.path) for file in cell.finished]
        wanted = makers.describe_scoring(model, dataset, answered, **how.scoring)
        found = makers.list_differences(makers.read_maker(result), wanted)
        cell.differing += found if answered else [_NO_ANSWERS]
        if cell.differing:
            cell.paths[:0] = [result, result.with_suffix(""), makers.maker_path(result)]
    cell.differing = list(dict.fromkeys(cell.differing))


def _samples(built: Any, dataset: Mapping[str, Any], file: recorded.AnswerFile) -> makers.Maker:
    """Return the maker's part on the samples that a file should answer."""
    if built is None:
        return {}
    data = makers.describe_data(built, dataset)
    if file.samples is not None:
        rows = built.test
        own = [rows[i] for i in file.samples if i < len(rows)]
        data |= makers.describe_data(SimpleNamespace(test=own), {})
        if file.total != len(rows):
            data["samples"] = f"{len(rows)} samples"
    return data


def _build(dataset: Mapping[str, Any]) -> Any:
    from opencompass.utils import build_dataset_from_cfg

    try:
        return build_dataset_from_cfg(dataset)
    except Exception as error:
        name = recorded.dataset_name(dataset)
        raise ValueError(
            f"data set {name!r} cannot be read, so what is there of it cannot be "
            f"compared: {type(error).__name__}: {error}"
        ) from error


def _dtype_of(model: Mapping[str, Any], how: ResumedAs) -> str | None:
    """Return the dtype that a task would hold the weights in; None where it cannot be known."""
    if not recorded.is_ours(model):
        return None
    placement = LLaDACausalLM.check_arguments(**recorded.model_keywords(model)).placement
    asked = parse_dtype(placement.dtype)
    if asked is not None:
        return str(asked).removeprefix("torch.")
    if how.mode in ("eval", "viz"):  # perhaps on another machine than the answers were made on
        return None
    if placement.device is not None:
        return "bfloat16" if str(placement.device).startswith("cuda") else "float32"
    if not how.runs_locally:
        return None
    import torch

    num_gpus = (model.get("run_cfg") or {}).get("num_gpus", 0)
    on_cuda = torch.cuda.is_available() if how.debug else bool(num_gpus)
    return "bfloat16" if on_cuda else "float32"


def _count(found: Sequence[_Cell]) -> str:
    counts = Counter(name for cell in found for name in cell.differing)
    return ", ".join(f"{count} for {name}" for name, count in counts.most_common(8))


def _cells(cfg: Mapping[str, Any]) -> set[tuple[str, str]]:
    return {(recorded.model_name(m), recorded.dataset_name(d)) for m, d in recorded.list_pairs(cfg)}
