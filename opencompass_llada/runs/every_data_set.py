"""All data set configs of the package, each cut to a few samples: does everything build and run?

Finds the files, says which lack their data, and cuts the others. Cuts samples, depths and answers,
never the length that a prompt is built at. Runs nothing.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from opencompass_llada.benchmarks.stock import SCORING_PACKAGES
from opencompass_llada.old_names import dotted_name
from opencompass_llada.runs import doctor
from opencompass_llada.runs.doctor import check_data

#: Keywords of data set configs that say how many samples are made.
SAMPLE_KEYS = ("num_samples", "num_repeats_per_file", "num_texts")
#: The fewest draws that each estimator of a likelihood takes.
FEWEST_DRAWS = {"bound": 4, "longllada": 2}


@dataclass(frozen=True, kw_only=True)
class DataSetFile:
    """One file of configs/datasets."""

    name: str
    """Its name without ``.py``, as ``--datasets`` takes it."""
    cells: tuple[dict[str, Any], ...]
    """Its data set configs, whole, classes as dotted names."""
    absent: str
    """What of its data is not on this machine, and how to get it; empty if all is there."""


def find_data_sets(names: Sequence[str] | None = None) -> list[DataSetFile]:
    """Read the data set configs of the package.

    Args:
        names: Files to read, without ``.py``; all by default.

    Returns:
        One entry a file, by name.

    Raises:
        ValueError: For a name that no file has, or a file without ``*_datasets``.
    """
    from opencompass_llada.options import reject_unknown

    files = {path.stem: path for path in _folder().glob("[!_]*.py")}
    reject_unknown("data set config", names or [], files)
    return [_read(files[name]) for name in sorted(names or files)]


def _folder() -> Path:
    import opencompass_llada.configs

    return Path(opencompass_llada.configs.__path__[0]) / "datasets"


def _read(path: Path) -> DataSetFile:
    from mmengine.config import Config

    cfg = Config.fromfile(str(path), format_python_code=False)
    keys = [key for key in cfg if key.endswith("_datasets")]
    if not keys:
        raise ValueError(f"{path.name} must define a *_datasets list, as OpenCompass asks.")
    cells = tuple(_plain(cell) for key in keys for cell in cfg[key])
    findings = [finding for finding in check_data(cells) if finding.level != "ok"]
    reasons = [f"{finding.topic}: {finding.text}" for finding in findings]
    reasons += [reason for cell in cells if (reason := _stock_fault(cell))]
    return DataSetFile(name=path.stem, cells=cells, absent="; ".join(dict.fromkeys(reasons)))


def _stock_fault(cell: Mapping[str, Any]) -> str:
    """Say what one of OpenCompass's own data sets lacks, without its download."""
    from opencompass.utils.datasets_info import DATASETS_MAPPING

    package, _, name = cell["type"].rpartition(".")
    if not package.startswith("opencompass."):
        return ""
    path = str(cell["path"])
    local = DATASETS_MAPPING.get(path, {}).get("local", path)
    folders = ("", os.environ.get("COMPASS_DATA_CACHE", ""), doctor.OPENCOMPASS_CACHE)
    places = [Path(folder).expanduser() / local for folder in folders]
    if not any(place.exists() for place in places):
        return f"{path}: no file or folder {places[1]}"
    needed, distribution = SCORING_PACKAGES.get(name, ("", ""))
    if needed and importlib.util.find_spec(needed) is None:
        return f"{path}: its score needs the package {distribution}"
    return ""


def _plain(value: Any) -> Any:
    """Return a config value with classes and functions as dotted names, as in a dumped config."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return dotted_name(value) if callable(value) else value


def cut_cells(file: DataSetFile, num_samples: int, generation_length: int) -> list[dict[str, Any]]:
    """Return some of a file's cells with few samples and short answers.

    Of each task there stay the shortest and the longest length at the middle depth. `abbr` gets
    the file's name in front, so that two files may hold the same cell.

    Args:
        file: From `find_data_sets`.
        num_samples: Samples of each cell.
        generation_length: Most tokens that are generated.
    """
    cells = [_cut(cell, num_samples, generation_length) for cell in _choose(file.cells)]
    for cell in cells:
        cell["abbr"] = f"{file.name}__{cell['abbr']}"
    return cells


def _choose(cells: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    cells = list(cells)
    depths = sorted({cell["depth"] for cell in cells if "depth" in cell})
    kept = [c for c in cells if "depth" not in c or c["depth"] == depths[len(depths) // 2]]
    lengths: dict[Any, list[int]] = {}
    for cell in kept:
        if "length" in cell:
            lengths.setdefault(cell.get("task"), []).append(cell["length"])
    ends = {task: (min(found), max(found)) for task, found in lengths.items()}
    return [
        cell for cell in kept if "length" not in cell or cell["length"] in ends[cell.get("task")]
    ]


def _cut(cell: Mapping[str, Any], num_samples: int, generation_length: int) -> dict[str, Any]:
    made = deepcopy(dict(cell))
    known = [key for key in SAMPLE_KEYS if key in made]
    for key in known:
        made[key] = min(made[key], num_samples)
    if not known:
        made["reader_cfg"]["test_range"] = f"[0:{num_samples}]"
    inferencer = made["infer_cfg"]["inferencer"]
    if "likelihood" in inferencer:
        likelihood = inferencer["likelihood"]
        likelihood["num_draws"] = FEWEST_DRAWS[likelihood.get("estimator", "bound")]
    else:
        inferencer["max_out_len"] = min(
            inferencer.get("max_out_len", generation_length), generation_length
        )
    return made
