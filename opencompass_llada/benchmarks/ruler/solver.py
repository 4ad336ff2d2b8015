"""Solves RULER's generated tasks from the prompt alone, by the form of their sentences.

The ceiling that scores are held to. Questions on documents (qa) have no solver.
"""

from __future__ import annotations

import re
from collections import Counter

from opencompass_llada.benchmarks.ruler.prompts import TEMPLATES
from opencompass_llada.benchmarks.ruler.writers import NUM_ASKED, NUM_COMMON

_NEEDLE = re.compile(r"One of the special magic \w+ for (\S+) is: (\S+)\.")
_ASKED = re.compile(r"\nWhat (?:is|are all) the special magic \w+ for (.+?) mentioned in")
_ASSIGNED = re.compile(r"VAR (\w+) = (?:VAR )?(\w+)")
_VALUE = re.compile(r"\nQuestion: Find all variables that are assigned the value (\w+) in")
_LISTED = re.compile(r"\d+\. (\D+?)(?= \d+\. |$)")


def solve(prompt: str) -> str | None:
    """Return the answer to a prompt of niah, vt, cwe or fwe; None for any other."""
    solvers = {"vt": _trace, "cwe": _count_listed, "fwe": _count_coded}
    for kind, solver in solvers.items():
        if prompt.startswith(TEMPLATES[kind].split("{context}")[0]):
            return solver(prompt)
    return _find_needles(prompt) if _ASKED.search(prompt) else None


def _find_needles(prompt: str) -> str:
    asked = re.split(r", and |, ", _ASKED.findall(prompt)[-1])
    found: dict[str, list[str]] = {}
    for key, value in _NEEDLE.findall(prompt):
        found.setdefault(key, []).append(value)
    return ", ".join(value for key in asked for value in found.get(key, ()))


def _trace(prompt: str) -> str:
    """Follow the assignments, which stand in their order."""
    value = _VALUE.findall(prompt)[-1]
    holders = {value}
    names = []
    for name, source in _ASSIGNED.findall(prompt):
        if source in holders:
            holders.add(name)
            names.append(name)
    return ", ".join(names)


def _count_listed(prompt: str) -> str:
    """Count the words of the last list; the one before it is a worked example."""
    head, ending = TEMPLATES["cwe"].split("{context}")
    listed = prompt.rpartition(head)[2].partition(ending)[0]
    counts = Counter(_LISTED.findall(listed))
    return ", ".join(word for word, _ in counts.most_common(NUM_COMMON))


def _count_coded(prompt: str) -> str:
    """Count the coded words; dots are none."""
    head, ending = TEMPLATES["fwe"].split("{context}")
    counts = Counter(prompt.removeprefix(head).partition(ending)[0].split())
    counts.pop("...", None)
    return ", ".join(word for word, _ in counts.most_common(NUM_ASKED))
