"""Looks figures up in records: ``RECORD#/PATH``.

RECORD is a file of docs/records or benchmarks/records, or an asset's training.json
(``tiny-llada.json``). PATH is the keys of a JSON file (``~1`` for a slash in a key; ``*`` and
``niah_*`` for the mean over all such), or ``column=value&column=value/column`` of a CSV file, the
mean over its rows. ``times 100/120`` may follow.
"""

from __future__ import annotations

import fnmatch
import functools
import json
import statistics
from fractions import Fraction
from pathlib import Path
from typing import Any

import pandas as pd
from recording import ROOT


@functools.cache
def read_record(name: str) -> Any:
    """Return a record: a JSON file's value, a CSV file's table."""
    asset = ROOT / "opencompass_llada/assets" / Path(name).stem / "training.json"
    places = (ROOT / "docs/records" / name, ROOT / "benchmarks/records" / name, asset)
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        raise ValueError(f"no record {name!r} in docs/records, benchmarks/records or the assets.")
    if path.suffix == ".csv":
        return pd.read_csv(path, dtype={"length": "Int64", "depth": "Int64"})
    return json.loads(path.read_text(encoding="utf-8"))


def look_up(reference: str) -> Any:
    """Return what ``RECORD#PATH``, perhaps ``times`` a number, refers to.

    Raises:
        ValueError: If the record has no such figure.
    """
    where, _, factor = reference.partition(" times ")
    name, _, path = where.partition("#")
    record = read_record(name)
    try:
        value = average(record, path) if name.endswith(".csv") else descend(record, path)
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise ValueError(f"{reference!r}: {name} holds no {path!r} ({error!r}).") from error
    return value * float(Fraction(factor)) if factor else value


def descend(record: Any, path: str) -> Any:
    """Return the value at the keys of a path; of ``*`` the mean over all keys there."""
    for number, key in enumerate(keys := path.strip("/").split("/")):
        if "*" in key:
            held = dict(enumerate(record)) if isinstance(record, list) else record
            rest, found = "/".join(keys[number + 1 :]), fnmatch.filter(map(str, held), key)
            values = [held[name] if name in held else held[int(name)] for name in found]
            return statistics.fmean(descend(v, rest) if rest else v for v in values)
        record = record[int(key) if isinstance(record, list) else key.replace("~1", "/")]
    return record


def average(frame: pd.DataFrame, path: str) -> float:
    """Return the mean of a column over the rows that ``column=value&...`` names."""
    conditions, _, column = path.rpartition("/")
    for condition in conditions.split("&"):
        name, _, value = condition.partition("=")
        frame = frame[frame[name].astype(str) == value]
    if frame.empty or frame[column].isna().any():
        raise KeyError(path)
    return float(frame[column].mean())
