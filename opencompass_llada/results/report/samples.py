"""The samples that the report shows: one block a data set, the models' answers side by side.

Chooses as many as fit; reads no files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from opencompass_llada.results.cells import Sample
from opencompass_llada.results.collect import Collection
from opencompass_llada.results.tidy import TidyRow

#: Characters of HTML that all samples together may take.
BUDGET = 2_600_000
#: What the markup around an answer, and around a prompt, takes.
_ANSWER_MARKUP, _PROMPT_MARKUP = 190, 420
#: Kept of each text where whole samples do not fit.
_SHORT = 140


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A model's answer to a prompt."""

    anchor: str
    """Unique in the page; the first answer of a cell has it."""
    entry: str
    """Line of the leaderboard."""
    prediction: str
    """What the model said."""
    score: float | None
    """0 to 100, where recorded."""


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """A prompt with the answers of all models that were asked it."""

    sample: Sample
    """Prompt, needle and what was expected."""
    answers: tuple[Answer, ...]
    """In the order of the leaderboard."""


@dataclass(frozen=True, kw_only=True)
class Block:
    """The samples of one data set."""

    anchor: str
    """Unique in the page."""
    title: str
    """Benchmark, task, length, depth."""
    dataset: str
    """Abbreviation."""
    cells: tuple[tuple[str, str], ...]
    """A line for each model: its name, and its score or status."""
    prompts: tuple[Prompt, ...]
    """The samples."""


def make_blocks(
    collection: Collection, budget: int = BUDGET
) -> tuple[list[Block], dict[tuple[str, str, str], str], str]:
    """Choose samples: three a cell, fewer or shorter ones where the page would get too large.

    Args:
        collection: What was read.
        budget: Characters that they may take.

    Returns:
        The blocks, the anchor of each cell by run, model and data set, and a remark on what was
        left out ('' if nothing).
    """
    most = max((len(cell.samples) for cell in collection.cells.values()), default=0)
    for keep in range(most, 0, -1):
        blocks, anchors = _build(collection, keep, short=False)
        if _estimate(blocks) <= budget:
            left_out = f"the first {keep} of each cell are shown" if keep < most else ""
            return blocks, anchors, left_out
    blocks, anchors = _build(collection, min(most, 1), short=True)
    kept, used = [], 0
    for block in blocks:
        used += _estimate([block])
        if used <= budget:
            kept.append(block)
            continue
        kept.append(replace(block, prompts=()))
    dropped = sum(not block.prompts for block in kept)
    remark = "the first sample of each cell is shown, shortened"
    return kept, anchors, remark + (f"; {dropped} data sets show none" if dropped else "")


def _build(
    collection: Collection, keep: int, *, short: bool
) -> tuple[list[Block], dict[tuple[str, str, str], str]]:
    """Return blocks by data set and prompts; models that were asked otherwise have their own."""
    rows: dict[tuple[str | None, ...], dict[tuple[str, str, str], TidyRow]] = {}
    for row in collection.rows:
        # Prompts are what is shared, whatever runs call the data set; a perplexity's are names.
        named = row.prompt_hash is None or row.benchmark == "perplexity"
        members = rows.setdefault((row.prompt_hash, row.dataset if named else row.benchmark), {})
        members.setdefault((row.run, row.model, row.dataset), row)
    blocks: list[Block] = []
    anchors: dict[tuple[str, str, str], str] = {}
    for number, members in enumerate(rows.values()):
        names = {key: f"c{number}-{place}" for place, key in enumerate(members)}
        shown = {key for key in members if collection.cells[key].samples}
        anchors |= {key: names[key] if key in shown else f"d{number}" for key in members}
        blocks.append(
            Block(
                anchor=f"d{number}",
                title=_title(next(iter(members.values()))),
                dataset=next(iter(members))[2],
                cells=tuple((row.entry, _state(row)) for row in members.values()),
                prompts=tuple(_prompts(collection, members, names, keep, short=short)),
            )
        )
    return blocks, anchors


def _prompts(
    collection: Collection,
    members: dict[tuple[str, str, str], TidyRow],
    names: dict[tuple[str, str, str], str],
    keep: int,
    *,
    short: bool,
) -> list[Prompt]:
    found = []
    for place in range(keep):
        answers, first = [], None
        for key, row in members.items():
            samples = collection.cells[key].samples
            if place >= len(samples):
                continue
            sample = samples[place]
            first = first or sample
            answers.append(
                Answer(
                    anchor=names[key] if place == 0 else "",
                    entry=row.entry,
                    prediction=_cut(sample.prediction) if short else sample.prediction,
                    score=sample.score,
                )
            )
        if first is not None:
            if short:
                first = replace(first, head=_cut(first.head), tail=first.tail[-_SHORT:])
            found.append(Prompt(sample=first, answers=tuple(answers)))
    return found


def _title(row: TidyRow) -> str:
    parts = [row.benchmark, row.task]
    parts += [f"{row.length:,} tokens"] if row.length is not None else []
    parts += [f"depth {row.depth:g} %"] if row.depth is not None else []
    return ", ".join(part for part in parts if part)


def _state(row: TidyRow) -> str:
    if row.score is None:
        return f"{row.status}: {row.reason}"
    return f"{row.metric} {row.score:.4g}" + (f", {row.n} samples" if row.n else "")


def _cut(text: str) -> str:
    return text if len(text) <= _SHORT else text[:_SHORT] + " …"


def _estimate(blocks: Sequence[Block]) -> int:
    """Return about how many characters blocks take, escaping counted with an eighth."""
    total = 0
    for block in blocks:
        total += 300 + sum(60 + len(entry) + len(state) for entry, state in block.cells)
        for prompt in block.prompts:
            sample = prompt.sample
            texts = len(sample.head) + len(sample.tail) + len(sample.needle) + len(sample.expected)
            total += _PROMPT_MARKUP + texts * 9 // 8
            for answer in prompt.answers:
                texts = len(answer.entry) + len(answer.prediction)
                total += _ANSWER_MARKUP + texts * 9 // 8
    return total
