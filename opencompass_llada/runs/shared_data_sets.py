"""Builds a data set once for all the cells of a process whose models are asked it.

Inference and scoring of a cell, and the cells of several models on one data set, have the same
samples. Inside `sharing_data_sets` this package's own data sets, which draw no random numbers but
by their seeds, are held; others are built each time. Nothing may change a data set that is held.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from opencompass_llada.old_names import PACKAGE, dotted_name

#: Bytes of samples that are held at a time; a larger data set is not held.
MOST_BYTES = 2**28
#: Parts of a config that OpenCompass leaves out when it builds a data set.
_NOT_BUILT = ("infer_cfg", "eval_cfg")


class SharedDataSets:
    """What was built, by its config, the last one used at the end."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self._held: dict[str, tuple[int, Any]] = {}

    def get(self, key: str, build: Callable[[], Any]) -> Any:
        """Return what ``build`` gave for a key; let go of those used longest ago for a new one."""
        if key in self._held:
            self._held[key] = self._held.pop(key)
            return self._held[key][1]
        built = build()
        size = _count_bytes(built)
        if size > MOST_BYTES:
            return built
        while size + sum(held for held, _ in self._held.values()) > MOST_BYTES:
            self._held.pop(next(iter(self._held)))
        self._held[key] = size, built
        return built


_current: ContextVar[SharedDataSets | None] = ContextVar("shared data sets", default=None)


@contextmanager
def sharing_data_sets() -> Iterator[None]:
    """Hold the data sets that are built inside until the end; inside another it is that one."""
    if _current.get() is not None:
        yield
        return
    token = _current.set(SharedDataSets())
    try:
        yield
    finally:
        _current.reset(token)


def build_shared(config: Mapping[str, Any], build: Callable[[Mapping[str, Any]], Any]) -> Any:
    """Return what ``build`` makes of a data set's config, or made of it before.

    What building raises comes through, and is raised again by the next cell that asks.
    """
    shared = _current.get()
    if shared is None or not dotted_name(config.get("type")).startswith(f"{PACKAGE}."):
        return build(config)
    own = {name: value for name, value in config.items() if name not in _NOT_BUILT}
    return shared.get(json.dumps(own, sort_keys=True, default=str), lambda: build(config))


def _count_bytes(data_set: Any) -> int:
    """Return the bytes of a data set's samples in memory."""
    splits = getattr(data_set.reader, "dataset", None) or {}
    return sum(int(rows.data.nbytes) for rows in splits.values())
