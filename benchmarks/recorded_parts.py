"""Runs the parts of a benchmark one by one, each written to the record before the next begins."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from recording import describe_run, write_record


class RecordedParts:
    """The record of a run on a lent card, where one part's failure must not cost the others."""

    def __init__(self, device: torch.device, limit: float, record_path: Path | None) -> None:
        """Begin a record.

        Args:
            device: Where the parts run.
            limit: Seconds after which no further part begins.
            record_path: Where the record is written after every part; None writes nothing, for
                processes beside the one that does.
        """
        self.started = time.perf_counter()
        self.device, self.limit, self.record_path = device, limit, record_path
        self.record: dict[str, Any] = {**describe_run(), "failed": {}, "seconds_at": {}}

    def part(self, name: str, call: Callable[[], Any]) -> None:
        """Run a part and keep what it returns; what fails is recorded and shown, and goes on."""
        elapsed = time.perf_counter() - self.started
        if elapsed > self.limit:
            self.record["failed"][name] = f"not begun: {elapsed:.0f} s had passed"
            return
        try:
            self.record[name] = call()
        except Exception as error:
            self.record["failed"][name] = f"{type(error).__name__}: {error}"[:600]
            print(f"FAILED {name}: {self.record['failed'][name]}", flush=True)
        self.record["seconds_at"][name] = round(time.perf_counter() - self.started, 1)
        if self.record_path is not None:
            write_record(self.record_path, self.record)
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
