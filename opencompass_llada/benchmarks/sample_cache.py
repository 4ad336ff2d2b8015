"""Keeps generated samples on disk between runs, in the user's cache.

A file is named after a digest of everything that its samples depend on, and repeats that text in
its first line. Runs without OpenCompass.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import logging
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from opencompass_llada.files import CACHE_VARIABLE, remove_left_overs, replacing, user_cache

logger = logging.getLogger(__name__)

Sample = TypeVar("Sample")
DIGITS_IN_NAME = 20


def cached_samples(
    cache: str,
    stem: str,
    dependencies: Mapping[str, Any],
    num_samples: int,
    kind: type[Sample],
    make: Callable[[], list[Sample]],
) -> list[Sample]:
    """Return samples from disk, or make them and keep them there.

    Args:
        cache: Name of the `files.user_cache`; its folder may be none, which keeps nothing.
        stem: How the file's name begins.
        dependencies: Everything that the samples depend on, as JSON has it.
        num_samples: How many there are.
        kind: Their dataclass, of texts, numbers and tuples of these.
        make: Makes them.
    """
    folder = user_cache(cache)
    if folder is None:
        return make()
    key = json.dumps(dependencies, sort_keys=True)
    digest = hashlib.sha256(key.encode()).hexdigest()[:DIGITS_IN_NAME]
    path = folder / f"{stem}_{digest}.jsonl.gz"
    samples = _read(path, key, num_samples, kind)
    if samples is None:
        samples = make()
        _write(path, key, samples)
    return samples


def _read(path: Path, key: str, num_samples: int, kind: type[Sample]) -> list[Sample] | None:
    """Return the samples of a file, or None where there is no whole file of so many."""
    if not path.is_file():
        return None
    try:
        with gzip.open(path, "rt", encoding="utf-8", newline="") as lines:
            if json.loads(next(lines))["key"] != key:
                raise ValueError("it belongs to another set")
            rows = [json.loads(line) for line in lines]
        samples = [kind(**{name: _as_made(item) for name, item in row.items()}) for row in rows]
        if len(samples) != num_samples:
            raise ValueError(f"it holds {len(samples)} samples")
    except (OSError, EOFError, ValueError, KeyError, TypeError, StopIteration, zlib.error) as e:
        logger.warning("%s is not usable and is made again: %s", path, e or type(e))
        return None
    return samples


def _as_made(value: Any) -> Any:
    """Return a tuple for what JSON holds as a list."""
    return tuple(value) if isinstance(value, list) else value


def _write(path: Path, key: str, samples: Sequence[Any]) -> None:
    """Write a file that other processes see whole or not; log where that is not possible."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_left_overs(path.parent, recursive=False)
        # Several tasks of a run may make the same set at the same time.
        with (
            replacing(path) as temporary,
            gzip.open(temporary, "wt", 1, encoding="utf-8", newline="") as lines,
        ):
            for row in [{"key": key}, *map(asdict, samples)]:
                lines.write(json.dumps(row, ensure_ascii=False) + "\n")
    except OSError as error:
        remedy = f"set {CACHE_VARIABLE} to a folder that can be written"
        logger.warning("Samples of %s cannot be kept (%s); %s.", path.name, error, remedy)
