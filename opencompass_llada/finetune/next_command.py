"""Words the command that evaluates what a training run made, for the folder that the user is in."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import opencompass_llada
from opencompass_llada.assets import resolve_path
from opencompass_llada.finetune.adapters import ADAPTER
from opencompass_llada.finetune.recipe import Recipe
from opencompass_llada.finetune.saving import RECORD_FILE
from opencompass_llada.runs.checkpoints import PEFT
from opencompass_llada.runs.model_table import KNOWN_MODELS

_CONFIG = "configs/eval_llada_niah.py"
#: Twice the trained length is asked, too, up to this many tokens; beyond it takes too long.
_LONGEST = 131_072
_MOST_STARTS = 20


def describe_evaluation(recipe: Recipe, folder: Path, start_length: int | None) -> str:
    """Return lines with the commands that evaluate a checkpoint on needles.

    ``folder`` is the checkpoint, ``start_length`` the trained length of the one that it started
    from. Lengths are both trained lengths and twice the new one.
    """
    lengths = {recipe.trained_length, *([start_length] if start_length else [])}
    if 2 * recipe.trained_length <= _LONGEST:
        lengths.add(2 * recipe.trained_length)
    like, place = _find_like(recipe.init_from), _from_here(folder)
    lora = recipe.lora if recipe.init_from is not None else None
    lines = []
    if lora is None or lora.save != "adapter":
        spec = f"{like}={place}" if like else place
        lines += ["Evaluate it, from the folder that you are in:", _command(spec, sorted(lengths))]
    if lora is not None and lora.save != "merged":
        base = str(recipe.init_from)
        is_listed = like is not None and KNOWN_MODELS[like].path == base
        base = like if is_listed and like else f"{like}={base}" if like else base
        spec = f"{base}{PEFT}{place}/{ADAPTER}"
        lines += ["The adapter over its base:", _command(spec, sorted(lengths))]
    return "\n".join(lines)


def _command(spec: str, lengths: Sequence[int]) -> str:
    if "," in spec:
        return f"(LLADA_MODELS splits at commas: move {spec} to a path without any)"
    variables = {
        "LLADA_MODELS": spec,
        "LLADA_SCALING": "none",  # the checkpoint's own RoPE holds it
        "LLADA_LENGTHS": ",".join(map(str, lengths)),
    }
    given = " ".join(f"{name}={shlex.quote(value)}" for name, value in variables.items())
    return f"{given} {_runner()}"


def _runner() -> str:
    """Return how a shipped config is run here: in a checkout by run.py, elsewhere as installed."""
    if Path("run.py").is_file() and Path(_CONFIG).is_file():
        return f"{_python()} run.py {_CONFIG}"
    config = Path(opencompass_llada.__file__).parent / _CONFIG
    program = "opencompass-llada"
    if shutil.which(program) is None:
        program = f"{_python()} -m opencompass_llada.cli"
    return f"{program} run {shlex.quote(str(config))}"


def _python() -> str:
    """Return `python` where that is the interpreter that runs now, else its path."""
    found = shutil.which("python")
    return (
        "python" if found and Path(found).samefile(sys.executable) else shlex.quote(sys.executable)
    )


def _from_here(folder: Path) -> str:
    """Return a folder's path from the current one, absolute where it does not lie below it."""
    absolute, here = folder.absolute(), Path.cwd()
    inside = absolute.is_relative_to(here)
    path = str(absolute.relative_to(here)) if inside else str(absolute)
    return path if os.sep in path else f".{os.sep}{path}"  # a bare word would be a model's name


def _find_like(init_from: str | None) -> str | None:
    """Return the listed model that a checkpoint was made from, by the runs in between."""
    for _ in range(_MOST_STARTS):
        if init_from is None:
            return None
        for name, facts in KNOWN_MODELS.items():
            if facts.path == init_from:
                return name
        record = Path(resolve_path(init_from)) / RECORD_FILE
        try:
            init_from = json.loads(record.read_text(encoding="utf-8"))["recipe"]["init_from"]
        except (OSError, ValueError, KeyError, TypeError):  # not made by this package
            return None
    return None
