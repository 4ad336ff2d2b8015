"""What makes two cells the same cell, and two runs of a model one line of the leaderboard.

A *meaning* is what a cell asks and how the answer is made: the prompts, what counts their length,
the number of samples, the sampler, the generation length and the limit on prompts. Runs of one
model that disagree on any of it, on the same benchmark, become lines of their own, and a note says
what differs. Two models with one name stay apart, too.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from opencompass_llada.report.frame import TidyRow
from opencompass_llada.runs.hashes import hash_values

#: Meaning's parts that must agree for a whole benchmark, with what a note calls them.
SETTINGS = {"sampler": "sampler", "prompt_limit": "limit on prompts"}
#: Parts that must agree task by task: they may differ between tasks of one benchmark.
TASK_SETTINGS = {
    "counted_by": "tokenizer that counts lengths",
    "template_hash": "prompt template",
    "generation_length": "generation length",
    "n": "number of samples",
}
#: Benchmarks whose number of samples (windows of a text) goes with the length.
N_BY_CELL = ("perplexity",)
#: Parts that must agree cell by cell.
CELL_SETTINGS = {"prompt_hash": "prompt hash"}


@dataclass(frozen=True, kw_only=True)
class Part:
    """The rows of one model on one benchmark in one run."""

    rows: tuple[TidyRow, ...]
    """At least one."""

    @property
    def run(self) -> str:
        """The run's name."""
        return self.rows[0].run

    def values(self) -> dict[tuple[Any, ...], Any]:
        """Return everything that must agree, by (name, task, place in the grid)."""
        found: dict[tuple[Any, ...], Any] = {}
        for row in self.rows:
            task = (row.task, row.language, row.haystack, row.prompt, row.metric)
            place = (*task, row.length, row.depth)
            for name in SETTINGS:
                found[name, None] = getattr(row, name)
            for name in TASK_SETTINGS:
                value = counted_by(row) if name == "counted_by" else getattr(row, name)
                where = place if row.benchmark in N_BY_CELL else task
                if value is not None:
                    found.setdefault((name, where), value)
            if row.prompt_hash is not None:
                found["prompt_hash", place] = row.prompt_hash
        return found


def counted_by(row: TidyRow) -> str | None:
    """Return what counts a row's lengths: the hash of its files, else its name."""
    return row.tokenizer_hash or row.tokenizer


def cell_meaning(row: TidyRow) -> str:
    """Return the hash of what a cell asks: equal for two models that were asked the same.

    The sampler is left out: it belongs to the model's line. Prompts count by their own hash where
    predictions are left, else by their template.
    """
    asked = row.prompt_hash or row.template_hash
    if row.benchmark == "perplexity":  # its predictions name the texts and do not hold them
        asked = hash_values([row.prompt_hash, row.template_hash, Path(row.data).name, row.length])
        if counted_by(row) is None:  # tokens of nobody knows what: comparable with its own alone
            asked = hash_values([asked, row.checkpoint])
    return hash_values([asked, counted_by(row), row.n, row.prompt_limit])


def list_differences(first: Part, second: Part) -> list[str]:
    """Say what two runs of a model disagree on, '' values standing for nothing.

    Args:
        first: The model on a benchmark in one run.
        second: In another.

    Returns:
        Phrases such as ``number of samples (2, 10)``; empty if the two are the same measurement or
        complete each other.
    """
    names = {**SETTINGS, **TASK_SETTINGS, **CELL_SETTINGS}
    own, other = first.values(), second.values()
    differing: dict[str, tuple[Any, Any]] = {}
    for key in own.keys() & other.keys():
        if own[key] != other[key]:
            differing.setdefault(key[0], (own[key], other[key]))
    if len(differing) > 1 and "n" in differing:
        differing.pop("prompt_hash", None)  # follows from another number of samples
    return [
        f"{names[name]} ({_shown(differing[name][0])}, {_shown(differing[name][1])})"
        for name in names
        if name in differing
    ]


def _shown(value: Any) -> str:
    return str(value) if value != "" else "none"


def separate(
    rows: Sequence[TidyRow],
    order: Mapping[str, int],
    checkpoints: Mapping[tuple[str, str], str] | None = None,
) -> tuple[list[TidyRow], list[str]]:
    """Give each row the line that it belongs to, and drop what was measured twice.

    Args:
        rows: Of all runs; ``entry`` holds title and scaling.
        order: Place of each run, the oldest first by recorded time.
        checkpoints: Hash of each (run, model abbreviation)'s weights, where recorded.

    Returns:
        The rows with their entries, in their old order, and remarks for the reader.
    """
    named, remarks = _tell_models_apart(rows, checkpoints or {})
    parts: dict[tuple[str, str], list[Part]] = defaultdict(list)
    by_part: dict[tuple[str, str, str], list[TidyRow]] = defaultdict(list)
    for row in named:
        by_part[row.entry, row.benchmark, row.run].append(row)
    for (entry, benchmark, _), own in sorted(by_part.items(), key=lambda item: order[item[0][2]]):
        parts[entry, benchmark].append(Part(rows=tuple(own)))
    entries: dict[tuple[str, str, str], str] = {}
    dropped: set[tuple[str, str, str, str]] = set()
    for (entry, benchmark), members in parts.items():
        classes = _classify(members)
        for place, same in enumerate(classes):
            label = entry if place == 0 else f"{entry} [run {same[0].run}]"
            entries |= {(entry, benchmark, part.run): label for part in same}
            dropped |= _find_repeats(same, remarks)
            if place:
                differing = "; ".join(list_differences(classes[0][0], same[0]))
                remarks.append(
                    f"{entry} on {benchmark}: runs {classes[0][0].run} and {same[0].run} disagree "
                    f"on {differing}: kept apart"
                )
    kept = [
        replace(row, entry=entries[row.entry, row.benchmark, row.run])
        for row in named
        if (row.run, row.entry, row.dataset, row.metric) not in dropped
    ]
    return kept, remarks


def _classify(parts: Sequence[Part]) -> list[list[Part]]:
    """Put each run to the first class with which it agrees throughout."""
    classes: list[list[Part]] = []
    for part in parts:
        for members in classes:
            if not any(list_differences(member, part) for member in members):
                members.append(part)
                break
        else:
            classes.append([part])
    return classes


def _find_repeats(same: Sequence[Part], remarks: list[str]) -> set[tuple[str, str, str, str]]:
    """Find cells that were measured again in the same way; the number recorded later counts.

    That is two runs, or one folder resumed after its data sets' names changed. A cell without a
    number never hides one that has it. Without both times the run given later counts.
    """
    best: dict[tuple[Any, ...], TidyRow] = {}
    dropped: set[tuple[str, str, str, str]] = set()
    pairs: dict[tuple[str, str], bool] = {}
    for part in same:
        for row in part.rows:
            whole = row.dataset if row.task is None and row.length is None else None
            place = (row.task, row.language, row.haystack, row.prompt, row.length, row.depth)
            key = (*place, counted_by(row), row.metric, whole)
            older = best.get(key)
            if older is None or (older.run == row.run and not _asked_alike(older, row)):
                best[key] = row
                continue
            timed = bool(older.recorded and row.recorded)
            swapped = timed and older.recorded > row.recorded
            if (row.score is None) != (older.score is None):
                swapped = row.score is None
            best[key], loser = (older, row) if swapped else (row, older)
            dropped.add((loser.run, loser.entry, loser.dataset, loser.metric))
            pairs[older.run, row.run] = timed and pairs.get((older.run, row.run), True)
    for (first, second), timed in sorted(pairs.items()):
        who = f"runs {first} and {second}" if first != second else f"run {first}"
        how = "the later number is shown" + ("" if timed else ", by the order of the runs as given")
        told = " under two names" if first == second else ""
        remarks.append(
            f"{same[0].rows[0].entry} on {same[0].rows[0].benchmark}: {who} measured some cells "
            f"alike{told}; {how}"
            f"{'' if timed else ' (they record no times)'}, and none is averaged with the other"
        )
    return dropped


def _asked_alike(first: TidyRow, second: TidyRow) -> bool:
    """Whether two data sets of one run asked a model the same prompts."""
    return first.prompt_hash is not None and first.prompt_hash == second.prompt_hash


def _tell_models_apart(
    rows: Sequence[TidyRow], checkpoints: Mapping[tuple[str, str], str]
) -> tuple[list[TidyRow], list[str]]:
    """Name entries so that each stands for one checkpoint under one scaling."""
    remarks: list[str] = []
    identities: dict[str, dict[tuple[str, str, str], list[str]]] = defaultdict(dict)
    hashes: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        known = checkpoints.get((row.run, row.model), "")
        hashes[row.checkpoint] |= {known} - {""}
    for row in rows:
        content = checkpoints.get((row.run, row.model), "")
        content = content if len(hashes[row.checkpoint]) > 1 else ""
        identity = (row.checkpoint, content, row.model)
        runs = identities[row.entry].setdefault(identity, [])
        if row.run not in runs:
            runs.append(row.run)
    labels: dict[tuple[str, tuple[str, str, str]], str] = {}
    for entry, found in identities.items():
        for identity in found:
            labels[entry, identity] = entry if len(found) == 1 else _extend(entry, identity, found)
        if len(found) > 1:
            named = ", ".join(labels[entry, identity] for identity in found)
            remarks.append(f"{len(found)} models are called {entry!r}; they are shown as {named}")
    by_abbr: dict[str, set[str]] = defaultdict(set)
    renamed = []
    for row in rows:
        content = checkpoints.get((row.run, row.model), "")
        content = content if len(hashes[row.checkpoint]) > 1 else ""
        label = labels[row.entry, (row.checkpoint, content, row.model)]
        renamed.append(replace(row, entry=label))
        by_abbr[row.model].add(label)
    for abbr, shown in sorted(by_abbr.items()):
        if len(shown) > 1:
            remarks.append(
                f"the abbr {abbr!r} stands for {len(shown)} models: {', '.join(sorted(shown))}; "
                "they are kept apart"
            )
    return renamed, remarks


def _extend(
    entry: str, identity: tuple[str, str, str], found: Mapping[tuple[str, str, str], Sequence[str]]
) -> str:
    """Add to a name what tells it from the others: path, contents, abbreviation."""
    others = [other for other in found if other != identity]
    parts = []
    if any(other[0] != identity[0] for other in others):
        parts.append(identity[0])
    if any(other[1] != identity[1] for other in others):
        parts.append(f"weights {identity[1] or 'not recorded'}")
    if not parts:
        parts.append(identity[2])
    return f"{entry} [{', '.join(parts)}]"
