"""Writes tokenised text in chunks, so that an interrupted writer goes on, and maps it.

A journal has one line a chunk, with a digest: what it names is whole, whatever ended the writer.
The finished folder is moved into place, so that readers never see a part of it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from opencompass_llada.files import append_line, open_line, read_lines, sealed_line, settle
from opencompass_llada.finetune.packing import TokenizedText

logger = logging.getLogger(__name__)

_KEY, _JOURNAL, _TOKENS = "key.json", "journal.jsonl", "tokens.bin"
#: What is kept of each document while writing -> its type; ``NAME.npy`` in the finished folder.
_DOCUMENTS = {"ends": np.int64, "prompt_lengths": np.int32}
_FILES = {_TOKENS: np.int32, **{f"{name}.bin": kind for name, kind in _DOCUMENTS.items()}}
_BLOCK = 1 << 22  # bytes read at a time for a digest


@dataclass(frozen=True, kw_only=True)
class EncodedChunk:
    """The tokens of some documents that follow each other."""

    tokens: np.ndarray
    """int32, all documents, each with its end token."""
    lengths: np.ndarray
    """int64 [documents], tokens of each."""
    prompt_lengths: np.ndarray
    """int32 [documents]."""
    num_bytes: int
    """Of the text, in UTF-8."""


class TokenWriter:
    """Appends chunks to the files of a folder, from where an earlier writer was interrupted.

    One process at a time; the caller holds a lock.
    """

    def __init__(self, folder: Path) -> None:
        """Make the folder, or cut its files back to the chunks that are whole."""
        self.folder = folder
        self.num_documents = self.num_tokens = self.num_bytes = 0
        self._digest = hashlib.sha256()
        folder.mkdir(parents=True, exist_ok=True)
        self._recover()

    def _recover(self) -> None:
        journal = self.folder / _JOURNAL
        lines = [open_line(line) for _, line in read_lines(journal)] if journal.is_file() else []
        whole = []
        with ExitStack() as stack:
            files = [stack.enter_context((self.folder / name).open("ab+")) for name in _FILES]
            for file in files:
                file.seek(0)
            for record in lines:
                if record is None or (parts := _read_chunk(files, record)) is None:
                    break
                self._take(record, parts[0])
                whole.append(record)
            counts = (self.num_tokens, self.num_documents, self.num_documents)
            for file, count, kind in zip(files, counts, _FILES.values(), strict=True):
                file.truncate(count * np.dtype(kind).itemsize)
        if len(whole) < len(lines):
            journal.write_text("".join(sealed_line(record) + "\n" for record in whole), "utf-8")

    def _take(self, record: Mapping[str, int], tokens: bytes) -> None:
        self._digest.update(tokens)
        self.num_documents += record["documents"]
        self.num_tokens += record["tokens"]
        self.num_bytes += record["bytes"]

    def append(self, chunk: EncodedChunk) -> None:
        """Write a chunk's tokens, then its line of the journal."""
        ends = self.num_tokens + np.cumsum(chunk.lengths, dtype=np.int64)
        arrays = (chunk.tokens, ends, chunk.prompt_lengths)
        parts = [
            np.ascontiguousarray(array, kind).tobytes()
            for array, kind in zip(arrays, _FILES.values(), strict=True)
        ]
        for name, part in zip(_FILES, parts, strict=True):
            with (self.folder / name).open("ab") as file:
                file.write(part)
        record: dict[str, Any] = {
            "documents": len(ends),
            "tokens": len(chunk.tokens),
            "bytes": chunk.num_bytes,
            "sha256": hashlib.sha256(b"".join(parts)).hexdigest(),
        }
        append_line(self.folder / _JOURNAL, sealed_line(record))
        self._take(record, parts[0])

    def finish(self, target: Path, key: Mapping[str, Any]) -> None:
        """Write what a reader needs and move the folder into place; ``key`` says of what it is."""
        for name, kind in _DOCUMENTS.items():
            values = np.memmap(self.folder / f"{name}.bin", kind, "r")
            np.save(self.folder / f"{name}.npy", values)
            self._digest.update(values.data)
        text = json.dumps({**key, "sha256": self._digest.hexdigest()}, sort_keys=True)
        (self.folder / _KEY).write_text(text, encoding="utf-8")
        settle(self.folder)
        os.replace(self.folder, target)
        settle(target.parent, inside=False)
        for name in (_JOURNAL, *(f"{name}.bin" for name in _DOCUMENTS)):
            (target / name).unlink(missing_ok=True)


def _read_chunk(files: Sequence[IO[bytes]], record: Mapping[str, Any]) -> list[bytes] | None:
    """Return a chunk's bytes in each file; None unless they are what the journal says."""
    counts = (record["tokens"], record["documents"], record["documents"])
    parts = [
        file.read(count * np.dtype(kind).itemsize)
        for file, count, kind in zip(files, counts, _FILES.values(), strict=True)
    ]
    return parts if hashlib.sha256(b"".join(parts)).hexdigest() == record["sha256"] else None


def read_progress(folder: Path) -> tuple[int, int]:
    """Return documents and bytes of text in an unfinished folder that another process writes."""
    records: list[dict[str, Any] | None] = []
    with suppress(OSError):
        records = [open_line(line) for _, line in read_lines(folder / _JOURNAL)]
    whole = [record for record in records if record is not None]
    return sum(r["documents"] for r in whole), sum(r["bytes"] for r in whole)


def read_tokens(folder: Path, **facts: Any) -> TokenizedText | None:
    """Map a finished folder's arrays; None where there is none, or they are damaged.

    ``facts`` are more fields of the `TokenizedText`.
    """
    if not (folder / _KEY).is_file():
        return None
    with suppress(OSError, ValueError, KeyError, EOFError):
        arrays = {
            name: np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)
            for name in _DOCUMENTS
        }
        digest = hashlib.sha256()
        for block in _blocks(folder / _TOKENS):
            digest.update(block)
        for array in arrays.values():
            digest.update(np.ascontiguousarray(array).data)
        key = json.loads((folder / _KEY).read_text(encoding="utf-8"))
        if key["sha256"] == digest.hexdigest():
            return TokenizedText(
                tokens=np.memmap(folder / _TOKENS, np.int32, "r"),
                digest=digest.hexdigest(),
                folder=folder,
                **arrays,
                **facts,
            )
    logger.warning("Tokens in %s are damaged and are made anew", folder)
    return None


def _blocks(file: Path) -> Iterator[bytes]:
    """Yield a file's bytes; read rather than mapped, so that they do not count as memory."""
    with file.open("rb") as opened:
        while block := opened.read(_BLOCK):
            yield block
