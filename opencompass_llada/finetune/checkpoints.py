"""Keeps the checkpoints of an output folder: which there are, where a run goes on, whether it may.

``output_dir`` holds ``step-000100/`` and so on (published format, with ``state/`` for going on),
``checkpoints.json``, ``final/`` (published format alone) and logs.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import field
from pathlib import Path
from typing import Any

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from opencompass_llada.files import remove, settle, write_text
from opencompass_llada.finetune.measurement import is_better, score_figures
from opencompass_llada.finetune.packing import find_strategy
from opencompass_llada.finetune.parallel import Ranks
from opencompass_llada.finetune.recipe import Evaluation, Lora, Phase, Recipe, TextSource

logger = logging.getLogger(__name__)

INDEX_FILE = "checkpoints.json"
FINAL = "final"
STATE = "state"
_OWN = (INDEX_FILE, FINAL, "logs")
#: Keys that may differ when a run goes on: they change where, how fast and how often something is
#: done, and no weight, but for the order in which numbers are added.
MAY_DIFFER = {
    *("output_dir", "num_workers", "log_every", "keep_last", "resume", "tensorboard"),
    *("time_limit", "memory_limit", "cache_dir", "compile", "micro_rows", "loss_chunk"),
    *("activation_checkpointing", "keep_attention", "offload_checkpoints", "mlp_tile"),
    *("keep_projections", "keep_mlp"),
    *("sequence_parallel", "probe_every", "tokenizing_processes", "lora.save"),
    *("host_memory_limit", "offload_average"),
}
#: What earlier versions did where a recipe gives no such key -> what this one does.
_EARLIER_DEFAULTS: dict[str, tuple[Any, Any]] = {
    "min_mask_ratio": (0.1, 1e-3),
    "normalize_by": ("row", "sample"),
}
#: Keys of task rows: without effect where there are none.
_OF_TASK_ROWS = ("rows", "retrieval_styles")


class SaveError(OSError):
    """A file of a run could not be written; earlier checkpoints are as they were."""


@contextmanager
def saving(what: Path) -> Iterator[None]:
    """Turn whatever writing a file or folder raises into one error with its remedy."""
    try:
        yield
    except Exception as error:  # safetensors and torch raise kinds of their own for a full disk
        raise SaveError(
            f"{what} could not be written ({type(error).__name__}: {error}). Earlier checkpoints "
            "are as they were. Free space or name another output_dir, and start the same command "
            "again: it goes on from the last one."
        ) from error


@dataclass(config=ConfigDict(strict=True))
class CheckpointIndex:
    """The checkpoints of one output folder, and what its run began with."""

    folder: Path
    steps: list[int] = field(default_factory=list)
    """Those that have a checkpoint, ascending."""
    best_step: int | None = None
    best_score: float | None = None
    best_draws: list[float] = field(default_factory=list)
    """The best checkpoint's `Measurement.draws`."""
    recipe: dict[str, Any] = field(default_factory=dict)
    made_from: dict[str, Any] = field(default_factory=dict)
    """Digests of what the run began with: see saving.describe_inputs."""

    @classmethod
    def read(cls, folder: Path) -> CheckpointIndex:
        """Read the index of an output folder, empty where there is none; refuse other folders."""
        file = folder / INDEX_FILE
        if file.is_file():
            try:
                index = cls(folder=folder, **json.loads(file.read_text(encoding="utf-8")))
                if index.steps != sorted(set(index.steps)) or min(index.steps, default=0) < 0:
                    raise ValueError(f"steps {index.steps} do not ascend from 0")
            except (OSError, ValueError, TypeError) as error:
                lines = " ".join(filter(None, map(str.strip, str(error).splitlines()[:3])))
                reason = f"{type(error).__name__}: {lines}"[:300]
                raise ValueError(
                    f"output_dir={str(folder)!r}: {INDEX_FILE} cannot be read ({reason}). Restore "
                    "it, or start anew in another output_dir, with init_from naming the newest "
                    "step-* folder in this one to keep what was learnt."
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
        """Return a step's folder."""
        return self.folder / f"step-{step:06d}"

    @property
    def last(self) -> Path | None:
        """The newest checkpoint; None if there is none."""
        return self.path(self.steps[-1]) if self.steps else None

    def add(
        self,
        step: int,
        figures: Mapping[str, float],
        keep_last: int,
        draws: Sequence[float] = (),
    ) -> None:
        """Take note of a checkpoint; the newest ``keep_last`` stay, and the best.

        Best is the lowest perplexity at the longest length, of those that their draws cannot tell
        apart (`is_better`) the earliest. Without perplexity it is the highest mean of the retrieval
        figures; without figures none.
        """
        self.steps = sorted({*self.steps, step})
        score = score_figures(figures)
        if score is not None and self._is_best(score, draws):
            self.best_step, self.best_score, self.best_draws = step, score, [*draws]
        kept = {*self.steps[-keep_last:], *([self.best_step] if self.best_step else [])}
        self.steps = sorted(kept)
        self.write()
        for path in self.folder.glob("step-*"):  # also what a killed process did not get to drop
            number = path.name.removeprefix("step-")
            if number.isdecimal() and int(number) < step and int(number) not in kept:
                shutil.rmtree(path, ignore_errors=True)

    def _is_best(self, score: float, draws: Sequence[float]) -> bool:
        if self.best_score is None:
            return True
        if draws and len(draws) == len(self.best_draws):
            return is_better(draws, self.best_draws)
        return score < self.best_score  # exact, or of a run whose index holds no draws

    def write(self) -> None:
        """Write the index, whole or not at all; a SaveError if it cannot be written."""
        values = dataclasses.asdict(self)
        del values["folder"]
        with saving(self.folder / INDEX_FILE):
            write_text(self.folder / INDEX_FILE, json.dumps(values, indent=2) + "\n")

    def begin(self, recipe: Recipe) -> None:
        """Take note of the recipe of a run that begins, or goes on if it may, here."""
        folder, now = str(self.folder), dataclasses.asdict(recipe)
        if self.steps and not recipe.resume:
            raise ValueError(
                f"resume=false, and output_dir={folder!r} holds a run ({self.last}). Delete it or "
                "name another folder, or leave resume out to go on."
            )
        if self.recipe:
            is_bfloat16 = self.recipe.get("parameter_dtype") == "bfloat16"
            if self.steps and is_bfloat16 and "moments" not in self.recipe:
                raise ValueError(
                    f"output_dir={folder!r} holds a run with bfloat16 weights by a version that "
                    "lost most of their updates to rounding, and its state lacks what keeps them. "
                    f"Start anew in another output_dir, with init_from={str(self.last)!r} if what "
                    "was learnt is to stay."
                )
            values = _complete(self.recipe)
            earlier, today = (json.loads(json.dumps(each)) for each in (values, now))
            for each in (earlier, today):
                _set_needless_weights(each, recipe)
            free = MAY_DIFFER if now["retrieval_share"] else {*MAY_DIFFER, *_OF_TASK_ROWS}
            for group, _, key in (name.partition(".") for name in free if "." in name):
                for each in (earlier, today):
                    (each.get(group) or {}).pop(key, None)
            differing = [
                f"{name}: {earlier.get(name)!r} -> {today.get(name)!r}"
                for name in sorted({*earlier, *today} - free)
                if earlier.get(name) != today.get(name)
            ]
            if differing:
                raise ValueError(
                    f"output_dir={folder!r} holds a run of another recipe "
                    f"({'; '.join(differing[:3])}). {_name_earlier_defaults(earlier, today)}Name "
                    "another folder, go on with the same recipe, or delete the folder to start "
                    "anew."
                )
        self.recipe = now

    def check_inputs(self, now: dict[str, Any]) -> None:
        """Refuse to go on with other inputs (`saving.describe_inputs`) than the run began with."""
        earlier = self.made_from
        if not earlier:
            logger.warning(
                "%s was begun by a version that kept no digests of text and start; whether they "
                "are the same is not known",
                self.folder,
            )
            return
        differing = [name for name in ("init_from", "tokenizer") if earlier.get(name) != now[name]]
        pairs = enumerate(zip(earlier["text"], now["text"], strict=True), start=1)
        texts = [(f"text source {number}", *pair) for number, pair in pairs]
        texts.append(("evaluation's text", earlier["evaluation"], now["evaluation"]))
        for name, before, text in texts:
            if text is not None and before["tokens"] != text["tokens"]:
                differing.append(f"{name} ({_name_files(before['files'], text['files'])})")
        if differing:
            raise ValueError(
                f"output_dir={str(self.folder)!r} holds a run that began with other content than "
                f"there is now: {'; '.join(differing)}. The steps already done never saw it. "
                "Restore it, name another output_dir, or delete the folder to start anew."
            )


def _complete(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Give a recipe of an earlier version the defaults of keys that it did not know."""
    before = {name: default for name, (default, _) in _EARLIER_DEFAULTS.items()}
    values = {**_defaults(Recipe), **before, **recipe}
    evaluation = {**_defaults(Evaluation), **values.get("evaluation", {})}
    if evaluation["text"] is not None:
        evaluation["text"] = {**_defaults(TextSource), **evaluation["text"]}
    lora = values["lora"] and {**_defaults(Lora), **values["lora"]}
    texts = [{**_defaults(TextSource), **source} for source in values["text"]]
    if "tokenizing_processes" not in recipe:  # of the versions whose sources had weight 1 if none
        for text in (*texts, evaluation["text"] or {}):
            text["weight"] = None if text.get("weight") == 1.0 else text.get("weight")
    return {
        **values,
        "evaluation": evaluation,
        "lora": lora,
        "phases": [{**_defaults(Phase), **phase} for phase in values["phases"]],
        "text": texts,
    }


def _set_needless_weights(values: Mapping[str, Any], recipe: Recipe) -> None:
    """Write 1 for weights that decide nothing, and where none is 1: there they are the same."""
    evaluation = values["evaluation"]["text"]
    for source in filter(None, (*values["text"], evaluation)):
        is_alone = source is evaluation or len(values["text"]) == 1
        if is_alone or (source["weight"] is None and find_strategy(recipe.strategy).draws_sources):
            source["weight"] = 1.0


def _name_earlier_defaults(earlier: Mapping[str, Any], today: Mapping[str, Any]) -> str:
    """Say which differing keys had another default when a run began, and how to go on with it."""
    keys = [
        f"{name}: {defaults[0]}"
        for name, defaults in _EARLIER_DEFAULTS.items()
        if (earlier.get(name), today.get(name)) == defaults
    ]
    if not keys:
        return ""
    return f"The run began with earlier defaults: add {', '.join(keys)} to the recipe to go on. "


def _defaults(group: type) -> dict[str, Any]:
    """Return the defaults of a group of keys."""
    fields = dataclasses.fields(group)
    return {f.name: f.default for f in fields if f.default is not dataclasses.MISSING}


def _name_files(earlier: dict[str, str], now: dict[str, str]) -> str:
    """Say which files differ, a few of many."""
    kinds = [
        f"{name} is {'new' if name not in earlier else 'gone' if name not in now else 'changed'}"
        for name in sorted({*earlier, *now})
        if earlier.get(name) != now.get(name)
    ]
    more = f" and {len(kinds) - 3} more" if len(kinds) > 3 else ""
    return ", ".join(kinds[:3]) + more or "other tokens of the same files"


@contextmanager
def write_atomically(target: Path, ranks: Ranks) -> Iterator[Path]:
    """Give every rank a folder beside the target, which the main one moves into place once whole.

    An earlier folder of that name stays until then (as ``.old`` for an instant: see
    `restore_checkpoints`).
    """
    part, old = (target.with_name(f".{target.name}.{suffix}") for suffix in ("part", "old"))
    try:
        with saving(target):
            if ranks.is_main:
                remove(part)
                part.mkdir(parents=True)
            ranks.wait()
            yield part
            ranks.wait()
            if ranks.is_main:
                settle(part)
                remove(old)
                if target.exists():
                    os.replace(target, old)
                os.replace(part, target)
                settle(target.parent, inside=False)
                remove(old)
    except BaseException:
        if ranks.is_main:
            remove(part)
        raise
    ranks.wait()


def restore_checkpoints(folder: Path) -> None:
    """Undo what a killed process left half done in an output folder that no other one uses."""
    for old in folder.glob(".*.old"):
        target = folder / old.name[1 : -len(".old")]
        if target.exists():
            remove(old)
        else:
            os.replace(old, target)
    for part in folder.glob(".*.part"):
        remove(part)
