"""Writes a config of about ten lines: given models on given benchmarks.

What is given is checked as far as it can be without torch or OpenCompass; the rest is checked when
the config is run.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path, PurePath
from typing import Any

from opencompass_llada.options import nearest, reject_unknown
from opencompass_llada.presets import check_preset
from opencompass_llada.runs.checkpoints import (
    PEFT,
    full_path,
    hint_folder,
    is_path,
    plain_name,
    split_adapter,
)
from opencompass_llada.runs.model_configs import parse_scaling
from opencompass_llada.runs.model_table import KNOWN_MODELS
from opencompass_llada.runs.settings import read_length

#: The names that `runs.evaluation.board_benchmarks` gives the shipped ones.
SHIPPED = (
    *("niah", "ruler", "ppl", "longbench", "longbench_e", "longbench_v2", "short"),
    # Generated suites.
    *("graph_walks", "changing_state", "coreference", "linked_needles", "section_lists"),
    # OpenCompass's own long suites.
    *("mrcr", "babilong", "aa_lcr", "needlebench_v2", "needlebench_atc"),
    *("infinitebench", "leval", "lveval"),
)
_WIDTH = 100


@dataclass(frozen=True, kw_only=True)
class NewConfig:
    """What a config is to hold; lists are those of the command line, separated at commas."""

    models: Sequence[str]
    benchmarks: Sequence[str] = ("niah",)
    lengths: Sequence[str] = ()
    scaling: Sequence[str] = ()
    chat: bool = False
    sampler: str | None = None
    """A preset of the sampler."""
    data: str | None = None
    datasets: Sequence[str] = ()
    """Names of OpenCompass's data set configs, such as ``gsm8k_gen``."""

    def __post_init__(self) -> None:
        """Check names, paths, lengths and scalings; a ValueError says what is wrong."""
        reject_unknown("benchmark", self.benchmarks, SHIPPED)
        for spec in self.models:
            _check_model(spec)
        for length in self.lengths:
            if not read_length(length):
                raise ValueError(
                    f"--lengths {length!r} must be a number of tokens, or such as 4k for 4096"
                )
        if self.sampler is not None:
            check_preset(self.sampler)
        for scaling in self.scaling:
            if "all" not in scaling.split(":"):
                parse_scaling(scaling, trained_length=4096)

    @property
    def name(self) -> str:
        """What the run's folder is called: its models and benchmarks."""
        models = [plain_name(PurePath(_split(spec)[1]).name) for spec in self.models]
        models = [f"{models[0]}-and-{len(models) - 1}-more"] if len(models) > 3 else models
        return f"{'-'.join([*self.benchmarks, *self.datasets])}_{'-'.join(models)}"

    def write(self, work_dir: str | None = None) -> str:
        """Return the config's text; `work_dir` is where its runs go, by default named by `name`."""
        imports, lists = _find_datasets(self.datasets)
        keywords: dict[str, Any] = {
            "models": [_with_full_path(spec) for spec in self.models],
            "benchmarks": list(self.benchmarks),
            "lengths": [int(n) if n.isdecimal() else n for n in self.lengths],
            "scaling": list(self.scaling),
            "chat": self.chat,
            "sampler": self.sampler,
            "data": self.data,
        }
        written = [f"    {name}={_show(value)}," for name, value in keywords.items() if value]
        if lists:
            written.append(f"    datasets=[{', '.join(f'*{name}' for name in lists)}],")
        helper = "opencompass_llada.configs.helpers.planning"
        lines = [
            "from mmengine.config import read_base",
            "",
            "with read_base():",
            f"    from {helper} import plan_evaluation as __plan_evaluation",
            *(f"    {line}" for line in imports),
            "",
            "__run = __plan_evaluation(",
            *written,
            ")",
            "models, datasets = __run.models, __run.datasets",
            "model_dataset_combinations = __run.combinations",
            "infer, eval, summarizer = __run.infer, __run.eval, __run.summarizer",
            "custom_imports = __run.custom_imports",
            f"work_dir = {_show(work_dir or f'outputs/{self.name}')}",
        ]
        return "\n".join(lines) + "\n"


def _show(value: Any) -> str:
    """Return a value as Python has it, with the quotes of the package's own files."""
    if isinstance(value, list):
        return f"[{', '.join(map(_show, value))}]"
    if isinstance(value, str) and '"' not in value and "\\" not in value and value.isprintable():
        return f'"{value}"'
    return repr(value)


def _split(spec: str) -> tuple[str, str]:
    """Return name and path of a model, as `ModelTable.resolve` reads it; '' for no name."""
    if PEFT in spec and "=" not in spec.partition(PEFT)[0]:
        return "", spec
    name, equals, path = spec.partition("=")
    if not equals or is_path(name):
        return "", spec
    return name.strip(), path.strip()


def _with_full_path(spec: str) -> str:
    name, path = _split(spec)
    path = path if path in KNOWN_MODELS else full_path(path)
    return f"{name}={path}" if name else path


def _check_model(spec: str) -> None:
    """Refuse a name that is not known, and a path that is no checkpoint."""
    path, adapter = split_adapter(_split(spec)[1])
    is_here = adapter is not None and adapter.startswith((".", "~", "/"))
    if is_here and not (Path(str(adapter)).expanduser() / "adapter_config.json").is_file():
        raise ValueError(
            f"--model {spec!r}: {adapter!r} holds no adapter_config.json, so it is no adapter; "
            "give the folder that does"
        )
    if path in KNOWN_MODELS:
        return
    folder = Path(path).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ValueError(
                f"--model {spec!r}: {path!r} holds no config.json, so it is no checkpoint; give "
                "the folder that does"
            )
        return
    if not is_path(path):
        reject_unknown("model", [path], KNOWN_MODELS, hint_folder(path, KNOWN_MODELS))
    if path.startswith((".", "~", "/")) or path.count("/") > 1:
        raise ValueError(f"--model {spec!r}: there is no folder {path!r}; correct the path")


def _find_datasets(names: Iterable[str]) -> tuple[list[str], list[str]]:
    """Return the import lines of OpenCompass's data set configs, and the lists they bring."""
    imports, lists = [], []
    known = _list_known() if names else {}
    for name in names:
        if name not in known:
            guess = nearest(name, known)
            hint = f" Did you mean {guess!r}?" if guess else ""
            raise ValueError(
                f"--datasets {name!r} is no data set config of OpenCompass.{hint} Give a name as "
                "`opencompass --datasets` takes it, such as gsm8k_gen"
            )
        module, variable = known[name], _find_list(known[name])
        alias = "__" + re.sub(r"\W", "_", name)
        inside = module.relative_to(_folder()).with_suffix("")
        dotted = ".".join(("opencompass.configs.datasets", *inside.parts))
        imports.append(f"from {dotted} import {variable} as {alias}")
        lists.append(alias)
    return imports, lists


def _folder() -> Path:
    spec = find_spec("opencompass")
    if spec is None or spec.origin is None:
        raise ValueError("--datasets needs OpenCompass; install it: pip install opencompass")
    return Path(spec.origin).parent / "configs" / "datasets"


def _list_known() -> Mapping[str, Path]:
    """Return OpenCompass's data set configs whose paths can be imported, by their names."""
    files = sorted(_folder().rglob("*.py"))
    named = [
        file
        for file in files
        if all(part.isidentifier() for part in file.relative_to(_folder()).with_suffix("").parts)
    ]
    return {file.stem: file for file in reversed(named)}


def _find_list(file: Path) -> str:
    """Return the list of data sets that a config defines or imports."""
    found: list[str] = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            found += [alias.asname or alias.name for alias in node.names]
        elif isinstance(node, ast.Assign):
            found += [target.id for target in node.targets if isinstance(target, ast.Name)]
    lists = sorted({name for name in found if name.endswith("_datasets")})
    if len(lists) != 1:
        raise ValueError(
            f"--datasets: {file.name} defines {len(lists)} lists of data sets where one is meant; "
            "name a config that defines one, or import what you need yourself"
        )
    return lists[0]
