"""Hashes contents that decide answers: texts, samples, checkpoints, tokenizers, files.

All but `hash_file` are the first 16 digits of a SHA-256; ``sampled-`` stands before one for which
not every byte was read.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache, wraps
from pathlib import Path
from typing import Any, TypeVar

from opencompass_llada.assets import resolve_path
from opencompass_llada.weight_files import SMALL_FILES, CheckpointError, list_weight_files

logger = logging.getLogger(__name__)

T = TypeVar("T")
DIGITS = 16
#: Weights up to this size are read whole.
WHOLE_BYTES = 2**30
_BLOCK = 2**20
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt", "vocab.txt",
                    "added_tokens.json")  # fmt: skip
#: Small files beside weights or tokenizer that change what is read, asked or answered.
_SETTINGS_FILES = ("adapter_config.json", "generation_config.json", "tokenizer_config.json",
                   "special_tokens_map.json", "added_tokens.json",
                   "chat_template.json")  # fmt: skip


def once_a_version(function: Callable[[Path], T]) -> Callable[[Path], T]:
    """Call a function of a file again only when the file has changed; raises if there is none."""

    @lru_cache(maxsize=65536)
    def call(path: Path, *_stamp: int) -> T:
        return function(path)

    @wraps(function)
    def asked(path: Path) -> T:
        stamp = path.stat()
        return call(path, stamp.st_mtime_ns, stamp.st_size, stamp.st_ino)

    return asked


def hash_text(text: str) -> str:
    """Return the hash of a text."""
    return hashlib.sha256(text.encode("utf-8", errors="surrogatepass")).hexdigest()[:DIGITS]


def hash_values(values: Any) -> str:
    """Return the hash of plain values, whatever the order of dictionary keys."""
    return hash_text(json.dumps(values, sort_keys=True, ensure_ascii=False, default=str))


def hash_rows(rows: Iterable[Mapping[str, Any]]) -> str:
    """Return the hash of a data set's rows, in order, without the columns that OpenCompass adds."""
    digest = hashlib.sha256()
    for row in rows:
        own = {name: value for name, value in row.items() if name not in ("subdivision", "idx")}
        line = json.dumps(own, sort_keys=True, ensure_ascii=False, default=str)
        digest.update(line.encode("utf-8", errors="surrogatepass") + b"\n")
    return digest.hexdigest()[:DIGITS]


@once_a_version
def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, all 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def hash_checkpoint(folder: Path, *, whole: bool | None = None) -> str:
    """Return the hash of a checkpoint or an adapter: its configuration and what it loads.

    The weights are those of `list_weight_files`. Above 1 GiB, unless ``whole``, sizes and 64 blocks
    of 1 MiB of each file are hashed, since reading 16 GB takes longer than a short evaluation: two
    checkpoints that differ in a few places only could share such a hash. '' where there are no
    weights, or nothing says which they are.
    """
    try:
        weights = list_weight_files(folder)
    except CheckpointError:  # an adapter, or pickled weights, which OpenCompass's own models load
        adapter = folder / "adapter_model.safetensors"
        weights = [adapter] if adapter.is_file() else sorted(folder.glob("*.bin"))
    if not weights:
        return ""
    if whole is None:
        whole = sum(path.stat().st_size for path in weights) <= WHOLE_BYTES
    digest = hashlib.sha256()
    for path in [folder / "config.json", folder / "adapter_config.json", *weights]:
        if path.is_file():
            size = path.stat().st_size
            num_blocks = -(-size // _BLOCK)
            is_whole = whole or path.suffix == ".json"
            digest.update(path.name.encode() + str(size).encode())
            with path.open("rb") as file:
                for block in range(0, num_blocks, 1 if is_whole else max(1, num_blocks // 64)):
                    file.seek(block * _BLOCK)
                    digest.update(file.read(_BLOCK))
    return ("" if whole else "sampled-") + digest.hexdigest()[:DIGITS]


def hash_tokenizer(folder: Path) -> str:
    """Return the hash of what a tokenizer makes of text, '' if the folder holds none.

    Of tokenizer.json its content counts, without truncation and padding; of older formats every
    byte of the files, and the tokens that tokenizer_config.json adds.
    """
    present = [folder / name for name in _TOKENIZER_FILES if (folder / name).is_file()]
    if not present:
        return ""
    config = _read_object(folder / "tokenizer_config.json")
    content: Any = {name: True for name in ("add_bos_token", "add_eos_token") if config.get(name)}
    if present[0].name == "tokenizer.json":
        whole = _read_object(present[0])
        content |= {name: whole[name] for name in whole if name not in ("truncation", "padding")}
    else:
        content |= {path.name: hash_file(path) for path in present}
        content["added"] = config.get("added_tokens_decoder")
    return hash_values(content)


def find_tokenizer(path: str, fetch: bool = False) -> tuple[str, int] | None:
    """Return hash and vocabulary size of a tokenizer, None where its files are not at hand.

    A hub id's are downloaded on ``fetch``; ``gpt-4`` has none. The size is without added tokens,
    and 0 where the files do not simply say it.
    """
    try:
        folder = find_folder(path, fetch=fetch, weights=False)
        if folder is None:
            return None
        times = tuple(file.stat().st_mtime_ns for file in folder.glob("*.json"))
        return _read_tokenizer(folder, times)
    except Exception as error:  # the hub's client has many kinds; who loads it says it in its turn
        logger.info("No hash of the tokenizer %s: %s", path, error)
        return None


@lru_cache(maxsize=64)
def _read_tokenizer(folder: Path, _times: tuple[int, ...]) -> tuple[str, int] | None:
    content = hash_tokenizer(folder)
    tokens = _read_object(folder / "tokenizer.json").get("model", {}).get("vocab")
    return (content, len(tokens or _read_object(folder / "vocab.json"))) if content else None


def _read_object(path: Path) -> dict[str, Any]:
    """Return a JSON object, {} where there is no file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError as error:
        raise ValueError(
            f"{path} is not valid JSON ({error}); copy the tokenizer again."
        ) from error
    return content if isinstance(content, dict) else {}


def hash_settings(folder: Path) -> str:
    """Return the hash of the small files, code among them, that decide an answer; '' for none."""
    named = [folder / name for name in _SETTINGS_FILES]
    present = [path for path in named if path.is_file()]
    present += sorted([*folder.glob("*.jinja"), *folder.glob("*.py")])
    content = b"".join(path.name.encode() + b"\0" + path.read_bytes() + b"\0" for path in present)
    return hashlib.sha256(content).hexdigest()[:DIGITS] if present else ""


def find_folder(path: str, *, fetch: bool, weights: bool = True) -> Path | None:
    """Return a checkpoint's folder: its own, or the hub's copy of it; None if it is not here.

    On ``fetch`` a hub id that is not on this machine is downloaded, with or without weights.
    """
    if not path:
        return None
    folder = Path(resolve_path(path)).expanduser()
    if folder.is_dir():
        return folder
    try:
        from opencompass_llada.networks.checkpoint import FILES, is_hub_id, locate_checkpoint

        if fetch:
            return locate_checkpoint(path, FILES if weights else SMALL_FILES)
        from huggingface_hub import snapshot_download

        return Path(snapshot_download(path, local_files_only=True)) if is_hub_id(path) else None
    except (OSError, ValueError) as error:
        logger.info("No files of %s are looked at: %s", path, error)
        return None
