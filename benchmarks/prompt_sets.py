"""The prompts of the study of post-training: made once, kept as token ids, read by every cell.

They depend on tokenizer, length and samples, not on what was trained. Each set (needle or RULER at
one length) is one file named after a digest of what decides it, without paths, so that a folder
made on one machine serves another. Answers and scores nothing.
"""

from __future__ import annotations

import hashlib
import io
import json
import lzma
import os
import uuid
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from opencompass_llada.assets import resolve_path
from opencompass_llada.benchmarks.needle import prompts, samples
from opencompass_llada.benchmarks.needle.samples import (
    HaystackStore,
    NeedleCell,
    make_samples,
    require_file,
    resolve_data_directory,
)
from opencompass_llada.benchmarks.ruler.prompts import TASKS, QuestionTask, RulerSpec
from opencompass_llada.benchmarks.ruler.samples import build_samples, sources_digest
from opencompass_llada.benchmarks.ruler.writers import NoRoom
from opencompass_llada.networks import read_model_config
from opencompass_llada.prompting.encode import PromptEncoder, load_tokenizer
from opencompass_llada.runs.hashes import hash_file

FORMAT = 1  # of the files; another number makes other files
DATA, HAYSTACK = "asset:needlebench", "synthetic_en.jsonl"
DEPTHS = (0, 25, 50, 75, 100)
TASK_NAMES = tuple(name for name, task in TASKS.items() if not isinstance(task, QuestionTask))
NEEDLE_TOKENS = 16
#: Holds a uuid (36 of tiny-llada's tokens), four values (34) and ten common words (47), but never
#: more than RULER itself keeps for the answer.
RULER_TOKENS = 48


@dataclass(frozen=True, kw_only=True)
class PromptPlan:
    """Which prompts make a set."""

    kind: str
    """``needle`` or ``ruler``."""
    length: int
    """Tokens of prompt and answer."""
    samples: int
    """Samples of each group."""
    checkpoint: str
    """Where the tokenizer is."""

    @property
    def groups(self) -> tuple[str, ...]:
        """What scores are averaged over: depths or tasks."""
        return tuple(map(str, DEPTHS)) if self.kind == "needle" else TASK_NAMES

    def key(self) -> dict[str, Any]:
        """Return everything that decides the prompts; no paths."""
        folder, data = Path(resolve_path(self.checkpoint)), resolve_data_directory(DATA)
        facts: dict[str, Any] = {
            **{"format": FORMAT, "kind": self.kind, "length": self.length},
            **{"samples": self.samples, "groups": list(self.groups)},
            "tokenizer": hash_file(folder / "tokenizer.json"),
            "haystack": hash_file(require_file(data, HAYSTACK)),
        }
        if self.kind == "needle":
            code = [Path(str(m.__file__)) for m in (samples, prompts)]
            code.append(code[1].with_name("wordings.json"))
            facts["needles"] = hash_file(require_file(data, "needles.jsonl"))
            return facts | {"tokens": NEEDLE_TOKENS, "code": [hash_file(path) for path in code]}
        tasks = {name: asdict(TASKS[name]) for name in TASK_NAMES}
        return facts | {"tokens": RULER_TOKENS, "code": sources_digest(), "tasks": tasks}

    def path(self, folder: Path) -> Path:
        """Return the set's file."""
        text = json.dumps(self.key(), sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:16]
        return folder / f"{self.kind}_{self.length}_{digest}.npz.xz"


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """One prompt and what its answer must contain."""

    group: str
    """Depth or task."""
    token_ids: np.ndarray
    """The prompt, [tokens], in few bytes: a study keeps some twenty million tokens."""
    answers: list[str]
    """What counts as found."""
    new_tokens: int
    """Tokens to generate."""


@dataclass(frozen=True, kw_only=True)
class PromptSet:
    """All prompts of one plan."""

    prompts: list[Prompt]
    """In the order of the groups."""
    unfit: dict[str, str]
    """Groups that do not fit the length, and why."""


@lru_cache(maxsize=2)
def _encoder(checkpoint: str) -> tuple[HaystackStore, PromptEncoder]:
    """Return what a process makes prompts with."""
    folder = resolve_path(checkpoint)
    mask = read_model_config(folder).get("mask_token_id")
    return HaystackStore(), PromptEncoder(load_tokenizer(folder, {}), mask)


def make_group(task: tuple[PromptPlan, str]) -> list[Prompt] | str:
    """Make one group's prompts, or say why they do not fit; runs in a process of its own."""
    plan, group = task
    store, encoder = _encoder(plan.checkpoint)
    made: Iterable[tuple[str, Sequence[str]]]
    if plan.kind == "needle":
        cell = NeedleCell(
            path=DATA,
            length=plan.length,
            depth=int(group),
            tokenizer=plan.checkpoint,
            file_list=[HAYSTACK],
            num_repeats_per_file=plan.samples,
            length_buffer="fit",
            generation_reserve=NEEDLE_TOKENS,
            guide=False,
            language="English",
        )
        made = ((sample["prompt"], [sample["keyword"]]) for sample in make_samples(cell, store))
        new_tokens = NEEDLE_TOKENS
    else:
        spec = RulerSpec(
            task=group,
            length=plan.length,
            tokenizer=plan.checkpoint,
            num_samples=plan.samples,
            path=DATA,
            essay_file=HAYSTACK,
        )
        new_tokens = min(RULER_TOKENS, TASKS[group].tokens_to_generate)
        try:
            samples = build_samples(spec, store.tokenizer(plan.checkpoint))
        except ValueError as error:
            if not isinstance(error.__cause__, NoRoom):
                raise
            return str(error)
        made = ((sample.prompt, sample.answers) for sample in samples)
    return [
        Prompt(
            group=group,
            token_ids=np.array(encoder.encode(text), np.int32),
            answers=list(answers),
            new_tokens=new_tokens,
        )
        for text, answers in made
    ]


def prepare_sets(plans: Sequence[PromptPlan], folder: Path, workers: int) -> list[Path]:
    """Make the sets that the folder lacks.

    Call it before CUDA is used: processes are forked.

    Args:
        plans: All sets wanted.
        folder: Where they are kept; made if need be.
        workers: Processes; several callers may make one set at once, at the price of the work.

    Returns:
        The sets' files, in order.
    """
    paths = [plan.path(folder) for plan in plans]
    lacking = [(plan, path) for plan, path in zip(plans, paths, strict=True) if not path.is_file()]
    if not lacking:
        return paths
    tasks = [(plan, group) for plan, _ in lacking for group in plan.groups]
    with ProcessPoolExecutor(max(1, workers)) as pool:
        made = pool.map(make_group, tasks)
        for plan, path in lacking:
            groups = [(group, next(made)) for group in plan.groups]
            unfit = {group: reason for group, reason in groups if isinstance(reason, str)}
            prompts = [p for _, found in groups if not isinstance(found, str) for p in found]
            write_set(path, plan.key(), PromptSet(prompts=prompts, unfit=unfit))
    return paths


def write_set(path: Path, key: dict[str, Any], made: PromptSet) -> None:
    """Write a set; other processes see the whole file or none."""
    facts = {
        "key": key,
        "unfit": made.unfit,
        "prompts": [(p.group, p.answers, p.new_tokens) for p in made.prompts],
    }
    buffer = io.BytesIO()
    flat = np.concatenate([np.empty(0, np.int32), *(p.token_ids for p in made.prompts)])
    np.savez(
        buffer,
        tokens=flat.astype(np.min_scalar_type(int(flat.max(initial=0)))),
        ends=np.cumsum([len(p.token_ids) for p in made.prompts], dtype=np.int64),
        facts=np.frombuffer(json.dumps(facts).encode(), np.uint8),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}-{os.getpid()}-{uuid.uuid4().hex}")
    try:
        # The samples of a length are the same documents in other orders: xz sees that, zip not.
        part.write_bytes(lzma.compress(buffer.getvalue()))
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


@lru_cache(maxsize=16)
def read_set(path: Path) -> PromptSet:
    """Read a set; kept in memory, since many cells ask for it.

    Raises:
        ValueError: If the file is damaged; says to delete it.
    """
    try:
        with np.load(io.BytesIO(lzma.decompress(path.read_bytes()))) as arrays:
            facts = json.loads(arrays["facts"].tobytes())
            pieces = np.split(arrays["tokens"], arrays["ends"][:-1])
            prompts = [
                Prompt(group=group, token_ids=ids, answers=answers, new_tokens=count)
                for ids, (group, answers, count) in zip(pieces, facts["prompts"], strict=True)
            ]
    except (lzma.LZMAError, EOFError, OSError, ValueError, KeyError) as error:
        raise ValueError(f"{path} is no set of prompts ({error}); delete it.") from error
    return PromptSet(prompts=prompts, unfit=facts["unfit"])
