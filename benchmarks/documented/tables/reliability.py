"""Table of what was broken on purpose, and what was not healed of it."""

from __future__ import annotations

from documented.markdown import make
from documented.records import descend, read_record
from documented.registry import table


@table("survival")
def survival() -> str:
    """Return what benchmarks/survival.py tried and what was not healed, of the parts it ran."""
    record = read_record("survival.json")
    # Label, part of the record, its number of trials, and its list of what failed.
    found = [
        ("killed at random, a run", "kills", "kills", "not_healed"),
        ("killed at random, a training", "training", "kills", "not_healed"),
    ]
    for part, run in (("writes", "a run"), ("training/writes", "a training")):
        killed = f"killed inside a write or before a move, {run}"
        found += [
            (killed, f"{part}/kill", "tried", "not_healed"),
            (f"a full disk inside a write, {run}", f"{part}/full_disk", "tried", "not_healed"),
        ]
    unfinished = "unfinished answers damaged, then `-r`"
    found += [
        ("a file damaged, then a report", "damage/report", "cases", "wrong"),
        ("a file damaged, then `-r`", "damage/resumed", "cases", "not_healed"),
        (unfinished, "damage/unfinished_answers", "cases", "not_healed"),
    ]
    rows = []
    for label, path, tried, failed in found:
        if (whole := path.partition("/")[0]) in record:
            part, commit = descend(record, path), record[whole]["commit"]
            rows.append([label, str(part[tried]), str(len(part[failed])), commit[:7]])
    tables = {
        name: test
        for name, test in record.get("tables", {}).items()
        if "/" not in name and name.endswith(".py")
    }
    if tables:
        failing = sum(bool(test["status"]) for test in tables.values())
        cells = [str(len(tables)), str(failing), record["tables"]["commit"][:7]]
        rows.append(["test files with tables of inputs", *cells])
    return make(["what was done", "times", "not healed, or wrong", "commit"], rows)
