"""Loads a checkpoint's weights once for all the networks of a process that are made of them.

Networks of one checkpoint differ in their RoPE scaling alone: the tensors are the same. Inside
`sharing_weights` what was loaded is held, and a further network is built around it. A network
whose weights are to be changed (by an adapter) is loaded inside `weights_of_its_own`.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, TypeVar

import torch

logger = logging.getLogger(__name__)

T = TypeVar("T")
#: Bytes of weights of several checkpoints that are held at a time; a larger one is held alone.
MOST_BYTES = 2**30


class SharedWeights:
    """What was loaded, by the files and the form in memory, the last one used at the end."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self._held: dict[Hashable, tuple[int, Any]] = {}

    def get(self, key: Hashable, size: int, load: Callable[[], T]) -> T:
        """Return what ``load`` gave for a key; before it is called, room is made for ``size``."""
        if key in self._held:
            self._held[key] = self._held.pop(key)
            logger.info("The weights are in this process already; they are not read again.")
            loaded: T = self._held[key][1]
            return loaded
        self.make_room(size)
        loaded = load()
        self._held[key] = size, loaded
        return loaded

    def make_room(self, size: int) -> None:
        """Let go of the weights that were used longest ago, until ``size`` bytes fit."""
        dropped = False
        while self._held and size + sum(held for held, _ in self._held.values()) > MOST_BYTES:
            self._held.pop(next(iter(self._held)))
            dropped = True
        if dropped:
            gc.collect()  # models lie in circles of references
            release_device_memory()


_current: ContextVar[SharedWeights | None] = ContextVar("shared weights", default=None)


@contextmanager
def sharing_weights() -> Iterator[None]:
    """Hold the weights that are loaded inside, for further networks, until the end."""
    token = _current.set(SharedWeights())
    try:
        yield
    finally:
        _current.reset(token)


@contextmanager
def weights_of_its_own() -> Iterator[None]:
    """Load inside what no other network is built around, nor lies beside large weights."""
    let_go_of_large()
    token = _current.set(None)
    try:
        yield
    finally:
        _current.reset(token)


def let_go_of_large() -> None:
    """Hold no more than `MOST_BYTES`, since weights that are not shared will be loaded, too."""
    if (shared := _current.get()) is not None:
        shared.make_room(0)


def load_shared(
    files: Sequence[Path],
    form: Hashable,
    load: Callable[[], T],
    build_around: Callable[[T], T] = lambda loaded: loaded,
) -> T:
    """Return what ``load`` makes of files in a form (dtype, device, ...).

    Where weights are shared, return what ``build_around`` makes of it, or of an earlier result. A
    file that has changed since is read again.
    """
    shared = _current.get()
    if shared is None:
        return load()
    stamps = [(file.resolve(), file.stat()) for file in files]
    key = (form, tuple((path, own.st_mtime_ns, own.st_size, own.st_ino) for path, own in stamps))
    return build_around(shared.get(key, sum(own.st_size for _, own in stamps), load))


def release_device_memory() -> None:
    """Give back what objects that are gone have held on GPUs; costs nothing without any."""
    if torch.cuda.is_initialized():
        gc.collect()
        torch.cuda.empty_cache()
