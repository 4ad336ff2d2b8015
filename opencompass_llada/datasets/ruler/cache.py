"""Samples on disk, so that a set is made once a machine and not once a model.

A file is named after a digest of everything that its samples depend on, and repeats that text in
its first line. Makes no samples.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

from opencompass_llada.datasets.ruler.fitting import RulerSample
from opencompass_llada.files import CACHE_VARIABLE, remove_left_overs, replacing, user_cache
from opencompass_llada.logs import get_logger

logger = get_logger(__name__)

DIGITS_IN_NAME = 20


def cache_folder() -> Path | None:
    """Return the folder of RULER's samples, or None if nothing is to be kept."""
    return user_cache("ruler")


@lru_cache(maxsize=1)
def sources_digest() -> str:
    """Return a digest of this package's own code: changed code makes other samples."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


class SampleCache:
    """The file of one set of samples."""

    def __init__(self, folder: Path, name: str, key: Mapping[str, Any]) -> None:
        """Work out the file's name; reads nothing.

        Args:
            folder: Where files lie; created when one is written.
            name: How the file's name begins, for people.
            key: Everything that the samples depend on, as JSON can hold it.
        """
        self.key = json.dumps(key, sort_keys=True)
        digest = hashlib.sha256(self.key.encode()).hexdigest()[:DIGITS_IN_NAME]
        self.path = folder / f"{name}_{digest}.jsonl.gz"

    def read(self, num_samples: int) -> list[RulerSample] | None:
        """Return the samples, or None where there is no whole file of them.

        Args:
            num_samples: How many there must be.
        """
        if not self.path.is_file():
            return None
        try:
            with gzip.open(self.path, "rt", encoding="utf-8", newline="") as lines:
                if json.loads(next(lines))["key"] != self.key:
                    raise ValueError("it belongs to another set")
                rows = [json.loads(line) for line in lines]
            samples = [RulerSample(**{**row, "answers": tuple(row["answers"])}) for row in rows]
            if len(samples) != num_samples:
                raise ValueError(f"it holds {len(samples)} samples")
        except (OSError, EOFError, ValueError, KeyError, TypeError, StopIteration, zlib.error) as e:
            logger.warning("%s is not usable and is made again: %s", self.path, e or type(e))
            return None
        return samples

    def write(self, samples: Sequence[RulerSample]) -> None:
        """Write the samples; other processes see the whole file or none.

        A folder that cannot be written is logged, and the samples are made again next time.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            remove_left_overs(self.path.parent, recursive=False)
            # Several tasks of a run may make the same set at the same time.
            with (
                replacing(self.path) as temporary,
                gzip.open(temporary, "wt", 1, encoding="utf-8", newline="") as lines,
            ):
                for row in [{"key": self.key}, *map(asdict, samples)]:
                    lines.write(json.dumps(row, ensure_ascii=False) + "\n")
        except OSError as error:
            logger.warning(
                "RULER's samples cannot be kept (%s); set %s to a folder that can be written.",
                error,
                CACHE_VARIABLE,
            )
