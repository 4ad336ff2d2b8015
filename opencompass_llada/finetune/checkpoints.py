"""A run's checkpoints: which are kept, where it goes on, and whether it may.

``output_dir`` holds ``step-000100/`` and so on (published format, with ``state/`` for going on),
``checkpoints.json`` (which is the last and the best), ``final/`` (published format alone) and logs.
Writes no weights itself.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import field
from pathlib import Path
from typing import Any

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from opencompass_llada.files import write_text
from opencompass_llada.finetune.saving import (
    saving,
)
from opencompass_llada.logs import get_logger

logger = get_logger(__name__)

INDEX_FILE = "checkpoints.json"
FINAL = "final"
STATE = "state"
_OWN = (INDEX_FILE, FINAL, "logs")


@dataclass(config=ConfigDict(strict=True))
class CheckpointIndex:
    """The checkpoints of one output folder.

    Attributes:
        folder: The output folder.
        steps: Steps that have a checkpoint, ascending.
        best_step: The step with the lowest score; None before the first score.
        best_score: Its score.
        recipe: The recipe that the run began with.
        made_from: Digests of what it began with: see record.describe_inputs.
    """

    folder: Path
    steps: list[int] = field(default_factory=list)
    best_step: int | None = None
    best_score: float | None = None
    recipe: dict[str, Any] = field(default_factory=dict)
    made_from: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> CheckpointIndex:
        """Read the index of an output folder, empty where there is none.

        Raises:
            ValueError: If the folder is a file, or holds something else than a run, or the index
                is damaged.
        """
        file = folder / INDEX_FILE
        if file.is_file():
            try:
                values = json.loads(file.read_text(encoding="utf-8"))
                index = cls(folder=folder, **values)
                if index.steps != sorted(set(index.steps)) or min(index.steps, default=0) < 0:
                    raise ValueError(f"steps {index.steps} do not ascend from 0")
            except (OSError, ValueError, TypeError) as error:
                raise ValueError(
                    f"output_dir={str(folder)!r}: {INDEX_FILE} cannot be read ({_first_line(error)}"
                    "). Restore it, or start anew in another output_dir, with init_from naming the "
                    "newest step-* folder in this one to keep what was learnt."
                ) from error
            return index
        foreign = folder.is_dir() and any(
            entry.name not in _OWN and not entry.name.startswith(".") for entry in folder.iterdir()
        )
        if foreign or (folder.exists() and not folder.is_dir()):
            raise ValueError(
                f"output_dir={str(folder)!r} holds files and no {INDEX_FILE}, so it is not an "
                "earlier run; training there would mix with them. Name a new or empty folder."
            )
        return cls(folder=folder)

    def path(self, step: int) -> Path:
        """Return where a step's checkpoint lies."""
        return self.folder / f"step-{step:06d}"

    @property
    def last(self) -> Path | None:
        """The newest checkpoint; None if there is none."""
        return self.path(self.steps[-1]) if self.steps else None

    def add(self, step: int, score: float | None, keep_last: int) -> None:
        """Take note of a checkpoint that has been written, and drop those no longer kept.

        Args:
            step: Its step.
            score: What is better when lower; None if nothing was measured.
            keep_last: Newest ones to keep, beside the best.
        """
        self.steps = sorted({*self.steps, step})
        if score is not None and (self.best_score is None or score < self.best_score):
            self.best_step, self.best_score = step, score
        kept = {*self.steps[-keep_last:], *([self.best_step] if self.best_step else [])}
        self.steps = sorted(kept)
        self.write()
        for path in self.folder.glob("step-*"):  # also what a killed process did not get to drop
            number = path.name.removeprefix("step-")
            if number.isdecimal() and int(number) < step and int(number) not in kept:
                shutil.rmtree(path, ignore_errors=True)

    def write(self) -> None:
        """Write the index, whole or not at all.

        Raises:
            SaveError: If it cannot be written.
        """
        values = {
            "steps": self.steps,
            "best_step": self.best_step,
            "best_score": self.best_score,
            "recipe": self.recipe,
            "made_from": self.made_from,
        }
        with saving(self.folder / INDEX_FILE):
            write_text(self.folder / INDEX_FILE, json.dumps(values, indent=2) + "\n")


def score_figures(figures: dict[str, float]) -> float | None:
    """Return a checkpoint's score, better when lower.

    Args:
        figures: From `evaluation.evaluate`.

    Returns:
        Perplexity at the longest length, or else the mean of the retrieval figures with its sign
        changed; None if nothing was measured.
    """
    perplexity = [value for name, value in figures.items() if name.startswith("perplexity")]
    if perplexity:
        return perplexity[-1]
    return -sum(figures.values()) / len(figures) if figures else None


#: Keys that may differ when a run goes on: they change where and how fast, not what is trained.
MAY_DIFFER = {
    *("output_dir", "num_workers", "log_every", "keep_last", "resume", "tensorboard"),
    *("time_limit", "memory_limit", "cache_dir", "compile", "micro_rows", "loss_chunk"),
    *("activation_checkpointing", "offload_checkpoints", "mlp_tile", "sequence_parallel"),
}


def check_same_recipe(earlier: dict[str, Any], now: dict[str, Any], folder: Path) -> None:
    """Refuse to go on with another recipe.

    Args:
        earlier: The recipe of the run that the folder holds.
        now: This run's.
        folder: The output folder.

    Raises:
        ValueError: Naming what differs.
    """
    differing = [
        name
        for name in sorted({*earlier, *now} - MAY_DIFFER)
        if json.dumps(earlier.get(name), sort_keys=True)
        != json.dumps(now.get(name), sort_keys=True)
    ]
    if differing:
        shown = "; ".join(f"{n}: {earlier.get(n)!r} -> {now.get(n)!r}" for n in differing[:3])
        raise ValueError(
            f"output_dir={str(folder)!r} holds a run of another recipe ({shown}). Name another "
            "folder, go on with the same recipe, or delete the folder to start anew."
        )


def check_same_inputs(earlier: dict[str, Any], now: dict[str, Any], folder: Path) -> None:
    """Refuse to go on with another start, tokenizer or text than the run began with.

    Args:
        earlier: From `record.describe_inputs` when it began; empty of a run by an earlier version.
        now: The same of today.
        folder: The output folder.

    Raises:
        ValueError: Naming what differs.
    """
    if not earlier:
        logger.warning(
            "%s was begun by a version that kept no digests of text and start; whether they are "
            "the same is not known",
            folder,
        )
        return
    differing = [name for name in ("init_from", "tokenizer") if earlier.get(name) != now[name]]
    for number, text in enumerate([*now["text"], now["evaluation"]]):
        before = [*earlier["text"], earlier["evaluation"]][number]
        if text is not None and before["tokens"] != text["tokens"]:
            is_evaluation = number == len(now["text"])
            name = "evaluation's text" if is_evaluation else f"text source {number + 1}"
            differing.append(f"{name} ({_name_files(before['files'], text['files'])})")
    if differing:
        raise ValueError(
            f"output_dir={str(folder)!r} holds a run that began with other content than there is "
            f"now: {'; '.join(differing)}. The steps already done never saw it. Restore it, name "
            "another output_dir, or delete the folder to start anew."
        )


def _name_files(earlier: dict[str, str], now: dict[str, str]) -> str:
    """Say which files differ, a few of many."""
    names = sorted(name for name in {*earlier, *now} if earlier.get(name) != now.get(name))
    kinds = [
        f"{name} is {'new' if name not in earlier else 'gone' if name not in now else 'changed'}"
        for name in names
    ]
    return ", ".join(kinds[:3]) + (f" and {len(kinds) - 3} more" if len(kinds) > 3 else "") or (
        "other tokens of the same files"
    )


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {' '.join(lines[:3])}"[:300]
