"""Lets the processes of a run wait for each other before their group forms.

In a group NCCL ends whoever waits for more than ten minutes, and tokenising may take hours. Here
processes wait in a key-value store of torch's, for as long as it takes and as the others live.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any

import torch.distributed as dist

from opencompass_llada.files import host_name, remove, temporary_name
from opencompass_llada.finetune.parallel import Ranks
from opencompass_llada.processes import read_variable

logger = logging.getLogger(__name__)

#: Seconds without a sign of life after which a process counts as ended.
SILENT_SECONDS = 120.0
_BEAT_SECONDS, _POLL_SECONDS = 5.0, 0.2
_CONNECT = timedelta(minutes=30)


class PeerEnded(ValueError):
    """Another process of the run has ended or failed, so this one cannot go on."""


class Gathering:
    """The processes of a run before their group forms: what each tells the others.

    Used as a context; an error in it ends the other processes, too. One process needs no store and
    waits for nobody.
    """

    def __init__(self, ranks: Ranks) -> None:
        """Connect to the store that torchrun's variables name."""
        self.ranks, self.store = ranks, None
        self._ended = threading.Event()
        self._heard: dict[int, tuple[bytes, float]] = {}
        if ranks.world_size == 1:
            return
        store, _, _ = next(dist.rendezvous("env://", timeout=_CONNECT))
        # A process may train one recipe after another, in the same order as the others.
        number = store.add(f"gatherings-{ranks.rank}", 1)
        self.store = dist.PrefixStore(f"gathering-{number}", store)

    def __enter__(self) -> Gathering:
        """Begin to give signs of life."""
        if self.store is not None:
            self._beat()
            threading.Thread(target=self._live, daemon=True, name="gathering").start()
        return self

    def _beat(self) -> None:
        assert self.store is not None
        self.store.set(f"alive-{self.ranks.rank}", str(time.time()))

    def _live(self) -> None:
        while not self._ended.wait(_BEAT_SECONDS):
            try:
                self._beat()
            except RuntimeError:  # the store has gone: whoever waits notices
                return

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType
    ) -> None:
        """Tell the others of an error; wait for all of them otherwise."""
        try:
            if self.store is not None and error is not None and not isinstance(error, PeerEnded):
                reason = f"{self._name()}: {error or type(error).__name__}"
                self.tell("failed", reason)
        finally:
            self._ended.set()

    def _name(self) -> str:
        return f"rank {self.ranks.rank} on {host_name()}"

    def tell(self, key: str, value: Any) -> None:
        """Give all processes a value that JSON holds."""
        if self.store is not None:
            try:
                self.store.set(key, json.dumps(value))
            except RuntimeError as error:
                raise _store_gone(error) from error

    def hear(self, key: str, rank: int) -> Any:
        """Return what a rank tells, waiting for as long as it lives; a `PeerEnded` otherwise."""
        assert self.store is not None, "one process tells itself nothing"
        try:
            while not self.store.check([key]):
                if self.store.check(["failed"]):
                    raise PeerEnded(f"Ended with {json.loads(self.store.get('failed'))}")
                self._check_alive(rank)
                time.sleep(_POLL_SECONDS)
            return json.loads(self.store.get(key))
        except RuntimeError as error:
            raise _store_gone(error) from error

    def _check_alive(self, rank: int) -> None:
        assert self.store is not None
        key, now = f"alive-{rank}", time.monotonic()
        beat = self.store.get(key) if self.store.check([key]) else b""
        last, since = self._heard.setdefault(rank, (beat, now))
        if beat != last:
            self._heard[rank] = (beat, now)
        elif now - since > (limit := SILENT_SECONDS if beat else _CONNECT.total_seconds()):
            raise PeerEnded(
                f"Rank {rank} has given no sign of life for {limit:.0f} s; it was killed "
                "or its machine hangs. Start the same command again: what is tokenised stays."
            )

    def all_hear(self, key: str, value: Any) -> list[Any]:
        """Tell a value and return those of all ranks, waiting for each."""
        if self.store is None:
            return [value]
        self.tell(f"{key}-{self.ranks.rank}", value)
        return [self.hear(f"{key}-{rank}", rank) for rank in range(self.ranks.world_size)]

    def find_leader(self, folder: Path) -> int:
        """Return the rank whose files in a folder this process reads.

        The main rank where its folder is seen here, too; else the first process of this machine,
        and the main rank logs a warning.
        """
        if self.store is None:
            return self.ranks.rank
        marker = folder / temporary_name("seen-by-all")
        if self.ranks.is_main:
            try:
                try:
                    folder.mkdir(parents=True, exist_ok=True)
                    marker.touch()
                except OSError:  # whether its tokens can be read or made is seen later
                    marker = folder
                self.tell("marker", str(marker.absolute()))
                self._warn(folder, self.all_hear("host", None))
            finally:
                if marker != folder:
                    remove(marker)
            return 0
        sees = Path(self.hear("marker", 0)).exists()
        self.all_hear("host", None if sees else host_name())
        return 0 if sees else self.ranks.rank - read_variable("LOCAL_RANK", lowest=0)

    def _warn(self, folder: Path, hosts: list[str | None]) -> None:
        if blind := sorted(set(filter(None, hosts))):
            logger.warning(
                "cache_dir: %s of %s is not seen on %s, each of which therefore tokenises the text "
                "itself. Give a folder that all machines see to do it once.",
                folder,
                host_name(),
                ", ".join(blind),
            )


def _store_gone(error: RuntimeError) -> PeerEnded:
    reason = str(error).partition("\n")[0]
    return PeerEnded(
        "The connection to the main rank is lost, which has ended or cannot be reached "
        f"({os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}: {reason}). Its log "
        "says why; the same command goes on."
    )
