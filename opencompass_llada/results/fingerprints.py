"""Short names of contents: checkpoints, tokenizers, data, prompts. Reads files; compares nothing.

All are the first 16 digits of a SHA-256, with a word before it where not every byte was read.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

DIGITS = 16
#: Weights up to this size are read whole; of larger ones, blocks evenly spread over each file.
WHOLE_BYTES = 2**30
_BLOCK = 2**20
_BLOCKS_A_FILE = 64
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt", "vocab.txt")


def hash_text(text: str) -> str:
    """Return the hash of a text."""
    return hashlib.sha256(text.encode("utf-8", errors="surrogatepass")).hexdigest()[:DIGITS]


def hash_values(values: Any) -> str:
    """Return the hash of plain values, whatever the order of dictionary keys."""
    return hash_text(json.dumps(values, sort_keys=True, ensure_ascii=False, default=str))


def hash_rows(rows: Iterable[Mapping[str, Any]]) -> str:
    """Return the hash of a data set's rows, in order.

    Args:
        rows: One mapping a sample.
    """
    digest = hashlib.sha256()
    for row in rows:
        line = json.dumps(row, sort_keys=True, ensure_ascii=False, default=str)
        digest.update(line.encode("utf-8", errors="surrogatepass") + b"\n")
    return digest.hexdigest()[:DIGITS]


def hash_checkpoint(folder: Path) -> str:
    """Return the hash of a checkpoint: its config.json and its weights.

    Weights of more than 1 GiB are hashed by size and 64 blocks of 1 MiB of each file (16 GB would
    take longer to read than a short evaluation); such a hash says ``sampled-`` before it. Two
    checkpoints that differ in a few places only could share one.

    Args:
        folder: Of a checkpoint in Hugging Face's layout.

    Returns:
        The hash; ``''`` if there are no weights.
    """
    weights = sorted([*folder.glob("*.safetensors"), *folder.glob("*.bin")])
    if not weights:
        return ""
    whole = sum(path.stat().st_size for path in weights) <= WHOLE_BYTES
    digest = hashlib.sha256()
    for path in [folder / "config.json", *weights]:
        if path.is_file():
            digest.update(path.name.encode())
            _add_file(digest, path, whole or path.suffix == ".json")
    return ("" if whole else "sampled-") + digest.hexdigest()[:DIGITS]


def _add_file(digest: Any, path: Path, whole: bool) -> None:
    size = path.stat().st_size
    num_blocks = -(-size // _BLOCK)
    step = 1 if whole else max(1, num_blocks // _BLOCKS_A_FILE)
    digest.update(str(size).encode())
    with path.open("rb") as file:
        for block in range(0, num_blocks, step):
            file.seek(block * _BLOCK)
            digest.update(file.read(_BLOCK))


def hash_tokenizer(folder: Path) -> str:
    """Return the hash of a tokenizer's files; ``''`` if the folder has none that is known.

    Args:
        folder: With tokenizer.json, or the files of older formats.
    """
    present = [folder / name for name in _TOKENIZER_FILES if (folder / name).is_file()]
    if not present:
        return ""
    digest = hashlib.sha256()
    for path in present[:1] if present[0].name == "tokenizer.json" else present:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:DIGITS]
